//! A model's architecture, read from its `config.json`.

use crate::checkpoint::{Checkpoint, Config, Result};
use crate::plan::rules::conversions::{self, ModuleKind};
use crate::plan::rules::known_architectures;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Nested objects below this depth are not searched.
const MAX_DEPTH: usize = 4;

/// Keys of a configuration whose objects may describe the language model.
const LANGUAGE_PARTS: [&str; 6] =
    ["text_config", "llm_config", "language_config", "decoder", "thinker_config", "talker_config"];

/// A model's architecture, including its nested parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Architecture {
    /// The configuration's own `model_type`.
    model_type: Option<String>,
    /// Every `model_type`, also of nested parts.
    model_types: BTreeSet<String>,
    /// Every entry of `architectures`.
    classes: BTreeSet<String>,
    /// Every `vocab_size` and similar key.
    vocab_sizes: BTreeSet<u64>,
    /// Whether the output head is the embedding.
    ties_head: bool,
    /// The number of ordinary layers, if further layers do multi-token prediction.
    layers_before_mtp: Option<u64>,
    has_vision_part: bool,
    /// The class in the configuration of a model of the diffusers library.
    diffusers_class: Option<String>,
}

impl Architecture {
    /// The architecture of a checkpoint; empty if there is no `config.json`.
    pub fn of(checkpoint: &Checkpoint) -> Result<Architecture> {
        Ok(checkpoint.model_config()?.as_ref().map(Architecture::of_config).unwrap_or_default())
    }

    fn of_config(config: &Config) -> Architecture {
        let json = config.json();
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut this = Architecture { model_type: text("model_type"), ..Architecture::default() };
        this.diffusers_class = text("_diffusers_version")
            .and(text("_class_name"))
            .filter(|_| this.model_type.is_none());
        this.collect(json, 0);
        this.ties_head = ties_head(json, this.model_type.as_deref());
        this
    }

    fn collect(&mut self, json: &Map<String, Value>, depth: usize) {
        let number = |key: &str| json.get(key).and_then(Value::as_u64);
        self.model_types.extend(json.get("model_type").and_then(Value::as_str).map(str::to_owned));
        let classes = json.get("architectures").and_then(Value::as_array);
        let classes = classes.into_iter().flatten().filter_map(Value::as_str);
        self.classes.extend(classes.map(str::to_owned));
        for (key, value) in json {
            if key.ends_with("vocab_size") || key == "n_vocab" {
                self.vocab_sizes.extend(value.as_u64().filter(|&size| size > 0));
            }
            if key.starts_with("vision") || key == "visual" {
                self.has_vision_part |= value.is_object();
            }
        }
        if number("num_nextn_predict_layers").is_some_and(|count| count > 0) {
            self.layers_before_mtp = number("num_hidden_layers");
        }
        if depth < MAX_DEPTH {
            for nested in json.values().filter_map(Value::as_object) {
                self.collect(nested, depth + 1);
            }
        }
    }

    /// The `model_type` or else the first class, to name the architecture in a sentence.
    pub fn name(&self) -> Option<&str> {
        self.model_type.as_deref().or_else(|| self.classes.first().map(String::as_str))
    }

    /// Whether the table of known Linear layers covers this architecture.
    pub fn is_known(&self) -> bool {
        self.model_types.iter().any(|name| known_architectures::is_known(name))
    }

    /// The class of a model of the diffusers library.
    pub(super) fn diffusers_class(&self) -> Option<&str> {
        self.diffusers_class.as_deref()
    }

    /// Whether the model or a nested part has this `model_type`.
    pub fn is_or_holds(&self, model_type: &str) -> bool {
        self.model_types.contains(model_type)
    }

    /// The first `model_type` that transformers cannot load with any quantized layer.
    pub(super) fn refused_part(&self) -> Option<&str> {
        self.model_types.iter().map(String::as_str).find(|name| conversions::is_refused(name))
    }

    /// Whether transformers merges experts that the checkpoint stores one by one.
    pub(super) fn merges_experts(&self) -> bool {
        self.model_types.iter().any(|name| conversions::merges_experts(name))
    }

    /// The actual kind of a module that only has the name of a Linear layer.
    pub(super) fn exception(&self, module: &str) -> Option<ModuleKind> {
        self.model_types.iter().find_map(|name| conversions::exception(name, module))
    }

    /// Whether a vocabulary of the model has this many entries.
    pub fn has_vocabulary_of(&self, size: u64) -> bool {
        self.vocab_sizes.contains(&size)
    }

    /// Whether the sizes of the vocabularies are known.
    pub fn knows_vocabulary(&self) -> bool {
        !self.vocab_sizes.is_empty()
    }

    /// Whether loaders use the embedding as the output head.
    pub fn ties_head(&self) -> bool {
        self.ties_head
    }

    /// The index of the first layer for multi-token prediction, if there are such layers.
    pub(super) fn layers_before_mtp(&self) -> Option<u64> {
        self.layers_before_mtp
    }

    /// Whether the configuration describes an image encoder beside the language model.
    pub(super) fn has_vision_part(&self) -> bool {
        self.has_vision_part
    }
}

/// The value of `tie_word_embeddings` in the configuration or in that of its language model, or
/// else the architecture's default.
fn ties_head(json: &Map<String, Value>, model_type: Option<&str>) -> bool {
    let said = |json: &Map<String, Value>| json.get("tie_word_embeddings").and_then(Value::as_bool);
    let parts = || LANGUAGE_PARTS.iter().filter_map(|&part| json.get(part)?.as_object());
    let nested =
        || parts().flat_map(|part| LANGUAGE_PARTS.iter().filter_map(|&p| part.get(p)?.as_object()));
    let explicit = said(json).or_else(|| parts().chain(nested()).find_map(said));
    explicit.unwrap_or_else(|| model_type.is_some_and(known_architectures::ties_head_by_default))
}
