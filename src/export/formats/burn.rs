//! `burn`: burnpack with Q8S tensors, the scales of each tensor after its values.

use crate::checkpoint::formats::burnpack::{
    ALIGNMENT, BurnType, COUNT_LIMIT, Descriptor, FILE_LIMIT, HEADER_LENGTH, LAYOUT_KEY, MAGIC,
    METADATA_LIMIT, Metadata, TENSOR_LIMIT, VERSION,
};
use crate::checkpoint::packed::{Int8Values, METADATA_KEY, QuantizedTensorMetadata, SCALE_SUFFIX};
use crate::checkpoint::{Checkpoint, Content, StoredId};
use crate::export::error::SaveError;
use crate::export::formats::shards::description;
use crate::export::formats::writer::{FormatWriter, OutputKind};
use crate::export::left_out::{self, is_left_out};
use crate::export::output_plan::{Entry, MadeFrom, OutFile, OutputPlan};
use crate::export::request::{Request, WeightLayout};
use crate::export::weight_layout::is_linear;
use crate::plan::Plan;
use crate::plan::target::Container;
use crate::quantization::{Calibration, QuantizationScheme, Quantizer};
use crate::tensor::{DType, Shape, TensorId};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

pub(super) struct Burn {
    pub layout: WeightLayout,
}

impl FormatWriter for Burn {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn container(&self) -> Container {
        Container::Burn
    }

    fn output_kind(&self) -> OutputKind {
        OutputKind::File("bpk")
    }

    fn default_scheme(&self, _: &Checkpoint, _: &[TensorId]) -> QuantizationScheme {
        QuantizationScheme::PER_TENSOR
    }

    fn lay_out(
        &self,
        checkpoint: &Checkpoint,
        plan: &Plan,
        request: &Request,
        output_plan: &mut OutputPlan,
    ) -> Result<(), SaveError> {
        let file = self.file(checkpoint, plan);
        output_plan.files.push(file.map_err(|why| request.refuse(why))?);
        output_plan.warnings.extend(left_out::warnings(checkpoint));
        Ok(())
    }

    /// Accepts every file, because no other library reads the format.
    fn check_container(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }
}

/// The entries of a file under construction, and its metadata.
#[derive(Default)]
struct Contents {
    metadata: Metadata,
    descriptions: BTreeMap<String, QuantizedTensorMetadata>,
    transposed: HashSet<TensorId>,
    entries: Vec<Entry>,
    /// Offsets of the entries, relative to the data.
    offsets: Vec<u64>,
    /// Length of the data, up to the next tensor.
    data: u64,
}

impl Burn {
    /// Lays out the only file; an error if Burn could not read it.
    fn file(&self, checkpoint: &Checkpoint, plan: &Plan) -> Result<OutFile, String> {
        if checkpoint.tensors().len() > COUNT_LIMIT {
            let found = checkpoint.tensors().len();
            return Err(format!("Burn reads at most {COUNT_LIMIT} tensors, this has {found}"));
        }
        let mut contents = Contents::default();
        for id in checkpoint.ids() {
            if checkpoint.plain(id).is_some_and(|stored| is_left_out(checkpoint, stored)) {
                continue;
            }
            self.add(&mut contents, checkpoint, plan, id)?;
        }
        let Contents { mut metadata, descriptions, transposed, entries, mut offsets, .. } =
            contents;
        let text = description(plan.rounding, descriptions);
        metadata.metadata.insert(METADATA_KEY.to_owned(), text);
        if self.layout == WeightLayout::Burn {
            metadata.metadata.insert(LAYOUT_KEY.to_owned(), self.layout.name().to_owned());
        }
        let head = header(&metadata)?;
        let start = (head.len() as u64).next_multiple_of(ALIGNMENT);
        debug_assert!(start >= HEADER_LENGTH);
        offsets.iter_mut().for_each(|offset| *offset += start);
        let size = match (offsets.last(), entries.last()) {
            (Some(offset), Some(entry)) => offset + entry.bytes,
            _ => start,
        };
        if size > FILE_LIMIT {
            return Err(format!("it would have {size} bytes, and Burn reads at most {FILE_LIMIT}"));
        }
        let mut file = OutFile::placed(String::new(), head, entries, offsets, size);
        file.transposed = transposed;
        Ok(file)
    }

