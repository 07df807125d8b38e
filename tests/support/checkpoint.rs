//! Writes safetensors files byte by byte, so that they can also be invalid.

use quantscope::checkpoint::Checkpoint;
use serde_json::{Map, Value, json};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

pub(crate) fn f32s(name: &str, shape: &[u64], values: impl IntoIterator<Item = f32>) -> Tensor {
    let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
    Tensor { name: name.into(), dtype: "F32", shape: shape.into(), bytes }
}

/// An F32 tensor with smooth positive and negative values, different for each name.
pub(crate) fn weights(name: &str, shape: &[u64]) -> Tensor {
    let seed = name.bytes().map(f32::from).sum::<f32>();
    let count = shape.iter().product::<u64>();
    f32s(name, shape, (0..count).map(|i| ((i as f32 + seed) * 0.7).sin() * 0.1))
}

/// The header of `tensors`, in their order and without gaps.
pub(crate) fn header(tensors: &[Tensor], metadata: &[(&str, &str)]) -> Map<String, Value> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let pairs: Map<_, _> = metadata.iter().map(|(k, v)| ((*k).into(), json!(v))).collect();
        header.insert("__metadata__".into(), pairs.into());
    }
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes.len();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    header
}

/// The bytes of a file with this header and data, valid or not.
pub(crate) fn file(header: &Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).expect("plain values");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json);
    file.extend(data);
    file
}

/// The bytes of a file of `tensors`.
pub(crate) fn bytes(tensors: &[Tensor]) -> Vec<u8> {
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    file(&header(tensors, &[]), &data)
}

/// An open checkpoint of `tensors` in memory.
pub(crate) fn in_memory(tensors: &[Tensor]) -> Checkpoint {
    Checkpoint::from_memory("made.safetensors", bytes(tensors).leak()).expect("is well formed")
}

/// Writes a file with this header and data, valid or not.
pub(crate) fn write_raw(path: &Path, header: &Map<String, Value>, data: &[u8]) {
    std::fs::write(path, file(header, data)).expect("the test's own directory is writable");
}

pub(crate) fn write(path: &Path, tensors: &[Tensor], metadata: &[(&str, &str)]) {
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    write_raw(path, &header(tensors, metadata), &data);
}

/// Writes a sparse file of `tensors` and a tensor `huge` of a tebibyte, which takes long to
/// measure. Returns `None` if the file system does not support sparse files.
pub(crate) fn huge(dir: &Path, tensors: &[Tensor]) -> Option<PathBuf> {
    const SIZE: u64 = 1 << 40;
    let path = dir.join("model.safetensors");
    let data: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.bytes.clone()).collect();
    let mut header = header(tensors, &[]);
    let (start, shape) = (data.len() as u64, [1u64 << 18, 1 << 20]);
    let huge = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, start + SIZE]});
    header.insert("huge".into(), huge);
    write_raw(&path, &header, &data);
    let file = OpenOptions::new().write(true).open(&path).ok()?;
    file.set_len(file.metadata().ok()?.len() + SIZE).ok()?;
    Some(path)
}
