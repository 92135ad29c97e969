//! How one event looks: as text for people or as JSON for machines.

use std::{net::IpAddr, time::SystemTime};

use serde_json::{Value, json};

use super::{Event, Format};
use netguard_dns::{Decision, QueryRecord, Transport};

impl Format {
    /// The event's line, without its end.
    pub(super) fn line(self, event: &Event) -> String {
        match self {
            Self::Text => text(event),
            Self::Json => object(event).to_string(),
        }
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
        Event::Note(time, message) => format!("{} note  {message}", timestamp(*time)),
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
            let (decision, rule, why) = match &query.decision {
                Decision::Allowed(rule) => ("allow", Some(rule.as_str()), None),
                Decision::Denied => ("deny", None, None),
                Decision::Refused(why) => ("refuse", None, Some(*why)),
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
                "why": why,
                "rcode": rcode(query),
                "addresses": query.addresses,
                "upstream": query.upstream,
                "latency_ms": query.latency.as_secs_f64() * 1000.0,
            })
        }
        Event::Note(time, message) => json!({
            "event": "note",
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
