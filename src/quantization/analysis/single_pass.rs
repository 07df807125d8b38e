//! Groups that do not span chunks: calibrated and measured while their chunk is in the cache.

use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::results::{Outcome, Quantized};
use crate::quantization::analysis::spec::AnalysisSpec;
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::calibration::Calibration;
use crate::quantization::ggml::RowImportance;
use crate::quantization::groups::Groups;
use crate::quantization::kernels::{
    self, GroupDetail, GroupErrors, GroupLosses, GroupQuantization, ScaleOverflow, SeenLevels,
};
use crate::quantization::loss::Loss;
use crate::quantization::quantizer::NotQuantizable;
use crate::quantization::scheme::QuantizationScheme;
use crate::quantization::statistics::Range;

/// The block lengths that one sweep over the elements measures together.
const NESTED_BLOCKS: [u32; 3] = [32, 64, 128];

/// The quantizers of a tensor whose groups do not span chunks.
#[derive(Debug)]
pub(super) struct SinglePass<'l> {
    quantizers: Vec<TensorQuantizer<'l>>,
    /// Indices of three quantizers with the block lengths [`NESTED_BLOCKS`] that one sweep
    /// measures together.
    pub nested: Option<[usize; 3]>,
    /// The importance of the elements for ggml's block types.
    importance: Option<RowImportance<'l>>,
}

/// The results of one quantizer for the groups of one chunk.
#[derive(Debug)]
pub(super) struct ChunkResult {
    pub quantized: Quantized,
    /// The losses of channels, by number. The last channel may continue in the next chunk.
    pub channels: Vec<(u64, Loss)>,
}

impl<'l> SinglePass<'l> {
    pub(super) fn new(spec: &AnalysisSpec, quantizers: Vec<TensorQuantizer<'l>>) -> Self {
        let nested = spec.has_errors().then(|| find_nested(&quantizers)).flatten();
        SinglePass { quantizers, nested, importance: None }
    }

    pub(super) fn set_importance(&mut self, importance: Option<RowImportance<'l>>) {
        self.importance = importance;
    }

    /// The results for no chunks yet, one for each quantizer.
    pub(super) fn start(&self, spec: &AnalysisSpec) -> Vec<Result<Quantized, NotQuantizable>> {
        self.quantizers.iter().map(|_| Ok(Quantized::empty(spec))).collect()
    }

    /// Calibrates and measures the groups of a chunk with every quantizer. `range` is the
    /// range of the chunk, `channels` the output channels whose losses are needed.
    pub(super) fn measure(
        &self,
        spec: &AnalysisSpec,
        chunk: ElementRun,
        range: &Range,
        channels: Option<&Groups>,
    ) -> Vec<Result<ChunkResult, NotQuantizable>> {
        let start = || -> Result<ChunkResult, NotQuantizable> {
            NotQuantizable::check(range)?;
            Ok(ChunkResult { quantized: Quantized::empty(spec), channels: Vec::new() })
        };
        let mut results: Vec<_> = self.quantizers.iter().map(|_| start()).collect();
        let nested = self.nested.filter(|_| range.first_non_finite.is_none());
        if let Some(nested) = nested {
            self.measure_nested(nested, chunk, channels, &mut results);
        }
        for (i, (quantizer, result)) in self.quantizers.iter().zip(&mut results).enumerate() {
            if nested.is_some_and(|nested| nested.contains(&i)) {
                continue;
            }
            if let Ok(open) = result
                && let Err(why) = open.measure(quantizer, chunk, channels, self.importance)
            {
                *result = Err(why);
            }
        }
        results
    }

    /// Measures three quantizers of nested blocks in one sweep.
    fn measure_nested(
        &self,
        nested: [usize; 3],
        chunk: ElementRun,
        channels: Option<&Groups>,
        results: &mut [Result<ChunkResult, NotQuantizable>],
    ) {
        let Some(quantizer) = self.quantizers.get(nested[0]) else { return };
        let Ok(mut results) = results.get_disjoint_mut(nested) else { return };
        let [Ok(a), Ok(b), Ok(c)] = &mut results else { return };
        if let Err(why) = measure_blocks(quantizer, chunk, channels, [a, b, c]) {
            for result in results {
                *result = Err(why.clone());
            }
        }
    }

