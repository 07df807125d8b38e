//! One quantizer applied to one tensor.

use crate::quantization::calibration::Calibration;
use crate::quantization::group_scales::GroupQuantizers;
use crate::quantization::groups::Groups;
use crate::quantization::kernels::Quantization;
use crate::quantization::qat_scales::QatScales;
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::Rounding;
use crate::tensor::{FloatType, Shape};

/// A quantizer with what it depends on in one tensor: the groups, the element type and the learned
/// scales.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorQuantizer<'l> {
    group_quantizers: GroupQuantizers<'l>,
    pub groups: Groups,
    pub rounding: Rounding,
    pub dtype: FloatType,
    /// The type that scales are rounded to.
    pub scale_type: FloatType,
}

impl<'l> TensorQuantizer<'l> {
    pub(super) fn new(
        quantizer: Quantizer,
        rounding: Rounding,
        dtype: FloatType,
        shape: &Shape,
        learned: Option<&'l QatScales>,
    ) -> TensorQuantizer<'l> {
        let quantizer = Quantizer { scheme: quantizer.scheme.fitted_to(shape), ..quantizer };
        TensorQuantizer {
            group_quantizers: GroupQuantizers::new(quantizer, shape, learned),
            groups: quantizer.scheme.groups(shape),
            rounding,
            dtype,
            scale_type: FloatType::F32,
        }
    }

    /// Sets the type that scales are rounded to.
    pub(super) fn stored_as(self, scale_type: FloatType) -> TensorQuantizer<'l> {
        TensorQuantizer { scale_type, ..self }
    }

    pub(super) fn quantizer(&self) -> Quantizer {
        self.group_quantizers.quantizer()
    }

    /// The quantizer of group number `group`.
    pub(super) fn of_group(&self, group: u64) -> Quantizer {
        self.group_quantizers.of(group)
    }

    pub(super) fn qtype(&self) -> QuantizationType {
        self.quantizer().scheme.quantization_type()
    }

    /// Whether one scale serves the whole tensor.
    pub(super) fn has_one_group(&self) -> bool {
        self.groups.count() == 1
    }

    /// Passes that the calibration needs to find clips once the ranges are known, if groups
    /// span chunks.
    pub(super) fn search_passes(&self) -> u64 {
        match self.quantizer().calibration {
            Calibration::MinMax
            | Calibration::Clip(_)
            | Calibration::Magnitude(_)
            | Calibration::Learned => 0,
            // One for every 16 bits of an element.
            Calibration::Percentile(_) => self.dtype.size() as u64 / 2,
            Calibration::Mse => 1,
        }
    }

    /// The clip and the scale of a group from its elements, which must be finite.
    pub(super) fn calibrate(&self, group: u64, bytes: &[u8]) -> Result<(f64, f32), NotQuantizable> {
        let quantizer = self.of_group(group);
        let clip = quantizer.clip_of(self.dtype, bytes, self.rounding)?;
        Ok((clip, quantizer.scale_for(clip, self.scale_type)?))
    }

    /// Quantization by `scale`.
    pub(super) fn params(&self, scale: f32) -> Quantization {
        Quantization { scale, qtype: self.qtype(), rounding: self.rounding }
    }
}
