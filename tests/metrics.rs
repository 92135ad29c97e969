//! Metrics: what a scrape says is what kernel and resolver have counted, on the control socket and on a port of the host's own; and a
//! real Prometheus reads it, with the rules that are shipped.

use std::{collections::BTreeSet, fs, net::UdpSocket, path::Path, process::Command};

use netguard_tests::{
    binary::Ended,
    can_use_kernel,
    control::{request, request_text},
    daemon::{self, processes},
    lab::Lab,
    servers::Servers,
    until,
};
use serde_json::Value;

const LISTEN: &str = "[metrics]\nlisten = \"127.0.0.1:9540\"\n";

/// Two slots, of which the first reaches the internet.
const CONFIG: &str = "[host]\nuplinks = [\"eth0\"]\n[dns]\nupstreams = [\"1.1.1.1\"]\ncategories = []\nnames = [\"github.com\"]\n\
     [[slot]]\nname = \"slot1\"\nid = 1\nsubnet = \"10.1.0.0/24\"\negress = \"pinned\"\n\
     [[slot]]\nname = \"slot2\"\nid = 2\nsubnet = \"10.2.0.0/24\"\n";

fn built() -> Lab {
    Lab::with(&format!("{LISTEN}{CONFIG}"), "veth")
}

fn scrape(lab: &Lab) -> String {
    let (status, text) = request_text(lab, "GET", "/metrics", "");
    assert_eq!(status, 200, "{text}");
    text
}

/// A sample's value: `netguard_alarms`, `netguard_slot_pins{slot="slot1"}`.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

/// What guests do: a name that is allowed and used, one that is not, and packets to where none may go.
fn act(lab: &Lab) {
    let _ = lab.exec("slot1", "dig +short github.com @8.8.8.8").success();
    let _ = lab.exec("slot1", "dig +short evil.example @8.8.8.8").success();
    let _ = lab.exec("slot1", "curl -s -m 5 -o /dev/null http://203.0.113.10/").success();
    lab.within("slot1", || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for _ in 0..3 {
            socket.send_to(b"x", ("169.254.169.254", 9)).expect("its own system takes it");
        }
    });
}

/// Asks on the hypervisor, as a Prometheus there does.
fn curl(lab: &Lab, url: &str) -> Ended {
    lab.exec("hv", &format!("curl -s -m 5 -w %{{http_code}} {url}"))
}

#[test]
fn a_scrape_says_what_was_counted() {
    if !can_use_kernel() {
        return;
    }
    let lab = built();
    act(&lab);
    let answered = "netguard_dns_queries_total{slot=\"slot1\",rcode=\"NXDOMAIN\"}";
    // The resolver's threads add up what they count a moment later.
    until("the query is counted", || value(&scrape(&lab), answered) == Some(1.0));
    let text = scrape(&lab);
    let of = |sample: &str| value(&text, sample).unwrap_or_else(|| panic!("{sample}\n{text}"));
    let reason = "direction=\"egress\",reason=\"metadata\",code=\"540019\"";
    assert_eq!(of(&format!("netguard_drops_total{{slot=\"slot1\",{reason}}}")), 3.0);
    assert_eq!(of(&format!("netguard_drop_bytes_total{{slot=\"slot1\",{reason}}}")), 3.0 * 43.0);
    for direction in ["egress", "ingress"] {
        let labels = format!("{{slot=\"slot1\",direction=\"{direction}\"}}");
        // The guest goes on: it looks for its neighbours now and then.
        until("a scrape and the kernel say the same", || {
            let told = value(&scrape(&lab), &format!("netguard_slot_packets_total{labels}"));
            told == Some(lab.packets("slot1", direction, "pass") as f64)
        });
        let passed = of(&format!("netguard_slot_packets_total{labels}"));
        assert!(of(&format!("netguard_slot_bytes_total{labels}")) > passed * 50.0);
    }
    let queries = "{slot=\"slot1\",direction=\"egress\"}";
    assert_eq!(of(&format!("netguard_slot_redirected_packets_total{queries}")), 1.0);
    assert_eq!(of(&format!("netguard_slot_answered_packets_total{queries}")), 1.0);
    assert_eq!(of("netguard_dns_queries_total{slot=\"slot1\",rcode=\"NOERROR\"}"), 1.0);
    assert_eq!(of("netguard_dns_latency_seconds_count{slot=\"slot1\"}"), 2.0);
    assert_eq!(of("netguard_dns_latency_seconds_bucket{le=\"+Inf\",slot=\"slot1\"}"), 2.0);
    assert_eq!(of("netguard_slot_pins{slot=\"slot1\"}"), 1.0);
    assert_eq!(of("netguard_slot_pins{slot=\"slot2\"}"), 0.0);
    // The connection is over and remembered for a while.
    assert_eq!(of("netguard_slot_flows{slot=\"slot1\"}"), 1.0);
    assert_eq!(of("netguard_slot_flows{slot=\"slot2\"}"), 0.0);
    assert_eq!(of("netguard_events_total{event=\"started\",code=\"541017\"}"), 1.0);
    assert_eq!(value(&text, "netguard_reload_success"), None, "there was none");
    let slots = request(&lab, "GET", "/v1/status", "").1["slots"].clone();
    assert_eq!((&slots[0]["pins"], &slots[0]["flows"]), (&1.into(), &1.into()), "{slots}");

    lab.reconfigure("[[slot]]\nname = 7\n");
    assert_eq!(lab.run(&["reload"]).code, 2);
    assert_eq!(value(&scrape(&lab), "netguard_reload_success"), Some(0.0));
    lab.reconfigure(CONFIG);
    let _ = lab.run(&["reload"]).success();
    assert_eq!(value(&scrape(&lab), "netguard_reload_success"), Some(1.0));
}

