//! Reads llama.cpp's importance matrices: mean squares of each weight's inputs, per feature.
//! The GGUF form has sums of squares in `<weight>.in_sum2` and counts in `<weight>.counts`. The
//! legacy form (`.dat`) is a list of names, calls and values.

use crate::activations::error::ActivationsError;
use crate::activations::recording::floats;
use crate::checkpoint::Checkpoint;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Limits for a legacy file; llama.cpp's names have at most 64 bytes.
const NAME_LIMIT: u32 = 1 << 12;
const ENTRY_LIMIT: u32 = 1 << 20;

/// An importance matrix.
#[derive(Debug, PartialEq)]
pub(super) struct ImportanceMatrix {
    pub entries: Vec<Entry>,
    /// The name of the first dataset that was recorded.
    pub dataset: Option<String>,
    /// The number of recorded chunks of text.
    pub chunks: Option<u32>,
}

/// The mean squares of one weight's inputs.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    /// The name of the weight.
    pub name: String,
    /// One value per feature, for a tensor of experts one per expert and feature. Zeros for an
    /// expert that received no input.
    pub mean_square: Vec<f32>,
}

/// Reads the GGUF form.
pub(super) fn read_gguf(file: &Checkpoint) -> Result<ImportanceMatrix, ActivationsError> {
    let bad = |why: String| ActivationsError::File { path: file.path().to_owned(), why };
    let mut entries = Vec::new();
    for id in file.ids() {
        let tensor = file.tensor(id);
        let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
        let shown = name.escape_debug();
        let not_floats = || bad(format!("'{shown}': sums and counts must be floats"));
        let sums = floats(file, id)?.ok_or_else(not_floats)?;
        let counts = file
            .find(&format!("{name}.counts"))
            .ok_or_else(|| bad(format!("'{shown}': sums of squares without counts")))?;
        let counts = floats(file, counts)?.ok_or_else(not_floats)?;
        if counts.is_empty() || sums.is_empty() || sums.len() % counts.len() != 0 {
            return Err(bad(format!(
                "'{shown}': {} sums of squares do not fit {} counts",
                sums.len(),
                counts.len()
            )));
        }
        let features = sums.len() / counts.len();
        let mean = |(sums, &count): (&[f32], &f32)| -> Vec<f32> {
            let mean = |sum: &f32| if count > 0.0 { sum / count } else { 0.0 };
            sums.iter().map(mean).collect()
        };
        let mean_square = sums.chunks(features).zip(&counts).flat_map(mean).collect();
        entries.push(Entry { name: name.to_owned(), mean_square });
    }
    if entries.is_empty() {
        return Err(bad(
            "not an importance matrix: expected tensors named '<weight>.in_sum2'".into()
        ));
    }
    let find = |key: &str| {
        let mut metadata = file.shards().iter().flat_map(|shard| &shard.metadata);
        metadata.find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    };
    let dataset = find("imatrix.datasets").and_then(first_text);
    let chunks = find("imatrix.chunk_count").and_then(|count| count.parse().ok());
    Ok(ImportanceMatrix { entries, dataset, chunks })
}

/// The first string of a list in the text of a file's metadata.
fn first_text(list: &str) -> Option<String> {
    let inner = list.strip_prefix('[')?;
    serde_json::Deserializer::from_str(inner).into_iter::<String>().next()?.ok()
}

/// Reads the legacy form.
pub(super) fn read_legacy(path: &Path) -> Result<ImportanceMatrix, ActivationsError> {
    let bad = |why: String| ActivationsError::File { path: path.to_owned(), why };
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    let size = file.metadata().map_err(|e| bad(e.to_string()))?.len();
    parse_legacy(&mut BufReader::new(file), size).map_err(bad)
}

