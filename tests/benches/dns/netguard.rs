//! netguard's side of the comparison: its resolver alone, in a process of its own like the peers.

use std::{env, fs::File, io, net::SocketAddr, path::Path, process::Command, sync::Arc};

use anyhow::{Context as _, Result};
use netguard::journal::{Event, Format, Journal};
use netguard_dns::{Allowlist, Endpoint, Happening, Resolver, SlotServer};
use nix::unistd::dup2_stdout;

use super::{names::policy, upstream::UPSTREAM};

/// The first argument of the process; then come the address and the log's path.
pub const SERVE: &str = "serve-netguard";
/// In place of the log's path: queries are not logged.
const NO_LOG: &str = "-";

/// A command that starts it: this program once more.
pub fn command(address: SocketAddr, log: Option<&Path>) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(SERVE).arg(address.to_string());
    command.arg(log.unwrap_or(Path::new(NO_LOG)));
    Ok(command)
}

/// Serves until it is killed: one slot, whose bridge is `lo`, on one thread, with the journal's thread for the log.
pub fn serve(address: &str, log: &str) -> Result<()> {
    let address: SocketAddr = address.parse().context("no address")?;
    let names = policy();
    let allowlist: Allowlist =
        names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>()?.into_iter().collect();
    let upstreams = vec![UPSTREAM.parse()?];
    let resolver = if log == NO_LOG {
        Resolver::new(allowlist, upstreams, |_| {})
    } else {
        dup2_stdout(File::create(log).with_context(|| format!("cannot create {log}"))?)?;
        let (journal, _writer) = Journal::start(Format::Text)?;
        Resolver::new(allowlist, upstreams, move |happening| match happening {
            Happening::Query(query) => journal.write(Event::Query(query)),
            Happening::Upstream(message) => journal.note(message),
        })
    };
    let endpoint = Endpoint {
        slot: "slot1".into(),
        bridge: "lo".to_owned(),
        addresses: vec![address.ip()],
        port: address.port(),
    };
    let resolver = Arc::new(resolver);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _server = SlotServer::start(&endpoint, &resolver)?;
        std::future::pending().await
    })
}
