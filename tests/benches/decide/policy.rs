//! The policy of so many slots, all alike.

use std::fmt::Write as _;

/// Slot 1 with a port that exists, and as many like it as are asked for. All may reach the host, so that
/// opening a flow asks no routing: the namespace has none. Each may open one port of a private network.
pub fn policy(slots: u16, port: u16) -> String {
    let rest =
        "allow = [\"192.168.{lo}.0/24 tcp/PORT\"]\ndeny = [\"198.51.100.0/24 udp/1-1023\"]\n\
                host_services = \"all\"\n"
            .replace("PORT", &port.to_string());
    let mut toml = String::from(
        "[host]\nmanagement = [\"100.64.0.0/10\"]\n[limits]\nflows = 1000000\n[dns]\nupstreams = [\"9.9.9.9\"]\n",
    );
    let first = rest.replace("{lo}", "1");
    let _ = write!(
        toml,
        "[[slot]]\nname = \"slot1\"\nid = 1\nport = \"lo\"\nsubnet = \"10.0.1.0/24\"\n{first}"
    );
    if slots > 1 {
        let _ = write!(
            toml,
            "[[slot]]\nid = 2\ncount = {}\nsubnet = \"10.{{hi}}.{{lo}}.0/24\"\n{rest}",
            slots - 1
        );
    }
    toml
}
