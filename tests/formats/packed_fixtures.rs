//! Packed checkpoints written by the software that owns each format, with the values that it
//! decodes. Both are made by `tests/interop/fixtures`.

use quantscope::checkpoint::{Checkpoint, Content};
use quantscope::export::{Request, Task};
use quantscope::job::{Progress, save};
use quantscope::plan::{obstacle, quantizable};
use quantscope::tensor::{FloatType, TensorId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const FIXTURES: &str = "tests/data/packed";

/// Fixtures with rotations. Their values depend on the order of additions in a matrix product, so
/// they are compared with a tolerance relative to the row's absolute maximum.
const ROTATED: [&str; 2] = ["comfy-int8-convrot", "comfy-convrot-w4a4"];
const TOLERANCE: f32 = 1e-6;

fn fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(FIXTURES).expect("the fixtures are there");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.sort();
    assert!(all.len() > 60, "{} fixtures", all.len());
    all
}

/// Checks every fixture, and reports all failures.
fn for_each(check: impl Fn(&Path)) {
    let failed = |fixture: &PathBuf| {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(fixture)));
        let panic = checked.err()?;
        let message = panic.downcast_ref::<String>().cloned();
        Some(format!("{}: {}", name(fixture), message.unwrap_or_else(|| "failed".to_owned())))
    };
    let failures: Vec<String> = fixtures().iter().filter_map(failed).collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn name(fixture: &Path) -> String {
    fixture.file_name().expect("a name").to_string_lossy().into_owned()
}

fn open(fixture: &Path) -> Checkpoint {
    Checkpoint::open(&fixture.join("model.safetensors")).unwrap_or_else(|e| panic!("{e}"))
}

/// The expected values; `None` for a format that is recognised but not decoded.
fn expected(fixture: &Path) -> Option<Checkpoint> {
    let path = fixture.join("expected.safetensors");
    path.is_file().then(|| Checkpoint::open(&path).expect("opens"))
}

fn elements(checkpoint: &Checkpoint, id: TensorId, range: std::ops::Range<u64>) -> Vec<f32> {
    let mut reader = checkpoint.reader();
    let read = reader.elements(id, range).unwrap_or_else(|e| panic!("{e}"));
    let (float, bytes) = read.unwrap_or_else(|| panic!("{:?}", checkpoint.tensor(id)));
    let size = float.size();
    let value = |i: usize| match float {
        FloatType::F32 => f32::from_le_bytes(bytes[i * 4..i * 4 + 4].try_into().expect("4 bytes")),
        FloatType::F16 => half::f16::from_le_bytes([bytes[i * 2], bytes[i * 2 + 1]]).to_f32(),
        FloatType::BF16 => half::bf16::from_le_bytes([bytes[i * 2], bytes[i * 2 + 1]]).to_f32(),
        FloatType::F64 => panic!("no fixture has F64"),
    };
    (0..bytes.len() / size).map(value).collect()
}

fn all(checkpoint: &Checkpoint, id: TensorId) -> Vec<f32> {
    elements(checkpoint, id, 0..checkpoint.tensor(id).parameters())
}

/// The names of all tensors except biases, which the expected values do not include.
fn names(checkpoint: &Checkpoint) -> BTreeSet<&str> {
    let names = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
    names.filter(|name| !name.ends_with(".bias")).collect()
}

fn assert_same(fixture: &str, tensor: &str, row: usize, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{fixture}: {tensor}");
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = if ROTATED.contains(&fixture) {
            let start = at / row * row;
            let scale = expected[start..start + row].iter().fold(0f32, |m, v| m.max(v.abs()));
            (a - b).abs() <= TOLERANCE * scale
        } else {
            a.to_bits() == b.to_bits()
        };
        assert!(same, "{fixture}: {tensor}[{at}] is {a}, expected {b}");
    }
}

