//! A query as a line: of aligned words, or of few words. The journal's, and those of JSON, are written by the
//! thread that answers, hundreds of thousands of times a second: into one buffer, without allocating and mostly without `fmt`.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anstyle::Style;
use netguard_dns::{QueryRecord, Transport, write_name};

use super::{
    Outcome, Query, Suppressed,
    mnemonic::{rcode, type_name},
    parts,
    timestamp::Timestamp,
};
use crate::paint::Paint;

/// How many addresses a text line shows; JSON has all of them.
const SHOWN: usize = 4;

/// What a line tells: of the record that the resolver hands over, or of what was kept of it.
pub(crate) struct Told<'a> {
    pub(super) slot: &'a str,
    pub(super) runtime: &'a str,
    pub(super) client: IpAddr,
    pub(super) transport: Transport,
    pub(super) name: &'a [u8],
    pub(super) record_type: u16,
    pub(super) outcome: Outcome,
    pub(super) why: Option<&'static str>,
    pub(super) rule: Option<(&'static str, &'a [u8])>,
    /// Where the rule is from.
    pub(super) origin: Option<&'a str>,
    pub(super) rcode: u16,
    pub(super) addresses: &'a [IpAddr],
    pub(super) upstream: Option<SocketAddr>,
    pub(super) cached: bool,
    pub(super) latency: Duration,
}

impl<'a> Told<'a> {
    pub(crate) fn of(record: &QueryRecord<'a>) -> Self {
        let (outcome, why, rule) = parts(&record.decision);
        Self {
            slot: record.slot,
            runtime: record.runtime,
            client: record.client,
            transport: record.transport,
            name: record.name,
            record_type: record.record_type,
            outcome,
            why,
            rule: rule.map(|rule| (rule.sign(), rule.name())),
            origin: rule.and_then(|rule| rule.origin()).map(|origin| &**origin),
            rcode: record.rcode,
            addresses: record.addresses,
            upstream: record.upstream,
            cached: record.cached,
            latency: record.latency,
        }
    }

    pub(super) fn again(query: &'a Query) -> Self {
        let rule = query.rule.as_ref();
        Self {
            slot: &query.slot,
            runtime: &query.runtime,
            client: query.client,
            transport: query.transport,
            name: &query.name,
            record_type: query.record_type,
            outcome: query.outcome,
            why: query.why,
            rule: rule.map(|rule| (rule.sign, &*rule.name)),
            origin: rule.and_then(|rule| rule.origin.as_deref()),
            rcode: query.rcode,
            addresses: &query.addresses,
            upstream: query.upstream,
            cached: query.cached,
            latency: query.latency,
        }
    }

    fn answer(&self, out: &mut Vec<u8>) {
        rcode(self.rcode, out);
        for address in self.addresses.iter().take(SHOWN) {
            out.push(b' ');
            ip(*address, out);
        }
        if self.addresses.len() > SHOWN {
            let _ = write!(out, " and {} more", self.addresses.len() - SHOWN);
        }
    }
}

/// `line` is where that stands which decided, if somebody has looked. Without an end.
pub(crate) fn text(
    told: &Told<'_>,
    time: &Timestamp,
    paint: &Paint,
    line: Option<&str>,
    out: &mut Vec<u8>,
) {
    head(told.slot, told.outcome, time, paint, out, |out| {
        if let Some(why) = told.why {
            out.push(b' ');
            out.extend_from_slice(why.as_bytes());
        }
        if let Some((sign, name)) = told.rule {
            out.extend_from_slice(b" by ");
            out.extend_from_slice(sign.as_bytes());
            write_name(name, |part| out.extend_from_slice(part));
        }
        if let Some(origin) = told.origin {
            out.extend_from_slice(b" (");
            out.extend_from_slice(origin.as_bytes());
            out.push(b')');
        }
    });
    type_name(told.record_type, out);
    out.push(b' ');
    write_name(told.name, |part| out.extend_from_slice(part));
    out.extend_from_slice(b" -> ");
    told.answer(out);
    out.extend_from_slice(b" (");
    out.extend_from_slice(transport(told.transport).as_bytes());
    if told.cached {
        out.extend_from_slice(b" cached");
    } else if let Some(upstream) = told.upstream {
        let _ = write!(out, " from {upstream}");
    }
    out.extend_from_slice(b", ");
    let tenths = (told.latency.as_micros() as u64 + 50) / 100;
    number(tenths / 10, out);
    out.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
    out.extend_from_slice(b" ms)");
    if let Some(line) = line {
        out.extend_from_slice(b" by ");
        painted(paint.line, out, |out| out.extend_from_slice(line.as_bytes()));
    }
}

/// So many more, in the form of the others.
pub(super) fn suppressed_text(
    more: &Suppressed,
    time: &Timestamp,
    paint: &Paint,
    out: &mut Vec<u8>,
) {
    head(&more.slot, more.outcome, time, paint, out, |_| {});
    let _ = write!(out, "{} more, which only the log has one by one", more.count);
}

/// Time, slot and what was decided.
fn head(
    slot: &str,
    outcome: Outcome,
    time: &Timestamp,
    paint: &Paint,
    out: &mut Vec<u8>,
    why: impl FnOnce(&mut Vec<u8>),
) {
    painted(paint.time, out, |out| out.extend_from_slice(time.text()));
    out.extend_from_slice(b" dns   ");
    painted(paint.slot, out, |out| {
        padded(8, out, |out| out.extend_from_slice(slot.as_bytes()));
    });
    out.push(b' ');
    painted(style(outcome, paint), out, |out| {
        padded(19, out, |out| {
            out.extend_from_slice(outcome.word().as_bytes());
            why(out);
        });
    });
    out.push(b' ');
}

