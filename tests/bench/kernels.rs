//! The throughput of every kernel in bytes of input, compared with a plain read of the same bytes.
//!
//! `cargo bench --bench kernels [FILTER]`. Compare ratios within one run: absolute figures
//! drift with the machine.

use divan::Bencher;
use divan::counter::BytesCount;
use quantscope::quantization::kernels::{
    self, GroupDetail, GroupLayout, GroupQuantization, Quantization,
};
use quantscope::quantization::{QuantizationType, Rounding};
use quantscope::tensor::{FloatType, write_f64};
use std::hint::black_box;
use std::sync::OnceLock;

fn main() {
    divan::main();
}

const MIB: usize = 1 << 20;
const TYPES: [FloatType; 4] = [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64];
/// A buffer size that fits the CPU cache, and one that does not.
const SIZES: [usize; 2] = [MIB, 256 * MIB];

/// Elements distributed like weights: approximately normal, standard deviation 0.02.
fn weights(dtype: FloatType, bytes: usize) -> &'static [u8] {
    static BUFFERS: [OnceLock<Vec<u8>>; 4] = [const { OnceLock::new() }; 4];
    let buffer = BUFFERS[dtype as usize].get_or_init(|| {
        let mut state = 1u64;
        let mut unit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let mut out = Vec::new();
        while out.len() < 256 * MIB {
            // Only 4 MiB are drawn from the distribution; the rest are copies from random offsets.
            if out.len() < 4 * MIB {
                let x = (0..12).map(|_| unit()).sum::<f64>() - 6.0;
                write_f64(dtype, x * 0.02, &mut out);
            } else {
                let start = (unit() * MIB as f64) as usize / 8 * 8;
                out.extend_from_within(start..start + 2 * MIB);
            }
        }
        out.truncate(256 * MIB);
        out
    });
    &buffer[..bytes]
}

const PARAMS: Quantization =
    Quantization { scale: 0.000_93, qtype: QuantizationType::QInt8, rounding: Rounding::HalfEven };

const OWN_SCALES: GroupQuantization = GroupQuantization {
    qtype: QuantizationType::QInt8,
    rounding: Rounding::HalfEven,
    scale_type: FloatType::F32,
};

#[divan::bench(args = SIZES)]
fn read(bencher: Bencher, size: usize) {
    let bytes = weights(FloatType::F32, size);
    bencher.counter(BytesCount::new(size)).bench(|| {
        let mut sums = [0u64; 16];
        for words in black_box(bytes).as_chunks::<8>().0.as_chunks::<16>().0 {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum ^= u64::from_le_bytes(*word);
            }
        }
        sums
    });
}

macro_rules! over_types {
    ($($name:ident: |$dtype:ident, $bytes:ident| $body:expr;)*) => {$(
        mod $name {
            use super::*;
            #[divan::bench(args = TYPES, consts = SIZES)]
            fn gbs<const SIZE: usize>(bencher: Bencher, $dtype: FloatType) {
                let bytes = weights($dtype, SIZE);
                bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
                    let $bytes = black_box(bytes);
                    let _ = black_box($body);
                });
            }
        }
    )*};
}

over_types! {
    range: |dtype, bytes| kernels::range(dtype, bytes);
    moments: |dtype, bytes| kernels::moments(dtype, bytes);
    error: |dtype, bytes| kernels::error(dtype, bytes, PARAMS);
    error_half_away: |dtype, bytes| {
        kernels::error(dtype, bytes, Quantization { rounding: Rounding::HalfAway, ..PARAMS })
    };
    error_row_4096: |dtype, bytes| {
        kernels::group_error(dtype, bytes, GroupLayout::consecutive(4096), OWN_SCALES, GroupDetail::default())
    };
    error_row_9: |dtype, bytes| {
        kernels::group_error(dtype, bytes, GroupLayout::consecutive(9), OWN_SCALES, GroupDetail::default())
    };
    error_block_32: |dtype, bytes| {
        kernels::group_error(dtype, bytes, GroupLayout::consecutive(32), OWN_SCALES, GroupDetail::default())
    };
    error_block_128: |dtype, bytes| {
        kernels::group_error(dtype, bytes, GroupLayout::consecutive(128), OWN_SCALES, GroupDetail::default())
    };
    error_blocks_32_64_128: |dtype, bytes| {
        kernels::block_errors(dtype, bytes, 4096, OWN_SCALES, GroupDetail::default())
    };
    error_fp8: |dtype, bytes| {
        kernels::error(dtype, bytes, Quantization { qtype: QuantizationType::F8E4M3, ..PARAMS })
    };
}

mod quantize {
    use super::*;
    #[divan::bench(args = TYPES, consts = SIZES)]
    fn gbs<const SIZE: usize>(bencher: Bencher, dtype: FloatType) {
        let bytes = weights(dtype, SIZE);
        let mut out = vec![0; SIZE / dtype.size()];
        bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
            let out = black_box(out.as_mut_slice());
            kernels::quantize(dtype, black_box(bytes), PARAMS.scale, PARAMS.rounding, out);
        });
    }
}

/// The error, with a comparison of the codes.
mod error_if_codes_match {
    use super::*;
    #[divan::bench(args = TYPES, consts = SIZES)]
    fn gbs<const SIZE: usize>(bencher: Bencher, dtype: FloatType) {
        let bytes = weights(dtype, SIZE);
        let mut codes = vec![0; SIZE / dtype.size()];
        let params = (PARAMS.scale, PARAMS.rounding);
        kernels::quantize(dtype, bytes, params.0, params.1, &mut codes);
        bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
            let seen = &mut kernels::SeenLevels::default();
            let found =
                kernels::error_if_codes_match(dtype, black_box(bytes), params, &codes, seen);
            assert!(black_box(found).is_some());
        });
    }
}

/// Throughput in bytes of output, which is larger than the input.
mod dequantize {
    use super::*;
    #[divan::bench(args = TYPES, consts = SIZES)]
    fn gbs<const SIZE: usize>(bencher: Bencher, dtype: FloatType) {
        let q: Vec<i8> = (0..SIZE / dtype.size()).map(|i| (i * i) as i8).collect();
        let mut out = vec![0; SIZE];
        bencher.counter(BytesCount::new(SIZE)).bench_local(|| {
            kernels::dequantize(black_box(&q), PARAMS.scale, dtype, black_box(out.as_mut_slice()));
        });
    }
}
