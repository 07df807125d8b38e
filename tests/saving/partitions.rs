//! Outputs that several workers create together.

use crate::support::checkpoint::{f32s, weights, write};
use crate::support::random::Random;
use crate::support::{data, failure, json, stdout};
use crate::targets::Model;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::{TempDir, tempdir};

/// All files below a path, or the file itself, with their bytes.
fn tree(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("reads");
            pending.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            let name = path.strip_prefix(root).expect("inside").to_owned();
            found.insert(name, std::fs::read(&path).expect("reads"));
        }
    }
    found
}

struct Run {
    directory: TempDir,
    /// The subcommand, the model and the options.
    words: Vec<String>,
    out_name: &'static str,
}

impl Run {
    fn new(out_name: &'static str, words: &[&str]) -> Run {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Run { directory: tempdir().expect("a directory"), words, out_name }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("text").to_owned()
    }

    fn out(&self) -> String {
        self.path(self.out_name)
    }

    fn partial(&self) -> PathBuf {
        PathBuf::from(self.out() + ".partial")
    }

    fn words<'a>(&'a self, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let words = self.words.iter().map(String::as_str);
        words.chain(["-o", out]).chain(more.iter().copied()).collect()
    }

    /// The output of a single machine.
    fn single(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let place = self.directory.path().join("single");
        std::fs::create_dir_all(&place).expect("creates");
        let out = place.join(self.out_name);
        stdout(&self.words(out.to_str().expect("text"), &["--force"]));
        tree(&out)
    }

    fn worker(&self, index: u32, count: u32) -> String {
        let (out, partition) = (self.out(), format!("{index}/{count}"));
        stdout(&self.words(&out, &["--partition", &partition]))
    }

    fn join(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        stdout(&["join", &self.out()]);
        assert!(!self.partial().exists(), "the fragments are left");
        let joined = tree(Path::new(&self.out()));
        if Path::new(&self.out()).is_dir() {
            std::fs::remove_dir_all(self.out()).expect("removes")
        } else {
            std::fs::remove_file(self.out()).expect("removes")
        }
        joined
    }

    fn assert_joined_is_single(&self, counts: &[u32]) {
        let single = self.single();
        for &count in counts {
            for index in (1..=count).rev() {
                self.worker(index, count);
            }
            let joined = self.join();
            assert_eq!(joined.keys().collect::<Vec<_>>(), single.keys().collect::<Vec<_>>());
            for (name, bytes) in &single {
                assert!(joined[name] == *bytes, "{:?} of {count}: {name:?}", self.words);
            }
        }
    }
}

#[test]
fn joined_shares_have_the_bytes_of_one_machine() {
    let sharded = data("tiny-llama/sharded");
    Run::new("out", &["quantize", &sharded]).assert_joined_is_single(&[1, 3, 7, 16, 40]);
    let single = data("tiny-llama/single");
    Run::new("out.safetensors", &["quantize", &single]).assert_joined_is_single(&[1, 4]);
}

