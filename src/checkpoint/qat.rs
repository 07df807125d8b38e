//! Observers of quantization-aware training: the recorded ranges of weights and activations, and
//! the learned scales, which are stored with the weights.
//!
//! The names are those of PyTorch's `torch.ao.quantization`: `prepare_qat` and `prepare` put the
//! observer of a layer's output into the layer; `prepare_fx` and `prepare_qat_fx` number the
//! observers.

use crate::checkpoint::stored::{Stored, StoredId, TENSORS_PER_TASK};
use crate::checkpoint::stored_reader::StoredReader;
use crate::quantization::{QatScales, QuantizationType, symmetric_scale};
use crate::tensor::{Scalar, TensorId, TensorInfo};
use foldhash::{HashMap, HashMapExt};
use memchr::memmem::Finder;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Names of the modules that fake-quantize a layer's weight, observe its output, and fake-quantize
/// its input.
const WEIGHT_OBSERVER: &str = "weight_fake_quant";
const OUTPUT_OBSERVER: &str = "activation_post_process";
const INPUT_OBSERVER: &str = "input_fake_quant";

/// In a `QuantWrapper`, the module that produces the input of the wrapped layer `module`.
const QUANT_STUB: &str = "quant";
const WRAPPED_MODULE: &str = "module";

/// Maximum number of scales, above the number of output channels of any layer.
const SCALES_LIMIT: u64 = 1 << 24;

/// The data of all observers in a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Observers {
    pub learned: HashMap<TensorId, QatScales>,
    pub observed: HashMap<TensorId, ObservedActivations>,
    pub unmatched: Vec<UnmatchedObserver>,
}

/// The range of an activation recorded by an observer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationRange {
    /// The smallest recorded value.
    pub min: f64,
    /// The largest recorded value.
    pub max: f64,
}

/// The recorded ranges of the activations of a weight's layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ObservedActivations {
    /// Range of the layer's inputs.
    pub input: Option<ActivationRange>,
    /// Range of the layer's outputs.
    pub output: Option<ActivationRange>,
}

impl ObservedActivations {
    /// Returns the scale of the layer's inputs as symmetric per-tensor int8, calibrated by min-max
    /// over the recorded range.
    pub fn input_scale(&self) -> Option<f32> {
        let ActivationRange { min, max } = self.input?;
        symmetric_scale(min.abs().max(max.abs()), QuantizationType::QInt8.max())
    }
}

/// An observer of an activation that cannot be assigned to a layer by its name.
#[derive(Clone, Debug, PartialEq)]
pub struct UnmatchedObserver {
    /// The module name of the observer.
    pub name: String,
    /// The recorded range.
    pub range: ActivationRange,
}

/// Returns whether a tensor belongs to an observer rather than to the network.
pub(crate) fn is_observer(name: &str) -> bool {
    // Most names of most checkpoints hold neither.
    static FINDERS: LazyLock<[Finder; 2]> =
        LazyLock::new(|| ["fake_quant", OUTPUT_OBSERVER].map(Finder::new));
    let may_be = FINDERS.iter().any(|word| word.find(name.as_bytes()).is_some());
    may_be
        && name
            .split('.')
            .any(|part| part == WEIGHT_OBSERVER || part == INPUT_OBSERVER || is_activation(part))
}

/// Returns whether a module of that name observes an activation.
fn is_activation(part: &str) -> bool {
    let Some(rest) = part.strip_prefix(OUTPUT_OBSERVER) else { return false };
    rest.is_empty() || is_numbered(rest)
}

