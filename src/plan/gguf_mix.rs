//! llama.cpp's mixes: the block type of each tensor in `llama-quantize Q4_K_M` and similar mixes.
//!
//! The rules are those of `llama-quant.cpp` in llama.cpp with ggml 0.26. They depend on the tensor's
//! name and shape, on its position among the tensors of its category, and on a few parameters of
//! the model.

use crate::checkpoint::{Checkpoint, Content};
use crate::plan::defaults::effective_quantizer;
use crate::plan::rules::kept_part;
use crate::plan::target::Container;
use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::{BlockType, FloatType, Shape, TensorId};

pub use crate::plan::gguf_mix_names::{GgufMix, UnknownMix};

/// The parameters of a model that the rules depend on.
#[derive(Clone, Debug, Default, PartialEq)]
struct ModelParameters {
    architecture: String,
    layers: u64,
    experts: u64,
    /// Query heads for each key and value head of the first layer.
    queries_per_key: u64,
    /// Whether importance is known.
    has_importance: bool,
}

impl ModelParameters {
    fn new(checkpoint: &Checkpoint, has_importance: bool) -> ModelParameters {
        let find = |key: &str| {
            let mut metadata = checkpoint.shards().iter().flat_map(|shard| &shard.metadata);
            metadata.find(|(found, _)| found == key).map(|(_, value)| value.as_str())
        };
        let architecture = find("general.architecture").unwrap_or_default().to_owned();
        // For an array, the first value is used.
        let number = |key: &str| {
            let text = find(&format!("{architecture}.{key}"))?.trim_start_matches('[');
            text.split([',', ']']).next()?.trim().parse::<u64>().ok()
        };
        let heads = number("attention.head_count").unwrap_or(0);
        let keys = number("attention.head_count_kv").unwrap_or(heads);
        ModelParameters {
            layers: number("block_count").unwrap_or(0),
            experts: number("expert_count").unwrap_or(0),
            queries_per_key: heads.checked_div(keys).unwrap_or(0),
            has_importance,
            architecture,
        }
    }

    fn is_falcon(&self) -> bool {
        self.architecture == "falcon"
    }

    /// Whether llama.cpp treats the model as a 70B model, whose value projections are small.
    fn is_70b(&self) -> bool {
        match self.architecture.as_str() {
            "llama" => self.layers == 80 && self.queries_per_key > 1,
            "qwen2" | "deci" | "olmo" => self.layers == 80,
            "jais2" => self.layers == 68,
            _ => false,
        }
    }
}

/// The category of a tensor, derived from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Category {
    Output,
    TokenEmbedding,
    /// Values of attention, alone or in one tensor with queries or keys.
    AttentionValue,
    AttentionKey,
    AttentionQuery,
    AttentionOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

impl Category {
    fn of(name: &str) -> Category {
        let parts = [
            (Category::AttentionValue, "attn_qkv.weight"),
            (Category::AttentionValue, "attn_kv_b.weight"),
            (Category::AttentionValue, "attn_v.weight"),
            (Category::AttentionKey, "attn_k.weight"),
            (Category::AttentionQuery, "attn_q.weight"),
            (Category::AttentionOutput, "attn_output.weight"),
            (Category::FfnUp, "ffn_up"),
            (Category::FfnGate, "ffn_gate"),
            (Category::FfnDown, "ffn_down"),
        ];
        match name {
            "output.weight" => Category::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Category::TokenEmbedding,
            _ => parts
                .into_iter()
                .find(|(_, part)| name.contains(part))
                .map_or(Category::Other, |(category, _)| category),
        }
    }
}

/// The number of preceding tensors of each category, in the order of layers.
#[derive(Default)]
struct Counters {
    values: u64,
    down: u64,
    gate: u64,
    up: u64,
}

fn take(counter: &mut u64) -> u64 {
    *counter += 1;
    *counter - 1
}

/// The number in `blk.N.`.
fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Whether a layer is in the first or the last eighth, or every third layer in between.
fn gets_more_bits(layer: u64, layers: u64) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// Returns whether llama.cpp quantizes a tensor of a GGUF file.
fn is_quantized(name: &str, shape: &Shape) -> bool {
    // Leading dimensions of 1 do not count: GGUF stores dimensions in the other order.
    let rank = shape.dims().iter().skip_while(|&&dim| dim == 1).count();
    rank >= 2 && kept_part(name).is_none()
}

