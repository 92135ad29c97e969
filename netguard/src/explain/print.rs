//! The answer for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Became, Explained, Hop, Step};
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

impl Hop {
    const fn is_drop(&self) -> bool {
        matches!(self.asked, Asked::Drop(_))
    }

    fn direction(&self) -> &'static str {
        if self.hook == netguard_common::Hook::PortEgress { "egress" } else { "ingress" }
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
        let _ = writeln!(out, "{}: {}", self.packet, self.verdict());
        for hop in &self.hops {
            let program = hop.hook.program();
            let (way, slot) = (hop.direction(), &hop.slot);
            let _ = writeln!(out, "\n{way} of {slot}, by {program} on {}", hop.interface);
            for Step { stage, became, note } in &hop.steps {
                let word = became.word(hop.is_drop());
                let line = format!("  {word:<8} {:<14} {note}", stage.name());
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let hops = self.hops.iter().map(|hop| {
            let steps = hop.steps.iter().map(|Step { stage, became, note }| {
                let result = match became {
                    Became::Passed => "passed",
                    Became::Decided => "decided",
                    Became::NotReached => "not reached",
                };
                json!({ "stage": stage.name(), "result": result, "note": note })
            });
            json!({
                "slot": hop.slot,
                "interface": hop.interface,
                "program": hop.hook.program(),
                "direction": hop.direction(),
                "verdict": verdict_name(hop.asked),
                "stages": steps.collect::<Vec<_>>(),
            })
        });
        let reason = self.dropped();
        json!({
            "version": 1,
            "slot": self.question.slot,
            "packet": self.packet.to_string(),
            "source": self.packet.src,
            "destination": self.packet.dst,
            "verdict": self.hops.last().map(|hop| verdict_name(hop.asked)),
            "reason": reason.map(netguard_common::DropReason::name),
            "code": reason.map(netguard_common::DropReason::code),
            "sentence": reason.map(netguard_common::DropReason::sentence),
            "answer": self.answer(),
            "dns": self.dns,
            "hops": hops.collect::<Vec<_>>(),
        })
    }

    fn verdict(&self) -> String {
        match (self.dropped(), self.hops.last().map(|hop| hop.asked)) {
            (Some(reason), _) => {
                let told =
                    self.answer().map_or(String::new(), |it| format!(", answered with {it}"));
                format!("would be dropped: {} ({}){told}", reason.name(), reason.code())
            }
            (None, Some(Asked::Redirect)) => "would go to the slot's resolver".to_owned(),
            (None, _) => "would pass".to_owned(),
        }
    }
}

const fn verdict_name(asked: Asked) -> &'static str {
    match asked {
        Asked::Pass => "pass",
        Asked::Redirect => "redirect",
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
    if dns["allowed"] == true {
        out += &format!("allowed{rule}");
    } else {
        out += &format!("denied, {}{rule}", text("why"));
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
