//! burnpack, the file format of Burn's `save_file` and `load_file`: CBOR metadata followed by data,
//! as read and written by the crate `burn-pack` 0.22.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::packed::{
    Int8, Int8Values, METADATA_KEY, PackedTensor, QuantizedMetadata, SCALE_SUFFIX,
};
use crate::checkpoint::{Source, Stored, StoredId};
use crate::quantization::{Calibration, QuantizationScheme, Rounding};
use crate::tensor::{DType, FloatType, Shape};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first four bytes: `0x4255524E` as little-endian.
pub(crate) const MAGIC: [u8; 4] = *b"NRUB";
pub(crate) const VERSION: u16 = 1;

/// Bytes before the metadata: magic number, version, and the metadata's length.
pub(crate) const HEADER_LENGTH: u64 = 10;

/// Alignment of the data section and of every tensor in it, in bytes.
pub(crate) const ALIGNMENT: u64 = 256;

/// Limits of Burn's reader.
pub(crate) const METADATA_LIMIT: u64 = 100 << 20;
pub(crate) const TENSOR_LIMIT: u64 = 10 << 30;
pub(crate) const COUNT_LIMIT: usize = 100_000;
pub(crate) const FILE_LIMIT: u64 = 100 << 30;

/// The metadata key that names the orientation of linear weights, if it differs from the source's.
pub(crate) const LAYOUT_KEY: &str = "quantscope.layout";

/// Maximum nesting depth of the CBOR metadata.
const DEPTH_LIMIT: usize = 32;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Metadata {
    pub tensors: BTreeMap<String, Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Descriptor {
    pub dtype: BurnType,
    pub shape: Vec<u64>,
    /// Start and end in bytes, relative to the data section.
    pub data_offsets: (u64, u64),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param_id: Option<u64>,
}

/// Burn's `DType`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum BurnType {
    F64,
    F32,
    Flex32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool(String),
    QFloat(Scheme),
}

/// Burn's `QuantScheme`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scheme {
    value: String,
    store: Store,
    mode: String,
    tensor: Option<String>,
    block: Option<Block>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Store {
    Native,
    PackedNative(u64),
    PackedU32(u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Block {
    size: BlockSize,
    dtype: String,
}

/// Block lengths along the last `len` dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BlockSize {
    storage: [u8; 5],
    len: u8,
}

impl BurnType {
    /// Returns Burn's type for a safetensors type; `None` if there is none.
    pub(crate) fn new(dtype: &DType) -> Option<BurnType> {
        Some(match dtype {
            DType::F64 => BurnType::F64,
            DType::F32 => BurnType::F32,
            DType::F16 => BurnType::F16,
            DType::BF16 => BurnType::BF16,
            DType::I64 => BurnType::I64,
            DType::I32 => BurnType::I32,
            DType::I16 => BurnType::I16,
            DType::I8 => BurnType::I8,
            DType::U64 => BurnType::U64,
            DType::U32 => BurnType::U32,
            DType::U16 => BurnType::U16,
            DType::U8 => BurnType::U8,
            DType::Bool => BurnType::Bool("Native".into()),
            _ => return None,
        })
    }

    /// Returns Burn's type for int8 with the given scheme; `None` if Burn has no such scheme.
    pub(crate) fn quantized(scheme: QuantizationScheme) -> Option<BurnType> {
        let block = match scheme {
            QuantizationScheme::PerTensor(..) => None,
            QuantizationScheme::PerBlock(_, _, block) => {
                let size = u8::try_from(block).ok().filter(|&size| size > 1)?;
                let size = BlockSize { storage: [size, 1, 1, 1, 1], len: 1 };
                Some(Block { size, dtype: "F32".into() })
            }
            QuantizationScheme::PerChannel(..)
            | QuantizationScheme::Preset(_)
            | QuantizationScheme::Ggml(_) => return None,
        };
        let (value, mode) = ("Q8S".into(), "Symmetric".into());
        Some(BurnType::QFloat(Scheme { value, store: Store::Native, mode, tensor: None, block }))
    }

    fn dtype(&self) -> DType {
        match self {
            BurnType::F64 => DType::F64,
            BurnType::F32 | BurnType::Flex32 => DType::F32,
            BurnType::F16 => DType::F16,
            BurnType::BF16 => DType::BF16,
            BurnType::I64 => DType::I64,
            BurnType::I32 => DType::I32,
            BurnType::I16 => DType::I16,
            BurnType::I8 => DType::I8,
            BurnType::U64 => DType::U64,
            BurnType::U32 => DType::U32,
            BurnType::U16 => DType::U16,
            BurnType::U8 => DType::U8,
            BurnType::Bool(store) if store == "U32" => DType::U32,
            BurnType::Bool(_) => DType::Bool,
            BurnType::QFloat(scheme) => {
                DType::Other(format!("{} {}", scheme.value, scheme.mode.to_lowercase()).into())
            }
        }
    }
}

impl Scheme {
    /// Returns the equivalent scheme: symmetric int8 with F32 scales, in the tensor's row-major
    /// order. `None` for other schemes.
    fn int8(&self) -> Option<QuantizationScheme> {
        let plain = matches!(self.value.as_str(), "Q8S" | "Q8F")
            && matches!(self.store, Store::Native | Store::PackedU32(0))
            && self.mode == "Symmetric";
        match (&self.tensor, &self.block) {
            _ if !plain => None,
            (None, None) => Some(QuantizationScheme::PER_TENSOR),
            (Some(scale), None) if scale == "F32" => Some(QuantizationScheme::PER_TENSOR),
            (None, Some(Block { size: BlockSize { storage: [size, ..], len: 1 }, dtype }))
                if dtype == "F32" && *size > 0 =>
            {
                Some(QuantizationScheme::per_block(u32::from(*size)))
            }
            _ => None,
        }
    }
}

/// A quantized tensor: its values are one stored tensor, its scales the next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantized {
    /// Index of the values in the list of stored tensors; the scales follow.
    pub values: u32,
    pub scheme: QuantizationScheme,
    pub rounding: Rounding,
    pub calibration: Calibration,
    pub original: FloatType,
}

