//! Words of a filter: taken as they are written where any name holds them so, letter by
//! letter where none does.

use nucleo_matcher::pattern::{AtomKind, CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

#[derive(Clone, Debug, Default)]
pub struct Words {
    text: String,
    pattern: Pattern,
}

impl Words {
    pub fn parse(text: String) -> Words {
        let pattern = Pattern::parse(&text, CaseMatching::Smart, Normalization::Smart);
        Words { text, pattern }
    }

    pub fn is_empty(&self) -> bool {
        self.pattern.atoms.is_empty()
    }

    pub fn is_fuzzy(&self) -> bool {
        self.pattern.atoms.iter().any(|atom| atom.kind == AtomKind::Fuzzy)
    }

    /// Takes every word as it is written, if any of `names` holds it so: letters scattered
    /// over long names would match far too many. `likely` are names that hold it if any do.
    pub fn settle<'n>(
        &mut self,
        likely: impl Iterator<Item = &'n str> + Clone,
        names: impl Iterator<Item = &'n str> + Clone,
    ) {
        let mut matcher = Matcher::new(Config::DEFAULT);
        let mut buffer = Vec::new();
        for atom in self.pattern.atoms.iter_mut().filter(|atom| atom.kind == AtomKind::Fuzzy) {
            atom.kind = AtomKind::Substring;
            let mut holds =
                |name| atom.score(Utf32Str::new(name, &mut buffer), &mut matcher).is_some();
            if !likely.clone().any(&mut holds) && !names.clone().any(&mut holds) {
                atom.kind = AtomKind::Fuzzy;
            }
        }
    }

    /// Whether every name these words fit is one that `before` fit: they are the same words
    /// with more letters or more words after them, and none is understood in another way.
    pub fn narrow(&self, before: &Words) -> bool {
        let plain = |words: &Words| {
            let kinds = [AtomKind::Fuzzy, AtomKind::Substring];
            words.pattern.atoms.iter().all(|atom| !atom.negative && kinds.contains(&atom.kind))
        };
        let kinds = || self.pattern.atoms.iter().zip(&before.pattern.atoms);
        self.text.starts_with(&before.text)
            && plain(self)
            && plain(before)
            && kinds().all(|(now, then)| {
                now.kind == then.kind || now.kind == AtomKind::Substring
            })
            // A capital makes a word mind its case, which only narrows; an ending backslash
            // may have meant a space.
            && !before.text.ends_with('\\')
    }

    /// How well the name fits, higher is better; `None` when it does not.
    pub fn score(&self, name: &str, scratch: &mut Scratch) -> Option<u32> {
        let haystack = Utf32Str::new(name, &mut scratch.buffer);
        self.pattern.score(haystack, &mut scratch.matcher)
    }

    /// The characters of the name, by number, that were found.
    pub fn found(&self, name: &str, scratch: &mut Scratch, found: &mut Vec<u32>) {
        let haystack = Utf32Str::new(name, &mut scratch.buffer);
        self.pattern.indices(haystack, &mut scratch.matcher, found);
    }
}

/// The memory that trying names needs.
pub struct Scratch {
    matcher: Matcher,
    buffer: Vec<char>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { matcher: Matcher::new(Config::DEFAULT), buffer: Vec::new() }
    }
}
