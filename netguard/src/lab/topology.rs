//! The lab's wiring, as the batches of `ip` commands that a person would type.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use super::{
    Error, PortKind,
    guests::{self, Guest},
    internet, namespace,
};
use crate::policy::{Policy, Slot};

/// The hosts besides the guests: hypervisor, internet, management peer.
pub(super) const HOSTS: [&str; 3] = ["hv", "net", "mgmt"];

/// The uplink's two ends and the management network's, hypervisor first.
const UPLINK: [&str; 2] = ["192.0.2.2", "192.0.2.1"];
const UPLINK6: [&str; 2] = ["2001:db8:ffff::2", "2001:db8:ffff::1"];
const MANAGEMENT: [&str; 2] = ["100.64.0.1", "100.64.0.2"];

/// The interface towards the lab's internet, if the policy does not name its own.
const UPLINK_NAME: &str = "uplink0";

/// Builds every namespace, interface, address and route.
pub(super) fn build(name: &str, policy: &Policy, ports: PortKind) -> Result<(), Error> {
    let of = |host: &str| format!("{name}-{host}");
    let guests = guests::of(&policy.slots).map(|guest| guest.host);
    let hosts: Vec<_> = HOSTS.into_iter().map(str::to_owned).chain(guests).collect();
    let mut namespaces = String::new();
    for host in &hosts {
        let _ = writeln!(namespaces, "netns add {}", of(host));
    }
    ip(None, &namespaces)?;
    for host in &hosts {
        namespace::within(&of(host), move || set_sysctls(host == "hv" || host == "net"))?;
    }
    ip(Some(&of("hv")), &hypervisor(policy, ports, &of))?;
    namespace::within(&of("hv"), || silence_ports(policy))?;
    for guest in guests::of(&policy.slots) {
        ip(Some(&of(&guest.host)), &guest_side(&guest, ports))?;
    }
    ip(Some(&of("net")), &internet(policy))?;
    ip(Some(&of("mgmt")), &management(policy))
}

/// A port is a wire, not a host: it has no IPv6 of its own to tell its guest about.
fn silence_ports(policy: &Policy) -> Result<(), Error> {
    for Guest { port, .. } in guests::of(&policy.slots) {
        write_sysctl(&format!("ipv6/conf/{port}/disable_ipv6"), "1")?;
    }
    Ok(())
}

fn set_sysctls(is_router: bool) -> Result<(), Error> {
    let mut settings = vec![
        // The lab's addresses are unique by construction: no waiting for duplicate detection.
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
    ];
    if is_router {
        settings.push(("ipv4/ip_forward", "1"));
        settings.push(("ipv6/conf/all/forwarding", "1"));
        // A new namespace hands bridged frames to the host's iptables by default.
        settings.push(("bridge/bridge-nf-call-iptables", "0"));
        settings.push(("bridge/bridge-nf-call-ip6tables", "0"));
    }
    for (key, value) in settings {
        write_sysctl(key, value)?;
    }
    Ok(())
}

/// Writes to the `/proc/sys/net` of the calling thread's namespace.
fn write_sysctl(key: &str, value: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/net/{key}");
    match fs::write(&path, value) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::system(format!("set {path}"))(error))
        }
        _ => Ok(()), // a kernel without br_netfilter has neither its keys nor its behaviour
    }
}

