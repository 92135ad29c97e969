//! The file's form and its way to a [`Policy`]. Reads TOML, checks everything, and names file, line,
//! the operator's thing and the way out. Touches neither kernel nor network.

mod check;
mod file;
mod problem;
mod template;

use std::{io, path::Path};

pub use problem::{Problem, Problems};

use crate::policy::Policy;

/// A checked configuration, with the places in the file that later messages refer to.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the file means.
    pub policy: Policy,
    /// Where each slot's keys stand, in the order of [`Policy::slots`].
    spans: Vec<template::SlotSpans>,
    source: problem::Source,
}

impl Config {
    /// Reads and checks a file. Paths in it count from the file's own directory.
    ///
    /// # Errors
    ///
    /// Every problem of the file, each with its line.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        let text = read_text(path).map_err(|error| Problems::unreadable(path, &error))?;
        Self::parse(&text, path)
    }

    /// Checks a text as if it had been read from `path`.
    ///
    /// # Errors
    ///
    /// Every problem of the text, each with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Problems> {
        let source = problem::Source::new(path, text);
        let file: file::File = match toml::from_str(text) {
            Ok(file) => file,
            Err(error) => return Err(Problems::from_toml(&source, &error)),
        };
        let (policy, spans) = check::check(&file, &source)?;
        Ok(Self { policy, spans, source })
    }

    /// A problem of a slot's bridge, found on the host and not in the file.
    #[must_use]
    pub fn bridge_problem(&self, slot_index: usize, message: String) -> Problem {
        let at = self.spans.get(slot_index).map_or(0, |spans| spans.bridge);
        self.source.problem(at, message)
    }

    /// A problem of a slot's port, found on the host and not in the file.
    #[must_use]
    pub fn port_problem(&self, slot_index: usize, message: String) -> Problem {
        let at = self.spans.get(slot_index).map_or(0, |spans| spans.port);
        self.source.problem(at, message)
    }
}

/// Reads a whole file, if it is one and not too large to be meant.
fn read_text(path: &Path) -> io::Result<String> {
    const BYTES_MAX: u64 = 64 << 20;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if metadata.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", BYTES_MAX >> 20)));
    }
    std::fs::read_to_string(path)
}

/// The names of the shipped allowlist's categories.
#[must_use]
pub fn default_categories() -> Vec<String> {
    check::shipped_allowlist().into_keys().collect()
}
