//! Drops that the tests of this folder tell apart by their length.

use std::{sync::Arc, time::SystemTime};

use netguard_common::{Direction, DropReason, Hook};

use super::{Drop, Summary};

pub(super) fn drop_of(slot: Option<&str>, reason: DropReason, length: u32) -> Arc<Drop> {
    Arc::new(Drop {
        time: SystemTime::UNIX_EPOCH,
        slot: slot.map(str::to_owned),
        runtime: slot.map(|slot| format!("of-{slot}")),
        interface: "vm".to_owned(),
        direction: Direction::Egress,
        hook: Hook::Xdp,
        reason,
        packet: Summary::default(),
        length,
    })
}
