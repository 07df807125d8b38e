//! Bytes stored inside a pickle: raw, with escapes, or as Latin-1 text.

use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Pickle, Value, ValueId};
use crate::checkpoint::formats::region::Region;
use crate::checkpoint::io::source::Source;
use std::cell::Cell;

/// Maximum total bytes of payloads that must be decoded into memory.
const DECODED_LIMIT: u64 = 64 << 20;

const SHORT_TEXT: u64 = 64;

pub(super) struct Payloads<'a> {
    source: &'a Source,
    pickle: &'a Pickle,
    decoded: Cell<u64>,
}

impl<'a> Payloads<'a> {
    pub(super) fn new(source: &'a Source, pickle: &'a Pickle) -> Payloads<'a> {
        Payloads { source, pickle, decoded: Cell::new(0) }
    }

    /// Returns the bytes of a value, or the reason why there are none.
    pub(super) fn region(&self, id: ValueId) -> Result<Region, String> {
        match self.pickle.value(id) {
            &Value::Bytes { start, length } => Ok(self.pickle.region(start, length)),
            Value::DecodedBytes(bytes) => self.in_memory(bytes.to_vec()),
            // Python 2 text is bytes.
            Value::Text(text) => self.in_memory(text.as_bytes().to_vec()),
            Value::Object(object) => {
                match (self.pickle.global(object.callee), &*object.arguments) {
                    (Some(("_codecs", "encode")), [text, ..]) => self.latin1(*text),
                    (Some(("builtins" | "__builtin__", "bytes" | "bytearray")), []) => {
                        self.in_memory(Vec::new())
                    }
                    (Some(("builtins" | "__builtin__", "bytearray")), [inner, ..]) => {
                        match self.pickle.value(*inner) {
                            Value::Text(_) | Value::LongText { .. } => self.latin1(*inner),
                            Value::Object(_) => self.encoded(*inner),
                            _ => self.region(*inner),
                        }
                    }
                    _ => Err("its bytes are created by an unknown call".to_owned()),
                }
            }
            _ => Err("its bytes are not in the file".to_owned()),
        }
    }

    /// Returns a few bytes as text.
    pub(super) fn short_text(&self, id: ValueId) -> Option<String> {
        let bytes = self.region(id).ok()?.read(self.source, SHORT_TEXT).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Returns the bytes of `_codecs.encode(text, 'latin1')`.
    fn encoded(&self, id: ValueId) -> Result<Region, String> {
        match self.pickle.value(id) {
            Value::Object(object)
                if self.pickle.global(object.callee) == Some(("_codecs", "encode")) =>
            {
                let text = object.arguments.first();
                self.latin1(*text.ok_or("its bytes are not in the file")?)
            }
            _ => Err("its bytes are created by an unknown call".to_owned()),
        }
    }

    fn latin1(&self, id: ValueId) -> Result<Region, String> {
        let beyond = || "its bytes are text that is not Latin-1".to_owned();
        match self.pickle.value(id) {
            Value::Text(text) => self.in_memory(text::latin1(text).ok_or_else(beyond)?),
            &Value::LongText { start, length } => {
                self.take(length)?;
                let read = self.pickle.region(start, length).read(self.source, length);
                let bytes = read.map_err(|e| e.problem.to_string())?;
                let text = std::str::from_utf8(&bytes).map_err(|_| beyond())?;
                Ok(Region::memory(text::latin1(text).ok_or_else(beyond)?))
            }
            _ => Err("its bytes are not in the file".to_owned()),
        }
    }

    fn in_memory(&self, bytes: Vec<u8>) -> Result<Region, String> {
        self.take(bytes.len() as u64)?;
        Ok(Region::memory(bytes))
    }

    /// Counts bytes that are decoded into memory.
    ///
    /// # Errors
    ///
    /// The limit is exceeded.
    fn take(&self, bytes: u64) -> Result<(), String> {
        let decoded = self.decoded.get().saturating_add(bytes);
        if decoded > DECODED_LIMIT {
            return Err(format!(
                "its bytes are stored as text, more than the limit of {DECODED_LIMIT} bytes; save the file again with pickle protocol 3 or later"
            ));
        }
        self.decoded.set(decoded);
        Ok(())
    }
}
