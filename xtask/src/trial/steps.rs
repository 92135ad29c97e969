//! What is typed in the trial, and what must come back.

pub const INTRODUCTION: &str = "\
# netguard on Debian 12

A run of `cargo xtask deb --try`, which writes this file: the package is installed into a clean Debian 12 that boots with systemd, in
namespaces of its own, on this machine's kernel. Its internet is another namespace with a dnsmasq; no packet leaves. The run fails
where something else comes back than what is asserted in `xtask/src/trial/steps.rs`.
";

/// Some commands under one heading.
pub struct Part {
    pub title: &'static str,
    pub prose: &'static str,
    /// True if the machine boots again before.
    pub boots: bool,
    pub steps: Vec<Step>,
}

/// A command, and words that must be in what it prints.
pub struct Step {
    pub command: &'static str,
    pub shows: &'static [&'static str],
    /// Not in the transcript: what the trial itself needs.
    pub is_hidden: bool,
    /// Tried again until it shows the words: a log has its lines a moment later.
    pub is_awaited: bool,
}

const fn shown(command: &'static str, shows: &'static [&'static str]) -> Step {
    Step { command, shows, is_hidden: false, is_awaited: false }
}

const fn awaited(command: &'static str, shows: &'static [&'static str]) -> Step {
    Step { command, shows, is_hidden: false, is_awaited: true }
}

const fn hidden(command: &'static str, shows: &'static [&'static str]) -> Step {
    Step { command, shows, is_hidden: true, is_awaited: false }
}

/// Where the machine's own limit is lower than what the unit asks for, and nobody may raise it.
const LIMIT: &str = "\
if [ $(ulimit -Hn) -lt 524288 ]; then
    for unit in netguard netguard-worker; do
        mkdir -p /etc/systemd/system/$unit.service.d
        printf '[Service]\\nLimitNOFILE=%s\\n' $(ulimit -Hn) > /etc/systemd/system/$unit.service.d/trial.conf
    done
    systemctl daemon-reload
fi";

/// As Prometheus asks.
const SCRAPE: &str = "\
bash -c 'exec 3<>/dev/tcp/127.0.0.1/9540; printf \"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\" >&3; cat <&3' |
    grep -E '^netguard_(build_info|slot_packets|slot_pins|dns_queries|drops_total)'";

/// Two guests on bridges that others make, and an internet.
const WORLD: &str = "\
ip netns add internet
ip link add eth0 type veth peer name eth0 netns internet
ip addr add 198.51.100.2/24 dev eth0
ip link set eth0 up
ip route add default via 198.51.100.1
ip netns exec internet sh -c 'ip link set lo up; ip link set eth0 up; ip addr add 198.51.100.1/24 dev eth0
    ip addr add 203.0.113.10/32 dev lo; ip addr add 203.0.113.66/32 dev lo'
sysctl -qw net.ipv4.ip_forward=1
for n in 1 2; do
    ip link add br-slot$n type bridge
    ip addr add 10.$n.0.1/24 dev br-slot$n
    ip netns add guest$n
    ip link add vm-slot$n type veth peer name eth0 netns guest$n
    sysctl -qw net.ipv6.conf.vm-slot$n.disable_ipv6=1
    ip netns exec guest$n sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    ip link set vm-slot$n master br-slot$n
    ip link set vm-slot$n up
    ip link set br-slot$n up
    ip netns exec guest$n sh -c \"ip link set lo up; ip link set eth0 address 02:6e:67:00:0$n:02 up
        ip addr add 10.$n.0.2/24 dev eth0; ip route add default via 10.$n.0.1\"
done
ip netns exec internet dnsmasq --no-resolv --no-hosts --listen-address=198.51.100.1 --bind-interfaces \\
    --pid-file=/run/internet.pid --user=root --address=/github.com/203.0.113.10 --address=/evil.example/203.0.113.66
echo done";

const CONFIGURE: &str = "\
cat > /etc/netguard/netguard.toml <<'TOML'
[host]
uplinks = [\"eth0\"]

[metrics]
listen = \"127.0.0.1:9540\"

[dns]
upstreams = [\"198.51.100.1\"]

[[slot]]
count = 2
name = \"slot{n}\"
subnet = \"10.{n}.0.0/24\"
egress = \"pinned\"
TOML
netguard check /etc/netguard/netguard.toml";

const ONE_MORE: &str = "\
cat >> /etc/netguard/netguard.toml <<'TOML'

[[slot]]
name = \"slot9\"
id = 9
subnet = \"10.9.0.0/24\"
manage_links = true
TOML
netguard diff";

/// Root takes over what the unit's user has left, and the unit what root has.
const BY_HAND: &str = "\
netguard run --wait --config /etc/netguard/netguard.toml > by-hand.log 2>&1 &
for i in $(seq 300); do grep -o 'guarding [0-9]* slots' by-hand.log && break; sleep 0.2; done
kill -TERM $!; wait $!; tail -1 by-hand.log";

const KILL_WORKER: &str = "\
monitor=$(systemctl show -P MainPID netguard); worker=$(systemctl show -P MainPID netguard-worker)
kill -KILL $worker; ip netns exec guest1 dig +short github.com @8.8.8.8
[ $(systemctl show -P MainPID netguard) = $monitor ] && echo the same monitor
[ $(systemctl show -P MainPID netguard-worker) = $worker ] || echo another worker";

/// Nothing brings a network up before this.
const ORDER: &str = "\
Finished netguard-guard.service - netguard, closed until its daemon takes over.
Started netguard.service - netguard, the firewall for untrusted workloads.
Reached target network-pre.target - Preparation for Network.";

/// The whole trial of a package that lies in the root's home.
pub fn parts(package: &str) -> Vec<Part> {
    let install: &'static str = format!("dpkg -i {package}").leak();
    let upgrade: &'static str = format!(
        "before=$(systemctl show -p MainPID netguard); dpkg -i {package}; systemctl is-active netguard; \
         [ \"$(systemctl show -p MainPID netguard)\" = \"$before\" ] || echo another process"
    )
    .leak();
    vec![
        Part {
            title: "The machine",
            prose: "Where the limit of open files is lower than the units', a drop-in `trial.conf` lowers that too.",
            boots: false,
            steps: vec![
                shown(
                    "cat /etc/debian_version; uname -r | cut -d. -f1,2; systemctl --version | head -1",
                    &["12."],
                ),
                shown("dpkg -l | grep -c '^ii'", &[]),
                hidden(LIMIT, &[]),
            ],
        },
        Part {
            title: "Install",
            prose: "The units are enabled and nothing starts: only the admin knows what the slots are. Until the shipped example is edited,\n\
                    they skip themselves, also at the next boot.",
            boots: false,
            steps: vec![
                shown(install, &["Setting up netguard", "nothing is guarded yet"]),
                shown(
                    "getent passwd netguard netguard-monitor",
                    &["netguard:x:", "netguard-monitor:x:"],
                ),
                shown("systemctl is-enabled netguard netguard-guard", &["enabled\nenabled"]),
                shown(
                    "systemctl start netguard; systemctl status netguard | head -5",
                    &["inactive (dead)"],
                ),
            ],
        },
        Part {
            title: "Configure",
            prose: "Two slots on bridges that somebody else makes, later.",
            boots: false,
            steps: vec![shown(CONFIGURE, &["good: 2 slots, 1 upstreams"])],
        },
        Part {
            title: "Closed before the daemon",
            prose: "First there are no bridges, so that nothing can be closed; then there are, and everything is.",
            boots: false,
            steps: vec![
                shown(
                    "systemctl start netguard-guard; journalctl -q --sync; journalctl -u netguard-guard -o cat -n 4",
                    &[
                        "not there yet, so guarded only by a daemon: br-slot1 vm-slot1 br-slot2 vm-slot2",
                    ],
                ),
                hidden(WORLD, &["done"]),
                shown("ip -br link show type bridge", &["br-slot1", "br-slot2"]),
                shown(
                    "systemctl restart netguard-guard; journalctl -q --sync; journalctl -u netguard-guard -o cat -n 4",
                    &["closed until a daemon takes over: br-slot1 vm-slot1 br-slot2 vm-slot2"],
                ),
                shown("ip netns exec guest1 ping -c 1 -W 1 203.0.113.10", &["100% packet loss"]),
            ],
        },
        Part {
            title: "Start",
            prose: "The daemon takes over what the guard left.",
            boots: false,
            steps: vec![
                shown("systemctl start netguard; systemctl is-active netguard", &["active"]),
                shown("systemctl status netguard", &["active (running)", "guarding 2 slots"]),
                shown("systemctl status netguard-worker | head -9", &["active (running)"]),
                shown("netguard status", &["daemon running", "br-slot1 vm-slot1"]),
            ],
        },
        Part {
            title: "What a guest reaches",
            prose: "An allowed name resolves, and its address can be reached; a denied one does not, and the neighbour is out of reach.",
            boots: false,
            steps: vec![
                shown("ip netns exec guest1 dig +short github.com @8.8.8.8", &["203.0.113.10"]),
                shown("ip netns exec guest1 ping -c 1 -W 5 203.0.113.10", &[" 0% packet loss"]),
                shown(
                    "ip netns exec guest1 dig +noall +comments evil.example @8.8.8.8",
                    &["NXDOMAIN", "(Blocked)"],
                ),
                shown("ip netns exec guest1 ping -c 1 -W 1 203.0.113.66", &["100% packet loss"]),
                shown("ip netns exec guest1 ping -c 1 -W 1 10.2.0.2", &["100% packet loss"]),
                awaited(
                    "journalctl -u netguard-worker -o cat | grep -E ' (dns|drop) ' | tail -5",
                    &["deny", "not-pinned", "cross-slot"],
                ),
                awaited(
                    "journalctl SLOT=slot1 CODE=540017 -o json --output-fields=REASON,SLOT,CODE,_SYSTEMD_UNIT -n 1 | tr , '\\n' | grep -E 'REASON|UNIT'",
                    &["\"REASON\":\"cross-slot\"", "\"_SYSTEMD_UNIT\":\"netguard-worker.service\""],
                ),
                shown(
                    SCRAPE,
                    &[
                        "netguard_build_info",
                        "netguard_drops_total{slot=\"slot1\"",
                        "code=\"540017\"",
                    ],
                ),
            ],
        },
        Part {
            title: "Reload",
            prose: "A slot more, whose bridge and TAP netguard makes; and what is denied is denied from now on.",
            boots: false,
            steps: vec![
                shown(ONE_MORE, &["slot9"]),
                shown("systemctl reload netguard; systemctl is-active netguard", &["active"]),
                awaited(
                    "journalctl -u netguard -o cat | grep -E ' (made|reloaded)' | tail -2",
                    &["made br-slot9 vm-slot9", "reloaded: guarding 3 slots"],
                ),
                awaited(
                    "journalctl -u netguard EVENT=policy-applied -o cat -n 1",
                    &["reloaded: guarding 3 slots"],
                ),
                shown("cat /proc/sys/net/ipv6/conf/vm-slot9/disable_ipv6", &["1"]),
                shown(
                    "sed -i '/^egress/a deny = [\"203.0.113.0/24\"]' /etc/netguard/netguard.toml; netguard diff",
                    &["slot1"],
                ),
                shown("systemctl reload netguard; systemctl is-active netguard", &["active"]),
                shown("ip netns exec guest1 ping -c 1 -W 1 203.0.113.10", &["100% packet loss"]),
                shown(
                    "sed -i '/^deny/d' /etc/netguard/netguard.toml; systemctl reload netguard; systemctl is-active netguard",
                    &["active"],
                ),
            ],
        },
        Part {
            title: "Stop",
            prose: "What is closed stays closed; nobody answers DNS.",
            boots: false,
            steps: vec![
                shown("systemctl stop netguard; systemctl is-active netguard", &["inactive"]),
                shown("ip netns exec guest1 ping -c 1 -W 1 10.2.0.2", &["100% packet loss"]),
                shown("netguard status | head -1", &["no daemon"]),
                shown("systemctl is-active netguard-worker", &["inactive"]),
                shown(BY_HAND, &["guarding 3 slots"]),
                shown(
                    "systemctl start netguard; systemctl is-active netguard netguard-worker",
                    &["active\nactive"],
                ),
                shown("ip netns exec guest1 dig +short github.com @8.8.8.8", &["203.0.113.10"]),
            ],
        },
        Part {
            title: "Kill",
            prose: "A worker that dies is replaced, and so is one that hangs: the monitor hangs up, systemd ends it. The monitor goes on. What a\n\
                    guest asks meanwhile waits for the next worker.",
            boots: false,
            steps: vec![
                shown(KILL_WORKER, &["203.0.113.10", "the same monitor", "another worker"]),
                awaited(
                    "journalctl -u netguard -o cat | grep ' note .*the worker' | tail -1",
                    &["the worker has hung up: another one comes"],
                ),
                shown(
                    "systemctl show -p MainPID netguard-worker; systemctl kill -s STOP netguard-worker",
                    &["MainPID="],
                ),
                awaited(
                    "ip netns exec guest1 dig +short +tries=1 github.com @8.8.8.8",
                    &["203.0.113.10"],
                ),
                shown(
                    "systemctl show -p MainPID netguard-worker; journalctl -u netguard -o cat | grep ' note .*the worker' | tail -2",
                    &["the worker does not answer", "has hung up"],
                ),
                shown("systemctl kill -s KILL netguard", &[]),
                awaited(
                    "systemctl show -P NRestarts netguard; systemctl is-active netguard netguard-worker",
                    &["1\nactive\nactive"],
                ),
                awaited(
                    "ip netns exec guest1 dig +short +tries=1 github.com @8.8.8.8",
                    &["203.0.113.10"],
                ),
            ],
        },
        Part {
            title: "Orders",
            prose: "Of a member of the group `netguard`, who is nobody else.",
            boots: false,
            steps: vec![
                shown(
                    "setpriv --reuid nobody --regid netguard --clear-groups netguard lock slot1",
                    &["slot1 is locked"],
                ),
                shown("netguard unlock slot1", &["slot1 is unlocked"]),
                shown(
                    "setpriv --reuid nobody --regid nogroup --clear-groups netguard lock slot1",
                    &["Permission denied"],
                ),
            ],
        },
        Part {
            title: "Upgrade",
            prose: "Here to the same version. The daemon is started anew; what it guards stays closed meanwhile, and what was edited stays.",
            boots: false,
            steps: vec![
                shown(upgrade, &["Setting up netguard", "active", "another process"]),
                shown("netguard check /etc/netguard/netguard.toml", &["good: 3 slots"]),
            ],
        },
        Part {
            title: "How it is confined",
            prose: "Nobody is root. What is left over is what netguard is for: the monitor loads programs and configures the host's network, the\n\
                    worker answers there.",
            boots: false,
            steps: vec![
                shown(
                    "systemd-analyze verify --man=no netguard.service netguard-worker.service netguard-guard.service netguard-pins.service && echo good",
                    &["good"],
                ),
                shown(
                    "systemd-analyze security netguard netguard-worker netguard-guard netguard-pins --no-pager | grep -E 'Overall'",
                    &["Overall exposure level for netguard.service: 1.3"],
                ),
                shown(
                    "for unit in netguard netguard-worker; do systemd-analyze security $unit --no-pager | grep '✗'; echo; done",
                    &["CAP_NET_ADMIN"],
                ),
                shown(
                    "ls -l /run/netguard/host; for unit in netguard netguard-worker; do\n    pid=$(systemctl show -P MainPID $unit)\n    tr '\\0' ' ' < /proc/$pid/cmdline; echo; grep -E '^(Uid|Gid|Cap(Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/$pid/status\ndone",
                    &["NoNewPrivs:\t1", "netguard-monitor netguard", "CapEff:\t0000000000000000"],
                ),
            ],
        },
        Part {
            title: "The next boot",
            prose: "As after a loss of power. The guard has made and closed the slot that is netguard's own; then the daemon is there before any\n\
                    network. The bridges that others make appear later and are guarded when they do.",
            boots: true,
            steps: vec![
                hidden(LIMIT, &[]),
                shown("systemctl is-active netguard-guard netguard", &["active\nactive"]),
                shown(
                    "journalctl -u netguard-guard -o cat | tail -5",
                    &[
                        "made br-slot9 vm-slot9",
                        "closed until a daemon takes over: br-slot9 vm-slot9",
                    ],
                ),
                shown(
                    "journalctl -o cat _PID=1 | grep -E 'Finished netguard|Started netguard.service|target network-pre' | tail -3",
                    &[ORDER],
                ),
                awaited(
                    "journalctl -u netguard -o cat | grep ' note .*guarding' | tail -1",
                    &["waiting for br-slot1 vm-slot1 br-slot2 vm-slot2"],
                ),
                hidden(WORLD, &["done"]),
                awaited(
                    "journalctl -u netguard -o cat | grep ' note .*guarding .*-slot[12]' | tail -4",
                    &["vm-slot1", "vm-slot2"],
                ),
                shown("ip netns exec guest1 dig +short github.com @8.8.8.8", &["203.0.113.10"]),
                shown("ip netns exec guest1 ping -c 1 -W 5 203.0.113.10", &[" 0% packet loss"]),
                shown("ip netns exec guest1 ping -c 1 -W 1 10.2.0.2", &["100% packet loss"]),
            ],
        },
        Part {
            title: "Remove and purge",
            prose: "A removed package leaves what is closed closed, until the next boot; a purged one leaves nothing.",
            boots: false,
            steps: vec![
                shown(
                    "dpkg --remove netguard; ls /sys/fs/bpf/netguard",
                    &["slots stay closed", "host"],
                ),
                shown("ip netns exec guest1 ping -c 1 -W 1 10.2.0.2", &["100% packet loss"]),
                shown(
                    "dpkg --purge netguard; ls -d /sys/fs/bpf/netguard /run/netguard /var/lib/netguard /etc/netguard; \
                     nft list tables; tc qdisc show | grep -c clsact; getent passwd netguard; dpkg -l netguard | tail -1",
                    &[
                        "cannot access '/sys/fs/bpf/netguard'",
                        "cannot access '/run/netguard'",
                        "cannot access '/etc/netguard'",
                        "\n0\n",
                    ],
                ),
                shown("ip netns exec guest1 ping -c 1 -W 5 10.2.0.2", &[" 0% packet loss"]),
            ],
        },
    ]
}
