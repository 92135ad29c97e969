//! The file that remembers across restarts what was ordered at run time. It is replaced whole, and one that is torn is not
//! taken for an empty one: what it locked would be open.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::overlay::{Counted, Overlay};
use crate::instance::Instance;

/// The form of the file; another one is another version's.
const HEAD: &str = "netguard state 1 ";

/// The file of one instance.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "{path} is damaged ({why}); what was ordered at run time is in it: put a copy back, or remove it to start without"
    )]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl StateFile {
    pub(super) fn of(directory: &Path) -> Self {
        Self { path: directory.join("state") }
    }

    /// What it holds; nothing if there is none.
    pub(super) fn read(&self) -> Result<Overlay, StateError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => {
                decode(&text).map_err(|why| StateError::Damaged { path: self.path.clone(), why })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Overlay::default()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Holds that from now on: all of it or, if the system stops in between, all of what it held before.
    pub(super) fn write(&self, overlay: &Overlay) -> Result<(), StateError> {
        self.replace(&encode(overlay)).map_err(|source| self.failed(source))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn failed(&self, source: io::Error) -> StateError {
        StateError::Io { path: self.path.clone(), source }
    }
}

/// What was counted elsewhere of an instance's slots, by their names. Needs no daemon.
#[must_use]
pub fn carried(instance: &Instance) -> BTreeMap<String, Vec<Counted>> {
    // What is damaged is the next start's to tell.
    StateFile::of(&instance.state_directory()).read().unwrap_or_default().carried
}

/// A line with the sum of the rest, and the rest.
fn encode(overlay: &Overlay) -> String {
    let body = serde_json::to_string_pretty(overlay).unwrap_or_default();
    format!("{HEAD}{:08x}\n{body}\n", crc32fast::hash(body.as_bytes()))
}

fn decode(text: &str) -> Result<Overlay, String> {
    let (head, body) = text.split_once('\n').ok_or("it is cut short")?;
    let sum = head.strip_prefix(HEAD).ok_or("it does not begin like one of this version")?;
    let body = body.trim_end_matches('\n');
    if sum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err("its sum is another".to_owned());
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> Overlay {
        Overlay { locked: ["one".to_owned()].into(), ..Overlay::default() }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::of(&directory.path().join("below"));
        assert_eq!(file.read().unwrap(), Overlay::default());
        file.write(&overlay()).unwrap();
        assert_eq!(file.read().unwrap(), overlay());
        file.write(&Overlay::default()).unwrap();
        assert_eq!(file.read().unwrap(), Overlay::default());
    }

    #[test]
    fn no_part_of_a_file_is_taken_for_the_whole() {
        let whole = encode(&overlay());
        assert_eq!(decode(&whole), Ok(overlay()));
        for length in 0..whole.len() - 1 {
            assert!(decode(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..whole.len() - 1 {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            let text = String::from_utf8(bytes).unwrap();
            assert!(decode(&text).is_err(), "{at}: {text}");
        }
    }
}
