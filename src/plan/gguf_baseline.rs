//! Compares llama.cpp's mixes with the curve of a budget: the size of each mix, and its error
//! relative to the lowest error at that size.

use crate::checkpoint::Checkpoint;
use crate::plan::budget::{Choice, Curve, Point};
use crate::plan::gguf_mix::GgufMix;
use crate::quantization::QuantizationScheme;
use crate::tensor::{BlockType, TensorId};
use crate::text::figures;
use std::collections::HashMap;
use std::fmt;

/// The size and the error of a mix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixPoint {
    /// The mix of block types.
    pub mix: GgufMix,
    /// The size and the error of all tensors together.
    pub point: Point,
    /// The error divided by the lowest error at the mix's size; `None` if every point of the curve
    /// is larger.
    pub over_optimum: Option<f64>,
}

impl fmt::Display for MixPoint {
    /// Writes `Q4_K_M: 4.58 GB, error 1.9 × the optimum at that size`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, ", self.mix, figures::bytes(self.point.bytes))?;
        match self.over_optimum {
            Some(ratio) => write!(f, "error {ratio:.2} × the optimum at that size"),
            None => f.write_str("smaller than all that the budget chooses from"),
        }
    }
}

/// Returns the points of the mixes whose types were all measured, largest first. `options` has the
/// choices of each tensor of the curve; `fixed` is the size of all other tensors in bytes.
pub fn mix_points(
    checkpoint: &Checkpoint,
    curve: &Curve,
    fixed: u64,
    options: &HashMap<TensorId, Vec<Choice>>,
    has_importance: bool,
) -> Vec<MixPoint> {
    let mut points: Vec<MixPoint> = GgufMix::all()
        .filter_map(|mix| {
            let types = mix.types(checkpoint, has_importance);
            let types: HashMap<TensorId, BlockType> = types.into_iter().collect();
            let point = point(&types, fixed, options)?;
            let least = curve.least_error(point.bytes);
            // Rounding can turn a lowest error of zero into negative zero.
            let over_optimum = least.filter(|least| *least > 0.0).map(|least| point.error / least);
            Some(MixPoint { mix, point, over_optimum })
        })
        .collect();
    points.sort_by_key(|mix| std::cmp::Reverse(mix.point.bytes));
    // In models without experts, some mixes are equal.
    points.dedup_by(|a, b| a.point == b.point);
    points
}

/// Returns size and error with these types; `None` if one of them was not measured.
fn point(
    types: &HashMap<TensorId, BlockType>,
    fixed: u64,
    options: &HashMap<TensorId, Vec<Choice>>,
) -> Option<Point> {
    if types.keys().any(|id| !options.contains_key(id)) {
        return None;
    }
    let mut point = Point { bytes: fixed, error: 0.0 };
    for (id, options) in options {
        let wanted = types.get(id).copied();
        let mut options = options.iter();
        let choice = options.find(|choice| stored_as(choice) == wanted)?;
        point.bytes += choice.bytes;
        point.error += choice.error;
    }
    Some(point)
}

/// Returns the block type of a choice; `None` if the tensor keeps its type.
fn stored_as(choice: &Choice) -> Option<BlockType> {
    match choice.quantizer?.scheme {
        QuantizationScheme::Ggml(block) => Some(block),
        _ => Some(BlockType::Q8_0),
    }
}
