//! Quantizing and dequantizing a model on a server gives the same bytes as its local files.

use crate::reading::{hub, run};
use crate::support::{data, quantscope};
use std::collections::BTreeMap;
use std::path::Path;

/// The files below a directory, with their bytes.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("lists") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path)
            } else {
                let name = path.strip_prefix(root).expect("below").display().to_string();
                found.insert(name, std::fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

#[test]
fn outputs_are_those_of_the_local_files() {
    let hub = hub();
    let directory = tempfile::tempdir().expect("a directory");
    let out = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    for (repository, local) in [("model", "single"), ("sharded", "sharded")] {
        let near = data(&format!("tiny-llama/{local}"));
        let url = format!("hf://org/{repository}");
        for target in [&["--for", "vllm"][..], &[]] {
            let [here, there] = ["here", "there"].map(|side| out(&format!("{repository}-{side}")));
            let save = |model: &str, out: &str| {
                run(&hub, &[&["quantize", model, "-o", out, "--force"][..], target].concat(), None)
            };
            save(&near, &here);
            save(&url, &there);
            let [here, there] = [here, there].map(|out| tree(Path::new(&out)));
            assert!(here.contains_key("config.json"));
            assert!(here == there, "{repository} {target:?}");
        }
        let saved = out(&format!("{repository}-there"));
        run(&hub, &["verify", &saved, "--against", &url], None);
    }
}

#[test]
fn an_output_cannot_be_an_address() {
    let hub = hub();
    let mut command = quantscope(&["quantize", "hf://org/model", "-o", "hf://org/other"]);
    let run = command.env("HF_ENDPOINT", &hub.endpoint).assert().failure();
    let printed = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(printed.contains("outputs are written to this machine"), "{printed}");
}
