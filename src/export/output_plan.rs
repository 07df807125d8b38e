//! What will be written, laid out before a byte is: every file, every tensor in it, its
//! place, and what it is made from.

use crate::checkpoint::packed::Int8Values;
use crate::checkpoint::{Checkpoint, StoredId, has_extension};
use crate::export::error::SaveError;
use crate::export::request::{OutputFormat, Request, Task, is_single_file};
use crate::export::{burn, compressed_tensors, gguf, left_out, safetensors, sidecar_files};
use crate::plan::Plan;
use crate::quantization::{Chunks, NotQuantizable, QuantizationType, Quantizer, Rounding};
use crate::tensor::{DType, FloatType, Shape, TensorId};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

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
    /// The elements of a stored matrix, by its columns.
    Transposed(StoredId),
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
    /// A tensor's elements in GGUF's blocks of int8 values and their scale.
    Q8_0 { tensor: TensorId },
}

impl Entry {
    /// The tensor that is quantized to make it, and how.
    pub fn quantizer(&self) -> Option<(TensorId, Quantizer)> {
        match self.made_from {
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::FakeQuantized { tensor, quantizer } => Some((tensor, quantizer)),
            MadeFrom::Q8_0 { tensor } => Some((tensor, gguf::QUANTIZER)),
            _ => None,
        }
    }

    /// The shape whose groups have a scale each: the entry's own, which may be that of the
    /// tensor transposed, unless its elements are packed.
    pub fn grouped<'a>(&'a self, checkpoint: &'a Checkpoint, tensor: TensorId) -> &'a Shape {
        let original = &checkpoint.tensor(tensor).shape;
        if self.shape.elements() == original.elements() { &self.shape } else { original }
    }

