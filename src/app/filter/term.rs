//! One condition of a filter: `re:…`, `*glob*`, `dtype:bf16`, `size>10M`, `is:marked`, or a
//! negation of these with `!`.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::{Measurement, Sqnr};
use crate::plan::Obstacle;
use crate::plan::rules::Reason;
use crate::quantization::{Diagnostic, Rating};
use crate::tensor::TensorId;
use crate::text::size::SizeLimit;
use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};

#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub text: String,
    pub not: bool,
    pub test: TermTest,
}

#[derive(Clone, Debug)]
pub(crate) enum TermTest {
    Regex(Regex),
    Glob(GlobMatcher),
    /// A prefix of the dtype or the packed format, in lower case.
    DType(String),
    Compare(Metric, Comparison, f64),
    Is(Property),
}

/// A metric that can be compared with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Size,
    Parameters,
    Sqnr,
    /// The output error of the layer in dB, lower is better.
    Output,
    Absmax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

macro_rules! properties {
    ($($variant:ident $word:literal $meaning:literal,)*) => {
        /// A property of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Property {
            $($variant,)*
        }

        impl Property {
            pub(crate) const ALL: &'static [Property] = &[$(Property::$variant,)*];

            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Property::$variant => $word,)*
                }
            }

            /// A short description of the property.
            pub(crate) fn meaning(self) -> &'static str {
                match self {
                    $(Property::$variant => $meaning,)*
                }
            }
        }
    };
}

properties! {
    Marked "marked" "to be quantized",
    Quantizable "quantizable" "a weight that presets and 'mark all' include",
    Quantized "quantized" "stored quantized",
    Float "float" "holds floats",
    Flagged "flagged" "has any of the diagnostics below",
    Nan "nan" "holds NaN",
    Inf "inf" "holds infinities",
    Zero "zero" "all elements are zero",
    Constant "constant" "all elements are equal",
    Underflow "underflow" "its scale is too small for F32",
    BeyondF16 "beyond-f16" "has values outside the range of F16",
    Outlier "outlier" "one channel is an outlier",
    Dead "dead" "has output channels that are all zero",
    Duplicate "duplicate" "holds the same bytes as another",
    NoScale "noscale" "has no scale, so it cannot be quantized",
    Unreadable "unreadable" "could not be read",
    Waiting "waiting" "not measured yet",
    Poor "poor" "under 20 dB",
    Fair "fair" "20 to 30 dB",
    Good "good" "30 to 40 dB",
    Excellent "excellent" "40 dB and more",
    Norm "norm" "a normalization parameter",
    Embedding "embedding" "an embedding",
}

const METRICS: [(&str, Metric); 5] = [
    ("size", Metric::Size),
    ("params", Metric::Parameters),
    ("sqnr", Metric::Sqnr),
    ("output", Metric::Output),
    ("absmax", Metric::Absmax),
];

/// Longer operators come before their prefixes.
const COMPARISONS: [(&str, Comparison); 7] = [
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("≤", Comparison::AtMost),
    ("≥", Comparison::AtLeast),
    ("<", Comparison::Less),
    (">", Comparison::More),
    ("=", Comparison::Equal),
];

impl Term {
    /// `None` if the text is a word.
    ///
    /// # Errors
    /// Returns why the text is not a valid condition yet.
    pub(crate) fn parse(text: &str) -> Option<Result<Term, String>> {
        let (not, bare) = match text.strip_prefix('!') {
            Some(bare) => (true, bare),
            None => (false, text),
        };
        let test = test(bare)?;
        Some(test.map(|test| Term { text: text.to_owned(), not, test }))
    }

    /// Whether measurements can change the result.
    pub(crate) fn needs_findings(&self) -> bool {
        match self.test {
            TermTest::Regex(_) | TermTest::Glob(_) | TermTest::DType(_) => false,
            TermTest::Compare(metric, ..) => {
                matches!(metric, Metric::Sqnr | Metric::Output | Metric::Absmax)
            }
            TermTest::Is(property) => !matches!(
                property,
                Property::Marked
                    | Property::Float
                    | Property::Quantized
                    | Property::Norm
                    | Property::Embedding
            ),
        }
    }

    pub(crate) fn holds(&self, model: &Model, id: TensorId) -> bool {
        self.test.holds(model, id) != self.not
    }
}

