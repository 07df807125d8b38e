//! The words of a filter. A word matches literally if any name contains it, and fuzzily otherwise.

use memchr::memmem::Finder;
use nucleo_matcher::pattern::{Atom, AtomKind, CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};
use rayon::prelude::*;

#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    text: String,
    pattern: Pattern,
    /// One entry per word of the pattern.
    plain: Vec<Option<AsciiWord>>,
}

impl Words {
    pub(super) fn parse(text: String) -> Words {
        let pattern = Pattern::parse(&text, CaseMatching::Smart, Normalization::Smart);
        let plain = pattern.atoms.iter().map(AsciiWord::of).collect();
        Words { text, pattern, plain }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pattern.atoms.is_empty()
    }

    /// Whether the words may tell names apart that differ only in their digits.
    pub(super) fn may_match_digits(&self) -> bool {
        // The fuzzy matcher takes some letters beyond ASCII for plain ones.
        self.text.chars().any(|c| !c.is_ascii() || c.is_ascii_digit())
    }

    pub(super) fn is_fuzzy(&self) -> bool {
        self.pattern.atoms.iter().any(|atom| atom.kind == AtomKind::Fuzzy)
    }

    /// Makes each word match literally if any of `names` contains it: a fuzzy match on long names
    /// would find far too many.
    ///
    /// Results for `before` are reused: if no name contains a word, no name contains a longer word
    /// that starts with it.
    pub(super) fn resolve<'n>(
        &mut self,
        before: &Words,
        names: impl ParallelIterator<Item = &'n str> + Clone,
    ) {
        let known = self.known_from(before);
        for (at, (atom, plain)) in self.pattern.atoms.iter_mut().zip(&self.plain).enumerate() {
            if atom.kind != AtomKind::Fuzzy {
                continue;
            }
            if let Some(Some(kind)) = known.get(at) {
                atom.kind = *kind;
                continue;
            }
            atom.kind = AtomKind::Substring;
            let word = &*atom;
            let holds = |buffers: &mut MatchBuffers, name| {
                fits(word, plain, name).unwrap_or_else(|| buffers.holds(word, name))
            };
            if !names.clone().map_init(MatchBuffers::default, holds).any(|holds| holds) {
                atom.kind = AtomKind::Fuzzy;
            }
        }
    }

    /// The score of each name, in order; zero for those that do not match.
    pub(super) fn scores<'n>(&self, names: impl ParallelIterator<Item = &'n str>) -> Vec<u32> {
        let score = |buffers: &mut MatchBuffers, name| {
            // The fuzzy matcher takes much longer to reject a name.
            let fits = self.fit(name, buffers);
            fits.then(|| self.score(name, buffers)).flatten().unwrap_or(0)
        };
        names.map_init(MatchBuffers::default, score).collect()
    }

    /// The lowest score of a match that is not by accident: near that of the best name, and with
    /// the letters of each word mostly at the beginnings of parts, or together.
    pub(super) fn least_score(&self, scores: &[u32]) -> u32 {
        /// A letter that matches counts 16; gaps before it cost, a place after a dot adds.
        const LEAST_PER_LETTER: u32 = 14;
        let best = scores.iter().copied().max().unwrap_or(0);
        let letters = self.pattern.atoms.iter().filter(|atom| !atom.negative);
        let letters: usize = letters.map(|atom| atom.needle_text().len()).sum();
        (best - best / 4).max(LEAST_PER_LETTER * letters as u32).max(1)
    }

    /// How each word, as far as it follows from `before`, if the text of `before` is a
    /// prefix of this text.
    fn known_from(&self, before: &Words) -> Vec<Option<AtomKind>> {
        let more = self.text.strip_prefix(before.text.as_str());
        let Some(more) = more.filter(|_| !before.text.ends_with('\\')) else { return Vec::new() };
        let atoms = &before.pattern.atoms;
        let same = more.is_empty() || more.starts_with(char::is_whitespace);
        let last = atoms.len().saturating_sub(1);
        let kind = |(at, atom): (usize, &Atom)| match atom.kind {
            _ if atom.negative => None,
            AtomKind::Substring if at < last || same => Some(AtomKind::Substring),
            AtomKind::Fuzzy => Some(AtomKind::Fuzzy),
            _ => None,
        };
        atoms.iter().enumerate().map(kind).collect()
    }

    /// Whether every name that matches these words also matches `before`. This is so if letters or
    /// words were appended and the words match in the same way.
    pub(super) fn narrow(&self, before: &Words) -> bool {
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
            // A capital letter makes a word case-sensitive, which only narrows. A trailing
            // backslash may have escaped a space.
            && !before.text.ends_with('\\')
    }

    /// Whether the name matches. Most names need no fuzzy matcher.
    pub(super) fn fit(&self, name: &str, buffers: &mut MatchBuffers) -> bool {
        let mut words = self.pattern.atoms.iter().zip(&self.plain);
        words.all(|(atom, plain)| match fits(atom, plain, name) {
            Some(fits) => fits != atom.negative,
            None => buffers.holds(atom, name),
        })
    }

    /// How well the name matches, higher is better; `None` if it does not.
    pub(super) fn score(&self, name: &str, buffers: &mut MatchBuffers) -> Option<u32> {
        let haystack = Utf32Str::new(name, &mut buffers.buffer);
        self.pattern.score(haystack, &mut buffers.matcher)
    }

    /// The indices of the name's characters that matched.
    pub(super) fn found(&self, name: &str, buffers: &mut MatchBuffers, found: &mut Vec<u32>) {
        let haystack = Utf32Str::new(name, &mut buffers.buffer);
        self.pattern.indices(haystack, &mut buffers.matcher, found);
    }
}

