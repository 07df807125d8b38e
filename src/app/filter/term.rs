//! One condition of a filter: `re:…`, `*glob*`, `dtype:bf16`, `size>10M`, `is:marked`, or a
//! negation of these with `!`.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::{Known, Sqnr};
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
    pub test: Test,
}

#[derive(Clone, Debug)]
pub(crate) enum Test {
    Regex(Regex),
    Glob(GlobMatcher),
    /// A prefix of the dtype or the packed format, in lower case.
    DType(String),
    Compare(Figure, Than, f64),
    Is(State),
}

/// A metric that can be compared with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Size,
    Parameters,
    Sqnr,
    /// The output error of the layer in dB, lower is better.
    Output,
    Absmax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Than {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
}

macro_rules! states {
    ($($variant:ident $word:literal $meaning:literal,)*) => {
        /// A property of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum State {
            $($variant,)*
        }

        impl State {
            pub(crate) const ALL: &'static [State] = &[$(State::$variant,)*];

            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(State::$variant => $word,)*
                }
            }

            /// What the property means, in a few words.
            pub(crate) fn meaning(self) -> &'static str {
                match self {
                    $(State::$variant => $meaning,)*
                }
            }
        }
    };
}

states! {
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

const FIGURES: [(&str, Figure); 5] = [
    ("size", Figure::Size),
    ("params", Figure::Parameters),
    ("sqnr", Figure::Sqnr),
    ("output", Figure::Output),
    ("absmax", Figure::Absmax),
];

/// Longer operators come before their prefixes.
const THANS: [(&str, Than); 7] = [
    ("<=", Than::AtMost),
    (">=", Than::AtLeast),
    ("≤", Than::AtMost),
    ("≥", Than::AtLeast),
    ("<", Than::Less),
    (">", Than::More),
    ("=", Than::Equal),
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
            Test::Regex(_) | Test::Glob(_) | Test::DType(_) => false,
            Test::Compare(figure, ..) => {
                matches!(figure, Figure::Sqnr | Figure::Output | Figure::Absmax)
            }
            Test::Is(state) => !matches!(
                state,
                State::Marked | State::Float | State::Quantized | State::Norm | State::Embedding
            ),
        }
    }

    pub(crate) fn holds(&self, model: &Model, id: TensorId) -> bool {
        self.test.holds(model, id) != self.not
    }
}

fn test(text: &str) -> Option<Result<Test, String>> {
    let sensitive = text.chars().any(char::is_uppercase);
    let glob = |pattern: &str| {
        GlobBuilder::new(pattern)
            .case_insensitive(!sensitive)
            .build()
            .map(|glob| Test::Glob(glob.compile_matcher()))
            .map_err(|_| "incomplete glob".to_owned())
    };
    if let Some(pattern) = text.strip_prefix("re:") {
        let regex = RegexBuilder::new(pattern).case_insensitive(!sensitive).build();
        let regex = regex.map(Test::Regex);
        return Some(regex.map_err(|_| "incomplete regular expression".to_owned()));
    }
    if let Some(pattern) = text.strip_prefix("glob:") {
        return Some(glob(pattern));
    }
    if let Some(dtype) = text.strip_prefix("dtype:") {
        return Some(Ok(Test::DType(dtype.to_lowercase())));
    }
    if let Some(word) = text.strip_prefix("is:") {
        return Some(state(word).map(Test::Is));
    }
    if let Some(compare) = comparison(text) {
        return Some(compare);
    }
    if let Some(why) = unknown(text) {
        return Some(Err(why));
    }
    text.contains('*').then(|| glob(text))
}