/// Reads the legacy form from a reader of `size` bytes.
fn parse_legacy(file: &mut impl Read, size: u64) -> Result<ImportanceMatrix, String> {
    let cut = |_| "not an importance matrix of llama.cpp, or truncated".to_owned();
    let number = |file: &mut dyn Read| -> Result<u32, String> {
        let mut raw = [0; 4];
        file.read_exact(&mut raw).map_err(cut)?;
        Ok(u32::from_le_bytes(raw))
    };
    let count = number(file)?;
    if count == 0 || count > ENTRY_LIMIT {
        return Err(format!("not an importance matrix of llama.cpp: {count} entries"));
    }
    let mut entries = Vec::new();
    for n in 0..count {
        let length = number(file)?;
        if length > NAME_LIMIT {
            return Err(format!("entry {n}: invalid name length of {length} bytes"));
        }
        let mut name = vec![0; length as usize];
        file.read_exact(&mut name).map_err(cut)?;
        let name =
            String::from_utf8(name).map_err(|_| format!("entry {n}: the name is not UTF-8"))?;
        let calls = number(file)?;
        let values = u64::from(number(file)?) * 4;
        if values == 0 || values > size {
            let shown = name.escape_debug();
            return Err(format!("'{shown}': invalid number of values {}", values / 4));
        }
        let mut raw = Vec::new();
        file.take(values).read_to_end(&mut raw).map_err(cut)?;
        if raw.len() as u64 != values {
            return Err("truncated".to_owned());
        }
        let mean = |&raw: &[u8; 4]| f32::from_le_bytes(raw) / calls.max(1) as f32;
        entries
            .push(Entry { name, mean_square: raw.as_chunks::<4>().0.iter().map(mean).collect() });
    }
    // Older files end here.
    let chunks = number(file).ok();
    let length = number(file).ok().filter(|&length| (1..=NAME_LIMIT).contains(&length));
    let dataset = length.and_then(|length| {
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).ok()?;
        String::from_utf8(text).ok()
    });
    Ok(ImportanceMatrix { entries, dataset, chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legacy() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(2u32.to_le_bytes());
        for (name, calls, values) in [("a.weight", 2u32, vec![2.0f32, 8.0]), ("b", 1, vec![0.5])] {
            bytes.extend((name.len() as u32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as u32).to_le_bytes());
            values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn a_legacy_matrix_is_read() {
        let mut bytes = legacy();
        let expected = [
            Entry { name: "a.weight".into(), mean_square: vec![1.0, 4.0] },
            Entry { name: "b".into(), mean_square: vec![0.5] },
        ];
        let read = |bytes: &[u8]| parse_legacy(&mut &bytes[..], bytes.len() as u64);
        let found = read(&bytes).expect("reads");
        assert_eq!(found.entries, expected);
        assert_eq!((found.chunks, found.dataset), (None, None));
        // llama.cpp appends how the file was made.
        bytes.extend([7, 0, 0, 0, 4, 0, 0, 0, b'w', b'i', b'k', b'i']);
        let found = read(&bytes).expect("reads");
        assert_eq!(found.entries, expected);
        assert_eq!((found.chunks, found.dataset.as_deref()), (Some(7), Some("wiki")));
    }

    #[test]
    fn the_first_text_of_a_list_is_found() {
        assert_eq!(first_text("[\"a \\\"b\\\".txt\", \"c\"]").as_deref(), Some("a \"b\".txt"));
        assert_eq!(first_text("[]"), None);
        assert_eq!(first_text("wiki"), None);
    }

    #[test]
    fn a_truncated_or_inconsistent_legacy_matrix_is_refused() {
        let bytes = legacy();
        for end in 0..bytes.len() {
            assert!(parse_legacy(&mut &bytes[..end], end as u64).is_err(), "{end}");
        }
        for at in [3, 7, 23] {
            let mut bytes = legacy();
            bytes[at] = 0x7f;
            assert!(parse_legacy(&mut bytes.as_slice(), bytes.len() as u64).is_err(), "{at}");
        }
    }
}
