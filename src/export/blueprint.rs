//! What will be written, laid out before a byte is: every file, every tensor in it, its
//! place, and what it is made from.

use super::error::ExportError;
use super::request::{OutputFormat, Request, Task, is_single_file};
use super::{companions, compressed_tensors, safetensors};
use crate::checkpoint::layout::Int8Values;
use crate::checkpoint::{Checkpoint, StoredId};
use crate::plan::Plan;
use crate::quantization::{Chunks, NotQuantizable, QuantizationType, Quantizer, Rounding};
use crate::tensor::{DType, FloatType, Shape, TensorId};
use std::collections::HashMap;
use std::path::PathBuf;

/// Bytes of elements that are read, made and written at a time.
const CHUNK_BYTES: u64 = 2 << 20;

/// One tensor of an output file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub name: String,
    pub dtype: DType,
    pub shape: Shape,
    pub bytes: u64,
    pub made_from: MadeFrom,
}

/// What the bytes of an entry are made from.
#[derive(Clone, Debug, PartialEq)]
pub enum MadeFrom {
    /// The bytes of a stored tensor, as they are.
    Stored(StoredId),
    /// A tensor's int8 values; its scales are an entry of their own, made together with
    /// them.
    Values { tensor: TensorId, quantizer: Quantizer, stored_as: Int8Values },
    /// The scales of a tensor's int8 values.
    Scales { tensor: TensorId },
    /// These bytes.
    Literal(Vec<u8>),
    /// A quantized tensor's elements as floats.
    Floats { tensor: TensorId, to: FloatType },
    /// A tensor's elements after int8, in the type they had.
    FakeQuantized { tensor: TensorId, quantizer: Quantizer },
}

impl Entry {
    /// The tensor that is quantized to make it, and how.
    pub fn quantizer(&self) -> Option<(TensorId, Quantizer)> {
        match self.made_from {
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::FakeQuantized { tensor, quantizer } => Some((tensor, quantizer)),
            _ => None,
        }
    }

    /// How the making of an entry is divided; `None` if another entry brings it along.
    pub fn chunks(&self, checkpoint: &Checkpoint) -> Option<Chunks> {
        let of_tensor = |id: TensorId, scheme| {
            let size = checkpoint.float_type(id).map_or(1, FloatType::size) as u64;
            Chunks::new(&checkpoint.tensor(id).shape, CHUNK_BYTES / size, scheme)
        };
        match self.made_from {
            MadeFrom::Stored(_) | MadeFrom::Literal(_) => {
                Some(Chunks::new(&Shape::vector(self.bytes), CHUNK_BYTES, None))
            }
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::FakeQuantized { tensor, quantizer } => {
                Some(of_tensor(tensor, Some(quantizer.scheme)))
            }
            MadeFrom::Floats { tensor, .. } => Some(of_tensor(tensor, None)),
            MadeFrom::Scales { .. } => None,
        }
    }
}

/// One output file: its opening bytes, then its entries in order.
#[derive(Clone, Debug, PartialEq)]
pub struct OutFile {
    /// Relative to the output's root; empty when the output is this one file.
    pub name: String,
    pub head: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Where each entry starts in the file.
    pub offsets: Vec<u64>,
    scales: HashMap<TensorId, usize>,
}

impl OutFile {
    /// A file whose entries follow `head` without a gap.
    pub fn contiguous(name: String, head: Vec<u8>, entries: Vec<Entry>) -> OutFile {
        let mut at = head.len() as u64;
        let offsets = entries
            .iter()
            .map(|entry| {
                let start = at;
                at += entry.bytes;
                start
            })
            .collect();
        let scales = entries.iter().enumerate().filter_map(|(i, entry)| match entry.made_from {
            MadeFrom::Scales { tensor } => Some((tensor, i)),
            _ => None,
        });
        OutFile { name, head, scales: scales.collect(), entries, offsets }
    }

    /// Where the scales of a tensor are in the file, and their type.
    pub fn scales_of(&self, tensor: TensorId) -> Option<(u64, FloatType)> {
        let &number = self.scales.get(&tensor)?;
        Some((*self.offsets.get(number)?, self.entries.get(number)?.dtype.float()?))
    }

