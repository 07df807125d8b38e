//! Encodes the entries of an output file chunk by chunk.

use crate::checkpoint::packed::{BIAS_FACTOR, Int8Values};
use crate::checkpoint::{Checkpoint, Reader, StoredId};
use crate::export::biases::{preset_factor, write_biases};
use crate::export::compensated::CompensatedTensors;
use crate::export::error::SaveError;
use crate::export::output_plan::{KnownScales, MadeFrom, OutFile, OutputPlan};
use crate::export::overflow;
use crate::quantization::compensation::RecordedInputs;
use crate::quantization::ggml::{Importance, dequantize_blocks, quantize_elements};
use crate::quantization::{
    Chunks, EncodedRows, ErrorSums, GroupScales, NotQuantizable, Preset, PresetCoder, PresetPart,
    Quantizer, Rounding, ScaledGroup, SeenCodes, dequantize_groups, difference, kernels,
    narrowed_scale,
};
use crate::tensor::{BlockType, FloatType, Shape, TensorId, write_f64};
use std::fs::File;
use std::ops::Range;

/// A destination for encoded bytes: an output file.
pub trait Sink {
    /// Writes `bytes` at offset `at`, immediately or later. The buffer's contents are unspecified
    /// afterwards.
    fn write(&mut self, at: u64, bytes: &mut Vec<u8>) -> Result<(), SaveError>;

    /// Shares blocks of another file without reading them: `length` bytes from offset `start` of
    /// `from`, to offset `at`. Returns the shared range relative to `at`; the rest must be written.
    fn share(&mut self, at: u64, from: &File, start: u64, length: u64) -> Range<u64>;
}

/// Encodes chunks. Each thread has its own encoder.
pub struct ChunkEncoder<'c> {
    checkpoint: &'c Checkpoint,
    reader: Reader<'c>,
    known: &'c KnownScales,
    rounding: Rounding,
    importance: Importance,
    /// The error since it was last taken; `None` if it is not measured.
    error: Option<ErrorSums>,
    for_inputs: Option<(&'c RecordedInputs, &'c CompensatedTensors)>,
    /// int8 values, as bytes.
    values: Vec<u8>,
    rows: EncodedRows,
    out: Vec<u8>,
}

/// The destination of an encoded chunk.
struct Target<'t> {
    /// The offset of the entry in the file.
    offset: u64,
    chunks: &'t Chunks,
    /// The elements or bytes of the chunk.
    range: Range<u64>,
    sink: &'t mut dyn Sink,
}

/// A tensor to quantize.
struct Quantized<'s> {
    tensor: TensorId,
    quantizer: Quantizer,
    /// The shape that is divided into groups with one scale each.
    shape: &'s Shape,
    /// The type of its stored scales.
    scale_type: FloatType,
    transposed: bool,
}

impl<'c> ChunkEncoder<'c> {
    /// Creates an encoder. `known` has the scales of all tensors whose groups span chunks.
    pub fn new(
        checkpoint: &'c Checkpoint,
        output_plan: &OutputPlan,
        known: &'c KnownScales,
    ) -> Self {
        let reader = checkpoint.reader();
        let (rounding, importance) = (output_plan.rounding, output_plan.importance.clone());
        let (values, rows, out) = (Vec::new(), EncodedRows::default(), Vec::new());
        let (error, for_inputs) = (None, None);
        ChunkEncoder {
            checkpoint,
            reader,
            known,
            rounding,
            importance,
            error,
            for_inputs,
            values,
            rows,
            out,
        }
    }

    /// Enables measuring the error of quantized tensors.
    pub(crate) fn measuring(mut self) -> Self {
        self.error = Some(ErrorSums::default());
        self
    }

    /// Returns the error of everything encoded since the last call; `None` if it is not measured.
    pub(crate) fn take_error(&mut self) -> Option<ErrorSums> {
        self.error.as_mut().map(std::mem::take)
    }

