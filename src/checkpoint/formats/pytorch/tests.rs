use crate::checkpoint::formats::pytorch::read;
use crate::checkpoint::io::source::Source;
use crate::checkpoint::stored::Stored;
use crate::tensor::DType;
use proptest::prelude::*;

fn pickled(ops: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x80, 2];
    ops.iter().for_each(|op| bytes.extend_from_slice(op));
    bytes.push(b'.');
    bytes
}

fn opened(ops: &[&[u8]]) -> Result<Vec<Stored>, String> {
    let source = Source::memory("m.pt", pickled(ops).leak());
    read(&source).map(|contents| contents.stored).map_err(|error| error.to_string())
}

fn refusal(ops: &[&[u8]]) -> String {
    opened(ops).expect_err("refused")
}

/// A call with any name is a value and is not run; a tensor beside it is listed.
#[test]
fn code_in_a_pickle_is_not_run() {
    for ops in [
        &[&b"cposix\nsystem\n"[..], b"X\x04\0\0\0true", b"\x85R"][..],
        &[b"cbuiltins\neval\n"],
        &[b"\x8c\x08builtins\x8c\x04exec\x93"],
        &[b"ctorch\nload\n"],
        &[b"c__torch__.model\nNet\n"],
        &[b"cnumpy\nload\n"],
    ] {
        let tensor = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat16\nK\x03\x85K\x01\x85\x89tR";
        let mut list: Vec<&[u8]> = vec![b"("];
        list.extend(ops);
        list.extend([&tensor[..], b"l"]);
        let found = opened(&list).expect("opens");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), &found[0].dtype), ("1", &DType::F16));
        assert!(found[0].unreadable().is_some_and(|why| why.contains("meta tensor")));
    }
}

#[test]
fn invalid_files_are_refused_with_the_reason() {
    for (ops, sentence) in [
        (&[&b"R"[..]][..], "empty stack"),
        (&[b"NR"], "empty stack"),
        (&[b"NNR"], "without a tuple"),
        (&[b"t"], "no mark"),
        (&[b"(00t"], "empty stack"),
        (&[b"NN(000t"], "no mark"),
        (&[b"h\x05"], "not in its memo"),
        (&[b"NNa"], "not a list"),
        (&[b"NNNs"], "not a dictionary"),
        (&[b"2"], "empty stack"),
        (&[b"NN\x93"], "not text"),
        (&[b"\x99"], "instruction 0x99"),
        (&[b"X\xff\xff\xff\xff"], "cut off"),
        (&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"], "cut off"),
        (&[b"Inan\n"], "an invalid number"),
        (&[b"Sabc\n"], "without quotes"),
    ] {
        let found = refusal(ops);
        assert!(found.contains(sentence), "{ops:?}: {found}");
    }
}

/// An invalid argument of a tensor is reported as that tensor's reason.
#[test]
fn a_tensor_with_invalid_arguments_is_listed() {
    let found = opened(&[b"ctorch._utils\n_rebuild_tensor_v2\n)R"]).expect("opens");
    assert_eq!(found[0].name, "m");
    assert!(found[0].unreadable().is_some_and(|why| why.contains("arguments")));
}

#[test]
fn pickles_without_tensors_open() {
    for ops in [&[&b"N"[..]][..], &[b"N)R"], &[b"]q\0h\0a"], &[b"}"], &[b"(I01\nF1.5\nL12L\nl"]] {
        assert_eq!(opened(ops).map(|found| found.len()), Ok(0), "{ops:?}");
    }
}

/// Nested lists that each contain the previous one twice have exponentially many paths: each tensor
/// is listed once, with a note that there are more.
#[test]
fn exponentially_many_paths_are_listed_once() {
    let tensor = b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat16\nK\x03\x85K\x01\x85\x89tR";
    let mut ops: Vec<Vec<u8>> = vec![[b"]", &tensor[..], b"aq\0"].concat()];
    for n in 0..60u8 {
        ops.push([&b"](h"[..], &[n], b"h", &[n], b"eq", &[n + 1]].concat());
    }
    let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
    let source = Source::memory("m.pt", pickled(&ops).leak());
    let contents = read(&source).expect("opens");
    assert_eq!(contents.stored.len(), 1);
    assert!(contents.notes[0].contains("left out"));
}

const FILES: [&[u8]; 2] = [
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pytorch/zip.pt")),
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pytorch/legacy.pt")),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// However a real file is changed, reading it returns an error or tensors that lie inside the
    /// file.
    #[test]
    fn a_mutated_file_is_read_or_refused(
        file in 0usize..FILES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = FILES[file].to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()).max(8));
        }
        let length = bytes.len() as u64;
        if let Ok(contents) = read(&Source::memory("m.pt", bytes.leak())) {
            for tensor in contents.stored {
                prop_assert!(tensor.range.start <= tensor.range.end);
                prop_assert!(tensor.range.end <= length);
            }
        }
    }
}