fn test(text: &str) -> Option<Result<TermTest, String>> {
    let sensitive = text.chars().any(char::is_uppercase);
    let glob = |pattern: &str| {
        GlobBuilder::new(pattern)
            .case_insensitive(!sensitive)
            .build()
            .map(|glob| TermTest::Glob(glob.compile_matcher()))
            .map_err(|_| "incomplete glob".to_owned())
    };
    if let Some(pattern) = text.strip_prefix("re:") {
        let regex = RegexBuilder::new(pattern).case_insensitive(!sensitive).build();
        let regex = regex.map(TermTest::Regex);
        return Some(regex.map_err(|_| "incomplete regular expression".to_owned()));
    }
    if let Some(pattern) = text.strip_prefix("glob:") {
        return Some(glob(pattern));
    }
    if let Some(dtype) = text.strip_prefix("dtype:") {
        return Some(Ok(TermTest::DType(dtype.to_lowercase())));
    }
    if let Some(word) = text.strip_prefix("is:") {
        return Some(property(word).map(TermTest::Is));
    }
    if let Some(compare) = comparison(text) {
        return Some(compare);
    }
    if let Some(why) = unknown(text) {
        return Some(Err(why));
    }
    text.contains('*').then(|| glob(text))
}

fn property(word: &str) -> Result<Property, String> {
    let all = Property::ALL.iter();
    if let Some(state) = all.clone().find(|state| state.word() == word) {
        return Ok(*state);
    }
    let fit: Vec<&str> =
        all.map(|state| state.word()).filter(|name| name.starts_with(word)).collect();
    Err(match fit.is_empty() {
        true => format!("is: unknown property '{word}'"),
        false => format!("is: {}", fit.join(", ")),
    })
}

/// `size>10M`: a metric, an operator and a number.
fn comparison(text: &str) -> Option<Result<TermTest, String>> {
    let (name, metric) = METRICS.into_iter().find(|(name, _)| text.starts_with(name))?;
    let rest = text.strip_prefix(name)?;
    let (sign, comparison) = COMPARISONS.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
    let number = rest.strip_prefix(sign)?;
    let found = match metric {
        Metric::Size => size_of(number),
        Metric::Parameters => count_of(number),
        _ => number_of(number),
    };
    let found = found.ok_or_else(|| match metric {
        Metric::Size => format!("{name}{sign} needs bytes, such as 10MB or 500kB"),
        Metric::Parameters => {
            format!("{name}{sign} needs a number of parameters, such as 1M or 7B")
        }
        Metric::Sqnr => format!("{name}{sign} needs dB, such as 30"),
        Metric::Output => format!("{name}{sign} needs dB, such as -30"),
        Metric::Absmax => format!("{name}{sign} needs a value, such as 2.5"),
    });
    Some(found.map(|number| TermTest::Compare(metric, comparison, number)))
}

/// A size in bytes: `10MB`, `500k`, `1.5GiB`.
fn size_of(text: &str) -> Option<f64> {
    match text.parse::<SizeLimit>().ok()? {
        SizeLimit::Bytes(bytes) => Some(bytes as f64),
        _ => None,
    }
}

/// A number of parameters as they are counted: `500K`, `22.7M`, `7B`, `1T`.
fn count_of(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)?.to_ascii_uppercase().as_str() {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "B" => 1e9,
        "T" => 1e12,
        _ => return None,
    };
    digits.parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| n * factor)
}

/// A number, also with the unit of an SQNR: `2.5`, `-30`, `30dB`.
fn number_of(text: &str) -> Option<f64> {
    // Accept the minus sign that the screen shows.
    let digits = text.trim_end_matches("dB").replace('−', "-");
    digits.parse::<f64>().ok().filter(|n| !n.is_nan())
}

/// Why a text that looks like a condition is none, with the nearest one; `None` for a word.
fn unknown(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).filter(|&end| end > 0)?;
    let (name, rest) = text.split_at(end);
    if COMPARISONS.iter().any(|(sign, _)| rest.starts_with(sign)) {
        let known = METRICS.map(|(known, _)| known);
        let nearest = known.into_iter().find(|known| is_near(name, known));
        let meant = nearest.map_or(String::new(), |known| format!(", did you mean {known}?"));
        return Some(format!("unknown figure '{name}'{meant} Known: {}", known.join(", ")));
    }
    let near = CONDITIONS.into_iter().find(|known| is_near(name, known));
    let near = near.filter(|_| rest.starts_with(':'))?;
    Some(format!("unknown condition '{name}:', did you mean {near}:?"))
}

/// The conditions that a colon follows.
const CONDITIONS: [&str; 4] = ["re", "glob", "dtype", "is"];

