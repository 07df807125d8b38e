use crate::{assert_same, open, quantize, run};
use quantscope::checkpoint::Format;
use quantscope::export::{OutputFormat, Task};
use quantscope::quantization::QuantizationScheme;
use std::path::Path;

const DATA: &str = "tests/data/pytorch";

#[test]
fn both_of_pytorchs_formats_give_every_tensor_its_elements() {
    let expected = open(Path::new(DATA).join("expected.safetensors"));
    for name in ["zip.pt", "legacy.pt"] {
        let found = open(Path::new(DATA).join(name));
        assert_eq!(found.format(), Format::PyTorch);
        assert_eq!(found.tensors().len(), expected.tensors().len());
        assert_same(&found, &expected);
        // In the order of the model, not of the names.
        assert_eq!(found.tensors()[0].name, "embed.weight");
        // What shares a storage is said.
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

/// Every kind of file that PyTorch has written, and kinds that others have, gives the rows
/// and values that torch.load gives.
#[test]
fn files_of_every_kind_give_their_rows() {
    assert!(crate::cases::check(&Path::new(DATA).join("cases")) > 150);
}

#[test]
fn code_in_a_pickle_is_not_run() {
    let found = open(Path::new(DATA).join("code.pt"));
    assert!(found.tensors().iter().all(|tensor| !tensor.name.contains("system")));
}

#[test]
fn views_are_materialised_on_the_way_to_safetensors() {
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
fn shards_are_found_by_their_index_and_named_anew() {
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
