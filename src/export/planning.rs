//! Plans an output: checks every precondition, then lets the format lay out its files.

use crate::checkpoint::{Checkpoint, has_extension};
use crate::export::error::SaveError;
use crate::export::formats::registry;
use crate::export::output_plan::OutputPlan;
use crate::export::request::{OutputFormat, Request, Task, is_single_file};
use crate::export::sidecar_file::LeftOutFiles;
use crate::export::sidecar_files;
use crate::plan::Plan;
use crate::plan::rules::TargetRules;
use crate::quantization::ggml::Importance;
use crate::quantization::{NotQuantizable, Rounding};
use std::path::Path;

impl OutputPlan {
    /// Plans the output of a request without reading tensors.
    ///
    /// # Errors
    ///
    /// The request cannot be carried out: the format does not fit the checkpoint, a marked tensor
    /// or the path, or nothing would be done.
    pub fn new(checkpoint: &Checkpoint, request: &Request) -> Result<OutputPlan, SaveError> {
        let directory = !is_single_file(&request.out);
        let mut output_plan = OutputPlan {
            rounding: Rounding::default(),
            directory,
            files: Vec::new(),
            texts: Vec::new(),
            sidecar_files: Vec::new(),
            left_out: LeftOutFiles::default(),
            scaled_together: Vec::new(),
            importance: Importance::default(),
            warnings: Vec::new(),
        };
        match &request.task {
            Task::Quantize { plan, format } => {
                output_plan.rounding = plan.rounding;
                output_plan.importance = plan.importance.clone();
                check_plan(checkpoint, plan, *format, request)?;
                check_format(checkpoint, *format, request)?;
                if let Some(file) = plan.importance.missing().filter(|_| request.writes_gguf()) {
                    let why = format!(
                        "the plan needs the importance matrix '{}': open it as recorded activations",
                        file.escape_debug()
                    );
                    return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
                }
                check_compensation(checkpoint, plan, *format)?;
                output_plan.warnings.extend(review_target(checkpoint, plan, *format)?);
            }
            Task::Dequantize { .. } => {
                check_format(checkpoint, OutputFormat::Safetensors, request)?;
            }
        }
        registry::lay_out(checkpoint, request, &mut output_plan)?;
        if directory {
            sidecar_files::collect(checkpoint, request, &mut output_plan)?;
        } else if !request.copy.is_empty() {
            let why = "is one file, and --copy is for a directory; choose a path without an ending";
            return Err(SaveError::Unfit { path: request.out.clone(), why: why.to_owned() });
        }
        Ok(output_plan)
    }
}

/// Fails if tensors are to be rounded for recorded inputs in a format that has no preset for it.
fn check_compensation(
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: OutputFormat,
) -> Result<(), SaveError> {
    if !plan.by_inputs.is_empty() && format != OutputFormat::Presets {
        let why = "errors are compensated and clips searched in W4A16, W4A16_ASYM and W8A16/127.5 of compressed-tensors only";
        return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why: why.to_owned() });
    }
    Ok(())
}

/// Fails if the format cannot be made from the checkpoint, or if OUT does not have the
/// extension that the format requires.
fn check_format(
    checkpoint: &Checkpoint,
    format: OutputFormat,
    request: &Request,
) -> Result<(), SaveError> {
    let unfit = |path: &Path, why: String| SaveError::Unfit { path: path.to_owned(), why };
    if format.is_directory() {
        // An unreadable config is an error of that file, not of the format.
        checkpoint.model_config()?;
    }
    if let Some(why) = format.unfit(checkpoint) {
        return Err(unfit(checkpoint.path(), why));
    }
    let (out, name) = (&request.out, format.name());
    match format.ending() {
        Some(ending) if has_extension(out, ending) => Ok(()),
        Some(ending) if format.is_file() || is_single_file(out) => {
            Err(unfit(out, format!("the format {name} needs a path that ends in .{ending}")))
        }
        None if is_single_file(out) => Err(unfit(
            out,
            format!("{name} is a model's directory, not one file; choose a path without an ending"),
        )),
        _ => Ok(()),
    }
}

/// Returns warnings about loaders that cannot load the output.
///
/// # Errors
///
/// The format does not fit the plan's target, or the target would not load the output.
fn review_target(
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: OutputFormat,
) -> Result<Vec<String>, SaveError> {
    let unfit = |why: String| SaveError::Unfit { path: checkpoint.path().to_owned(), why };
    let target = plan.target.clone().with_format(format.container());
    let target = target.map_err(|why| unfit(why.to_string()))?;
    let review = TargetRules::new(checkpoint, &target)?.review(checkpoint, plan);
    if review.refusals.is_empty() {
        Ok(review.warnings)
    } else {
        Err(unfit(format!("not saved for {target}: {}", review.refusals.join("; "))))
    }
}

/// Checks that something is marked and everything marked can be quantized.
fn check_plan(
    checkpoint: &Checkpoint,
    plan: &Plan,
    format: OutputFormat,
    request: &Request,
) -> Result<(), SaveError> {
    if plan.is_empty() {
        let why = "no tensor is marked; there is nothing to quantize".to_owned();
        return Err(SaveError::Unfit { path: request.out.clone(), why });
    }
    for (id, quantizer) in plan.iter() {
        let is_held = match quantizer.scheme.preset() {
            Some(_) => format.container().can_store(quantizer.scheme),
            None => {
                let is_ggml = quantizer.scheme.ggml().is_some() && request.writes_gguf();
                is_ggml || quantizer.scheme.is_scaled_int8()
            }
        };
        if !is_held {
            return Err(SaveError::NotQuantizable {
                path: checkpoint.path().to_owned(),
                tensor: checkpoint.tensor(id).name.to_string(),
                why: NotQuantizable::OnlyMeasured(quantizer.scheme),
            });
        }
        let obstacle = crate::plan::obstacle(checkpoint, id).filter(|o| !o.can_be_overruled());
        if let Some(obstacle) = obstacle {
            let name = checkpoint.tensor(id).name.escape_debug().to_string();
            let why = format!("tensor '{name}' cannot be quantized: {obstacle}");
            return Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
        }
    }
    Ok(())
}
