//! One condition of a filter: `re:…`, `*glob*`, `dtype:bf16`, `size>10M`, `is:marked`, or a
//! negation of these with `!`.

use crate::text::size::SizeLimit;
use globset::{GlobBuilder, GlobMatcher};
use regex::{Regex, RegexBuilder};

#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// The term as it was typed.
    pub text: String,
    /// Whether it is negated.
    pub not: bool,
    /// What it tests.
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

/// Something that a filter shows or hides.
pub(crate) trait Subject {
    fn name(&self) -> &str;

    fn metric(&self, metric: Metric) -> Option<f64>;

    fn is(&self, property: Property) -> bool;

    /// Whether the dtype or the packed format begins with a text in lower case.
    fn dtype_begins(&self, wanted: &str) -> bool;

    /// The index of the name among those that the filter was resolved with, if it is known.
    fn index(&self) -> Option<usize> {
        None
    }
}

/// The properties that can be tested of the filtered things.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    /// The things, as a sentence names them.
    things: &'static str,
    metrics: &'static [Metric],
    properties: &'static [Property],
    dtypes: bool,
}

impl Vocabulary {
    pub(crate) const TENSORS: Vocabulary = Vocabulary {
        things: "tensors",
        metrics: &[Metric::Size, Metric::Parameters, Metric::Sqnr, Metric::Output, Metric::Absmax],
        properties: Property::OF_TENSORS,
        dtypes: true,
    };

    /// Rows of a comparison.
    pub(crate) const DIFFERENCES: Vocabulary = Vocabulary {
        things: "differences",
        metrics: &[Metric::Size, Metric::Parameters, Metric::Sqnr],
        properties: Property::OF_DIFFERENCES,
        dtypes: true,
    };

    /// Models to open.
    pub(crate) const MODELS: Vocabulary =
        Vocabulary { things: "models", metrics: &[Metric::Size], properties: &[], dtypes: false };

    /// The beginnings of all conditions, with the sign that follows.
    pub(super) fn conditions(&self) -> Vec<String> {
        let named = CONDITIONS.into_iter().filter(|name| match *name {
            "dtype" => self.dtypes,
            "is" => !self.properties.is_empty(),
            _ => true,
        });
        let metrics = self
            .metrics
            .iter()
            .flat_map(|metric| ["<", ">"].map(|sign| format!("{}{sign}", metric.name())));
        named.map(|name| format!("{name}:")).chain(metrics).collect()
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = &'static str> {
        self.properties.iter().map(|property| property.word())
    }

    /// The names of the metrics, as a list.
    fn metric_list(&self) -> String {
        let names: Vec<&str> = self.metrics.iter().map(|metric| metric.name()).collect();
        names.join(", ")
    }
}

macro_rules! properties {
    ($($group:ident { $($variant:ident $word:literal $meaning:literal,)* })*) => {
        /// A property of a tensor or of a difference.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Property {
            $($($variant,)*)*
        }

        impl Property {
            $(pub(crate) const $group: &'static [Property] = &[$(Property::$variant,)*];)*

            pub(crate) fn word(self) -> &'static str {
                match self {
                    $($(Property::$variant => $word,)*)*
                }
            }

            /// A short description of the property.
            pub(crate) fn meaning(self) -> &'static str {
                match self {
                    $($(Property::$variant => $meaning,)*)*
                }
            }
        }
    };
}

properties! {
    OF_TENSORS {
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
    OF_DIFFERENCES {
        Changed "changed" "has other values in the other checkpoint",
        Identical "identical" "has the same bytes in both",
        Added "added" "only in the other checkpoint",
        Removed "removed" "only in this checkpoint",
        Reshaped "reshaped" "has another shape in the other checkpoint",
    }
}

impl Metric {
    const ALL: [Metric; 5] =
        [Metric::Size, Metric::Parameters, Metric::Sqnr, Metric::Output, Metric::Absmax];

    fn name(self) -> &'static str {
        match self {
            Metric::Size => "size",
            Metric::Parameters => "params",
            Metric::Sqnr => "sqnr",
            Metric::Output => "output",
            Metric::Absmax => "absmax",
        }
    }
}

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
    /// Parses a condition; `None` if the text is a word.
    ///
    /// # Errors
    /// Returns why the text is not a valid condition yet.
    pub(crate) fn parse(text: &str, vocabulary: &Vocabulary) -> Option<Result<Term, String>> {
        let (not, bare) = match text.strip_prefix('!') {
            Some(bare) => (true, bare),
            None => (false, text),
        };
        let test = test(bare, vocabulary)?;
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

    pub(crate) fn holds(&self, subject: &impl Subject) -> bool {
        self.test.holds(subject) != self.not
    }
}

