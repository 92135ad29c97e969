//! What was found, as text for people and as JSON. `docs/doctor.md` describes the JSON.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::{Check, Diagnosis, Severity};

/// The version of the JSON: raised when a key goes or means something else, not when one comes.
const JSON_VERSION: u32 = 1;

const SEVERITIES: [Severity; 3] = [Severity::Broken, Severity::Weak, Severity::Note];

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Broken => AnsiColor::Red.on_default().bold(),
        Severity::Weak => AnsiColor::Yellow.on_default(),
        Severity::Note => AnsiColor::Cyan.on_default(),
    }
}

impl Diagnosis {
    /// True if nothing is broken or weak.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// As text for people.
    #[must_use]
    pub fn text(&self, colored: bool) -> String {
        let mut out = String::new();
        let dim = if colored { Style::new().dimmed() } else { Style::new() };
        for finding in &self.findings {
            let paint = if colored { style(finding.severity) } else { Style::new() };
            let (severity, check) = (finding.severity.name(), finding.check.name());
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{paint}{severity:<7}{paint:#}{} {dim}[{check}]{dim:#}\n       {}\n       do: {}\n",
                finding.what, finding.why, finding.fix
            );
        }
        let counts: Vec<_> = SEVERITIES
            .into_iter()
            .map(|it| (it, self.count(it)))
            .filter(|(_, count)| *count > 0)
            .map(|(severity, count)| match (severity, count) {
                (Severity::Note, 2..) => format!("{count} notes"),
                _ => format!("{count} {}", severity.name()),
            })
            .collect();
        let found = if counts.is_empty() { "nothing found".to_owned() } else { counts.join(", ") };
        let who = match &self.instance {
            Some(instance) => format!("instance {instance}"),
            None => "no instance".to_owned(),
        };
        let _ = writeln!(
            out,
            "{who}, {}, kernel {}: {} checks: {found}\n{dim}what netguard itself holds: netguard verify; whether this kernel \
             takes the programs: netguard check --kernel{dim:#}",
            self.config,
            self.kernel,
            Check::ALL.len(),
        );
        out
    }

    /// As one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "severity": finding.severity.name(),
                "check": finding.check.name(),
                "what": finding.what,
                "why": finding.why,
                "do": finding.fix,
            })
        });
        json!({
            "version": JSON_VERSION,
            "instance": self.instance.as_ref().map(ToString::to_string),
            "config": self.config,
            "kernel": self.kernel,
            "good": self.is_good(),
            "checks": Check::ALL.map(Check::name),
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Finding, *};

    fn diagnosis(severities: &[Severity]) -> Diagnosis {
        let finding = |severity: &Severity| Finding {
            check: Check::Stp,
            severity: *severity,
            what: "stp runs on br-slot1".into(),
            why: "it waits".into(),
            fix: "turn it off".into(),
        };
        Diagnosis {
            instance: Some("host".parse().unwrap()),
            config: "netguard.toml".into(),
            kernel: "6.18".into(),
            findings: severities.iter().map(finding).collect(),
        }
    }

    #[test]
    fn notes_are_no_fault() {
        assert!(diagnosis(&[]).is_good() && diagnosis(&[Severity::Note]).is_good());
        assert!(!diagnosis(&[Severity::Note, Severity::Weak]).is_good());
        assert!(!diagnosis(&[Severity::Broken]).is_good());
    }

    #[test]
    fn text_says_what_why_and_what_to_do() {
        let text = diagnosis(&[Severity::Broken, Severity::Note, Severity::Note]).text(false);
        assert!(
            text.starts_with(
                "broken stp runs on br-slot1 [stp]\n       it waits\n       do: turn it off\n\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "instance host, netguard.toml, kernel 6.18: 32 checks: 1 broken, 2 notes\n"
            ),
            "{text}"
        );
        assert!(diagnosis(&[]).text(false).contains("nothing found"));
        let colored = diagnosis(&[Severity::Weak]).text(true);
        assert!(colored.contains("\u{1b}[33mweak"), "{colored:?}");
    }

    #[test]
    fn the_document_has_every_key_of_its_version() {
        let document = include_str!("../../../docs/doctor.md");
        let object = diagnosis(&[Severity::Weak]).json();
        let keys = [&object, &object["findings"][0]];
        for key in keys.into_iter().flat_map(|it| it.as_object().unwrap().keys()) {
            assert!(document.contains(&format!("| `{key}` |")), "docs/doctor.md lacks {key}");
        }
        assert!(document.contains(&format!("## JSON, version {JSON_VERSION}")));
        assert_eq!(object["good"], false);
    }
}
