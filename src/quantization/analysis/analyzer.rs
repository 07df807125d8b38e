//! The analysis of one tensor, chunk by chunk.
//!
//! Threads are in `job`: this file defines how each chunk is analysed and how the results of
//! chunks are combined. Chunks are fixed by the tensor's shape and are combined in order, so
//! the result does not depend on which thread analyses which chunk.

use crate::quantization::analysis::channel_losses::{ChannelDetail, ChannelLosses};
use crate::quantization::analysis::coded::CodedQuantizer;
use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::multi_pass::{MultiPassState, PassResult};
use crate::quantization::analysis::results::{Analysis, Outcome, Quantized};
use crate::quantization::analysis::single_pass::{ChunkResult, SinglePass};
use crate::quantization::analysis::spec::{AnalysisSpec, ErrorDetail};
use crate::quantization::analysis::strategy::{HistogramUse, Strategy};
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::chunks::Chunks;
use crate::quantization::ggml::RowImportance;
use crate::quantization::groups::Groups;
use crate::quantization::kernels;
use crate::quantization::qat_scales::QatScales;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::QuantizationScheme;
use crate::quantization::statistics::{Moments, Range};
use crate::quantization::value_histogram::{HistogramBuilder, ValueHistogram};
use crate::tensor::{FloatType, Shape};
use std::ops::Range as Elements;

/// Bytes of elements in a chunk: small enough for a core's cache, large enough to read.
const CHUNK_BYTES: u64 = 1 << 20;

/// Analyses one tensor chunk by chunk, in one or more passes over its elements.
///
/// The order of calls is [`start`](Self::start); for every chunk
/// [`first_pass`](Self::first_pass), whose results [`add_first`](Self::add_first) combines;
/// [`end_first_pass`](Self::end_first_pass); for every further pass and chunk
/// [`further_pass`](Self::further_pass), whose results
/// [`add_further`](Self::add_further) combines, and [`end_pass`](Self::end_pass); at last
/// [`finish`](Self::finish). [`run`](Self::run) makes all these calls.
#[derive(Debug)]
pub(crate) struct TensorAnalyzer<'q> {
    spec: &'q AnalysisSpec,
    dtype: FloatType,
    chunks: Chunks,
    /// The output channels, if their losses are needed; otherwise the experts, if the tensor holds
    /// several.
    channels: Option<Groups>,
    shape: Shape,
    /// How the outcome of each quantizer of the spec is computed. The quantizers themselves
    /// are in the three lists below, in the order of the spec.
    strategies: Vec<Strategy>,
    pub(super) single_pass: SinglePass<'q>,
    from_histogram: Vec<TensorQuantizer<'q>>,
    multi_pass: Vec<TensorQuantizer<'q>>,
    coded: Vec<CodedQuantizer>,
    /// Whether the first pass fills a histogram.
    fills_histogram: bool,
    pub(super) moments: MomentsSource,
    passes: u64,
}

/// The source of the moments of the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MomentsSource {
    /// They are not needed, only the range is.
    RangeOnly,
    /// The first pass computes them.
    FirstPass,
    /// The exact histogram has them, except for the index of the first element that is not
    /// finite.
    Histogram,
    /// The error sums of a multi-pass quantizer, given by its index, in pass number `pass`.
    ErrorSums { quantizer: usize, pass: u64 },
}

/// The results of the first pass over one chunk.
#[derive(Debug)]
pub(crate) struct FirstPassResult {
    moments: Moments,
    single_pass: Vec<Result<ChunkResult, NotQuantizable>>,
    /// Per multi-pass quantizer, the ranges of the groups in the chunk.
    ranges: Vec<Vec<(u64, Range)>>,
    coded: Vec<CodedResult>,
}

/// The result of a coded quantizer for the chunks of one pass; `None` in passes in which it
/// measures nothing.
type CodedResult = Option<Result<ChunkResult, NotQuantizable>>;

/// The results of a further pass over one chunk, or over all chunks so far.
#[derive(Debug, Default)]
pub(crate) struct FurtherPassResult {
    /// One for each multi-pass quantizer.
    multi_pass: Vec<PassResult>,
    coded: Vec<CodedResult>,
    /// Without the range, if the moments come from this pass.
    moments: Moments,
}

/// The state of an analysis after some of the passes and chunks.
#[derive(Clone, Debug)]
pub(crate) struct AnalysisState {
    moments: Moments,
    single_pass: Vec<Result<Quantized, NotQuantizable>>,
    multi_pass: Vec<MultiPassState>,
    coded: Vec<Result<Quantized, NotQuantizable>>,
    histogram: Option<ValueHistogram>,
}

