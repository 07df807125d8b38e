//! Weights quantized with a preset equal those of compressed-tensors byte for byte, and are
//! decoded as it decodes them.
//!
//! `presets/*.safetensors` hold `<case>.input`, `<case>.<PRESET>.<stored tensor>` and, for the
//! rows in `<case>.rows`, `<case>.<PRESET>.dequantized`, all made by compressed-tensors 0.20.
//! The inputs have an outlier row, a row of zeros and a row that is half zeros.

use quantscope::checkpoint::Checkpoint;
use quantscope::quantization::{Preset, encode_preset};
use quantscope::tensor::{FloatType, Shape};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const FILES: [(&str, FloatType); 3] =
    [("bfloat16", FloatType::BF16), ("float16", FloatType::F16), ("float32", FloatType::F32)];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/presets").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(golden(&format!("{name}.safetensors"))).expect("the golden file")
}

fn shape_of(view: &TensorView) -> Shape {
    let dims: Vec<u64> = view.shape().iter().map(|&dim| dim as u64).collect();
    Shape::new(dims).expect("a shape")
}

/// The pairs of a case and a preset that the file contains.
fn cases(golden: &SafeTensors) -> Vec<(&'static str, Preset)> {
    let all = ["plain", "ragged"].into_iter().flat_map(|case| Preset::ALL.map(|p| (case, p)));
    let exists = |&(case, preset): &(&str, Preset)| {
        golden.tensor(&format!("{case}.{preset}.dequantized")).is_ok()
    };
    all.filter(exists).collect()
}

#[test]
fn stored_tensors_are_those_of_compressed_tensors() {
    let mut compared = 0;
    for (file, dtype) in FILES {
        let bytes = read(file);
        let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        for (case, preset) in cases(&golden) {
            let input = golden.tensor(&format!("{case}.input")).expect("an input");
            let parts = encode_preset(preset, dtype, &shape_of(&input), input.data(), None);
            let parts = parts.expect("can be quantized");
            let prefix = format!("{case}.{preset}.weight");
            let expected = golden.names().iter().filter(|name| name.starts_with(&prefix)).count();
            assert_eq!(parts.len(), expected, "{file} {prefix}");
            for (part, bytes) in parts {
                let name = format!("{prefix}{}", part.suffix);
                let expected = golden.tensor(&name).expect(&name);
                assert_eq!(part.shape, shape_of(&expected), "{file} {name}");
                let dtype = match expected.dtype() {
                    Dtype::F8_E4M3 => "F8_E4M3".to_owned(),
                    other => format!("{other:?}"),
                };
                assert_eq!(part.dtype.name(), dtype, "{file} {name}");
                let differs = bytes.iter().zip(expected.data()).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{file} {name}");
                assert_eq!(bytes.len(), expected.data().len(), "{file} {name}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 3 * 12);
}

/// A checkpoint with one quantized weight, `layer.weight`.
fn checkpoint(golden: &SafeTensors, case: &str, preset: Preset, dtype: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp");
    let prefix = format!("{case}.{preset}.weight");
    let parts = golden.iter().filter_map(|(name, view)| {
        Some((format!("layer.weight{}", name.strip_prefix(&prefix)?), view))
    });
    let parts: HashMap<String, TensorView> = parts.collect();
    let file = directory.path().join("model.safetensors");
    safetensors::serialize_to_file(parts, None, &file).expect("writes");
    let groups = std::fs::read(self::golden("config_groups.json")).expect("the golden file");
    let groups: serde_json::Value = serde_json::from_slice(&groups).expect("JSON");
    let group = &groups[preset.name()];
    let config = serde_json::json!({
        "torch_dtype": dtype,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": group["format"],
            "config_groups": { "group_0": group },
        },
    });
    std::fs::write(directory.path().join("config.json"), config.to_string()).expect("writes");
    directory
}

#[test]
fn stored_tensors_are_read_as_compressed_tensors_reads_them() {
    for (file, dtype) in FILES {
        let bytes = read(file);
        let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        for (case, preset) in cases(&golden) {
            let directory = checkpoint(&golden, case, preset, file);
            let opened = Checkpoint::open(directory.path()).expect("opens");
            let id = opened.find("layer.weight").expect("a weight");
            let expected = golden.tensor(&format!("{case}.{preset}.dequantized")).expect("floats");
            let rows = golden.tensor(&format!("{case}.rows")).expect("rows");
            let rows = rows.data().as_chunks::<8>().0.iter().map(|raw| u64::from_le_bytes(*raw));
            let columns = opened.tensor(id).shape.row_len();
            let expected_rows = expected.data().chunks(columns as usize * dtype.size());
            let mut reader = opened.reader();
            for (row, expected) in rows.zip(expected_rows) {
                let range = row * columns..(row + 1) * columns;
                let found = reader.elements(id, range).expect("reads");
                let (from, found) = found.expect("is decoded");
                assert_eq!(from, FloatType::F32);
                let found = found.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
                let found = found.flat_map(|value| match dtype {
                    FloatType::BF16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
                    FloatType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
                    _ => value.to_le_bytes().to_vec(),
                });
                let found: Vec<u8> = found.collect();
                let differs = found.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{file} {case}.{preset}, row {row}");
            }
        }
    }
}

/// `presets/fp8.safetensors` has the first 16 rows of the case `plain` and their scale.
#[test]
fn fp8_with_one_scale_per_tensor_is_that_of_compressed_tensors() {
    let expected = read("fp8");
    let expected = SafeTensors::deserialize(&expected).expect("a safetensors file");
    for (file, dtype) in FILES {
        let bytes = read(file);
        let golden = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let input = golden.tensor("plain.input").expect("an input");
        let parts = encode_preset(Preset::Fp8, dtype, &shape_of(&input), input.data(), None);
        let parts = parts.expect("can be quantized");
        assert_eq!(parts.len(), 2);
        for (part, bytes) in parts {
            let name = format!("{file}.weight{}", part.suffix);
            let expected = expected.tensor(&name).expect(&name).data().to_vec();
            assert!(bytes.starts_with(&expected), "{name}");
        }
    }
}
