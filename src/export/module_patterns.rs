//! Expresses the set of quantized modules as regular expressions over their names, for loaders that
//! use Python's `re.match`. The expressions are checked to match exactly these modules.

use regex::RegexSetBuilder;
use std::collections::{BTreeMap, BTreeSet};

/// Prefixes of module names that a loader may add or drop: the name of the base model in a model
/// with a head.
const BASE_PREFIXES: [&str; 17] = [
    "model",
    "transformer",
    "language_model",
    "base_model",
    "backbone",
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "deberta",
    "albert",
    "mpnet",
    "gpt_neox",
    "nomic_bert",
    "modernbert",
    "esm",
    "vit",
];

/// Limit on the compiled size in bytes; enough for tens of thousands of layers.
const SIZE_LIMIT: usize = 512 << 20;

/// What a pattern allows before the module's name.
#[derive(Clone, Copy, PartialEq)]
enum PrefixRule {
    /// Any prefix that ends in a dot.
    Anything,
    /// Only the base model's name: for models with layers of the same name elsewhere.
    BaseModel,
}

/// Returns one pattern per layer in `selected`, or one for a whole family of layers whose names
/// differ only in numbers. Each starts with `re:`. `all` are the modules of the model.
pub(super) fn patterns(
    selected: &BTreeSet<String>,
    all: &BTreeSet<String>,
    model_type: Option<&str>,
) -> Result<Vec<String>, String> {
    let base = BaseModelNames::new(model_type);
    let names = with_parents(all);
    let mut bodies = Vec::new();
    let whole = |members: &[&str]| members.iter().all(|module| selected.contains(*module));
    for (pattern, members) in families(names, &base, 0) {
        if whole(&members) {
            bodies.push(pattern);
            continue;
        }
        // `net.0` may contain a layer while `net.2` is one. Only the last number tells them apart.
        for (pattern, members) in families(members, &base, 1) {
            if whole(&members) {
                bodies.push(pattern)
            } else {
                bodies.extend(
                    members
                        .into_iter()
                        .filter(|module| selected.contains(*module))
                        .map(|module| regex::escape(base.dropped(module))),
                )
            }
        }
    }
    let in_vllm: Vec<String> = bodies.iter().filter_map(|body| name_in_vllm(body)).collect();
    bodies.extend(in_vllm);
    let mut hit = String::new();
    for before in [PrefixRule::Anything, PrefixRule::BaseModel] {
        let patterns: Vec<String> = bodies.iter().map(|body| base.pattern(body, before)).collect();
        match prove(&patterns, selected, all, &base)? {
            None => return Ok(patterns.into_iter().map(|p| format!("re:{p}")).collect()),
            Some(module) => hit = module,
        }
    }
    Err(format!(
        "no pattern tells the selected layers from '{}', which is not selected; select it too, or choose the format safetensors",
        hit.escape_debug()
    ))
}

/// Returns the modules and their parents.
fn with_parents(all: &BTreeSet<String>) -> BTreeSet<&str> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for module in all {
        let mut name = module.as_str();
        while names.insert(name) {
            let Some((parent, _)) = name.rsplit_once('.') else { break };
            name = parent;
        }
    }
    names
}

/// Groups the modules by their patterns, in which the last `literal` numbers are kept.
fn families<'m>(
    modules: impl IntoIterator<Item = &'m str>,
    base: &BaseModelNames,
    literal: usize,
) -> BTreeMap<String, Vec<&'m str>> {
    let mut families: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for module in modules {
        families.entry(family(base.dropped(module), literal)).or_default().push(module);
    }
    families
}

/// Returns a pattern that matches a module's name with any numbers in it, except the last `literal`
/// ones, which are kept.
fn family(module: &str, literal: usize) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut numbers = module.split('.').filter(|part| number(part)).count();
    let parts = module.split('.').map(|part| {
        let is_number = number(part);
        let is_free = is_number && numbers > literal;
        numbers -= usize::from(is_number);
        if is_free { r"\d+".to_owned() } else { regex::escape(part) }
    });
    parts.collect::<Vec<_>>().join(r"\.")
}

/// Returns the pattern for vLLM's name of a layer in BERT's attention: vLLM renames
/// `attention.self` to `attention.output`.
fn name_in_vllm(body: &str) -> Option<String> {
    let (path, last) = body.rsplit_once(r"\.self\.")?;
    let is_bert = path.ends_with("attention") && ["query", "key", "value"].contains(&last);
    is_bert.then(|| format!(r"{path}\.output\.{last}"))
}

/// The names that a base model may have.
struct BaseModelNames {
    names: Vec<String>,
}

impl BaseModelNames {
    fn new(model_type: Option<&str>) -> BaseModelNames {
        let mut names: Vec<String> = BASE_PREFIXES.map(str::to_owned).to_vec();
        if let Some(model_type) = model_type {
            let name = model_type.replace('-', "_");
            if !names.contains(&name) {
                names.push(name);
            }
        }
        BaseModelNames { names }
    }

