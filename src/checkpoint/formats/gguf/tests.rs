use crate::checkpoint::formats::gguf::*;
use proptest::prelude::*;

/// Builds a file value by value.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut bytes = self.u64(text.len() as u64);
        bytes.0.extend(text.as_bytes());
        bytes
    }

    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let rank = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(rank, |bytes, &dim| bytes.u64(dim)).u32(kind).u64(offset)
    }

    fn data(mut self, length: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + length, 0);
        self
    }

    fn read(self) -> Result<Header> {
        read(&Source::memory("m.gguf", self.0.leak()))
    }
}

fn header(version: u32, tensors: u64, keys: u64) -> Bytes {
    Bytes(MAGIC.to_vec()).u32(version).u64(tensors).u64(keys)
}

#[test]
fn tensors_and_values_are_listed() {
    let found = header(2, 2, 3)
        .text("general.alignment")
        .u32(4)
        .u32(64)
        .text("tokens")
        .u32(9)
        .u32(8)
        .u64(9)
        .text("a")
        .text("b\n")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("last")
        .text("general.file_type")
        .u32(4)
        .u32(1)
        .tensor("b", &[64, 2], 12, 0)
        .data(96)
        .read()
        .expect("valid");
    let why = found.stored[0].unreadable().expect("its rows are not a multiple of 256");
    assert_eq!(why, "its rows have 64 elements, not a multiple of the 256 in a block of Q4_K");

    let found = header(3, 3, 2)
        .text("tokens")
        .u32(9)
        .u32(8)
        .u64(9)
        .text("a")
        .text("b\n")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("")
        .text("last")
        .text("general.file_type")
        .u32(4)
        .u32(1)
        .tensor("late", &[3, 2], 0, 160)
        .tensor("early", &[256, 2], 12 + 1000, 0)
        .tensor("scalar", &[], 30, 128)
        .data(192)
        .read()
        .expect("valid");
    assert_eq!(found.metadata[0].1, r#"["a", "b\n", "", "", "", "", "", "", …] (9 strings)"#);
    assert_eq!(found.metadata[1].1, "1");
    let listed: Vec<_> = found
        .stored
        .iter()
        .map(|s| (s.name.as_str(), s.dtype.name(), s.shape.dims(), s.bytes()))
        .collect();
    assert_eq!(
        listed,
        [
            // The length of an unknown type is the gap to the next tensor.
            ("early", "ggml type 1012", &[2, 256][..], 128),
            ("scalar", "BF16", &[], 2),
            ("late", "F32", &[2, 3], 24),
        ]
    );
}

#[test]
fn invalid_files_are_refused_with_the_reason() {
    let one = |dims: &[u64], kind, offset| header(3, 1, 0).tensor("t", dims, kind, offset);
    let key = |kind| header(3, 0, 1).text("k").u32(kind);
    let alignment = |n| header(3, 0, 1).text("general.alignment").u32(4).u32(n);
    for (bytes, sentence) in [
        (Bytes(b"GGUX".to_vec()).u32(3), "does not start with"),
        (header(1, 0, 0), "it has version 1, expected 2 or 3"),
        (header(4, 0, 0), "version 4"),
        (header(3u32.swap_bytes(), 0, 0), "big-endian"),
        (Bytes(MAGIC.to_vec()).u32(3), "header ends 8 bytes early"),
        (header(3, u64::MAX, 0), "more than 1048576 tensors"),
        (header(3, 0, u64::MAX), "more than the limit"),
        (header(3, 1, 0), "header ends 8 bytes early"),
        (header(3, 0, 1).u64(u64::MAX), "a key claims"),
        (header(3, 0, 1).u64(60_000), "cut off"),
        (key(13), "unknown type 13"),
        (key(8).u64(u64::MAX), "cut off"),
        (key(9).u32(8).u64(u64::MAX), "more than the file can hold"),
        (key(9).u32(0).u64(1 << 40), "more than the file can hold"),
        (
            key(9).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).data(99),
            "deep",
        ),
        (header(3, 0, 2).text("k").u32(4).u32(1).text("k").u32(4).u32(1), "the key 'k' twice"),
        (alignment(0), "expected a power of two"),
        (alignment(48), "expected a power of two"),
        (header(3, 0, 1).text("general.alignment").u32(8).text("32"), "expected a power of two"),
        (one(&[1; 65], 0, 0), "65 dimensions"),
        (one(&[u64::MAX, 2], 0, 0), "more elements than fit"),
        (one(&[u64::MAX / 2], 0, 0), "more elements than fit"),
        (one(&[u64::MAX / 64], 0, u64::MAX - 31), "ends past 64 bits"),
        (one(&[4], 0, 4).data(64), "multiple of the alignment"),
        (one(&[33], 8, 96).data(64), "cut off"),
        (one(&[9], 0, 0).data(32), "has 32; the file is cut off"),
        (one(&[1], 0, 64).data(64), "cut off"),
        (one(&[1], 777, 64).data(32), "cut off"),
        (
            header(3, 2, 0).tensor("a", &[9], 0, 0).tensor("b", &[1], 0, 32).data(64),
            "after the next tensor's data begins",
        ),
        (header(3, 2, 0).tensor("a", &[8], 0, 0).tensor("a", &[1], 0, 32).data(64), "twice"),
    ] {
        let found = bytes.read().expect_err(sentence).to_string();
        assert!(found.contains(sentence), "{found}");
    }
}

