//! Reads the first bytes of a stored tensor while the checkpoint is being opened.

use crate::checkpoint::access::Access;
use crate::checkpoint::stored::{Shard, Stored};

/// Reads the first `length` bytes of a stored tensor, or all if it is shorter.
pub(super) fn read_start(
    shards: &[Shard],
    stored: &Stored,
    length: u64,
) -> Result<Vec<u8>, String> {
    let Some(shard) = shards.get(stored.shard as usize) else { return Ok(Vec::new()) };
    if stored.access != Access::Direct {
        return Err(format!("'{}' is not stored contiguously", stored.name.escape_debug()));
    }
    let mut bytes = vec![0; length.min(stored.bytes()) as usize];
    let read = shard
        .source
        .open()
        .and_then(|handle| shard.source.read_exact(&handle, &mut bytes, stored.range.start));
    match read {
        Ok(()) => Ok(bytes),
        Err(error) => Err(format!("'{}' cannot be read: {error}", stored.name.escape_debug())),
    }
}
