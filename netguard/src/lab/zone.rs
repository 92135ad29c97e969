//! What the resolvers of the lab's internet know: its hosts, and below `lab.example` one name for each form that an
//! answer can have. Pure: questions in, answers out.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{
            A, AAAA, CNAME, HTTPS, MX, SOA, SRV, SVCB, TXT,
            svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue},
        },
    },
};

/// The zone of what follows. Its negative answers have a SOA; those of other zones have none.
const ORIGIN: &str = "lab.example";
/// Two addresses of [`super::internet`]'s hosts, and two that nobody may be led to.
const PUBLIC: [u8; 4] = [203, 0, 113, 15];
const ALSO_PUBLIC: [u8; 4] = [203, 0, 113, 14];
const PRIVATE: [u8; 4] = [10, 9, 9, 9];
const METADATA: [u8; 4] = [169, 254, 169, 254];

/// An alias whose target the server does not add, though it knows it: the client must ask again.
const HALF: &str = "half.lab.example";
/// What is at this name and below is answered late.
const LATE: &str = "late.lab.example";
/// Later than a quick answer on any machine, and sooner than netguard gives up (4 s).
const LATENESS: Duration = Duration::from_millis(1500);
/// A name that the server says it cannot answer.
const BROKEN: &str = "broken.lab.example";
/// A name whose answer the server says it has validated.
const AUTHENTIC: &str = "authentic.lab.example";

/// `A-B-C-D.ip.github.com` has the address A.B.C.D and no other: as many names as a test wants to ask for.
const EACH_ADDRESS: &str = ".ip.github.com";

/// What the resolvers know.
pub(super) struct Zone {
    /// `*.name` stands for everything below the name.
    names: BTreeMap<String, Vec<(u32, RData)>>,
}

/// An answer, and how long the server takes to give it.
pub(super) struct Reply {
    pub(super) message: Message,
    pub(super) after: Duration,
}

impl Zone {
    /// These hosts, with an address of each family, and every name below [`ORIGIN`].
    pub(super) fn new(hosts: &[(&str, &str, &str)]) -> Self {
        let mut zone = Self { names: BTreeMap::new() };
        for (name, v4, v6) in hosts {
            for address in [*v4, *v6].iter().filter_map(|text| text.parse().ok()) {
                zone.add(name, 300, to(address));
            }
        }
        // An allowed name whose owner points it at the metadata service.
        zone.add("metadata.github.com", 300, a(METADATA));
        // A name whose answer is too long for UDP.
        for host in 0..120 {
            zone.add("long.github.com", 300, a([198, 51, 100, host]));
        }
        // An alias, and addresses behind it that no list has a name for.
        zone.add("alias.github.com", 300, alias("edge.cdn.example"));
        zone.add("edge.cdn.example", 300, a([203, 0, 113, 20]));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x20);
        zone.add("edge.cdn.example", 300, to(v6.into()));
        zone.add_forms();
        zone
    }

    fn add_forms(&mut self) {
        self.add(ORIGIN, 600, soa());
        // Aliases: as many as are followed, one more, to a name that no allowlist has, and half of one.
        for (name, hops) in [("chain8", 8), ("chain9", 9)] {
            let at = |hop: u8| match hop {
                0 => format!("{name}.{ORIGIN}"),
                hop => format!("hop{hop}.{name}.{ORIGIN}"),
            };
            for hop in 0..hops {
                self.add(&at(hop), 300, alias(&at(hop + 1)));
            }
            self.add(&at(hops), 300, a(PUBLIC));
        }
        self.add("alias.lab.example", 300, alias("cdn.unlisted.example"));
        self.add("cdn.unlisted.example", 300, a(PUBLIC));
        self.add(HALF, 300, alias("rest.lab.example"));
        self.add("rest.lab.example", 300, a(PUBLIC));
        self.add("loop.lab.example", 300, alias("loop.lab.example"));
        // Times to live: longer and shorter than what is kept.
        self.add("old.lab.example", 86_400, a(PUBLIC));
        self.add("young.lab.example", 7, a(PUBLIC));
        // Too long for a client without EDNS, not for one with it.
        for host in 0..50 {
            self.add("wide.lab.example", 300, a([198, 51, 100, host]));
        }
        // Other types than addresses.
        self.add("mail.lab.example", 300, RData::MX(MX::new(10, name("www.lab.example"))));
        let texts = vec!["v=spf1 -all".to_owned(), "second".to_owned()];
        self.add("mail.lab.example", 300, RData::TXT(TXT::new(texts)));
        let srv = RData::SRV(SRV::new(1, 2, 5060, name("www.lab.example")));
        self.add("_sip._udp.lab.example", 300, srv);
        self.add("service.lab.example", 300, a(PUBLIC));
        self.add("service.lab.example", 300, https(PUBLIC));
        self.add("trap.lab.example", 300, https(PRIVATE));
        // Addresses that are not public: alone, and behind one that is.
        self.add("private.lab.example", 300, a(PRIVATE));
        self.add("inside.lab.example", 300, a(PRIVATE));
        self.add("mixed.lab.example", 300, a(PUBLIC));
        self.add("mixed.lab.example", 300, a(PRIVATE));
        self.add(
            "mapped.lab.example",
            300,
            RData::AAAA(AAAA(Ipv4Addr::from(PUBLIC).to_ipv6_mapped())),
        );
        self.add("hidden.lab.example", 300, alias("private.lab.example"));
        // Everything below: as many names as a test asks for.
        self.add("*.any.lab.example", 300, a(PUBLIC));
        self.add("*.any.lab.example", 300, a(ALSO_PUBLIC));
        self.add(
            "*.any.lab.example",
            300,
            RData::AAAA(AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x15))),
        );
        for late in [LATE, "*.late.lab.example", AUTHENTIC] {
            self.add(late, 300, a(PUBLIC));
        }
    }

    fn add(&mut self, name: &str, ttl: u32, data: RData) {
        self.names.entry(name.to_owned()).or_default().push((ttl, data));
    }

    /// The records of a name, of any type; none if there is no such name.
    fn at(&self, name: &str) -> Option<Cow<'_, [(u32, RData)]>> {
        if let Some(address) = name.strip_suffix(EACH_ADDRESS) {
            let address: Ipv4Addr = address.replace('-', ".").parse().ok()?;
            return Some(vec![(300, to(address.into()))].into());
        }
        let above = name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..]));
        let mut known = [name.to_owned()].into_iter().chain(above);
        known.find_map(|name| self.names.get(&name)).map(Cow::from)
    }

    /// The answer to a question.
    pub(super) fn answer(&self, id: u16, recursion_desired: bool, question: &Query) -> Reply {
        let asked = text(question.name());
        let kind = question.query_type();
        let mut message = Message::response(id, OpCode::Query);
        message.metadata.recursion_desired = recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.authentic_data = asked == AUTHENTIC;
        message.add_query(question.clone());
        let is_late = asked.ends_with(LATE);
        let after = if is_late { LATENESS } else { Duration::ZERO };
        if asked == BROKEN {
            message.metadata.response_code = ResponseCode::ServFail;
            return Reply { message, after };
        }
        let mut owner = question.name().clone();
        let mut at = asked.clone();
        // A chain ends; one that is a loop is told once.
        for _ in 0..16 {
            let Some(records) = self.at(&at) else {
                message.metadata.response_code = ResponseCode::NXDomain;
                break;
            };
            let fits = |data: &RData| data.record_type() == kind;
            for (ttl, data) in records.iter().filter(|(_, data)| fits(data)) {
                message.add_answer(Record::from_rdata(owner.clone(), *ttl, data.clone()));
            }
            let mut aliases = records.iter().filter(|(_, data)| !fits(data));
            let target = aliases.find_map(|(ttl, data)| match data {
                RData::CNAME(target) => Some((*ttl, target)),
                _ => None,
            });
            let Some((ttl, target)) = target else { break };
            message.add_answer(Record::from_rdata(owner, ttl, RData::CNAME(target.clone())));
            owner = target.0.clone();
            let next = text(&owner);
            if at == HALF || next == at {
                return Reply { message, after };
            }
            at = next;
        }
        let found = message.answers.last().is_some_and(|last| last.record_type() == kind);
        if !found && at.ends_with(ORIGIN) {
            message.add_authority(Record::from_rdata(name(ORIGIN), 600, soa()));
        }
        Reply { message, after }
    }
}

