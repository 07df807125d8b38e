//! Opens a checkpoint: reads headers, joins shards, and recognizes packed tensors.

use crate::checkpoint::checkpoint::{Checkpoint, Content};
use crate::checkpoint::config::Config;
use crate::checkpoint::discovery::{self, Index, WeightMap};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::format::Format;
use crate::checkpoint::formats::{burnpack, gguf, numpy, pytorch, safetensors};
use crate::checkpoint::index_check::compare_with_index;
use crate::checkpoint::io::remote_path::without_query;
use crate::checkpoint::io::source::Source;
use crate::checkpoint::output_axes::OutputAxes;
use crate::checkpoint::packed::PackedTensor;
use crate::checkpoint::stored::{Shard, Stored, StoredId, TENSORS_PER_TASK};
use crate::checkpoint::stored_reader::StoredReader;
use crate::checkpoint::{name_index, packed, qat};
use crate::tensor::{ChannelAxes, DType, TensorInfo};
use foldhash::{HashMap, HashMapExt, HashSet};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The content of one file.
#[derive(Debug)]
struct Contents {
    format: Format,
    metadata: Vec<(String, String)>,
    /// Notes about what the reader left out or chose.
    notes: Vec<String>,
    stored: Vec<Stored>,
    quantized: Vec<burnpack::Quantized>,
    /// For one part of a split GGUF file.
    split: Option<gguf::Split>,
}

impl Contents {
    fn new(format: Format) -> Contents {
        let (metadata, notes) = (Vec::new(), Vec::new());
        let (stored, quantized) = (Vec::new(), Vec::new());
        Contents { format, metadata, notes, stored, quantized, split: None }
    }
}

impl Checkpoint {
    /// Opens a file, an index of shards, or a directory that contains one of them. Reads headers
    /// only.
    ///
    /// # Errors
    ///
    /// The path, one of the files or a header is invalid, or the choice of files is ambiguous.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let path = &*without_query(path);
        if let Some(directory) = pytorch::distributed_directory(path) {
            return Self::open_distributed(path, &directory);
        }
        let files = discovery::discover(path)?;
        let shards: Vec<(Shard, Contents)> =
            files.shards.par_iter().map(|p| read_shard(Source::file(p)?)).collect::<Result<_>>()?;
        let mut checkpoint = Self::assemble(path.to_owned(), shards, files.index, files.directory)?;
        checkpoint.notes.extend(files.notes);
        // Without a config the tensors can still be listed.
        if let Err(error) = checkpoint.model_config() {
            checkpoint.notes.push(error.to_string());
        }
        if checkpoint.tensors.is_empty() {
            checkpoint.notes.push("it holds no tensors".to_owned());
        }
        Ok(checkpoint)
    }

    /// Opens some shards of the model in a directory, without the tensors of the others.
    ///
    /// # Errors
    ///
    /// One of the files or a header is invalid.
    pub(crate) fn open_shards(directory: &Path, names: &[&str]) -> Result<Checkpoint> {
        let read = |name: &&str| read_shard(Source::file(&directory.join(name))?);
        let shards = names.par_iter().map(read).collect::<Result<_>>()?;
        Self::assemble(directory.to_owned(), shards, None, Some(directory.to_owned()))
    }

    /// Opens a directory of `torch.distributed.checkpoint`.
    fn open_distributed(path: &Path, directory: &Path) -> Result<Checkpoint> {
        let pytorch::Distributed { sources, stored } = pytorch::read_distributed(directory)?;
        let mut stored = stored.into_iter().peekable();
        let shards = (0..).zip(sources).map(|(number, source)| {
            let mut contents = Contents::new(Format::PyTorch);
            contents.stored.extend(std::iter::from_fn(|| stored.next_if(|s| s.shard == number)));
            (Shard { source, metadata: Vec::new() }, contents)
        });
        let shards = shards.collect();
        Self::assemble(path.to_owned(), shards, None, None)
    }

    /// Opens a file in memory under a name.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid checkpoint.
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
        let mut notes = Vec::new();
        let format = read.first().map_or(Format::Safetensors, |(_, contents)| contents.format);
        let count = read.len() as u64;
        let all_stored = read.iter().map(|(_, contents)| contents.stored.len()).sum::<usize>();
        for (number, (mut shard, contents)) in read.into_iter().enumerate() {
            if contents.format != format {
                let (first, other) = (format.name(), contents.format.name());
                let problem = Problem::MixedFormats { first, other };
                return Err(ReadError::new(shard.source.path(), problem));
            }
            if let Some(split) = contents.split.filter(|split| split.count != count) {
                return Err(ReadError::new(shard.source.path(), split.renamed()));
            }
            shard.metadata = contents.metadata;
            notes.extend(contents.notes);
            shards.push(shard);
            let shard = number as u32;
            let first = stored.len() as u32;
            quantized.extend(contents.quantized.into_iter().map(|q| (first + q.values, q)));
            match shard {
                // The tensors of the first file have its number already.
                0 => {
                    stored = contents.stored;
                    stored.reserve_exact(all_stored - stored.len());
                }
                _ => stored.extend(contents.stored.into_iter().map(|s| Stored { shard, ..s })),
            }
        }
        let joins_parts = safetensors::sharded_parts::join(&mut shards, &mut stored);
        if joins_parts {
            notes.push(format!(
                "tensors are joined from the parts in {} of torch.distributed.checkpoint; how many files it wrote is not recorded, so missing ones at the end go unnoticed",
                if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
            ));
        }
        let all_named = match &index {
            Some((index, map)) => compare_with_index(index, map, &mut stored, &mut notes),
            None => false,
        };
        let limit = u64::from(u32::MAX);
        if stored.len() as u64 > limit {
            return Err(ReadError::new(&path, Problem::TooManyTensors(limit)));
        }
        if shards.len() > 1 && !all_named {
            unique_names(&path, &shards, &stored)?;
        }
        let mut recognized = match format {
            Format::Safetensors | Format::PyTorch | Format::Npz => {
                packed::recognize(directory.as_deref(), &shards, &stored)
            }
            _ => HashMap::new(),
        };
        recognized.extend(blocks(&stored));
        recognized.extend(
            quantized
                .into_iter()
                .filter_map(|(values, q)| q.found(StoredId(values), stored.get(values as usize)?)),
        );
        // An unreadable config is ignored here; the caller notes it.
        let config = directory.as_deref().and_then(|it| Config::read(it).ok().flatten());
        let axes = OutputAxes::new(config.as_ref(), &stored);
        let (tensors, contents) = logical_tensors(recognized, &stored, &axes);
        let total_bytes = stored.iter().map(Stored::bytes).fold(0, u64::saturating_add);
        let mut reader = StoredReader::new(&shards, &stored);
        let observers = qat::read(&mut reader, &stored, &tensors);
        Ok(Checkpoint {
            path,
            format,
            shards,
            index: index.map(|(index, _)| index),
            directory,
            joins_parts,
            keeps_training_state: false,
            notes,
            stored,
            total_bytes,
            tensors,
            contents,
            observers,
        })
    }
}

