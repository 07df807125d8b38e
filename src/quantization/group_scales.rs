//! Computes the scale of every group of a tensor, and iterates over groups with their scales.

use crate::quantization::calibration::{Calibration, narrowed_scale};
use crate::quantization::grouped_run::GroupedRun;
use crate::quantization::groups::{GroupSlice, Groups};
use crate::quantization::qat_scales::QatScales;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::{QuantizationScheme, Rounding};
use crate::tensor::{FloatType, Shape};

/// The quantizer of each group of a tensor: the same one for all groups, except that scales
/// learned in quantization-aware training differ from channel to channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupQuantizers<'l> {
    quantizer: Quantizer,
    learned: Option<&'l QatScales>,
    groups_per_channel: u64,
}

impl<'l> GroupQuantizers<'l> {
    /// `learned` are the scales from quantization-aware training, if any.
    pub(crate) fn new(quantizer: Quantizer, shape: &Shape, learned: Option<&'l QatScales>) -> Self {
        // Learned scales of channels that are not contiguous fit no other groups.
        let is_strided = shape.channel_major().is_some();
        let by_channel = matches!(quantizer.scheme, QuantizationScheme::PerChannel(..));
        let learned = learned.filter(|it| it.scales.len() <= 1 || by_channel || !is_strided);
        let quantizer = quantizer.resolved(learned);
        let learned = learned.filter(|_| quantizer.calibration == Calibration::Learned);
        let groups = quantizer.scheme.groups(shape).count();
        let groups_per_channel =
            if is_strided { 1 } else { (groups / shape.channels().max(1)).max(1) };
        GroupQuantizers { quantizer, learned, groups_per_channel }
    }

    /// The quantizer of the tensor as a whole. Its calibration is [`Calibration::Learned`]
    /// only where the learned scales are used.
    pub(crate) fn quantizer(&self) -> Quantizer {
        self.quantizer
    }

    /// The quantizer of group number `group`. A learned scale becomes
    /// [`Calibration::Magnitude`].
    pub(crate) fn of(&self, group: u64) -> Quantizer {
        let Some(learned) = self.learned else { return self.quantizer };
        let scale = match *learned.scales.as_slice() {
            [scale] => Some(scale),
            ref scales => scales.get((group / self.groups_per_channel) as usize).copied(),
        };
        let qmax = f64::from(self.quantizer.scheme.quantization_type().max());
        // The product of two f32 is exact in f64.
        let clip = scale.map(|scale| Calibration::Magnitude(f64::from(scale) * qmax));
        Quantizer { calibration: clip.unwrap_or_default(), ..self.quantizer }
    }
}

/// The scales of a tensor's groups: computed from the elements of each group, or known from
/// an earlier pass where groups are longer than the run of elements at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupScales<'s> {
    groups: Groups,
    quantizers: GroupQuantizers<'s>,
    rounding: Rounding,
    stored_as: FloatType,
    known: Option<&'s [f32]>,
}

/// A group's slice of a run of elements with the scale of the group.
#[derive(Clone, Debug)]
pub(crate) struct ScaledGroup<'b> {
    pub slice: GroupSlice<'b>,
    /// The scale as it reads back from the type it is stored in. NaN if scales are known and
    /// the one of this group is missing.
    pub scale: Result<f32, NotQuantizable>,
}