    /// The same for a tensor that is rounded for its layer's inputs. What is written is recorded
    /// in `written`.
    pub(crate) fn for_inputs(
        self,
        inputs: &'c RecordedInputs,
        written: &'c CompensatedTensors,
    ) -> Self {
        ChunkEncoder { for_inputs: Some((inputs, written)), ..self }
    }

    /// Encodes chunk `k` of the entry at index `entry` of `file`, and writes it to `sink`.
    pub fn encode(
        &mut self,
        file: &OutFile,
        entry: usize,
        chunks: &Chunks,
        k: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), SaveError> {
        let (Some(&offset), Some(entry)) = (file.offsets.get(entry), file.entries.get(entry))
        else {
            return Ok(());
        };
        let range = chunks.range(k);
        let mut target = Target { offset, chunks, range: range.clone(), sink };
        match &entry.made_from {
            MadeFrom::Stored(id) => self.copy(*id, &mut target),
            MadeFrom::Transposed(id) => {
                self.reader.transposed_into(*id, range.clone(), &mut self.out)?;
                target.sink.write(offset + range.start, &mut self.out)
            }
            &MadeFrom::Values { tensor, quantizer, stored_as } => {
                let Some((scales_at, scale_type)) = file.scales_of(tensor) else { return Ok(()) };
                let transposed = file.transposed.contains(&tensor);
                let shape = entry.grouped_shape(self.checkpoint, tensor);
                let quantized = Quantized { tensor, quantizer, shape, scale_type, transposed };
                let groups_at = (scales_at, file.biases_of(tensor));
                self.write_values(&quantized, stored_as, groups_at, &mut target)
            }
            MadeFrom::Scales { .. } | MadeFrom::Biases { .. } => Ok(()),
            MadeFrom::Zeros => {
                self.out.clear();
                self.out.resize((range.end - range.start) as usize, 0);
                target.sink.write(offset + range.start, &mut self.out)
            }
            MadeFrom::PresetPart { .. } => Ok(()),
            &MadeFrom::PresetValues { tensor, quantizer } => match quantizer.scheme.preset() {
                Some(preset) => self.write_preset(file, tensor, preset, &mut target),
                None => Ok(()),
            },
            MadeFrom::Literal(bytes) => {
                let part = range.start as usize..range.end as usize;
                self.out.clear();
                self.out.extend_from_slice(bytes.get(part).unwrap_or_default());
                target.sink.write(offset + range.start, &mut self.out)
            }
            &MadeFrom::Floats { tensor, to } => self.write_floats(tensor, to, &mut target),
            &MadeFrom::FakeQuantized { tensor, quantizer } => {
                self.write_fake_quantized(tensor, quantizer, &mut target)
            }
            &MadeFrom::GgmlBlocks { tensor, block, .. } => {
                self.write_ggml_blocks(tensor, block, &mut target)
            }
        }
    }

    /// Copies bytes of a stored tensor, sharing blocks where the file system can.
    fn copy(&mut self, id: StoredId, target: &mut Target) -> Result<(), SaveError> {
        let Target { offset, range, sink, .. } = target;
        let length = range.end - range.start;
        let shared = self.reader.in_file(id, |file, begin| {
            sink.share(*offset + range.start, file, begin + range.start, length)
        })?;
        let shared = shared.unwrap_or(0..0);
        for rest in [0..shared.start, shared.end..length] {
            if !rest.is_empty() {
                let part = range.start + rest.start..range.start + rest.end;
                self.reader.stored_into(id, part.clone(), &mut self.out)?;
                sink.write(*offset + part.start, &mut self.out)?;
            }
        }
        Ok(())
    }