#[test]
fn every_fixture_has_the_reference_names_shapes_and_values() {
    for_each(|fixture| {
        let (checkpoint, name) = (open(fixture), name(fixture));
        let Some(expected) = expected(fixture) else { return };
        assert_eq!(names(&checkpoint), names(&expected), "{name}");
        for answer in expected.ids() {
            let tensor = expected.tensor(answer);
            let id = checkpoint.find(&tensor.name).expect("listed");
            let row = tensor.shape.row_len().max(1) as usize;
            let described = checkpoint.packed_format(id).map(|format| format.name());
            assert_eq!(
                checkpoint.tensor(id).shape.dims(),
                tensor.shape.dims(),
                "{name}: {} {described:?}",
                tensor.name
            );
            assert!(checkpoint.float_type(id).is_some(), "{name}: {} {described:?}", tensor.name);
            let values = all(&expected, answer);
            assert_same(&name, &tensor.name, row, &all(&checkpoint, id), &values);
            // Any range gives the same values as reading the whole tensor.
            let (count, row) = (values.len() as u64, row as u64);
            let bounds = [0, 1, 7, row - 1, row, row + 3, 2 * row, count / 2 + 1, count];
            let whole = all(&checkpoint, id);
            for start in bounds {
                for end in bounds.into_iter().filter(|&end| start <= end && end <= count) {
                    let part = elements(&checkpoint, id, start..end);
                    let expected = &whole[start as usize..end as usize];
                    let same = part.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && part.len() == expected.len(), "{name} {start}..{end}");
                }
            }
        }
    });
}

/// compressed-tensors decompresses NVFP4 in BF16 unless the configuration names another type.
const ROUNDED_TO_BF16: [&str; 2] = ["ct-nvfp4", "auto-round-llm-compressor-nvfp4"];

/// What only the configuration says is not guessed without it: a tensor has its owner's values,
/// or is named.
#[test]
fn without_a_configuration_values_are_the_reference_or_absent() {
    let directory = tempfile::tempdir().expect("temp");
    let decoded = std::cell::Cell::new(0);
    for_each(|fixture| {
        let name = name(fixture);
        let Some(expected) = expected(fixture) else { return };
        let alone = directory.path().join(format!("{name}.safetensors"));
        std::fs::copy(fixture.join("model.safetensors"), &alone).expect("copies");
        let checkpoint = Checkpoint::open(&alone).unwrap_or_else(|e| panic!("{name}: {e}"));
        for answer in expected.ids() {
            let tensor = expected.tensor(answer);
            let Some(id) = checkpoint.find(&tensor.name) else { continue };
            if checkpoint.float_type(id).is_none() {
                assert!(checkpoint.packed_format(id).is_some(), "{name}: {}", tensor.name);
                continue;
            }
            decoded.set(decoded.get() + 1);
            let (found, values) = (all(&checkpoint, id), all(&expected, answer));
            if ROUNDED_TO_BF16.contains(&name.as_str()) {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0;
                assert!(found.iter().zip(&values).all(near), "{name}: {}", tensor.name);
                continue;
            }
            let row = tensor.shape.row_len().max(1) as usize;
            assert_same(&name, &tensor.name, row, &found, &values);
        }
    });
    assert!(decoded.get() > 80, "{} tensors", decoded.get());
}

/// GPTQ's two formats differ by one in their zero points. Those of symmetric quantization tell
/// which it is, others do not.
#[test]
fn zero_points_of_gptq_without_a_configuration_tell_its_version() {
    let directory = tempfile::tempdir().expect("temp");
    let (asymmetric, symmetric) =
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight");
    for (fixture, tensor, format) in [
        ("gptq-4bit", symmetric, "gptq int4"),
        ("gptq-3bit", symmetric, "gptq int3"),
        ("auto-round-gptq-3bit", symmetric, "gptq int3"),
        ("gptq-4bit", asymmetric, "gptq, not decoded: no configuration says"),
        ("gptq-v2-actorder", asymmetric, "gptq, not decoded: no configuration says"),
    ] {
        let alone = directory.path().join(format!("{fixture}.safetensors"));
        let source = Path::new(FIXTURES).join(fixture).join("model.safetensors");
        std::fs::copy(source, &alone).expect("copies");
        let checkpoint = Checkpoint::open(&alone).expect("opens");
        let id = checkpoint.find(tensor).unwrap_or_else(|| panic!("{fixture}: no {tensor}"));
        let name = checkpoint.packed_format(id).map(|format| format.name()).unwrap_or_default();
        assert!(name.starts_with(format), "{fixture}: {name}");
    }
}

