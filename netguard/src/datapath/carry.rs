//! Flows live on when their table gets another size, or slots get other shares of it: they are carried to where the new
//! shares put them. That allows nothing: a flow bears the generation of the policy that allowed it, so the programs of
//! another one ask again at its next packet.
//!
//! Both tables are memory that programs read and write meanwhile. An entry is read until it says the same twice, and
//! written as the programs write it (`netguard-ebpf/src/flows.rs::open`): claimed, filled, published. What a flow looks like
//! outside goes with it, and its answers are led to where it stands now.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    mem,
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
    flow::{Flow, PLACES, WAYS, is_over, place},
    maps::{FLOWS, NAT, SLOTS, SlotEntry, TRANSLATIONS},
    translation::{NAT_WAYS, Outside, Translation, nat_flow, nat_mask, nat_place, nat_word},
};

use super::{
    Error,
    flow_table::{CLAIMED, Entry, SEEN, STATE, now_ns, read},
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

/// The looks of a flow as words.
type Looks = [AtomicU64; size_of::<Translation>() / size_of::<u64>()];

/// The table of flows and what stands beside it.
struct Tables {
    flows: Mapped<Entry>,
    looks: Mapped<Looks>,
    nat: Mapped<AtomicU64>,
}

impl Tables {
    fn of([flows, looks, nat]: [&MapData; 3]) -> Result<Self, Error> {
        Ok(Self {
            flows: Mapped::of(FLOWS, flows)?,
            looks: Mapped::of(TRANSLATIONS, looks)?,
            nat: Mapped::of(NAT, nat)?,
        })
    }

    fn view(&self) -> View<'_> {
        View { flows: &self.flows, looks: &self.looks, nat: &self.nat }
    }
}

/// The same, wherever the memory is from.
#[derive(Clone, Copy)]
struct View<'a> {
    flows: &'a [Entry],
    looks: &'a [Looks],
    nat: &'a [AtomicU64],
}

impl Left {
    /// What is pinned, unless there is nothing or it is divided as the plan wants it.
    pub(super) fn find(pins: &PinDirectory, plan: &Plan) -> Result<Option<Self>, Error> {
        let entries = |name| Some(MapInfo::from_pin(pins.map(name)).ok()?.max_entries());
        let Some(flow_entries) = entries(FLOWS) else { return Ok(None) };
        if flow_entries == plan.flow_entries && entries(SLOTS) == Some(plan.slot_entries) {
            return Ok(None);
        }
        let open =
            |name| MapData::from_pin(pins.map(name)).map_err(|source| Error::map(name, source));
        let (flows, looks, nat) = (open(FLOWS)?, open(TRANSLATIONS)?, open(NAT)?);
        // Where the earlier start ended too soon there are no slots: then nothing is carried back.
        let shares = view::slots_in_force(pins).unwrap_or_default();
        Ok(Some(Self { tables: Tables::of([&flows, &looks, &nat])?, shares }))
    }