    /// The outcomes of all quantizers, from the results of all chunks.
    pub(super) fn outcomes(
        &self,
        results: Vec<Result<Quantized, NotQuantizable>>,
    ) -> impl Iterator<Item = Outcome> {
        self.quantizers.iter().zip(results).map(|(quantizer, mut result)| {
            if let Ok(Quantized { channels: Some(channels), .. }) = &mut result {
                channels.end_channel();
            }
            Outcome { quantizer: quantizer.quantizer(), result }
        })
    }

    /// Adds the results of the next chunk, which has `before` elements in front of it.
    pub(super) fn append(
        all: &mut [Result<Quantized, NotQuantizable>],
        next: Vec<Result<ChunkResult, NotQuantizable>>,
        before: u64,
    ) {
        for (result, next) in all.iter_mut().zip(next) {
            match (&mut *result, next) {
                (Ok(all), Ok(ChunkResult { quantized, channels })) => {
                    all.append(quantized);
                    if let Some(all) = &mut all.channels {
                        channels.into_iter().for_each(|(channel, loss)| all.add(channel, loss));
                    }
                }
                (Ok(_), Err(why)) => *result = Err(why.after(before)),
                (Err(_), _) => {}
            }
        }
    }
}

/// Finds three quantizers that one sweep can measure: blocks of the lengths
/// [`NESTED_BLOCKS`] in rows of the same length, calibrated by min-max, with the same values.
fn find_nested(quantizers: &[TensorQuantizer]) -> Option<[usize; 3]> {
    let find = |length: u32| {
        quantizers.iter().position(|quantizer| {
            let scheme = quantizer.quantizer().scheme;
            scales_follow_from_absmax(quantizer)
                && matches!(scheme, QuantizationScheme::PerBlock(_, _, n) if n == length)
        })
    };
    let [a, b, c] = NESTED_BLOCKS.map(find);
    let nested = [a?, b?, c?];
    let [a, b, c] = nested.map(|i| {
        let quantizer = quantizers.get(i)?;
        Some((quantizer.qtype(), quantizer.rounding, quantizer.groups.row_len()))
    });
    // A row that is shorter than a block is a single group, which the sweep does not expect.
    let (_, _, row) = a?;
    (a == b && b == c && row >= u64::from(NESTED_BLOCKS[2])).then_some(nested)
}

/// Whether every scale follows from the largest magnitude of a group smaller than the tensor,
/// which is what the kernels for groups compute.
fn scales_follow_from_absmax(quantizer: &TensorQuantizer) -> bool {
    quantizer.quantizer().calibration == Calibration::MinMax && !quantizer.has_one_group()
}

impl ChunkResult {
    /// Adds the result of the next chunk.
    pub(super) fn append(&mut self, next: ChunkResult) {
        self.quantized.append(next.quantized);
        self.channels.extend(next.channels);
    }

    fn measure(
        &mut self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun,
        channels: Option<&Groups>,
        importance: Option<RowImportance>,
    ) -> Result<(), NotQuantizable> {
        if let Some(block) = quantizer.quantizer().scheme.ggml() {
            let row_len = usize::try_from(quantizer.groups.row_len()).unwrap_or(usize::MAX);
            return self.measure_ggml_blocks(block, chunk, channels, row_len, importance);
        }
        let has_errors = self.quantized.loss.is_some() || self.quantized.error.is_some();
        match (scales_follow_from_absmax(quantizer), has_errors) {
            (true, true) => self.measure_by_absmax(quantizer, chunk, channels),
            (true, false) => self.scales_by_absmax(quantizer, chunk),
            (false, _) => self.measure_each_group(quantizer, chunk, channels, has_errors),
        }
    }

    /// Works for any calibration: calls a kernel for each group.
    fn measure_each_group(
        &mut self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun,
        channels: Option<&Groups>,
        has_errors: bool,
    ) -> Result<(), NotQuantizable> {
        let mut seen = SeenLevels::default();
        for (number, group) in chunk.by_group(&quantizer.groups) {
            let (clip, scale) = quantizer.calibrate(number, group.bytes)?;
            self.quantized.scales.push(clip, scale);
            if has_errors {
                let params = quantizer.params(scale);
                let bounds = channels.map(|channels| group.channel_bounds(channels));
                let (sums, losses) =
                    kernels::error_by_channel(group.dtype, group.bytes, params, bounds, &mut seen);
                self.quantized.add(&sums);
                self.channels.extend(group.number_channels(channels, losses));
            }
        }
        Ok(())
    }

