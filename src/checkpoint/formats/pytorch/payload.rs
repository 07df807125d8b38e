//! Bytes that a pickle carries itself: as they are, with escapes, or as Latin-1 text.

use crate::checkpoint::formats::pytorch::text;
use crate::checkpoint::formats::pytorch::value::{Id, Pickle, Value};
use crate::checkpoint::formats::region::Region;
use crate::checkpoint::io::source::Source;
use std::cell::Cell;

/// Bytes of all payloads that have to be decoded into memory.
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

    /// The bytes that a value stands for; `Err`: why there are none.
    pub(super) fn region(&self, id: Id) -> Result<Region, String> {
        match self.pickle.value(id) {
            &Value::Bytes { start, length } => Ok(self.pickle.region(start, length)),
            Value::DecodedBytes(bytes) => self.in_memory(bytes.to_vec()),
            // Text of Python 2 is bytes.
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
                    _ => Err("its bytes are made by a call that is not known".to_owned()),
                }
            }
            _ => Err("its bytes are not in the file".to_owned()),
        }
    }

    /// A few bytes as text.
    pub(super) fn short_text(&self, id: Id) -> Option<String> {
        let bytes = self.region(id).ok()?.read(self.source, SHORT_TEXT).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// The bytes of `_codecs.encode(text, 'latin1')`.
    fn encoded(&self, id: Id) -> Result<Region, String> {
        match self.pickle.value(id) {
            Value::Object(object)
                if self.pickle.global(object.callee) == Some(("_codecs", "encode")) =>
            {
                let text = object.arguments.first();
                self.latin1(*text.ok_or("its bytes are not in the file")?)
            }
            _ => Err("its bytes are made by a call that is not known".to_owned()),
        }
    }

    fn latin1(&self, id: Id) -> Result<Region, String> {
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
    fn take(&self, bytes: u64) -> Result<(), String> {
        let decoded = self.decoded.get().saturating_add(bytes);
        if decoded > DECODED_LIMIT {
            return Err(format!(
                "its bytes are stored as text, of which {DECODED_LIMIT} bytes are decoded at most; save the file again with pickle protocol 3 or later"
            ));
        }
        self.decoded.set(decoded);
        Ok(())
    }
}
