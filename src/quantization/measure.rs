//! Measuring a tensor piece by piece: what to do with each chunk of its elements, and how
//! the pieces are put together. Which thread looks at which chunk is `job`'s affair; the
//! result does not depend on it, for chunks are fixed by the shape and merged in order.

use super::kernels::{self, Quantization};
use super::{
    Chunks, ErrorSums, Groups, Moments, NotQuantizable, Quantizer, Range, Rounding, Statistics,
};
use crate::tensor::{FloatType, Shape};
use std::ops::Range as Elements;

/// Bytes of elements in a chunk: small enough for a core's cache, large enough to read.
const CHUNK_BYTES: u64 = 512 * 1024;

/// What is asked about every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Questions {
    /// One outcome is measured for each of these.
    pub quantizers: Vec<Quantizer>,
    pub rounding: Rounding,
    /// Whether to measure errors and moments, or only ranges and scales.
    pub errors: bool,
    /// Whether to keep every scale, or only how many there are and their range.
    pub keep_scales: bool,
}

/// What was found out about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    pub range: Range,
    /// `None` when only ranges were asked for.
    pub statistics: Option<Statistics>,
    /// In the order of the quantizers.
    pub outcomes: Vec<Outcome>,
}

/// What one quantizer makes of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub quantizer: Quantizer,
    pub result: Result<Quantized, NotQuantizable>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    pub scales: Scales,
    /// `None` when only ranges were asked for.
    pub error: Option<ErrorSums>,
}

/// The scales of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    pub count: u64,
    pub min: f32,
    pub max: f32,
    /// Every scale in the order of its group, where they were asked for.
    pub all: Option<Vec<f32>>,
}

impl Scales {
    fn new(keep: bool) -> Scales {
        Scales { count: 0, min: f32::INFINITY, max: 0.0, all: keep.then(Vec::new) }
    }

    fn push(&mut self, scale: f32) {
        self.count += 1;
        self.min = self.min.min(scale);
        self.max = self.max.max(scale);
        if let Some(all) = &mut self.all {
            all.push(scale);
        }
    }

    fn append(&mut self, next: Scales) {
        self.count += next.count;
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        if let (Some(all), Some(more)) = (&mut self.all, next.all) {
            all.extend(more);
        }
    }
}

/// The division of one tensor into chunks, and what is done with each.
///
/// A scheme whose groups fit a chunk is answered in the first pass. One whose groups are
/// larger needs every range before any error, so it takes a second pass.
#[derive(Debug)]
pub struct Measurement<'q> {
    questions: &'q Questions,
    dtype: FloatType,
    elements: u64,
    chunks: Chunks,
    schemes: Vec<Scheme>,
}

#[derive(Debug)]
struct Scheme {
    quantizer: Quantizer,
    groups: Groups,
    fits_chunk: bool,
}

/// What the first pass found in one chunk.
#[derive(Debug)]
pub struct First {
    moments: Moments,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    /// Groups that lie whole in the chunk.
    Whole(Result<Quantized, NotQuantizable>),
    /// Ranges of groups that may go on in the next chunk.
    Ranges(Vec<(u64, Range)>),
}

/// What the first pass found in all chunks so far, in order.
#[derive(Debug)]
pub struct Calibrated {
    moments: Moments,
    parts: Vec<Part>,
}

/// What the second pass found: one sum for each scheme that needed it.
pub type Second = Vec<Option<ErrorSums>>;

impl<'q> Measurement<'q> {
    pub fn new(questions: &'q Questions, dtype: FloatType, shape: &Shape) -> Self {
        let length = CHUNK_BYTES / dtype.size() as u64;
        let chunks = Chunks::new(shape, length, questions.quantizers.iter().map(|q| q.scheme));
        let schemes = questions
            .quantizers
            .iter()
            .map(|&quantizer| {
                let groups = quantizer.scheme.groups(shape);
                let fits_chunk = chunks.hold(&groups);
                Scheme { quantizer, groups, fits_chunk }
            })
            .collect();
        Measurement { questions, dtype, elements: shape.elements(), chunks, schemes }
    }

