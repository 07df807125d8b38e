//! Searches for the scale of a group with the least weighted squared error.

use crate::quantization::ggml::arithmetic::{SUPER_BLOCK, each, extreme, nearest_int};

/// Groups with a smaller largest magnitude are stored as zeros.
pub(super) const MIN_ABSMAX: f32 = 1e-15;

/// The levels of a symmetric group and their scale.
#[derive(Clone, Copy)]
pub(super) struct SymmetricLevels<const N: usize> {
    pub scale: f32,
    /// From 0 to 2·`max_level` − 1; level `max_level` represents zero.
    pub levels: [u8; N],
}

impl<const N: usize> SymmetricLevels<N> {
    pub(super) const EMPTY: Self = SymmetricLevels { scale: 0.0, levels: [0; N] };
}

/// Number of candidates that are tried at the same time. The sums of each run from left to right,
/// which leaves no parallel work within one of them.
const LANES: usize = 8;

/// Rounds to the nearest integer, ties to even, for magnitudes up to 2²².
#[inline(always)]
fn rounded(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

/// Limits a number that is not NaN. Unlike `f32::clamp`, this has no check of its own.
#[inline(always)]
fn limited(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// Finds the scale for levels from −`max_level` to `max_level` − 1. First maps the element with the
/// largest magnitude to −`max_level`, then tries eighteen scales around that.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(
    x: &[f32; N],
    weights: &[f32; N],
    max_level: i32,
) -> SymmetricLevels<N> {
    const CANDIDATES: usize = 19;
    let max = extreme(x);
    let mut found = SymmetricLevels::EMPTY;
    if max.abs() < MIN_ABSMAX {
        return found;
    }
    let (low, high) = (-max_level as f32, (max_level - 1) as f32);
    let level = |inverse: f32, x: f32| limited(rounded(inverse * x), low, high);
    // Whole vectors of candidates; the last ones are not used.
    let mut inverses = [0f32; LANES * 3];
    let steps = [0].into_iter().chain((-9..=9).filter(|&step| step != 0));
    for (inverse, step) in inverses.iter_mut().zip(steps) {
        *inverse = -(max_level as f32 + 0.1 * step as f32) / max;
    }
    // Σ w·x·l and Σ w·l·l of the levels for each inverse scale.
    let (mut with_x, mut with_level) = ([0f32; LANES * 3], [0f32; LANES * 3]);
    for (&x, w) in x.iter().zip(weights) {
        let wx = w * x;
        for (lane, &inverse) in inverses.iter().enumerate() {
            let l = level(inverse, x);
            with_x[lane] += wx * l;
            with_level[lane] += w * l * l;
        }
    }
    let mut inverse = inverses[0];
    found.scale = if with_level[0] == 0.0 { 0.0 } else { with_x[0] / with_level[0] };
    let mut best = found.scale * with_x[0];
    for candidate in 1..CANDIDATES {
        let (with_x, with_level) = (with_x[candidate], with_level[candidate]);
        if with_level > 0.0 && with_x * with_x > best * with_level {
            inverse = inverses[candidate];
            found.scale = with_x / with_level;
            best = found.scale * with_x;
        }
    }
    found.levels = each(x, |x| (nearest_int(level(inverse, x)) + max_level) as u8);
    found
}

/// Number of elements in a group of [`three_bits`], and number of groups.
const SIXTEEN: usize = 16;

/// Finds levels from −4 to 3 for each group of a super-block by changing one level at a time while
/// the error decreases. The weight of an element is its square.
///
/// All groups are searched side by side, as each change in a group depends on the one before. In
/// these arrays, rows are elements and columns are groups.
#[inline(always)]
pub(super) fn three_bits(x: &[f32; SUPER_BLOCK]) -> [SymmetricLevels<SIXTEEN>; SIXTEEN] {
    const MAX_LEVEL: i32 = 4;
    let nearest_level = |x: f32| nearest_int(x).clamp(-MAX_LEVEL, MAX_LEVEL - 1) as f32;
    let mut rows = [[0f32; SIXTEEN]; SIXTEEN];
    let mut max = [0f32; SIXTEEN];
    for (e, row) in rows.iter_mut().enumerate() {
        for (group, max) in max.iter_mut().enumerate() {
            row[group] = x[group * SIXTEEN + e];
            *max = if row[group].abs() > max.abs() { row[group] } else { *max };
        }
    }
    let inverse = each(&max, |max| -MAX_LEVEL as f32 / max);
    let mut levels = [[0f32; SIXTEEN]; SIXTEEN];
    // Σ w·x·l and Σ w·l·l of each group.
    let (mut with_x, mut with_level) = ([0f32; SIXTEEN], [0f32; SIXTEEN]);
    for (row, levels) in rows.iter().zip(&mut levels) {
        for group in 0..SIXTEEN {
            let (x, l) = (row[group], nearest_level(inverse[group] * row[group]));
            let w = x * x;
            levels[group] = l;
            with_x[group] += w * x * l;
            with_level[group] += w * l * l;
        }
    }
    // A group that did not change stays the same in later passes.
    for _ in 0..5 {
        let mut changes = 0;
        for (row, levels) in rows.iter().zip(&mut levels) {
            for group in 0..SIXTEEN {
                let (x, old) = (row[group], levels[group]);
                let w = x * x;
                let other_with_x = with_x[group] - w * x * old;
                let other_with_level = with_level[group] - w * old * old;
                let new = nearest_level(x * other_with_level / other_with_x);
                let new_with_x = other_with_x + w * x * new;
                let new_with_level = other_with_level + w * new * new;
                let is_better = new_with_x * new_with_x * with_level[group]
                    > with_x[group] * with_x[group] * new_with_level;
                let is_changed =
                    is_better & (other_with_x > 0.0) & (new_with_level > 0.0) & (new != old);
                levels[group] = if is_changed { new } else { old };
                with_x[group] = if is_changed { new_with_x } else { with_x[group] };
                with_level[group] = if is_changed { new_with_level } else { with_level[group] };
                changes |= i32::from(is_changed);
            }
        }
        if changes == 0 {
            break;
        }
    }
    let mut found = [SymmetricLevels::EMPTY; SIXTEEN];
    for (group, found) in found.iter_mut().enumerate() {
        if max[group].abs() < MIN_ABSMAX {
            continue;
        }
        found.scale = if with_level[group] > 0.0 { with_x[group] / with_level[group] } else { 0.0 };
        for (level, levels) in found.levels.iter_mut().zip(&levels) {
            *level = (nearest_int(levels[group]) + MAX_LEVEL) as u8;
        }
    }
    found
}

/// The levels of a group with a minimum, the scale, and the negated minimum.
#[derive(Clone, Copy)]
pub(super) struct LevelsAboveMin<const N: usize> {
    pub scale: f32,
    /// The negated minimum; at least 0.
    pub negative_min: f32,
    pub levels: [u8; N],
}

impl<const N: usize> LevelsAboveMin<N> {
    pub(super) const EMPTY: Self = LevelsAboveMin { scale: 0.0, negative_min: 0.0, levels: [0; N] };
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

    /// Returns the weighted error of levels.
    #[inline(always)]
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
    #[inline(always)]
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
        let lowest = min;
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
        let mut next = 0;
        while next <= self.steps {
            let batch = self.candidates(x, weights, (sum_w, sum_x), (min, lowest, max), next);
            let remaining = LANES.min((self.steps - next + 1) as usize);
            let is_better = |&lane: &usize| batch.is_solvable[lane] && batch.errors[lane] < best;
            // The candidates after a better one depend on its minimum.
            let Some(lane) = (0..remaining).find(is_better) else {
                next += LANES as i32;
                continue;
            };
            levels = each(x, |x| batch.levels.of(batch.inverses[lane] * (x - min)) as u8);
            (best, scale, min) = (batch.errors[lane], batch.scales[lane], batch.mins[lane]);
            next += lane as i32 + 1;
        }
        LevelsAboveMin { scale, negative_min: -min, levels }
    }

    /// Measures the candidates from step `first` for the current minimum. `range` has that minimum
    /// and the lowest and the highest element.
    #[inline(always)]
    fn candidates<const N: usize>(
        &self,
        x: &[f32; N],
        weights: &[f32; N],
        (sum_w, sum_x): (f32, f32),
        (min, lowest, max): (f32, f32, f32),
        first: i32,
    ) -> Batch {
        let lanes = std::array::from_fn::<i32, LANES, _>(|lane| first + lane as i32);
        let inverses = lanes.map(|step| {
            (self.first + self.step * step as f32 + self.max_level as f32) / (max - min)
        });
        let most = inverses[LANES - 1] * (max - min).max((lowest - min).abs());
        let levels = match self.limit_before_rounding {
            true => LevelRounding::Limited { max: self.max_level as f32 },
            false if most < 4e6 => LevelRounding::Rounded { max: self.max_level as f32 },
            false => LevelRounding::Wrapping { max: self.max_level },
        };
        let mut batch = Batch {
            inverses,
            levels,
            scales: [0.0; LANES],
            mins: [0.0; LANES],
            errors: [0.0; LANES],
            is_solvable: [false; LANES],
        };
        // The match is outside the loops so that they are vectorized.
        match levels {
            LevelRounding::Limited { max } => {
                let level = |v: f32| limited_level(v, max);
                batch.measure(self.absolute_errors, x, weights, (sum_w, sum_x, min), level);
            }
            LevelRounding::Rounded { max } => {
                let level = |v: f32| limited(rounded(v), 0.0, max);
                batch.measure(self.absolute_errors, x, weights, (sum_w, sum_x, min), level);
            }
            LevelRounding::Wrapping { max } => {
                let level = |v: f32| nearest_int(v).clamp(0, max) as f32;
                batch.measure(self.absolute_errors, x, weights, (sum_w, sum_x, min), level);
            }
        }
        batch
    }
}

