//! The plan of an output: every file, tensor and byte range, decided before writing.

use crate::checkpoint::packed::Int8Values;
use crate::checkpoint::{Checkpoint, StoredId};
use crate::export::sidecar_file::{LeftOutFiles, SidecarFile};
use crate::quantization::ggml::Importance;
use crate::quantization::{Chunks, PresetPart, Quantizer, Rounding};
use crate::tensor::{BlockType, DType, FloatType, Shape, TensorId, TensorInfo};
use std::collections::{HashMap, HashSet};

/// Bytes of elements that are read, encoded and written at a time.
const CHUNK_BYTES: u64 = 2 << 20;

/// The scales of tensors whose groups are longer than a chunk, computed in an earlier pass.
pub type KnownScales = HashMap<TensorId, Vec<f32>>;

/// One stored tensor of an output file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The name in the file.
    pub name: String,
    /// The type in the file.
    pub dtype: DType,
    /// The shape in the file.
    pub shape: Shape,
    /// Size in bytes.
    pub bytes: u64,
    /// Origin of the bytes.
    pub made_from: MadeFrom,
}

/// The origin of an entry's bytes.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum MadeFrom {
    /// The bytes of a stored tensor, unchanged.
    Stored(StoredId),
    /// The transpose of a stored matrix.
    Transposed(StoredId),
    /// A tensor's int8 values. Its scales are a separate entry, written together with them.
    Values { tensor: TensorId, quantizer: Quantizer, stored_as: Int8Values },
    /// The scales of a tensor's int8 values.
    Scales { tensor: TensorId },
    /// −128 times the scales of a tensor's int8 values, for formats that store `q + 128`.
    Biases { tensor: TensorId },
    /// Zeros.
    Zeros,
    /// The given bytes.
    Literal(Vec<u8>),
    /// A quantized tensor's elements as floats.
    Floats { tensor: TensorId, to: FloatType },
    /// A tensor's elements with int8 rounding applied, in their own type.
    FakeQuantized { tensor: TensorId, quantizer: Quantizer },
    /// The values of a tensor quantized with a preset. Its other parts are separate entries,
    /// written together with the values.
    PresetValues { tensor: TensorId, quantizer: Quantizer },
    /// Another part of a tensor quantized with a preset.
    PresetPart { tensor: TensorId, part: PresetPart },
    /// A tensor's elements in blocks of a ggml type, produced by `quantizer`.
    GgmlBlocks { tensor: TensorId, quantizer: Quantizer, block: BlockType },
}

impl Entry {
    /// Creates an entry. `None` if its elements are not whole bytes, or are too many.
    pub fn new(name: String, dtype: DType, shape: Shape, made_from: MadeFrom) -> Option<Entry> {
        let bytes = dtype.bytes_for(shape.elements())?;
        Some(Entry { name, dtype, shape, bytes, made_from })
    }

    /// Creates an entry for a tensor's int8 values, under its name and in its shape.
    pub fn int8_values(tensor: &TensorInfo, id: TensorId, quantizer: Quantizer) -> Option<Entry> {
        let values = MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Signed };
        Entry::new(tensor.name.to_string(), DType::I8, tensor.shape.clone(), values)
    }

    /// Returns the tensor that is quantized for the entry, and its quantizer.
    pub fn quantizer(&self) -> Option<(TensorId, Quantizer)> {
        match self.made_from {
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::PresetValues { tensor, quantizer }
            | MadeFrom::FakeQuantized { tensor, quantizer }
            | MadeFrom::GgmlBlocks { tensor, quantizer, .. } => Some((tensor, quantizer)),
            _ => None,
        }
    }

    /// Returns the shape that is divided into groups: the entry's own, which may be transposed, or
    /// the tensor's if the entry's elements are packed.
    pub fn grouped_shape<'a>(&'a self, checkpoint: &'a Checkpoint, tensor: TensorId) -> &'a Shape {
        let original = &checkpoint.tensor(tensor).shape;
        if let MadeFrom::PresetValues { .. } = self.made_from {
            return original;
        }
        if self.shape.elements() == original.elements() { &self.shape } else { original }
    }

    /// Returns the chunks in which the entry is encoded; `None` if it is written with another
    /// entry.
    pub fn chunks(&self, checkpoint: &Checkpoint) -> Option<Chunks> {
        let of_tensor = |id: TensorId, scheme| {
            let size = checkpoint.float_type(id).map_or(1, FloatType::size) as u64;
            Chunks::new(self.grouped_shape(checkpoint, id), CHUNK_BYTES / size, scheme)
        };
        match self.made_from {
            MadeFrom::Stored(_)
            | MadeFrom::Transposed(_)
            | MadeFrom::Literal(_)
            | MadeFrom::Zeros => Some(Chunks::new(&Shape::vector(self.bytes), CHUNK_BYTES, None)),
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::PresetValues { tensor, quantizer }
            | MadeFrom::FakeQuantized { tensor, quantizer }
            | MadeFrom::GgmlBlocks { tensor, quantizer, .. } => {
                Some(of_tensor(tensor, Some(quantizer.scheme)))
            }
            MadeFrom::Floats { tensor, .. } => Some(of_tensor(tensor, None)),
            MadeFrom::Scales { .. } | MadeFrom::Biases { .. } | MadeFrom::PresetPart { .. } => None,
        }
    }
}