/// A name in lower case, without its final dot.
pub(super) fn text(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap_or_default() // those above are names
}

fn to(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn a(address: [u8; 4]) -> RData {
    to(address.into())
}

fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

/// What does not exist may be remembered for 40 s.
fn soa() -> RData {
    RData::SOA(SOA::new(name("ns.lab.example"), name("root.lab.example"), 1, 3600, 600, 86_400, 40))
}

/// With an address, and a key that would hide the names of what is asked for.
fn https(hint: [u8; 4]) -> RData {
    let parameters = vec![
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".to_owned()]))),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A(hint.into())]))),
        (
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(EchConfigList(b"\0\x03ECH".to_vec())),
        ),
    ];
    RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), parameters)))
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;

    fn answer(text: &str, kind: RecordType) -> Message {
        let zone = Zone::new(&[("www.lab.example", "203.0.113.15", "2001:db8:113::15")]);
        zone.answer(7, true, &Query::query(name(text), kind)).message
    }

    #[test]
    fn each_form_is_what_it_says() {
        for (asked, kind, records) in [
            ("WWW.lab.example", RecordType::A, 1),
            ("chain8.lab.example", RecordType::A, 9),
            ("chain9.lab.example", RecordType::A, 10),
            ("alias.lab.example", RecordType::CNAME, 1),
            ("half.lab.example", RecordType::A, 1),
            ("loop.lab.example", RecordType::A, 1),
            ("x.y.any.lab.example", RecordType::A, 2),
            ("mail.lab.example", RecordType::A, 0),
            ("nothing.lab.example", RecordType::A, 0),
        ] {
            let reply = answer(asked, kind);
            assert_eq!(reply.answers.len(), records, "{asked}");
            assert_eq!(reply.authorities.len(), usize::from(records == 0), "{asked}");
        }
        let code = |asked| answer(asked, RecordType::A).metadata.response_code;
        assert_eq!(code("nothing.lab.example"), ResponseCode::NXDomain);
        assert_eq!(code("mail.lab.example"), ResponseCode::NoError);
        assert_eq!(code(BROKEN), ResponseCode::ServFail);
    }
}
