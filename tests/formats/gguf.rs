//! GGUF through the library: what gguf-py wrote is read as gguf-py reads it.

use crate::{bytes, floats, quantize, refusal};
use quantscope::checkpoint::{Checkpoint, Format};
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, verify};
use quantscope::quantization::{Dequantize, QuantizationScheme};
use quantscope::tensor::FloatType;
use std::path::{Path, PathBuf};

fn open(name: &str) -> Checkpoint {
    crate::open(Path::new("tests/data/gguf").join(name))
}

#[test]
fn every_block_type_decodes_bit_for_bit_like_gguf_py() {
    let blocks = open("blocks.gguf");
    let expected = open("blocks.safetensors");
    assert_eq!(expected.tensors().len(), 14);
    for tensor in expected.tensors() {
        let id = blocks.find(&tensor.name).expect("both have it");
        assert_eq!(blocks.tensor(id).dtype.name(), tensor.name.as_str());
        assert_eq!(blocks.tensor(id).shape, tensor.shape);
        let (found, expected) = (floats(&blocks, &tensor.name), floats(&expected, &tensor.name));
        assert!(found == expected, "{}", tensor.name);
        // Any part of it is that part of the whole.
        let mut reader = blocks.reader();
        for range in [0..1, 1..33, 31..40, 64..tensor.parameters(), 5..5] {
            let (_, part) = reader.elements(id, range.clone()).expect("reads").expect("decoded");
            assert_eq!(part, &expected[range.start as usize * 4..range.end as usize * 4]);
        }
    }
}

/// As BF16 and F16 too, each value rounded once.
#[test]
fn every_block_type_is_dequantized_to_every_float_type() {
    let blocks = open("blocks.gguf");
    let expected = open("blocks.safetensors");
    for tensor in expected.tensors() {
        let id = blocks.find(&tensor.name).expect("both have it");
        let f32s = floats(&expected, &tensor.name);
        let f32s = f32s.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
        for to in [FloatType::F32, FloatType::BF16, FloatType::F16] {
            let rounded: Vec<u8> = match to {
                FloatType::BF16 => {
                    f32s.clone().flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect()
                }
                FloatType::F16 => {
                    f32s.clone().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect()
                }
                _ => f32s.clone().flat_map(f32::to_le_bytes).collect(),
            };
            let mapped = blocks.map(id, Dequantize { to: Some(to) }).expect("reads");
            match blocks.packed_format(id) {
                Some(_) => assert!(mapped == Some((to, rounded)), "{} as {to:?}", tensor.name),
                // Floats stay what they are.
                None => assert!(
                    mapped.is_some_and(|(dtype, _)| dtype.dtype() == blocks.tensor(id).dtype)
                ),
            }
        }
    }
}

/// A file with one tensor `w` of 2 rows of 32 elements of a type.
fn with_one_tensor(directory: &Path, kind: u32, data: &[u8]) -> PathBuf {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    for n in [1u64, 0, 1] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.push(b'w');
    bytes.extend(2u32.to_le_bytes());
    for n in [32u64, 2] {
        bytes.extend(n.to_le_bytes());
    }
    bytes.extend(kind.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.resize(96, 0);
    bytes.extend(data);
    let path = directory.join(format!("type-{kind}.gguf"));
    std::fs::write(&path, bytes).expect("writes");
    path
}

/// ggml's number of Q4_0_4_4, which it no longer has.
const REMOVED_TYPE: u32 = 31;

#[test]
fn an_unknown_block_type_is_named_with_its_size() {
    let directory = tempfile::tempdir().expect("temp");
    let file = crate::open(with_one_tensor(directory.path(), REMOVED_TYPE, &[0; 36]));
    let id = file.find("w").expect("listed");
    assert_eq!(file.tensor(id).dtype.name(), "Q4_0_4_4");
    assert_eq!(file.tensor(id).bytes, 36);
    assert_eq!(file.float_type(id), None);
}

#[test]
fn values_and_tensors_of_a_real_file_are_listed() {
    let file = open("synth-a32.gguf");
    assert_eq!(file.format(), Format::Gguf);
    let metadata: Vec<_> =
        file.shards()[0].metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    for pair in [
        ("general.architecture", "llama"),
        ("x.u8", "200"),
        ("x.i8", "-3"),
        ("x.i16", "-300"),
        ("x.u64", "9223372036854775808"),
        ("x.i64", "-1099511627776"),
        ("x.f32", "1.5"),
        ("x.f64", "2.25"),
        ("x.bool", "true"),
        ("x.str", "naïve ✓"),
        ("x.arr_i", "[1, 2, 3]"),
        ("x.arr_s", r#"["a", "", "ü"]"#),
        ("x.arr_f", "[0.5, 1.5]"),
        ("x.arr_b", "[true, false]"),
    ] {
        assert!(metadata.contains(&pair), "{pair:?} in {metadata:?}");
    }
    let tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|t| (t.name.as_str(), t.dtype.name(), t.shape.dims(), t.bytes))
        .collect();
    assert_eq!(tensors[0], ("blk.0.attn_q.weight", "F32", &[48, 96][..], 18432));
    assert_eq!(tensors[3], ("blk.0.exps.weight", "F16", &[3, 8, 32][..], 1536));
    assert_eq!(tensors[6], ("token_embd.weight", "Q4_0", &[32, 128][..], 2304));
}

/// Key-values, offsets, padding and every block: the file gguf-py itself would write.
#[test]
fn q8_0_is_written_byte_for_byte_like_gguf_py() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open("floats.gguf");
    let out = directory.path().join("out.gguf");
    let receipt = quantize(&source, &out, QuantizationScheme::per_block(32), OutputFormat::Gguf);
    assert_eq!(receipt.quantized.len(), 3);
    assert!(receipt.quantized.iter().all(|q| q.on_disk.sqnr_db > 35.0), "{receipt:?}");
    // What was marked and could not be is named; what was not marked is not.
    let warned = |name: &str| receipt.warnings.iter().any(|w| w.contains(name));
    assert_eq!(receipt.warnings.len(), 2, "{:?}", receipt.warnings);
    assert!(warned("blk.0.odd.weight") && warned("blk.0.ffn_gate_inp.weight"));
    let written = std::fs::read(&out).expect("reads");
    let expected = std::fs::read("tests/data/gguf/floats-q8_0.gguf").expect("reads");
    assert!(written == expected);
}

