//! Packed checkpoints with one change: another type, rank or shape, a missing stored tensor, an
//! extra marker. The file opens, unchanged tensors stay listed, and no tensor is decoded to
//! different values.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quantscope::checkpoint::Checkpoint;
use quantscope::plan::quantizable;
use quantscope::tensor::{FloatType, TensorId};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const FIXTURES: [&str; 2] = ["tests/data/packed", "tests/data/formats"];

/// Stored tensors without which the file is valid but has another meaning. Nothing else in the
/// file shows that they are missing.
const UNNOTICED: [&str; 8] = [
    // A marker of ComfyUI, which distinguishes rotated int8 and FP8 without a scale.
    "comfy_quant",
    // ModelOpt's AWQ has it only for some modules.
    "pre_quant_scale",
    // Activation scales are not part of a weight.
    "input_scale",
    "activation_scale",
    "k_scale",
    "v_scale",
    "scaled_fp8",
    // Without it the order is sequential.
    "g_idx",
];

/// Stored tensors that prevent decoding. Nothing else in the file shows that they are missing.
const UNNOTICED_CONTRADICTIONS: [&str; 1] = ["act.scales"];

/// Fixtures whose scales also fit the transposed weight.
const SYMMETRIC: [&str; 3] = ["comfy-nvfp4-padded", "comfy-u8-scales", "fp8-experts-block"];

/// The number of changes per fixture.
const CHANGES: u32 = 12;

/// The header and the data of a safetensors file.
#[derive(Clone, Debug)]
struct File {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    fn read(path: &Path) -> File {
        let bytes = std::fs::read(path).expect("reads");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        File { header, data: bytes[8 + length..].to_vec() }
    }

    fn names(&self) -> Vec<String> {
        self.header.keys().filter(|name| *name != "__metadata__").cloned().collect()
    }

    fn bytes(&self, name: &str) -> &[u8] {
        let offsets = &self.header[name]["data_offsets"];
        let at = |i: usize| offsets[i].as_u64().expect("an offset") as usize;
        &self.data[at(0)..at(1)]
    }

    /// Writes the tensors one after another.
    fn write(&self, path: &Path) {
        let (mut header, mut data) = (Map::new(), Vec::new());
        if let Some(metadata) = self.header.get("__metadata__") {
            header.insert("__metadata__".to_owned(), metadata.clone());
        }
        for name in self.names() {
            let mut entry = self.header[&name].clone();
            let start = data.len();
            data.extend_from_slice(self.bytes(&name));
            entry["data_offsets"] = json!([start, data.len()]);
            header.insert(name, entry);
        }
        let mut text = serde_json::to_vec(&header).expect("JSON");
        text.resize(text.len().next_multiple_of(8), b' ');
        let length = (text.len() as u64).to_le_bytes();
        std::fs::write(path, [&length[..], &text, &data].concat()).expect("writes");
    }

    fn add(&mut self, name: &str, dtype: &str, shape: Value, bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        let entry =
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()]});
        self.header.insert(name.to_owned(), entry);
    }
}

/// A kind of change to a file.
#[derive(Clone, Copy, Debug)]
enum Change {
    Dtype,
    Rank,
    Shape,
    Missing,
    Marker,
}

/// The types that a dtype is changed to. They have the same size. Similar floats are left out,
/// because nothing in the file distinguishes them.
fn other_types(dtype: &str) -> &'static [&'static str] {
    match dtype {
        "F16" | "BF16" => &["I16", "U16"],
        "F32" => &["I32", "U32"],
        "I32" | "U32" => &["F32"],
        "I64" => &["U64"],
        "F8_E4M3" | "F8_E5M2" => &["I16"],
        "U8" => &["BOOL"],
        "I8" => &["U8", "BOOL"],
        "F8_E8M0" => &["I8", "F8_E4M3"],
        _ => &[],
    }
}

