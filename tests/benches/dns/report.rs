//! The tables that are printed, and what is promised. Nothing is asserted: a machine that is busy is no failed test.

use netguard_tests::{
    report::{Bound, Report, Row as Figures},
    spread::Spread,
};

use super::{load::Counted, names::SCATTERED};

/// What was measured of one server under one load.
pub struct Row {
    /// "netguard", or the peer's name.
    pub server: &'static str,
    /// If it logged queries.
    pub logs: bool,
    /// One for each round.
    pub samples: Vec<Counted>,
}

/// The subject of all comparisons.
pub const NETGUARD: &str = "netguard";
/// What any server pays that answers each query by itself; no peer.
pub const FLOOR: &str = "floor";
/// With its log on, netguard does so much of what the best peer does without log, and with log.
const TARGETS: [(bool, f64); 2] = [(false, 1.2), (true, 2.0)];

impl Row {
    fn kqps(&self) -> Spread {
        Spread::of(self.samples.iter().map(Counted::kqps).collect())
    }

    fn cpu_us(&self) -> Spread {
        Spread::of(self.samples.iter().map(Counted::cpu_us).collect())
    }

    /// How much of its core's time it had: less than nearly all means that it had to wait, for the load or for others.
    fn share(&self) -> Spread {
        let share = |sample: &Counted| sample.cpu.as_secs_f64() / sample.elapsed.as_secs_f64();
        Spread::of(self.samples.iter().map(|sample| share(sample) * 100.0).collect())
    }

    fn is_netguard(&self) -> bool {
        self.server == NETGUARD
    }

    fn is_peer(&self) -> bool {
        !self.is_netguard() && self.server != FLOOR
    }
}

/// Prints one load's table.
pub fn table(name: &str, about: &str, rows: &[Row]) {
    let Some(subject) = rows.iter().find(|row| row.is_netguard() && row.logs) else { return };
    let (kqps, cpu_us) = (subject.kqps().median, subject.cpu_us().median);
    println!("\n{name}: {about}");
    println!(
        "{:<9} {:<4} {:<24} {:<22} {:<5} netguard with log is, by kQPS and by CPU",
        "server", "log", "kQPS", "µs of CPU per query", "core"
    );
    for row in rows {
        let (its_kqps, its_cpu_us) = (row.kqps(), row.cpu_us());
        let lost: u64 = row.samples.iter().map(|sample| sample.lost).sum();
        let wrong: u64 = row.samples.iter().map(|sample| sample.wrong).sum();
        let failed = if lost + wrong == 0 {
            String::new()
        } else {
            format!("; {lost} answers lost, {wrong} wrong")
        };
        println!(
            "{:<9} {:<4} {its_kqps:<24.1} {its_cpu_us:<22.2} {:>3.0}%  {:.2}x, {:.2}x{failed}",
            row.server,
            if row.logs { "on" } else { "off" },
            row.share().median,
            kqps / its_kqps.median,
            its_cpu_us.median / cpu_us,
        );
    }
}

/// Says which numbers to believe if servers had to wait.
pub fn caution(tables: &[Vec<Row>]) {
    const NEARLY_ALL: f64 = 90.0;
    let waited = tables.iter().flatten().filter(|row| row.share().median < NEARLY_ALL).count();
    if waited > 0 {
        println!(
            "\n{waited} rows had less than {NEARLY_ALL}% of their core: others use this machine, or the load is the limit. \
             Believe µs of CPU rather than kQPS."
        );
    }
}

/// What is promised of one load, and what came of it.
pub fn targets(name: &str, rows: &[Row], report: &mut Report) {
    let Some(subject) = rows.iter().find(|row| row.is_netguard() && row.logs) else { return };
    for (logs, target) in TARGETS {
        let peers = || rows.iter().filter(|row| row.is_peer() && row.logs == logs);
        let by_kqps = peers().max_by(|a, b| a.kqps().median.total_cmp(&b.kqps().median));
        let by_cpu = peers().min_by(|a, b| a.cpu_us().median.total_cmp(&b.cpu_us().median));
        let (Some(by_kqps), Some(by_cpu)) = (by_kqps, by_cpu) else { continue };
        let best = |row: &Row| format!("{}, {} log", row.server, if logs { "with" } else { "no" });
        let what = format!("queries, {name}, with log");
        let rate = Figures::new(what, "k/s", subject.kqps()).beside(best(by_kqps), by_kqps.kqps());
        // Where every query has a socket of its own, servers do what the kernel does for them.
        let is_promised = name != SCATTERED;
        report.add(if is_promised { rate.bound(Bound::AtLeast(target)) } else { rate });
        let what = format!("a query, {name}, with log");
        let cost = Figures::new(what, "µs", subject.cpu_us());
        report.add(cost.beside(best(by_cpu), by_cpu.cpu_us()));
    }
}
