//! Where slots meet: within a runtime, at the gate, and on a bridge.

use DropReason as R;
use netguard_common::{DENIAL, DropReason, Hook, NO_SLOT};
use netguard_tests::{
    can_use_kernel,
    kernel::{FROM_HOST, FROM_SLOT1, Kernel, vouched_by},
    packet::{BRIDGE_MAC, arp, ip},
};

use super::{GUEST, PASS, WEB, dropped, slots};

#[test]
fn runtimes_meet_at_the_gate_only() {
    if !can_use_kernel() {
        return;
    }
    assert_eq!(R::CrossRuntime.code(), 540_001);
    let (two, three) = ("10.2.0.2", "10.3.0.2");
    let syn = |src: &str, dst: &str, port| ip(src, dst).tcp_syn(40004, port);
    let mut kernel = Kernel::with(&slots("", true, ""));
    // Isolated: neither the own subnet, nor the runtime's other slots.
    assert_eq!(kernel.egress(&syn(GUEST, "10.1.0.3", 1)), dropped(R::Isolated));
    assert_eq!(kernel.egress(&syn(GUEST, two, 1)), dropped(R::CrossSlot));
    assert_eq!(kernel.egress(&syn(GUEST, three, 1)), dropped(R::CrossRuntime));
    assert_eq!(kernel.ingress(&syn(two, GUEST, 1)), dropped(R::CrossSlot));
    assert_eq!(kernel.ingress(&syn(three, GUEST, 1)), dropped(R::CrossRuntime));
    // Not isolated: both, and still nobody else's.
    kernel.apply(&slots("", false, ""));
    assert_eq!(kernel.egress(&syn(GUEST, "10.1.0.3", 2)), PASS);
    assert_eq!(kernel.egress(&syn(GUEST, two, 2)), PASS);
    assert_eq!(kernel.egress(&syn(GUEST, three, 2)), dropped(R::CrossRuntime));
    assert_eq!(kernel.egress(&syn(GUEST, "10.2.0.1", 2)), dropped(R::CrossSlot));
    assert_eq!(kernel.egress(&syn(GUEST, "10.3.0.1", 2)), dropped(R::CrossRuntime));
    assert_eq!(kernel.ingress(&syn(two, GUEST, 2)), PASS);
    assert_eq!(kernel.ingress(&syn(three, GUEST, 2)), dropped(R::CrossRuntime));
    // An answer needs no leave of its own: it follows.
    assert_eq!(kernel.egress(&ip(GUEST, two).tcp_flags(2, 40004, 0x12)), PASS);
    // And its end comes with the policy's.
    kernel.apply(&slots("", true, ""));
    assert_eq!(kernel.egress(&ip(GUEST, two).tcp_flags(2, 40004, 0x10)), dropped(R::CrossSlot));
}