/// Changes the file. `pick` selects the tensor and `choice` the variant. Returns the name of the
/// changed tensor, or `None` if the change does not apply.
fn change(file: &mut File, change: Change, pick: usize, choice: usize) -> Option<String> {
    let names = file.names();
    let name = names[pick % names.len()].clone();
    let entry = file.header[&name].clone();
    let dtype = entry["dtype"].as_str().expect("a type").to_owned();
    let shape: Vec<u64> = entry["shape"]
        .as_array()
        .expect("a shape")
        .iter()
        .map(|d| d.as_u64().expect("a dimension"))
        .collect();
    let last = name.rsplit('.').next().unwrap_or(&name).to_owned();
    match change {
        Change::Dtype => {
            let others = other_types(&dtype);
            let other = *others.get(choice % others.len().max(1))?;
            let mut shape = shape;
            if dtype.starts_with("F8_E4") || dtype.starts_with("F8_E5") {
                let columns = shape.last_mut().filter(|n| **n % 2 == 0)?;
                *columns /= 2;
            }
            file.header[&name]["dtype"] = json!(other);
            file.header[&name]["shape"] = json!(shape);
        }
        Change::Rank => {
            let shape = match choice % 3 {
                0 => [shape.as_slice(), &[1]].concat(),
                1 => [&[1], shape.as_slice()].concat(),
                _ => vec![shape.iter().product()],
            };
            file.header[&name]["shape"] = json!(shape);
        }
        Change::Shape => {
            let mut shape = shape;
            let rank = shape.len();
            if rank < 2 || shape[rank - 1] == shape[rank - 2] {
                return None;
            }
            shape.swap(rank - 1, rank - 2);
            file.header[&name]["shape"] = json!(shape);
        }
        Change::Missing => {
            let no_config = last == "weight_scale" || last == "scale_weight";
            if UNNOTICED.contains(&last.as_str()) || no_config {
                return None;
            }
            file.header.remove(&name);
        }
        Change::Marker => {
            let layer = name.strip_suffix(".weight")?.to_owned();
            if file.header.contains_key(&format!("{layer}.comfy_quant")) || !is_code(&dtype) {
                return None;
            }
            let formats = ["nvfp4", "mxfp8", "int8_blockwise", "svdquant_w4a4", "unheard_of"];
            let marker = json!({"format": formats[choice % formats.len()]}).to_string();
            file.add(
                &format!("{layer}.comfy_quant"),
                "U8",
                json!([marker.len()]),
                marker.as_bytes(),
            );
        }
    }
    Some(name)
}

fn is_code(dtype: &str) -> bool {
    !["F16", "BF16", "F32", "F64"].contains(&dtype)
}

fn values(checkpoint: &Checkpoint, id: TensorId) -> Option<Vec<u8>> {
    let mut reader = checkpoint.reader();
    let read = reader.elements(id, 0..checkpoint.tensor(id).parameters()).ok()??;
    (read.0 == FloatType::F32).then(|| read.1.to_vec())
}

/// The names of the stored tensors that belong to packed tensors.
fn parts(checkpoint: &Checkpoint) -> impl Iterator<Item = &str> {
    let packed = checkpoint.ids().filter_map(|id| checkpoint.packed_format(id));
    packed.flat_map(|format| format.parts()).map(|id| checkpoint.stored(id).name.as_str())
}

fn fixtures() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for folder in FIXTURES {
        for entry in std::fs::read_dir(folder).expect("the fixtures are there") {
            let path = entry.expect("an entry").path();
            if path.join("model.safetensors").is_file() {
                all.push(path);
            }
        }
    }
    all.sort();
    all
}

/// A directory with this file and the configuration of a fixture.
fn copy_of(fixture: &Path, file: &File) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp");
    file.write(&directory.path().join("model.safetensors"));
    for name in ["config.json", "hf_quant_config.json"] {
        if fixture.join(name).is_file() {
            std::fs::copy(fixture.join(name), directory.path().join(name)).expect("copies");
        }
    }
    directory
}

