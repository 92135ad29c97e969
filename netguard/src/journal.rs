//! The log on standard output: one event, one line, as text for people or JSON for machines.

use std::{
    io::{self, Write},
    net::IpAddr,
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::{
    dns::{Decision, QueryRecord, Transport},
    drops::Drop,
};

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned words.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What is logged.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet was dropped.
    Drop(Drop),
    /// A query was answered.
    Query(QueryRecord),
    /// Something happened to netguard itself.
    Notice(SystemTime, String),
}

impl Event {
    /// A notice of this moment.
    #[must_use]
    pub fn notice(message: impl Into<String>) -> Self {
        Self::Notice(SystemTime::now(), message.into())
    }
}

/// Writes events in one format.
pub struct Journal<W> {
    format: Format,
    to: W,
}

impl<W: Write> Journal<W> {
    /// A journal on `to`.
    pub fn new(format: Format, to: W) -> Self {
        Self { format, to }
    }

    /// Writes one line.
    ///
    /// # Errors
    ///
    /// The output refuses it.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.to, "{}", text(event)),
            Format::Json => writeln!(self.to, "{}", object(event)),
        }
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    ///
    /// The output refuses it.
    pub fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The first addresses of an answer, each with a space behind it; JSON has all of them.
fn shortened(addresses: &[IpAddr]) -> String {
    const SHOWN: usize = 4;
    let shown = addresses.iter().take(SHOWN).map(|address| format!("{address} "));
    let more = addresses.len().saturating_sub(SHOWN);
    shown.chain((more > 0).then(|| format!("and {more} more "))).collect()
}

fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

fn text(event: &Event) -> String {
    match event {
        Event::Drop(drop) => format!(
            "{} drop  {:<8} {:<7} {:<19} {} {} ({} bytes) at {} {}",
            timestamp(drop.time),
            drop.slot.as_deref().unwrap_or("-"),
            drop.direction.name(),
            drop.reason.name(),
            drop.reason.code(),
            drop.packet,
            drop.length,
            drop.interface,
            drop.hook.program(),
        ),
        Event::Query(query) => {
            let decision = match &query.decision {
                Decision::Allowed(rule) => format!("allow by {rule}"),
                Decision::Denied => "deny".into(),
                Decision::Refused(why) => format!("refuse {why}"),
            };
            let answer = shortened(&query.addresses);
            let upstream =
                query.upstream.map_or(String::new(), |upstream| format!(" from {upstream}"));
            format!(
                "{} dns   {:<8} {:<19} {} {} -> {} {answer}({}{upstream}, {:.1} ms)",
                timestamp(query.time),
                query.slot,
                decision,
                query.query_type,
                query.name,
                rcode(query),
                transport(query.transport),
                query.latency.as_secs_f64() * 1000.0,
            )
        }
        Event::Notice(time, message) => format!("{} note  {message}", timestamp(*time)),
    }
}

fn object(event: &Event) -> Value {
    match event {
        Event::Drop(drop) => json!({
            "event": "drop",
            "time": timestamp(drop.time),
            "slot": drop.slot,
            "direction": drop.direction.name(),
            "reason": drop.reason.name(),
            "code": drop.reason.code(),
            "protocol": drop.packet.protocol,
            "src": drop.packet.src,
            "src_port": drop.packet.src_port,
            "dst": drop.packet.dst,
            "dst_port": drop.packet.dst_port,
            "detail": drop.packet.detail,
            "bytes": drop.length,
            "interface": drop.interface,
            "program": drop.hook.program(),
        }),
        Event::Query(query) => {
            let (decision, rule) = match &query.decision {
                Decision::Allowed(rule) => ("allow", Some(rule.as_str())),
                Decision::Denied => ("deny", None),
                Decision::Refused(why) => ("refuse", Some(*why)),
            };
            json!({
                "event": "dns",
                "time": timestamp(query.time),
                "slot": &*query.slot,
                "client": query.client,
                "transport": transport(query.transport),
                "name": query.name,
                "type": query.query_type,
                "decision": decision,
                "rule": rule,
                "rcode": rcode(query),
                "addresses": query.addresses,
                "upstream": query.upstream,
                "latency_ms": query.latency.as_secs_f64() * 1000.0,
            })
        }
        Event::Notice(time, message) => json!({
            "event": "notice",
            "time": timestamp(*time),
            "message": message,
        }),
    }
}

fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

/// The IANA mnemonics of the codes that netguard and its upstreams give.
fn rcode(query: &QueryRecord) -> String {
    use hickory_proto::op::ResponseCode;
    match query.rcode {
        ResponseCode::NoError => "NOERROR".into(),
        ResponseCode::FormErr => "FORMERR".into(),
        ResponseCode::ServFail => "SERVFAIL".into(),
        ResponseCode::NXDomain => "NXDOMAIN".into(),
        ResponseCode::NotImp => "NOTIMP".into(),
        ResponseCode::Refused => "REFUSED".into(),
        ResponseCode::BADVERS => "BADVERS".into(),
        other => format!("RCODE{}", u16::from(other)),
    }
}
