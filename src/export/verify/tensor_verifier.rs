//! Compares the elements of an output with those of its source, chunk by chunk.
//!
//! The expected values are computed here from the source. Only the kernels are shared with the code
//! that encoded them.

use crate::checkpoint::formats::gguf::IMPORTANCE_FILE_KEY;
use crate::checkpoint::packed::BIAS_FACTOR;
use crate::checkpoint::{Checkpoint, Reader, StoredId};
use crate::export::biases::{preset_factor, write_biases};
use crate::export::encode::absmax;
use crate::export::error::SaveError;
use crate::export::output_plan::KnownScales;
use crate::export::verify::pairing::{Match, Pair, Pairing, parts};
use crate::quantization::ggml::quantize_elements;
use crate::quantization::{
    Chunks, EncodedRows, ErrorSums, GroupScales, Preset, PresetCoder, PresetGroup, PresetPart,
    ScaledGroup, SeenCodes, difference, kernels,
};
use crate::tensor::{BlockType, FloatType, TensorId, read_f64};
use half::bf16;
use std::ops::Range;

/// Compares chunks. Each thread has its own verifier.
pub(crate) struct TensorVerifier<'k> {
    pairing: &'k Pairing<'k>,
    known: &'k KnownScales,
    out: Reader<'k>,
    source: Reader<'k>,
    values: Vec<i8>,
    written: Vec<u8>,
    expected: Vec<u8>,
}

