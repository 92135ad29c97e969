//! Problems of a configuration, each at a line and column of its file.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A text and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: PathBuf,
    line_starts: Vec<usize>,
    /// Where the file's own text ends, and what stands behind it.
    end: Option<(usize, String)>,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = [0].into_iter().chain(starts.map(|(at, _)| at + 1)).collect();
        Self { path: path.to_owned(), line_starts, end: None }
    }

    /// Behind that offset stands what is not of the file; problems there are called by that name.
    pub(super) fn ending(mut self, offset: usize, then: &str) -> Self {
        self.end = Some((offset, then.to_owned()));
        self
    }

    /// Where a path in the text leads: it counts from the text's own directory.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(path)
    }

    /// The line of a byte offset, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// The place of a byte offset for people: the file's name and the line.
    pub(super) fn place(&self, offset: usize) -> String {
        match &self.end {
            Some((end, then)) if offset >= *end => then.clone(),
            _ => format!("{}:{}", self.name(), self.line(offset)),
        }
    }

    /// The file's name without its directory.
    pub(super) fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// What the TOML parser says.
    pub(super) fn toml_problem(&self, error: &toml::de::Error) -> Problem {
        let message = error.message().trim_end().replace('\n', "; ");
        let kinds = ["invalid type: ", "invalid value: "];
        let of_another_kind = kinds.into_iter().find_map(|kind| message.strip_prefix(kind));
        let message = match of_another_kind.and_then(|rest| rest.split_once(", expected ")) {
            Some((found, wanted)) => format!("must be {}, not {found}", in_words(wanted)),
            None => message,
        };
        match error.span() {
            Some(span) => self.problem(span.start, message),
            None => Problem { path: self.path.clone(), position: None, message },
        }
    }

    pub(super) fn problem(&self, offset: usize, message: impl Into<String>) -> Problem {
        if let Some((end, then)) = &self.end
            && offset >= *end
        {
            return Problem { path: then.into(), position: None, message: message.into() };
        }
        let line = self.line(offset);
        let column = offset - self.line_starts[line - 1] + 1;
        Problem { path: self.path.clone(), position: Some((line, column)), message: message.into() }
    }
}

/// What serde calls by the names of types, as one writes it.
fn in_words(wanted: &str) -> &str {
    match wanted {
        "a boolean" => "true or false",
        "a sequence" => "a list, like [\"...\"]",
        "a string" => "text in quotes, like \"...\"",
        "u8" => "a whole number, at most 255",
        "u16" => "a whole number, at most 65535",
        "u32" => "a whole number, at most 4294967295",
        "u64" | "usize" => "a whole number",
        wanted => wanted,
    }
}

/// One thing that is wrong with a configuration, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: PathBuf,
    /// Line and column, both from 1; the column counts bytes.
    position: Option<(usize, usize)>,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// The problems as an error, if there are any.
    ///
    /// # Errors
    ///
    /// There are.
    pub fn unless_empty(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems
            .sort_by(|one, other| (&one.path, one.position).cmp(&(&other.path, other.position)));
        Err(Self(told_once(problems)))
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot be read: {error}");
        Self(vec![Problem { path: path.to_owned(), position: None, message }])
    }

    pub(super) fn from_toml(source: &Source, error: &toml::de::Error) -> Self {
        Self(vec![source.toml_problem(error)])
    }
}

/// What is wrong with a template is wrong with each of its slots: of many problems at one place, the first and how many more.
fn told_once(problems: Vec<Problem>) -> Vec<Problem> {
    const EACH: usize = 3;
    let mut told: Vec<Problem> = Vec::new();
    for here in
        problems.chunk_by(|one, other| (&one.path, one.position) == (&other.path, other.position))
    {
        match here {
            [first, more @ ..] if more.len() >= EACH && first.position.is_some() => {
                let message =
                    format!("{}; and {} more of this kind here", first.message, more.len());
                told.push(Problem { message, ..first.clone() });
            }
            few => told.extend_from_slice(few),
        }
    }
    told
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
