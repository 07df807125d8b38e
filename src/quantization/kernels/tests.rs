//! Compares every kernel, on every instruction set of this machine, with the plain loops.

use crate::quantization::kernels::code_check::ReferenceCodes;
use crate::quantization::kernels::dequantize::DequantizeTo;
use crate::quantization::kernels::dispatch::{Isa, run_at};
use crate::quantization::kernels::error::ErrorOf;
use crate::quantization::kernels::group::{AbsmaxOf, GroupErrorsOf};
use crate::quantization::kernels::level_tracker::SeenLevels;
use crate::quantization::kernels::loss::GroupLossesOf;
use crate::quantization::kernels::moments::{MomentsOf, RangeOf};
use crate::quantization::kernels::quantize::QuantizeTo;
use crate::quantization::kernels::rounding::{IntegersHalfEven, by_grid};
use crate::quantization::kernels::simd::Kernel;
use crate::quantization::kernels::{
    ChannelBounds, GroupDetail, GroupErrors, GroupLayout, GroupLosses, GroupQuantization,
    Quantization, ScaleOverflow, error, error_if_codes_match, reference,
};
use crate::quantization::{
    ErrorSums, Loss, Moments, QuantizationType, Rounding, Scales, stored_scale, symmetric_scale,
};
use crate::tensor::{FloatType, write_f64};
use proptest::prelude::*;

const TYPES: [FloatType; 4] = [FloatType::F64, FloatType::F32, FloatType::F16, FloatType::BF16];
const ROUNDINGS: [Rounding; 2] = [Rounding::HalfEven, Rounding::HalfAway];
const QTYPES: [QuantizationType; 3] =
    [QuantizationType::QInt8, QuantizationType::QInt4, QuantizationType::F8E4M3];

/// The result of a kernel on every instruction set of this machine.
fn everywhere<K: Kernel>(kernel: impl Fn() -> K) -> Vec<(Isa, K::Output)> {
    Isa::ALL.iter().filter_map(|&isa| Some((isa, run_at(isa, kernel())?))).collect()
}

fn error_everywhere(dtype: FloatType, bytes: &[u8], params: Quantization) -> Vec<(Isa, ErrorSums)> {
    by_grid!(params.qtype, params.rounding, |grid| everywhere(|| {
        // Every run starts with no levels seen. Leaking a few bytes in a test is harmless.
        let seen_levels = &mut Box::leak(Box::new(SeenLevels::default())).0;
        ErrorOf { dtype, bytes, params, grid, bounds: None, seen_levels, reference: () }
    }))
    .into_iter()
    .map(|(isa, found)| (isa, found.sums))
    .collect()
}

fn group_errors_everywhere(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
    nestings: usize,
) -> Vec<(Isa, Result<[GroupErrors; 3], ScaleOverflow>)> {
    by_grid!(params.qtype, params.rounding, |grid| {
        everywhere(|| GroupErrorsOf { dtype, bytes, layout, params, grid, detail, nestings })
    })
}

