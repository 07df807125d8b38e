//! Files of `torch.save` before PyTorch 1.6: four pickles, the keys of the storages, then the
//! storages one after another.

use crate::checkpoint::error::{Problem, ReadError, Result};
use crate::checkpoint::formats::pytorch::machine;
use crate::checkpoint::formats::pytorch::storage;
use crate::checkpoint::formats::pytorch::value::{Pickle, Value};
use crate::checkpoint::formats::region::{ByteReader, Region};
use crate::checkpoint::io::source::Source;
use std::collections::HashMap;

/// The magic number at the start of such a file, as pickled bytes.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

const VERSION: i64 = 1001;

/// An opened file: the pickle that describes the tensors, and where the storages are.
pub(super) struct Legacy {
    pub pickle: Pickle,
    pub storages: HashMap<String, Region>,
}

/// Returns whether a file's first pickle is the magic number of this format.
pub(super) fn is_magic(pickle: &Pickle) -> bool {
    matches!(pickle.root(), Value::Long(bytes) if **bytes == MAGIC)
}

/// Opens a region in this format.
pub(super) fn open(source: &Source, region: &Region, limit: u64) -> Result<Legacy> {
    let malformed = |why: &str| {
        let problem = Problem::Malformed { format: "PyTorch", why: why.to_owned() };
        ReadError::new(source.path(), problem)
    };
    let mut reader = ByteReader::new(source, region, limit)?;
    let mut next = || machine::read(&mut reader, source.path());
    if !is_magic(&next()?) {
        return Err(malformed("it does not start with the magic number of torch.save"));
    }
    if !matches!(next()?.root(), Value::Int(VERSION)) {
        return Err(malformed("its protocol version is not 1001"));
    }
    // This pickle has the writer's integer sizes and byte order. PyTorch reads and writes elements
    // as little-endian regardless.
    next()?;
    let pickle = next()?;
    let listed = next()?;
    let Some(keys) = listed.items(listed.root) else {
        return Err(malformed("it does not list its storages"));
    };
    let sizes: HashMap<String, u64> =
        storage::all(&pickle).filter_map(|s| Some((s.key, s.element.size()?))).collect();
    let mut storages = HashMap::new();
    for &key in keys {
        let key = match listed.value(key) {
            Value::Text(key) => key.to_string(),
            Value::Int(key) => key.to_string(),
            _ => return Err(malformed("it lists a storage without a key")),
        };
        // The size of a storage of unknown type is unknown, and so is the start of the next one.
        let Some(size) = sizes.get(&key) else { break };
        let length = reader.u64()?.checked_mul(*size);
        let length = length.ok_or_else(|| malformed("a storage ends past 64 bits"))?;
        let start = reader.position();
        reader.skip(length)?;
        storages.insert(key, Region { base: reader.base(), start, length });
    }
    Ok(Legacy { pickle, storages })
}
