//! The codes that occur in rows.

use crate::quantization::preset::Preset;
use crate::quantization::presets::pack::{code_bits, negative_zero, packed_offset};
use crate::quantization::statistics::LevelSet;

/// The codes seen so far.
#[derive(Clone, Debug)]
pub(crate) struct SeenCodes {
    preset: Preset,
    /// A flag for each code. Setting flags is faster than setting bits.
    seen: [bool; 256],
    /// Whether every code of a preset of 4 bits was seen, so that nothing is left to mark.
    is_complete: bool,
}

impl SeenCodes {
    pub(crate) fn new(preset: Preset) -> SeenCodes {
        SeenCodes { preset, seen: [false; 256], is_complete: false }
    }

    /// Marks the codes of a row.
    pub(crate) fn mark(&mut self, codes: &[u8]) {
        if self.is_complete {
            return;
        }
        codes.iter().for_each(|&code| self.seen[usize::from(code)] = true);
        if code_bits(self.preset) == 4 {
            let possible = if negative_zero(self.preset).is_some() { 15 } else { 16 };
            self.is_complete = self.levels().count() == possible;
        }
    }

    /// The codes in their stored form. Both zeros count as one.
    pub(crate) fn levels(&self) -> LevelSet {
        let (offset, negative_zero) = (packed_offset(self.preset), negative_zero(self.preset));
        let codes = (0..=u8::MAX).filter(|&code| self.seen[usize::from(code)]);
        let stored = |code: u8| {
            if negative_zero == Some(code) { 0 } else { code.wrapping_add(offset) }
        };
        codes.map(stored).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_zeros_are_one_code() {
        for (preset, codes, count) in [
            (Preset::Nvfp4A16, [0, 8, 1], 2),
            (Preset::Fp8Dynamic, [0, 0x80, 8], 2),
            (Preset::W8A8, [0, 0x80, 8], 3),
        ] {
            let mut seen = SeenCodes::new(preset);
            seen.mark(&codes);
            assert_eq!(seen.levels().count(), count, "{preset}");
        }
    }

    #[test]
    fn all_codes_of_four_bits_are_found() {
        let mut seen = SeenCodes::new(Preset::W4A16(128));
        let codes: Vec<u8> = (-8i8..8).map(|level| level as u8).collect();
        seen.mark(&codes);
        assert!(seen.is_complete);
        assert_eq!(seen.levels(), (0..16).collect());
    }
}
