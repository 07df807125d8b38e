//! `mlx`: a model directory that mlx-lm loads. A layer `L` is stored as `L.weight` in U32 words of
//! bytes `q + 128`, with one `L.scales` and one `L.biases` per group of columns. An element is
//! `byte * scale + bias`, so every bias is −128 times its scale.
//!
//! Names are those of the source: mlx-lm renames tensors itself, including `scales` and `biases`.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::Int8Values;
use crate::export::error::SaveError;
use crate::export::formats::model_directory::{StoredNames, add_config, model_obstacle};
use crate::export::formats::provenance::with_provenance;
use crate::export::formats::shards::{self, entries};
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::output_plan::{Entry, MadeFrom, OutputPlan};
use crate::export::request::Request;
use crate::plan::Plan;
use crate::plan::target::Container;
use crate::quantization::{QuantizationScheme, QuantizationType};
use crate::tensor::{DType, Shape, TensorId};
use serde_json::json;

/// The group sizes of MLX's affine mode, default first.
const GROUP_SIZES: [u32; 3] = [64, 128, 32];

/// Prefix of the files that mlx-lm opens.
const FILE_PREFIX: &str = "model";

pub(super) struct Mlx;

impl FormatWriter for Mlx {
    fn name(&self) -> &'static str {
        "mlx"
    }

    fn summary(&self) -> &'static str {
        "a directory for mlx-lm; Linear layers in groups"
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::Directory
    }

    fn default_scheme(&self, checkpoint: &Checkpoint, tensors: &[TensorId]) -> QuantizationScheme {
        let columns = |id: &TensorId| checkpoint.tensor(*id).shape.row_len();
        let divides =
            |size: &&u32| tensors.iter().all(|id| columns(id).is_multiple_of(u64::from(**size)));
        let [default, ..] = GROUP_SIZES;
        let size = GROUP_SIZES.iter().find(divides).copied().unwrap_or(default);
        QuantizationScheme::per_block(size)
    }

    fn checkpoint_obstacle(&self, checkpoint: &Checkpoint) -> Option<String> {
        model_obstacle(checkpoint)
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        let refuse = |why| request.refuse(why);
        let size = group_size(checkpoint, plan).map_err(refuse)?;
        check_names(checkpoint, plan).map_err(refuse)?;
        // mlx-lm writes both keys, and reads the first.
        let settings = json!({ "group_size": size, "bits": 8, "mode": "affine" });
        let settings = ["quantization", "quantization_config"].map(|key| (key, settings.clone()));
        add_config(checkpoint, output_plan, settings)?;
        let shards = entries(checkpoint, |tensor, _| self.entries(checkpoint, plan, tensor?));
        shards::lay_out(
            checkpoint,
            shards,
            &|metadata, entries| with_provenance(checkpoint, plan, metadata, entries),
            output_plan,
        )?;
        match output_plan.files.iter().find(|file| !file.name.starts_with(FILE_PREFIX)) {
            Some(file) => Err(refuse(format!(
                "mlx-lm opens model*.safetensors only, and the weights would be in '{}'; rename the source's files",
                file.name.escape_debug()
            ))),
            None => Ok(()),
        }
    }
}

impl Mlx {
    /// Returns the stored tensors of a marked tensor.
    fn entries(&self, checkpoint: &Checkpoint, plan: &Plan, id: TensorId) -> Option<Vec<Entry>> {
        let quantizer = plan.get(id)?;
        let tensor = checkpoint.tensor(id);
        let module = tensor.module();
        let words = Shape::new([tensor.shape.channels(), tensor.shape.row_len() / 4])?;
        let scale_type = Container::Mlx.scale_storage().scale_type(tensor.dtype.float()?);
        let of_groups = |last: &str, made_from| {
            let shape = quantizer.scheme.scale_shape(&tensor.shape);
            Entry::new(format!("{module}.{last}"), scale_type.dtype(), shape, made_from)
        };
        let values = MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Offset };
        Some(vec![
            Entry::new(tensor.name.to_string(), DType::U32, words, values)?,
            of_groups("scales", MadeFrom::Scales { tensor: id })?,
            of_groups("biases", MadeFrom::Biases { tensor: id })?,
        ])
    }
}

/// Returns the group size of all marked tensors; an error if it differs or does not fit.
fn group_size(checkpoint: &Checkpoint, plan: &Plan) -> Result<u32, String> {
    let [default, ..] = GROUP_SIZES;
    let mut found = None;
    for (id, quantizer) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        let (name, scheme) = (tensor.name.escape_debug(), quantizer.scheme);
        let size = match scheme {
            QuantizationScheme::PerBlock(_, QuantizationType::QInt8, size)
                if GROUP_SIZES.contains(&size) =>
            {
                size
            }
            _ => {
                return Err(format!(
                    "MLX has int8 in groups of 32, 64 or 128, and '{name}' is to be {scheme}; choose --scheme per-block:{default}"
                ));
            }
        };
        let columns = tensor.shape.row_len();
        if !columns.is_multiple_of(u64::from(size)) {
            return Err(format!(
                "groups of {size} do not divide the {columns} columns of '{name}'; choose a smaller size, or leave it out"
            ));
        }
        let other = *found.get_or_insert(size);
        if other != size {
            return Err(format!(
                "mlx has one scheme for all tensors; '{name}' is to be {scheme}, others per-block:{other}"
            ));
        }
    }
    Ok(found.unwrap_or(default))
}

fn check_names(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names = StoredNames::of(checkpoint);
    plan.iter().try_for_each(|(id, _)| {
        let tensor = checkpoint.tensor(id);
        let parts = ["scales", "biases"].map(|last| format!("{}.{last}", tensor.module()));
        names.check_parts(tensor, parts)
    })
}
