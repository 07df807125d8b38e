use crate::{assert_same, open, quantize, run};
use quantscope::checkpoint::{Checkpoint, Format};
use quantscope::export::{OutputFormat, Task};
use quantscope::plan::{Obstacle, obstacle};
use quantscope::quantization::QuantizationScheme;
use quantscope::tensor::read_f64;
use std::path::Path;

const DATA: &str = "tests/data/pytorch";

#[test]
fn both_pytorch_formats_give_the_same_elements() {
    let expected = open(Path::new(DATA).join("expected.safetensors"));
    for name in ["zip.pt", "legacy.pt"] {
        let found = open(Path::new(DATA).join(name));
        assert_eq!(found.format(), Format::PyTorch);
        assert_eq!(found.tensors().len(), expected.tensors().len());
        assert_same(&found, &expected);
        // Tensors are in the order of the model, not sorted by name.
        assert_eq!(found.tensors()[0].name, "embed.weight");
        // The metadata names tensors that share a storage.
        let shared: Vec<_> = found.shards()[0].metadata.iter().map(|(_, v)| v.as_str()).collect();
        let all = "embed.weight, head.weight, head.transposed, head.slice, head.step";
        assert_eq!(shared, [all]);
    }
}

#[test]
fn the_state_dict_of_a_training_checkpoint_is_its_model() {
    let found = open(Path::new(DATA).join("wrapped.pt"));
    let names: Vec<_> = found.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b.c"]);
}

/// All file layouts of PyTorch and other writers give the tensors and values of torch.load.
#[test]
fn files_of_every_kind_list_their_tensors() {
    assert!(crate::cases::check(&Path::new(DATA).join("cases")) > 150);
}

/// A distributed checkpoint equals the result of dcp_to_torch_save, opened by its directory or by
/// any of its files.
#[test]
fn distributed_checkpoints_list_their_tensors() {
    let directory = Path::new(DATA).join("distributed");
    assert!(crate::cases::check(&directory) >= 12);
    let whole = open(directory.join("two-ranks"));
    for file in [".metadata", "__1_0.distcp"] {
        assert_same(&open(directory.join("two-ranks").join(file)), &whole);
    }
    // A tensor whose columns are in two files is read correctly in any range.
    let all = crate::bytes(&whole, "model.columns");
    let (id, _) = whole.all_stored().find(|(_, s)| s.name == "model.columns").expect("is there");
    let mut reader = whole.reader();
    for start in 0..all.len() as u64 {
        let range = start..(start + 13).min(all.len() as u64);
        let expected = &all[range.start as usize..range.end as usize];
        assert_eq!(reader.stored(id, range).expect("reads"), expected);
    }
    let outside = crate::not_opened(directory.join("path-leads-outside"));
    assert!(outside.contains("outside the checkpoint's directory"), "{outside}");
}

/// Files from public bug reports: every tensor is listed, with its first value or the reason why
/// it cannot be read.
#[test]
fn files_of_public_reports_open() {
    let first = |found: &Checkpoint, name: &str| match found.find(name) {
        None => panic!("no '{name}' among {:?}", found.tensors()),
        Some(id) => match found.unreadable(id) {
            Some(why) => why.to_owned(),
            None if found.float_type(id).is_none() => format!("of {}", found.tensor(id).dtype),
            None => {
                let mut reader = found.reader();
                let (float, bytes) = reader.elements(id, 0..1).expect("reads").expect("floats");
                format!("{:.4}", read_f64(float, bytes, 0).expect("a value"))
            }
        },
    };
    for (file, rows) in [
        ("af_voice.pt", &[("af_voice", "-2.2013")][..]),
        (
            "keys.pt",
            &[
                ("('layer', 0)", "-1.6946"),
                ("0.5", "-0.8419"),
                ("None", "-0.8419"),
                ("plain", "-0.8419"),
            ],
        ),
        ("neg.pt", &[("neg", "0.1707"), ("ref", "0.1707")]),
        ("complex32.pt", &[("w", "-1.6946"), ("h", "of C32")]),
        ("dotted_collision.pt", &[("a.b", "-1.6946"), ("a.b (2)", "-0.8419")]),
        ("expanded.pt", &[("w", "-1.6946"), ("mask", "0.0000")]),
        ("sparse.pt", &[("w", "-1.6946"), ("adj", "it is a sparse tensor (sparse_coo)")]),
        ("protocol-0.pt", &[("w", "-1.6946")]),
        ("expanded-view.pt", &[("w", "0.0000"), ("mask", "1.0000")]),
        ("negative-bit.pt", &[("w", "-0.0000")]),
        ("training-state.pt", &[("w", "0.0000"), ("optimizer.state.0.exp_avg", "0.0000")]),
        ("pl_hparams.ckpt", &[("model.diffusion_model.in.weight", "-1.6946")]),
        (
            "torchao-fp8.pt",
            &[
                ("0.weight", "of the class torchao.quantization.Float8Tensor"),
                ("0.weight.qdata", "of F8_E4M3"),
                ("0.weight.scale", "0.00"),
                ("0.bias", "0."),
                ("1.weight", "of the class torchao.quantization.Float8Tensor"),
                ("1.weight.qdata", "of F8_E4M3"),
                ("1.weight.scale", "0.00"),
                ("1.bias", "0."),
            ],
        ),
        ("distcp-one-of-five", &[("t0", ""), ("t1", ""), ("t2", ""), ("t3", ""), ("t4", "")]),
        ("distcp-one-of-five/__0_0.distcp", &[("t0", ""), ("t4", "")]),
    ] {
        let found = open(Path::new(DATA).join("reading").join(file));
        if !file.ends_with(".distcp") {
            assert_eq!(found.tensors().len(), rows.len(), "{file}: {:?}", found.tensors());
        }
        for (name, value) in rows {
            assert!(first(&found, name).contains(value), "{file}: {}", first(&found, name));
        }
    }
    let diffusion = open(Path::new(DATA).join("reading/sd_pl14.ckpt"));
    assert!(diffusion.tensors().iter().any(|t| t.name.starts_with("model.diffusion_model.")));
    // The parts of a tensor subclass are not weights.
    let in_parts = open(Path::new(DATA).join("reading/torchao-fp8.pt"));
    for part in ["0.weight.qdata", "0.weight.scale"] {
        let id = in_parts.find(part).expect("is there");
        assert_eq!(obstacle(&in_parts, id), Some(Obstacle::PartOfTensor), "{part}");
    }
    // An expanded view repeats its elements, so it is not quantized.
    let expanded = open(Path::new(DATA).join("reading/expanded.pt"));
    let mask = expanded.find("mask").expect("is there");
    assert_eq!(obstacle(&expanded, mask), Some(Obstacle::Expanded));
}

