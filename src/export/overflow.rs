//! Finds finite values that become infinite in a narrower type.

use crate::tensor::{FloatType, read_f64};

/// Returns index and value of the first finite element of `before` that is infinite in `after`.
/// Both hold the same elements in different types.
pub(crate) fn first(
    (from, before): (FloatType, &[u8]),
    (to, after): (FloatType, &[u8]),
) -> Option<(u64, f64)> {
    if from == to || !has_infinity(to, after) {
        return None;
    }
    (0..after.len() / to.size()).find_map(|index| {
        let value = read_f64(from, before, index).filter(|value| value.is_finite())?;
        let is_infinite = read_f64(to, after, index).is_some_and(f64::is_infinite);
        is_infinite.then_some((index as u64, value))
    })
}

/// Returns whether any element is infinite. Much faster than checking the elements one by one.
fn has_infinity(dtype: FloatType, bytes: &[u8]) -> bool {
    let any_half = |infinity: u16| {
        let all = bytes.as_chunks().0.iter().map(|&raw| u16::from_le_bytes(raw));
        all.fold(false, |found, bits| found | (bits & 0x7fff == infinity))
    };
    match dtype {
        FloatType::F16 => any_half(0x7c00),
        FloatType::BF16 => any_half(0x7f80),
        FloatType::F32 => {
            let all = bytes.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw));
            all.fold(false, |found, x| found | x.is_infinite())
        }
        FloatType::F64 => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinite_source_values_are_not_an_overflow() {
        let before: Vec<u8> =
            [1f32, f32::INFINITY, 65504.0, -70000.0, 1e9].map(f32::to_le_bytes).concat();
        let after: Vec<u8> =
            [0x3c00u16, 0x7c00, 0x7bff, 0xfc00, 0x7c00].map(u16::to_le_bytes).concat();
        let found = first((FloatType::F32, &before), (FloatType::F16, &after));
        assert_eq!(found, Some((3, -70000.0)));
        assert_eq!(first((FloatType::F16, &after), (FloatType::F16, &after)), None);
        let exact = (FloatType::F32, &before[..12]);
        assert_eq!(first(exact, (FloatType::F16, &after[..6])), None);
    }
}