/// A tensor that ggml cannot have leaves the others as they are.
#[test]
fn tensors_of_impossible_shapes_are_rows() {
    let found = header(3, 4, 0)
        .tensor("many", &[2, 1, 2, 1, 2], 0, 0)
        .tensor("rows", &[48, 2], 8, 32)
        .tensor("plain", &[8], 0, 160)
        .tensor("last", &[33], 8, 192)
        .data(256)
        .read()
        .expect("valid");
    let listed: Vec<_> = found
        .stored
        .iter()
        .map(|s| (s.name.as_str(), s.shape.rank(), s.bytes(), s.unreadable()))
        .collect();
    let rows = "its rows have 48 elements, not a multiple of the 32 in a block of Q8_0";
    let last = "its rows have 33 elements, not a multiple of the 32 in a block of Q8_0";
    assert_eq!(
        listed,
        [
            ("many", 5, 32, Some("it has 5 dimensions, GGUF has at most 4")),
            // Up to the next tensor, and up to the end of the file.
            ("rows", 2, 128, Some(rows)),
            ("plain", 1, 32, None),
            ("last", 1, 64, Some(last)),
        ]
    );
}

/// A long array is summarized and a long text is truncated.
#[test]
fn values_take_bounded_memory() {
    let mut bytes = header(3, 0, 2).text("tokens").u32(9).u32(8).u64(300_000);
    for n in 0..300_000 {
        bytes = bytes.text(&n.to_string());
    }
    let found = bytes.text("template").u32(8).text(&"x".repeat(1 << 20)).read().expect("valid");
    assert!(found.metadata[0].1.ends_with("(300000 strings)"));
    assert!(found.metadata[1].1.ends_with("… (1048576 bytes)"));
    assert!(found.metadata.iter().map(|(_, value)| value.len()).sum::<usize>() < 1 << 19);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However the start of a real file is changed, reading it returns an error or tensors that lie
    /// inside the file.
    #[test]
    fn a_mutated_file_is_read_or_refused(
        edits in prop::collection::vec((0usize..1100, any::<u8>()), 1..6),
        cut in prop::option::of(0usize..40_640),
    ) {
        let mut bytes = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/gguf/synth-a32.gguf")).to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        let length = bytes.len() as u64;
        let bytes: &'static [u8] = bytes.leak();
        if let Ok(header) = read(&Source::memory("m.gguf", bytes)) {
            for tensor in header.stored {
                prop_assert!(tensor.range.start <= tensor.range.end);
                prop_assert!(tensor.range.end <= length || tensor.bytes() == 0);
            }
        }
    }
}
