//! Interrupted saves: the same command resumes, fetches only missing data, and gives the bytes of
//! an uninterrupted save of local files.

use crate::saving::tree;
use crate::server::Hub;
use crate::support::checkpoint::{weights, write};
use crate::support::quantscope;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TENSORS: usize = 12;

/// Two shards of 6 MiB each.
fn model(directory: &Path) -> PathBuf {
    let model = directory.join("model");
    std::fs::create_dir(&model).expect("creates");
    let mut map = serde_json::Map::new();
    for shard in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let numbers = shard * TENSORS / 2..(shard + 1) * TENSORS / 2;
        let tensors: Vec<_> =
            numbers.map(|n| weights(&format!("layers.{n}.weight"), &[512, 512])).collect();
        write(&model.join(&name), &tensors, &[("format", "pt")]);
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), name.clone().into())));
    }
    let index = json!({"metadata": {"total_size": TENSORS << 20}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).expect("writes");
    std::fs::write(model.join("config.json"), r#"{"model_type":"llama"}"#).expect("writes");
    std::fs::write(model.join("tokenizer.json"), "{}").expect("writes");
    model
}

/// A model on a server, and a directory for outputs.
struct SaveFixture {
    hub: Hub,
    model: PathBuf,
    directory: tempfile::TempDir,
}

/// The result of a run.
struct SaveResult {
    succeeded: bool,
    receipt: Value,
    printed: String,
}

impl SaveResult {
    fn resumed(&self) -> u64 {
        self.receipt["bytes_resumed"].as_u64().unwrap_or(0)
    }
}

impl SaveFixture {
    fn new() -> SaveFixture {
        let directory = tempfile::tempdir().expect("a directory");
        let model = model(directory.path());
        std::fs::create_dir(directory.path().join("place")).expect("creates");
        SaveFixture { hub: Hub::start(&[("org/model", &model)]), model, directory }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join("place").join(name)
    }

    /// The output for the local files with the same options.
    fn expected(&self, out: &str, options: &[&str]) -> Vec<(String, Vec<u8>)> {
        let out = self.directory.path().join(out);
        let (model, path) = (self.model.to_str().expect("text"), out.to_str().expect("text"));
        quantscope(&[&["quantize", model, "-o", path], options].concat()).assert().success();
        contents(&out)
    }

    fn arguments<'a>(&self, out: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
        let out = out.to_str().expect("text");
        [&["quantize", "hf://org/model", "--json", "--threads", "2", "-o", out], options].concat()
    }

    fn save(&self, out: &Path, options: &[&str]) -> SaveResult {
        let arguments = self.arguments(out, options);
        let mut command = self.hub.quantscope(&arguments, self.directory.path());
        command.env("XDG_CACHE_HOME", self.directory.path());
        let output = command.output().expect("runs");
        SaveResult {
            succeeded: output.status.success(),
            receipt: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            printed: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The names of leftover files beside the outputs.
    fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path().join("place")).expect("lists");
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("text"));
        names.filter(|name| name.starts_with('.')).collect()
    }
}

fn contents(out: &Path) -> Vec<(String, Vec<u8>)> {
    if out.is_file() {
        vec![(String::new(), std::fs::read(out).expect("reads"))]
    } else {
        tree(out).into_iter().collect()
    }
}

#[test]
fn a_save_resumes_after_the_server_refused_requests() {
    let fixture = SaveFixture::new();
    for (out, options) in [
        ("out", &["--scheme", "per-channel"][..]),
        ("out.safetensors", &["--scheme", "per-tensor"]),
    ] {
        let expected = fixture.expected(out, options);
        let out = fixture.out(out);
        let before = fixture.hub.cdn_bytes();
        let (mut runs, mut resumed) = (0, 0);
        loop {
            runs += 1;
            fixture.hub.allow(6 << 20);
            let ended = fixture.save(&out, options);
            if ended.succeeded {
                assert!(ended.resumed() > 0, "{}", ended.receipt);
                break;
            }
            assert!(!out.exists());
            assert!(ended.printed.contains("access denied"), "{}", ended.printed);
            resumed += usize::from(ended.printed.contains("the same save resumes from there"));
            assert!(runs < 20);
        }
        assert!(runs > 2 && resumed > 0, "{runs} runs, {resumed} continued");
        assert!(contents(&out) == expected, "{options:?}");
        assert_eq!(fixture.leftovers(), [""; 0]);
        let fetched = fixture.hub.cdn_bytes() - before;
        // One pass finds the quantizable tensors, one quantizes. Each run reads the headers of
        // the shards, and may lose data that it fetched ahead.
        let most = 2 * ((TENSORS as u64) << 20) + runs * (3 << 20);
        assert!(fetched < most, "{fetched} of at most {most} in {runs} runs");
    }
}