    /// Writes int8 values, and their scales and biases at the offsets `groups_at`.
    fn write_values(
        &mut self,
        quantized: &Quantized,
        stored_as: Int8Values,
        (scales_at, biases_at): (u64, Option<u64>),
        target: &mut Target,
    ) -> Result<(), SaveError> {
        let scales = self.quantize(quantized, target)?;
        stored_as.code(&mut self.values);
        target.sink.write(target.offset + target.range.start, &mut self.values)?;
        let groups = quantized.quantizer.scheme.groups(quantized.shape);
        // Every chunk has elements of all strided groups, and one writes their scales.
        if groups.are_strided() && target.range.start > 0 {
            return Ok(());
        }
        let (first, to) = (groups.touched_by(&target.range).start, quantized.scale_type);
        self.out.clear();
        scales.iter().for_each(|&scale| write_f64(to, scale.into(), &mut self.out));
        target.sink.write(scales_at + first * to.size() as u64, &mut self.out)?;
        let Some(biases_at) = biases_at else { return Ok(()) };
        self.out.clear();
        scales.iter().for_each(|&scale| write_f64(to, scale.into(), &mut self.out));
        let mut biases = Vec::new();
        write_biases(BIAS_FACTOR, to, &self.out, &mut biases).map_err(|scale| {
            let why = NotQuantizable::ScaleOverflow { absmax: scale * 127.0 };
            self.not_quantizable(quantized.tensor, why)
        })?;
        self.out = biases;
        target.sink.write(biases_at + first * to.size() as u64, &mut self.out)
    }

    /// Encodes whole rows of a tensor, and writes them to all of its parts.
    fn write_preset(
        &mut self,
        file: &OutFile,
        tensor: TensorId,
        preset: Preset,
        target: &mut Target,
    ) -> Result<(), SaveError> {
        let shape = &self.checkpoint.tensor(tensor).shape;
        let (absmax, first) = (absmax(self.known, tensor), target.range.start);
        let (rows, error, for_inputs) = (&mut self.rows, &mut self.error, self.for_inputs);
        let encoded = self.reader.with_bytes(tensor, target.range.clone(), |dtype, bytes| {
            let coder = PresetCoder::new(preset, dtype, shape, absmax);
            if let Some((inputs, written)) = for_inputs {
                let (output, sums) = coder.encode_for_inputs(bytes, inputs, rows)?;
                let first = first / coder.columns() as u64;
                written.record((tensor, first), coder.row_bytes(), &rows.values, output);
                if let Some(error) = error {
                    error.merge(&sums);
                }
                return Ok(coder);
            }
            match error {
                None => coder.encode(bytes, rows)?,
                Some(error) => {
                    let (mut sums, mut seen) = (ErrorSums::default(), SeenCodes::new(preset));
                    let each = |x: &[f32], codes: &[u8], row: &[f32]| {
                        sums.merge(&kernels::restored_error(x, row));
                        seen.mark(codes);
                    };
                    coder.encode_and_restore(bytes, rows, each)?;
                    sums.levels = seen.levels();
                    error.merge(&sums);
                }
            }
            Ok::<_, NotQuantizable>(coder)
        })?;
        let Some(coder) = encoded else { return Ok(()) };
        let coder =
            coder.map_err(|why| self.not_quantizable(tensor, why.after(target.range.start)))?;
        let row = target.range.start / coder.columns() as u64;
        let at = target.offset + row * coder.row_bytes() as u64;
        if let Some(offset) = file.offset_of_part(tensor, PresetPart::Biases) {
            let (scale_type, scales) = (coder.scale_type(), &self.rows.scales);
            let written = write_biases(preset_factor(preset), scale_type, scales, &mut self.out);
            written.map_err(|scale| {
                let absmax = scale * f64::from(preset.quantization_type().max());
                self.not_quantizable(tensor, NotQuantizable::ScaleOverflow { absmax })
            })?;
            target.sink.write(offset + coder.scales_before(row), &mut self.out)?;
        }
        let EncodedRows { values, scales, zero_points } = &mut self.rows;
        target.sink.write(at, values)?;
        if let Some(offset) = file.offset_of_part(tensor, PresetPart::Scales) {
            target.sink.write(offset + coder.scales_before(row), scales)?;
        }
        if let Some(offset) = file.offset_of_part(tensor, PresetPart::ZeroPoints) {
            target.sink.write(offset + coder.zero_points_before(row), zero_points)?;
        }
        match file.offset_of_part(tensor, PresetPart::GlobalScale) {
            Some(offset) if row == 0 => {
                let to = file.type_of_part(tensor, PresetPart::GlobalScale);
                self.out = coder.global_bytes(to);
                target.sink.write(offset, &mut self.out)
            }
            _ => Ok(()),
        }
    }

