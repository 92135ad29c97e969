//! What a benchmark has to say: its figures beside those of a peer and beside what is promised, printed as a table and written to
//! `target/bench/NAME.json`, of which `cargo xtask bench --readme` makes the README's table. Nothing is asserted.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use netguard::datapath::kernel_release;
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};

use crate::spread::Spread;

/// What was measured, in the unit of its row.
#[derive(Clone, Copy, Debug)]
pub enum Figure {
    /// Several times.
    Measured(Spread),
    /// It was not done within so much, and was ended.
    NotWithin(f64),
}

impl Figure {
    /// What a ratio goes by: of what was not done it is the least that it can have been.
    const fn value(self) -> f64 {
        match self {
            Self::Measured(spread) => spread.median,
            Self::NotWithin(limit) => limit,
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Measured(Spread { median, lowest, highest }) => {
                json!({ "median": median, "lowest": lowest, "highest": highest })
            }
            Self::NotWithin(limit) => json!({ "not_within": limit }),
        }
    }
}

impl From<Spread> for Figure {
    fn from(spread: Spread) -> Self {
        Self::Measured(spread)
    }
}

/// A figure of one value.
impl From<f64> for Figure {
    fn from(value: f64) -> Self {
        Self::Measured(Spread::of(vec![value]))
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.value() {
            value if value < 10.0 => 2,
            value if value < 100.0 => 1,
            _ => 0,
        };
        let text = match self {
            Self::Measured(Spread { median, lowest, highest }) if lowest == highest => {
                format!("{median:.digits$}")
            }
            Self::Measured(spread) => format!("{spread:.digits$}"),
            Self::NotWithin(limit) => format!("not within {limit:.0}"),
        };
        f.pad(&text)
    }
}

/// What is promised of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// At most so much, in the row's own unit.
    Below(f64),
    /// At least so much, in the row's own unit.
    Above(f64),
    /// At most so many times the peer's.
    AtMost(f64),
    /// At least so many times the peer's: a rate.
    AtLeast(f64),
    /// The peer's is at least so many times ours: a time.
    Faster(f64),
}

/// One quantity.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: &'static str,
    ours: Figure,
    peer: Option<(String, Figure)>,
    /// The ratios of single rounds, where those are compared.
    by_rounds: Option<Spread>,
    bound: Option<Bound>,
}

impl Row {
    /// A figure of netguard's.
    #[must_use]
    pub fn new(what: impl Into<String>, unit: &'static str, ours: impl Into<Figure>) -> Self {
        let (what, ours) = (what.into(), ours.into());
        Self { what, unit, ours, peer: None, by_rounds: None, bound: None }
    }

    /// Rates of rounds in which both had their turn: what else the machine does changes from one round to the next, so the
    /// ratio is that of each round.
    #[must_use]
    pub fn of_rounds(
        what: impl Into<String>,
        unit: &'static str,
        ours: Vec<f64>,
        peer: impl Into<String>,
        theirs: Vec<f64>,
    ) -> Self {
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
        let row = Self::new(what, unit, Spread::of(ours)).beside(peer, Spread::of(theirs));
        Self { by_rounds: Some(Spread::of(ratios)), ..row }
    }

    /// With that of a peer that has done the same.
    #[must_use]
    pub fn beside(mut self, peer: impl Into<String>, figure: impl Into<Figure>) -> Self {
        self.peer = Some((peer.into(), figure.into()));
        self
    }

    /// With what is promised.
    #[must_use]
    pub fn bound(mut self, bound: Bound) -> Self {
        self.bound = Some(bound);
        self
    }

    /// How many times one is the other; which way round, the bound says.
    fn ratio(&self) -> Option<f64> {
        if let Some(ratios) = self.by_rounds {
            return Some(ratios.median);
        }
        let (ours, theirs) = (self.ours.value(), self.peer.as_ref()?.1.value());
        Some(if matches!(self.bound, Some(Bound::Faster(_))) {
            theirs / ours
        } else {
            ours / theirs
        })
    }

    fn is_met(&self) -> Option<bool> {
        Some(match self.bound? {
            Bound::Below(limit) => self.ours.value() <= limit,
            Bound::Above(limit) => self.ours.value() >= limit,
            Bound::AtMost(limit) => self.ratio()? <= limit,
            Bound::AtLeast(limit) | Bound::Faster(limit) => self.ratio()? >= limit,
        })
    }

    /// "26x faster"; more than that where the peer was not done.
    fn ratio_text(&self) -> String {
        let Some(ratio) = self.ratio() else { return String::new() };
        if let Some(ratios) = self.by_rounds {
            return format!("{ratios:.2}x");
        }
        let is_open = matches!(self.peer, Some((_, Figure::NotWithin(_))));
        let digits = if ratio < 10.0 { 2 } else { 0 };
        match (self.bound, is_open) {
            (Some(Bound::Faster(_)), false) => format!("{ratio:.digits$}x faster"),
            (Some(Bound::Faster(_)), true) => format!("over {ratio:.digits$}x faster"),
            (_, false) => format!("{ratio:.digits$}x"),
            (_, true) => format!("under {ratio:.digits$}x"),
        }
    }

