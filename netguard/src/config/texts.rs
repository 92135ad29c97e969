//! Every text that a configuration consists of: the file itself, and what it names. Each is read once, so what is checked is
//! what counts, also in a process that may open no file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Texts by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    held: BTreeMap<PathBuf, Arc<str>>,
    /// True if nothing is read any more.
    complete: bool,
}

impl Texts {
    /// With one text that need not be read.
    pub(super) fn with(path: &Path, text: &str) -> Self {
        let held = [(path.to_owned(), text.into())].into();
        Self { held, complete: false }
    }

    /// The text at a path: read now, unless it has been read already.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Arc<str>> {
        if let Some(text) = self.held.get(path) {
            return Ok(Arc::clone(text));
        }
        if self.complete {
            return Err(io::ErrorKind::NotFound.into());
        }
        let text: Arc<str> = read(path)?.into();
        self.held.insert(path.to_owned(), Arc::clone(&text));
        Ok(text)
    }

    /// All of them, for [`Self::unpack`].
    pub(super) fn pack(&self) -> io::Result<Vec<u8>> {
        let texts: BTreeMap<&Path, &str> =
            self.held.iter().map(|(path, text)| (path.as_path(), &**text)).collect();
        Ok(serde_json::to_vec(&texts)?)
    }

    /// What [`Self::pack`] has packed; nothing more is read.
    pub(super) fn unpack(bytes: &[u8]) -> io::Result<Self> {
        let texts: BTreeMap<PathBuf, String> = serde_json::from_slice(bytes)?;
        let held = texts.into_iter().map(|(path, text)| (path, text.into())).collect();
        Ok(Self { held, complete: true })
    }
}

/// Reads a whole file, if it is one and not too large to be meant.
fn read(path: &Path) -> io::Result<String> {
    const BYTES_MAX: u64 = 64 << 20;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if metadata.len() > BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", BYTES_MAX >> 20)));
    }
    std::fs::read_to_string(path)
}