    /// Carries everything to new tables, which no program uses yet.
    pub(super) fn carry_to(self, maps: [&MapData; 3], plan: &Plan) -> Result<Carrier, Error> {
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
    let found = from.flows.iter().enumerate().filter_map(|(at, entry)| Some((at, read(entry)?)));
    let mut living: Vec<_> = found
        .filter(|(_, flow)| flow.seen_ns >= since_ns && !is_over(flow.state, flow.seen_ns, now_ns))
        .collect();
    living.sort_by_key(|(_, flow)| Reverse(flow.seen_ns));
    for (at, flow) in &living {
        if let Some(slot) = shares.get(&flow.key.slot_id)
            && let Some(place) = put(to.flows, slot, flow, now_ns)
            && let Some(looks) = from.looks.get(*at)
        {
            translate(to, place, flow, looks_of(looks), now_ns);
        }
    }
}

/// Puts a flow into its slot's share, where the programs look for it: in the place of an entry that is over, or of what
/// was known of it earlier. Returns where it is, if there was room.
fn put(to: &[Entry], slot: &SlotEntry, flow: &Flow, now_ns: u64) -> Option<u32> {
    let hash = flow.key.hash();
    let of = |number| place(slot, hash, number);
    let at = |number| to.get(of(number) as usize);
    for number in 0..PLACES {
        let Some(entry) = at(number) else { continue };
        let Some(there) = read(entry).filter(|it| it.key == flow.key) else { continue };
        if is_over(there.state, there.seen_ns, now_ns) {
            continue;
        }
        if is_later(flow, &there) {
            write(entry, there.state, flow);
        }
        return Some(of(number));
    }
    let is_free = |entry: &Entry| {
        let state = entry[STATE].load(Ordering::Acquire);
        state != CLAIMED && is_over(state, entry[SEEN].load(Ordering::Relaxed), now_ns)
    };
    // As the programs do it, so that both buckets fill evenly.
    let is_free_at = |number| at(number).is_some_and(is_free);
    let middle = WAYS / 2 - 1;
    let start = if !is_free_at(middle) && is_free_at(WAYS + middle) { WAYS } else { 0 };
    let mut places = (0..PLACES).map(|number| number ^ start);
    let taken = places.find(|number| {
        at(*number).is_some_and(|entry| {
            let state = entry[STATE].load(Ordering::Acquire);
            is_free(entry) && write(entry, state, flow)
        })
    });
    taken.map(of)
}

fn looks_of(words: &Looks) -> Translation {
    let words = words.each_ref().map(|word| word.load(Ordering::Acquire));
    // SAFETY: every bit pattern is a translation (`Layout`), and of this size.
    unsafe { mem::transmute::<[u64; 2], Translation>(words) }
}

/// Gives a flow, where it stands now, the looks that it has outside, and leads its answers there, as `netguard-ebpf/src/nat.rs::claim`
/// does. What finds no room has no answers any more.
fn translate(to: View<'_>, index: u32, flow: &Flow, looks: Translation, now_ns: u64) {
    let Some(place) = to.looks.get(index as usize) else { return };
    // A flow that has none yet may have been given some by the other programs meanwhile.
    if looks.port_be == 0 || looks_of(place) == looks {
        return;
    }
    // SAFETY: a translation is so many words, without padding (`Layout`).
    let words = unsafe { mem::transmute::<Translation, [u64; 2]>(looks) };
    for (word, value) in place.iter().zip(words) {
        word.store(value, Ordering::Release);
    }
    let hash = Outside::of(&flow.key, &looks).hash();
    let mask = nat_mask(to.nat.len() as u32);
    let words = || (0..NAT_WAYS).filter_map(|way| to.nat.get(nat_place(mask, hash, way) as usize));
    let own = nat_word(hash, index);
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
    let index = nat_flow(word);
    let flow = tables.flows.get(index as usize).and_then(read);
    let looks = tables.looks.get(index as usize).map(looks_of);
    let (Some(flow), Some(looks)) = (flow, looks) else { return true };
    is_over(flow.state, flow.seen_ns, now_ns)
        || looks.port_be == 0
        || nat_word(Outside::of(&flow.key, &looks).hash(), index) != word
}

/// True if a table knows something of a flow that the other one does not.
fn is_later(one: &Flow, other: &Flow) -> bool {
    let standing = |flow: &Flow| (flow.state, flow.opened, flow.fins);
    standing(one) != standing(other) && (one.seen_ns, one.state) > (other.seen_ns, other.state)
}

/// Writes a flow over an entry of that state; false if somebody else was faster.
fn write(entry: &Entry, state: u64, flow: &Flow) -> bool {
    let claimed =
        entry[STATE].compare_exchange(state, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
    if claimed.is_err() {
        return false;
    }
    // SAFETY: a flow is so many words, without padding (`Layout`).
    let words = unsafe { mem::transmute::<Flow, [u64; 8]>(*flow) };
    for (index, (word, value)) in entry.iter().zip(words).enumerate() {
        if index != STATE {
            word.store(value, Ordering::Relaxed);
        }
    }
    entry[STATE].store(flow.state, Ordering::Release);
    true
}

#[cfg(test)]
mod tests {
    use netguard_common::{
        Address, Direction,
        flow::{FlowKey, FlowState},
        translation::{nat_entries, nat_matches},
    };

    use super::{super::flow_table::EMPTY, *};

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 10_000 * SECOND;
    const ESTABLISHED: u64 = FlowState::Established as u64;
    const SYN_SENT: u64 = FlowState::SynSent as u64;

    fn table(entries: usize) -> Vec<Entry> {
        std::iter::repeat_with(Entry::default).take(entries).collect()
    }

    /// Carries flows that have no looks.
    fn carry(from: &[Entry], to: &[Entry], shares: &Shares, now_ns: u64, since_ns: u64) {
        let view = |flows| View { flows, looks: &[], nat: &[] };
        super::carry(view(from), view(to), shares, now_ns, since_ns);
    }

    fn slot(flows_first: u32, buckets: u32) -> SlotEntry {
        SlotEntry { flows_first, flows_mask: buckets - 1, ..SlotEntry::EMPTY }
    }

    /// A flow of a slot that was seen so many seconds ago.
    fn flow(slot_id: SlotId, port: u16, state: u64, ago: u64) -> Flow {
        let (guest, peer) = (Address([1; 16]), Address([2; 16]));
        let ports = (port.to_be(), 443_u16.to_be());
        let key = FlowKey {
            guest,
            peer,
            guest_port_be: ports.0,
            peer_port_be: ports.1,
            slot_id,
            protocol: 6,
            _reserved: 0,
        };
        Flow {
            key,
            seen_ns: NOW - ago * SECOND,
            state,
            generation: 7,
            opened: Direction::Egress as u8,
            fins: 0,
            pinned: 1,
            _reserved: 0,
        }
    }

    /// The flows of a part of a table, by port.
    fn found(table: &[Entry]) -> Vec<Flow> {
        let mut found: Vec<_> = table.iter().filter_map(read).collect();
        found.sort_by_key(|flow| u16::from_be(flow.key.guest_port_be));
        found
    }

    #[test]
    fn flows_go_whole_to_where_the_new_shares_put_them() {
        let (old, new) = (table(64), table(256));
        let before = Shares::from([(1, slot(0, 8)), (2, slot(32, 8))]);
        let after = Shares::from([(1, slot(64, 16)), (2, slot(128, 16))]);
        let flows = |id| (0..8).map(move |port| flow(id, port, ESTABLISHED, 5));
        for flow in flows(1).chain(flows(2)) {
            let _ = put(&old, &before[&flow.key.slot_id], &flow, NOW);
        }
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(&new[64..128]), flows(1).collect::<Vec<_>>());
        assert_eq!(found(&new[128..192]), flows(2).collect::<Vec<_>>());
        assert_eq!(found(&new).len(), 16);
        for flow in flows(1) {
            let at = |number| place(&after[&1], flow.key.hash(), number) as usize;
            assert!((0..PLACES).any(|number| read(&new[at(number)]) == Some(flow)));
        }
        // Once more changes nothing.
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(&new).len(), 16);
    }

