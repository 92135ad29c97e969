//! Other programs (XDP, TC) on the interfaces that netguard guards, and on uplinks.

use std::collections::BTreeSet;

use super::{Check, Finding, Severity, list};
use crate::{datapath::OtherPrograms, links::Details};

/// An interface, and what others have on it.
pub(super) struct Looked<'a> {
    pub(super) link: &'a Details,
    pub(super) kind: Kind,
    pub(super) others: OtherPrograms,
}

/// What it is to netguard.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Port,
    Bridge,
    Uplink,
}

/// `own` are the kernel's numbers of netguard's programs; `name` knows that of any.
pub(super) fn check(
    interfaces: &[Looked<'_>],
    own: &BTreeSet<u32>,
    name: &dyn Fn(u32) -> String,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut generic = Vec::new();
    for Looked { link, kind, others } in interfaces {
        let at = &link.name;
        match link.xdp {
            Some((program, false)) if own.contains(&program) => generic.push(at.as_str()),
            Some((program, _)) if own.contains(&program) => {}
            Some((program, _)) => found.push(of_xdp(at, *kind, &name(program))),
            None => {}
        }
        let is_guarded = *kind != Kind::Uplink;
        for (list, before) in [(&others.before, true), (&others.behind, false)] {
            for other in list {
                let program = match other.program {
                    0 => "a filter of TC that is no program".to_owned(),
                    number => name(number),
                };
                let side = other.side;
                found.push(if before && is_guarded {
                    Finding {
                        check: Check::ProgramBefore,
                        severity: Severity::Weak,
                        what: format!("{program} runs before netguard's on {at} ({side})"),
                        why: "what it lets by or sends elsewhere, netguard never judges".to_owned(),
                        fix: format!(
                            "take it off (bpftool net show dev {at}), or let it run behind"
                        ),
                    }
                } else {
                    behind(at, side, &program)
                });
            }
        }
    }
    if let Some(first) = generic.first() {
        found.push(Finding {
            check: Check::Xdp,
            severity: Severity::Weak,
            what: format!("XDP runs in generic mode on {}", list(&generic)),
            why: "the driver has no XDP, so each packet is copied before it is judged".to_owned(),
            fix: format!("use a driver with XDP for {first} (tun, veth, virtio_net)"),
        });
    }
    found
}

fn behind(at: &str, side: &str, program: &str) -> Finding {
    Finding {
        check: Check::ProgramBehind,
        severity: Severity::Note,
        what: format!("{program} is on {at} too ({side})"),
        why: "it may drop or change what netguard lets pass, and netguard counts no such drop"
            .to_owned(),
        fix: format!(
            "look at it where packets are missing: bpftool net show dev {at}, tc filter show dev {at} {side}"
        ),
    }
}

fn of_xdp(at: &str, kind: Kind, program: &str) -> Finding {
    match kind {
        Kind::Uplink => Finding {
            check: Check::ProgramBehind,
            severity: Severity::Note,
            what: format!("{program} is the XDP of {at}"),
            why: "it sees replies to slots before anybody else, and may drop them".to_owned(),
            fix: format!("look at it where replies are missing: bpftool net show dev {at}"),
        },
        Kind::Port | Kind::Bridge => Finding {
            check: Check::Xdp,
            severity: Severity::Weak,
            what: format!("{program} is the XDP of {at}"),
            why: match kind {
                Kind::Bridge => "the kernel then refuses XDP to every port that joins the bridge",
                _ => "netguard's drop stage has no place there",
            }
            .to_owned(),
            fix: format!("ip link set dev {at} xdp off"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{found, links},
        *,
    };
    use crate::datapath::Other;

    const OWN: u32 = 7;
    const FOREIGN: u32 = 70;

    fn with(kind: Kind, xdp: Option<(u32, bool)>, others: OtherPrograms) -> Vec<Finding> {
        let link = Details { xdp, ..links()[0].clone() };
        let looked = [Looked { link: &link, kind, others }];
        check(&looked, &BTreeSet::from([OWN]), &|id| format!("program {id} (cls_other)"))
    }

    fn foreign() -> Vec<Other> {
        vec![Other { side: "ingress", program: FOREIGN }]
    }

    #[test]
    fn who_comes_before_and_who_behind() {
        let none = OtherPrograms::default;
        assert_eq!(with(Kind::Port, Some((OWN, true)), none()), []);
        let before = OtherPrograms { before: foreign(), ..none() };
        let weak = with(Kind::Port, None, before.clone());
        assert_eq!(found(&weak), [("weak", "program-before")]);
        assert!(weak[0].what.starts_with("program 70 (cls_other) runs before"), "{weak:?}");
        assert_eq!(found(&with(Kind::Uplink, None, before)), [("note", "program-behind")]);
        let behind = OtherPrograms { behind: foreign(), ..none() };
        assert_eq!(found(&with(Kind::Bridge, None, behind)), [("note", "program-behind")]);
    }

    #[test]
    fn xdp_is_in_the_driver_and_on_ports() {
        let xdp = |kind, xdp| with(kind, Some(xdp), OtherPrograms::default());
        assert_eq!(found(&xdp(Kind::Port, (OWN, false))), [("weak", "xdp")]);
        assert_eq!(found(&xdp(Kind::Port, (FOREIGN, true))), [("weak", "xdp")]);
        let bridge = xdp(Kind::Bridge, (FOREIGN, false));
        assert!(bridge[0].why.contains("joins the bridge"), "{bridge:?}");
        assert_eq!(found(&xdp(Kind::Uplink, (FOREIGN, true))), [("note", "program-behind")]);
    }
}
