//! One question, read out of a guest's bytes: strictly, in one pass, without allocating. What is not plainly a
//! query is not repaired but refused.

use crate::{Asked, WireName};

/// The length of a message's header.
pub const HEADER_LENGTH: usize = 12;
/// The type of the OPT pseudo-record (RFC 6891 section 6.1.2).
const OPT: u16 = 41;
const CLASS_IN: u16 = 1;

const FLAG_RESPONSE: u8 = 0x80;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_AUTHENTIC: u8 = 0x20;
const FLAG_CHECKING_DISABLED: u8 = 0x10;
const OPT_DNSSEC_OK: u8 = 0x80;

/// A guest's query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The message's number.
    pub id: u16,
    /// Recursion is desired.
    pub recursion_desired: bool,
    /// The guest understands the AD bit (RFC 6840 section 5.7).
    pub authentic: bool,
    /// The guest validates himself.
    pub checking_disabled: bool,
    /// The asked name.
    pub name: WireName,
    /// The asked type's number.
    pub record_type: u16,
    /// The asked class's number: the internet's, or the query is refused.
    pub class: u16,
    /// What its OPT record said, if it had one.
    pub edns: Option<Edns>,
}

/// What a guest's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The longest datagram that the guest can take.
    pub payload: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
}

impl Query {
    /// What of it leaves the host.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            name: self.name.lower(),
            record_type: self.record_type,
            dnssec_ok: self.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: self.checking_disabled,
        }
    }
}

/// Why a message is not answered as a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No query at all: silence, so that no two servers can be made to talk for ever.
    Silent,
    /// The message is no question that can be read.
    Header(Fault),
    /// The question could be read, but not what it is about.
    Question(Fault),
}

/// What is wrong with a message, and the code that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Lengths, counts or fields that contradict each other.
    Malformed,
    /// An operation other than a query.
    Opcode,
    /// A version of EDNS that does not exist yet (RFC 6891 section 6.1.3).
    EdnsVersion,
    /// A class other than the internet's.
    Class,
}

impl Fault {
    /// The response code.
    #[must_use]
    pub const fn rcode(self) -> u16 {
        match self {
            Self::Malformed => 1,
            Self::Opcode => 4,
            Self::EdnsVersion => 16,
            Self::Class => 5,
        }
    }

    /// What the log says.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Opcode => "opcode",
            Self::EdnsVersion => "edns version",
            Self::Class => "class",
        }
    }
}

/// Reads a message. With [`Unfit::Question`] what could be read is in `query` too.
///
/// # Errors
///
/// It is no question that netguard decides.
pub fn read(bytes: &[u8], query: &mut Query) -> Result<(), Unfit> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LENGTH>() else {
        return Err(Unfit::Silent);
    };
    let [id0, id1, flags0, flags1, qd0, qd1, an0, an1, ns0, ns1, ar0, ar1] = *header;
    query.id = u16::from_be_bytes([id0, id1]);
    query.recursion_desired = flags0 & FLAG_RECURSION_DESIRED != 0;
    query.authentic = flags1 & FLAG_AUTHENTIC != 0;
    query.checking_disabled = flags1 & FLAG_CHECKING_DISABLED != 0;
    query.name.clear();
    query.record_type = 0;
    query.class = CLASS_IN;
    query.edns = None;
    if flags0 & FLAG_RESPONSE != 0 {
        return Err(Unfit::Silent);
    }
    if flags0 >> 3 & 0x0f != 0 {
        return Err(Unfit::Header(Fault::Opcode));
    }
    let malformed = Err(Unfit::Header(Fault::Malformed));
    // One question (RFC 9619), no answers; of additional records an OPT at most.
    let additional = u16::from_be_bytes([ar0, ar1]);
    if [qd0, qd1, an0, an1, ns0, ns1] != [0, 1, 0, 0, 0, 0] || additional > 1 {
        return malformed;
    }
    let Some(rest) = query.name.read(rest) else { return malformed };
    let Some(([type0, type1, class0, class1], rest)) = rest.split_first_chunk::<4>() else {
        query.name.clear();
        return malformed;
    };
    query.record_type = u16::from_be_bytes([*type0, *type1]);
    query.class = u16::from_be_bytes([*class0, *class1]);
    let mut version = 0;
    if additional == 1 {
        let Some((edns, its_version)) = read_opt(rest) else { return malformed };
        query.edns = Some(edns);
        version = its_version;
    } else if !rest.is_empty() {
        return malformed;
    }
    if version != 0 {
        return Err(Unfit::Question(Fault::EdnsVersion));
    }
    if query.class != CLASS_IN {
        return Err(Unfit::Question(Fault::Class));
    }
    Ok(())
}

