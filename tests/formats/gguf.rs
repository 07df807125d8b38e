//! GGUF through the library: files of gguf-py are decoded as gguf-py decodes them.

use crate::support::gguf::{made, wave};
use crate::{bytes, floats, quantize, refusal};
use quantscope::checkpoint::{Checkpoint, Format};
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, verify};
use quantscope::plan::Plan;
use quantscope::plan::gguf_mix::GgufMix;
use quantscope::quantization::ggml::{ImportanceUse, importance_use, quantize_rows};
use quantscope::quantization::{Calibration, Dequantize, QuantizationScheme, Quantizer, Rounding};
use quantscope::tensor::{BlockType, FloatType};
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
        // Any range equals the same range of the whole tensor.
        let mut reader = blocks.reader();
        for range in [0..1, 1..33, 31..40, 64..tensor.parameters(), 5..5] {
            let (_, part) = reader.elements(id, range.clone()).expect("reads").expect("decoded");
            assert_eq!(part, &expected[range.start as usize * 4..range.end as usize * 4]);
        }
    }
}

/// Dequantizing to BF16 and F16 rounds each value once.
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
                // Float tensors stay unchanged.
                None => assert!(
                    mapped.is_some_and(|(dtype, _)| dtype.dtype() == blocks.tensor(id).dtype)
                ),
            }
        }
    }
}

/// Writes a file with one tensor `w.weight` of 2 rows of 32 elements.
fn with_one_tensor(directory: &Path, kind: u32, data: &[u8]) -> PathBuf {
    let tensor = ("w.weight".to_owned(), vec![32, 2], kind, data.to_vec());
    made(&directory.join(format!("type-{kind}.gguf")), &[], &[tensor])
}

/// The names and types of a file's tensors, in file order.
fn types_of(file: &Checkpoint) -> Vec<(&str, &str)> {
    file.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor.dtype.name())).collect()
}

#[test]
fn tensors_are_written_in_blocks_of_every_type() {
    let directory = tempfile::tempdir().expect("temp");
    let names = ["blk.0.wide.weight", "blk.0.narrow.weight"];
    let tensors = [wave(names[0], 512, 3), wave(names[1], 96, 2)];
    let source = crate::open(made(&directory.path().join("source.gguf"), &[], &tensors));
    let mut written = 0;
    for &block in BlockType::ALL {
        let Some(importance) = importance_use(block) else { continue };
        let scheme = QuantizationScheme::Ggml(block);
        let out = directory.path().join(format!("{block}.gguf"));
        let ids: Vec<_> = source
            .ids()
            .filter(|&id| block.fitting(source.tensor(id).shape.row_len()).is_some())
            .collect();
        let mut plan = Plan::new(Rounding::default());
        for &id in &ids {
            let (calibration, scheme) =
                (Calibration::MinMax, scheme.fitted_to(&source.tensor(id).shape));
            plan.mark(id, Quantizer { calibration, scheme });
        }
        let task = Task::Quantize { plan, format: OutputFormat::Gguf };
        let saved = crate::run(&source, &out, task);
        if importance == ImportanceUse::Required {
            let why = saved.map(|_| ()).expect_err("no importance").to_string();
            assert!(why.contains("importance"), "{why}");
            continue;
        }
        let (file, receipt) = saved.expect("saves");
        assert_eq!(receipt.quantized.len(), ids.len(), "{block}");
        for (id, tensor) in ids.iter().zip(&tensors) {
            let shape = &source.tensor(*id).shape;
            let stored = block.fitting(shape.row_len()).expect("fits");
            let id = file.find(&tensor.0).expect("there");
            assert_eq!(file.tensor(id).dtype.name(), stored.name());
            let x: Vec<f32> =
                tensor.3.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect();
            let mut expected = Vec::new();
            let row = shape.row_len() as usize;
            quantize_rows(stored, &x, row, None, &mut expected).expect("quantizes");
            assert!(bytes(&file, &tensor.0) == expected, "{block}");
        }
        verify::run(&file, &source, None, &Progress::default()).expect("is what the source gives");
        written += 1;
    }
    assert_eq!(written, 22);
}

