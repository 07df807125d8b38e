//! Opens written files with the library that owns their format.
//!
//! quantscope's own reader opens every output too, but would not notice a mistake that reader and
//! writer share.

use crate::checkpoint::io::files;
use ::safetensors::tensor::{Dtype, Metadata};
use std::io::Read;
use std::path::Path;

/// Opens a safetensors file with the `safetensors` crate. Returns the reason if it does not open.
///
/// Only the header is read, so that memory is bounded by it. A file with a type unknown to the
/// crate is accepted: such tensors are copied from the source, which the crate rejects as well.
pub(crate) fn safetensors(path: &Path) -> Result<(), String> {
    let mut file = files::open(path).map_err(|e| e.to_string())?;
    let length = files::size(path).map_err(|e| e.to_string())?;
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix).map_err(|e| e.to_string())?;
    let header_length = u64::from_le_bytes(prefix);
    let mut header = Vec::new();
    file.take(header_length).read_to_end(&mut header).map_err(|e| e.to_string())?;
    let refused = |why: String| format!("the safetensors crate does not open it: {why}");
    let metadata = match serde_json::from_slice::<Metadata>(&header) {
        Ok(metadata) => metadata,
        Err(_) if has_unknown_type(&header) => return Ok(()),
        Err(why) => return Err(refused(why.to_string())),
    };
    let expected = metadata.data_len() as u64 + header_length + prefix.len() as u64;
    if length != expected {
        return Err(refused(format!("it has {length} bytes, its header describes {expected}")));
    }
    Ok(())
}

/// Returns whether a valid JSON header has a type that the crate does not know.
fn has_unknown_type(header: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(header)) = serde_json::from_slice(header) else {
        return false;
    };
    let mut types = header.values().filter_map(|tensor| tensor.get("dtype"));
    types.any(|dtype| serde_json::from_value::<Dtype>(dtype.clone()).is_err())
}
