//! Dequantized checkpoints: safetensors with floats under the original names.

use crate::checkpoint::packed::{describes_quantization, is_torchao_metadata};
use crate::checkpoint::{Checkpoint, Format, qat};
use crate::export::error::SaveError;
use crate::export::formats::shards::{self, entries};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::export::sidecar_files;
use crate::tensor::FloatType;

/// Lays out quantized tensors as floats of type `to`, or of their original types. Everything else
/// is copied.
pub(super) fn lay_out(
    checkpoint: &Checkpoint,
    to: Option<FloatType>,
    request: &Request,
    output_plan: &mut OutputPlan,
) -> Result<(), SaveError> {
    check_source(checkpoint, request)?;
    if output_plan.directory {
        output_plan
            .texts
            .extend(sidecar_files::plain_config(checkpoint, common_type(checkpoint, to))?);
    }
    let shards = entries(checkpoint, |tensor, is_part| {
        let Some(id) = tensor else { return is_part.then(Vec::new) };
        if checkpoint.has_observers() && qat::is_observer(&checkpoint.tensor(id).name) {
            // Observers belong to quantization-aware training, not to the float model.
            return Some(Vec::new());
        }
        let packed = checkpoint.packed_format(id)?;
        let to = to.unwrap_or(packed.original());
        let tensor = checkpoint.tensor(id);
        Some(vec![Entry {
            name: tensor.name.to_string(),
            dtype: to.dtype(),
            shape: tensor.shape.clone(),
            bytes: tensor.parameters() * to.size() as u64,
            made_from: MadeFrom::Floats { tensor: id, to },
        }])
    });
    shards::lay_out(
        checkpoint,
        shards,
        &|mut metadata, _| {
            metadata.retain(|(key, value)| {
                !describes_quantization(key) && !is_torchao_metadata(key, value)
            });
            metadata
        },
        output_plan,
    )
}

/// Returns the type of all dequantized tensors if it is the same for all.
fn common_type(checkpoint: &Checkpoint, to: Option<FloatType>) -> Option<FloatType> {
    let packed = checkpoint.ids().filter_map(|id| checkpoint.packed_format(id));
    let mut types = packed.map(|packed| to.unwrap_or(packed.original()));
    let first = types.next()?;
    types.all(|other| other == first).then_some(first)
}

/// Checks that something is quantized and all of it can be decoded.
fn check_source(checkpoint: &Checkpoint, request: &Request) -> Result<(), SaveError> {
    let unfit = |why: String| Err(SaveError::Unfit { path: checkpoint.path().to_owned(), why });
    let is_converted = checkpoint.format() != Format::Safetensors;
    let has_packed = checkpoint.ids().any(|id| checkpoint.packed_format(id).is_some());
    if !is_converted && !has_packed && !checkpoint.has_observers() {
        return unfit("no tensor in it is quantized; there is nothing to dequantize".to_owned());
    }
    for id in checkpoint.ids() {
        let name = || checkpoint.tensor(id).name.escape_debug();
        let undecoded = checkpoint.packed_format(id).filter(|packed| packed.decoded().is_none());
        if let Some(packed) = undecoded {
            let format = packed.name();
            return unfit(format!(
                "tensor '{}' cannot be dequantized: it is stored as {format}",
                name()
            ));
        }
        if checkpoint.tensor(id).parameters().checked_mul(8).is_none() {
            let why = format!("tensor '{}' has too many elements", name());
            return Err(SaveError::Unfit { path: request.out.clone(), why });
        }
    }
    Ok(())
}