/// Only the network of a training checkpoint is saved. A warning counts the other tensors.
#[test]
fn only_the_network_is_saved() {
    let directory = tempfile::tempdir().expect("temp");
    let saved = |file: &str, expected: &[&str], warnings: &[&str]| {
        let source = open(Path::new(DATA).join(file));
        let name = file.replace('/', "-");
        let out = directory.path().join(format!("{name}.safetensors"));
        let receipt =
            quantize(&source, &out, QuantizationScheme::PER_TENSOR, OutputFormat::Safetensors);
        let names: Vec<String> = open(&out).tensors().iter().map(|t| t.name.to_string()).collect();
        assert_eq!(names, expected, "{file}");
        for warning in warnings {
            let printed = receipt.warnings.iter().any(|w| w.contains(warning));
            assert!(printed, "{file}: {warning}: {:?}", receipt.warnings);
        }
    };
    saved(
        "reading/training-state.pt",
        &["w"],
        &["left out 'optimizer.state.0.exp_avg': it is optimizer state"],
    );
    saved("reading/sparse.pt", &["w"], &["left out 'adj': it is a sparse tensor"]);
    saved("reading/complex32.pt", &["w"], &["left out 'h': no output has the type C32"]);
    saved("reading/expanded.pt", &["w", "mask"], &[]);
    saved(
        "cases/lightning-2.ckpt",
        &["model.fc.weight", "model.fc.bias"],
        &["left out 6 tensors, first 'optimizer_states.0.state.0.step'", "left out 2 tensors"],
    );
    let whole = open(Path::new(DATA).join("reading/training-state.pt")).keeping_training_state();
    let out = directory.path().join("whole.safetensors");
    let receipt = quantize(&whole, &out, QuantizationScheme::PER_TENSOR, OutputFormat::Safetensors);
    let left_out = receipt.warnings.iter().any(|warning| warning.contains("left out"));
    assert!(!left_out, "{:?}", receipt.warnings);
    let saved = open(&out);
    let state = "optimizer.state.0.exp_avg";
    assert_eq!(saved.tensors().iter().map(|t| &*t.name).collect::<Vec<_>>(), ["w", state]);
    assert_eq!(crate::bytes(&saved, state), crate::bytes(&whole, state));
    let state = open(Path::new(DATA).join("cases/hf-trainer-optimizer.pt"));
    let out = directory.path().join("state.safetensors");
    let refused =
        run(&state, &out, Task::Dequantize { to: None }).map(|_| ()).expect_err("refused");
    assert!(refused.to_string().contains("no tensor to save"), "{refused}");
}

#[test]
fn code_in_a_pickle_is_not_run() {
    let found = open(Path::new(DATA).join("code.pt"));
    let names: Vec<_> = found.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["weight"]);
}

#[test]
fn views_are_written_as_contiguous_tensors() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(Path::new(DATA).join("zip.pt"));
    let out = directory.path().join("floats.safetensors");
    let (out, receipt) = run(&source, &out, Task::Dequantize { to: None }).expect("converts");
    assert_same(&out, &source);
    assert!(receipt.warnings.iter().any(|w| w.contains("share")), "{:?}", receipt.warnings);
    let out = directory.path().join("int8.safetensors");
    quantize(&source, &out, QuantizationScheme::per_block(4), OutputFormat::Safetensors);
}

#[test]
fn shards_are_found_by_their_index_and_renamed() {
    let directory = tempfile::tempdir().expect("temp");
    let source = open(Path::new(DATA).join("sharded"));
    assert_eq!((source.shards().len(), source.tensors().len()), (2, 3));
    let out = directory.path().join("out");
    let (out, _) = run(&source, &out, Task::Dequantize { to: None }).expect("converts");
    assert_same(&out, &source);
    let mut names: Vec<_> = std::fs::read_dir(out.path())
        .expect("lists")
        .map(|e| e.expect("entry").file_name().into_string().expect("utf-8"))
        .collect();
    names.sort();
    let shard = |n| format!("model-0000{n}-of-00002.safetensors");
    assert_eq!(names, [shard(1), shard(2), "model.safetensors.index.json".into()]);
}
