//! Frames put to the loaded programs by BPF_PROG_TEST_RUN: what the kernel itself would do, without a
//! wire. Counters, records and flows are real, but for those of a dry run ([`PinnedProgram::ask`]), which leaves none.

use std::time::Duration;

use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunOptions};
use netguard_common::{DRY_RUN_INTERFACE, DropReason, Hook, answered, maps};

use super::{Datapath, Error, PinDirectory};

/// `struct __sk_buff` of include/uapi/linux/bpf.h, as far as it is used: its size and some fields, which BPF_PROG_TEST_RUN
/// hands on as they are given (`convert___skb_to_skb` in net/bpf/test_run.c, Linux 6.1 to 6.18).
const SKB_CONTEXT_LENGTH: usize = 192;
const SKB_MARK: std::ops::Range<usize> = 8..12;
const SKB_INGRESS_IFINDEX: std::ops::Range<usize> = 36..40;
const SKB_IFINDEX: std::ops::Range<usize> = 40..44;
/// Room for what a program may add in front of a frame.
const HEADROOM: usize = 256;

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The program's return value: an XDP or TC action.
    pub action: u32,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// The skb's mark as the program left it; 0 for XDP.
    pub mark: u32,
}

impl Datapath {
    /// How long the program of a hook takes for a frame, on average of so many runs in a row: from the
    /// second run on with everything in the caches.
    ///
    /// # Errors
    ///
    /// The kernel refuses the run.
    pub fn time(
        &self,
        hook: Hook,
        frame: &[u8],
        mark: u32,
        repeat: u32,
    ) -> Result<Duration, Error> {
        let name = hook.program();
        let program = self.ebpf.program(name).ok_or(Error::Object(name))?;
        time(program, hook, frame, (0, mark), repeat)
    }

    /// Runs a frame through the program of a hook, as if it came by the first interface of this
    /// network namespace (`lo`) with that mark.
    ///
    /// # Errors
    ///
    /// The kernel refuses the run, as it does for frames below 14 bytes.
    pub fn probe(&self, hook: Hook, frame: &[u8], mark: u32) -> Result<Probed, Error> {
        let program = self.ebpf.program(hook.program()).ok_or(Error::Object(hook.program()))?;
        run(program, hook, frame, mark)
    }
}

/// What would become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// It would pass.
    Pass,
    /// It would go to the slot's resolver.
    Redirect,
    /// It is a query that would be denied at once.
    Answer,
    /// It would be dropped.
    Drop(DropReason),
}

impl Asked {
    fn of_outcome(outcome: maps::Outcome) -> Option<Self> {
        match outcome {
            maps::OUTCOME_PASS => Some(Self::Pass),
            maps::OUTCOME_REDIRECT => Some(Self::Redirect),
            maps::OUTCOME_ANSWER => Some(Self::Answer),
            reason => DropReason::from_raw(reason).map(Self::Drop),
        }
    }
}

/// A TC program that some datapath has pinned: threads of their own may run frames through it, whatever is done to
/// the datapath meanwhile.
pub struct PinnedProgram {
    hook: Hook,
    program: Program,
}

impl PinnedProgram {
    /// Opens an instance's program of a hook of TC.
    ///
    /// # Errors
    ///
    /// The instance has no pins, or this process may not use them.
    pub fn open(pins: &PinDirectory, hook: Hook) -> Result<Self, Error> {
        let program = SchedClassifier::from_pin(pins.program(hook));
        let program = program.map_err(|source| Error::program(hook.program(), source))?;
        Ok(Self { hook, program: Program::SchedClassifier(program) })
    }

    /// Asks what the program would do with a frame that comes by an interface of this network namespace with that mark.
    /// Nothing of it stays anywhere: no counter, record, flow, fragment, query or limit.
    ///
    /// # Errors
    ///
    /// The kernel refuses the run, or the program does not know dry runs: it is another version's.
    pub fn ask(&self, frame: &[u8], ifindex: u32, mark: u32) -> Result<Asked, Error> {
        let mut context = [0; SKB_CONTEXT_LENGTH];
        let mut answer = [0; SKB_CONTEXT_LENGTH];
        context[SKB_MARK].copy_from_slice(&mark.to_ne_bytes());
        context[SKB_INGRESS_IFINDEX].copy_from_slice(&DRY_RUN_INTERFACE.to_ne_bytes());
        context[SKB_IFINDEX].copy_from_slice(&ifindex.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut answer);
        let name = self.hook.program();
        let Program::SchedClassifier(program) = &self.program else {
            return Err(Error::Object(name));
        };
        program.test_run(options).map_err(|source| Error::program(name, source))?;
        let mut mark = [0; 4];
        mark.copy_from_slice(&answer[SKB_MARK]);
        let outcome = answered(u32::from_ne_bytes(mark)).ok_or(Error::NoDryRun(name))?;
        Asked::of_outcome(outcome).ok_or(Error::NoDryRun(name))
    }

    /// The same as [`Datapath::time`] of frames that come by an interface of this network namespace.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn time(
        &self,
        frame: &[u8],
        ifindex: u32,
        mark: u32,
        repeat: u32,
    ) -> Result<Duration, Error> {
        time(&self.program, self.hook, frame, (ifindex, mark), repeat)
    }

    /// The same as [`Datapath::probe`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn probe(&self, frame: &[u8], mark: u32) -> Result<Probed, Error> {
        run(&self.program, self.hook, frame, mark)
    }
}

/// An interface of number 0 is the namespace's first.
fn time(
    program: &Program,
    hook: Hook,
    frame: &[u8],
    (ifindex, mark): (u32, u32),
    repeat: u32,
) -> Result<Duration, Error> {
    let mut context = [0; SKB_CONTEXT_LENGTH];
    context[SKB_MARK].copy_from_slice(&mark.to_ne_bytes());
    context[SKB_IFINDEX].copy_from_slice(&ifindex.to_ne_bytes());
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.repeat = repeat;
    let name = hook.program();
    let result = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => {
            options.ctx_in = Some(&context);
            program.test_run(options)
        }
        _ => return Err(Error::Object(name)),
    };
    result.map(|result| result.duration).map_err(|source| Error::program(name, source))
}

fn run(program: &Program, hook: Hook, frame: &[u8], mark: u32) -> Result<Probed, Error> {
    let mut out = vec![0; frame.len() + HEADROOM];
    let mut context_in = [0; SKB_CONTEXT_LENGTH];
    let mut context_out = [0; SKB_CONTEXT_LENGTH];
    context_in[SKB_MARK].copy_from_slice(&mark.to_ne_bytes());
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = match program {
        Program::Xdp(program) => program.test_run(options),
        Program::SchedClassifier(program) => {
            options.ctx_in = Some(&context_in);
            options.ctx_out = Some(&mut context_out);
            program.test_run(options)
        }
        _ => return Err(Error::Object(hook.program())),
    }
    .map_err(|source| Error::program(hook.program(), source))?;
    out.truncate(result.data_size_out as usize);
    let mut mark = [0; 4];
    mark.copy_from_slice(&context_out[SKB_MARK]);
    Ok(Probed { action: result.return_value, frame: out, mark: u32::from_ne_bytes(mark) })
}
