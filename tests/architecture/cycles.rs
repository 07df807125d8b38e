//! Import cycles between the files of a folder.
//!
//! The nodes of a folder's graph are its files and folders. An edge is a path that names an item
//! of another node, directly or through a re-export of a `mod.rs`. Code in `#[cfg(test)]` modules
//! is ignored.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// The path of a module, without `crate`.
type Path = Vec<String>;

/// Returns one line per set of files that import each other. `files` are paths below `src` with
/// their code, without comments.
pub(crate) fn cycles(files: &[(String, String)]) -> Vec<String> {
    let crate_files = CrateFiles::new(files);
    let mut edges: BTreeMap<Path, BTreeSet<Path>> = BTreeMap::new();
    for (name, code) in files.iter().filter(|(name, _)| name != "lib.rs" && name != "main.rs") {
        let module = module_of(name);
        let named = paths_in(&module, code);
        let others = named.iter().filter_map(|path| crate_files.resolve(path, 0));
        edges.entry(module.clone()).or_default().extend(others.filter(|other| *other != module));
    }
    let folders: BTreeSet<Path> =
        edges.keys().filter_map(|module| Some(module.split_last()?.1.to_vec())).collect();
    folders.iter().flat_map(|folder| cycles_in(folder, &edges)).collect()
}

fn cycles_in(folder: &Path, edges: &BTreeMap<Path, BTreeSet<Path>>) -> Vec<String> {
    let child = |module: &Path| module.strip_prefix(folder.as_slice())?.first().cloned();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, others) in edges {
        let Some(from) = child(from) else { continue };
        let others = others.iter().filter_map(child).filter(|other| *other != from);
        graph.entry(from.clone()).or_default().extend(others);
    }
    let reach = |start: &String| {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![start.clone()];
        while let Some(node) = waiting.pop() {
            let next = graph.get(&node).into_iter().flatten();
            waiting.extend(next.filter(|next| seen.insert((*next).clone())).cloned());
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|node| (node, reach(node))).collect();
    let mut cycles = BTreeSet::new();
    for (node, seen) in reached.iter().filter(|(node, seen)| seen.contains(**node)) {
        let is_member =
            |other: &&String| reached.get(other).is_some_and(|seen| seen.contains(*node));
        let members: Vec<&str> = seen.iter().filter(is_member).map(String::as_str).collect();
        cycles.insert(format!("{}: {}", folder.join("/"), members.join(", ")));
    }
    cycles.into_iter().collect()
}

struct CrateFiles {
    modules: BTreeSet<Path>,
    /// The re-exports of `mod.rs` files: the exported path, and the original path.
    exports: BTreeMap<Path, Path>,
}

impl CrateFiles {
    fn new(files: &[(String, String)]) -> CrateFiles {
        let export = Regex::new(r"\bpub(?:\([^)]*\))? use ([^;]+);").expect("a pattern");
        let mut exports = BTreeMap::new();
        for (name, code) in files.iter().filter(|(name, _)| name.ends_with("mod.rs")) {
            let module = module_of(name);
            for captures in export.captures_iter(code) {
                for path in expand(&[], &captures[1]) {
                    let Some(last) = path.last().cloned() else { continue };
                    let from = match path.first().map(String::as_str) {
                        Some("crate") => path[1..].to_vec(),
                        Some("self") => [&module[..], &path[1..]].concat(),
                        _ => [&module[..], &path[..]].concat(),
                    };
                    exports.insert([&module[..], &[last]].concat(), from);
                }
            }
        }
        CrateFiles { modules: files.iter().map(|(name, _)| module_of(name)).collect(), exports }
    }

    /// The module that defines the item at `path`.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Path> {
        const MAX_EXPORTS: usize = 8;
        (1..=path.len()).rev().filter(|_| depth < MAX_EXPORTS).find_map(|length| {
            let (start, rest) = path.split_at(length);
            match self.exports.get(start).filter(|from| from.as_slice() != start) {
                Some(from) => self.resolve(&[&from[..], rest].concat(), depth + 1),
                None => self.modules.get(start).cloned(),
            }
        })
    }
}

/// The module path of a file below `src`.
fn module_of(name: &str) -> Path {
    let stem = name.trim_end_matches(".rs").replace('\\', "/");
    let stem = stem.strip_suffix("/mod").unwrap_or(&stem);
    stem.split('/').map(str::to_owned).collect()
}

/// The crate paths that code uses outside of its test modules.
fn paths_in(module: &Path, code: &str) -> Vec<Path> {
    let tests = Regex::new(r"#\[cfg\(test\)\]\s*mod \w+ \{").expect("a pattern");
    let code = tests.split(code).next().unwrap_or_default();
    let import = Regex::new(r"\buse crate::([^;]+);").expect("a pattern");
    let inline = Regex::new(r"\bcrate::((?:\w+::)*\w+)").expect("a pattern");
    let parent = Regex::new(r"\b((?:super::)+)((?:\w+::)*\w+)").expect("a pattern");
    let mut paths: Vec<Path> =
        import.captures_iter(code).flat_map(|captures| expand(&[], &captures[1])).collect();
    let rest = import.replace_all(code, "");
    let split = |text: &str| -> Path { text.split("::").map(str::to_owned).collect() };
    paths.extend(inline.captures_iter(&rest).map(|captures| split(&captures[1])));
    paths.extend(parent.captures_iter(&rest).map(|captures| {
        let up = captures[1].matches("super").count().min(module.len());
        [&module[..module.len() - up], &split(&captures[2])[..]].concat()
    }));
    paths
}

/// Expands the groups of an import: `a::{b, c::{d, e}}` gives three paths.
fn expand(prefix: &[String], import: &str) -> Vec<Path> {
    let import = import.trim();
    let names = |text: &str| -> Path {
        text.split("::").map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect()
    };
    let Some((head, group)) = import.split_once('{') else {
        let path = import.split(" as ").next().unwrap_or_default();
        return vec![[prefix, &names(path)[..]].concat()];
    };
    let head = [prefix, &names(head)[..]].concat();
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let mut depth = 0;
    let is_end = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    };
    group
        .split(is_end)
        .filter(|part| !part.trim().is_empty())
        .flat_map(|part| expand(&head, part))
        .collect()
}

#[test]
fn cycles_are_found_through_re_exports_and_not_in_tests() {
    let files = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(name, code)| ((*name).to_owned(), (*code).to_owned())).collect()
    };
    let there_and_back = files(&[
        ("f/mod.rs", "mod a; mod b; mod c; pub use a::{A, sub::X}; pub(crate) use b::B;"),
        ("f/a.rs", "use crate::f::{B, c::C};"),
        ("f/b.rs", "fn f() { crate::f::A::new() }"),
        ("f/c.rs", "#[cfg(test)]\nmod tests { use crate::f::a::A; }"),
    ]);
    assert_eq!(cycles(&there_and_back), ["f: a, b"]);
    let one_way = files(&[
        ("f/mod.rs", "mod a; mod b; pub use a::A;"),
        ("f/a.rs", "struct A;"),
        ("f/b.rs", "use super::A;"),
    ]);
    assert!(cycles(&one_way).is_empty());
    assert_eq!(expand(&[], "a::{b, c::{d, e as x}}").len(), 3);
}
