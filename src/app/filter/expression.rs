//! A filter: words and conditions. A tensor must match all of them.

use crate::app::filter::term::{Subject, Term, TermTest, Vocabulary};
use crate::app::filter::words::{MatchBuffers, Words};
use crate::app::model::{Model, TENSORS_PER_TASK};
use rayon::prelude::*;
use std::sync::Arc;

/// A filter of the table.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    words: Words,
    terms: Vec<Term>,
    /// The least score of names that match fuzzily: worse ones match by accident.
    least_score: u32,
    /// The scores of all names, if words match fuzzily; zero for a name that does not match.
    scores: Arc<[u32]>,
}

impl Filter {
    /// A filter that shows everything.
    pub fn everything() -> Filter {
        Filter::default()
    }

    /// Returns whether nothing is filtered out.
    pub fn is_everything(&self) -> bool {
        self.words.is_empty() && self.terms.is_empty()
    }

    /// A filter of tensors.
    ///
    /// # Errors
    /// Fails if the text is not a valid filter.
    pub fn parse(text: &str) -> Result<Filter, String> {
        Filter::parse_for(text, &Vocabulary::TENSORS)
    }

    /// A filter of the things that `vocabulary` describes.
    ///
    /// # Errors
    /// Fails if the text is not a valid filter of these things.
    pub(crate) fn parse_for(text: &str, vocabulary: &Vocabulary) -> Result<Filter, String> {
        let mut words = Vec::new();
        let mut terms = Vec::new();
        for token in text.split_whitespace() {
            match Term::parse(token, vocabulary) {
                Some(term) => terms.push(term?),
                None => words.push(token),
            }
        }
        Ok(Filter { words: Words::parse(words.join(" ")), terms, ..Filter::default() })
    }

    /// Makes each word match literally if any name contains it, and fuzzily otherwise. `names` are
    /// those of all subjects that have an index, in this order.
    /// `before` is the filter of the same names that was resolved last.
    pub fn resolve<'n>(
        &mut self,
        before: &Filter,
        names: impl ParallelIterator<Item = &'n str> + Clone,
    ) {
        self.words.resolve(&before.words, names.clone());
        (self.least_score, self.scores) = Default::default();
        if self.words.is_fuzzy() {
            self.scores = self.words.scores(names).into();
            self.least_score = self.words.least_score(&self.scores);
        }
    }

    /// Resolves a filter of the tensors of `model`; see [`Filter::resolve`].
    pub(crate) fn resolve_tensors(&mut self, before: &Filter, model: &Model) {
        if self.words.may_match_digits() {
            let names = model.checkpoint.tensors().par_iter().with_min_len(TENSORS_PER_TASK);
            return self.resolve(before, names.map(|tensor| tensor.name.as_str()));
        }
        let shapes = model.name_shapes();
        self.resolve(before, shapes.shapes());
        if self.words.is_fuzzy() {
            self.scores = shapes.spread(&self.scores).into();
        }
    }

    /// Whether a word matches names that do not contain it.
    pub fn is_fuzzy(&self) -> bool {
        self.words.is_fuzzy()
    }

    /// Whether this filter shows only tensors that `before` shows; both must be resolved. Then
    /// only those tensors have to be tried.
    pub fn narrows(&self, before: &Filter) -> bool {
        let same = |(now, then): (&Term, &Term)| now.text == then.text;
        // More letters may raise or lower the least score of a fuzzy match.
        !self.words.is_fuzzy()
            && !before.words.is_fuzzy()
            && self.words.narrow(&before.words)
            && before.terms.len() <= self.terms.len()
            && self.terms.iter().zip(&before.terms).all(same)
    }

    /// Whether measurements can change what the filter shows.
    pub fn needs_findings(&self) -> bool {
        self.terms.iter().any(Term::needs_findings)
    }

    /// Says in a word how the text is understood.
    pub fn kind(&self) -> &'static str {
        match (&self.terms[..], self.words.is_empty()) {
            ([], true) => "",
            ([], false) if self.words.is_fuzzy() => "fuzzy",
            ([], false) => "words",
            ([Term { test: TermTest::Regex(_), .. }], true) => "regex",
            ([Term { test: TermTest::Glob(_), .. }], true) => "glob",
            _ => "filter",
        }
    }

    /// A matcher, to try many things.
    pub fn matcher(&self) -> Matcher<'_> {
        Matcher { filter: self, buffers: MatchBuffers::default() }
    }
}