    /// Length of the file.
    pub fn size(&self) -> u64 {
        match (self.entries.last(), self.offsets.last()) {
            (Some(entry), Some(offset)) => offset + entry.bytes,
            _ => self.head.len() as u64,
        }
    }
}

/// A small file that is made anew, such as the index of the shards.
#[derive(Clone, Debug, PartialEq)]
pub struct TextFile {
    pub name: String,
    pub text: String,
}

/// A file beside the weights that goes along as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Companion {
    /// Relative to the model's directory, and to the output's.
    pub name: PathBuf,
    pub source: PathBuf,
    pub bytes: u64,
}

/// Everything an output consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    pub rounding: Rounding,
    /// Whether the output is a directory, or one file.
    pub directory: bool,
    pub files: Vec<OutFile>,
    pub texts: Vec<TextFile>,
    pub companions: Vec<Companion>,
    pub warnings: Vec<String>,
}

impl Blueprint {
    /// Lays a request out. Reads no tensor.
    pub fn new(checkpoint: &Checkpoint, request: &Request) -> Result<Blueprint, ExportError> {
        let directory = !is_single_file(&request.out);
        let rounding = match &request.task {
            Task::Quantize { plan, .. } => plan.rounding,
            Task::Dequantize { .. } => Rounding::default(),
        };
        let (mut texts, mut warnings) = (Vec::new(), Vec::new());
        let entries = match &request.task {
            Task::Quantize { plan, format } => {
                check_plan(checkpoint, plan, request)?;
                if format.is_directory() && !directory {
                    let why = format!(
                        "{} is a model's directory, not one file; choose a path without an ending",
                        format.name()
                    );
                    return Err(ExportError::Unfit { path: request.out.clone(), why });
                }
                match format {
                    OutputFormat::Safetensors => safetensors::quantized(checkpoint, plan, request)?,
                    OutputFormat::Int8 | OutputFormat::Int8WeightOnly => {
                        let made =
                            compressed_tensors::quantized(checkpoint, plan, *format, request)?;
                        texts.push(made.config);
                        warnings = made.warnings;
                        made.shards
                    }
                    OutputFormat::FakeQuantized => safetensors::fake_quantized(checkpoint, plan),
                }
            }
            Task::Dequantize { to } => {
                if directory {
                    texts.extend(companions::plain_config(checkpoint)?);
                }
                safetensors::dequantized(checkpoint, *to, request)?
            }
        };
        let files = safetensors::files(checkpoint, entries, directory, &request.task);
        let mut blueprint =
            Blueprint { rounding, directory, files, texts, companions: Vec::new(), warnings };
        if directory {
            blueprint.texts.extend(safetensors::index(checkpoint, &blueprint.files));
            companions::collect(checkpoint, request, &mut blueprint)?;
        }
        Ok(blueprint)
    }

    /// Bytes of everything that will be written.
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().map(OutFile::size);
        let texts = self.texts.iter().map(|t| t.text.len() as u64);
        files.chain(texts).chain(self.companions.iter().map(|c| c.bytes)).sum()
    }

    /// The tensors that become int8, each with its quantizer.
    pub fn quantized(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        self.files.iter().flat_map(|f| &f.entries).filter_map(Entry::quantizer)
    }
}

/// A plan may hold only what can be quantized, and something.
fn check_plan(checkpoint: &Checkpoint, plan: &Plan, request: &Request) -> Result<(), ExportError> {
    if plan.is_empty() {
        let why = "no tensor is marked; there is nothing to quantize".to_owned();
        return Err(ExportError::Unfit { path: request.out.clone(), why });
    }
    for (id, quantizer) in plan.iter() {
        if quantizer.scheme.quantization_type() != QuantizationType::QInt8 {
            return Err(ExportError::NotQuantizable {
                path: checkpoint.path().to_owned(),
                tensor: checkpoint.tensor(id).name.clone(),
                why: NotQuantizable::OnlyMeasured(quantizer.scheme),
            });
        }
        let obstacle = crate::plan::obstacle(checkpoint, id).filter(|o| !o.can_be_overruled());
        if let Some(obstacle) = obstacle {
            let name = checkpoint.tensor(id).name.escape_debug().to_string();
            let why = format!("tensor '{name}' cannot be quantized: {obstacle}");
            return Err(ExportError::Unfit { path: checkpoint.path().to_owned(), why });
        }
    }
    Ok(())
}
