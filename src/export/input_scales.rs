//! Stored scales of layer inputs, for static quantization of activations.

use crate::checkpoint::{Checkpoint, StoredId};
use crate::export::error::SaveError;
use crate::quantization::QuantizationType;
use crate::tensor::{TensorId, TensorInfo, read_f64};
use std::collections::HashMap;

/// Returns the name of the stored scale of a layer's inputs.
pub(crate) fn input_scale_name(weight: &TensorInfo) -> String {
    match weight.module() {
        "" => "input_scale".to_owned(),
        module => format!("{module}.input_scale"),
    }
}

/// Returns the scale of a layer's FP8 inputs whose scale as int8 is `scale`.
pub fn fp8_input_scale(scale: f32) -> f32 {
    let [int8, fp8] =
        [QuantizationType::QInt8, QuantizationType::F8E4M3].map(|qtype| f64::from(qtype.max()));
    (f64::from(scale) * int8 / fp8) as f32
}

/// Reads the input scales of an output, by the weights of the layers.
///
/// # Errors
///
/// One cannot be read or is not a positive finite number.
pub fn input_scales(out: &Checkpoint) -> Result<HashMap<TensorId, f32>, SaveError> {
    let stored: HashMap<&str, StoredId> = out
        .all_stored()
        .filter(|(_, stored)| stored.name.ends_with("input_scale"))
        .map(|(id, stored)| (stored.name.as_str(), id))
        .collect();
    let mut scales = HashMap::new();
    let mut reader = out.reader();
    let quantized = out.ids().filter(|&id| !stored.is_empty() && out.packed_format(id).is_some());
    for id in quantized {
        let name = input_scale_name(out.tensor(id));
        let Some(&scale_id) = stored.get(name.as_str()) else { continue };
        let scale = out.stored(scale_id);
        let differs = |why: String| {
            let (path, tensor) = (out.path().to_owned(), name.clone());
            Err(SaveError::TensorDiffers { path, tensor, why })
        };
        let Some(float) = scale.dtype.float().filter(|_| scale.shape.elements() == 1) else {
            let (dtype, shape) = (&scale.dtype, &scale.shape);
            return differs(format!("it is {dtype} of shape {shape}, expected one float"));
        };
        let bytes = reader.stored(scale_id, 0..scale.bytes())?;
        match read_f64(float, bytes, 0) {
            Some(scale) if scale.is_finite() && scale > 0.0 => {
                scales.insert(id, scale as f32);
            }
            scale => {
                let scale = scale.unwrap_or(0.0);
                return differs(format!(
                    "invalid scale {scale}: expected a positive finite number"
                ));
            }
        }
    }
    Ok(scales)
}
