//! A packet that was dropped once: its record as the daemon tells it, and what of it the kernel has kept, from a capture file.

use netguard_common::{Direction, DropReason};
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

use crate::drops::Summary;

/// The kernel takes no longer packet as a question: a page less what stands around a packet in it (`bpf_test_init` in
/// net/bpf/test_run.c, Linux 6.1 to 6.18), and some room.
const LONGEST: usize = 3500;
const ETHERNET: usize = 14;
/// An 802.1Q tag; which one it was decides nothing.
const VLAN_TAG: [u8; 4] = [0x81, 0, 0, 0];

/// The record of a drop, and the packet.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// As `docs/drops.md` describes it.
    record: Value,
    captured: Vec<u8>,
    length: usize,
}

/// A record that cannot be asked about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAgain {
    /// It is of no slot.
    #[error("{0} was no slot's: there is nobody to ask for")]
    NoSlot(String),
    /// Too little is left.
    #[error("the kernel has kept nothing of it that could be asked about")]
    Empty,
    /// It ends too early.
    #[error("it ends before its IP header does, and the kernel takes no such packet as a question")]
    Short,
    /// The daemon tells it in a way that this version does not know.
    #[error("the daemon is of another version: restart it")]
    Unknown,
}

impl Recorded {
    /// From the record, and a capture file that has only this packet in it.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn read(record: Value, capture: &[u8]) -> Result<Self, NotAgain> {
        let mut reader = PcapNgReader::new(capture).map_err(|_| NotAgain::Unknown)?;
        while let Some(Ok((block, _))) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block {
                let length = usize::try_from(packet.original_len).unwrap_or(usize::MAX);
                return Ok(Self { record, captured: packet.data.into(), length });
            }
        }
        Err(NotAgain::Unknown)
    }

    /// As `docs/drops.md` describes it.
    #[must_use]
    pub fn record(&self) -> &Value {
        &self.record
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.record[key].as_str()
    }

    /// What it was, as far as the kernel has kept it.
    pub(super) fn summary(&self) -> Summary {
        Summary::of(&self.captured)
    }

    pub(super) fn slot(&self) -> Result<&str, NotAgain> {
        let interface = || self.interface().unwrap_or_default().to_owned();
        self.text("slot").ok_or_else(|| NotAgain::NoSlot(interface()))
    }

    pub(super) fn interface(&self) -> Option<&str> {
        self.text("interface")
    }

    /// True if it was dropped because nobody had vouched for it.
    pub(super) fn is_unvouched(&self) -> bool {
        self.text("reason") == Some(DropReason::UnguardedPort.name())
    }

    pub(super) fn direction(&self) -> Result<Direction, NotAgain> {
        let both = [Direction::Egress, Direction::Ingress].into_iter();
        let mut found = both.filter(|it| self.text("direction") == Some(it.name()));
        found.next().ok_or(NotAgain::Unknown)
    }

    /// The packet with zeros for what was not kept of it. Of one that is too long for a question, a shorter one of the same kind.
    pub(super) fn frame(&self) -> Result<Vec<u8>, NotAgain> {
        let mut frame = self.captured.clone();
        if frame.len() < ETHERNET {
            return Err(NotAgain::Empty);
        }
        let ip_header = match frame[12..ETHERNET] {
            [0x08, 0x00] => 20,
            [0x86, 0xdd] => 40,
            _ => 0, // other protocols are not looked at
        };
        if frame.len() < ETHERNET + ip_header {
            return Err(NotAgain::Short);
        }
        frame.resize(self.length.clamp(frame.len(), LONGEST), 0);
        if self.is_shortened() {
            shorten(&mut frame);
        }
        if self.text("reason") == Some(DropReason::VlanTag.name()) {
            // The kernel takes a tag out of a frame before TC sees it (`skb_vlan_untag`), and the record has what is left.
            frame.splice(ETHERNET - 2..ETHERNET - 2, VLAN_TAG);
        }
        Ok(frame)
    }

    /// True if the question is about a shorter packet.
    pub(super) const fn is_shortened(&self) -> bool {
        self.length > LONGEST
    }
}

