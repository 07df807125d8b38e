//! PyTorch's `torch.save`: a pickle that says which tensors there are, and storages that
//! hold their elements; in a ZIP archive, or one after another as before PyTorch 1.6.
//!
//! The pickle is read, never run: see [`pickle`].

mod pickle;
mod unpickler;

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::formats::zip::{self, Member};
use crate::checkpoint::io::cursor::Cursor;
use crate::checkpoint::{Access, Data, Indirect, Source, Stored, View};
use crate::tensor::Shape;
use pickle::{Found, Pickle, Storage};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// What ends the name of the pickle in the archive.
pub(crate) const PICKLE: &str = "data.pkl";

/// Bytes of pickles that are read; a tensor takes about 150.
const PICKLE_LIMIT: u64 = 64 << 20;

/// The number that starts a file of before PyTorch 1.6, as a pickle.
const LEGACY_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Key-values that describe the file, and its tensors.
type Read = (Vec<(String, String)>, Vec<Stored>);

pub(crate) fn read(source: &Source) -> Result<Read> {
    let mut first = [0; 4];
    source.read_exact(&source.open()?, &mut first, 0)?;
    if first == zip::MAGIC { archive(source) } else { legacy(source) }
}

fn malformed(source: &Source, why: impl Into<String>) -> CheckpointError {
    let problem = Problem::Malformed { format: "PyTorch", why: why.into() };
    CheckpointError::new(source.path(), problem)
}

fn archive(source: &Source) -> Result<Read> {
    let members = zip::members(source)?;
    let bad = |why: String| malformed(source, why);
    // Every other member is beside the pickle, in a directory named as the file once was.
    let pickles: Vec<&Member> = members.iter().filter(|m| m.name.ends_with(PICKLE)).collect();
    let [pickle] = pickles.as_slice() else {
        return Err(bad(format!("it holds {} pickles, expected one", pickles.len())));
    };
    let root = pickle.name.strip_suffix(PICKLE).unwrap_or_default();
    let members: HashMap<&str, &Member> =
        members.iter().filter_map(|m| Some((m.name.strip_prefix(root)?, m))).collect();
    let plain = |member: &Member| match member.deflated {
        true => Err(bad(format!("its member '{}' is compressed", member.name.escape_debug()))),
        false => Ok(member.range.clone()),
    };
    if let Some(order) = members.get("byteorder") {
        let range = plain(order)?;
        let text =
            Cursor::within(source, range.clone())?.bytes((range.end - range.start).min(64))?;
        if text.trim_ascii() != b"little" {
            return Err(bad("its elements are big-endian; only little-endian is read".into()));
        }
    }
    let range = plain(pickle)?;
    if range.end - range.start > PICKLE_LIMIT {
        return Err(bad(format!("its pickle has more than {PICKLE_LIMIT} bytes")));
    }
    let mut cursor = Cursor::within(source, range)?;
    let found = Pickle::read(&mut cursor, source.path())?.tensors(source.path())?;
    let storages = |storage: &Storage| {
        let name = format!("data/{}", storage.key);
        let member = members.get(name.as_str());
        let member = member.ok_or_else(|| {
            bad(format!("its storage '{}' is missing", storage.key.escape_debug()))
        })?;
        plain(member)
    };
    placed(source, found, storages)
}

fn legacy(source: &Source) -> Result<Read> {
    let bad = |why: &str| malformed(source, why);
    let limit = source.size().min(PICKLE_LIMIT);
    let mut cursor = Cursor::within(source, 0..limit)?;
    let pickle = |cursor: &mut Cursor| Pickle::read(cursor, source.path());
    if pickle(&mut cursor)?.long() != Some(&LEGACY_MAGIC[..]) {
        return Err(bad("it is a pickle, and not one of torch.save"));
    }
    if pickle(&mut cursor)?.int() != Some(1001) {
        return Err(bad("its protocol version is not 1001"));
    }
    if pickle(&mut cursor)?.flag("little_endian") != Some(true) {
        return Err(bad("its elements are big-endian; only little-endian is read"));
    }
    let root = pickle(&mut cursor)?;
    let keys = pickle(&mut cursor)?.texts();
    let keys = keys.ok_or_else(|| bad("it does not list its storages"))?;
    // Each storage is the number of its elements, and the elements.
    let sizes: HashMap<String, u64> = root.storages().map(|s| (s.key, s.element_size)).collect();
    let mut ranges: HashMap<String, Range<u64>> = HashMap::new();
    let mut cursor = Cursor::new(source, cursor.position(), source.size())?;
    for key in keys {
        let size = sizes.get(&key);
        let size = size.ok_or_else(|| bad("it lists a storage that no tensor has"))?;
        let length = cursor.u64()?.checked_mul(*size);
        let length = length.ok_or_else(|| bad("a storage ends past 64 bits"))?;
        let start = cursor.position();
        cursor.skip(length)?;
        ranges.insert(key, start..start + length);
    }
    let found = root.tensors(source.path())?;
    placed(source, found, |storage| {
        let range = ranges.get(&storage.key).cloned();
        range.ok_or_else(|| bad("a tensor has a storage that the file does not list"))
    })
}

/// The tensors of a pickle in the file, each checked against its storage.
fn placed(
    source: &Source,
    found: Vec<Found>,
    range_of: impl Fn(&Storage) -> Result<Range<u64>>,
) -> Result<Read> {
    let mut names = HashSet::with_capacity(found.len());
    let mut holders: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut stored = Vec::with_capacity(found.len());
    for tensor in &found {
        let fail = |problem| CheckpointError::of_tensor(source.path(), &tensor.name, problem);
        let lie = |why| fail(Problem::Malformed { format: "PyTorch", why });
        if !names.insert(tensor.name.as_str()) {
            return Err(fail(Problem::DuplicateTensor));
        }
        let shape = Shape::new(tensor.shape.as_slice())
            .ok_or_else(|| fail(Problem::ShapeOverflow { shape: tensor.shape.clone() }))?;
        let storage = &tensor.storage;
        let range = range_of(storage)?;
        let length = range.end - range.start;
        let size = tensor.element_size;
        if storage.elements.checked_mul(storage.element_size).is_none_or(|bytes| bytes > length) {
            return Err(lie(format!(
                "its storage claims {} elements of {} bytes, the file has {length} bytes",
                storage.elements, storage.element_size
            )));
        }
        let offset = tensor.offset.saturating_add(storage.offset);
        let view = View::new(shape.clone(), size, offset, &tensor.strides, length).map_err(lie)?;
        let start = range.start;
        let whole = Stored::new(tensor.name.clone(), tensor.dtype.clone(), shape, range);
        stored.push(match view.is_contiguous() {
            true => {
                let start = (whole.range.start + view.offset()).min(whole.range.end);
                Stored { range: start..start + view.bytes(), ..whole }
            }
            false => Stored { access: indirect(view), ..whole },
        });
        holders.entry(start).or_default().push(&tensor.name);
    }
    let shared = holders.values().filter(|names| names.len() > 1);
    let metadata = shared.map(|names| ("one storage for".to_owned(), names.join(", ")));
    Ok((metadata.collect(), stored))
}

fn indirect(view: View) -> Access {
    let (data, bytes) = (Data::File, view.bytes());
    Access::Indirect(Indirect { data, bytes, view: Some(view), conversion: None }.into())
}

#[cfg(test)]
mod tests;
