//! burnpack out: Q8S tensors, their scales behind their values, and plain ones.

use crate::checkpoint::formats::burnpack::{
    ALIGNMENT, BurnType, COUNT_LIMIT, Descriptor, FILE_LIMIT, HEADER_LENGTH, LAYOUT_KEY, MAGIC,
    METADATA_LIMIT, Metadata, TENSOR_LIMIT, VERSION,
};
use crate::checkpoint::packed::{Int8Values, METADATA_KEY, QuantizedTensorMetadata, SCALE_SUFFIX};
use crate::checkpoint::{Checkpoint, Content, Format};
use crate::export::error::SaveError;
use crate::export::left_out::is_left_out;
use crate::export::output_plan::{Entry, MadeFrom, OutFile};
use crate::export::request::{Request, WeightLayout};
use crate::export::safetensors::described;
use crate::plan::{Plan, obstacle};
use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::{DType, Shape, TensorId};
use std::collections::{BTreeMap, HashSet};

/// Whether Burn's layout has this weight the other way round: it is a matrix that
/// multiplies.
fn is_linear(checkpoint: &Checkpoint, id: TensorId) -> bool {
    let tensor = checkpoint.tensor(id);
    let named = tensor.name == "weight" || tensor.name.ends_with(".weight");
    named && tensor.shape.rank() == 2 && obstacle(checkpoint, id).is_none()
}

/// Whether the output says that it holds a tensor of the source transposed.
pub(super) fn is_transposed(out: &Checkpoint, source: &Checkpoint, id: TensorId) -> bool {
    layout_of(out) == WeightLayout::Burn && is_linear(source, id)
}

/// The layout of weights that an output says it has.
pub(super) fn layout_of(out: &Checkpoint) -> WeightLayout {
    let said = out.shards().iter().flat_map(|shard| &shard.metadata);
    let mut said = said.filter(|_| out.format() == Format::Burnpack);
    match said.any(|(key, value)| key == LAYOUT_KEY && value == WeightLayout::Burn.name()) {
        true => WeightLayout::Burn,
        false => WeightLayout::Source,
    }
}

