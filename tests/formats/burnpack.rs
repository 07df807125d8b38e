use crate::{bytes, floats, not_opened, open, quantize, refusal, run, task};
use proptest::prelude::*;
use quantscope::checkpoint::{Checkpoint, Format};
use quantscope::export::{OutputFormat, Task, WeightLayout};
use quantscope::job::{Progress, verify};
use quantscope::quantization::QuantizationScheme;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const SOURCE: &str = "tests/data/tiny-llama/sharded";
const BURN: OutputFormat = OutputFormat::Burn(WeightLayout::Source);
const TURNED: OutputFormat = OutputFormat::Burn(WeightLayout::Burn);

fn saved(directory: &Path, scheme: QuantizationScheme, format: OutputFormat) -> PathBuf {
    let out = directory.join(format!("{scheme}{format:?}.bpk"));
    quantize(&open(SOURCE), &out, scheme, format);
    out
}

/// The int8 values and scales equal those of the safetensors output.
#[test]
fn burnpack_output_equals_safetensors_output() {
    let directory = tempfile::tempdir().expect("temp");
    for scheme in [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)] {
        let burn = open(saved(directory.path(), scheme, BURN));
        assert_eq!(burn.format(), Format::Burnpack);
        let native = directory.path().join(format!("{scheme}.safetensors"));
        quantize(&open(SOURCE), &native, scheme, OutputFormat::Safetensors);
        let native = open(native);
        assert_eq!(burn.tensors().len(), native.tensors().len());
        for tensor in native.tensors() {
            assert_eq!(bytes(&burn, &tensor.name), bytes(&native, &tensor.name), "{}", tensor.name);
            let id = burn.find(&tensor.name).expect("is there");
            assert_eq!(burn.tensor(id).shape, tensor.shape);
            if let Some(layout) = burn.packed_format(id) {
                assert_eq!(layout.name(), format!("burn int8 {scheme}"));
                let scale = format!("{}_scale", tensor.name);
                assert_eq!(bytes(&burn, &scale), bytes(&native, &scale));
            }
        }
    }
}

#[test]
fn every_tensor_starts_on_its_boundary() {
    let directory = tempfile::tempdir().expect("temp");
    let out = open(saved(directory.path(), QuantizationScheme::PER_TENSOR, BURN));
    for (_, stored) in out.all_stored().filter(|(_, s)| !s.name.ends_with("_scale")) {
        assert!(stored.range.start.is_multiple_of(256), "{}", stored.name);
    }
}

#[test]
fn the_burn_layout_transposes_linear_weights() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SOURCE);
    for scheme in [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(16)] {
        let out = open(saved(directory.path(), scheme, TURNED));
        let name = "model.layers.0.mlp.up_proj.weight";
        let (a, b) = (out.find(name).expect("is there"), source.find(name).expect("is there"));
        let mut dims = source.tensor(b).shape.dims().to_vec();
        dims.reverse();
        assert_eq!(out.tensor(a).shape.dims(), dims);
        // An embedding is not transposed.
        let name = "model.embed_tokens.weight";
        let (a, b) = (out.find(name).expect("is there"), source.find(name).expect("is there"));
        assert_eq!(out.tensor(a).shape, source.tensor(b).shape);
    }
    // With one scale per tensor, transposing does not change the values.
    let values = |format| {
        let out = open(directory.path().join(format!("per-tensor{format:?}.bpk")));
        let id = out.find("model.layers.1.mlp.down_proj.weight").expect("is there");
        (out.tensor(id).shape.clone(), floats(&out, "model.layers.1.mlp.down_proj.weight"))
    };
    saved(directory.path(), QuantizationScheme::PER_TENSOR, BURN);
    let ((shape, plain), (_, turned)) = (values(BURN), values(TURNED));
    let &[rows, columns] = shape.dims() else { panic!("{shape}") };
    for (i, j) in [(0, 0), (1, 0), (0, 1), (rows - 1, columns - 1), (5, 7)] {
        let at = |n: u64| n as usize * 4..n as usize * 4 + 4;
        assert_eq!(plain[at(i * columns + j)], turned[at(j * rows + i)]);
    }
}

/// Linear weights are transposed even if they are not marked.
#[test]
fn unmarked_weights_are_transposed_and_verified() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SOURCE);
    let Task::Quantize { mut plan, .. } = task(&source, QuantizationScheme::PER_TENSOR, TURNED)
    else {
        return;
    };
    let name = "model.layers.0.mlp.up_proj.weight";
    plan.unmark(source.find(name).expect("is there"));
    let out = directory.path().join("out.bpk");
    let task = Task::Quantize { plan, format: TURNED };
    let (saved, _) = run(&source, &out, task).expect("saves");
    let id = saved.find(name).expect("is there");
    assert!(saved.packed_format(id).is_none());
    assert_eq!(&saved.tensor(id).dtype, &source.tensor(source.find(name).expect("is")).dtype);
    assert_ne!(bytes(&saved, name), bytes(&source, name));
}

