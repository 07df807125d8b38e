//! Scales and other small tensors, read as F32.

use crate::checkpoint::error::Result;
use crate::checkpoint::packed::listing::PartTensor;
use crate::checkpoint::stored::{Stored, StoredId};
use crate::checkpoint::stored_reader::StoredReader;
use crate::tensor::minifloat::{ValueTable, value_table};
use crate::tensor::{DType, FloatType, read_f64};
use std::ops::Range;
use std::sync::LazyLock;

/// A stored tensor that is read as F32.
#[derive(Clone, Debug)]
pub(super) struct FloatPart {
    pub id: StoredId,
    kind: NumberType,
}

#[derive(Clone, Copy, Debug)]
enum NumberType {
    Float(FloatType),
    Small(&'static ValueTable),
}

impl FloatPart {
    /// Wraps a part; an error if it does not hold floats.
    pub(super) fn new(part: PartTensor, what: &str) -> Result<FloatPart, String> {
        let Stored { name, dtype, .. } = part.stored;
        let kind = match (dtype.float(), value_table(dtype)) {
            (Some(float), _) => NumberType::Float(float),
            (_, Some(table)) => NumberType::Small(table),
            _ => {
                let name = name.escape_debug();
                return Err(format!("its {what} '{name}' are {dtype}, expected floats"));
            }
        };
        Ok(FloatPart { id: part.id, kind })
    }

    /// Wraps exponents of two with bias 127.
    pub(super) fn exponents(part: PartTensor, what: &str) -> Result<FloatPart, String> {
        FloatPart::bytes_of(part, what, DType::F8E8M0)
    }

    /// Wraps exponents of two with bias 127, where exponent 0 means the number 0.
    pub(super) fn exponents_or_zero(part: PartTensor, what: &str) -> Result<FloatPart, String> {
        static TABLE: LazyLock<ValueTable> = LazyLock::new(|| {
            let exponents = value_table(&DType::F8E8M0);
            let value = |code: usize| exponents.map_or(f32::NAN, |table| table[code]);
            std::array::from_fn(|code| if code == 0 { 0.0 } else { value(code) })
        });
        part.typed(what, &[DType::U8, DType::F8E8M0])?;
        Ok(FloatPart { id: part.id, kind: NumberType::Small(&TABLE) })
    }

    /// Wraps numbers of an 8-bit float type, stored as that type or as U8.
    pub(super) fn bytes_of(
        part: PartTensor,
        what: &str,
        dtype: DType,
    ) -> Result<FloatPart, String> {
        part.typed(what, &[dtype.clone(), DType::U8])?;
        let table = value_table(&dtype).ok_or_else(|| format!("its {what} have no values"))?;
        Ok(FloatPart { id: part.id, kind: NumberType::Small(table) })
    }

    /// Size of one number in bytes.
    pub(super) fn size(&self) -> u64 {
        match self.kind {
            NumberType::Float(float) => float.size() as u64,
            NumberType::Small(_) => 1,
        }
    }

    /// Parses the numbers in `bytes`.
    pub(super) fn parse(&self, bytes: &[u8]) -> Vec<f32> {
        match self.kind {
            NumberType::Small(table) => {
                bytes.iter().map(|&code| table[usize::from(code)]).collect()
            }
            NumberType::Float(float) => (0..bytes.len() / float.size())
                .map(|i| read_f64(float, bytes, i).map_or(f32::NAN, |x| x as f32))
                .collect(),
        }
    }

    /// Reads the numbers of `range`.
    pub(super) fn read(&self, reader: &mut StoredReader, range: Range<u64>) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        let size = self.size();
        reader.stored_into(self.id, range.start * size..range.end * size, &mut bytes)?;
        Ok(self.parse(&bytes))
    }
}

/// Reads the I32 indices `range` of a part; an error if one is not below `limit`.
pub(super) fn indices(
    reader: &mut StoredReader,
    id: StoredId,
    range: Range<u64>,
    limit: u64,
) -> Result<Vec<u64>> {
    let mut bytes = Vec::new();
    reader.stored_into(id, range.start * 4..range.end * 4, &mut bytes)?;
    let all = bytes.as_chunks::<4>().0.iter().map(|raw| i64::from(i32::from_le_bytes(*raw)));
    all.map(|index| match u64::try_from(index) {
        Ok(index) if index < limit => Ok(index),
        _ => {
            let why = format!("it holds the index {index}, expected 0 to below {limit}");
            Err(reader.error(id, why))
        }
    })
    .collect()
}
