//! Measuring a tensor piece by piece: what to do with each chunk of its elements, and how
//! the pieces are put together. Which thread looks at which chunk is `job`'s affair; the
//! result does not depend on it, for chunks are fixed by the shape and merged in order.

use crate::quantization::analysis::multi_pass::{Asked, Found, Spread, Wanted};
use crate::quantization::analysis::single_pass::{self, Run, Whole};
use crate::quantization::analysis::value_histogram::{HistogramBuilder, ValueHistogram};
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::scales::Scales;
use crate::quantization::{
    ChannelErrors, ChannelQuestion, Chunks, ErrorSums, GroupQuantizers, Groups, Loss, Moments,
    NotQuantizable, QatScales, QuantizationScheme, Quantizer, Range, Rounding, Statistics,
};
use crate::tensor::{FloatType, Shape};
use std::ops::Range as Elements;

/// Bytes of elements in a chunk: small enough for a core's cache, large enough to read.
const CHUNK_BYTES: u64 = 1 << 20;

/// Bytes of a tensor that can be kept from one look to the next: what a worker's share of a
/// processor's last cache holds. Looking at more again takes as long as reading it again.
pub const KEPT_BYTES: u64 = 12 << 20;

/// What is asked about every tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct AnalysisSpec {
    /// One outcome is measured for each of these.
    pub quantizers: Vec<Quantizer>,
    pub rounding: Rounding,
    /// Whether to measure errors and moments, or only ranges and scales.
    pub errors: bool,
    /// Whether of the errors Σx² and Σ(x−x̂)² will do, which are found sooner than all.
    pub losses_only: bool,
    /// Whether to keep every scale, or only how many there are and their range.
    pub keep_scales: bool,
    /// Whether to count how often each value occurs.
    pub distributions: bool,
    /// Whether to tell what each output channel loses.
    pub channels: ChannelQuestion,
}

/// What was found out about one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    pub range: Range,
    /// `None` when only ranges were asked for.
    pub statistics: Option<Statistics>,
    /// In the order of the quantizers, each as it was settled for this tensor.
    pub outcomes: Vec<Outcome>,
    /// `None` when it was not asked for.
    pub distribution: Option<ValueHistogram>,
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
    /// `None` when only ranges or losses were asked for.
    pub error: Option<ErrorSums>,
    /// `None` unless only losses were asked for.
    pub loss: Option<Loss>,
    /// `None` when it was not asked for, and for an answer from counted values.
    pub channels: Option<ChannelErrors>,
}

impl Quantized {
    /// Σx² and Σ(x−x̂)²; `None` when only ranges were asked for.
    pub fn loss(&self) -> Option<Loss> {
        self.loss.or_else(|| self.error.as_ref().map(Loss::from))
    }

    /// Adds what elements lose to what is asked for.
    pub(super) fn add(&mut self, sums: &ErrorSums) {
        if let Some(error) = &mut self.error {
            error.merge(sums);
        }
        if let Some(loss) = &mut self.loss {
            loss.merge(&sums.into());
        }
    }
}

impl AnalysisSpec {
    /// Ranges and scales, which are not kept.
    pub fn scales(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec {
            quantizers,
            rounding,
            errors: false,
            losses_only: false,
            keep_scales: false,
            distributions: false,
            channels: ChannelQuestion::Nothing,
        }
    }

    /// Errors and moments.
    pub fn errors(quantizers: Vec<Quantizer>, rounding: Rounding) -> AnalysisSpec {
        AnalysisSpec { errors: true, ..AnalysisSpec::scales(quantizers, rounding) }
    }

    fn nothing_yet(&self) -> Quantized {
        Quantized {
            scales: Scales::new(self.keep_scales),
            error: (self.errors && !self.losses_only).then(ErrorSums::default),
            loss: (self.errors && self.losses_only).then(Loss::default),
            channels: self.channel_errors(),
        }
    }

    fn channel_errors(&self) -> Option<ChannelErrors> {
        ChannelErrors::new(self.channels).filter(|_| self.errors)
    }

    /// What a quantizer with one scale makes of a tensor, from its counted values alone.
    pub fn answer(&self, counted: &ValueHistogram, quantizer: Quantizer) -> Outcome {
        let range = counted.range();
        let qtype = quantizer.scheme.quantization_type();
        let result = || {
            if !range.is_finite() {
                let first = range.first_non_finite.unwrap_or(0);
                return Err(NotQuantizable::NonFinite { nan: range.nan, inf: range.inf, first });
            }
            let mut found = Quantized { channels: None, ..self.nothing_yet() };
            if range.count == 0 {
                return Ok(found);
            }
            let absmax = range.absmax();
            let clip = quantizer.calibration.clip_counted(counted, absmax, qtype, self.rounding);
            let scale = quantizer.scale_for(clip, FloatType::F32)?;
            found.scales.push(clip, scale);
            if self.errors {
                let how = Quantization { scale, qtype, rounding: self.rounding };
                found.add(&counted.error(how));
            }
            Ok(found)
        };
        Outcome { quantizer, result: result() }
    }
}

