//! What families look at to recognise a tensor: every stored tensor by its name, the
//! config, and a few bytes of data where headers do not tell enough.

use crate::checkpoint::config::Config;
use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::native_format::{ROUNDING_KEY, calibrations};
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::quantization::{Calibration, Rounding};
use crate::tensor::{DType, FloatType, Shape};
use foldhash::HashMap;
use std::path::Path;

/// A stored tensor that may be part of a quantized one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'s> {
    pub id: StoredId,
    pub stored: &'s Stored,
}

/// What a family says of a tensor: nothing, that it is one of its own, or that its parts
/// contradict each other.
pub(super) type Recognised = Result<Option<PackedTensor>, Refusal>;

/// Why a tensor that a family knows cannot be what it claims to be.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The parts contradict each other, in a sentence.
    Lie(String),
    /// Something that had to be read could not be.
    Checkpoint(CheckpointError),
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal::Lie(why)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Refusal {
        Refusal::Lie(why.to_owned())
    }
}

impl From<CheckpointError> for Refusal {
    fn from(error: CheckpointError) -> Refusal {
        Refusal::Checkpoint(error)
    }
}

/// All stored tensors, by name.
pub(super) struct Listing<'s> {
    shards: &'s [Shard],
    stored: &'s [Stored],
    by_name: HashMap<&'s str, StoredId>,
    /// For each shard, what its metadata says of tensors by their names.
    calibrations: Vec<HashMap<String, Calibration>>,
    pub config: Option<Config>,
}

impl<'s> Listing<'s> {
    pub(super) fn new(
        directory: Option<&Path>,
        shards: &'s [Shard],
        stored: &'s [Stored],
    ) -> Result<Listing<'s>> {
        let config = directory.map(Config::read).transpose()?.flatten();
        let names = stored.iter().map(|s| s.name.as_str());
        let by_name = names.zip((0..).map(StoredId)).collect();
        let calibrations = shards.iter().map(|shard| calibrations(&shard.metadata));
        Ok(Listing { shards, stored, by_name, calibrations: calibrations.collect(), config })
    }

    pub(super) fn part(&self, id: StoredId) -> Option<Part<'s>> {
        self.stored.get(id.0 as usize).map(|stored| Part { id, stored })
    }

    pub(super) fn get(&self, name: &str) -> Option<Part<'s>> {
        self.part(*self.by_name.get(name)?)
    }

    /// Those of the module's tensors that are there under these names.
    pub(super) fn members(&self, module: &str, names: &[&str]) -> Vec<StoredId> {
        names.iter().filter_map(|name| Some(self.get(&format!("{module}.{name}"))?.id)).collect()
    }

    /// An error about the tensor whose values `part` holds.
    pub(super) fn error(&self, part: Part, why: String) -> CheckpointError {
        let shard = self.shards.get(part.stored.shard as usize);
        let path = shard.map_or(Path::new(""), |shard| shard.source.path());
        CheckpointError::of_tensor(path, &part.stored.name, Problem::Layout(why))
    }

    /// The `quant_method` of the config.
    pub(super) fn method(&self) -> Option<&str> {
        self.config.as_ref()?.method()
    }

    /// The type tensors had before they were quantized: as the config says, else that of
    /// their scales if it has 16 bits, else F32.
    pub(super) fn original(&self, scales: &DType) -> FloatType {
        let said = self.config.as_ref().and_then(Config::dtype);
        said.or(scales.float().filter(|float| float.size() == 2)).unwrap_or(FloatType::F32)
    }

    /// How the int8 values of a part were rounded, where quantscope wrote them.
    pub(super) fn rounding(&self, part: Part) -> Rounding {
        let shard = self.shards.get(part.stored.shard as usize);
        let name = shard.and_then(|shard| shard.metadata(ROUNDING_KEY));
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// How the tensor `name`, whose int8 values `part` holds, was calibrated, where
    /// quantscope wrote it.
    pub(super) fn calibration(&self, part: Part, name: &str) -> Calibration {
        let said = self.calibrations.get(part.stored.shard as usize);
        said.and_then(|said| said.get(name)).copied().unwrap_or_default()
    }

    /// The bytes of a small part.
    pub(super) fn bytes(&self, part: Part, limit: u64) -> Result<Vec<u8>, Refusal> {
        let length = part.stored.bytes();
        if length > limit {
            let name = part.stored.name.escape_debug();
            return Err(format!("'{name}' has {length} bytes, expected at most {limit}").into());
        }
        self.start(part, length)
    }

    /// The first `length` bytes of a part, or all if it has fewer.
    pub(super) fn start(&self, part: Part, length: u64) -> Result<Vec<u8>, Refusal> {
        let Some(shard) = self.shards.get(part.stored.shard as usize) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; length.min(part.stored.bytes()) as usize];
        let handle = shard.source.open()?;
        shard.source.read_exact(&handle, &mut bytes, part.stored.range.start)?;
        Ok(bytes)
    }
}

impl Part<'_> {
    pub(super) fn dims(&self) -> &[u64] {
        self.stored.shape.dims()
    }

    pub(super) fn dtype(&self) -> &DType {
        &self.stored.dtype
    }

    /// The module the part belongs to, if its name ends with `.` and `suffix`.
    pub(super) fn module(&self, suffix: &str) -> Option<&str> {
        self.stored.name.strip_suffix(suffix)?.strip_suffix('.')
    }

    /// Rows and columns of a matrix.
    pub(super) fn matrix(&self, what: &str) -> Result<(u64, u64), String> {
        match *self.dims() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(format!("its {what} {} expected two dimensions", self.found())),
        }
    }

    /// An error unless the part is of one of these types.
    pub(super) fn typed(&self, what: &str, types: &[DType]) -> Result<(), String> {
        if types.contains(self.dtype()) {
            return Ok(());
        }
        let names: Vec<&str> = types.iter().map(DType::name).collect();
        Err(format!("its {what} {} expected {}", self.found(), names.join(" or ")))
    }

    /// An error unless the part has this shape.
    pub(super) fn shaped(&self, what: &str, dims: &[u64]) -> Result<(), String> {
        if self.dims() == dims {
            return Ok(());
        }
        let expected = Shape::new(dims).map_or("another shape".into(), |s| s.to_string());
        Err(format!("its {what} {} expected {expected}", self.found()))
    }

    fn found(&self) -> String {
        let Stored { name, dtype, shape, .. } = self.stored;
        format!("'{}' are {dtype} {shape},", name.escape_debug())
    }
}

/// A shape, or the sentence that it is too large.
pub(super) fn shape(dims: impl Into<Box<[u64]>>) -> Result<Shape, String> {
    let dims = dims.into();
    Shape::new(dims.clone()).ok_or_else(|| format!("its shape {dims:?} has too many elements"))
}

/// A product, or the sentence that it is too large.
pub(super) fn product(a: u64, b: u64) -> Result<u64, String> {
    a.checked_mul(b).ok_or_else(|| format!("its shape has a dimension of {a} times {b}"))
}

/// A part that must be there.
pub(super) fn required<'s>(
    part: Option<Part<'s>>,
    what: &str,
    name: &str,
) -> Result<Part<'s>, String> {
    part.ok_or_else(|| format!("its {what} '{}' are missing", name.escape_debug()))
}