fn test(text: &str, vocabulary: &Vocabulary) -> Option<Result<TermTest, String>> {
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
        let dtype = TermTest::DType(dtype.to_lowercase());
        let unknown = || format!("'dtype:' does not apply to {}", vocabulary.things);
        return Some(vocabulary.dtypes.then_some(dtype).ok_or_else(unknown));
    }
    if let Some(word) = text.strip_prefix("is:") {
        return Some(property(word, vocabulary).map(TermTest::Is));
    }
    if let Some(compare) = comparison(text, vocabulary) {
        return Some(compare);
    }
    if let Some(why) = unknown(text, vocabulary) {
        return Some(Err(why));
    }
    text.contains('*').then(|| glob(text))
}

fn property(word: &str, vocabulary: &Vocabulary) -> Result<Property, String> {
    let all = vocabulary.properties.iter();
    if let Some(property) = all.clone().find(|property| property.word() == word) {
        return Ok(*property);
    }
    let words: Vec<&str> = all.map(|property| property.word()).collect();
    if words.is_empty() {
        return Err(format!("'is:' does not apply to {}", vocabulary.things));
    }
    let fit: Vec<&str> = words.iter().copied().filter(|name| name.starts_with(word)).collect();
    let nearest = words.iter().find(|name| is_near(word, name));
    Err(match (fit.is_empty(), nearest) {
        (false, _) => format!("is: {}", fit.join(", ")),
        (true, Some(name)) => format!("is: unknown property '{word}', did you mean {name}?"),
        (true, None) => format!("is: unknown property '{word}' of {}", vocabulary.things),
    })
}

/// `size>10M`: a metric, an operator and a number.
fn comparison(text: &str, vocabulary: &Vocabulary) -> Option<Result<TermTest, String>> {
    let metric = Metric::ALL.into_iter().find(|metric| text.starts_with(metric.name()))?;
    let name = metric.name();
    let rest = text.strip_prefix(name)?;
    let (sign, comparison) = COMPARISONS.into_iter().find(|(sign, _)| rest.starts_with(sign))?;
    if !vocabulary.metrics.contains(&metric) {
        let (things, known) = (vocabulary.things, vocabulary.metric_list());
        return Some(Err(format!("'{name}' does not apply to {things}. Known: {known}")));
    }
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

/// Returns why a text that looks like a condition is not one, with the most similar condition;
/// `None` for a word.
fn unknown(text: &str, vocabulary: &Vocabulary) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).filter(|&end| end > 0)?;
    let (name, rest) = text.split_at(end);
    if COMPARISONS.iter().any(|(sign, _)| rest.starts_with(sign)) {
        let mut known = vocabulary.metrics.iter().map(|metric| metric.name());
        let nearest = known.find(|known| is_near(name, known));
        let meant = nearest.map_or(".".to_owned(), |known| format!(", did you mean {known}?"));
        let known = vocabulary.metric_list();
        return Some(format!("unknown figure '{name}'{meant} Known: {known}"));
    }
    let near = CONDITIONS.into_iter().find(|known| is_near(name, known));
    let near = near.filter(|_| rest.starts_with(':'))?;
    Some(format!("unknown condition '{name}:', did you mean {near}:?"))
}

/// The conditions that a colon follows.
const CONDITIONS: [&str; 4] = ["re", "glob", "dtype", "is"];

/// Returns whether one edit turns a word into another: a changed, added or missing letter, or two
/// swapped letters.
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
    fn holds(&self, subject: &impl Subject) -> bool {
        match self {
            TermTest::Regex(regex) => regex.is_match(subject.name()),
            TermTest::Glob(glob) => glob.is_match(subject.name()),
            TermTest::DType(wanted) => subject.dtype_begins(wanted),
            TermTest::Compare(metric, comparison, number) => {
                subject.metric(*metric).is_some_and(|value| match comparison {
                    Comparison::Less => value < *number,
                    Comparison::AtMost => value <= *number,
                    Comparison::More => value > *number,
                    Comparison::AtLeast => value >= *number,
                    Comparison::Equal => value == *number,
                })
            }
            TermTest::Is(property) => subject.is(*property),
        }
    }
}