    /// Number of chunks; an empty tensor has none.
    pub fn chunks(&self) -> u64 {
        self.chunks.count()
    }

    /// The elements of chunk `k`.
    pub fn chunk(&self, k: u64) -> Elements<u64> {
        self.chunks.range(k)
    }

    /// Whether a second pass over the chunks is needed.
    pub fn second_pass(&self) -> bool {
        self.questions.errors && self.schemes.iter().any(|s| !s.fits_chunk)
    }

    /// Looks at chunk `k`, whose elements are `bytes`.
    pub fn first(&self, k: u64, bytes: &[u8]) -> First {
        let elements = self.chunk(k);
        let moments = if self.questions.errors {
            kernels::moments(self.dtype, bytes)
        } else {
            Moments { range: kernels::range(self.dtype, bytes), ..Moments::default() }
        };
        let parts = self.schemes.iter().map(|scheme| {
            if scheme.fits_chunk {
                Part::Whole(self.whole_groups(scheme, &elements, bytes, &moments.range))
            } else if scheme.groups.group_len() >= self.elements {
                // One group: its range is that of the tensor, which is known anyway.
                Part::Ranges(vec![(0, moments.range)])
            } else {
                let ranges = self.segments(scheme, &elements, bytes);
                Part::Ranges(ranges.map(|(g, b)| (g, kernels::range(self.dtype, b))).collect())
            }
        });
        First { parts: parts.collect(), moments }
    }

