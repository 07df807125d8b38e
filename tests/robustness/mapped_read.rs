//! Memory-mapped and copied reads give the same results. A file that another process writes to
//! is not mapped.

use crate::support::checkpoint::{Tensor, weights, write};
use crate::support::random::Random;
use assert_cmd::cargo::cargo_bin;
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Request, Task};
use quantscope::job::{Progress, save, scan};
use quantscope::plan::Plan;
use quantscope::quantization::{
    Analysis, AnalysisSpec, Calibration, ChannelDetail, QuantizationScheme, Quantizer, Rounding,
};
use quantscope::tensor::TensorId;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// The weights in a 16-bit type.
fn halved(name: &str, dtype: &'static str, shape: &[u64], raw: fn(f32) -> [u8; 2]) -> Tensor {
    let floats = weights(name, shape).bytes;
    let bytes = floats.as_chunks().0.iter().flat_map(|&x| raw(f32::from_le_bytes(x)));
    Tensor { name: name.into(), dtype, shape: shape.into(), bytes: bytes.collect() }
}

/// A model with tensors of several chunks, of one chunk, and too small to be mapped.
fn model(path: &Path) {
    let tensors = [
        weights("large", &[1100, 1001]),
        halved("bf16", "BF16", &[900, 1003], |x| half::bf16::from_f32(x).to_le_bytes()),
        halved("f16", "F16", &[700, 999], |x| half::f16::from_f32(x).to_le_bytes()),
        weights("one", &[251, 1000]),
        weights("small", &[20, 30]),
    ];
    write(path, &tensors, &[]);
}

fn findings(path: &Path, spec: &AnalysisSpec, threads: usize) -> Vec<(TensorId, Analysis)> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let order = scan::Order::new(checkpoint.ids().collect());
    let found = Mutex::new(Vec::new());
    let report = |(id, analysis): scan::Finding| {
        found.lock().expect("no panic").push((id, analysis.expect("read")));
    };
    scan::run(&checkpoint, spec, &order, Some(threads), &Progress::default(), &report)
        .expect("not stopped");
    let mut found = found.into_inner().expect("no panic");
    found.sort_by_key(|(id, _)| *id);
    found
}

#[test]
fn mapped_and_copied_reads_give_the_same_analysis() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    model(&path);
    let quantizers = ["per-tensor", "per-channel", "per-block:32"].map(|scheme| {
        let scheme: QuantizationScheme = scheme.parse().expect("a scheme");
        Quantizer { scheme, calibration: Calibration::MinMax }
    });
    let errors = AnalysisSpec::errors(quantizers.to_vec(), Rounding::HalfEven);
    let spec = [
        AnalysisSpec::scales(quantizers.to_vec(), Rounding::HalfEven),
        AnalysisSpec { channels: ChannelDetail::All, keep_scales: true, ..errors.clone() },
        AnalysisSpec { histogram: true, ..errors },
    ];
    for spec in spec {
        for threads in [1, 3] {
            let in_place = findings(&path, &spec, threads);
            let writer = File::options().append(true).open(&path).expect("opens");
            let copied = findings(&path, &spec, threads);
            drop(writer);
            assert_eq!(in_place.len(), 5);
            assert!(in_place == copied, "{spec:?} on {threads} threads");
        }
    }
}

#[test]
fn mapped_and_copied_reads_give_the_same_output() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    model(&path);
    let saved = |name: &str| {
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let scheme = QuantizationScheme::PER_CHANNEL;
        let plan = Plan::uniform(checkpoint.ids(), scheme, Rounding::HalfEven);
        let task = Task::Quantize { plan, format: OutputFormat::Safetensors };
        let request =
            Request { task, out: directory.path().join(name), force: false, copy: Vec::new() };
        save::run(&checkpoint, &request, Some(2), &Progress::default(), &|_| {}).expect("saves");
        std::fs::read(request.out).expect("reads")
    };
    let in_place = saved("in_place.safetensors");
    let _writer = File::options().append(true).open(&path).expect("opens");
    assert!(saved("copied.safetensors") == in_place);
}

/// The program continues or reports an error, but is never killed by a signal.
#[test]
fn concurrent_writers_are_not_blocked_and_cause_no_crash() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    let bytes: Vec<u8> = (0..4_000_000u32).flat_map(|n| (n as u16 % 999).to_le_bytes()).collect();
    let tensor = |n: u32| Tensor {
        name: format!("w{n}"),
        dtype: "BF16",
        shape: vec![2000, 2000],
        bytes: bytes.clone(),
    };
    write(&path, &(0..8).map(tensor).collect::<Vec<_>>(), &[]);
    let mut random = Random(3);
    for round in 0..40 {
        let modified = path.metadata().and_then(|m| m.modified()).expect("a time");
        let child = Command::new(cargo_bin!("quantscope"))
            .args(["calibrate", "--no-cache"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
        let writer = File::options().write(true).open(&path).expect("opens");
        if round % 2 == 0 {
            let length = writer.metadata().expect("a length").len();
            writer.set_len(length / 2).and_then(|()| writer.set_len(length)).expect("cuts it off");
        } else {
            writer.set_modified(modified + Duration::from_secs(1)).expect("sets the time");
        }
        drop(writer);
        let output = child.wait_with_output().expect("it ends");
        let printed = String::from_utf8_lossy(&output.stderr);
        // It exits by itself, and gives a reason.
        let has_ended_well = output.status.success();
        let has_said_why = output.status.code().is_some() && printed.starts_with("error");
        assert!(has_ended_well || has_said_why, "round {round}: {}, {printed}", output.status);
    }
}
