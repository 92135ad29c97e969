//! What a benchmark prints of a quantity that it measured several times.

use std::fmt;

/// The median of some values, and how far they are apart.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The least.
    pub lowest: f64,
    /// The greatest.
    pub highest: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    ///
    /// There is none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (values[0], values[values.len() - 1]);
        Self { median: values[values.len() / 2], lowest, highest }
    }
}

/// "134 (131 to 140)", with as many digits behind the point as the format's precision says, or none.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let Self { median, lowest, highest } = self;
        let text = format!("{median:.digits$} ({lowest:.digits$} to {highest:.digits$})");
        // `pad` would take the precision for a length.
        write!(f, "{text:<width$}", width = f.width().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_median_lowest_and_highest_in_as_many_digits_as_asked_for() {
        let spread = Spread::of(vec![3.25, 10.0, 1.5]);
        assert_eq!(spread.to_string(), "3 (2 to 10)");
        assert_eq!(format!("{spread:.2}|"), "3.25 (1.50 to 10.00)|");
        assert_eq!(format!("{spread:14}|"), "3 (2 to 10)   |");
    }
}
