//! Ratings of an SQNR, and their thresholds.

/// A rating of an SQNR.
///
/// An 8-bit grid that spans four standard deviations of a Gaussian weight gives about 40 dB;
/// each halving of the range in use costs 6 dB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rating {
    /// Below the threshold for fair.
    Poor,
    /// From the threshold for fair.
    Fair,
    /// From the threshold for good.
    Good,
    /// From the threshold for excellent.
    Excellent,
}

impl Rating {
    /// The rating in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Rating::Poor => "poor",
            Rating::Fair => "fair",
            Rating::Good => "good",
            Rating::Excellent => "excellent",
        }
    }
}

/// The SQNR in dB from which each rating applies; below `fair` it is poor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Minimum for fair.
    pub fair: f64,
    /// Minimum for good.
    pub good: f64,
    /// Minimum for excellent.
    pub excellent: f64,
}

/// 20, 30 and 40 dB, which are errors of 10 %, 3 % and 1 % of the weight's norm.
impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { fair: 20.0, good: 30.0, excellent: 40.0 }
    }
}

impl Thresholds {
    /// `None` unless the thresholds are finite and ascending.
    pub fn new(fair: f64, good: f64, excellent: f64) -> Option<Thresholds> {
        let finite = [fair, good, excellent].iter().all(|db| db.is_finite());
        (finite && fair < good && good < excellent).then_some(Thresholds { fair, good, excellent })
    }

    /// The rating of an SQNR in dB as it is shown, with one decimal; poor for NaN.
    pub fn rate(&self, sqnr_db: f64) -> Rating {
        match (sqnr_db * 10.0).round() / 10.0 {
            db if db >= self.excellent => Rating::Excellent,
            db if db >= self.good => Rating::Good,
            db if db >= self.fair => Rating::Fair,
            _ => Rating::Poor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rating_begins_at_its_threshold() {
        let usual = Thresholds::default();
        let rated = [19.9, 20.0, 30.0, 39.94, 39.96, f64::INFINITY].map(|db| usual.rate(db).name());
        assert_eq!(rated, ["poor", "fair", "good", "good", "excellent", "excellent"]);
        assert_eq!(usual.rate(f64::NAN), Rating::Poor);
        let own = Thresholds::new(10.0, 12.5, 15.0).expect("ascending");
        assert_eq!(own.rate(12.5), Rating::Good);
        assert_eq!(Thresholds::new(10.0, 10.0, 15.0), None);
        assert_eq!(Thresholds::new(f64::NAN, 10.0, 15.0), None);
    }
}
