//! What a reply must be, to the byte: what a line says of it, and what every reply has in common.

use serde_json::Value;

use crate::question::{Question, hex};

/// netguard's own SOA (RFC 2308 section 5: remembered for 60 s).
const OWN_SOA: &str = "60 IN SOA netguard.invalid. netguard.invalid. 1 3600 600 86400 60";
/// The SOA of the lab's zone, with the time that its last number allows.
const LAB_SOA: &str =
    "lab.example. 40 IN SOA ns.lab.example. root.lab.example. 1 3600 600 86400 40";
/// An answer may have been in the cache for a while; not for this long in a test.
const AGE_MAX: u64 = 60;
/// "Blocked" (RFC 8914 section 4.16).
const BLOCKED: u64 = 15;

/// The reply to one line.
#[derive(Clone, Debug)]
pub struct Expect {
    pub what: What,
    pub rcode: &'static str,
    pub answer: Records,
    /// Of the asked name, or of the lab's zone.
    pub soa: Soa,
    /// An extended error, for who has sent an OPT.
    pub is_blocked: bool,
    /// AD or TC besides those that every reply has.
    pub flag: Option<&'static str>,
    /// An upstream was asked.
    pub asks_upstream: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A message with the question in it.
    Reply,
    /// A header alone: the question could not be read.
    Header,
    /// Nothing at all.
    Silence,
    /// Over UDP nothing; over TCP the connection ends.
    Rejection,
}

#[derive(Clone, Debug)]
pub enum Records {
    /// As text, in this order; times to live are at most these.
    Are(&'static [&'static str]),
    /// So many.
    Count(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soa {
    None,
    Own,
    Lab,
}

const fn reply(rcode: &'static str) -> Expect {
    Expect {
        what: What::Reply,
        rcode,
        answer: Records::Are(&[]),
        soa: Soa::None,
        is_blocked: false,
        flag: None,
        asks_upstream: false,
    }
}

/// These records, from an upstream.
pub fn answer(records: &'static [&'static str]) -> Expect {
    Expect { answer: Records::Are(records), asks_upstream: true, ..reply("NOERROR") }
}

/// So many records, from an upstream.
pub fn answers(count: usize) -> Expect {
    Expect { answer: Records::Count(count), asks_upstream: true, ..reply("NOERROR") }
}

/// These records, from netguard itself.
pub fn own_answer(records: &'static [&'static str]) -> Expect {
    Expect { answer: Records::Are(records), ..reply("NOERROR") }
}

/// An upstream's answer that did not fit: as many records as do.
pub fn truncated(count: usize) -> Expect {
    Expect { flag: Some("TC"), ..answers(count) }
}

/// Not on the list, or an exception.
pub fn denied() -> Expect {
    Expect { soa: Soa::Own, is_blocked: true, ..reply("NXDOMAIN") }
}

/// Not allowed, but it exists: above an allowed name, or of a type that is not answered.
pub fn nothing() -> Expect {
    Expect { soa: Soa::Own, is_blocked: true, ..reply("NOERROR") }
}

/// The answer leads where it must not.
pub fn rebinding() -> Expect {
    Expect { asks_upstream: true, ..nothing() }
}

/// A name that is nobody's business outside, and no error of the guest's.
pub fn local_none(rcode: &'static str) -> Expect {
    Expect { soa: Soa::Own, ..reply(rcode) }
}

/// The upstream says that there is nothing, with the SOA of the lab's zone.
pub fn lab_none(rcode: &'static str) -> Expect {
    Expect { soa: Soa::Lab, asks_upstream: true, ..reply(rcode) }
}

/// A code of the upstream's and nothing else.
pub fn upstream(rcode: &'static str) -> Expect {
    Expect { asks_upstream: true, ..reply(rcode) }
}

pub fn refused() -> Expect {
    reply("REFUSED")
}

pub fn bad_version() -> Expect {
    reply("BADVERS")
}

pub fn malformed() -> Expect {
    Expect { what: What::Header, ..reply("FORMERR") }
}

pub fn not_implemented() -> Expect {
    Expect { what: What::Header, ..reply("NOTIMP") }
}

pub fn silence() -> Expect {
    Expect { what: What::Silence, ..reply("") }
}

pub fn rejection() -> Expect {
    Expect { what: What::Rejection, ..reply("") }
}

impl Expect {
    pub fn ad(self) -> Self {
        Self { flag: Some("AD"), ..self }
    }

    /// True if something else must be sent behind the query, to see that it has no reply.
    pub fn is_silent(&self, tcp: bool) -> bool {
        self.what == What::Silence || (self.what == What::Rejection && !tcp)
    }

