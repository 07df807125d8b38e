//! The parts of a model's `config.json` that concern its tensors.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::io::files::{self, PathTarget};
use crate::checkpoint::python_json;
use crate::tensor::FloatType;
use serde_json::{Map, Value};
use std::io::ErrorKind;
use std::path::Path;

/// Maximum size of a `config.json` in bytes.
const CONFIG_LIMIT: u64 = 64 << 20;

/// The keys of `config.json` that describe the quantization.
pub(crate) const QUANTIZATION_KEYS: [&str; 3] =
    ["quantization_config", "quantization", "compression_config"];

/// Other files that describe the quantization, and the method they imply.
pub(crate) const QUANTIZATION_FILES: [(&str, &str); 3] = [
    ("quantize_config.json", "gptq"),
    ("quant_config.json", "awq"),
    ("hf_quant_config.json", "modelopt"),
];

/// The key under which a multi-part model describes its language model.
pub(crate) const NESTED: &str = "text_config";

/// A model's configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    json: Map<String, Value>,
    quantization: Option<Map<String, Value>>,
    method: Option<String>,
}

impl Config {
    /// Reads the config of a model's directory; `None` if there is none.
    pub fn read(directory: &Path) -> Result<Option<Config>> {
        let Some(json) = object(&directory.join("config.json"))? else { return Ok(None) };
        let nested = json.get(NESTED).and_then(Value::as_object);
        let settings = std::iter::once(&json)
            .chain(nested)
            .flat_map(|json| QUANTIZATION_KEYS.iter().filter_map(|&key| json.get(key)?.as_object()))
            .next()
            .or_else(|| quantization_of_parts(&json))
            .cloned();
        let method = settings.as_ref().and_then(method_of);
        let mut config = Config { method, json, quantization: settings };
        if config.quantization.is_none()
            && let Some((settings, implied)) = settings_of_quantizer(directory)?
        {
            config.method = Some(implied);
            config.quantization = Some(settings);
        }
        Ok(Some(config))
    }

    /// Reads the settings file that a quantizer wrote next to a model without a `config.json`;
    /// `None` if there is none.
    pub(crate) fn of_quantizer(directory: &Path) -> Result<Option<Config>> {
        let settings = settings_of_quantizer(directory)?;
        Ok(settings.map(|(settings, method)| Config {
            json: Map::new(),
            quantization: Some(settings),
            method: Some(method),
        }))
    }

    /// The whole document, in file order.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// Returns the configuration and the objects in it that describe parts of the model, except
    /// vision and audio parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Map<String, Value>> {
        let nested = objects(&self.json);
        let inner = nested.clone().flat_map(objects);
        std::iter::once(&self.json).chain(nested).chain(inner)
    }

    /// The quantization settings.
    pub fn quantization(&self) -> Option<&Map<String, Value>> {
        self.quantization.as_ref()
    }

    /// The `quant_method`.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Returns a number of the quantization settings, by the first of `keys` that exists.
    pub fn number(&self, keys: &[&str]) -> Option<i64> {
        let settings = self.quantization()?;
        keys.iter().find_map(|&key| settings.get(key)?.as_i64())
    }

    /// Returns a text of the quantization settings in lower case.
    pub fn text(&self, key: &str) -> Option<String> {
        Some(self.quantization()?.get(key)?.as_str()?.to_lowercase())
    }

    /// The architecture family, such as `llama`.
    pub fn model_type(&self) -> Option<&str> {
        self.json.get("model_type")?.as_str()
    }

    /// Returns whether the output head shares the weights of the embedding.
    pub fn ties_head(&self) -> bool {
        self.here_or_nested("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false)
    }

    /// The float type of the model's tensors.
    pub fn dtype(&self) -> Option<FloatType> {
        let name =
            ["dtype", "torch_dtype"].iter().find_map(|key| self.here_or_nested(key)?.as_str());
        float_type(name?)
    }

    fn here_or_nested(&self, key: &str) -> Option<&Value> {
        let here = self.json.get(key).filter(|value| !value.is_null());
        here.or_else(|| self.json.get(NESTED)?.get(key))
    }
}

/// Returns the `quant_method` of quantization settings.
fn method_of(settings: &Map<String, Value>) -> Option<String> {
    Some(settings.get("quant_method")?.as_str()?.to_owned())
}

/// Reads the first of [`QUANTIZATION_FILES`] that exists, and its method.
fn settings_of_quantizer(directory: &Path) -> Result<Option<(Map<String, Value>, String)>> {
    for (name, implied) in QUANTIZATION_FILES {
        if let Some(settings) = object(&directory.join(name))? {
            let method = method_of(&settings).unwrap_or_else(|| implied.to_owned());
            return Ok(Some((settings, method)));
        }
    }
    Ok(None)
}

/// Returns the quantization settings in the parts of a model, such as `llm_config`, if all parts
/// that have settings agree.
fn quantization_of_parts(json: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let parts = objects(json).flat_map(|part| std::iter::once(part).chain(objects(part)));
    let mut found = parts.filter_map(|part| part.get("quantization_config")?.as_object());
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

/// Returns the objects in a configuration that describe parts of the model, except vision and audio
/// parts.
fn objects(part: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> + Clone {
    let is_other = |key: &str| ["vision", "visual", "audio"].iter().any(|it| key.starts_with(it));
    part.iter().filter(move |(key, _)| !is_other(key)).filter_map(|(_, value)| value.as_object())
}

/// Returns a type by its name in PyTorch.
pub(crate) fn float_type(name: &str) -> Option<FloatType> {
    match name.trim_start_matches("torch.") {
        "float64" | "double" => Some(FloatType::F64),
        "float32" | "float" => Some(FloatType::F32),
        "float16" | "half" => Some(FloatType::F16),
        "bfloat16" => Some(FloatType::BF16),
        _ => None,
    }
}

fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let fail = |problem: Problem| ReadError::new(path, problem);
    match text(path) {
        None => Ok(None),
        Some(Ok(text)) => {
            let json = python_json::to_json(&text);
            serde_json::from_str(&json).map(Some).map_err(|e| fail(Problem::Config(e.to_string())))
        }
        Some(Err(e)) if e.kind() == ErrorKind::InvalidData => {
            Err(fail(Problem::Config(e.to_string())))
        }
        Some(Err(e)) => Err(fail(e.into())),
    }
}

/// Reads a small text file; `None` if it does not exist, an error if it is too large.
pub(crate) fn text(path: &Path) -> Option<std::io::Result<String>> {
    let length = match files::find(path) {
        Ok(PathTarget::Local(_, metadata)) => metadata.len(),
        Ok(PathTarget::Remote(file)) => file.size(),
        Ok(PathTarget::Directory(_)) => return None,
        Err(e) if e.kind() == ErrorKind::NotFound => return None,
        Err(e) => return Some(Err(e)),
    };
    if length > CONFIG_LIMIT {
        let why = format!("it has {length} bytes, more than the limit of {CONFIG_LIMIT}");
        return Some(Err(std::io::Error::new(ErrorKind::InvalidData, why)));
    }
    let text = |bytes| {
        String::from_utf8(bytes).map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))
    };
    Some(files::read(path).and_then(text))
}
