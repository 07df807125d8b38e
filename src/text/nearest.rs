//! Finds the names that are most similar to a misspelt one.

use strsim::osa_distance;

/// The `count` most similar of `names`, most similar first. Names that share less than half of
/// their characters with `word` are left out.
pub(crate) fn nearest<'n>(
    word: &str,
    names: impl Iterator<Item = &'n str>,
    count: usize,
) -> Vec<&'n str> {
    let lower = word.to_lowercase();
    let length = lower.chars().count();
    let edits = |name: &'n str| {
        let edits = osa_distance(&lower, &name.to_lowercase());
        (edits <= length.max(name.chars().count()) / 2).then_some((edits, name))
    };
    let mut ranked: Vec<(usize, &str)> = names.filter_map(edits).collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_come_first_and_others_not_at_all() {
        let names = ["layers.1.up_proj.weight", "layers.0.up_proj.weight", "embed"];
        let found = nearest("layers.0.up_porj.weight", names.into_iter(), 3);
        assert_eq!(found, ["layers.0.up_proj.weight", "layers.1.up_proj.weight"]);
        assert!(nearest("zzz", names.into_iter(), 3).is_empty());
    }
}
