//! A summary of a tensor's scales.

use serde::{Deserialize, Serialize};

/// A summary of the scales of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scales {
    /// Number of scales, which is the number of groups.
    pub count: u64,
    /// The smallest scale.
    pub min: f32,
    /// The largest scale.
    pub max: f32,
    /// The number of the first group with the largest scale.
    pub largest: u64,
    /// The largest scale of all other groups; 0 if there is only one.
    pub second: f32,
    /// Number of groups in which every element is zero.
    pub zero: u64,
    /// Number of groups whose values are so small that their scale would be zero.
    pub underflowing: u64,
    /// Every scale in the order of the groups, if the scales are kept.
    pub all: Option<Vec<f32>>,
}

impl Scales {
    /// A summary of no scales; `keep` says whether to keep every scale.
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

    /// Adds the scale of the next group, which maps `clip` onto the largest level.
    pub(super) fn push(&mut self, clip: f64, scale: f32) {
        self.add(scale);
        self.zero += u64::from(clip == 0.0);
        // The smallest scale was substituted if it is larger than the clip needs.
        self.underflowing += u64::from(clip > 0.0 && clip < f64::from(scale) * 0.9);
    }

    fn add(&mut self, scale: f32) {
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

    /// Adds every `step`-th of `scales` for the next groups. None of their clips may be zero
    /// or underflow.
    pub(super) fn push_ordinary(&mut self, scales: &[f32; 16], step: usize) {
        scales.iter().step_by(step).for_each(|&scale| self.add(scale));
    }

    /// The interval in which further scales change nothing but the count; `None` if every
    /// scale is kept.
    pub(super) fn uninformative(&self) -> Option<(f32, f32)> {
        self.all.is_none().then_some((self.min, self.second))
    }

    /// Appends the scales of the groups that follow.
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
    fn appended_summaries_equal_the_summary_of_all() {
        let pairs = [(0.0, 1e-38), (3.0, 0.3), (9.0, 0.9), (9.0, 0.9), (1e-45, 1e-38), (2.0, 0.2)];
        let all = |pairs: &[(f64, f32)]| {
            let mut scales = Scales::new(true);
            pairs.iter().for_each(|&(clip, scale)| scales.push(clip, scale));
            scales
        };
        let expected = all(&pairs);
        assert_eq!((expected.largest, expected.second, expected.max), (2, 0.9, 0.9));
        assert_eq!((expected.zero, expected.underflowing, expected.count), (1, 1, 6));
        for at in 0..pairs.len() {
            let mut parts = all(&pairs[..at]);
            parts.append(all(&pairs[at..]));
            assert_eq!(parts, expected, "split at {at}");
        }
    }
}
