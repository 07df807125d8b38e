//! The scales of one tensor, in the little space that is needed to judge it.

use serde::{Deserialize, Serialize};

/// The scales of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scales {
    pub count: u64,
    pub min: f32,
    pub max: f32,
    /// The first group that has the largest scale.
    pub largest: u64,
    /// The largest scale of the other groups; 0 if there is none.
    pub second: f32,
    /// Groups of zeros alone.
    pub zero: u64,
    /// Groups of values so small that their scale would be zero.
    pub underflowing: u64,
    /// Every scale in the order of its group, where they were asked for.
    pub all: Option<Vec<f32>>,
}

impl Scales {
    pub(super) fn new(keep: bool) -> Scales {
        Scales {
            count: 0,
            min: f32::INFINITY,
            max: 0.0,
            largest: 0,
            second: 0.0,
            zero: 0,
            underflowing: 0,
            all: keep.then(Vec::new),
        }
    }

    /// Adds the scale of the next group, whose values are clipped at `clip`.
    pub(super) fn push(&mut self, clip: f64, scale: f32) {
        self.note(scale);
        self.zero += u64::from(clip == 0.0);
        // The scale that zeros have is larger than what such a clip asks for.
        self.underflowing += u64::from(clip > 0.0 && clip < f64::from(scale) * 0.9);
    }

    fn note(&mut self, scale: f32) {
        if scale > self.max {
            (self.second, self.max, self.largest) = (self.max, scale, self.count);
        } else {
            self.second = self.second.max(scale);
        }
        self.min = self.min.min(scale);
        self.count += 1;
        if let Some(all) = &mut self.all {
            all.push(scale);
        }
    }

    /// Adds the scales of the next groups, every `step`-th of those given. Their clips are
    /// not zero and far from too small.
    pub(super) fn push_ordinary(&mut self, scales: &[f32; 16], step: usize) {
        scales.iter().step_by(step).for_each(|&scale| self.note(scale));
    }

    /// Between which of them further ordinary scales need but be counted; `None` where every
    /// scale is kept.
    pub(super) fn usual(&self) -> Option<(f32, f32)> {
        self.all.is_none().then_some((self.min, self.second))
    }

    /// Adds the scales of the groups that follow.
    pub(super) fn append(&mut self, next: Scales) {
        if next.max > self.max {
            self.second = self.max.max(next.second);
            (self.max, self.largest) = (next.max, self.count + next.largest);
        } else {
            self.second = self.second.max(next.max);
        }
        self.count += next.count;
        self.min = self.min.min(next.min);
        self.zero += next.zero;
        self.underflowing += next.underflowing;
        if let (Some(all), Some(more)) = (&mut self.all, next.all) {
            all.extend(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_add_up_wherever_they_are_cut() {
        let pairs = [(0.0, 1e-38), (3.0, 0.3), (9.0, 0.9), (9.0, 0.9), (1e-45, 1e-38), (2.0, 0.2)];
        let all = |pairs: &[(f64, f32)]| {
            let mut scales = Scales::new(true);
            pairs.iter().for_each(|&(clip, scale)| scales.push(clip, scale));
            scales
        };
        let whole = all(&pairs);
        assert_eq!((whole.largest, whole.second, whole.max), (2, 0.9, 0.9));
        assert_eq!((whole.zero, whole.underflowing, whole.count), (1, 1, 6));
        for cut in 0..pairs.len() {
            let mut parts = all(&pairs[..cut]);
            parts.append(all(&pairs[cut..]));
            assert_eq!(parts, whole, "cut at {cut}");
        }
    }
}
