//! A histogram in a few characters, for a row of the table.

use crate::quantization::ValueHistogram;

/// Width of a sparkline, in columns.
pub(crate) const WIDTH: usize = 10;

/// A histogram as columns of 0 to 8 eighths, from −absmax on the left to absmax on the right. 0
/// means that there is no element.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sparkline {
    /// Height of each bar.
    pub heights: [u8; WIDTH],
    /// ln(1 + the highest count), if heights are logarithms of the counts.
    pub log: Option<f32>,
}

impl Sparkline {
    /// The counts that the heights stand for, up to a factor.
    pub fn counts(&self) -> impl Iterator<Item = f32> {
        let log = self.log;
        self.heights.into_iter().map(move |height| match log {
            Some(log) => (f32::from(height) / 8.0 * log).exp_m1(),
            None => f32::from(height),
        })
    }
}

/// The counts between −`absmax` and `absmax`, scaled to the highest column; their logarithms if a
/// few columns would hide the rest. A column with any element is at least 1 high, so that a single
/// outlier is visible.
pub(crate) fn sparkline(histogram: &ValueHistogram, absmax: f64) -> Sparkline {
    let counts = histogram.rebin(-absmax, absmax, WIDTH);
    let is_log = hides_rest(&counts);
    let weigh = |count: f64| if is_log { count.ln_1p() } else { count };
    let highest = counts.iter().copied().map(weigh).fold(0.0, f64::max);
    let mut sparkline = Sparkline { log: is_log.then_some(highest as f32), ..Sparkline::default() };
    for (height, count) in sparkline.heights.iter_mut().zip(counts) {
        *height = if count > 0.0 {
            (weigh(count) / highest * 8.0).round().clamp(1.0, 8.0) as u8
        } else {
            0
        };
    }
    sparkline
}

/// Whether bars in proportion to the counts would hide all but the two highest.
pub(crate) fn hides_rest(counts: &[f64]) -> bool {
    const MAX_BAR_RATIO: f64 = 24.0;
    let mut highest = [0.0f64; 3];
    for &count in counts {
        if let Some(place) = highest.iter().position(|&other| count > other) {
            highest[place..].rotate_right(1);
            highest[place] = count;
        }
    }
    let [first, _, third] = highest;
    third > 0.0 && first > third * MAX_BAR_RATIO
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::FloatType;

    #[test]
    fn one_outlier_is_seen_and_everything_else_stands_in_the_middle() {
        let mut values = vec![0.01f32; 1000];
        values.extend([-0.01; 1000]);
        values.push(1.0);
        let bytes: Vec<u8> =
            values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        let found = sparkline(&ValueHistogram::of(FloatType::BF16, &bytes), 1.0);
        assert_eq!(found.heights, [0, 0, 0, 0, 8, 8, 0, 0, 0, 1]);
        let nothing = sparkline(&ValueHistogram::of(FloatType::BF16, &[0, 0]), 0.0);
        assert_eq!(nothing, Sparkline::default());
    }

    #[test]
    fn one_high_column_does_not_hide_the_others() {
        let near = |x: f32, n: usize| std::iter::repeat_n(x, n);
        let values: Vec<f32> =
            near(0.01, 100_000).chain(near(0.5, 300)).chain(near(-0.5, 300)).chain([1.0]).collect();
        let bytes: Vec<u8> =
            values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        let found = sparkline(&ValueHistogram::of(FloatType::BF16, &bytes), 1.0);
        assert!(found.log.is_some());
        assert_eq!(found.heights, [0, 0, 4, 0, 0, 8, 0, 4, 0, 1]);
        let counts: Vec<f32> = found.counts().collect();
        assert!((90_000.0..110_000.0).contains(&counts[5]), "{counts:?}");
    }
}
