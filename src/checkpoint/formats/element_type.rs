//! The element types of PyTorch and NumPy, by the names used in their files.

use crate::checkpoint::access::{Conversion, SignChange};
use crate::tensor::DType;

/// An element type whose size is a whole number of bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ElementType {
    pub dtype: DType,
    /// Bytes of one element.
    pub size: u64,
    pub kind: ElementKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementKind {
    Float,
    Integer,
    /// Two floats: the real and the imaginary part.
    Complex,
    /// Bytes that are neither negated nor byte-swapped.
    Opaque,
}

/// PyTorch's flags for tensors whose elements are to be changed on reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LazyBits {
    pub negative: bool,
    pub conjugate: bool,
}

impl ElementType {
    fn new(dtype: DType, kind: ElementKind) -> Option<ElementType> {
        let size = dtype.bytes_for(1)?;
        Some(ElementType { dtype, size, kind })
    }

    fn other(name: &str, size: u64, kind: ElementKind) -> Option<ElementType> {
        Some(ElementType { dtype: DType::Other(name.into()), size, kind })
    }

    /// Returns the conversion applied on reading, or the reason why it is not possible.
    pub(crate) fn conversion(
        &self,
        big_endian: bool,
        bits: LazyBits,
    ) -> Result<Option<Conversion>, String> {
        let number = if self.kind == ElementKind::Complex { self.size / 2 } else { self.size };
        let swap_bytes = big_endian && number > 1;
        let conjugate = bits.conjugate && self.kind == ElementKind::Complex;
        let sign = match (bits.negative, conjugate, self.kind) {
            (true, _, ElementKind::Opaque) => {
                return Err(format!("it has the negative bit, and its type is {}", self.dtype));
            }
            (false, false, _) => SignChange::None,
            (true, false, ElementKind::Integer) => SignChange::NegateIntegers,
            (true, false, _) => SignChange::NegateFloats,
            (false, true, _) => SignChange::Conjugate,
            (true, true, _) => SignChange::NegateConjugate,
        };
        let conversion = Conversion { element: self.size, number, swap_bytes, sign };
        Ok((swap_bytes || sign != SignChange::None).then_some(conversion))
    }
}

/// Returns the element type of a storage class such as `FloatStorage`.
pub(crate) fn of_storage_class(class: &str) -> Option<ElementType> {
    let name = class.strip_suffix("Storage")?;
    match name {
        "Double" => torch("float64"),
        "Float" => torch("float32"),
        "Half" => torch("float16"),
        "BFloat16" => torch("bfloat16"),
        "Long" => torch("int64"),
        "Int" => torch("int32"),
        "Short" => torch("int16"),
        "Char" => torch("int8"),
        "Byte" => torch("uint8"),
        "Bool" => torch("bool"),
        "ComplexFloat" => torch("complex64"),
        "ComplexDouble" => torch("complex128"),
        "QInt8" => torch("qint8"),
        "QUInt8" => torch("quint8"),
        "QInt32" => torch("qint32"),
        "QUInt4x2" => torch("quint4x2"),
        "QUInt2x4" => torch("quint2x4"),
        _ => None,
    }
}

/// Returns the element type of a tensor class of PyTorch 0.1, such as `FloatTensor`.
pub(crate) fn of_tensor_class(class: &str) -> Option<ElementType> {
    of_storage_class(&format!("{}Storage", class.strip_suffix("Tensor")?))
}

/// Returns an element type by its torch name.
pub(crate) fn torch(name: &str) -> Option<ElementType> {
    use ElementKind::{Complex, Float, Integer, Opaque};
    match name {
        "float64" | "double" => ElementType::new(DType::F64, Float),
        "float32" | "float" => ElementType::new(DType::F32, Float),
        "float16" | "half" => ElementType::new(DType::F16, Float),
        "bfloat16" => ElementType::new(DType::BF16, Float),
        "int64" | "long" => ElementType::new(DType::I64, Integer),
        "int32" | "int" => ElementType::new(DType::I32, Integer),
        "int16" | "short" => ElementType::new(DType::I16, Integer),
        "int8" => ElementType::new(DType::I8, Integer),
        "uint64" => ElementType::new(DType::U64, Integer),
        "uint32" => ElementType::new(DType::U32, Integer),
        "uint16" => ElementType::new(DType::U16, Integer),
        "uint8" => ElementType::new(DType::U8, Integer),
        "bool" => ElementType::new(DType::Bool, Opaque),
        "complex64" | "cfloat" => ElementType::new(DType::C64, Complex),
        "complex128" | "cdouble" => ElementType::other("C128", 16, Complex),
        "complex32" | "chalf" => ElementType::other("C32", 4, Complex),
        "float8_e4m3fn" => ElementType::new(DType::F8E4M3, Opaque),
        "float8_e5m2" => ElementType::new(DType::F8E5M2, Opaque),
        "float8_e4m3fnuz" => ElementType::new(DType::F8E4M3Fnuz, Opaque),
        "float8_e5m2fnuz" => ElementType::new(DType::F8E5M2Fnuz, Opaque),
        "float8_e8m0fnu" => ElementType::new(DType::F8E8M0, Opaque),
        "qint8" => ElementType::other("QINT8", 1, Opaque),
        "quint8" => ElementType::other("QUINT8", 1, Opaque),
        "qint32" => ElementType::other("QINT32", 4, Opaque),
        "float4_e2m1fn_x2" => ElementType::other("F4_E2M1FN_X2", 1, Opaque),
        "quint4x2" | "quint2x4" | "bits8" | "bits4x2" | "bits2x4" | "bits1x8" => {
            ElementType::other(&name.to_ascii_uppercase(), 1, Opaque)
        }
        "bits16" => ElementType::other("BITS16", 2, Opaque),
        _ => None,
    }
}

/// Returns an element type by NumPy's kind and size, such as `f4`.
pub(crate) fn numpy(kind: &str) -> Option<ElementType> {
    match kind {
        "f2" => torch("float16"),
        "f4" => torch("float32"),
        "f8" => torch("float64"),
        "b1" => torch("bool"),
        "i1" => torch("int8"),
        "i2" => torch("int16"),
        "i4" => torch("int32"),
        "i8" => torch("int64"),
        "u1" => torch("uint8"),
        "u2" => torch("uint16"),
        "u4" => torch("uint32"),
        "u8" => torch("uint64"),
        "c8" => torch("complex64"),
        "c16" => torch("complex128"),
        // The name used by ml_dtypes.
        "bfloat16" => torch("bfloat16"),
        _ => None,
    }
}