impl<'q> TensorAnalyzer<'q> {
    /// Prepares the analysis of a tensor. `learned` are the scales from
    /// quantization-aware training, if any.
    pub(crate) fn new(
        spec: &'q AnalysisSpec,
        dtype: FloatType,
        shape: &Shape,
        learned: Option<&'q QatScales>,
    ) -> Self {
        Self::with_chunk_bytes(spec, dtype, shape, learned, CHUNK_BYTES)
    }

    /// Sets the importance of the tensor's elements, if it is known.
    pub(crate) fn with_importance(mut self, importance: Option<RowImportance<'q>>) -> Self {
        self.single_pass.set_importance(importance);
        self
    }

    /// Sets the largest magnitude of the tensors that share a global scale with this one; `None` if
    /// none do.
    pub(crate) fn with_shared_absmax(mut self, absmax: Option<f64>) -> Self {
        self.coded =
            self.coded.into_iter().map(|quantizer| quantizer.with_shared_absmax(absmax)).collect();
        self.passes = self.needed_passes();
        self
    }

    fn needed_passes(&self) -> u64 {
        let further = self.multi_pass.iter().map(|q| further_passes(self.spec, q));
        let further = further.chain(self.coded.iter().filter_map(|q| q.pass(self.spec))).max();
        1 + further.unwrap_or(0)
    }

