//! The options of `quantize`.

use crate::cli::activations::{ACTIVATION_SCHEMES, ActivationArgs, ActivationScheme};
use crate::cli::options::{
    CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SaveArgs, SelectionArgs, WorkArgs, choice,
};
use crate::cli::partition::PartitionArgs;
use crate::cli::target::TargetArgs;
use crate::export::WeightLayout;
use crate::plan::Decibels;
use crate::text::size::SizeLimit;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o for-vllm --for vllm --dry-run\n  \
    quantscope quantize my-model -o small.safetensors --max-bytes 60%\n  \
    quantscope quantize my-model -o mlp.safetensors --include '*.mlp.*' --min-sqnr 35\n  \
    quantscope quantize my-model -o plan.safetensors --write-recipe plan.toml\n  \
    quantscope quantize my-model -o again.safetensors --recipe plan.toml")]
pub struct Quantize {
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten, next_help_heading = "Output")]
    pub(super) save: SaveArgs,
    #[command(flatten, next_help_heading = "Selection")]
    pub(super) selection: SelectionArgs,
    #[command(flatten, next_help_heading = "Target")]
    pub(super) target: TargetArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    pub(super) calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    pub(super) rounding: RoundingArgs,
    /// Choose the schemes with the least error such that all tensors together take at most SIZE:
    /// 60MB, 1.5GiB, 50% of the model, 4.5bpw (bits per weight), or fits:24GB: what a memory of
    /// that size holds beside a tenth of it in reserve for the context and buffers
    /// (fits:24GB-4GB: beside 4 GB). The error is that of the layers' outputs if
    /// --activations are given, otherwise that of the weights
    #[arg(long, value_name = "SIZE", help_heading = "Budget")]
    pub(super) max_bytes: Option<SizeLimit>,
    /// Choose the smallest scheme for each tensor that keeps at least this SQNR, such as 40dB;
    /// a tensor that no scheme keeps so well stays as it is. Tensors that the loader of --for
    /// merges share a scheme
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    pub(super) min_sqnr: Option<Decibels>,
    #[command(flatten, next_help_heading = "Activations")]
    pub(super) activations: ActivationArgs,
    /// With W8A8: how the layers' inputs are quantized. `static` uses the ranges of --activations,
    /// or else those of the model's observers
    #[arg(long, help_heading = "Activations", value_name = "SCHEME", default_value = "dynamic", value_parser = choice(&ACTIVATION_SCHEMES))]
    pub(super) activation_scheme: ActivationScheme,
    /// Round W4A16, W4A16_ASYM and W8A16/127.5 with error compensation (GPTQ): the error that a
    /// column causes in the layer's outputs is compensated by the columns after it. Needs the
    /// layers' inputs in --activations; takes eight bytes for each pair of a layer's columns. The
    /// receipt has the output errors; they do not replace an evaluation of the model
    #[arg(long, help_heading = "Activations", requires = "activations")]
    pub(super) error_compensation: bool,
    /// Choose the clip of each group of W4A16, W4A16_ASYM and W8A16/127.5 by the error of the
    /// layer's outputs, from the whole range down to five eighths of it (AWQ's search). Alone, or
    /// before --error-compensation. Needs and takes what that does
    #[arg(long, help_heading = "Activations", requires = "activations")]
    pub(super) clip_search: bool,
    /// Print the plan, the sizes, the warnings and the predicted errors; write nothing but the
    /// recipe, if --write-recipe asks for it
    #[arg(long, help_heading = "Output")]
    pub(super) dry_run: bool,
    /// Use the plan in a recipe file instead of a selection
    #[arg(long, value_name = "FILE", help_heading = "Selection", conflicts_with_all = ["include", "exclude", "scheme", "schemes", "calibration", "rounding", "max_bytes", "min_sqnr"])]
    pub(super) recipe: Option<PathBuf>,
    /// Also write the plan to a recipe file; `-` is standard output. An existing FILE needs --force
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) write_recipe: Option<PathBuf>,
    /// With --format burn: the orientation of the weights of linear layers
    #[arg(long, value_name = "LAYOUT", help_heading = "Target", value_parser = choice(&WeightLayout::ALL.map(|l| (l.name(), l.summary(), l))))]
    pub(super) layout: Option<WeightLayout>,
    #[command(flatten, next_help_heading = "Output")]
    pub(super) output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    pub(super) partition: PartitionArgs,
    #[command(flatten, next_help_heading = "Execution")]
    pub(super) work: WorkArgs,
}

impl Quantize {
    pub(super) fn has_budget(&self) -> bool {
        self.max_bytes.is_some() || self.min_sqnr.is_some()
    }
}