    #[test]
    fn answers_find_a_flow_where_it_stands_now() {
        fn words<T: Default>(entries: u32) -> Vec<T> {
            std::iter::repeat_with(T::default).take(entries as usize).collect()
        }
        type Memory = (Vec<Entry>, Vec<Looks>, Vec<AtomicU64>);
        let memory = |entries: u32| -> Memory {
            (words(entries), words(entries), words(nat_entries(entries)))
        };
        let view = |(flows, looks, nat): &'static Memory| View { flows, looks, nat };
        let [old, new] = [64, 256].map(|entries| view(Box::leak(Box::new(memory(entries)))));
        let (before, after) = (slot(16, 4), Shares::from([(1, slot(128, 16))]));
        let looks = |port: u16| Translation {
            port_ifindex: 5,
            uplink_ifindex: 3,
            guest_mac: [2; 6],
            port_be: (20_000 + port).to_be(),
        };
        for port in 0..6 {
            let flow = flow(1, port, ESTABLISHED, 5);
            let at = put(old.flows, &before, &flow, NOW).unwrap();
            // The last one takes the slow path.
            let looks = if port < 5 { looks(port) } else { Translation::default() };
            translate(old, at, &flow, looks, NOW);
        }
        // Twice, as it goes while programs are replaced.
        super::carry(old, new, &after, NOW, 0);
        super::carry(old, new, &after, NOW, 0);
        let found = |port| {
            let outside = Outside::of(&flow(1, port, ESTABLISHED, 5).key, &looks(port));
            let mask = nat_mask(new.nat.len() as u32);
            let words = (0..NAT_WAYS).map(|way| {
                new.nat[nat_place(mask, outside.hash(), way) as usize].load(Ordering::Acquire)
            });
            let found = words.filter(|word| nat_matches(*word, outside.hash())).map(nat_flow);
            found.map(|at| read(&new.flows[at as usize])).collect::<Vec<_>>()
        };
        for port in 0..5 {
            assert_eq!(found(port), [Some(flow(1, port, ESTABLISHED, 5))]);
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
        let _ = put(&old, &all, &flow(1, 4, CLAIMED, 0), NOW);
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
        assert_eq!(found(&new[8..24]), carried, "outside of the share");
        assert_eq!(carried.len(), 16, "the share is full");
        // Eight places each: the ten latest find room whatever their hashes are.
        let latest = carried.iter().filter(|flow| u16::from_be(flow.key.guest_port_be) < 10);
        assert_eq!(latest.count(), 10);
        // What comes later takes no other's place.
        carry(&old, &new, &after, NOW, 0);
        assert_eq!(found(&new), carried);
    }

    #[test]
    fn of_what_both_tables_know_the_later_counts() {
        let all = Shares::from([(1, slot(0, 4))]);
        for (there, comes, stays) in [
            (flow(1, 1, SYN_SENT, 2), flow(1, 1, ESTABLISHED, 1), false),
            // Within one tick of the clock.
            (flow(1, 1, SYN_SENT, 1), flow(1, 1, ESTABLISHED, 1), false),
            (flow(1, 1, ESTABLISHED, 1), flow(1, 1, SYN_SENT, 1), true),
            (flow(1, 1, ESTABLISHED, 1), flow(1, 1, FlowState::Closed as u64, 2), true),
            (
                Flow { generation: 8, ..flow(1, 1, ESTABLISHED, 2) },
                flow(1, 1, ESTABLISHED, 1),
                true,
            ),
        ] {
            let (old, new) = (table(16), table(16));
            let _ = put(&new, &all[&1], &there, NOW);
            let _ = put(&old, &all[&1], &comes, NOW);
            carry(&old, &new, &all, NOW, 0);
            assert_eq!(found(&new), [if stays { there } else { comes }], "{comes:?}");
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

    #[test]
    fn entries_that_are_written_meanwhile_are_read_whole() {
        const ROUNDS: u64 = 200_000;
        let table = table(1);
        let of = |round: u64| {
            let (slot_id, state) =
                if round.is_multiple_of(2) { (1, ESTABLISHED) } else { (2, SYN_SENT) };
            Flow { seen_ns: round, generation: round as u32, ..flow(slot_id, 1, state, 0) }
        };
        assert!(write(&table[0], EMPTY, &of(0)));
        assert!(!write(&table[0], EMPTY, &of(1)), "it is of another state");
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..ROUNDS {
                    assert!(write(&table[0], of(round - 1).state, &of(round)));
                }
            });
            for _ in 0..ROUNDS {
                let found = read(&table[0]);
                assert!(found.is_none_or(|it| it == of(it.seen_ns)), "{found:?}");
            }
        });
    }
}
