//! A minute, half of it without the fast path and denials in the kernel, in which slots send what they may and what they may not
//! as fast as they can, while netguard is killed, started anew, reloaded with other policies and robbed of its programs, and ports
//! go and come back. Nothing that is forbidden may arrive, and nothing of what every policy allows may be lost but where somebody
//! has taken a port or its programs away.

#[path = "chaos/mischief.rs"]
mod mischief;
#[path = "chaos/traffic.rs"]
mod traffic;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use netguard_tests::{can_use_kernel, lab::Lab, until};

use mischief::Mischief;
use traffic::{
    Counts, PATIENCE, ask_for_forbidden, echo, keep_connection, receive_forbidden, send_allowed,
    send_forbidden,
};

/// How long it goes on; `NETGUARD_CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 60;
/// Where every policy lets every slot send to.
const ALLOWED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20)), 9000);
/// Where none does, beside other slots.
const FORBIDDEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)), 9001);
/// A guest whose gateway was not to be reached gives up what it holds for it up to three seconds later, also if it could be
/// reached again (neighbour discovery, ucast_solicit and mcast_solicit).
const NEIGHBOUR: Duration = Duration::from_secs(4);
/// The slot that nobody takes anything away from, the one whose programs are detached, and the one whose port goes.
const QUIET: u8 = 1;
const ROBBED: u8 = 2;
const UNPLUGGED: u8 = 3;

/// One of the policies that take turns: all of them keep `ALLOWED` and none allows `FORBIDDEN`. With the fast path and denials in
/// the kernel, or without both.
fn config(turn: u8, in_kernel: bool) -> String {
    let more = match turn % 3 {
        0 => "",
        1 => ", \"203.0.113.30 udp\", \"198.51.100.0/24\"",
        _ => ", \"203.0.113.0/27 tcp/80\"",
    };
    let names = ["github.com", "gitlab.com", "api.openai.com"][usize::from(turn % 3)];
    format!(
        "[host]\nuplinks = [\"eth0\"]\n[datapath]\nfast_path = {in_kernel}\ndns_denials = {in_kernel}\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"{names}\"]\n\
         [[slot]]\ncount = 3\negress = \"listed\"\nallow = [\"{0} udp/{1},tcp/{1}\"{more}]\n\
         [slot.limits]\nicmp_per_second = {2}\n",
        ALLOWED.ip(),
        ALLOWED.port(),
        50 + turn,
    )
}

#[test]
fn nothing_forbidden_arrives_and_nothing_allowed_is_lost_whatever_is_done_to_netguard() {
    if !can_use_kernel() {
        return;
    }
    let seconds = std::env::var("NETGUARD_CHAOS_SECONDS").ok().and_then(|it| it.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(SECONDS)) / 2;
    for in_kernel in [true, false] {
        eprintln!("fast path and denials in the kernel: {in_kernel}");
        wreak(in_kernel, time);
    }
}

fn wreak(in_kernel: bool, time: Duration) {
    let lab = Lab::with(&config(0, in_kernel), "veth");
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let counts = Counts::default();
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut mischief = Mischief::new(&lab, in_kernel, seed);
    thread::scope(|scope| {
        let (lab, stop, over, counts) = (&lab, &stop, &over, &counts);
        let mut servers = vec![scope.spawn(move || lab.within("net", || echo(over)))];
        for host in ["net", "hv", "slot1", "slot2", "slot3"] {
            servers.push(scope.spawn(move || lab.within(host, || receive_forbidden(over, counts))));
        }
        until("the echo is there", || {
            let listens = lab.exec("net", "ss -Hltn sport = 9000");
            !listens.success().is_empty()
        });
        let keep = move || lab.within("slot1", || keep_connection(stop, counts));
        let ask = move || lab.within("slot1", || ask_for_forbidden(QUIET, stop, counts));
        let mut threads = vec![scope.spawn(keep), scope.spawn(ask)];
        for slot in [QUIET, ROBBED, UNPLUGGED] {
            let host = format!("slot{slot}");
            let within = host.clone();
            threads.push(scope.spawn(move || {
                lab.within(&within, || send_allowed(slot, stop, counts));
            }));
            threads.push(scope.spawn(move || {
                lab.within(&host, || send_forbidden(slot, stop, counts));
            }));
        }
        let began = Instant::now();
        // What it panics with must not leave the threads running.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while began.elapsed() < time {
                mischief.next();
            }
        }));
        stop.store(true, Relaxed);
        let senders: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Relaxed);
        let servers: Vec<_> = servers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        for ended in senders.into_iter().chain(servers) {
            ended.expect("no thread panics");
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    report(&lab, &mischief, &counts);
    assert_eq!(counts.arrived.into_inner(), 0, "forbidden packets arrived");
    assert_eq!(counts.broken.into_inner(), 0, "the connection broke");
    // What was sent while a slot was down, or just before, is its own loss.
    let was_down = |slot: u8, sent: Instant| {
        let mut down = mischief.down.iter().filter(|(whose, ..)| *whose == slot);
        down.any(|(_, from, to)| sent + PATIENCE > *from && sent <= *to + NEIGHBOUR)
    };
    let lost = counts.lost.into_inner().expect("the list");
    let unexplained: Vec<_> = lost.iter().filter(|(slot, sent)| !was_down(*slot, *sent)).collect();
    for (slot, sent) in &unexplained {
        let during = mischief.log.iter().filter(|(_, from, to)| from <= sent && sent <= to);
        let during: Vec<_> = during.map(|(what, from, _)| (what, *sent - *from)).collect();
        eprintln!("slot {slot} has lost one, sent while {during:?}");
    }
    assert!(unexplained.is_empty(), "{} packets are lost", unexplained.len());
    assert!(counts.forbidden.into_inner() > 10_000, "hardly anything was tried");
    assert!(counts.denied.into_inner() > 100, "hardly any name was denied");
    let answered = lab.packets("slot1", "egress", "answer");
    assert_eq!(answered > 0, in_kernel, "{answered} queries are answered in the kernel");
}

fn report(lab: &Lab, mischief: &Mischief<'_>, counts: &Counts) {
    eprintln!("{:>8}  names denied", counts.denied.load(Relaxed));
    for (what, times) in &mischief.done {
        eprintln!("{times:>8}  {what}");
    }
    let lost = counts.lost.lock().expect("the list");
    for (slot, why) in
        [(QUIET, ""), (ROBBED, " (programs detached)"), (UNPLUGGED, " (port made again)")]
    {
        let lost = lost.iter().filter(|(whose, _)| *whose == slot).count();
        let allowed = counts.allowed[usize::from(slot)].load(Relaxed);
        eprintln!("{allowed:>8}  allowed packets of slot {slot} echoed, {lost} lost{why}");
    }
    for slot in ["slot1", "slot2", "slot3"] {
        for ((direction, reason), count) in lab.counters(slot) {
            eprintln!("{count:>8}  {slot} {direction} {reason}");
        }
    }
    eprintln!("{:>8}  round trips of one connection", counts.kept.load(Relaxed));
    eprintln!("{:>8}  forbidden packets sent", counts.forbidden.load(Relaxed));
    eprintln!("{:>8}  of them arrived", counts.arrived.load(Relaxed));
}