    /// Works for min-max: calls a kernel for many groups at once.
    fn measure_by_absmax(
        &mut self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun,
        channels: Option<&Groups>,
    ) -> Result<(), NotQuantizable> {
        let (layout, params) = (quantizer.groups.into(), group_quantization(quantizer));
        for run in chunk.split_at_row_start(&quantizer.groups) {
            let detail = self.detail(run, channels);
            if self.quantized.loss.is_some() {
                let groups = kernels::group_loss(run.dtype, run.bytes, layout, params, detail);
                self.add_losses(run, channels, groups.map_err(not_quantizable)?);
            } else {
                let groups = kernels::group_error(run.dtype, run.bytes, layout, params, detail);
                self.add_errors(run, channels, groups.map_err(not_quantizable)?);
            }
        }
        Ok(())
    }

    /// Computes only the scales.
    fn scales_by_absmax(
        &mut self,
        quantizer: &TensorQuantizer,
        chunk: ElementRun,
    ) -> Result<(), NotQuantizable> {
        for run in chunk.split_at_row_start(&quantizer.groups) {
            let mut absmaxes = vec![0.0; quantizer.groups.count_in(run.len())];
            kernels::group_absmax(run.dtype, run.bytes, quantizer.groups.into(), &mut absmaxes);
            for absmax in absmaxes {
                let scale = quantizer.quantizer().scale_for(absmax, quantizer.scale_type)?;
                self.quantized.scales.push(absmax, scale);
            }
        }
        Ok(())
    }

    fn detail(&self, run: ElementRun, channels: Option<&Groups>) -> GroupDetail {
        let channels = channels.map(|channels| run.channel_bounds(channels));
        GroupDetail { keep_scales: self.quantized.scales.all.is_some(), channels }
    }

    fn add_errors(&mut self, run: ElementRun, channels: Option<&Groups>, groups: GroupErrors) {
        self.quantized.scales.append(groups.scales);
        self.quantized.add(&groups.sums);
        self.channels.extend(run.number_channels(channels, groups.channels));
    }

    fn add_losses(&mut self, run: ElementRun, channels: Option<&Groups>, groups: GroupLosses) {
        self.quantized.scales.append(groups.scales);
        if let Some(loss) = &mut self.quantized.loss {
            loss.merge(&groups.loss);
        }
        self.channels.extend(run.number_channels(channels, groups.channels));
    }
}

/// Measures blocks of the lengths [`NESTED_BLOCKS`] in one sweep. `quantizer` is the one with
/// the shortest blocks.
fn measure_blocks(
    quantizer: &TensorQuantizer,
    chunk: ElementRun,
    channels: Option<&Groups>,
    mut results: [&mut ChunkResult; 3],
) -> Result<(), NotQuantizable> {
    let params = group_quantization(quantizer);
    let row = usize::try_from(quantizer.groups.row_len()).unwrap_or(usize::MAX);
    for run in chunk.split_at_row_start(&quantizer.groups) {
        let detail = results[0].detail(run, channels);
        if results[0].quantized.loss.is_some() {
            let blocks = kernels::block_losses(run.dtype, run.bytes, row, params, detail);
            for (result, blocks) in results.iter_mut().zip(blocks.map_err(not_quantizable)?) {
                result.add_losses(run, channels, blocks);
            }
        } else {
            let blocks = kernels::block_errors(run.dtype, run.bytes, row, params, detail);
            for (result, blocks) in results.iter_mut().zip(blocks.map_err(not_quantizable)?) {
                result.add_errors(run, channels, blocks);
            }
        }
    }
    Ok(())
}

fn group_quantization(quantizer: &TensorQuantizer) -> GroupQuantization {
    let (qtype, rounding) = (quantizer.qtype(), quantizer.rounding);
    GroupQuantization { qtype, rounding, scale_type: quantizer.scale_type }
}

fn not_quantizable(overflow: ScaleOverflow) -> NotQuantizable {
    NotQuantizable::ScaleOverflow { absmax: overflow.absmax }
}
