//! Searches for the scale of a group with the least weighted squared error.

use crate::quantization::ggml::arithmetic::{extreme, nearest_int};

/// Groups with a smaller largest magnitude are stored as zeros.
pub(super) const MIN_ABSMAX: f32 = 1e-15;

/// The levels of a symmetric group and their scale.
pub(super) struct SymmetricLevels<const N: usize> {
    pub scale: f32,
    /// From 0 to 2·`max_level` − 1; level `max_level` represents zero.
    pub levels: [u8; N],
}

/// Finds the scale for levels from −`max_level` to `max_level` − 1. First maps the element with the
/// largest magnitude to −`max_level`, then tries nineteen scales around that.
pub(super) fn symmetric<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    max_level: i32,
) -> SymmetricLevels<N> {
    let max = extreme(x);
    let mut found = SymmetricLevels { scale: 0.0, levels: [0; N] };
    if max.abs() < MIN_ABSMAX {
        return found;
    }
    let level = |inverse: f32, x: f32| nearest_int(inverse * x).clamp(-max_level, max_level - 1);
    // Σ w·x·l and Σ w·l·l of the levels for an inverse scale.
    let products = |inverse: f32| {
        let (mut with_x, mut with_level) = (0f32, 0f32);
        for (&x, w) in x.iter().zip(weights) {
            let l = level(inverse, x) as f32;
            with_x += w * x * l;
            with_level += w * l * l;
        }
        (with_x, with_level)
    };
    let mut inverse = -max_level as f32 / max;
    let (with_x, with_level) = products(inverse);
    found.scale = if with_level == 0.0 { 0.0 } else { with_x / with_level };
    let mut best = found.scale * with_x;
    for step in (-9..=9).filter(|&step| step != 0) {
        let candidate = -(max_level as f32 + 0.1 * step as f32) / max;
        let (with_x, with_level) = products(candidate);
        if with_level > 0.0 && with_x * with_x > best * with_level {
            inverse = candidate;
            found.scale = with_x / with_level;
            best = found.scale * with_x;
        }
    }
    found.levels = x.map(|x| (level(inverse, x) + max_level) as u8);
    found
}

