//! Which questions are under way, so that each is asked once however many wait for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{Kept, Question};

/// How often it is told that the table is full.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A question, and whether its answer may be private.
type Key = (Question, bool);
/// Where the answer will be.
pub(super) type Waiting = watch::Receiver<Option<Kept>>;

/// The questions under way.
pub(super) struct InFlight {
    table: Arc<Mutex<Table>>,
    max: usize,
}

#[derive(Default)]
struct Table {
    questions: HashMap<Key, Waiting>,
    told: Option<Instant>,
}

/// What became of an asker.
pub(super) enum Joined {
    /// Nobody has asked this yet: ask it, and deliver the answer with the ticket.
    First(Ticket, Waiting),
    /// It has been asked already.
    Waiter(Waiting),
    /// There are too many questions; the operator is to be told, or has just been.
    Full { tell: bool },
}

/// The duty to answer one question. The question is under way until the ticket is gone.
pub(super) struct Ticket {
    table: Arc<Mutex<Table>>,
    key: Key,
    answer: watch::Sender<Option<Kept>>,
}

impl InFlight {
    pub(super) fn new(max: usize) -> Self {
        Self { table: Arc::default(), max }
    }

    pub(super) fn join(&self, question: &Question, may_be_private: bool, now: Instant) -> Joined {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { questions, told } = &mut *table;
        let count = questions.len();
        match questions.entry((question.clone(), may_be_private)) {
            Entry::Occupied(under_way) => Joined::Waiter(under_way.get().clone()),
            Entry::Vacant(_) if count >= self.max => {
                let tell = told.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
                if tell {
                    *told = Some(now);
                }
                Joined::Full { tell }
            }
            Entry::Vacant(free) => {
                let (answer, waiting) = watch::channel(None);
                let key = free.key().clone();
                free.insert(waiting.clone());
                Joined::First(Ticket { table: Arc::clone(&self.table), key, answer }, waiting)
            }
        }
    }
}

impl Ticket {
    /// Gives the answer to all who wait. Who asks from now on finds it in the cache, where it must be already.
    pub(super) fn deliver(self, kept: Kept) {
        self.remove();
        self.answer.send_replace(Some(kept));
    }

    fn remove(&self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Another ticket's entry, made since this one was delivered, must stay.
        if let Entry::Occupied(under_way) = table.questions.entry(self.key.clone())
            && under_way.get().same_channel(&self.answer.subscribe())
        {
            under_way.remove();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(first: u8) -> Question {
        let name = Box::new([1, first, 0]);
        Question { name, record_type: 1, dnssec_ok: false, checking_disabled: false }
    }

    #[test]
    fn the_second_asker_waits_for_the_first_ones_answer() {
        let in_flight = InFlight::new(10);
        let now = Instant::now();
        let Joined::First(ticket, first) = in_flight.join(&question(b'a'), false, now) else {
            panic!("nobody has asked before")
        };
        let Joined::Waiter(second) = in_flight.join(&question(b'a'), false, now) else {
            panic!("it is under way")
        };
        assert!(first.same_channel(&second));
        assert!(matches!(in_flight.join(&question(b'a'), true, now), Joined::First(..)));
        drop(ticket);
        assert!(matches!(in_flight.join(&question(b'a'), false, now), Joined::First(..)));
    }

    #[test]
    fn a_full_table_turns_new_questions_away_and_says_so_once_a_second() {
        let in_flight = InFlight::new(1);
        let now = Instant::now();
        let Joined::First(ticket, _waiting) = in_flight.join(&question(b'a'), false, now) else {
            panic!("there is room")
        };
        let join = |first, now| in_flight.join(&question(first), false, now);
        assert!(matches!(join(b'b', now), Joined::Full { tell: true }));
        assert!(matches!(join(b'c', now), Joined::Full { tell: false }));
        assert!(matches!(join(b'c', now + TELL_EVERY), Joined::Full { tell: true }));
        assert!(matches!(join(b'a', now), Joined::Waiter(_)), "who waits costs nothing");
        drop(ticket);
        assert!(matches!(join(b'b', now), Joined::First(..)));
    }
}
