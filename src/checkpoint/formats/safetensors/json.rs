//! Parses headers with a general JSON parser, and explains what is wrong with invalid ones.

use crate::checkpoint::error::Problem;
use crate::checkpoint::formats::safetensors::{RawHeader, RawTensor};
use crate::checkpoint::json_text::Text;
use crate::tensor::{Dims, Names};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Name and problem of the first invalid tensor.
type InvalidTensor = (String, Problem);

pub(super) fn read(text: &str) -> serde_json::Result<(RawHeader, Option<InvalidTensor>)> {
    let mut json = serde_json::Deserializer::from_str(text);
    let reading = HeaderReader { header: RawHeader::with_room_for(text), lie: None };
    let HeaderReader { header, lie } = json.deserialize_map(reading)?;
    json.end().map(|()| (header, lie))
}

struct HeaderReader {
    header: RawHeader,
    lie: Option<InvalidTensor>,
}

#[derive(Deserialize)]
struct JsonTensor<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: JsonShape,
    data_offsets: (u64, u64),
}

struct JsonShape(Dims);

impl<'de> Deserialize<'de> for JsonShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DimsVisitor;
        impl<'de> Visitor<'de> for DimsVisitor {
            type Value = JsonShape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut dims = Dims::default();
                while let Some(dim) = list.next_element()? {
                    dims.push(dim);
                }
                Ok(JsonShape(dims))
            }
        }
        deserializer.deserialize_seq(DimsVisitor)
    }
}

/// Adds the parsed entries to the value.
impl<'de> Visitor<'de> for HeaderReader {
    type Value = HeaderReader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<HeaderReader, A::Error> {
        let mut names = Names::default();
        while let Some(Text(name)) = map.next_key()? {
            if name == "__metadata__" {
                let Pairs(pairs) = map.next_value::<Option<Pairs>>()?.unwrap_or_default();
                if self.header.metadata.replace(pairs).is_some() {
                    return Err(A::Error::custom("two __metadata__ objects"));
                }
            } else {
                let tensor: JsonTensor = map.next_value().map_err(|e| {
                    A::Error::custom(format!("tensor '{}': {e}", name.escape_debug()))
                })?;
                let JsonTensor { dtype, shape: JsonShape(dims), data_offsets: offsets } = tensor;
                match (RawTensor { dtype, dims, offsets }).checked(&name, &mut names) {
                    Ok(tensor) => self.header.tensors.push(tensor),
                    Err(lie) => _ = self.lie.get_or_insert((name.into_owned(), lie)),
                }
            }
        }
        names.finish();
        Ok(self)
    }
}

/// An object of strings, in file order.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}
