//! The command line that does the same save.

use crate::checkpoint::Checkpoint;
use crate::export::{OutputFormat, Request, Task, WeightLayout};
use crate::plan::rules::{Eligibility, TargetRules};
use crate::plan::target::{Container, LinearScheme};
use crate::plan::{Plan, recipe};
use crate::quantization::{Calibration, QuantizationScheme, Rounding};
use crate::text::shell::quoted;
use std::path::PathBuf;

/// The command line for a request; `recorded` are the open recordings of inputs. A plan that
/// options cannot describe is included as a recipe.
pub(crate) fn command_line(
    checkpoint: &Checkpoint,
    rules: &TargetRules,
    request: &Request,
    recorded: &[PathBuf],
) -> String {
    let model = quoted(&checkpoint.path().to_string_lossy());
    let out = quoted(&request.out.to_string_lossy());
    match &request.task {
        Task::Dequantize { to } => {
            let dtype = to.map(|to| format!(" --dtype {}", to.dtype().name().to_lowercase()));
            format!("quantscope dequantize {model} -o {out}{}", dtype.unwrap_or_default())
        }
        Task::Quantize { plan, format } => {
            let layout = match format {
                OutputFormat::Burn(WeightLayout::Burn) => " --layout burn",
                _ => "",
            };
            let recorded = if plan.by_inputs.is_empty() { &[] } else { recorded };
            let recorded = recorded.iter().map(|path| quoted(&path.to_string_lossy()));
            let inputs: String = recorded.map(|path| format!(" --activations {path}")).collect();
            match options(checkpoint, rules, plan) {
                Some(options) => {
                    format!("quantscope quantize {model} -o {out}{options}{inputs}{layout}")
                }
                None => {
                    let recipe = recipe::to_toml(plan, checkpoint);
                    let recipe = recipe.trim_end();
                    format!(
                        "quantscope quantize {model} -o {out}{inputs}{layout} --recipe /dev/stdin <<'END'\n{recipe}\nEND"
                    )
                }
            }
        }
    }
}

/// The options that describe a plan; `None` if it needs a recipe.
fn options(checkpoint: &Checkpoint, rules: &TargetRules, plan: &Plan) -> Option<String> {
    let by_default = |id| rules.eligibility(checkpoint, id) == Eligibility::ByDefault;
    let is_default = checkpoint.ids().all(|id| by_default(id) == plan.is_marked(id));
    let (_, first) = plan.iter().next()?;
    let uniform = plan.iter().all(|(_, quantizer)| quantizer == first);
    let usual = first.calibration == Calibration::MinMax
        && plan.rounding == Rounding::default()
        && !plan.inputs.is_static();
    let container = plan.target.container();
    // No option selects W8A16 with one scale per channel.
    let says_scheme = match container {
        Container::CompressedTensors(LinearScheme::W8A16) => {
            matches!(first.scheme, QuantizationScheme::PerBlock(..))
        }
        _ => true,
    };
    if !(is_default && uniform && usual && says_scheme && rules.target() == &plan.target) {
        return None;
    }
    let loaders: Vec<&str> = plan.target.loaders().iter().map(|loader| loader.name()).collect();
    let target = match (loaders.is_empty(), plan.target.is_default()) {
        (true, true) => String::new(),
        (true, false) => format!(" --format {}", container.name()),
        (false, _) => format!(" --for {}", loaders.join(",")),
    };
    let by_inputs = plan.by_inputs.uniform(checkpoint, plan.iter())?;
    let compensation = if by_inputs.compensates { " --error-compensation" } else { "" };
    let clips = if by_inputs.searches_clips { " --clip-search" } else { "" };
    Some(format!("{target} --scheme {}{compensation}{clips}", first.scheme))
}
