//! netguard's own table in the host's firewall (nf_tables): masquerading for slots, and protection of
//! the host's own addresses on its uplinks.
//!
//! There is one table per instance, and nft replaces it as a whole in one transaction. No rule, chain or set of anybody else is
//! read or written; a packet that is accepted here still meets theirs.
//!
//! Replacing keeps every connection (they are the connection tracking's) and starts the counters from zero; where only subnets of
//! slots come or go, [`begin`] changes no more than that. Whoever flushes the host's whole ruleset removes this table too: see
//! [`exists`].

mod elements;
mod table;

use std::{
    io::{self, Write as _},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

pub use table::{Allow, Masquerade, Protect, Table};

/// Why the table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the table of an instance.
    #[error("{0:?} is no table of netguard's: they are \"netguard\" and \"netguard-INSTANCE\"")]
    Table(String),
    /// An interface's name that cannot be written down for nft.
    #[error(
        "{0:?} cannot be an uplink: name an interface, without spaces, quotes, '*' or a backslash"
    )]
    Interface(String),
    /// The program is missing.
    #[error("nft is missing; install the package nftables")]
    Missing,
    /// The program cannot be started.
    #[error("cannot run nft")]
    Start(#[source] io::Error),
    /// The process may not change the firewall.
    #[error(
        "not permitted to change the host's firewall; run netguard as root or with CAP_NET_ADMIN"
    )]
    Permission(#[source] io::Error),
    /// The program or the kernel refuses.
    #[error(
        "cannot {action} the table inet {table}: nft says {words:?}; it needs a kernel with \
         nf_tables, nft_ct and nft_masq"
    )]
    Refused {
        /// What was tried.
        action: &'static str,
        /// With which table.
        table: String,
        /// What nft said.
        words: String,
    },
    /// The program speaks another language.
    #[error("cannot read what nft -j prints; install nftables 1.0 or later")]
    Answer,
}

/// Puts the table in place. If this fails, the one that was there is still in force.
///
/// # Errors
///
/// A name would not do, nft is missing or refuses, or the process may not.
pub fn apply(table: &Table) -> Result<(), Error> {
    begin(table, None)?.map_or(Ok(()), |running| running.finish().map(drop))
}

/// Begins what [`apply`] does; it is done with [`Running::finish`]. If an earlier table should be in place and only subnets are
/// others, no more than that is changed, and it is done at once.
///
/// # Errors
///
/// As for [`apply`], as far as they can be known at once.
pub fn begin(table: &Table, old: Option<&Table>) -> Result<Option<Running>, Error> {
    let whole = table.script()?;
    if let Some(changes) = old.and_then(|old| table.changes(old))
        && elements::change(&table.name, &changes).is_ok()
    {
        return Ok(None);
    }
    // Somebody may have flushed what should be there; and nft says why, if it is something else.
    Running::start("replace", &table.name, &["-f", "-"], &whole).map(Some)
}

/// Removes the table. Returns false if it was not there.
///
/// # Errors
///
/// The name is not one of ours, nft is missing or refuses, or the process may not.
pub fn remove(name: &str) -> Result<bool, Error> {
    if !exists(name)? {
        return Ok(false);
    }
    nft("remove", name, &["delete", "table", "inet", name], "").map(|_| true)
}

/// True if the table is there.
///
/// # Errors
///
/// The name is not one of ours, nft is missing or refuses, or the process may not.
pub fn exists(name: &str) -> Result<bool, Error> {
    table::check_name(name)?;
    let tables = list("table", &nft("look for", name, &["-j", "list", "tables", "inet"], "")?)?;
    Ok(tables.iter().any(|table| table["name"] == name))
}

/// The table's counters: name, packets, bytes.
///
/// # Errors
///
/// The name is not one of ours, there is no such table, nft is missing or refuses, or the process may
/// not.
pub fn counters(name: &str) -> Result<Vec<(String, u64, u64)>, Error> {
    table::check_name(name)?;
    let arguments = ["-j", "list", "counters", "table", "inet", name];
    let counters = list("counter", &nft("read", name, &arguments, "")?)?;
    let read = |counter: &Value| {
        let number = |key| counter[key].as_u64();
        Some((counter["name"].as_str()?.to_owned(), number("packets")?, number("bytes")?))
    };
    counters.iter().map(|counter| read(counter).ok_or(Error::Answer)).collect()
}

/// Every table of the host, whosever it is, as nft prints it.
///
/// # Errors
///
/// nft is missing or refuses, or the process may not.
pub fn ruleset() -> Result<Value, Error> {
    let answer = nft("read", "*", &["-j", "list", "ruleset"], "")?;
    serde_json::from_str(&answer).map_err(|_| Error::Answer)
}

/// True for the name of a table of netguard's.
#[must_use]
pub fn is_own(name: &str) -> bool {
    table::check_name(name).is_ok()
}

/// The objects of one kind in an answer of `nft -j`.
fn list(kind: &str, answer: &str) -> Result<Vec<Value>, Error> {
    let answer: Value = serde_json::from_str(answer).map_err(|_| Error::Answer)?;
    let objects = answer["nftables"].as_array().ok_or(Error::Answer)?;
    Ok(objects.iter().filter_map(|object| object.get(kind)).cloned().collect())
}

fn nft(
    action: &'static str,
    table: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, Error> {
    Running::start(action, table, arguments, input)?.finish()
}

/// A running nft.
pub struct Running {
    action: &'static str,
    table: String,
    child: Child,
}

impl Running {
    fn start(
        action: &'static str,
        table: &str,
        arguments: &[&str],
        input: &str,
    ) -> Result<Self, Error> {
        let mut child = Command::new("nft")
            .args(arguments)
            .env("LC_ALL", "C") // its words are read below
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::Missing,
                _ => Error::Start(error),
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(Self { action, table: table.to_owned(), child })
    }

    /// Waits until it is done. Returns what it printed.
    ///
    /// # Errors
    ///
    /// nft refuses, or the process may not.
    pub fn finish(self) -> Result<String, Error> {
        let Self { action, table, child } = self;
        let output = child.wait_with_output().map_err(Error::Start)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("Operation not permitted") {
            return Err(Error::Permission(io::ErrorKind::PermissionDenied.into()));
        }
        // Below each error nft repeats the input and points at it.
        let errors: Vec<_> = said.lines().filter(|line| line.contains("rror: ")).collect();
        let words = if errors.is_empty() { said.trim().to_owned() } else { errors.join("; ") };
        Err(Error::Refused { action, table, words })
    }
}
