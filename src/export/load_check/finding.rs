//! A finding about a saved model.

/// The consequence of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The model does not load, or loads incorrectly.
    Fails,
    /// The model loads, but not with all loaders, or some of it is unused.
    Warns,
}

impl Severity {
    /// The name at the start of a message and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Fails => "fails",
            Severity::Warns => "warning",
        }
    }
}

/// A reason why a model does not load, or a fact to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The consequence.
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

/// Formats the first of several names and the number of others: `'a'`, or `'a' and 3 more`.
pub(super) fn first_and_count(first: &str, count: usize) -> String {
    let first = first.escape_debug();
    match count {
        0 | 1 => format!("'{first}'"),
        n => format!("'{first}' and {} more", n - 1),
    }
}
