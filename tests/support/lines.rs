//! Where something stands in a configuration, as records and answers name it.

/// The place of the only line of a text that has this in it.
///
/// # Panics
///
/// No line has it, or more than one.
#[must_use]
pub fn line_of(text: &str, file: &str, what: &str) -> String {
    let mut lines = text.lines().enumerate().filter(|(_, line)| line.contains(what));
    let (index, _) = lines.next().unwrap_or_else(|| panic!("no line has {what}"));
    assert!(lines.next().is_none(), "more than one line has {what}");
    format!("{file}:{}", index + 1)
}

/// Where a lab's configuration has no such key.
#[must_use]
pub fn default_of(key: &str) -> String {
    format!("netguard.toml (default of {key})")
}
