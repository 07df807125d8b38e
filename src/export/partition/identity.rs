//! Digests that identify the fragments of one output and their content: XXH3 with 128 bits, in
//! hexadecimal.

use crate::activations::Activations;
use crate::checkpoint::{Checkpoint, Stored};
use crate::export::journal::{TextHasher, plan_digest};
use crate::export::output_plan::OutputPlan;
use rayon::prelude::*;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::time::UNIX_EPOCH;
use twox_hash::XxHash3_128;

/// Tensors per parallel task. Digests depend on it.
const TENSORS_PER_TASK: usize = 4096;

/// Number of bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Returns the digest of everything read from `from`. `read` is called with every piece.
pub(crate) fn digest_of(
    from: &mut dyn Read,
    mut read: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<String> {
    let mut hasher = XxHash3_128::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => return Ok(hex(hasher.finish_128())),
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.write(bytes);
        read(bytes)?;
    }
}

/// Identifies the source: what its headers list, and the size and modification time of each
/// file, or the version that its server names. Directories do not count, because machines may
/// mount the same file system in different places.
pub(crate) fn source_identity(checkpoint: &Checkpoint) -> String {
    let mut hasher = TextHasher::default();
    add_checkpoint(checkpoint, &mut hasher);
    hex(hasher.digest())
}

/// Identifies recordings of layers' inputs in the same way.
pub(crate) fn recordings_identity(activations: &Activations) -> String {
    let mut hasher = TextHasher::default();
    activations.files().iter().for_each(|file| add_checkpoint(file, &mut hasher));
    hex(hasher.digest())
}

fn add_checkpoint(checkpoint: &Checkpoint, hasher: &mut TextHasher) {
    for shard in checkpoint.shards() {
        let modified = shard.source.modified().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let (name, size) = (shard.source.path().file_name(), shard.source.size());
        // Hashing cannot fail.
        let _ =
            writeln!(hasher, "{name:?} {size} {modified:?} {:?}", shard.source.remote_identity());
    }
    let parts = checkpoint.stored_list().par_chunks(TENSORS_PER_TASK).map(|part| {
        let mut hasher = TextHasher::default();
        for Stored { name, dtype, shape, shard, range, .. } in part {
            hasher.add_text(name);
            hasher.add_text(dtype.name());
            hasher.add_shape(shape);
            hasher.add_numbers(&[u64::from(*shard), range.start, range.end]);
        }
        hasher.digest()
    });
    for digest in parts.collect::<Vec<_>>() {
        let _ = writeln!(hasher, "{digest:x}");
    }
}

/// Identifies an analysis by everything that determines its results, given its source.
pub(crate) fn analysis_identity(what: &impl std::fmt::Debug) -> String {
    let mut hasher = TextHasher::default();
    // Hashing cannot fail.
    let _ = write!(hasher, "{what:?}");
    hex(hasher.digest())
}

/// Identifies everything that determines the bytes of an output, given its source.
pub(crate) fn plan_identity(output_plan: &OutputPlan) -> String {
    hex(plan_digest(output_plan))
}

fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}
