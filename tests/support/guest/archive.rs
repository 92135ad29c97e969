//! An initramfs as the kernel unpacks it: a cpio archive in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Files and the directories that they need, in the order in which they were added.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file that may be executed. Its path is absolute.
    pub fn add(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let directory = path[..end].to_owned();
            if !self.directories.contains(&directory) {
                self.entry(&directory, DIRECTORY, &[]);
                self.directories.insert(directory);
            }
        }
        self.entry(path, FILE, content);
    }

    /// The archive's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let length = |bytes: usize| u32::try_from(bytes).expect("a file below 4 GiB");
        self.entries += 1;
        let inode = self.entries;
        let (user, group, links, time, device) = (0, 0, 1, 0, 0);
        let fields = [
            inode,
            mode,
            user,
            group,
            links,
            time,
            length(content.len()),
            device,
            device,
            device,
            device,
            length(name.len() + 1),
            0, // the checksum, which this format leaves out
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
