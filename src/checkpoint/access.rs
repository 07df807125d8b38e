//! Location of a stored tensor's elements, conversions on reading, and the tensor's role in the
//! model.

use crate::checkpoint::strided::StridedView;
use crate::checkpoint::tensor_parts::TensorParts;
use std::sync::Arc;

/// How the elements of a stored tensor are read.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// The elements fill the tensor's byte range, in row-major order.
    Direct,
    /// The elements are gathered, inflated, converted or in memory.
    Indirect(Box<Indirect>),
    /// The elements cannot be read, for the given reason. The tensor is only listed.
    Unreadable(Box<str>),
}

/// Elements that are not a contiguous byte range of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Indirect {
    /// The bytes that contain the elements.
    pub data: Data,
    /// Size of all elements in bytes.
    pub bytes: u64,
    /// The elements' strided view of `data`; `None` if they are its first `bytes` bytes.
    pub view: Option<StridedView>,
    /// Conversion applied after reading.
    pub conversion: Option<Conversion>,
}

/// The bytes that contain the elements.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Data {
    /// The tensor's range of the file.
    File,
    /// The inflated content of the tensor's range: `size` bytes after the first `skip`.
    Deflated { skip: u64, size: u64 },
    /// Bytes decoded when the file was opened, from byte `start`.
    Memory { bytes: Arc<[u8]>, start: u64 },
    /// Parts in one or more files.
    Parts(Arc<TensorParts>),
}

/// A conversion of every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Bytes of one element.
    pub element: u64,
    /// Size of one number in bytes: half an element for complex numbers.
    pub number: u64,
    /// Whether numbers are stored big-endian.
    pub swap_bytes: bool,
    /// The change of sign.
    pub sign: SignChange,
}

/// A change of sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignChange {
    /// Keeps the sign.
    None,
    /// Negates floating-point numbers: PyTorch's negative bit.
    NegateFloats,
    /// Negates integers, wrapping around.
    NegateIntegers,
    /// Negates imaginary parts: PyTorch's conjugate bit.
    Conjugate,
    /// Negates real parts: both bits.
    NegateConjugate,
}

impl Conversion {
    /// Converts whole elements in place to little-endian numbers with the right sign.
    pub(crate) fn apply(&self, elements: &mut [u8]) {
        let number = self.number.max(1) as usize;
        for (index, bytes) in elements.chunks_exact_mut(number).enumerate() {
            if self.swap_bytes {
                bytes.reverse();
            }
            let imaginary = index % 2 == 1;
            match self.sign {
                SignChange::None => {}
                SignChange::NegateIntegers => negate(bytes),
                SignChange::NegateFloats => flip_sign(bytes),
                SignChange::Conjugate if imaginary => flip_sign(bytes),
                SignChange::NegateConjugate if !imaginary => flip_sign(bytes),
                SignChange::Conjugate | SignChange::NegateConjugate => {}
            }
        }
    }
}

/// Flips the sign bit of a little-endian floating-point number.
fn flip_sign(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 0x80;
    }
}

/// Negates a little-endian integer in two's complement.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes {
        let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
        *byte = sum;
        carry = overflow;
    }
}

/// The role of a stored tensor in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// A weight or buffer of the network.
    #[default]
    Network,
    /// State of an optimizer in a training checkpoint.
    Optimizer,
    /// A part of a tensor whose class is not supported, such as the scales of a torchao weight.
    Part,
    /// Other training state: the state of a random generator, a score.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_change_and_bytes_swap_number_by_number() {
        let converted = |conversion: Conversion, mut bytes: Vec<u8>| {
            conversion.apply(&mut bytes);
            bytes
        };
        let whole = |sign| Conversion { element: 4, number: 4, swap_bytes: false, sign };
        let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let negated: Vec<u8> = [-1.5f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(converted(whole(SignChange::NegateFloats), floats.clone()), negated);
        for x in [0, 1, -1, i32::MIN, 65_536] {
            let bytes = converted(whole(SignChange::NegateIntegers), x.to_le_bytes().to_vec());
            assert_eq!(bytes, x.wrapping_neg().to_le_bytes());
        }
        let pair = |sign| Conversion { element: 8, ..whole(sign) };
        let conjugate: Vec<u8> = [1.5f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(converted(pair(SignChange::Conjugate), floats.clone()), conjugate);
        let both: Vec<u8> = [-1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(converted(pair(SignChange::NegateConjugate), floats.clone()), both);
        let swapped = Conversion { swap_bytes: true, ..whole(SignChange::None) };
        let big: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
        assert_eq!(converted(swapped, big), floats);
    }
}
