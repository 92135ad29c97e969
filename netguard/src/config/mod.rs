//! The file's form and its way to a [`Policy`]. Reads TOML, checks everything, and names file, line,
//! the operator's thing and the way out. Touches neither kernel nor network.

mod check;
mod entry;
mod file;
mod lines;
mod name_lines;
mod problem;
mod template;
mod texts;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

pub use lines::Line;
pub use problem::{Problem, Problems};

use crate::policy::{Because, NameBecause, Policy};

/// A checked configuration, with the places in the file that later messages refer to.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the file means.
    pub policy: Policy,
    /// Where what the file says stands.
    lines: lines::Lines,
    source: problem::Source,
    path: PathBuf,
    texts: texts::Texts,
    shelf: check::Shelf,
    is_file: bool,
    waits_for_bridges: bool,
}

impl Config {
    /// Reads and checks a file. Paths in it count from the file's own directory.
    ///
    /// # Errors
    ///
    /// Every problem of the file, each with its line.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::of_texts(path, texts::Texts::default(), true)
    }

    /// Checks a text as if it had been read from `path`.
    ///
    /// # Errors
    ///
    /// Every problem of the text, each with its line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Problems> {
        Self::of_texts(path, texts::Texts::with(path, text), false)
    }

    fn of_texts(path: &Path, texts: texts::Texts, is_file: bool) -> Result<Self, Problems> {
        Self::of_parts(path, texts, check::Shelf::default(), is_file, "")
    }

    /// The same with more `[[slot]]` entries behind the file's own. Lists that were read already are not read again.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them, beside the others.
    pub fn with_slots(&self, entries: &str) -> Result<Self, Problems> {
        let (texts, shelf) = (self.texts.clone(), self.shelf.clone());
        let whole = Self::of_parts(&self.path, texts, shelf, self.is_file, entries)?;
        Ok(Self { waits_for_bridges: self.waits_for_bridges, ..whole })
    }

    fn of_parts(
        path: &Path,
        mut texts: texts::Texts,
        shelf: check::Shelf,
        is_file: bool,
        entries: &str,
    ) -> Result<Self, Problems> {
        let text = texts.read(path).map_err(|error| Problems::unreadable(path, &error))?;
        let whole = format!("{text}\n{entries}");
        let source =
            problem::Source::new(path, &whole).ending(text.len() + 1, "a slot made at run time");
        let file: file::File = match toml::from_str(&whole) {
            Ok(file) => file,
            Err(error) => return Err(Problems::from_toml(&source, &error)),
        };
        let (policy, lines, shelf) = check::check(&file, &source, &mut texts, shelf)?;
        let (path, waits_for_bridges) = (path.to_owned(), false);
        Ok(Self { policy, lines, source, path, texts, shelf, is_file, waits_for_bridges })
    }

    /// The configuration as its file is now; one that is of no file is what it was.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub fn read_again(&self) -> Result<Self, Problems> {
        if !self.is_file {
            return Ok(self.clone());
        }
        Ok(Self { waits_for_bridges: self.waits_for_bridges, ..Self::read(&self.path)? })
    }

    /// The same for a host whose bridges may come later than netguard.
    #[must_use]
    pub fn waiting_for_bridges(self) -> Self {
        Self { waits_for_bridges: true, ..self }
    }

    /// True if a bridge that is not there, or has no gateway address, is waited for; else the file is wrong about it.
    #[must_use]
    pub fn waits_for_bridges(&self) -> bool {
        self.waits_for_bridges
    }

    /// True if both were made from the same texts.
    #[must_use]
    pub fn is_same_text(&self, other: &Self) -> bool {
        self.path == other.path && self.texts == other.texts
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every text that the configuration consists of, for [`Self::unpack`].
    ///
    /// # Errors
    ///
    /// A path is no UTF-8.
    pub fn pack(&self) -> io::Result<Vec<u8>> {
        self.texts.pack()
    }

    /// The configuration of that path, from what [`Self::pack`] has packed. No file is opened.
    ///
    /// # Errors
    ///
    /// It was not packed by this version of netguard.
    pub fn unpack(path: &Path, packed: &[u8]) -> io::Result<Self> {
        Self::of_texts(path, texts::Texts::unpack(packed)?, false).map_err(io::Error::other)
    }

    /// A problem of a slot's bridge, found on the host and not in the file.
    #[must_use]
    pub fn bridge_problem(&self, slot_index: usize, message: String) -> Problem {
        self.source.problem(self.lines.bridge(slot_index), message)
    }

    /// A problem of a slot's port, found on the host and not in the file.
    #[must_use]
    pub fn port_problem(&self, slot_index: usize, message: String) -> Problem {
        self.source.problem(self.lines.port(slot_index), message)
    }

    /// Where that stands which decided about a slot's packet. What decided and is not in the file was ordered at run time.
    #[must_use]
    pub fn line_of(&self, slot_index: usize, because: &Because) -> Line {
        self.lines.line_of(&self.source, self.policy.slots.get(slot_index), slot_index, because)
    }

    /// Where that stands which decided about a slot's query.
    #[must_use]
    pub fn line_of_name(&self, slot_index: usize, because: &NameBecause) -> Line {
        self.lines.names().line_of(&self.source, slot_index, because)
    }
}

/// A `[[slot]]` entry in TOML, from the same keys in JSON.
///
/// # Errors
///
/// TOML has no form for a value: it has no null.
pub fn slot_entry(keys: &serde_json::Map<String, serde_json::Value>) -> Result<String, String> {
    let file: BTreeMap<_, _> = [("slot", [keys])].into();
    toml::to_string(&file).map_err(|error| error.to_string())
}

/// The names of the shipped allowlist's categories.
#[must_use]
pub fn default_categories() -> Vec<String> {
    check::shipped_allowlist().into_keys().collect()
}
