//! Very large models: a terabyte, 100,000 tensors, 10,000 shards, one tensor of 200 GB. They
//! open and filter quickly, jobs on them can be cancelled, and memory use is bounded.
//!
//! The files are sparse. `cargo test --release --test robustness huge_models -- --nocapture`
//! prints the time and memory of each.

#![cfg(target_os = "linux")]

use crate::support::driver::Driver;
use quantscope::app::Event;
use quantscope::checkpoint::Checkpoint;
use quantscope::checkpoint::formats::safetensors::header_bytes;
use quantscope::tensor::{DType, Shape};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Writes a sparse safetensors file of zeros. Returns `None` if the file system does not support
/// sparse files.
fn sparse<'n>(
    path: &Path,
    tensors: impl Iterator<Item = (&'n str, &'n DType, &'n Shape)>,
) -> Option<()> {
    let listed: Vec<_> = tensors
        .map(|(name, dtype, shape)| {
            (name, dtype, shape, dtype.bytes_for(shape.elements()).expect("fits"))
        })
        .collect();
    let bytes: u64 = listed.iter().map(|t| t.3).sum();
    let head = header_bytes(&[], listed);
    let mut file = File::create(path).expect("creates");
    file.write_all(&head).expect("writes");
    file.set_len(head.len() as u64 + bytes).ok()
}

fn shape(dims: &[u64]) -> Shape {
    Shape::new(dims).expect("fits")
}

/// The time and memory of a run.
struct Run {
    status: ExitStatus,
    elapsed: Duration,
    /// Peak resident memory in MiB.
    peak: u64,
}

/// Runs the program to its end, or interrupts it after some time. The system limits its memory,
/// so allocating more than `limit` MiB fails.
fn run(arguments: &[&str], limit: u64, interrupt: Option<Duration>) -> Run {
    let start = Instant::now();
    // 10,000 shards must not need 10,000 open files.
    let script = format!("ulimit -n 256; ulimit -d {}; exec \"$0\" \"$@\"", limit << 10);
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_quantscope")])
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let status_file = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let mut asked = false;
    let status = loop {
        // The file has no such line after the program has ended.
        let printed = std::fs::read_to_string(&status_file).unwrap_or_default();
        let line = printed.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) >> 10);
        if let Some(status) = child.try_wait().expect("can be asked") {
            break status;
        }
        if interrupt.is_some_and(|after| start.elapsed() > after) && !asked {
            asked = true;
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
            kill_process(pid, Signal::INT).expect("it runs still");
        }
        assert!(start.elapsed() < PATIENCE, "{arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(2));
    };
    let elapsed = start.elapsed();
    println!("{} of {}: {elapsed:.2?}, {peak} MiB", arguments[0], name(arguments[1]));
    Run { status, elapsed, peak }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Lists a model, and analyzes it until it is interrupted.
fn assert_bounded(model: &Path, megabytes: u64) {
    let listed = run(&["inspect", text(model)], 512, None);
    assert!(listed.status.success() && listed.peak < megabytes, "{} MiB", listed.peak);
    let measured = run(&["analyze", text(model)], 512, Some(Duration::from_millis(1500)));
    assert_eq!(measured.status.code(), Some(130), "it was interrupted");
    assert!(measured.peak < megabytes, "{} MiB", measured.peak);
    assert!(measured.elapsed < Duration::from_secs(20), "{:?}", measured.elapsed);
}

/// Sorts, filters, folds and marks on the screen. Returns the time it took.
fn browse(checkpoint: Checkpoint) -> Duration {
    let tensors = checkpoint.tensors().len();
    let start = Instant::now();
    let mut driver = Driver::of(checkpoint, true);
    assert!(driver.screen().contains("tensor"));
    for keys in
        ["G", "g", "t", "-", "+", "t", ">", ">", "o", "a", "i", "u", "u", "m", "Esc", "?", "Esc"]
    {
        driver.press(keys);
        let _ = driver.buffer();
    }
    driver.type_text("/layers.1");
    let _ = driver.buffer();
    driver.press("Enter Esc");
    driver.type_text("/re:^.*7[0-9]\\.");
    driver.press("Enter Esc");
    driver.send(Event::Wheel(30));
    driver.press("c");
    driver.expect("stopped");
    println!("{tensors} tensors browsed: {:.2?}", start.elapsed());
    start.elapsed()
}

#[test]
fn a_terabyte_is_browsed_measured_and_cancelled() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("terabyte.safetensors");
    let names: Vec<String> = (0..100).map(|n| format!("model.layers.{n}.mlp.weight")).collect();
    let (dtype, shape) = (DType::BF16, shape(&[1 << 16, 80_000]));
    let tensors = names.iter().map(|name| (name.as_str(), &dtype, &shape));
    if sparse(&model, tensors).is_none() {
        return;
    }
    let checkpoint = Checkpoint::open(&model).expect("opens");
    assert!(checkpoint.total_bytes() > 1_000_000_000_000);
    assert_bounded(&model, 64);
    browse(checkpoint);
}

