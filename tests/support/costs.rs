//! What each program costs while something happens, as the kernel itself measures it (`bpf_stats`): how often it runs, and for how
//! long. Measuring costs two readings of the clock for each run, so a time that is to be compared is taken without.

use netguard::datapath::{PinDirectory, ProgramRow, View, measure_programs};

use crate::report::Row;

/// What one program has cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Its name.
    pub program: String,
    /// How often it has run.
    pub runs: u64,
    /// Nanoseconds of each run, on average.
    pub ns: f64,
}

impl Cost {
    /// A row of a report.
    #[must_use]
    pub fn row(&self, what: &str) -> Row {
        Row::new(format!("{what}: {}, each of {} runs", self.program, self.runs), "ns", self.ns)
    }
}

/// Does some work, and says what the programs of an instance have cost meanwhile, those that have run. Nothing of costs where the
/// kernel does not measure, or this process may not have it measure.
///
/// # Panics
///
/// The instance has no pins.
pub fn of_programs<T>(pins: &PinDirectory, work: impl FnOnce() -> T) -> (T, Vec<Cost>) {
    let rows = || View::open(pins).expect("the instance's pins").programs;
    let Some(measured) = measure_programs() else { return (work(), Vec::new()) };
    let before = rows();
    let result = work();
    let after = rows();
    drop(measured);
    (result, after.iter().filter_map(|row| cost(&before, row)).collect())
}

fn cost(before: &[ProgramRow], after: &ProgramRow) -> Option<Cost> {
    let before = before.iter().find(|row| row.id == after.id)?;
    let runs = after.runs.checked_sub(before.runs).filter(|runs| *runs > 0)?;
    let time = after.run_time.saturating_sub(before.run_time);
    Some(Cost { program: after.name.clone(), runs, ns: time.as_nanos() as f64 / runs as f64 })
}

#[cfg(test)]
mod tests {
    use netguard_common::Hook;

    use super::*;
    use crate::{can_use_kernel, kernel::Kernel, packet::ip};

    #[test]
    fn what_has_run_is_counted_and_timed_and_nothing_else() {
        if !can_use_kernel() {
            return;
        }
        let mut kernel = Kernel::new();
        let frame = ip("10.1.0.2", "10.2.0.2").tcp_syn(40_000, 80);
        let pins = kernel.pins().clone();
        let (took, costs) =
            of_programs(&pins, || kernel.datapath().time(Hook::Xdp, &frame, 0, 1000));
        let _ = took.expect("the program runs");
        let [cost] = &costs[..] else { panic!("{costs:?}") };
        assert_eq!((cost.program.as_str(), cost.runs), ("ng_xdp", 1000));
        assert!(cost.ns > 0.0, "{cost:?}");
    }
}
