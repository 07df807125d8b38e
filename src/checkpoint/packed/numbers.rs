//! Scales and their like: stored tensors of any float type, read as F32; and the values of
//! the small float types by their codes.

use crate::checkpoint::error::{CheckpointError, Problem, Result};
use crate::checkpoint::packed::listing::Part;
use crate::checkpoint::reader::Reader;
use crate::checkpoint::{Stored, StoredId};
use crate::tensor::{DType, FloatType, read_f64};
use std::ops::Range;
use std::sync::LazyLock;

/// The value of every code of an 8-bit type.
pub(super) type Table = [f32; 256];

/// The values of an 8-bit float type's codes; `None` for any other type.
pub(super) fn table(dtype: &DType) -> Option<&'static Table> {
    static E4M3: LazyLock<Table> = LazyLock::new(|| minifloats(4, 7, Special::NanAtAllOnes));
    static E5M2: LazyLock<Table> = LazyLock::new(|| minifloats(5, 15, Special::Ieee));
    static E4M3_FNUZ: LazyLock<Table> = LazyLock::new(|| minifloats(4, 8, Special::NanAtMinusZero));
    static E5M2_FNUZ: LazyLock<Table> =
        LazyLock::new(|| minifloats(5, 16, Special::NanAtMinusZero));
    static E8M0: LazyLock<Table> = LazyLock::new(|| {
        std::array::from_fn(|code| match code {
            255 => f32::NAN,
            _ => 2f64.powi(code as i32 - 127) as f32,
        })
    });
    match dtype {
        DType::F8E4M3 => Some(&E4M3),
        DType::F8E5M2 => Some(&E5M2),
        DType::F8E4M3Fnuz => Some(&E4M3_FNUZ),
        DType::F8E5M2Fnuz => Some(&E5M2_FNUZ),
        DType::F8E8M0 => Some(&E8M0),
        _ => None,
    }
}

/// The values of the codes of FP4 E2M1.
pub(super) const FP4: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

#[derive(Clone, Copy, PartialEq)]
enum Special {
    /// Infinities and NaN as in the larger IEEE types.
    Ieee,
    /// No infinities; all ones are NaN.
    NanAtAllOnes,
    /// No infinities, no minus zero: its code is NaN.
    NanAtMinusZero,
}

/// The values of an 8-bit float with so many exponent bits and this bias.
fn minifloats(exponent_bits: u32, bias: i32, special: Special) -> Table {
    let mantissa_bits = 7 - exponent_bits;
    std::array::from_fn(|code| {
        let code = code as u32;
        let mantissa = code & ((1 << mantissa_bits) - 1);
        let exponent = (code & 0x7F) >> mantissa_bits;
        let ones = exponent == (1 << exponent_bits) - 1;
        let magnitude = match special {
            Special::Ieee if ones && mantissa == 0 => f64::INFINITY,
            Special::Ieee if ones => f64::NAN,
            Special::NanAtAllOnes if code & 0x7F == 0x7F => f64::NAN,
            Special::NanAtMinusZero if code == 0x80 => f64::NAN,
            _ => {
                let hidden = if exponent == 0 { 0 } else { 1 << mantissa_bits };
                let power = exponent.max(1) as i32 - bias - mantissa_bits as i32;
                f64::from(hidden + mantissa) * 2f64.powi(power)
            }
        };
        (if code & 0x80 == 0 { magnitude } else { -magnitude }) as f32
    })
}

/// A stored tensor of numbers that are read as F32.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub id: StoredId,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Float(FloatType),
    Small(&'static Table),
}

impl Numbers {
    /// The numbers of a part, or the sentence that it holds none.
    pub(super) fn new(part: Part, what: &str) -> Result<Numbers, String> {
        let Stored { name, dtype, .. } = part.stored;
        let kind = match (dtype.float(), table(dtype)) {
            (Some(float), _) => Kind::Float(float),
            (_, Some(table)) => Kind::Small(table),
            _ => {
                let name = name.escape_debug();
                return Err(format!("its {what} '{name}' are {dtype}, expected floats"));
            }
        };
        Ok(Numbers { id: part.id, kind })
    }

    /// U8 exponents of two, biased by 127.
    pub(super) fn exponents(part: Part, what: &str) -> Result<Numbers, String> {
        part.typed(what, &[DType::U8, DType::F8E8M0])?;
        let table = table(&DType::F8E8M0).ok_or("its scales have no values")?;
        Ok(Numbers { id: part.id, kind: Kind::Small(table) })
    }

    /// Bytes of one number.
    pub(super) fn size(&self) -> u64 {
        match self.kind {
            Kind::Float(float) => float.size() as u64,
            Kind::Small(_) => 1,
        }
    }

    /// The numbers that `bytes` hold.
    pub(super) fn parse(&self, bytes: &[u8]) -> Vec<f32> {
        match self.kind {
            Kind::Small(table) => bytes.iter().map(|&code| table[usize::from(code)]).collect(),
            Kind::Float(float) => (0..bytes.len() / float.size())
                .map(|i| read_f64(float, bytes, i).map_or(f32::NAN, |x| x as f32))
                .collect(),
        }
    }

    /// The numbers of `range`.
    pub(super) fn read(&self, reader: &mut Reader, range: Range<u64>) -> Result<Vec<f32>> {
        let mut bytes = Vec::new();
        let size = self.size();
        reader.stored_into(self.id, range.start * size..range.end * size, &mut bytes)?;
        Ok(self.parse(&bytes))
    }
}

/// The I32 indices `range` of a part, or the sentence that one is not below `limit`.
pub(super) fn indices(
    reader: &mut Reader,
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
            let checkpoint = reader.checkpoint();
            let stored = checkpoint.stored(id);
            let why = format!("it holds the index {index}, expected 0 to below {limit}");
            let path = checkpoint.path();
            Err(CheckpointError::of_tensor(path, &stored.name, Problem::Layout(why)))
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_have_the_values_their_standards_give() {
        let value = |dtype, code: usize| table(&dtype).expect("a table")[code];
        assert_eq!(value(DType::F8E4M3, 0x7E), 448.0);
        assert_eq!(value(DType::F8E4M3, 0x01), 2f32.powi(-9));
        assert_eq!(value(DType::F8E4M3, 0xB8), -1.0);
        assert!(value(DType::F8E4M3, 0xFF).is_nan());
        assert_eq!(value(DType::F8E5M2, 0x7B), 57344.0);
        assert_eq!(value(DType::F8E5M2, 0xFC), f32::NEG_INFINITY);
        assert_eq!(value(DType::F8E5M2, 0x01), 2f32.powi(-16));
        assert_eq!(value(DType::F8E4M3Fnuz, 0x7F), 240.0);
        assert!(value(DType::F8E4M3Fnuz, 0x80).is_nan());
        assert_eq!(value(DType::F8E5M2Fnuz, 0x7F), 57344.0);
        assert_eq!(value(DType::F8E8M0, 127), 1.0);
        assert_eq!(value(DType::F8E8M0, 0), 2f32.powi(-127));
    }

    #[test]
    fn e4m3_is_what_the_kernels_measure() {
        let values = table(&DType::F8E4M3).expect("a table");
        for code in 0..=255u8 {
            let kernel = crate::quantization::kernels::f8e4m3_value(code);
            assert_eq!(values[usize::from(code)].to_bits() << 1, kernel.to_bits() << 1, "{code}");
        }
    }
}
