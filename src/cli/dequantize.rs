//! `dequantize`: writes a quantized checkpoint as floats.

use super::error::Error;
use super::options::{Choice, ModelArgs, OutputArgs, SaveArgs, WorkArgs, choice};
use super::partition::{PartitionArgs, WrittenShare};
use super::receipt;
use super::save::save;
use crate::export::{KnownScales, Task};
use crate::quantization::Thresholds;
use crate::tensor::FloatType;
use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o int8.safetensors\n  \
    quantscope dequantize int8.safetensors -o float.safetensors --dtype bf16")]
pub struct Dequantize {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten, next_help_heading = "Output")]
    save: SaveArgs,
    /// Float type of the output
    #[arg(long, value_name = "DTYPE", default_value = "original", value_parser = choice(&DTYPES))]
    dtype: Target,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    partition: PartitionArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

/// The float type of the output; `None`: the type each tensor had before it was quantized.
#[derive(Clone, Copy, Debug)]
struct Target(Option<FloatType>);

const DTYPES: [Choice<Target>; 4] = [
    ("original", "the type each tensor had before it was quantized", Target(None)),
    ("f32", "32-bit floats", Target(Some(FloatType::F32))),
    ("bf16", "16-bit brain floats", Target(Some(FloatType::BF16))),
    ("f16", "16-bit half floats", Target(Some(FloatType::F16))),
];

impl Dequantize {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let checkpoint = self.model.open_to_save(&self.save)?;
        let request = self.save.request(Task::Dequantize { to: self.dtype.0 });
        if let Some(partition) = self.partition.partition {
            let keeps = self.save.training_state;
            return WrittenShare::write(&checkpoint, request, partition, keeps, &[], &self.work)?
                .print(self.output.json, thresholds);
        }
        let receipt = save(&checkpoint, request, KnownScales::new(), self.save.verify, &self.work)?;
        receipt::print(&receipt, None, None, self.output.json, thresholds)
    }
}
