//! Saving through the library: outputs follow the plan and are read back unchanged.

use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Request, Task};
use quantscope::job::{Progress, save, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{Dequantize, QuantizationScheme, Rounding};
use std::path::{Path, PathBuf};

const SINGLE: &str = "tests/data/tiny-llama/single";
const SHARDED: &str = "tests/data/tiny-llama/sharded";

const SCHEMES: [QuantizationScheme; 4] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(32),
    QuantizationScheme::per_block(48),
];

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref()).expect("opens")
}

fn quantize(
    source: &Checkpoint,
    out: PathBuf,
    scheme: QuantizationScheme,
    format: OutputFormat,
    threads: usize,
) -> Checkpoint {
    let ids = Selection::default().resolve(source).expect("something is quantizable");
    let plan = Plan::uniform(ids, scheme, Rounding::HalfEven);
    let count = plan.len();
    let request = Request {
        task: Task::Quantize { plan, format },
        out: out.clone(),
        force: false,
        copy: Vec::new(),
    };
    let receipt =
        save::run(source, &request, Some(threads), &Progress::default(), &|_| {}).expect("saves");
    assert_eq!(receipt.quantized.len(), count);
    open(out)
}

fn dequantize(source: &Checkpoint, out: PathBuf) -> Checkpoint {
    let request = Request {
        task: Task::Dequantize { to: None },
        out: out.clone(),
        force: false,
        copy: Vec::new(),
    };
    save::run(source, &request, None, &Progress::default(), &|_| {}).expect("saves");
    open(out)
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let mut reader = checkpoint.reader();
    let (id, stored) =
        checkpoint.all_stored().find(|(_, s)| s.name == name).unwrap_or_else(|| panic!("{name}"));
    reader.stored(id, 0..stored.bytes()).expect("reads").to_vec()
}

/// Quantizing and dequantizing equals fake quantization, tensor by tensor. Other tensors keep
/// their bytes and their order.
#[test]
fn int8_is_dequantized_to_the_rounded_floats() {
    let directory = tempfile::tempdir().expect("temp");
    for (n, source) in [SINGLE, SHARDED].iter().enumerate() {
        let source = open(source);
        for (k, scheme) in SCHEMES.into_iter().enumerate() {
            for (suffix, kind) in [(".safetensors", "file"), ("", "directory")] {
                let path =
                    |what: &str| directory.path().join(format!("{n}{k}{kind}{what}{suffix}"));
                let int8 = quantize(&source, path("int8"), scheme, OutputFormat::Safetensors, 2);
                let fake = quantize(&source, path("fake"), scheme, OutputFormat::FakeQuantized, 2);
                let floats = dequantize(&int8, path("floats"));
                verify::run(&floats, &int8, None, &Progress::default()).expect("verifies");
                let names =
                    |c: &Checkpoint| c.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
                assert_eq!(names(&floats), names(&source));
                assert_eq!(names(&int8), names(&source));
                for id in source.ids() {
                    let name = &source.tensor(id).name;
                    assert_eq!(floats.tensor(id).dtype, source.tensor(id).dtype);
                    assert_eq!(bytes(&floats, name), bytes(&fake, name), "{name}");
                    let mapped = int8.map(id, Dequantize::default()).expect("reads");
                    let (dtype, elements) = mapped.expect("floats");
                    assert_eq!(dtype.dtype(), source.tensor(id).dtype);
                    assert!(elements == bytes(&floats, name), "{name}");
                    if int8.packed_format(id).is_none() {
                        assert_eq!(bytes(&int8, name), bytes(&source, name), "{name}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SHARDED);
    let mut files = Vec::new();
    for threads in [1, 2, 7] {
        let out = directory.path().join(format!("{threads}.safetensors"));
        quantize(
            &source,
            out.clone(),
            QuantizationScheme::per_block(64),
            OutputFormat::Safetensors,
            threads,
        );
        files.push(std::fs::read(out).expect("reads"));
    }
    assert!(files.iter().all(|f| *f == files[0]));
}

#[test]
fn a_directory_keeps_shards_index_and_sidecar_files() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SHARDED);
    let out = directory.path().join("out");
    quantize(&source, out.clone(), QuantizationScheme::PER_CHANNEL, OutputFormat::Safetensors, 2);
    let names = |path: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .expect("lists")
            .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&out), names(Path::new(SHARDED)));
    let config = |path: &Path| std::fs::read(path.join("config.json")).expect("reads");
    assert_eq!(config(&out), config(Path::new(SHARDED)));
    let index: serde_json::Value = serde_json::from_slice(
        &std::fs::read(out.join("model.safetensors.index.json")).expect("reads"),
    )
    .expect("json");
    assert_eq!(index["metadata"]["total_size"], open(&out).total_bytes());
    // No other files were left behind.
    assert_eq!(names(directory.path()), ["out"]);
}

#[test]
fn any_flipped_byte_is_reported_with_its_tensor() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SINGLE);
    for (k, scheme) in SCHEMES.into_iter().enumerate() {
        let out = directory.path().join(format!("{k}.safetensors"));
        let saved = quantize(&source, out.clone(), scheme, OutputFormat::Safetensors, 2);
        let whole = std::fs::read(&out).expect("reads");
        for (_, stored) in saved.all_stored() {
            for at in [
                stored.range.start,
                (stored.range.start + stored.range.end) / 2,
                stored.range.end - 1,
            ] {
                let mut flipped = whole.clone();
                flipped[at as usize] ^= 1;
                std::fs::write(&out, &flipped).expect("writes");
                let error = verify::run(&open(&out), &source, None, &Progress::default())
                    .expect_err("a flipped byte")
                    .to_string();
                let tensor = stored.name.trim_end_matches("_scale");
                assert!(error.contains(tensor), "{error}");
            }
        }
    }
}