/// How a quotient becomes a level.
#[derive(Clone, Copy)]
enum LevelRounding {
    /// It is limited, then rounded.
    Limited { max: f32 },
    /// It is rounded, then limited; it is below 2²².
    Rounded { max: f32 },
    /// It is rounded as ggml does, which wraps from 2²², then limited.
    Wrapping { max: i32 },
}

impl LevelRounding {
    #[inline(always)]
    fn of(self, quotient: f32) -> f32 {
        match self {
            LevelRounding::Limited { max } => limited_level(quotient, max),
            LevelRounding::Rounded { max } => limited(rounded(quotient), 0.0, max),
            LevelRounding::Wrapping { max } => nearest_int(quotient).clamp(0, max) as f32,
        }
    }
}

/// NaN becomes 0.
#[inline(always)]
fn limited_level(quotient: f32, max: f32) -> f32 {
    let positive = if quotient > 0.0 { quotient } else { 0.0 };
    rounded(if positive < max { positive } else { max })
}

/// Candidates for the scale of a group with a minimum.
struct Batch {
    /// Levels for each unit above the minimum.
    inverses: [f32; LANES],
    levels: LevelRounding,
    /// The scale and the minimum that suit the levels best, and the weighted error with them.
    scales: [f32; LANES],
    mins: [f32; LANES],
    errors: [f32; LANES],
    /// Whether the levels determine scale and minimum.
    is_solvable: [bool; LANES],
}

