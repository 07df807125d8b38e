//! ComfyUI's markers, which give the format of each layer of a file.

use crate::checkpoint::packed::listing_bytes::read_start;
use crate::checkpoint::stored::{Shard, Stored};
use crate::tensor::DType;
use foldhash::HashMap;
use serde_json::{Map, Value};

/// The last component of the name of a layer's marker tensor.
pub(super) const MARKER: &str = "comfy_quant";

/// The last component of the name of the tensor that marks a whole file as FP8 with `scale_weight`
/// tensors.
pub(super) const FILE_MARKER: &str = "scaled_fp8";

/// The metadata key that describes all layers of a file.
pub(super) const METADATA: &str = "_quantization_metadata";

/// Maximum size of a marker in bytes.
const MARKER_LIMIT: u64 = 64 << 10;

/// The markers of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Markers {
    layers: HashMap<String, Result<Marker, String>>,
    /// The prefixes of the models that a [`FILE_MARKER`] describes, such as `model.`.
    files: Vec<String>,
}

/// A layer's marker.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Marker {
    pub format: String,
    values: Map<String, Value>,
}

impl Marker {
    fn new(values: Map<String, Value>) -> Result<Marker, String> {
        let format = values.get("format").and_then(Value::as_str);
        let format = format.ok_or("its marker names no format")?.to_owned();
        Ok(Marker { format, values })
    }

    /// Returns a value of the marker, from the top level or from its `params`.
    fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).or_else(|| self.values.get("params")?.get(key))
    }

    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }
}

impl Markers {
    pub(super) fn read(shards: &[Shard], stored: &[Stored]) -> Markers {
        let mut markers = Markers::default();
        for shard in shards {
            markers.add_metadata(shard.metadata(METADATA));
        }
        for stored in stored.iter().filter(|stored| stored.name.ends_with(MARKER)) {
            let Some(layer) = stored.name.strip_suffix(MARKER) else { continue };
            let Some(layer) = layer.strip_suffix('.') else { continue };
            markers.add(layer, marker(shards, stored));
        }
        let files = stored.iter().filter_map(|stored| stored.name.strip_suffix(FILE_MARKER));
        let files = files.filter(|prefix| prefix.is_empty() || prefix.ends_with('.'));
        markers.files = files.map(str::to_owned).collect();
        markers
    }

    fn add_metadata(&mut self, text: Option<&str>) {
        let Some(json) = text.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
            return;
        };
        let Some(layers) = json.get("layers").and_then(Value::as_object) else { return };
        for (layer, values) in layers {
            let values = values.as_object().cloned();
            self.add(
                layer,
                values.ok_or("its marker is not an object".into()).and_then(Marker::new),
            );
        }
    }

    fn add(&mut self, layer: &str, marker: Result<Marker, String>) {
        let format =
            |marker: &Result<Marker, String>| marker.as_ref().ok().map(|m| m.format.clone());
        let marker = match self.layers.get(layer) {
            Some(other) if format(other) != format(&marker) => {
                Err("its marker and the file's metadata name different formats".to_owned())
            }
            _ => marker,
        };
        self.layers.insert(layer.to_owned(), marker);
    }

    /// Returns the marker of a layer, or the reason why it cannot be used.
    pub(super) fn layer(&self, layer: &str) -> Option<Result<&Marker, &str>> {
        Some(self.layers.get(layer)?.as_ref().map_err(String::as_str))
    }

    /// Returns whether any layer has a marker.
    pub(super) fn mark_layers(&self) -> bool {
        !self.layers.is_empty()
    }

    /// Returns whether a [`FILE_MARKER`] applies to the tensor.
    pub(super) fn mark_file_of(&self, name: &str) -> bool {
        self.files.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }
}

fn marker(shards: &[Shard], stored: &Stored) -> Result<Marker, String> {
    if stored.dtype != DType::U8 || stored.bytes() > MARKER_LIMIT {
        return Err(format!(
            "its marker is {} {}, expected U8 JSON of at most {MARKER_LIMIT} bytes",
            stored.dtype, stored.shape
        ));
    }
    let bytes = read_start(shards, stored, MARKER_LIMIT)?;
    let values = serde_json::from_slice::<Map<String, Value>>(&bytes);
    Marker::new(values.map_err(|e| format!("its marker does not hold the expected JSON: {e}"))?)
}
