//! `verify`: compares a saved checkpoint with its source.

use super::activations::ActivationArgs;
use super::error::Error;
use super::job_runner::JobRunner;
use super::options::{OutputArgs, WorkArgs, open};
use super::output::{Output, output};
use super::receipt::Quantized;
use crate::checkpoint::{Checkpoint, ObservedActivations};
use crate::export::{self, Match, Partition, SaveError, fp8_input_scale};
use crate::job::verify::{self, Verification, Verified};
use crate::quantization::ggml::Importance;
use crate::quantization::{AnalysisSpec, Rounding, ScaleStorage, Thresholds, narrowed_scale};
use crate::report::document::ErrorFigures;
use crate::tensor::FloatType;
use crate::text::{figures, names};
use clap::Args;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o int8.safetensors\n  \
    quantscope verify int8.safetensors --against my-model")]
pub struct Verify {
    /// The saved checkpoint
    out: PathBuf,
    /// The checkpoint that it was made from; `demo:` is the built-in demo
    #[arg(long, value_name = "MODEL")]
    against: PathBuf,
    #[command(flatten, next_help_heading = "Activations")]
    activations: ActivationArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    /// Compare only worker I's share of the tensors, of N workers; the first worker also
    /// compares everything beside the tensors. `env` as for `quantize`
    #[arg(long, value_name = "I/N", help_heading = "Execution")]
    partition: Option<Partition>,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

impl Verify {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let (written, source) = (open(&self.out)?, open(&self.against)?);
        let importance = match self.activations.open(&source)? {
            Some(activations) => activations.importance(&source),
            None => Importance::default(),
        };
        let job = || {
            let (written, source) = (written.clone(), source.clone());
            verify::start_partition(
                written,
                source,
                importance,
                self.partition,
                self.work.threads(),
            )
        };
        let verification = JobRunner::start(job, "verifying", self.work.quiet)?.only()??;
        let inputs = self.input_scales(&written, &source, &verification)?;
        let found = VerifyResult::new(&written, &source, &verification, inputs);
        let mut out = output();
        if self.output.json {
            crate::text::json::write(&mut out, &found)?;
            writeln!(out)?;
        } else {
            found.print(&mut out, thresholds)?
        }
        Ok(out.flush()?)
    }
}

/// The stored scales of the layers' inputs.
#[derive(Serialize)]
struct InputScales {
    count: usize,
    /// Whether they were calibrated again and found equal.
    compared: bool,
    /// Whether they equal those of the observers in the source.
    observed: bool,
}

impl Verify {
    fn input_scales(
        &self,
        written: &Checkpoint,
        source: &Arc<Checkpoint>,
        verification: &Verification,
    ) -> Result<InputScales, Error> {
        let stored = export::input_scales(written)?;
        let (count, mut compared) = (stored.len(), false);
        if let Some(activations) = self.activations.open(source)?.filter(|_| count > 0) {
            let pairs = verification.tensors.iter().filter(|t| t.matched != Match::Identical);
            let pairs = pairs.filter_map(|t| Some((t, *stored.get(&t.out)?)));
            let ids = pairs.clone().map(|(tensor, _)| tensor.source).collect();
            // Without quantizers only the inputs are calibrated.
            let spec = AnalysisSpec::scales(Vec::new(), Rounding::default());
            let (args, work) = (&self.activations, &self.work);
            let found = args.measure(source, &activations, ids, &spec, &|_, _| None, work)?;
            let scales = found.input_scales()?;
            for (tensor, scale) in pairs {
                let expected = scales.get(&tensor.source);
                let expected = expected.map(|&found| stored_scale(found, written, source, tensor));
                if expected.map(f32::to_bits) != Some(scale.to_bits()) {
                    let expected = expected.map_or("none".to_owned(), |scale| scale.to_string());
                    let why = format!("the scale of its inputs is {scale}, expected {expected}");
                    let (path, tensor) = (written.path(), &written.tensor(tensor.out).name);
                    let (path, tensor) = (path.to_owned(), tensor.to_string());
                    return Err(SaveError::TensorDiffers { path, tensor, why }.into());
                }
            }
            compared = true;
        }
        let mut changed = verification.tensors.iter().filter(|t| t.matched != Match::Identical);
        let observed = changed.all(|tensor| {
            let Some(&scale) = stored.get(&tensor.out) else { return true };
            let watched = source.observed(tensor.source);
            let found = watched.and_then(ObservedActivations::input_scale);
            found.map(|found| stored_scale(found, written, source, tensor)) == Some(scale)
        });
        Ok(InputScales { count, compared, observed: observed && count > 0 })
    }
}

