//! Choosing schemes under a budget of bytes: the Pareto curve of size against error.
//!
//! The error of a choice is the weight proxy Σ(x−x̂)²/Σx² or, where activations were
//! recorded, the output error ‖Wx−Ŵx̂‖²/‖Wx‖², weighted by the tensor's parameters, summed
//! over tensors. Each tensor's options are reduced to the lower convex
//! hull of (bytes, error); taking the hulls' edges of all tensors from the least error per
//! byte saved to the most gives the convex hull of all combinations, exactly (the fractional
//! relaxation of the multiple-choice knapsack: Sinha and Zoltners, 1979). Every point of the
//! curve is therefore a choice that no other of the same size or smaller beats.

use crate::plan::marks::Plan;
pub use crate::plan::schemes::SCHEMES;
use crate::quantization::{Outcome, Quantizer, Rounding};
use crate::tensor::{TensorId, TensorInfo};

/// One way to store a tensor: as it is (`None`), or quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    pub quantizer: Option<Quantizer>,
    pub bytes: u64,
    /// Relative squared error times parameters; 0 as it is.
    pub error: f64,
}

impl Choice {
    /// The tensor as it is.
    pub fn kept(tensor: &TensorInfo) -> Choice {
        Choice { quantizer: None, bytes: tensor.bytes, error: 0.0 }
    }

    /// The tensor quantized. `noise_share`: Σ(x−x̂)²/Σx², or the same of the layer's output.
    pub fn quantized(tensor: &TensorInfo, quantizer: Quantizer, noise_share: f64) -> Choice {
        Choice {
            quantizer: Some(quantizer),
            bytes: quantizer.scheme.bytes(&tensor.shape, 4),
            error: noise_share * tensor.parameters() as f64,
        }
    }
}

/// The options of a tensor: as it is, and every outcome that loses no more than
/// `min_sqnr_db` allows. `scale_bytes`: what a stored scale takes. `output`: what the layer's output loses by a quantizer, where that
/// is known; it then takes the place of what the weight loses.
pub(crate) fn options(
    tensor: &TensorInfo,
    outcomes: &[Outcome],
    min_sqnr_db: Option<f64>,
    scale_bytes: u64,
    output: impl Fn(Quantizer) -> Option<f64>,
) -> Vec<Choice> {
    let measured = outcomes.iter().filter_map(|outcome| {
        let sums = outcome.result.as_ref().ok()?.error?;
        let enough = min_sqnr_db.is_none_or(|db| sums.statistics().sqnr_db >= db);
        let share = output(outcome.quantizer).unwrap_or(sums.noise_share());
        let bytes = outcome.quantizer.scheme.bytes(&tensor.shape, scale_bytes);
        let choice = Choice::quantized(tensor, outcome.quantizer, share);
        enough.then_some(Choice { bytes, ..choice })
    });
    std::iter::once(Choice::kept(tensor)).chain(measured).collect()
}

/// The options of tensors that must share a scheme: what each of them can be stored as.
pub(crate) fn shared_options(options: Vec<Vec<Choice>>) -> Vec<Choice> {
    let mut options = options.into_iter();
    let first = options.next().unwrap_or_default();
    options.fold(first, |shared, next| {
        let both = shared.into_iter().filter_map(|choice| {
            let same = next.iter().find(|other| other.quantizer == choice.quantizer)?;
            let (bytes, error) = (choice.bytes + same.bytes, choice.error + same.error);
            Some(Choice { bytes, error, ..choice })
        });
        both.collect()
    })
}

/// One point of the curve: all tensors together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub bytes: u64,
    pub error: f64,
}

/// The curve from everything kept as it is to the smallest size, bytes falling and error
/// rising.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Tensors that share a choice.
    units: Vec<Vec<TensorId>>,
    points: Vec<Point>,
    /// Step `i` leads from point `i` to point `i + 1`: a unit's number and its new choice.
    steps: Vec<(usize, Choice)>,
    start: Vec<(usize, Choice)>,
}

