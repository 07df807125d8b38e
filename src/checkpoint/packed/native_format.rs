//! quantscope's own format: any tensor `T` as I8, `T_scale` beside it, described in the
//! metadata.

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

/// The key of `__metadata__` that says which tensors quantscope quantized.
pub(crate) const METADATA_KEY: &str = "quantscope";

/// What ends the name of the scales of a tensor.
pub(crate) const SCALE_SUFFIX: &str = "_scale";

/// The key of the same for tensors that went through int8 and are floats again.
pub(crate) const FAKE_METADATA_KEY: &str = "quantscope.fake_quantized";

/// The value of these keys: what was done to which tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuantizedMetadata {
    pub version: u32,
    pub rounding: String,
    pub tensors: BTreeMap<String, QuantizedTensorMetadata>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QuantizedTensorMetadata {
    pub scheme: String,
    /// Absent where it is min-max.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// The type before quantization, by its safetensors name.
    pub dtype: String,
}

/// The key of `__metadata__` that says how the int8 values of a container without a word
/// for it were rounded, when that is not half to even.
pub(crate) const ROUNDING_KEY: &str = "quantscope.rounding";

/// The key of the same word for how tensors were calibrated: a JSON object from the names
/// of those that were not calibrated by min-max.
pub(crate) const CALIBRATION_KEY: &str = "quantscope.calibration";

/// The key of the same word for the types of tensors before quantization: a JSON object from
/// names of tensors to safetensors' names of types.
pub(crate) const ORIGINAL_KEY: &str = "quantscope.original_types";

/// Whether a metadata key describes how tensors are quantized, in quantscope's words or
/// ComfyUI's or ModelOpt's. Such keys are dropped when the tensors become floats.
pub(crate) fn describes_quantization(key: &str) -> bool {
    let ours = [METADATA_KEY, ROUNDING_KEY, CALIBRATION_KEY, ORIGINAL_KEY];
    ours.contains(&key) || [comfyui_markers::METADATA, "quantization_config"].contains(&key)
}

impl QuantizedMetadata {
    pub(crate) const VERSION: u32 = 1;
}

impl QuantizedTensorMetadata {
    /// How a tensor was quantized that had the type `original`.
    pub(crate) fn new(quantizer: Quantizer, original: &DType) -> Self {
        let calibration = quantizer.calibration;
        QuantizedTensorMetadata {
            scheme: quantizer.scheme.to_string(),
            calibration: (calibration != Calibration::MinMax).then(|| calibration.to_string()),
            dtype: original.name().to_owned(),
        }
    }

    pub(crate) fn calibration(&self) -> Result<Calibration, String> {
        self.calibration.as_ref().map_or(Ok(Calibration::MinMax), |said| said.parse())
    }
}

/// What a container without a word for it says of the calibration of its tensors.
pub(crate) fn calibrations(metadata: &[(String, String)]) -> HashMap<String, Calibration> {
    let said = words_of_tensors(metadata, CALIBRATION_KEY).into_iter();
    said.filter_map(|(name, said)| Some((name, said.parse().ok()?))).collect()
}

/// What a container without a word for it says of the types of its tensors before
/// quantization.
pub(crate) fn original_types(metadata: &[(String, String)]) -> HashMap<String, FloatType> {
    let said = words_of_tensors(metadata, ORIGINAL_KEY).into_iter();
    said.filter_map(|(name, said)| Some((name, DType::from_name(&said).float()?))).collect()
}

/// The JSON object under a key, from names of tensors to a word about each; empty if it is
/// not there or not of this form.
pub(crate) fn words_of_tensors(
    metadata: &[(String, String)],
    key: &str,
) -> BTreeMap<String, String> {
    let said = metadata.iter().filter(|(k, _)| k == key);
    let said =
        said.filter_map(|(_, text)| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    said.flatten().collect()
}

/// What [`calibrations`] reads; `None` where all were calibrated by min-max.
pub(crate) fn calibration_metadata<'n>(
    tensors: impl Iterator<Item = (&'n str, Calibration)>,
) -> Option<String> {
    let others = tensors.filter(|(_, calibration)| *calibration != Calibration::MinMax);
    let said: BTreeMap<&str, String> =
        others.map(|(name, calibration)| (name, calibration.to_string())).collect();
    if said.is_empty() {
        return None;
    }
    serde_json::to_string(&said).ok()
}

/// The stored tensors of one shard, by name.
type StoredByName<'s> = HashMap<&'s str, (StoredId, &'s Stored)>;

/// The tensors that quantscope's own metadata names in one shard. A tensor whose parts do not
/// fit its description is named with the reason.
pub(super) fn recognise<'s>(
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

/// Every I8 tensor with scales beside it, named with a reason that concerns the whole file.
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

/// The int8 tensor that the metadata describes, or why its parts do not fit the description.
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
    // Fused experts written by versions that did not know them have one scale for each expert.
    let axes = ChannelAxes::for_tensor(&stored.name, stored.shape.dims());
    let shapes =
        [axes, ChannelAxes::First].map(|axes| stored.shape.clone().with_channel_axes(axes));
    let expected = shapes.each_ref().map(|shape| scheme.scale_shape(shape));
    let matching =
        shapes.into_iter().zip(&expected).find(|(_, expected)| **expected == scale.shape);
    let (Some((shape, _)), Some(scale_type)) = (matching, scale.dtype.float()) else {
        let [expected, _] = expected;
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