    /// How the making of an entry is divided; `None` if another entry brings it along.
    pub fn chunks(&self, checkpoint: &Checkpoint) -> Option<Chunks> {
        let of_tensor = |id: TensorId, scheme| {
            let size = checkpoint.float_type(id).map_or(1, FloatType::size) as u64;
            Chunks::new(self.grouped(checkpoint, id), CHUNK_BYTES / size, scheme)
        };
        match self.made_from {
            MadeFrom::Stored(_) | MadeFrom::Transposed(_) | MadeFrom::Literal(_) => {
                Some(Chunks::new(&Shape::vector(self.bytes), CHUNK_BYTES, None))
            }
            MadeFrom::Values { tensor, quantizer, .. }
            | MadeFrom::FakeQuantized { tensor, quantizer } => {
                Some(of_tensor(tensor, Some(quantizer.scheme)))
            }
            MadeFrom::Floats { tensor, .. } => Some(of_tensor(tensor, None)),
            MadeFrom::Q8_0 { tensor } => Some(of_tensor(tensor, Some(gguf::QUANTIZER.scheme))),
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
    /// Tensors whose elements are written by their columns.
    pub transposed: HashSet<TensorId>,
    size: u64,
    scales: HashMap<TensorId, usize>,
}

impl OutFile {
    /// A file whose entries follow `head` without a gap.
    pub fn contiguous(name: String, head: Vec<u8>, entries: Vec<Entry>) -> OutFile {
        let mut at = head.len() as u64;
        let offsets = entries.iter().map(|entry| {
            at += entry.bytes;
            at - entry.bytes
        });
        let offsets = offsets.collect();
        OutFile::placed(name, head, entries, offsets, at)
    }

    /// A file of `size` bytes whose entries are at `offsets`.
    pub fn placed(
        name: String,
        head: Vec<u8>,
        entries: Vec<Entry>,
        offsets: Vec<u64>,
        size: u64,
    ) -> OutFile {
        let scales = entries.iter().enumerate().filter_map(|(i, entry)| match entry.made_from {
            MadeFrom::Scales { tensor } => Some((tensor, i)),
            _ => None,
        });
        let (scales, transposed) = (scales.collect(), HashSet::new());
        OutFile { name, head, entries, offsets, transposed, size, scales }
    }

    /// Where the scales of a tensor are in the file, and their type.
    pub fn scales_of(&self, tensor: TensorId) -> Option<(u64, FloatType)> {
        let &number = self.scales.get(&tensor)?;
        Some((*self.offsets.get(number)?, self.entries.get(number)?.dtype.float()?))
    }

    /// Length of the file.
    pub fn size(&self) -> u64 {
        self.size
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
pub struct SidecarFile {
    /// Relative to the model's directory, and to the output's.
    pub name: PathBuf,
    pub source: PathBuf,
    pub bytes: u64,
}

/// Everything an output consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputPlan {
    pub rounding: Rounding,
    /// Whether the output is a directory, or one file.
    pub directory: bool,
    pub files: Vec<OutFile>,
    pub texts: Vec<TextFile>,
    pub sidecar_files: Vec<SidecarFile>,
    pub warnings: Vec<String>,
}

impl OutputPlan {
    /// Lays a request out. Reads no tensor.
    pub fn new(checkpoint: &Checkpoint, request: &Request) -> Result<OutputPlan, SaveError> {
        let directory = !is_single_file(&request.out);
        let mut output_plan = OutputPlan {
            rounding: Rounding::default(),
            directory,
            files: Vec::new(),
            texts: Vec::new(),
            sidecar_files: Vec::new(),
            warnings: Vec::new(),
        };
        let shards = match &request.task {
            Task::Quantize { plan, format } => {
                output_plan.rounding = plan.rounding;
                check_plan(checkpoint, plan, request)?;
                check_format(checkpoint, *format, request)?;
                match format {
                    OutputFormat::Safetensors => safetensors::quantized(checkpoint, plan, request)?,
                    OutputFormat::Int8 | OutputFormat::Int8WeightOnly => {
                        let made =
                            compressed_tensors::quantized(checkpoint, plan, *format, request)?;
                        output_plan.texts.push(made.config);
                        output_plan.warnings = made.warnings;
                        made.shards
                    }
                    OutputFormat::FakeQuantized => safetensors::fake_quantized(checkpoint, plan),
                    OutputFormat::Burn(layout) => {
                        output_plan.files =
                            vec![burn::quantized(checkpoint, plan, *layout, request)?];
                        output_plan.warnings = left_out::warnings(checkpoint);
                        return Ok(output_plan);
                    }
                    OutputFormat::Gguf => {
                        let (file, warnings) = gguf::quantized(checkpoint, plan, request)?;
                        (output_plan.files, output_plan.warnings) = (vec![file], warnings);
                        return Ok(output_plan);
                    }
                }
            }
            Task::Dequantize { to } => {
                check_format(checkpoint, OutputFormat::Safetensors, request)?;
                if directory {
                    output_plan.texts.extend(sidecar_files::plain_config(checkpoint)?);
                }
                safetensors::dequantized(checkpoint, *to, request)?
            }
        };
        safetensors::can_hold(checkpoint, &shards)?;
        let left_out = left_out::warnings(checkpoint);
        if let (true, Some(why)) = (shards.iter().all(Vec::is_empty), left_out.first()) {
            let why = format!("there is no tensor to save: {why}");
            return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
        }
        output_plan.warnings.extend(left_out);
        output_plan.warnings.extend(shared(checkpoint));
        output_plan.files = safetensors::files(checkpoint, shards, directory, &request.task);
        if directory {
            output_plan.texts.extend(safetensors::index(checkpoint, &output_plan.files));
            sidecar_files::collect(checkpoint, request, &mut output_plan)?;
        }
        Ok(output_plan)
    }

    /// Bytes of everything that will be written.
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().map(OutFile::size);
        let texts = self.texts.iter().map(|t| t.text.len() as u64);
        files.chain(texts).chain(self.sidecar_files.iter().map(|c| c.bytes)).sum()
    }

    /// The tensors that become int8, each with its quantizer.
    pub fn quantized(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        self.files.iter().flat_map(|f| &f.entries).filter_map(Entry::quantizer)
    }
}

/// A warning for tensors that share bytes of their file: each is written on its own.
fn shared(checkpoint: &Checkpoint) -> Option<String> {
    let mut ranges: Vec<_> = checkpoint
        .all_stored()
        .filter(|(_, s)| !left_out::is_left_out(checkpoint, s))
        .map(|(_, s)| (s.shard, s.range.start, s.range.end, &s.name))
        .collect();
    ranges.sort();
    let overlap = ranges.windows(2).filter_map(|pair| match pair {
        [a, b] if a.0 == b.0 && b.1 < a.2 && b.1 < b.2 => Some((a.3, b.3)),
        _ => None,
    });
    let pairs: Vec<_> = overlap.collect();
    let (a, b) = pairs.first()?;
    let (a, b) = (a.escape_debug(), b.escape_debug());
    Some(match pairs.len() {
        1 => format!("'{a}' and '{b}' share their elements; each is written on its own"),
        n => format!(
            "'{a}' and '{b}', and {} more tensors, share elements; each is written on its own",
            n - 1
        ),
    })
}

/// The checkpoint must be of a kind the format can be made from, and OUT be named as the
/// format asks.
fn check_format(
    checkpoint: &Checkpoint,
    format: OutputFormat,
    request: &Request,
) -> Result<(), SaveError> {
    let unfit = |path: &Path, why: String| SaveError::Unfit { path: path.to_owned(), why };
    if format.is_directory() {
        // A config that cannot be read is an error of that file, not of the format.
        checkpoint.model_config()?;
    }
    if let Some(why) = format.unfit(checkpoint) {
        return Err(unfit(checkpoint.path(), why));
    }
    let (out, name) = (&request.out, format.name());
    match format.ending() {
        Some(ending) if has_extension(out, ending) => Ok(()),
        Some(ending) if format.is_file() || is_single_file(out) => {
            Err(unfit(out, format!("the format {name} needs a path that ends in .{ending}")))
        }
        None if is_single_file(out) => Err(unfit(
            out,
            format!("{name} is a model's directory, not one file; choose a path without an ending"),
        )),
        _ => Ok(()),
    }
}

/// A plan may hold only what can be quantized, and something.
fn check_plan(checkpoint: &Checkpoint, plan: &Plan, request: &Request) -> Result<(), SaveError> {
    if plan.is_empty() {
        let why = "no tensor is marked; there is nothing to quantize".to_owned();
        return Err(SaveError::Unfit { path: request.out.clone(), why });
    }
    for (id, quantizer) in plan.iter() {
        if quantizer.scheme.quantization_type() != QuantizationType::QInt8 {
            return Err(SaveError::NotQuantizable {
                path: checkpoint.path().to_owned(),
                tensor: checkpoint.tensor(id).name.to_string(),
                why: NotQuantizable::OnlyMeasured(quantizer.scheme),
            });
        }
        let obstacle = crate::plan::obstacle(checkpoint, id).filter(|o| !o.can_be_overruled());
        if let Some(obstacle) = obstacle {
            let name = checkpoint.tensor(id).name.escape_debug().to_string();
            let why = format!("tensor '{name}' cannot be quantized: {obstacle}");
            return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
        }
    }
    Ok(())
}
