//! Formats other than safetensors, through the library: real files are decoded like the software
//! that owns the format does, written, reopened and verified.

#[path = "../support/mod.rs"]
mod support;

mod burnpack;
mod cases;
mod discovery;
mod fused_experts;
mod gguf;
mod gguf_importance;
mod json;
mod numpy;
mod others;
mod output_axes;
mod packed;
mod packed_fixtures;
mod packed_mutations;
mod public_reports;
mod pytorch;
mod safetensors_parts;

use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Receipt, Request, Task};
use quantscope::job::JobError;
use quantscope::job::{Progress, save};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{QuantizationScheme, Rounding};
use quantscope::tensor::FloatType;
use std::path::Path;

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref()).expect("opens")
}

/// A tensor's elements as F32.
fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let id = checkpoint.find(name).expect(name);
    let elements = checkpoint.tensor(id).parameters();
    let mut reader = checkpoint.reader();
    let (dtype, bytes) = reader.elements(id, 0..elements).expect("reads").expect("is decoded");
    assert_eq!(dtype, FloatType::F32);
    bytes.to_vec()
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let mut reader = checkpoint.reader();
    let found = checkpoint.all_stored().find(|(_, s)| s.name == name);
    let (id, stored) = found.unwrap_or_else(|| panic!("{name}"));
    reader.stored(id, 0..stored.bytes()).expect("reads").to_vec()
}

fn run(source: &Checkpoint, out: &Path, task: Task) -> Result<(Checkpoint, Receipt), JobError> {
    let request = Request { task, out: out.to_owned(), force: false, copy: Vec::new() };
    let receipt = save::run(source, &request, Some(2), &Progress::default(), &|_| {})?;
    Ok((open(out), receipt))
}

fn task(source: &Checkpoint, scheme: QuantizationScheme, format: OutputFormat) -> Task {
    let ids = Selection::default().resolve(source).expect("something is quantizable");
    Task::Quantize { plan: Plan::uniform(ids, scheme, Rounding::HalfAway), format }
}

/// Quantizes the tensors that are quantized by default.
fn quantize(
    source: &Checkpoint,
    out: &Path,
    scheme: QuantizationScheme,
    format: OutputFormat,
) -> Receipt {
    run(source, out, task(source, scheme, format)).expect("saves").1
}

/// The error of a refused quantization.
fn refusal(
    source: &Checkpoint,
    out: &Path,
    scheme: QuantizationScheme,
    format: OutputFormat,
) -> String {
    run(source, out, task(source, scheme, format)).map(|_| ()).expect_err("refused").to_string()
}

/// The error of opening a checkpoint.
fn not_opened(path: impl AsRef<Path>) -> String {
    Checkpoint::open(path.as_ref()).map(|_| ()).expect_err("refused").to_string()
}

/// Asserts that all tensors are equal, byte for byte.
fn assert_same(found: &Checkpoint, expected: &Checkpoint) {
    for tensor in expected.tensors() {
        let id = found.find(&tensor.name).unwrap_or_else(|| panic!("no {}", tensor.name));
        let info = found.tensor(id);
        assert_eq!((&info.dtype, &info.shape), (&tensor.dtype, &tensor.shape), "{}", tensor.name);
        assert!(bytes(found, &tensor.name) == bytes(expected, &tensor.name), "{}", tensor.name);
    }
}
