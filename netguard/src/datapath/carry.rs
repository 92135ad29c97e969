//! Flows live on when their table gets another size, or slots get other shares of it: they are carried to where the new
//! shares put them. That allows nothing: a flow bears the generation of the policy that allowed it, so the programs of
//! another one ask again at its next packet.
//!
//! Both tables are memory that programs read and write meanwhile. What a flow looks like outside goes with it, and its
//! answers are led to where it stands now.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, MapInfo};
use netguard_common::{
    SlotId,
    flow::{Flow, PLACES, WAYS, place, tag},
    maps::{FLOWS, NAT, SLOTS, SlotEntry},
    translation::{NAT_WAYS, Outside, nat_flow, nat_mask, nat_place, nat_word},
};

use super::{
    Error,
    flow_table::{BucketWords, Entry, Table, Tracked, at, flows, now_ns},
    grace::Grace,
    mapped::Mapped,
    pins::PinDirectory,
    view,
};
use crate::policy::Plan;

/// From one look at both tables to the next, while programs are replaced: at least so long, and so many times what a look
/// takes.
const PAUSE: Duration = Duration::from_millis(2);
const LOOK_PAUSES: u32 = 3;
/// How late the programs' clock may be. It moves by the kernel's ticks, and a machine that has much to do misses some.
const LATE_NS: u64 = 1_000_000_000;

/// The shares of the slots: of an entry only the place of its flows is looked at.
type Shares = BTreeMap<SlotId, SlotEntry>;

/// A table that an earlier load has left, whose shares are not those that are wanted.
pub(super) struct Left {
    tables: Tables,
    shares: Shares,
}

/// The table of flows, and what leads to them.
struct Tables {
    flows: Table,
    nat: Mapped<AtomicU64>,
}

impl Tables {
    fn of([flows, nat]: [&MapData; 2]) -> Result<Self, Error> {
        Ok(Self { flows: Table::of(FLOWS, flows)?, nat: Mapped::of(NAT, nat)? })
    }

    fn view(&self) -> View<'_> {
        View { flows: &self.flows, nat: &self.nat }
    }
}

/// The same, wherever the memory is from.
#[derive(Clone, Copy)]
struct View<'a> {
    flows: &'a [BucketWords],
    nat: &'a [AtomicU64],
}

impl Left {
    /// What is pinned, unless there is nothing or it is divided as the plan wants it.
    pub(super) fn find(pins: &PinDirectory, plan: &Plan) -> Result<Option<Self>, Error> {
        let entries = |name| Some(MapInfo::from_pin(pins.map(name)).ok()?.max_entries());
        let Some(buckets) = entries(FLOWS) else { return Ok(None) };
        if buckets == plan.flow_entries / WAYS && entries(SLOTS) == Some(plan.slot_entries) {
            return Ok(None);
        }
        let open =
            |name| MapData::from_pin(pins.map(name)).map_err(|source| Error::map(name, source));
        let (flows, nat) = (open(FLOWS)?, open(NAT)?);
        // Where the earlier start ended too soon there are no slots: then nothing is carried back.
        let shares = view::slots_in_force(pins).unwrap_or_default();
        Ok(Some(Self { tables: Tables::of([&flows, &nat])?, shares }))
    }

    /// Carries everything to new tables, which no program uses yet.
    pub(super) fn carry_to(self, maps: [&MapData; 2], plan: &Plan) -> Result<Carrier, Error> {
        let grace = Grace::new().map_err(Error::Grace)?;
        let (new, shares) = (Tables::of(maps)?, plan.slots.clone());
        let begun_ns = now_ns();
        carry(self.tables.view(), new.view(), &shares, begun_ns, 0);
        Ok(Carrier { old: self, new, shares, grace, begun_ns })
    }
}

/// Keeps two tables at the same flows while some programs use one and some the other.
pub(super) struct Carrier {
    old: Left,
    new: Tables,
    shares: Shares,
    grace: Grace,
    /// When the new table was filled: it lacks what has been opened since then.
    begun_ns: u64,
}

impl Carrier {
    /// Does the work that puts the new programs in place of the old ones. What the ones open or move on meanwhile, the
    /// others find a moment later.
    pub(super) fn accompany<T>(self, work: impl FnOnce() -> T) -> T {
        let (working, ended) = channel::<()>();
        let carrier = &self;
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut since_ns, mut pause) = (carrier.begun_ns, PAUSE);
                while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    let look = Instant::now();
                    since_ns = carrier.even(since_ns);
                    pause = PAUSE.max(look.elapsed() * LOOK_PAUSES);
                }
                since_ns = carrier.even(since_ns);
                // Of the old programs one may still have been running. Where the kernel does not tell when none is any
                // more, what that one has opened is opened anew.
                let _ = carrier.grace.wait();
                carrier.even(since_ns);
            });
            let done = work();
            drop(working);
            done
        })
    }

    /// Carries what has changed since then, both ways. The programs of both see a connection's packets, while each has some
    /// of its hooks. Returns until when that was.
    fn even(&self, since_ns: u64) -> u64 {
        let now_ns = now_ns();
        let since_ns = since_ns.saturating_sub(LATE_NS);
        let (old, new) = (self.old.tables.view(), self.new.view());
        carry(old, new, &self.shares, now_ns, since_ns);
        carry(new, old, &self.old.shares, now_ns, since_ns);
        now_ns
    }
}

