//! `netguard doctor --watch`: packets of slots that the kernel drops, as it happens, each with who that is: netguard, another
//! firewall, the routing, a neighbour that does not answer, a socket that is not there. The records come from a program at
//! the tracepoint kfree_skb that is there as long as this process; it picks out what is a slot's in one network namespace.

mod line;
mod symbols;
mod who;

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    time::{Duration, SystemTime},
};

use netguard_common::{
    Direction, NO_SLOT, SlotId,
    kernel_drop::{KernelDrop, SkbLayout},
};
use nix::net::if_::if_indextoname;
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{Error, Firewall, btf::Btf, firewall, policy};
use crate::{
    config::Config,
    datapath::{KernelDrops, PinDirectory},
    drops::{Clock, Summary},
    instance::Instance,
};
use symbols::Symbols;
use who::Who;

/// The kernel's enumeration, and how its names begin.
const REASONS: &str = "skb_drop_reason";
const PREFIX: &str = "SKB_DROP_REASON_";
/// What other parts of the kernel count for themselves has their number in the upper half (`SKB_DROP_REASON_SUBSYS_SHIFT`).
const SUBSYSTEM_SHIFT: u32 = 16;

/// Asking nft takes some milliseconds, on hosts with many rules more.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// One JSON object a line.
    pub json: bool,
    /// Words in colours.
    pub colored: bool,
}

/// A packet that the kernel dropped.
#[derive(Clone, Debug)]
struct Dropped {
    time: SystemTime,
    slot: Option<String>,
    direction: Option<Direction>,
    reason: String,
    who: Who,
    /// Which chains may have been it, where it was a firewall.
    chains: Vec<String>,
    packet: Summary,
    bytes: u32,
    interface: Option<String>,
    symbol: Option<String>,
}

/// A watch that has begun.
pub struct Watch {
    drops: AsyncFd<KernelDrops>,
    reasons: BTreeMap<u32, String>,
    names: BTreeMap<SlotId, String>,
    /// The chains of the host's firewall that can drop something, and when they were asked for.
    chains: Option<(Instant, Vec<String>)>,
    symbols: Symbols,
    interfaces: HashMap<u32, Option<String>>,
    /// Of each slot that was seen, how many of its packets were not told.
    untold: BTreeMap<SlotId, u64>,
    lost: u64,
    view: View,
}

impl Watch {
    /// Begins, in the network namespace of this thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The instance has no policy in the kernel, or the kernel does not describe itself, or refuses.
    pub fn begin(instance: &Instance, config: &Config, view: View) -> Result<Self, Error> {
        let policy = policy(Some(instance), config)?;
        let btf = Btf::of_kernel()?;
        let drops = KernelDrops::attach(&PinDirectory::of(instance), layout(&btf)?)?;
        let slots = policy.slots.iter().map(|slot| (slot.id, slot.name.clone()));
        Ok(Self {
            // SAFETY: `KernelDrops` owns the ring buffer's descriptor and never changes or closes it.
            drops: unsafe { AsyncFd::register_with_interest(drops, Interest::READABLE) }
                .map_err(io::Error::from)?,
            reasons: btf.enumeration(REASONS)?,
            names: slots.collect(),
            chains: None,
            symbols: Symbols::default(),
            interfaces: HashMap::new(),
            untold: BTreeMap::new(),
            lost: 0,
            view,
        })
    }

