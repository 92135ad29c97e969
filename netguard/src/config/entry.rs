//! One slot's entry by itself, as it would stand in another file: what a template's number makes of it, and what the file says of
//! names for all slots.

use serde_json::{Map, Value};

use super::{Config, file, template};

impl Config {
    /// The keys of the `[[slot]]` entry of that name, in this file or in the entries behind it, but for its number, which is
    /// this host's. Names of bridge and port that follow from the slot's name are left out. `None` if there is no such slot.
    #[must_use]
    pub fn slot_keys(&self, name: &str, entries: &str) -> Option<Map<String, Value>> {
        let text = self.texts.clone().read(&self.path).ok()?;
        let file: file::File = toml::from_str(&format!("{text}\n{entries}")).ok()?;
        let slots = file.slots.iter().filter_map(|slot| template::expand(slot.get_ref(), 0).ok());
        let entry = slots.flatten().find(|entry| entry.name.get_ref() == name)?;
        let mut slot = file::Slot {
            name: Some(entry.name),
            id: None,
            count: None,
            mac: entry.mac,
            ..entry.rest
        };
        slot.dns.categories = slot.dns.categories.or(file.dns.categories);
        slot.dns.lists = slot.dns.lists.or(file.dns.lists);
        slot.dns.names = slot.dns.names.or(file.dns.names);
        match said(serde_json::to_value(slot).ok()?) {
            Value::Object(keys) => Some(keys),
            _ => None,
        }
    }
}

/// Without what is not said: TOML has no null, and a table of nothing says nothing.
fn said(value: Value) -> Value {
    let Value::Object(keys) = value else { return value };
    let keys = keys.into_iter().map(|(key, value)| (key, said(value)));
    keys.filter(|(_, value)| !value.is_null() && *value != Value::Object(Map::new())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::config::slot_entry;

    const FILE: &str = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"a.example\"]\n\
        [[slot]]\ncount = 2\nbridge = \"br{n}\"\negress = \"pinned\"\nallow = [\"192.0.2.{n} tcp/80\"]\n\
        [[slot]]\nname = \"web\"\nid = 9\nsubnet = \"10.9.0.0/24\"\nhost_services = [\"tcp/80\"]\n\
        dns.names = []\nlimits.icmp_per_second = 7\n";

    #[test]
    fn an_entry_stands_for_itself() {
        let config = Config::parse(FILE, Path::new("test")).unwrap();
        let two = config.slot_keys("slot2", "").unwrap();
        let expected = json!({
            "name": "slot2",
            "bridge": "br2",
            "subnet": "10.2.0.0/24",
            "mac": "02:6e:67:00:02:02",
            "egress": "pinned",
            "allow": ["192.0.2.2 tcp/80"],
            "deny": [],
            "mode": "guarded",
            "denial": "drop",
            "shared": false,
            "metadata": false,
            "manage_links": false,
            "dns": { "categories": [], "names": ["a.example"] },
        });
        assert_eq!(Value::Object(two), expected);
        let web = config.slot_keys("web", "").unwrap();
        assert_eq!(web["dns"], json!({ "categories": [], "names": [] }));
        assert_eq!(web["host_services"], json!(["tcp/80"]));
        assert_eq!(web["limits"], json!({ "icmp_per_second": 7 }));
        assert_eq!(config.slot_keys("slot3", ""), None);
    }

    #[test]
    fn an_entry_means_the_same_in_another_file() {
        let config = Config::parse(FILE, Path::new("test")).unwrap();
        let other = "[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\n";
        for (index, name) in ["slot1", "slot2", "web"].into_iter().enumerate() {
            let mut keys = config.slot_keys(name, "").unwrap();
            keys.insert("id".to_owned(), config.policy.slots[index].id.into());
            let entry = slot_entry(&keys).unwrap();
            let other = Config::parse(&format!("{other}{entry}"), Path::new("other")).unwrap();
            assert_eq!(other.policy.slots, [config.policy.slots[index].clone()]);
        }
    }
}
