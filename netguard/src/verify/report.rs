//! The report: one page of HTML that needs nothing else, for whoever must show that networks are kept apart.

use std::{fmt::Write as _, time::SystemTime};

use super::Verified;

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse}td,th{border:1px solid #999;padding:.2em .6em;text-align:left}\
.good{color:#060}.bad{color:#a00;font-weight:bold}";

const METHOD: &str = "Each packet of the table was built and put to the packet filter programs that are loaded in the kernel of \
this host (BPF_PROG_TEST_RUN), as a question that changes nothing. Every answer was compared with what the configuration means, \
computed independently in user space. Besides, the programs on every interface of a slot were compared with those that netguard \
loaded, every entry of the policy maps with what the configuration compiles to, and the bridges with the ports that they may \
have. Packets were asked about from each slot to each other slot and back, to the host, the cloud metadata service, private \
networks, the internet, the management network, DNS and encrypted DNS, and through a port that no program guards.";

impl Verified {
    /// The page.
    #[must_use]
    pub fn html(&self) -> String {
        let name = nix::sys::utsname::uname();
        let host = name.map(|it| it.nodename().to_owned()).unwrap_or_default();
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let result = if self.is_good() {
            "<p class=good>Result: what is enforced is what the configuration says.</p>".to_owned()
        } else {
            format!("<p class=bad>Result: {} differences.</p>", self.holes.len())
        };
        let mut out = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Network isolation report</title><style>{STYLE}</style>\
             <h1>Network isolation report</h1>{result}<table>"
        );
        let rows = [
            ("Date", date),
            ("Host", host.to_string_lossy().into_owned()),
            ("Kernel", self.kernel.clone()),
            ("netguard", env!("CARGO_PKG_VERSION").to_owned()),
            ("Instance", self.instance.to_string()),
            ("Configuration", self.config.clone()),
            ("Its SHA-256, with every file that it names", self.config_hash.clone()),
            ("Policy generation", self.generation.clone().unwrap_or_default()),
            ("Questions asked", self.questions.to_string()),
            ("Time taken", format!("{:.1} ms", self.took.as_secs_f64() * 1000.0)),
            (
                "Supports",
                "ISO/IEC 27001:2022 A.8.22 (segregation of networks), NIST SP 800-53 SC-7 (boundary protection)"
                    .to_owned(),
            ),
        ];
        for (key, value) in rows {
            // Writing to a String cannot fail.
            let _ = write!(out, "<tr><th>{key}<td>{}", escape(&value));
        }
        let _ = write!(out, "</table><h2>Method</h2><p>{METHOD}</p>");
        Self::list(&mut out, "Differences", &self.holes);
        Self::list(&mut out, "Not asked", &self.notes);
        self.matrix(&mut out);
        out += "<h2>Programs</h2><table><tr><th>program<th>number<th>tag";
        for program in &self.programs {
            let (name, id, tag) = (&program.name, program.id, &program.tag);
            let _ = write!(out, "<tr><td>{name}<td>{id}<td>{tag}");
        }
        out += "</table><table><tr><th>interface<th>program<th>link";
        for it in &self.attached {
            let link = it.link.map_or("filter".to_owned(), |link| link.to_string());
            let _ = write!(out, "<tr><td>{}<td>{}<td>{link}", escape(&it.interface), it.program);
        }
        out + "</table></html>\n"
    }

    fn list(out: &mut String, title: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let _ = write!(out, "<h2>{title}</h2><ul>");
        for line in lines {
            let _ = write!(out, "<li>{}", escape(line));
        }
        *out += "</ul>";
    }

    fn matrix(&self, out: &mut String) {
        *out += "<h2>What the loaded programs answered</h2><table><tr><th>slot";
        for column in &self.columns {
            let _ = write!(out, "<th>{}", escape(column));
        }
        for row in &self.rows {
            let _ = write!(out, "<tr><th>{}", escape(&row.slot));
            for column in 0..self.columns.len() {
                let cell = row.cells.get(&column).map(ToString::to_string).unwrap_or_default();
                let _ = write!(out, "<td>{}", escape(&cell));
            }
        }
        *out += "</table>";
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
