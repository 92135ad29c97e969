//! A drop of the kernel's as a line, of words or of JSON. `docs/doctor.md` describes the JSON.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde_json::json;

use super::{Dropped, Who};
use crate::drops::line::timestamp;

/// The version of the JSON: raised when a key goes or means something else, not when one comes.
const JSON_VERSION: u32 = 1;

pub(super) fn text(dropped: &Dropped, colored: bool, out: &mut impl Write) -> io::Result<()> {
    let plain = Style::new();
    let [time, slot, who] = match colored {
        true => [
            plain.dimmed(),
            AnsiColor::Cyan.on_default(),
            match dropped.who {
                Who::Netguard => AnsiColor::Green.on_default(),
                _ => AnsiColor::Red.on_default().bold(),
            },
        ],
        false => [plain; 3],
    };
    write!(
        out,
        "{time}{}{time:#} {slot}{:<8}{slot:#} {:<7} {who}{:<9}{who:#} {} {} ({} bytes) at {}",
        timestamp(dropped.time),
        dropped.slot.as_deref().unwrap_or("-"),
        dropped.direction.map_or("-", netguard_common::Direction::name),
        dropped.who.name(),
        dropped.reason,
        dropped.packet,
        dropped.bytes,
        dropped.interface.as_deref().unwrap_or("no interface"),
    )?;
    if let Some(symbol) = &dropped.symbol {
        write!(out, " in {symbol}")?;
    }
    write!(out, ": {}", dropped.who.hint(&dropped.reason))?;
    match dropped.chains.as_slice() {
        [] => writeln!(out),
        [one] => writeln!(out, ": {one}"),
        some => writeln!(out, ": one of {}", some.join(", ")),
    }
}

pub(super) fn json(dropped: &Dropped, out: &mut impl Write) -> io::Result<()> {
    let packet = &dropped.packet;
    let object = json!({
        "event": "kernel-drop",
        "version": JSON_VERSION,
        "time": timestamp(dropped.time),
        "slot": dropped.slot,
        "direction": dropped.direction.map(netguard_common::Direction::name),
        "who": dropped.who.name(),
        "reason": dropped.reason,
        "chains": dropped.chains,
        "hint": dropped.who.hint(&dropped.reason),
        "protocol": packet.protocol,
        "src": packet.src,
        "src_port": packet.src_port,
        "dst": packet.dst,
        "dst_port": packet.dst_port,
        "detail": packet.detail,
        "bytes": dropped.bytes,
        "interface": dropped.interface,
        "function": dropped.symbol,
    });
    writeln!(out, "{object}")
}

/// So many packets more, of a slot or of any.
pub(super) fn untold(
    slot: Option<&str>,
    packets: u64,
    as_json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if as_json {
        return writeln!(
            out,
            "{}",
            json!({ "event": "not-told", "slot": slot, "packets": packets })
        );
    }
    let whose = slot.map_or(String::new(), |slot| format!(" of {slot}"));
    writeln!(out, "{packets} more packets{whose} were dropped, too many to tell each")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use netguard_common::Direction;

    use super::{super::super::samples, *};
    use crate::drops::Summary;

    fn dropped() -> Dropped {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 1, 0, 2, 203, 0, 113, 10]);
        frame.extend([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        let slot = samples::policy().slots[0].name.clone();
        Dropped {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1002),
            slot: Some(slot),
            direction: Some(Direction::Egress),
            reason: "NETFILTER_DROP".into(),
            who: Who::Netfilter,
            chains: vec!["inet fw forward".into(), "ip filter FORWARD".into()],
            packet: Summary::of(&frame),
            bytes: 40,
            interface: Some("br-slot1".into()),
            symbol: Some("nf_hook_slow".into()),
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_who_and_which_chains_it_may_have_been() {
        assert_eq!(
            written(|out| text(&dropped(), false, out)),
            "1970-01-01T00:00:01.002Z slot1    egress  netfilter NETFILTER_DROP tcp 10.1.0.2:40000 -> 203.0.113.10:443 syn \
             (40 bytes) at br-slot1 in nf_hook_slow: a rule of the host's firewall: one of inet fw forward, ip filter FORWARD\n"
        );
        assert!(written(|out| text(&dropped(), true, out)).contains("\u{1b}[31mnetfilter"));
        let more = written(|out| untold(Some("slot1"), 7, false, out));
        assert_eq!(more, "7 more packets of slot1 were dropped, too many to tell each\n");
    }

    #[test]
    fn the_document_has_every_key_of_its_version() {
        let document = include_str!("../../../../docs/doctor.md");
        let object: serde_json::Value =
            serde_json::from_str(&written(|out| json(&dropped(), out))).unwrap();
        let untold: serde_json::Value =
            serde_json::from_str(&written(|out| untold(None, 7, true, out))).unwrap();
        let keys = [&object, &untold].into_iter().flat_map(|it| it.as_object().unwrap().keys());
        for key in keys {
            assert!(document.contains(&format!("| `{key}` |")), "docs/doctor.md lacks {key}");
        }
        assert!(document.contains(&format!("JSON of `--watch`, version {JSON_VERSION}")));
    }
}