/// The language model of a larger one has its settings in a part of the configuration.
#[test]
fn settings_of_a_part_of_the_model_are_found() {
    let fixture = Path::new(FIXTURES).join("fp8-ue8m0-u8");
    let text = std::fs::read_to_string(fixture.join("config.json")).expect("reads");
    let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let settings = serde_json::json!({"quantization_config": config["quantization_config"]});
    let other = serde_json::json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
    let format = |config: serde_json::Value| {
        let directory = tempfile::tempdir().expect("temp");
        let model = directory.path().join("model.safetensors");
        std::fs::copy(fixture.join("model.safetensors"), model).expect("copies");
        let text = config.to_string();
        std::fs::write(directory.path().join("config.json"), text).expect("writes");
        let found = open(directory.path());
        found.ids().find_map(|id| Some(found.packed_format(id)?.name())).expect("packed")
    };
    let expected = format(config.clone());
    assert!(!expected.contains("not decoded"), "{expected}");
    for part in ["text_config", "llm_config"] {
        assert_eq!(format(serde_json::json!({ part: settings })), expected);
    }
    let thinker = serde_json::json!({"thinker_config": {"text_config": settings}});
    assert_eq!(format(thinker), expected);
    // Nothing says which of two settings is that of a weight.
    let two = serde_json::json!({"llm_config": settings, "talker_config": other});
    assert!(format(two).contains("not decoded"));
}

/// AutoGPTQ and others write their settings into a file of their own.
#[test]
fn settings_of_a_quantizer_are_found_without_a_config() {
    let fixture = Path::new(FIXTURES).join("gptq-v2-actorder");
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    std::fs::copy(fixture.join("model.safetensors"), path("model.safetensors")).expect("copies");
    let settings = r#"{"bits": 4, "desc_act": true, "checkpoint_format": "gptq_v2"}"#;
    std::fs::write(path("quantize_config.json"), settings).expect("writes");
    let found = Checkpoint::open(directory.path()).expect("opens");
    let name = found.ids().find_map(|id| Some(found.packed_format(id)?.name()));
    assert!(name.as_ref().is_some_and(|name| name.starts_with("gptq v2 int4")), "{name:?}");
}

/// Tensors that are not decoded keep their type and shape and have a reason, and none of their
/// parts can be quantized.
#[test]
fn fixtures_without_values_are_named_and_kept() {
    for_each(|fixture| {
        let (checkpoint, answer, fixture) = (open(fixture), expected(fixture), name(fixture));
        if answer.is_some() {
            return;
        }
        let mut undecoded = 0;
        for id in checkpoint.ids() {
            let tensor = checkpoint.tensor(id);
            assert!(!quantizable(&checkpoint, id), "{fixture}: {}", tensor.name);
            match checkpoint.content(id) {
                Content::Plain(_) => {
                    let ordinary =
                        ["norm", "embed", "bias"].iter().any(|w| tensor.name.contains(w));
                    assert!(ordinary, "{fixture}: {} is plain", tensor.name);
                }
                Content::Packed(format) => {
                    undecoded += 1;
                    assert_eq!(format.decoded(), None, "{fixture}: {}", format.name());
                    let stored = checkpoint.stored(format.parts()[0]);
                    assert_eq!((&tensor.dtype, &tensor.shape), (&stored.dtype, &stored.shape));
                    let why = obstacle(&checkpoint, id).expect("an obstacle");
                    assert!(!why.can_be_overruled(), "{fixture}: {why}");
                    let printed = format.name();
                    let reason =
                        printed.contains("does not read") || printed.contains("not decoded: ");
                    assert!(reason, "{fixture}: {printed}");
                }
            }
        }
        assert!(undecoded > 0, "{fixture}");
    });
}

/// A dequantized checkpoint has the expected tensors and no trace of its quantization.
#[test]
fn dequantized_fixtures_hold_only_the_reference_tensors() {
    let directory = tempfile::tempdir().expect("temp");
    for_each(|fixture| {
        let (checkpoint, name) = (open(fixture), name(fixture));
        let Some(expected) = expected(fixture) else { return };
        let out = directory.path().join(format!("{name}.safetensors"));
        let task = Task::Dequantize { to: Some(FloatType::F32) };
        let request = Request { task, out: out.clone(), force: false, copy: Vec::new() };
        save::run(&checkpoint, &request, None, &Progress::default(), &|_| {})
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let plain = Checkpoint::open(&out).expect("opens");
        assert_eq!(names(&plain), names(&expected), "{name}");
        for id in plain.ids() {
            assert!(plain.packed_format(id).is_none(), "{name}");
            let tensor = plain.tensor(id);
            let Some(answer) = expected.find(&tensor.name) else { continue };
            let row = tensor.shape.row_len().max(1) as usize;
            assert_same(&name, &tensor.name, row, &all(&plain, id), &all(&expected, answer));
        }
        let keys = plain.shards()[0].metadata.iter().map(|(key, _)| key.as_str());
        let left: Vec<&str> = keys.filter(|key| key.contains("quant")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    });
}
