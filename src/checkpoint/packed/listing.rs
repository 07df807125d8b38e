//! The evidence that recognizers use: stored tensors by name, the configuration, ComfyUI's markers,
//! and a few bytes of data where headers are not sufficient.

use crate::checkpoint::config::Config;
use crate::checkpoint::packed::comfyui_markers::Markers;
use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing_bytes::read_start;
use crate::checkpoint::packed::native_format::{ROUNDING_KEY, calibrations, original_types};
use crate::checkpoint::packed::undecoded::undecoded;
use crate::checkpoint::stored::{Shard, Stored, StoredId};
use crate::quantization::{Calibration, Rounding};
use crate::tensor::{DType, FloatType, Shape};
use foldhash::HashMap;
use std::path::Path;
use std::sync::OnceLock;

/// The last name component of a tensor that holds a module's whole weight.
const WEIGHT_NAMES: [&str; 13] = [
    "weight",
    "qweight",
    "weight_packed",
    "W_q",
    "codes",
    "indices",
    "trellis",
    "Qidxs",
    "B",
    "q_weight",
    "_weight_qdata",
    "dense_weights",
    "_data",
];

/// Submodules of a quantized linear layer that belong to its weight.
const NESTED_MODULES: [&str; 9] = [
    "weight",
    "centroids",
    "res_centroids",
    "outlier_centroids",
    "indices",
    "outlier_indices",
    "codebook",
    "codebooks",
    "meta",
];

/// A stored tensor that may be part of a packed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartTensor<'s> {
    pub id: StoredId,
    pub stored: &'s Stored,
}

/// All stored tensors of a checkpoint, with the metadata that describes them.
pub(super) struct Listing<'s> {
    shards: &'s [Shard],
    stored: &'s [Stored],
    by_name: HashMap<&'s str, StoredId>,
    sorted: OnceLock<Vec<StoredId>>,
    /// Per shard: the calibration of tensors recorded in quantscope's metadata.
    calibrations: Vec<HashMap<String, Calibration>>,
    /// Per shard: the types of tensors before quantization recorded in quantscope's metadata.
    original_types: Vec<HashMap<String, FloatType>>,
    pub config: Option<Config>,
    /// The error of reading the configuration, if any.
    pub config_error: Option<String>,
    pub markers: Markers,
    /// The 8-bit float types for which some tensor has scales.
    pub scaled_types: OnceLock<Vec<DType>>,
}

impl<'s> Listing<'s> {
    pub(super) fn new(
        directory: Option<&Path>,
        shards: &'s [Shard],
        stored: &'s [Stored],
    ) -> Listing<'s> {
        let read = |directory: &Path| match Config::read(directory)? {
            Some(config) => Ok(Some(config)),
            None => Config::of_quantizer(directory),
        };
        let (config, config_error) = match directory.map(read).transpose() {
            Ok(config) => (config.flatten(), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let names = stored.iter().map(|s| s.name.as_str());
        let by_name = names.zip((0..).map(StoredId)).collect();
        let calibrations = shards.iter().map(|shard| calibrations(&shard.metadata)).collect();
        let original_types = shards.iter().map(|shard| original_types(&shard.metadata)).collect();
        Listing {
            shards,
            stored,
            by_name,
            sorted: OnceLock::new(),
            calibrations,
            original_types,
            config,
            config_error,
            markers: Markers::read(shards, stored),
            scaled_types: OnceLock::new(),
        }
    }

    pub(super) fn part(&self, id: StoredId) -> Option<PartTensor<'s>> {
        self.stored.get(id.index()).map(|stored| PartTensor { id, stored })
    }

