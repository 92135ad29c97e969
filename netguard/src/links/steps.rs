//! What has to be done to get from the links that a host has to those that are wanted. Pure: it
//! changes nothing, and finds every conflict before the first change.

use ipnet::IpNet;

use super::{
    Error, Host, Wanted, is_name,
    link::{Kind, Link},
};

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Make a bridge.
    Bridge { bridge: &'a str, mac: [u8; 6] },
    /// Make a TAP.
    Tap { port: &'a str },
    /// Give a bridge an address.
    Address { bridge: &'a str, address: IpNet },
    /// Put a port on a bridge.
    Join { port: &'a str, bridge: &'a str },
    /// Set or clear a port's flag.
    Isolate { port: &'a str, isolated: bool },
    /// Let an interface carry frames.
    Up { interface: &'a str },
}

impl<'a> Step<'a> {
    /// The interface that is made or changed.
    pub(super) fn interface(&self) -> &'a str {
        match *self {
            Self::Bridge { bridge, .. } | Self::Address { bridge, .. } => bridge,
            Self::Tap { port } | Self::Join { port, .. } | Self::Isolate { port, .. } => port,
            Self::Up { interface } => interface,
        }
    }

    /// True if the interface is new.
    pub(super) fn creates(&self) -> bool {
        matches!(self, Self::Bridge { .. } | Self::Tap { .. })
    }
}

/// The steps, in an order in which no port carries a frame before its flag is set. `alias` is the
/// mark of the links that are netguard's own; the others get what they lack and nothing else.
pub(super) fn decide<'a>(
    wanted: &'a [Wanted],
    host: &Host,
    alias: &str,
) -> Result<Vec<Step<'a>>, Error> {
    let mut steps = Vec::new();
    for wanted in wanted {
        let bridge = find(host, &wanted.bridge)?;
        for_bridge(wanted, bridge, host, alias, &mut steps)?;
        for port in &wanted.ports {
            for_port(wanted, bridge, port, find(host, port)?, alias, &mut steps)?;
        }
    }
    Ok(steps)
}

fn find<'a>(host: &'a Host, name: &str) -> Result<Option<&'a Link>, Error> {
    if !is_name(name) {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(host.link(name))
}

fn for_bridge<'a>(
    wanted: &'a Wanted,
    exists: Option<&Link>,
    host: &Host,
    alias: &str,
    steps: &mut Vec<Step<'a>>,
) -> Result<(), Error> {
    let bridge = wanted.bridge.as_str();
    match exists {
        Some(link) if link.kind != Kind::Bridge => {
            return Err(Error::Kind { interface: bridge.to_owned(), wanted: "bridge" });
        }
        Some(_) => {}
        None => steps.push(Step::Bridge { bridge, mac: wanted.mac }),
    }
    let lacks =
        |address: &IpNet| exists.is_none_or(|link| !host.has_address(link.index, address.addr()));
    let missing = wanted.addresses.iter().copied().filter(lacks);
    steps.extend(missing.map(|address| Step::Address { bridge, address }));
    if exists.is_none_or(|link| is_own(link, alias) && !link.is_up) {
        steps.push(Step::Up { interface: bridge });
    }
    Ok(())
}

fn for_port<'a>(
    wanted: &'a Wanted,
    on: Option<&Link>,
    port: &'a str,
    exists: Option<&Link>,
    alias: &str,
    steps: &mut Vec<Step<'a>>,
) -> Result<(), Error> {
    let (bridge, isolated) = (wanted.bridge.as_str(), wanted.isolated);
    let Some(link) = exists else {
        steps.extend([Step::Tap { port }, Step::Join { port, bridge }]);
        if isolated {
            steps.push(Step::Isolate { port, isolated });
        }
        steps.push(Step::Up { interface: port });
        return Ok(());
    };
    let interface = || port.to_owned();
    if !matches!(link.kind, Kind::Tap | Kind::Veth) {
        return Err(Error::Kind { interface: interface(), wanted: "TAP or veth" });
    }
    match link.controller {
        None => steps.push(Step::Join { port, bridge }),
        Some(index) if on.is_some_and(|bridge| bridge.index == index) => {}
        Some(_) => {
            return Err(Error::Elsewhere { interface: interface(), bridge: bridge.to_owned() });
        }
    }
    let is_own = is_own(link, alias);
    if link.isolated != isolated && (is_own || link.controller.is_none()) {
        steps.push(Step::Isolate { port, isolated });
    }
    if is_own && !link.is_up {
        steps.push(Step::Up { interface: port });
    }
    Ok(())
}

