//! Where in the file stands what can decide about a packet: byte offsets by slot and key.

use std::{collections::BTreeMap, fmt, sync::Arc};

use toml::Spanned;

use super::{
    file,
    name_lines::{Categories, NameLines},
    problem::Source,
    template::Entry,
};
use crate::policy::{Because, Key, Slot};

/// Where that stands which decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// In the file: `netguard.toml:17`; or in the entry of a slot that was made at run time.
    At(String),
    /// Nowhere: of this key what counts without it.
    Default {
        /// The file.
        file: String,
        /// The key.
        key: &'static str,
    },
    /// Nowhere: somebody has ordered it.
    Ordered,
    /// Nowhere: no key says anything else.
    BuiltIn,
}

impl Line {
    /// True if somebody has ordered it.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        *self == Self::Ordered
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(place) => f.write_str(place),
            Self::Default { file, key } => write!(f, "{file} (default of {key})"),
            Self::Ordered => f.write_str("ordered at run time"),
            Self::BuiltIn => f.write_str("built in"),
        }
    }
}

/// Byte offsets.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    /// In the order of [`crate::policy::Policy::slots`].
    slots: Vec<SlotLines>,
    /// In the order of the file's runtimes.
    isolate: Vec<Option<usize>>,
    gate: Option<usize>,
    management: Vec<usize>,
    flows: Option<usize>,
    names: NameLines,
}

#[derive(Clone, Debug)]
struct SlotLines {
    bridge: usize,
    port: usize,
    allow: Vec<usize>,
    deny: Vec<usize>,
    keys: BTreeMap<Key, usize>,
}

/// Where a value stands; nowhere if it is what counts without its key.
pub(super) fn start<T>(value: &Spanned<T>) -> Option<usize> {
    let span = value.span();
    (!span.is_empty()).then_some(span.start)
}

fn starts<T>(values: &[Spanned<T>]) -> Vec<usize> {
    values.iter().map(|value| value.span().start).collect()
}

impl Lines {
    pub(super) fn of(
        file: &file::File,
        entries: &[Entry],
        categories: Option<Arc<Categories>>,
    ) -> Self {
        let isolate = file.runtimes.iter().map(|it| it.isolate.as_ref().and_then(start));
        Self {
            slots: entries.iter().map(SlotLines::of).collect(),
            isolate: isolate.collect(),
            gate: file.gate.as_ref().and_then(|gate| start(&gate.ports)),
            management: starts(&file.host.management),
            flows: file.limits.flows.as_ref().and_then(start),
            names: NameLines::of(&file.dns, entries, categories),
        }
    }

    pub(super) fn names(&self) -> &NameLines {
        &self.names
    }

    pub(super) fn bridge(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |lines| lines.bridge)
    }

    pub(super) fn port(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |lines| lines.port)
    }

    /// `slot` is the one at that index, if there is one.
    pub(super) fn line_of(
        &self,
        source: &Source,
        slot: Option<&Slot>,
        index: usize,
        because: &Because,
    ) -> Line {
        let of_key = |at: Option<usize>, key: &'static str| match at {
            Some(at) => Line::At(source.place(at)),
            None => Line::Default { file: source.name(), key },
        };
        let (Some(slot), Some(lines)) = (slot, self.slots.get(index)) else { return Line::BuiltIn };
        match because {
            Because::Rule { allow, index } => {
                let rules = if *allow { &lines.allow } else { &lines.deny };
                // Behind those of the file stand those that were ordered.
                rules.get(*index).map_or(Line::Ordered, |at| Line::At(source.place(*at)))
            }
            Because::Key(Key::Mode) if !slot.lockdown => Line::Ordered,
            Because::Guarded => of_key(lines.keys.get(&Key::Mode).copied(), Key::Mode.name()),
            Because::Key(key) => of_key(lines.keys.get(key).copied(), key.name()),
            Because::Isolate => {
                of_key(self.isolate.get(slot.runtime).copied().flatten(), "isolate")
            }
            Because::Gate => of_key(self.gate, "gate"),
            Because::Management(prefix) => {
                let at = prefix.and_then(|prefix| self.management.get(prefix));
                of_key(at.copied(), "management")
            }
            Because::Flows => of_key(self.flows, "limits.flows"),
            Because::DeniedName(_) => Line::Ordered,
            Because::BuiltIn => Line::BuiltIn,
        }
    }
}