/// The number in `general.file_type` of a file whose tensors have these types: that of the mix that
/// was asked for, or of the first mix, with these types; else of the mix named like the type that
/// most elements have.
pub(crate) fn file_type(
    checkpoint: &Checkpoint,
    types: &[(TensorId, BlockType)],
    asked: Option<GgufMix>,
) -> u32 {
    let has_types =
        |mix: GgufMix| [false, true].into_iter().any(|known| mix.types(checkpoint, known) == types);
    let is_mix =
        |mix: &GgufMix| types.iter().any(|&(_, block)| block == mix.base()) && has_types(*mix);
    let elements = |block: BlockType| -> u64 {
        let same = types.iter().filter(|&&(_, other)| other == block);
        same.map(|&(id, _)| checkpoint.tensor(id).parameters()).sum()
    };
    let most = || BlockType::ALL.iter().copied().max_by_key(|&block| elements(block));
    let asked = asked.filter(|&mix| has_types(mix));
    let mix = asked.or_else(|| GgufMix::all().find(is_mix)).or_else(|| GgufMix::mostly(most()?));
    mix.map_or(0, GgufMix::file_type)
}

impl GgufMix {
    /// The type of each tensor that is quantized. Tensors that are in blocks already are left
    /// out, and those whose rows no block type divides.
    pub fn types(
        self,
        checkpoint: &Checkpoint,
        has_importance: bool,
    ) -> Vec<(TensorId, BlockType)> {
        let parameters = ModelParameters::new(checkpoint, has_importance);
        let mut tensors: Vec<(TensorId, &str, &Shape)> = checkpoint
            .ids()
            .map(|id| (id, checkpoint.tensor(id)))
            .map(|(id, tensor)| (id, tensor.name.as_str(), &tensor.shape))
            .collect();
        tensors.sort_by_key(|&(_, name, _)| (layer_of(name), name));
        let names: Vec<&str> = tensors.iter().map(|&(_, name, _)| name).collect();
        let mut rules = Rules::new(self, &parameters, &names);
        let mut types: Vec<(TensorId, BlockType)> = Vec::new();
        for (id, name, shape) in tensors {
            if !is_quantized(name, shape) {
                continue;
            }
            let block = rules.next(name, shape);
            if let Some(block) = block.fitting(shape.row_len())
                && matches!(checkpoint.content(id), Content::Plain(_))
            {
                types.push((id, block));
            }
        }
        types.sort_by_key(|&(id, _)| id);
        types
    }
}

/// Whether llama.cpp stores a tensor of floats as F16 when it quantizes a file: one whose rows no
/// block divides, unless it is F16 already.
pub(crate) fn becomes_f16(checkpoint: &Checkpoint, id: TensorId) -> bool {
    let tensor = checkpoint.tensor(id);
    let divided = BlockType::Q8_0.fitting(tensor.shape.row_len()).is_some();
    let is_other_float = tensor.dtype.float().is_some_and(|float| float != FloatType::F16);
    let is_plain = matches!(checkpoint.content(id), Content::Plain(_));
    !divided && is_other_float && is_plain && is_quantized(&tensor.name, &tensor.shape)
}

/// Whether quantizing a tensor for `container` makes it F16.
#[inline]
pub(crate) fn becomes_f16_in(container: Container, checkpoint: &Checkpoint, id: TensorId) -> bool {
    container == Container::Gguf && becomes_f16(checkpoint, id)
}

/// The quantizer of a new mark in `container`: [`f16_mark`] for a tensor that becomes F16, otherwise
/// the [`effective_quantizer`].
#[inline]
pub(crate) fn new_mark_in(
    container: Container,
    checkpoint: &Checkpoint,
    id: TensorId,
    quantizer: Quantizer,
) -> Quantizer {
    if becomes_f16_in(container, checkpoint, id) {
        f16_mark()
    } else {
        effective_quantizer(checkpoint, id, quantizer)
    }
}

/// The mark of a tensor that becomes F16.
pub(crate) fn f16_mark() -> Quantizer {
    let scheme = QuantizationScheme::Ggml(BlockType::Q8_0);
    Quantizer { calibration: Calibration::MinMax, scheme }
}

/// The rules of a mix on one model; tensors must be asked for in the order of layers.
struct Rules<'m> {
    mix: &'static str,
    base: BlockType,
    parameters: &'m ModelParameters,
    counters: Counters,
    value_tensors: u64,
    /// Whether the token embedding is the output layer too.
    tied: bool,
}