/// Whether a word is one letter away from another: changed, added, left out, or two swapped.
fn is_near(word: &str, other: &str) -> bool {
    let (a, b) = (word.as_bytes(), other.as_bytes());
    let start = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (a.get(start..).unwrap_or_default(), b.get(start..).unwrap_or_default());
    let skip = |bytes: &[u8], n: usize| bytes.get(n..).unwrap_or_default().to_vec();
    let swapped = a.len() >= 2 && b.len() >= 2 && a[0] == b[1] && a[1] == b[0];
    skip(a, 1) == skip(b, 1)
        || skip(a, 1) == b
        || a == skip(b, 1)
        || swapped && skip(a, 2) == skip(b, 2)
}

impl TermTest {
    fn holds(&self, model: &Model, id: TensorId) -> bool {
        let tensor = model.checkpoint.tensor(id);
        match self {
            TermTest::Regex(regex) => regex.is_match(&tensor.name),
            TermTest::Glob(glob) => glob.is_match(tensor.name.as_str()),
            TermTest::DType(wanted) => {
                let begins = |name: &str| match name.is_ascii() {
                    true => {
                        let start = name.as_bytes().get(..wanted.len());
                        start.is_some_and(|start| start.eq_ignore_ascii_case(wanted.as_bytes()))
                    }
                    false => name.to_lowercase().starts_with(wanted),
                };
                begins(tensor.dtype.name())
                    || model
                        .checkpoint
                        .packed_format(id)
                        .is_some_and(|layout| begins(&layout.name()))
            }
            TermTest::Compare(metric, comparison, number) => {
                let value = match metric {
                    Metric::Size => Some(tensor.bytes as f64),
                    Metric::Parameters => Some(tensor.parameters() as f64),
                    Metric::Sqnr => model.sqnr(id).decibels(),
                    Metric::Output => {
                        model.output(id).and_then(|error| error.db(ActivationMode::Weights))
                    }
                    Metric::Absmax => {
                        model.measurement(id).metrics().map(|metrics| metrics.statistics.absmax)
                    }
                };
                value.is_some_and(|value| match comparison {
                    Comparison::Less => value < *number,
                    Comparison::AtMost => value <= *number,
                    Comparison::More => value > *number,
                    Comparison::AtLeast => value >= *number,
                    Comparison::Equal => value == *number,
                })
            }
            TermTest::Is(property) => property.holds(model, id),
        }
    }
}

impl Property {
    fn holds(self, model: &Model, id: TensorId) -> bool {
        let flagged = |fits: fn(&Diagnostic) -> bool| {
            model.measurement(id).metrics().is_some_and(|metrics| metrics.flags.iter().any(fits))
        };
        let rating = |rating| model.rating(id) == Some(rating);
        match self {
            Property::Marked => model.is_marked(id),
            Property::Quantizable => model.quantizable(id),
            Property::Quantized => model.checkpoint.packed_format(id).is_some(),
            Property::Float => model.checkpoint.float_type(id).is_some(),
            Property::Flagged => flagged(|_| true),
            Property::Nan => flagged(|flag| matches!(flag, Diagnostic::Nan { .. })),
            Property::Inf => flagged(|flag| matches!(flag, Diagnostic::Inf { .. })),
            Property::Zero => flagged(|flag| matches!(flag, Diagnostic::Zero)),
            Property::Constant => flagged(|flag| matches!(flag, Diagnostic::Constant(_))),
            Property::Underflow => flagged(|flag| matches!(flag, Diagnostic::Underflow)),
            Property::BeyondF16 => flagged(|flag| matches!(flag, Diagnostic::BeyondF16 { .. })),
            Property::Outlier => flagged(|flag| matches!(flag, Diagnostic::OutlierChannel { .. })),
            Property::Duplicate => flagged(|flag| matches!(flag, Diagnostic::Duplicate(_))),
            Property::Dead => flagged(|flag| matches!(flag, Diagnostic::DeadChannels(_))),
            Property::NoScale => model.sqnr(id) == Sqnr::Impossible,
            Property::Unreadable => matches!(model.measurement(id), Measurement::Unreadable(_)),
            Property::Waiting => model.sqnr(id) == Sqnr::Waiting,
            Property::Poor => rating(Rating::Poor),
            Property::Fair => rating(Rating::Fair),
            Property::Good => rating(Rating::Good),
            Property::Excellent => rating(Rating::Excellent),
            Property::Norm => matches!(model.obstacle(id), Some(Obstacle::Norm)),
            Property::Embedding => matches!(
                model.reason(id),
                Some(
                    Reason::Obstacle(Obstacle::Embedding)
                        | Reason::LookupTable
                        | Reason::VocabularyTable(_)
                )
            ),
        }
    }
}