    fn bound_text(&self) -> String {
        let unit = self.unit;
        self.bound.map_or_else(String::new, |bound| match bound {
            Bound::Below(limit) => format!("at most {limit} {unit}"),
            Bound::Above(limit) => format!("at least {limit} {unit}"),
            Bound::AtMost(limit) => format!("at most {limit}x"),
            Bound::AtLeast(limit) => format!("at least {limit}x"),
            Bound::Faster(limit) => format!("at least {limit}x faster"),
        })
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "netguard": self.ours.json(),
            "netguard_text": format!("{} {}", self.ours, self.unit),
            "peer": self.peer.as_ref().map(|(name, figure)| json!({ "name": name, "figure": figure.json() })),
            "peer_text": self.peer.as_ref().map(|(name, figure)| format!("{name}: {figure} {}", self.unit)),
            "ratio": self.ratio(),
            "ratio_text": self.ratio_text(),
            "bound": self.bound_text(),
            "is_met": self.is_met(),
        })
    }
}

/// All that one benchmark has to say.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    rows: Vec<Row>,
}

impl Report {
    /// An empty one of the benchmark of that name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, rows: Vec::new() }
    }

    /// One row more.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table and writes the file.
    ///
    /// # Panics
    ///
    /// The file cannot be written.
    pub fn finish(self) {
        println!("\n{}", self.table());
        let file = directory().join(format!("{}.json", self.name));
        self.write(&file)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    }

    fn table(&self) -> String {
        let head = ["", "netguard", "beside", "ratio", "promised", ""].map(str::to_owned);
        let lines = self.rows.iter().map(|row| {
            let Row { what, unit, ours, peer, .. } = row;
            let beside = peer.as_ref().map(|(name, figure)| format!("{name}: {figure} {unit}"));
            let met = row.is_met().map_or("", |is_met| if is_met { "met" } else { "MISSED" });
            [
                what.clone(),
                format!("{ours} {unit}"),
                beside.unwrap_or_default(),
                row.ratio_text(),
                row.bound_text(),
                met.to_owned(),
            ]
        });
        columns(&[head].into_iter().chain(lines).collect::<Vec<_>>())
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        let text = json!({ "bench": self.name, "machine": machine(), "rows": rows });
        fs::create_dir_all(directory())?;
        fs::write(file, format!("{text:#}\n"))
    }
}

/// Where figures are written.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench")
}

/// What the figures are of: `2 cores, Linux 6.18`.
#[must_use]
pub fn machine() -> String {
    // Of the machine, and not those that a thread which measures has left.
    let cores = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    let release = kernel_release();
    let numbers: Vec<_> = release.split('.').take(2).collect();
    format!("{cores} cores, Linux {}", numbers.join("."))
}

/// True if a short look is enough: `NETGUARD_BENCH_QUICK=1`.
#[must_use]
pub fn is_quick() -> bool {
    std::env::var_os("NETGUARD_BENCH_QUICK").is_some_and(|quick| quick == "1")
}

/// Cells in columns that are as wide as the widest of theirs.
#[must_use]
pub fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|it| it[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread() -> Spread {
        Spread::of(vec![4.0, 5.0, 6.0])
    }

    #[test]
    fn a_row_says_which_way_round_its_ratio_is_and_if_it_is_what_was_promised() {
        let beside = |bound, theirs: f64| {
            let row = Row::new("it", "ms", spread()).beside("peer", theirs).bound(bound);
            (row.ratio_text(), row.bound_text(), row.is_met())
        };
        let text =
            |ratio: &str, bound: &str, is_met| (ratio.to_owned(), bound.to_owned(), Some(is_met));
        assert_eq!(
            beside(Bound::Faster(20.0), 110.0),
            text("22x faster", "at least 20x faster", true)
        );
        assert_eq!(
            beside(Bound::Faster(20.0), 90.0),
            text("18x faster", "at least 20x faster", false)
        );
        assert_eq!(beside(Bound::AtMost(0.25), 20.0), text("0.25x", "at most 0.25x", true));
        assert_eq!(beside(Bound::AtMost(0.25), 19.0), text("0.26x", "at most 0.25x", false));
        assert_eq!(beside(Bound::AtLeast(1.2), 4.0), text("1.25x", "at least 1.2x", true));
        assert_eq!(beside(Bound::AtLeast(1.2), 4.5), text("1.11x", "at least 1.2x", false));
        let alone = |limit| Row::new("it", "ms", spread()).bound(Bound::Below(limit)).is_met();
        assert_eq!((alone(5.0), alone(4.9)), (Some(true), Some(false)));
    }

    #[test]
    fn rounds_are_compared_each_by_itself() {
        let row =
            Row::of_rounds("it", "k/s", vec![10.0, 30.0, 22.0], "peer", vec![10.0, 20.0, 20.0]);
        let row = row.bound(Bound::AtLeast(1.2));
        assert_eq!(row.ratio_text(), "1.10 (1.00 to 1.50)x");
        assert_eq!((row.is_met(), row.json()["ratio"].as_f64()), (Some(false), Some(1.1)));
    }

    #[test]
    fn a_peer_that_was_not_done_is_a_bound_and_no_figure() {
        let row = Row::new("it", "ms", spread())
            .beside("peer", Figure::NotWithin(120_000.0))
            .bound(Bound::Faster(20.0));
        assert_eq!(row.ratio_text(), "over 24000x faster");
        let json = row.json();
        assert_eq!(json["peer_text"], "peer: not within 120000 ms");
        assert_eq!(json["peer"]["figure"]["not_within"], 120_000.0);
        assert_eq!(json["netguard"]["median"], 5.0);
        assert_eq!(
            (&json["netguard_text"], &json["is_met"]),
            (&json!("5.00 (4.00 to 6.00) ms"), &json!(true))
        );
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cells = [["a", "µs"], ["bcd", "x"]].map(|line| line.map(str::to_owned));
        assert_eq!(columns(&cells), "a    µs\nbcd  x\n");
    }
}
