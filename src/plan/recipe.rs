//! Recipes: plans as TOML files. The screen writes and reads them, and the command line replays
//! them.
//!
//! ```toml
//! version = 1
//! rounding = "half-even"
//!
//! [[quantize]]
//! scheme = "per-channel"
//! tensors = ["encoder.0.weight"]
//!
//! [inputs]
//! scheme = "static"
//!
//! [inputs.scales]
//! "encoder.0.weight" = 0.0123
//! ```
//!
//! `importance = "imatrix.gguf"` after the rounding names the importance matrix that ggml's
//! blocks are made by; its values are not in the recipe. `mix = "Q4_K_M"` names the mix of llama.cpp
//! that was asked for. `inputs` is present only if layer inputs are quantized with calibrated
//! scales, and `target` only if a loader or a format was chosen:
//!
//! ```toml
//! [target]
//! for = ["vllm"]
//! format = "compressed-tensors"
//! scheme = "W8A8"
//! ```

use crate::checkpoint::{Checkpoint, Format};
use crate::path_error::{IoContext, PathError};
use crate::plan::eligibility::{Obstacle, obstacle};
use crate::plan::gguf_mix_names::GgufMix;
use crate::plan::inputs::InputQuantization;
use crate::plan::marks::Plan;
use crate::plan::rounding_by_inputs::RoundingByInputs;
use crate::plan::target::{Container, LinearScheme, Loader, Target};
use crate::quantization::ggml::Importance;
use crate::quantization::{Calibration, InputRounding, Preset, QuantizationScheme, Quantizer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// The largest recipe that is read, in bytes; a recipe for a million tensors is far smaller.
const SIZE_LIMIT: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    version: u32,
    rounding: String,
    /// The importance matrix with which ggml's block types are quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    importance: Option<String>,
    /// The mix of llama.cpp that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    mix: Option<String>,
    #[serde(default)]
    quantize: Vec<Group>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inputs: Option<Inputs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<RecipeTarget>,
}

/// The loaders and the format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeTarget {
    #[serde(rename = "for", default, skip_serializing_if = "Vec::is_empty")]
    loaders: Vec<String>,
    format: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
}

impl RecipeTarget {
    fn of(target: &Target) -> Option<RecipeTarget> {
        let scheme = match target.container() {
            Container::CompressedTensors(scheme) => Some(scheme.name().to_owned()),
            _ => None,
        };
        let loaders = target.loaders().iter().map(|loader| loader.name().to_owned()).collect();
        let format = target.container().name().to_owned();
        (!target.is_default()).then_some(RecipeTarget { loaders, format, scheme })
    }

    fn target(&self, source: Format) -> Result<Target, String> {
        let loaders = self.loaders.iter().map(|name| name.parse::<Loader>());
        let loaders: Vec<Loader> = loaders.collect::<Result<_, _>>()?;
        let container = Container::from_name(&self.format)
            .ok_or_else(|| format!("unknown format '{}'", self.format.escape_debug()))?;
        let target = Target::for_loaders(&loaders, source).map_err(|e| e.to_string())?;
        let target = target.with_format(container).map_err(|e| e.to_string())?;
        let Some(name) = &self.scheme else { return Ok(target) };
        let scheme = LinearScheme::ALL.into_iter().find(|scheme| scheme.name() == name);
        let scheme = scheme.ok_or_else(|| {
            format!("unknown scheme '{}', expected W8A8, W8A16 or presets", name.escape_debug())
        })?;
        Ok(target.with_linear_scheme(scheme))
    }
}

/// How layer inputs are quantized.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inputs {
    scheme: InputScheme,
    /// Input scales, by the name of the layer's weight.
    #[serde(default)]
    scales: BTreeMap<String, f64>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum InputScheme {
    Dynamic,
    Static,
}

/// Tensors with the same quantizer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    scheme: String,
    #[serde(default = "min_max")]
    calibration: String,
    /// Whether rounding is compensated for the layers' recorded inputs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    error_compensation: bool,
    /// Whether clips are chosen by the output error on the layers' recorded inputs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    clip_search: bool,
    tensors: Vec<String>,
}

impl Group {
    fn by_inputs(&self) -> Option<InputRounding> {
        let found = InputRounding {
            compensates: self.error_compensation,
            searches_clips: self.clip_search,
        };
        (found != InputRounding::default()).then_some(found)
    }
}

fn min_max() -> String {
    Calibration::MinMax.to_string()
}

/// Why a recipe cannot be read, or does not fit the checkpoint.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum RecipeError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not a recipe: {why}", path.display())]
    Form { path: PathBuf, why: String },
    #[error("{}: names the tensor '{}', which {} does not hold", path.display(), tensor.escape_debug(), model.display())]
    NoTensor { path: PathBuf, tensor: String, model: PathBuf },
    #[error("{}: the scale of the inputs of '{}' is {scale}, expected a positive number that fits 32 bits", path.display(), tensor.escape_debug())]
    InputScale { path: PathBuf, tensor: String, scale: f64 },
    #[error("{}: names the tensor '{}' twice", path.display(), tensor.escape_debug())]
    Twice { path: PathBuf, tensor: String },
    #[error("{}: names the tensor '{}', which cannot be quantized: {why}", path.display(), tensor.escape_debug())]
    NotQuantizable { path: PathBuf, tensor: String, why: Obstacle },
    #[error("{}: quantizes the tensor '{}' by learned scales, and {why}", path.display(), tensor.escape_debug())]
    NotLearned { path: PathBuf, tensor: String, why: String },
}

