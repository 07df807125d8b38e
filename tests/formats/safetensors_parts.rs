//! Safetensors files of several ranks of `torch.distributed.checkpoint`, each with parts of
//! tensors. Made by `tests/interop/fixtures/make_distributed_safetensors.py`.

use super::{assert_same, bytes, open, quantize};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::OutputFormat;
use quantscope::quantization::QuantizationScheme;
use std::path::{Path, PathBuf};

const DATA: &str = "tests/data/safetensors_parts";

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

/// Copies the files of a fixture that `keep` selects into a new directory.
fn copied(fixture: &str, keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("temp");
    for entry in std::fs::read_dir(path(fixture)).expect("lists") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        if keep(&name) {
            std::fs::copy(entry.path(), directory.path().join(name)).expect("copies");
        }
    }
    directory
}

fn unreadable<'c>(checkpoint: &'c Checkpoint, name: &str) -> Option<&'c str> {
    checkpoint.unreadable(checkpoint.find(name).unwrap_or_else(|| panic!("no '{name}'")))
}

#[test]
fn parts_are_joined_into_their_tensors() {
    let expected = open(path("expected.safetensors"));
    for fixture in ["one-file", "two-files"] {
        let found = open(path(fixture));
        assert_eq!(found.tensors().len(), expected.tensors().len());
        assert_same(&found, &expected);
        let notes = found.notes().join("\n");
        assert!(notes.contains("torch.distributed.checkpoint"), "{notes}");
        // Opening any of the files opens all of them.
        let one = "shard-00002-model-00001-of-0000";
        let one = found.shards().iter().find(|shard| shard.name().starts_with(one)).expect("one");
        assert_same(&open(one.source.path()), &expected);
        // A tensor whose columns are in two files is read correctly in any range.
        let all = bytes(&expected, "model.columns.weight");
        let (id, _) =
            found.all_stored().find(|(_, s)| s.name == "model.columns.weight").expect("is there");
        let mut reader = found.reader();
        for start in 0..all.len() as u64 {
            let range = start..(start + 13).min(all.len() as u64);
            let part = &all[range.start as usize..range.end as usize];
            assert_eq!(reader.stored(id, range).expect("reads"), part);
        }
    }
}

/// The output holds whole tensors and no metadata about parts.
#[test]
fn an_output_of_joined_tensors_is_an_ordinary_model() {
    let directory = tempfile::tempdir().expect("temp");
    for fixture in ["one-file", "two-files"] {
        let source = open(path(fixture));
        let out = directory.path().join(fixture);
        quantize(&source, &out, QuantizationScheme::PER_TENSOR, OutputFormat::FakeQuantized);
        let saved = open(&out);
        assert_eq!(saved.notes(), [] as [&str; 0]);
        let names = saved.shards().iter().map(|shard| shard.name());
        assert!(names.into_iter().all(|name| name.starts_with("model-")), "{fixture}");
        assert!(!saved.joins_parts());
        assert_same_shapes(&saved, &source);
        assert_eq!(bytes(&saved, "model.norm.weight"), bytes(&source, "model.norm.weight"));
    }
}

fn assert_same_shapes(found: &Checkpoint, expected: &Checkpoint) {
    for tensor in expected.tensors() {
        let id = found.find(&tensor.name).expect("is listed");
        assert_eq!(found.tensor(id).shape, tensor.shape);
    }
}

/// A tensor with a missing part is listed with the reason; the other tensors are read.
#[test]
fn missing_parts_are_noticed() {
    let first_missing = copied("one-file", |name| name.starts_with("shard-00002"));
    let found = open(first_missing.path());
    for name in ["model.rows.weight", "model.columns.weight", "model.three"] {
        let why = unreadable(&found, name).expect("a gap");
        assert!(why.contains("its parts do not cover it"), "{why}");
    }
    let whole = open(path("expected.safetensors"));
    assert_eq!(bytes(&found, "model.norm.weight"), bytes(&whole, "model.norm.weight"));
}

#[test]
fn offsets_that_cannot_be_read_leave_rows_without_elements() {
    let directory = copied("one-file", |_| true);
    let shard = directory.path().join("shard-00002-model-00001-of-00001.safetensors");
    let original = std::fs::read(&shard).expect("reads");
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let text = String::from_utf8_lossy(&original[..600]).into_owned();
        let at = text.find(from).expect("is there");
        let mut bytes = original.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&shard, bytes).expect("writes");
        open(directory.path())
    };
    let found = replaced("saved_offsets\\\": [5, 0]", "saved_offsets\\\": [5, a]");
    let why = unreadable(&found, "model.rows.weight").expect("no offsets");
    assert!(why.contains("DCP_SHARDING_INFO of 'shard-00002"), "{why}");
    let found = replaced("saved_offsets\\\": [5, 0]", "saved_offsets\\\": [4, 0]");
    let why = unreadable(&found, "model.rows.weight").expect("an overlap");
    assert!(why.contains("do not cover"), "{why}");
    assert_eq!(unreadable(&found, "model.columns.weight"), None);
    let found = replaced("{\\\"model.rows.weight\\\"", "{\\\"model.sows.weight\\\"");
    let why = unreadable(&found, "model.rows.weight").expect("no offsets");
    assert!(why.contains("does not name it"), "{why}");
}