#[test]
fn any_flipped_byte_of_the_data_is_found() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SOURCE);
    for (scheme, format) in
        [(QuantizationScheme::PER_TENSOR, BURN), (QuantizationScheme::per_block(32), TURNED)]
    {
        let out = saved(directory.path(), scheme, format);
        let whole = std::fs::read(&out).expect("reads");
        for (_, stored) in open(&out).all_stored() {
            for at in [stored.range.start, stored.range.end - 1] {
                let mut flipped = whole.clone();
                flipped[at as usize] ^= 1;
                std::fs::write(&out, flipped).expect("writes");
                let error = verify::run(&open(&out), &source, None, &Progress::default());
                let error = error.expect_err("a flipped byte").to_string();
                assert!(error.contains(stored.name.trim_end_matches("_scale")), "{error}");
            }
        }
    }
}

#[test]
fn burnpack_output_is_dequantized() {
    let directory = tempfile::tempdir().expect("temp");
    let burn = open(saved(directory.path(), QuantizationScheme::PER_TENSOR, BURN));
    let out = directory.path().join("floats.safetensors");
    let (out, receipt) = run(&burn, &out, Task::Dequantize { to: None }).expect("saves");
    assert_eq!(receipt.dequantized, 15);
    let source = open(SOURCE);
    for id in source.ids() {
        let found = out.find(&source.tensor(id).name).expect("is there");
        assert_eq!(out.tensor(found).dtype, source.tensor(id).dtype);
    }
}

#[test]
fn unsupported_schemes_of_burn_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(SOURCE);
    for (scheme, sentence) in [
        (QuantizationScheme::PER_CHANNEL, "Burn has per-tensor scales and blocks"),
        (QuantizationScheme::per_block(256), "does not divide"),
        (QuantizationScheme::per_block(48), "does not divide"),
        (QuantizationScheme::per_block(1), "blocks of 2 to 255"),
    ] {
        let found = refusal(&source, &directory.path().join("a.bpk"), scheme, BURN);
        assert!(found.contains(sentence), "{found}");
    }
    let scheme = QuantizationScheme::PER_TENSOR;
    assert!(refusal(&source, &directory.path().join("a"), scheme, BURN).contains(".bpk"));
}

#[test]
fn invalid_burnpack_files_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("temp");
    let out = saved(directory.path(), QuantizationScheme::PER_TENSOR, BURN);
    let whole = std::fs::read(&out).expect("reads");
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let path = directory.path().join("lie.bpk");
        std::fs::write(&path, bytes).expect("writes");
        not_opened(path)
    };
    assert!(refused(&|b| b[4] = 2).contains("version is 2"));
    assert!(refused(&|b| b[6..10].fill(0xff)).contains("cut off"));
    assert!(refused(&|b| b[10] = 0xff).contains("CBOR"));
    assert!(refused(&|b| b.truncate(b.len() - 1)).contains("cut off"));
    // Replaces `F32` with a type that Burn does not have, and `U8` with one of another size.
    let replace = |from: &[u8], to: &[u8], bytes: &mut Vec<u8>| {
        let at = bytes.windows(from.len()).position(|w| w == from).expect("is there");
        bytes[at..at + to.len()].copy_from_slice(to);
    };
    assert!(refused(&|b| replace(b"edtypedBF16", b"edtypedBF17", b)).contains("BF17"));
    assert!(refused(&|b| replace(b"edtypedBF16", b"edtypecF32E", b)).contains("CBOR"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Any change in the head of a real file gives an error, or tensors inside the file.
    #[test]
    fn a_mutated_file_is_read_or_refused(
        edits in prop::collection::vec((0usize..3000, any::<u8>()), 1..6),
    ) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let directory = tempfile::tempdir().expect("temp");
        let whole = WHOLE.get_or_init(|| {
            let out = saved(directory.path(), QuantizationScheme::per_block(32), BURN);
            std::fs::read(out).expect("reads")
        });
        let mut bytes = whole.clone();
        let out = directory.path().join("mutated.bpk");
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        let length = bytes.len() as u64;
        std::fs::write(&out, bytes).expect("writes");
        if let Ok(found) = Checkpoint::open(&out) {
            for (_, stored) in found.all_stored() {
                prop_assert!(stored.range.start <= stored.range.end && stored.range.end <= length);
            }
        }
    }
}
