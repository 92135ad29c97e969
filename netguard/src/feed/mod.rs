//! What happens, as it happens, for a few who follow it, and the latest of it for who asks later: drops, queries, events. Who is
//! slow loses some, and is told how many; nobody waits for him. No I/O.

mod look;
mod recent;

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

pub use look::Look;
pub use recent::Recent;

/// How many may follow at once.
const FOLLOWERS_MAX: usize = 16;
/// How many items may wait for one of them.
const WAITING_MAX: usize = 1024;

/// What a feed tells of.
pub trait Item {
    /// Says which ones somebody wants.
    type Filter: Filter<Self>;

    /// How many of one slot are remembered.
    const REMEMBERED: usize = 256;

    /// Whose it is: each slot has a share of the memory. None is one of its own.
    fn slot(&self) -> Option<&str>;
}

/// Which items somebody wants.
pub trait Filter<T: ?Sized> {
    /// True if somebody wants it.
    fn admits(&self, item: &T) -> bool;
}

/// Where items are handed in and taken out; cheap to clone.
pub struct Feed<T: Item>(Arc<Mutex<Shared<T>>>);

struct Shared<T: Item> {
    recent: Recent<T>,
    followers: Vec<Arc<Queue<T>>>,
}

/// What waits for one follower.
struct Queue<T: Item> {
    filter: T::Filter,
    waiting: Mutex<Waiting<T>>,
    news: Notify,
}

struct Waiting<T> {
    items: Vec<Arc<T>>,
    /// How many were lost behind them.
    lost: u64,
}

/// Everybody's place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{FOLLOWERS_MAX} follow already; ask without follow=true, or end one of them")]
pub struct NoPlace;

/// Somebody who follows a feed; his place is free again when this is gone.
pub struct Follower<T: Item> {
    queue: Arc<Queue<T>>,
    feed: Feed<T>,
}

/// Nobody leaves half of a change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Item> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Item> Default for Feed<T> {
    fn default() -> Self {
        let shared = Shared { recent: Recent::default(), followers: Vec::new() };
        Self(Arc::new(Mutex::new(shared)))
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { items: Vec::new(), lost: 0 }
    }
}

impl<T: Item> Feed<T> {
    /// Hands in an item. Never waits for a follower.
    pub fn add(&self, item: &Arc<T>) {
        let mut shared = lock(&self.0);
        shared.recent.add(Arc::clone(item));
        for queue in shared.followers.iter().filter(|queue| queue.filter.admits(item)) {
            let mut waiting = lock(&queue.waiting);
            // Once something is lost, all is until he takes what waits: so he is told where the gap is.
            if waiting.items.len() < WAITING_MAX {
                waiting.items.push(Arc::clone(item));
            } else {
                waiting.lost += 1;
            }
            queue.news.notify_one();
        }
    }

    /// Forgets the items of slots that are gone.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        lock(&self.0).recent.keep(is_there);
    }

    /// The last so many that somebody wants, the oldest first.
    #[must_use]
    pub fn last(&self, filter: &T::Filter, count: usize) -> Vec<Arc<T>> {
        lock(&self.0).recent.last(filter, count)
    }

    /// The same, and whatever comes behind them without a gap.
    ///
    /// # Errors
    ///
    /// Too many follow already.
    pub fn follow(
        &self,
        filter: T::Filter,
        count: usize,
    ) -> Result<(Vec<Arc<T>>, Follower<T>), NoPlace> {
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

impl<T: Item> Follower<T> {
    /// Waits for items. Returns those that wait, and how many were lost behind them.
    pub async fn next(&self) -> (Vec<Arc<T>>, u64) {
        loop {
            let Waiting { items, lost } = mem::take(&mut *lock(&self.queue.waiting));
            if !items.is_empty() {
                return (items, lost);
            }
            self.queue.news.notified().await;
        }
    }
}

impl<T: Item> Drop for Follower<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.feed.0);
        shared.followers.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

/// Items for the tests of this folder.
#[cfg(test)]
mod samples {
    use super::*;

    #[derive(Debug)]
    pub(super) struct Sample {
        pub(super) slot: Option<&'static str>,
        pub(super) number: u32,
    }

    /// Only that slot's.
    #[derive(Default)]
    pub(super) struct Of(pub(super) Option<&'static str>);

    impl Item for Sample {
        type Filter = Of;

        fn slot(&self) -> Option<&str> {
            self.slot
        }
    }

    impl Filter<Sample> for Of {
        fn admits(&self, item: &Sample) -> bool {
            self.0.is_none() || self.0 == item.slot
        }
    }

    pub(super) fn sample(slot: impl Into<Option<&'static str>>, number: u32) -> Arc<Sample> {
        Arc::new(Sample { slot: slot.into(), number })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        samples::{Of, Sample, sample},
        *,
    };

    #[tokio::test]
    async fn a_slow_follower_loses_items_and_is_told_where_and_how_many() {
        let feed = Feed::default();
        feed.add(&sample("one", 7));
        let (last, follower) = feed.follow(Of(Some("one")), 10).unwrap();
        assert_eq!(last.len(), 1);
        for number in 0..WAITING_MAX as u32 + 5 {
            feed.add(&sample("one", number));
            feed.add(&sample("two", number));
        }
        let (items, lost) = follower.next().await;
        assert_eq!((items.len(), lost), (WAITING_MAX, 5));
        assert_eq!(items[WAITING_MAX - 1].number, WAITING_MAX as u32 - 1);
        feed.add(&sample("one", 9));
        let (items, lost) = follower.next().await;
        assert_eq!((items.len(), items[0].number, lost), (1, 9, 0));
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_who_goes_leaves_his() {
        let feed = Feed::<Sample>::default();
        let mut all: Vec<_> =
            (0..FOLLOWERS_MAX).map(|_| feed.follow(Of::default(), 0).unwrap()).collect();
        assert_eq!(feed.follow(Of::default(), 0).err(), Some(NoPlace));
        all.pop();
        assert!(feed.follow(Of::default(), 0).is_ok());
    }
}
