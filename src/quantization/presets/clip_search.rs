//! The clips of a preset's groups with the least output error on a layer's recorded inputs, as in
//! AWQ (Lin et al., 2024).
//!
//! A group whose elements have the errors e adds eᵀGe to the squared error of the layer's outputs,
//! where G holds the second moments of the inputs of its columns. Each group gets the clip for which
//! that is least.

use crate::quantization::compensation::{GroupMoments, Product, add_product};
use crate::quantization::kernels::{self, GroupedLevels, Loop};
use crate::quantization::presets::coder::{EncodedRows, PresetCoder};
use crate::quantization::presets::levels::{level, restored};
use crate::quantization::presets::scale::{GroupScale, group_scales};
use crate::quantization::presets::working_type::{WorkingType, by_working_type};
use crate::tensor::FloatType;

/// Number of clips that are tried.
const CLIPS: usize = 13;

/// A clip as a share of the range of its group: 1, 31/32, … 20/32.
fn clip(place: usize) -> f32 {
    1.0 - place as f32 / 32.0
}

/// The parameters that the groups of a row have with each clip, in the order of the clips.
#[derive(Default)]
struct RowClips {
    ranges: Vec<(f32, f32)>,
    clipped: Vec<(f32, f32)>,
    scales: [Vec<GroupScale>; CLIPS],
}

impl RowClips {
    /// Computes the parameters for the elements of a row.
    fn set<W: WorkingType>(&mut self, coder: &PresetCoder, x: &[f32]) {
        self.ranges.clear();
        self.ranges.resize(coder.groups_across(), (0.0, 0.0));
        kernels::group_ranges(x, coder.group(), coder.has_zero_points(), &mut self.ranges);
        for (place, scales) in self.scales.iter_mut().enumerate() {
            let share = clip(place);
            self.clipped.clear();
            self.clipped.extend(self.ranges.iter().map(|(min, max)| (min * share, max * share)));
            // Smaller ranges have scales if the whole range has one.
            let _ = group_scales::<W>(coder.preset(), &self.clipped, 1.0, scales);
        }
    }

    /// The parameters of a group with each clip. A clip with the scale of a wider one is left
    /// out, so that the scale determines the clip.
    fn of_group(&self, group: usize) -> impl Iterator<Item = GroupScale> {
        let at = move |place: usize| self.scales.get(place).and_then(|s| s.get(group)).copied();
        (0..CLIPS).filter_map(move |place| {
            let found = at(place)?;
            let is_new = (0..place).all(|wider| at(wider).is_none_or(|w| w.scale != found.scale));
            is_new.then_some(found)
        })
    }
}

impl PresetCoder {
    /// The parameters of all groups of whole rows with the clips that have the least output error;
    /// of equals the widest. The groups have scales with their whole ranges.
    pub(super) fn search_clips(&self, x: &[f32], moments: &GroupMoments) -> Vec<GroupScale> {
        kernels::run_loop(ClipSearch { coder: self, x, moments })
    }

