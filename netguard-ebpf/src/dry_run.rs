//! Dry runs: packets that somebody only asks about. They are decided like any other by the same code, and nothing of them
//! is remembered: whoever writes state asks here first.

use aya_ebpf::programs::TcContext;
use netguard_common::DRY_RUN_INTERFACE;

/// True for a packet that somebody put to the program by BPF_PROG_TEST_RUN as a question. No packet of a wire can look
/// like one: numbers of interfaces are positive, and this is none (`skb_iif` is an `int`).
///
/// Asked of the context each time, and not kept in the scratch memory: where the kernel does not hold softirqs off during a
/// test run (`bpf_test_run` in net/bpf/test_run.c; Linux 6.6 does), a real packet may come on the same CPU in the middle of it, and
/// uses that too.
#[inline(always)]
pub fn is_dry_run(ctx: &TcContext) -> bool {
    // SAFETY: the verifier allows reads of this context field.
    unsafe { (*ctx.skb.skb).ingress_ifindex == DRY_RUN_INTERFACE }
}