    pub(super) fn with_chunk_bytes(
        spec: &'q AnalysisSpec,
        dtype: FloatType,
        shape: &Shape,
        learned: Option<&'q QatScales>,
        chunk_bytes: u64,
    ) -> Self {
        let chunk_len = chunk_bytes / dtype.size() as u64;
        let chunks = Chunks::new(shape, chunk_len, spec.quantizers.iter().map(|q| q.scheme));
        let channels = if spec.channel_detail() != ChannelDetail::None {
            Some(QuantizationScheme::PER_CHANNEL.groups(shape))
        } else {
            shape.experts().filter(|_| spec.has_errors()).map(|experts| {
                let expert = shape.elements() / experts.max(1);
                Groups::new(shape.elements(), expert, expert)
            })
        };
        let has_channels = channels.is_some();
        let scale_type = spec.scale_storage.scale_type(dtype);
        let of_tensor = |&q: &Quantizer| {
            TensorQuantizer::new(q, spec.rounding, dtype, shape, learned).stored_as(scale_type)
        };
        let quantizers: Vec<TensorQuantizer> = spec.quantizers.iter().map(of_tensor).collect();
        let histogram =
            HistogramUse::choose(spec, dtype, shape.elements(), &quantizers, has_channels);
        let strategies: Vec<Strategy> =
            quantizers.iter().map(|q| Strategy::choose(spec, q, &chunks, histogram)).collect();
        let with = |strategy: Strategy| -> Vec<TensorQuantizer<'q>> {
            let chosen = quantizers.iter().zip(&strategies).filter(|&(_, &s)| s == strategy);
            chosen.map(|(&quantizer, _)| quantizer).collect()
        };
        let from_histogram = with(Strategy::FromHistogram);
        let multi_pass = with(Strategy::MultiPass);
        let coded: Vec<CodedQuantizer> =
            quantizers.iter().filter_map(|q| CodedQuantizer::new(q, shape)).collect();
        let fills_histogram = spec.histogram || !from_histogram.is_empty();
        let mut analyzer = TensorAnalyzer {
            spec,
            dtype,
            chunks,
            channels,
            shape: shape.clone(),
            single_pass: SinglePass::new(spec, with(Strategy::SinglePass)),
            fills_histogram,
            moments: MomentsSource::choose(spec, dtype, fills_histogram, &multi_pass),
            passes: 1,
            strategies,
            from_histogram,
            multi_pass,
            coded,
        };
        analyzer.passes = analyzer.needed_passes();
        analyzer
    }

    /// Number of chunks; zero for an empty tensor.
    pub(crate) fn chunks(&self) -> u64 {
        self.chunks.count()
    }

    /// The elements of chunk `k`.
    pub(crate) fn chunk(&self, k: u64) -> Elements<u64> {
        self.chunks.range(k)
    }

    /// The bytes of chunk `k` within the bytes of consecutive chunks that start with chunk
    /// `first`.
    pub(crate) fn chunk_bytes(&self, first: u64, k: u64) -> Elements<usize> {
        let (start, chunk, size) = (self.chunk(first).start, self.chunk(k), self.dtype.size());
        let offset = |element: u64| element.saturating_sub(start) as usize * size;
        offset(chunk.start)..offset(chunk.end)
    }

    /// Number of passes over the elements, at least 1.
    pub(crate) fn passes(&self) -> u64 {
        self.passes
    }

    /// The element type of the histogram that the first pass fills, if it fills one. Each
    /// thread may fill its own; [`Self::end_first_pass`] takes all of them merged.
    pub(crate) fn histogram_type(&self) -> Option<FloatType> {
        self.fills_histogram.then_some(self.dtype)
    }

    /// The state before the first chunk.
    pub(crate) fn start(&self) -> AnalysisState {
        let channels = || {
            let is_needed = self.channels.is_some();
            is_needed.then(|| ChannelLosses::new(self.spec.channel_detail(), &self.shape)).flatten()
        };
        let with_channels = |result: Result<Quantized, NotQuantizable>| {
            result.map(|quantized| Quantized { channels: channels(), ..quantized })
        };
        let coded = self.coded.iter().map(|quantizer| quantizer.start(self.spec));
        AnalysisState {
            moments: Moments::default(),
            single_pass: self.single_pass.start(self.spec).into_iter().map(with_channels).collect(),
            multi_pass: self.multi_pass.iter().map(|_| MultiPassState::new(channels())).collect(),
            coded: coded.map(with_channels).collect(),
            histogram: None,
        }
    }

    /// Analyses chunk `k` for the first time; `bytes` are its elements. `histogram` is needed
    /// if [`Self::histogram_type`] is some type.
    pub(crate) fn first_pass(
        &self,
        k: u64,
        bytes: &[u8],
        histogram: Option<&mut HistogramBuilder>,
    ) -> FirstPassResult {
        let chunk = self.run_of(k, bytes);
        let moments = match histogram {
            Some(histogram) => self.count_values(bytes, histogram),
            None => self.chunk_moments(bytes),
        };
        let channels = self.channels.as_ref();
        let single_pass = self.single_pass.measure(self.spec, chunk, &moments.range, channels);
        let ranges = self.multi_pass.iter().map(|quantizer| {
            // The range of a group that is the whole tensor is known already.
            if quantizer.has_one_group() && self.moments != MomentsSource::Histogram {
                vec![(0, moments.range)]
            } else {
                group_ranges(quantizer, chunk)
            }
        });
        let ranges = ranges.collect();
        FirstPassResult { ranges, moments, single_pass, coded: self.measure_coded(0, chunk, 0.0) }
    }

    /// Measures a chunk with the coded quantizers that do so in pass `pass`.
    fn measure_coded(&self, pass: u64, chunk: ElementRun, absmax: f64) -> Vec<CodedResult> {
        let channels = self.channels.as_ref();
        let measured = self.coded.iter().map(|quantizer| {
            let is_now = quantizer.pass(self.spec) == Some(pass);
            is_now.then(|| quantizer.measure(self.spec, chunk, absmax, channels))
        });
        measured.collect()
    }

    /// Adds the results of coded quantizers for chunks that have `before` elements in front of
    /// them.
    fn add_coded(state: &mut AnalysisState, results: Vec<CodedResult>, before: u64) {
        for (all, next) in state.coded.iter_mut().zip(results) {
            if let Some(next) = next {
                SinglePass::append(std::slice::from_mut(all), vec![next], before);
            }
        }
    }

    fn run_of<'b>(&self, k: u64, bytes: &'b [u8]) -> ElementRun<'b> {
        ElementRun { start: self.chunk(k).start, dtype: self.dtype, bytes }
    }

    /// The moments of a chunk, or only its range if the moments come from elsewhere.
    fn chunk_moments(&self, bytes: &[u8]) -> Moments {
        match self.moments {
            MomentsSource::FirstPass => kernels::moments(self.dtype, bytes),
            _ => Moments { range: kernels::range(self.dtype, bytes), ..Moments::default() },
        }
    }

    /// Counts the values of a chunk. If its moments will come from the histogram, only the
    /// number of elements and the first one that is not finite remain to be found.
    fn count_values(&self, bytes: &[u8], histogram: &mut HistogramBuilder) -> Moments {
        let before = histogram.non_finite();
        histogram.add(bytes);
        if self.moments != MomentsSource::Histogram {
            return self.chunk_moments(bytes);
        }
        let range = if histogram.non_finite() == before {
            let count = (bytes.len() / self.dtype.size()) as u64;
            Range { count, ..Range::default() }
        } else {
            kernels::range(self.dtype, bytes)
        };
        Moments { range, ..Moments::default() }
    }

    /// Adds the first pass over the next chunk; chunks must come in order.
    pub(crate) fn add_first(&self, state: &mut AnalysisState, next: FirstPassResult) {
        let before = state.moments.range.count;
        state.moments.merge(&next.moments);
        SinglePass::append(&mut state.single_pass, next.single_pass, before);
        Self::add_coded(state, next.coded, before);
        for (state, ranges) in state.multi_pass.iter_mut().zip(next.ranges) {
            state.add_ranges(ranges);
        }
    }

    /// Ends the first pass. `histogram` holds the values of all chunks, if it was filled.
    pub(crate) fn end_first_pass(
        &self,
        state: &mut AnalysisState,
        histogram: Option<ValueHistogram>,
    ) {
        state.histogram = histogram;
        if let Some(histogram) = state.histogram.as_ref().filter(|h| h.is_exact()) {
            let first_non_finite = state.moments.range.first_non_finite;
            state.moments = histogram.moments();
            state.moments.range.first_non_finite = first_non_finite;
        }
        for (quantizer, state) in self.multi_pass.iter().zip(&mut state.multi_pass) {
            state.end_first_pass(quantizer);
        }
    }

    /// Analyses chunk `k` again in pass `pass`, counted from 1 after the first.
    pub(crate) fn further_pass(
        &self,
        state: &AnalysisState,
        pass: u64,
        k: u64,
        bytes: &[u8],
    ) -> FurtherPassResult {
        let chunk = self.run_of(k, bytes);
        let mut moments = Moments::default();
        let quantizers = self.multi_pass.iter().zip(&state.multi_pass).enumerate();
        let results = quantizers.map(|(index, (quantizer, known))| {
            if pass > further_passes(self.spec, quantizer) {
                return PassResult::Nothing;
            }
            let gives_moments = self.moments == MomentsSource::ErrorSums { quantizer: index, pass };
            // Moments follow from the full sums only.
            let detail = if gives_moments { ErrorDetail::Full } else { self.spec.errors };
            let result = known.measure(quantizer, pass, detail, self.channels.as_ref(), chunk);
            if gives_moments {
                // A tensor that cannot be quantized has no error sums but has moments.
                let is_finite = state.moments.range.is_finite();
                let count = chunk.len();
                moments = result
                    .moments(count)
                    .filter(|moments| is_finite && moments.are_centred(count))
                    .unwrap_or_else(|| kernels::moments(self.dtype, bytes));
            }
            match self.spec.errors {
                ErrorDetail::Loss => result.into_losses(),
                ErrorDetail::None | ErrorDetail::Full => result,
            }
        });
        let multi_pass = results.collect();
        let absmax = state.moments.range.absmax();
        FurtherPassResult { multi_pass, moments, coded: self.measure_coded(pass, chunk, absmax) }
    }

    /// Adds a further pass over the next chunk; chunks must come in order.
    pub(crate) fn add_further(all: &mut FurtherPassResult, next: FurtherPassResult) {
        if all.multi_pass.is_empty() && all.coded.is_empty() {
            *all = next;
            return;
        }
        for (result, next) in all.coded.iter_mut().zip(next.coded) {
            match (&mut *result, next) {
                (Some(Ok(result)), Some(Ok(next))) => result.append(next),
                (Some(Ok(_)), Some(Err(why))) => *result = Some(Err(why)),
                _ => {}
            }
        }
        all.moments.merge(&next.moments);
        for (result, next) in all.multi_pass.iter_mut().zip(next.multi_pass) {
            result.append(next);
        }
    }

    /// Ends a further pass with the results of all its chunks.
    pub(crate) fn end_pass(&self, state: &mut AnalysisState, pass: u64, all: FurtherPassResult) {
        let FurtherPassResult { multi_pass, moments, coded } = all;
        // Elements that are not finite were located in the first pass.
        Self::add_coded(state, coded, 0);
        if matches!(self.moments, MomentsSource::ErrorSums { pass: with, .. } if with == pass) {
            state.moments = Moments { range: state.moments.range, ..moments };
        }
        let quantizers = self.multi_pass.iter().zip(&mut state.multi_pass);
        for ((quantizer, state), result) in quantizers.zip(multi_pass) {
            state.end_pass(quantizer, pass, result);
        }
    }

    /// Makes all passes over all chunks, one after another. `read` passes the bytes of the
    /// given elements to the given function. `histogram` is needed if
    /// [`Self::histogram_type`] is some type.
    ///
    /// # Errors
    ///
    /// The first error of `read`.
    pub(crate) fn run<E>(
        &self,
        mut histogram: Option<&mut HistogramBuilder>,
        mut read: impl FnMut(Elements<u64>, &mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<Analysis, E> {
        let mut state = self.start();
        for k in 0..self.chunks() {
            read(self.chunk(k), &mut |bytes| {
                let result = self.first_pass(k, bytes, histogram.as_deref_mut());
                self.add_first(&mut state, result);
            })?;
        }
        self.end_first_pass(&mut state, histogram.map(HistogramBuilder::take));
        for pass in 1..self.passes() {
            let mut all = FurtherPassResult::default();
            for k in 0..self.chunks() {
                read(self.chunk(k), &mut |bytes| {
                    Self::add_further(&mut all, self.further_pass(&state, pass, k, bytes));
                })?;
            }
            self.end_pass(&mut state, pass, all);
        }
        Ok(self.finish(state))
    }

    /// The analysis after all passes.
    pub(crate) fn finish(&self, state: AnalysisState) -> Analysis {
        let AnalysisState { moments, single_pass, multi_pass, coded, histogram } = state;
        let range = moments.range;
        let mut single_pass = self.single_pass.outcomes(single_pass);
        let mut from_histogram = self.from_histogram.iter().map(|q| Outcome {
            quantizer: q.quantizer(),
            result: match &histogram {
                Some(histogram) => self.spec.outcome_of(histogram, q.of_group(0)).result,
                None => Ok(Quantized::empty(self.spec)),
            },
        });
        let mut multi_pass = self.multi_pass.iter().zip(multi_pass).map(|(q, state)| Outcome {
            quantizer: q.quantizer(),
            result: state.finish(self.spec, q),
        });
        let mut coded = self.coded.iter().zip(coded).map(|(q, mut result)| {
            if let Ok(Quantized { channels: Some(channels), .. }) = &mut result {
                channels.end_channel();
            }
            Outcome { quantizer: q.quantizer(), result }
        });
        let outcomes = self.strategies.iter().filter_map(|strategy| {
            let outcome = match strategy {
                Strategy::SinglePass => single_pass.next(),
                Strategy::FromHistogram => from_histogram.next(),
                Strategy::MultiPass => multi_pass.next(),
                Strategy::Coded => coded.next(),
            };
            let Outcome { quantizer, result } = outcome?;
            Some(Outcome { quantizer, result: NotQuantizable::check(&range).and(result) })
        });
        let outcomes = outcomes.collect();
        Analysis {
            range,
            statistics: self.spec.has_errors().then(|| moments.statistics()),
            outcomes,
            histogram: histogram.filter(|_| self.spec.histogram),
        }
    }
}

impl MomentsSource {
    fn choose(
        spec: &AnalysisSpec,
        dtype: FloatType,
        fills_histogram: bool,
        multi_pass: &[TensorQuantizer],
    ) -> MomentsSource {
        if fills_histogram && dtype.size() == 2 {
            return MomentsSource::Histogram;
        }
        if !spec.has_errors() {
            return MomentsSource::RangeOnly;
        }
        // A quantizer with one scale measures all elements in its last pass.
        match multi_pass.iter().position(TensorQuantizer::has_one_group) {
            Some(quantizer) => {
                let pass = multi_pass.get(quantizer).map_or(0, |q| further_passes(spec, q));
                MomentsSource::ErrorSums { quantizer, pass }
            }
            None => MomentsSource::FirstPass,
        }
    }
}

/// Passes after the first that a multi-pass quantizer needs: the searches for clips, and one
/// for the errors.
fn further_passes(spec: &AnalysisSpec, quantizer: &TensorQuantizer) -> u64 {
    quantizer.search_passes() + u64::from(spec.has_errors())
}

/// The ranges of the parts of groups in a chunk.
fn group_ranges(quantizer: &TensorQuantizer, chunk: ElementRun) -> Vec<(u64, Range)> {
    let parts = chunk.by_group(&quantizer.groups);
    parts.map(|(number, run)| (number, kernels::range(run.dtype, run.bytes))).collect()
}