#[test]
fn the_port_serves_metrics_and_nothing_else_as_long_as_the_configuration_says_so() {
    if !can_use_kernel() {
        return;
    }
    let lab = built();
    let served = curl(&lab, "http://127.0.0.1:9540/metrics");
    assert!(served.success().ends_with("# EOF\n200"), "{served:?}");
    assert!(served.stdout.contains("netguard_build_info{version="), "{served:?}");
    let head = lab.exec("hv", "curl -s -m 5 -o /dev/null -D - http://127.0.0.1:9540/metrics");
    assert!(head.success().contains("application/openmetrics-text; version=1.0.0"), "{head:?}");
    for path in ["v1/slots", "v1/reload", ""] {
        let refused = curl(&lab, &format!("-X POST http://127.0.0.1:9540/{path}"));
        assert!(refused.success().ends_with("404"), "{refused:?}");
    }
    // A guest reaches it by no address.
    for address in ["10.1.0.1", "127.0.0.1"] {
        let url = format!("curl -s -m 1 -o /dev/null http://{address}:9540/metrics");
        assert_ne!(lab.exec("slot1", &url).code, 0, "{address}");
    }

    let (_, worker) = processes(&lab);
    let worker = worker.to_string();
    let _ = Ended::of(Command::new("kill").args(["-KILL", &worker])).success();
    until("another worker serves it", || {
        value(&curl(&lab, "http://127.0.0.1:9540/metrics").stdout, "netguard_worker_restarts_total")
            == Some(1.0)
    });
    lab.reconfigure(&format!("{}{CONFIG}", LISTEN.replace("127.0.0.1:9540", "[::1]:9541")));
    assert!(lab.run(&["diff"]).success().contains("+ host: metrics on [::1]:9541\n"));
    let _ = lab.run(&["reload"]).success();
    assert!(curl(&lab, "http://[::1]:9541/metrics").success().ends_with("# EOF\n200"));
    assert_ne!(curl(&lab, "http://127.0.0.1:9540/metrics").code, 0);
    lab.reconfigure(CONFIG);
    let _ = lab.run(&["reload"]).success();
    assert_ne!(curl(&lab, "http://[::1]:9541/metrics").code, 0);
    // A port that somebody has is no reason to guard less.
    let other = lab.start("hv", "exec python3 -m http.server -b 127.0.0.1 9542");
    lab.listening("hv", 9542);
    lab.reconfigure(&format!("{}{CONFIG}", LISTEN.replace("9540", "9542")));
    let _ = lab.run(&["reload"]).success();
    let status = lab.run(&["status"]);
    assert!(status.success().contains("cannot serve metrics on 127.0.0.1:9542: "), "{status:?}");
    assert_eq!(value(&scrape(&lab), "netguard_failures"), Some(1.0));
    // Nor for a daemon that starts.
    daemon::kill(&lab, "TERM");
    let _daemon = daemon::start(&lab);
    assert_eq!(value(&scrape(&lab), "netguard_failures"), Some(1.0));
    drop(other);
    let served = || value(&curl(&lab, "http://127.0.0.1:9542/metrics").stdout, "netguard_failures");
    until("it is served when the port is free", || served() == Some(0.0));
}