impl SlotLines {
    fn of(entry: &Entry) -> Self {
        let Entry { rest, .. } = entry;
        let limits = &rest.limits;
        let bridge = entry.bridge.span().start;
        let keys = [
            (Key::Mode, start(&rest.mode)),
            (Key::Egress, rest.egress.as_ref().and_then(start)),
            (Key::Allow, rest.allow.first().and_then(start)),
            (Key::Mac, entry.mac.as_ref().and_then(start)),
            (Key::Subnet, entry.subnet.as_ref().and_then(start)),
            (Key::Subnet6, entry.subnet6.as_ref().and_then(start)),
            (Key::HostServices, rest.host_services.as_ref().and_then(start)),
            (Key::Metadata, start(&rest.metadata)),
            (Key::FlowsPerSecond, limits.flows_per_second.as_ref().and_then(start)),
            (Key::PacketsPerSecond, limits.packets_per_second.as_ref().and_then(start)),
            (Key::BytesPerSecond, limits.bytes_per_second.as_ref().and_then(start)),
            (Key::IcmpPerSecond, limits.icmp_per_second.as_ref().and_then(start)),
            (Key::IcmpMaxBytes, limits.icmp_max_bytes.as_ref().and_then(start)),
        ];
        Self {
            bridge,
            port: entry.port.as_ref().map_or(bridge, |port| port.span().start),
            allow: starts(&rest.allow),
            deny: starts(&rest.deny),
            keys: keys.into_iter().filter_map(|(key, at)| Some((key, at?))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const FILE: &str = "[host]\nmanagement = [\n  \"100.64.0.0/10\",\n  \"192.0.2.0/24\"]\n\
        [dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n\
        [[runtime]]\nname = \"a\"\nisolate = true\n\
        [[runtime]]\nname = \"b\"\n\
        [[slot]]\ncount = 2\nruntime = \"a\"\negress = \"listed\"\n\
        allow = [\"203.0.113.0/24\"]\ndeny = [\"203.0.113.7\",\n  \"203.0.113.{n}1 tcp/80\"]\n\
        metadata = false\nlimits.flows_per_second = 10\n\
        [[slot]]\nname = \"web\"\nid = 9\nruntime = \"b\"\nsubnet = \"10.9.0.0/24\"\nmode = \"lockdown\"\n";

    fn line(slot: usize, because: &Because) -> String {
        let config = Config::parse(FILE, Path::new("/etc/some/test.toml")).unwrap();
        config.line_of(slot, because).to_string()
    }

    #[test]
    fn what_decided_has_its_line_and_what_is_not_there_says_so() {
        let deny = |index| Because::Rule { allow: false, index };
        for (slot, because, expected) in [
            (0, deny(0), "test.toml:18"),
            (1, deny(1), "test.toml:19"),
            (1, deny(2), "ordered at run time"),
            (1, Because::Rule { allow: true, index: 0 }, "test.toml:17"),
            (0, Because::Key(Key::Egress), "test.toml:16"),
            (2, Because::Key(Key::Egress), "test.toml (default of egress)"),
            (1, Because::Key(Key::Metadata), "test.toml:20"),
            (2, Because::Key(Key::Metadata), "test.toml (default of metadata)"),
            (0, Because::Key(Key::FlowsPerSecond), "test.toml:21"),
            (0, Because::Key(Key::IcmpPerSecond), "test.toml (default of limits.icmp_per_second)"),
            (0, Because::Key(Key::Subnet), "test.toml:14"), // a template's number
            (0, Because::Key(Key::Mac), "test.toml:14"),
            (2, Because::Key(Key::Subnet), "test.toml:26"),
            (0, Because::Key(Key::Subnet6), "test.toml (default of subnet6)"),
            (2, Because::Key(Key::Mode), "test.toml:27"),
            (1, Because::Key(Key::Mode), "ordered at run time"),
            (1, Because::Guarded, "test.toml (default of mode)"),
            (0, Because::Isolate, "test.toml:10"),
            (2, Because::Isolate, "test.toml (default of isolate)"),
            (0, Because::Gate, "test.toml (default of gate)"),
            (0, Because::Management(Some(1)), "test.toml:4"),
            (0, Because::Management(None), "test.toml (default of management)"),
            (0, Because::Flows, "test.toml (default of limits.flows)"),
            (0, Because::DeniedName("a.example".into()), "ordered at run time"),
            (0, Because::BuiltIn, "built in"),
            (7, Because::Isolate, "built in"),
        ] {
            assert_eq!(line(slot, &because), expected, "{because:?} of {slot}");
        }
    }

    #[test]
    fn a_slot_that_was_made_at_run_time_is_of_no_file() {
        let config = Config::parse(FILE, Path::new("test.toml")).unwrap();
        let more = "[[slot]]\nname = \"more\"\nid = 7\nsubnet = \"10.7.0.0/24\"\nruntime = \"b\"\negress = \"none\"\n";
        let whole = config.with_slots(more).unwrap();
        let line = |because: &Because| whole.line_of(3, because).to_string();
        assert_eq!(line(&Because::Key(Key::Egress)), "a slot made at run time");
        assert_eq!(line(&Because::Key(Key::Metadata)), "test.toml (default of metadata)");
    }
}
