use crate::checkpoint::formats::pytorch::*;
use proptest::prelude::*;

fn pickled(ops: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x80, 2];
    ops.iter().for_each(|op| bytes.extend_from_slice(op));
    bytes.push(b'.');
    bytes
}

fn refusal(ops: &[&[u8]]) -> String {
    let source = Source::memory("m.pt", pickled(ops).leak());
    let mut cursor = Cursor::new(&source, 0, 1 << 20).expect("opens");
    let found = Pickle::read(&mut cursor, source.path()).and_then(|p| p.tensors(source.path()));
    found.expect_err("refused").to_string()
}

#[test]
fn code_in_a_pickle_is_named_and_not_run() {
    for (ops, named) in [
        (&[&b"cposix\nsystem\n"[..], b"X\x04\0\0\0true", b"\x85R"][..], "'posix.system'"),
        (&[b"cbuiltins\neval\n"], "'builtins.eval'"),
        (&[b"\x8c\x08builtins\x8c\x04exec\x93"], "'builtins.exec'"),
        (&[b"ctorch\nload\n"], "'torch.load'"),
        (&[b"ctorch.storage\n_load_from_bytes\n"], "'torch.storage._load_from_bytes'"),
        (&[b"c__torch__.model\nNet\n"], "'__torch__.model.Net'"),
        (&[b"cnumpy\nload\n"], "'numpy.load'"),
    ] {
        let found = refusal(ops);
        assert!(found.contains(named) && found.contains("not run"), "{found}");
    }
}

#[test]
fn every_lie_has_its_sentence() {
    for (ops, sentence) in [
        (&[&b"R"[..]][..], "that is not there"),
        (&[b"NR"], "that is not there"),
        (&[b"NNR"], "without a tuple"),
        (&[b"N)R"], "no known class"),
        (&[b"t"], "no mark"),
        (&[b"(0t"], "that is not there"),
        (&[b"NN(00t"], "no mark"),
        (&[b"h\x05"], "has not made"),
        (&[b"NNa"], "no list"),
        (&[b"NNNs"], "no dictionary"),
        (&[b"2"], "empty stack"),
        (&[b"NN\x93"], "not text"),
        (&[b"\x99"], "instruction 0x99"),
        (&[b"X\xff\xff\xff\xff"], "cut off"),
        (&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"], "cut off"),
        (&[b"N"], "no tensors"),
        (&[b"ctorch._utils\n_rebuild_tensor_v2\n)R"], "not known"),
        // A list that holds itself.
        (&[b"]q\0h\0a"], "too deep"),
    ] {
        let found = refusal(ops);
        assert!(found.contains(sentence), "{ops:?}: {found}");
    }
}

/// Lists that each hold the one before twice stand for more than any machine can hold.
#[test]
fn what_grows_without_bound_is_refused() {
    let mut ops: Vec<Vec<u8>> = vec![b"]q\0".to_vec()];
    for n in 0..60u8 {
        ops.push([&b"](h"[..], &[n], b"h", &[n], b"eq", &[n + 1]].concat());
    }
    let ops: Vec<&[u8]> = ops.iter().map(Vec::as_slice).collect();
    assert!(refusal(&ops).contains("too much"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever is done to a real file, reading it ends, in a sentence or in tensors that
    /// lie inside it.
    #[test]
    fn a_mutated_file_is_read_or_refused(
        file in 0usize..2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = [
            &include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pytorch/zip.pt"))[..],
            &include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pytorch/legacy.pt"))[..],
        ];
        let mut bytes = files[file].to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()).max(8));
        }
        let length = bytes.len() as u64;
        if let Ok((_, stored)) = read(&Source::memory("m.pt", bytes.leak())) {
            for tensor in stored {
                prop_assert!(tensor.range.start <= tensor.range.end);
                prop_assert!(tensor.range.end <= length);
            }
        }
    }
}