fn check(fixture: &Path, kind: Change, pick: usize, choice: usize) -> Result<(), TestCaseError> {
    let untouched = Checkpoint::open(&fixture.join("model.safetensors")).expect("opens");
    let mut file = File::read(&fixture.join("model.safetensors"));
    let symmetric = SYMMETRIC.iter().any(|name| fixture.ends_with(name));
    if symmetric && matches!(kind, Change::Shape) {
        return Ok(());
    }
    let Some(changed) = change(&mut file, kind, pick, choice) else { return Ok(()) };
    let directory = copy_of(fixture, &file);
    let path = directory.path().join("model.safetensors");
    let what = format!("{} {kind:?} {changed} {choice}", fixture.display());
    let opened = match Checkpoint::open(&path) {
        Ok(opened) => opened,
        Err(error) => return Err(TestCaseError::fail(format!("{what}: {error}"))),
    };
    // A change affects only its module.
    let module = changed.rsplit_once('.').map_or("", |(module, _)| module);
    for id in untouched.ids() {
        let tensor = untouched.tensor(id);
        let inside = changed.strip_prefix(&*tensor.name).is_some_and(|rest| rest.starts_with('.'));
        let touched = tensor.name == changed || tensor.name.starts_with(module) || inside;
        prop_assert!(
            touched || opened.find(&tensor.name).is_some(),
            "{what}: {} is no longer listed",
            tensor.name
        );
    }
    // Without its weight, `weight_extra` of an invented method cannot be recognised.
    let is_part =
        |name: &str| !name.ends_with("weight_extra") && parts(&untouched).any(|part| part == name);
    for id in opened.ids().filter(|&id| quantizable(&opened, id)) {
        let name = &opened.tensor(id).name;
        prop_assert!(
            *name == changed || !is_part(name) || !fixture.join("config.json").is_file(),
            "{what}: {name} is a part of a weight and offered for quantization"
        );
    }
    for id in opened.ids().filter(|&id| opened.packed_format(id).is_some()) {
        let name = &opened.tensor(id).name;
        let Some(found) = values(&opened, id) else { continue };
        let format = opened.packed_format(id).map(|format| format.name());
        let expected = untouched.find(name).and_then(|before| values(&untouched, before));
        prop_assert!(
            expected.is_some() || UNNOTICED_CONTRADICTIONS.iter().any(|end| changed.ends_with(end)),
            "{what}: {name} is decoded as {format:?}, which the untouched file does not allow"
        );
        prop_assert!(
            expected.is_none_or(|expected| expected == found),
            "{what}: {name} is decoded to other values as {format:?}"
        );
    }
    Ok(())
}

#[test]
fn a_changed_part_never_changes_the_decoded_values() {
    let fixtures = fixtures();
    assert!(fixtures.len() > 80, "{} fixtures", fixtures.len());
    let kind = prop_oneof![
        Just(Change::Dtype),
        Just(Change::Rank),
        Just(Change::Shape),
        Just(Change::Missing),
        Just(Change::Marker),
    ];
    let strategy = (kind, 0usize..64, 0usize..64);
    let mut failures = Vec::new();
    for (fixture, seed) in fixtures.iter().zip((0..=u8::MAX).cycle()) {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        let config = Config { cases: CHANGES, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let checked =
            runner.run(&strategy, |(kind, pick, choice)| check(fixture, kind, pick, choice));
        failures.extend(checked.err().map(|error| error.to_string()));
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Name, format and decoded values of every row, by name.
fn rows(checkpoint: &Checkpoint) -> Vec<(String, Option<String>, Option<Vec<u8>>)> {
    let row = |id: TensorId| {
        let format = checkpoint.packed_format(id).map(|format| format.name());
        let decoded = format.as_ref().and_then(|_| values(checkpoint, id));
        (checkpoint.tensor(id).name.to_string(), format, decoded)
    };
    let mut rows: Vec<_> = checkpoint.ids().map(row).collect();
    rows.sort();
    rows
}

/// Scales may be stored before the values they belong to, or far behind them.
#[test]
fn the_order_of_stored_tensors_does_not_matter() {
    type Order = fn(&mut Vec<(String, Value)>);
    let orders: [Order; 3] = [
        |entries| entries.reverse(),
        |entries| entries.sort_by(|(a, _), (b, _)| a.cmp(b)),
        |entries| entries.sort_by(|(a, _), (b, _)| b.chars().rev().cmp(a.chars().rev())),
    ];
    for fixture in fixtures() {
        let expected = rows(&Checkpoint::open(&fixture.join("model.safetensors")).expect("opens"));
        for (number, order) in orders.into_iter().enumerate() {
            let mut file = File::read(&fixture.join("model.safetensors"));
            let mut entries: Vec<(String, Value)> = file.header.into_iter().collect();
            order(&mut entries);
            file.header = entries.into_iter().collect();
            let directory = copy_of(&fixture, &file);
            let path = directory.path().join("model.safetensors");
            let found = rows(&Checkpoint::open(&path).expect("opens"));
            let names = |rows: &[(String, Option<String>, _)]| -> Vec<_> {
                rows.iter().map(|(name, format, _)| (name.clone(), format.clone())).collect()
            };
            assert_eq!(names(&found), names(&expected), "{} {number}", fixture.display());
            assert!(found == expected, "{} {number}: other values", fixture.display());
        }
    }
}
