//! `analyze --fail-on`: conditions that make the command fail, for use in CI.

use crate::checkpoint::Checkpoint;
use crate::cli::error::Error;
use crate::cli::measured::Measured;
use crate::cli::target::MeasuredFor;
use crate::text::figures;
use std::str::FromStr;

/// A condition that no tensor may meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum FailOn {
    Nan,
    Inf,
    /// The SQNR of a quantizable tensor is below this many dB.
    Below(f64),
}

impl FromStr for FailOn {
    type Err = String;

    fn from_str(text: &str) -> Result<FailOn, String> {
        let wrong = || format!("unknown condition '{text}': expected nan, inf or below:DB");
        match text {
            "nan" => Ok(FailOn::Nan),
            "inf" => Ok(FailOn::Inf),
            _ => {
                let db = text.strip_prefix("below:").ok_or_else(wrong)?;
                let number = db.strip_suffix("dB").or(db.strip_suffix("db")).unwrap_or(db).trim();
                let db: f64 = number.parse().map_err(|_| wrong())?;
                if db.is_finite() { Ok(FailOn::Below(db)) } else { Err(wrong()) }
            }
        }
    }
}

impl FailOn {
    /// Why a tensor meets the condition; `None` if it does not.
    fn violation(
        self,
        checkpoint: &Checkpoint,
        measured_for: &MeasuredFor,
        measured: &Measured,
    ) -> Option<String> {
        let statistics = measured.statistics()?;
        match self {
            FailOn::Nan => (statistics.nan > 0).then(|| format!("{} NaN", statistics.nan)),
            FailOn::Inf => {
                (statistics.inf > 0).then(|| format!("{} infinite values", statistics.inf))
            }
            FailOn::Below(limit) => {
                let by_default = measured_for.reason(checkpoint, measured.id).is_none();
                let db = measured.sqnr_db().filter(|_| by_default)?;
                let shown = |db| figures::decibels(db);
                (db < limit).then(|| format!("SQNR {} is below {}", shown(db), shown(limit)))
            }
        }
    }
}

/// Returns an error if a tensor meets one of the conditions.
pub(super) fn check(
    conditions: &[FailOn],
    checkpoint: &Checkpoint,
    measured_for: &MeasuredFor,
    measured: &[Measured],
) -> Result<(), Error> {
    let first_violation = |measured: &Measured| {
        conditions
            .iter()
            .find_map(|condition| condition.violation(checkpoint, measured_for, measured))
    };
    let mut violations =
        measured.iter().filter_map(|measured| Some((measured.id, first_violation(measured)?)));
    let Some((id, why)) = violations.next() else { return Ok(()) };
    Err(Error::Condition {
        path: checkpoint.path().to_owned(),
        count: 1 + violations.count(),
        tensor: checkpoint.tensor(id).name.to_string(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_parsed() {
        for (text, condition) in [
            ("nan", FailOn::Nan),
            ("inf", FailOn::Inf),
            ("below:20", FailOn::Below(20.0)),
            ("below:20.5dB", FailOn::Below(20.5)),
            ("below:-3 db", FailOn::Below(-3.0)),
        ] {
            assert_eq!(text.parse(), Ok(condition), "{text}");
        }
        for text in ["", "NaN", "below", "below:x", "below:inf"] {
            assert!(text.parse::<FailOn>().is_err(), "{text}");
        }
    }
}