/// What somebody who watches wants to read: without date, client, transport and upstream.
pub(super) fn compact(
    told: &Told<'_>,
    time: &Timestamp,
    paint: &Paint,
    line: &str,
    out: &mut Vec<u8>,
) {
    short_head(told.slot, told.outcome, time, paint, out);
    if let Some(why) = told.why {
        out.extend_from_slice(why.as_bytes());
        out.push(b' ');
    }
    type_name(told.record_type, out);
    out.push(b' ');
    write_name(told.name, |part| out.extend_from_slice(part));
    out.push(b' ');
    told.answer(out);
    out.push(b' ');
    painted(paint.line, out, |out| out.extend_from_slice(line.as_bytes()));
}

pub(super) fn suppressed_compact(
    more: &Suppressed,
    time: &Timestamp,
    paint: &Paint,
    out: &mut Vec<u8>,
) {
    short_head(&more.slot, more.outcome, time, paint, out);
    let _ = write!(out, "{} more", more.count);
}

fn short_head(slot: &str, outcome: Outcome, time: &Timestamp, paint: &Paint, out: &mut Vec<u8>) {
    painted(paint.time, out, |out| out.extend_from_slice(time.of_day()));
    out.push(b' ');
    painted(paint.slot, out, |out| out.extend_from_slice(slot.as_bytes()));
    out.push(b' ');
    painted(style(outcome, paint), out, |out| out.extend_from_slice(outcome.word().as_bytes()));
    out.push(b' ');
}

const fn style(outcome: Outcome, paint: &Paint) -> Style {
    match outcome {
        Outcome::Allow => paint.allowed,
        Outcome::Deny | Outcome::Refuse => paint.denied,
        Outcome::WouldDeny => paint.line,
        Outcome::Local => Style::new(),
    }
}

fn painted(style: Style, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if style == Style::new() {
        return write(out);
    }
    let _ = write!(out, "{style}");
    write(out);
    let _ = write!(out, "{style:#}");
}

fn padded(width: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let written = out.len() - start;
    out.resize(out.len() + width.saturating_sub(written), b' ');
}

pub(super) fn number(value: u64, out: &mut Vec<u8>) {
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

pub(super) fn ip(address: IpAddr, out: &mut Vec<u8>) {
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

pub(super) const fn transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use netguard_dns::{Decision, Denial};

    use super::{super::samples, *};

    fn time() -> Timestamp {
        let mut time = Timestamp::default();
        time.set(UNIX_EPOCH + samples::TIME);
        time
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// As the journal has it.
    fn text_of(edit: impl FnOnce(&mut QueryRecord<'_>)) -> String {
        let told = |record: &QueryRecord<'_>| {
            written(|out| text(&Told::of(record), &time(), &Paint::PLAIN, None, out))
        };
        samples::with(edit, told)
    }

    #[test]
    fn a_query_is_one_line_of_words() {
        assert_eq!(
            text_of(|_| {}),
            "2023-11-14T22:13:20.042Z dns   slot1    allow by github.com (code-hosting) AAAA api.github.com -> \
             NOERROR 2001:db8::1 (udp from 1.1.1.1:53, 1.2 ms)"
        );
        let cached = text_of(|record| {
            record.cached = true;
            record.latency = Duration::from_micros(3);
        });
        assert!(cached.ends_with("(udp cached, 0.0 ms)"), "{cached}");
        let refused = text_of(|record| {
            record.decision = Decision::Refused("malformed");
            (record.name, record.record_type, record.rcode) = (&[0], 0, 1);
            (record.addresses, record.upstream) = (&[], None);
        });
        assert!(refused.contains("refuse malformed    - . -> FORMERR (udp, "), "{refused}");
    }

    #[test]
    fn what_is_kept_is_told_as_it_was_and_where_it_stands_behind_that() {
        let query = samples::query(|_| {});
        let told = Told::again(&query);
        let place = Some("test.toml:7");
        let line = written(|out| text(&told, &time(), &Paint::PLAIN, place, out));
        assert_eq!(line, text_of(|_| {}) + " by test.toml:7");
        assert_eq!(
            written(|out| compact(&told, &time(), &Paint::PLAIN, "test.toml:7", out)),
            "22:13:20.042 slot1 allow AAAA api.github.com NOERROR 2001:db8::1 test.toml:7"
        );
    }

    #[test]
    fn colours_are_all_that_a_painted_line_has_more() {
        let query = samples::query(|record| record.decision = Decision::Denied(Denial::Type, None));
        let told = Told::again(&query);
        let of = |paint: &Paint| written(|out| text(&told, &time(), paint, Some("here"), out));
        let colored = of(&Paint::new(true));
        assert!(colored.contains("\u{1b}[1m\u{1b}[31mdeny type"), "{colored:?}");
        let mut parts = colored.split("\u{1b}[");
        let first = parts.next().unwrap_or_default().to_owned();
        let plain = parts.fold(first, |text, part| text + part.split_once('m').unwrap().1);
        assert_eq!(plain, of(&Paint::PLAIN));
    }

    #[test]
    fn how_many_more_there_were_has_lines_like_the_others() {
        let more = samples::suppressed();
        assert_eq!(
            written(|out| suppressed_text(&more, &time(), &Paint::PLAIN, out)),
            "2023-11-14T22:13:20.042Z dns   slot1    deny                1234 more, which only the log has one by one"
        );
        assert_eq!(
            written(|out| suppressed_compact(&more, &time(), &Paint::PLAIN, out)),
            "22:13:20.042 slot1 deny 1234 more"
        );
    }
}
