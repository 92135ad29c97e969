//! Answers that are still good, by question. Bounded in bytes.

use std::{hash::Hash, sync::Arc, time::Duration};

use quick_cache::{Equivalent, OptionsBuilder, Weighter, sync};

use crate::{Answer, Moment, Question};

/// An answer and when it came.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What was answered.
    pub answer: Arc<Answer>,
    /// When.
    pub since: Moment,
    /// Until when it may be given.
    pub until: Moment,
}

impl Kept {
    /// An answer that came at that moment.
    #[must_use]
    pub fn new(answer: Arc<Answer>, since: Moment) -> Self {
        let until = since.after(answer.life);
        Self { answer, since, until }
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Moment) -> Duration {
        now.since(self.since)
    }
}

/// A [`Question`] as the guest's query holds it, to look one up without copying it.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Asked<'a> {
    /// As in [`Question`].
    pub name: &'a [u8],
    /// As in [`Question`].
    pub record_type: u16,
    /// As in [`Question`].
    pub dnssec_ok: bool,
    /// As in [`Question`].
    pub checking_disabled: bool,
}

impl Asked<'_> {
    /// The question itself.
    #[must_use]
    pub fn to_question(self) -> Question {
        let Self { name, record_type, dnssec_ok, checking_disabled } = self;
        Question { name: name.into(), record_type, dnssec_ok, checking_disabled }
    }
}

impl Equivalent<Question> for Asked<'_> {
    fn equivalent(&self, key: &Question) -> bool {
        self.record_type == key.record_type
            && self.dnssec_ok == key.dnssec_ok
            && self.checking_disabled == key.checking_disabled
            && *self.name == *key.name
    }
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Question, Kept> for Bytes {
    fn weight(&self, question: &Question, kept: &Kept) -> u64 {
        /// What the cache itself and the allocator take for an entry, measured roughly.
        const OVERHEAD: usize = 256;
        let answer = &kept.answer;
        let addresses = size_of_val(&*answer.addresses);
        let offsets = size_of_val(&*answer.ttl_offsets);
        (OVERHEAD + question.name.len() + answer.message.len() + addresses + offsets) as u64
    }
}

/// The cache of all slots: what a name means is no secret of the slot that asked first, and whether a slot
/// may ask is decided before.
pub struct Cache {
    entries: sync::Cache<Question, Kept, Bytes, foldhash::quality::RandomState>,
}

impl Cache {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        /// A usual answer's weight: an estimate for the first allocation only.
        const USUAL: u64 = 512;
        /// Each has a lock; asked for the number of processors, a confined process would look at files.
        const SHARDS: usize = 64;
        let items = (bytes / USUAL) as usize;
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(items).weight_capacity(bytes).shards(SHARDS);
        let entries = sync::Cache::with_options(
            options.build().expect("both capacities are set"),
            Bytes,
            foldhash::quality::RandomState::default(),
            sync::DefaultLifecycle::default(),
        );
        Self { entries }
    }

    /// The answer to what is asked, if it is still good.
    #[must_use]
    pub fn get(&self, asked: &Asked<'_>, now: Moment) -> Option<Kept> {
        self.entries.get(asked).filter(|kept| now < kept.until)
    }

    /// Keeps an answer, if it may be given again at all.
    pub fn insert(&self, question: Question, kept: Kept) {
        if kept.since < kept.until {
            self.entries.insert(question, kept);
        }
    }

    /// How many bytes its entries take, those included that nobody has asked for since they were over: they go when
    /// others need their room.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries.clear();
    }
}
