//! A query as an object of JSON, as `docs/dns.md` describes it.

use std::io::Write as _;

use netguard_dns::write_name;

use super::{
    Suppressed,
    line::{Told, ip, number, transport},
    mnemonic::{rcode, type_name},
    timestamp::Timestamp,
};

/// The version of the JSON: raised when a key goes or means something else, not when one comes.
const JSON_VERSION: u32 = 1;
/// The beginning of each object of JSON.
const JSON_HEAD: &[u8] = br#"{"event":"dns","version":1,"time":""#;

/// One object, without an end of its line. `line` as for [`super::line::text`].
pub(crate) fn json(told: &Told<'_>, time: &Timestamp, line: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(JSON_HEAD);
    out.extend_from_slice(time.text());
    out.extend_from_slice(br#"","slot":"#);
    string(told.slot.as_bytes(), out);
    out.extend_from_slice(br#","runtime":"#);
    string(told.runtime.as_bytes(), out);
    out.extend_from_slice(br#","client":""#);
    ip(told.client, out);
    out.extend_from_slice(br#"","transport":""#);
    out.extend_from_slice(transport(told.transport).as_bytes());
    out.extend_from_slice(br#"","name":""#);
    write_name(told.name, |part| escaped(part, out));
    out.extend_from_slice(br#"","type":""#);
    type_name(told.record_type, out);
    out.extend_from_slice(br#"","decision":""#);
    out.extend_from_slice(told.outcome.word().as_bytes());
    out.extend_from_slice(br#"","rule":"#);
    match told.rule {
        Some((sign, name)) => {
            out.push(b'"');
            out.extend_from_slice(sign.as_bytes());
            write_name(name, |part| escaped(part, out));
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","category":"#);
    maybe(told.origin, out);
    out.extend_from_slice(br#","why":"#);
    maybe(told.why, out);
    out.extend_from_slice(br#","rcode":""#);
    rcode(told.rcode, out);
    out.extend_from_slice(br#"","addresses":["#);
    for (index, address) in told.addresses.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",\"" } else { b"\"" });
        ip(*address, out);
        out.push(b'"');
    }
    out.extend_from_slice(br#"],"upstream":"#);
    match told.upstream {
        Some(upstream) => drop(write!(out, "\"{upstream}\"")),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","cached":"#);
    out.extend_from_slice(if told.cached { b"true" } else { b"false" });
    out.extend_from_slice(br#","latency_ms":"#);
    let micros = told.latency.as_micros() as u64;
    number(micros / 1000, out);
    let thousandths = micros % 1000;
    let digit = |value: u64| b'0' + (value % 10) as u8;
    out.extend([b'.', digit(thousandths / 100), digit(thousandths / 10), digit(thousandths)]);
    if let Some(line) = line {
        out.extend_from_slice(br#","line":"#);
        string(line.as_bytes(), out);
    }
    out.push(b'}');
}

/// So many more, as an object of its own kind.
pub(super) fn suppressed(more: &Suppressed, time: &Timestamp, out: &mut Vec<u8>) {
    let Suppressed { slot, runtime, outcome, count, .. } = more;
    let object = serde_json::json!({
        "event": "dns-suppressed",
        "version": JSON_VERSION,
        "time": str::from_utf8(time.text()).unwrap_or_default(),
        "slot": slot,
        "runtime": runtime,
        "decision": outcome.word(),
        "suppressed": count,
    });
    let _ = write!(out, "{object}");
}

fn maybe(text: Option<&str>, out: &mut Vec<u8>) {
    match text {
        Some(text) => string(text.as_bytes(), out),
        None => out.extend_from_slice(b"null"),
    }
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use netguard_dns::{Decision, Denial, QueryRecord};
    use serde_json::Value;

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

    fn json_of(edit: impl FnOnce(&mut QueryRecord<'_>)) -> Value {
        let told =
            |record: &QueryRecord<'_>| written(|out| json(&Told::of(record), &time(), None, out));
        let line = samples::with(edit, told);
        serde_json::from_str(&line).expect(&line)
    }

    #[test]
    fn what_is_kept_is_told_as_it_was_and_where_it_stands_behind_that() {
        let query = samples::query(|_| {});
        let told = Told::again(&query);
        let line = written(|out| json(&told, &time(), Some("test.toml:7"), out));
        let object: Value = serde_json::from_str(&line).unwrap();
        let mut expected = json_of(|_| {});
        expected["line"] = "test.toml:7".into();
        assert_eq!(object, expected);
    }

    #[test]
    fn a_json_line_is_json_whatever_the_guest_asks_for() {
        let value = json_of(|record| {
            record.name = b"\x04\"\\\n\xff\x03com\x00";
            record.decision = Decision::Denied(Denial::OddName, None);
        });
        assert_eq!(value["name"], r#"\"\\\010\255.com"#);
        assert_eq!(value["decision"], "deny");
        assert_eq!(value["why"], "odd-name");
        assert_eq!((&value["rule"], &value["category"]), (&Value::Null, &Value::Null));
        assert_eq!(value["addresses"][0], "2001:db8::1");
        assert_eq!(value["upstream"], "1.1.1.1:53");
        assert_eq!(value["cached"], false);
        assert_eq!(value["latency_ms"], 1.234);
        assert_eq!((&value["client"], &value["runtime"]), (&"10.1.0.2".into(), &"vm".into()));
        assert_eq!(json_of(|_| {})["category"], "code-hosting");
    }

    #[test]
    fn json_has_every_key_of_its_version() {
        let query = samples::query(|_| {});
        let told = Told::again(&query);
        let document = include_str!("../../../docs/dns.md");
        for line in [
            written(|out| json(&told, &time(), Some("here"), out)),
            written(|out| suppressed(&samples::suppressed(), &time(), out)),
        ] {
            let object: Value = serde_json::from_str(&line).unwrap();
            for key in object.as_object().unwrap().keys() {
                assert!(document.contains(&format!("| `{key}` |")), "docs/dns.md lacks {key}");
            }
            assert_eq!(object["version"], JSON_VERSION);
        }
        assert!(document.contains(&format!("version {JSON_VERSION}")));
    }
}