    /// Writes the elements of whole rows after the rounding of a preset, in their own type.
    fn write_restored(
        &mut self,
        tensor: TensorId,
        preset: Preset,
        target: &mut Target,
    ) -> Result<(), SaveError> {
        let info = self.checkpoint.tensor(tensor);
        let to = info.dtype.float().unwrap_or(FloatType::F32);
        let absmax = absmax(self.known, tensor);
        let mut restored: Vec<u8> = Vec::new();
        let error = &mut self.error;
        let encoded = self.reader.with_bytes(tensor, target.range.clone(), |dtype, bytes| {
            let coder = PresetCoder::new(preset, dtype, &info.shape, absmax);
            let mut seen = SeenCodes::new(preset);
            let each = |x: &[f32], codes: &[u8], row: &[f32]| {
                restored.extend(row.iter().flat_map(|value| value.to_le_bytes()));
                if let Some(error) = error {
                    error.merge(&kernels::restored_error(x, row));
                    seen.mark(codes);
                }
            };
            coder.restore(bytes, each, |_, _| {})?;
            if let Some(error) = error {
                error.merge(&ErrorSums { levels: seen.levels(), ..ErrorSums::default() });
            }
            Ok::<_, NotQuantizable>(())
        })?;
        let encoded = encoded.unwrap_or(Ok(()));
        encoded.map_err(|why| self.not_quantizable(tensor, why.after(target.range.start)))?;
        kernels::convert(FloatType::F32, &restored, to, &mut self.out);
        let at = target.offset + target.range.start * to.size() as u64;
        target.sink.write(at, &mut self.out)
    }

    fn write_floats(
        &mut self,
        tensor: TensorId,
        to: FloatType,
        target: &mut Target,
    ) -> Result<(), SaveError> {
        let ChunkEncoder { reader, out, .. } = self;
        out.clear();
        let overflow = reader.with_bytes(tensor, target.range.clone(), |from, bytes| {
            kernels::convert(from, bytes, to, out);
            overflow::first((from, bytes), (to, out))
        })?;
        if let Some((index, value)) = overflow.flatten() {
            return Err(self.overflowing(tensor, target.range.start + index, value, to));
        }
        target.sink.write(target.offset + target.range.start * to.size() as u64, &mut self.out)
    }

    fn write_fake_quantized(
        &mut self,
        tensor: TensorId,
        quantizer: Quantizer,
        target: &mut Target,
    ) -> Result<(), SaveError> {
        if let Some(preset) = quantizer.scheme.preset() {
            return self.write_restored(tensor, preset, target);
        }
        let info = self.checkpoint.tensor(tensor);
        let to = info.dtype.float().unwrap_or(FloatType::F32);
        let (shape, scale_type) = (&info.shape, FloatType::F32);
        let quantized = Quantized { tensor, quantizer, shape, scale_type, transposed: false };
        let scales = self.quantize(&quantized, target)?;
        let groups = quantizer.scheme.groups(shape);
        let values = bytemuck::cast_slice(&self.values);
        let start = target.range.start;
        dequantize_groups(&groups, start, values, &scales, to, &mut self.out);
        target.sink.write(target.offset + start * to.size() as u64, &mut self.out)
    }

    fn write_ggml_blocks(
        &mut self,
        tensor: TensorId,
        block: BlockType,
        target: &mut Target,
    ) -> Result<(), SaveError> {
        let start = target.range.start;
        let Some((dtype, elements)) = self.reader.elements(tensor, target.range.clone())? else {
            return Ok(());
        };
        self.out.clear();
        let importance = self.importance.of_rows(tensor, &self.checkpoint.tensor(tensor).shape);
        let encoded = quantize_elements(block, (dtype, elements), start, importance, &mut self.out);
        if let (Ok(()), Some(error)) = (&encoded, &mut self.error) {
            let mut read_back = Vec::new();
            if dequantize_blocks(block, &self.out, &mut read_back).is_ok() {
                let read_back = (FloatType::F32, bytemuck::cast_slice(&read_back));
                error.merge(&difference((dtype, elements), read_back).sums);
            }
        }
        encoded.map_err(|error| {
            self.not_quantizable(tensor, error.not_quantizable(block).after(start))
        })?;
        let at = target.offset + start / block.elements() * block.bytes();
        target.sink.write(at, &mut self.out)
    }