fn read_shard(source: Source) -> Result<(Shard, Contents)> {
    let format = Format::of(&source)?;
    let mut contents = Contents::new(format);
    match format {
        Format::Safetensors => {
            let header = safetensors::read(&source)?;
            (contents.metadata, contents.stored) = (header.metadata, header.tensors);
        }
        Format::Gguf => {
            let header = gguf::read(&source)?;
            contents.split = header.split();
            (contents.metadata, contents.stored) = (header.metadata, header.stored);
        }
        Format::Burnpack => {
            let header = burnpack::read(&source)?;
            (contents.metadata, contents.stored) = (header.metadata, header.stored);
            contents.quantized = header.quantized;
        }
        Format::PyTorch => {
            let listed = pytorch::read(&source)?;
            (contents.metadata, contents.stored) = (listed.metadata, listed.stored);
            contents.notes = listed.notes;
        }
        Format::Npy => contents.stored = numpy::read_npy(&source)?,
        Format::Npz => (contents.notes, contents.stored) = numpy::read_npz(&source)?,
    }
    Ok((Shard { source, metadata: Vec::new() }, contents))
}

fn unique_names(path: &Path, shards: &[Shard], stored: &[Stored]) -> Result<()> {
    let tensor = |at: u32| &stored[at as usize];
    // The caller checked that their number fits.
    match name_index::first_duplicate(stored.len() as u32, |at| &tensor(at).name) {
        None => Ok(()),
        Some((first, second)) => {
            let shard = |at: u32| shards[tensor(at).shard as usize].name();
            let problem = Problem::InTwoShards(shard(first), shard(second));
            Err(ReadError::of_tensor(path, &tensor(second).name, problem))
        }
    }
}

/// Returns GGUF's tensors in block types that can be decoded.
fn blocks(stored: &[Stored]) -> impl Iterator<Item = (StoredId, PackedTensor)> {
    let readable = |(_, stored): &(StoredId, &Stored)| stored.unreadable().is_none();
    (0..).map(StoredId).zip(stored).filter(readable).filter_map(|(id, stored)| {
        let DType::Block(block) = stored.dtype else { return None };
        let blocks = gguf::BlockTensor::new(id, block)?;
        Some((id, PackedTensor::new(&stored.name, stored.shape.clone(), blocks)))
    })
}

/// Replaces the stored tensors of each packed tensor by one tensor, at the position of its values.
fn logical_tensors(
    mut quantized: HashMap<StoredId, PackedTensor>,
    stored: &[Stored],
    axes: &OutputAxes,
) -> (Vec<TensorInfo>, Vec<Content>) {
    let parts: HashSet<StoredId> = quantized.values().flat_map(|t| t.format.parts()).collect();
    let as_plain = |s: &Stored| TensorInfo {
        name: s.name.clone(),
        dtype: s.dtype.clone(),
        shape: axes.counted(&s.name, s.shape.clone()),
        bytes: s.bytes(),
    };
    let all_plain = stored.par_iter().with_min_len(TENSORS_PER_TASK).map(as_plain);
    let all_plain: Vec<TensorInfo> = all_plain.collect();
    if quantized.is_empty() {
        let contents = (0..).map(StoredId).map(Content::Plain).take(stored.len());
        return (all_plain, contents.collect());
    }
    let mut tensors = Vec::with_capacity(stored.len());
    let mut contents = Vec::with_capacity(stored.len());
    for (id, plain) in (0..).map(StoredId).zip(all_plain) {
        if let Some(found) = quantized.remove(&id) {
            let sizes = found.format.parts().into_iter().filter_map(|p| stored.get(p.0 as usize));
            let bytes = sizes.map(Stored::bytes).fold(0, u64::saturating_add);
            // The scales of int8 tensors say which elements share one.
            let shape = match found.format.int8() {
                Some(_) => found.shape,
                None => {
                    let axes = ChannelAxes::for_tensor(&found.name, found.shape.dims());
                    found.shape.with_channel_axes(axes)
                }
            };
            tensors.push(TensorInfo { name: found.name.into(), shape, bytes, ..plain });
            contents.push(Content::Packed(found.format));
        } else if !parts.contains(&id) {
            tensors.push(plain);
            contents.push(Content::Plain(id));
        }
    }
    (tensors, contents)
}
