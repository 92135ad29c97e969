//! A drop as a line: of aligned words, of few words, or of JSON. `docs/drops.md` describes the JSON.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use netguard_common::Direction;
use serde_json::json;

use super::Drop;
use crate::paint::Paint;

/// The version of the JSON: raised when a key goes or means something else, not when one comes.
pub const JSON_VERSION: u32 = 1;

/// A moment as lines have it, in UTC.
pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// The line of the journal.
pub(crate) fn text(drop: &Drop, out: &mut impl Write) -> io::Result<()> {
    painted(drop, &Paint::PLAIN, out)
}

pub(super) fn painted(drop: &Drop, paint: &Paint, out: &mut impl Write) -> io::Result<()> {
    let Paint { time, slot, denied: reason, line, .. } = paint;
    write!(
        out,
        "{time}{}{time:#} {:<5} {slot}{:<8}{slot:#} {:<7} {reason}{:<19}{reason:#} {} {} (",
        timestamp(drop.time),
        match (drop.is_rest, drop.passed) {
            (true, _) => "more",
            (false, true) => "would",
            (false, false) => "drop",
        },
        drop.slot.as_deref().unwrap_or("-"),
        drop.direction.name(),
        drop.reason.name(),
        drop.reason.code(),
        drop.packet,
    )?;
    if let Some(name) = &drop.name {
        write!(out, "{name}, ")?;
    }
    write!(out, "{} bytes", drop.length)?;
    if drop.suppressed > 0 {
        write!(out, ", {} more like it", drop.suppressed)?;
    }
    writeln!(
        out,
        ") at {} {} by {line}{}{line:#}: {} [{}]",
        drop.interface,
        drop.hook.program(),
        drop.line,
        drop.because,
        drop.id,
    )
}

/// What somebody who watches wants to read: without date, code, length and program.
pub(super) fn compact(drop: &Drop, paint: &Paint, out: &mut impl Write) -> io::Result<()> {
    let Paint { time, slot, denied: reason, line, .. } = paint;
    let moment = timestamp(drop.time);
    let (_, of_day) = moment.trim_end_matches('Z').split_once('T').unwrap_or(("", &moment));
    let way = match drop.direction {
        Direction::Egress => '>',
        Direction::Ingress => '<',
    };
    write!(
        out,
        "{time}{of_day}{time:#} {slot}{}{slot:#} {way} {reason}{}{reason:#} {}",
        drop.slot.as_deref().unwrap_or("-"),
        if drop.passed { drop.reason.would_name() } else { drop.reason.name() },
        drop.packet,
    )?;
    if let Some(name) = &drop.name {
        write!(out, " {name}")?;
    }
    if drop.suppressed > 0 {
        // Behind it or before it, and where it stands for others it is none itself.
        write!(out, " {}{}", if drop.is_rest { "..+" } else { "+" }, drop.suppressed)?;
    }
    writeln!(out, " {line}{}{line:#} [{}]", drop.line, drop.id)
}

/// One object.
pub(crate) fn json(drop: &Drop, out: &mut impl Write) -> io::Result<()> {
    let object = json!({
        "event": if drop.is_rest { "suppressed" } else { "drop" },
        "version": JSON_VERSION,
        "id": drop.id.to_string(),
        "time": timestamp(drop.time),
        "slot": drop.slot,
        "runtime": drop.runtime,
        "direction": drop.direction.name(),
        "reason": drop.reason.name(),
        "code": drop.reason.code(),
        "protocol": drop.packet.protocol,
        "src": drop.packet.src,
        "src_port": drop.packet.src_port,
        "dst": drop.packet.dst,
        "dst_port": drop.packet.dst_port,
        "detail": drop.packet.detail,
        "name": drop.name,
        "bytes": drop.length,
        "interface": drop.interface,
        "program": drop.hook.program(),
        "line": drop.line,
        "because": drop.because,
        "suppressed": drop.suppressed,
        "verdict": if drop.passed { "would-drop" } else { "drop" },
    });
    writeln!(out, "{object}")
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_who_what_where_to_and_by_what() {
        let drop = samples::tcp();
        assert_eq!(
            written(|out| text(&drop, out)),
            "1970-01-01T00:00:01.002Z drop  slot1    egress  not-pinned          540047 tcp 10.1.0.2:4000 -> \
             203.0.113.10:443 syn (www.example.com, 60 bytes) at vm ng_xdp by netguard.toml:7: egress = \"pinned\" [1a2b]\n"
        );
        assert_eq!(
            written(|out| compact(&drop, &Paint::PLAIN, out)),
            "00:00:01.002 slot1 > not-pinned tcp 10.1.0.2:4000 -> 203.0.113.10:443 syn www.example.com netguard.toml:7 [1a2b]\n"
        );
    }

    #[test]
    fn what_has_no_record_is_told_by_number() {
        let drop = Drop { suppressed: 1234, ..samples::tcp() };
        let rest = Drop { is_rest: true, ..drop.clone() };
        let is_text = |drop, words| written(|out| text(drop, out)).contains(words);
        assert!(is_text(&drop, "Z drop  slot1 "));
        assert!(is_text(&drop, "(www.example.com, 60 bytes, 1234 more like it) at vm "));
        assert!(is_text(&rest, "Z more  slot1 "));
        let is_compact =
            |drop, words| written(|out| compact(drop, &Paint::default(), out)).contains(words);
        assert!(is_compact(&drop, " www.example.com +1234 netguard.toml:7"));
        assert!(is_compact(&rest, " www.example.com ..+1234 netguard.toml:7"));
        for (drop, event) in [(&drop, "drop"), (&rest, "suppressed")] {
            let object: serde_json::Value =
                serde_json::from_str(&written(|out| json(drop, out))).unwrap();
            assert_eq!((&object["event"], &object["suppressed"]), (&event.into(), &1234.into()));
        }
    }

    #[test]
    fn colours_are_all_that_a_painted_line_has_more() {
        let drop = samples::tcp();
        let colored = written(|out| painted(&drop, &Paint::new(true), out));
        assert!(colored.contains("\u{1b}[1m\u{1b}[31mnot-pinned         \u{1b}[0m"), "{colored:?}");
        let mut plain = colored.as_str();
        let mut stripped = String::new();
        while let Some((before, rest)) = plain.split_once("\u{1b}[") {
            stripped += before;
            plain = rest.split_once('m').unwrap().1;
        }
        assert_eq!(stripped + plain, written(|out| text(&drop, out)));
    }

    #[test]
    fn json_has_every_key_of_its_version() {
        let drop = samples::tcp();
        let object: serde_json::Value =
            serde_json::from_str(&written(|out| json(&drop, out))).unwrap();
        let document = include_str!("../../../docs/drops.md");
        for key in object.as_object().unwrap().keys() {
            assert!(document.contains(&format!("| `{key}` |")), "docs/drops.md lacks {key}");
        }
        assert_eq!(object["version"], JSON_VERSION);
        assert!(document.contains(&format!("version {JSON_VERSION}")));
        let is_it = [
            ("name", "www.example.com"),
            ("line", "netguard.toml:7"),
            ("because", "egress = \"pinned\""),
        ];
        assert!(is_it.iter().all(|(key, value)| object[key] == *value), "{object}");
    }
}