    /// The parameters of all groups of whole rows with the clips whose scales equal the stored
    /// ones, and with their whole ranges where no clip does. `scales` are the stored scales.
    pub(super) fn clips_of_scales(&self, x: &[f32], scales: &[u8]) -> Vec<GroupScale> {
        let mut stored = Vec::new();
        kernels::convert(self.scale_type(), scales, FloatType::F32, &mut stored);
        let mut stored = stored.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw));
        let (mut row, mut found) = (RowClips::default(), Vec::new());
        for x in x.chunks(self.columns()) {
            by_working_type!(self.dtype(), W => row.set::<W>(self, x));
            for group in 0..self.groups_across() {
                let stored = stored.next();
                let equal = row.of_group(group).find(|clip| Some(clip.scale) == stored);
                found.push(equal.or(row.of_group(group).next()).unwrap_or_default());
            }
        }
        found
    }

    /// Replaces the content of `out` by the stored bytes of whole rows with these parameters, and
    /// calls `each` with the elements, codes and dequantized values of each row.
    pub(super) fn encode_scaled(
        &self,
        x: &[f32],
        scales: &[GroupScale],
        out: &mut EncodedRows,
        mut each: impl FnMut(&[f32], &[u8], &[f32]),
    ) {
        out.values.clear();
        out.scales.clear();
        out.zero_points.clear();
        let params: GroupedLevels = by_working_type!(self.dtype(), W => self.grouped_levels::<W>());
        let (mut codes, mut values) = (vec![0; self.columns()], vec![0.0; self.columns()]);
        for (x, row) in x.chunks(self.columns()).zip(scales.chunks(self.groups_across())) {
            let groups = row.iter().map(|group| (group.scale, group.zero));
            kernels::quantize_groups(params, x, groups, &mut codes, &mut values);
            self.pack(&codes, &mut out.values);
            self.append_scales(row, &mut out.scales);
            each(x, &codes, &values);
        }
        if self.has_zero_points() {
            let zeros: Vec<f32> = scales.iter().map(|group| group.zero).collect();
            self.append_zero_points(&zeros, &mut out.zero_points);
        }
    }
}

/// The search for the clips of all groups of some rows.
struct ClipSearch<'a> {
    coder: &'a PresetCoder,
    x: &'a [f32],
    moments: &'a GroupMoments,
}

impl Loop for ClipSearch<'_> {
    type Output = Vec<GroupScale>;

    #[inline(always)]
    fn run(self) -> Vec<GroupScale> {
        by_working_type!(self.coder.dtype(), W => self.search::<W>())
    }
}