impl<'s> GroupScales<'s> {
    /// Scales in F32, each calibrated from the elements of its group. `learned` are the
    /// scales from quantization-aware training, if any.
    pub(crate) fn new(
        quantizer: Quantizer,
        rounding: Rounding,
        shape: &Shape,
        learned: Option<&'s QatScales>,
    ) -> GroupScales<'s> {
        GroupScales {
            groups: quantizer.scheme.groups(shape),
            quantizers: GroupQuantizers::new(quantizer, shape, learned),
            rounding,
            stored_as: FloatType::F32,
            known: None,
        }
    }

    /// Sets the type that scales are stored in and rounded to.
    pub(crate) fn stored_as(self, dtype: FloatType) -> GroupScales<'s> {
        GroupScales { stored_as: dtype, ..self }
    }

    /// Takes the scale of group `i` from `known[i]` instead of calibrating it, if there are
    /// known scales.
    pub(crate) fn known(self, known: Option<&'s [f32]>) -> GroupScales<'s> {
        GroupScales { known, ..self }
    }

    /// Orders a run of elements by these groups. `bytes` are little-endian elements of type
    /// `dtype`, the first of which has the index `start` in the tensor.
    pub(crate) fn run<'b>(&self, start: u64, dtype: FloatType, bytes: &'b [u8]) -> GroupedRun<'b> {
        GroupedRun::new(&self.groups, start, dtype, bytes)
    }

    /// The groups of a run of elements with their scales. Without known scales, the run must
    /// start and end at group boundaries, and the groups must not be strided.
    ///
    /// The indices in errors count from the start of the tensor.
    pub(crate) fn scaled<'b>(
        self,
        run: &'b GroupedRun,
    ) -> impl Iterator<Item = ScaledGroup<'b>> + use<'b, 's> {
        let dtype = run.dtype();
        run.slices().map(move |slice| {
            let scale = match self.known {
                Some(known) => Ok(known
                    .get(slice.group as usize)
                    .map_or(f32::NAN, |&scale| narrowed_scale(scale, self.stored_as))),
                None => self
                    .quantizers
                    .of(slice.group)
                    .scale_of(dtype, slice.bytes, self.rounding, self.stored_as)
                    .map_err(|why| why.after(slice.start)),
            };
            ScaledGroup { slice, scale }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(scales: &[f32]) -> QatScales {
        QatScales { scales: scales.to_vec(), zero_point: None, levels: Some(7.5) }
    }

    fn by_learned(scheme: &str) -> Quantizer {
        let scheme = scheme.parse().expect("a scheme");
        Quantizer { calibration: Calibration::Learned, scheme }
    }

    fn min_max_per_channel() -> Quantizer {
        let scheme = QuantizationScheme::PER_CHANNEL;
        Quantizer { calibration: Calibration::MinMax, scheme }
    }

    #[test]
    fn every_group_of_a_channel_has_the_scale_of_the_channel() {
        let shape = Shape::new([3, 2, 5, 5]).expect("fits");
        let known = learned(&[0.1, 0.2, 0.3]);
        for scheme in ["per-channel", "per-block:5", "per-block:32", "per-channel/int4"] {
            let each = GroupQuantizers::new(by_learned(scheme), &shape, Some(&known));
            let groups = each.quantizer().scheme.groups(&shape);
            for (group, elements) in groups.segments(0..shape.elements()) {
                let scale = known.scales[(elements.start / shape.channel_len()) as usize];
                let quantizer = each.of(group);
                let Calibration::Magnitude(clip) = quantizer.calibration else {
                    panic!("{scheme} {group}: {quantizer:?}")
                };
                let found = quantizer.scale_for(clip, crate::tensor::FloatType::F32);
                assert_eq!(found, Ok(scale), "{scheme} {group}");
            }
        }
        let one = learned(&[0.1]);
        let each = GroupQuantizers::new(by_learned("per-channel"), &shape, Some(&one));
        assert_eq!(each.of(0), each.of(2));
    }

    #[test]
    fn known_scales_replace_calibration_and_missing_ones_are_nan() {
        let shape = Shape::new([2, 3]).expect("fits");
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let quantizer = min_max_per_channel();
        let scales = GroupScales::new(quantizer, Rounding::HalfEven, &shape, None);
        let of = |scales: GroupScales| -> Vec<(u64, u64, f32)> {
            let run = scales.run(1, FloatType::F32, &bytes);
            let groups = scales.scaled(&run);
            groups.map(|g| (g.slice.group, g.slice.start, g.scale.expect("finite"))).collect()
        };
        assert_eq!(of(scales), [(0, 1, 2.0 / 127.0), (1, 3, 4.0 / 127.0)]);
        assert_eq!(of(scales.known(Some(&[0.5, 0.25]))), [(0, 1, 0.5), (1, 3, 0.25)]);
        assert!(of(scales.known(Some(&[0.5])))[1].2.is_nan());
    }

    #[test]
    fn an_element_that_is_not_finite_is_located_in_the_tensor() {
        let shape = Shape::new([2, 2]).expect("fits");
        let bytes: Vec<u8> = [1.0f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        let quantizer = min_max_per_channel();
        let scales = GroupScales::new(quantizer, Rounding::HalfEven, &shape, None);
        let run = scales.run(2, FloatType::F32, &bytes);
        let group = scales.scaled(&run).next().expect("a group");
        assert_eq!(group.scale, Err(NotQuantizable::NonFinite { nan: 1, inf: 0, first: 3 }));
    }
}
