//! Completion of the last term of a filter.

use crate::app::filter::term::Vocabulary;
use std::collections::BTreeSet;

/// A filter text whose last term was completed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompletedFilter {
    /// The text as far as all candidates agree.
    pub text: String,
    /// The terms that begin as the last one.
    pub candidates: Vec<String>,
}

/// Completes the last term: a condition, a property after `is:`, a dtype after `dtype:`, or a part
/// of a name.
pub(crate) fn complete<'n>(
    text: &str,
    vocabulary: &Vocabulary,
    names: impl Iterator<Item = &'n str>,
    dtypes: impl Iterator<Item = String>,
) -> CompletedFilter {
    let start = text.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (before, term) = text.split_at(start);
    let (not, bare) = match term.strip_prefix('!') {
        Some(bare) => ("!", bare),
        None => ("", term),
    };
    let candidates: Vec<String> = if let Some(word) = bare.strip_prefix("is:") {
        let words = vocabulary.properties().filter(|name| name.starts_with(word));
        words.map(|name| format!("is:{name}")).collect()
    } else if let Some(wanted) = bare.strip_prefix("dtype:") {
        let wanted = wanted.to_lowercase();
        let known: BTreeSet<String> = dtypes.map(|name| name.to_lowercase()).collect();
        let known = known.into_iter().filter(|name| name.starts_with(&wanted));
        known.map(|name| format!("dtype:{name}")).collect()
    } else {
        let conditions = vocabulary.conditions();
        let conditions = conditions.into_iter().filter(|name| name.starts_with(bare));
        let parts = names.flat_map(|name| name.split('.'));
        let numbered = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: BTreeSet<&str> = if bare.is_empty() {
            BTreeSet::new()
        } else {
            parts.filter(|part| part.starts_with(bare) && !numbered(part)).collect()
        };
        conditions.chain(parts.into_iter().map(str::to_owned)).collect()
    };
    let Some(first) = candidates.first() else {
        return CompletedFilter { text: text.to_owned(), candidates };
    };
    let common = candidates.iter().fold(first.as_str(), |common, name| {
        let same = common.chars().zip(name.chars()).take_while(|(a, b)| a == b);
        let length: usize = same.map(|(c, _)| c.len_utf8()).sum();
        common.get(..length).unwrap_or_default()
    });
    CompletedFilter { text: format!("{before}{not}{common}"), candidates }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_term_is_completed_as_far_as_the_candidates_agree() {
        let names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj", "model.norm"];
        let dtypes = || ["BF16", "F32"].map(str::to_owned).into_iter();
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let completed =
            |text: &str| complete(text, &Vocabulary::TENSORS, names.into_iter(), dtypes());
        for (text, after, candidates) in [
            ("sq", "sqnr", &["sqnr<", "sqnr>"][..]),
            ("mlp is:qu", "mlp is:quantiz", &["is:quantizable", "is:quantized"]),
            ("!is:mar", "!is:marked", &["is:marked"]),
            ("dtype:b", "dtype:bf16", &["dtype:bf16"]),
            ("m", "m", &["mlp", "model"]),
            ("up", "up_proj", &["up_proj"]),
            ("0", "0", &[]),
            ("zzz", "zzz", &[]),
        ] {
            let found = completed(text);
            assert_eq!((found.text.as_str(), found.candidates), (after, owned(candidates)));
        }
        let models = complete("is:", &Vocabulary::MODELS, [].into_iter(), dtypes());
        assert_eq!(models.candidates, Vec::<String>::new());
    }
}
