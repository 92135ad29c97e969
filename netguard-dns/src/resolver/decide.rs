//! What a query gets: what can be said without an answer, and what an answer becomes for the slot that asks.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Asking, Decided, Resolver};
use crate::{
    Blocked, Decision, Denial, Kept, Listed, PinError, Ports, Rule,
    query::Query,
    reply::{self, NOERROR, NXDOMAIN, REFUSED, SERVFAIL},
    rules, write_name,
};

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;
/// OPT, and the types that are about messages and zones, not names (RFC 6895 section 3.1).
const fn is_meta(record_type: u16) -> bool {
    matches!(record_type, 0 | 41 | 128..=254)
}

impl Resolver {
    /// What can be decided without an answer, or the rule that allows the name, which must then be answered. None does of what
    /// only an audited slot is answered.
    pub(super) fn decide<'a>(
        &self,
        asking: &Asking<'a>,
        query: &Query,
        name: &mut String,
        out: &mut Vec<u8>,
    ) -> Result<Option<Rule<'a>>, Decided<'a>> {
        let Asking { rules, own, slot, now, .. } = *asking;
        let refuse = |why, out: &mut Vec<u8>| {
            reply::empty(query, REFUSED, None, out);
            Err((Decision::Refused(why), REFUSED))
        };
        if is_meta(query.record_type) {
            return refuse("type", out);
        }
        if query.name.lower().len() > rules.name_max {
            return refuse("name-length", out);
        }
        if rules::is_localhost(&query.name) {
            match query.record_type {
                TYPE_A => reply::address(query, Ipv4Addr::LOCALHOST.into(), out),
                TYPE_AAAA => reply::address(query, Ipv6Addr::LOCALHOST.into(), out),
                _ => reply::nothing(query, NOERROR, None, out), // it has nothing else
            }
            return Err((Decision::Local("localhost"), NOERROR));
        }
        let deny = |denial: Denial, rule, rcode, out: &mut Vec<u8>| {
            reply::nothing(query, rcode, Some(denial.told()), out);
            Err((Decision::Denied(denial, rule), rcode))
        };
        let is_audited = || {
            let is_root = query.name.labels().is_empty();
            own.audit && !is_root && rules::local(&query.name).is_none()
        };
        let rule = match own.allowlist.decide(&query.name) {
            _ if !query.name.is_host_name() => {
                return deny(Denial::OddName, None, NXDOMAIN, out);
            }
            Listed::Allowed(rule) => Some(rule),
            Listed::Above | Listed::Unlisted if is_audited() => None,
            Listed::Above => return deny(Denial::Unlisted, None, NOERROR, out),
            Listed::Excepted(rule) => return deny(Denial::Exception, Some(rule), NXDOMAIN, out),
            // The root lies above everything, also above an empty list.
            Listed::Unlisted if query.name.labels().is_empty() => {
                return deny(Denial::Unlisted, None, NOERROR, out);
            }
            Listed::Unlisted => {
                let Some(why) = rules::local(&query.name) else {
                    return deny(Denial::Unlisted, None, NXDOMAIN, out);
                };
                reply::nothing(query, NXDOMAIN, None, out);
                return Err((Decision::Local(why), NXDOMAIN));
            }
        };
        name.clear();
        // What a host name has is ASCII.
        write_name(query.name.lower(), |part| name.push_str(str::from_utf8(part).unwrap_or("?")));
        if self.pins.is_denied(slot.id, name, now) {
            return deny(Denial::RunTime, rule, NXDOMAIN, out);
        }
        if query.record_type == TYPE_ANY {
            reply::any(query, out);
            return Err((Decision::Local("any"), NOERROR));
        }
        if !rules.answers_type(query.record_type) {
            return deny(Denial::Type, rule, NOERROR, out);
        }
        Ok(rule)
    }

    /// Writes the reply from an answer, after its addresses are pinned. What no rule allows pins nothing.
    pub(super) fn deliver<'a>(
        &self,
        asking: &Asking<'a>,
        rule: Option<Rule<'a>>,
        query: &Query,
        name: &str,
        kept: &Kept,
        out: &mut Vec<u8>,
    ) -> Decided<'a> {
        let Asking { own, slot, now, .. } = *asking;
        let answer = &*kept.answer;
        if let Some(Blocked::Rebinding(_)) = answer.blocked {
            let denial = Denial::Rebinding;
            reply::nothing(query, NOERROR, Some(denial.told()), out);
            return (Decision::Denied(denial, rule), NOERROR);
        }
        if let Some(rule) = rule
            && own.pinned
            && !answer.addresses.is_empty()
        {
            let addresses = &answer.addresses;
            let ports = rule.ports().unwrap_or(&Ports::ANY);
            match self.pins.pin(slot.id, name, addresses, ports, kept.until.max(now), now) {
                Ok(()) => {}
                Err(PinError::Denied) => {
                    let denial = Denial::RunTime;
                    reply::nothing(query, NXDOMAIN, Some(denial.told()), out);
                    return (Decision::Denied(denial, Some(rule)), NXDOMAIN);
                }
                Err(PinError::Full) => {
                    reply::empty(query, SERVFAIL, Some("too many addresses pinned"), out);
                    return (Decision::Refused("pins-full"), SERVFAIL);
                }
                Err(PinError::Kernel(_) | PinError::NoSlot(_)) => {
                    reply::empty(query, SERVFAIL, None, out);
                    return (Decision::Refused("pin-failed"), SERVFAIL);
                }
            }
        }
        if !answer.addresses.is_empty() {
            slot.told.remember(name, &answer.addresses);
        }
        let age = u32::try_from(kept.age(now).as_secs()).unwrap_or(u32::MAX);
        reply::answer(query, answer, age, reply::limit(query, asking.client.transport), out);
        if rule.is_none() {
            slot.learnt.remember(name);
        }
        (Decision::of(rule), answer.rcode)
    }
}
