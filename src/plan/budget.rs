//! Choosing schemes for a given size: the Pareto curve of bytes against error.
//!
//! The error of a tensor's choice is Σ(x−x̂)²/Σx² of the weight or, if activations were
//! recorded, the output error ‖Wx−Ŵx̂‖²/‖Wx‖², multiplied by the tensor's weight (see
//! [`error_weight`]). The error of a plan is the sum over all tensors.
//!
//! The options of each tensor are reduced to the lower convex hull of (bytes, error). Taking the
//! hull edges of all tensors in the order of their error per saved byte gives exactly the convex
//! hull of all combinations. This is the fractional relaxation of the multiple-choice knapsack
//! problem (Sinha and Zoltners, 1979). No combination of the same or a smaller size has a lower
//! error than a point of the curve.

use crate::checkpoint::Checkpoint;
use crate::plan::marks::Plan;
pub use crate::plan::schemes::SCHEMES;
use crate::plan::target::Container;
use crate::quantization::{Loss, Outcome, Quantizer, Rounding};
use crate::tensor::{TensorId, TensorInfo};

/// One way to store a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// `None` if the tensor is not quantized.
    pub quantizer: Option<Quantizer>,
    pub bytes: u64,
    /// Relative squared error times the tensor's weight; 0 without a quantizer.
    pub error: f64,
}

impl Choice {
    /// The choice not to quantize the tensor.
    pub fn kept(tensor: &TensorInfo) -> Choice {
        Choice { quantizer: None, bytes: tensor.bytes, error: 0.0 }
    }

    /// The choice to quantize the tensor, as `container` stores it. `error` is the relative squared
    /// error of the weight or of the layer's output, times the tensor's weight.
    pub fn quantized(
        tensor: &TensorInfo,
        container: Container,
        quantizer: Quantizer,
        error: f64,
    ) -> Choice {
        Choice {
            quantizer: Some(quantizer),
            bytes: container.bytes(quantizer.scheme, tensor),
            error,
        }
    }
}

/// Returns how much a tensor's relative error counts. In GGUF, where types of two to eight bits are
/// mixed, every layer counts once, so that small layers get larger types, and the layer that
/// computes the logits eight times, because no layer after it averages its errors out: see the KL
/// divergences in the guide. In other formats, a tensor counts as often as it has parameters.
pub(crate) fn error_weight(checkpoint: &Checkpoint, id: TensorId, container: Container) -> f64 {
    const OUTPUT: &str = "output.weight";
    const OUTPUT_WEIGHT: f64 = 8.0;
    let tensor = checkpoint.tensor(id);
    if container != Container::Gguf {
        return tensor.parameters() as f64;
    }
    let is_output = match &*tensor.name {
        OUTPUT => true,
        "token_embd.weight" => checkpoint.find(OUTPUT).is_none(),
        _ => false,
    };
    if is_output { OUTPUT_WEIGHT } else { 1.0 }
}

/// Returns the options of a tensor with this [`error_weight`]: not to quantize it, and every outcome
/// with an SQNR of at least `min_sqnr_db`. `output` returns the relative squared error of the layer's output, if
/// known; it then replaces that of the weight.
pub(crate) fn options(
    (tensor, weight): (&TensorInfo, f64),
    outcomes: &[Outcome],
    container: Container,
    min_sqnr_db: Option<f64>,
    output: impl Fn(Quantizer) -> Option<f64>,
) -> Vec<Choice> {
    let measured = outcomes.iter().filter_map(|outcome| {
        let sums = outcome.result.as_ref().ok()?.error?;
        let enough = min_sqnr_db.is_none_or(|db| sums.statistics().sqnr_db >= db);
        let share = output(outcome.quantizer).unwrap_or(Loss::from(&sums).noise_share());
        enough.then(|| Choice::quantized(tensor, container, outcome.quantizer, share * weight))
    });
    std::iter::once(Choice::kept(tensor)).chain(measured).collect()
}

