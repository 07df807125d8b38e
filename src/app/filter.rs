//! Which names a typed text means: words, a regular expression after `re:`, or a glob when
//! it has a `*`. A word that no name holds as it is written is taken as a fuzzy one.

use globset::{GlobBuilder, GlobMatcher};
use nucleo_matcher::pattern::{AtomKind, CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};
use regex::{Regex, RegexBuilder};

#[derive(Clone, Debug, Default)]
pub enum Filter {
    #[default]
    Everything,
    Words(Pattern),
    Regex(Regex),
    Glob(GlobMatcher),
}

impl Filter {
    /// # Errors
    /// A sentence, when the text is not yet a valid pattern.
    pub fn parse(text: &str) -> Result<Filter, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Filter::Everything);
        }
        let sensitive = text.chars().any(char::is_uppercase);
        if let Some(pattern) = text.strip_prefix("re:") {
            return RegexBuilder::new(pattern)
                .case_insensitive(!sensitive)
                .build()
                .map(Filter::Regex)
                .map_err(|_| "not a complete regular expression yet".to_owned());
        }
        if text.contains('*') {
            return GlobBuilder::new(text)
                .case_insensitive(!sensitive)
                .build()
                .map(|glob| Filter::Glob(glob.compile_matcher()))
                .map_err(|_| "not a complete glob yet".to_owned());
        }
        Ok(Filter::Words(Pattern::parse(text, CaseMatching::Smart, Normalization::Smart)))
    }

    /// Takes every word as it is written, if any of `names` holds it so: letters scattered
    /// over long names would match far too many.
    pub fn settled<'n>(mut self, names: impl Iterator<Item = &'n str> + Clone) -> Filter {
        let Filter::Words(pattern) = &mut self else { return self };
        let mut matcher = Matcher::new(Config::DEFAULT);
        let mut buffer = Vec::new();
        for atom in pattern.atoms.iter_mut().filter(|atom| atom.kind == AtomKind::Fuzzy) {
            atom.kind = AtomKind::Substring;
            let written = names
                .clone()
                .any(|name| atom.score(Utf32Str::new(name, &mut buffer), &mut matcher).is_some());
            if !written {
                atom.kind = AtomKind::Fuzzy;
            }
        }
        self
    }

    /// How its text is understood, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Filter::Everything => "",
            Filter::Words(pattern) => {
                match pattern.atoms.iter().any(|atom| atom.kind == AtomKind::Fuzzy) {
                    true => "fuzzy",
                    false => "words",
                }
            }
            Filter::Regex(_) => "regex",
            Filter::Glob(_) => "glob",
        }
    }

    /// A matcher to try many names with.
    pub fn matcher(&self) -> NameMatcher<'_> {
        NameMatcher { filter: self, fuzzy: Matcher::new(Config::DEFAULT), buffer: Vec::new() }
    }
}

/// A filter with the memory that trying names needs.
pub struct NameMatcher<'a> {
    filter: &'a Filter,
    fuzzy: Matcher,
    buffer: Vec<char>,
}

impl NameMatcher<'_> {
    pub fn matches(&mut self, name: &str) -> bool {
        self.score(name).is_some()
    }

    /// How well the name fits, higher is better; `None` when it does not.
    pub fn score(&mut self, name: &str) -> Option<u32> {
        match self.filter {
            Filter::Everything => Some(0),
            Filter::Regex(regex) => regex.is_match(name).then_some(0),
            Filter::Glob(glob) => glob.is_match(name).then_some(0),
            Filter::Words(pattern) => {
                pattern.score(Utf32Str::new(name, &mut self.buffer), &mut self.fuzzy)
            }
        }
    }

    /// The characters of the name, by number, that the filter found, in order.
    pub fn found(&mut self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        match self.filter {
            Filter::Everything | Filter::Glob(_) => {}
            Filter::Regex(regex) => {
                if let Some(hit) = regex.find(name) {
                    let start = name[..hit.start()].chars().count() as u32;
                    found.extend(start..start + hit.as_str().chars().count() as u32);
                }
            }
            Filter::Words(pattern) => {
                let haystack = Utf32Str::new(name, &mut self.buffer);
                pattern.indices(haystack, &mut self.fuzzy, &mut found);
                found.sort_unstable();
                found.dedup();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, name: &str) -> bool {
        Filter::parse(text).expect(text).matcher().matches(name)
    }

    #[test]
    fn a_text_is_fuzzy_a_glob_or_a_regular_expression() {
        let name = "model.layers.1.self_attn.q_proj.weight";
        for text in ["", "attn q", "l1qproj", "*.q_proj.*", r"re:layers\.\d+\.self", "!mlp"] {
            assert!(matches(text, name), "{text}");
        }
        for text in ["zebra", "*.q_proj", "re:^layers", "Attn"] {
            assert!(!matches(text, name), "{text}");
        }
    }

    #[test]
    fn a_word_is_only_fuzzy_when_no_name_holds_it() {
        let names = ["model.layers.0.mlp.up_proj", "model.layers.0.attn.q_proj"];
        let shown = |text: &str| {
            let filter = Filter::parse(text).expect(text).settled(names.into_iter());
            let mut matcher = filter.matcher();
            names.into_iter().filter(|name| matcher.matches(name)).count()
        };
        assert_eq!((shown("mlp"), shown("mlyrs"), shown("lay qpr")), (1, 2, 1));
    }

    #[test]
    fn a_pattern_half_typed_is_said_to_be_so() {
        assert!(Filter::parse("re:(").is_err());
        assert!(Filter::parse("*[").is_err());
    }

    #[test]
    fn found_characters_are_told() {
        let found = |text: &str| Filter::parse(text).expect(text).matcher().found("a.mlp.b");
        assert_eq!(found("mlp"), [2, 3, 4]);
        assert_eq!(found("re:l.*b"), [3, 4, 5, 6]);
        assert_eq!(found("*mlp*"), Vec::<u32>::new());
    }
}
