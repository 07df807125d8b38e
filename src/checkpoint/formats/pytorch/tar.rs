//! Tar archives of PyTorch 0.1: members `pickle`, `tensors` and `storages`.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::element_type;
use crate::checkpoint::formats::pytorch::machine;
use crate::checkpoint::formats::pytorch::value::{Object, Pickle, Value, ValueId};
use crate::checkpoint::formats::region::{ByteReader, Region};
use crate::checkpoint::io::source::Source;
use std::collections::HashMap;

/// Size of a header in bytes. Contents are padded to a multiple of it.
const TAR_BLOCK_BYTES: u64 = 512;

/// Offset of the magic number in a header.
const MAGIC_OFFSET: u64 = 257;
const MAGIC: [u8; 5] = *b"ustar";

const MEMBER_LIMIT: usize = 64;
const TENSOR_LIMIT: i64 = 1 << 20;

/// An opened archive: its pickle, in which each tensor is replaced by the call that creates it, and
/// its storages.
pub(super) struct Tar {
    pub pickle: Pickle,
    pub storages: HashMap<String, Region>,
}

/// Returns whether a file is a tar archive of PyTorch 0.1.
pub(super) fn is_tar(source: &Source) -> Result<bool> {
    if source.size() < TAR_BLOCK_BYTES {
        return Ok(false);
    }
    let mut magic = [0; MAGIC.len()];
    source.read_exact(&source.open()?, &mut magic, MAGIC_OFFSET)?;
    if magic != MAGIC {
        return Ok(false);
    }
    let members = members(source).unwrap_or_default();
    Ok(["pickle", "tensors", "storages"].iter().all(|name| members.contains_key(*name)))
}

/// A storage: its class, element count and bytes.
struct Stored {
    class: String,
    elements: u64,
    region: Region,
}

