//! One TCP connection that carries as much as it can: iperf3, as Debian ships it.

use netguard_tests::{
    binary::Ended,
    lab::{Background, Lab},
    servers::Servers,
};
use serde_json::Value;

const PORT: u16 = 5201;
const SECONDS: &str = "1";

/// Which way the bytes go, as seen from the guest.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// How iperf3 is called.
pub struct Client(String);

impl Client {
    pub fn of(servers: &Servers) -> Self {
        Self(servers.call("usr/bin/iperf3"))
    }

    /// Starts the server in the lab's internet.
    pub fn serve(&self, lab: &Lab) -> Background {
        let server = lab.start("net", &format!("exec {} --server", self.0));
        lab.listening("net", PORT);
        server
    }

    /// Gigabits a second that arrive at the other end.
    pub fn measure(&self, lab: &Lab, address: &str, way: Way) -> f64 {
        let mut call = format!("{} --json --time {SECONDS} --client {address}", self.0);
        if way == Way::Down {
            call.push_str(" --reverse");
        }
        let Ended { stdout, .. } = lab.shell("slot1", &call);
        let told: Value = serde_json::from_str(&stdout).expect("JSON");
        let rate = told["end"]["sum_received"]["bits_per_second"].as_f64();
        rate.unwrap_or_else(|| panic!("{told}")) / 1e9
    }
}
