//! The tables and the targets that are printed. Nothing is asserted: a machine that is busy is no failed test.

use netguard_tests::spread::Spread;

use super::load::Counted;

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

/// Prints what is promised of one load, and what came of it.
pub fn targets(name: &str, rows: &[Row]) {
    let Some(subject) = rows.iter().find(|row| row.is_netguard() && row.logs) else { return };
    for (logs, target) in TARGETS {
        let peers = || rows.iter().filter(|row| row.is_peer() && row.logs == logs);
        let by_kqps = peers().max_by(|a, b| a.kqps().median.total_cmp(&b.kqps().median));
        let by_cpu = peers().min_by(|a, b| a.cpu_us().median.total_cmp(&b.cpu_us().median));
        let (Some(by_kqps), Some(by_cpu)) = (by_kqps, by_cpu) else { continue };
        println!(
            "{name}, netguard with log / best peer {} log: {:.2}x {} (target {target}x); by CPU {:.2}x {}",
            if logs { "with" } else { "without" },
            subject.kqps().median / by_kqps.kqps().median,
            by_kqps.server,
            by_cpu.cpu_us().median / subject.cpu_us().median,
            by_cpu.server,
        );
    }
}