/// The OPT record that is all the rest of a message (RFC 6891 section 6.1.2), and its version. Its options must
/// be whole; what they say is nobody's business upstream.
fn read_opt(bytes: &[u8]) -> Option<(Edns, u8)> {
    let ([root, type0, type1, size0, size1, _rcode, version, flags, _, len0, len1], mut options) =
        bytes.split_first_chunk::<11>()?;
    if *root != 0 || u16::from_be_bytes([*type0, *type1]) != OPT {
        return None;
    }
    if options.len() != usize::from(u16::from_be_bytes([*len0, *len1])) {
        return None;
    }
    while !options.is_empty() {
        let ([_, _, len0, len1], rest) = options.split_first_chunk::<4>()?;
        options = rest.get(usize::from(u16::from_be_bytes([*len0, *len1]))..)?;
    }
    let payload = u16::from_be_bytes([*size0, *size1]);
    Some((Edns { payload, dnssec_ok: flags & OPT_DNSSEC_OK != 0 }, *version))
}

impl Default for Query {
    fn default() -> Self {
        Self {
            id: 0,
            recursion_desired: false,
            authentic: false,
            checking_disabled: false,
            name: WireName::root(),
            record_type: 0,
            class: CLASS_IN,
            edns: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::Message,
        rr::{Name, RecordType},
    };

    use super::*;

    fn bytes(edit: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        let name = Name::from_ascii("WWW.Example.com.").unwrap();
        message.add_query(hickory_proto::op::Query::query(name, RecordType::AAAA));
        edit(&mut message);
        message.to_vec().unwrap()
    }

    fn fault(bytes: &[u8]) -> Unfit {
        read(bytes, &mut Query::default()).expect_err("it was read")
    }

    #[test]
    fn what_hickory_writes_is_read() {
        let mut query = Query::default();
        let with_opt = bytes(|message| {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(4096);
            edns.set_dnssec_ok(true);
            message.set_edns(edns);
        });
        read(&with_opt, &mut query).unwrap();
        assert_eq!((query.id, query.record_type), (7, 28));
        assert_eq!(query.name.lower(), b"\x03www\x07example\x03com\x00");
        assert_eq!(query.name.as_sent(), b"\x03WWW\x07Example\x03com\x00");
        assert_eq!(query.edns, Some(Edns { payload: 4096, dnssec_ok: true }));
        read(&bytes(|_| {}), &mut query).unwrap();
        assert_eq!(query.edns, None, "nothing of an earlier query stays");
    }

    #[test]
    fn every_prefix_and_every_longer_message_is_refused() {
        let whole = bytes(|_| {});
        for length in 0..whole.len() {
            assert!(read(&whole[..length], &mut Query::default()).is_err(), "{length} bytes");
        }
        let trailing = [&whole[..], &[0]].concat();
        assert_eq!(fault(&trailing), Unfit::Header(Fault::Malformed));
    }

    #[test]
    fn what_is_no_plain_question_gets_the_code_that_says_so() {
        let patched = |at: usize, value: u8| {
            let mut message = bytes(|_| {});
            message[at] = value;
            fault(&message)
        };
        let malformed = Unfit::Header(Fault::Malformed);
        assert_eq!(patched(2, 0x81), Unfit::Silent, "a response");
        assert_eq!(patched(2, 0x29), Unfit::Header(Fault::Opcode), "UPDATE");
        assert_eq!(patched(5, 0), malformed, "no question");
        assert_eq!(patched(5, 2), malformed, "two questions");
        assert_eq!(patched(7, 1), malformed, "an answer");
        assert_eq!(patched(9, 1), malformed, "an authority");
        assert_eq!(patched(11, 1), malformed, "an additional record that is not there");
        assert_eq!(patched(12, 0xc0), malformed, "a compressed question");
        assert_eq!(patched(12, 0x40), malformed, "a label type of RFC 2673");
        let last = bytes(|_| {}).len() - 1;
        assert_eq!(patched(last, 3), Unfit::Question(Fault::Class), "CHAOS");
    }

    #[test]
    fn an_opt_must_be_whole_alone_and_of_version_0() {
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        let with = |records: &[&[u8]]| {
            let mut message = bytes(|_| {});
            message[11] = records.len() as u8;
            message.extend(records.concat());
            read(&message, &mut Query::default())
        };
        assert_eq!(with(&[&opt]), Ok(()));
        let malformed = Err(Unfit::Header(Fault::Malformed));
        assert_eq!(with(&[&opt, &opt]), malformed, "two OPT");
        let edit = |at: usize, value: u8| {
            let mut record = opt;
            record[at] = value;
            with(&[&record])
        };
        assert_eq!(edit(0, 1), malformed, "an OPT with a name");
        assert_eq!(edit(2, 1), malformed, "an A record in its place");
        assert_eq!(edit(10, 1), malformed, "an option beyond the end");
        assert_eq!(edit(6, 1), Err(Unfit::Question(Fault::EdnsVersion)));
        let mut cookie = opt.to_vec();
        cookie[10] = 5;
        cookie.extend([0, 10, 0, 1, 7]);
        assert_eq!(with(&[&cookie]), Ok(()));
        cookie[14] = 2;
        assert_eq!(with(&[&cookie]), malformed, "an option that ends beyond the record");
    }
}
