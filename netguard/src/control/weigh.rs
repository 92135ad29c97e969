//! A packet about which somebody asks what decides, on its way through a request's query.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
};
use netguard_common::{Direction, DropReason, maps::Place};
use serde_json::Value;

use super::{
    daemon::{Daemon, Wrong},
    escape::encode,
    routes::pairs,
};
use crate::{
    daemon::{Wanted, Weighed},
    pinned::NoSlot,
};

/// More than the kernel keeps of a packet; a head with the longest names fits.
const FRAME_MAX: usize = 512;

/// What decides about a packet of the slot, by the policy that is in force.
pub(super) async fn because(
    State(daemon): State<Daemon>,
    Path(slot): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Wrong> {
    NoSlot::find(&daemon.names().slots, &slot)?;
    let packet = read(slot, &query.unwrap_or_default()).map_err(Wrong::bad)?;
    Ok(Json(daemon.orders.ask(Wanted::Because(packet)).await?))
}

/// The request's path.
pub(super) fn path(packet: &Weighed) -> String {
    let Weighed { slot, direction, frame, reason, place } = packet;
    let hex: String = frame.iter().take(FRAME_MAX).map(|byte| format!("{byte:02x}")).collect();
    let slot = encode(slot);
    let mut path = format!("/v1/slots/{slot}/because?direction={}&frame={hex}", direction.name());
    if let Some(reason) = reason {
        path += &format!("&reason={}", reason.name());
    }
    if let Some(place) = place {
        path += &format!("&place={}", place.name());
    }
    path
}

fn read(slot: String, query: &str) -> Result<Weighed, String> {
    let (mut direction, mut frame, mut reason, mut place) = (None, None, None, None);
    for (key, value) in pairs(query) {
        let is_known = match key {
            "direction" => {
                let both = [Direction::Egress, Direction::Ingress];
                direction = both.into_iter().find(|it| it.name() == value);
                direction.is_some()
            }
            "frame" => {
                frame = bytes(&value);
                frame.is_some()
            }
            "reason" => {
                reason = DropReason::ALL.iter().copied().find(|it| it.name() == value);
                reason.is_some()
            }
            "place" => {
                place = Place::find(&value);
                place.is_some()
            }
            _ => false,
        };
        if !is_known {
            return Err(format!(
                "{key}={value} says nothing of a packet; there are direction=egress or ingress, frame=HEX of at most \
                 {FRAME_MAX} bytes, reason=NAME of a drop, place=internet or another kind of place"
            ));
        }
    }
    let (Some(direction), Some(frame)) = (direction, frame) else {
        return Err("a packet has direction=egress or ingress and frame=HEX".to_owned());
    };
    Ok(Weighed { slot, direction, frame, reason, place })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if hex.len() > 2 * FRAME_MAX {
        return None;
    }
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read() {
        let packet = Weighed {
            slot: "slot 1".to_owned(),
            direction: Direction::Ingress,
            frame: vec![0, 0xab, 0xff],
            reason: Some(DropReason::NotPinned),
            place: Some(Place::LinkLocal),
        };
        let all = path(&packet);
        let (before, query) = all.split_once('?').unwrap();
        assert_eq!(before, "/v1/slots/slot%201/because");
        assert_eq!(read("slot 1".to_owned(), query), Ok(packet.clone()));
        let bare = Weighed { reason: None, place: None, ..packet };
        let bare_path = path(&bare);
        assert_eq!(read("slot 1".to_owned(), bare_path.split_once('?').unwrap().1), Ok(bare));
        for (query, words) in [
            ("", "a packet has direction=egress"),
            ("direction=up", "direction=up says nothing"),
            ("direction=egress&frame=abc", "frame=abc says nothing"),
            ("direction=egress&frame=zz", "frame=zz says nothing"),
            ("direction=egress&frame=00&reason=none", "reason=none says nothing"),
            ("port=1", "port=1 says nothing"),
        ] {
            let error = read(String::new(), query).unwrap_err();
            assert!(error.contains(words), "{query}: {error}");
        }
    }
}