/// The file.
pub(super) fn quantized(
    checkpoint: &Checkpoint,
    plan: &Plan,
    layout: WeightLayout,
    request: &Request,
) -> Result<OutFile, SaveError> {
    let unfit = |why: String| SaveError::Unfit { path: request.out.clone(), why };
    if checkpoint.tensors().len() > COUNT_LIMIT {
        let found = checkpoint.tensors().len();
        return Err(unfit(format!("Burn reads at most {COUNT_LIMIT} tensors, this has {found}")));
    }
    let mut metadata = Metadata::default();
    let mut noted = BTreeMap::new();
    let mut transposed = HashSet::new();
    let mut entries = Vec::new();
    let mut offsets = Vec::new();
    let mut data = 0u64;
    for id in checkpoint.ids() {
        if checkpoint.plain(id).is_some_and(|stored| is_left_out(checkpoint, stored)) {
            continue;
        }
        let tensor = checkpoint.tensor(id);
        let name = || tensor.name.escape_debug().to_string();
        let Content::Plain(stored) = *checkpoint.content(id) else {
            let why = format!("tensor '{}' is quantized already; dequantize it first", name());
            return Err(unfit(why));
        };
        let turned = layout == WeightLayout::Burn && is_linear(checkpoint, id);
        let mut dims = tensor.shape.dims().to_vec();
        if turned {
            dims.reverse();
            transposed.insert(id);
        }
        let shape = Shape::new(dims.as_slice()).unwrap_or_else(|| tensor.shape.clone());
        offsets.push(data);
        let (dtype, bytes) = match plan.get(id) {
            Some(quantizer) => {
                let scheme = quantizer.scheme;
                let learned = checkpoint.learned(id).filter(|learned| learned.scales.len() > 1);
                if turned && quantizer.calibration == Calibration::Learned && learned.is_some() {
                    return Err(unfit(format!(
                        "tensor '{}': its blocks lie across the output channels whose scales were learned; keep the layout of the source, or calibrate it by min-max",
                        name()
                    )));
                }
                let dtype = scheme_in_burn(quantizer, &shape)
                    .map_err(|why| unfit(format!("tensor '{}': {why}", name())))?;
                let scale_shape = scheme.scale_shape(&shape);
                let (values, scales) = (shape.elements(), scale_shape.elements() * 4);
                offsets.push(data + values);
                entries.push(Entry {
                    name: tensor.name.to_string(),
                    dtype: DType::I8,
                    shape: shape.clone(),
                    bytes: values,
                    made_from: MadeFrom::Values {
                        tensor: id,
                        quantizer,
                        stored_as: Int8Values::Signed,
                    },
                });
                entries.push(Entry {
                    name: format!("{}{SCALE_SUFFIX}", tensor.name),
                    dtype: DType::F32,
                    shape: scale_shape,
                    bytes: scales,
                    made_from: MadeFrom::Scales { tensor: id },
                });
                let note = QuantizedTensorMetadata::new(quantizer, &tensor.dtype);
                noted.insert(tensor.name.to_string(), note);
                (dtype, values + scales)
            }
            None => {
                let dtype = BurnType::new(&tensor.dtype).ok_or_else(|| {
                    let dtype = tensor.dtype.name().escape_debug();
                    unfit(format!("tensor '{}' is of {dtype}, and Burn has no such type", name()))
                })?;
                entries.push(Entry {
                    name: tensor.name.to_string(),
                    dtype: tensor.dtype.clone(),
                    shape: shape.clone(),
                    bytes: tensor.bytes,
                    made_from: match turned {
                        true => MadeFrom::Transposed(stored),
                        false => MadeFrom::Stored(stored),
                    },
                });
                (dtype, tensor.bytes)
            }
        };
        if bytes > TENSOR_LIMIT {
            let why = format!(
                "tensor '{}' would have {bytes} bytes, and Burn reads at most {TENSOR_LIMIT}",
                name()
            );
            return Err(unfit(why));
        }
        let data_offsets = (data, data + bytes);
        let descriptor =
            Descriptor { dtype, shape: shape.dims().to_vec(), data_offsets, param_id: None };
        if metadata.tensors.insert(tensor.name.to_string(), descriptor).is_some() {
            return Err(unfit(format!("two tensors are named '{}'", name())));
        }
        data = (data + bytes).next_multiple_of(ALIGNMENT);
    }
    metadata.metadata.insert(METADATA_KEY.to_owned(), described(plan.rounding, noted));
    if layout == WeightLayout::Burn {
        metadata.metadata.insert(LAYOUT_KEY.to_owned(), layout.name().to_owned());
    }

    let mut cbor = Vec::new();
    ciborium::into_writer(&metadata, &mut cbor).map_err(|e| unfit(e.to_string()))?;
    if cbor.len() as u64 > METADATA_LIMIT {
        return Err(unfit(format!(
            "its metadata would exceed Burn's limit of {METADATA_LIMIT} bytes"
        )));
    }
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((cbor.len() as u32).to_le_bytes());
    head.extend(cbor);
    let start = (head.len() as u64).next_multiple_of(ALIGNMENT);
    debug_assert!(start >= HEADER_LENGTH);
    offsets.iter_mut().for_each(|offset| *offset += start);
    let size = match (offsets.last(), entries.last()) {
        (Some(offset), Some(entry)) => offset + entry.bytes,
        _ => start,
    };
    if size > FILE_LIMIT {
        return Err(unfit(format!(
            "it would have {size} bytes, and Burn reads at most {FILE_LIMIT}"
        )));
    }
    let mut file = OutFile::placed(String::new(), head, entries, offsets, size);
    file.transposed = transposed;
    Ok(file)
}

/// The type Burn gives a tensor of a scheme.
fn scheme_in_burn(quantizer: Quantizer, shape: &Shape) -> Result<BurnType, String> {
    let scheme = quantizer.scheme;
    if let QuantizationScheme::PerBlock(_, _, block) = scheme
        && !shape.row_len().is_multiple_of(u64::from(block))
    {
        return Err(format!(
            "Burn's blocks must divide rows, and {block} does not divide {}",
            shape.row_len()
        ));
    }
    BurnType::quantized(scheme)
        .ok_or_else(|| format!("Burn has per-tensor scales and blocks of 2 to 255, not {scheme}"))
}
