//! Saving from the command line: files, receipts, and no files left behind.

use crate::support::checkpoint::{f32s, huge, weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::{TempDir, tempdir};

fn directory() -> (TempDir, impl Fn(&str) -> String) {
    let dir = tempdir().expect("a directory");
    let path = dir.path().to_owned();
    (dir, move |name: &str| path.join(name).to_str().expect("text").to_owned())
}

fn files(dir: &Path) -> Vec<String> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    found.sort();
    found
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).expect("it was written")
}

#[test]
fn quantized_verified_and_dequantized() {
    let (dir, path) = directory();
    for (number, model) in
        ["demo:", &data("tiny-llama/single"), &data("tiny-llama/sharded")].iter().enumerate()
    {
        for scheme in ["per-tensor", "per-channel", "per-block:32"] {
            let name = |what: &str| path(&format!("{what}-{number}-{scheme}").replace(':', "-"));
            let (out, back) = (name("int8"), name("back"));
            let receipt = json(&["quantize", model, "-o", &out, "--scheme", scheme]);
            let shown = json(&["analyze", model, "--scheme", scheme]);
            // The error on disk equals the previewed error.
            let quantized = receipt["quantized"].as_array().expect("a list");
            assert!(!quantized.is_empty());
            for one in quantized {
                let tensors = shown["tensors"].as_array().expect("a list");
                let before = tensors.iter().find(|t| t["name"] == one["name"]).expect("the same");
                for figure in ["mse", "max_abs_error", "sqnr_db", "zeroed", "levels_used"] {
                    let (a, b) = (&one[figure], &before["quantization"][figure]);
                    let (a, b) = (a.as_f64().expect("number"), b.as_f64().expect("number"));
                    assert!((a - b).abs() <= 1e-6 * b.abs(), "{figure}: {one} {before}");
                }
            }
            assert!(stdout(&["verify", &out, "--against", model]).contains("every byte compared"));
            let verified = json(&["verify", &out, "--against", model]);
            assert_eq!(verified["quantized"].as_array().map(Vec::len), Some(quantized.len()));

            stdout(&["dequantize", &out, "-o", &back]);
            let (source, back) = (json(&["inspect", model]), json(&["inspect", &back]));
            assert_eq!(source["tensors"], back["tensors"]);
        }
    }
    drop(dir);
}

#[test]
fn the_receipt_lists_what_was_saved() {
    let (_dir, path) = directory();
    let model = data("tiny-llama/single");
    let receipt = stdout(&["quantize", &model, "-o", &path("out.safetensors")]);
    for line in [
        "model.layers.1.self_attn.k_proj.weight  per-tensor  39.3 dB  good ",
        "15 tensors quantized, 0 dequantized, 6 bit for bit as they were\n",
        "\n722 kB → ",
        "worst 39.3 dB (good), model.layers.1.self_attn.k_proj.weight\n",
    ] {
        assert!(receipt.contains(line), "'{line}' is not in: {receipt}");
    }
    let written = format!("\nwrote {} (1 file", path("out.safetensors"));
    assert!(receipt.contains(&written), "{receipt}");
}

#[test]
fn every_number_of_threads_writes_the_same_bytes() {
    let (_dir, path) = directory();
    let model = data("tiny-llama/single");
    let with = |threads: &str| {
        let out = path(&format!("{threads}.safetensors"));
        stdout(&["quantize", &model, "-o", &out, "--threads", threads, "--quiet"]);
        read(&out)
    };
    let one = with("1");
    assert!(one == with("2") && one == with("7"));
}

#[test]
fn existing_outputs_are_kept_without_force() {
    let (dir, path) = directory();
    let out = path("out.safetensors");
    std::fs::write(&out, "precious").expect("own file");
    let (code, sentence) = failure(&["quantize", "demo:", "-o", &out]);
    assert!(code == 1 && sentence.contains("exists already"), "{sentence}");
    assert_eq!(read(&out), b"precious");
    stdout(&["quantize", "demo:", "-o", &out, "--force"]);
    assert_ne!(read(&out), b"precious");
    assert_eq!(files(dir.path()), ["out.safetensors"]);

    let nowhere = path("no/such/out.safetensors");
    let (code, sentence) = failure(&["quantize", "demo:", "-o", &nowhere]);
    assert!(code == 1 && sentence.contains("does not exist"), "{sentence}");
    let (_, sentence) = failure(&["quantize", &out, "-o", &out, "--force"]);
    assert!(sentence.starts_with("error: ") && read(&out) != b"precious", "{sentence}");
}

