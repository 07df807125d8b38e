//! A histogram in a few characters, for a row of the table.

use crate::quantization::ValueHistogram;

/// Width of a sparkline, in columns.
pub(crate) const WIDTH: usize = 10;

/// The height of each column, 0 to 8, from −absmax on the left to absmax on the right. 0 means
/// that there is no element.
pub(crate) type Sparkline = [u8; WIDTH];

/// The counts between −`absmax` and `absmax`, scaled to the highest column. A column with any
/// element is at least 1 high, so that a single outlier is visible.
pub(crate) fn sparkline(histogram: &ValueHistogram, absmax: f64) -> Sparkline {
    let counts = histogram.rebin(-absmax, absmax, WIDTH);
    let highest = counts.iter().copied().fold(0.0, f64::max);
    let mut sparkline = Sparkline::default();
    for (height, count) in sparkline.iter_mut().zip(counts) {
        *height = match count > 0.0 {
            true => (count / highest * 8.0).round().clamp(1.0, 8.0) as u8,
            false => 0,
        };
    }
    sparkline
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::FloatType;

    #[test]
    fn one_outlier_is_visible_and_other_values_are_in_the_middle() {
        let mut values = vec![0.01f32; 1000];
        values.extend([-0.01; 1000]);
        values.push(1.0);
        let bytes: Vec<u8> =
            values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        let found = sparkline(&ValueHistogram::of(FloatType::BF16, &bytes), 1.0);
        assert_eq!(found, [0, 0, 0, 0, 8, 8, 0, 0, 0, 1]);
        assert_eq!(sparkline(&ValueHistogram::of(FloatType::BF16, &[0, 0]), 0.0), [0; WIDTH]);
    }
}
