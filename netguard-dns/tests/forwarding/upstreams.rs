//! The forwarder against a real resolver: Unbound, with zones of its own, in a network namespace that nobody else has.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use crate::fake::{self, question};
use netguard_dns::{
    Blocked,
    forward::{Transport, Upstream},
};
use nix::sched::{CloneFlags, unshare};

const CONFIG: &str = r#"
server:
    directory: "DIRECTORY"
    pidfile: ""
    chroot: ""
    username: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    interface: 127.0.0.1@5300
    do-daemonize: no
    do-not-query-localhost: no
    local-zone: "test." static
    local-data: "test. 600 IN SOA ns.test. root.test. 1 2 3 4 50"
    local-data: "www.test. 3600 IN A 203.0.113.1"
    local-data: "www.test. 3600 IN AAAA 2001:db8::1"
    local-data: "mail.test. 60 IN MX 10 www.test."
    local-data: "_sip._udp.test. 60 IN SRV 1 2 5060 www.test."
    local-data: "alias.test. 60 IN CNAME www.test."
    local-data: "inside.test. 60 IN A 10.0.0.1"
    local-data: "www.test. 60 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.7 ech=AAA="
LARGE
"#;

/// Ends with the test, also after a panic.
struct Unbound(Child);

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

impl Unbound {
    /// Started and ready to answer.
    fn start(directory: &Path) -> Self {
        let large = |nth| format!("    local-data: \"large.test. 60 IN TXT {nth:0>200}\"\n");
        let large: String = (0..40).map(large).collect();
        let config = CONFIG.replace("DIRECTORY", &directory.display().to_string());
        let file = directory.join("unbound.conf");
        std::fs::write(&file, config.replace("LARGE", &large)).unwrap();
        let mut command = program();
        let mut child =
            command.arg("-dd").arg("-c").arg(&file).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let unbound = Self(child);
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let said: Vec<_> =
            lines.by_ref().take_while(|line| !line.contains("start of service")).collect();
        thread::spawn(move || lines.count()); // or it would wait for a reader one day
        let mut unbound = unbound;
        assert!(unbound.0.try_wait().unwrap().is_none(), "unbound ended: {said:?}");
        unbound
    }
}

/// Unbound, as `cargo xtask setup` has unpacked it, or else the machine's own.
fn program() -> Command {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers/packages");
    let unpacked = packages.join("usr/sbin/unbound");
    if !unpacked.exists() {
        return Command::new("unbound");
    }
    let mut command = Command::new(unpacked);
    let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    command.env("LD_LIBRARY_PATH", packages.join(libraries));
    command
}

/// False, with the reason printed, if there is no Unbound or no right to make a namespace.
fn is_possible() -> bool {
    let has_unbound = program().arg("-V").stdout(Stdio::null()).status().is_ok();
    let is_root = nix::unistd::geteuid().is_root();
    if has_unbound && is_root {
        return true;
    }
    let must = std::env::var_os("NETGUARD_NO_SKIP").is_some_and(|value| value == "1");
    let why = "no Unbound (run `cargo xtask setup`), or not root";
    assert!(!must, "{why}");
    println!("skipped: {why}");
    false
}

#[test]
fn unbound_is_understood() {
    if !is_possible() {
        return;
    }
    // A thread of its own, so that only it is in the namespace.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(up.success());
        let directory = tempfile::tempdir().unwrap();
        let _unbound = Unbound::start(directory.path());
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(ask());
    })
    .join()
    .unwrap();
}

async fn ask() {
    let address = ([127, 0, 0, 1], 5300).into();
    let upstream = Upstream { address, transport: Transport::Plain };
    let (forwarder, _, told) = fake::forwarder_with(fake::settings(vec![upstream]));
    // Name, type, code, records in the answer, addresses, life.
    for (name, record_type, rcode, records, addresses, life) in [
        ("www.test", 1, 0, 1, 1, 300),
        ("www.test", 28, 0, 1, 1, 300),
        ("alias.test", 5, 0, 1, 0, 60),
        ("alias.test", 1, 0, 2, 1, 60),
        ("mail.test", 15, 0, 1, 0, 60),
        ("_sip._udp.test", 33, 0, 1, 0, 60),
        ("www.test", 65, 0, 1, 1, 60),
        ("www.test", 16, 0, 0, 0, 50),
        ("no.test", 1, 3, 0, 0, 50),
        ("large.test", 16, 0, 40, 0, 60),
    ] {
        let answer = forwarder.answer(question(name, record_type), false).await.answer;
        let what = format!("{name} {record_type}: {answer:?}");
        assert_eq!(answer.rcode, rcode, "{what}");
        assert_eq!(answer.message[6..8], [0, records], "{what}");
        assert_eq!(answer.addresses.len(), addresses, "{what}");
        assert_eq!(answer.life.as_secs(), life, "{what}");
        assert_eq!(answer.upstream, Some(address), "{what}");
        let ech = [0, 5, 0, 2, 0, 0];
        assert!(answer.message.windows(6).all(|bytes| bytes != ech), "{what}");
    }
    let answer = forwarder.answer(question("inside.test", 1), false).await.answer;
    assert_eq!(answer.blocked, Some(Blocked::Rebinding([10, 0, 0, 1].into())));
    assert!(told.lock().unwrap().is_empty());
}
