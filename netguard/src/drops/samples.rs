//! Drops for the tests of this folder.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use netguard_common::{Direction, DropReason, Hook};

use super::{Drop, Id, Summary};

/// One that is told apart by its length.
pub(crate) fn drop_of(slot: Option<&str>, reason: DropReason, length: u32) -> Arc<Drop> {
    Arc::new(Drop {
        id: Id(0x1a2b),
        time: SystemTime::UNIX_EPOCH,
        slot: slot.map(str::to_owned),
        runtime: slot.map(|slot| format!("of-{slot}")),
        interface: "vm".to_owned(),
        direction: Direction::Egress,
        hook: Hook::Xdp,
        reason,
        packet: Summary::default(),
        length,
        captured: Box::default(),
        name: None,
        line: "built in".to_owned(),
        because: String::new(),
        passed: false,
        suppressed: 0,
        is_rest: false,
    })
}

/// One with all that there is.
pub(crate) fn tcp() -> Drop {
    Drop {
        time: SystemTime::UNIX_EPOCH + Duration::new(1, 2_003_004),
        packet: Summary {
            protocol: "tcp".to_owned(),
            src: Some([10, 1, 0, 2].into()),
            dst: Some([203, 0, 113, 10].into()),
            src_port: Some(4000),
            dst_port: Some(443),
            detail: Some("syn".to_owned()),
        },
        captured: [7; 54].into(),
        name: Some("www.example.com".to_owned()),
        line: "netguard.toml:7".to_owned(),
        because: "egress = \"pinned\"".to_owned(),
        ..(*drop_of(Some("slot1"), DropReason::NotPinned, 60)).clone()
    }
}
