//! The codes that occur among the levels of rows.

use crate::quantization::kernels::{LANES, Loop, run_loop};
use crate::quantization::preset::Preset;
use crate::quantization::presets::pack::{code, code_bits};
use crate::quantization::quantization_type::QuantizationType;
use crate::quantization::statistics::LevelSet;

/// The stored codes of the levels marked so far. Both zeros count as one.
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

    /// Marks the codes of levels.
    pub(crate) fn mark(&mut self, levels: &[f32]) {
        if self.is_complete {
            return;
        }
        run_loop(Mark { preset: self.preset, levels, seen: &mut self.seen });
        if code_bits(self.preset) == 4 {
            // Negative zero is marked as zero.
            let is_float = self.preset.quantization_type() == QuantizationType::F4E2M1;
            let mut codes = self.seen.iter().take(16).zip(0u8..);
            self.is_complete = codes.all(|(&seen, code)| seen || (is_float && code == 8));
        }
    }

    /// The marked codes.
    pub(crate) fn levels(&self) -> LevelSet {
        (0..=u8::MAX).filter(|&code| self.seen[usize::from(code)]).collect()
    }
}

/// The loop that marks the codes of levels.
struct Mark<'a> {
    preset: Preset,
    levels: &'a [f32],
    seen: &'a mut [bool; 256],
}

impl Loop for Mark<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Mark { preset, levels, seen } = self;
        let (whole, rest) = levels.as_chunks::<LANES>();
        for levels in whole {
            let mut codes = [0u8; LANES];
            for i in 0..LANES {
                codes[i] = code(preset, levels[i] + 0.0);
            }
            codes.iter().for_each(|&code| seen[usize::from(code)] = true);
        }
        rest.iter().for_each(|level| seen[usize::from(code(preset, level + 0.0))] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_zeros_are_one_code_and_all_codes_are_found() {
        for preset in [Preset::W4A16(128), Preset::Nvfp4A16, Preset::W8A8, Preset::Fp8Dynamic] {
            let mut seen = SeenCodes::new(preset);
            seen.mark(&[0.0, -0.0, 1.0]);
            assert_eq!(seen.levels().count(), 2, "{preset}");
        }
        let mut seen = SeenCodes::new(Preset::W4A16(128));
        let levels: Vec<f32> = (-8..8).map(|level| level as f32).collect();
        seen.mark(&levels);
        assert!(seen.is_complete);
        seen.mark(&levels);
        assert_eq!(seen.levels().count(), 16);
        let mut seen = SeenCodes::new(Preset::Mxfp4A16);
        seen.mark(&[0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert!(!seen.is_complete);
        seen.mark(&[-0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]);
        assert!(seen.is_complete);
        assert_eq!(seen.levels().count(), 15);
    }
}