#[test]
fn a_tensor_without_a_scale_is_left_as_it_is() {
    let (_dir, path) = directory();
    let (model, out) = (path("model.safetensors"), path("out.safetensors"));
    let broken = (0..16).map(|i| if i == 3 { f32::INFINITY } else { 1.0 });
    write(Path::new(&model), &[f32s("broken", &[4, 4], broken), weights("w", &[8, 8])], &[]);
    let receipt = json(&["quantize", &model, "-o", &out]);
    assert_eq!(receipt["quantized"][0]["name"], "w");
    assert_eq!(receipt["unchanged"], 1);
    let warning = receipt["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("'broken'") && warning.contains("left as it is"), "{warning}");
    assert!(stdout(&["quantize", &model, "-o", &out, "--force"]).contains("\nwarning: "));
}

#[test]
fn names_and_patterns_select_tensors() {
    let (_dir, path) = directory();
    let out = path("out.safetensors");
    let receipt = json(&[
        "quantize",
        "demo:",
        "-o",
        &out,
        "--include",
        "classifier.*",
        "--exclude",
        "*.4.weight",
        "--include",
        "classifier.0.bias",
    ]);
    let quantized = receipt["quantized"].as_array().expect("a list");
    let names: Vec<_> = quantized.iter().map(|q| q["name"].as_str().expect("text")).collect();
    assert_eq!(names, ["classifier.0.bias", "classifier.0.weight", "classifier.2.weight"]);
}

#[test]
fn dequantize_writes_the_requested_float_type() {
    let (_dir, path) = directory();
    let (out, back) = (path("out.safetensors"), path("back.safetensors"));
    stdout(&["quantize", "demo:", "-o", &out]);
    for (dtype, name) in [("f32", "F32"), ("bf16", "BF16"), ("f16", "F16"), ("original", "F32")] {
        stdout(&["dequantize", &out, "-o", &back, "--dtype", dtype, "--force"]);
        let checkpoint = Checkpoint::open(Path::new(&back)).expect("it was written");
        let id = checkpoint.find("classifier.0.weight").expect("the same names");
        assert_eq!(checkpoint.tensor(id).dtype.name(), name);
    }
}

#[test]
fn verify_finds_a_changed_file() {
    let (_dir, path) = directory();
    let out = path("out.safetensors");
    stdout(&["quantize", "demo:", "-o", &out]);
    let mut bytes = read(&out);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&out, bytes).expect("own file");
    let (code, sentence) = failure(&["verify", &out, "--against", "demo:"]);
    assert!(code == 1 && sentence.contains("the output differs from the plan"), "{sentence}");
}

#[test]
#[cfg(unix)]
fn a_cancelled_save_leaves_no_files() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempdir().expect("a directory");
    let model: PathBuf = match huge(dir.path(), &[weights("w", &[64, 64])]) {
        Some(path) => path,
        None => return,
    };
    let before = files(dir.path());
    let child = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"))
        .args(["quantize", "-o"])
        .arg(dir.path().join("out.safetensors"))
        .args(["--scheme", "per-channel"])
        .arg(&model)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(700));
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
    kill_process(pid, Signal::INT).expect("it runs still");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_recipe_is_written_atomically_replaced_only_with_force_or_printed() {
    let (dir, path) = directory();
    let (out, recipe) = (path("out.safetensors"), path("plan.toml"));
    let quantize = ["quantize", "demo:", "--quiet", "--force", "-o", &out, "--write-recipe"];
    stdout(&[&quantize[..], &[recipe.as_str()]].concat());
    let text = std::fs::read_to_string(&recipe).expect("a recipe");
    // An existing recipe is kept without --force, and the save does not start.
    std::fs::write(&recipe, "another").expect("written");
    std::fs::remove_file(&out).expect("goes");
    let careful: Vec<&str> = quantize.into_iter().filter(|&word| word != "--force").collect();
    let (code, said) = failure(&[&careful[..], &[recipe.as_str()]].concat());
    assert!(code == 1 && said.contains("plan.toml exists already"), "{said}");
    assert_eq!(files(dir.path()), ["plan.toml"]);
    assert_eq!(std::fs::read_to_string(&recipe).expect("as before"), "another");
    stdout(&[&quantize[..], &[recipe.as_str()]].concat());
    assert_eq!(std::fs::read_to_string(&recipe).expect("replaced"), text);
    assert_eq!(files(dir.path()), ["out.safetensors", "plan.toml"]);
    // The recipe is printed to standard output before the receipt.
    for named in ["-", "/dev/stdout"] {
        let printed = stdout(&[&quantize[..], &[named]].concat());
        assert!(printed.starts_with(&text) && printed.len() > text.len(), "{printed}");
    }
    assert_eq!(files(dir.path()), ["out.safetensors", "plan.toml"]);
    // A recipe never replaces a file of the model.
    let model = path("own.safetensors");
    std::fs::copy("assets/demo.safetensors", &model).expect("copied");
    let own = ["quantize", &model, "--force", "-o", &out, "--write-recipe", &model];
    let (_, said) = failure(&own);
    assert!(said.contains("is the checkpoint itself"), "{said}");
}

#[test]
#[cfg(unix)]
fn a_recipe_is_written_into_a_pipe() {
    let (_dir, path) = directory();
    let (out, pipe) = (path("out.safetensors"), path("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
    let mut reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).spawn().expect("reads");
    stdout(&["quantize", "demo:", "-o", &out, "--write-recipe", &pipe]);
    let mut text = String::new();
    use std::io::Read;
    reader.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
    reader.wait().expect("ends");
    assert!(text.contains("[[tensor]]") || text.contains("version"), "{text}");
    use std::os::unix::fs::FileTypeExt;
    assert!(Path::new(&pipe).metadata().expect("there").file_type().is_fifo());
}