#[test]
fn any_flipped_byte_of_the_data_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open("floats.gguf");
    let out = directory.path().join("out.gguf");
    quantize(&source, &out, QuantizationScheme::per_block(32), OutputFormat::Gguf);
    let whole = std::fs::read(&out).expect("reads");
    for (_, stored) in crate::open(&out).all_stored() {
        for at in [stored.range.start, stored.range.end - 1] {
            let mut flipped = whole.clone();
            flipped[at as usize] ^= 1;
            std::fs::write(&out, flipped).expect("writes");
            let error = verify::run(&crate::open(&out), &source, None, &Progress::default());
            let error = error.expect_err("a flipped byte").to_string();
            assert!(error.contains(stored.name.as_str()), "{error}");
        }
    }
}

/// A file without the keys that say what its tensors are gets them.
#[test]
fn a_file_without_a_file_type_gets_one() {
    let directory = tempfile::tempdir().expect("temp");
    let data: Vec<u8> = (0..64).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let path = with_one_tensor(directory.path(), 0, &data);
    let out = directory.path().join("out.gguf");
    let source = crate::open(&path);
    quantize(&source, &out, QuantizationScheme::per_block(32), OutputFormat::Gguf);
    let out = crate::open(&out);
    let keys: Vec<_> = out.shards()[0].metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(keys, ["general.quantization_version=2", "general.file_type=7"]);
}

#[test]
fn gguf_is_dequantized_with_the_same_names() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open("synth-a32.gguf");
    let out = directory.path().join("out.safetensors");
    let out = crate::run(&source, &out, Task::Dequantize { to: None }).expect("saves").0;
    assert_eq!(out.tensors().len(), source.tensors().len());
    for tensor in source.tensors() {
        let id = out.find(&tensor.name).expect("the same name");
        assert_eq!(out.tensor(id).shape, tensor.shape);
        assert!(out.tensor(id).dtype.float().is_some());
    }
    assert_eq!(floats(&out, "token_embd.weight"), floats(&source, "token_embd.weight"));
    assert_eq!(bytes(&out, "blk.0.exps.weight"), bytes(&source, "blk.0.exps.weight"));
    assert!(out.shards()[0].metadata.is_empty());
    for to in [FloatType::F32, FloatType::BF16, FloatType::F16] {
        let out = directory.path().join(format!("{to:?}.safetensors"));
        let out = crate::run(&source, &out, Task::Dequantize { to: Some(to) }).expect("saves").0;
        let id = out.find("token_embd.weight").expect("the same name");
        assert_eq!(out.tensor(id).dtype, to.dtype());
    }
}

#[test]
fn unsuitable_tensors_are_refused_with_a_reason() {
    let block = QuantizationScheme::per_block(32);
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    let source = open("floats.gguf");
    let model = crate::open("tests/data/tiny-llama/single");
    for (source, out, scheme, format, sentence) in [
        (&model, "a.gguf", block, OutputFormat::Gguf, "only GGUF becomes GGUF"),
        (&source, "a.safetensors", block, OutputFormat::Gguf, "ends in .gguf"),
        (&source, "a", block, OutputFormat::Gguf, "ends in .gguf"),
        (&source, "a.gguf", block, OutputFormat::Safetensors, "ends in .safetensors"),
        (&source, "a.gguf", QuantizationScheme::PER_TENSOR, OutputFormat::Gguf, "per-block:32"),
        (&source, "a.safetensors", block, OutputFormat::Safetensors, "no such type"),
    ] {
        let found = refusal(source, &path(out), scheme, format);
        assert!(found.contains(sentence), "{found}");
    }
    // A block type that is only named cannot become floats.
    let task = Task::Dequantize { to: None };
    let removed = crate::open(with_one_tensor(directory.path(), REMOVED_TYPE, &[0; 36]));
    let found = crate::run(&removed, &path("b.safetensors"), task);
    let found = found.map(|_| ()).expect_err("refused").to_string();
    assert!(found.contains("'w' has type Q4_0_4_4"), "{found}");
}
