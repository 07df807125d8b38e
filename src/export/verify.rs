//! Whether an output is what it should be: its tensors are paired with the source's, and
//! every byte of it is compared with what the source gives.

use crate::checkpoint::packed::{FAKE_METADATA_KEY, Int8, QuantizedMetadata};
use crate::checkpoint::qat::is_observer;
use crate::checkpoint::{Checkpoint, Content, Reader, StoredId};
use crate::export::encode::KnownScales;
use crate::export::error::SaveError;
use crate::export::left_out::is_left_out;
use crate::export::{burn, gguf};
use crate::quantization::{
    Chunks, ErrorSums, GroupScales, QuantizationScheme, Quantizer, Rounding, ScaledGroup,
    difference, kernels,
};
use crate::tensor::{BlockType, DType, FloatType, Shape, TensorId, read_f64};
use std::collections::HashMap;
use std::ops::Range;

/// Bytes of elements that are compared at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// How a tensor of the output came from that of the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Byte for byte.
    Identical,
    /// Its elements became int8.
    Quantized,
    /// Its elements became GGUF's blocks of int8 and a scale.
    Q8_0,
    /// They became floats of this type again.
    Dequantized(FloatType),
    /// They went through int8 and are floats of their own type.
    FakeQuantized(Quantizer, Rounding),
}

/// A tensor of the output and the one of the source it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub out: TensorId,
    pub source: TensorId,
    pub how: Match,
    /// Whether the source's elements are compared by their columns.
    pub transposed: bool,
}

/// All tensors of an output, paired.
#[derive(Debug)]
pub struct Pairing<'c> {
    pub out: &'c Checkpoint,
    pub source: &'c Checkpoint,
    pub pairs: Vec<Pair>,
}

impl<'c> Pairing<'c> {
    /// Pairs the tensors by name; an error if one has no counterpart, or is of a shape or
    /// type that nothing quantscope does could have given it.
    pub fn new(out: &'c Checkpoint, source: &'c Checkpoint) -> Result<Self, SaveError> {
        let by_name: HashMap<&str, TensorId> =
            source.ids().map(|id| (source.tensor(id).name.as_str(), id)).collect();
        let fail = |tensor: &str, why: String| SaveError::Mismatch {
            path: out.path().to_owned(),
            tensor: tensor.to_owned(),
            why,
        };
        let fake = fake_quantized(out);
        let mut pairs = Vec::with_capacity(out.tensors().len());
        for id in out.ids() {
            let info = out.tensor(id);
            let Some(&origin) = by_name.get(info.name.as_str()) else {
                let why = format!("{} holds no tensor of that name", source.path().display());
                return Err(fail(&info.name, why));
            };
            let from = source.tensor(origin);
            let transposed = burn::is_transposed(out, source, origin);
            let mut dims = from.shape.dims().to_vec();
            if transposed {
                dims.reverse();
            }
            if info.shape.dims() != dims {
                let why = format!("its shape is {}, expected {dims:?}", info.shape);
                return Err(fail(&info.name, why));
            }
            let how = match (out.content(id), source.content(origin)) {
                (Content::Packed(a), Content::Packed(b)) if a.name() == b.name() => {
                    Match::Identical
                }
                (Content::Packed(layout), Content::Plain(_))
                    if layout.int8().is_some() && from.dtype.float().is_some() =>
                {
                    Match::Quantized
                }
                (Content::Packed(_), Content::Plain(_))
                    if info.dtype == DType::Block(BlockType::Q8_0)
                        && from.dtype.float().is_some() =>
                {
                    Match::Q8_0
                }
                (Content::Plain(_), Content::Packed(_)) if info.dtype.float().is_some() => {
                    Match::Dequantized(info.dtype.float().unwrap_or(FloatType::F32))
                }
                (Content::Plain(_), Content::Plain(_)) if info.dtype == from.dtype => {
                    match fake.get(info.name.as_str()) {
                        Some(&(quantizer, rounding)) => Match::FakeQuantized(quantizer, rounding),
                        None => Match::Identical,
                    }
                }
                _ => {
                    let why = format!("its type is {}, the source's {}", info.dtype, from.dtype);
                    return Err(fail(&info.name, why));
                }
            };
            pairs.push(Pair { out: id, source: origin, how, transposed });
        }
        if pairs.len() < source.tensors().len() {
            let held: std::collections::HashSet<_> = pairs.iter().map(|p| p.source).collect();
            // The plain model has no observers, and none of them.
            let plain = !out.ids().any(|id| is_observer(&out.tensor(id).name));
            let dropped = |id: TensorId| plain && is_observer(&source.tensor(id).name);
            let left_out =
                |id: TensorId| source.plain(id).is_some_and(|stored| is_left_out(source, stored));
            let mut missing = source.ids().filter(|&id| !held.contains(&id) && !left_out(id));
            if let Some(id) = missing.find(|&id| !(source.has_observers() && dropped(id))) {
                let why = "it is missing from the output".to_owned();
                return Err(fail(&source.tensor(id).name, why));
            }
        }
        Ok(Pairing { out, source, pairs })
    }