    /// How many slots it is about.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.names.len()
    }

    /// Writes what comes, until the time is over or somebody interrupts.
    ///
    /// # Errors
    ///
    /// The output or a wait fails.
    pub async fn run(mut self, time: Option<Duration>, out: &mut impl Write) -> Result<(), Error> {
        const DAY: Duration = Duration::from_secs(86_400);
        let end = Instant::now() + time.unwrap_or(DAY * 365);
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut terminated =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            tokio::select! {
                ready = self.drops.readable_mut() => ready?.clear_ready(),
                _ = second.tick() => self.tell_untold(out)?,
                _ = &mut interrupted => break,
                _ = terminated.recv() => break,
                () = sleep_until(end) => break,
            }
            self.tell(out)?;
        }
        self.tell(out)?;
        self.tell_untold(out)
    }

    /// What is ready.
    fn tell(&mut self, out: &mut impl Write) -> Result<(), Error> {
        /// So many at once: signals and the clock have their turn too.
        const BATCH: usize = 256;
        let clock = Clock::read();
        for _ in 0..BATCH {
            let Some(record) = self.drops.get_mut().next_ready() else { break };
            self.untold.entry(record.slot_id).or_default();
            let dropped = self.read(&record, &clock);
            match self.view.json {
                true => line::json(&dropped, out)?,
                false => line::text(&dropped, self.view.colored, out)?,
            }
        }
        Ok(out.flush()?)
    }

    fn read(&mut self, record: &KernelDrop, clock: &Clock) -> Dropped {
        let reason = match self.reasons.get(&record.reason) {
            Some(name) => name.strip_prefix(PREFIX).unwrap_or(name).to_owned(),
            None => format!(
                "{} of subsystem {}",
                record.reason & ((1 << SUBSYSTEM_SHIFT) - 1),
                record.reason >> SUBSYSTEM_SHIFT
            ),
        };
        let symbol = self.symbols.at(record.location).map(str::to_owned);
        let who = Who::of(&reason, symbol.as_deref());
        let slot = self.names.get(&record.slot_id).cloned();
        let name = |index| if_indextoname(index).ok()?.into_string().ok();
        let interface = self.interfaces.entry(record.ifindex).or_insert_with_key(|it| name(*it));
        let interface = interface.clone();
        Dropped {
            time: clock.wall(record.time_ns),
            slot: slot.or_else(|| {
                (record.slot_id != NO_SLOT).then(|| format!("slot number {}", record.slot_id))
            }),
            direction: Direction::from_raw(record.direction),
            chains: if who == Who::Netfilter { self.chains() } else { Vec::new() },
            packet: summary(record),
            bytes: record.length,
            interface,
            reason,
            who,
            symbol,
        }
    }

    /// The firewall's chains that can drop, as they are or were a moment ago.
    fn chains(&mut self) -> Vec<String> {
        let known = self.chains.take().filter(|(asked, _)| asked.elapsed() < LOOK_AGAIN);
        let ask = || match firewall() {
            Firewall::Known(ruleset) => (Instant::now(), ruleset.droppers()),
            Firewall::Unknown(_) => (Instant::now(), Vec::new()),
        };
        self.chains.insert(known.unwrap_or_else(ask)).1.clone()
    }

    /// What was counted and not told, if there is more of it.
    fn tell_untold(&mut self, out: &mut impl Write) -> Result<(), Error> {
        let drops = self.drops.get_ref();
        for (slot, known) in &mut self.untold {
            let now = drops.only_counted(*slot)?;
            let more = now.saturating_sub(std::mem::replace(known, now));
            if more > 0 {
                let name = self.names.get(slot).map(String::as_str);
                line::untold(name, more, self.view.json, out)?;
            }
        }
        let lost = drops.lost()?;
        let more = lost.saturating_sub(std::mem::replace(&mut self.lost, lost));
        if more > 0 {
            line::untold(None, more, self.view.json, out)?;
        }
        Ok(out.flush()?)
    }
}

/// What the packet was, by the bytes from its IP header on.
fn summary(record: &KernelDrop) -> Summary {
    const ETHERNET: usize = 14;
    let mut frame = vec![0; ETHERNET - 2];
    frame.extend(record.ether_type_be.to_ne_bytes());
    if record.captured == 1 {
        frame.extend(record.packet);
    }
    Summary::of(&frame)
}

/// Where this kernel keeps what the program reads.
fn layout(btf: &Btf) -> Result<SkbLayout, Error> {
    Ok(SkbLayout {
        skb_dev: btf.offset("sk_buff", &["dev"])?,
        skb_iif: btf.offset("sk_buff", &["skb_iif"])?,
        skb_sk: btf.offset("sk_buff", &["sk"])?,
        skb_head: btf.offset("sk_buff", &["head"])?,
        skb_network_header: btf.offset("sk_buff", &["network_header"])?,
        skb_protocol: btf.offset("sk_buff", &["protocol"])?,
        skb_len: btf.offset("sk_buff", &["len"])?,
        dev_ifindex: btf.offset("net_device", &["ifindex"])?,
        dev_net: btf.offset("net_device", &["nd_net", "net"])?,
        sk_net: btf.offset("sock", &["__sk_common", "skc_net", "net"])?,
        net_inum: btf.offset("net", &["ns", "inum"])?,
        namespace: 0,
    })
}

/// True if whoever reads has gone, and has read enough.
#[must_use]
pub fn is_end_of_reader(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
}