    pub(super) fn get(&self, name: &str) -> Option<PartTensor<'s>> {
        self.part(*self.by_name.get(name)?)
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = PartTensor<'s>> {
        (0..).map(StoredId).zip(self.stored).map(|(id, stored)| PartTensor { id, stored })
    }

    /// Returns the ids of those `names` that exist.
    pub(super) fn present(&self, names: &[String]) -> Vec<StoredId> {
        names.iter().filter_map(|name| Some(self.get(name)?.id)).collect()
    }

    /// Returns a metadata value of the shard that holds a part.
    pub(super) fn metadata(&self, part: PartTensor, key: &str) -> Option<&'s str> {
        self.shards.get(part.stored.shard as usize)?.metadata(key)
    }

    /// Returns all stored tensors whose names start with `prefix`, sorted by name.
    pub(super) fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = PartTensor<'s>> {
        let name = |id: &StoredId| self.stored.get(id.index()).map_or("", |s| s.name.as_str());
        let sorted = self.sorted.get_or_init(|| {
            let mut all: Vec<StoredId> = self.by_name.values().copied().collect();
            all.sort_unstable_by_key(|id| name(id));
            all
        });
        let first = sorted.partition_point(|id| name(id) < prefix);
        let here = sorted.get(first..).unwrap_or_default().iter();
        let here = here.map_while(|&id| self.part(id));
        let prefix = prefix.to_owned();
        here.take_while(move |part| part.stored.name.starts_with(&prefix))
    }

    /// Returns the other stored tensors of the quantized weight `values`: the tensors of its module
    /// except biases and adapters or, for a weight that is not a module of its own, those whose
    /// names extend its name.
    pub(super) fn other_parts(&self, values: PartTensor) -> Vec<StoredId> {
        let name = values.stored.name.as_str();
        let (module, last) = name.rsplit_once('.').unwrap_or(("", name));
        if module.is_empty() || !WEIGHT_NAMES.contains(&last) {
            let stem = name.trim_end_matches("_packed").trim_end_matches("_blocks");
            let stems = [format!("{stem}_"), format!("{stem}.")];
            let belongs = |part: &PartTensor| {
                let name = part.stored.name.as_str();
                let other_weight = is_coded(part.stored) && !name.contains("_scale");
                part.id != values.id && !name.ends_with("_bias") && !other_weight
            };
            let here = stems.iter().flat_map(|stem| self.with_prefix(stem));
            return here.filter(belongs).map(|part| part.id).collect();
        }
        let plain = format!("{module}.weight");
        self.module_tensors(module)
            .into_iter()
            .filter(|part| part.id != values.id)
            .filter(|part| part.stored.name != plain || part.dtype().float().is_none())
            .map(|part| part.id)
            .collect()
    }

    /// Returns the tensors of a linear layer's module, except its bias and adapters.
    pub(super) fn module_tensors(&self, module: &str) -> Vec<PartTensor<'s>> {
        let prefix = format!("{module}.");
        let belongs = |part: &PartTensor| {
            let rest = part.stored.name.get(prefix.len()..).unwrap_or_default();
            let nested = match rest.split_once('.') {
                None => true,
                Some((first, _)) => NESTED_MODULES.contains(&first),
            };
            nested && rest != "bias" && !rest.contains("lora_A") && !rest.contains("lora_B")
        };
        self.with_prefix(&prefix).filter(belongs).collect()
    }

    /// Returns a tensor with the given values that is recognized but not decoded.
    pub(super) fn named(
        &self,
        values: PartTensor,
        name: &str,
        format: &str,
        reason: Option<String>,
    ) -> PackedTensor {
        self.named_with(values, name, format, reason, &self.other_parts(values))
    }

    /// Like [`Listing::named`], with the other stored tensors it consists of.
    pub(super) fn named_with(
        &self,
        values: PartTensor,
        name: &str,
        format: &str,
        reason: Option<String>,
        others: &[StoredId],
    ) -> PackedTensor {
        // A plain tensor with that name is listed separately.
        let name = match self.get(name) {
            Some(other) if other.id != values.id && !others.contains(&other.id) => {
                values.stored.name.to_string()
            }
            _ => name.to_owned(),
        };
        let original = self.original(values.dtype());
        undecoded(name, format, reason, (values.id, values.stored), others, original)
    }

    /// Returns `decoded`, or an undecoded tensor with the reason.
    pub(super) fn decoded_or_named(
        &self,
        values: PartTensor,
        name: &str,
        format: &str,
        decoded: Result<PackedTensor, String>,
    ) -> PackedTensor {
        decoded.unwrap_or_else(|reason| self.named(values, name, format, Some(reason)))
    }

    /// Returns the type of tensors before quantization: the configured one, else the type of the
    /// scales if it has 16 bits, else F32.
    pub(super) fn original(&self, scales: &DType) -> FloatType {
        let configured = self.config.as_ref().and_then(Config::dtype);
        configured.or(scales.float().filter(|float| float.size() == 2)).unwrap_or(FloatType::F32)
    }

    /// Returns the rounding of a part's int8 values, if quantscope wrote them.
    pub(super) fn rounding(&self, part: PartTensor) -> Rounding {
        let name = self.metadata(part, ROUNDING_KEY);
        name.and_then(|name| name.parse().ok()).unwrap_or_default()
    }

    /// Returns the calibration of tensor `name`, whose int8 values are in `part`, if quantscope
    /// wrote it.
    pub(super) fn calibration(&self, part: PartTensor, name: &str) -> Calibration {
        let recorded = self.calibrations.get(part.stored.shard as usize);
        recorded.and_then(|recorded| recorded.get(name)).copied().unwrap_or_default()
    }

    /// Returns the type of tensor `name`, whose values are in `part`, before quantization, if
    /// quantscope wrote the file and recorded the type.
    pub(super) fn recorded_type(&self, part: PartTensor, name: &str) -> Option<FloatType> {
        self.original_types.get(part.stored.shard as usize)?.get(name).copied()
    }

    /// Reads a small part.
    ///
    /// # Errors
    ///
    /// The part has more than `limit` bytes or cannot be read.
    pub(super) fn bytes(&self, part: PartTensor, limit: u64) -> Result<Vec<u8>, String> {
        let length = part.stored.bytes();
        if length > limit {
            let name = part.stored.name.escape_debug();
            return Err(format!("'{name}' has {length} bytes, expected at most {limit}"));
        }
        self.start(part, length)
    }

    /// Reads the first `length` bytes of a part, or all if it is shorter.
    pub(super) fn start(&self, part: PartTensor, length: u64) -> Result<Vec<u8>, String> {
        read_start(self.shards, part.stored, length)
    }
}

