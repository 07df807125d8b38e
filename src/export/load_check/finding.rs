//! One thing that was found about a saved model.

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The model does not load, or loads wrong.
    Fails,
    /// It loads, but not everywhere, or something in it is not used.
    Warns,
}

impl Severity {
    /// The word in front of a sentence, and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Fails => "fails",
            Severity::Warns => "warning",
        }
    }
}

/// One thing that keeps a model from loading, or that is to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// What is wrong and what to do.
    pub sentence: String,
}

impl Finding {
    pub(super) fn fails(sentence: String) -> Finding {
        Finding { severity: Severity::Fails, sentence }
    }

    pub(super) fn warns(sentence: String) -> Finding {
        Finding { severity: Severity::Warns, sentence }
    }
}

/// `'a'`, or `'a' and 3 more`: the first of several names.
pub(super) fn first_and_count(first: &str, count: usize) -> String {
    let first = first.escape_debug();
    match count {
        0 | 1 => format!("'{first}'"),
        n => format!("'{first}' and {} more", n - 1),
    }
}