fn state(word: &str) -> Result<State, String> {
    let all = State::ALL.iter();
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
fn comparison(text: &str) -> Option<Result<Test, String>> {
    let (name, figure) = FIGURES.into_iter().find(|(name, _)| text.starts_with(name))?;
    let rest = text.strip_prefix(name)?;
    let (sign, than) = THANS.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
    let number = rest.strip_prefix(sign)?;
    let found = match figure {
        Figure::Size => size_of(number),
        Figure::Parameters => count_of(number),
        _ => number_of(number),
    };
    let found = found.ok_or_else(|| match figure {
        Figure::Size => format!("{name}{sign} needs bytes, such as 10MB or 500kB"),
        Figure::Parameters => {
            format!("{name}{sign} needs a number of parameters, such as 1M or 7B")
        }
        Figure::Sqnr => format!("{name}{sign} needs dB, such as 30"),
        Figure::Output => format!("{name}{sign} needs dB, such as -30"),
        Figure::Absmax => format!("{name}{sign} needs a value, such as 2.5"),
    });
    Some(found.map(|number| Test::Compare(figure, than, number)))
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
    if THANS.iter().any(|(sign, _)| rest.starts_with(sign)) {
        let known = FIGURES.map(|(known, _)| known);
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

impl Test {
    fn holds(&self, model: &Model, id: TensorId) -> bool {
        let tensor = model.checkpoint.tensor(id);
        match self {
            Test::Regex(regex) => regex.is_match(&tensor.name),
            Test::Glob(glob) => glob.is_match(tensor.name.as_str()),
            Test::DType(wanted) => {
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
            Test::Compare(figure, than, number) => {
                let value = match figure {
                    Figure::Size => Some(tensor.bytes as f64),
                    Figure::Parameters => Some(tensor.parameters() as f64),
                    Figure::Sqnr => model.sqnr(id).decibels(),
                    Figure::Output => {
                        model.output(id).and_then(|error| error.db(ActivationMode::Weights))
                    }
                    Figure::Absmax => model.known(id).facts().map(|facts| facts.statistics.absmax),
                };
                value.is_some_and(|value| match than {
                    Than::Less => value < *number,
                    Than::AtMost => value <= *number,
                    Than::More => value > *number,
                    Than::AtLeast => value >= *number,
                    Than::Equal => value == *number,
                })
            }
            Test::Is(state) => state.holds(model, id),
        }
    }
}

impl State {
    fn holds(self, model: &Model, id: TensorId) -> bool {
        let flagged = |fits: fn(&Diagnostic) -> bool| {
            model.known(id).facts().is_some_and(|facts| facts.flags.iter().any(fits))
        };
        let rating = |rating| model.rating(id) == Some(rating);
        match self {
            State::Marked => model.is_marked(id),
            State::Quantizable => model.quantizable(id),
            State::Quantized => model.checkpoint.packed_format(id).is_some(),
            State::Float => model.checkpoint.float_type(id).is_some(),
            State::Flagged => flagged(|_| true),
            State::Nan => flagged(|flag| matches!(flag, Diagnostic::Nan { .. })),
            State::Inf => flagged(|flag| matches!(flag, Diagnostic::Inf { .. })),
            State::Zero => flagged(|flag| matches!(flag, Diagnostic::Zero)),
            State::Constant => flagged(|flag| matches!(flag, Diagnostic::Constant(_))),
            State::Underflow => flagged(|flag| matches!(flag, Diagnostic::Underflow)),
            State::BeyondF16 => flagged(|flag| matches!(flag, Diagnostic::BeyondF16 { .. })),
            State::Outlier => flagged(|flag| matches!(flag, Diagnostic::OutlierChannel { .. })),
            State::Duplicate => flagged(|flag| matches!(flag, Diagnostic::Duplicate(_))),
            State::Dead => flagged(|flag| matches!(flag, Diagnostic::DeadChannels(_))),
            State::NoScale => model.sqnr(id) == Sqnr::Impossible,
            State::Unreadable => matches!(model.known(id), Known::Unreadable(_)),
            State::Waiting => model.sqnr(id) == Sqnr::Waiting,
            State::Poor => rating(Rating::Poor),
            State::Fair => rating(Rating::Fair),
            State::Good => rating(Rating::Good),
            State::Excellent => rating(Rating::Excellent),
            State::Norm => matches!(model.obstacle(id), Some(Obstacle::Norm)),
            State::Embedding => matches!(
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