/// Carries the flows that live and were seen since then, the latest first: where they do not all fit, the others stay
/// behind.
fn carry(from: View<'_>, to: View<'_>, shares: &Shares, now_ns: u64, since_ns: u64) {
    let is_carried = |it: &Tracked| it.head.seen_ns >= since_ns && !it.head.is_over(now_ns);
    let mut living: Vec<_> = flows(from.flows).filter(is_carried).collect();
    living.sort_by_key(|it| Reverse(it.head.seen_ns));
    for tracked in &living {
        if let Some(slot) = shares.get(&tracked.flow.key.slot_id)
            && let Some(number) = put(to.flows, slot, tracked, now_ns)
        {
            lead_to(to, number, &tracked.flow, now_ns);
        }
    }
}

/// Puts a flow into its slot's share, where the programs look for it: in the place of an entry that is over, or of what
/// was known of it earlier. Returns where it is, if there was room.
fn put(to: &[BucketWords], slot: &SlotEntry, tracked: &Tracked, now_ns: u64) -> Option<u32> {
    let hash = tracked.flow.key.hash();
    let of = |number| place(slot, hash, number);
    let known = (0..PLACES).map(of).find_map(|number| {
        let entry = at(to, number).filter(|it| it.standing().tag == tag(hash))?;
        let there = entry.read().filter(|it| it.flow.key == tracked.flow.key)?;
        (!there.head.is_over(now_ns)).then_some((number, entry, there))
    });
    if let Some((number, entry, there)) = known {
        // A flow that has no looks yet may have been given some by the other programs meanwhile.
        let looks = tracked.flow.translation;
        let are_its = looks.port_be == 0 || looks == there.flow.translation;
        if is_later(tracked, &there) {
            let kept = if are_its { there.flow.translation } else { looks };
            let flow = Flow { translation: kept, ..tracked.flow };
            entry.write(there.head.standing, &Tracked { flow, ..*tracked });
        } else if !are_its {
            entry.translate(looks);
        }
        return Some(number);
    }
    // As the programs do it: in the bucket that has more room.
    let free = |number| at(to, number).and_then(|entry| Some((entry, entry.free(now_ns)?)));
    let room = |first| (first..first + WAYS).filter(|number| free(of(*number)).is_some()).count();
    let start = if room(WAYS) > room(0) { WAYS } else { 0 };
    let mut places = (0..PLACES).map(|number| of(number ^ start));
    places.find(|number| free(*number).is_some_and(|(entry, there)| entry.write(there, tracked)))
}