/// The division of one tensor into chunks, and what is done with each.
///
/// A scheme whose groups fit a chunk is answered in the first pass, and so is one with a
/// single scale where the tensor's values are counted. One whose groups are larger needs
/// every range before any error, so it takes more passes.
#[derive(Debug)]
pub struct Measurement<'q> {
    questions: &'q AnalysisSpec,
    dtype: FloatType,
    chunks: Chunks,
    schemes: Vec<Scheme<'q>>,
    /// Those whose groups lie whole in one chunk each, in the places of the schemes.
    whole: Vec<Option<Whole<'q>>>,
    /// The places of three that one sweep answers.
    nested: Option<[usize; 3]>,
    /// The output channels, if they are asked about.
    channels: Option<Groups>,
    /// Whether values are counted in the first pass.
    counted: bool,
    /// The place and the last pass of the scheme that gives the moments too; the first pass
    /// does not then.
    moments_with: Option<(usize, u64)>,
    passes: u64,
}

#[derive(Debug)]
struct Scheme<'q> {
    asked: Asked<'q>,
    groups: Groups,
    way: Way,
}

/// How a scheme is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its groups lie whole in one chunk each.
    Whole,
    /// It has one scale, and the values are counted.
    Counted,
    /// Its groups go on from chunk to chunk.
    Spread,
}

/// What the first pass found in one chunk.
#[derive(Debug)]
pub struct First {
    moments: Moments,
    parts: Vec<FirstPart>,
}

#[derive(Debug)]
enum FirstPart {
    Whole(Box<Result<single_pass::Found, NotQuantizable>>),
    Counted,
    Ranges(Vec<(u64, Range)>),
}

/// What is known of a tensor after a pass, of all chunks or those so far.
#[derive(Clone, Debug)]
pub struct Known {
    moments: Moments,
    parts: Vec<Part>,
    distribution: Option<ValueHistogram>,
}

#[derive(Clone, Debug)]
enum Part {
    Whole(Result<Quantized, NotQuantizable>),
    Counted,
    Spread(Spread),
}

/// What a pass after the first finds in a chunk, or in all chunks so far.
#[derive(Debug, Default)]
pub struct Next {
    found: Vec<Found>,
    /// Without a range, where they come from this pass.
    moments: Moments,
}

impl<'q> Measurement<'q> {
    /// `learned`: what training with fake quantization is known to have learned of the tensor.
    pub fn new(
        questions: &'q AnalysisSpec,
        dtype: FloatType,
        shape: &Shape,
        learned: Option<&'q QatScales>,
    ) -> Self {
        Self::chunked(questions, dtype, shape, learned, CHUNK_BYTES)
    }

    fn chunked(
        questions: &'q AnalysisSpec,
        dtype: FloatType,
        shape: &Shape,
        learned: Option<&'q QatScales>,
        bytes: u64,
    ) -> Self {
        let length = bytes / dtype.size() as u64;
        let chunks = Chunks::new(shape, length, questions.quantizers.iter().map(|q| q.scheme));
        let exact = dtype.size() == 2;
        let asked_for = questions.errors && questions.channels != ChannelQuestion::Nothing;
        let channels = asked_for.then(|| QuantizationScheme::PER_CHANNEL.groups(shape));
        // Two looks at what is kept take less than counting it, unless the counts answer more;
        // and F16 has so many values that they do wherever it lies.
        let one_scale = |quantizer: &&Quantizer| quantizer.scheme.groups(shape).count() == 1;
        let several = questions.quantizers.iter().filter(one_scale).count() > 1;
        let mut wanted = questions.distributions;
        let is_kept = shape.elements() <= KEPT_BYTES / dtype.size() as u64;
        let counting_pays = wanted || several || (dtype == FloatType::BF16 && !is_kept);
        let mut passes = 1;
        let schemes: Vec<Scheme> = questions
            .quantizers
            .iter()
            .map(|&quantizer| {
                let groups = quantizer.scheme.groups(shape);
                let quantizers = GroupQuantizers::new(quantizer, shape, learned);
                let asked = Asked { quantizers, rounding: questions.rounding, dtype };
                let further = asked.passes(questions.errors);
                let way = if chunks.hold(&groups) {
                    Way::Whole
                } else if exact
                    && groups.count() == 1
                    && further > 0
                    && channels.is_none()
                    && (counting_pays || asked.passes(false) > 0)
                {
                    wanted = true;
                    Way::Counted
                } else {
                    passes = passes.max(1 + further);
                    Way::Spread
                };
                Scheme { asked, groups, way }
            })
            .collect();
        let whole: Vec<_> = schemes
            .iter()
            .map(|scheme| {
                let Scheme { asked, groups, way } = *scheme;
                (way == Way::Whole).then_some(Whole { asked, groups })
            })
            .collect();
        let nested = questions.errors.then(|| Whole::nested(&whole)).flatten();
        let error_pass = |scheme: &Scheme| {
            let all_at_once = scheme.way == Way::Spread && scheme.groups.count() == 1;
            all_at_once.then(|| scheme.asked.passes(questions.errors))
        };
        let moments_with = match questions.errors {
            true if !(wanted && exact) => {
                (0..).zip(&schemes).find_map(|(place, scheme)| Some((place, error_pass(scheme)?)))
            }
            _ => None,
        };
        Measurement {
            questions,
            dtype,
            chunks,
            schemes,
            whole,
            nested,
            channels,
            counted: wanted,
            moments_with,
            passes,
        }
    }

