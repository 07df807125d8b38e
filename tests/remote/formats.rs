//! Models of every format give the same figures from a server as from the disk.

use crate::reading::without_paths;
use crate::server::Hub;
use crate::support::data;
use rayon::prelude::*;
use std::fs;
use std::path::Path;

/// Directories under `tests/data` whose directories and files are models.
const PLACES: [&str; 6] =
    ["formats", "gguf", "numpy/reading", "packed", "pytorch/reading", "safetensors_parts"];

/// The names of the models of a directory.
fn models(place: &str) -> Vec<String> {
    let entries = fs::read_dir(data(place)).expect("lists").map(|entry| entry.expect("an entry"));
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_model = |name: &String| !name.ends_with(".json") && !name.ends_with(".py");
    let mut models: Vec<_> = names.filter(is_model).collect();
    models.sort();
    models
}

#[test]
fn every_format_is_read_as_from_the_disk() {
    let roots = PLACES.map(|place| (format!("org/{}", place.replace('/', "-")), data(place)));
    let repositories = roots.each_ref().map(|(name, root)| (name.as_str(), Path::new(root)));
    let hub = Hub::start(&repositories);
    let home = tempfile::tempdir().expect("a directory");
    let analyze = |model: &str| {
        let args = ["analyze", model, "--json", "--no-cache"];
        let mut command = hub.quantscope(&args, home.path());
        let output = command.output().expect("runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let why = String::from_utf8(output.stderr).expect("text");
        let json = if text.is_empty() { serde_json::Value::Null } else { without_paths(&text) };
        (output.status.code(), json, why)
    };
    let models: Vec<(String, String)> = PLACES
        .iter()
        .zip(&roots)
        .flat_map(|(place, (repository, _))| {
            let pair =
                move |name| (data(&format!("{place}/{name}")), format!("hf://{repository}/{name}"));
            models(place).into_iter().map(pair)
        })
        .collect();
    assert!(models.len() > 100, "{models:?}");
    let wrong: Vec<String> = models
        .par_iter()
        .filter_map(|(local, url)| {
            let (near, near_json, near_why) = analyze(local);
            let (far, far_json, far_why) = analyze(url);
            let is_same = near == far && near_json == far_json;
            (!is_same).then(|| format!("{url}: {near:?} {near_why}\n  {far:?} {far_why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), models.len(), wrong.join("\n"));
}