/// Leads a flow's answers to where it stands now, as `netguard-ebpf/src/nat.rs::claim` does. What finds no room has no answers any
/// more.
fn lead_to(to: View<'_>, number: u32, flow: &Flow, now_ns: u64) {
    if flow.translation.port_be == 0 {
        return;
    }
    let hash = Outside::of(&flow.key, &flow.translation).hash();
    let mask = nat_mask(to.nat.len() as u32);
    let words = || (0..NAT_WAYS).filter_map(|way| to.nat.get(nat_place(mask, hash, way) as usize));
    let own = nat_word(hash, number);
    if words().any(|word| word.load(Ordering::Acquire) == own) {
        return;
    }
    let _ = words().any(|word| {
        let there = word.load(Ordering::Acquire);
        is_stale(to, there, now_ns)
            && word.compare_exchange(there, own, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
}

/// True for a word that leads to no flow which lives and looks like that.
fn is_stale(tables: View<'_>, word: u64, now_ns: u64) -> bool {
    let number = nat_flow(word);
    let Some(Tracked { head, flow }) = at(tables.flows, number).and_then(Entry::read) else {
        return true;
    };
    head.is_over(now_ns)
        || flow.translation.port_be == 0
        || nat_word(Outside::of(&flow.key, &flow.translation).hash(), number) != word
}

/// True if a table knows something of a flow that the other one does not.
fn is_later(one: &Tracked, other: &Tracked) -> bool {
    let how = |it: &Tracked| {
        let standing = it.head.standing;
        (standing.state, standing.opened, standing.fins)
    };
    let when = |it: &Tracked| (it.head.seen_ns, it.head.standing.state);
    how(one) != how(other) && when(one) > when(other)
}

#[cfg(test)]
mod tests {
    use netguard_common::{
        flow::FlowState,
        translation::{Translation, nat_entries, nat_matches},
    };

    use super::{
        super::flow_table::tests::{NOW, SECOND, flow, table},
        *,
    };

    const ESTABLISHED: FlowState = FlowState::Established;
    const SYN_SENT: FlowState = FlowState::SynSent;

    /// Carries flows, wherever their answers go.
    fn carry(
        from: &[BucketWords],
        to: &[BucketWords],
        shares: &Shares,
        now_ns: u64,
        since_ns: u64,
    ) {
        let nat: [AtomicU64; NAT_WAYS as usize] = Default::default();
        let view = |flows| View { flows, nat: &nat };
        super::carry(view(from), view(to), shares, now_ns, since_ns);
    }

    fn slot(flows_first: u32, buckets: u32) -> SlotEntry {
        SlotEntry { flows_first, flows_mask: buckets - 1, ..SlotEntry::EMPTY }
    }

    /// The buckets of so many entries.
    fn part(table: &[BucketWords], entries: std::ops::Range<u32>) -> &[BucketWords] {
        let bucket = |entry: u32| (entry / WAYS) as usize;
        &table[bucket(entries.start)..bucket(entries.end)]
    }

    /// The flows of a table or of a part of it, by port.
    fn found(table: &[BucketWords]) -> Vec<Tracked> {
        let mut found: Vec<_> = flows(table).collect();
        found.sort_by_key(|it| u16::from_be(it.flow.key.guest_port_be));
        found
    }

    #[test]
    fn flows_go_whole_to_where_the_new_shares_put_them() {
        let (old, new) = (table(64), table(256));
        let before = Shares::from([(1, slot(0, 8)), (2, slot(32, 8))]);
        let after = Shares::from([(1, slot(64, 16)), (2, slot(128, 16))]);
        let flows = |id| (0..8).map(move |port| flow(id, port, ESTABLISHED, 5));
        for flow in flows(1).chain(flows(2)) {
            let _ = put(&old, &before[&flow.flow.key.slot_id], &flow, NOW);
        }
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(part(&new, 64..128)), flows(1).collect::<Vec<_>>());
        assert_eq!(found(part(&new, 128..192)), flows(2).collect::<Vec<_>>());
        assert_eq!(found(&new).len(), 16);
        for flow in flows(1) {
            let of = |number| place(&after[&1], flow.flow.key.hash(), number);
            let read = |number| at(&new, of(number)).and_then(Entry::read);
            assert!((0..PLACES).any(|number| read(number) == Some(flow)));
        }
        // Once more changes nothing.
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(&new).len(), 16);
    }

    #[test]
    fn answers_find_a_flow_where_it_stands_now() {
        let memory = |entries: u32| {
            let words = std::iter::repeat_with(AtomicU64::default);
            (table(entries), words.take(nat_entries(entries) as usize).collect::<Vec<_>>())
        };
        let [old, new] = [64, 256].map(memory);
        let [old, new] = [&old, &new].map(|(flows, nat)| View { flows, nat });
        let (before, after) = (slot(16, 4), Shares::from([(1, slot(128, 16))]));
        let looks = |port: u16| Translation {
            port_ifindex: 5,
            uplink_ifindex: 3,
            guest_mac: [2; 6],
            port_be: (20_000 + port).to_be(),
        };
        let translated = |port| {
            let mut tracked = flow(1, port, ESTABLISHED, 5);
            // The last one takes the slow path.
            tracked.flow.translation = if port < 5 { looks(port) } else { Translation::default() };
            tracked
        };
        for port in 0..6 {
            let _ = put(old.flows, &before, &translated(port), NOW);
        }
        // Twice, as it goes while programs are replaced.
        super::carry(old, new, &after, NOW, 0);
        super::carry(old, new, &after, NOW, 0);
        let found = |port| {
            let outside = Outside::of(&translated(port).flow.key, &looks(port));
            let mask = nat_mask(new.nat.len() as u32);
            let words = (0..NAT_WAYS).map(|way| {
                new.nat[nat_place(mask, outside.hash(), way) as usize].load(Ordering::Acquire)
            });
            let found = words.filter(|word| nat_matches(*word, outside.hash())).map(nat_flow);
            found.map(|number| at(new.flows, number).and_then(Entry::read)).collect::<Vec<_>>()
        };
        for port in 0..5 {
            assert_eq!(found(port), [Some(translated(port))]);
        }
        assert_eq!(found(5), []);
        let used = new.nat.iter().filter(|word| word.load(Ordering::Acquire) != 0);
        assert_eq!(used.count(), 5, "no answer has two ways");
    }

    #[test]
    fn what_is_over_or_half_written_or_of_a_slot_that_is_gone_stays_behind() {
        let (old, new) = (table(16), table(16));
        let all = slot(0, 4);
        let _ = put(&old, &all, &flow(1, 1, SYN_SENT, 59), NOW);
        let _ = put(&old, &all, &flow(1, 2, SYN_SENT, 60), NOW - 30 * SECOND);
        let _ = put(&old, &all, &flow(1, 3, ESTABLISHED, 7440), NOW - 30 * SECOND);
        let _ = put(&old, &all, &flow(1, 4, FlowState::Claimed, 0), NOW);
        let _ = put(&old, &all, &flow(2, 5, ESTABLISHED, 0), NOW);
        carry(&old, &new, &Shares::from([(1, all)]), NOW, 0);
        assert_eq!(found(&new), [flow(1, 1, SYN_SENT, 59)]);
    }

    #[test]
    fn the_latest_fill_a_share_that_is_too_small_and_no_more() {
        let (old, new) = (table(1024), table(32));
        let before = slot(0, 256);
        for port in 0..200 {
            let _ = put(&old, &before, &flow(1, port, ESTABLISHED, u64::from(port)), NOW);
        }
        let after = Shares::from([(1, slot(8, 4))]);
        carry(&old, &new, &after, NOW, 0);
        let carried = found(&new);
        assert_eq!(found(part(&new, 8..24)), carried, "outside of the share");
        assert_eq!(carried.len(), 16, "the share is full");
        // Eight places each: the ten latest find room whatever their hashes are.
        let latest = carried.iter().filter(|it| u16::from_be(it.flow.key.guest_port_be) < 10);
        assert_eq!(latest.count(), 10);
        // What comes later takes no other's place.
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(&new), carried);
    }

    #[test]
    fn buckets_fill_so_evenly_that_half_a_share_holds_every_flow() {
        let table = table(1 << 14);
        let all = slot(0, (1 << 14) / WAYS);
        let refused = (0..1 << 13)
            .filter(|port| put(&table, &all, &flow(1, *port, ESTABLISHED, 0), NOW).is_none());
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn of_what_both_tables_know_the_later_counts() {
        let all = Shares::from([(1, slot(0, 4))]);
        let mut of_another_policy = flow(1, 1, ESTABLISHED, 2);
        of_another_policy.flow.generation = 8;
        for (there, comes, stays) in [
            (flow(1, 1, SYN_SENT, 2), flow(1, 1, ESTABLISHED, 1), false),
            // Within one tick of the clock.
            (flow(1, 1, SYN_SENT, 1), flow(1, 1, ESTABLISHED, 1), false),
            (flow(1, 1, ESTABLISHED, 1), flow(1, 1, SYN_SENT, 1), true),
            (flow(1, 1, ESTABLISHED, 1), flow(1, 1, FlowState::Closed, 2), true),
            (of_another_policy, flow(1, 1, ESTABLISHED, 1), true),
        ] {
            let (old, new) = (table(16), table(16));
            let _ = put(&new, &all[&1], &there, NOW);
            let _ = put(&old, &all[&1], &comes, NOW);
            carry(&old, &new, &all, NOW, 0);
            assert_eq!(found(&new), [if stays { there } else { comes }], "{comes:?}");
        }
    }

    #[test]
    fn looks_come_to_a_flow_that_is_there_already_and_never_go() {
        let all = Shares::from([(1, slot(0, 4))]);
        let looking = |port_be, seconds| {
            let mut tracked =
                flow(1, 1, if seconds == 2 { SYN_SENT } else { ESTABLISHED }, seconds);
            tracked.flow.translation.port_be = port_be;
            tracked
        };
        for (there, comes, stays) in [
            (looking(0, 2), looking(7, 2), looking(7, 2)),
            (looking(7, 2), looking(0, 2), looking(7, 2)),
            (looking(7, 2), looking(0, 1), looking(7, 1)),
            (looking(0, 2), looking(7, 1), looking(7, 1)),
        ] {
            let (old, new) = (table(16), table(16));
            let _ = put(&new, &all[&1], &there, NOW);
            let _ = put(&old, &all[&1], &comes, NOW);
            carry(&old, &new, &all, NOW, 0);
            assert_eq!(found(&new), [stays], "{comes:?}");
        }
    }

    #[test]
    fn what_has_not_changed_since_then_is_not_looked_at() {
        let (old, new) = (table(16), table(16));
        let all = Shares::from([(1, slot(0, 4))]);
        for ago in [1, 2, 3] {
            let _ = put(&old, &all[&1], &flow(1, 10 + ago as u16, ESTABLISHED, ago), NOW);
        }
        carry(&old, &new, &all, NOW, NOW - 2 * SECOND);
        assert_eq!(found(&new), [flow(1, 11, ESTABLISHED, 1), flow(1, 12, ESTABLISHED, 2)]);
    }
}
