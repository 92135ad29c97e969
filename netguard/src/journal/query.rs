//! How one query looks in the log. Written by the thread that answers it, hundreds of thousands of times a second: into
//! one buffer, without allocating and mostly without `fmt`.

use std::{io::Write as _, net::IpAddr};

use netguard_dns::{Decision, Denial, QueryRecord, Transport, write_name};

use super::sheet::Timestamp;

/// How many addresses a text line shows; JSON has all of them.
const SHOWN: usize = 4;

pub(super) fn text(record: &QueryRecord<'_>, time: &Timestamp, out: &mut Vec<u8>) {
    out.extend_from_slice(time.text());
    out.extend_from_slice(b" dns   ");
    padded(8, out, |out| out.extend_from_slice(record.slot.as_bytes()));
    out.push(b' ');
    padded(19, out, |out| {
        let words = Words::of(&record.decision);
        out.extend_from_slice(words.decision.as_bytes());
        if let Some(why) = words.why {
            out.push(b' ');
            out.extend_from_slice(why.as_bytes());
        }
        if let Some(rule) = words.rule {
            out.extend_from_slice(b" by ");
            out.extend_from_slice(rule.sign().as_bytes());
            write_name(rule.name(), |part| out.extend_from_slice(part));
        }
    });
    out.push(b' ');
    type_name(record.record_type, out);
    out.push(b' ');
    write_name(record.name, |part| out.extend_from_slice(part));
    out.extend_from_slice(b" -> ");
    rcode(record.rcode, out);
    for address in record.addresses.iter().take(SHOWN) {
        out.push(b' ');
        ip(*address, out);
    }
    if record.addresses.len() > SHOWN {
        let _ = write!(out, " and {} more", record.addresses.len() - SHOWN);
    }
    out.extend_from_slice(b" (");
    out.extend_from_slice(transport(record.transport).as_bytes());
    if record.cached {
        out.extend_from_slice(b" cached");
    } else if let Some(upstream) = record.upstream {
        let _ = write!(out, " from {upstream}");
    }
    out.extend_from_slice(b", ");
    let tenths = (record.latency.as_micros() as u64 + 50) / 100;
    number(tenths / 10, out);
    out.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
    out.extend_from_slice(b" ms)");
}