    fn segments<'b>(
        &self,
        scheme: &Scheme,
        elements: &Elements<u64>,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = (u64, &'b [u8])> + use<'b> {
        let (start, size) = (elements.start, self.dtype.size());
        scheme.groups.segments(elements.clone()).map(move |(group, part)| {
            let part = (part.start - start) as usize * size..(part.end - start) as usize * size;
            (group, bytes.get(part).unwrap_or_default())
        })
    }

    fn whole_groups(
        &self,
        scheme: &Scheme,
        elements: &Elements<u64>,
        bytes: &[u8],
        range: &Range,
    ) -> Result<Quantized, NotQuantizable> {
        NotQuantizable::check(range)?;
        let Scheme { quantizer, groups, .. } = scheme;
        let qtype = quantizer.scheme.quantization_type();
        let rounding = self.questions.rounding;
        let mut found = Quantized {
            scales: Scales::new(self.questions.keep_scales),
            error: self.questions.errors.then(ErrorSums::default),
        };
        let mut absmax = Vec::new();
        for (layout, bytes) in self.cut_at_row(groups, elements.start, bytes) {
            let count = bytes.len() / self.dtype.size();
            absmax.clear();
            absmax.resize(groups.within(count as u64), 0.0);
            kernels::group_absmax(self.dtype, bytes, layout, &mut absmax);
            for &absmax in &absmax {
                let range = Range { min: -absmax, max: absmax, ..Range::default() };
                found.scales.push(quantizer.scale(&range)?);
            }
            if let Some(error) = &mut found.error {
                let how =
                    kernels::GroupQuantization { qtype, rounding, scale_type: FloatType::F32 };
                let sums = kernels::group_error(self.dtype, bytes, layout, how);
                error.merge(&sums.map_err(|e| NotQuantizable::ScaleOverflow { absmax: e.absmax })?);
            }
        }
        Ok(found)
    }

    /// A chunk's bytes from element `start` on, cut where a row ends that it starts within.
    fn cut_at_row<'b>(
        &self,
        groups: &Groups,
        start: u64,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = (kernels::Layout, &'b [u8])> + use<'b> {
        let layout = kernels::Layout::from(*groups);
        let into_row = start % groups.row_len();
        let rest = if into_row == 0 { 0 } else { groups.row_len() - into_row };
        let cut = (rest as usize).saturating_mul(self.dtype.size()).min(bytes.len());
        let (rest, rows) = bytes.split_at(cut);
        [rest, rows].into_iter().filter(|part| !part.is_empty()).map(move |part| (layout, part))
    }

    fn how(&self, scheme: &Scheme, scale: f32) -> Quantization {
        let qtype = scheme.quantizer.scheme.quantization_type();
        Quantization { scale, qtype, rounding: self.questions.rounding }
    }

    /// What is known before the first chunk.
    pub fn start(&self) -> Calibrated {
        let nothing = |scheme: &Scheme| match scheme.fits_chunk {
            true => Part::Whole(Ok(Quantized {
                scales: Scales::new(self.questions.keep_scales),
                error: self.questions.errors.then(ErrorSums::default),
            })),
            false => Part::Ranges(Vec::new()),
        };
        Calibrated {
            moments: Moments::default(),
            parts: self.schemes.iter().map(nothing).collect(),
        }
    }

    /// Adds the next chunk's first pass; chunks must come in order.
    pub fn calibrate(&self, so_far: &mut Calibrated, next: First) {
        let before = so_far.moments.range.count;
        so_far.moments.merge(&next.moments);
        for (part, next) in so_far.parts.iter_mut().zip(next.parts) {
            match (part, next) {
                (Part::Ranges(all), Part::Ranges(more)) => {
                    for (group, range) in more {
                        match all.last_mut() {
                            Some((last, merged)) if *last == group => merged.merge(&range),
                            _ => all.push((group, range)),
                        }
                    }
                }
                (Part::Whole(Ok(all)), Part::Whole(Ok(more))) => {
                    all.scales.append(more.scales);
                    if let (Some(sum), Some(next)) = (&mut all.error, &more.error) {
                        sum.merge(next);
                    }
                }
                (part @ Part::Whole(Ok(_)), Part::Whole(Err(why))) => {
                    *part = Part::Whole(Err(why.after(before)));
                }
                _ => {}
            }
        }
    }

    /// Looks at chunk `k` again, with all ranges known.
    pub fn second(&self, calibrated: &Calibrated, k: u64, bytes: &[u8]) -> Second {
        let elements = self.chunk(k);
        let sums = self.schemes.iter().zip(&calibrated.parts).map(|(scheme, part)| {
            let Part::Ranges(ranges) = part else { return None };
            let mut sums = ErrorSums::default();
            for (group, bytes) in self.segments(scheme, &elements, bytes) {
                // Groups of this kind are listed without a gap, from 0.
                let (_, range) = ranges.get(group as usize)?;
                let scale = scheme.quantizer.scale(range).ok()?;
                sums.merge(&kernels::error(self.dtype, bytes, self.how(scheme, scale)));
            }
            Some(sums)
        });
        sums.collect()
    }

    /// Adds the next chunk's second pass; chunks must come in order.
    pub fn accumulate(so_far: &mut Second, next: Second) {
        if so_far.is_empty() {
            *so_far = next;
            return;
        }
        for (sum, next) in so_far.iter_mut().zip(next) {
            if let (Some(sum), Some(next)) = (sum, next) {
                sum.merge(&next);
            }
        }
    }

    /// Everything found, after all chunks.
    pub fn finish(&self, calibrated: &Calibrated, second: Second) -> Analysis {
        let range = calibrated.moments.range;
        let mut second = second.into_iter();
        let outcomes = self.schemes.iter().zip(&calibrated.parts).map(|(scheme, part)| {
            let error = second.next().flatten();
            let result = NotQuantizable::check(&range).and_then(|()| match part {
                Part::Whole(result) => result.clone(),
                Part::Ranges(ranges) => {
                    let mut scales = Scales::new(self.questions.keep_scales);
                    for (_, range) in ranges {
                        scales.push(scheme.quantizer.scale(range)?);
                    }
                    Ok(Quantized { scales, error })
                }
            });
            Outcome { quantizer: scheme.quantizer, result }
        });
        Analysis {
            range,
            outcomes: outcomes.collect(),
            statistics: self.questions.errors.then(|| calibrated.moments.statistics()),
        }
    }
}

/// Measures a whole tensor that lies in memory.
pub fn measure(questions: &Questions, dtype: FloatType, shape: &Shape, bytes: &[u8]) -> Analysis {
    let measurement = Measurement::new(questions, dtype, shape);
    let part = |k| {
        let elements = measurement.chunk(k);
        let size = dtype.size();
        let range = elements.start as usize * size..elements.end as usize * size;
        bytes.get(range).unwrap_or_default()
    };
    let mut calibrated = measurement.start();
    for k in 0..measurement.chunks() {
        measurement.calibrate(&mut calibrated, measurement.first(k, part(k)));
    }
    let mut second = Second::new();
    if measurement.second_pass() {
        for k in 0..measurement.chunks() {
            let next = measurement.second(&calibrated, k, part(k));
            Measurement::accumulate(&mut second, next);
        }
    }
    measurement.finish(&calibrated, second)
}

#[cfg(test)]
mod tests {
    use super::super::{Calibration, QuantizationScheme};
    use super::*;

    fn questions(schemes: &[QuantizationScheme]) -> Questions {
        let quantizers = schemes
            .iter()
            .map(|&scheme| Quantizer { calibration: Calibration::MinMax, scheme })
            .collect();
        Questions { quantizers, rounding: Rounding::HalfEven, errors: true, keep_scales: true }
    }

    fn values(n: u64) -> Vec<u8> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).flat_map(|_| (next() * next()).to_le_bytes()).collect()
    }

