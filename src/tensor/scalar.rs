//! Single elements of any type, for display.

use super::{DType, read_f64};

/// The value of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// A floating-point number.
    Float(f64),
    /// An integer.
    Integer(i128),
    /// A boolean.
    Bool(bool),
}

impl Scalar {
    /// Parses one little-endian element; `None` for a type whose elements are not whole bytes or
    /// that is only known by its name.
    pub fn read(dtype: &DType, raw: &[u8]) -> Option<Scalar> {
        if let Some(float) = dtype.float() {
            return read_f64(float, raw, 0).map(Scalar::Float);
        }
        Some(match dtype {
            DType::Bool => Scalar::Bool(*raw.first()? != 0),
            DType::I8 => Scalar::Integer(i8::from_le_bytes(raw.try_into().ok()?).into()),
            DType::U8 => Scalar::Integer(u8::from_le_bytes(raw.try_into().ok()?).into()),
            DType::I16 => Scalar::Integer(i16::from_le_bytes(raw.try_into().ok()?).into()),
            DType::U16 => Scalar::Integer(u16::from_le_bytes(raw.try_into().ok()?).into()),
            DType::I32 => Scalar::Integer(i32::from_le_bytes(raw.try_into().ok()?).into()),
            DType::U32 => Scalar::Integer(u32::from_le_bytes(raw.try_into().ok()?).into()),
            DType::I64 => Scalar::Integer(i64::from_le_bytes(raw.try_into().ok()?).into()),
            DType::U64 => Scalar::Integer(u64::from_le_bytes(raw.try_into().ok()?).into()),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_by_their_type() {
        let read = |dtype, raw: &[u8]| Scalar::read(&dtype, raw);
        assert_eq!(read(DType::I8, &[0x80]), Some(Scalar::Integer(-128)));
        assert_eq!(read(DType::U8, &[0x80]), Some(Scalar::Integer(128)));
        assert_eq!(read(DType::BF16, &[0x80, 0xbf]), Some(Scalar::Float(-1.0)));
        let largest = u64::MAX.to_le_bytes();
        assert_eq!(read(DType::U64, &largest), Some(Scalar::Integer(u64::MAX.into())));
        assert_eq!(read(DType::Bool, &[2]), Some(Scalar::Bool(true)));
        assert_eq!(read(DType::I16, &[1]), None);
        assert_eq!(read(DType::F4, &[1]), None);
    }
}
