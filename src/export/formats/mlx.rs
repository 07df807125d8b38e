//! `mlx`: a model directory that mlx-lm loads. A layer `L` is stored as `L.weight` in U32 words of
//! bytes `q + 128` or nibbles `q + 8`, with one `L.scales` and one `L.biases` per group of columns.
//! An element is `code * scale + bias`, so every bias is −128 or −8 times its scale. int4 has the
//! codes and scales of W4A16. W4A16_ASYM is not held: a zero point times a scale is not exact in
//! the type of the scale.
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
use crate::quantization::{Preset, PresetPart, QuantizationScheme, QuantizationType};
use crate::tensor::{DType, Shape, TensorId};
use serde_json::json;

/// The group sizes of MLX's affine mode, default first.
const GROUP_SIZES: [u32; 3] = [64, 128, 32];

/// Prefix of the files that mlx-lm opens.
const FILE_PREFIX: &str = "model";

/// The parameters of MLX's affine mode.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    bits: u32,
    group: u32,
}

impl Affine {
    /// The parameters that store a scheme; `None` if MLX does not hold it.
    fn of(scheme: QuantizationScheme) -> Option<Affine> {
        let (bits, group) = match scheme {
            QuantizationScheme::PerBlock(_, QuantizationType::QInt8, group) => (8, group),
            QuantizationScheme::Preset(Preset::W4A16(group)) => (4, group),
            _ => return None,
        };
        GROUP_SIZES.contains(&group).then_some(Affine { bits, group })
    }
}

pub(super) struct Mlx;

impl FormatWriter for Mlx {
    fn name(&self) -> &'static str {
        "mlx"
    }

    fn container(&self) -> Container {
        Container::Mlx
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
        let Affine { bits, group } = parameters(checkpoint, plan).map_err(refuse)?;
        check_names(checkpoint, plan).map_err(refuse)?;
        // mlx-lm writes both keys, and reads the first.
        let settings = json!({ "group_size": group, "bits": bits, "mode": "affine" });
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
        let bits = u64::from(Affine::of(quantizer.scheme)?.bits);
        let words = Shape::new([tensor.shape.channels(), tensor.shape.row_len() * bits / 32])?;
        let scale_type = Container::Mlx.scale_storage().scale_type(tensor.dtype.float()?);
        let [values, scales, biases] = match quantizer.scheme.preset() {
            Some(_) => [
                MadeFrom::PresetValues { tensor: id, quantizer },
                MadeFrom::PresetPart { tensor: id, part: PresetPart::Scales },
                MadeFrom::PresetPart { tensor: id, part: PresetPart::Biases },
            ],
            None => [
                MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Offset },
                MadeFrom::Scales { tensor: id },
                MadeFrom::Biases { tensor: id },
            ],
        };
        let of_groups = |last: &str, made_from| {
            let shape = quantizer.scheme.scale_shape(&tensor.shape);
            Entry::new(format!("{module}.{last}"), scale_type.dtype(), shape, made_from)
        };
        Some(vec![
            Entry::new(tensor.name.to_string(), DType::U32, words, values)?,
            of_groups("scales", scales)?,
            of_groups("biases", biases)?,
        ])
    }
}

/// Returns the parameters of all marked tensors; an error if they differ or do not fit.
fn parameters(checkpoint: &Checkpoint, plan: &Plan) -> Result<Affine, String> {
    let [default, ..] = GROUP_SIZES;
    let mut found = None;
    for (id, quantizer) in plan.iter() {
        let tensor = checkpoint.tensor(id);
        let (name, scheme) = (tensor.name.escape_debug(), quantizer.scheme);
        let Some(affine) = Affine::of(scheme) else {
            return Err(format!(
                "MLX has int8 and int4 in groups of 32, 64 or 128, and '{name}' is to be {scheme}; choose --scheme per-block:{default} or W4A16:{default}"
            ));
        };
        let (columns, size) = (tensor.shape.row_len(), affine.group);
        if !columns.is_multiple_of(u64::from(size)) {
            return Err(format!(
                "groups of {size} do not divide the {columns} columns of '{name}'; choose a smaller size, or leave it out"
            ));
        }
        let (first, other) = *found.get_or_insert((affine, scheme));
        if first != affine {
            return Err(format!(
                "mlx has one scheme for all tensors; '{name}' is to be {scheme}, others {other}"
            ));
        }
    }
    Ok(found.map_or(Affine { bits: 8, group: default }, |(affine, _)| affine))
}

fn check_names(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), String> {
    let names = StoredNames::of(checkpoint);
    plan.iter().try_for_each(|(id, _)| {
        let tensor = checkpoint.tensor(id);
        let parts = ["scales", "biases"].map(|last| format!("{}.{last}", tensor.module()));
        names.check_parts(tensor, parts)
    })
}