impl<'m> Rules<'m> {
    fn new(mix: GgufMix, parameters: &'m ModelParameters, names: &[&str]) -> Rules<'m> {
        let count = |category| names.iter().filter(|name| Category::of(name) == category).count();
        Rules {
            mix: mix.name(),
            base: mix.base(),
            parameters,
            counters: Counters::default(),
            value_tensors: count(Category::AttentionValue) as u64,
            tied: count(Category::Output) == 0,
        }
    }

    fn is(&self, mixes: &[&str]) -> bool {
        mixes.contains(&self.mix)
    }

    /// The type of the next tensor, before its width is considered.
    fn next(&mut self, name: &str, shape: &Shape) -> BlockType {
        let category = Category::of(name);
        let is_output =
            category == Category::Output || self.tied && category == Category::TokenEmbedding;
        if is_output {
            self.output(shape)
        } else if self.mix == "MXFP4_MOE" {
            let is_expert = shape.rank() > 2 && shape.dims().first().is_some_and(|&dim| dim > 1);
            if is_expert { BlockType::MXFP4 } else { BlockType::Q8_0 }
        } else if category == Category::TokenEmbedding {
            self.token_embedding()
        } else if self.is(&["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"]) {
            self.below_three_bits(category)
        } else {
            match category {
                Category::AttentionValue => self.attention_value(),
                Category::AttentionKey if self.parameters.experts == 8 => BlockType::Q8_0,
                Category::AttentionKey | Category::AttentionQuery => match self.mix {
                    "IQ3_XS" => BlockType::IQ3_XXS,
                    "IQ3_XXS" => BlockType::IQ2_S,
                    _ => self.base,
                },
                Category::FfnDown => self.ffn_down(name),
                Category::AttentionOutput => self.attention_output(),
                Category::FfnGate => {
                    let place = take(&mut self.counters.gate);
                    self.ffn_gate_or_up(self.layer(place, name))
                }
                Category::FfnUp => {
                    let place = take(&mut self.counters.up);
                    self.ffn_gate_or_up(self.layer(place, name))
                }
                _ => self.base,
            }
        }
    }

    /// The layer of a tensor of the feed-forward block: its position among the tensors of its
    /// category or, in models with experts, the number in its name.
    fn layer(&self, place: u64, name: &str) -> u64 {
        if self.parameters.experts > 1 { layer_of(name).unwrap_or(place) } else { place }
    }

    fn output(&self, shape: &Shape) -> BlockType {
        let divides = shape.row_len().is_multiple_of(self.base.elements());
        if self.mix == "MXFP4_MOE" || self.parameters.is_falcon() || !divides {
            BlockType::Q8_0
        } else if self.is(&["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"]) {
            BlockType::Q5_K
        } else if self.base == BlockType::Q8_0 {
            BlockType::Q8_0
        } else {
            BlockType::Q6_K
        }
    }

    fn token_embedding(&self) -> BlockType {
        match self.mix {
            "IQ1_S" | "IQ1_M" | "IQ2_XXS" | "IQ2_XS" => BlockType::Q2_K,
            "IQ2_S" | "IQ2_M" | "IQ3_XXS" => BlockType::IQ3_S,
            "TQ1_0" | "TQ2_0" | "Q2_0" => BlockType::Q4_K,
            _ => self.base,
        }
    }

    fn below_three_bits(&mut self, category: Category) -> BlockType {
        let ModelParameters { experts, queries_per_key, .. } = *self.parameters;
        let larger = self.is(&["IQ2_S", "IQ2_M"]);
        let next = if larger { BlockType::IQ3_S } else { BlockType::Q2_K };
        match category {
            Category::AttentionValue if queries_per_key >= 4 || experts >= 4 => BlockType::Q4_K,
            Category::AttentionValue => next,
            Category::AttentionKey if experts == 8 => BlockType::Q4_K,
            Category::FfnDown => {
                let early = take(&mut self.counters.down) < self.parameters.layers / 8;
                if early { next } else { self.base }
            }
            Category::AttentionOutput if experts == 8 => BlockType::Q5_K,
            Category::AttentionOutput if self.is(&["IQ1_S", "IQ1_M"]) => BlockType::IQ2_XXS,
            Category::AttentionOutput if larger => BlockType::IQ3_S,
            _ => self.base,
        }
    }

    fn attention_value(&mut self) -> BlockType {
        let place = take(&mut self.counters.values);
        let shared = self.parameters.queries_per_key >= 4;
        let block = match self.mix {
            "Q2_K" => {
                if shared {
                    BlockType::Q4_K
                } else {
                    BlockType::Q3_K
                }
            }
            "Q2_K_S" | "IQ3_XXS" | "IQ3_XS" | "IQ3_S" if shared => BlockType::Q4_K,
            "IQ3_XXS" if !self.parameters.has_importance => BlockType::IQ3_S,
            "IQ3_M" => BlockType::Q4_K,
            "Q3_K_M" => {
                if place < 2 {
                    BlockType::Q5_K
                } else {
                    BlockType::Q4_K
                }
            }
            "Q3_K_L" => BlockType::Q5_K,
            "IQ4_NL" | "IQ4_XS" if shared => BlockType::Q5_K,
            "Q4_K_M" | "Q5_K_M" if gets_more_bits(place, self.value_tensors) => BlockType::Q6_K,
            "Q4_K_S" if place < 4 => BlockType::Q5_K,
            _ => self.base,
        };
        let is_small = matches!(block, BlockType::Q3_K | BlockType::Q4_K);
        match self.parameters.experts {
            8 => BlockType::Q8_0,
            _ if self.parameters.is_70b() && is_small => BlockType::Q5_K,
            _ => block,
        }
    }

    fn ffn_down(&mut self, name: &str) -> BlockType {
        let place = take(&mut self.counters.down);
        let (layer, layers) = (self.layer(place, name), self.parameters.layers);
        let ModelParameters { has_importance, experts, .. } = *self.parameters;
        let falcon = self.parameters.is_falcon();
        let (early, more) = (layer < layers / 8, gets_more_bits(layer, layers));
        match self.mix {
            "Q2_K" => BlockType::Q3_K,
            "Q2_K_S" if early => BlockType::Q4_K,
            "IQ3_XXS" if !has_importance => {
                if early {
                    BlockType::Q4_K
                } else {
                    BlockType::Q3_K
                }
            }
            "Q3_K_M" if layer < layers / 16 => BlockType::Q5_K,
            "Q3_K_M" if !falcon || more => BlockType::Q4_K,
            "IQ3_M" if early || experts == 8 && more => BlockType::Q4_K,
            "Q3_K_L" => {
                if falcon {
                    BlockType::Q4_K
                } else {
                    BlockType::Q5_K
                }
            }
            "Q4_K_M" if falcon && layer < layers / 16 => BlockType::Q6_K,
            "Q4_K_M" if more => {
                if falcon {
                    BlockType::Q5_K
                } else {
                    BlockType::Q6_K
                }
            }
            "IQ4_NL" | "IQ4_XS" if early && !has_importance => BlockType::Q5_K,
            "Q5_K_M" if more => BlockType::Q6_K,
            "Q4_K_S" if !falcon && early => BlockType::Q5_K,
            "Q4_0" if has_importance && early => BlockType::Q4_1,
            "Q5_0" if has_importance && early => BlockType::Q5_1,
            _ => self.base,
        }
    }

    fn attention_output(&self) -> BlockType {
        match (self.mix, self.parameters.is_falcon(), self.parameters.experts == 8) {
            ("Q3_K_L", true, _) => BlockType::Q4_K,
            (_, true, _) => self.base,
            (
                "Q2_K" | "IQ3_XS" | "IQ3_XXS" | "Q3_K_S" | "Q3_K_M" | "IQ4_NL" | "Q4_K_S"
                | "Q4_K_M" | "IQ3_S" | "IQ3_M" | "IQ4_XS",
                false,
                true,
            ) => BlockType::Q5_K,
            (_, false, true) => self.base,
            ("Q2_K", ..) => BlockType::Q3_K,
            ("IQ3_XXS", ..) => BlockType::IQ3_S,
            ("Q3_K_M" | "IQ3_M", ..) => BlockType::Q4_K,
            ("Q3_K_L", ..) => BlockType::Q5_K,
            _ => self.base,
        }
    }

    fn ffn_gate_or_up(&self, layer: u64) -> BlockType {
        let layers = self.parameters.layers;
        let is_middle = layer >= layers / 8 && layer < 7 * layers / 8;
        match self.mix {
            "IQ3_XS" if is_middle => BlockType::IQ3_XXS,
            _ => self.base,
        }
    }
}
