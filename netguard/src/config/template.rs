//! From entries to slots: a template becomes as many as it counts, and what an entry leaves out is derived
//! from its name and number. Nothing is checked here but that there is a number.

use ipnet::IpNet;
use netguard_common::MAX_SLOT_ID;
use toml::Spanned;

use super::file;

/// A `[[slot]]` entry for one slot, complete.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Spanned<String>,
    pub(super) id: Spanned<u16>,
    pub(super) bridge: Spanned<String>,
    /// None for a shared bridge.
    pub(super) port: Option<Spanned<String>>,
    pub(super) subnet: Option<Spanned<String>>,
    pub(super) gateway: Option<Spanned<String>>,
    pub(super) subnet6: Option<Spanned<String>>,
    pub(super) gateway6: Option<Spanned<String>>,
    pub(super) mac: Option<Spanned<String>>,
    /// What needs no derivation.
    pub(super) rest: file::Slot,
}

/// What an entry lacks to become slots: where, and what to write.
pub(super) struct Lack {
    pub(super) at: usize,
    pub(super) message: String,
}

/// The slots of an entry that begins at the byte offset `at`.
pub(super) fn expand(slot: &file::Slot, at: usize) -> Result<Vec<Entry>, Lack> {
    let Some(count) = &slot.count else {
        let Some(name) = &slot.name else {
            return Err(Lack { at, message: "this slot has no name: add name = \"slot1\"".into() });
        };
        let Some(id) = &slot.id else {
            let message = format!(
                "slot {:?} has no id: add id = 1, a number of its own that it keeps for good",
                name.get_ref()
            );
            return Err(Lack { at: name.span().start, message });
        };
        return Ok(vec![entry(slot, name.clone(), id.clone(), None)]);
    };
    let first = slot.id.as_ref().map_or(1, |id| *id.get_ref());
    let last = u32::from(first) + u32::from(*count.get_ref());
    if *count.get_ref() == 0 || last > u32::from(MAX_SLOT_ID) + 1 {
        let message = format!(
            "count {} must be 1 to {}: slot numbers from {first} on end at {MAX_SLOT_ID}",
            count.get_ref(),
            (MAX_SLOT_ID + 1).saturating_sub(first)
        );
        return Err(Lack { at: count.span().start, message });
    }
    if let Some(name) = slot.name.as_ref().filter(|name| !name.get_ref().contains("{n}")) {
        let message = format!(
            "slot name {:?} is a template's (count = {}) and needs {{n}}: write \"slot{{n}}\"",
            name.get_ref(),
            count.get_ref()
        );
        return Err(Lack { at: name.span().start, message });
    }
    let numbers = first..=first + (*count.get_ref() - 1);
    // One byte of an address ends at 255: told once, and not for each slot beyond.
    let subnet = |number| from_template(slot, count, number).subnet;
    let is_subnet =
        |number| subnet(number).is_none_or(|subnet| subnet.get_ref().parse::<IpNet>().is_ok());
    if is_subnet(first)
        && let Some(number) = numbers.clone().find(|number| !is_subnet(*number))
        && let Some(bad) = subnet(number)
    {
        let message = format!(
            "slot {number} of the template would have the subnet {}; write subnet = \
             \"10.{{hi}}.{{lo}}.0/24\", the two bytes of the number",
            bad.get_ref()
        );
        return Err(Lack { at: bad.span().start, message });
    }
    Ok(numbers.map(|number| from_template(slot, count, number)).collect())
}

fn from_template(slot: &file::Slot, count: &Spanned<u16>, number: u16) -> Entry {
    let at = |text: String| Spanned::new(count.span(), text);
    let numbered = |text: &Option<Spanned<String>>| {
        text.as_ref().map(|text| Spanned::new(text.span(), substitute(text.get_ref(), number)))
    };
    let name = numbered(&slot.name).unwrap_or_else(|| at(format!("slot{number}")));
    let mut filled = slot.clone();
    for text in [
        &mut filled.bridge,
        &mut filled.port,
        &mut filled.subnet,
        &mut filled.gateway,
        &mut filled.subnet6,
        &mut filled.gateway6,
        &mut filled.mac,
    ] {
        *text = numbered(text);
    }
    for text in filled.allow.iter_mut().chain(&mut filled.deny) {
        *text = Spanned::new(text.span(), substitute(text.get_ref(), number));
    }
    if filled.subnet.is_none() && filled.subnet6.is_none() {
        filled.subnet = Some(at(format!("10.{number}.0.0/24")));
    }
    entry(&filled, name, Spanned::new(count.span(), number), Some(number))
}

/// `{n}` is the number, `{hi}` and `{lo}` are its two bytes, for subnets beyond the 255th.
fn substitute(text: &str, number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    text.replace("{n}", &number.to_string())
        .replace("{hi}", &high.to_string())
        .replace("{lo}", &low.to_string())
}

fn entry(slot: &file::Slot, name: Spanned<String>, id: Spanned<u16>, number: Option<u16>) -> Entry {
    let derived = |prefix: &str| Spanned::new(name.span(), format!("{prefix}-{}", name.get_ref()));
    // A template's guests get the MAC that their number gives; of others it is not known.
    let mac = number.filter(|_| !slot.shared).map(|number| {
        let [high, low] = number.to_be_bytes();
        Spanned::new(id.span(), format!("02:6e:67:{high:02x}:{low:02x}:02"))
    });
    Entry {
        bridge: slot.bridge.clone().unwrap_or_else(|| derived("br")),
        port: (!slot.shared).then(|| slot.port.clone().unwrap_or_else(|| derived("vm"))),
        subnet: slot.subnet.clone(),
        gateway: slot.gateway.clone(),
        subnet6: slot.subnet6.clone(),
        gateway6: slot.gateway6.clone(),
        mac: slot.mac.clone().or(mac),
        rest: slot.clone(),
        name,
        id,
    }
}
