//! Reading checkpoints: an index made from headers alone, and ranges of tensors on demand.
//!
//! A checkpoint has *stored* tensors, as its files list them, and *tensors*, as a person
//! thinks of them: most are one stored tensor, a quantized one is several. Formats differ
//! only in how they fill these two lists. Nothing here writes.

pub(crate) mod config;
mod discovery;
mod error;
pub mod formats;
mod io;
mod json_text;
mod model_search;
mod name_index;
pub(crate) mod packed;
pub(crate) mod qat;
mod reader;
mod strided;

pub use config::Config;
use discovery::WeightMap;
pub use discovery::{Index, has_extension, has_model};
pub use error::{CheckpointError, Problem, Result};
pub use formats::format::Format;
pub use io::file_system::FileSystem;
pub use io::source::Source;
pub use model_search::{Found, Models, models_beneath};
pub use packed::PackedFormat;
pub use qat::{Extent, Unplaced, Watched};
pub use reader::Reader;
pub use strided::View;

use crate::quantization::{
    Calibration, Dequantize, NotTaken, QatScales, QuantizationScheme, Quantizer, kernels,
};
use crate::tensor::{ChannelAxes, DType, FloatType, Name, Shape, TensorId, TensorInfo};
use foldhash::{HashMap, HashMapExt, HashSet};
use formats::{burnpack, gguf, numpy, pytorch, safetensors};
use qat::Observers;
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A stored tensor's place in the order of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredId(pub u32);

/// A tensor as a file lists it. `range`: its bytes, from the start of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub name: Name,
    pub dtype: DType,
    pub shape: Shape,
    pub shard: u32,
    pub range: Range<u64>,
    pub access: Access,
}

/// How a stored tensor's elements lie in its range of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// They fill it, one after another.
    Direct,
    /// Here and there.
    View(Box<View>),
    /// Deflated: `bytes` of them after the first `skip` that inflating gives.
    Deflated { skip: u64, bytes: u64 },
}

impl Stored {
    /// A tensor of the first shard whose elements fill `range`.
    pub fn new(name: impl Into<Name>, dtype: DType, shape: Shape, range: Range<u64>) -> Stored {
        Stored { name: name.into(), dtype, shape, shard: 0, range, access: Access::Direct }
    }

    /// Bytes of its elements, one after another.
    pub fn bytes(&self) -> u64 {
        match &self.access {
            Access::Direct => self.range.end - self.range.start,
            Access::View(view) => view.bytes(),
            Access::Deflated { bytes, .. } => *bytes,
        }
    }

    /// Its elements with the order of the dimensions reversed. `Err`: why there are none.
    fn transposed(&self) -> Result<View, String> {
        match &self.access {
            Access::Direct => {}
            Access::View(view) => return Ok(view.transposed()),
            Access::Deflated { .. } => {
                return Err("it is compressed; save it uncompressed to transpose it".into());
            }
        }
        let mut strides = vec![1; self.shape.rank()];
        let mut apart = 1u64;
        for (stride, &dim) in strides.iter_mut().zip(self.shape.dims()).rev() {
            *stride = apart;
            apart = apart.saturating_mul(dim);
        }
        let size = self.dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
        let view = View::new(self.shape.clone(), size, 0, &strides, self.bytes())?;
        Ok(view.transposed())
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    pub source: Source,
    /// The file's own key-value metadata, in its order.
    pub metadata: Vec<(String, String)>,
}

impl Shard {
    /// The file's name without its directory.
    pub fn name(&self) -> String {
        let path = self.source.path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// Where a tensor's elements come from.
#[derive(Debug)]
pub enum Content {
    /// One stored tensor, as it is.
    Plain(StoredId),
    /// Several, decoded together.
    Quantized(Box<dyn PackedFormat>),
}

/// What the reader of one file found in it.
#[derive(Debug)]
struct Contents {
    format: Format,
    metadata: Vec<(String, String)>,
    stored: Vec<Stored>,
    quantized: Vec<burnpack::Quantized>,
}

/// An open checkpoint: its index. Data is read through [`Checkpoint::reader`].
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    shards: Vec<Shard>,
    index: Option<Index>,
    directory: Option<PathBuf>,
    stored: Vec<Stored>,
    total_bytes: u64,
    tensors: Vec<TensorInfo>,
    contents: Vec<Content>,
    observers: Observers,
}

impl Checkpoint {
    /// Opens a file, an index of shards, or a directory with one of them, from its headers
    /// alone.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let files = discovery::discover(path)?;
        let shards: Vec<(Shard, Contents)> =
            files.shards.par_iter().map(|p| read_shard(Source::file(p)?)).collect::<Result<_>>()?;
        Self::assemble(path.to_owned(), shards, files.index, files.directory)
    }