#[test]
fn both_kinds_of_verification_report_the_same_errors() {
    let fixture = SaveFixture::new();
    fixture.hub.allow(i64::MAX);
    let mut errors = Vec::new();
    for (number, options) in [&[][..], &["--verify", "full"]].into_iter().enumerate() {
        let ended = fixture.save(&fixture.out(&format!("out{number}")), options);
        assert!(ended.succeeded, "{}", ended.printed);
        errors.push(ended.receipt["quantized"].clone());
    }
    assert_eq!(errors[0].as_array().map(Vec::len), Some(TENSORS));
    assert_eq!(errors[0], errors[1], "the same errors are reported");
}

#[test]
fn unfinished_outputs_of_other_options_or_versions_are_not_used() {
    let fixture = SaveFixture::new();
    let out = fixture.out("out");
    // Finds the quantizable tensors; later runs use the cache.
    assert!(fixture.save(&fixture.out("first"), &["--scheme", "per-channel"]).succeeded);
    for (options, version, expected) in [
        (&["--scheme", "per-tensor"][..], 0, "made with other options; it was not used"),
        (&["--scheme", "per-channel"][..], 1, "another version of this one; it was not used"),
    ] {
        fixture.hub.allow(6 << 20);
        let ended = fixture.save(&out, &["--scheme", "per-channel"]);
        assert!(ended.printed.contains("the same save resumes from there"), "{}", ended.printed);
        fixture.hub.allow(i64::MAX);
        (0..version).for_each(|_| fixture.hub.change());
        let ended = fixture.save(&out, options);
        assert!(ended.succeeded && ended.resumed() == 0, "{}", ended.printed);
        let warnings = ended.receipt["warnings"].to_string();
        assert!(warnings.contains(expected), "{warnings}");
        assert!(contents(&out) == fixture.expected(&format!("local{version}"), options));
        std::fs::remove_dir_all(&out).expect("removes");
    }
}

#[test]
fn damaged_pieces_are_written_again() {
    let fixture = SaveFixture::new();
    let (out, options) = (fixture.out("out"), ["--scheme", "per-channel"]);
    let expected = fixture.expected("local", &options);
    assert!(fixture.save(&fixture.out("first"), &options).succeeded);
    fixture.hub.allow(8 << 20);
    assert!(!fixture.save(&out, &options).succeeded);
    let shard = fixture.out(".out.quantscope-tmp").join("model-00001-of-00002.safetensors");
    let mut bytes = std::fs::read(&shard).expect("an unfinished output");
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).expect("writes");
    fixture.hub.allow(i64::MAX);
    let ended = fixture.save(&out, &options);
    assert!(ended.succeeded && ended.resumed() > 0, "{}", ended.printed);
    assert!(contents(&out) == expected);
}

/// Kills saves at random moments: `QUANTSCOPE_KILLS=50 cargo test --test remote killed`.
#[test]
fn a_killed_save_resumes() {
    let kills = std::env::var("QUANTSCOPE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let fixture = SaveFixture::new();
    fixture.hub.allow(i64::MAX);
    fixture.hub.delay(30);
    let options = ["--scheme", "per-channel"];
    let expected = fixture.expected("local", &options);
    let out = fixture.out("out");
    let started = Instant::now();
    assert!(fixture.save(&out, &options).succeeded);
    let whole = started.elapsed();
    std::fs::remove_dir_all(&out).expect("removes");
    let (mut killed, mut completed, mut resumed) = (0, 0, 0);
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    while killed < kills {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quantscope"))
            .args(fixture.arguments(&out, &options))
            .env("HF_ENDPOINT", &fixture.hub.endpoint)
            .env("HF_HOME", fixture.directory.path())
            .env("XDG_CACHE_HOME", fixture.directory.path())
            .env_remove("HF_TOKEN")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888);
        let share = 0.2 + 0.7 * ((random >> 33) % 1000) as f64 / 1000.0;
        std::thread::sleep(Duration::min(whole.mul_f64(share), Duration::from_secs(20)));
        child.kill().expect("is killed, or has ended");
        killed += u32::from(!child.wait().expect("ends").success());
        if killed % 4 == 3 && !out.exists() {
            let ended = fixture.save(&out, &options);
            assert!(ended.succeeded, "{}", ended.printed);
            resumed += u32::from(ended.resumed() > 0);
        }
        if out.exists() {
            assert!(contents(&out) == expected, "after {killed} kills");
            assert_eq!(fixture.leftovers(), [""; 0]);
            std::fs::remove_dir_all(&out).expect("removes");
            completed += 1;
        }
    }
    println!("{killed} killed, {completed} completed, {resumed} of them resumed");
    assert!(resumed > 0);
}
