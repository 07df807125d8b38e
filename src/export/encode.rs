//! Making the bytes of one chunk of one entry.

use crate::checkpoint::{Checkpoint, Reader};
use crate::export::error::SaveError;
use crate::export::gguf;
use crate::export::output_plan::{MadeFrom, OutFile, OutputPlan};
use crate::quantization::{
    Chunks, GroupScales, Quantizer, Rounding, ScaledGroup, dequantize_groups, kernels,
};
use crate::tensor::{BlockType, FloatType, Shape, TensorId, write_f64};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;

/// The scales of tensors whose groups are longer than a chunk, from an earlier pass.
pub type KnownScales = HashMap<TensorId, Vec<f32>>;

/// Makes chunks; one for each thread.
pub struct ChunkEncoder<'c> {
    checkpoint: &'c Checkpoint,
    reader: Reader<'c>,
    known: &'c KnownScales,
    rounding: Rounding,
    /// Values of int8, as bytes.
    values: Vec<u8>,
    out: Vec<u8>,
}

/// The file that is made.
pub trait Sink {
    /// Writes bytes where they belong, or sees to it that they will be. What is left in their
    /// place is of no meaning.
    fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError>;

    /// Takes over bytes of another file without their being read: `length` from `start` on,
    /// which belong at `at`. Gives which of them, counted from there, it has now.
    fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64>;
}

impl<'c> ChunkEncoder<'c> {
    pub fn new(
        checkpoint: &'c Checkpoint,
        output_plan: &OutputPlan,
        known: &'c KnownScales,
    ) -> Self {
        let reader = checkpoint.reader();
        let rounding = output_plan.rounding;
        ChunkEncoder { checkpoint, reader, known, rounding, values: Vec::new(), out: Vec::new() }
    }

    /// Makes chunk `k` of entry `number` of `file`, and gives its bytes to `sink`.
    pub fn make(
        &mut self,
        file: &OutFile,
        number: usize,
        chunks: &Chunks,
        k: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), SaveError> {
        let (Some(entry), Some(&offset)) = (file.entries.get(number), file.offsets.get(number))
        else {
            return Ok(());
        };
        let range = chunks.range(k);
        match entry.made_from {
            MadeFrom::Stored(id) => {
                let length = range.end - range.start;
                let shared = self.reader.in_file(id, |file, begin| {
                    sink.share(offset + range.start, file, begin + range.start, length)
                })?;
                let shared = shared.unwrap_or(0..0);
                for part in [0..shared.start, shared.end..length] {
                    if !part.is_empty() {
                        let part = range.start + part.start..range.start + part.end;
                        self.reader.stored_into(id, part.clone(), &mut self.out)?;
                        sink.write(offset + part.start, &mut self.out)?;
                    }
                }
                Ok(())
            }
            MadeFrom::Transposed(id) => {
                self.reader.transposed_into(id, range.clone(), &mut self.out)?;
                sink.write(offset + range.start, &mut self.out)
            }
            MadeFrom::Values { tensor, quantizer, stored_as } => {
                let Some((scales_at, to)) = file.scales_of(tensor) else { return Ok(()) };
                let shape = entry.grouped(self.checkpoint, tensor);
                let transposed = file.transposed.contains(&tensor);
                let what = What { tensor, quantizer, shape, scale_type: to, transposed };
                let scales = self.quantize(what, chunks, &range)?;
                let first = quantizer.scheme.groups(shape).of(range.start);
                stored_as.code(&mut self.values);
                sink.write(offset + range.start, &mut self.values)?;
                self.out.clear();
                scales.iter().for_each(|&scale| write_f64(to, scale.into(), &mut self.out));
                sink.write(scales_at + first * to.size() as u64, &mut self.out)
            }
            MadeFrom::Scales { .. } => Ok(()),
            MadeFrom::Literal(ref bytes) => {
                let part = range.start as usize..range.end as usize;
                self.out.clear();
                self.out.extend_from_slice(bytes.get(part).unwrap_or_default());
                sink.write(offset + range.start, &mut self.out)
            }
            MadeFrom::Floats { tensor, to } => {
                let ChunkEncoder { reader, out, .. } = self;
                out.clear();
                reader.look(tensor, range.clone(), |from, bytes| {
                    kernels::convert(from, bytes, to, out);
                })?;
                sink.write(offset + range.start * to.size() as u64, &mut self.out)
            }
            MadeFrom::FakeQuantized { tensor, quantizer } => {
                let info = self.checkpoint.tensor(tensor);
                let to = info.dtype.float().unwrap_or(FloatType::F32);
                let (shape, scale_type) = (&info.shape, FloatType::F32);
                let what = What { tensor, quantizer, shape, scale_type, transposed: false };
                let scales = self.quantize(what, chunks, &range)?;
                let groups = quantizer.scheme.groups(shape);
                let values = bytemuck::cast_slice(&self.values);
                dequantize_groups(&groups, range.start, values, &scales, to, &mut self.out);
                sink.write(offset + range.start * to.size() as u64, &mut self.out)
            }
            MadeFrom::Q8_0 { tensor } => {
                let read = self.reader.elements(tensor, range.clone())?;
                let Some((dtype, elements)) = read else { return Ok(()) };
                gguf::q8_0(dtype, elements, &mut self.out).map_err(|why| {
                    SaveError::NotQuantizable {
                        path: self.checkpoint.path().to_owned(),
                        tensor: self.checkpoint.tensor(tensor).name.to_string(),
                        why: why.after(range.start),
                    }
                })?;
                let block = BlockType::Q8_0;
                sink.write(offset + range.start / block.elements() * block.bytes(), &mut self.out)
            }
        }
    }