    /// Opens a file that lies in memory, under a name.
    pub fn from_memory(name: &str, bytes: &'static [u8]) -> Result<Checkpoint> {
        let shard = read_shard(Source::memory(name, bytes))?;
        Self::assemble(name.into(), vec![shard], None, None)
    }

    fn assemble(
        path: PathBuf,
        read: Vec<(Shard, Contents)>,
        index: Option<(Index, WeightMap)>,
        directory: Option<PathBuf>,
    ) -> Result<Checkpoint> {
        let mut shards = Vec::with_capacity(read.len());
        let mut stored: Vec<Stored> = Vec::new();
        let mut quantized = Vec::new();
        let format = read.first().map_or(Format::Safetensors, |(_, contents)| contents.format);
        for (number, (mut shard, contents)) in read.into_iter().enumerate() {
            if contents.format != format {
                let (first, other) = (format.name(), contents.format.name());
                let problem = Problem::MixedFormats { first, other };
                return Err(CheckpointError::new(shard.source.path(), problem));
            }
            shard.metadata = contents.metadata;
            shards.push(shard);
            let shard = number as u32;
            let first = stored.len() as u32;
            quantized.extend(contents.quantized.into_iter().map(|q| (first + q.values, q)));
            match shard {
                // All of a single file: nothing has to be moved.
                0 => stored = contents.stored,
                _ => stored.extend(contents.stored.into_iter().map(|s| Stored { shard, ..s })),
            }
        }
        let all_named = match &index {
            Some((index, map)) => agree_with_index(index, map, &mut stored)?,
            None => false,
        };
        let limit = u64::from(u32::MAX);
        if stored.len() as u64 > limit {
            return Err(CheckpointError::new(&path, Problem::TooManyTensors(limit)));
        }
        if shards.len() > 1 && !all_named {
            unique_names(&path, &shards, &stored)?;
        }
        let mut recognised = match format {
            Format::Safetensors | Format::PyTorch => {
                packed::recognise(&path, directory.as_deref(), &shards, &stored)?
            }
            _ => HashMap::new(),
        };
        recognised.extend(blocks(&stored));
        recognised.extend(
            quantized
                .into_iter()
                .filter_map(|(values, q)| q.found(StoredId(values), stored.get(values as usize)?)),
        );
        let (tensors, contents) = logical_tensors(recognised, &stored);
        let total_bytes = stored.iter().map(Stored::bytes).fold(0, u64::saturating_add);
        let mut checkpoint = Checkpoint {
            path,
            format,
            shards,
            index: index.map(|(index, _)| index),
            directory,
            stored,
            total_bytes,
            tensors,
            contents,
            observers: Observers::default(),
        };
        checkpoint.observers = qat::read(&checkpoint);
        Ok(checkpoint)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a person calls it: the name of its directory or file.
    pub fn name(&self) -> String {
        let named = match (&self.directory, self.path.is_dir()) {
            (_, true) => std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()),
            _ => self.path.clone(),
        };
        named.file_name().unwrap_or(named.as_os_str()).to_string_lossy().into_owned()
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The model's directory, with its config and tokenizer, if it has one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The text of the model's `config.json`, if there is one.
    pub fn config(&self) -> Option<std::io::Result<String>> {
        config::text(&self.directory.as_ref()?.join("config.json"))
    }

    /// What it says, if there is one; an error if it is not JSON.
    pub fn model_config(&self) -> Result<Option<Config>> {
        self.directory.as_deref().map_or(Ok(None), Config::read)
    }

    /// Tensors as a person thinks of them, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn ids(&self) -> impl ExactSizeIterator<Item = TensorId> + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// # Panics
    /// If `id` is of another checkpoint.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.index()]
    }

    pub fn content(&self, id: TensorId) -> &Content {
        &self.contents[id.index()]
    }

    /// The layout of a tensor that is stored quantized.
    pub fn layout(&self, id: TensorId) -> Option<&dyn PackedFormat> {
        match self.content(id) {
            Content::Plain(_) => None,
            Content::Quantized(layout) => Some(layout.as_ref()),
        }
    }

