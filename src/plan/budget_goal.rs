//! The goal of a budget, as users type it.

use crate::text::size::SizeLimit;
use std::str::FromStr;

/// The goal of a budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BudgetGoal {
    /// The lowest error within a size: `60MB`, `1.5GiB`, `50%`.
    Size(SizeLimit),
    /// The smallest size at which every tensor has at least this SQNR: `40dB`.
    MinSqnr(Decibels),
}

/// A signal-to-noise ratio in dB.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Decibels(pub f64);

impl FromStr for BudgetGoal {
    type Err = String;

    /// Parses a number followed by `dB` as an SQNR, and anything else as a size.
    fn from_str(text: &str) -> Result<BudgetGoal, String> {
        match without_unit(text) {
            Some(_) => text.parse().map(BudgetGoal::MinSqnr),
            None => text.parse().map(BudgetGoal::Size).map_err(|_| {
                let text = text.escape_debug();
                format!("invalid goal '{text}': expected a size such as 60MB or 50%, or 40dB")
            }),
        }
    }
}

impl FromStr for Decibels {
    type Err = String;

    /// Parses a number with or without the unit.
    fn from_str(text: &str) -> Result<Decibels, String> {
        let number = without_unit(text).unwrap_or(text).trim().parse::<f64>();
        match number {
            Ok(db) if db.is_finite() => Ok(Decibels(db)),
            _ => {
                let text = text.escape_debug();
                Err(format!("invalid number of decibels '{text}': expected 40 or 40dB"))
            }
        }
    }
}

impl std::fmt::Display for Decibels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} dB", self.0)
    }
}

/// Returns the text before a final `dB`; `None` if the text does not end in it.
fn without_unit(text: &str) -> Option<&str> {
    let text = text.trim();
    let start = text.len().checked_sub(2)?;
    let unit = text.get(start..)?;
    unit.eq_ignore_ascii_case("db").then(|| text.get(..start)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_size_or_a_ratio() {
        let goal = |text: &str| text.parse::<BudgetGoal>();
        assert_eq!(goal("60MB"), Ok(BudgetGoal::Size(SizeLimit::Bytes(60_000_000))));
        assert_eq!(goal("1.5GiB"), Ok(BudgetGoal::Size(SizeLimit::Bytes(1_610_612_736))));
        assert_eq!(goal("50%"), Ok(BudgetGoal::Size(SizeLimit::Share(0.5))));
        for text in ["40dB", "40 dB", " 40db ", "40DB"] {
            assert_eq!(goal(text), Ok(BudgetGoal::MinSqnr(Decibels(40.0))), "{text}");
        }
        for text in ["", "dB", "40dBm", "infdB", "many", "ü"] {
            assert!(goal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decibels_need_no_unit() {
        for (text, db) in [("40", 40.0), ("-3.5dB", -3.5), ("1e1 db", 10.0)] {
            assert_eq!(text.parse(), Ok(Decibels(db)), "{text}");
        }
        for text in ["", "nan", "40 dBx", "60MB"] {
            assert!(text.parse::<Decibels>().is_err(), "{text}");
        }
    }
}