    /// Number of chunks; an empty tensor has none.
    pub fn chunks(&self) -> u64 {
        self.chunks.count()
    }

    /// The elements of chunk `k`.
    pub fn chunk(&self, k: u64) -> Elements<u64> {
        self.chunks.range(k)
    }

    /// The place of chunk `k` in the bytes of it and of those before it from `first` on.
    pub fn place(&self, first: u64, k: u64) -> Elements<usize> {
        let (start, chunk, size) = (self.chunk(first).start, self.chunk(k), self.dtype.size());
        let place = |element: u64| element.saturating_sub(start) as usize * size;
        place(chunk.start)..place(chunk.end)
    }

    /// How often the chunks are looked at.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// The type of the elements that the first pass counts, if it counts. Several tallies
    /// may be counted into; what they hold together is given to [`Self::count`].
    pub fn counts(&self) -> Option<FloatType> {
        self.counted.then_some(self.dtype)
    }

    /// Whether the moments come from the counted values.
    fn moments_are_counted(&self) -> bool {
        self.counted && self.dtype.size() == 2
    }

    /// Looks at chunk `k`, whose elements are `bytes`.
    pub fn first(&self, k: u64, bytes: &[u8], tally: Option<&mut HistogramBuilder>) -> First {
        let elements = self.chunk(k);
        let moments = match tally {
            Some(tally) => self.count_chunk(bytes, tally),
            None => self.moments(bytes),
        };
        let mut whole = self.whole_groups(&elements, bytes, &moments.range).into_iter();
        let parts = self.schemes.iter().map(|scheme| match scheme.way {
            Way::Whole => match whole.next() {
                Some(found) => FirstPart::Whole(Box::new(found)),
                None => FirstPart::Counted,
            },
            Way::Counted => FirstPart::Counted,
            // One group: its range is that of the tensor, which is known anyway.
            Way::Spread if scheme.groups.count() == 1 && !self.moments_are_counted() => {
                FirstPart::Ranges(vec![(0, moments.range)])
            }
            Way::Spread => {
                let segments = self.segments(scheme, &elements, bytes);
                let ranges = segments.map(|(g, run)| (g, kernels::range(self.dtype, run.bytes)));
                FirstPart::Ranges(ranges.collect())
            }
        });
        First { parts: parts.collect(), moments }
    }

    fn moments(&self, bytes: &[u8]) -> Moments {
        match self.questions.errors && self.moments_with.is_none() {
            true => kernels::moments(self.dtype, bytes),
            false => Moments { range: kernels::range(self.dtype, bytes), ..Moments::default() },
        }
    }

    /// Counts a chunk. Where its moments will come from the counts, only what those cannot
    /// tell is found out here: which element is the first that is not finite.
    fn count_chunk(&self, bytes: &[u8], tally: &mut HistogramBuilder) -> Moments {
        let before = tally.non_finite();
        tally.add(bytes);
        if !self.moments_are_counted() {
            return self.moments(bytes);
        }
        let range = match tally.non_finite() == before {
            true => {
                let count = (bytes.len() / self.dtype.size()) as u64;
                Range { count, ..Range::default() }
            }
            false => kernels::range(self.dtype, bytes),
        };
        Moments { range, ..Moments::default() }
    }

