//! Flows under another policy than the one that allowed them, and without the pin that did.

use netguard_common::DropReason as R;

use super::*;

/// [`slots`] with more keys of slot 1.
fn with(more: &str) -> String {
    let slot1 = "subnet = \"10.1.0.0/24\"";
    slots().replace(slot1, &format!("{slot1}\n{more}"))
}

#[test]
fn a_flow_lives_on_only_under_a_policy_that_allows_it() {
    if !can_use_kernel() {
        return;
    }
    let Ways { out, back } = between(GUEST, WEB);
    let kept = between(GUEST, "203.0.113.200");
    let managed = between(GUEST, MANAGER);
    let denied = || dropped(R::EgressDenied);
    let steps = vec![
        Leaves(out.tcp_flags(9000, 443, SYN), PASS),
        Enters(back.tcp_flags(443, 9000, SYN | ACK), PASS),
        Leaves(out.tcp_flags(9000, 443, ACK), PASS),
        Leaves(out.udp(9000, 443, b""), PASS),
        Leaves(out.ping(9), PASS),
        Leaves(kept.out.tcp_flags(9000, 443, SYN), PASS),
        Enters(kept.back.tcp_flags(443, 9000, SYN | ACK), PASS),
        Leaves(kept.out.tcp_flags(9000, 443, ACK), PASS),
        Enters(managed.back.tcp_flags(9000, 22, SYN), PASS),
        Leaves(managed.out.tcp_flags(22, 9000, SYN | ACK), PASS),
        // Denied from the next packet on, both ways.
        Policy(with("deny = [\"203.0.113.9/32 tcp/443,icmp\"]")),
        Enters(back.tcp_flags(443, 9000, ACK), denied()),
        Leaves(out.tcp_flags(9000, 443, ACK), denied()),
        Leaves(out.tcp_flags(9000, 443, RST), denied()),
        Enters(back.pong(9), denied()),
        Leaves(out.ping(9), denied()),
        // What is still allowed lives on, without a new handshake.
        Enters(back.udp(443, 9000, b""), PASS),
        Leaves(out.udp(9000, 443, b""), PASS),
        Leaves(kept.out.tcp_flags(9000, 443, ACK), PASS),
        Enters(kept.back.tcp_flags(443, 9000, ACK), PASS),
        Enters(managed.back.tcp_flags(9000, 22, ACK), PASS),
        // Whoever may open nothing more into the slot is not heard any more either.
        Policy(with("").replace("100.64.0.0/10", "100.65.0.0/16")),
        Enters(managed.back.tcp_flags(9000, 22, ACK), dropped(R::Unsolicited)),
        Leaves(managed.out.tcp_flags(22, 9000, ACK), dropped(R::Unsolicited)),
        Leaves(kept.out.tcp_flags(9000, 443, ACK), PASS),
        // Nothing at all.
        Policy(with("mode = \"lockdown\"")),
        Leaves(kept.out.tcp_flags(9000, 443, ACK), dropped(R::Lockdown)),
        Enters(kept.back.tcp_flags(443, 9000, ACK), dropped(R::Lockdown)),
        // And back: the connections are still there.
        Policy(slots()),
        Leaves(kept.out.tcp_flags(9000, 443, ACK), PASS),
        Leaves(out.tcp_flags(9000, 443, ACK), PASS),
        Enters(managed.back.tcp_flags(9000, 22, ACK), PASS),
    ];
    play(&mut Kernel::with(&slots()), vec![("policies".to_owned(), steps)]);
}

#[test]
fn a_flow_outlives_the_pin_that_opened_it_and_no_other_flow_does() {
    if !can_use_kernel() {
        return;
    }
    // Another policy each time, so that every flow is asked again.
    let pinned = |also: &str| with(&format!("egress = \"pinned\"\nallow = [\"{also}\"]"));
    let other = "192.0.2.0/24";
    let Ways { out, back } = between(GUEST, WEB);
    let ruled = between(GUEST, "203.0.113.200");
    let never = || dropped(R::NotPinned);
    let syn = |port| out.tcp_flags(port, 443, SYN);
    let ack = |port| out.tcp_flags(port, 443, ACK);
    let answer = |port, flags| back.tcp_flags(443, port, flags);
    let steps = vec![
        Leaves(syn(9000), never()),
        Pinned(WEB, 3600),
        Leaves(syn(9000), PASS),
        Enters(answer(9000, SYN | ACK), PASS),
        Leaves(ack(9000), PASS),
        Leaves(out.udp(9000, 443, b""), PASS),
        Leaves(out.ping(9), PASS),
        // The time is over: what is open stays open, nothing new opens.
        Pinned(WEB, 0),
        Leaves(ack(9000), PASS),
        Enters(answer(9000, ACK), PASS),
        Leaves(out.udp(9000, 443, b""), PASS),
        Leaves(syn(9001), never()),
        Leaves(out.udp(9001, 443, b""), never()),
        Leaves(out.ping(10), never()),
        // The same when the pin is taken back, and when nothing of it is left.
        Unpinned(WEB),
        Leaves(ack(9000), PASS),
        Leaves(syn(9001), never()),
        // Another policy under which pins open something.
        Policy(pinned("192.0.2.0/25")),
        Leaves(ack(9000), PASS),
        Enters(answer(9000, ACK), PASS),
        Leaves(out.udp(9000, 443, b""), PASS),
        Enters(back.pong(9), PASS),
        Leaves(syn(9001), never()),
        // One that denies the address, one that knows no pins: then it is over.
        Policy(pinned(other).replace("allow", "deny = [\"203.0.113.9\"]\nallow")),
        Leaves(ack(9000), dropped(R::EgressDenied)),
        Enters(answer(9000, ACK), dropped(R::EgressDenied)),
        Policy(with("egress = \"none\"")),
        Leaves(ack(9000), dropped(R::EgressDenied)),
        Policy(pinned(other)),
        Leaves(ack(9000), PASS),
        // A connection that has ended is opened anew, and needs a pin again.
        Enters(answer(9000, RST), PASS),
        Leaves(syn(9000), never()),
        // What a rule has opened does not outlive the rule.
        Policy(pinned("203.0.113.200")),
        Leaves(ruled.out.tcp_flags(9000, 443, SYN), PASS),
        Enters(ruled.back.tcp_flags(443, 9000, SYN | ACK), PASS),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), PASS),
        Policy(pinned(other)),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), never()),
        // But it may go on with a pin, and then outlives that.
        Pinned("203.0.113.200", 3600),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), PASS),
        Unpinned("203.0.113.200"),
        Policy(pinned("192.0.2.0/26")),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), PASS),
        // A new connection in the place of that one is not by a pin.
        Policy(pinned("203.0.113.200")),
        Enters(ruled.back.tcp_flags(443, 9000, RST), PASS),
        Leaves(ruled.out.tcp_flags(9000, 443, SYN), PASS),
        Enters(ruled.back.tcp_flags(443, 9000, SYN | ACK), PASS),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), PASS),
        Policy(pinned(other)),
        Leaves(ruled.out.tcp_flags(9000, 443, ACK), never()),
    ];
    play(&mut Kernel::with(&pinned(other)), vec![("pins".to_owned(), steps)]);
}