impl Curve {
    /// The curve over single tensors. `fixed`: bytes of what is not up for choice. Each
    /// tensor has at least one option.
    pub fn new(fixed: u64, options: impl IntoIterator<Item = (TensorId, Vec<Choice>)>) -> Curve {
        Curve::of_units(fixed, options.into_iter().map(|(id, options)| (vec![id], options)))
    }

    /// The curve over units, whose tensors share a choice.
    pub fn of_units(
        fixed: u64,
        options: impl IntoIterator<Item = (Vec<TensorId>, Vec<Choice>)>,
    ) -> Curve {
        let (mut units, mut start) = (Vec::new(), Vec::new());
        let mut edges: Vec<(f64, usize, Choice, Choice)> = Vec::new();
        for (unit, (tensors, options)) in options.into_iter().enumerate() {
            let hull = hull(options);
            units.push(tensors);
            start.extend(hull.first().map(|&first| (unit, first)));
            edges.extend(hull.windows(2).filter_map(|pair| match *pair {
                [from, to] => Some((slope(&from, &to), unit, from, to)),
                _ => None,
            }));
        }
        edges.sort_by(|a, b| {
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(b.3.bytes.cmp(&a.3.bytes))
        });
        let mut now = start.iter().fold(Point { bytes: fixed, error: 0.0 }, |p, (_, choice)| {
            Point { bytes: p.bytes + choice.bytes, error: p.error + choice.error }
        });
        let mut points = vec![now];
        let mut steps = Vec::with_capacity(edges.len());
        for (_, unit, from, to) in edges {
            now.bytes -= from.bytes - to.bytes;
            now.error += to.error - from.error;
            points.push(now);
            steps.push((unit, to));
        }
        Curve { units, points, steps, start }
    }

    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The change that led to a point, with the first tensor of its unit; none led to the
    /// first point.
    pub fn step_to(&self, point: usize) -> Option<(TensorId, Choice)> {
        let &(unit, choice) = self.steps.get(point.checked_sub(1)?)?;
        Some((*self.units.get(unit)?.first()?, choice))
    }

    /// The change that leads to each point after the first: the tensors of a unit, and what they
    /// become.
    pub fn steps(&self) -> impl Iterator<Item = (&[TensorId], Choice)> {
        self.steps.iter().map(|&(unit, choice)| {
            (self.units.get(unit).map(Vec::as_slice).unwrap_or_default(), choice)
        })
    }

    /// The point of least error that is no larger than `max_bytes`.
    pub fn within(&self, max_bytes: u64) -> Option<usize> {
        let at = self.points.partition_point(|point| point.bytes > max_bytes);
        (at < self.points.len()).then_some(at)
    }

    /// What each tensor gets at a point.
    pub fn plan(&self, point: usize, rounding: Rounding) -> Plan {
        let mut plan = Plan::new(rounding);
        let taken = self.steps.iter().take(point);
        for (unit, choice) in self.start.iter().chain(taken) {
            for &id in self.units.get(*unit).into_iter().flatten() {
                match choice.quantizer {
                    Some(quantizer) => plan.mark(id, quantizer),
                    None => plan.unmark(id),
                }
            }
        }
        plan
    }
}

/// Error added per byte saved.
fn slope(from: &Choice, to: &Choice) -> f64 {
    (to.error - from.error) / (from.bytes - to.bytes) as f64
}