/// Returns whether a stored tensor may hold quantized values: a matrix of integers, or any tensor
/// of small floats.
pub(super) fn is_coded(stored: &Stored) -> bool {
    match stored.dtype {
        DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32 | DType::U32 => {
            stored.shape.rank() >= 2
        }
        DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3Fnuz
        | DType::F8E5M2Fnuz
        | DType::F8E8M0
        | DType::F4 => true,
        _ => false,
    }
}

impl PartTensor<'_> {
    pub(super) fn dims(&self) -> &[u64] {
        self.stored.shape.dims()
    }

    pub(super) fn dtype(&self) -> &DType {
        &self.stored.dtype
    }

    pub(super) fn elements(&self) -> u64 {
        self.stored.shape.elements()
    }

    /// Returns the last component of the name.
    pub(super) fn last_name(&self) -> &str {
        let name = self.stored.name.as_str();
        name.rsplit_once('.').map_or(name, |(_, last)| last)
    }

    /// Returns the module of the part if its name ends with `.` and `suffix`.
    pub(super) fn module(&self, suffix: &str) -> Option<&str> {
        self.stored.name.strip_suffix(suffix)?.strip_suffix('.')
    }

    /// Returns rows and columns; an error if the part is not a matrix.
    pub(super) fn matrix(&self, what: &str) -> Result<(u64, u64), String> {
        match *self.dims() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(format!("its {what} {} expected two dimensions", self.described())),
        }
    }

    /// Checks that the part has one of the given types.
    pub(super) fn typed(&self, what: &str, types: &[DType]) -> Result<(), String> {
        if types.contains(self.dtype()) {
            return Ok(());
        }
        let names: Vec<&str> = types.iter().map(DType::name).collect();
        Err(format!("its {what} {} expected {}", self.described(), names.join(" or ")))
    }

    /// Checks that the part has the given shape.
    pub(super) fn shaped(&self, what: &str, dims: &[u64]) -> Result<(), String> {
        if self.dims() == dims {
            return Ok(());
        }
        let expected = Shape::new(dims).map_or("another shape".into(), |s| s.to_string());
        Err(format!("its {what} {} expected {expected}", self.described()))
    }

    /// Checks that the part holds one number.
    pub(super) fn single(&self, what: &str) -> Result<(), String> {
        match self.elements() {
            1 => Ok(()),
            _ => Err(format!("its {what} {} expected one number", self.described())),
        }
    }

    fn described(&self) -> String {
        let Stored { name, dtype, shape, .. } = self.stored;
        format!("'{}' are {dtype} {shape},", name.escape_debug())
    }
}

/// Returns the module of a weight: `a` for `a.weight`; for other names the name itself.
pub(super) fn module_of(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// Creates a shape; an error if it has too many elements.
pub(super) fn shape(dims: impl Into<Box<[u64]>>) -> Result<Shape, String> {
    let dims = dims.into();
    Shape::new(dims.clone()).ok_or_else(|| format!("its shape {dims:?} has too many elements"))
}

/// Multiplies; an error on overflow.
pub(super) fn product(a: u64, b: u64) -> Result<u64, String> {
    a.checked_mul(b).ok_or_else(|| format!("its shape has a dimension of {a} times {b}"))
}

/// Returns the part; an error if it does not exist.
pub(super) fn required<'s>(
    part: Option<PartTensor<'s>>,
    what: &str,
    name: &str,
) -> Result<PartTensor<'s>, String> {
    part.ok_or_else(|| format!("its {what} '{}' are missing", name.escape_debug()))
}