impl From<PathError> for RecipeError {
    fn from(PathError { path, source }: PathError) -> Self {
        RecipeError::Io { path, source }
    }
}

/// Writes a plan as a recipe.
pub fn to_toml(plan: &Plan, checkpoint: &Checkpoint) -> String {
    let mut groups: BTreeMap<(String, String, InputRounding), Vec<String>> = BTreeMap::new();
    for (id, quantizer) in plan.iter() {
        let by_inputs = plan.by_inputs.get(id).unwrap_or_default();
        let Quantizer { scheme, calibration } = quantizer;
        let key = (scheme.to_string(), calibration.to_string(), by_inputs);
        groups.entry(key).or_default().push(checkpoint.tensor(id).name.to_string());
    }
    let quantize = groups
        .into_iter()
        .map(|((scheme, calibration, by_inputs), tensors)| Group {
            scheme,
            calibration,
            error_compensation: by_inputs.compensates,
            clip_search: by_inputs.searches_clips,
            tensors,
        })
        .collect();
    let inputs = match &plan.inputs {
        InputQuantization::Dynamic => None,
        InputQuantization::Static(scales) => {
            let name = |id| checkpoint.tensor(id).name.to_string();
            let scales = scales.iter().map(|(&id, &scale)| (name(id), shortest(scale))).collect();
            Some(Inputs { scheme: InputScheme::Static, scales })
        }
    };
    let rounding = plan.rounding.name().to_owned();
    let target = RecipeTarget::of(&plan.target);
    let importance = plan.importance.origin().map(|origin| origin.file.clone());
    let mix = plan.mix.map(|mix| mix.to_string());
    let recipe = Recipe { version: VERSION, rounding, importance, mix, quantize, inputs, target };
    // Strings and numbers always serialize.
    toml::to_string_pretty(&recipe).unwrap_or_default()
}

/// Returns the f64 with the fewest digits that rounds to `x`.
fn shortest(x: f32) -> f64 {
    match format!("{x:e}").parse::<f64>() {
        Ok(wide) if wide as f32 == x => wide,
        _ => f64::from(x),
    }
}

/// Reads a recipe file as a plan for `checkpoint`.
pub fn read(path: &Path, checkpoint: &Checkpoint) -> Result<Plan, RecipeError> {
    let size = std::fs::metadata(path).context(path)?.len();
    if size > SIZE_LIMIT {
        let why = format!("it has {size} bytes, more than the limit of {SIZE_LIMIT}");
        return Err(RecipeError::Form { path: path.to_owned(), why });
    }
    let text = std::fs::read_to_string(path).context(path)?;
    from_toml(path, &text, checkpoint)
}

