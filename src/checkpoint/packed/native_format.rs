//! quantscope's own format: any tensor `T` as I8 with scales `T_scale`, described in the metadata.

use crate::checkpoint::packed::comfyui_markers;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::packed::undecoded::undecoded;
use crate::checkpoint::stored::{Stored, StoredId};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{ChannelAxes, DType, FloatType};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of `__metadata__` that lists the tensors quantized by quantscope.
pub(crate) const METADATA_KEY: &str = "quantscope";

/// Suffix of the name of a tensor's scales.
pub(crate) const SCALE_SUFFIX: &str = "_scale";

/// The corresponding key for floats with int8 rounding applied.
pub(crate) const FAKE_METADATA_KEY: &str = "quantscope.fake_quantized";

/// The value of these keys: the quantization of each tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuantizedMetadata {
    pub version: u32,
    pub rounding: String,
    pub tensors: BTreeMap<String, QuantizedTensorMetadata>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuantizedTensorMetadata {
    pub scheme: String,
    /// Absent for min-max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// The safetensors name of the type before quantization.
    pub dtype: String,
}

/// The key of `__metadata__` for the rounding of int8 values, in containers that cannot express it.
/// Absent for half to even.
pub(crate) const ROUNDING_KEY: &str = "quantscope.rounding";

/// The key for the calibration of tensors in such containers: a JSON object by tensor name, without
/// tensors calibrated by min-max.
pub(crate) const CALIBRATION_KEY: &str = "quantscope.calibration";

/// The key for the types of tensors before quantization in such containers: a JSON object from
/// tensor names to safetensors type names.
pub(crate) const ORIGINAL_KEY: &str = "quantscope.original_types";

/// Returns whether a metadata key describes how tensors are quantized, by quantscope, ComfyUI or
/// ModelOpt. Such keys are dropped when the tensors become floats.
pub(crate) fn describes_quantization(key: &str) -> bool {
    let own_keys = [METADATA_KEY, ROUNDING_KEY, CALIBRATION_KEY, ORIGINAL_KEY];
    own_keys.contains(&key) || [comfyui_markers::METADATA, "quantization_config"].contains(&key)
}

impl QuantizedMetadata {
    pub(crate) const VERSION: u32 = 1;
}

impl QuantizedTensorMetadata {
    /// Describes a tensor that had the type `original`.
    pub(crate) fn new(quantizer: Quantizer, original: &DType) -> Self {
        let calibration = quantizer.calibration;
        QuantizedTensorMetadata {
            scheme: quantizer.scheme.to_string(),
            calibration: (calibration != Calibration::MinMax).then(|| calibration.to_string()),
            dtype: original.name().to_owned(),
        }
    }

    pub(crate) fn calibration(&self) -> Result<Calibration, String> {
        self.calibration.as_ref().map_or(Ok(Calibration::MinMax), |recorded| recorded.parse())
    }
}

/// Reads the calibration of tensors from the metadata of such a container.
pub(crate) fn calibrations(metadata: &[(String, String)]) -> HashMap<String, Calibration> {
    let recorded = strings_by_tensor(metadata, CALIBRATION_KEY).into_iter();
    recorded.filter_map(|(name, recorded)| Some((name, recorded.parse().ok()?))).collect()
}

/// Reads the types of tensors before quantization from the metadata of such a container.
pub(crate) fn original_types(metadata: &[(String, String)]) -> HashMap<String, FloatType> {
    let recorded = strings_by_tensor(metadata, ORIGINAL_KEY).into_iter();
    recorded
        .filter_map(|(name, recorded)| Some((name, DType::from_name(&recorded).float()?)))
        .collect()
}