    fn overflowing(&self, tensor: TensorId, index: u64, value: f64, to: FloatType) -> SaveError {
        let name = self.checkpoint.tensor(tensor).name.escape_debug();
        let dtype = to.dtype();
        let larger = if to == FloatType::F16 { "bf16 or f32" } else { "f32" };
        let why = format!(
            "tensor '{name}' has values that {dtype} cannot hold: element {index} is {value}; choose --dtype {larger}"
        );
        SaveError::Unfit { path: self.checkpoint.path().to_owned(), why }
    }

    fn not_quantizable(&self, tensor: TensorId, why: NotQuantizable) -> SaveError {
        SaveError::NotQuantizable {
            path: self.checkpoint.path().to_owned(),
            tensor: self.checkpoint.tensor(tensor).name.to_string(),
            why,
        }
    }

    /// Quantizes the elements of a chunk into `self.values`. Returns the scales of the groups
    /// they belong to, in order, rounded to their stored type. The scales of groups that span
    /// chunks are taken from `self.known`.
    fn quantize(&mut self, quantized: &Quantized, target: &Target) -> Result<Vec<f32>, SaveError> {
        let &Quantized { tensor, quantizer, shape, scale_type, transposed } = quantized;
        let Target { chunks, ref range, .. } = *target;
        let known = if chunks.hold(&quantizer.scheme.groups(shape)) {
            None
        } else {
            Some(self.known.get(&tensor).map(Vec::as_slice).unwrap_or_default())
        };
        let (values, error, rounding) = (&mut self.values, &mut self.error, self.rounding);
        let qtype = quantizer.scheme.quantization_type();
        let learned = self.checkpoint.learned(tensor);
        let group_scales = GroupScales::new(quantizer, rounding, shape, learned)
            .stored_as(scale_type)
            .known(known);
        values.resize((range.end - range.start) as usize, 0);
        let quantize = |dtype: FloatType, bytes: &[u8]| {
            let mut scales = Vec::new();
            let run = group_scales.run(range.start, dtype, bytes);
            for ScaledGroup { slice, scale } in group_scales.scaled(&run) {
                let scale = scale?;
                scales.push(scale);
                if let Some(error) = error {
                    let params = kernels::Quantization { scale, qtype, rounding };
                    error.merge(&kernels::error(dtype, slice.bytes, params));
                }
                if let Some(out) = values.get_mut(slice.positions) {
                    let out = bytemuck::cast_slice_mut(out);
                    kernels::quantize(dtype, slice.bytes, scale, rounding, out);
                }
            }
            run.order.restore(1, values);
            Ok(scales)
        };
        let result = if transposed {
            self.reader.with_transposed_bytes(tensor, range.clone(), quantize)?
        } else {
            self.reader.with_bytes(tensor, range.clone(), quantize)?
        };
        let scales = result.unwrap_or(Ok(Vec::new()));
        let scales = scales.map_err(|why| self.not_quantizable(tensor, why))?;
        Ok(match known.filter(|_| quantizer.scheme.groups(shape).are_strided()) {
            Some(known) => known.iter().map(|&scale| narrowed_scale(scale, scale_type)).collect(),
            None => scales,
        })
    }
}

/// Returns the largest magnitude of all tensors that share a global scale with this one, if it is
/// known.
pub(crate) fn absmax(known: &KnownScales, tensor: TensorId) -> f64 {
    known.get(&tensor).and_then(|known| known.first()).copied().unwrap_or_default().into()
}
