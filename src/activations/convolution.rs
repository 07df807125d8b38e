//! The geometry of convolutions, and im2col: unfolding an input to rows, one per output
//! position, that a matrix product multiplies.

use serde::Deserialize;
use std::collections::HashMap;

/// The metadata key of a capture file with the geometry of each convolution, as JSON: module
/// names to `stride`, `padding` (before and after) and `dilation` per spatial axis, and
/// `groups`. Written by `assets/record_activations.py`.
pub const METADATA_KEY: &str = "quantscope.convolutions";

/// The geometry of a convolution with any number of spatial axes. Its input is padded with
/// zeros.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convolution {
    /// Step of the kernel along each axis.
    pub stride: Vec<usize>,
    /// Zeros before and after each axis.
    pub padding: Vec<(usize, usize)>,
    /// Distance of the kernel's elements along each axis.
    pub dilation: Vec<usize>,
    /// Number of groups that the channels are divided into.
    pub groups: usize,
    /// Length of the kernel along each axis, from the shape of the weight.
    #[serde(skip)]
    pub kernel: Vec<usize>,
}

/// The most output positions of one sample. No image or sound has as many, and counting them
/// cannot overflow.
const POSITIONS_LIMIT: usize = 1 << 30;

/// Parses the metadata of a capture file.
pub(super) fn parse(text: &str) -> Result<HashMap<String, Convolution>, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

impl Convolution {
    /// Sets the kernel from the shape of the weight, `[out, in / groups, kernel…]`. The error says
    /// what does not fit.
    pub fn with_kernel(mut self, weight: &[u64]) -> Result<Convolution, String> {
        let axes = weight.len().saturating_sub(2);
        for (what, length) in [
            ("stride", self.stride.len()),
            ("padding", self.padding.len()),
            ("dilation", self.dilation.len()),
        ] {
            if length != axes {
                return Err(format!("{length} values of {what}, expected {axes}"));
            }
        }
        let zero = |list: &[usize]| list.contains(&0);
        if zero(&self.stride) || zero(&self.dilation) || self.groups == 0 {
            return Err("stride, dilation and groups must be positive".into());
        }
        let out = weight.first().copied().unwrap_or(0);
        if out % self.groups as u64 != 0 {
            return Err(format!("{} groups do not divide {out} channels", self.groups));
        }
        self.kernel = weight.iter().skip(2).map(|&k| k as usize).collect();
        Ok(self)
    }

    /// The number of output positions along each axis for an input of `spatial` axes. `None` if
    /// the kernel does not fit, or if there would be more positions than supported.
    pub fn positions(&self, spatial: &[usize]) -> Option<Vec<usize>> {
        let axes = spatial.iter().zip(&self.kernel).zip(&self.padding);
        let positions: Vec<usize> = axes
            .zip(self.stride.iter().zip(&self.dilation))
            .map(|(((&length, &kernel), &(before, after)), (&stride, &dilation))| {
                let padded = length.checked_add(before)?.checked_add(after)?;
                let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
                Some(padded.checked_sub(reach)? / stride + 1)
            })
            .collect::<Option<_>>()?;
        let count = positions.iter().try_fold(1usize, |n, &along| n.checked_mul(along))?;
        (count <= POSITIONS_LIMIT).then_some(positions)
    }

    /// Replaces `out` with the rows of the output positions `range`, in row-major order. A row is
    /// `[channels, kernel…]`: the elements that the kernel covers in `channels` of one sample
    /// (`[channels, spatial…]`), and zeros in the padding.
    pub fn unfold(
        &self,
        sample: &[f32],
        spatial: &[usize],
        positions: &[usize],
        channels: std::ops::Range<usize>,
        range: std::ops::Range<usize>,
        out: &mut Vec<f32>,
    ) {
        let plane: usize = spatial.iter().product();
        let taps: usize = self.kernel.iter().product();
        out.clear();
        out.resize(range.len() * channels.len() * taps, 0.0);
        let mut rows = out.chunks_exact_mut((channels.len() * taps).max(1));
        for (position, row) in range.zip(&mut rows) {
            let at = coordinates(position, positions);
            for (tap, offset) in (0..taps).map(|tap| (tap, coordinates(tap, &self.kernel))) {
                let Some(place) = self.source(&at, &offset, spatial) else { continue };
                let values = channels.clone().map(|channel| sample.get(channel * plane + place));
                for (channel, value) in values.enumerate() {
                    if let (Some(slot), Some(value)) = (row.get_mut(channel * taps + tap), value) {
                        *slot = *value;
                    }
                }
            }
        }
    }

