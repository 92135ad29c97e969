//! The numbers as Prometheus reads them, in the text of OpenMetrics: made of the daemon's status and of what the resolver's threads
//! have counted. Pure; `dist/prometheus` and `dist/grafana` are written for these names, and a name never changes its meaning.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::UNIX_EPOCH};

use netguard_common::EventKind;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use serde_json::Value;

use crate::{
    journal::{LATENCIES, Tally},
    status::CounterText,
};

/// What the text is.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told at one moment.
#[derive(Debug)]
pub struct Scrape {
    /// What `GET /v1/status` answers, with the log lines that the monitor alone has lost.
    pub status: Value,
    /// Log lines that the worker has lost.
    pub lines_lost: u64,
    /// What became of queries, by slot.
    pub queries: BTreeMap<String, Tally>,
}

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;
type Rows<'a> = Vec<(Labels<'a>, u64)>;

impl Scrape {
    /// As one text.
    ///
    /// # Errors
    ///
    /// A name or a number has no form in that text.
    pub fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("netguard");
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }

    fn slots(&self) -> impl Iterator<Item = (&str, &Value)> {
        let slots = self.status["slots"].as_array().into_iter().flatten();
        slots.map(|slot| (slot["name"].as_str().unwrap_or_default(), slot))
    }

    /// Each counter with its slot; of what is no slot's, the empty one.
    fn counters(&self) -> impl Iterator<Item = (&str, CounterText<'_>)> {
        let nobodys = [("", &self.status["no_slot_counters"])];
        let slots = self.slots().map(|(name, slot)| (name, &slot["counters"]));
        slots.chain(nobodys).flat_map(|(name, counters)| {
            let rows = counters.as_array().into_iter().flatten();
            rows.filter_map(move |row| Some((name, CounterText::of(row)?)))
        })
    }

    /// What passed or was redirected.
    fn passed(&self, outcome: &str, number: fn(&CounterText<'_>) -> u64) -> Rows<'_> {
        let rows = self.counters().filter(|(_, row)| row.outcome == outcome);
        rows.map(|(slot, row)| {
            (vec![("slot", slot.into()), ("direction", row.direction.into())], number(&row))
        })
        .collect()
    }

    /// What was dropped, or passed and would have been.
    fn dropped(&self, would: bool, number: fn(&CounterText<'_>) -> u64) -> Rows<'_> {
        let rows = self.counters().filter(|(_, row)| row.would_be().is_some() == would);
        rows.filter_map(|(slot, row)| Some((slot, row.code?, row)))
            .map(|(slot, code, row)| {
                let labels = vec![
                    ("slot", slot.into()),
                    ("direction", row.direction.into()),
                    ("reason", row.would_be().unwrap_or(row.outcome).into()),
                    ("code", code.to_string().into()),
                ];
                (labels, number(&row))
            })
            .collect()
    }

    /// A number of each slot that has it.
    fn of_slots(&self, key: &str) -> Rows<'_> {
        let rows = self.slots();
        rows.filter_map(|(name, slot)| Some((vec![("slot", name.into())], slot[key].as_u64()?)))
            .collect()
    }

    fn encode_slots(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        counters(
            out,
            "slot_packets",
            "Packets that passed, seen from the slot",
            self.passed("pass", |row| row.packets),
        )?;
        counters(
            out,
            "slot_bytes",
            "Bytes of packets that passed, seen from the slot",
            self.passed("pass", |row| row.bytes),
        )?;
        counters(
            out,
            "slot_redirected_packets",
            "Packets to port 53 that went to the resolver",
            self.passed("redirect", |row| row.packets),
        )?;
        counters(
            out,
            "slot_answered_packets",
            "Queries that the programs have denied and answered themselves",
            self.passed("answer", |row| row.packets),
        )?;
        counters(out, "drops", "Dropped packets", self.dropped(false, |row| row.packets))?;
        counters(
            out,
            "drop_bytes",
            "Bytes of dropped packets",
            self.dropped(false, |row| row.bytes),
        )?;
        gauges(out, "slot_flows", "Connections that are tracked", self.of_slots("flows"))?;
        let would = self.dropped(true, |row| row.packets);
        counters(out, "would_drops", "Packets that passed because their slot is audited", would)?;
        gauges(out, "slot_pins", "Addresses that are pinned", self.of_slots("pins"))
    }

    fn encode_queries(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = self.queries.iter().flat_map(|(slot, tally)| {
            tally.rcodes().map(|(rcode, count)| {
                (vec![("slot", slot.as_str().into()), ("rcode", rcode.into())], count)
            })
        });
        counters(out, "dns_queries", "Queries that were answered, by code", rows.collect())?;
        let kind = MetricType::Histogram;
        let help = "From a query to its reply";
        let mut family = out.encode_descriptor("dns_latency_seconds", help, None, kind)?;
        for (slot, tally) in &self.queries {
            let bounds = LATENCIES.iter().map(std::time::Duration::as_secs_f64);
            let buckets: Vec<_> =
                bounds.chain([f64::INFINITY]).zip(tally.latencies().iter().copied()).collect();
            let (sum, count) = (tally.latency_sum().as_secs_f64(), tally.latencies().iter().sum());
            let labels: Labels<'_> = vec![("slot", slot.as_str().into())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn encode_daemon(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let daemon = &self.status["daemon"];
        let number = |value: &Value| vec![(Vec::new(), value.as_u64().unwrap_or_default())];
        let size = |value: &Value| {
            vec![(Vec::new(), value.as_array().map_or(0, |them| them.len() as u64))]
        };
        let build = vec![(vec![("version", env!("CARGO_PKG_VERSION").into())], 1)];
        gauges(out, "build_info", "The netguard that runs", build)?;
        let generation = self.status["generation"].as_str();
        let policy = generation.map(|it| (vec![("generation", it.into())], 1));
        gauges(
            out,
            "policy_info",
            "The fingerprint of the policy in force",
            policy.into_iter().collect(),
        )?;
        seconds(out, "start_time_seconds", "When the daemon began", &daemon["since"])?;
        let reload = &daemon["reload"];
        seconds(out, "reload_time_seconds", "When the latest reload was", &reload["time"])?;
        let success = reload["result"].as_str();
        let success = success.map(|it| (Vec::new(), u64::from(it == "in force")));
        gauges(
            out,
            "reload_success",
            "1 if what the latest reload wanted is in force",
            success.into_iter().collect(),
        )?;
        gauges(
            out,
            "failures",
            "What is not as the policy wants it and is tried again",
            size(&daemon["failures"]),
        )?;
        gauges(
            out,
            "alarms",
            "What somebody else has done and cannot be put right",
            size(&daemon["alarms"]),
        )?;
        let events = EventKind::ALL.iter().map(|kind| {
            let count = daemon["events"][kind.name()].as_u64().unwrap_or_default();
            (vec![("event", kind.name().into()), ("code", kind.code().to_string().into())], count)
        });
        counters(out, "events", "What happened to netguard itself", events.collect())?;
        let restarts = number(&daemon["worker_restarts"]);
        counters(out, "worker_restarts", "Workers in the place of ones that had ended", restarts)?;
        let lost = number(&self.status["records_lost"]);
        counters(out, "records_lost", "Drops whose record found no room", lost)?;
        let of = |process: &'static str| vec![("process", process.into())];
        let monitor = daemon["log_lines_lost"].as_u64().unwrap_or_default();
        let lines = vec![(of("monitor"), monitor), (of("worker"), self.lines_lost)];
        counters(out, "log_lines_lost", "Log lines that nobody read in time", lines)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_daemon(&mut out)?;
        self.encode_slots(&mut out)?;
        self.encode_queries(&mut out)
    }
}

fn counters(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: Rows<'_>,
) -> fmt::Result {
    rows_of(out, name, help, MetricType::Counter, rows, |mut metric, count| {
        metric.encode_counter::<NoLabelSet, _, u64>(&count, None)
    })
}

fn gauges(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, rows: Rows<'_>) -> fmt::Result {
    rows_of(out, name, help, MetricType::Gauge, rows, |mut metric, count| {
        metric.encode_gauge(&count)
    })
}

fn rows_of(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: Rows<'_>,
    encode: impl Fn(MetricEncoder<'_>, u64) -> fmt::Result,
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, kind)?;
    for (labels, count) in rows {
        encode(family.encode_family(&labels)?, count)?;
    }
    Ok(())
}

/// A moment; nothing if there was none yet.
fn seconds(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, time: &Value) -> fmt::Result {
    let time = time.as_str().and_then(|time| humantime::parse_rfc3339(time).ok());
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    if let Some(since) = since {
        family.encode_family(&Labels::new())?.encode_gauge(&since.as_secs_f64())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_scrape_has_each_number_where_it_belongs() {
        let row = |direction: &str, outcome: &str, code: Option<u32>| json!({ "direction": direction, "outcome": outcome, "code": code, "packets": 7, "bytes": 900 });
        let mut tally = Tally::default();
        tally.count(3, Duration::from_micros(50));
        tally.count(3, Duration::from_millis(2));
        tally.count(0, Duration::from_secs(30));
        let scrape = Scrape {
            status: json!({
                "generation": "0a0b0c0d",
                "records_lost": 4,
                "slots": [{
                    "name": "one",
                    "flows": 3,
                    "pins": 2,
                    "counters": [row("egress", "pass", None), row("egress", "redirect", None), row("ingress", "host", Some(540_018))],
                }],
                "no_slot_counters": [row("egress", "unknown-port", Some(540_005))],
                "daemon": {
                    "since": "2026-01-01T00:00:01.500Z",
                    "reload": { "time": "2026-01-01T00:00:02.000Z", "result": "refused" },
                    "worker_restarts": 5,
                    "failures": ["a"],
                    "alarms": [],
                    "events": { "lock": 6 },
                    "log_lines_lost": 8,
                },
            }),
            lines_lost: 9,
            queries: [("one".to_owned(), tally)].into(),
        };
        let text = scrape.text().unwrap();
        for line in [
            "netguard_slot_packets_total{slot=\"one\",direction=\"egress\"} 7",
            "netguard_slot_bytes_total{slot=\"one\",direction=\"egress\"} 900",
            "netguard_slot_redirected_packets_total{slot=\"one\",direction=\"egress\"} 7",
            "netguard_drops_total{slot=\"one\",direction=\"ingress\",reason=\"host\",code=\"540018\"} 7",
            "netguard_drop_bytes_total{slot=\"\",direction=\"egress\",reason=\"unknown-port\",code=\"540005\"} 900",
            "netguard_slot_flows{slot=\"one\"} 3",
            "netguard_slot_pins{slot=\"one\"} 2",
            "netguard_dns_queries_total{slot=\"one\",rcode=\"NXDOMAIN\"} 2",
            "netguard_dns_queries_total{slot=\"one\",rcode=\"NOERROR\"} 1",
            "netguard_dns_latency_seconds_bucket{le=\"0.0001\",slot=\"one\"} 1",
            "netguard_dns_latency_seconds_bucket{le=\"0.005\",slot=\"one\"} 2",
            "netguard_dns_latency_seconds_bucket{le=\"+Inf\",slot=\"one\"} 3",
            "netguard_dns_latency_seconds_count{slot=\"one\"} 3",
            "netguard_policy_info{generation=\"0a0b0c0d\"} 1",
            "netguard_start_time_seconds 1767225601.5",
            "netguard_reload_time_seconds 1767225602.0",
            "netguard_reload_success 0",
            "netguard_failures 1",
            "netguard_alarms 0",
            "netguard_events_total{event=\"lock\",code=\"541007\"} 6",
            "netguard_events_total{event=\"unlock\",code=\"541008\"} 0",
            "netguard_worker_restarts_total 5",
            "netguard_records_lost_total 4",
            "netguard_log_lines_lost_total{process=\"monitor\"} 8",
            "netguard_log_lines_lost_total{process=\"worker\"} 9",
            "# TYPE netguard_dns_latency_seconds histogram",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let empty = Scrape { status: json!({}), lines_lost: 0, queries: BTreeMap::new() };
        let text = empty.text().unwrap();
        for name in ["netguard_reload_success ", "netguard_policy_info{", "netguard_slot_flows{"] {
            assert!(!text.lines().any(|line| line.starts_with(name)), "{text}");
        }
        assert!(text.contains("\nnetguard_worker_restarts_total 0\n"), "{text}");
    }
}