    /// Adds a tensor, quantized if it is marked.
    fn add(
        &self,
        contents: &mut Contents,
        checkpoint: &Checkpoint,
        plan: &Plan,
        id: TensorId,
    ) -> Result<(), String> {
        let tensor = checkpoint.tensor(id);
        let name = tensor.name.escape_debug();
        let Content::Plain(stored) = *checkpoint.content(id) else {
            return Err(format!("tensor '{name}' is quantized already; dequantize it first"));
        };
        let transposed = self.layout == WeightLayout::Burn && is_linear(checkpoint, id);
        let mut dims = tensor.shape.dims().to_vec();
        if transposed {
            dims.reverse();
            contents.transposed.insert(id);
        }
        let shape = Shape::new(dims.as_slice()).unwrap_or_else(|| tensor.shape.clone());
        let start = contents.data;
        let dtype = match plan.get(id) {
            Some(quantizer) => {
                contents.add_quantized(checkpoint, id, quantizer, &shape, transposed)
            }
            None => contents.add_plain(checkpoint, id, stored, &shape, transposed),
        };
        let dtype = dtype.map_err(|why| format!("tensor '{name}'{why}"))?;
        let bytes = contents.data - start;
        if bytes > TENSOR_LIMIT {
            return Err(format!(
                "tensor '{name}' would have {bytes} bytes, and Burn reads at most {TENSOR_LIMIT}"
            ));
        }
        let data_offsets = (start, contents.data);
        let descriptor =
            Descriptor { dtype, shape: shape.dims().to_vec(), data_offsets, param_id: None };
        if contents.metadata.tensors.insert(tensor.name.to_string(), descriptor).is_some() {
            return Err(format!("two tensors are named '{name}'"));
        }
        contents.data = contents.data.next_multiple_of(ALIGNMENT);
        Ok(())
    }
}

impl Contents {
    fn push(&mut self, entry: Entry) {
        self.offsets.push(self.data);
        self.data += entry.bytes;
        self.entries.push(entry);
    }

    fn add_quantized(
        &mut self,
        checkpoint: &Checkpoint,
        id: TensorId,
        quantizer: Quantizer,
        shape: &Shape,
        transposed: bool,
    ) -> Result<BurnType, String> {
        let tensor = checkpoint.tensor(id);
        let learned = checkpoint.learned(id).filter(|learned| learned.scales.len() > 1);
        if transposed && quantizer.calibration == Calibration::Learned && learned.is_some() {
            return Err(": its blocks would span output channels, which have learned scales; keep the layout of the source, or calibrate it by min-max".into());
        }
        let dtype = scheme_in_burn(quantizer, shape).map_err(|why| format!(": {why}"))?;
        let scale_shape = quantizer.scheme.scale_shape(shape);
        self.push(Entry {
            name: tensor.name.to_string(),
            dtype: DType::I8,
            shape: shape.clone(),
            bytes: shape.elements(),
            made_from: MadeFrom::Values { tensor: id, quantizer, stored_as: Int8Values::Signed },
        });
        self.push(Entry {
            name: format!("{}{SCALE_SUFFIX}", tensor.name),
            dtype: DType::F32,
            bytes: scale_shape.elements() * 4,
            shape: scale_shape,
            made_from: MadeFrom::Scales { tensor: id },
        });
        let description = QuantizedTensorMetadata::new(quantizer, &tensor.dtype);
        self.descriptions.insert(tensor.name.to_string(), description);
        Ok(dtype)
    }

    fn add_plain(
        &mut self,
        checkpoint: &Checkpoint,
        id: TensorId,
        stored: StoredId,
        shape: &Shape,
        transposed: bool,
    ) -> Result<BurnType, String> {
        let tensor = checkpoint.tensor(id);
        let dtype = BurnType::new(&tensor.dtype).ok_or_else(|| {
            let dtype = tensor.dtype.name().escape_debug();
            format!(" has the type {dtype}, which Burn does not have")
        })?;
        self.push(Entry {
            name: tensor.name.to_string(),
            dtype: tensor.dtype.clone(),
            shape: shape.clone(),
            bytes: tensor.bytes,
            made_from: if transposed {
                MadeFrom::Transposed(stored)
            } else {
                MadeFrom::Stored(stored)
            },
        });
        Ok(dtype)
    }
}

/// Returns the bytes before the data: magic number, version, length of the metadata, metadata.
fn header(metadata: &Metadata) -> Result<Vec<u8>, String> {
    let mut cbor = Vec::new();
    ciborium::into_writer(metadata, &mut cbor).map_err(|e| e.to_string())?;
    if cbor.len() as u64 > METADATA_LIMIT {
        return Err(format!("its metadata would exceed Burn's limit of {METADATA_LIMIT} bytes"));
    }
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend((cbor.len() as u32).to_le_bytes());
    head.extend(cbor);
    Ok(head)
}

/// Returns Burn's type for a quantized tensor of this shape; an error if Burn has none.
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
