//! What is known of each tensor, in the little space that 100,000 of them leave.

use crate::quantization::{
    Analysis, ErrorStatistics, NotQuantizable, QuantizationScheme, Quantized, Statistics, Verdict,
};

/// The schemes that are measured and can be chosen, cheapest in bytes first.
pub const SCHEMES: [QuantizationScheme; 5] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(128),
    QuantizationScheme::per_block(64),
    QuantizationScheme::per_block(32),
];

/// A scheme as people say it.
pub fn scheme_name(scheme: QuantizationScheme) -> &'static str {
    match SCHEMES.iter().position(|&s| s == scheme) {
        Some(0) => "per tensor",
        Some(1) => "per channel",
        Some(2) => "block 128",
        Some(3) => "block 64",
        Some(4) => "block 32",
        _ => "other",
    }
}

/// The scheme after `scheme` in [`SCHEMES`], the first after the last.
pub fn next_scheme(scheme: QuantizationScheme) -> QuantizationScheme {
    let at = SCHEMES.iter().position(|&s| s == scheme).map_or(0, |i| i + 1);
    SCHEMES[at % SCHEMES.len()]
}

/// What a scheme costs a tensor, or why it cannot have it.
#[derive(Clone, Debug, PartialEq)]
pub enum Cost {
    Error {
        error: ErrorStatistics,
        /// Σ(x−x̂)²/Σx²
        noise_share: f64,
        scales: u64,
        largest_scale: f32,
    },
    Impossible(NotQuantizable),
}

/// What was found out about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub statistics: Statistics,
    costs: [Option<Cost>; SCHEMES.len()],
}

impl Facts {
    /// `None` when the analysis did not ask for statistics.
    pub fn of(analysis: &Analysis) -> Option<Facts> {
        let mut facts = Facts { statistics: analysis.statistics?, costs: Default::default() };
        facts.add(analysis);
        Some(facts)
    }

    /// Takes over the outcomes of a further analysis of the same tensor.
    pub fn add(&mut self, analysis: &Analysis) {
        for outcome in &analysis.outcomes {
            let place = SCHEMES.iter().position(|&s| s == outcome.quantizer.scheme);
            let cost = match &outcome.result {
                Ok(Quantized { scales, error: Some(error), .. }) => Cost::Error {
                    error: error.statistics(),
                    noise_share: error.noise_share(),
                    scales: scales.count,
                    largest_scale: scales.max,
                },
                Ok(_) => continue,
                Err(why) => Cost::Impossible(why.clone()),
            };
            if let Some(place) = place {
                self.costs[place] = Some(cost);
            }
        }
    }

    /// `None` while the scheme is not measured.
    pub fn cost(&self, scheme: QuantizationScheme) -> Option<&Cost> {
        let place = SCHEMES.iter().position(|&s| s == scheme)?;
        self.costs[place].as_ref()
    }

    pub fn error(&self, scheme: QuantizationScheme) -> Option<&ErrorStatistics> {
        match self.cost(scheme)? {
            Cost::Error { error, .. } => Some(error),
            Cost::Impossible(_) => None,
        }
    }
}

/// How far a tensor is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Known {
    /// It has no float elements, so there is nothing to measure.
    #[default]
    Nothing,
    Waiting,
    Facts(Box<Facts>),
    /// It could not be read; the sentence says why.
    Unreadable(String),
}

impl Known {
    pub fn facts(&self) -> Option<&Facts> {
        match self {
            Known::Facts(facts) => Some(facts),
            _ => None,
        }
    }
}

/// What a row says of a tensor's SQNR.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sqnr {
    Decibels(f64),
    /// It has no scale: NaN, infinities, or values beyond F32.
    Impossible,
    Unreadable,
    /// It is stored quantized: what that cost is not in this file.
    Stored,
    Waiting,
    /// Not a float.
    Nothing,
}

impl Sqnr {
    pub fn of(known: &Known, scheme: QuantizationScheme) -> Sqnr {
        match known {
            Known::Nothing => Sqnr::Nothing,
            Known::Waiting => Sqnr::Waiting,
            Known::Unreadable(_) => Sqnr::Unreadable,
            Known::Facts(facts) => match facts.cost(scheme) {
                Some(Cost::Error { error, .. }) => Sqnr::Decibels(error.sqnr_db),
                Some(Cost::Impossible(_)) => Sqnr::Impossible,
                None => Sqnr::Waiting,
            },
        }
    }

    pub fn decibels(self) -> Option<f64> {
        match self {
            Sqnr::Decibels(db) => Some(db),
            _ => None,
        }
    }

    pub fn verdict(self) -> Option<Verdict> {
        self.decibels().map(Verdict::of)
    }
}