    /// Quantizes the elements of `range` into `self.values` and returns the scales of their
    /// groups in order. Groups that span chunks have scales from an earlier pass.
    fn quantize(
        &mut self,
        what: What,
        chunks: &Chunks,
        range: &Range<u64>,
    ) -> Result<Vec<f32>, SaveError> {
        let What { tensor, quantizer, shape, scale_type, transposed } = what;
        let known = match chunks.hold(&quantizer.scheme.groups(shape)) {
            true => None,
            false => Some(self.known.get(&tensor).map(Vec::as_slice).unwrap_or_default()),
        };
        let (values, rounding) = (&mut self.values, self.rounding);
        let learned = self.checkpoint.learned(tensor);
        let group_scales = GroupScales::new(quantizer, rounding, shape, learned)
            .stored_as(scale_type)
            .known(known);
        values.resize((range.end - range.start) as usize, 0);
        let quantize = |dtype: FloatType, bytes: &[u8]| {
            let mut scales = Vec::new();
            for ScaledGroup { slice, scale } in group_scales.scaled(range.start, dtype, bytes) {
                let scale = scale?;
                scales.push(scale);
                if let Some(out) = values.get_mut(slice.positions) {
                    let out = bytemuck::cast_slice_mut(out);
                    kernels::quantize(dtype, slice.bytes, scale, rounding, out);
                }
            }
            Ok(scales)
        };
        let quantized = match transposed {
            false => self.reader.look(tensor, range.clone(), quantize)?,
            true => self.reader.look_transposed(tensor, range.clone(), quantize)?,
        };
        quantized.unwrap_or(Ok(Vec::new())).map_err(|why| SaveError::NotQuantizable {
            path: self.checkpoint.path().to_owned(),
            tensor: self.checkpoint.tensor(tensor).name.to_string(),
            why,
        })
    }
}

/// What is quantized, and how.
struct What<'s> {
    tensor: TensorId,
    quantizer: Quantizer,
    /// The shape that is written, which divides the elements into groups.
    shape: &'s Shape,
    /// The type its scales are stored in.
    scale_type: FloatType,
    transposed: bool,
}