/// A tensor: the key of its storage, and its view of it.
struct Described {
    class: String,
    storage: i64,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

pub(super) fn open(source: &Source) -> Result<Tar> {
    let members = members(source)?;
    let malformed = |why: &str| {
        let problem = Problem::Malformed { format: "PyTorch", why: why.to_owned() };
        ReadError::new(source.path(), problem)
    };
    let member = |name: &str| {
        members.get(name).ok_or_else(|| malformed(&format!("it has no member '{name}'")))
    };
    let storages = storages(source, member("storages")?, &malformed)?;
    let tensors = tensors(source, member("tensors")?, &malformed)?;
    let mut reader = ByteReader::new(source, member("pickle")?, 0)?;
    let mut pickle = machine::read(&mut reader, source.path())?;
    replace_tensors(&mut pickle, &tensors, &storages);
    let storages = storages.into_iter().map(|(key, stored)| (key.to_string(), stored.region));
    Ok(Tar { pickle, storages: storages.collect() })
}

/// Lists the members of a tar archive by name.
fn members(source: &Source) -> Result<HashMap<String, Region>> {
    let handle = source.open()?;
    let mut members = HashMap::new();
    let mut at = 0u64;
    while at.saturating_add(TAR_BLOCK_BYTES) <= source.size() && members.len() < MEMBER_LIMIT {
        let mut header = [0; TAR_BLOCK_BYTES as usize];
        source.read_exact(&handle, &mut header, at)?;
        let field = |range: std::ops::Range<usize>| {
            let field = header.get(range).unwrap_or_default();
            field.split(|&byte| byte == 0).next().unwrap_or_default()
        };
        let name = String::from_utf8_lossy(field(0..100)).into_owned();
        if name.is_empty() {
            break;
        }
        let size = std::str::from_utf8(field(124..136)).ok();
        let size = size.and_then(|digits| u64::from_str_radix(digits.trim(), 8).ok());
        let start = at + TAR_BLOCK_BYTES;
        let end = size.and_then(|size| start.checked_add(size)).filter(|&end| end <= source.size());
        let Some(end) = end else {
            let why = format!("its member '{}' ends past the file", name.escape_debug());
            let problem = Problem::Malformed { format: "tar", why };
            return Err(ReadError::new(source.path(), problem));
        };
        let name = name.trim_start_matches("./").to_owned();
        members.insert(name, Region::file(start..end));
        at = end.next_multiple_of(TAR_BLOCK_BYTES);
    }
    Ok(members)
}

fn storages(
    source: &Source,
    region: &Region,
    malformed: &dyn Fn(&str) -> ReadError,
) -> Result<HashMap<i64, Stored>> {
    let mut reader = ByteReader::new(source, region, 0)?;
    let mut found = HashMap::new();
    for _ in 0..count(&mut reader, source, malformed)? {
        let said = machine::read(&mut reader, source.path())?;
        let items = said.items(said.root).unwrap_or_default();
        let [key, _, class] = items else {
            return Err(malformed("it describes a storage in an unknown form"));
        };
        let (Value::Int(key), Some((_, class))) = (said.value(*key), said.global(*class)) else {
            return Err(malformed("it describes a storage in an unknown form"));
        };
        let element = element_type::of_storage_class(class)
            .ok_or_else(|| malformed("a storage has an unknown class"))?;
        let elements = reader.u64()?;
        let length = elements.checked_mul(element.size);
        let length = length.ok_or_else(|| malformed("a storage ends past 64 bits"))?;
        let start = reader.position();
        reader.skip(length)?;
        let region = Region { base: reader.base(), start, length };
        found.insert(*key, Stored { class: class.to_owned(), elements, region });
    }
    // Storages that are views of another storage.
    if reader.remaining() > 0 {
        let views = machine::read(&mut reader, source.path())?;
        for &view in views.items(views.root).unwrap_or_default() {
            let &[target, root, offset, elements] = views.items(view).unwrap_or_default() else {
                continue;
            };
            let (Value::Int(target), Value::Int(root)) = (views.value(target), views.value(root))
            else {
                continue;
            };
            let part = found.get(root).and_then(|stored| {
                let (offset, elements) = (views.number(offset)?, views.number(elements)?);
                let size = element_type::of_storage_class(&stored.class)?.size;
                let region =
                    stored.region.slice(offset.checked_mul(size)?, elements.checked_mul(size)?)?;
                Some(Stored { class: stored.class.clone(), elements, region })
            });
            found.extend(part.map(|part| (*target, part)));
        }
    }
    Ok(found)
}

fn tensors(
    source: &Source,
    region: &Region,
    malformed: &dyn Fn(&str) -> ReadError,
) -> Result<HashMap<String, Described>> {
    let mut reader = ByteReader::new(source, region, 0)?;
    let mut found = HashMap::new();
    for _ in 0..count(&mut reader, source, malformed)? {
        let said = machine::read(&mut reader, source.path())?;
        let items = said.items(said.root).unwrap_or_default();
        let [key, storage, class] = items else {
            return Err(malformed("it describes a tensor in an unknown form"));
        };
        let (Value::Int(key), Value::Int(storage), Some((_, class))) =
            (said.value(*key), said.value(*storage), said.global(*class))
        else {
            return Err(malformed("it describes a tensor in an unknown form"));
        };
        let rank = reader.u32()?;
        reader.skip(4)?;
        let mut numbers = || (0..rank).map(|_| reader.u64()).collect::<Result<Vec<u64>>>();
        let (shape, strides) = (numbers()?, numbers()?);
        let offset = reader.u64()?;
        let class = class.to_owned();
        found.insert(
            key.to_string(),
            Described { class, storage: *storage, offset, shape, strides },
        );
    }
    Ok(found)
}

fn count(
    reader: &mut ByteReader,
    source: &Source,
    malformed: &dyn Fn(&str) -> ReadError,
) -> Result<i64> {
    match machine::read(reader, source.path())?.root() {
        &Value::Int(count @ 0..=TENSOR_LIMIT) => Ok(count),
        _ => Err(malformed("it does not say how many tensors or storages it has")),
    }
}

/// Replaces each reference to a tensor by the call that a later PyTorch 0.1 would have written.
fn replace_tensors(
    pickle: &mut Pickle,
    tensors: &HashMap<String, Described>,
    storages: &HashMap<i64, Stored>,
) {
    for place in 0..pickle.values.len() {
        let Some(&Value::Persistent(inner)) = pickle.values.get(place) else { continue };
        let key = match pickle.value(inner) {
            Value::Text(key) => key.to_string(),
            Value::Int(key) => key.to_string(),
            _ => continue,
        };
        let Some(tensor) = tensors.get(&key) else { continue };
        let Some(stored) = storages.get(&tensor.storage) else { continue };
        let mut add = |value: Value| {
            pickle.values.push(value);
            ValueId(pickle.values.len() as u32 - 1)
        };
        let mut number = |n: u64| add(Value::Int(i64::try_from(n).unwrap_or(-1)));
        let shape: Vec<ValueId> = tensor.shape.iter().map(|&n| number(n)).collect();
        let strides: Vec<ValueId> = tensor.strides.iter().map(|&n| number(n)).collect();
        let (offset, elements) = (number(tensor.offset), number(stored.elements));
        let global = |name: &str| Value::Global(("torch".to_owned(), name.to_owned()).into());
        let parts = [
            add(Value::Text("storage".into())),
            add(global(&stored.class)),
            add(Value::Text(tensor.storage.to_string().into())),
            add(Value::Text("cpu".into())),
            elements,
        ];
        let described = add(Value::Tuple(parts.into()));
        let storage = add(Value::Persistent(described));
        let (shape, strides) = (add(Value::Tuple(shape.into())), add(Value::Tuple(strides.into())));
        let state = add(Value::Tuple([storage, offset, shape, strides].into()));
        let callee = add(global(&tensor.class));
        let mut object = Object::new(callee, Box::default());
        object.states.push(state);
        if let Some(value) = pickle.values.get_mut(place) {
            *value = Value::Object(object.into());
        }
    }
}