impl ClipSearch<'_> {
    #[inline(always)]
    fn search<W: WorkingType>(self) -> Vec<GroupScale> {
        let ClipSearch { coder, x, moments } = self;
        let (group, preset) = (coder.group(), coder.preset());
        let (mut row, mut found) = (RowClips::default(), Vec::new());
        let (mut errors, mut products) = (Vec::new(), Vec::new());
        for x in x.chunks(coder.columns()) {
            row.set::<W>(coder, x);
            for (at, x) in x.chunks(group).enumerate() {
                let clips: Vec<GroupScale> = row.of_group(at).collect();
                errors.clear();
                for &clip in &clips {
                    let restored = x
                        .iter()
                        .map(|&x| x - restored::<W>(preset, level::<W>(preset, x, clip), clip));
                    errors.extend(restored);
                }
                products.clear();
                products.resize(errors.len(), 0.0f32);
                let width = x.len();
                let (strides, dims) = ([width; 3], [clips.len(), width, width]);
                let b = moments.of_group(at);
                add_product(Product { c: &mut products, a: &errors, b, strides, dims });
                let pairs = errors.chunks(width).zip(products.chunks(width));
                let squared = pairs.map(|(errors, products)| {
                    let terms = errors.iter().zip(products);
                    terms.map(|(e, p)| f64::from(*e) * f64::from(*p)).sum::<f64>()
                });
                let mut best: Option<(f64, GroupScale)> = None;
                for (error, &clip) in squared.zip(&clips) {
                    if best.is_none_or(|(least, _)| error < least) {
                        best = Some((error, clip));
                    }
                }
                found.push(best.map(|(_, clip)| clip).unwrap_or_default());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::compensation::SecondMoments;
    use crate::quantization::preset::Preset;
    use crate::tensor::{Shape, write_f64};

    fn in_order(m: &mut [f32], size: usize, each: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        m.chunks_mut(size.max(1)).enumerate().for_each(|(at, part)| each(at, part));
    }

    fn numbers(count: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| next() * next() * next()).collect()
    }

    /// The output error of one group with each clip, over the samples themselves, in f64.
    fn reference(
        x: &[f32],
        clips: &[GroupScale],
        preset: Preset,
        samples: &[Vec<f32>],
    ) -> Vec<f64> {
        let error = |clip: &GroupScale| -> f64 {
            let (low, high) = match preset {
                Preset::W8A16(_) => (-128.0, 127.0),
                _ => (-8.0, 7.0),
            };
            let (scale, zero) = (f64::from(clip.scale), f64::from(clip.zero));
            let lost = |x: f32| {
                let quotient = f64::from((f64::from(x) / scale) as f32 + clip.zero);
                f64::from(x) - (quotient.round_ties_even().clamp(low, high) - zero) * scale
            };
            let lost: Vec<f64> = x.iter().map(|&x| lost(x)).collect();
            let dot = |sample: &Vec<f32>| -> f64 {
                sample.iter().zip(&lost).map(|(s, e)| f64::from(*s) * e).sum()
            };
            samples.iter().map(|sample| dot(sample).powi(2)).sum()
        };
        clips.iter().map(error).collect()
    }

    #[test]
    fn each_group_has_the_clip_with_the_least_output_error() {
        let (rows, columns, group) = (6, 96, 32);
        let shape = Shape::new([rows as u64, columns as u64]).expect("fits");
        let x = numbers(rows * columns, 3);
        let mut bytes = Vec::new();
        x.iter().for_each(|&x| write_f64(FloatType::F32, x.into(), &mut bytes));
        let inputs = numbers(200 * columns, 11);
        let mut moments = SecondMoments::new(columns);
        moments.add(&inputs, &in_order);
        let moments = moments.of_groups(group);
        for preset in [Preset::W4A16(32), Preset::W4A16Asym(32), Preset::W8A16(32)] {
            let coder = PresetCoder::new(preset, FloatType::F32, &shape, 0.0);
            let found = coder.search_clips(&x, &moments);
            let (mut row, mut narrower) = (RowClips::default(), 0);
            for (number, found) in found.iter().enumerate() {
                let (at, number) = (number % (columns / group), number / (columns / group));
                let elements = &x[number * columns..][..columns];
                row.set::<crate::quantization::presets::working_type::F32>(&coder, elements);
                let clips: Vec<GroupScale> = row.of_group(at).collect();
                let samples = inputs.chunks(columns).map(|s| s[at * group..][..group].to_vec());
                let samples: Vec<Vec<f32>> = samples.collect();
                let elements = &elements[at * group..][..group];
                let errors = reference(elements, &clips, preset, &samples);
                let place = clips.iter().position(|clip| clip == found).expect("a clip");
                let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
                assert!(errors[place] <= least * 1.0001, "{preset} {number} {at}: {errors:?}");
                narrower += usize::from(place > 0);
            }
            assert!(narrower > 0 || preset == Preset::W8A16(32), "{preset}");
            // The stored scales tell the clips.
            let mut out = EncodedRows::default();
            coder.encode_scaled(&x, &found, &mut out, |_, _, _| {});
            assert_eq!(coder.clips_of_scales(&x, &out.scales), found, "{preset}");
            // Without clips the bytes are those of rounding to nearest.
            let (mut plain, mut again) = (EncodedRows::default(), EncodedRows::default());
            coder.encode(&bytes, &mut plain).expect("finite");
            let scales = coder.clips_of_scales(&x, &plain.scales);
            coder.encode_scaled(&x, &scales, &mut again, |_, _, _| {});
            assert_eq!(plain, again, "{preset}");
        }
    }

    #[test]
    fn inputs_of_zeros_keep_the_whole_range() {
        let shape = Shape::new([2, 32]).expect("fits");
        let coder = PresetCoder::new(Preset::W4A16(32), FloatType::F32, &shape, 0.0);
        let x = numbers(64, 5);
        let moments = SecondMoments::new(32).of_groups(32);
        let mut row = RowClips::default();
        for (x, found) in x.chunks(32).zip(coder.search_clips(&x, &moments)) {
            row.set::<crate::quantization::presets::working_type::F32>(&coder, x);
            assert_eq!(row.of_group(0).next(), Some(found));
        }
    }
}