    /// The index of the element that a kernel tap covers at a position; `None` in the padding.
    fn source(&self, at: &[usize], tap: &[usize], spatial: &[usize]) -> Option<usize> {
        let mut place = 0usize;
        for (axis, &length) in spatial.iter().enumerate() {
            let moved = at.get(axis)? * self.stride.get(axis)?;
            let reached = moved + tap.get(axis)? * self.dilation.get(axis)?;
            let inside = reached.checked_sub(self.padding.get(axis)?.0)?;
            if inside >= length {
                return None;
            }
            place = place * length + inside;
        }
        Some(place)
    }
}

/// The coordinates of the point with row-major `index` in a grid.
fn coordinates(mut index: usize, dims: &[usize]) -> Vec<usize> {
    let mut at = vec![0; dims.len()];
    for (place, &dim) in at.iter_mut().zip(dims).rev() {
        *place = index % dim.max(1);
        index /= dim.max(1);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convolution(text: &str, weight: &[u64]) -> Result<Convolution, String> {
        let all = parse(&format!("{{\"m\":{text}}}"))?;
        all["m"].clone().with_kernel(weight)
    }

    #[test]
    fn unfolded_rows_hold_what_the_kernel_covers() {
        let text = r#"{"stride":[2],"padding":[[1,0]],"dilation":[2],"groups":1}"#;
        let found = convolution(text, &[1, 2, 2]).expect("fits");
        let positions = found.positions(&[5]).expect("fits");
        assert_eq!(positions, [2]);
        let sample: Vec<f32> = (1..=10u8).map(f32::from).collect();
        let mut out = Vec::new();
        found.unfold(&sample, &[5], &positions, 0..2, 0..2, &mut out);
        // Taps at -1 and 1, then at 1 and 3, in each of two channels.
        assert_eq!(out, [0.0, 2.0, 0.0, 7.0, 2.0, 4.0, 7.0, 9.0]);
        found.unfold(&sample, &[5], &positions, 1..2, 1..2, &mut out);
        assert_eq!(out, [7.0, 9.0]);
    }

    #[test]
    fn an_inconsistent_geometry_is_refused() {
        let text = r#"{"stride":[1],"padding":[[0,0]],"dilation":[1],"groups":1}"#;
        assert!(convolution(text, &[1, 1, 3, 3]).is_err());
        let text = r#"{"stride":[0],"padding":[[0,0]],"dilation":[1],"groups":1}"#;
        assert!(convolution(text, &[1, 1, 3]).is_err());
        let text = r#"{"stride":[1],"padding":[[0,0]],"dilation":[1],"groups":2}"#;
        assert!(convolution(text, &[3, 1, 3]).is_err());
        assert!(convolution(r#"{"stride":[1]}"#, &[1, 1, 3]).is_err());
        let text = r#"{"stride":[1],"padding":[[0,0]],"dilation":[1],"groups":1}"#;
        let found = convolution(text, &[1, 1, 3]).expect("fits");
        assert_eq!(found.positions(&[2]), None);
        let huge = format!(
            r#"{{"stride":[1,1],"padding":[[0,{0}],[0,{0}]],"dilation":[1,1],"groups":1}}"#,
            u32::MAX
        );
        let found = convolution(&huge, &[1, 1, 3, 3]).expect("fits");
        assert_eq!(found.positions(&[9, 9]), None);
    }
}
