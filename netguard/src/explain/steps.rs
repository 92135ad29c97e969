//! What each stage says of a packet, in words, and which line of the configuration makes it say so.

use std::net::IpAddr;

use netguard_common::{
    Direction, DropReason, Hook, SlotId,
    maps::{Place, read_name, slot_flags},
};
use serde_json::Value;

use super::{Error, Subject, direction_of, loaded::Loaded, stages::Stage};
use crate::{datapath::Asked, policy::Protocol};

/// What one stage says.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) stage: Stage,
    pub(super) became: Became,
    /// What it went by.
    pub(super) note: String,
    /// Where in the configuration that stands, and what it says there, if a rule or key decides.
    pub(super) because: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    Passed,
    Decided,
    NotReached,
}

impl Subject<'_> {
    /// The address at the other end, seen from the slot at whose port that hook is.
    pub(super) fn peer(&self, hook: Hook) -> Option<IpAddr> {
        match direction_of(hook) {
            Direction::Egress => self.packet.dst,
            Direction::Ingress => self.packet.src,
        }
    }
}

/// `line` and `because` of what the daemon says.
pub(super) fn because(told: &Value) -> Option<(String, String)> {
    let text = |key: &str| told[key].as_str().map(str::to_owned);
    Some((text("line")?, text("because")?))
}

impl Loaded<'_> {
    pub(super) fn steps(
        &self,
        id: SlotId,
        hook: Hook,
        asked: Asked,
        subject: &Subject<'_>,
        weighed: &Value,
    ) -> Result<Vec<Step>, Error> {
        let decided = match asked {
            Asked::Drop(reason) => Some(Stage::of(reason)),
            Asked::Redirect | Asked::Answer => Some(Stage::Dns),
            Asked::Pass => None,
        };
        let leaves = hook == Hook::PortEgress;
        let mut steps = Vec::new();
        for stage in Stage::ALL {
            // What enters has no rules of its own and no limits.
            if !leaves && matches!(stage, Stage::EncryptedDns | Stage::Rule | Stage::Limits) {
                continue;
            }
            let became = match decided {
                Some(decided) if stage == decided => Became::Decided,
                Some(decided) if stage > decided => Became::NotReached,
                _ => Became::Passed,
            };
            let (note, told) = match (became, asked) {
                (Became::NotReached, _) => (String::new(), &Value::Null),
                (Became::Decided, Asked::Drop(reason)) => {
                    (self.with_place(stage, reason, hook, subject)?, weighed)
                }
                _ => {
                    let note = self.note(stage, id, hook, subject)?;
                    (note, &weighed["stages"][stage.name()])
                }
            };
            steps.push(Step { stage, became, note, because: because(told) });
        }
        Ok(steps)
    }

    fn with_place(
        &self,
        stage: Stage,
        reason: DropReason,
        hook: Hook,
        subject: &Subject<'_>,
    ) -> Result<String, Error> {
        let told = format!("{} ({}): {}", reason.name(), reason.code(), reason.sentence());
        match subject.peer(hook).filter(|_| stage == Stage::Place) {
            Some(peer) => Ok(format!("{told} {peer} is {}.", self.place_text(peer)?)),
            None => Ok(told),
        }
    }

    /// What a stage that lets the packet go on went by.
    fn note(
        &self,
        stage: Stage,
        id: SlotId,
        hook: Hook,
        subject: &Subject<'_>,
    ) -> Result<String, Error> {
        let packet = &subject.packet;
        let leaves = hook == Hook::PortEgress;
        let is_icmp = packet.traffic().protocol == Some(Protocol::Icmp);
        Ok(match stage {
            Stage::Frame => "a frame that netguard knows".to_owned(),
            Stage::Lockdown => "the slot has a network".to_owned(),
            Stage::Identity if leaves => "its own MAC and address".to_owned(),
            Stage::Identity => "vouched for".to_owned(),
            Stage::Sanity => format!("a sound {} packet", packet.protocol),
            Stage::Dns if leaves && packet.dst_port == Some(53) && !is_icmp => {
                "a query: it goes to the slot's resolver, whatever its address".to_owned()
            }
            Stage::Dns => "no DNS".to_owned(),
            Stage::EncryptedDns => "not port 853, no ICMP that is too long".to_owned(),
            Stage::Place => match subject.peer(hook) {
                Some(peer) => self.place_text(peer)?,
                None => "no address is asked for".to_owned(),
            },
            // What is no connection's first segment belongs to one.
            Stage::State if packet.protocol == "tcp" && packet.detail.as_deref() != Some("syn") => {
                "of a flow that is open".to_owned()
            }
            Stage::State => "opens a flow".to_owned(),
            Stage::Rule => self.rule_text(id, subject)?,
            Stage::Limits => "within what the slot may send now".to_owned(),
        })
    }

    fn place_text(&self, address: IpAddr) -> Result<String, Error> {
        let Some(entry) = self.in_force.place(address)? else {
            return Ok("an address that the policy does not know".to_owned());
        };
        let owner = self.view.slots.get(&entry.slot_id);
        let owner = owner.map_or("", |slot| read_name(&slot.name));
        Ok(match Place::from_raw(entry.place) {
            Some(Place::Internet) => "the internet".to_owned(),
            Some(Place::Slot) => format!("slot {owner}"),
            Some(Place::Gateway) => format!("the gateway of slot {owner}"),
            Some(Place::Host) => "the host".to_owned(),
            Some(Place::Management) => "the management network".to_owned(),
            Some(Place::Metadata) => "a metadata service".to_owned(),
            Some(Place::Private) => "private".to_owned(),
            Some(Place::LinkLocal) => "link-local".to_owned(),
            Some(Place::Multicast) => "multicast".to_owned(),
            Some(Place::Resolver) => "a DNS-over-HTTPS resolver".to_owned(),
            Some(Place::Gate) if owner.is_empty() => "the gate".to_owned(),
            Some(Place::Gate) => format!("the gate, slot {owner}"),
            None => "a place that this version does not know".to_owned(),
        })
    }

    /// What let the packet go on where rules are asked.
    fn rule_text(&self, id: SlotId, subject: &Subject<'_>) -> Result<String, Error> {
        let flags = self.slot(id).flags;
        let traffic = subject.packet.traffic();
        let (Some(peer), Some(protocol)) = (subject.packet.dst, traffic.protocol) else {
            return Ok("no rule is asked there".to_owned());
        };
        let rule = self.in_force.rule(id, peer, (protocol.number(), traffic.port))?;
        let mapped = if peer.is_ipv4() { 96 } else { 0 };
        let length = |entry: u8| u32::from(entry).saturating_sub(mapped);
        Ok(match rule {
            Some(rule) if rule.allowed == 1 => {
                format!("a rule of the slot for a /{} allows it", length(rule.prefix_length))
            }
            Some(rule) => {
                format!("a rule of the slot for a /{} speaks of it", length(rule.prefix_length))
            }
            None if flags & slot_flags::OPEN != 0 => {
                "no rule speaks of it, and the slot is open".to_owned()
            }
            None if flags & slot_flags::AUDIT != 0 => {
                "no rule speaks of it; what is not open passes, because the slot is audited"
                    .to_owned()
            }
            None if flags & slot_flags::PINNED != 0 => {
                "no rule speaks of it; what the internet has is pinned".to_owned()
            }
            None => "no rule is asked there".to_owned(),
        })
    }
}