/// The stored scale of a layer's inputs whose scale as int8 is `scale`.
fn stored_scale(scale: f32, written: &Checkpoint, source: &Checkpoint, tensor: &Verified) -> f32 {
    if let Match::Preset(_) = tensor.matched {
        let float = source.float_type(tensor.source).unwrap_or(FloatType::F32);
        return narrowed_scale(fp8_input_scale(scale), ScaleStorage::ElementType.scale_type(float));
    }
    let int8 = written.packed_format(tensor.out).and_then(|layout| layout.int8());
    narrowed_scale(scale, int8.map_or(FloatType::F32, |int8| int8.scale_type))
}

/// The result, for the table and the JSON document.
#[derive(Serialize)]
struct VerifyResult<'a> {
    out: Cow<'a, str>,
    against: Cow<'a, str>,
    tensors: usize,
    identical: usize,
    dequantized: usize,
    quantized: Vec<Quantized<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_scales: Option<InputScales>,
    #[serde(skip)]
    worst: Option<(f64, &'a str)>,
}

impl<'a> VerifyResult<'a> {
    fn new(
        out: &'a Checkpoint,
        source: &'a Checkpoint,
        verification: &Verification,
        inputs: InputScales,
    ) -> Self {
        let tensors = &verification.tensors;
        let name = |tensor: &Verified| source.tensor(tensor.source).name.as_str();
        let measured = tensors
            .iter()
            .filter_map(|tensor| Some((tensor, tensor.quantizer?, tensor.error?.statistics())));
        let worst = measured.clone().min_by(|(.., a), (.., b)| a.sqnr_db.total_cmp(&b.sqnr_db));
        let quantized = measured.map(|(tensor, quantizer, error)| Quantized {
            name: name(tensor),
            scheme: quantizer.scheme.to_string(),
            error: ErrorFigures::of(&error),
            output_error: None,
        });
        let count = |is: fn(&Match) -> bool| tensors.iter().filter(|t| is(&t.matched)).count();
        VerifyResult {
            out: out.path().to_string_lossy(),
            against: source.path().to_string_lossy(),
            tensors: tensors.len(),
            identical: count(|matched| *matched == Match::Identical),
            dequantized: count(|matched| matches!(matched, Match::Dequantized(_))),
            quantized: quantized.collect(),
            input_scales: Some(inputs).filter(|inputs| inputs.count > 0),
            worst: worst.map(|(tensor, _, error)| (error.sqnr_db, name(tensor))),
        }
    }

    fn print(&self, out: &mut Output, thresholds: &Thresholds) -> io::Result<()> {
        let VerifyResult { tensors, identical, dequantized, .. } = self;
        let (path, against) = (names::visible(&self.out), names::visible(&self.against));
        writeln!(out, "{path} matches {against}, every byte compared")?;
        writeln!(
            out,
            "{}: {} quantized, {dequantized} dequantized, {identical} bit for bit as they were",
            figures::counted(*tensors, "tensor"),
            self.quantized.len()
        )?;
        match &self.input_scales {
            Some(InputScales { count, compared: true, .. }) => {
                writeln!(out, "scales of inputs: {count}, calibrated again with the same result")?;
            }
            Some(InputScales { count, observed: true, .. }) => {
                writeln!(
                    out,
                    "scales of inputs: {count}, those that observers in the source found"
                )?;
            }
            Some(InputScales { count, .. }) => writeln!(
                out,
                "scales of inputs: {count}, all positive and finite; --activations FILE compares them"
            )?,
            None => {}
        }
        if let Some((db, name)) = self.worst {
            let (db, name) = (figures::rated(db, thresholds), names::visible(name));
            writeln!(out, "measured from the file: worst {db}, {name}")?;
        }
        Ok(())
    }
}
