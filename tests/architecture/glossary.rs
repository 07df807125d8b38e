//! Former names of concepts. One concept has one name, so that a search finds all of it; the tables
//! keep replaced names from coming back.

use regex::Regex;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Words that are part of no identifier, and the terms to use instead.
const FORMER_WORDS: [(&str, &str); 11] = [
    ("beneath", "model_search"),
    ("blueprint", "output_plan"),
    ("companion", "sidecar_file"),
    ("companions", "sidecar_files"),
    ("cutter", "channel_sums"),
    ("maker", "chunk_encoder"),
    ("sketch", "sparkline"),
    ("sketched", "sparkline"),
    ("staging", "atomic_output"),
    ("tally", "histogram_builder"),
    ("verdict", "rating"),
];

/// Whole identifiers that are not used, and those to use instead.
const FORMER_NAMES: [(&str, &str); 15] = [
    ("Asked", "a name that says what was asked"),
    ("BETWEEN", "COLUMN_GAP"),
    ("Distribution", "ValueHistogram"),
    ("distribution", "histogram"),
    ("facts", "tensor_metrics"),
    ("health", "diagnostics"),
    ("how", "params"),
    ("LEAST", "a name that begins with MIN"),
    ("LITTLE", "a name that ends with THRESHOLD"),
    ("MOST", "a name that begins with MAX"),
    ("Questions", "AnalysisSpec"),
    ("Spread", "MultiPass"),
    ("Way", "ErrorMode or ActivationMode"),
    ("Whole", "SinglePass"),
    ("write_behind", "background_sync"),
];

/// Files and folders below a folder of `src` that were renamed, and their new names.
const FORMER_FILES: [(&str, &str, &str); 36] = [
    ("app", "facts", "tensor_metrics"),
    ("app", "look", "detail_tabs"),
    ("app", "sketch", "sparkline"),
    ("checkpoint", "beneath", "model_search"),
    ("checkpoint", "by_name", "name_index"),
    ("checkpoint", "codes", "bit_packing"),
    ("checkpoint", "copied", "mmap_fallback"),
    ("checkpoint", "in_place", "mapped_read"),
    ("checkpoint", "numbers", "tensor/minifloat"),
    ("checkpoint", "observers", "qat"),
    ("checkpoint", "ours", "native_format"),
    ("checkpoint", "view", "strided"),
    ("cli", "watch", "job_runner"),
    ("export", "blueprint", "output_plan"),
    ("export", "companions", "sidecar_files"),
    ("export", "frame", "container_check"),
    ("export", "make", "encode"),
    ("export", "sharing", "reflink"),
    ("export", "staging", "atomic_output"),
    ("export", "targets", "module_patterns"),
    ("job", "in_order", "ordered_fold"),
    ("job", "over", "done_latch"),
    ("job", "values", "element_window"),
    ("job", "write_behind", "background_sync"),
    ("quantization", "health", "diagnostics"),
    ("quantization", "learned", "qat_scales"),
    ("quantization", "measure", "analysis"),
    ("quantization", "spread", "multi_pass"),
    ("quantization", "verdict", "rating"),
    ("quantization", "whole", "single_pass"),
    ("quantization/kernels", "careful", "scalar"),
    ("quantization/kernels", "cuts", "channel_sums"),
    ("quantization/kernels", "halves", "f16_bits"),
    ("quantization/kernels", "lanes", "array_lanes"),
    ("quantization/kernels", "written", "compare"),
    ("ui", "paint", "widgets"),
];

/// Returns a sentence for each former name among the identifiers of `code`.
pub(crate) fn former_names(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for identifier in identifiers(code) {
        let parts = words(identifier);
        let words = FORMER_WORDS.iter().filter(|(word, _)| parts.iter().any(|part| part == word));
        let names = FORMER_NAMES.iter().filter(|(name, _)| *name == identifier);
        found.extend(words.chain(names).map(|(_, term)| format!("`{identifier}`: write {term}")));
    }
    found.sort();
    found.dedup();
    found
}

/// Returns a sentence if a path below `src`, with `/` as separator, contains a former name.
pub(crate) fn former_file(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let is_former = |(folder, name, _): &&(&str, &str, &str)| {
        let below = stem.strip_prefix(folder).and_then(|below| below.strip_prefix('/'));
        below.is_some_and(|below| below.split('/').any(|part| part == *name))
    };
    let (_, name, term) = FORMER_FILES.iter().find(is_former)?;
    Some(format!("'{name}' is called {term}"))
}

/// The identifiers of `code`, each once, without those in comments and literals.
fn identifiers(code: &str) -> BTreeSet<&str> {
    static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
        let token = r##"(?s)//[^\n]*|/\*.*?\*/|\br#".*?"#|\br"[^"]*"|"(?:\\.|[^"\\])*"|'(?:\\.|[^\\'])'|([A-Za-z_][A-Za-z0-9_]*)"##;
        Regex::new(token).expect("a pattern")
    });
    TOKEN.captures_iter(code).filter_map(|found| Some(found.get(1)?.as_str())).collect()
}

/// The words of an identifier in lower case: `HistogramBuilder` and `histogram_builder` have two.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut follows_lower_case = false;
    for c in identifier.chars() {
        if c == '_' || follows_lower_case && c.is_ascii_uppercase() {
            words.push(String::new());
        }
        follows_lower_case = c.is_ascii_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c != '_') {
            word.push(c.to_ascii_lowercase());
        }
    }
    words
}

#[test]
fn former_names_are_found_in_code_only() {
    let code = "struct TallySheet; fn verdict_of(how: u8) -> Way { let paint = 'x'; }";
    let found = former_names(code);
    for name in ["`TallySheet`", "`verdict_of`", "`how`", "`Way`"] {
        assert!(found.iter().any(|sentence| sentence.starts_with(name)), "{name}: {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
    let elsewhere =
        "// the verdict\nlet text = \"a \\\"tally\\\" {how}\"; let raw = r#\"Way\"#; /* how */";
    assert!(former_names(elsewhere).is_empty());
    assert!(former_names("fn always<'how>(somehow: &'a str, c: char) { c == 'W' }").len() == 1);
}

#[test]
fn former_files_are_found_below_their_folder() {
    assert!(former_file("job/over.rs").is_some());
    assert!(former_file("quantization/measure/spec.rs").is_some());
    assert!(former_file("quantization/kernels/careful.rs").is_some());
    assert!(former_file("checkpoint/packed/codes.rs").is_some());
    for path in
        ["ui/values.rs", "quantization/presets/levels.rs", "app/overlay.rs", "export/mod.rs"]
    {
        assert_eq!(former_file(path), None, "{path}");
    }
}