    /// Chunked measuring says what the in-memory quantizer then does.
    #[test]
    fn figures_are_those_of_the_quantized_tensor() {
        let schemes = [
            QuantizationScheme::PER_TENSOR,
            QuantizationScheme::PER_CHANNEL,
            QuantizationScheme::per_block(32),
            QuantizationScheme::per_block(48),
        ];
        let questions = questions(&schemes);
        for dims in
            [&[3u64, 200_001][..], &[500, 1000], &[7, 3, 5, 5], &[400_003], &[2, 3, 70_000], &[]]
        {
            let shape = Shape::new(dims).expect("fits");
            let bytes = values(shape.elements());
            let analysis = measure(&questions, FloatType::F32, &shape, &bytes);
            assert_eq!(analysis.range.count, shape.elements());
            for outcome in &analysis.outcomes {
                let quantized =
                    outcome.quantizer.quantize_weights(FloatType::F32, &shape, &bytes).expect("ok");
                let found = outcome.result.as_ref().expect("quantizable");
                assert!(found.scales.all.as_ref() == Some(&quantized.scales), "{dims:?}");
                let hat = super::super::Dequantize::default().map_tensor(&quantized);
                let noise: f64 = bytes
                    .chunks_exact(4)
                    .zip(hat.chunks_exact(4))
                    .map(|(x, y)| {
                        let f = |b: &[u8]| f64::from(f32::from_le_bytes(b.try_into().expect("4")));
                        (f(x) - f(y)).powi(2)
                    })
                    .sum();
                let error = found.error.expect("asked for");
                assert_eq!(error.count, shape.elements());
                assert!(
                    (error.noise - noise).abs() <= 1e-7 * noise,
                    "{dims:?} {}: {} against {noise}",
                    outcome.quantizer.scheme,
                    error.noise
                );
            }
        }
    }

    #[test]
    fn one_value_that_is_not_finite_is_found_by_its_index() {
        let shape = Shape::new([2, 200_000]).expect("fits");
        let mut bytes = values(400_000);
        bytes[4 * 300_001..4 * 300_002].copy_from_slice(&f32::NAN.to_le_bytes());
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
        let analysis = measure(&questions(&schemes), FloatType::F32, &shape, &bytes);
        for outcome in analysis.outcomes {
            assert_eq!(
                outcome.result,
                Err(NotQuantizable::NonFinite { nan: 1, inf: 0, first: 300_001 })
            );
        }
    }
}