    /// Holds a decoded reply against this.
    pub fn check(&self, asked: &Question, tcp: bool, reply: &Value) -> Result<(), String> {
        if let Some(error) = reply["error"].as_str() {
            return Err(format!("it cannot be decoded: {error}"));
        }
        if reply["closed"] == true {
            let must = self.what == What::Rejection && tcp;
            return must.then_some(()).ok_or_else(|| "the connection was closed".to_owned());
        }
        if self.is_silent(tcp) {
            return same("the id of what was sent behind it", &reply["id"], CONTROL_ID);
        }
        if self.what == What::Rejection {
            return Err("it was answered".to_owned());
        }
        same("id", &reply["id"], asked.id)?;
        same("rcode", &reply["rcode"], self.rcode)?;
        let bytes = reply["bytes"].as_str().unwrap_or_default();
        if self.what == What::Header {
            let opcode = asked.flags[0] & 0x78;
            let flags = [0x80 | opcode | asked.flags[0] & 1, rcode_bits(self.rcode)];
            let header = [&asked.id.to_be_bytes()[..], &flags, &[0; 8]].concat();
            return same("header", &Value::from(bytes), hex(&header));
        }
        self.check_flags(asked, reply)?;
        let question = hex(&asked.question());
        if !bytes[24..].starts_with(&question) {
            return Err(format!("the question is not repeated: {question} in {bytes}"));
        }
        if !tcp {
            let limit = asked.opt.as_ref().map_or(512, |opt| opt.payload.clamp(512, 1232));
            if bytes.len() / 2 > usize::from(limit) {
                return Err(format!("{} bytes over UDP, of {limit}", bytes.len() / 2));
            }
        }
        self.check_records(asked, reply)?;
        self.check_opt(asked, reply)
    }

    fn check_flags(&self, asked: &Question, reply: &Value) -> Result<(), String> {
        same("opcode", &reply["opcode"], "QUERY")?;
        let mut flags: Vec<_> = reply["flags"].as_str().unwrap_or_default().split(' ').collect();
        flags.sort_unstable();
        let mut expected = vec!["QR", "RA"];
        expected.extend(asked.has_rd().then_some("RD"));
        expected.extend(asked.has_cd().then_some("CD"));
        expected.extend(self.flag);
        expected.sort_unstable();
        if flags != expected {
            return Err(format!("flags are {flags:?}, not {expected:?}"));
        }
        Ok(())
    }

    fn check_records(&self, asked: &Question, reply: &Value) -> Result<(), String> {
        let authority: Vec<String> = match self.soa {
            Soa::None => Vec::new(),
            Soa::Own => vec![OWN_SOA.to_owned()],
            Soa::Lab => vec![LAB_SOA.to_owned()],
        };
        let shown = texts(&reply["answer"]);
        let count = match self.answer {
            Records::Count(count) => count,
            Records::Are(expected) => {
                let expected: Vec<_> = expected.iter().map(|it| (*it).to_owned()).collect();
                fit("answer", &shown, &expected)?;
                expected.len()
            }
        };
        let mut found = texts(&reply["authority"]);
        if self.soa == Soa::Own {
            // Its owner is the asked name, which need not be one that can be written.
            found.iter_mut().for_each(|it| {
                *it = it
                    .split_once(" 60 ")
                    .map_or_else(|| it.clone(), |(_, rest)| format!("60 {rest}"));
            });
        }
        fit("authority", &found, &authority)?;
        fit("additional", &texts(&reply["additional"]), &[])?;
        let opt = usize::from(asked.opt.is_some());
        let counts = serde_json::json!([1, count, authority.len(), opt]);
        same("counts", &reply["counts"], counts)
    }

    /// An OPT for who has sent one, and only then (RFC 6891 section 7).
    fn check_opt(&self, asked: &Question, reply: &Value) -> Result<(), String> {
        if asked.opt.is_none() {
            return same("OPT", &reply["edns"], -1);
        }
        same("EDNS version", &reply["edns"], 0)?;
        same("payload", &reply["payload"], 1232)?;
        same("EDNS flags", &reply["edns_flags"], if asked.has_dnssec_ok() { "DO" } else { "" })?;
        let options = reply["options"].as_array().map(Vec::as_slice).unwrap_or_default();
        match options {
            [] if !self.is_blocked => Ok(()),
            [error] if self.is_blocked => {
                same("option", &error["code"], 15)?;
                same("extended error", &error["ede"], BLOCKED)
            }
            _ => Err(format!("options are {options:?}")),
        }
    }
}

/// The id of what is sent behind a query that must stay unanswered.
pub const CONTROL_ID: u16 = 0xfeed;

fn rcode_bits(rcode: &str) -> u8 {
    match rcode {
        "FORMERR" => 1,
        "NOTIMP" => 4,
        other => panic!("{other} comes with its question"),
    }
}

fn same(what: &str, found: &Value, expected: impl Into<Value>) -> Result<(), String> {
    let expected = expected.into();
    if *found == expected {
        return Ok(());
    }
    Err(format!("{what} is {found}, not {expected}"))
}

fn texts(section: &Value) -> Vec<String> {
    let texts = section.as_array().into_iter().flatten();
    texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// The same records but for their age.
fn fit(what: &str, found: &[String], expected: &[String]) -> Result<(), String> {
    let fits = |(found, expected): (&String, &String)| {
        let split = |text: &str| -> Option<(String, u64, String)> {
            let mut words = text.splitn(3, ' ');
            let (owner, ttl) = (words.next()?, words.next()?);
            Some((owner.to_owned(), ttl.parse().ok()?, words.next()?.to_owned()))
        };
        found == expected
            || split(found).zip(split(expected)).is_some_and(|(found, expected)| {
                let oldest = expected.1.saturating_sub(AGE_MAX);
                (&found.0, &found.2) == (&expected.0, &expected.2)
                    && (oldest..=expected.1).contains(&found.1)
            })
    };
    if found.len() == expected.len() && found.iter().zip(expected).all(fits) {
        return Ok(());
    }
    Err(format!("{what} is {found:#?}, not {expected:#?}"))
}
