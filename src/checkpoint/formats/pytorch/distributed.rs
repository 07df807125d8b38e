//! Directories of `torch.distributed.checkpoint`: `.metadata` lists the tensors and which parts of
//! them are in which `.distcp` files. Each part is a whole `torch.save` archive.

use crate::checkpoint::access::{Access, Data, Indirect, Role};
use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::element_type;
use crate::checkpoint::formats::pytorch::archive::Archive;
use crate::checkpoint::formats::pytorch::key_text::key_text;
use crate::checkpoint::formats::pytorch::machine;
use crate::checkpoint::formats::pytorch::tensor::Locator;
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use crate::checkpoint::formats::region::{ByteReader, Region};
use crate::checkpoint::formats::row::Row;
use crate::checkpoint::io::files::{self, PathTarget};
use crate::checkpoint::io::source::Source;
use crate::checkpoint::stored::Stored;
use crate::checkpoint::tensor_parts::{TensorPart, TensorParts};
use crate::tensor::{DType, Shape};
use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

const METADATA: &str = ".metadata";
const EXTENSION: &str = "distcp";

/// The files of a distributed checkpoint, and its tensors in file order.
pub(crate) struct Distributed {
    pub sources: Vec<Source>,
    pub stored: Vec<Stored>,
}

/// Returns the directory of the distributed checkpoint at a path, which names the directory or one
/// of its files.
pub(crate) fn distributed_directory(path: &Path) -> Option<PathBuf> {
    let is_part = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(EXTENSION));
    let is_metadata = |path: &Path| path.file_name().is_some_and(|name| name == METADATA);
    let directory = match files::find(path).ok()? {
        PathTarget::Directory(directory) => directory,
        PathTarget::Local(..) | PathTarget::Remote(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            return (is_part(path) || is_metadata(path) && names_tensors(path))
                .then(|| parent.to_owned());
        }
    };
    let metadata = directory.join(METADATA);
    let names = files::names(&directory).ok()?;
    (names.keys().any(|name| is_part(Path::new(name)))
        || files::is_file(&metadata) && names_tensors(&metadata))
    .then_some(directory)
}

/// Returns whether a file is a pickle of `torch.distributed.checkpoint.metadata.Metadata`.
fn names_tensors(path: &Path) -> bool {
    let Ok(source) = Source::file(path) else { return false };
    read_metadata(&source).is_ok()
}

fn read_metadata(source: &Source) -> Result<Pickle> {
    let region = Region::file(0..source.size());
    let pickle = machine::read(&mut ByteReader::new(source, &region, 0)?, source.path())?;
    let is_metadata = match pickle.root() {
        Value::Object(object) => {
            pickle.global(object.callee).is_some_and(|(_, name)| name == "Metadata")
        }
        _ => false,
    };
    if is_metadata {
        Ok(pickle)
    } else {
        let why = "it is not the metadata of a distributed checkpoint".to_owned();
        let problem = Problem::Malformed { format: "PyTorch", why };
        Err(ReadError::new(source.path(), problem))
    }
}

/// Reads the tensors of a directory. A tensor with missing parts is listed with the reason.
pub(crate) fn read_distributed(directory: &Path) -> Result<Distributed> {
    let path = directory.join(METADATA);
    if !files::is_file(&path) {
        let why = "it is a distributed checkpoint (torch.distributed.checkpoint) without .metadata, which holds the names and shapes of its tensors";
        return Err(ReadError::new(directory, Problem::Layout(why.to_owned())));
    }
    let source = Source::file(&path)?;
    let pickle = read_metadata(&source)?;
    let metadata = Metadata::new(&source, &pickle);
    let parts = metadata.parts()?;
    let mut files = RankFiles::open(directory, &parts);
    let mut stored = metadata.tensors(&parts, &files);
    if files.sources.is_empty() {
        files.sources.push(source);
    }
    stored.sort_by_key(|tensor| tensor.shard);
    Ok(Distributed { sources: files.sources, stored })
}

/// Location of a part in the files.
#[derive(Clone, Debug)]
struct PartLocation {
    file: String,
    offset: u64,
    length: u64,
    /// The transformations applied to the bytes when they were written, such as compression.
    transforms: Option<String>,
}

/// Locations by tensor name and offsets of the part in the tensor.
type PartLocations = HashMap<(String, Vec<u64>), PartLocation>;

/// The `.distcp` files that exist, sorted by name.
struct RankFiles {
    sources: Vec<Source>,
    numbers: BTreeMap<String, u32>,
}