/// Parses the JSON object of strings under a metadata key, by tensor name. Empty if the key is
/// missing or the value has another form.
pub(crate) fn strings_by_tensor(
    metadata: &[(String, String)],
    key: &str,
) -> BTreeMap<String, String> {
    let recorded = metadata.iter().filter(|(k, _)| k == key);
    let recorded = recorded
        .filter_map(|(_, text)| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    recorded.flatten().collect()
}

/// Writes the metadata that [`calibrations`] reads; `None` if all tensors were calibrated by
/// min-max.
pub(crate) fn calibration_metadata<'n>(
    tensors: impl Iterator<Item = (&'n str, Calibration)>,
) -> Option<String> {
    let others = tensors.filter(|(_, calibration)| *calibration != Calibration::MinMax);
    let recorded: BTreeMap<&str, String> =
        others.map(|(name, calibration)| (name, calibration.to_string())).collect();
    if recorded.is_empty() {
        return None;
    }
    serde_json::to_string(&recorded).ok()
}

/// The stored tensors of one shard by name.
type StoredByName<'s> = HashMap<&'s str, (StoredId, &'s Stored)>;

/// Recognizes the tensors that quantscope's metadata lists in one shard. A tensor whose parts do
/// not fit its description is not decoded.
pub(super) fn recognize<'s>(
    metadata: &str,
    stored: impl Iterator<Item = (StoredId, &'s Stored)>,
) -> Vec<PackedTensor> {
    let stored: StoredByName = stored.map(|(id, s)| (s.name.as_str(), (id, s))).collect();
    let (metadata, rounding) = match parsed(metadata) {
        Ok(parsed) => parsed,
        Err(reason) => return all_undecoded(&stored, &reason),
    };
    let tensors = metadata.tensors.iter().filter_map(|(name, described)| {
        let values = *stored.get(name.as_str())?;
        let scale = stored.get(format!("{name}{SCALE_SUFFIX}").as_str()).copied();
        Some(match int8(described, rounding, values, scale) {
            Ok(int8) => PackedTensor::new(name, int8.shape.clone(), int8),
            Err(reason) => named(name, reason, values, scale),
        })
    });
    tensors.collect()
}

fn parsed(metadata: &str) -> Result<(QuantizedMetadata, Rounding), String> {
    let metadata: QuantizedMetadata = serde_json::from_str(metadata)
        .map_err(|e| format!("the '{METADATA_KEY}' metadata is not of the expected form: {e}"))?;
    if metadata.version != QuantizedMetadata::VERSION {
        let (found, expected) = (metadata.version, QuantizedMetadata::VERSION);
        return Err(format!("it has quantscope's format version {found}, expected {expected}"));
    }
    let rounding = metadata.rounding.parse()?;
    Ok((metadata, rounding))
}

/// Returns every I8 tensor with scales as undecoded, with a reason that concerns the whole file.
fn all_undecoded(stored: &StoredByName, reason: &str) -> Vec<PackedTensor> {
    let mut values: Vec<_> = stored.values().filter(|(_, s)| s.dtype == DType::I8).collect();
    values.sort_unstable_by_key(|(id, _)| *id);
    let tensors = values.into_iter().filter_map(|&values| {
        let name = values.1.name.as_str();
        let scale = stored.get(format!("{name}{SCALE_SUFFIX}").as_str()).copied()?;
        Some(named(name, reason.to_owned(), values, Some(scale)))
    });
    tensors.collect()
}

fn named(
    name: &str,
    reason: String,
    values: (StoredId, &Stored),
    scale: Option<(StoredId, &Stored)>,
) -> PackedTensor {
    let others: Vec<StoredId> = scale.map(|(id, _)| id).into_iter().collect();
    let original = scale.and_then(|(_, s)| s.dtype.float()).unwrap_or(FloatType::F32);
    undecoded(name.to_owned(), "quantscope int8", Some(reason), values, &others, original)
}

/// Returns the int8 tensor that the metadata describes, or the reason why its parts do not fit.
fn int8(
    metadata: &QuantizedTensorMetadata,
    rounding: Rounding,
    values: (StoredId, &Stored),
    scale: Option<(StoredId, &Stored)>,
) -> Result<Int8, String> {
    let scheme: QuantizationScheme = metadata.scheme.parse().map_err(|e| format!("{e}"))?;
    let original = DType::from_name(&metadata.dtype)
        .float()
        .ok_or_else(|| format!("its original type '{}' is not a float", metadata.dtype))?;
    let calibration = metadata.calibration()?;
    let (id, stored) = values;
    if stored.dtype != DType::I8 {
        return Err(format!("it is marked as quantized, expected I8, found {}", stored.dtype));
    }
    let (scale_id, scale) = scale.ok_or_else(|| {
        format!(
            "it is marked as quantized, but its scales '{}{SCALE_SUFFIX}' are missing",
            stored.name
        )
    })?;
    // The shape of the scales tells the axes of the channels. Versions without support for fused
    // experts wrote one scale per expert.
    let axes = ChannelAxes::for_tensor(&stored.name, stored.shape.dims());
    let all = [axes, ChannelAxes::First, ChannelAxes::Second, ChannelAxes::FirstAndLast];
    let shapes = all.map(|axes| stored.shape.clone().with_channel_axes(axes));
    let expected = shapes.each_ref().map(|shape| scheme.scale_shape(shape));
    let matching =
        shapes.into_iter().zip(&expected).find(|(_, expected)| **expected == scale.shape);
    let (Some((shape, _)), Some(scale_type)) = (matching, scale.dtype.float()) else {
        let [expected, ..] = expected;
        let found = format!("{} {}", scale.dtype, scale.shape);
        return Err(format!("its scales are {found}, expected floats of {expected}"));
    };
    Ok(Int8 {
        container: None,
        values: id,
        stored_as: Int8Values::Signed,
        scale: scale_id,
        scale_type,
        biases: None,
        scheme,
        rounding,
        calibration,
        original,
        shape,
        beside: Vec::new(),
    })
}
