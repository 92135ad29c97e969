//! One scaling table: a row for each number, what the last is times the first, and what breaks first.

use std::fmt;

/// A quantity that may grow.
pub struct Column {
    /// With its unit.
    pub name: &'static str,
    /// How many digits behind the point.
    pub digits: usize,
}

/// A column.
pub const fn column(name: &'static str, digits: usize) -> Column {
    Column { name, digits }
}

/// Figures by what they grow with.
pub struct Table {
    title: &'static str,
    columns: Vec<Column>,
    rows: Vec<(String, Vec<f64>)>,
    /// One sentence on what is refused first, seen in this run.
    pub breaks: String,
}

impl Table {
    /// An empty one.
    pub fn new(title: &'static str, columns: Vec<Column>) -> Self {
        Self { title, columns, rows: Vec::new(), breaks: String::new() }
    }

    /// One number's figures.
    pub fn add(&mut self, number: usize, figures: impl Into<Vec<f64>>) {
        eprintln!("{}: {number}", self.title);
        self.rows.push((grouped(number), figures.into()));
    }

    /// How many times the first row's figure the last one's is.
    pub fn growth(&self, column: usize) -> Option<f64> {
        let first = self.rows.first()?.1.get(column)?;
        let last = self.rows.last()?.1.get(column)?;
        (*first > 0.0).then(|| last / first)
    }
}

/// 1,000,000
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.columns.iter().map(|it| it.name).collect();
        writeln!(f, "## {}\n\n| | {} |", self.title, names.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(names.len()))?;
        for (number, figures) in &self.rows {
            let cells = figures.iter().zip(&self.columns);
            let cells = cells.map(|(figure, column)| format!("{figure:.*}", column.digits));
            writeln!(f, "| {number} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        let growth = (0..names.len()).map(|column| {
            self.growth(column).map_or_else(String::new, |times| {
                format!("{times:.*}x", usize::from(times < 100.0) * 2)
            })
        });
        writeln!(f, "| last to first | {} |", growth.collect::<Vec<_>>().join(" | "))?;
        writeln!(f, "\nWhat breaks first: {}", self.breaks)
    }
}