    /// How the comparison of a pair is divided.
    pub fn chunks(&self, pair: &Pair) -> Chunks {
        if pair.how == Match::Identical {
            let bytes = parts(self.out, pair.out).iter().map(|&p| self.out.stored(p).bytes()).sum();
            return Chunks::new(&Shape::vector(bytes), CHUNK_BYTES, None);
        }
        let size = self.source.float_type(pair.source).map_or(1, FloatType::size) as u64;
        let scheme = self.quantizer(pair).map(|(quantizer, _)| quantizer.scheme);
        Chunks::new(&self.out.tensor(pair.out).shape, CHUNK_BYTES / size, scheme)
    }

    /// The quantizer the output says a tensor went through.
    pub fn quantizer(&self, pair: &Pair) -> Option<(Quantizer, Rounding)> {
        match pair.how {
            Match::FakeQuantized(quantizer, rounding) => Some((quantizer, rounding)),
            Match::Quantized => {
                let int8 = self.out.packed_format(pair.out)?.int8()?;
                let Int8 { calibration, scheme, rounding, .. } = *int8;
                Some((Quantizer { calibration, scheme }, rounding))
            }
            Match::Q8_0 => Some((gguf::QUANTIZER, Rounding::HalfAway)),
            _ => None,
        }
    }

    /// The tensors of the source whose scales must be known before chunks are compared:
    /// those with groups longer than a chunk.
    pub fn to_calibrate(&self) -> impl Iterator<Item = (TensorId, Quantizer, Rounding)> {
        self.pairs.iter().filter_map(|pair| {
            let (quantizer, rounding) = self.quantizer(pair)?;
            let groups = quantizer.scheme.groups(&self.out.tensor(pair.out).shape);
            (!self.chunks(pair).hold(&groups)).then_some((pair.source, quantizer, rounding))
        })
    }

    pub fn checker<'k>(&'k self, known: &'k KnownScales) -> Checker<'k> {
        Checker {
            pairing: self,
            known,
            out: self.out.reader(),
            source: self.source.reader(),
            values: Vec::new(),
            written: Vec::new(),
            expected: Vec::new(),
        }
    }
}

fn parts(checkpoint: &Checkpoint, id: TensorId) -> Vec<StoredId> {
    match checkpoint.content(id) {
        Content::Plain(stored) => vec![*stored],
        Content::Packed(layout) => layout.parts(),
    }
}

/// The tensors that a fake-quantized output's metadata names.
fn fake_quantized(out: &Checkpoint) -> HashMap<String, (Quantizer, Rounding)> {
    let texts = out.shards().iter().flat_map(|s| &s.metadata);
    let texts = texts.filter(|(key, _)| key == FAKE_METADATA_KEY);
    let parsed = texts.filter_map(|(_, t)| serde_json::from_str::<QuantizedMetadata>(t).ok());
    parsed
        .flat_map(|said| {
            let rounding = said.rounding.parse().unwrap_or_default();
            said.tensors.into_iter().filter_map(move |(name, described)| {
                let scheme: QuantizationScheme = described.scheme.parse().ok()?;
                let calibration = described.calibration().ok()?;
                Some((name, (Quantizer { calibration, scheme }, rounding)))
            })
        })
        .collect()
}

/// Compares chunks; one for each thread.
pub struct Checker<'k> {
    pairing: &'k Pairing<'k>,
    known: &'k KnownScales,
    out: Reader<'k>,
    source: Reader<'k>,
    values: Vec<i8>,
    written: Vec<u8>,
    expected: Vec<u8>,
}