#[test]
fn the_gate_takes_its_services_from_everybody() {
    if !can_use_kernel() {
        return;
    }
    let gate = |address: &str| format!("[gate]\naddresses = ['{address}']\nports = ['tcp/443']\n");
    let syn = |src: &str, dst: &str, port| ip(src, dst).tcp_syn(40005, port);
    // On the host: the uplink's address.
    let mut kernel = Kernel::with(&slots(&gate("198.51.100.1"), true, ""));
    assert_eq!(kernel.egress(&syn(GUEST, "198.51.100.1", 443)), PASS);
    assert_eq!(kernel.egress(&syn(GUEST, "198.51.100.1", 444)), dropped(R::Host));
    assert_eq!(kernel.egress(&ip(GUEST, "198.51.100.1").udp(1, 443, b"")), dropped(R::Host));
    assert_eq!(kernel.ingress(&syn("198.51.100.1", GUEST, 9)), PASS);
    // In another slot, of another runtime.
    kernel.apply(&slots(&gate("10.3.0.9"), true, ""));
    assert_eq!(kernel.egress(&syn(GUEST, "10.3.0.9", 443)), PASS);
    assert_eq!(kernel.egress(&syn(GUEST, "10.3.0.9", 444)), dropped(R::CrossRuntime));
    assert_eq!(kernel.egress(&syn(GUEST, "10.3.0.8", 443)), dropped(R::CrossRuntime));
    assert_eq!(kernel.ingress(&syn("10.3.0.9", GUEST, 8080)), PASS);
    assert_eq!(kernel.ingress(&syn("10.3.0.8", GUEST, 8080)), dropped(R::CrossRuntime));
    // In this slot: it is asked by everybody, and may ask everybody.
    kernel.apply(&slots(&gate("10.1.0.9"), true, ""));
    assert_eq!(kernel.ingress(&syn("10.3.0.2", "10.1.0.9", 443)), PASS);
    assert_eq!(kernel.ingress(&syn("10.3.0.2", "10.1.0.9", 444)), dropped(R::CrossRuntime));
    assert_eq!(kernel.ingress(&syn("10.3.0.2", GUEST, 443)), dropped(R::CrossRuntime));
    assert_eq!(kernel.egress(&syn("10.1.0.9", "10.3.0.2", 8080)), PASS);
    assert_eq!(kernel.egress(&syn(GUEST, "10.3.0.2", 8080)), dropped(R::CrossRuntime));
    assert_eq!(kernel.egress(&syn(GUEST, "10.1.0.9", 443)), dropped(R::Isolated));
    assert_eq!(kernel.egress(&syn("10.1.0.9", WEB, 443)), PASS);
}

#[test]
fn a_frame_that_crosses_a_bridge_is_judged_by_whose_port_let_it_on() {
    if !can_use_kernel() {
        return;
    }
    let from_host = || ip("10.1.0.1", GUEST).ping(1);
    let query = || arp(1, BRIDGE_MAC, [10, 1, 0, 1], [10, 1, 0, 2]);
    // The headers say "the host", the mark says who it was.
    let enter = |kernel: &mut Kernel, frame: &[u8], sender| {
        kernel.probe(Hook::PortIngress, frame, vouched_by(sender)).0
    };
    let mut kernel = Kernel::with(&slots("", true, ""));
    assert_eq!((FROM_HOST, FROM_SLOT1), (vouched_by(NO_SLOT), vouched_by(1)));
    for frame in [from_host(), query()] {
        assert_eq!(enter(&mut kernel, &frame, NO_SLOT), PASS);
        assert_eq!(enter(&mut kernel, &frame, 1), dropped(R::Isolated));
        assert_eq!(enter(&mut kernel, &frame, 2), dropped(R::CrossSlot));
        assert_eq!(enter(&mut kernel, &frame, 3), dropped(R::CrossRuntime));
        assert_eq!(enter(&mut kernel, &frame, 9), dropped(R::CrossRuntime), "no slot at all");
        // The mark of an answer to what was denied opens nothing to a frame that did not come by the port itself.
        for mark in [0, DENIAL] {
            let (unvouched, _) = kernel.probe(Hook::PortIngress, &frame, mark);
            assert_eq!(unvouched, dropped(R::UnguardedPort), "{mark:#x}");
        }
    }
    kernel.apply(&slots("", false, ""));
    for frame in [from_host(), query()] {
        assert_eq!(enter(&mut kernel, &frame, 1), PASS);
        assert_eq!(enter(&mut kernel, &frame, 2), PASS);
        assert_eq!(enter(&mut kernel, &frame, 3), dropped(R::CrossRuntime));
    }
    // The gate crosses, and nobody else in its name.
    let gate = "[gate]\naddresses = ['10.3.0.9']\nports = ['tcp/443']\n";
    kernel.apply(&slots(gate, true, ""));
    let from_gate = ip("10.3.0.9", GUEST).tcp_syn(1, 8080);
    assert_eq!(enter(&mut kernel, &from_gate, 3), PASS);
    assert_eq!(enter(&mut kernel, &from_gate, 2), dropped(R::CrossSlot));
    let other = ip("10.3.0.8", GUEST).tcp_syn(1, 8080);
    assert_eq!(enter(&mut kernel, &other, 3), dropped(R::CrossRuntime));
}
