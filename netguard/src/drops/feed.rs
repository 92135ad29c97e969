//! Drops as they come, for a few who follow them. Who is slow loses drops, and is told how many; nobody waits for him.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Drop, Filter, Recent};

/// How many may follow at once.
const FOLLOWERS_MAX: usize = 16;
/// How many drops may wait for one of them.
const WAITING_MAX: usize = 1024;

/// Where drops are handed in and taken out; cheap to clone.
#[derive(Clone, Default)]
pub struct Feed(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    recent: Recent,
    followers: Vec<Arc<Queue>>,
}

/// What waits for one follower.
struct Queue {
    filter: Filter,
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Default)]
struct Waiting {
    drops: Vec<Arc<Drop>>,
    /// How many were lost behind them.
    lost: u64,
}

/// Everybody's place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FOLLOWERS_MAX} follow the drops already; ask without follow=true, or end one of them")]
pub struct NoPlace;

/// Somebody who follows the drops; his place is free again when this is gone.
pub struct Follower {
    queue: Arc<Queue>,
    feed: Feed,
}

/// Nobody leaves half of a change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Hands in a drop. Never waits for a follower.
    pub fn add(&self, drop: &Arc<Drop>) {
        let mut shared = lock(&self.0);
        shared.recent.add(Arc::clone(drop));
        for queue in shared.followers.iter().filter(|queue| queue.filter.admits(drop)) {
            let mut waiting = lock(&queue.waiting);
            // Once something is lost, all is until he takes what waits: so he is told where the gap is.
            if waiting.drops.len() < WAITING_MAX {
                waiting.drops.push(Arc::clone(drop));
            } else {
                waiting.lost += 1;
            }
            queue.news.notify_one();
        }
    }

    /// Forgets the drops of slots that are gone.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        lock(&self.0).recent.keep(is_there);
    }

    /// The last so many that somebody wants, the oldest first.
    #[must_use]
    pub fn last(&self, filter: &Filter, count: usize) -> Vec<Arc<Drop>> {
        lock(&self.0).recent.last(filter, count)
    }

    /// The same, and whatever comes behind them without a gap.
    ///
    /// # Errors
    ///
    /// Too many follow already.
    pub fn follow(
        &self,
        filter: Filter,
        count: usize,
    ) -> Result<(Vec<Arc<Drop>>, Follower), NoPlace> {
        let mut shared = lock(&self.0);
        if shared.followers.len() >= FOLLOWERS_MAX {
            return Err(NoPlace);
        }
        let last = shared.recent.last(&filter, count);
        let queue = Arc::new(Queue { filter, waiting: Mutex::default(), news: Notify::new() });
        shared.followers.push(Arc::clone(&queue));
        Ok((last, Follower { queue, feed: self.clone() }))
    }
}

impl Follower {
    /// Waits for drops. Returns those that wait, and how many were lost behind them.
    pub async fn next(&self) -> (Vec<Arc<Drop>>, u64) {
        loop {
            let Waiting { drops, lost } = mem::take(&mut *lock(&self.queue.waiting));
            if !drops.is_empty() {
                return (drops, lost);
            }
            self.queue.news.notified().await;
        }
    }
}

impl std::ops::Drop for Follower {
    fn drop(&mut self) {
        let mut shared = lock(&self.feed.0);
        shared.followers.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

#[cfg(test)]
mod tests {
    use netguard_common::DropReason;

    use super::{super::samples::drop_of, *};

    fn of_slot(slot: &str) -> Filter {
        Filter { slot: Some(slot.to_owned()), ..Filter::default() }
    }

    #[tokio::test]
    async fn a_slow_follower_loses_drops_and_is_told_where_and_how_many() {
        let feed = Feed::default();
        feed.add(&drop_of(Some("one"), DropReason::Host, 7));
        let (last, follower) = feed.follow(of_slot("one"), 10).unwrap();
        assert_eq!(last.len(), 1);
        for length in 0..WAITING_MAX as u32 + 5 {
            feed.add(&drop_of(Some("one"), DropReason::Host, length));
            feed.add(&drop_of(Some("two"), DropReason::Host, length));
        }
        let (drops, lost) = follower.next().await;
        assert_eq!((drops.len(), lost), (WAITING_MAX, 5));
        assert_eq!(drops[WAITING_MAX - 1].length, WAITING_MAX as u32 - 1);
        feed.add(&drop_of(Some("one"), DropReason::Host, 9));
        let (drops, lost) = follower.next().await;
        assert_eq!((drops.len(), drops[0].length, lost), (1, 9, 0));
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_who_goes_leaves_his() {
        let feed = Feed::default();
        let mut followers: Vec<_> =
            (0..FOLLOWERS_MAX).map(|_| feed.follow(Filter::default(), 0).unwrap()).collect();
        assert_eq!(feed.follow(Filter::default(), 0).err(), Some(NoPlace));
        followers.pop();
        assert!(feed.follow(Filter::default(), 0).is_ok());
    }
}