/// A filter with the buffers that matching needs.
pub struct Matcher<'a> {
    filter: &'a Filter,
    buffers: MatchBuffers,
}

impl Matcher<'_> {
    pub(crate) fn matches(&mut self, subject: &impl Subject) -> bool {
        if !self.filter.terms.iter().all(|term| term.holds(subject)) {
            return false;
        }
        match self.filter.least_score {
            0 => self.filter.words.fit(subject.name(), &mut self.buffers),
            least => self.name_score(subject).is_some_and(|score| score >= least),
        }
    }

    /// How well the name matches, higher is better; `None` if the thing does not match.
    pub(crate) fn score(&mut self, subject: &impl Subject) -> Option<u32> {
        if !self.filter.terms.iter().all(|term| term.holds(subject)) {
            return None;
        }
        let score = if self.filter.words.is_empty() { Some(0) } else { self.name_score(subject) };
        score.filter(|&score| score >= self.filter.least_score)
    }

    /// The score of a name by the words alone; `None` if it does not match.
    fn name_score(&mut self, subject: &impl Subject) -> Option<u32> {
        match subject.index().and_then(|index| self.filter.scores.get(index)) {
            Some(&score) => (score > 0).then_some(score),
            None => self.filter.words.score(subject.name(), &mut self.buffers),
        }
    }

    /// The indices of the name's characters that matched, in order.
    pub fn found(&mut self, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for term in self.filter.terms.iter().filter(|term| !term.not) {
            if let TermTest::Regex(regex) = &term.test
                && let Some(hit) = regex.find(name)
            {
                let start = name[..hit.start()].chars().count() as u32;
                found.extend(start..start + hit.as_str().chars().count() as u32);
            }
        }
        self.filter.words.found(name, &mut self.buffers, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::filter::TensorSubject;
    use crate::checkpoint::Checkpoint;
    use crate::tensor::TensorId;
    use std::path::Path;

    fn model() -> Model {
        let path = Path::new("tests/data/tiny-llama/single/model.safetensors");
        Model::new(Arc::new(Checkpoint::open(path).expect("opens")))
    }

    fn resolved(text: &str, model: &Model) -> Filter {
        let mut filter = Filter::parse(text).expect(text);
        resolve(&mut filter, model);
        filter
    }

    fn resolve(filter: &mut Filter, model: &Model) {
        filter.resolve_tensors(&Filter::everything(), model);
    }

    #[test]
    fn kept_scores_are_those_of_the_names() {
        let model = model();
        let mut matched = 0;
        for text in ["mdl.mlp", "lyrs.1 upproj", "mdl.layrs !norm"] {
            let filter = resolved(text, &model);
            assert!(filter.is_fuzzy(), "{text}");
            let (mut matcher, mut buffers) = (filter.matcher(), MatchBuffers::default());
            for id in model.checkpoint.ids() {
                let score = filter.words.score(&model.checkpoint.tensor(id).name, &mut buffers);
                let expected = score.filter(|&score| score >= filter.least_score);
                let subject = TensorSubject { model: &model, id };
                assert_eq!(matcher.score(&subject), expected, "{text} {id:?}");
                assert_eq!(matcher.matches(&subject), expected.is_some(), "{text} {id:?}");
                matched += usize::from(expected.is_some());
            }
        }
        assert!(matched > 0);
    }

    /// Searching the shapes of names gives what searching the names gives.
    #[test]
    fn names_of_a_shape_match_alike() {
        let model = model();
        let names = || model.checkpoint.tensors().par_iter().map(|tensor| tensor.name.as_str());
        for text in ["mdl.mlp", "lyrs.upproj", "mlp", "!norm q", "lyrs.1q", "zzz", "'mlp x"] {
            let by_shape = resolved(text, &model);
            let mut by_name = Filter::parse(text).expect(text);
            by_name.resolve(&Filter::everything(), names());
            assert_eq!(by_shape.scores, by_name.scores, "{text}");
            assert_eq!(by_shape.least_score, by_name.least_score, "{text}");
            assert_eq!(by_shape.is_fuzzy(), by_name.is_fuzzy(), "{text}");
        }
    }

    fn shown(text: &str, model: &Model) -> Vec<TensorId> {
        let filter = resolved(text, model);
        let mut matcher = filter.matcher();
        model.checkpoint.ids().filter(|&id| matcher.matches(&TensorSubject { model, id })).collect()
    }

    #[test]
    fn every_kind_of_condition_counts() {
        let mut model = model();
        let marked = model.checkpoint.find("lm_head.weight").expect("there");
        model.mark(&[marked]);
        for (text, count) in [
            ("", 21),
            ("q_proj", 2),
            ("1 proj", 7),
            ("1qproj", 1),
            ("*.1.*_proj.*", 7),
            ("glob:*.1.*_proj.*", 7),
            ("!*.1.*_proj.*", 14),
            (r"re:layers\.\d+\.self", 8),
            ("!mlp", 15),
            ("Layers", 0),
            ("dtype:bf16", 21),
            ("dtype:f32", 0),
            ("is:marked", 1),
            ("!is:marked lm", 0),
            ("is:quantizable", 15),
            ("is:norm", 5),
            ("is:embedding", 1),
            ("is:waiting attn", 8),
            ("size>60k", 8),
            ("size<=256B", 5),
            ("params>0.03M mlp", 6),
            ("params>1B", 0),
            ("size>32kB !mlp", 6),
            ("params>=32768 mlp", 6),
            ("size>60k !mlp", 2),
            ("sqnr<30", 0),
        ] {
            assert_eq!(shown(text, &model).len(), count, "{text}");
        }
    }

    #[test]
    fn a_word_is_only_fuzzy_when_no_name_holds_it() {
        let model = model();
        assert_eq!(resolved("mlp", &model).kind(), "words");
        assert_eq!(resolved("l1qproj", &model).kind(), "fuzzy");
        assert_eq!(resolved("re:^l", &model).kind(), "regex");
        assert_eq!(resolved("mlp size>1", &model).kind(), "filter");
    }

    #[test]
    fn an_incomplete_filter_is_reported() {
        for (text, part) in [
            ("re:(", "regular expression"),
            ("*[", "glob"),
            ("size>", "needs bytes"),
            ("size>7B5", "needs bytes"),
            ("params>1GB", "such as 1M or 7B"),
            ("sqrn<20", "did you mean sqnr?"),
            ("weight>3", "Known: size, params, sqnr, output, absmax"),
            ("dtpye:f32", "did you mean dtype:?"),
            ("sqnr<x", "needs dB"),
            ("is:", "marked"),
            ("is:zzz", "unknown property"),
            ("is:makred", "did you mean marked?"),
            ("is:added", "unknown property"),
        ] {
            let why = Filter::parse(text).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    /// Trying only the tensors shown before gives the same result as trying all.
    #[test]
    fn a_narrower_filter_only_removes_matches() {
        let model = model();
        let texts = [
            "",
            "m",
            "ml",
            "mlp",
            "mlp ",
            "mlp u",
            "mlp up size>10",
            "mlp up size>100",
            "l1",
            "l1q",
            "l1q is:marked",
            "!m",
            "!ml",
            "^m",
            "^mo",
            "re:m",
            "re:ml",
            "Q",
            "q",
            "q_",
            "q_P",
            "la\\",
            "la\\ ",
            "size<1",
            "size<10",
            "!mlp is:waiting",
            "is:waiting mlp",
            "lm_head",
            "lm_headx",
        ];
        let mut narrower = 0;
        for before in texts {
            for now in texts {
                let (Ok(a), Ok(b)) = (Filter::parse(before), Filter::parse(now)) else { continue };
                let (mut a, mut b) = (a, b);
                resolve(&mut a, &model);
                resolve(&mut b, &model);
                if b.narrows(&a) {
                    narrower += usize::from(before != now);
                    let held = shown(before, &model);
                    assert!(
                        shown(now, &model).iter().all(|id| held.contains(id)),
                        "{before} → {now}"
                    );
                }
            }
        }
        assert!(narrower > 30, "{narrower}");
    }

    #[test]
    fn matching_characters_are_reported() {
        let found = |text: &str| Filter::parse(text).expect(text).matcher().found("a.mlp.b");
        assert_eq!(found("mlp"), [2, 3, 4]);
        assert_eq!(found("re:l.*b"), [3, 4, 5, 6]);
        assert_eq!(found("*mlp*"), Vec::<u32>::new());
    }
}
