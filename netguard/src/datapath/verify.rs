//! The embedded object put to the kernel's verifier: for a datapath that is about to be attached, or
//! only to see whether this kernel takes it.

use aya::{Ebpf, EbpfLoader, programs::Program};
use netguard_common::Hook;

use super::{Error, ProgramRow};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netguard-datapath"));

/// Puts every program to the verifier of this kernel, of whatever version. Nothing is attached or
/// pinned, and nothing stays in the kernel.
///
/// # Errors
///
/// No permission, or the verifier's refusal with its words.
pub fn verify() -> Result<Vec<ProgramRow>, Error> {
    let ebpf = load(&mut EbpfLoader::new())?;
    let row = |hook: Hook| {
        let program = ebpf.program(hook.program()).ok_or(Error::Object(hook.program()))?;
        let info = program.info().map_err(|source| Error::program(hook.program(), source))?;
        Ok(ProgramRow::new(hook, &info))
    };
    Hook::ALL.into_iter().map(row).collect()
}

/// Loads the object's maps and programs.
pub(super) fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, Error> {
    let mut ebpf = loader.load(OBJECT).map_err(Error::load)?;
    for hook in Hook::ALL {
        match ebpf.program_mut(hook.program()).ok_or(Error::Object(hook.program()))? {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => return Err(Error::Object(hook.program())),
        }
        .map_err(|source| Error::program(hook.program(), source))?;
    }
    Ok(ebpf)
}