impl Quantized {
    /// Builds the packed tensor whose values are `stored`.
    pub(crate) fn found(
        self,
        values: StoredId,
        stored: &Stored,
    ) -> Option<(StoredId, PackedTensor)> {
        let int8 = Int8 {
            container: Some("burn"),
            values,
            stored_as: Int8Values::Signed,
            scale: StoredId(values.0.checked_add(1)?),
            scale_type: FloatType::F32,
            biases: None,
            scheme: self.scheme,
            rounding: self.rounding,
            calibration: self.calibration,
            original: self.original,
            shape: stored.shape.clone(),
            beside: Vec::new(),
        };
        Some((values, PackedTensor::new(&stored.name, stored.shape.clone(), int8)))
    }
}

/// A header that was checked against the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Header {
    pub metadata: Vec<(String, String)>,
    /// Sorted by their position in the data.
    pub stored: Vec<Stored>,
    pub quantized: Vec<Quantized>,
}

/// Reads and checks the header of a burnpack file.
pub(crate) fn read(source: &Source) -> Result<Header> {
    let path = source.path();
    let bad = |why: String| ReadError::new(path, Problem::Malformed { format: "burnpack", why });
    let mut cursor =
        crate::checkpoint::io::cursor::Cursor::new(source, 0, HEADER_LENGTH + METADATA_LIMIT)?;
    if cursor.array()? != MAGIC {
        return Err(bad("it does not start with Burn's magic number".into()));
    }
    let version = u16::from_le_bytes(cursor.array()?);
    if version != VERSION {
        return Err(bad(format!("its version is {version}, expected {VERSION}")));
    }
    let length = u64::from(cursor.u32()?);
    let cbor = cursor.bytes(length)?;
    let said: Metadata =
        ciborium::de::from_reader_with_recursion_limit(cbor.as_slice(), DEPTH_LIMIT)
            .map_err(|e| bad(format!("its metadata is not CBOR of the expected form: {e}")))?;
    let data = (HEADER_LENGTH + length).next_multiple_of(ALIGNMENT);
    let room = source.size().saturating_sub(data);

    // Written by quantscope if it made the file.
    let native = said.metadata.get(METADATA_KEY);
    let native: Option<QuantizedMetadata> = native.and_then(|text| serde_json::from_str(text).ok());
    let rounding = native.as_ref().and_then(|native| native.rounding.parse().ok());
    let mut tensors: Vec<(String, Descriptor)> = said.tensors.into_iter().collect();
    tensors.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut header = Header { metadata: said.metadata.into_iter().collect(), ..Header::default() };
    let mut at = 0;
    for (name, tensor) in tensors {
        let fail = |problem| Err(ReadError::of_tensor(path, &name, problem));
        let (start, end) = tensor.data_offsets;
        if end < start {
            return fail(Problem::OffsetsReversed { start, end });
        }
        if end > room {
            return fail(Problem::DataCutOff { end, found: room });
        }
        if start < at {
            return fail(Problem::Overlap { end: at, next: start });
        }
        at = end;
        let Some(shape) = Shape::new(tensor.shape.as_slice()) else {
            return fail(Problem::ShapeOverflow { shape: tensor.shape });
        };
        let (dtype, range) = (tensor.dtype.dtype(), data + start..data + end);
        let scheme = match &tensor.dtype {
            BurnType::QFloat(scheme) => scheme.int8(),
            _ => None,
        };
        let needed = match scheme {
            Some(scheme) => {
                let scales = scheme.groups(&shape).count().checked_mul(4);
                scales.and_then(|scales| scales.checked_add(shape.elements()))
            }
            // The size of other quantized types is unknown.
            None if matches!(dtype, DType::Other(_)) => Some(end - start),
            None => dtype.bytes_for(shape.elements()),
        };
        if needed != Some(end - start) {
            let expected = needed.map_or("an impossible number of".into(), |n| n.to_string());
            return fail(Problem::SizeMismatch { expected, found: end - start });
        }
        let Some(scheme) = scheme else {
            header.stored.push(Stored::new(name, dtype, shape, range));
            continue;
        };
        let noted = native.as_ref().and_then(|native| native.tensors.get(&name));
        let original = noted.and_then(|noted| DType::from_name(&noted.dtype).float());
        header.quantized.push(Quantized {
            values: header.stored.len() as u32,
            scheme,
            // Burn up to 0.22, which writes this format, rounds half away from zero.
            rounding: rounding.unwrap_or(Rounding::HalfAway),
            calibration: noted.and_then(|noted| noted.calibration().ok()).unwrap_or_default(),
            original: original.unwrap_or(FloatType::F32),
        });
        let (middle, scales) = (range.start + shape.elements(), scheme.scale_shape(&shape));
        let scale_name = format!("{name}{SCALE_SUFFIX}");
        header.stored.push(Stored::new(name, DType::I8, shape, range.start..middle));
        header.stored.push(Stored::new(scale_name, DType::F32, scales, middle..range.end));
    }
    Ok(header)
}
