//! A slot as one document, for another host or another name: `netguard state`. It bears its version and a sum, so that what is
//! damaged, or another version's, changes nothing.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    http::StatusCode,
};
use ipnet::IpNet;
use netguard_dns::{DomainName, Moment};
use serde_json::{Map, Value, json};

use super::{
    daemon::{Daemon, Wrong},
    routes::{pairs, read},
};
use crate::{
    daemon::{CarriedPin, Order, SlotState, Wanted},
    pinned::NoSlot,
};

/// The form of the document.
const VERSION: u64 = 1;
/// As many pins as a slot may have, and then some.
pub(super) const BODY_MAX: usize = 4 << 20;
/// What of it goes to the monitor fits a packet.
const ORDER_MAX: usize = 128 << 10;

pub(super) async fn export(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
) -> Result<Json<Value>, Wrong> {
    let Json(mut state) = daemon.give(Order::State { slot: slot.clone() }).await?;
    let id = NoSlot::find(&daemon.names().slots, &slot)?;
    let pins = daemon.apart(|pins| pins.list(Moment::now())).await?;
    let pins = pins.into_iter().filter(|pin| pin.slot == id).map(|pin| CarriedPin {
        name: pin.name,
        address: pin.address,
        ports: pin.ports.to_string(),
        left_seconds: pin.left.as_secs(),
    });
    state["pins"] = json!(pins.collect::<Vec<_>>());
    Ok(Json(seal(state)))
}

pub(super) async fn import(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Wrong> {
    let (mut state, pins) = open(&read(body)?).map_err(Wrong::bad)?;
    place(&mut state.entry, &query.unwrap_or_default()).map_err(Wrong::bad)?;
    if json!(state).to_string().len() > ORDER_MAX {
        let words =
            format!("the slot's entry and what was said of it have more than {ORDER_MAX} bytes");
        return Err(Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, words));
    }
    let Json(mut answer) = daemon.give(Order::PutState { slot: slot.clone(), state }).await?;
    answer["pins"] = daemon.orders.ask(Wanted::Pins(slot, pins)).await?;
    Ok(Json(answer))
}

/// The same keys and values have the same text: objects are sorted.
fn sum(state: &Value) -> String {
    format!("{:08x}", crc32fast::hash(state.to_string().as_bytes()))
}

fn seal(state: Value) -> Value {
    json!({ "netguard_state": VERSION, "checksum": sum(&state), "state": state })
}

/// What is in a document.
fn open(text: &[u8]) -> Result<(SlotState, Vec<CarriedPin>), String> {
    let form = "write what `netguard state export` has written";
    let document: Value =
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON ({error}); {form}"))?;
    match document["netguard_state"].as_u64() {
        Some(VERSION) => {}
        Some(other) => {
            return Err(format!("it is a state of version {other}; this netguard reads {VERSION}"));
        }
        None => return Err(format!("it is no state of a slot; {form}")),
    }
    let state = &document["state"];
    if document["checksum"] != sum(state) {
        return Err(format!("its checksum is another: it is damaged, or was changed; {form}"));
    }
    let mut state = state.clone();
    let pins = state.as_object_mut().and_then(|keys| keys.remove("pins")).unwrap_or_default();
    let wrong = |error: serde_json::Error| format!("it is no state of a slot: {error}");
    let pins: Vec<CarriedPin> = serde_json::from_value(pins).map_err(wrong)?;
    for pin in &pins {
        if pin.name.parse::<DomainName>().is_err() || pin.read_ports().is_none() {
            return Err(format!("{:?} with ports {:?} is no pin", pin.name, pin.ports));
        }
    }
    Ok((serde_json::from_value(state).map_err(wrong)?, pins))
}

/// Puts other links and addresses into an entry: what they depend on goes.
fn place(entry: &mut Map<String, Value>, query: &str) -> Result<(), String> {
    for (key, value) in pairs(query) {
        let (key, with) = match key {
            "bridge" | "port" => (key, None),
            "mac" if value == "any" => {
                entry.remove(key);
                continue;
            }
            "mac" => (key, None),
            "subnet" => match value.parse::<IpNet>() {
                Ok(IpNet::V4(_)) => ("subnet", Some("gateway")),
                Ok(IpNet::V6(_)) => ("subnet6", Some("gateway6")),
                Err(_) => return Err(format!("{value:?} is no subnet; write 10.9.0.0/24")),
            },
            _ => return Err(format!("{key:?} is none of bridge, port, subnet and mac")),
        };
        if let Some(with) = with {
            entry.remove(with);
        }
        entry.insert(key.to_owned(), value.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Value {
        json!({
            "name": "one",
            "entry": { "name": "one", "subnet": "10.1.0.0/24", "gateway": "10.1.0.9", "mac": "02:00:00:00:00:01" },
            "locked": true,
            "said": [{ "what": "a.example", "allowed": false, "seconds_left": null }],
            "counters": [{ "direction": "egress", "outcome": "pass", "packets": 1, "bytes": 2 }],
            "pins": [
                { "name": "a.example", "address": "203.0.113.9", "ports": "any", "left_seconds": 7 },
                { "name": "b.example", "address": "2001:db8::9", "ports": "22,443", "left_seconds": 7 },
            ],
        })
    }

    #[test]
    fn what_is_sealed_is_opened_however_it_is_laid_out() {
        let sealed = seal(state());
        for text in [sealed.to_string(), format!("{sealed:#}\n")] {
            let (state, pins) = open(text.as_bytes()).unwrap();
            assert!(state.locked && state.name == "one" && pins.len() == 2);
        }
    }

    #[test]
    fn no_part_of_a_document_and_nothing_like_it_is_taken_for_one() {
        let whole = seal(state()).to_string();
        for length in 0..whole.len() {
            assert!(open(&whole.as_bytes()[..length]).is_err(), "{length}");
        }
        let good = open(whole.as_bytes()).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(open(&bytes).map_or(true, |found| found == good), "{at}");
        }
        let with = |key: &str, value: Value| {
            let mut state = state();
            state[key] = value;
            seal(state).to_string()
        };
        for (text, words) in [
            ("[]".to_owned(), "no state of a slot; write what"),
            (json!({ "netguard_state": 2 }).to_string(), "version 2; this netguard reads 1"),
            (json!({ "netguard_state": 1, "state": 1 }).to_string(), "its checksum is another"),
            (with("more", 1.into()), "unknown field `more`"),
            (with("locked", Value::Null), "invalid type: null"),
            (with("pins", json!([{ "name": "a" }])), "missing field `address`"),
            (
                with(
                    "pins",
                    json!([{ "name": "a..b", "address": "1.1.1.1", "ports": "any", "left_seconds": 1 }]),
                ),
                "\"a..b\" with ports \"any\" is no pin",
            ),
        ] {
            let error = open(text.as_bytes()).err().unwrap_or_default();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn another_place_takes_what_depends_on_the_old_one_away() {
        let (state, _) = open(seal(state()).to_string().as_bytes()).unwrap();
        let mut entry = state.entry.clone();
        place(&mut entry, "subnet=10.9.0.0%2F24&subnet=2001:db8::/64&bridge=br9&mac=any").unwrap();
        let expected = json!({
            "name": "one",
            "subnet": "10.9.0.0/24",
            "subnet6": "2001:db8::/64",
            "bridge": "br9",
        });
        assert_eq!(Value::Object(entry), expected);
        for query in ["subnet=x", "name=x", "bridge"] {
            let mut entry = state.entry.clone();
            let placed = place(&mut entry, query);
            assert_eq!(placed.is_err(), query != "bridge", "{query}");
        }
    }
}