impl Checker<'_> {
    /// Compares chunk `k` of a pair. For int8, gives the error that the bytes on disk have
    /// against the source.
    pub fn check(
        &mut self,
        pair: &Pair,
        chunks: &Chunks,
        k: u64,
    ) -> Result<Option<ErrorSums>, SaveError> {
        let range = chunks.range(k);
        match pair.how {
            Match::Identical => self.identical(pair, range).map(|()| None),
            Match::Quantized => self.quantized(pair, chunks, range).map(Some),
            Match::FakeQuantized(..) => self.fake_quantized(pair, chunks, range).map(Some),
            Match::Q8_0 => self.q8_0(pair, range).map(Some),
            Match::Dequantized(to) => {
                let Checker { source, expected, .. } = self;
                expected.clear();
                source.look(pair.source, range.clone(), |from, bytes| {
                    kernels::convert(from, bytes, to, expected);
                })?;
                self.compare_floats(pair, range, to).map(|()| None)
            }
        }
    }

    fn mismatch(&self, pair: &Pair, why: String) -> SaveError {
        let out = self.pairing.out;
        let tensor = out.tensor(pair.out).name.to_string();
        SaveError::Mismatch { path: out.path().to_owned(), tensor, why }
    }

    /// `range` counts bytes through all parts of the tensor.
    fn identical(&mut self, pair: &Pair, range: Range<u64>) -> Result<(), SaveError> {
        let (out, source) = (self.pairing.out, self.pairing.source);
        let mut start = 0;
        for (a, b) in parts(out, pair.out).into_iter().zip(parts(source, pair.source)) {
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
            let original = match pair.transposed {
                false => self.source.stored_into(b, part.clone(), &mut self.expected),
                true => self.source.transposed_into(b, part.clone(), &mut self.expected),
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
        let Checker { known, out, source, values, written, .. } = self;
        let group_scales = GroupScales::new(quantizer, rounding, &int8.shape, learned)
            .stored_as(int8.scale_type)
            .known(known_scales(known, pair.source, chunks.hold(&int8.groups())));
        let first = int8.groups_of(&range).start;
        let scales = int8.scales(out.stored_reader(), int8.groups_of(&range))?;
        let written = int8.values(out.stored_reader(), range.clone(), written)?;
        let mut seen = kernels::SeenLevels::default();
        // Gives why they are not what they should be, if they are not.
        let compare = |dtype: FloatType, elements: &[u8]| {
            for ScaledGroup { slice, scale } in group_scales.scaled(range.start, dtype, elements) {
                let (group, x) = (slice.group, slice.bytes);
                let expected = scale.ok().filter(|scale| !scale.is_nan());
                let scale = scales.get((group - first) as usize).copied().unwrap_or(f32::NAN);
                if expected.map(f32::to_bits) != Some(scale.to_bits()) {
                    let expected = expected.map_or("none".into(), |e| e.to_string());
                    return Some(format!("scale {group} is {scale}, expected {expected}"));
                }
                let written = written.get(slice.positions).unwrap_or_default();
                let how = (scale, rounding);
                match kernels::error_if_codes_match(dtype, x, how, written, &mut seen) {
                    Some(error) => sums.merge(&error),
                    None => {
                        values.resize(x.len() / dtype.size(), 0);
                        kernels::quantize(dtype, x, scale, rounding, values);
                        let made = bytemuck::cast_slice(values);
                        let at = first_difference(bytemuck::cast_slice(written), made);
                        let index = slice.start + at.unwrap_or(0);
                        return Some(format!("its element {index} is not what the source gives"));
                    }
                }
            }
            None
        };
        let wrong = match pair.transposed {
            false => source.look(pair.source, range.clone(), compare)?,
            true => source.look_transposed(pair.source, range.clone(), compare)?,
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
        for ScaledGroup { slice, scale } in group_scales.scaled(range.start, dtype, elements) {
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
        self.compare_floats(pair, range, dtype)?;
        Ok(sums)
    }

    /// `range` is of whole blocks, for rows are.
    fn q8_0(&mut self, pair: &Pair, range: Range<u64>) -> Result<ErrorSums, SaveError> {
        let read = self.source.elements(pair.source, range.clone())?;
        let Some((dtype, elements)) = read else { return Ok(ErrorSums::default()) };
        let expected = gguf::q8_0(dtype, elements, &mut self.expected);
        let read_back = self.out.elements(pair.out, range.clone())?;
        let sums = read_back.map(|read_back| difference((dtype, elements), read_back).sums);
        expected.map_err(|why| self.mismatch(pair, why.to_string()))?;
        let stored = parts(self.pairing.out, pair.out);
        let &[stored] = stored.as_slice() else { return Ok(ErrorSums::default()) };
        let block = BlockType::Q8_0;
        let at = |element: u64| element / block.elements() * block.bytes();
        let written = self.out.stored(stored, at(range.start)..at(range.end))?;
        if let Some(byte) = first_difference(written, &self.expected) {
            let number = range.start / block.elements() + byte / block.bytes();
            return Err(
                self.mismatch(pair, format!("its block {number} is not what the source gives"))
            );
        }
        Ok(sums.unwrap_or_default())
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

/// The scales known of a tensor, unless chunks hold whole groups so that each scale follows
/// from the elements of its group.
fn known_scales(known: &KnownScales, tensor: TensorId, chunks_hold: bool) -> Option<&[f32]> {
    (!chunks_hold).then(|| known.get(&tensor).map(Vec::as_slice).unwrap_or_default())
}

/// Where two runs of bytes differ first; a shorter one differs at its end.
fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    if a == b {
        return None;
    }
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    Some(same as u64)
}
