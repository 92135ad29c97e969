//! What of an upstream's answer is believed: the records that the asked name leads to, and nothing beside them.
//! Pure; messages in, records out.

use std::net::IpAddr;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::svcb::SvcParamKey},
};

use super::{addresses, wire};

/// In an RRSIG before the signer's name (RFC 4034 section 3.1).
const RRSIG_FIXED: usize = 18;

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) name: Name,
    pub(super) record_type: RecordType,
}

/// What may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Signatures and proofs too (RFC 4035 section 3.2.1).
    pub(super) dnssec_ok: bool,
    /// How many CNAME records may be followed.
    pub(super) hops: usize,
}

/// What is left.
#[derive(Debug)]
pub(super) struct Scrubbed {
    /// CNAME records and data, in the order of the chain.
    pub(super) answers: Vec<Record>,
    /// SOA of a negative answer, and proofs.
    pub(super) authorities: Vec<Record>,
    /// Every address at a name of the chain, kept or not.
    pub(super) addresses: Vec<IpAddr>,
    /// How many CNAME records were followed.
    pub(super) hops: usize,
    /// Where the chain ends.
    pub(super) end: End,
}

/// Where a chain of CNAME records ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At what was asked for.
    Data,
    /// At a name without it.
    NoData,
    /// At a name that does not exist.
    NxDomain,
    /// At a name about which the answer says nothing.
    Incomplete(Name),
    /// Nowhere: in a loop, or too far away.
    Endless,
}

/// Follows the chain from the wanted name. The code must be NOERROR or NXDOMAIN.
pub(super) fn scrub(wanted: &Wanted, message: Message, rules: Rules) -> Scrubbed {
    let code = message.metadata.response_code;
    let answers: Vec<_> = message.answers.into_iter().filter_map(normal).collect();
    let authorities: Vec<_> = message.authorities.into_iter().filter_map(normal).collect();
    let mut kept = Kept { rules, records: Vec::new(), signers: Vec::new() };
    let mut chain = vec![wanted.name.to_lowercase()];
    let mut seen = Vec::new();
    let end = loop {
        let name = &chain[chain.len() - 1];
        let here: Vec<_> = answers.iter().filter(|record| record.name == *name).collect();
        seen.extend(here.iter().flat_map(|record| addresses::of(record)));
        if here.iter().any(|record| wanted.fits(record)) {
            kept.take(&here, |record| wanted.fits(record));
            break End::Data;
        }
        let alias = here.iter().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((*record, &target.0)),
            _ => None,
        });
        let Some((record, target)) = alias else {
            let is_proven = || authorities.iter().any(|soa| is_proof(soa, name));
            break match code {
                ResponseCode::NXDomain => End::NxDomain, // of the last name (RFC 6604 section 3)
                _ if chain.len() == 1 || is_proven() => End::NoData,
                _ => End::Incomplete(name.clone()),
            };
        };
        if chain.len() > rules.hops || chain.contains(target) {
            break End::Endless;
        }
        let makes_alias = |record: &&Record| substitutes(record, name, target);
        for dname in answers.iter().filter(makes_alias) {
            let there: Vec<_> = answers.iter().filter(|record| record.name == dname.name).collect();
            kept.take(&there, |record| record.record_type() == RecordType::DNAME);
        }
        kept.take(&here, |other| other == record);
        chain.push(target.clone());
    };
    let authorities = kept.authorities(authorities, &chain, &end);
    let Kept { records: answers, .. } = kept;
    Scrubbed { answers, authorities, addresses: seen, hops: chain.len() - 1, end }
}

impl Wanted {
    fn fits(&self, record: &Record) -> bool {
        match self.record_type {
            // Whether HTTPS and SVCB may be known is decided when they are asked for by their own names.
            RecordType::ANY => {
                let found = record.record_type();
                !matches!(found, RecordType::HTTPS | RecordType::SVCB | RecordType::RRSIG)
            }
            record_type => record.record_type() == record_type,
        }
    }
}

struct Kept {
    rules: Rules,
    records: Vec<Record>,
    /// The zones that the kept records are signed by.
    signers: Vec<Name>,
}

impl Kept {
    /// The fitting records of one name, and their signatures.
    fn take(&mut self, here: &[&Record], fits: impl Fn(&Record) -> bool) {
        let fitting = || here.iter().filter(|record| fits(record));
        let covers = |signature: &Signature| {
            fitting().any(|record| u16::from(record.record_type()) == signature.covered)
        };
        self.records.extend(fitting().map(|record| Record::clone(record)));
        if self.rules.dnssec_ok {
            for record in here.iter().filter(|record| !fits(record)) {
                if let Some(signature) = Signature::of(record).filter(covers) {
                    self.records.push(Record::clone(record));
                    self.signers.push(signature.signer);
                }
            }
        }
    }