fn shipped(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_of_name(letter));
    words.filter(|word| word.starts_with("netguard_")).collect()
}

#[test]
fn a_real_prometheus_reads_it_and_the_shipped_rules_and_dashboard_name_what_there_is() {
    if !can_use_kernel() {
        return;
    }
    let Some(servers) = Servers::prometheus() else { return };
    let lab = built();
    act(&lab);
    let _ = lab.run(&["reload"]).success();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let rules = at("netguard.rules.yml");
    fs::write(&rules, shipped("prometheus/netguard.rules.yml")).expect("the rules");
    let promtool = servers.call("usr/bin/promtool");
    let check = format!("{promtool} check rules {rules}");
    let checked = Ended::of(Command::new("sh").args(["-c", &check]));
    assert!(checked.success().contains("SUCCESS: 10 rules found"), "{checked:?}");
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules}]\n\
         scrape_configs:\n- job_name: netguard\n  static_configs: [{{ targets: [\"127.0.0.1:9540\"] }}]\n"
    );
    fs::write(at("prometheus.yml"), config).expect("its configuration");
    let prometheus = servers.call("usr/bin/prometheus");
    let _prometheus = lab.start(
        "hv",
        &format!(
            "exec {prometheus} --config.file={} --storage.tsdb.path={} --web.listen-address=127.0.0.1:9090 >{} 2>&1",
            at("prometheus.yml"),
            at("data"),
            at("log"),
        ),
    );
    lab.listening("hv", 9090);
    let ask = |query: &str| -> Value {
        let url = "http://127.0.0.1:9090/api/v1/query";
        let asked = format!("curl -s -m 5 -G {url} --data-urlencode query='{query}'");
        let answer: Value = lab.shell("hv", &asked).success().parse().expect("JSON");
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"]["result"].clone()
    };
    let dropped = "netguard_drops_total{job=\"netguard\",slot=\"slot1\",code=\"540019\"}";
    until("it has read the drops", || ask(dropped)[0]["value"][1] == "3");
    assert_eq!(ask(dropped)[0]["metric"]["reason"], "metadata");
    let latencies = "histogram_quantile(0.5, sum by (le) (netguard_dns_latency_seconds_bucket))";
    assert!(ask(latencies)[0]["value"][1].is_string());
    // It says the kind of each, as it understands it.
    let kinds = lab.exec("hv", "curl -s -m 5 http://127.0.0.1:9090/api/v1/metadata");
    let kinds: Value = kinds.success().parse().expect("JSON");
    for (name, kind) in [
        ("netguard_drops", "counter"),
        ("netguard_slot_flows", "gauge"),
        ("netguard_dns_latency_seconds", "histogram"),
    ] {
        assert_eq!(kinds["data"][name][0]["type"], kind, "{name}: {kinds}");
    }

    let rules = shipped("prometheus/netguard.rules.yml");
    let dashboard = shipped("grafana/netguard.json");
    let panels = dashboard.parse::<Value>().expect("JSON")["panels"].clone();
    assert!(panels.as_array().is_some_and(|panels| panels.len() > 10));
    let text = scrape(&lab);
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md"));
    let document = document.expect("the document");
    let described: BTreeSet<_> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let families: Vec<_> = families
        .map(
            |(name, kind)| {
                if kind == "counter" { format!("{name}_total") } else { name.to_owned() }
            },
        )
        .collect();
    let families: BTreeSet<_> = families.iter().map(String::as_str).collect();
    assert_eq!(families, described, "docs/metrics.md");

    let wanted = [names(&rules), names(&dashboard)];
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let there: BTreeSet<_> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
    for name in wanted.iter().flatten() {
        assert!(there.contains(name), "{name} is in no scrape: {there:?}");
    }
    assert!(wanted[0].len() > 6 && wanted[1].len() > 15, "{wanted:?}");

    // An alert that is due is made.
    let instance = format!("lab-{}", lab.name());
    let pins = netguard::datapath::PinDirectory::of(&instance.parse().expect("an instance"));
    let link = pins.link("vm-slot2", netguard_common::Hook::PortEgress);
    netguard::datapath::detach_pinned(&link).expect("it is detached");
    until("the alarm is an alert", || {
        ask("ALERTS{alertname=\"NetguardDetached\",code=\"541004\",alertstate=\"firing\"}")[0]["value"]
            [1]
            == "1"
    });
}
