//! What an order costs, from the request at the control socket until it is in force, read back and answered, with few slots and with a
//! thousand; and how long a port that comes is without programs of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use netguard::datapath::{PinDirectory, held};
use netguard_common::Hook;
use netguard_tests::{binary::path, lab::Lab, until};

const ROUNDS: usize = 20;

fn main() {
    println!("median (lowest to highest) of {ROUNDS} rounds, in ms");
    few_slots();
    let lab = Lab::unguarded("veth");
    let many = Many::start(&lab, 1000);
    orders("1,000 slots", &many.socket, "s500");
}

fn few_slots() {
    let lab = Lab::up("veth");
    let socket = PathBuf::from("/run/netguard").join(lab.instance()).join("control.sock");
    orders("5 slots", &socket, "slot1");
    // The last program that a port gets.
    let pins = PinDirectory::of(&lab.instance().parse().expect("an instance"));
    let is_guarded = || {
        let held = held(&pins).expect("what the instance holds");
        let program = Hook::PortEgress.program();
        held.iter().any(|it| it.interface == "vm-slot1" && it.program == program)
    };
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let _ = lab.exec("hv", "ip link del vm-slot1").success();
        until("its programs are gone", || !is_guarded());
        let script = "ip link add vm-slot1 type veth peer name gone && ip link set vm-slot1 up";
        let _ = lab.shell("hv", script).success();
        let _ = lab.exec("hv", "ip link set vm-slot1 master br-slot1").success();
        let joined = Instant::now();
        until("it has its programs", is_guarded);
        times.push(joined.elapsed());
    }
    tell("a port on its bridge, until its programs are attached (at most)", times);
}

fn orders(what: &str, socket: &Path, slot: &str) {
    println!("{what}");
    let entry = "{\"name\": \"bench\", \"subnet\": \"192.168.77.0/24\", \"manage_links\": true}";
    let lock = format!("/v1/slots/{slot}/lock");
    let deny = format!("/v1/slots/{slot}/deny");
    let forget = format!("/v1/slots/{slot}/forget");
    let word = "{\"what\": \"198.51.100.0/24\"}";
    for (what, there, back) in [
        ("a slot is locked", ("PUT", lock.as_str(), ""), ("DELETE", lock.as_str(), "")),
        ("a prefix is denied", ("POST", &deny, word), ("POST", &forget, word)),
        (
            "a slot is made, its bridge and TAP with it",
            ("POST", "/v1/slots", entry),
            ("DELETE", "/v1/slots/bench", ""),
        ),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            times.push(request(socket, there));
            request(socket, back);
            // The other side of the maps is brought up to date within a second.
            std::thread::sleep(Duration::from_millis(1100));
        }
        tell(what, times);
    }
}

fn request(socket: &Path, (method, path, body): (&str, &str, &str)) -> Duration {
    let began = Instant::now();
    let mut stream = UnixStream::connect(socket).expect("the socket");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the daemon reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let time = began.elapsed();
    assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
    time
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (first, last) = (times[0], times[times.len() - 1]);
    println!("  {:>6.2} ({:.2} to {:.2})  {what}", ms(times[times.len() / 2]), ms(first), ms(last));
}

/// A daemon with many slots, whose links it makes itself.
struct Many {
    socket: PathBuf,
    instance: String,
    _directory: tempfile::TempDir,
    _daemon: netguard_tests::lab::Background,
}

impl Many {
    fn start(lab: &Lab, slots: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, log) = (directory.path().join("netguard.toml"), directory.path().join("log"));
        let config = format!(
            "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\n[[slot]]\ncount = {slots}\nname = \"s{{n}}\"\n\
             subnet = \"10.{{hi}}.{{lo}}.0/24\"\nmanage_links = true\n"
        );
        fs::write(&file, config).expect("the configuration");
        let instance = format!("bench-{}", lab.name());
        let script = format!(
            "exec {} run --instance {instance} --config {} >{} 2>&1",
            path().display(),
            file.display(),
            log.display()
        );
        let daemon = lab.start("hv", &script);
        until("the daemon guards", || {
            fs::read_to_string(&log)
                .unwrap_or_default()
                .contains(&format!("guarding {slots} slots"))
        });
        let socket = PathBuf::from("/run/netguard").join(&instance).join("control.sock");
        Self { socket, instance, _directory: directory, _daemon: daemon }
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(Path::new("/var/lib/netguard").join(&self.instance));
        let _ = fs::remove_dir_all(Path::new("/run/netguard").join(&self.instance));
        let _ = fs::remove_dir_all(Path::new("/sys/fs/bpf/netguard").join(&self.instance));
    }
}