impl Batch {
    /// Finds scales, minima and errors. `min` is the current minimum.
    #[inline(always)]
    fn measure<const N: usize>(
        &mut self,
        absolute_errors: bool,
        x: &[f32; N],
        weights: &[f32; N],
        (sum_w, sum_x, min): (f32, f32, f32),
        level: impl Fn(f32) -> f32,
    ) {
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
        for (&x, &w) in x.iter().zip(weights) {
            let above = x - min;
            for lane in 0..LANES {
                let l = level(self.inverses[lane] * above);
                let wl = w * l;
                sum_l[lane] += wl;
                sum_ll[lane] += wl * l;
                sum_xl[lane] += wl * x;
            }
        }
        for lane in 0..LANES {
            let determinant = sum_w * sum_ll[lane] - sum_l[lane] * sum_l[lane];
            let mut scale = (sum_w * sum_xl[lane] - sum_x * sum_l[lane]) / determinant;
            let mut new_min = (sum_ll[lane] * sum_x - sum_l[lane] * sum_xl[lane]) / determinant;
            if new_min > 0.0 {
                new_min = 0.0;
                scale = sum_xl[lane] / sum_ll[lane];
            }
            self.is_solvable[lane] = determinant > 0.0;
            (self.scales[lane], self.mins[lane]) = (scale, new_min);
        }
        for (&x, &w) in x.iter().zip(weights) {
            let above = x - min;
            for lane in 0..LANES {
                let l = level(self.inverses[lane] * above);
                let difference = self.scales[lane] * l + self.mins[lane] - x;
                let loss = if absolute_errors { difference.abs() } else { difference * difference };
                self.errors[lane] += w * loss;
            }
        }
    }
}

/// Finds levels from 0 to `max_level` for non-negative elements. Returns their scale.
#[inline(always)]
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
