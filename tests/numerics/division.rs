//! The kernels avoid divisions, but their results equal those of an IEEE division.

use half::{bf16, f16};
use quantscope::quantization::{Rounding, kernels};
use quantscope::tensor::FloatType;

/// A seeded xorshift64* generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A scale with an exponent from 2⁻¹⁰⁰ to 2¹⁰⁰ and a random significand.
    fn scale(&mut self) -> f32 {
        let bits = self.next();
        let exponent = 27 + (bits >> 32) as u32 % 201;
        f32::from_bits(exponent << 23 | bits as u32 & 0x7F_FFFF)
    }
}

fn divide_and_round(x: f32, scale: f32, rounding: Rounding) -> i8 {
    let quotient = x / scale;
    let rounded = match rounding {
        Rounding::HalfEven => quotient.round_ties_even(),
        Rounding::HalfAway => quotient.round(),
    };
    rounded.clamp(-127.0, 127.0) as i8
}

fn assert_quantized(dtype: FloatType, bytes: &[u8], values: &[f32], scale: f32) {
    let mut found = vec![0i8; values.len()];
    for rounding in [Rounding::HalfEven, Rounding::HalfAway] {
        kernels::quantize(dtype, bytes, scale, rounding, &mut found);
        let wrong =
            values.iter().zip(&found).find(|&(&x, &q)| divide_and_round(x, scale, rounding) != q);
        assert_eq!(wrong, None, "{dtype:?} by {scale:e}, {}", rounding.name());
    }
}

#[test]
fn division_is_exact_for_16_bit_elements_and_many_scales() {
    let mut random = Random(1);
    let patterns = || 0..=u16::MAX;
    for (dtype, value) in [
        (FloatType::BF16, (|p| bf16::from_bits(p).to_f32()) as fn(u16) -> f32),
        (FloatType::F16, |p| f16::from_bits(p).to_f32()),
    ] {
        let finite: Vec<u16> = patterns().filter(|&p| value(p).is_finite()).collect();
        let bytes: Vec<u8> = finite.iter().flat_map(|p| p.to_le_bytes()).collect();
        let values: Vec<f32> = finite.iter().map(|&p| value(p)).collect();
        for _ in 0..100 {
            assert_quantized(dtype, &bytes, &values, random.scale());
        }
    }
}

/// Next to the middle between two integers, a quotient that is off by one unit in the last
/// place rounds to the wrong integer.
#[test]
fn division_is_exact_for_f32_around_halfway_points() {
    let mut random = Random(2);
    for _ in 0..4000 {
        let scale = random.scale();
        let values: Vec<f32> = (-128i32..128)
            .flat_map(|q| {
                let half = (q as f32 + 0.5) * scale;
                [
                    half.next_down().next_down(),
                    half.next_down(),
                    half,
                    half.next_up(),
                    half.next_up().next_up(),
                ]
            })
            .chain((0..256).map(|_| (random.next() >> 40) as f32 / 65536.0 * scale))
            .filter(|x| x.is_finite())
            .collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_quantized(FloatType::F32, &bytes, &values, scale);
    }
}