/// The expected types are those of `llama_model_quantize` in llama.cpp with ggml 0.25.1; see
/// `tests/interop/check_ggml.py`.
#[test]
fn mixes_give_the_types_of_llama_cpp() {
    let directory = tempfile::tempdir().expect("temp");
    let mut tensors = vec![wave("token_embd.weight", 256, 2), wave("output.weight", 256, 2)];
    for layer in 0..8 {
        for part in ["attn_q", "attn_v", "attn_output", "ffn_up", "ffn_down", "ffn_norm"] {
            tensors.push(wave(&format!("blk.{layer}.{part}.weight"), 256, 2));
        }
    }
    tensors.push(wave("blk.0.ffn_gate_inp.weight", 256, 2));
    let numbers = [
        ("llama.block_count", 8),
        ("llama.attention.head_count", 8),
        ("llama.attention.head_count_kv", 2),
    ];
    let source = crate::open(made(&directory.path().join("source.gguf"), &numbers, &tensors));
    for (mix, file_type, base, larger, larger_in) in [
        (
            "Q4_K_M",
            "15",
            "Q4_K",
            "Q6_K",
            &[(0, "v"), (0, "d"), (3, "v"), (3, "d"), (6, "v"), (6, "d"), (7, "v"), (7, "d")][..],
        ),
        (
            "Q5_K_M",
            "17",
            "Q5_K",
            "Q6_K",
            &[(0, "v"), (0, "d"), (3, "v"), (3, "d"), (6, "v"), (6, "d"), (7, "v"), (7, "d")],
        ),
        ("Q4_K_S", "14", "Q4_K", "Q5_K", &[(0, "v"), (1, "v"), (2, "v"), (3, "v"), (0, "d")]),
        ("Q6_K", "18", "Q6_K", "Q6_K", &[]),
    ] {
        let parsed: GgufMix = mix.parse().expect(mix);
        let types = parsed.types(&source, false);
        assert_eq!(types.len(), 2 + 8 * 5, "{mix}");
        let mut plan = Plan::new(Rounding::default());
        for (id, block) in types {
            let name = source.tensor(id).name.as_str();
            let part = |(layer, part): &(u32, &str)| {
                let full = if *part == "v" { "attn_v" } else { "ffn_down" };
                name == format!("blk.{layer}.{full}.weight")
            };
            let expected = match name {
                "output.weight" => "Q6_K",
                _ if larger_in.iter().any(part) => larger,
                _ => base,
            };
            assert_eq!(block.name(), expected, "{name} in {mix}");
            plan.mark(
                id,
                Quantizer {
                    calibration: Calibration::MinMax,
                    scheme: QuantizationScheme::Ggml(block),
                },
            );
        }
        let out = directory.path().join(format!("{mix}.gguf"));
        let task = Task::Quantize { plan, format: OutputFormat::Gguf };
        let file = crate::run(&source, &out, task).expect("saves").0;
        let metadata = &file.shards()[0].metadata;
        assert!(metadata.iter().any(|(k, v)| k == "general.file_type" && v == file_type), "{mix}");
        assert!(types_of(&file).contains(&("blk.0.ffn_norm.weight", "F32")));
        assert!(types_of(&file).contains(&("blk.0.ffn_gate_inp.weight", "F32")));
    }
}

/// The type number of Q4_0_4_4, which ggml has removed.
const REMOVED_TYPE: u32 = 31;

#[test]
fn an_unknown_block_type_is_named_with_its_size() {
    let directory = tempfile::tempdir().expect("temp");
    let file = crate::open(with_one_tensor(directory.path(), REMOVED_TYPE, &[0; 36]));
    let id = file.find("w.weight").expect("listed");
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

/// Metadata, offsets, padding and blocks equal those of the file that gguf-py writes.
#[test]
fn q8_0_is_written_byte_for_byte_like_gguf_py() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open("floats.gguf");
    let out = directory.path().join("out.gguf");
    let receipt = quantize(&source, &out, QuantizationScheme::per_block(32), OutputFormat::Gguf);
    assert_eq!(receipt.quantized.len(), 3);
    assert!(receipt.quantized.iter().all(|q| q.on_disk.sqnr_db > 35.0), "{receipt:?}");
    // Warnings name only marked tensors that cannot be quantized.
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

/// A file without the keys that describe its tensor types gets them.
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

/// Tensors that ggml cannot have are rows with a reason. Floats are saved without them; a GGUF
/// would be incomplete.
#[test]
fn impossible_tensors_leave_the_others_as_they_are() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    let odd = ("odd.weight".to_owned(), vec![48, 2], 8, vec![0; 102]);
    let many = ("many.weight".to_owned(), vec![2, 1, 2, 1, 2], 0, vec![0; 32]);
    let source = made(&path("m.gguf"), &[], &[wave("w.weight", 32, 2), odd, many]);
    let source = crate::open(source);
    let why = |name: &str| source.unreadable(source.find(name).expect("listed"));
    assert_eq!(why("w.weight"), None);
    assert!(why("odd.weight").is_some_and(|why| why.contains("not a multiple of the 32")));
    assert!(why("many.weight").is_some_and(|why| why.contains("5 dimensions")));
    let block = QuantizationScheme::per_block(32);
    let found = refusal(&source, &path("a.gguf"), block, OutputFormat::Gguf);
    assert!(found.contains("'odd.weight' cannot be written: its rows have 48"), "{found}");
    let task = Task::Dequantize { to: None };
    let (plain, receipt) = crate::run(&source, &path("a.safetensors"), task).expect("saves");
    assert_eq!(types_of(&plain), [("w.weight", "F32")]);
    let warned = receipt.warnings.join("\n");
    assert!(warned.contains("left out 2 tensors, first 'odd.weight'"), "{warned}");
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
    // A block type that is not decoded cannot be dequantized.
    let task = Task::Dequantize { to: None };
    let removed = crate::open(with_one_tensor(directory.path(), REMOVED_TYPE, &[0; 36]));
    let found = crate::run(&removed, &path("b.safetensors"), task);
    let found = found.map(|_| ()).expect_err("refused").to_string();
    assert!(found.contains("'w.weight' has type Q4_0_4_4"), "{found}");
}