    fn segments<'b>(
        &self,
        scheme: &Scheme,
        elements: &Elements<u64>,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = (u64, Run<'b>)> + use<'b> {
        Run { start: elements.start, bytes }.divided(&scheme.groups, self.dtype)
    }

    /// What the schemes whose groups lie whole in a chunk make of it, in their order.
    fn whole_groups(
        &self,
        elements: &Elements<u64>,
        bytes: &[u8],
        range: &Range,
    ) -> Vec<Result<single_pass::Found, NotQuantizable>> {
        let nothing = || -> Result<single_pass::Found, NotQuantizable> {
            NotQuantizable::check(range)?;
            Ok(single_pass::Found { quantized: self.questions.nothing_yet(), channels: Vec::new() })
        };
        let chunk = Run { start: elements.start, bytes };
        let channels = self.channels.as_ref();
        let mut found: Vec<_> = self.whole.iter().map(|w| w.map(|w| (w, nothing()))).collect();
        let together = self.nested.and_then(|places| {
            let [a, b, c] = found.get_disjoint_mut(places).ok()?;
            let ((a, x), (b, y), (c, z)) = (a.as_mut()?, b.as_mut()?, c.as_mut()?);
            let (Ok(fx), Ok(fy), Ok(fz)) = (&mut *x, &mut *y, &mut *z) else { return None };
            if let Err(why) = Whole::look_nested([a, b, c], chunk, channels, [fx, fy, fz]) {
                (*x, *y, *z) = (Err(why.clone()), Err(why.clone()), Err(why));
            }
            Some(places)
        });
        for (place, slot) in found.iter_mut().enumerate() {
            if together.is_some_and(|places| places.contains(&place)) {
                continue;
            }
            let Some((whole, result)) = slot else { continue };
            let Ok(found) = result else { continue };
            if let Err(why) = whole.look(chunk, channels, found) {
                *result = Err(why);
            }
        }
        found.into_iter().flatten().map(|(_, found)| found).collect()
    }

    /// What is known before the first chunk.
    pub fn start(&self) -> Known {
        let nothing = |scheme: &Scheme| match scheme.way {
            Way::Whole => Part::Whole(Ok(self.questions.nothing_yet())),
            Way::Counted => Part::Counted,
            Way::Spread => Part::Spread(Spread::new(self.questions.channel_errors())),
        };
        Known {
            moments: Moments::default(),
            parts: self.schemes.iter().map(nothing).collect(),
            distribution: None,
        }
    }

    /// Adds the next chunk's first pass; chunks must come in order.
    pub fn calibrate(&self, so_far: &mut Known, next: First) {
        let before = so_far.moments.range.count;
        so_far.moments.merge(&next.moments);
        for (part, next) in so_far.parts.iter_mut().zip(next.parts) {
            match (part, next) {
                (Part::Spread(spread), FirstPart::Ranges(ranges)) => spread.calibrate(ranges),
                (part @ Part::Whole(Ok(_)), FirstPart::Whole(next)) => match (&mut *part, *next) {
                    (Part::Whole(Ok(all)), Ok(more)) => {
                        all.scales.append(more.quantized.scales);
                        if let (Some(sum), Some(next)) = (&mut all.error, &more.quantized.error) {
                            sum.merge(next);
                        }
                        if let (Some(sum), Some(next)) = (&mut all.loss, &more.quantized.loss) {
                            sum.merge(next);
                        }
                        if let Some(channels) = &mut all.channels {
                            more.channels.into_iter().for_each(|(c, error)| channels.add(c, error));
                        }
                    }
                    (part, Err(why)) => *part = Part::Whole(Err(why.after(before))),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Ends the first pass with everything that was counted in it.
    pub fn count(&self, known: &mut Known, counted: Option<ValueHistogram>) {
        known.distribution = counted;
        if let Some(distribution) = known.distribution.as_ref().filter(|d| d.is_exact()) {
            let first_non_finite = known.moments.range.first_non_finite;
            known.moments = distribution.moments();
            known.moments.range.first_non_finite = first_non_finite;
        }
        for (scheme, part) in self.schemes.iter().zip(&mut known.parts) {
            if let Part::Spread(spread) = part {
                spread.begin(&scheme.asked);
            }
        }
    }

    /// Looks at chunk `k` again, in pass `pass` counted from 1 after the first.
    pub fn again(&self, known: &Known, pass: u64, k: u64, bytes: &[u8]) -> Next {
        let elements = self.chunk(k);
        let mut moments = Moments::default();
        let looks = self.schemes.iter().zip(&known.parts).enumerate();
        let found = looks.map(|(place, (scheme, part))| match part {
            Part::Spread(spread) if pass <= scheme.asked.passes(self.questions.errors) => {
                let channels = self.channels.as_ref();
                let gives_moments = self.moments_with == Some((place, pass));
                let losses_only = self.questions.losses_only;
                let wanted = match losses_only && !gives_moments {
                    true => Wanted::Loss,
                    false => Wanted::Error,
                };
                let segments = self.segments(scheme, &elements, bytes);
                let found = spread.look(&scheme.asked, pass, channels, wanted, segments);
                if gives_moments {
                    // What cannot be quantized has moments all the same.
                    let is_finite = known.moments.range.is_finite();
                    let count = elements.end - elements.start;
                    moments = found
                        .moments(count)
                        .filter(|moments| is_finite && moments.are_centred(count))
                        .unwrap_or_else(|| kernels::moments(self.dtype, bytes));
                }
                if losses_only { found.losses() } else { found }
            }
            _ => Found::Nothing,
        });
        let found = found.collect();
        Next { found, moments }
    }

    /// Adds what a pass found in the next chunk; chunks must come in order.
    pub fn accumulate(so_far: &mut Next, next: Next) {
        if so_far.found.is_empty() {
            *so_far = next;
            return;
        }
        so_far.moments.merge(&next.moments);
        for (found, next) in so_far.found.iter_mut().zip(next.found) {
            found.merge(next);
        }
    }

    /// Takes over what a whole pass after the first found.
    pub fn settle(&self, known: &mut Known, pass: u64, found: Next) {
        let Next { found, moments } = found;
        if self.moments_with.is_some_and(|(_, with)| with == pass) {
            known.moments = Moments { range: known.moments.range, ..moments };
        }
        for ((scheme, part), found) in self.schemes.iter().zip(&mut known.parts).zip(found) {
            if let Part::Spread(spread) = part {
                spread.settle(&scheme.asked, pass, found);
            }
        }
    }

    /// All passes, one chunk after another. `read` gives the bytes of the elements it is
    /// asked for to the function it is given; `tally` is there if values are counted.
    pub fn run<E>(
        &self,
        mut tally: Option<&mut HistogramBuilder>,
        mut read: impl FnMut(Elements<u64>, &mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<Analysis, E> {
        let mut known = self.start();
        for k in 0..self.chunks() {
            read(self.chunk(k), &mut |bytes| {
                let first = self.first(k, bytes, tally.as_deref_mut());
                self.calibrate(&mut known, first);
            })?;
        }
        self.count(&mut known, tally.map(|tally| tally.distribution()));
        for pass in 1..self.passes() {
            let mut found = Next::default();
            for k in 0..self.chunks() {
                read(self.chunk(k), &mut |bytes| {
                    Measurement::accumulate(&mut found, self.again(&known, pass, k, bytes));
                })?;
            }
            self.settle(&mut known, pass, found);
        }
        Ok(self.finish(known))
    }

    /// Everything found, after all passes.
    pub fn finish(&self, known: Known) -> Analysis {
        let Known { moments, parts, distribution } = known;
        let range = moments.range;
        let outcomes = self.schemes.iter().zip(parts).map(|(scheme, part)| {
            let quantizer = scheme.asked.quantizer();
            let result = NotQuantizable::check(&range).and_then(|()| match part {
                Part::Whole(result) => result.map(|mut found| {
                    found.channels.iter_mut().for_each(ChannelErrors::close);
                    found
                }),
                Part::Counted => match &distribution {
                    Some(counted) => {
                        self.questions.answer(counted, scheme.asked.quantizers.of(0)).result
                    }
                    None => Ok(self.questions.nothing_yet()),
                },
                Part::Spread(spread) => {
                    let mut scales = Scales::new(self.questions.keep_scales);
                    for clip in spread.clips(&scheme.asked) {
                        scales.push(clip, quantizer.scale_for(clip, FloatType::F32)?);
                    }
                    let Spread { error, loss, channels, .. } = spread;
                    Ok(Quantized { scales, error, loss, channels })
                }
            });
            Outcome { quantizer, result }
        });
        Analysis {
            range,
            outcomes: outcomes.collect(),
            statistics: self.questions.errors.then(|| moments.statistics()),
            distribution: distribution.filter(|_| self.questions.distributions),
        }
    }
}

/// Measures a whole tensor that lies in memory.
pub fn measure(
    questions: &AnalysisSpec,
    dtype: FloatType,
    shape: &Shape,
    bytes: &[u8],
) -> Analysis {
    in_memory(&Measurement::new(questions, dtype, shape, None), bytes)
}

fn in_memory(measurement: &Measurement, bytes: &[u8]) -> Analysis {
    let size = measurement.dtype.size();
    let mut tally = measurement.counts().map(HistogramBuilder::new);
    let measured = measurement.run(tally.as_mut(), |elements, look| {
        let range = elements.start as usize * size..elements.end as usize * size;
        look(bytes.get(range).unwrap_or_default());
        Ok::<(), std::convert::Infallible>(())
    });
    match measured {
        Ok(analysis) => analysis,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::Calibration;

    const SCHEMES: [QuantizationScheme; 4] = [
        QuantizationScheme::PER_TENSOR,
        QuantizationScheme::PER_CHANNEL,
        QuantizationScheme::per_block(32),
        QuantizationScheme::per_block(48),
    ];

    fn questions(schemes: &[QuantizationScheme], calibration: Calibration) -> AnalysisSpec {
        let quantizers = schemes.iter().map(|&scheme| Quantizer { calibration, scheme }).collect();
        AnalysisSpec { keep_scales: true, ..AnalysisSpec::errors(quantizers, Rounding::HalfEven) }
    }

    fn values(dtype: FloatType, n: u64) -> Vec<u8> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
        };
        let mut bytes = Vec::new();
        (0..n).for_each(|_| crate::tensor::write_f64(dtype, next() * next() * next(), &mut bytes));
        bytes
    }

    /// `exact`: they come from sums in f64, and not from the pass of the errors.
    fn assert_statistics(analysis: &Analysis, dtype: FloatType, bytes: &[u8], exact: bool) {
        let (expected, found) =
            (kernels::moments(dtype, bytes).statistics(), analysis.statistics.expect("asked for"));
        assert_eq!((found.count, found.zeros), (expected.count, expected.zeros), "{dtype:?}");
        assert_eq!((found.nan, found.inf), (expected.nan, expected.inf), "{dtype:?}");
        // Far within what the figure of a sample is uncertain by.
        let uncertain = expected.std / (expected.count as f64).sqrt();
        for (found, expected) in [(found.mean, expected.mean), (found.std, expected.std)] {
            let tolerance = match exact {
                true => 1e-12 * expected.abs().max(1e-3),
                false => 1e-5 * uncertain,
            };
            let close = (found - expected).abs() <= tolerance;
            assert!(close || expected.is_nan() && found.is_nan(), "{dtype:?} {found} {expected}");
        }
    }

    /// Chunked measuring says what the in-memory quantizer then does.
    fn assert_figures_are_those_of_the_quantized_tensor(
        dtype: FloatType,
        dims: &[u64],
        schemes: &[QuantizationScheme],
        calibration: Calibration,
    ) {
        let shape = Shape::new(dims).expect("fits");
        let bytes = values(dtype, shape.elements());
        let questions = questions(schemes, calibration);
        let measurement = Measurement::chunked(&questions, dtype, &shape, None, 1 << 13);
        let analysis = in_memory(&measurement, &bytes);
        assert_eq!(analysis.range, kernels::range(dtype, &bytes));
        let exact = measurement.moments_with.is_none() || dtype == FloatType::F64;
        assert_statistics(&analysis, dtype, &bytes, exact);
        for outcome in &analysis.outcomes {
            let what = format!("{dtype:?} {dims:?} {:?}", outcome.quantizer);
            let quantized = outcome.quantizer.quantize_weights(dtype, &shape, &bytes).expect("ok");
            let found = outcome.result.as_ref().expect("quantizable");
            assert!(found.scales.all.as_ref() == Some(&quantized.scales), "{what}");
            let (mut noise, mut levels) = (0.0, std::collections::BTreeSet::new());
            let groups = outcome.quantizer.scheme.groups(&shape);
            for (i, &q) in quantized.values.iter().enumerate() {
                let scale = quantized.scales[groups.of(i as u64) as usize];
                let x = crate::tensor::read_f64(dtype, &bytes, i).expect("there");
                let hat = match dtype {
                    FloatType::F64 => f64::from(scale) * f64::from(q),
                    _ => f64::from(scale * f32::from(q)),
                };
                noise += (x - hat).powi(2);
                levels.insert(q);
            }
            let error = found.error.expect("asked for");
            assert_eq!(error.count, shape.elements(), "{what}");
            assert_eq!(error.levels.count() as usize, levels.len(), "{what}");
            assert!((error.noise - noise).abs() <= 1e-6 * noise, "{what}: {} {noise}", error.noise);
        }
    }

    #[test]
    fn figures_are_those_of_the_quantized_tensor() {
        for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
            for dims in [
                &[3u64, 8_001][..],
                &[50, 1000],
                &[7, 3, 5, 5],
                &[12_003],
                &[2, 3, 7_000],
                &[],
                &[0, 4],
            ] {
                let min_max = Calibration::MinMax;
                assert_figures_are_those_of_the_quantized_tensor(dtype, dims, &SCHEMES, min_max);
            }
        }
    }

    /// Far from zero a deviation is what is left of two large sums.
    #[test]
    fn a_small_deviation_is_told_far_from_zero() {
        let shape = Shape::vector(700_000);
        for (dtype, step) in [(FloatType::F32, 1e-6), (FloatType::F16, 1e-3)] {
            let mut bytes = Vec::new();
            let value = |i: u64| 1.0 + step * (i * 7919 % 101) as f64;
            (0..700_000).for_each(|i| crate::tensor::write_f64(dtype, value(i), &mut bytes));
            let questions = questions(&SCHEMES[..1], Calibration::MinMax);
            let measurement = Measurement::new(&questions, dtype, &shape, None);
            assert!(measurement.moments_with.is_some() && measurement.chunks() > 1);
            let found = in_memory(&measurement, &bytes).statistics.expect("asked for");
            let expected = kernels::moments(dtype, &bytes).statistics();
            assert!((found.std / expected.std - 1.0).abs() < 1e-6, "{dtype:?} {found:?}");
        }
    }

    #[test]
    fn figures_of_every_calibration_are_those_of_the_quantized_tensor() {
        for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
            for calibration in [
                Calibration::Percentile(99.5),
                Calibration::Mse,
                Calibration::Clip(0.7),
                Calibration::Magnitude(0.3),
            ] {
                for dims in [&[2u64, 4_501][..], &[7, 3, 5, 5]] {
                    let schemes = &SCHEMES[..2];
                    assert_figures_are_those_of_the_quantized_tensor(
                        dtype,
                        dims,
                        schemes,
                        calibration,
                    );
                }
            }
        }
    }

    /// Groups in one chunk, in many, counted and not.
    #[test]
    fn learned_scales_are_those_of_their_channels() {
        for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
            for dims in [&[3u64, 8_001][..], &[7, 3, 5, 5], &[12_003]] {
                let shape = Shape::new(dims).expect("fits");
                let bytes = values(dtype, shape.elements());
                let channels = if dims.len() > 1 { dims[0] } else { 1 };
                let scales: Vec<f32> = (1..=channels).map(|c| 0.0007 * c as f32).collect();
                for scales in [&scales[..], &scales[..1]] {
                    let known =
                        QatScales { scales: scales.to_vec(), zero_point: None, levels: None };
                    let questions = questions(&SCHEMES, Calibration::Learned);
                    let measurement =
                        Measurement::chunked(&questions, dtype, &shape, Some(&known), 1 << 13);
                    for outcome in in_memory(&measurement, &bytes).outcomes {
                        let what = format!("{dtype:?} {dims:?} {:?}", outcome.quantizer);
                        let Quantizer { calibration, scheme } = outcome.quantizer;
                        let found = outcome.result.expect("quantizable");
                        if scheme == QuantizationScheme::PER_TENSOR && scales.len() > 1 {
                            assert_eq!(calibration, Calibration::MinMax, "{what}");
                            continue;
                        }
                        assert_eq!(calibration, Calibration::Learned, "{what}");
                        let all = found.scales.all.expect("asked for");
                        let groups = scheme.groups(&shape);
                        assert_eq!(all.len() as u64, groups.count(), "{what}");
                        let mut noise = 0.0;
                        for (group, run) in groups.segments(0..shape.elements()) {
                            let channel = (run.start / shape.channel_len()) as usize;
                            let scale = if scales.len() > 1 { scales[channel] } else { scales[0] };
                            assert_eq!(all[group as usize], scale, "{what}");
                            let size = dtype.size();
                            let run = run.start as usize * size..run.end as usize * size;
                            let qtype = scheme.quantization_type();
                            let how = Quantization { scale, qtype, rounding: Rounding::HalfEven };
                            noise += kernels::error(dtype, &bytes[run], how).noise;
                        }
                        let error = found.error.expect("asked for");
                        assert!((error.noise - noise).abs() <= 1e-6 * noise, "{what}");
                    }
                }
            }
        }
    }

    /// A channel's loss is that of the same tensor without the other channels.
    #[test]
    fn what_each_channel_loses_adds_up_and_the_worst_is_named() {
        let schemes =
            ["per-tensor", "per-channel", "per-block:32", "per-block:64", "per-block:128"];
        let schemes = schemes.map(|scheme| scheme.parse().expect("a scheme"));
        for dtype in [FloatType::F32, FloatType::BF16] {
            for dims in [&[3u64, 8_001][..], &[20, 700], &[7, 3, 5, 5], &[2, 3, 7_000], &[0, 4]] {
                let shape = Shape::new(dims).expect("fits");
                let bytes = values(dtype, shape.elements());
                let plain = questions(&schemes, Calibration::MinMax);
                let asked = AnalysisSpec { channels: ChannelQuestion::Each, ..plain.clone() };
                let measured = |questions| {
                    in_memory(
                        &Measurement::chunked(questions, dtype, &shape, None, 1 << 13),
                        &bytes,
                    )
                };
                let alone = AnalysisSpec { losses_only: true, ..asked.clone() };
                let losses = measured(&alone);
                let (plain, asked) = (measured(&plain), measured(&asked));
                for (loss, found) in losses.outcomes.iter().zip(&asked.outcomes) {
                    let what = format!("{dtype:?} {dims:?} {:?}", found.quantizer);
                    let (loss, found) = (loss.result.as_ref(), found.result.as_ref());
                    let (loss, found) = (loss.expect("ok"), found.expect("ok"));
                    assert_eq!((&loss.scales, loss.error), (&found.scales, None), "{what}");
                    let (a, b) = (loss.loss.expect("asked"), found.loss().expect("asked"));
                    assert!((a.noise - b.noise).abs() <= 1e-6 * b.noise, "{what}");
                    assert!((a.signal - b.signal).abs() <= 1e-6 * b.signal, "{what}");
                    let (a, b) = (loss.channels.as_ref(), found.channels.as_ref());
                    let (a, b) = (a.expect("asked").each(), b.expect("asked").each());
                    assert_eq!(a.len(), b.len(), "{what}");
                    for (a, b) in a.iter().zip(b) {
                        assert!((a.noise - b.noise).abs() <= 1e-6 * b.noise, "{what}");
                    }
                }
                for (plain, found) in plain.outcomes.iter().zip(&asked.outcomes) {
                    let what = format!("{dtype:?} {dims:?} {:?}", found.quantizer);
                    let (plain, found) = (plain.result.as_ref(), found.result.as_ref());
                    let (plain, found) = (plain.expect("ok"), found.expect("ok"));
                    assert_eq!(plain.scales, found.scales, "{what}");
                    assert_eq!(plain.channels, None);
                    let (plain, error) = (plain.error.expect("asked"), found.error.expect("asked"));
                    assert!((plain.noise - error.noise).abs() <= 1e-6 * plain.noise, "{what}");
                    assert_eq!(
                        (plain.levels, plain.zeroed),
                        (error.levels, error.zeroed),
                        "{what}"
                    );
                    let channels = found.channels.as_ref().expect("asked");
                    assert_eq!(channels.each().len() as u64, shape.channels(), "{what}");
                    let sum: f64 = channels.each().iter().map(|channel| channel.noise).sum();
                    assert!((sum - error.noise).abs() <= 1e-9 * sum, "{what}");
                    let dbs = channels.each().iter().map(|channel| channel.sqnr_db());
                    let worst = dbs.fold(f64::INFINITY, f64::min);
                    assert_eq!(channels.worst().map(|(_, db)| db).unwrap_or(worst), worst);
                }
            }
        }
    }

    #[test]
    fn blocks_answered_together_are_those_answered_alone() {
        let schemes = [32, 64, 128].map(QuantizationScheme::per_block);
        for dims in [&[30u64, 1000][..], &[40, 333], &[4, 2, 1024], &[9, 130]] {
            let shape = Shape::new(dims).expect("fits");
            for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
                let bytes = values(dtype, shape.elements());
                let measured = |schemes: &[QuantizationScheme]| {
                    let questions = questions(schemes, Calibration::MinMax);
                    let measurement =
                        Measurement::chunked(&questions, dtype, &shape, None, 1 << 14);
                    assert_eq!(measurement.nested.is_some(), schemes.len() == 3);
                    in_memory(&measurement, &bytes).outcomes
                };
                for (scheme, together) in schemes.iter().zip(measured(&schemes)) {
                    let alone = measured(&[*scheme]).remove(0).result.expect("ok");
                    let together = together.result.expect("ok");
                    assert_eq!(alone.scales, together.scales, "{dtype:?} {dims:?} {scheme}");
                    let (a, b) = (alone.error.expect("asked"), together.error.expect("asked"));
                    assert!((a.noise - b.noise).abs() <= 1e-6 * a.noise, "{dtype:?} {dims:?}");
                    assert_eq!((a.levels, a.zeroed, a.count), (b.levels, b.zeroed, b.count));
                }
            }
        }
    }

    #[test]
    fn the_least_error_is_no_more_than_that_of_any_clip() {
        let shape = Shape::vector(10_001);
        for dtype in [FloatType::F32, FloatType::BF16] {
            let bytes = values(dtype, 10_001);
            let noise = |calibration| {
                let scheme = "per-tensor/int4".parse().expect("a scheme");
                let questions = questions(&[scheme], calibration);
                let measurement = Measurement::chunked(&questions, dtype, &shape, None, 1 << 13);
                let analysis = in_memory(&measurement, &bytes);
                let outcome = analysis.outcomes.into_iter().next().expect("one");
                outcome.result.expect("quantizable").error.expect("asked for").noise
            };
            let least = noise(Calibration::Mse);
            assert!(least < noise(Calibration::MinMax), "{dtype:?}");
            for step in 0..64 {
                let share = (-f64::from(step) / 16.0).exp2();
                // Of BF16 the one comes from counts, the other from sums in f32 blocks.
                let slack = if dtype == FloatType::F32 { 1e-9 } else { 1e-7 };
                assert!(least <= noise(Calibration::Clip(share)) * (1.0 + slack));
            }
        }
    }

    #[test]
    fn counted_values_are_those_of_the_elements() {
        for (dtype, n) in
            [(FloatType::BF16, 300_001), (FloatType::F32, 300_001), (FloatType::F16, 9)]
        {
            let bytes = values(dtype, n);
            let questions = AnalysisSpec {
                distributions: true,
                ..questions(&[QuantizationScheme::PER_TENSOR], Calibration::MinMax)
            };
            let analysis = measure(&questions, dtype, &Shape::vector(n), &bytes);
            let counted = analysis.distribution.expect("asked for");
            assert_eq!(counted, ValueHistogram::of(dtype, &bytes));
            if counted.is_exact() {
                let again = questions.answer(&counted, questions.quantizers[0]);
                let (again, first) = (again.result.expect("ok"), &analysis.outcomes[0].result);
                let first = first.as_ref().expect("ok");
                assert_eq!(again.scales, first.scales);
                let noise = |q: &Quantized| q.error.expect("asked for").noise;
                assert!((noise(&again) / noise(first) - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn one_value_that_is_not_finite_is_found_by_its_index() {
        let shape = Shape::new([2, 200_000]).expect("fits");
        for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16] {
            let mut bytes = values(dtype, 400_000);
            let mut nan = Vec::new();
            crate::tensor::write_f64(dtype, f64::NAN, &mut nan);
            bytes[nan.len() * 300_001..nan.len() * 300_002].copy_from_slice(&nan);
            let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
            for calibration in [Calibration::MinMax, Calibration::Percentile(99.0)] {
                let questions = questions(&schemes, calibration);
                let analysis = measure(&questions, dtype, &shape, &bytes);
                assert_statistics(&analysis, dtype, &bytes, true);
                for outcome in analysis.outcomes {
                    assert_eq!(
                        outcome.result,
                        Err(NotQuantizable::NonFinite { nan: 1, inf: 0, first: 300_001 })
                    );
                }
            }
        }
    }
}
