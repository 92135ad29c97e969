//! Connections live on when the table of flows gets another size, and when there are so many slots that each gets another
//! share of it. Nothing is let in by that.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use DropReason as R;
use netguard_common::{DropReason, Hook, flow::WAYS};
use netguard_tests::{
    can_use_kernel, daemon,
    kernel::{FROM_HOST, Kernel, Outcome},
    lab::Lab,
    packet::ip,
    until,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Hosts of the lab's internet.
const KEPT: &str = "203.0.113.10";
const DENIED: &str = "203.0.113.11";
const PORT: u16 = 7000;
/// Longer than a packet takes, shorter than anybody waits for a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// More connections than are opened while policies change twice, and fewer than two descriptors each are too much for.
const MANY: usize = 9000;

/// Three slots, and further ones whose links netguard makes; each may reach these hosts.
fn config(flows: u32, more: u32, hosts: &[&str]) -> String {
    let both = |host| format!("\"{host} tcp/7000\", \"{host} udp/7000\"");
    let allow: Vec<_> = hosts.iter().map(both).collect();
    let slot = format!("egress = \"listed\"\nallow = [{}]\n", allow.join(", "));
    let mut toml = format!(
        "[host]\nuplinks = [\"eth0\"]\n[limits]\nflows = {flows}\n[dns]\nupstreams = [\"1.1.1.1\"]\n\
         [[slot]]\ncount = 3\n{slot}"
    );
    for id in 4..4 + more {
        toml += &format!(
            "[[slot]]\nname = \"more{id}\"\nid = {id}\nsubnet = \"10.{id}.0.0/24\"\nmanage_links = true\n{slot}"
        );
    }
    toml
}

/// A connection and an exchange of datagrams between a slot and a host of the internet, from both ends.
struct Open {
    tcp: [TcpStream; 2],
    udp: [UdpSocket; 2],
    /// How the server sees the guest's datagrams.
    guest: SocketAddr,
}

impl Open {
    fn to(lab: &Lab, host: &str) -> Self {
        let at = (host, PORT);
        let (listener, served) = lab.within("net", || {
            (TcpListener::bind(at).expect("a port"), UdpSocket::bind(at).expect("a port"))
        });
        let (asked, datagrams) = lab.within("slot1", || {
            let datagrams = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            datagrams.connect(at).expect("a way");
            (TcpStream::connect(at).expect("a connection"), datagrams)
        });
        let (accepted, _) = listener.accept().expect("its other end");
        for stream in [&asked, &accepted] {
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        }
        for socket in [&datagrams, &served] {
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        }
        let _ = datagrams.send(b"ask").expect("a datagram");
        let (_, guest) = served.recv_from(&mut [0; 16]).expect("the guest's datagram");
        let mut open = Self { tcp: [asked, accepted], udp: [datagrams, served], guest };
        open.lives("when it was opened");
        open
    }

    /// Bytes go both ways, those of the server first: a guest's datagram would open its flow anew.
    fn lives(&mut self, when: &str) {
        let mut buffer = [0; 4];
        let [guest, server] = &mut self.tcp;
        let [asking, answering] = &self.udp;
        let failed = |what: &str| format!("{what}, {when}");
        server.write_all(b"down").expect("a connection");
        guest
            .read_exact(&mut buffer)
            .unwrap_or_else(|it| panic!("{}: {it}", failed("TCP to the slot")));
        assert_eq!(&buffer, b"down");
        guest.write_all(b"up..").expect("a connection");
        server
            .read_exact(&mut buffer)
            .unwrap_or_else(|it| panic!("{}: {it}", failed("TCP from the slot")));
        assert_eq!(&buffer, b"up..");
        let _ = answering.send_to(b"down", self.guest).expect("a datagram");
        let _ = asking
            .recv(&mut buffer)
            .unwrap_or_else(|it| panic!("{}: {it}", failed("UDP to the slot")));
        let _ = asking.send(b"up..").expect("a datagram");
        let _ = answering
            .recv(&mut buffer)
            .unwrap_or_else(|it| panic!("{}: {it}", failed("UDP from the slot")));
    }
}

/// Has the daemon read another configuration. By a signal: an order would not wait for a machine that has much to do.
fn reload(lab: &Lab, config: &str) {
    let reloaded = || {
        let events = lab.events();
        events.iter().filter(|event| daemon::is_note(event, "reloaded: guarding")).count()
    };
    let before = reloaded();
    lab.reconfigure(config);
    let pid = lab.daemon_pid().expect("a daemon");
    let _ = lab.exec("hv", &format!("kill -HUP {pid}")).success();
    until("it is reloaded", || reloaded() > before);
}

/// How many entries the pinned table has, and into how many shares it is divided.
fn table(lab: &Lab) -> (u64, u64) {
    let entries = |map: &str| {
        let pin = lab.map(map);
        let shown = lab.exec("hv", &format!("bpftool -j map show pinned {pin}"));
        let shown: serde_json::Value = serde_json::from_str(shown.success()).expect("JSON");
        shown["max_entries"].as_u64().expect("a number")
    };
    (entries("FLOWS") * u64::from(WAYS), entries("SLOTS") / 2)
}

#[test]
fn connections_live_on_whatever_the_size_of_the_table_and_the_number_of_slots() {
    if !can_use_kernel() {
        return;
    }
    let both = [KEPT, DENIED];
    let lab = Lab::with(&config(1000, 0, &both), "veth");
    assert_eq!(table(&lab), (4096, 4));
    let mut open = Open::to(&lab, KEPT);
    for (flows, more, found, when) in [
        (1000, 1, (4096, 8), "with a fourth slot"),
        (1000, 5, (4096, 16), "with an eighth slot"),
        (20_000, 5, (131_072, 16), "with a larger table"),
        (300, 5, (2048, 16), "with a smaller table"),
        (300, 0, (2048, 4), "with fewer slots"),
        (5000, 1, (32_768, 8), "with more of both"),
    ] {
        reload(&lab, &config(flows, more, &both));
        assert_eq!(table(&lab), found, "{when}");
        open.lives(when);
    }
    // So it is for a daemon that finds another configuration when it starts.
    daemon::kill(&lab, "KILL");
    lab.reconfigure(&config(300, 0, &both));
    let _daemon = daemon::start(&lab);
    assert_eq!(table(&lab), (2048, 4));
    open.lives("with another daemon");
}

#[test]
fn what_the_next_policy_does_not_allow_ends_though_its_table_has_another_size() {
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(&config(1000, 0, &[KEPT, DENIED]), "veth");
    let (mut kept, mut denied) = (Open::to(&lab, KEPT), Open::to(&lab, DENIED));
    reload(&lab, &config(20_000, 1, &[KEPT]));
    kept.lives("beside one that is over");
    let dropped = |direction| lab.packets("slot1", direction, "egress-denied");
    let before = dropped("ingress");
    denied.tcp[1].write_all(b"down").expect("the server's own system takes it");
    until("its segment is dropped", || dropped("ingress") > before);
    let before = dropped("egress");
    denied.tcp[0].write_all(b"up..").expect("the guest's own system takes it");
    until("the guest's segment is dropped", || dropped("egress") > before);
    kept.lives("after that");
}

#[test]
fn connections_that_are_opened_while_programs_are_replaced_live_on() {
    if !can_use_kernel() {
        return;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard.max(soft), hard).expect("its own hard limit");
    let lab = Lab::with(&config(20_000, 0, &[KEPT]), "veth");
    let listener = lab.within("net", || TcpListener::bind((KEPT, PORT)).expect("a port"));
    let is_over = AtomicBool::new(false);
    let opened = thread::scope(|scope| {
        let opening = scope.spawn(|| {
            lab.within("slot1", || {
                let mut opened = Vec::new();
                while !is_over.load(Ordering::Relaxed) && opened.len() < MANY {
                    let asked = TcpStream::connect((KEPT, PORT)).expect("a connection");
                    opened.push([asked, listener.accept().expect("its other end").0]);
                    // As many a second as there are descriptors for.
                    thread::sleep(Duration::from_millis(2));
                }
                opened
            })
        });
        reload(&lab, &config(20_000, 1, &[KEPT]));
        reload(&lab, &config(20_000, 0, &[KEPT]));
        is_over.store(true, Ordering::Relaxed);
        opening.join().expect("every connection is opened")
    });
    assert!(opened.len() < MANY, "no connection was opened at the end");
    eprintln!("{} connections were opened meanwhile", opened.len());
    for (number, [guest, server]) in opened.iter().enumerate() {
        for (mut from, mut to) in [(server, guest), (guest, server)] {
            to.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            from.write_all(b"data").expect("a connection");
            to.read_exact(&mut [0; 4]).unwrap_or_else(|it| panic!("connection {number}: {it}"));
        }
    }
}

/// So many slots on one bridge with `lo` as the port of slot 1.
fn slots(count: u8, flows: u32) -> String {
    let mut toml = format!("[limits]\nflows = {flows}\n[dns]\nupstreams = ['1.1.1.1']\n");
    for id in 1..=count {
        let port = if id == 1 { "lo".to_owned() } else { format!("vm-slot{id}") };
        toml += &format!(
            "[[slot]]\nname = 'slot{id}'\nid = {id}\nbridge = 'br-slot1'\nport = '{port}'\n\
             subnet = '10.{id}.0.0/24'\n"
        );
    }
    toml
}

const GUEST: &str = "10.1.0.2";
const PEER: &str = "203.0.113.9";

fn passes(kernel: &mut Kernel, hook: Hook, frame: &[u8]) -> Result<(), DropReason> {
    let mark = if hook == Hook::PortIngress { FROM_HOST } else { 0 };
    match kernel.verdict(hook, frame, mark).0 {
        Outcome::Drop(reason) => Err(reason),
        _ => Ok(()),
    }
}

fn answers(kernel: &mut Kernel, port: u16) -> Result<(), DropReason> {
    passes(kernel, Hook::PortIngress, &ip(PEER, GUEST).udp(443, port, b""))
}

#[test]
fn the_latest_flows_fill_a_smaller_share_and_no_more() {
    if !can_use_kernel() {
        return;
    }
    let mut kernel = Kernel::with(&slots(1, 4000));
    let ports = 1000..1600_u16;
    for port in ports.clone() {
        let asks = ip(GUEST, PEER).udp(port, 443, b"");
        assert_eq!(passes(&mut kernel, Hook::PortEgress, &asks), Ok(()));
        assert_eq!(answers(&mut kernel, port), Ok(()));
    }
    let living = |kernel: &mut Kernel| {
        ports.clone().filter(|port| answers(kernel, *port).is_ok()).collect::<Vec<_>>()
    };
    kernel.apply(&slots(5, 4000));
    assert_eq!(living(&mut kernel).len(), 600, "an eighth of 16,384 entries has room for all");
    // What was never opened is not there.
    for port in 3000..4000 {
        assert_eq!(answers(&mut kernel, port), Err(R::Unsolicited), "port {port}");
    }
    // The latest are those that are answered now. The programs' clock moves by ticks.
    assert!(kernel.age_flows(Duration::from_secs(61)), "up for a minute");
    let latest = 1500..1520_u16;
    for port in latest.clone() {
        assert_eq!(answers(&mut kernel, port), Ok(()));
    }
    kernel.apply(&slots(1, 16));
    kernel.apply(&slots(1, 4000));
    let found = living(&mut kernel);
    assert!((32..=64).contains(&found.len()), "{} of a share of 64 entries", found.len());
    for port in latest {
        assert!(found.contains(&port), "port {port} is one of the latest");
    }
}
