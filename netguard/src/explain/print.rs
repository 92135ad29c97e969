//! The answer for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    Explained,
    steps::{Became, Step, because},
};
use crate::datapath::Asked;

impl Became {
    const fn word(self, is_drop: bool) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Decided if is_drop => "DROP",
            Self::Decided => "decides",
            Self::NotReached => "-",
        }
    }
}

impl Explained {
    /// As text for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(dns) = &self.dns {
            out += &dns_text(dns);
        }
        // Writing to a String cannot fail.
        if let Some(recorded) = &self.recorded {
            let text = |key: &str| recorded.record()[key].as_str().unwrap_or("-").to_owned();
            let code = &recorded.record()["code"];
            let _ = writeln!(
                out,
                "{}: dropped as {} ({code}) by {}: {}\n",
                text("time"),
                text("reason"),
                text("line"),
                text("because"),
            );
        }
        let _ = writeln!(out, "{}: {}", self.packet, self.verdict());
        for hop in &self.hops {
            let program = hop.hook.program();
            let (way, slot) = (hop.direction().name(), &hop.slot);
            let _ = writeln!(out, "\n{way} of {slot}, by {program} on {}", hop.interface);
            for Step { stage, became, note, because } in &hop.steps {
                let word = became.word(hop.dropped().is_some());
                let line = format!("  {word:<8} {:<14} {note}", stage.name());
                let _ = writeln!(out, "{}", line.trim_end());
                if let Some((line, because)) = because {
                    let _ = writeln!(out, "{:26}by {line}: {because}", "");
                }
            }
        }
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let hops = self.hops.iter().map(|hop| {
            let steps = hop.steps.iter().map(|Step { stage, became, note, because }| {
                let (line, because) = because.clone().unzip();
                let result = match became {
                    Became::Passed => "passed",
                    Became::Decided => "decided",
                    Became::NotReached => "not reached",
                };
                json!({
                    "stage": stage.name(),
                    "result": result,
                    "note": note,
                    "line": line,
                    "because": because,
                })
            });
            json!({
                "slot": hop.slot,
                "interface": hop.interface,
                "program": hop.hook.program(),
                "direction": hop.direction().name(),
                "verdict": verdict_name(hop.asked),
                "stages": steps.collect::<Vec<_>>(),
            })
        });
        let reason = self.dropped();
        let last = self.hops.last();
        let (line, because) = last.and_then(|hop| because(&hop.weighed)).unzip();
        json!({
            "version": 1,
            "slot": self.slot,
            "packet": self.packet.to_string(),
            "source": self.packet.src,
            "destination": self.packet.dst,
            "verdict": last.map(|hop| verdict_name(hop.asked)),
            "reason": reason.map(netguard_common::DropReason::name),
            "code": reason.map(netguard_common::DropReason::code),
            "sentence": reason.map(netguard_common::DropReason::sentence),
            "line": line,
            "because": because,
            "name": last.map(|hop| &hop.weighed["name"]),
            "answer": self.answer(),
            "dns": self.dns,
            "unasked": self.unasked.as_ref().map(ToString::to_string),
            "recorded": self.recorded.as_ref().map(super::Recorded::record),
            "hops": hops.collect::<Vec<_>>(),
        })
    }

    fn verdict(&self) -> String {
        if let Some(why) = &self.unasked {
            return format!("not asked about again: {why}");
        }
        let now = match &self.recorded {
            None => "",
            Some(recorded) if recorded.is_shortened() => "a shorter one ",
            Some(_) => "now it ",
        };
        match (self.dropped(), self.hops.last().map(|hop| hop.asked)) {
            (Some(reason), _) => {
                let told = self.answer().map(|it| format!(", answered with {it}"));
                let told = told.unwrap_or_default();
                format!("{now}would be dropped: {} ({}){told}", reason.name(), reason.code())
            }
            (None, Some(Asked::Redirect)) => format!("{now}would go to the slot's resolver"),
            (None, Some(Asked::Answer)) => format!("{now}would be answered: no list has the name"),
            (None, _) => format!("{now}would pass"),
        }
    }
}

const fn verdict_name(asked: Asked) -> &'static str {
    match asked {
        Asked::Pass => "pass",
        Asked::Redirect => "redirect",
        Asked::Answer => "answer",
        Asked::Drop(_) => "drop",
    }
}

/// What the resolver says of a name, in the words of its answer.
#[must_use]
pub fn dns_text(dns: &Value) -> String {
    let text = |key: &str| dns[key].as_str().unwrap_or_default().to_owned();
    let mut out = format!("name {}: ", text("name"));
    let rule = match dns["rule"].as_str() {
        Some(rule) => format!(" by {rule:?}"),
        None => String::new(),
    };
    let rule = match dns["category"].as_str() {
        Some(category) => format!("{rule} of {category}"),
        None => rule,
    };
    let line = dns["line"].as_str().map(|line| format!(" ({line})")).unwrap_or_default();
    if dns["allowed"] == true {
        out += &format!("allowed{rule}{line}");
    } else {
        out += &format!("denied, {}{rule}{line}", text("why"));
    }
    if let Some(ports) = dns["ports"].as_str() {
        out += &format!(", on ports {ports}");
    }
    let pins = dns["pins"].as_array().map_or(&[][..], Vec::as_slice);
    let addresses: Vec<_> = pins.iter().filter_map(|pin| pin["address"].as_str()).collect();
    if !addresses.is_empty() {
        out += &format!("; pinned now: {}", addresses.join(" "));
    }
    out + "\n"
}
