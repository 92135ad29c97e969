//! The table against a map that only counts: what reaches the kernel, and when.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use netguard_common::pin::PIN_LANES;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::*;

const START: Moment = Moment::from_ns(1_000_000_000_000);
const ONE: SlotId = 1;
const TWO: SlotId = 2;
const WEB: &str = "203.0.113.9";

/// The kernel's side.
#[derive(Default)]
struct Kernel {
    entries: Mutex<HashMap<PinKey, PinEntry>>,
    calls: AtomicUsize,
    refuses: AtomicBool,
}

impl Kernel {
    fn call(&self) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.refuses.load(Ordering::Relaxed) {
            Err(io::Error::other("no memory"))
        } else {
            Ok(())
        }
    }

    fn calls(&self) -> usize {
        self.calls.swap(0, Ordering::Relaxed)
    }

    fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    fn entry(&self, slot: SlotId, address: &str) -> Option<PinEntry> {
        self.entries.lock().unwrap().get(&PinKey::new(slot, ip(address).into())).copied()
    }

    /// What the programs would say.
    fn opens(&self, slot: SlotId, address: &str, port: u16, now: Moment) -> bool {
        self.entry(slot, address)
            .is_some_and(|entry| entry.lanes.iter().any(|lane| lane.is_open(port, now.ns())))
    }
}

impl PinMap for Arc<Kernel> {
    fn put(&self, key: &PinKey, entry: &PinEntry) -> io::Result<()> {
        self.call()?;
        assert_eq!(entry.key, *key, "an entry must know its key");
        self.entries.lock().unwrap().insert(*key, *entry);
        Ok(())
    }

    fn remove(&self, key: &PinKey) -> io::Result<()> {
        self.call()?;
        self.entries.lock().unwrap().remove(key);
        Ok(())
    }
}

