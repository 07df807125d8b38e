//! Tokens and signed links appear in no file that the program writes, and in nothing it prints.

use crate::reading::hub;
use crate::saving::tree;
use crate::server::{SIGNATURE, TOKEN};

#[test]
fn secrets_are_in_no_output_report_recipe_or_cache() {
    let hub = hub();
    let signed = format!("{}/org/model/1/model.safetensors?Signature={SIGNATURE}", hub.cdn());
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let (report, recipe) = (file("report.html"), file("plan.toml"));
    for (number, model) in ["hf://org/gated", &signed].into_iter().enumerate() {
        let out = file(&format!("out-{number}"));
        for args in [
            &["analyze", model, "--json"][..],
            &["inspect", model],
            &["report", model, "-o", &report, "--force"],
            &["quantize", model, "-o", &out, "--write-recipe", &recipe, "--force"],
            &["verify", &out, "--against", model],
        ] {
            let mut command = hub.quantscope(args, &directory.path().join("hf"));
            command.env("XDG_CACHE_HOME", directory.path().join("cache")).env("HF_TOKEN", TOKEN);
            command.env("XDG_STATE_HOME", directory.path().join("state"));
            let output = command.output().expect("runs");
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8_lossy(&printed).into_owned();
            assert!(output.status.success(), "{args:?}: {printed}");
            for secret in [SIGNATURE, TOKEN] {
                assert!(!printed.contains(secret), "{args:?}: {printed}");
                for (name, bytes) in tree(directory.path()) {
                    let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!found, "{args:?}: {name}");
                }
            }
        }
    }
    let written = tree(directory.path());
    for name in ["report.html", "plan.toml"] {
        assert!(written.contains_key(name), "{name}");
    }
    assert!(written.keys().any(|name| name.starts_with("cache")), "{:?}", written.keys());
}