/// One output file: its header, then its entries in order.
#[derive(Clone, Debug, PartialEq)]
pub struct OutFile {
    /// Path relative to the output's root; empty if the output is this one file.
    pub name: String,
    /// The bytes before the first entry.
    pub head: Vec<u8>,
    /// The stored tensors.
    pub entries: Vec<Entry>,
    /// Offset of each entry in the file.
    pub offsets: Vec<u64>,
    /// Tensors that are written transposed.
    pub transposed: HashSet<TensorId>,
    size: u64,
    scales: HashMap<TensorId, usize>,
    biases: HashMap<TensorId, usize>,
    preset_parts: HashMap<(TensorId, PresetPart), usize>,
}

impl OutFile {
    /// Creates a file whose entries follow `head` without gaps.
    pub fn contiguous(name: String, head: Vec<u8>, entries: Vec<Entry>) -> OutFile {
        let mut at = head.len() as u64;
        let offsets = entries.iter().map(|entry| {
            at += entry.bytes;
            at - entry.bytes
        });
        let offsets = offsets.collect();
        OutFile::placed(name, head, entries, offsets, at)
    }

    /// Creates a file of `size` bytes whose entries are at `offsets`.
    pub fn placed(
        name: String,
        head: Vec<u8>,
        entries: Vec<Entry>,
        offsets: Vec<u64>,
        size: u64,
    ) -> OutFile {
        let (mut scales, mut biases) = (HashMap::new(), HashMap::new());
        let mut preset_parts = HashMap::new();
        for (i, entry) in entries.iter().enumerate() {
            match entry.made_from {
                MadeFrom::Scales { tensor } => _ = scales.insert(tensor, i),
                MadeFrom::Biases { tensor } => _ = biases.insert(tensor, i),
                MadeFrom::PresetPart { tensor, part } => {
                    _ = preset_parts.insert((tensor, part), i);
                }
                _ => {}
            }
        }
        let transposed = HashSet::new();
        OutFile { name, head, entries, offsets, transposed, size, scales, biases, preset_parts }
    }

    /// Returns the offset of a tensor's scales in the file, and their type.
    pub fn scales_of(&self, tensor: TensorId) -> Option<(u64, FloatType)> {
        let &number = self.scales.get(&tensor)?;
        Some((*self.offsets.get(number)?, self.entries.get(number)?.dtype.float()?))
    }

    /// Returns the offset of a tensor's biases in the file, if it has any. They have the type of
    /// its scales.
    pub fn biases_of(&self, tensor: TensorId) -> Option<u64> {
        self.offsets.get(*self.biases.get(&tensor)?).copied()
    }

    /// Returns the offset of a part of a tensor quantized with a preset.
    pub fn offset_of_part(&self, tensor: TensorId, part: PresetPart) -> Option<u64> {
        self.offsets.get(*self.preset_parts.get(&(tensor, part))?).copied()
    }

    /// Returns the type of a part of floats of a tensor quantized with a preset.
    pub fn type_of_part(&self, tensor: TensorId, part: PresetPart) -> Option<FloatType> {
        self.entries.get(*self.preset_parts.get(&(tensor, part))?)?.dtype.float()
    }

    /// The length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A small generated file, such as the index of the shards.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFile {
    /// Path relative to the output's root.
    pub name: String,
    /// The content.
    pub text: String,
}

/// The content of an output.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPlan {
    /// The rounding of quantized values.
    pub rounding: Rounding,
    /// Whether the output is a directory rather than one file.
    pub directory: bool,
    /// The files with tensors.
    pub files: Vec<OutFile>,
    /// Generated text files.
    pub texts: Vec<TextFile>,
    /// Copied files that are not weights.
    pub sidecar_files: Vec<SidecarFile>,
    /// Files that are not copied.
    pub left_out: LeftOutFiles,
    /// Tensors that share a global scale, computed from the largest magnitude of all of them.
    pub scaled_together: Vec<Vec<TensorId>>,
    /// The importance of the elements, used for quantizing to ggml's block types.
    pub importance: Importance,
    /// Sentences for the user.
    pub warnings: Vec<String>,
}

impl OutputPlan {
    /// Returns the file of an output directory that opens the whole checkpoint: the index, the only
    /// file, or the first part of a split GGUF.
    pub fn entry_point(&self) -> Option<&str> {
        let index = self.texts.iter().find(|text| text.name.ends_with(".index.json"));
        match (index, self.files.as_slice()) {
            _ if !self.directory => None,
            (Some(index), _) => Some(&index.name),
            (None, [file]) => Some(&file.name),
            (None, [file, ..]) if file.name.ends_with(".gguf") => Some(&file.name),
            (None, _) => None,
        }
    }

    /// Returns the total size in bytes.
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().map(OutFile::size);
        let texts = self.texts.iter().map(|t| t.text.len() as u64);
        files.chain(texts).chain(self.sidecar_files.iter().map(|c| c.bytes)).sum()
    }

    /// Returns the tensors that are quantized, each with its quantizer.
    pub fn quantized(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        self.files.iter().flat_map(|f| &f.entries).filter_map(Entry::quantizer)
    }
}

/// Replaces the largest magnitude of each tensor in `known` by the maximum over all tensors that
/// share its global scale.
pub(crate) fn share_absmax(scaled_together: &[Vec<TensorId>], known: &mut KnownScales) {
    for tensors in scaled_together {
        let all = tensors.iter().filter_map(|id| known.get(id)?.first().copied());
        let Some(absmax) = all.reduce(f32::max) else { continue };
        for id in tensors {
            known.insert(*id, vec![absmax]);
        }
    }
}