    /// What training with fake quantization left beside a weight.
    pub fn learned(&self, id: TensorId) -> Option<&QatScales> {
        self.observers.learned.get(&id)
    }

    /// Whether any weight was trained with fake quantization.
    pub fn has_learned(&self) -> bool {
        !self.observers.learned.is_empty()
    }

    /// What observers saw of the activations of a weight's layer.
    pub fn watched(&self, id: TensorId) -> Option<&Watched> {
        self.observers.watched.get(&id)
    }

    /// Observers of activations whose layer is not known, in the order of their names.
    pub fn unplaced(&self) -> &[Unplaced] {
        &self.observers.unplaced
    }

    /// Whether observers of a training or a calibration lie beside the network.
    pub fn has_observers(&self) -> bool {
        let Observers { learned, watched, unplaced } = &self.observers;
        !(learned.is_empty() && watched.is_empty() && unplaced.is_empty())
    }

    /// The calibration where none is asked for: the scales that were learned, where any weight
    /// has such.
    pub fn usual_calibration(&self) -> Calibration {
        // Blocks of Q8_0 have no room for them.
        match self.has_learned() && self.format != Format::Gguf {
            true => Calibration::Learned,
            false => Calibration::MinMax,
        }
    }

    /// The scheme where none is asked for: per channel where a scale of each was learned, which
    /// one scale for all cannot take over, else per tensor.
    pub fn usual_scheme(&self) -> QuantizationScheme {
        let (one, each) = (QuantizationScheme::PER_TENSOR, QuantizationScheme::PER_CHANNEL);
        let only_each = |learned: &QatScales| {
            learned.fits(one) == Err(NotTaken::OneScale) && learned.fits(each).is_ok()
        };
        let any = self.observers.learned.values().any(only_each);
        if any && self.format != Format::Gguf { each } else { one }
    }

    /// A quantizer as it is for this tensor: [`Calibration::Learned`] only where scales were
    /// learned that its scheme can take over.
    pub fn settled(&self, id: TensorId, quantizer: Quantizer) -> Quantizer {
        quantizer.settled(self.learned(id))
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        self.ids().find(|&id| self.tensor(id).name == name)
    }

    pub fn stored(&self, id: StoredId) -> &Stored {
        &self.stored[id.0 as usize]
    }

    /// Stored tensors, in the order of the files and of the data in them.
    pub fn all_stored(&self) -> impl ExactSizeIterator<Item = (StoredId, &Stored)> {
        self.stored.iter().enumerate().map(|(i, s)| (StoredId(i as u32), s))
    }

    /// The type in which [`Reader::elements`] gives a tensor; `None` if it has no float
    /// elements.
    pub fn float_type(&self, id: TensorId) -> Option<FloatType> {
        match self.content(id) {
            Content::Plain(_) => self.tensor(id).dtype.float(),
            Content::Quantized(layout) => layout.decoded(),
        }
    }

    /// Bytes that reading all elements of a tensor reads.
    pub fn bytes(&self, id: TensorId) -> u64 {
        self.tensor(id).bytes
    }

    /// Elements of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::parameters).fold(0, u64::saturating_add)
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// A whole tensor's elements as the mapper gives them, little-endian: a quantized tensor's
    /// in the mapper's type or the one it had before, any other's as they are. `None` for a
    /// tensor without float elements.
    pub fn map(&self, id: TensorId, mapper: Dequantize) -> Result<Option<(FloatType, Vec<u8>)>> {
        let mut reader = self.reader();
        let elements = 0..self.tensor(id).parameters();
        let Some((from, bytes)) = reader.elements(id, elements)? else { return Ok(None) };
        let to = self.layout(id).map_or(from, |layout| mapper.to.unwrap_or(layout.original()));
        let mut mapped = Vec::new();
        kernels::convert(from, bytes, to, &mut mapped);
        Ok(Some((to, mapped)))
    }

    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self)
    }
}

