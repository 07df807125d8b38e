//! What training with fake quantization leaves in a checkpoint: beside the weights lie the
//! observers that found their ranges, and the scales they ended with. The names are those
//! of PyTorch's `torch.ao.quantization.prepare_qat`.

use super::{Checkpoint, Stored, StoredId};
use crate::tensor::{Scalar, TensorId};
use foldhash::{HashMap, HashMapExt};
use std::fmt;

/// The module that rounds a layer's weight, and the one that watches its output.
const WEIGHT: &str = "weight_fake_quant";
const OUTPUT: &str = "activation_post_process";

/// More scales than a layer has output channels.
const SCALES_LIMIT: u64 = 1 << 24;

/// What a layer's weight was rounded by at the end of its training.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// One for the whole weight, or one for each output channel.
    pub scales: Vec<f32>,
    /// Whether zero is exact: no zero point is other than 0.
    pub symmetric: bool,
    /// The largest quantized value, as the range that was observed tells: 7 of int4, 127 of
    /// int8; half a step more where the smallest is one less.
    pub levels: Option<f64>,
}

impl Learned {
    /// The magnitude that quantizing to −127…127 must clip at for the scale that was learned;
    /// `None` where there is no such one.
    pub fn int8_clip(&self) -> Option<f64> {
        match *self.scales.as_slice() {
            [scale] if self.symmetric => Some(f64::from(scale) * 127.0),
            _ => None,
        }
    }

    fn type_name(&self) -> String {
        match self.levels {
            Some(levels) if (6.9..7.6).contains(&levels) => "int4".to_owned(),
            Some(levels) if (126.5..127.6).contains(&levels) => "int8".to_owned(),
            Some(levels) => format!("±{levels:.0}"),
            None => "fewer bits".to_owned(),
        }
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trained for {}", self.type_name())?;
        match *self.scales.as_slice() {
            [scale] => write!(f, ", scale {scale}")?,
            _ => write!(f, ", {} scales", self.scales.len())?,
        }
        f.write_str(if self.symmetric { "" } else { " and zero points" })
    }
}

/// Whether a tensor belongs to an observer and not to the network.
pub fn is_observer(name: &str) -> bool {
    name.split('.').any(|part| part == WEIGHT || part == OUTPUT)
}

/// What was learned of each weight. An observer that cannot be read, or is not of the shape
/// that its weight asks for, says nothing.
pub(super) fn learned(checkpoint: &Checkpoint) -> HashMap<TensorId, Learned> {
    let mut found = HashMap::new();
    let observers: HashMap<&str, (StoredId, &Stored)> = checkpoint
        .all_stored()
        .filter(|(_, stored)| stored.name.contains(WEIGHT))
        .map(|(id, stored)| (stored.name.as_str(), (id, stored)))
        .collect();
    if observers.is_empty() {
        return found;
    }
    let mut reader = checkpoint.reader();
    let mut values = |name: String| -> Option<Vec<f64>> {
        let &(id, stored) = observers.get(name.as_str())?;
        let size = stored.dtype.bytes_for(1)?;
        if stored.bytes() > SCALES_LIMIT * size {
            return None;
        }
        let bytes = reader.stored(id, 0..stored.bytes()).ok()?;
        let number = |raw| match Scalar::read(&stored.dtype, raw)? {
            Scalar::Float(x) => Some(x),
            Scalar::Integer(x) => Some(x as f64),
            Scalar::Bool(_) => None,
        };
        bytes.chunks_exact(size as usize).map(number).collect()
    };
    for id in checkpoint.ids() {
        let tensor = checkpoint.tensor(id);
        let Some(module) = tensor.name.strip_suffix(".weight") else { continue };
        let part = |part: &str| format!("{module}.{WEIGHT}.{part}");
        let Some(scales) = values(part("scale")) else { continue };
        let scales: Vec<f32> = scales.into_iter().map(|scale| scale as f32).collect();
        let count = scales.len() as u64;
        let fits = count == 1 || count == tensor.shape.channels();
        if !fits || !scales.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
            continue;
        }
        let symmetric = values(part("zero_point")).is_none_or(|all| all.iter().all(|&z| z == 0.0));
        let ends = [
            values(part(&format!("{OUTPUT}.min_val"))),
            values(part(&format!("{OUTPUT}.max_val"))),
        ];
        let levels = match (ends, scales.first()) {
            ([Some(min), Some(max)], Some(&scale)) => {
                let ends = min.first().into_iter().chain(max.first());
                let widest = ends.fold(0.0, |most: f64, end| most.max(end.abs()));
                Some(widest / f64::from(scale)).filter(|levels| levels.is_finite() && *levels > 0.0)
            }
            _ => None,
        };
        found.insert(id, Learned { scales, symmetric, levels });
    }
    found
}