fn is_numbered(rest: &str) -> bool {
    let digits = rest.strip_prefix('_').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Splits the name of a tensor into the module, the observer's name and the path inside the
/// observer. `None` for observers of weights.
fn split_name(name: &str) -> Option<(&str, &str, &str)> {
    let mut at = 0;
    for part in name.split('.') {
        let end = at + part.len();
        if part == WEIGHT_OBSERVER {
            return None;
        }
        if part == INPUT_OBSERVER || is_activation(part) {
            let module = name.get(..at)?.strip_suffix('.').unwrap_or_default();
            return Some((module, part, name.get(end..)?.strip_prefix('.')?));
        }
        at = end + 1;
    }
    None
}

/// Reads the observers of a checkpoint. Ignores those that cannot be read or do not have the shape
/// that their weight requires.
pub(crate) fn read(
    reader: &mut StoredReader,
    stored: &[Stored],
    tensors: &[TensorInfo],
) -> Observers {
    let all = stored.par_iter().with_min_len(TENSORS_PER_TASK).enumerate();
    let observers: Vec<_> = all.filter(|(_, stored)| is_observer(&stored.name)).collect();
    let observers = observers
        .into_iter()
        .map(|(position, stored)| (stored.name.as_str(), (StoredId(position as u32), stored)));
    let stored: HashMap<&str, (StoredId, &Stored)> = observers.collect();
    let mut found = Observers::default();
    if stored.is_empty() {
        return found;
    }
    let mut bytes = Vec::new();
    let mut values = |name: &str| -> Option<Vec<f64>> {
        let &(id, stored) = stored.get(name)?;
        let size = stored.dtype.bytes_for(1)?;
        if stored.bytes() > SCALES_LIMIT * size {
            return None;
        }
        reader.stored_into(id, 0..stored.bytes(), &mut bytes).ok()?;
        let number = |raw| match Scalar::read(&stored.dtype, raw)? {
            Scalar::Float(x) => Some(x),
            Scalar::Integer(x) => Some(x as f64),
            Scalar::Bool(_) => None,
        };
        bytes.chunks_exact(size as usize).map(number).collect()
    };
    let mut weights: HashMap<&str, TensorId> = HashMap::new();
    for (id, tensor) in (0..).map(TensorId).zip(tensors) {
        let name = tensor.name.as_str();
        let Some(module) = name.strip_suffix("weight").filter(|_| !is_observer(name)) else {
            continue;
        };
        let module = match module.strip_suffix('.') {
            Some(module) => module,
            None if module.is_empty() => module,
            None => continue,
        };
        weights.insert(module, id);
        let major = tensor.shape.channel_major();
        let channels = major.map_or_else(|| tensor.shape.channels(), |(shape, _)| shape.channels());
        if let Some(learned) = learned(module, channels, &mut values) {
            found.learned.insert(id, learned);
        }
    }
    // An observer has its range itself, or in a nested observer.
    let mut spans: BTreeMap<(&str, &str), ActivationRange> = BTreeMap::new();
    for (&name, _) in stored.iter().filter(|(name, _)| name.ends_with(".min_val")) {
        let Some((module, observer, _)) = split_name(name) else { continue };
        let head = name.strip_suffix("min_val").unwrap_or(name);
        let (Some(min), Some(max)) = (values(name), values(&format!("{head}max_val"))) else {
            continue;
        };
        let min = min.into_iter().reduce(f64::min);
        let max = max.into_iter().reduce(f64::max);
        // An observer that recorded nothing has a range from infinity to minus infinity.
        if let Some((min, max)) = min.zip(max).filter(|(min, max)| min <= max)
            && min.is_finite()
            && max.is_finite()
        {
            spans.insert((module, observer), ActivationRange { min, max });
        }
    }
    for ((module, observer), span) in spans {
        let wrapped = match module.rsplit_once('.') {
            None if module == QUANT_STUB => Some(WRAPPED_MODULE.to_owned()),
            Some((outer, QUANT_STUB)) => Some(format!("{outer}.{WRAPPED_MODULE}")),
            _ => None,
        };
        let wrapped = wrapped.and_then(|module| weights.get(module.as_str()));
        let layer = weights
            .get(module)
            .filter(|_| observer == OUTPUT_OBSERVER || observer == INPUT_OBSERVER);
        match (layer, wrapped) {
            (Some(&layer), _) => {
                let observed = found.observed.entry(layer).or_default();
                let range = match observer {
                    INPUT_OBSERVER => &mut observed.input,
                    _ => &mut observed.output,
                };
                *range = Some(span);
            }
            (None, Some(&layer)) if observer == OUTPUT_OBSERVER => {
                let observed = found.observed.entry(layer).or_default();
                observed.input.get_or_insert(span);
            }
            _ => {
                let name = match module {
                    "" => observer.to_owned(),
                    _ => format!("{module}.{observer}"),
                };
                found.unmatched.push(UnmatchedObserver { name, range: span });
            }
        }
    }
    found
}

/// Returns the learned scales of the weight of a module with the given number of output channels.
fn learned(
    module: &str,
    channels: u64,
    values: &mut impl FnMut(&str) -> Option<Vec<f64>>,
) -> Option<QatScales> {
    let module = if module.is_empty() { String::new() } else { format!("{module}.") };
    let mut part = |part: &str| values(&format!("{module}{WEIGHT_OBSERVER}.{part}"));
    let scales: Vec<f32> = part("scale")?.into_iter().map(|scale| scale as f32).collect();
    let count = scales.len() as u64;
    let is_valid = scales.iter().all(|scale| scale.is_normal() && *scale > 0.0);
    if !is_valid || !(count == 1 || count == channels) {
        return None;
    }
    let zero_point = part("zero_point").and_then(|all| all.into_iter().find(|&z| z != 0.0));
    let mut end = |name: &str| {
        part(&format!("{OUTPUT_OBSERVER}.{name}")).filter(|all| all.len() == scales.len())
    };
    let levels = end("min_val").zip(end("max_val")).map(|(min, max)| {
        let reach = |(min, max): (f64, f64)| min.abs().max(max.abs());
        let widest = min.into_iter().zip(max).map(reach).zip(&scales);
        widest.map(|(reach, &scale)| reach / f64::from(scale)).fold(0.0, f64::max)
    });
    let levels = levels.filter(|levels| levels.is_finite() && *levels > 0.0);
    Some(QatScales { scales, zero_point, levels })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_are_recognized_by_name() {
        for (name, expected) in [
            ("conv.activation_post_process.min_val", Some(("conv", OUTPUT_OBSERVER, "min_val"))),
            (
                "a.b.activation_post_process.activation_post_process.max_val",
                Some(("a.b", OUTPUT_OBSERVER, "activation_post_process.max_val")),
            ),
            (
                "activation_post_process_12.min_val",
                Some(("", "activation_post_process_12", "min_val")),
            ),
            ("fc.input_fake_quant.scale", Some(("fc", INPUT_OBSERVER, "scale"))),
            ("fc.weight_fake_quant.activation_post_process.min_val", None),
            ("fc.weight", None),
        ] {
            assert_eq!(split_name(name), expected, "{name}");
            assert_eq!(is_observer(name), name != "fc.weight", "{name}");
        }
        assert!(!is_observer("activation_post_process_x.min_val"));
        assert!(!is_observer("my_activation_post_process.min_val"));
    }
}