/// The losses on every instruction set, for the types and roundings that are swept.
fn group_losses_everywhere<const N: usize>(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Vec<(Isa, Result<[GroupLosses; N], ScaleOverflow>)> {
    let all = everywhere(|| GroupLossesOf::<N> { dtype, bytes, layout, params, detail });
    let int = params.qtype != QuantizationType::F8E4M3 && params.rounding == Rounding::HalfEven;
    all.into_iter().filter_map(|(isa, found)| Some((isa, found.filter(|_| int)?))).collect()
}

#[track_caller]
fn assert_losses(found: &GroupLosses, expected: &GroupErrors, what: &str) {
    let sums = &expected.sums;
    assert_close(found.loss.signal, sums.signal, sums.signal, 2e-6, what);
    assert_close(found.loss.noise, sums.noise, sums.noise, 2e-6, what);
    assert_eq!(found.scales, expected.scales, "{what}");
    assert_channels(&found.channels, &expected.channels, what);
}

/// Returns the quantized values on every instruction set, written to copies of `out`.
fn quantize_everywhere(
    dtype: FloatType,
    bytes: &[u8],
    scale: f32,
    rounding: Rounding,
    out: &[i8],
) -> Vec<(Isa, Vec<i8>)> {
    let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
    let mut all = Vec::new();
    for &isa in Isa::ALL {
        let mut out = out.to_vec();
        let done = by_grid!(params.qtype, rounding, |grid| {
            run_at(isa, QuantizeTo { dtype, bytes, params, grid, out: &mut out })
        });
        all.extend(done.map(|()| (isa, out)));
    }
    all
}

/// A small seeded generator, so that failures can be reproduced.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Approximately normal with standard deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

fn bytes_of(dtype: FloatType, values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.into_iter().for_each(|v| write_f64(dtype, v, &mut bytes));
    bytes
}

/// Values of every kind that a finite tensor can hold, including ties of `scale`.
fn finite_values(random: &mut Random, count: usize, scale: f64) -> Vec<f64> {
    (0..count)
        .map(|_| match random.next() % 12 {
            0 => 0.0,
            1 => -0.0,
            2 => ((random.next() % 255) as f64 - 127.0 + 0.5) * scale,
            3 => ((random.next() % 255) as f64 - 127.0) * scale,
            4 => random.normal() * scale * 1e-3,
            5 => f64::from(f32::from_bits(1 + (random.next() % 1000) as u32)),
            6 => f64::from(0.499_999_97f32) * scale,
            7 => random.normal() * scale * 200.0,
            _ => random.normal() * scale * 30.0,
        })
        .collect()
}

/// Asserts that two sums are equal up to the order of additions. `size` is the magnitude that
/// the tolerance is relative to.
#[track_caller]
fn assert_close(found: f64, expected: f64, size: f64, tolerance: f64, what: &str) {
    let close = (found - expected).abs() <= tolerance * size || found == expected;
    assert!(close, "{what}: {found:e}, expected {expected:e}, tolerance {:e}", tolerance * size);
}

#[track_caller]
fn assert_moments(found: &Moments, expected: &Moments, what: &str) {
    assert_eq!(found.range, expected.range, "{what}");
    assert_eq!(found.zeros, expected.zeros, "{what}");
    let magnitude = (expected.sum_sq * expected.range.count as f64).sqrt();
    if expected.sum_sq.is_finite() {
        assert_close(found.sum, expected.sum, magnitude, 1e-13, what);
    }
    assert_close(found.sum_sq, expected.sum_sq, expected.sum_sq, 1e-13, what);
}

#[track_caller]
pub(super) fn assert_errors(found: &ErrorSums, expected: &ErrorSums, tolerance: f64, what: &str) {
    assert_eq!(found.count, expected.count, "{what}");
    assert_eq!(found.non_zero, expected.non_zero, "{what}");
    assert_eq!(found.zeroed, expected.zeroed, "{what}");
    assert_eq!(found.levels, expected.levels, "{what}");
    // The difference is exact unless the element was clamped.
    let largest = expected.max_abs_error;
    assert_close(found.max_abs_error, largest, largest, 6e-8, what);
    let product = (expected.signal * expected.reconstructed).sqrt();
    let magnitude = (expected.signal * expected.count as f64).sqrt();
    assert_close(found.sum, expected.sum, magnitude, tolerance, what);
    assert_close(found.signal, expected.signal, expected.signal, tolerance, what);
    assert_close(found.noise, expected.noise, expected.noise, tolerance, what);
    assert_close(found.dot, expected.dot, product, tolerance, what);
    assert_close(found.reconstructed, expected.reconstructed, product, tolerance, what);
}

#[test]
fn moments_and_range_of_every_length_and_every_kind_of_value() {
    let mut random = Random(1);
    for dtype in TYPES {
        for length in (0..=130).chain([1000, 20_000, 40_011]) {
            let mut values = finite_values(&mut random, length, 0.01);
            let kind = random.next() % 4;
            for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                if kind == 0 && length > 0 {
                    values[(random.next() % length as u64) as usize] = special;
                }
            }
            let mut bytes = bytes_of(dtype, values);
            // Trailing bytes that do not fill an element are ignored.
            bytes.extend(std::iter::repeat_n(0xFF, (length % 8).min(dtype.size() - 1)));
            let expected = reference::moments(dtype, &bytes);
            let what = format!("{dtype:?} × {length}");
            let moments = everywhere(|| MomentsOf { dtype, bytes: &bytes });
            for (isa, found) in &moments {
                assert_moments(found, &expected, &format!("{what} {isa:?}"));
                assert_eq!(*found, moments[0].1, "{what} {isa:?}");
            }
            for (isa, found) in everywhere(|| RangeOf { dtype, bytes: &bytes }) {
                assert_eq!(found, expected.range, "{what} {isa:?}");
                let sign = |x: f64| x.to_bits() >> 63;
                assert_eq!(sign(found.min), sign(moments[0].1.range.min), "{what} {isa:?}");
            }
        }
    }
}