/// Reads the text of a recipe as a plan for `checkpoint`. `path` is used in errors.
pub fn from_toml(path: &Path, text: &str, checkpoint: &Checkpoint) -> Result<Plan, RecipeError> {
    let form = |why: String| RecipeError::Form { path: path.to_owned(), why };
    let recipe: Recipe = toml::from_str(text).map_err(|e| form(e.message().to_owned()))?;
    if recipe.version != VERSION {
        return Err(form(format!("its version is {}, expected {VERSION}", recipe.version)));
    }
    let by_name: HashMap<&str, _> =
        checkpoint.ids().map(|id| (checkpoint.tensor(id).name.as_str(), id)).collect();
    let mut plan = Plan::new(recipe.rounding.parse().map_err(form)?);
    plan.importance = recipe.importance.map(Importance::named).unwrap_or_default();
    let mix = recipe.mix.map(|mix| mix.parse::<GgufMix>());
    plan.mix = mix.transpose().map_err(|why| form(why.to_string()))?;
    if let Some(target) = recipe.target {
        plan.target = target.target(checkpoint.format()).map_err(form)?;
    }
    let mut rounded = BTreeMap::new();
    for group in recipe.quantize {
        let scheme: QuantizationScheme = group.scheme.parse().map_err(|e| form(format!("{e}")))?;
        let calibration: Calibration = group.calibration.parse().map_err(form)?;
        let by_inputs = group.by_inputs();
        let is_possible = scheme.preset().is_some_and(Preset::can_be_rounded_by_inputs);
        if by_inputs.is_some() && !is_possible {
            return Err(form(format!(
                "{scheme} has neither error compensation nor a search for clips"
            )));
        }
        for tensor in group.tensors {
            let path = path.to_owned();
            let Some(&id) = by_name.get(tensor.as_str()) else {
                let model = checkpoint.path().to_owned();
                return Err(RecipeError::NoTensor { path, tensor, model });
            };
            if let Some(why) = obstacle(checkpoint, id).filter(|o| !o.can_be_overruled()) {
                return Err(RecipeError::NotQuantizable { path, tensor, why });
            }
            if plan.is_marked(id) {
                return Err(RecipeError::Twice { path, tensor });
            }
            if calibration == Calibration::Learned {
                let fits = match checkpoint.learned(id) {
                    Some(learned) => learned.fits(scheme).map_err(|why| why.to_string()),
                    None => Err("this model has no learned scales of it".to_owned()),
                };
                if let Err(why) = fits {
                    return Err(RecipeError::NotLearned { path, tensor, why });
                }
            }
            plan.mark(id, Quantizer { calibration, scheme });
            rounded.extend(by_inputs.map(|by_inputs| (id, by_inputs)));
        }
    }
    plan.by_inputs = RoundingByInputs::of_tensors(rounded);
    if let Some(inputs) = recipe.inputs.filter(|inputs| inputs.scheme == InputScheme::Static) {
        let mut scales = BTreeMap::new();
        for (tensor, scale) in inputs.scales {
            let path = path.to_owned();
            let narrow = scale as f32;
            if !(narrow.is_normal() && narrow > 0.0) {
                return Err(RecipeError::InputScale { path, tensor, scale });
            }
            let Some(&id) = by_name.get(tensor.as_str()) else {
                let model = checkpoint.path().to_owned();
                return Err(RecipeError::NoTensor { path, tensor, model });
            };
            scales.insert(id, narrow);
        }
        plan.inputs = InputQuantization::Static(scales);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Selection;
    use crate::quantization::Rounding;

    fn tiny_llama() -> Checkpoint {
        Checkpoint::open(Path::new("tests/data/tiny-llama/single")).expect("opens")
    }

    #[test]
    fn a_plan_is_read_back_unchanged() {
        let checkpoint = tiny_llama();
        let ids = Selection::default().resolve(&checkpoint).expect("some");
        let mut plan =
            Plan::uniform(ids.clone(), QuantizationScheme::PER_CHANNEL, Rounding::HalfAway);
        let quantizer = Quantizer {
            calibration: Calibration::MinMax,
            scheme: QuantizationScheme::per_block(64),
        };
        plan.mark(ids[1], quantizer);
        let scales = [(ids[0], 0.1), (ids[1], f32::MIN_POSITIVE), (ids[2], 7.038531e-26)];
        plan.inputs = InputQuantization::Static(scales.into());
        let target = Target::for_loaders(&[Loader::Vllm], checkpoint.format()).expect("a target");
        plan.target = target.with_linear_scheme(LinearScheme::W8A16);
        plan.importance = Importance::named("imatrix.gguf".into());
        plan.mix = "Q4_K_M".parse().ok();
        let preset = QuantizationScheme::Preset(Preset::W4A16(64));
        plan.mark(ids[3], Quantizer { calibration: Calibration::MinMax, scheme: preset });
        let by_inputs = InputRounding { compensates: true, searches_clips: true };
        plan.by_inputs = RoundingByInputs::of_tensors([(ids[3], by_inputs)].into());
        let text = to_toml(&plan, &checkpoint);
        let back = from_toml(Path::new("r.toml"), &text, &checkpoint).expect("reads");
        assert_eq!(back, plan, "{text}");
    }

    #[test]
    fn recipes_that_do_not_fit_the_model_are_refused() {
        let checkpoint = tiny_llama();
        let refusal = |body: &str| {
            let text = format!("version = 1\nrounding = \"half-even\"\n{body}");
            from_toml(Path::new("r.toml"), &text, &checkpoint).expect_err(body).to_string()
        };
        let group = |tensors: &str| {
            refusal(&format!("[[quantize]]\nscheme = \"per-tensor\"\ntensors = [{tensors}]"))
        };
        assert!(group("\"nope\"").contains("does not hold"));
        assert!(group("\"lm_head.weight\", \"lm_head.weight\"").contains("twice"));
        assert!(refusal("colour = 1").contains("unknown field"));
        let target = |body: &str| refusal(&format!("[target]\n{body}"));
        assert!(target("format = \"zip\"").contains("unknown format"));
        assert!(target("for = [\"vllm\"]\nformat = \"burn\"").contains("vLLM opens"));
        let inputs = |scales: &str| refusal(&format!("[inputs]\nscheme = \"static\"\n{scales}"));
        assert!(inputs("scales = {\"nope\" = 1.0}").contains("does not hold"));
        for scale in ["0.0", "-1.0", "nan", "inf", "1e300", "1e-300"] {
            let said = inputs(&format!("scales = {{\"lm_head.weight\" = {scale}}}"));
            assert!(said.contains("expected a positive number"), "{said}");
        }
        assert!(
            refusal("[[quantize]]\nscheme = \"best\"\ntensors = []").contains("unknown scheme")
        );
    }
}