#[test]
fn one_tensor_of_200_gigabytes_is_browsed_measured_and_cancelled() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("one.safetensors");
    let (dtype, shape) = (DType::F32, shape(&[50_000, 1_000_000]));
    if sparse(&model, [("w", &dtype, &shape)].into_iter()).is_none() {
        return;
    }
    assert_bounded(&model, 64);
    // Also with other granularities.
    for scheme in ["per-channel", "per-block:32"] {
        let arguments = ["analyze", text(&model), "--scheme", scheme];
        let measured = run(&arguments, 512, Some(Duration::from_millis(700)));
        assert!(measured.peak < 64, "{scheme}: {} MiB", measured.peak);
    }
    browse(Checkpoint::open(&model).expect("opens"));
}

#[test]
fn a_hundred_thousand_tensors_are_browsed_and_measured() {
    let count = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("tensors.safetensors");
    let names: Vec<String> = (0..count)
        .map(|n| format!("model.layers.{}.experts.{}.weight", n / 100, n % 100))
        .collect();
    let (dtype, shape) = (DType::BF16, shape(&[8, 16]));
    let tensors = names.iter().map(|name| (name.as_str(), &dtype, &shape));
    if sparse(&model, tensors).is_none() {
        return;
    }
    let listed = run(&["inspect", text(&model)], 512, None);
    assert!(listed.status.success() && listed.peak < 160, "{} MiB", listed.peak);
    let measured = run(&["calibrate", text(&model)], 512, None);
    assert!(measured.status.success() && measured.peak < 200, "{} MiB", measured.peak);
    let took = browse(Checkpoint::open(&model).expect("opens"));
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn ten_thousand_shards_are_browsed_and_measured() {
    let count = if cfg!(debug_assertions) { 2_000 } else { 10_000 };
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("shards");
    std::fs::create_dir(&model).expect("creates");
    let (dtype, shape) = (DType::F16, shape(&[4, 16]));
    let mut map = serde_json::Map::new();
    for number in 0..count {
        let file = format!("model-{number:05}-of-{count:05}.safetensors");
        let name = format!("model.layers.{number}.weight");
        sparse(&model.join(&file), [(name.as_str(), &dtype, &shape)].into_iter()).expect("small");
        map.insert(name, file.into());
    }
    let index = serde_json::json!({"metadata": {"total_size": count * 128}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).expect("writes");
    let listed = run(&["inspect", text(&model)], 512, None);
    assert!(listed.status.success() && listed.peak < 96, "{} MiB", listed.peak);
    let measured = run(&["analyze", text(&model)], 512, None);
    assert!(measured.status.success() && measured.peak < 96, "{} MiB", measured.peak);
    let out = directory.path().join("out");
    let saved = run(&["quantize", text(&model), "-o", text(&out), "--quiet"], 512, None);
    assert!(saved.status.success() && saved.peak < 128, "{} MiB", saved.peak);
    browse(Checkpoint::open(&model).expect("opens"));
}

/// FP8 as in DeepSeek, dequantized to floats of four times the size.
#[test]
fn fp8_is_dequantized_in_little_memory() {
    let side = if cfg!(debug_assertions) { 3072 } else { 16_384 };
    let directory = tempfile::tempdir().expect("a directory");
    let model: PathBuf = directory.path().join("fp8.safetensors");
    let (fp8, f32) = (DType::F8E4M3, DType::F32);
    let (values, scales) = (shape(&[side, side]), shape(&[side / 128, side / 128]));
    let tensors = [("m.weight", &fp8, &values), ("m.weight_scale_inv", &f32, &scales)];
    if sparse(&model, tensors.into_iter()).is_none() {
        return;
    }
    // One value and its scale are not zero.
    let mut file = OpenOptions::new().append(false).write(true).open(&model).expect("opens");
    let scale =
        Checkpoint::open(&model).expect("opens").all_stored().nth(1).expect("two").1.range.start;
    std::os::unix::fs::FileExt::write_all_at(&file, &1.5f32.to_le_bytes(), scale).expect("writes");
    file.flush().expect("writes");
    drop(file);
    let out = directory.path().join("floats.safetensors");
    let run = run(
        &["dequantize", text(&model), "-o", text(&out), "--dtype", "f32", "--quiet"],
        256,
        None,
    );
    assert!(run.status.success() && run.peak < 64, "{} MiB", run.peak);
    let floats = Checkpoint::open(&out).expect("opens");
    assert_eq!(floats.total_bytes(), side * side * 4);
}
