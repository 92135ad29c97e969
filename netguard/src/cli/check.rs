//! `netguard check` and `netguard policy`: what a configuration means, and whether this kernel takes the programs. Nothing is attached.

use std::{path::Path, process::ExitCode};

use netguard::{
    config::Config,
    datapath::{self, Tc},
    listing,
    policy::Matrix,
};

use super::print;

pub(super) fn check(file: Option<&Path>, kernel: bool) -> anyhow::Result<ExitCode> {
    if let Some(file) = file {
        check_file(file)?;
    }
    if kernel {
        check_kernel()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn check_kernel() -> anyhow::Result<()> {
    let programs = datapath::verify()?;
    let (kernel, tc) = (datapath::kernel_release(), Tc::of_kernel().name());
    print(&format!("kernel {kernel}: good: takes every program, and keeps TC programs by {tc}"))?;
    print(&format!("{:<16} {:<16} {:>9}", "program", "tag", "verified"))?;
    for program in programs {
        let verified = program.verified_instructions.map_or("-".to_owned(), |it| it.to_string());
        print(&format!("{:<16} {:<16} {verified:>9}", program.name, program.tag))?;
    }
    Ok(())
}

fn check_file(file: &Path) -> anyhow::Result<()> {
    let policy = Config::read(file)?.policy;
    print(&format!(
        "{}: good: {} slots, {} upstreams, {} names allowed",
        file.display(),
        policy.slots.len(),
        policy.dns.upstreams.len(),
        policy.dns.names_max(),
    ))
}

pub(super) fn policy(file: &Path, matrix: bool, json: bool) -> anyhow::Result<ExitCode> {
    let policy = Config::read(file)?.policy;
    let text = match (matrix, json) {
        (true, false) => Matrix::new(&policy).text(),
        (true, true) => listing::matrix_json(&Matrix::new(&policy)).to_string(),
        (false, false) => listing::slots_text(&policy),
        (false, true) => listing::slots_json(&policy).to_string(),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
