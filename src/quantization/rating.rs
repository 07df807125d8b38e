//! Words for an SQNR, and where one ends and the next begins.

/// A word for an SQNR. Uniform noise of an 8-bit grid over a Gaussian weight reaches about
/// 40 dB when the grid spans four deviations; each halving of the used range costs 6 dB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rating {
    Poor,
    Fair,
    Good,
    Excellent,
}

impl Rating {
    pub fn word(self) -> &'static str {
        match self {
            Rating::Poor => "poor",
            Rating::Fair => "fair",
            Rating::Good => "good",
            Rating::Excellent => "excellent",
        }
    }
}

/// From how many dB on each word is said; below `fair` it is poor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    pub fair: f64,
    pub good: f64,
    pub excellent: f64,
}

/// 20 dB is an error of 10 % of the weight's norm, 30 dB of 3 %, 40 dB of 1 %.
impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { fair: 20.0, good: 30.0, excellent: 40.0 }
    }
}

impl Thresholds {
    /// `None` unless they are finite and rise.
    pub fn new(fair: f64, good: f64, excellent: f64) -> Option<Thresholds> {
        let finite = [fair, good, excellent].iter().all(|db| db.is_finite());
        (finite && fair < good && good < excellent).then_some(Thresholds { fair, good, excellent })
    }

    pub fn verdict(&self, sqnr_db: f64) -> Rating {
        match sqnr_db {
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
    fn each_word_begins_at_its_threshold() {
        let words = Thresholds::default();
        let said = [19.9, 20.0, 30.0, 39.9, 40.0, f64::INFINITY].map(|db| words.verdict(db).word());
        assert_eq!(said, ["poor", "fair", "good", "good", "excellent", "excellent"]);
        assert_eq!(words.verdict(f64::NAN), Rating::Poor);
        let own = Thresholds::new(10.0, 12.5, 15.0).expect("they rise");
        assert_eq!(own.verdict(12.5), Rating::Good);
        assert_eq!(Thresholds::new(10.0, 10.0, 15.0), None);
        assert_eq!(Thresholds::new(f64::NAN, 10.0, 15.0), None);
    }
}