/// Makes headers say the length that the frame has now.
fn shorten(frame: &mut [u8]) {
    let (head, body) = frame.split_at_mut(ETHERNET);
    let length = body.len();
    let mut put = |at: usize, length: usize| {
        if let (Some(place), Ok(length)) = (body.get_mut(at..at + 2), u16::try_from(length)) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    };
    const UDP: u8 = 17;
    match head[12..] {
        [0x08, 0x00] => {
            put(2, length); // the whole packet, RFC 791 section 3.1
            let header = usize::from(body[0] & 0xf) * 4;
            if body[9] == UDP {
                put_udp(body, header);
            }
        }
        [0x86, 0xdd] => {
            put(4, length.saturating_sub(40)); // what follows the header, RFC 8200 section 3
            if body[6] == UDP {
                put_udp(body, 40);
            }
        }
        _ => {} // nothing else has so long a packet
    }
}

fn put_udp(body: &mut [u8], header: usize) {
    let length = u16::try_from(body.len().saturating_sub(header)).unwrap_or(u16::MAX);
    if let Some(place) = body.get_mut(header + 4..header + 6) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket};
    use serde_json::json;

    use super::*;

    fn recorded(captured: &[u8], length: usize) -> Recorded {
        let record = json!({ "slot": "slot1", "direction": "ingress", "interface": "vm" });
        Recorded { record, captured: captured.to_vec(), length }
    }

    fn udp(payload: usize, v6: bool) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v6 {
            true => ethernet.ipv6([0xfd; 16], [0xfe; 16], 64),
            false => ethernet.ipv4([10, 1, 0, 2], [10, 2, 0, 2], 64),
        };
        let mut frame = Vec::new();
        ip.udp(1, 2).write(&mut frame, &vec![7; payload]).unwrap();
        frame
    }

    #[test]
    fn what_was_not_kept_is_zeros_and_a_short_packet_is_as_it_was() {
        let whole = udp(20, false);
        assert_eq!(recorded(&whole, whole.len()).frame(), Ok(whole.clone()));
        let long = udp(1000, false);
        let frame = recorded(&long[..128], long.len()).frame().unwrap();
        assert_eq!((&frame[..128], frame.len()), (&long[..128], long.len()));
        assert!(frame[128..].iter().all(|byte| *byte == 0));
        assert_eq!(recorded(&whole[..13], 60).frame(), Err(NotAgain::Empty));
        assert_eq!(recorded(&whole[..33], 33).frame(), Err(NotAgain::Short));
        assert!(recorded(&whole[..34], 34).frame().is_ok());
    }

    #[test]
    fn a_tag_that_the_kernel_has_taken_out_is_put_back() {
        let whole = udp(20, false);
        let mut recorded = recorded(&whole, whole.len());
        recorded.record["reason"] = json!("vlan-tag");
        let frame = recorded.frame().unwrap();
        assert_eq!((&frame[..12], &frame[12..16]), (&whole[..12], &VLAN_TAG[..]));
        assert_eq!(frame[16..], whole[12..]);
    }

    #[test]
    fn what_is_too_long_for_a_question_is_sound_when_it_is_shorter() {
        for v6 in [false, true] {
            let long = udp(9000, v6);
            let recorded = recorded(&long[..128], long.len());
            assert!(recorded.is_shortened());
            let frame = recorded.frame().unwrap();
            assert_eq!(frame.len(), LONGEST);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let header = if v6 { 40 } else { 20 };
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP")
            };
            assert_eq!(usize::from(udp.length()), LONGEST - ETHERNET - header);
        }
    }

    #[test]
    fn a_record_says_whose_packet_it_was() {
        let mut record = recorded(&[0; 60], 60);
        assert_eq!((record.slot(), record.direction()), (Ok("slot1"), Ok(Direction::Ingress)));
        record.record["slot"] = Value::Null;
        assert_eq!(record.slot(), Err(NotAgain::NoSlot("vm".to_owned())));
        assert_eq!(Recorded::read(json!({}), b"nothing").unwrap_err(), NotAgain::Unknown);
    }
}