impl<'k> TensorVerifier<'k> {
    /// Creates a verifier. `known` has the scales of [`Pairing::to_calibrate`].
    pub(crate) fn new(pairing: &'k Pairing<'k>, known: &'k KnownScales) -> TensorVerifier<'k> {
        TensorVerifier {
            pairing,
            known,
            out: pairing.out.reader(),
            source: pairing.source.reader(),
            values: Vec::new(),
            written: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Compares chunk `k` of a pair. For quantized tensors returns the error of the written bytes
    /// relative to the source.
    pub(crate) fn verify(
        &mut self,
        pair: &Pair,
        chunks: &Chunks,
        k: u64,
    ) -> Result<Option<ErrorSums>, SaveError> {
        let range = chunks.range(k);
        match pair.matched {
            Match::Identical => self.identical(pair, range).map(|()| None),
            Match::Quantized => self.quantized(pair, chunks, range).map(Some),
            Match::FakeQuantized(..) => self.fake_quantized(pair, chunks, range).map(Some),
            Match::Preset(preset) => self.preset(pair, preset, range).map(Some),
            Match::GgmlBlocks(block) => self.ggml_blocks(pair, block, range).map(Some),
            Match::Dequantized(to) => {
                let TensorVerifier { source, expected, .. } = self;
                expected.clear();
                source.with_bytes(pair.source, range.clone(), |from, bytes| {
                    kernels::convert(from, bytes, to, expected);
                })?;
                self.compare_floats(pair, range, to).map(|()| None)
            }
        }
    }

    fn mismatch(&self, pair: &Pair, why: String) -> SaveError {
        let out = self.pairing.out;
        let tensor = out.tensor(pair.out).name.to_string();
        SaveError::TensorDiffers { path: out.path().to_owned(), tensor, why }
    }

    /// Compares a copied tensor. `range` counts bytes across all its parts.
    fn identical(&mut self, pair: &Pair, range: Range<u64>) -> Result<(), SaveError> {
        let (out, source) = (self.pairing.out, self.pairing.source);
        let mut start = 0;
        for &(a, b) in &pair.parts {
            let length = out.stored(a).bytes();
            let part = range.start.max(start)..range.end.min(start + length);
            start += length;
            if part.is_empty() {
                continue;
            }
            let first = start - length;
            let part = part.start - first..part.end - first;
            if source.stored(b).bytes() != length {
                return Err(self.mismatch(pair, "its size differs from the source's".into()));
            }
            let written = self.out.stored(a, part.clone())?;
            let original = if pair.transposed {
                self.source.transposed_into(b, part.clone(), &mut self.expected)
            } else {
                self.source.stored_into(b, part.clone(), &mut self.expected)
            };
            original?;
            if let Some(at) = first_difference(written, &self.expected) {
                let why = format!("its byte {} differs from the source's", part.start + at);
                return Err(self.mismatch(pair, why));
            }
        }
        Ok(())
    }

    fn quantized(
        &mut self,
        pair: &Pair,
        chunks: &Chunks,
        range: Range<u64>,
    ) -> Result<ErrorSums, SaveError> {
        let mut sums = ErrorSums::default();
        let layout = self.pairing.out.packed_format(pair.out).and_then(|l| l.int8());
        let (Some(int8), Some((quantizer, rounding))) = (layout, self.pairing.quantizer(pair))
        else {
            return Ok(sums);
        };
        let learned = self.pairing.source.learned(pair.source);
        let TensorVerifier { known, out, source, values, written, .. } = self;
        let group_scales = GroupScales::new(quantizer, rounding, &int8.shape, learned)
            .stored_as(int8.scale_type)
            .known(known_scales(known, pair.source, chunks.hold(&int8.groups())));
        let first = int8.groups_of(&range).start;
        let scales = int8.scales(out.stored_reader(), int8.groups_of(&range))?;
        let biases = int8.biases(out.stored_reader(), int8.groups_of(&range))?;
        let written = int8.values(out.stored_reader(), range.clone(), written)?;
        let mut seen = kernels::SeenLevels::default();
        // Returns the first difference.
        let compare = |dtype: FloatType, elements: &[u8]| {
            let run = group_scales.run(range.start, dtype, elements);
            let written = run.order.arranged(1, bytemuck::cast_slice(written));
            for ScaledGroup { slice, scale } in group_scales.scaled(&run) {
                let (group, x) = (slice.group, slice.bytes);
                let expected = scale.ok().filter(|scale| !scale.is_nan());
                let scale = scales.get((group - first) as usize).copied().unwrap_or(f32::NAN);
                if expected.map(f32::to_bits) != Some(scale.to_bits()) {
                    let expected = expected.map_or("none".into(), |e| e.to_string());
                    return Some(format!("scale {group} is {scale}, expected {expected}"));
                }
                if let Some(biases) = &biases {
                    let expected = BIAS_FACTOR * scale;
                    let bias = biases.get((group - first) as usize).copied().unwrap_or(f32::NAN);
                    if bias.to_bits() != expected.to_bits() {
                        return Some(format!("bias {group} is {bias}, expected {expected}"));
                    }
                }
                let first = slice.positions.start;
                let written = written.get(slice.positions).unwrap_or_default();
                let written = bytemuck::cast_slice(written);
                let params = (scale, rounding);
                match kernels::error_if_codes_match(dtype, x, params, written, &mut seen) {
                    Some(error) => sums.merge(&error),
                    None => {
                        values.resize(x.len() / dtype.size(), 0);
                        kernels::quantize(dtype, x, scale, rounding, values);
                        let made = bytemuck::cast_slice(values);
                        let at = first_difference(bytemuck::cast_slice(written), made);
                        let index = run.order.index(first + at.unwrap_or(0) as usize);
                        return Some(format!(
                            "its element {index} differs from the one computed from the source"
                        ));
                    }
                }
            }
            None
        };
        let wrong = if pair.transposed {
            source.with_transposed_bytes(pair.source, range.clone(), compare)?
        } else {
            source.with_bytes(pair.source, range.clone(), compare)?
        };
        match wrong.flatten() {
            Some(why) => Err(self.mismatch(pair, why)),
            None => Ok(sums),
        }
    }

    fn fake_quantized(
        &mut self,
        pair: &Pair,
        chunks: &Chunks,
        range: Range<u64>,
    ) -> Result<ErrorSums, SaveError> {
        let mut sums = ErrorSums::default();
        let Some((quantizer, rounding)) = self.pairing.quantizer(pair) else { return Ok(sums) };
        if let Some(preset) = quantizer.scheme.preset() {
            return self.restored(pair, preset, range);
        }
        let source = self.pairing.source;
        let shape = &source.tensor(pair.source).shape;
        let holds = chunks.hold(&quantizer.scheme.groups(shape));
        let learned = source.learned(pair.source);
        let group_scales = GroupScales::new(quantizer, rounding, shape, learned)
            .known(known_scales(self.known, pair.source, holds));
        let read = self.source.elements(pair.source, range.clone())?;
        let Some((dtype, elements)) = read else { return Ok(sums) };
        self.expected.clear();
        self.expected.resize(elements.len(), 0);
        let run = group_scales.run(range.start, dtype, elements);
        for ScaledGroup { slice, scale } in group_scales.scaled(&run) {
            let (at, x) = (slice.positions, slice.bytes);
            let scale = scale.unwrap_or(f32::NAN);
            self.values.resize(at.len(), 0);
            kernels::quantize(dtype, x, scale, rounding, &mut self.values);
            let bytes = at.start * dtype.size()..at.end * dtype.size();
            if let Some(expected) = self.expected.get_mut(bytes) {
                kernels::dequantize(&self.values, scale, dtype, expected);
            }
            let qtype = quantizer.scheme.quantization_type();
            sums.merge(&kernels::error(dtype, x, kernels::Quantization { scale, qtype, rounding }));
        }
        run.order.restore(dtype.size(), &mut self.expected);
        self.compare_floats(pair, range, dtype)?;
        Ok(sums)
    }

    /// Compares dequantized rows. `range` consists of whole rows.
    fn restored(
        &mut self,
        pair: &Pair,
        preset: Preset,
        range: Range<u64>,
    ) -> Result<ErrorSums, SaveError> {
        let shape = &self.pairing.source.tensor(pair.source).shape;
        let absmax = absmax(self.known, pair.source);
        let (mut sums, mut restored) = (ErrorSums::default(), Vec::new());
        let mut seen = SeenCodes::new(preset);
        let found = self.source.with_bytes(pair.source, range.clone(), |dtype, bytes| {
            let coder = PresetCoder::new(preset, dtype, shape, absmax);
            let each = |x: &[f32], codes: &[u8], row: &[f32]| {
                sums.merge(&kernels::restored_error(x, row));
                seen.mark(codes);
                restored.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            };
            coder.restore(bytes, each, |_, _| {}).map(|()| dtype)
        })?;
        let Some(Ok(dtype)) = found else {
            return Err(self.mismatch(pair, "its source cannot be quantized".into()));
        };
        sums.levels = seen.levels();
        kernels::convert(FloatType::F32, &restored, dtype, &mut self.expected);
        self.compare_floats(pair, range, dtype)?;
        Ok(sums)
    }

    /// Compares every part of a tensor quantized with a preset, and measures the error of what is
    /// read back. `range` consists of whole rows.
    fn preset(
        &mut self,
        pair: &Pair,
        preset: Preset,
        range: Range<u64>,
    ) -> Result<ErrorSums, SaveError> {
        let shape = &self.pairing.source.tensor(pair.source).shape;
        let absmax = absmax(self.known, pair.source);
        let is_compensated = self.pairing.compensated.contains(&pair.out);
        let chosen = self.scales_of_clips(pair, preset, &range)?;
        // If the stored bytes are as expected, so are the values. The first chunk is decoded as
        // well, which also checks the parameters in headers and config.json.
        let is_decoded = range.start == 0;
        let (mut sums, mut restored) = (ErrorSums::default(), Vec::new());
        let (mut rows, mut seen) = (EncodedRows::default(), SeenCodes::new(preset));
        let encoded = self.source.with_bytes(pair.source, range.clone(), |dtype, bytes| {
            let coder = PresetCoder::new(preset, dtype, shape, absmax);
            if is_compensated {
                kernels::convert(dtype, bytes, FloatType::F32, &mut self.expected);
            }
            let each = |x: &[f32], codes: &[u8], row: &[f32]| {
                sums.merge(&kernels::restored_error(x, row));
                seen.mark(codes);
                if is_decoded {
                    restored.extend_from_slice(row);
                }
            };
            let encoded = match &chosen {
                Some(scales) => coder.encode_as_clipped(bytes, scales, &mut rows, each),
                None if is_compensated => coder.encode(bytes, &mut rows),
                None => coder.encode_and_restore(bytes, &mut rows, each),
            };
            encoded.map(|()| coder)
        })?;
        let Some(Ok(coder)) = encoded else {
            return Err(self.mismatch(pair, "its source cannot be quantized".into()));
        };
        let mut codes = None;
        let row = range.start / coder.columns() as u64;
        let mut computed = Vec::new();
        let out = self.pairing.out;
        let name = &out.tensor(pair.out).name;
        for part in parts(out, pair.out) {
            let stored = out.stored(part);
            let Some(content) = content_of(&stored.name, name, preset) else { continue };
            let (start, expected): (u64, &[u8]) = match content {
                PresetPart::Values => (row * coder.row_bytes() as u64, &rows.values),
                PresetPart::Scales => (coder.scales_before(row), &rows.scales),
                PresetPart::ZeroPoints => (coder.zero_points_before(row), &rows.zero_points),
                PresetPart::GlobalScale => {
                    computed = coder.global_bytes(stored.dtype.float());
                    (0, &computed)
                }
                PresetPart::Biases => {
                    let (factor, scale_type) = (preset_factor(preset), coder.scale_type());
                    if write_biases(factor, scale_type, &rows.scales, &mut computed).is_err() {
                        return Err(self.mismatch(pair, "its biases are beyond their type".into()));
                    }
                    (coder.scales_before(row), &computed)
                }
                // The plan determines the dimensions.
                PresetPart::Shape => continue,
            };
            let written = self.out.stored(part, start..start + expected.len() as u64)?;
            // The source gives compensated codes only together with the layer's inputs.
            if is_compensated && content == PresetPart::Values {
                let written_to = self.pairing.written;
                let (rows, row_bytes) = ((pair.source, row), coder.row_bytes());
                let same = written_to.and_then(|all| all.are_as_written(rows, row_bytes, written));
                if same == Some(false) {
                    let stored = stored.name.escape_debug();
                    let why = format!("the bytes of '{stored}' are not those that were written");
                    return Err(self.mismatch(pair, why));
                }
                codes = Some(written.to_vec());
                continue;
            }
            if let Some(at) = first_difference(written, expected) {
                let stored = stored.name.escape_debug();
                let why = format!(
                    "byte {} of '{stored}' differs from the one computed from the source",
                    start + at
                );
                return Err(self.mismatch(pair, why));
            }
        }
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
        };
        if is_compensated || is_decoded {
            let Some((_, read_back)) = self.out.elements(pair.out, range)? else {
                return Ok(ErrorSums::default());
            };
            let read_back = floats(read_back);
            // The reader takes the type of the weight from config.json, which may name another.
            let differ = |a: f32, b: f32| {
                let in_bf16 = || bf16::from_f32(a) == bf16::from_f32(b);
                a != b && !(preset.restores_in_bf16() && in_bf16())
            };
            let mut pairs = restored.iter().zip(&read_back).enumerate();
            if is_compensated {
                sums = kernels::restored_error(&floats(&self.expected), &read_back);
            } else if let Some((at, (expected, found))) = pairs.find(|(_, (a, b))| differ(**a, **b))
            {
                let why = format!("element {at} is read back as {found}, expected {expected}");
                return Err(self.mismatch(pair, why));
            }
        }
        sums.levels = match codes {
            Some(codes) => coder.levels_of(&codes),
            None => seen.levels(),
        };
        Ok(sums)
    }

    /// The stored scales of rows whose clips were searched: which of the clips a group has follows
    /// only from the layer's inputs. `None` for other tensors.
    fn scales_of_clips(
        &mut self,
        pair: &Pair,
        preset: Preset,
        range: &Range<u64>,
    ) -> Result<Option<Vec<u8>>, SaveError> {
        let Pairing { out, source, .. } = self.pairing;
        let is_clipped = self.pairing.clipped.contains(&pair.out);
        let dtype = source.float_type(pair.source).filter(|_| is_clipped);
        let Some(dtype) = dtype.filter(|_| preset.can_be_rounded_by_inputs()) else {
            return Ok(None);
        };
        let coder = PresetCoder::new(preset, dtype, &source.tensor(pair.source).shape, 0.0);
        let name = &out.tensor(pair.out).name;
        let is_scale = |id: &StoredId| {
            content_of(&out.stored(*id).name, name, preset) == Some(PresetPart::Scales)
        };
        let Some(scale) = parts(out, pair.out).into_iter().find(is_scale) else { return Ok(None) };
        let at = |element: u64| coder.scales_before(element / coder.columns() as u64);
        Ok(Some(self.out.stored(scale, at(range.start)..at(range.end))?.to_vec()))
    }

    /// Compares blocks of a ggml type. `range` consists of whole blocks, because rows do.
    fn ggml_blocks(
        &mut self,
        pair: &Pair,
        block: BlockType,
        range: Range<u64>,
    ) -> Result<ErrorSums, SaveError> {
        let read = self.source.elements(pair.source, range.clone())?;
        let Some((dtype, elements)) = read else { return Ok(ErrorSums::default()) };
        let read_back = self.out.elements(pair.out, range.clone())?;
        let sums = read_back.map(|read_back| difference((dtype, elements), read_back).sums);
        self.expected.clear();
        let Pairing { out, source, importance, .. } = self.pairing;
        let importance = importance.of_rows(pair.source, &source.tensor(pair.source).shape);
        let is_weighed = importance.is_some();
        quantize_elements(block, (dtype, elements), range.start, importance, &mut self.expected)
            .map_err(|why| self.mismatch(pair, format!("the source gives no blocks: {why}")))?;
        let &[stored] = parts(out, pair.out).as_slice() else {
            return Ok(ErrorSums::default());
        };
        let at = |element: u64| element / block.elements() * block.bytes();
        let written = self.out.stored(stored, at(range.start)..at(range.end))?;
        match first_difference(written, &self.expected) {
            None => Ok(sums.unwrap_or_default()),
            Some(at) => {
                let number = range.start / block.elements() + at / block.bytes();
                let wrong =
                    format!("its block {number} differs from the one computed from the source");
                let matrix = importance_file(out).filter(|_| !is_weighed);
                Err(self.mismatch(pair, match matrix {
                    None => wrong,
                    Some(file) => format!(
                        "{wrong} without the importance matrix '{}', which it was made with: name it with --activations",
                        file.escape_debug()
                    ),
                }))
            }
        }
    }

    /// Compares the output's elements of `range` with `self.expected`.
    fn compare_floats(
        &mut self,
        pair: &Pair,
        range: Range<u64>,
        dtype: FloatType,
    ) -> Result<(), SaveError> {
        let read = self.out.elements(pair.out, range.clone())?;
        let written = read.map_or(&[][..], |(_, bytes)| bytes);
        let Some(at) = first_difference(written, &self.expected) else { return Ok(()) };
        let index = at as usize / dtype.size();
        let show =
            |bytes| read_f64(dtype, bytes, index).map_or("nothing".into(), |v| v.to_string());
        let (found, expected) = (show(written), show(&self.expected));
        let index = range.start + index as u64;
        Err(self.mismatch(pair, format!("its element {index} is {found}, expected {expected}")))
    }
}

/// The importance matrix that a GGUF file was made with, according to its metadata.
fn importance_file(out: &Checkpoint) -> Option<&str> {
    let mut metadata = out.shards().iter().flat_map(|shard| &shard.metadata);
    let (_, file) = metadata.find(|(key, _)| key == IMPORTANCE_FILE_KEY)?;
    Some(file)
}

/// What a stored tensor holds of a weight that is quantized with a preset; `None` for one that the
/// plan determines.
fn content_of(stored: &str, weight: &str, preset: Preset) -> Option<PresetPart> {
    let last = || stored.rsplit_once('.').map_or(stored, |(_, last)| last);
    match stored.strip_prefix(weight).unwrap_or_else(last) {
        "" | "_packed" => Some(PresetPart::Values),
        "_scale" if preset.group() == PresetGroup::Tensor => Some(PresetPart::GlobalScale),
        "_scale" | "scales" => Some(PresetPart::Scales),
        "_zero_point" => Some(PresetPart::ZeroPoints),
        "_global_scale" | "_scale_2" => Some(PresetPart::GlobalScale),
        "_shape" => Some(PresetPart::Shape),
        "biases" => Some(PresetPart::Biases),
        _ => None,
    }
}

/// Returns the precomputed scales of a tensor. If chunks hold whole groups there are none: each
/// scale is computed from the elements of its group.
fn known_scales(known: &KnownScales, tensor: TensorId, chunks_hold: bool) -> Option<&[f32]> {
    (!chunks_hold).then(|| known.get(&tensor).map(Vec::as_slice).unwrap_or_default())
}

/// Returns the index of the first difference; if one slice is shorter, its length.
fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    if a == b {
        return None;
    }
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    Some(same as u64)
}