/// Whether the word matches the name; `None` if the fuzzy matcher has to decide.
fn fits(atom: &Atom, plain: &Option<AsciiWord>, name: &str) -> Option<bool> {
    plain.as_ref()?.fits(atom.kind, name)
}

/// A word of ASCII letters, searched in ASCII names without the fuzzy matcher. A word without
/// capitals ignores case.
#[derive(Clone, Debug)]
struct AsciiWord {
    finder: Finder<'static>,
    case_sensitive: bool,
}

impl AsciiWord {
    /// `None` if only the fuzzy matcher can search for the word.
    fn of(atom: &Atom) -> Option<AsciiWord> {
        let Utf32Str::Ascii(word) = atom.needle_text() else { return None };
        let case_sensitive = word.iter().any(u8::is_ascii_uppercase);
        (!word.is_empty())
            .then(|| AsciiWord { finder: Finder::new(word).into_owned(), case_sensitive })
    }

    /// Whether the word matches, literally or fuzzily; `None` if the fuzzy matcher has to decide.
    fn fits(&self, kind: AtomKind, name: &str) -> Option<bool> {
        let (name, word) = (name.as_bytes(), self.finder.needle());
        if !name.is_ascii() || name.contains(&b'\r') {
            return None;
        }
        let as_written = self.case_sensitive || !name.iter().any(u8::is_ascii_uppercase);
        match (kind, as_written) {
            (AtomKind::Substring, true) => Some(self.finder.find(name).is_some()),
            (AtomKind::Substring, false) => {
                Some(name.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
            }
            (AtomKind::Fuzzy, true) => Some(scattered(word, name, |a, b| a == b)),
            (AtomKind::Fuzzy, false) => {
                Some(scattered(word, name, |a, b| a.eq_ignore_ascii_case(&b)))
            }
            _ => None,
        }
    }
}

/// Whether the letters occur in the name in this order.
fn scattered(word: &[u8], name: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let mut left = word.iter();
    let mut wanted = left.next();
    for &letter in name {
        match wanted {
            None => return true,
            Some(&next) if same(next, letter) => wanted = left.next(),
            Some(_) => {}
        }
    }
    wanted.is_none()
}

/// Buffers for matching.
pub(super) struct MatchBuffers {
    matcher: Matcher,
    buffer: Vec<char>,
}

impl MatchBuffers {
    fn holds(&mut self, atom: &Atom, name: &str) -> bool {
        atom.score(Utf32Str::new(name, &mut self.buffer), &mut self.matcher).is_some()
    }
}

impl Default for MatchBuffers {
    fn default() -> Self {
        MatchBuffers { matcher: Matcher::new(Config::DEFAULT), buffer: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const NAMES: [&str; 3] = ["model.layers.0.mlp.up", "model.layers.0.attn.q", "model.norm"];

    fn resolved(text: &str, before: &Words, names: &[&str]) -> Words {
        let mut words = Words::parse(text.to_owned());
        words.resolve(before, names.par_iter().copied());
        words
    }

    #[test]
    fn words_match_literally_if_any_name_contains_them() {
        let none = Words::default();
        assert!(!resolved("mlp", &none, &NAMES).is_fuzzy());
        assert!(resolved("mdl", &none, &NAMES).is_fuzzy());
        assert!(resolved("mlp mdl", &none, &NAMES).is_fuzzy());
    }

    #[test]
    fn resolving_letter_by_letter_equals_resolving_the_whole_text() {
        for whole in ["mlp up", "size>10M", "is:marked", "layers att", "mdl.norm", "model.x norm"] {
            let mut before = Words::default();
            for end in 1..=whole.len() {
                let words = resolved(&whole[..end], &before, &NAMES);
                let at_once = resolved(&whole[..end], &Words::default(), &NAMES);
                let kinds = |words: &Words| -> Vec<AtomKind> {
                    words.pattern.atoms.iter().map(|atom| atom.kind).collect()
                };
                assert_eq!(kinds(&words), kinds(&at_once), "{}", &whole[..end]);
                before = words;
            }
        }
    }

    proptest! {
        /// The shortcut agrees with the fuzzy matcher.
        #[test]
        fn a_name_matches_exactly_if_it_has_a_score(
            text in "([!^'])?[aAb.1é ]{1,5}[$]?( [!]?[abB]{1,2})?",
            names in vec("[aAbB.1é\r\n]{0,9}", 1..6),
            scattered: bool,
        ) {
            let mut words = Words::parse(text);
            if !scattered {
                words.resolve(&Words::default(), names.par_iter().map(|n| &**n));
            }
            let mut buffers = MatchBuffers::default();
            for name in &names {
                let scored = words.score(name, &mut buffers).is_some();
                prop_assert_eq!(words.fit(name, &mut buffers), scored, "{:?} in {:?}", &words.text, name);
            }
        }
    }

    /// No names are given, so the result can only come from the previous filter.
    #[test]
    fn a_longer_word_stays_fuzzy_without_searching_the_names() {
        let siz = resolved("siz", &Words::default(), &NAMES);
        assert!(siz.is_fuzzy());
        assert!(resolved("size", &siz, &["a.size"]).is_fuzzy(), "looked at a name");
    }
}
