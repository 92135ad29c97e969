//! Drops as a capture file (pcapng), for tcpdump, Wireshark and tshark: what the kernel kept of each packet, with a comment that
//! says whose it was and what decided.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use netguard_common::record::CAPTURE_LENGTH;
use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
            opt_common::CommonOption,
        },
    },
};

use super::Drop;

/// Times are in nanoseconds: ten to the minus ninth.
const NANOSECONDS: u8 = 9;

/// A capture file that is handed on piece by piece.
pub(super) struct Capture {
    writer: PcapNgWriter<Vec<u8>>,
    /// The numbers of the interfaces that it has described.
    interfaces: HashMap<String, u32>,
    /// How many drops were lost since the last packet.
    lost: u64,
}

impl Capture {
    /// With the head of a file, which waits to be taken.
    pub(super) fn begin() -> Option<Self> {
        let writer = PcapNgWriter::new(Vec::new()).ok()?;
        Some(Self { writer, interfaces: HashMap::new(), lost: 0 })
    }

    /// What was written since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.writer.get_mut())
    }

    /// So many drops are missing before the next packet.
    pub(super) fn lose(&mut self, count: u64) {
        self.lost += count;
    }

    /// Writes a packet, and its interface before it where that is new. What the format has no room for is left out, and so is what
    /// is no packet of its own.
    pub(super) fn add(&mut self, drop: &Drop) -> Option<()> {
        if drop.is_rest {
            return None;
        }
        let interface_id = self.interface(&drop.interface)?;
        let mut options =
            vec![EnhancedPacketOption::Common(CommonOption::Comment(Cow::Owned(comment(drop))))];
        if self.lost > 0 {
            options.push(EnhancedPacketOption::DropCount(self.lost));
        }
        let captured = u32::try_from(drop.captured.len()).ok()?;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: drop.time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            original_len: drop.length.max(captured),
            data: Cow::Borrowed(&drop.captured),
            options,
        };
        self.writer.write_pcapng_block(block).ok()?;
        self.lost = 0;
        Some(())
    }

    fn interface(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.interfaces.get(name) {
            return Some(*number);
        }
        let number = u32::try_from(self.interfaces.len()).ok()?;
        let resolution = InterfaceTsResolution::new(false, NANOSECONDS).ok()?;
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: CAPTURE_LENGTH as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(resolution),
            ],
        };
        self.writer.write_pcapng_block(block).ok()?;
        self.interfaces.insert(name.to_owned(), number);
        Some(number)
    }
}

/// `slot1 egress cross-slot 540017 netguard.toml:12 [1a2b3c4d5e]`
fn comment(drop: &Drop) -> String {
    let slot = drop.slot.as_deref().unwrap_or("-");
    let (direction, reason) = (drop.direction.name(), drop.reason);
    let name = if drop.passed { reason.would_name() } else { reason.name() };
    let mut words = format!("{slot} {direction} {name} {} {}", reason.code(), drop.line);
    if let Some(name) = &drop.name {
        words += " ";
        words += name;
    }
    if drop.suppressed > 0 {
        words += &format!(", {} more like it", drop.suppressed);
    }
    words + &format!(" [{}]", drop.id)
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::{super::samples, *};

    #[test]
    fn a_reader_finds_what_was_captured() {
        let mut capture = Capture::begin().unwrap();
        let mut file = capture.take();
        assert!(!file.is_empty() && capture.take().is_empty());
        capture.add(&samples::tcp()).unwrap();
        file.extend(capture.take());
        capture.lose(3);
        capture.add(&Drop { suppressed: 9, ..samples::tcp() }).unwrap();
        assert!(capture.add(&Drop { is_rest: true, ..samples::tcp() }).is_none());
        file.extend(capture.take());

        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let (mut interfaces, mut packets) = (0, Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().0 {
                Block::InterfaceDescription(_) => interfaces += 1,
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                _ => {} // the head
            }
        }
        assert_eq!((interfaces, packets.len()), (1, 2));
        let comment = "slot1 egress not-pinned 540047 netguard.toml:7 www.example.com";
        let option =
            |comment: String| EnhancedPacketOption::Common(CommonOption::Comment(comment.into()));
        assert_eq!(packets[0].options, [option(format!("{comment} [1a2b]"))]);
        let comment = option(format!("{comment}, 9 more like it [1a2b]"));
        assert_eq!(packets[1].options, [comment, EnhancedPacketOption::DropCount(3)]);
        assert_eq!(packets[0].timestamp, Duration::new(1, 2_003_004));
        assert_eq!((packets[0].original_len, &*packets[0].data), (60, &[7; 54][..]));
    }
}
