//! Tensors whose format is known but not decoded. They are listed and copied, but never read as
//! plain numbers.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::format::{PackedFormat, PackedTensor};
use crate::checkpoint::stored::{Stored, StoredId};
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::FloatType;
use std::ops::Range;

/// A format that is recognized but not decoded.
#[derive(Debug)]
struct Undecoded {
    format: String,
    /// Why it is not decoded; `None` if quantscope has no decoder for the format.
    reason: Option<String>,
    /// The quantized values first.
    parts: Vec<StoredId>,
    original: FloatType,
}

/// Creates a tensor with the type and shape of its values. `values` and `others` are the stored
/// tensors it consists of.
pub(super) fn undecoded(
    name: String,
    format: &str,
    reason: Option<String>,
    values: (StoredId, &Stored),
    others: &[StoredId],
    original: FloatType,
) -> PackedTensor {
    let others = others.iter().copied().filter(|&id| id != values.0);
    let format = Undecoded {
        format: format.escape_debug().to_string(),
        reason,
        parts: std::iter::once(values.0).chain(others).collect(),
        original,
    };
    PackedTensor::new(name, values.1.shape.clone(), format)
}

impl PackedFormat for Undecoded {
    fn name(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}, not decoded: {reason}", self.format),
            None => format!("{}, which quantscope does not read", self.format),
        }
    }

    fn original(&self) -> FloatType {
        self.original
    }

    fn decoded(&self) -> Option<FloatType> {
        None
    }

    fn parts(&self) -> Vec<StoredId> {
        self.parts.clone()
    }

    fn decode(&self, reader: &mut StoredReader, _: Range<u64>, _: &mut Vec<u8>) -> Result<()> {
        let values = self.parts.first().copied().unwrap_or(StoredId(0));
        Err(reader.error(values, format!("it is stored as {}", self.name())))
    }
}