    /// Of the authority section: one SOA if the answer is negative (RFC 2308 section 2), and the proofs of the zones
    /// that the chain leads through.
    fn authorities(&self, records: Vec<Record>, chain: &[Name], end: &End) -> Vec<Record> {
        let last = &chain[chain.len() - 1];
        let is_negative = matches!(end, End::NoData | End::NxDomain);
        let soa = records.iter().find(|record| is_negative && is_proof(record, last)).cloned();
        let mut kept: Vec<_> = soa.iter().cloned().collect();
        if !self.rules.dnssec_ok {
            return kept;
        }
        let is_ancestor = |zone: &&Name| chain.iter().any(|name| zone.zone_of(name));
        let zones = self.signers.iter().chain(soa.iter().map(|soa| &soa.name));
        let zones: Vec<_> = zones.filter(is_ancestor).collect();
        let is_within = |record: &Record| zones.iter().any(|zone| zone.zone_of(&record.name));
        let is_soas = |signature: &Signature, owner: &Name| {
            signature.covered == u16::from(RecordType::SOA)
                && soa.as_ref().is_some_and(|soa| soa.name == *owner)
        };
        kept.extend(records.into_iter().filter(|record| {
            let is_kept = is_proof_type(record.record_type())
                || Signature::of(record).is_some_and(|signature| {
                    is_proof_type(RecordType::from(signature.covered))
                        || is_soas(&signature, &record.name)
                });
            is_kept && is_within(record)
        }));
        kept
    }
}

/// What an RRSIG says of itself.
struct Signature {
    covered: u16,
    signer: Name,
}

impl Signature {
    fn of(record: &Record) -> Option<Self> {
        if record.record_type() != RecordType::RRSIG {
            return None;
        }
        let data = wire::data_bytes(&record.data);
        let covered = u16::from_be_bytes(*data.first_chunk()?);
        // Never compressed (RFC 4034 section 3.1.7); the signature stands behind it.
        let signer = data.get(RRSIG_FIXED..)?;
        let signer = wire::read_name(signer.get(..wire::name_end(signer, 0)?)?)?;
        Some(Self { covered, signer })
    }
}

fn is_proof_type(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::NSEC | RecordType::NSEC3)
}

/// The SOA of a zone that the name is in.
fn is_proof(record: &Record, name: &Name) -> bool {
    record.record_type() == RecordType::SOA && record.name.zone_of(name)
}

/// Whether a DNAME record makes an alias of just that name to just that target (RFC 6672 section 2.2).
fn substitutes(record: &Record, name: &Name, target: &Name) -> bool {
    let is_above = record.name.zone_of(name) && record.name != *name;
    if record.record_type() != RecordType::DNAME || !is_above {
        return false;
    }
    let (owner, new) = (wire::name_bytes(&record.name), wire::data_bytes(&record.data));
    let (name, target) = (wire::name_bytes(name), wire::name_bytes(target));
    let prefix = name.strip_suffix(&*owner);
    let suffix = prefix.and_then(|prefix| target.strip_prefix(prefix));
    // A target that is compressed (against RFC 6672 section 2.5) would point anywhere in the new message.
    suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(&new))
}

/// A record as it may be kept: of class IN, its names in lower case so that none tells the case of the query, without
/// keys that would hide a TLS server's name from the policy.
fn normal(mut record: Record) -> Option<Record> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    record.name = record.name.to_lowercase();
    // All types with names that may be compressed, so be a pointer to the question (RFC 3597 section 4). Their case
    // is no part of what is signed (RFC 4034 section 6.2).
    match &mut record.data {
        RData::CNAME(name) => name.0 = name.0.to_lowercase(),
        RData::NS(name) => name.0 = name.0.to_lowercase(),
        RData::PTR(name) => name.0 = name.0.to_lowercase(),
        RData::MX(mx) => mx.exchange = mx.exchange.to_lowercase(),
        RData::SOA(soa) => {
            soa.mname = soa.mname.to_lowercase();
            soa.rname = soa.rname.to_lowercase();
        }
        RData::HTTPS(https) => https.0.svc_params.retain(|(key, _)| !is_ech(*key)),
        RData::SVCB(svcb) => svcb.svc_params.retain(|(key, _)| !is_ech(*key)),
        _ => {} // no names, or none that is ever a pointer
    }
    Some(record)
}

/// Encrypted client hello (RFC 9848 section 3).
fn is_ech(key: SvcParamKey) -> bool {
    key == SvcParamKey::EchConfigList
}

#[cfg(test)]
mod tests;