fn hypervisor(policy: &Policy, ports: PortKind, of: &dyn Fn(&str) -> String) -> String {
    let mut batch = format!(
        "link set lo up
         link add {name} type veth peer name eth0 netns {net}
         addr add {uplink}/24 dev {name}
         addr add {uplink6}/64 dev {name}
         link set {name} up
         link add tailscale0 type veth peer name eth0 netns {mgmt}
         addr add {management}/10 dev tailscale0
         link set tailscale0 up
         route add default via {gateway}
         route add default via {gateway6}
        ",
        name = policy.host.uplinks.first().map_or(UPLINK_NAME, String::as_str),
        net = of("net"),
        mgmt = of("mgmt"),
        uplink = UPLINK[0],
        uplink6 = UPLINK6[0],
        management = MANAGEMENT[0],
        gateway = UPLINK[1],
        gateway6 = UPLINK6[1],
    );
    let subnets = || policy.slots.iter().flat_map(|slot| &slot.subnets);
    for address in policy.gate.iter().flat_map(|gate| &gate.addresses) {
        // In no slot: the host's own.
        if !subnets().any(|subnet| subnet.prefix.contains(address)) {
            let _ = writeln!(batch, "addr add {address} dev lo");
        }
    }
    let mut bridges: Vec<&str> = Vec::new();
    for slot in &policy.slots {
        let bridge = slot.bridge.as_str();
        if !bridges.contains(&bridge) {
            bridges.push(bridge);
            let _ = writeln!(batch, "link add {bridge} address {} type bridge", bridge_mac(slot));
        }
        for subnet in &slot.subnets {
            let (gateway, length) = (subnet.gateway, subnet.prefix.prefix_len());
            let _ = writeln!(batch, "addr add {gateway}/{length} dev {bridge}");
        }
    }
    for guest in guests::of(&policy.slots) {
        let (bridge, port) = (&guest.slot.bridge, &guest.port);
        let _ = match ports {
            PortKind::Veth => writeln!(
                batch,
                "link add {port} type veth peer name eth0 address {} netns {}",
                guest.mac(),
                of(&guest.host)
            ),
            PortKind::Tap | PortKind::Qemu => {
                writeln!(batch, "tuntap add dev {port} mode tap vnet_hdr")
            }
        };
        let _ = writeln!(batch, "link set {port} master {bridge} up\nlink set {bridge} up");
    }
    batch
}

fn guest_side(guest: &Guest<'_>, ports: PortKind) -> String {
    let mut batch = String::from("link set lo up\n");
    if ports == PortKind::Qemu {
        return batch; // the guest is a virtual machine; the host of its name stays empty
    }
    if ports == PortKind::Tap {
        let _ = writeln!(
            batch,
            "tuntap add dev eth0 mode tap vnet_hdr\nlink set eth0 address {}",
            guest.mac()
        );
    }
    let _ = writeln!(batch, "link set eth0 up");
    for subnet in &guest.slot.subnets {
        let Some(address) = guest.address(subnet) else {
            continue;
        };
        let (gateway, length) = (subnet.gateway, subnet.prefix.prefix_len());
        let _ = writeln!(
            batch,
            "addr add {address}/{length} dev eth0\nroute add default via {gateway}"
        );
    }
    batch
}

fn internet(policy: &Policy) -> String {
    let mut batch = format!(
        "link set lo up\naddr add {}/24 dev eth0\naddr add {}/64 dev eth0\nlink set eth0 up\n",
        UPLINK[1], UPLINK6[1]
    );
    for address in internet::addresses() {
        // Duplicate detection ends in a work queue of the kernel even where there is none: until then nobody can
        // bind to the address (net/ipv6/addrconf.c, addrconf_dad_begin).
        let nodad = if address.contains(':') { " nodad" } else { "" };
        let _ = writeln!(batch, "addr add {address} dev lo{nodad}");
    }
    let _ = writeln!(batch, "route add local {} dev lo", internet::ALL_OF);
    for subnet in policy.slots.iter().flat_map(|slot| &slot.subnets) {
        let (prefix, v4) = (subnet.prefix, subnet.prefix.addr().is_ipv4());
        let via = if v4 { UPLINK[0] } else { UPLINK6[0] };
        let _ = writeln!(batch, "route add {prefix} via {via}");
    }
    batch
}

fn management(policy: &Policy) -> String {
    let mut batch =
        format!("link set lo up\naddr add {}/10 dev eth0\nlink set eth0 up\n", MANAGEMENT[1]);
    for subnet in policy.slots.iter().flat_map(|slot| &slot.subnets) {
        if subnet.prefix.addr().is_ipv4() {
            let _ = writeln!(batch, "route add {} via {}", subnet.prefix, MANAGEMENT[0]);
        }
    }
    batch
}

/// A locally administered address: the same in every lab, so that logs compare.
fn bridge_mac(slot: &Slot) -> String {
    let [high, low] = slot.id.to_be_bytes();
    format!("02:6e:67:{high:02x}:{low:02x}:01")
}

/// Runs a batch of `ip` commands, in a namespace or in none.
fn ip(namespace: Option<&str>, batch: &str) -> Result<(), Error> {
    let failed = |message: String| Error::Program { program: "ip (iproute2)", message };
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