fn table(per_slot: usize) -> (Arc<Kernel>, Pins) {
    let kernel = Arc::new(Kernel::default());
    let pins = Pins::new(Box::new(Arc::clone(&kernel)), [ONE, TWO], per_slot);
    (kernel, pins)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ports(text: &str) -> Ports {
    text.parse().unwrap()
}

fn domain(text: &str) -> DomainName {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Pins one address for that many seconds, and the grace.
fn pin(pins: &Pins, name: &str, address: &str, on: &Ports, ttl: u64) -> Result<(), PinError> {
    pins.pin(ONE, name, &[ip(address)], on, START.after(seconds(ttl)), START)
}

#[test]
fn a_pin_lasts_as_long_as_its_answer_and_a_minute_more() {
    let (kernel, pins) = table(9);
    let addresses = [ip(WEB), ip("2001:db8::9")];
    pins.pin(ONE, "a.example", &addresses, &Ports::ANY, START.after(seconds(30)), START).unwrap();
    let last = START.after(seconds(89));
    for address in [WEB, "2001:db8::9"] {
        assert!(kernel.opens(ONE, address, 443, last) && kernel.opens(ONE, address, 0, last));
        assert!(!kernel.opens(ONE, address, 443, START.after(seconds(90))));
        assert!(!kernel.opens(TWO, address, 443, START));
    }
    let entry = kernel.entry(ONE, WEB).unwrap();
    assert_eq!((read_name(&entry.name), entry.since_ns), ("a.example", START.ns()));
    // An answer that is over already is good for a minute still.
    pins.pin(ONE, "b.example", &[ip("203.0.113.8")], &Ports::ANY, Moment::from_ns(5), START)
        .unwrap();
    assert!(kernel.opens(ONE, "203.0.113.8", 443, START.after(seconds(59))));
}

#[test]
fn what_is_pinned_for_as_long_costs_no_system_call() {
    let (kernel, pins) = table(9);
    pin(&pins, "a.example", WEB, &Ports::ANY, 300).unwrap();
    assert_eq!(kernel.calls(), 1);
    pin(&pins, "a.example", WEB, &Ports::ANY, 300).unwrap();
    pin(&pins, "a.example", WEB, &Ports::ANY, 10).unwrap();
    pin(&pins, "b.example", WEB, &ports("443"), 200).unwrap();
    assert_eq!(kernel.calls(), 0, "the kernel knows it all");
    pin(&pins, "a.example", WEB, &Ports::ANY, 301).unwrap();
    assert_eq!(kernel.calls(), 1);
    assert!(kernel.opens(ONE, WEB, 443, START.after(seconds(360))));
}

#[test]
fn an_address_of_several_names_has_the_ports_of_all() {
    let (kernel, pins) = table(9);
    pin(&pins, "a.example", WEB, &ports("22,443"), 100).unwrap();
    pin(&pins, "b.example", WEB, &ports("443,8000-8010"), 200).unwrap();
    let (early, late) = (START.after(seconds(159)), START.after(seconds(259)));
    let open = |port, now| kernel.opens(ONE, WEB, port, now);
    assert!([22, 443, 8000, 8010].into_iter().all(|port| open(port, early)));
    assert!(![0, 21, 23, 442, 444, 7999, 8011].into_iter().any(|port| open(port, early)));
    assert!([443, 8000].into_iter().all(|port| open(port, late)) && !open(22, late));
    let used = kernel.entry(ONE, WEB).unwrap().lanes.iter().filter(|it| it.expires_ns > 0).count();
    assert_eq!(used, 3, "equal ranges are one lane");
    let listed: Vec<_> = pins.list(early).iter().map(|pin| (pin.name.clone(), pin.left)).collect();
    let expected = [("a.example".to_owned(), seconds(1)), ("b.example".to_owned(), seconds(101))];
    assert_eq!(listed, expected);
}

#[test]
fn more_ranges_than_the_kernel_keeps_are_refused() {
    let (kernel, pins) = table(99);
    for port in 1..=PIN_LANES {
        let (name, port) = (format!("p{port}.example"), ports(&(port * 10).to_string()));
        pin(&pins, &name, WEB, &port, 100).unwrap();
    }
    assert!(matches!(pin(&pins, "x.example", WEB, &ports("99"), 100), Err(PinError::Full)));
    assert!(kernel.opens(ONE, WEB, 80, START) && !kernel.opens(ONE, WEB, 99, START));
    // One that covers them all has room, and a ninth is then no lane of its own.
    pin(&pins, "any.example", WEB, &Ports::ANY, 200).unwrap();
    pin(&pins, "x.example", WEB, &ports("99"), 100).unwrap();
    // Without it nine lanes are left for eight places: what the table says is what the kernel has.
    pins.deny(ONE, &domain("any.example"), None, START).unwrap();
    let listed = pins.list(START);
    assert_eq!(listed.len(), PIN_LANES);
    let open = |pin: &Pin| kernel.opens(ONE, WEB, *pin.ports.ranges()[0].start(), START);
    assert!(listed.iter().all(open));
    assert!(!kernel.opens(ONE, WEB, 5, START));
}

#[test]
fn a_slot_that_is_full_leaves_another_its_room() {
    let (kernel, pins) = table(3);
    for host in 1..=3 {
        pin(&pins, "a.example", &format!("203.0.113.{host}"), &Ports::ANY, 100).unwrap();
    }
    assert!(matches!(pin(&pins, "a.example", WEB, &Ports::ANY, 100), Err(PinError::Full)));
    assert!(matches!(pin(&pins, "b.example", "203.0.113.1", &Ports::ANY, 1), Err(PinError::Full)));
    assert_eq!(kernel.len(), 3, "what is refused is not in the kernel");
    pin(&pins, "a.example", "203.0.113.1", &Ports::ANY, 200).unwrap();
    let until = START.after(seconds(100));
    pins.pin(TWO, "a.example", &[ip(WEB)], &Ports::ANY, until, START).unwrap();
    // When the first are over, and nobody has cleaned up yet, there is room again; what lives stays.
    let later = START.after(seconds(160));
    pins.pin(ONE, "c.example", &[ip(WEB), ip("203.0.113.8")], &Ports::ANY, later, later).unwrap();
    assert!(kernel.opens(ONE, "203.0.113.1", 443, later));
    assert!(kernel.entry(ONE, "203.0.113.2").is_none());
    assert!(matches!(pins.pin(7, "a", &[], &Ports::ANY, later, later), Err(PinError::NoSlot(7))));
}

#[test]
fn a_denied_name_takes_its_pins_along_and_gets_no_new_ones() {
    let (kernel, pins) = table(9);
    for (name, address) in [
        ("example.com", WEB),
        ("www.example.com", "203.0.113.1"),
        ("evilexample.com", "203.0.113.2"),
        ("example.org", WEB),
    ] {
        let on = if name == "example.org" { ports("443") } else { Ports::ANY };
        pin(&pins, name, address, &on, 100).unwrap();
    }
    assert!(!pins.is_denied(ONE, "example.com", START));
    let until = Some(START.after(seconds(50)));
    assert_eq!(pins.deny(ONE, &domain("example.com"), until, START).unwrap(), 2);
    assert!(!kernel.opens(ONE, "203.0.113.1", 443, START));
    assert!(kernel.opens(ONE, "203.0.113.2", 443, START), "another name");
    // The other name's share of the address is left.
    assert!(kernel.opens(ONE, WEB, 443, START) && !kernel.opens(ONE, WEB, 22, START));
    assert_eq!(read_name(&kernel.entry(ONE, WEB).unwrap().name), "example.org");
    for name in ["example.com", "a.www.example.com"] {
        assert!(pins.is_denied(ONE, name, START));
        assert!(matches!(pin(&pins, name, WEB, &Ports::ANY, 100), Err(PinError::Denied)));
    }
    assert!(
        !pins.is_denied(ONE, "evilexample.com", START)
            && !pins.is_denied(TWO, "example.com", START)
    );
    // It ends by itself, or when it is taken back.
    let over = START.after(seconds(50));
    assert!(!pins.is_denied(ONE, "example.com", over));
    assert!(pins.allow(ONE, &domain("example.com")) && !pins.allow(ONE, &domain("example.com")));
    pin(&pins, "example.com", WEB, &Ports::ANY, 100).unwrap();
    pins.deny(ONE, &domain("example.com"), None, START).unwrap();
    pins.expire(START.after(seconds(1_000_000)));
    assert!(pins.is_denied(ONE, "example.com", START.after(seconds(1_000_000))));
    assert!(pins.deny(7, &domain("example.com"), None, START).is_err());
}

#[test]
fn what_the_kernel_refuses_is_not_pinned_and_what_it_keeps_is_not_forgotten() {
    let (kernel, pins) = table(9);
    kernel.refuses.store(true, Ordering::Relaxed);
    assert!(matches!(pin(&pins, "a.example", WEB, &Ports::ANY, 10), Err(PinError::Kernel(_))));
    assert_eq!(pins.list(START), []);
    kernel.refuses.store(false, Ordering::Relaxed);
    pin(&pins, "a.example", WEB, &Ports::ANY, 10).unwrap();
    kernel.refuses.store(true, Ordering::Relaxed);
    let later = START.after(seconds(5));
    let longer = START.after(seconds(100));
    assert!(pins.pin(ONE, "a.example", &[ip(WEB)], &Ports::ANY, longer, later).is_err());
    assert!(pins.deny(ONE, &domain("a.example"), None, later).is_err());
    assert!(pins.is_denied(ONE, "a.example", later), "the denial stands");
    let over = START.after(seconds(70));
    assert_eq!(pins.expire(over), 0);
    kernel.refuses.store(false, Ordering::Relaxed);
    assert_eq!(pins.expire(over), 1);
    assert_eq!(kernel.len(), 0);
}

#[test]
fn a_new_daemon_takes_over_what_its_policy_still_allows() {
    let (kernel, pins) = table(9);
    pin(&pins, "a.example", WEB, &ports("22,443"), 100).unwrap();
    pin(&pins, "a.example", "203.0.113.1", &Ports::ANY, 1).unwrap();
    pin(&pins, "b.example", "203.0.113.2", &Ports::ANY, 100).unwrap();
    let until = START.after(seconds(100));
    pins.pin(TWO, "a.example", &[ip(WEB)], &Ports::ANY, until, START).unwrap();
    drop(pins);

    // Slot 2 is gone, and so is the name b.example; one pin is over.
    let now = START.after(seconds(61));
    let entries = kernel.entries.lock().unwrap().clone().into_iter().collect();
    let pins = Pins::new(Box::new(Arc::clone(&kernel)), [ONE], 9);
    let kept = pins.adopt(entries, |slot, name| slot == ONE && name == "a.example", now);
    assert_eq!((kept.unwrap(), kernel.len()), (1, 1));
    let listed = pins.list(now);
    let texts: Vec<_> = listed.iter().map(|pin| pin.ports.to_string()).collect();
    assert_eq!(texts, ["22", "443"]);
    assert!(listed.iter().all(|pin| pin.age == seconds(61) && pin.left == seconds(99)));
    // What it took over costs nothing, can be denied, and ends.
    kernel.calls();
    pins.pin(ONE, "a.example", &[ip(WEB)], &ports("443"), START.after(seconds(99)), now).unwrap();
    assert_eq!(kernel.calls(), 0);
    assert_eq!(pins.expire(START.after(seconds(160))), 2);
    assert_eq!(kernel.len(), 0);
}

#[test]
fn a_pin_reads_the_same_from_the_kernels_entry() {
    let (kernel, pins) = table(9);
    pin(&pins, "a.example", WEB, &ports("22,8000-8010"), 100).unwrap();
    let now = START.after(seconds(7));
    let key = PinKey::new(ONE, ip(WEB).into());
    let read = Pin::of_entry(&key, &kernel.entry(ONE, WEB).unwrap(), now);
    assert_eq!(read, pins.list(now).pop());
    assert_eq!(
        Pin::of_entry(&key, &kernel.entry(ONE, WEB).unwrap(), START.after(seconds(160))),
        None
    );
}

/// A day of a thousand names that move around: neither table nor map keeps anything that is over.
#[test]
fn a_day_of_turnover_leaves_no_more_than_what_lives() {
    let (kernel, pins) = table(100_000);
    let mut random = SmallRng::seed_from_u64(1);
    let mut now = START;
    // When each name is asked again: when its answer is over.
    let mut next = vec![START; 1000];
    let mut ends: HashMap<(usize, IpAddr), Moment> = HashMap::new();
    for _minute in 0..24 * 60 {
        for (name, again) in next.iter_mut().enumerate() {
            if *again > now {
                continue;
            }
            let ttl = seconds(random.random_range(1..=300));
            let address = IpAddr::from([203, 0, 113, random.random_range(0..=255)]);
            *again = now.after(ttl);
            let text = format!("n{name}.example");
            pins.pin(ONE, &text, &[address], &Ports::ANY, *again, now).unwrap();
            let end = ends.entry((name, address)).or_default();
            *end = (*end).max(again.after(GRACE));
        }
        now = now.after(seconds(60));
        pins.expire(now);
        ends.retain(|_, end| now < *end);
        let live = ends.len();
        assert_eq!(pins.list(now).len(), live);
        assert_eq!(pins.slots()[&ONE].table().shares, live);
        let addresses: std::collections::HashSet<_> = ends.keys().map(|(_, it)| *it).collect();
        assert_eq!((kernel.len(), pins.slots()[&ONE].table().addresses.len()), {
            (addresses.len(), addresses.len())
        });
    }
    assert!(!ends.is_empty());
    now = now.after(seconds(361));
    pins.expire(now);
    assert_eq!((kernel.len(), pins.list(now).len()), (0, 0));
}

#[test]
fn other_slots_and_names_take_pins_with_them() {
    let (kernel, pins) = table(16);
    let until = START.after(seconds(60));
    for slot in [ONE, TWO] {
        for (name, address) in
            [("a.example", WEB), ("b.example", WEB), ("b.example", "203.0.113.8")]
        {
            pins.pin(slot, name, &[ip(address)], &Ports::ANY, until, START).unwrap();
        }
    }
    assert_eq!((kernel.len(), pins.list(START).len()), (4, 6));
    let is_allowed = |_, name: &str| name == "a.example";
    assert_eq!(pins.replace_slots([ONE, 3], 16, is_allowed, START).unwrap(), 5);
    assert_eq!((kernel.len(), pins.list(START).len()), (1, 1));
    assert!(kernel.opens(ONE, WEB, 443, START) && !kernel.opens(TWO, WEB, 443, START));
    assert!(matches!(
        pins.pin(TWO, "a.example", &[ip(WEB)], &Ports::ANY, until, START),
        Err(PinError::NoSlot(TWO))
    ));
    pins.pin(3, "a.example", &[ip(WEB)], &Ports::ANY, until, START).unwrap();
    // A slot that comes back has nothing of what it was.
    pins.replace_slots([TWO], 16, |_, _| true, START).unwrap();
    assert_eq!((kernel.len(), pins.list(START).len()), (0, 0));
}
