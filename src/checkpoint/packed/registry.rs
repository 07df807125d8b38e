//! The table of packed formats.

use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, Part};
use crate::checkpoint::packed::{
    awq, bitsandbytes, comfyui, compressed_tensors, foreign, fp8, gpt_oss, gptq, mlx, modelopt,
    quanto,
};

/// Looks at one stored tensor. `Some` if it holds the values of a tensor of this format:
/// decoded if all evidence agrees, else named with the reason. `None` if it is not its format.
pub(super) type Recognise = fn(&Listing, Part) -> Option<PackedTensor>;

/// Every format, in the order in which they are asked: those that a marker names come before
/// those that names and shapes suggest, and those that are only named come last.
pub(super) const FORMATS: [(&str, Recognise); 16] = [
    ("ComfyUI", comfyui::recognise),
    ("GPTQ", gptq::recognise),
    ("AWQ", awq::recognise),
    ("bitsandbytes, 4 bits", bitsandbytes::four_bits),
    ("bitsandbytes, int8", bitsandbytes::eight_bits),
    ("optimum-quanto", quanto::recognise),
    ("compressed-tensors, packed", compressed_tensors::packed),
    ("compressed-tensors, int8", compressed_tensors::int8),
    ("gpt-oss", gpt_oss::recognise),
    ("MLX", mlx::recognise),
    ("DeepSeek-V4 experts", fp8::deepseek_experts),
    ("names of one format only", foreign::by_signature),
    ("ModelOpt", modelopt::recognise),
    ("FP8", fp8::recognise),
    ("a method that config.json names", foreign::by_method),
    ("scales of an unknown format", foreign::with_scales),
];