impl RankFiles {
    fn open(directory: &Path, parts: &PartLocations) -> RankFiles {
        let mut names: Vec<&str> = parts.values().map(|place| place.file.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let (mut sources, mut numbers) = (Vec::new(), BTreeMap::new());
        for name in names {
            if let Ok(source) = Source::file(&directory.join(name)) {
                numbers.insert(name.to_owned(), sources.len() as u32);
                sources.push(source);
            }
        }
        RankFiles { sources, numbers }
    }
}

struct Metadata<'a> {
    source: &'a Source,
    pickle: &'a Pickle,
    /// The first key of the path to a tensor, for paths of several keys.
    tops: HashMap<&'a str, &'a str>,
}

impl<'a> Metadata<'a> {
    fn new(source: &'a Source, pickle: &'a Pickle) -> Metadata<'a> {
        let mut metadata = Metadata { source, pickle, tops: HashMap::new() };
        let paths = metadata.pairs("planner_data").iter().filter_map(|&(name, path)| {
            let top = match pickle.items(path)? {
                [top, _, ..] => pickle.text(*top).unwrap_or_default(),
                _ => "",
            };
            Some((pickle.text(name)?, top))
        });
        metadata.tops = paths.collect();
        metadata
    }

    /// Returns an attribute of an object.
    fn field(&self, id: ValueId, name: &str) -> Option<ValueId> {
        let Value::Object(object) = self.pickle.value(id) else { return None };
        object.states.iter().find_map(|&state| self.pickle.get(state, name))
    }

    fn pairs(&self, name: &str) -> &'a [(ValueId, ValueId)] {
        let field = self.field(self.pickle.root, name);
        match field.map(|id| self.pickle.value(id)) {
            Some(Value::Dict(pairs)) => pairs,
            _ => &[],
        }
    }

    fn text(&self, id: Option<ValueId>) -> Option<&'a str> {
        self.pickle.text(id?)
    }

    /// Returns the location of each part.
    ///
    /// # Errors
    ///
    /// A part is outside the directory.
    fn parts(&self) -> Result<PartLocations> {
        let mut parts = PartLocations::new();
        for &(index, info) in self.pairs("storage_data") {
            let place = || {
                let name = self.text(self.field(index, "fqn"))?.to_owned();
                // Entries that are not tensors have no offset.
                let offsets = self.pickle.numbers(self.field(index, "offset")?)?;
                let file = self.text(self.field(info, "relative_path"))?.to_owned();
                let offset = self.pickle.number(self.field(info, "offset")?)?;
                let length = self.pickle.number(self.field(info, "length")?)?;
                let transforms = self.field(info, "transform_descriptors");
                let transforms = transforms.and_then(|id| {
                    let names = self.pickle.items(id)?.iter();
                    let names: Vec<_> =
                        names.map(|&name| key_text(self.source, self.pickle, name)).collect();
                    (!names.is_empty()).then(|| names.join(", "))
                });
                Some(((name, offsets), PartLocation { file, offset, length, transforms }))
            };
            let Some((key, place)) = place() else { continue };
            let inside =
                Path::new(&place.file).components().all(|c| matches!(c, Component::Normal(_)));
            if !inside || place.file.is_empty() {
                let file = place.file.escape_debug();
                let why = format!(
                    "it names the file '{file}', which is outside the checkpoint's directory"
                );
                let problem = Problem::Malformed { format: "PyTorch", why };
                return Err(ReadError::new(self.source.path(), problem));
            }
            parts.insert(key, place);
        }
        Ok(parts)
    }

    fn tensors(&self, parts: &PartLocations, files: &RankFiles) -> Vec<Stored> {
        let mut stored = Vec::new();
        for &(name, described) in self.pairs("state_dict_metadata") {
            let Some(name) = self.pickle.text(name) else { continue };
            // Other values are not tensors.
            let Some(size) = self.field(described, "size") else { continue };
            let dtype = self.dtype(described);
            let shape = self.pickle.numbers(size).and_then(|dims| Shape::new(dims.as_slice()));
            let assembled = self.assembled(name, described, shape.as_ref(), parts, files);
            let (shard, row) = match assembled {
                Ok(assembled) => assembled,
                Err(why) => (0, Row::unreadable(dtype, shape, why)),
            };
            let role = self.role(name);
            stored.push(Stored { shard, role, ..row.stored(name.to_owned()) });
        }
        stored
    }

    /// Returns the element type, which is the first of a tensor's properties.
    fn dtype(&self, described: ValueId) -> Option<DType> {
        let Value::Object(properties) = self.pickle.value(self.field(described, "properties")?)
        else {
            return None;
        };
        let state = *properties.states.first()?;
        let dtype = match self.pickle.get(state, "dtype") {
            Some(dtype) => dtype,
            None => *self.pickle.items(state)?.first()?,
        };
        match self.pickle.global(dtype)? {
            ("torch", name) => element_type::torch(name).map(|element| element.dtype),
            _ => None,
        }
    }

    /// Returns a tensor's row and the shard of its first part, or the reason why it cannot be read.
    fn assembled(
        &self,
        name: &str,
        described: ValueId,
        shape: Option<&Shape>,
        parts: &PartLocations,
        files: &RankFiles,
    ) -> Result<(u32, Row), String> {
        let shape = shape.ok_or("its shape is not a list of sizes, or has too many elements")?;
        let unknown = || "its parts are described in an unknown form".to_owned();
        let listed = self.field(described, "chunks").and_then(|id| self.pickle.items(id));
        let mut found: Vec<(TensorPart, Row)> = Vec::new();
        for &chunk in listed.ok_or_else(unknown)? {
            let numbers = |field: &str| {
                let field = self.field(chunk, field).and_then(|id| self.pickle.numbers(id));
                field.ok_or_else(unknown)
            };
            let (offsets, sizes) = (numbers("offsets")?, numbers("sizes")?);
            let place = parts.get(&(name.to_owned(), offsets.clone()));
            let place = place.ok_or("the location of one of its parts is missing")?;
            let (shard, row) = files.item(place)?;
            if row.shape.dims() != sizes {
                return Err(format!(
                    "one of its parts has the shape {}, expected {sizes:?}",
                    row.shape
                ));
            }
            let view = match &row.access {
                Access::Unreadable(why) => return Err(why.to_string()),
                Access::Direct => None,
                Access::Indirect(indirect) => indirect.view.clone(),
            };
            let (offsets, sizes) = (offsets.into(), sizes.into());
            found.push((TensorPart { shard, range: row.range.clone(), view, offsets, sizes }, row));
        }
        if let [(chunk, row)] = found.as_slice()
            && *chunk.sizes == *shape.dims()
            && chunk.offsets.iter().all(|&offset| offset == 0)
        {
            return Ok((chunk.shard, row.clone()));
        }
        let (first, row) = found.first().ok_or("it has no parts")?;
        let (shard, dtype) = (first.shard, row.dtype.clone());
        let in_file = |row: &Row| match &row.access {
            Access::Direct => true,
            Access::Indirect(i) => i.data == Data::File && i.conversion.is_none(),
            Access::Unreadable(_) => false,
        };
        if found.iter().any(|(_, row)| row.dtype != dtype || !in_file(row)) {
            return Err("its parts are stored in different ways".to_owned());
        }
        let size = dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
        let parts = found.into_iter().map(|(chunk, _)| chunk).collect();
        let chunks = TensorParts::new(shape.dims(), size, parts)?;
        let bytes = shape.elements().checked_mul(size).ok_or("it has too many elements")?;
        let data = Data::Parts(Arc::new(chunks));
        let access =
            Access::Indirect(Indirect { data, bytes, view: None, conversion: None }.into());
        Ok((shard, Row { dtype, shape: shape.clone(), range: 0..0, access, storage: None }))
    }

    /// Returns a tensor's role, according to the keys of its path.
    fn role(&self, name: &str) -> Role {
        let top = match self.tops.get(name) {
            Some(top) => top,
            None => name.split_once('.').map_or("", |(top, _)| top),
        };
        if top.to_ascii_lowercase().contains("optim") { Role::Optimizer } else { Role::Network }
    }
}

impl RankFiles {
    /// Returns the tensor at a location, or the reason why it cannot be read.
    fn item(&self, place: &PartLocation) -> Result<(u32, Row), String> {
        let file = place.file.escape_debug();
        if let Some(transforms) = &place.transforms {
            return Err(format!("its bytes in '{file}' are transformed by {transforms}"));
        }
        let shard = self.numbers.get(&place.file);
        let shard =
            *shard.ok_or_else(|| format!("a part of it is in '{file}', which is missing"))?;
        let source = self.sources.get(shard as usize).ok_or("a part of it is missing")?;
        let end = place.offset.checked_add(place.length).filter(|&end| end <= source.size());
        let Some(end) = end else {
            return Err(format!("a part of it ends past the end of '{file}', which is cut off"));
        };
        let archive =
            Archive::open(source, place.offset..end).map_err(|e| e.problem.to_string())?;
        let find = |key: &str| archive.storage("data", key);
        let locator = Locator::new(source, &archive.pickle, &find, archive.big_endian);
        let row = locator.row(archive.pickle.root);
        Ok((shard, row.ok_or_else(|| format!("its part in '{file}' is not a tensor"))?))
    }
}
