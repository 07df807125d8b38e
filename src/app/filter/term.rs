//! One condition of a filter: `re:…`, `*glob*`, `dtype:bf16`, `size>10M`, `is:marked`, or a
//! negation of these with `!`.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::{Known, Sqnr};
use crate::plan::Obstacle;
use crate::plan::rules::Reason;
use crate::quantization::{Diagnostic, Rating};
use crate::tensor::TensorId;
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
    let found = number_of(number).ok_or_else(|| match figure {
        Figure::Size => format!("{name}{sign} needs a size, such as 10M or 500k"),
        Figure::Parameters => format!("{name}{sign} needs a number, such as 1M"),
        Figure::Sqnr => format!("{name}{sign} needs dB, such as 30"),
        Figure::Output => format!("{name}{sign} needs dB, such as -30"),
        Figure::Absmax => format!("{name}{sign} needs a value, such as 2.5"),
    });
    Some(found.map(|number| Test::Compare(figure, than, number)))
}

/// A number with a decimal unit: `10M`, `1.5GB`, `30dB`.
fn number_of(text: &str) -> Option<f64> {
    let bare = text.trim_end_matches("dB").trim_end_matches(['b', 'B']);
    let (digits, factor) = match bare.chars().last()? {
        'k' | 'K' => (&bare[..bare.len() - 1], 1e3),
        'm' | 'M' => (&bare[..bare.len() - 1], 1e6),
        'g' | 'G' => (&bare[..bare.len() - 1], 1e9),
        't' | 'T' => (&bare[..bare.len() - 1], 1e12),
        _ => (bare, 1.0),
    };
    // Accept the minus sign that the screen shows.
    let digits = digits.replace('−', "-");
    digits.parse::<f64>().ok().filter(|n| !n.is_nan()).map(|n| n * factor)
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