fn read_shard(source: Source) -> Result<(Shard, Contents)> {
    let format = Format::of(&source)?;
    let mut contents =
        Contents { format, metadata: Vec::new(), stored: Vec::new(), quantized: Vec::new() };
    match format {
        Format::Safetensors => {
            let header = safetensors::read(&source)?;
            (contents.metadata, contents.stored) = (header.metadata, header.tensors);
        }
        Format::Gguf => {
            let header = gguf::read(&source)?;
            (contents.metadata, contents.stored) = (header.metadata, header.stored);
        }
        Format::Burnpack => {
            let header = burnpack::read(&source)?;
            (contents.metadata, contents.stored) = (header.metadata, header.stored);
            contents.quantized = header.quantized;
        }
        Format::PyTorch => (contents.metadata, contents.stored) = pytorch::read(&source)?,
        Format::Npy => contents.stored = numpy::read_npy(&source)?,
        Format::Npz => contents.stored = numpy::read_npz(&source)?,
    }
    Ok((Shard { source, metadata: Vec::new() }, contents))
}

/// Checks the shards against the index, and drops a tensor from a shard that the index
/// does not name for it. True when the index names every tensor, and so each only once.
fn agree_with_index(index: &Index, map: &WeightMap, stored: &mut Vec<Stored>) -> Result<bool> {
    let mut held = vec![false; map.tensors.len()];
    let mut all_named = true;
    stored.retain(|s| match map.place(&s.name) {
        Some(place) => {
            let here = map.tensors[place].1 == s.shard;
            held[place] |= here;
            here
        }
        None => {
            all_named = false;
            true
        }
    });
    let missing = map.tensors.iter().zip(held).filter(|(_, held)| !held);
    match missing.map(|(tensor, _)| tensor).min() {
        None => Ok(all_named),
        Some((name, shard)) => {
            let problem = Problem::MissingFromShard(map.shards[*shard as usize].clone());
            Err(CheckpointError::of_tensor(&index.path, name, problem))
        }
    }
}

fn unique_names(path: &Path, shards: &[Shard], stored: &[Stored]) -> Result<()> {
    let tensor = |at: u32| &stored[at as usize];
    // The limit on their number is checked.
    match name_index::twins(stored.len() as u32, |at| &tensor(at).name) {
        None => Ok(()),
        Some((first, second)) => {
            let shard = |at: u32| shards[tensor(at).shard as usize].name();
            let problem = Problem::InTwoShards(shard(first), shard(second));
            Err(CheckpointError::of_tensor(path, &tensor(second).name, problem))
        }
    }
}

/// GGUF's tensors in blocks that are decoded.
fn blocks(stored: &[Stored]) -> impl Iterator<Item = (StoredId, packed::Found)> {
    (0..).map(StoredId).zip(stored).filter_map(|(id, stored)| {
        let DType::Block(block) = stored.dtype else { return None };
        let blocks = gguf::Blocks::new(id, block)?;
        Some((id, packed::Found::new(&stored.name, stored.shape.clone(), blocks)))
    })
}

/// The shape of a logical tensor, with output channels counted as its name implies.
fn with_channel_axes(name: &str, shape: Shape) -> Shape {
    let axes = ChannelAxes::for_tensor(name, shape.dims());
    shape.with_channel_axes(axes)
}

/// Joins the stored tensors that together stand for one, in the place of their values.
fn logical_tensors(
    mut quantized: HashMap<StoredId, packed::Found>,
    stored: &[Stored],
) -> (Vec<TensorInfo>, Vec<Content>) {
    let parts: HashSet<StoredId> = quantized.values().flat_map(|t| t.layout.parts()).collect();
    let mut tensors = Vec::with_capacity(stored.len());
    let mut contents = Vec::with_capacity(stored.len());
    for (id, s) in (0..).map(StoredId).zip(stored) {
        let dtype = s.dtype.clone();
        if let Some(found) = quantized.remove(&id) {
            let sizes = found.layout.parts().into_iter().filter_map(|p| stored.get(p.0 as usize));
            let bytes = sizes.map(Stored::bytes).fold(0, u64::saturating_add);
            // The scales of int8 tensors say which elements share one.
            let shape = match found.layout.int8() {
                Some(_) => found.shape,
                None => with_channel_axes(&found.name, found.shape),
            };
            tensors.push(TensorInfo { name: found.name.into(), dtype, shape, bytes });
            contents.push(Content::Quantized(found.layout));
        } else if !parts.contains(&id) {
            let (name, shape) = (s.name.clone(), with_channel_axes(&s.name, s.shape.clone()));
            tensors.push(TensorInfo { name, dtype, shape, bytes: s.bytes() });
            contents.push(Content::Plain(id));
        }
    }
    (tensors, contents)
}