pub(super) fn json(record: &QueryRecord<'_>, time: &Timestamp, out: &mut Vec<u8>) {
    let words = Words::of(&record.decision);
    out.extend_from_slice(br#"{"event":"dns","time":""#);
    out.extend_from_slice(time.text());
    out.extend_from_slice(br#"","slot":"#);
    string(record.slot.as_bytes(), out);
    out.extend_from_slice(br#","client":""#);
    ip(record.client, out);
    out.extend_from_slice(br#"","transport":""#);
    out.extend_from_slice(transport(record.transport).as_bytes());
    out.extend_from_slice(br#"","name":""#);
    write_name(record.name, |part| escaped(part, out));
    out.extend_from_slice(br#"","type":""#);
    type_name(record.record_type, out);
    out.extend_from_slice(br#"","decision":""#);
    out.extend_from_slice(words.decision.as_bytes());
    out.extend_from_slice(br#"","rule":"#);
    match words.rule {
        Some(rule) => {
            out.push(b'"');
            out.extend_from_slice(rule.sign().as_bytes());
            write_name(rule.name(), |part| escaped(part, out));
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","why":"#);
    match words.why {
        Some(why) => string(why.as_bytes(), out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","rcode":""#);
    rcode(record.rcode, out);
    out.extend_from_slice(br#"","addresses":["#);
    for (index, address) in record.addresses.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
        ip(*address, out);
        out.push(b'"');
    }
    out.extend_from_slice(br#"],"upstream":"#);
    match record.upstream {
        Some(upstream) => drop(write!(out, "\"{upstream}\"")),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","cached":"#);
    out.extend_from_slice(if record.cached { b"true" } else { b"false" });
    out.extend_from_slice(br#","latency_ms":"#);
    let micros = record.latency.as_micros() as u64;
    number(micros / 1000, out);
    let thousandths = micros % 1000;
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend([b'.', digit(thousandths / 100), digit(thousandths / 10), digit(thousandths), b'}']);
}

/// A decision in the words of the log.
struct Words<'a> {
    decision: &'static str,
    why: Option<&'static str>,
    rule: Option<netguard_dns::Rule<'a>>,
}

impl<'a> Words<'a> {
    fn of(decision: &Decision<'a>) -> Self {
        let (decision, why, rule) = match *decision {
            Decision::Allowed(rule) => ("allow", None, Some(rule)),
            Decision::Audited(_) => ("would-deny", None, None),
            Decision::Denied(Denial::Unlisted, rule) => ("deny", None, rule),
            Decision::Denied(denial, rule) => ("deny", Some(denial.name()), rule),
            Decision::Local(why) => ("local", Some(why), None),
            Decision::Refused(why) => ("refuse", Some(why), None),
        };
        Self { decision, why, rule }
    }
}

fn padded(width: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let written = out.len() - start;
    out.resize(out.len() + width.saturating_sub(written), b' ');
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    escaped(text, out);
    out.push(b'"');
}

/// The inside of a JSON string (RFC 8259 section 7).
fn escaped(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            0..0x20 => drop(write!(out, "\\u{byte:04x}")),
            _ => out.push(*byte),
        }
    }
}

fn number(value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                number(octet.into(), out);
            }
        }
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

const fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

/// The IANA mnemonics of the types that are asked for; others as RFC 3597 section 5 writes them.
fn type_name(record_type: u16, out: &mut Vec<u8>) {
    let name = match record_type {
        0 => "-",
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        13 => "HINFO",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        other => {
            out.extend_from_slice(b"TYPE");
            return number(other.into(), out);
        }
    };
    out.extend_from_slice(name.as_bytes());
}

/// The IANA mnemonics of the codes that netguard and its upstreams give.
fn rcode(code: u16, out: &mut Vec<u8>) {
    let name = match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        16 => "BADVERS",
        other => {
            out.extend_from_slice(b"RCODE");
            return number(other.into(), out);
        }
    };
    out.extend_from_slice(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        time::{Duration, UNIX_EPOCH},
    };

    use netguard_dns::{Allowlist, DomainName, Listed, Moment, NameSet, WireName};

    use super::*;
    use crate::journal::Format;

    fn line(format: Format, edit: impl FnOnce(&mut QueryRecord<'_>)) -> String {
        let set: NameSet = ["github.com".parse().unwrap()].into_iter().collect();
        let list = Allowlist::of([std::sync::Arc::new(set)]);
        let name = WireName::from(&"api.github.com".parse::<DomainName>().unwrap());
        let Listed::Allowed(rule) = list.decide(&name) else { panic!("it is listed") };
        let upstream: SocketAddr = "1.1.1.1:53".parse().unwrap();
        let mut record = QueryRecord {
            slot: "slot1",
            client: IpAddr::from([10, 1, 0, 2]),
            transport: Transport::Udp,
            name: name.lower(),
            record_type: 28,
            decision: Decision::Allowed(rule),
            rcode: 0,
            addresses: &["2001:db8::1".parse().unwrap()],
            upstream: Some(upstream),
            cached: false,
            came: Moment::default(),
            latency: Duration::from_micros(1234),
        };
        edit(&mut record);
        let mut clock = Timestamp::default();
        clock.set(UNIX_EPOCH + Duration::from_millis(1_700_000_000_042));
        let mut out = Vec::new();
        match format {
            Format::Text => text(&record, &clock, &mut out),
            Format::Json => json(&record, &clock, &mut out),
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_query_is_one_line_of_words() {
        assert_eq!(
            line(Format::Text, |_| {}),
            "2023-11-14T22:13:20.042Z dns   slot1    allow by github.com AAAA api.github.com -> \
             NOERROR 2001:db8::1 (udp from 1.1.1.1:53, 1.2 ms)"
        );
        let cached = line(Format::Text, |record| {
            record.cached = true;
            record.latency = Duration::from_micros(3);
        });
        assert!(cached.ends_with("(udp cached, 0.0 ms)"), "{cached}");
        let refused = line(Format::Text, |record| {
            record.decision = Decision::Refused("malformed");
            (record.name, record.record_type, record.rcode) = (&[0], 0, 1);
            (record.addresses, record.upstream) = (&[], None);
        });
        assert!(refused.contains("refuse malformed    - . -> FORMERR (udp, "), "{refused}");
    }

    #[test]
    fn a_json_line_is_json_whatever_the_guest_asks_for() {
        let line = line(Format::Json, |record| {
            record.name = b"\x04\"\\\n\xff\x03com\x00";
            record.decision = Decision::Denied(Denial::OddName, None);
        });
        let value: serde_json::Value = serde_json::from_str(&line).expect(&line);
        assert_eq!(value["name"], r#"\"\\\010\255.com"#);
        assert_eq!(value["decision"], "deny");
        assert_eq!(value["why"], "odd-name");
        assert_eq!(value["rule"], serde_json::Value::Null);
        assert_eq!(value["addresses"][0], "2001:db8::1");
        assert_eq!(value["upstream"], "1.1.1.1:53");
        assert_eq!(value["cached"], false);
        assert_eq!(value["latency_ms"], 1.234);
        assert_eq!(value["client"], "10.1.0.2");
    }
}
