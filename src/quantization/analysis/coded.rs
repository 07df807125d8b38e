//! Schemes with their own encoding of whole rows: each row is encoded, decoded and compared while
//! its chunk is in the cache.

use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::results::Quantized;
use crate::quantization::analysis::single_pass::ChunkResult;
use crate::quantization::analysis::spec::{AnalysisSpec, ErrorDetail};
use crate::quantization::analysis::tensor_quantizer::TensorQuantizer;
use crate::quantization::groups::Groups;
use crate::quantization::kernels;
use crate::quantization::loss::Loss;
use crate::quantization::preset::Preset;
use crate::quantization::presets::{PresetCoder, SeenCodes};
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::tensor::{FloatType, Shape};

/// A quantizer whose scheme encodes whole rows.
#[derive(Debug)]
pub(super) struct CodedQuantizer {
    quantizer: Quantizer,
    preset: Preset,
    dtype: FloatType,
    shape: Shape,
    /// The largest magnitude of the tensors that share a global scale with this one; `None` if none
    /// do.
    shared_absmax: Option<f64>,
}

impl CodedQuantizer {
    /// `None` for schemes whose groups have one scale each.
    pub(super) fn new(quantizer: &TensorQuantizer, shape: &Shape) -> Option<CodedQuantizer> {
        let (quantizer, dtype) = (quantizer.quantizer(), quantizer.dtype);
        let preset = quantizer.scheme.preset()?;
        Some(CodedQuantizer { quantizer, preset, dtype, shape: shape.clone(), shared_absmax: None })
    }

    /// Sets the largest magnitude of the tensors that share a global scale with this one.
    pub(super) fn with_shared_absmax(self, absmax: Option<f64>) -> CodedQuantizer {
        let shared_absmax = absmax.filter(|_| self.preset.shares_global_scale());
        CodedQuantizer { shared_absmax, ..self }
    }

    pub(super) fn quantizer(&self) -> Quantizer {
        self.quantizer
    }

    /// The result before the first chunk.
    pub(super) fn start(&self, spec: &AnalysisSpec) -> Result<Quantized, NotQuantizable> {
        let preset = self.preset;
        match preset.obstacle(&self.shape) {
            Some(why) => Err(NotQuantizable::DoesNotFit { preset, why }),
            None => Ok(Quantized::empty(spec)),
        }
    }

    /// The measuring pass: the first, or the second if the largest magnitude of the tensor is
    /// required. `None` if there is nothing to measure.
    pub(super) fn pass(&self, spec: &AnalysisSpec) -> Option<u64> {
        let fits = self.preset.obstacle(&self.shape).is_none();
        let needs_absmax = self.preset.has_global_scale() && self.shared_absmax.is_none();
        (spec.has_errors() && fits).then_some(u64::from(needs_absmax))
    }

    /// Measures a chunk, which consists of whole rows. `absmax` is the largest magnitude of the
    /// tensor, if the preset requires it.
    pub(super) fn measure(
        &self,
        spec: &AnalysisSpec,
        chunk: ElementRun,
        absmax: f64,
        channels: Option<&Groups>,
    ) -> Result<ChunkResult, NotQuantizable> {
        let absmax = self.shared_absmax.unwrap_or(absmax);
        let coder = PresetCoder::new(self.preset, self.dtype, &self.shape, absmax);
        let mut quantized = Quantized::empty(spec);
        let (mut losses, mut seen) = (Vec::new(), SeenCodes::new(self.preset));
        let mut scales = quantized.scales.clone();
        if coder.has_tensor_scale() && chunk.start == 0 {
            let most = f64::from(self.preset.quantization_type().max());
            let clip = if absmax == 0.0 { 0.0 } else { f64::from(coder.global()) * most };
            scales.push(clip, coder.global());
        }
        let mut row_start = chunk.start;
        let each_row = |x: &[f32], codes: &[u8], restored: &[f32]| {
            let loss = match spec.errors {
                ErrorDetail::Full => {
                    let sums = kernels::restored_error(x, restored);
                    seen.mark(codes);
                    quantized.add(&sums);
                    Loss::from(&sums)
                }
                ErrorDetail::None | ErrorDetail::Loss => {
                    let loss = kernels::restored_loss(x, restored);
                    quantized.add_loss(&loss);
                    loss
                }
            };
            if let Some(channels) = channels {
                losses.push((channels.of(row_start), loss));
            }
            row_start += x.len() as u64;
        };
        coder.restore(chunk.bytes, each_row, |clip, scale| scales.push(clip, scale))?;
        quantized.scales = scales;
        if let Some(error) = &mut quantized.error {
            error.levels.merge(&seen.levels());
        }
        Ok(ChunkResult { quantized, channels: losses })
    }
}
