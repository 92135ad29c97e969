//! A slot that is audited: what its policy does not open passes and is recorded, its neighbours are as safe from it as ever, and what
//! was learnt of it opens just that.

use std::net::IpAddr;

use netguard_common::{DropReason, Hook, maps::OUTCOME_WOULD};
use netguard_tests::{
    binary::Ended,
    can_use_kernel,
    client::connect_once,
    kernel::{Kernel, Outcome, SLOTS},
    lab::Lab,
    packet::ip,
};

const METADATA: &str = "169.254.169.254";
const EVIL: &str = "203.0.113.66";

const MODE: &str = "mode = \"audit\"\n";
/// The audited slot is the last one, so that what is suggested can stand behind its keys.
const CONFIG: &str = "[host]\nuplinks = [\"eth0\"]\n\
     [dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"github.com\"]\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\negress = \"pinned\"\nmode = \"audit\"\n";

fn fetch(lab: &Lab, url: &str) -> Ended {
    lab.exec("slot1", &format!("curl -sS --max-time 3 {url}"))
}

fn connects(lab: &Lab, to: &str, port: u16) -> bool {
    let to: IpAddr = to.parse().expect("an address");
    lab.within("slot1", || connect_once(to, port)).is_ok()
}

#[test]
fn what_was_learnt_of_a_slot_opens_just_that() {
    const PAGE: &str = "this is evil.example, in the lab's internet\n";
    if !can_use_kernel() {
        return;
    }
    let lab = Lab::with(CONFIG, "veth");
    let nothing = lab.run(&["suggest", "slot1"]);
    assert!(nothing.success().contains("slot1 has done nothing yet"), "{nothing:?}");
    assert_eq!(fetch(&lab, "http://evil.example/").success(), PAGE);
    let query = lab.event("query", |it| it["event"] == "dns" && it["name"] == "evil.example");
    assert_eq!((&query["decision"], &query["rcode"]), (&"would-deny".into(), &"NOERROR".into()));
    let record = lab.event("record", |it| it["verdict"] == "would-drop");
    for (key, value) in
        [("reason", "not-pinned"), ("dst", EVIL), ("name", "evil.example"), ("slot", "slot1")]
    {
        assert_eq!(record[key], value, "{record}");
    }
    // One connection of several packets: it was opened once.
    assert_eq!(lab.packets("slot1", "egress", "would-drop-not-pinned"), 1);
    assert_eq!(lab.packets("slot1", "egress", "not-pinned"), 0);

    for (to, reason) in [("10.2.0.2", "cross-slot"), (METADATA, "metadata"), ("10.1.0.1", "host")] {
        let before = lab.packets("slot1", "egress", reason);
        assert!(!connects(&lab, to, 22), "{to}");
        assert!(lab.packets("slot1", "egress", reason) > before, "{to} is not dropped");
    }
    assert_eq!(lab.run(&["verify"]).code, 0, "the programs do what the policy says");

    let learnt = lab.run(&["suggest", "slot1"]).success().to_owned();
    assert!(learnt.contains("\"=evil.example:80\""), "{learnt}");
    assert!(!learnt.contains("10.2.0.2") && !learnt.contains(METADATA), "{learnt}");
    lab.reconfigure(&CONFIG.replace(MODE, &learnt));
    let _ = lab.run(&["reload"]).success();
    assert_eq!(fetch(&lab, "http://evil.example/").success(), PAGE);
    assert_eq!(lab.packets("slot1", "egress", "would-drop-not-pinned"), 1, "it is opened now");
    for url in ["http://edge.cdn.example/", "http://www.evil.example/", "http://evil.example:443/"]
    {
        assert_ne!(fetch(&lab, url).code, 0, "{url}");
    }
    assert!(!connects(&lab, EVIL, 443));
    assert!(fetch(&lab, "http://github.com/").code == 0, "what was allowed before is still");
    let refused = lab.run(&["suggest", "slot1"]);
    assert!(refused.code == 1 && refused.stderr.contains("is not audited"), "{refused:?}");
}

#[test]
fn only_what_a_rule_could_open_passes() {
    use DropReason as R;
    if !can_use_kernel() {
        return;
    }
    let audited = "id = 1\nmode = \"audit\"\negress = \"pinned\"\ndeny = [\"203.0.113.7\", \"192.168.9.0/24\"]";
    let mut kernel = Kernel::with(&SLOTS.replace("id = 1", audited));
    for (to, port, passes, reason) in [
        ("203.0.113.9", 443, true, R::NotPinned),
        ("192.168.7.7", 5432, true, R::PrivateDestination),
        ("203.0.113.7", 443, false, R::EgressDenied),
        ("192.168.9.7", 443, false, R::PrivateDestination),
        ("203.0.113.9", 853, false, R::DnsOverTls),
        ("1.1.1.1", 443, false, R::DnsOverHttps),
        ("10.2.0.2", 80, false, R::CrossSlot),
        ("198.51.100.1", 80, false, R::Host),
        ("169.254.7.7", 80, false, R::LinkLocal),
        ("100.64.0.2", 80, false, R::Management),
        (METADATA, 80, false, R::Metadata),
    ] {
        let frame = ip("10.1.0.2", to).tcp_syn(40000, port);
        let before = kernel.drop_counters(1, reason as u8 | OUTCOME_WOULD);
        let expected = if passes { Outcome::Pass } else { Outcome::Drop(reason) };
        assert_eq!(kernel.egress(&frame), expected, "{to}");
        let _ = kernel.records();
        let counted = kernel.drop_counters(1, reason as u8 | OUTCOME_WOULD) != before;
        assert_eq!(counted, passes, "{to}");
        if !passes {
            continue;
        }
        // Another one, whose record is read here.
        kernel.leave(Hook::PortEgress, &ip("10.1.0.2", to).tcp_syn(40001, port));
        let records = kernel.records();
        let [record] = records.as_slice() else { panic!("{} records", records.len()) };
        assert_eq!((record.reason(), record.passed), (Some(reason), 1), "{to}");
        // The flow is open: its next packet opens nothing.
        kernel.leave(Hook::PortEgress, &ip("10.1.0.2", to).tcp_syn(40001, port));
        assert!(kernel.records().is_empty(), "{to}");
    }
}