fn is_own(link: &Link, alias: &str) -> bool {
    link.alias.as_deref() == Some(alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "netguard host";

    fn link(index: u32, name: &str, kind: Kind, controller: Option<u32>, alias: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind,
            mac: [0; 6],
            controller,
            isolated: false,
            is_up: true,
            alias: (!alias.is_empty()).then(|| alias.to_owned()),
            group: 0,
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            bridge: "br-slot1".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: vec!["10.1.0.1/24".parse().unwrap()],
            ports: vec!["vm-slot1".to_owned()],
            isolated: true,
        }
    }

    fn steps(wanted: &Wanted, links: Vec<Link>, addresses: &[(u32, &str)]) -> Vec<String> {
        let addresses = addresses.iter().map(|(index, text)| (*index, text.parse().unwrap()));
        let host = Host::of(links, addresses);
        let decided = decide(std::slice::from_ref(wanted), &host, OWN);
        match decided {
            Ok(steps) => steps.iter().map(|step| format!("{step:?}")).collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn words(steps: &[String]) -> Vec<&str> {
        steps.iter().filter_map(|step| step.split(' ').next()).collect()
    }

    #[test]
    fn a_port_is_isolated_before_it_is_up() {
        let all = steps(&wanted(), Vec::new(), &[]);
        assert_eq!(words(&all), ["Bridge", "Address", "Up", "Tap", "Join", "Isolate", "Up"]);
    }

    #[test]
    fn what_is_there_and_ours_is_kept_as_wanted() {
        let mut port = link(3, "vm-slot1", Kind::Tap, Some(2), OWN);
        port.is_up = false;
        let links = vec![link(2, "br-slot1", Kind::Bridge, None, OWN), port];
        let all = steps(&wanted(), links, &[(2, "10.1.0.1")]);
        assert_eq!(words(&all), ["Isolate", "Up"]);
    }

    #[test]
    fn what_is_there_and_not_ours_gets_what_it_lacks_only() {
        let mut bridge = link(2, "br-slot1", Kind::Bridge, None, "netguard lab-ng");
        bridge.is_up = false;
        let port = link(3, "vm-slot1", Kind::Veth, Some(2), "");
        assert_eq!(words(&steps(&wanted(), vec![bridge, port], &[])), ["Address"]);
        let bridge = link(2, "br-slot1", Kind::Bridge, None, "");
        let port = link(3, "vm-slot1", Kind::Veth, None, "");
        let all = steps(&wanted(), vec![bridge, port], &[(2, "10.1.0.1")]);
        assert_eq!(words(&all), ["Join", "Isolate"]);
    }

    #[test]
    fn conflicts_name_the_interface_and_the_way_out() {
        let refused = |links| steps(&wanted(), links, &[]).remove(0);
        let bridge = || link(2, "br-slot1", Kind::Bridge, None, "");
        assert_eq!(
            refused(vec![link(2, "br-slot1", Kind::Veth, None, "")]),
            "br-slot1 exists and is no bridge; remove it (ip link del br-slot1) or give the slot \
             another name"
        );
        assert_eq!(
            refused(vec![bridge(), link(3, "vm-slot1", Kind::Other, None, "")]),
            "vm-slot1 exists and is no TAP or veth; remove it (ip link del vm-slot1) or give the \
             slot another name"
        );
        assert_eq!(
            refused(vec![bridge(), link(3, "vm-slot1", Kind::Tap, Some(9), OWN)]),
            "vm-slot1 is on something else than br-slot1; free it (ip link set vm-slot1 nomaster) \
             or give the slot another port"
        );
        for bad in ["", "vm%d", "all", "a/b", "sixteen-bytes-xx"] {
            let wanted = Wanted { ports: vec![bad.to_owned()], ..wanted() };
            assert!(steps(&wanted, vec![bridge()], &[])[0].contains("no interface name"), "{bad}");
        }
    }
}