/// Returns the options of tensors that must share a scheme: those that all of them have, with
/// bytes and errors added up.
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

/// One point of the curve: size and error of all tensors together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub bytes: u64,
    pub error: f64,
}

/// The curve from the unquantized model to the smallest size. Along it, bytes fall and the error
/// rises.
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
    /// Computes the curve over single tensors, each with at least one option. `fixed` is the
    /// size of all tensors without a choice, in bytes.
    pub fn new(fixed: u64, options: impl IntoIterator<Item = (TensorId, Vec<Choice>)>) -> Curve {
        Curve::of_units(fixed, options.into_iter().map(|(id, options)| (vec![id], options)))
    }

    /// Computes the curve over units. The tensors of a unit share a choice.
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

    /// Returns the change that led to a point, with the first tensor of its unit; `None` for the
    /// first point.
    pub fn step_to(&self, point: usize) -> Option<(TensorId, Choice)> {
        let &(unit, choice) = self.steps.get(point.checked_sub(1)?)?;
        Some((*self.units.get(unit)?.first()?, choice))
    }

    /// Returns the changes that lead to the points after the first: the tensors of a unit, and
    /// their new choice.
    pub fn steps(&self) -> impl Iterator<Item = (&[TensorId], Choice)> {
        self.steps.iter().map(|&(unit, choice)| {
            (self.units.get(unit).map(Vec::as_slice).unwrap_or_default(), choice)
        })
    }

    /// Returns the point with the lowest error that has at most `max_bytes`.
    pub fn within(&self, max_bytes: u64) -> Option<usize> {
        let at = self.points.partition_point(|point| point.bytes > max_bytes);
        (at < self.points.len()).then_some(at)
    }

    /// Returns the lowest error at a size in bytes, interpolated between the two nearest points.
    /// `None` if every point is larger.
    pub fn least_error(&self, bytes: u64) -> Option<f64> {
        let at = self.within(bytes)?;
        let point = self.points.get(at)?;
        let larger = at.checked_sub(1).and_then(|before| self.points.get(before));
        let Some(larger) = larger else { return Some(point.error) };
        let share = (bytes - point.bytes) as f64 / (larger.bytes - point.bytes).max(1) as f64;
        Some(point.error + share * (larger.error - point.error))
    }

    /// Returns the plan of a point.
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

/// The added error per saved byte.
fn slope(from: &Choice, to: &Choice) -> f64 {
    (to.error - from.error) / (from.bytes - to.bytes) as f64
}

/// Returns the options on the lower convex hull, in order of falling bytes and rising error.
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

    #[test]
    fn layers_of_a_gguf_count_once_and_the_output_eight_times() {
        let open = |path: &str| Checkpoint::open(std::path::Path::new(path)).expect("opens");
        let tied = open("tests/data/gguf/synth-a32.gguf");
        let untied = open("tests/data/gguf/floats.gguf");
        for (checkpoint, name, weight) in [
            (&tied, "blk.0.attn_q.weight", 1.0),
            (&tied, "token_embd.weight", 8.0),
            (&untied, "blk.0.attn_q.weight", 1.0),
            (&untied, "output.weight", 8.0),
        ] {
            let id = checkpoint.find(name).expect("there");
            assert_eq!(error_weight(checkpoint, id, Container::Gguf), weight, "{name}");
            let parameters = checkpoint.tensor(id).parameters() as f64;
            assert_eq!(error_weight(checkpoint, id, Container::Safetensors), parameters, "{name}");
        }
    }

    proptest! {
        /// Compares the curve with all combinations.
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

        /// A unit of equal tensors has as many points as one such tensor.
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

        /// The plan of a point has the size and the error of the point.
        #[test]
        fn a_point_has_the_size_and_error_of_its_plan(tensors in arbitrary_options()) {
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
                prop_assert_eq!(curve.least_error(point.bytes), Some(point.error));
            }
        }
    }
}
