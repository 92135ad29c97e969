//! What XDP and TC contexts have in common, so that one parser and one decision serve both hooks.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MARK_MANGLED_0, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    helpers::{
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes, bpf_xdp_adjust_head,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    programs::{TcContext, XdpContext},
};
use netguard_common::{answer_of, maps::Outcome};

use crate::{denial, dry_run, unlisted};

/// How much of a frame is made directly readable, in bytes; the parser asserts what it needs.
pub const HEADERS_MAX: usize = 86;

/// One frame under one hook.
pub trait Frame {
    /// Makes the headers directly readable and returns where packet memory starts and ends.
    fn memory(&self) -> (usize, usize);
    /// The frame's length in bytes from the Ethernet header on, fragments and GSO included.
    fn length(&self) -> u32;
    /// The interface that the program is attached to.
    fn ifindex(&self) -> u32;
    /// True if a VLAN tag travels beside the frame instead of in it.
    fn has_offloaded_vlan_tag(&self) -> bool;
    /// Copies `length` bytes of the frame to `to`; false if the kernel refused.
    ///
    /// # Safety
    ///
    /// `to` must be writable for `length` bytes.
    unsafe fn copy(&self, offset: u32, to: *mut u8, length: u32) -> bool;
    /// Makes the frame so long. Nothing of it is worth anything then.
    fn resize(&self, length: u32) -> bool;
    /// Copies `length` bytes into the frame; false if the kernel refused.
    ///
    /// # Safety
    ///
    /// `from` must be readable for `length` bytes.
    unsafe fn store(&self, offset: u32, from: *const u8, length: u32) -> bool;
    /// True if the frame's checksum may be partial, so that somebody behind this program fills it in.
    const FILLS_IN: bool;
    /// Adds to the checksum of a datagram if it is full; false if the kernel refused.
    fn complete(&self, at: u32, difference: u16) -> bool;
    /// True if somebody only asks about the frame: see `dry_run`.
    fn is_dry_run(&self) -> bool;
    /// Tells whoever asks what would become of it.
    fn answer(&self, outcome: Outcome);
    /// The action that lets the frame go on.
    fn action_pass(&self) -> u32;
    /// The action that drops the frame.
    fn action_drop(&self) -> u32;
    /// The action that drops the frame and tells whoever sent it, where that can be done.
    fn action_deny(&self) -> u32;
    /// The action that sends the query's answer back in its place.
    fn action_answer(&self) -> u32;
}

impl Frame for XdpContext {
    #[inline(always)]
    fn memory(&self) -> (usize, usize) {
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: `ctx` is this program's own context; the helper only reads it.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the verifier allows reads of this context field.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn has_offloaded_vlan_tag(&self) -> bool {
        false // XDP has no such field; TC sees the tag that XDP could not
    }

    #[inline(always)]
    unsafe fn copy(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller promises the room; the helper checks the length against the frame.
        unsafe { bpf_xdp_load_bytes(self.ctx, offset, to.cast(), length) == 0 }
    }

    /// At the front: a TAP's frames have no room behind them that the kernel would give.
    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        let more = length as i32 - self.length() as i32;
        // SAFETY: the context is this program's own.
        unsafe { bpf_xdp_adjust_head(self.ctx, -more) == 0 }
    }

    #[inline(always)]
    unsafe fn store(&self, offset: u32, from: *const u8, length: u32) -> bool {
        // SAFETY: the caller promises the bytes; the helper checks the length against the frame.
        unsafe { bpf_xdp_store_bytes(self.ctx, offset, from.cast_mut().cast(), length) == 0 }
    }

    const FILLS_IN: bool = false;

    #[inline(always)]
    fn complete(&self, _: u32, _: u16) -> bool {
        true
    }

    #[inline(always)]
    fn is_dry_run(&self) -> bool {
        false // XDP writes nothing but counters and records; who asks, asks TC, which decides the same
    }

    #[inline(always)]
    fn answer(&self, _: Outcome) {}

    #[inline(always)]
    fn action_pass(&self) -> u32 {
        xdp_action::XDP_PASS
    }

    #[inline(always)]
    fn action_drop(&self) -> u32 {
        xdp_action::XDP_DROP
    }

    #[inline(always)]
    fn action_deny(&self) -> u32 {
        self.action_drop() // nothing comes here: what is to be told goes on to TC
    }

    #[inline(always)]
    fn action_answer(&self) -> u32 {
        if unlisted::write(self) { xdp_action::XDP_TX } else { self.action_drop() }
    }
}

impl Frame for TcContext {
    #[inline(always)]
    fn memory(&self) -> (usize, usize) {
        // A GSO or paged skb can hold headers outside its linear part.
        let linear = self.data_end().wrapping_sub(self.data());
        let wanted = (HEADERS_MAX as u32).min(self.len());
        if linear < wanted as usize {
            let _ = self.pull_data(wanted); // on failure the parser finds the frame truncated
        }
        (self.data(), self.data_end())
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the verifier allows reads of this context field.
        unsafe { (*self.skb.skb).ifindex }
    }

    #[inline(always)]
    fn has_offloaded_vlan_tag(&self) -> bool {
        // SAFETY: the verifier allows reads of this context field.
        unsafe { (*self.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    unsafe fn copy(&self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller promises the room; the helper checks the length against the frame.
        unsafe { bpf_skb_load_bytes(self.as_ptr(), offset, to.cast(), length) == 0 }
    }

    #[inline(always)]
    fn resize(&self, length: u32) -> bool {
        // SAFETY: the context is this program's own.
        unsafe { bpf_skb_change_tail(self.as_ptr().cast(), length, 0) == 0 }
    }

    #[inline(always)]
    unsafe fn store(&self, offset: u32, from: *const u8, length: u32) -> bool {
        // SAFETY: the caller promises the bytes; the helper checks the length against the frame.
        unsafe { bpf_skb_store_bytes(self.as_ptr().cast(), offset, from.cast(), length, 0) == 0 }
    }

    const FILLS_IN: bool = true;

    #[inline(always)]
    fn complete(&self, at: u32, difference: u16) -> bool {
        // A sum of 0 is written as 0xffff.
        let flags = BPF_F_MARK_MANGLED_0.into();
        self.l4_csum_replace(at as usize, 0, difference.into(), flags).is_ok()
    }

    #[inline(always)]
    fn is_dry_run(&self) -> bool {
        dry_run::is_dry_run(self)
    }

    #[inline(always)]
    fn answer(&self, outcome: Outcome) {
        // What the compiler sees through it shares with the other stores of the mark: the field's address in a register, by which
        // the verifier lets nobody store (Linux 6.1 to 6.18 take the context's own pointer and an offset).
        let skb = core::hint::black_box(self.skb.skb);
        // SAFETY: the pointer is the context's own, and the verifier allows writes of this field.
        unsafe { (*skb).mark = answer_of(outcome) };
    }

    #[inline(always)]
    fn action_pass(&self) -> u32 {
        // The next program may still have its say: TCX_NEXT, and "unspecified" to clsact. OK and
        // PIPE would end the chain.
        TC_ACT_UNSPEC as u32
    }

    #[inline(always)]
    fn action_drop(&self) -> u32 {
        TC_ACT_SHOT as u32
    }

    #[inline(always)]
    fn action_deny(&self) -> u32 {
        denial::answer(self).unwrap_or(self.action_drop())
    }

    #[inline(always)]
    fn action_answer(&self) -> u32 {
        if unlisted::write(self) { denial::send_back(self) } else { self.action_drop() }
    }
}
