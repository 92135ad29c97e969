//! netguard's programs, one per hook; DESIGN of the stages: `ARCHITECTURE.md`.
//!
//! This file says which program does what, in the order in which a packet meets them. Each reaches
//! one [`Verdict`] and hands it to [`report::finish`], the only place where a verdict becomes a
//! counter, a record and an XDP or TC action.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see atomic.rs")]
#![expect(missing_docs, reason = "the program macros make functions without documentation")]

mod atomic;
mod clock;
mod cursor;
mod denial;
mod dns;
mod dns_flows;
mod dry_run;
mod egress;
mod fast_path;
mod flows;
mod fragments;
mod frame;
mod headers;
mod icmp;
mod identity;
mod ingress;
mod limits;
mod maps;
mod names;
mod nat;
mod packet;
mod pins;
mod policy;
mod prefix;
mod provenance;
mod reach;
mod report;
mod rewrite;
mod routing;
mod scratch;
mod unlisted;
mod uplink;
mod words;

use aya_ebpf::{
    bindings::TC_ACT_UNSPEC,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use netguard_common::{Direction, Hook, NO_SLOT};

use crate::report::Verdict;

/// XDP of every port: the drop stage, the cheapest place to say no.
///
/// It drops what [`egress::decide`] drops, answers a query that is denied if that is a TAP's, and lets everything else go on to TC, which
/// can redirect and ask the host's routing. It takes frames of several buffers, because a jumbo veth takes no other.
#[xdp(frags)]
pub fn ng_xdp(ctx: XdpContext) -> u32 {
    let (slot_id, verdict) = egress::decide(&ctx);
    report::finish(&ctx, Hook::Xdp, Direction::Egress, slot_id, verdict)
}

/// TC ingress of every port, where packets leave the slot: the verdict stage.
#[classifier]
pub fn ng_port_egress(ctx: TcContext) -> i32 {
    let (slot_id, verdict) = egress::decide_and_carry_out(&ctx);
    if !matches!(verdict, Verdict::Drop(_) | Verdict::Deny(_) | Verdict::Answer) {
        provenance::vouch(&ctx, slot_id);
    }
    let action = report::finish(&ctx, Hook::PortEgress, Direction::Egress, slot_id, verdict) as i32;
    match verdict {
        Verdict::Pass | Verdict::Audit(_) => fast_path::depart(&ctx).unwrap_or(action),
        _ => action, // it is dropped, or the resolver's
    }
}

/// TC ingress of every uplink: answers to what left by the fast path go back by it.
#[classifier]
pub fn ng_up_ingress(ctx: TcContext) -> i32 {
    uplink::enter(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

/// TC egress of every uplink: what else leaves there with a port as the fast path gives them.
#[classifier]
pub fn ng_up_egress(ctx: TcContext) -> i32 {
    uplink::leave(&ctx);
    TC_ACT_UNSPEC
}

/// TC ingress of every bridge, behind its ports: drops what came through a port without a program.
#[classifier]
pub fn ng_br_egress(ctx: TcContext) -> i32 {
    let (slot_id, verdict) = provenance::check(&ctx);
    provenance::clear(&ctx);
    report::finish(&ctx, Hook::BridgeEgress, Direction::Egress, slot_id, verdict) as i32
}

/// TC egress of every bridge: vouches for what the host sends towards a slot.
#[classifier]
pub fn ng_br_ingress(ctx: TcContext) -> i32 {
    provenance::vouch(&ctx, NO_SLOT);
    report::finish(&ctx, Hook::BridgeIngress, Direction::Ingress, NO_SLOT, Verdict::Continue) as i32
}

/// TC egress of every port, where packets enter the slot: isolation from the other side, and the
/// resolver's replies restored to the address that the guest asked.
#[classifier]
pub fn ng_port_ingress(ctx: TcContext) -> i32 {
    if denial::is_answer(&ctx) {
        provenance::clear(&ctx);
        return TC_ACT_UNSPEC; // what it answers was counted
    }
    let (slot_id, verdict) = ingress::decide_and_carry_out(&ctx);
    provenance::clear(&ctx);
    report::finish(&ctx, Hook::PortIngress, Direction::Ingress, slot_id, verdict) as i32
}

/// Nothing in these programs may panic; what the compiler could not prove ends here and is refused
/// by the verifier.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