#[test]
fn every_format_can_be_joined() {
    let sharded = data("tiny-llama/sharded");
    let gguf = data("gguf/synth-a32.gguf");
    let runs: [(&'static str, &[&str]); 11] = [
        ("out", &["--for", "vllm"]),
        ("out", &["--for", "transformers", "--scheme", "W8A16"]),
        ("out", &["--format", "compressed-tensors", "--scheme", "W4A16:32"]),
        ("out", &["--format", "compressed-tensors", "--scheme", "W4A16_ASYM:32"]),
        ("out", &["--format", "compressed-tensors", "--scheme", "FP8_DYNAMIC"]),
        ("out", &["--format", "compressed-tensors", "--scheme", "NVFP4A16"]),
        ("out", &["--format", "fake-quantized", "--scheme", "per-channel"]),
        ("out.bpk", &["--for", "burn"]),
        ("out.safetensors", &["--for", "comfyui"]),
        ("out", &["--for", "mlx"]),
        ("out", &["--for", "torchao"]),
    ];
    for (out, options) in runs {
        let words: Vec<&str> = ["quantize", &sharded].iter().chain(options).copied().collect();
        Run::new(out, &words).assert_joined_is_single(&[3]);
    }
    Run::new("out.gguf", &["quantize", &gguf, "--for", "llama.cpp"]).assert_joined_is_single(&[3]);
    let experts = Model::named("moe-int8-experts/mixtral");
    let source = experts.path("source");
    Run::new("out", &["quantize", &source, "--for", "transformers", "--scheme", "W8A16"])
        .assert_joined_is_single(&[5]);
}

#[test]
fn dequantizing_can_be_partitioned() {
    for packed in
        ["formats/gptq-4bit-actorder", "formats/ct-pack8-channel", "formats/mxfp4-gpt-oss"]
    {
        let run = Run::new("out", &["dequantize", &data(packed), "--dtype", "bf16"]);
        run.assert_joined_is_single(&[2, 5]);
    }
}

/// NVFP4 has one global scale for q, k and v, which are in several shares.
#[test]
fn scales_of_several_shares_equal_those_of_a_single_machine() {
    let run = Run::new(
        "out",
        &["quantize", &data("tiny-llama/single"), "--for", "vllm", "--scheme", "NVFP4A16"],
    );
    run.assert_joined_is_single(&[16]);
}

/// The inputs of the layers of one block, in captures that another worker may have changed.
fn captures(path: &str, seed: u64) {
    let mut random = Random(seed);
    let mut inputs = |name: &str, features: u64| {
        let values: Vec<f32> =
            (0..64 * features).map(|_| random.below(1000) as f32 / 500.0 - 1.0).collect();
        f32s(&format!("model.layers.0.{name}.input"), &[64, features], values)
    };
    let layers = ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj"].map(|name| inputs(name, 128));
    write(Path::new(path), &layers, &[]);
}

#[test]
fn shares_compensate_errors_as_one_machine_does() {
    let directory = tempdir().expect("a directory");
    let recorded = directory.path().join("captures.safetensors");
    let recorded = recorded.to_str().expect("text");
    captures(recorded, 26);
    let model = data("tiny-llama/sharded");
    let by_inputs = ["--error-compensation", "--clip-search"];
    let words = [&["quantize", &model, "--scheme", "W4A16:32"][..], &by_inputs].concat();
    let run = Run::new("out", &[&words[..], &["--activations", recorded]].concat());
    run.assert_joined_is_single(&[1, 3, 16]);
    // Another worker's recording is refused.
    run.worker(1, 2);
    captures(recorded, 27);
    let (out, refused) = (run.out(), ["--partition", "2/2"]);
    let (_, why) = failure(&run.words(&out, &refused));
    assert!(why.contains("was made with other recorded inputs"), "{why}");
    // `join` needs no recording, and reports what the workers measured.
    std::fs::remove_dir_all(run.partial()).expect("removes");
    run.worker(1, 2);
    run.worker(2, 2);
    std::fs::remove_file(recorded).expect("removes");
    let receipt = json(&["join", &out]);
    let compared = receipt["quantized"].as_array().expect("tensors").iter();
    let compared = compared.filter(|tensor| tensor.get("output_error").is_some());
    assert_eq!(compared.count(), 3, "{receipt}");
}

#[test]
fn shares_use_an_importance_matrix_as_one_machine_does() {
    let (model, matrix) = (data("gguf/floats.gguf"), data("activations/imatrix.gguf"));
    for scheme in ["Q4_1", "Q5_0"] {
        let words = ["quantize", &model, "--scheme", scheme, "--activations", &matrix];
        Run::new("out.gguf", &words).assert_joined_is_single(&[1, 3]);
    }
}

#[test]
fn join_names_missing_shares_and_their_commands() {
    let run = Run::new("out", &["quantize", &data("tiny-llama/sharded")]);
    let (code, why) = failure(&["join", &run.out()]);
    assert_eq!(code, 1);
    assert!(why.contains("does not exist; workers make shares with"), "{why}");
    run.worker(2, 4);
    let (code, why) = failure(&["join", &run.out()]);
    assert_eq!(code, 1);
    let command = format!(
        "3 of 4 partitions are missing: 1, 3, 4; make it with: quantscope quantize {} -o {} --partition 1/4",
        data("tiny-llama/sharded"),
        run.out()
    );
    assert!(why.contains(&command), "{why}");
    assert!(!Path::new(&run.out()).exists());
    let partial = run.partial();
    let partial = partial.to_str().expect("text");
    let (_, why) = failure(&["inspect", partial]);
    let said = "it holds 1 of 4 shares of an output that several workers make; missing: 1, 3, 4; `quantscope join out` puts them together";
    assert!(why.contains(said), "{why}");
    run.worker(1, 4);
    run.worker(3, 4);
    let (_, why) = failure(&["join", &run.out()]);
    assert!(why.contains("partition 4 of 4 is missing"), "{why}");
}

#[test]
fn an_existing_share_is_not_written_again() {
    let run = Run::new("out", &["quantize", &data("tiny-llama/sharded")]);
    assert!(run.worker(1, 2).starts_with("wrote partition 1/2 to "));
    assert!(run.worker(1, 2).contains("is in"));
    let words = run.out();
    let found = json(&run.words(&words, &["--partition", "1/2"]));
    assert_eq!((&found["was_there"], &found["partition"]), (&true.into(), &"1/2".into()));
}

#[test]
fn shares_of_another_run_are_refused() {
    let directory = tempdir().expect("a directory");
    let model = directory.path().join("model.safetensors");
    let tensors = |seed: u32| {
        (0..6)
            .map(|k| weights(&format!("layers.{k}.w{seed}.weight"), &[64, 64]))
            .collect::<Vec<_>>()
    };
    write(&model, &tensors(0), &[]);
    let text = model.to_str().expect("text");
    let run = Run::new("out.safetensors", &["quantize", text]);
    run.worker(1, 2);
    let out = run.out();
    let refused = |more: &[&str]| failure(&run.words(&out, more)).1;
    let why = refused(&["--partition", "2/3"]);
    assert!(why.contains("is one of 2 partitions, and this is one of 3"), "{why}");
    let why = refused(&["--partition", "2/2", "--scheme", "per-channel"]);
    assert!(why.contains("was made with other options: quantize "), "{why}");
    // Rewrites the model with the same names and shapes.
    std::thread::sleep(Duration::from_millis(20));
    write(&model, &tensors(0), &[]);
    let why = refused(&["--partition", "2/2"]);
    assert!(why.contains("another source, or the source has changed since"), "{why}");
    let (_, why) = failure(&["join", &out]);
    assert!(why.contains("another source, or the source has changed since"), "{why}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn shares_at_an_address_other_than_of_a_bucket_are_refused_before_anything_is_written() {
    let directory = tempdir().expect("a directory");
    let model = data("tiny-llama/single");
    for (out, words) in [
        ("hf://org/out", &["quantize", "--partition", "1/2"][..]),
        ("https://127.0.0.1:1/out.json", &["analyze", "--partition", "1/2"][..]),
        ("hf://org/out.json", &["report", "--partition", "1/2"][..]),
    ] {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"));
        command.args(words).args([&model, "-o", out]).current_dir(directory.path());
        let ended = command.output().expect("runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains("outputs are written to this machine or to s3://"), "{said}");
        let left = std::fs::read_dir(directory.path()).expect("reads").count();
        assert_eq!(left, 0, "{words:?}");
    }
    let (_, why) = failure(&["join", "hf://org/out"]);
    assert!(why.contains("outputs are written to this machine or to s3://"), "{why}");
}

#[test]
fn damaged_shares_are_never_joined() {
    let run = Run::new("out", &["quantize", &data("tiny-llama/sharded")]);
    run.worker(1, 2);
    run.worker(2, 2);
    let shard = tree(&run.partial())
        .into_keys()
        .find(|name| name.extension().is_some_and(|extension| extension == "safetensors"));
    let shard = run.partial().join(shard.expect("a fragment holds a shard"));
    let mut bytes = std::fs::read(&shard).expect("reads");
    let intact = bytes.clone();
    // Changes the last tensor of the shard.
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(&shard, &bytes).expect("writes");
    let (code, why) = failure(&["join", &run.out()]);
    assert_eq!(code, 1);
    assert!(why.contains("are not those that its worker verified"), "{why}");
    std::fs::write(&shard, &intact[..intact.len() - 1]).expect("writes");
    let (_, why) = failure(&["join", &run.out()]);
    assert!(why.contains("bytes, expected"), "{why}");
    assert!(!Path::new(&run.out()).exists());
    std::fs::write(&shard, &intact).expect("writes");
    assert_eq!(run.join(), run.single());
}

#[test]
fn options_that_need_the_whole_model_suggest_a_recipe() {
    let run = Run::new("out", &["quantize", &data("tiny-llama/sharded")]);
    let out = run.out();
    let (code, why) = failure(&run.words(&out, &["--max-bytes", "60%", "--partition", "1/2"]));
    assert_eq!(code, 1);
    assert!(why.contains("--dry-run --write-recipe plan.toml"), "{why}");
    assert!(!run.partial().exists());
    let (recipe, model) = (run.path("plan.toml"), data("tiny-llama/sharded"));
    let planning = ["--max-bytes", "60%", "--dry-run", "--write-recipe", &recipe];
    stdout(&run.words(&out, &planning));
    assert!(!Path::new(&out).exists());
    let run = Run::new("out", &["quantize", &model, "--recipe", &recipe]);
    run.assert_joined_is_single(&[3]);
}

#[test]
fn workers_can_be_killed_and_started_twice() {
    let directory = tempdir().expect("a directory");
    let model = directory.path().join("model.safetensors");
    let tensors: Vec<_> =
        (0..12).map(|k| weights(&format!("layers.{k}.weight"), &[256, 512])).collect();
    write(&model, &tensors, &[]);
    let run = Run::new("out.safetensors", &["quantize", model.to_str().expect("text")]);
    let out = run.out();
    let start = |index: u32| {
        let partition = format!("{index}/3");
        let words = run.words(&out, &["--partition", &partition, "--threads", "1"]);
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"));
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("starts")
    };
    let mut random = Random(26);
    for round in 0..30 {
        let mut workers = [start(round % 3 + 1), start(round % 3 + 1)];
        std::thread::sleep(Duration::from_millis(random.below(60) as u64));
        for worker in &mut workers {
            // The worker may have ended already.
            let _ = worker.kill();
            worker.wait().expect("ends");
        }
    }
    let mut both = [1, 2, 3, 1, 2, 3].map(start);
    both.iter_mut().for_each(|worker| assert!(worker.wait().expect("ends").success()));
    assert_eq!(run.join(), run.single());
}

#[test]
fn verification_can_be_partitioned() {
    let run = Run::new("out", &["quantize", &data("tiny-llama/sharded")]);
    let out = run.out();
    stdout(&run.words(&out, &[]));
    let model = data("tiny-llama/sharded");
    let mut tensors = 0;
    for partition in ["1/3", "2/3", "3/3"] {
        let found = json(&["verify", &out, "--against", &model, "--partition", partition]);
        tensors += found["tensors"].as_u64().expect("a number");
    }
    assert_eq!(tensors, 21);
    // One of the workers finds the changed byte.
    let shard = tree(Path::new(&out))
        .into_keys()
        .find(|name| name.extension().is_some_and(|extension| extension == "safetensors"));
    let shard = Path::new(&out).join(shard.expect("a shard"));
    let mut bytes = std::fs::read(&shard).expect("reads");
    *bytes.last_mut().expect("a byte") ^= 1;
    std::fs::write(&shard, &bytes).expect("writes");
    let failed = ["1/3", "2/3", "3/3"].iter().filter(|partition| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"));
        command.args(["verify", &out, "--against", &model, "--partition", partition]);
        let ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runs");
        ended.code() == Some(1)
    });
    assert_eq!(failed.count(), 1);
}

#[test]
fn joined_analyses_are_the_report_of_one_machine() {
    let directory = tempdir().expect("a directory");
    let model = directory.path().join("model.safetensors");
    let tensors: Vec<_> =
        (0..7).map(|k| weights(&format!("layers.{k}.weight"), &[64, 128])).collect();
    write(&model, &tensors, &[]);
    // Results of files that may still be changing are not kept.
    let file = std::fs::File::options().append(true).open(&model).expect("opens");
    let earlier = std::time::SystemTime::now() - Duration::from_secs(60);
    file.set_modified(earlier).expect("sets");
    let model = model.to_str().expect("text");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    for extension in ["json", "csv", "html"] {
        let (single, joined) =
            (path(&format!("single.{extension}")), path(&format!("joined.{extension}")));
        stdout(&["report", model, "-o", &single, "--no-cache"]);
        for partition in ["1/3", "2/3"] {
            stdout(&["analyze", model, "-o", &joined, "--partition", partition]);
        }
        let (code, why) = failure(&["join", &joined]);
        assert_eq!(code, 1);
        let command = format!("quantscope analyze {model} -o {joined} --partition 3/3");
        assert!(why.contains(&command), "{why}");
        stdout(&["report", model, "-o", &joined, "--partition", "3/3"]);
        let held = tree(Path::new(&format!("{joined}.partial")));
        assert!(held.keys().any(|name| name.extension().is_some_and(|e| e == "findings")));
        stdout(&["join", &joined]);
        let read = |path: &str| std::fs::read(path).expect("was written");
        assert!(read(&single) == read(&joined), "{extension}");
        assert!(!Path::new(&format!("{joined}.partial")).exists());
    }
}
