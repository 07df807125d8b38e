//! Generated GGUF files.

use std::path::{Path, PathBuf};

/// A tensor of a generated file: name, dimensions in GGUF's order, ggml's type number, and data.
pub(crate) type MadeTensor = (String, Vec<u64>, u32, Vec<u8>);

/// Writes a GGUF file of the architecture `llama` with these 32-bit unsigned values and tensors.
pub(crate) fn made(path: &Path, numbers: &[(&str, u32)], tensors: &[MadeTensor]) -> PathBuf {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.bytes());
    };
    bytes.extend((tensors.len() as u64).to_le_bytes());
    let keys = if numbers.is_empty() { 0 } else { numbers.len() as u64 + 1 };
    bytes.extend(keys.to_le_bytes());
    if !numbers.is_empty() {
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, "llama");
    }
    for (key, number) in numbers {
        text(&mut bytes, key);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(number.to_le_bytes());
    }
    let mut offset = 0u64;
    for (name, dims, kind, data) in tensors {
        text(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += (data.len() as u64).next_multiple_of(32);
    }
    for (.., data) in tensors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    std::fs::write(path, bytes).expect("writes");
    path.to_owned()
}

/// A tensor of F32 with elements between −0.05 and 0.05.
pub(crate) fn wave(name: &str, width: u64, rows: u64) -> MadeTensor {
    let elements = (0..width * rows).map(|n| ((n * n % 977) as f32 / 977.0 - 0.5) * 0.1);
    (name.to_owned(), vec![width, rows], 0, elements.flat_map(f32::to_le_bytes).collect())
}