/// Finds levels from −4 to 3 by changing one level at a time while the error decreases. The weight
/// of an element is its square.
pub(super) fn three_bits<const N: usize>(x: &[f32; N]) -> SymmetricLevels<N> {
    const MAX_LEVEL: i32 = 4;
    let max = extreme(x);
    if max.abs() < MIN_ABSMAX {
        return SymmetricLevels { scale: 0.0, levels: [0; N] };
    }
    let nearest_level = |x: f32| nearest_int(x).clamp(-MAX_LEVEL, MAX_LEVEL - 1) as f32;
    let inverse = -MAX_LEVEL as f32 / max;
    let (mut with_x, mut with_level) = (0f32, 0f32);
    let mut levels = [0f32; N];
    for (&x, level) in x.iter().zip(&mut levels) {
        *level = nearest_level(inverse * x);
        let w = x * x;
        with_x += w * x * *level;
        with_level += w * *level * *level;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, level) in x.iter().zip(&mut levels) {
            let w = x * x;
            let mut new_with_x = with_x - w * x * *level;
            if new_with_x <= 0.0 {
                continue;
            }
            let mut new_with_level = with_level - w * *level * *level;
            let new = nearest_level(x * new_with_level / new_with_x);
            if new == *level {
                continue;
            }
            new_with_x += w * x * new;
            new_with_level += w * new * new;
            let better = new_with_x * new_with_x * with_level > with_x * with_x * new_with_level;
            if new_with_level > 0.0 && better {
                (*level, with_x, with_level) = (new, new_with_x, new_with_level);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    SymmetricLevels {
        scale: if with_level > 0.0 { with_x / with_level } else { 0.0 },
        levels: levels.map(|level| (level as i32 + MAX_LEVEL) as u8),
    }
}

/// The levels of a group with a minimum, the scale, and the negated minimum.
pub(super) struct LevelsAboveMin<const N: usize> {
    pub scale: f32,
    /// The negated minimum; at least 0.
    pub negative_min: f32,
    pub levels: [u8; N],
}

/// Parameters of the search for the scale of a group with a minimum.
pub(super) struct MinSearch {
    /// The largest level.
    pub max_level: i32,
    /// Number of levels that the range of the group is divided into, minus `max_level`: that of the
    /// first candidate, and the step to the next one.
    pub first: f32,
    pub step: f32,
    /// Number of candidates after the first.
    pub steps: i32,
    /// Whether to sum magnitudes of errors instead of squares.
    pub absolute_errors: bool,
    /// Whether to limit quotients to the largest level before rounding, so that huge quotients
    /// become the largest level.
    pub limit_before_rounding: bool,
}

impl MinSearch {
    /// The parameters for all types with a minimum if there is an importance.
    pub(super) fn weighted(max_level: i32) -> MinSearch {
        MinSearch {
            max_level,
            first: -0.9,
            step: 0.05,
            steps: 36,
            absolute_errors: false,
            limit_before_rounding: true,
        }
    }

    fn level(&self, x: f32) -> i32 {
        if !self.limit_before_rounding {
            nearest_int(x).clamp(0, self.max_level)
        } else if x > 0.0 {
            let max = self.max_level as f32;
            nearest_int(if x < max { x } else { max })
        } else {
            0
        }
    }

    /// Returns the weighted error of levels.
    fn error<const N: usize>(
        &self,
        x: &[f32; N],
        weights: &[f32; N],
        levels: &[u8; N],
        scale: f32,
        min: f32,
    ) -> f32 {
        let mut error = 0f32;
        for ((x, w), &level) in x.iter().zip(weights).zip(levels) {
            let difference = scale * f32::from(level) + min - x;
            let loss =
                if self.absolute_errors { difference.abs() } else { difference * difference };
            error += w * loss;
        }
        error
    }

    /// Finds the scale and the minimum.
    pub(super) fn run<const N: usize>(
        &self,
        x: &[f32; N],
        weights: &[f32; N],
    ) -> LevelsAboveMin<N> {
        let (mut min, mut max) = (x[0], x[0]);
        let mut sum_w = weights[0];
        let mut sum_x = sum_w * x[0];
        for (&x, w) in x.iter().zip(weights).skip(1) {
            if x < min {
                min = x;
            }
            if x > max {
                max = x;
            }
            sum_w += w;
            sum_x += w * x;
        }
        if min > 0.0 {
            min = 0.0;
        }
        let mut levels = [0u8; N];
        if max <= min {
            return LevelsAboveMin { scale: 0.0, negative_min: -min, levels };
        }
        let first_inverse = self.max_level as f32 / (max - min);
        let mut scale = 1.0 / first_inverse;
        for (&x, level) in x.iter().zip(&mut levels) {
            *level = nearest_int(first_inverse * (x - min)).clamp(0, self.max_level) as u8;
        }
        let mut best = self.error(x, weights, &levels, scale, min);
        for step in 0..=self.steps {
            let inverse =
                (self.first + self.step * step as f32 + self.max_level as f32) / (max - min);
            let mut candidate = [0u8; N];
            let (mut sum_l, mut sum_ll, mut sum_xl) = (0f32, 0f32, 0f32);
            for ((&x, w), level) in x.iter().zip(weights).zip(&mut candidate) {
                let l = self.level(inverse * (x - min));
                *level = l as u8;
                let l = l as f32;
                sum_l += w * l;
                sum_ll += w * l * l;
                sum_xl += w * l * x;
            }
            let determinant = sum_w * sum_ll - sum_l * sum_l;
            if determinant > 0.0 {
                let mut new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
                let mut new_min = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
                if new_min > 0.0 {
                    new_min = 0.0;
                    new_scale = sum_xl / sum_ll;
                }
                let error = self.error(x, weights, &candidate, new_scale, new_min);
                if error < best {
                    levels = candidate;
                    best = error;
                    scale = new_scale;
                    min = new_min;
                }
            }
        }
        LevelsAboveMin { scale, negative_min: -min, levels }
    }
}

/// Finds levels from 0 to `max_level` for non-negative elements. Returns their scale.
pub(super) fn positive<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    max_level: i32,
) -> (f32, [u8; N]) {
    let max = x.iter().fold(0f32, |max, &x| if max > x { max } else { x });
    if max < MIN_ABSMAX {
        return (0.0, [0; N]);
    }
    let squared_error = |inverse: f32, limit: fn(i32, i32) -> i32| {
        let scale = 1.0 / inverse;
        let mut error = 0f32;
        for (x, w) in x.iter().zip(weights) {
            let difference = x - scale * limit(nearest_int(inverse * x), max_level) as f32;
            error += w * difference * difference;
        }
        error
    };
    let mut inverse = max_level as f32 / max;
    // A slightly negative element becomes a large level here, as in ggml.
    let mut best = squared_error(inverse, |level, _| i32::from(level as u8));
    for step in (-4..=4).filter(|&step| step != 0) {
        let candidate = (0.1 * step as f32 + max_level as f32) / max;
        let error = squared_error(candidate, i32::min);
        if error < best {
            best = error;
            inverse = candidate;
        }
    }
    let (mut with_x, mut with_level) = (0f32, 0f32);
    let mut levels = [0u8; N];
    for ((&x, w), level) in x.iter().zip(weights).zip(&mut levels) {
        let l = nearest_int(inverse * x).min(max_level);
        *level = l as u8;
        with_x += w * x * l as f32;
        with_level += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, w), level) in x.iter().zip(weights).zip(&mut levels) {
            let old = f32::from(*level);
            let mut new_with_x = with_x - w * x * old;
            let mut new_with_level = with_level - w * old * old;
            if new_with_x > 0.0 && new_with_level > 0.0 {
                let new = nearest_int(x * new_with_level / new_with_x).min(max_level);
                if new != i32::from(*level) {
                    new_with_x += w * x * new as f32;
                    new_with_level += w * new as f32 * new as f32;
                    let better =
                        new_with_x * new_with_x * with_level > with_x * with_x * new_with_level;
                    if better {
                        (*level, with_x, with_level) = (new as u8, new_with_x, new_with_level);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if with_level > 0.0 { with_x / with_level } else { 0.0 }, levels)
}