    /// Returns a module's name without the prefixes of base models.
    fn dropped<'m>(&self, module: &'m str) -> &'m str {
        let mut name = module;
        while let Some((first, rest)) = name.split_once('.')
            && self.names.iter().any(|base| base == first)
        {
            name = rest;
        }
        name
    }

    fn pattern(&self, body: &str, before: PrefixRule) -> String {
        match before {
            PrefixRule::Anything => format!(r"(.*\.)?{body}$"),
            PrefixRule::BaseModel => {
                let names: Vec<_> = self.names.iter().map(|name| regex::escape(name)).collect();
                format!(r"(({})\.)*{body}$", names.join("|"))
            }
        }
    }
}

/// Returns the first module for which the patterns are wrong: they match it but it is not
/// selected, or the reverse. Names are tried with and without the prefix of a base model.
fn prove(
    patterns: &[String],
    selected: &BTreeSet<String>,
    all: &BTreeSet<String>,
    base: &BaseModelNames,
) -> Result<Option<String>, String> {
    // Python's `re.match` matches at the start only.
    let anchored = patterns.iter().map(|pattern| format!("^(?:{pattern})"));
    let set = RegexSetBuilder::new(anchored)
        .size_limit(SIZE_LIMIT)
        .build()
        .map_err(|e| format!("the names of its layers make no pattern: {e}"))?;
    let wrong = with_parents(all).into_iter().find(|&name| {
        let wanted = selected.contains(name);
        set.is_match(name) != wanted || set.is_match(base.dropped(name)) != wanted
    });
    Ok(wrong.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_module_that_holds_a_layer_is_told_from_a_layer_beside_it() {
        let all = set(&["blocks.0.ff.net.0.proj", "blocks.0.ff.net.2", "blocks.1.ff.net.2"]);
        let found = patterns(&all, &all, None).expect("patterns");
        let expected =
            [r"re:(.*\.)?blocks\.\d+\.ff\.net\.2$", r"re:(.*\.)?blocks\.\d+\.ff\.net\.\d+\.proj$"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_complete_family_gets_one_pattern_and_a_partial_one_a_pattern_per_layer() {
        let all = set(&[
            "model.layers.0.mlp.up_proj",
            "model.layers.1.mlp.up_proj",
            "model.layers.0.mlp.down_proj",
            "model.layers.1.mlp.down_proj",
            "model.norm",
            "lm_head",
        ]);
        let selected = set(&[
            "model.layers.0.mlp.up_proj",
            "model.layers.1.mlp.up_proj",
            "model.layers.1.mlp.down_proj",
        ]);
        assert_eq!(
            patterns(&selected, &all, None).expect("proved"),
            [r"re:(.*\.)?layers\.1\.mlp\.down_proj$", r"re:(.*\.)?layers\.\d+\.mlp\.up_proj$"]
        );
    }

    #[test]
    fn a_number_does_not_match_a_longer_one() {
        let all: BTreeSet<String> =
            (0..12).map(|i| format!("bert.encoder.layer.{i}.output.dense")).collect();
        let all = &all | &set(&["bert.encoder.layer.1.attention.output.dense"]);
        let selected = set(&["bert.encoder.layer.1.output.dense"]);
        assert_eq!(
            patterns(&selected, &all, Some("bert")).expect("proved"),
            [r"re:(.*\.)?encoder\.layer\.1\.output\.dense$"]
        );
    }

    #[test]
    fn the_same_name_in_another_tower_is_not_matched() {
        let all = set(&["model.layers.0.fc1", "vision.layers.0.fc1", "model.layers.0.fc2"]);
        let found = patterns(&set(&["model.layers.0.fc1"]), &all, None).expect("proved");
        let pattern = found[0].strip_prefix("re:").expect("a regex");
        let regex = regex::Regex::new(&format!("^(?:{pattern})")).expect("valid");
        for (name, hit) in
            [("model.layers.0.fc1", true), ("layers.0.fc1", true), ("vision.layers.0.fc1", false)]
        {
            assert_eq!(regex.is_match(name), hit, "{name}");
        }
    }

    #[test]
    fn attention_of_bert_also_has_its_name_in_vllm() {
        let layers =
            ["query", "key", "value"].map(|l| format!("encoder.layer.0.attention.self.{l}"));
        let all: BTreeSet<String> = layers.into_iter().collect();
        let all = &all | &set(&["encoder.layer.0.attention.output.dense"]);
        let query = set(&["encoder.layer.0.attention.self.query"]);
        assert_eq!(
            patterns(&query, &all, Some("bert")).expect("proved"),
            [
                r"re:(.*\.)?encoder\.layer\.\d+\.attention\.self\.query$",
                r"re:(.*\.)?encoder\.layer\.\d+\.attention\.output\.query$",
            ]
        );
    }

    #[test]
    fn layers_that_no_pattern_distinguishes_are_refused() {
        let all = set(&["model.fc1", "transformer.fc1"]);
        let error = patterns(&set(&["model.fc1"]), &all, None).expect_err("ambiguous");
        assert!(error.contains("transformer.fc1"), "{error}");
    }
}
