//! quantscope's own: any tensor `T` as I8, `T_scale` beside it, and a word in the metadata.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::int8::{Int8, Int8Values};
use crate::checkpoint::stored::{Stored, StoredId};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{ChannelAxes, DType};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

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
    let said = metadata.iter().filter(|(key, _)| key == CALIBRATION_KEY);
    let said =
        said.filter_map(|(_, text)| serde_json::from_str::<BTreeMap<String, String>>(text).ok());
    let said = said.flatten().filter_map(|(name, said)| Some((name, said.parse().ok()?)));
    said.collect()
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

/// The tensors that quantscope's own metadata names in one shard: which stored tensor
/// holds the values of each.
pub(super) fn recognise<'s>(
    path: &Path,
    metadata: &[(String, String)],
    stored: impl Iterator<Item = (StoredId, &'s Stored)>,
) -> Result<Vec<PackedTensor>> {
    let Some((_, text)) = metadata.iter().find(|(key, _)| key == METADATA_KEY) else {
        return Ok(Vec::new());
    };
    let fail = |why: String| CheckpointError::new(path, Problem::Layout(why));
    let metadata: QuantizedMetadata = serde_json::from_str(text).map_err(|e| {
        fail(format!("its '{METADATA_KEY}' metadata is not of the expected form: {e}"))
    })?;
    if metadata.version != QuantizedMetadata::VERSION {
        let (found, expected) = (metadata.version, QuantizedMetadata::VERSION);
        return Err(fail(format!(
            "it has quantscope's format version {found}, expected {expected}"
        )));
    }
    let rounding = metadata.rounding.parse().map_err(fail)?;
    let by_name: HashMap<&str, (StoredId, &Stored)> =
        stored.map(|(id, s)| (s.name.as_str(), (id, s))).collect();
    let tensors = metadata.tensors.iter().map(|(name, described)| {
        let fail = |why: String| CheckpointError::of_tensor(path, name, Problem::Layout(why));
        let values = by_name
            .get(name.as_str())
            .ok_or_else(|| fail("the metadata names it, the file does not hold it".into()))?;
        let scale = by_name.get(format!("{name}{SCALE_SUFFIX}").as_str());
        let int8 = int8(described, rounding, *values, scale.copied()).map_err(fail)?;
        Ok(PackedTensor::new(name, int8.shape.clone(), int8))
    });
    tensors.collect()
}

/// The layout of a tensor that quantscope's metadata names, or why its parts do not
/// fit what it says.
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
        scheme,
        rounding,
        calibration,
        original,
        shape,
        beside: Vec::new(),
    })
}