/// The options on the lower convex hull, bytes falling and error rising.
fn hull(mut options: Vec<Choice>) -> Vec<Choice> {
    options.retain(|choice| !choice.error.is_nan());
    options.sort_by(|a, b| a.error.total_cmp(&b.error).then(a.bytes.cmp(&b.bytes)));
    let mut hull: Vec<Choice> = Vec::new();
    for next in options {
        if hull.last().is_some_and(|last| next.bytes >= last.bytes) {
            continue;
        }
        while let [.., a, b] = hull.as_slice() {
            if slope(a, b) < slope(b, &next) {
                break;
            }
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{Calibration, QuantizationScheme};
    use proptest::prelude::*;

    fn choice(n: u32, bytes: u64, error: f64) -> Choice {
        let scheme = QuantizationScheme::per_block(n.max(1));
        let quantizer = (n > 0).then_some(Quantizer { calibration: Calibration::MinMax, scheme });
        Choice { quantizer, bytes, error }
    }

    fn arbitrary_options() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        let option = (1u64..60, 0u32..1000).prop_map(|(b, e)| (b, f64::from(e) / 64.0));
        let tensor = proptest::collection::vec(option, 0..4).prop_map(|options| {
            let mut all = vec![choice(0, 64, 0.0)];
            all.extend((1..).zip(options).map(|(n, (b, e))| choice(n, b, e)));
            all
        });
        proptest::collection::vec(tensor, 1..5)
    }

    proptest! {
        /// Against every combination there is.
        #[test]
        fn no_choice_of_the_same_size_is_better(tensors in arbitrary_options()) {
            let curve = Curve::new(7, (0..).map(TensorId).zip(tensors.clone()));
            let mut all = vec![Point { bytes: 7, error: 0.0 }];
            for options in &tensors {
                all = all.iter().flat_map(|p| options.iter().map(|o| Point {
                    bytes: p.bytes + o.bytes,
                    error: p.error + o.error,
                })).collect();
            }
            for point in curve.points() {
                for other in &all {
                    prop_assert!(other.bytes > point.bytes || other.error >= point.error - 1e-9);
                }
            }
            for pair in curve.points().windows(2) {
                prop_assert!(pair[0].bytes > pair[1].bytes && pair[0].error <= pair[1].error);
            }
        }

        /// A unit of equal tensors is a tensor of their size and error together.
        #[test]
        fn tensors_of_a_unit_share_a_choice(tensors in arbitrary_options()) {
            let ids = |at: usize| [2 * at, 2 * at + 1].map(|id| TensorId(id as u32)).to_vec();
            let shared = tensors.iter().map(|t| shared_options(vec![t.clone(), t.clone()]));
            let curve = Curve::of_units(3, (0..).map(ids).zip(shared));
            for point in 0..curve.points().len() {
                let plan = curve.plan(point, Rounding::default());
                for unit in (0..tensors.len()).map(ids) {
                    prop_assert_eq!(plan.get(unit[0]), plan.get(unit[1]));
                }
            }
            let alone = Curve::new(0, (0..).map(TensorId).zip(tensors));
            prop_assert_eq!(curve.points().len(), alone.points().len());
        }

        /// The plan at a point is of the size and error that the point says.
        #[test]
        fn a_point_says_what_its_plan_costs(tensors in arbitrary_options()) {
            let curve = Curve::new(0, (0..).map(TensorId).zip(tensors.clone()));
            for (i, point) in curve.points().iter().enumerate() {
                let plan = curve.plan(i, Rounding::HalfEven);
                let mut sum = Point { bytes: 0, error: 0.0 };
                for (id, options) in (0..).map(TensorId).zip(&tensors) {
                    let quantizer = plan.get(id);
                    let chosen = options.iter()
                        .filter(|o| o.quantizer == quantizer)
                        .min_by(|a, b| a.error.total_cmp(&b.error)).copied();
                    let chosen = chosen.unwrap_or(options[0]);
                    sum = Point { bytes: sum.bytes + chosen.bytes, error: sum.error + chosen.error };
                }
                prop_assert_eq!(sum.bytes, point.bytes);
                prop_assert!((sum.error - point.error).abs() < 1e-9);
                prop_assert_eq!(curve.within(point.bytes), Some(i));
            }
        }
    }
}