#[test]
fn the_first_non_finite_element_is_found_anywhere() {
    let mut random = Random(2);
    for dtype in TYPES {
        for first in [0, 1, 15, 16, 31, 4095, 16_383, 16_384, 16_400, 39_999] {
            let mut values = vec![1.0; 40_000];
            values[first] =
                if random.next().is_multiple_of(2) { f64::NAN } else { f64::NEG_INFINITY };
            values[39_999] = f64::INFINITY;
            let bytes = bytes_of(dtype, values);
            let expected = reference::moments(dtype, &bytes).range;
            assert_eq!(expected.first_non_finite, Some(first as u64));
            for (isa, found) in everywhere(|| RangeOf { dtype, bytes: &bytes }) {
                assert_eq!(found, expected, "{dtype:?} {isa:?} {first}");
            }
            for (isa, found) in everywhere(|| MomentsOf { dtype, bytes: &bytes }) {
                assert_eq!(found.range, expected, "{dtype:?} {isa:?} {first}");
            }
        }
    }
}

#[test]
fn errors_of_every_length_type_scheme_and_scale() {
    let mut random = Random(3);
    for dtype in TYPES {
        for length in (0..=130).chain([255, 256, 257, 1000, 1024, 5000]) {
            for qtype in QTYPES {
                for rounding in ROUNDINGS {
                    // Ordinary scales, powers of two that make ties, and extreme ones.
                    let scale = match random.next() % 8 {
                        0 => 0.0078125,
                        1 => f32::from_bits(1 << 19),
                        2 => 1e30,
                        3 => f32::MIN_POSITIVE,
                        _ => (random.unit() * 0.01 + 1e-5) as f32,
                    };
                    let params = Quantization { scale, qtype, rounding };
                    let values = finite_values(&mut random, length, f64::from(scale).min(1e3));
                    let bytes = bytes_of(dtype, values.iter().map(|v| v.clamp(-6e4, 6e4)));
                    let expected = reference::error(dtype, &bytes, params);
                    let all = error_everywhere(dtype, &bytes, params);
                    for (isa, found) in &all {
                        let what = format!("{dtype:?} × {length} {params:?} {isa:?}");
                        assert_errors(found, &expected, 2e-6, &what);
                        assert_eq!(*found, all[0].1, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn extremely_large_elements_do_not_overflow_the_sums() {
    let params =
        Quantization { scale: 1e-10, qtype: QuantizationType::QInt8, rounding: Rounding::HalfEven };
    let bytes = bytes_of(FloatType::F32, [1.0, 3e38, -3e38, 1e-10, 0.0]);
    let expected = reference::error(FloatType::F32, &bytes, params);
    assert!(expected.signal.is_finite());
    for (isa, found) in error_everywhere(FloatType::F32, &bytes, params) {
        assert_errors(&found, &expected, 1e-12, &format!("{isa:?}"));
    }
}

#[test]
fn sums_of_large_tensors_have_a_relative_error_below_1e_7() {
    let mut random = Random(4);
    let values: Vec<f64> = (0..300_000).map(|_| random.normal() * 0.02).collect();
    for dtype in TYPES {
        let bytes = bytes_of(dtype, values.iter().copied());
        let absmax = reference::moments(dtype, &bytes).range.absmax();
        for qtype in QTYPES {
            let scale = symmetric_scale(absmax, qtype.max()).expect("finite");
            let params = Quantization { scale, qtype, rounding: Rounding::HalfEven };
            let expected = reference::error(dtype, &bytes, params);
            for (isa, found) in error_everywhere(dtype, &bytes, params) {
                let what = format!("{dtype:?} {params:?} {isa:?}");
                assert_errors(&found, &expected, 5e-8, &what);
                // The tolerance is of the order of the standard error of the mean.
                assert_close(found.sum, expected.sum, expected.signal.sqrt(), 1e-7, &what);
            }
        }
    }
}

#[test]
fn quantized_values_of_every_length_and_scale() {
    let mut random = Random(5);
    for dtype in TYPES {
        for length in (0..=130).chain([1000, 5000]) {
            for rounding in ROUNDINGS {
                let scale = match random.next() % 6 {
                    0 => 0.5,
                    1 => f32::MIN_POSITIVE,
                    2 => 1e-42,
                    3 => 1e35,
                    _ => (random.unit() * 0.01 + 1e-5) as f32,
                };
                let values = finite_values(&mut random, length, f64::from(scale).min(1e3));
                let bytes = bytes_of(dtype, values.iter().map(|v| v.clamp(-6e4, 6e4)));
                // The output may be shorter or longer than the input.
                let room = match random.next() % 4 {
                    0 => length / 2,
                    1 => length + 20,
                    _ => length,
                };
                let mut expected = vec![99; room];
                reference::quantize(dtype, &bytes, scale, rounding, &mut expected);
                for (isa, out) in
                    quantize_everywhere(dtype, &bytes, scale, rounding, &vec![99; room])
                {
                    assert_eq!(out, expected, "{dtype:?} × {length} {scale:e} {isa:?}");
                }
            }
        }
    }
}

/// With enough 16-bit elements, multiplication by a reciprocal replaces division where the
/// results are the same. Covers every element up to a largest magnitude.
#[test]
fn many_elements_quantize_as_in_the_plain_loop() {
    let mut random = Random(15);
    for dtype in [FloatType::BF16, FloatType::F16] {
        for _ in 0..25 {
            let absmax = random.unit() * 0.2 + 1e-3;
            let scale = match random.next() % 3 {
                0 => 0.0078125,
                1 => (random.unit() * 0.01 + 1e-3) as f32,
                _ => symmetric_scale(absmax, 127.0).expect("finite"),
            };
            // One in ten thousand lies beyond the last level and is clamped.
            let values = (0..=u16::MAX).map(|pattern| match dtype {
                FloatType::BF16 => f64::from(half::bf16::from_bits(pattern)),
                _ => f64::from(half::f16::from_bits(pattern)),
            });
            let most = 127.0 * f64::from(scale);
            let mut values: Vec<f64> = values.filter(|v| v.abs() <= most).collect();
            (0..values.len()).for_each(|i| values.swap(i, random.next() as usize % (i + 1)));
            values.iter_mut().step_by(10_000).for_each(|v| *v = 2.0 * most);
            let bytes = bytes_of(dtype, values);
            let mut expected = vec![0; bytes.len() / 2 - random.next() as usize % 40];
            reference::quantize(dtype, &bytes, scale, Rounding::HalfEven, &mut expected);
            let out = vec![99; expected.len()];
            for (isa, out) in quantize_everywhere(dtype, &bytes, scale, Rounding::HalfEven, &out) {
                assert!(out == expected, "{dtype:?} {scale:e} {isa:?}");
            }
        }
    }
}

#[test]
fn codes_are_compared_and_their_error_is_that_of_the_elements() {
    let mut random = Random(16);
    for dtype in TYPES {
        for length in (0..=70).chain([1000, 1024, 5000]) {
            let scale = (random.unit() * 0.01 + 1e-5) as f32;
            let clamped = random.next().is_multiple_of(2);
            let values = finite_values(&mut random, length, scale.into());
            let most = if clamped { f64::MAX } else { 127.0 * f64::from(scale) };
            let bytes = bytes_of(dtype, values.iter().map(|v| v.clamp(-most, most)));
            for rounding in ROUNDINGS {
                let params = Quantization { scale, qtype: QuantizationType::QInt8, rounding };
                let mut q = quantized(dtype, &bytes, params);
                let check = |q: &[i8]| {
                    error_if_codes_match(
                        dtype,
                        &bytes,
                        (scale, rounding),
                        q,
                        &mut SeenLevels::default(),
                    )
                };
                let what = format!("{dtype:?} × {length} {params:?}");
                assert_eq!(check(&q), Some(error(dtype, &bytes, params)), "{what}");
                let Some(index) = (length > 0).then(|| random.next() as usize % length) else {
                    continue;
                };
                q[index] = q[index].wrapping_add((1 + random.next() % 254) as i8);
                assert_eq!(check(&q), None, "{what}");
                assert_eq!(check(&q[1..]), None, "{what}");
                if dtype == FloatType::F64 || rounding == Rounding::HalfAway {
                    continue;
                }
                for (differs, q) in [(true, &q), (false, &quantized(dtype, &bytes, params))] {
                    let mut seen_levels = SeenLevels::default();
                    for &isa in Isa::ALL {
                        let reference = ReferenceCodes(bytemuck::cast_slice(q));
                        let (grid, seen_levels) = (IntegersHalfEven, &mut seen_levels.0);
                        let kernel = ErrorOf {
                            dtype,
                            bytes: &bytes,
                            params,
                            grid,
                            bounds: None,
                            seen_levels,
                            reference,
                        };
                        let Some(found) = run_at(isa, kernel) else { continue };
                        assert_eq!(found.codes_match, !differs, "{what} {isa:?}");
                        assert_eq!(found.sums, error(dtype, &bytes, params), "{what} {isa:?}");
                    }
                }
            }
        }
    }
}

fn quantized(dtype: FloatType, bytes: &[u8], params: Quantization) -> Vec<i8> {
    let mut q = vec![0; bytes.len() / dtype.size()];
    reference::quantize(dtype, bytes, params.scale, params.rounding, &mut q);
    q
}

#[test]
fn dequantized_bytes_of_every_length_and_scale() {
    let mut random = Random(6);
    for to in TYPES {
        for length in (0..=130).chain([1000]) {
            let scale = match random.next() % 8 {
                0 => f32::from_bits(random.next() as u32 >> 9),
                1 => f32::NAN,
                2 => f32::INFINITY,
                3 => f32::MAX / 127.0,
                4 => 600.0,
                5 => 6e-8 * random.unit() as f32,
                _ => random.unit() as f32,
            };
            let q: Vec<i8> = (0..length).map(|_| random.next() as i8).collect();
            let room = match random.next() % 4 {
                0 => length / 2 * to.size() + 1,
                1 => (length + 20) * to.size(),
                _ => length * to.size(),
            };
            let mut expected = Vec::new();
            reference::dequantize(&q, scale, to, &mut expected);
            expected.truncate(room / to.size() * to.size());
            for &isa in Isa::ALL {
                let mut out = vec![0x5A; room];
                if run_at(isa, DequantizeTo { q: &q, scale, to, out: &mut out }).is_some() {
                    let (found, rest) = out.split_at(expected.len());
                    assert!(rest.iter().all(|&b| b == 0x5A));
                    if scale.is_nan() || scale.is_infinite() {
                        let reals = reference::moments(to, found).range;
                        let expected = reference::moments(to, &expected).range;
                        assert_eq!(reals, expected, "{to:?} {scale} {isa:?}");
                    } else {
                        assert_eq!(found, expected, "{to:?} × {length} {scale:e} {isa:?}");
                    }
                }
            }
        }
    }
}

/// The scales and errors of groups by the plain loop, one group at a time.
fn reference_groups(
    dtype: FloatType,
    bytes: &[u8],
    layout: GroupLayout,
    params: GroupQuantization,
    detail: GroupDetail,
) -> Result<GroupErrors, ScaleOverflow> {
    let mut sums = ErrorSums::default();
    let mut scales = Scales::new(detail.keep_scales);
    let mut channels = Vec::new();
    let mut left = detail.channels.map_or(0, |bounds| bounds.first);
    for row in bytes.chunks(layout.row * dtype.size()) {
        if let Some(bounds) = detail.channels
            && (channels.is_empty() || left == 0)
        {
            left = if channels.is_empty() { bounds.first } else { bounds.length };
            channels.push(Loss::default());
        }
        left = left.saturating_sub(row.len() / dtype.size());
        for group in row.chunks(layout.group * dtype.size()) {
            let absmax = reference::moments(dtype, group).range.absmax();
            let scale = stored_scale(absmax, params.qtype.max(), params.scale_type)
                .ok_or(ScaleOverflow { absmax })?;
            let GroupQuantization { qtype, rounding, .. } = params;
            let lost = reference::error(dtype, group, Quantization { scale, qtype, rounding });
            sums.merge(&lost);
            scales.push(absmax, scale);
            if let Some(channel) = channels.last_mut() {
                channel.signal += lost.signal;
                channel.noise += lost.noise;
            }
        }
    }
    Ok(GroupErrors { sums, scales, channels })
}

#[track_caller]
fn assert_groups(found: &GroupErrors, expected: &GroupErrors, what: &str) {
    assert_errors(&found.sums, &expected.sums, 2e-6, what);
    assert_eq!(found.scales, expected.scales, "{what}");
    assert_channels(&found.channels, &expected.channels, what);
}

#[track_caller]
fn assert_channels(found: &[Loss], expected: &[Loss], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        // Squares below the smallest normal f32 have fewer significant bits.
        let size = |sum: f64| sum.max(f32::MIN_POSITIVE.into());
        assert_close(found.signal, expected.signal, size(expected.signal), 2e-6, what);
        assert_close(found.noise, expected.noise, size(expected.noise), 2e-6, what);
    }
}

/// A random choice of whether to keep scales, and of channels of a few rows each.
fn random_detail(random: &mut Random, row: usize) -> GroupDetail {
    let rows = |n: u64| row * n as usize;
    let channels = (!random.next().is_multiple_of(3)).then(|| {
        let length = 1 + random.next() % 5;
        ChannelBounds { first: rows(1 + random.next() % length), length: rows(length) }
    });
    GroupDetail { keep_scales: random.next().is_multiple_of(2), channels }
}

/// Rows of very different magnitudes, some of zeros, some with scales that are not ordinary.
fn rows_of_values(random: &mut Random, count: usize, row: usize) -> Vec<f64> {
    let mut values = Vec::new();
    while values.len() < count {
        let magnitude = match random.next() % 12 {
            0 => 0.0,
            1 => 1e-20,
            2 => 1e-41,
            3 => 1e-7,
            4 => 127.0 / 128.0,
            5 => 6e4,
            _ => random.unit(),
        };
        let of = row.min(count - values.len());
        values.extend((0..of).map(|_| (random.normal() / 6.0) * magnitude));
        if let Some(last) = values.last_mut() {
            // Make the largest magnitude exact, so that ties occur.
            *last = magnitude;
        }
    }
    values
}

const LAYOUTS: [GroupLayout; 14] = [
    GroupLayout { row: 1, group: 1 },
    GroupLayout { row: 3, group: 32 },
    GroupLayout { row: 9, group: 9 },
    GroupLayout { row: 100, group: 32 },
    GroupLayout { row: 96, group: 96 },
    GroupLayout { row: 160, group: 32 },
    GroupLayout { row: 256, group: 32 },
    GroupLayout { row: 256, group: 64 },
    GroupLayout { row: 640, group: 128 },
    GroupLayout { row: 257, group: 257 },
    GroupLayout { row: 513, group: 256 },
    GroupLayout { row: 1024, group: 1024 },
    GroupLayout { row: 1500, group: 1500 },
    GroupLayout { row: usize::MAX / 2, group: usize::MAX / 2 },
];

#[test]
fn groups_have_the_scales_errors_and_values_of_the_plain_loop() {
    let mut random = Random(7);
    for dtype in TYPES {
        for layout in LAYOUTS
            .map(|all| GroupLayout { row: all.row.min(1 << 30), group: all.group.min(1 << 30) })
        {
            for qtype in QTYPES {
                for scale_type in TYPES {
                    let rounding = ROUNDINGS[(random.next() % 2) as usize];
                    let params = GroupQuantization { qtype, rounding, scale_type };
                    let count = (random.next() % 4000) as usize;
                    let values = rows_of_values(&mut random, count, layout.group.min(700));
                    let bytes = bytes_of(dtype, values);
                    let what = format!("{dtype:?} × {count} {layout:?} {params:?}");
                    let detail = random_detail(&mut random, layout.row);
                    let expected = reference_groups(dtype, &bytes, layout, params, detail);
                    let all = group_errors_everywhere(dtype, &bytes, layout, params, detail, 1);
                    for (isa, found) in &all {
                        match (found, &expected) {
                            (Ok([found, ..]), Ok(expected)) => {
                                assert_groups(found, expected, &format!("{what} {isa:?}"));
                            }
                            (found, expected) => panic!("{what} {isa:?}: {found:?}, {expected:?}"),
                        }
                        assert_eq!(*found, all[0].1, "{what} {isa:?}");
                    }
                    let losses =
                        group_losses_everywhere::<1>(dtype, &bytes, layout, params, detail);
                    for (isa, found) in &losses {
                        let [found] = found.as_ref().expect("fits");
                        let expected = expected.as_ref().expect("fits");
                        assert_losses(found, expected, &format!("{what} {isa:?}"));
                        assert_eq!(Ok([found.clone()]), losses[0].1, "{what} {isa:?}");
                    }
                    assert_absmaxes(dtype, &bytes, layout);
                }
            }
        }
    }
}

#[track_caller]
fn assert_absmaxes(dtype: FloatType, bytes: &[u8], layout: GroupLayout) {
    let mut expected = Vec::new();
    for row in bytes.chunks(layout.row * dtype.size()) {
        for group in row.chunks(layout.group * dtype.size()) {
            expected.push(reference::moments(dtype, group).range.absmax());
        }
    }
    for &isa in Isa::ALL {
        let mut found = vec![f64::NAN; expected.len()];
        if run_at(isa, AbsmaxOf { dtype, bytes, layout, out: &mut found }).is_some() {
            assert_eq!(found, expected, "{dtype:?} {layout:?} {isa:?}");
        }
    }
}

#[test]
fn three_block_sizes_in_one_sweep_equal_three_sweeps() {
    let mut random = Random(8);
    for dtype in TYPES {
        for row in [1, 31, 32, 33, 64, 65, 96, 127, 128, 129, 160, 500, 512, 513, 2048] {
            for qtype in QTYPES {
                let rounding = ROUNDINGS[(random.next() % 2) as usize];
                let params = GroupQuantization { qtype, rounding, scale_type: FloatType::BF16 };
                let count = (random.next() % 6000) as usize;
                let bytes = bytes_of(dtype, rows_of_values(&mut random, count, 37));
                let layout = |group| GroupLayout { row, group };
                let detail = random_detail(&mut random, row);
                let all = group_errors_everywhere(dtype, &bytes, layout(32), params, detail, 3);
                for (isa, found) in all {
                    for (found, group) in found.expect("fits").iter().zip([32, 64, 128]) {
                        let expected =
                            reference_groups(dtype, &bytes, layout(group), params, detail);
                        let what = format!("{dtype:?} × {count} {row}/{group} {params:?} {isa:?}");
                        assert_groups(found, &expected.expect("fits"), &what);
                    }
                }
                for (isa, found) in
                    group_losses_everywhere::<3>(dtype, &bytes, layout(32), params, detail)
                {
                    for (found, group) in found.expect("fits").iter().zip([32, 64, 128]) {
                        let expected =
                            reference_groups(dtype, &bytes, layout(group), params, detail);
                        let what = format!("{dtype:?} × {count} {row}/{group} {params:?} {isa:?}");
                        assert_losses(found, &expected.expect("fits"), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_group_without_a_scale_is_an_error() {
    let mut values = vec![1.0; 100];
    values[70] = 1e300;
    let bytes = bytes_of(FloatType::F64, values);
    let layout = GroupLayout::consecutive(32);
    let params = GroupQuantization {
        qtype: QuantizationType::QInt8,
        rounding: Rounding::HalfEven,
        scale_type: FloatType::F32,
    };
    let expected = ScaleOverflow { absmax: 1e300 };
    assert_eq!(
        crate::quantization::kernels::group_error(
            FloatType::F64,
            &bytes,
            layout,
            params,
            GroupDetail::default()
        ),
        Err(expected)
    );
    assert_eq!(
        crate::quantization::kernels::block_errors(
            FloatType::F64,
            &bytes,
            100,
            params,
            GroupDetail::default()
        ),
        Err(expected)
    );
}

proptest! {
    #[test]
    fn any_bytes_have_the_moments_of_the_plain_loop(
        bytes in prop::collection::vec(any::<u8>(), 0..2000)
    ) {
        for dtype in TYPES {
            let expected = reference::moments(dtype, &bytes);
            for (_, found) in everywhere(|| MomentsOf { dtype, bytes: &bytes }) {
                assert_moments(&found, &expected, "any bytes");
            }
            for (_, found) in everywhere(|| RangeOf { dtype, bytes: &bytes }) {
                prop_assert_eq!(found, expected.range);
            }
        }
    }

    #[test]
    fn any_finite_elements_quantize_as_in_the_plain_loop(
        patterns in prop::collection::vec(any::<u32>(), 0..600),
        scale in 1e-12f32..1e12,
        away in any::<bool>(),
    ) {
        let rounding = if away { Rounding::HalfAway } else { Rounding::HalfEven };
        for dtype in TYPES {
            let bytes = bytes_of(dtype, patterns.iter().map(|&bits| {
                // Magnitudes from far below to far above the scale.
                let x = f64::from(bits) / f64::from(u32::MAX) - 0.5;
                (x * f64::from(scale) * 2f64.powi((bits % 24) as i32 - 8)).clamp(-6e4, 6e4)
            }));
            let mut expected = vec![0; patterns.len()];
            reference::quantize(dtype, &bytes, scale, rounding, &mut expected);
            let zeros = vec![0; patterns.len()];
            for (_, out) in quantize_everywhere(dtype, &bytes, scale, rounding, &zeros) {
                prop_assert_eq!(&out, &expected);
            }
        }
    }

    /// No bytes and no scale make a kernel panic.
    #[test]
    fn every_kernel_is_total(
        bytes in prop::collection::vec(any::<u8>(), 0..1500),
        scale in any::<f32>(),
    ) {
        for dtype in TYPES {
            for qtype in QTYPES {
                for rounding in ROUNDINGS {
                    let params = Quantization { scale, qtype, rounding };
                    for (_, found) in error_everywhere(dtype, &bytes, params) {
                        prop_assert_eq!(found.count, (bytes.len() / dtype.size()) as u64);
                    }
                    let mut out = vec![0; 300];
                    crate::quantization::kernels::quantize(dtype, &bytes, scale, rounding, &mut out);
                    let group = scale.to_bits() as usize % 200;
                    let layout = GroupLayout { row: bytes.len() / 2, group };
                    let params = GroupQuantization { qtype, rounding, scale_type: dtype };
                    let channels = (group > 100).then_some(ChannelBounds { first: group / 7, length: 9 });
                    let detail = GroupDetail { keep_scales: group > 50, channels };
                    let _ = crate::quantization::kernels::group_loss(dtype, &bytes, layout, params, detail);
                    let _ = crate::quantization::kernels::block_losses(dtype, &bytes, group, params, detail);
                    let _ = crate::quantization::kernels::group_error(dtype, &bytes, layout, params, detail);
                    let _ = crate::quantization::kernels::block_errors(dtype, &bytes, group, params, detail);
                }
            }
        }
    }
}
