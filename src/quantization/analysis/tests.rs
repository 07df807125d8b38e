//! Compares the analyzer with in-memory quantization and plain loops over the elements.

use crate::quantization::analysis::analyzer::{MomentsSource, TensorAnalyzer};
use crate::quantization::analysis::channel_losses::ChannelDetail;
use crate::quantization::analysis::in_memory::{analyze, run_in_memory};
use crate::quantization::analysis::results::{Analysis, Quantized};
use crate::quantization::analysis::spec::{AnalysisSpec, ErrorDetail};
use crate::quantization::calibration::Calibration;
use crate::quantization::kernels::{self, Quantization};
use crate::quantization::preset::Preset;
use crate::quantization::presets::PresetCoder;
use crate::quantization::qat_scales::QatScales;
use crate::quantization::quantizer::{NotQuantizable, Quantizer};
use crate::quantization::scheme::{QuantizationScheme, Rounding};
use crate::quantization::value_histogram::ValueHistogram;
use crate::tensor::{ChannelAxes, FloatType, Shape};

const SCHEMES: [QuantizationScheme; 4] = [
    QuantizationScheme::PER_TENSOR,
    QuantizationScheme::PER_CHANNEL,
    QuantizationScheme::per_block(32),
    QuantizationScheme::per_block(48),
];

fn spec_for(schemes: &[QuantizationScheme], calibration: Calibration) -> AnalysisSpec {
    let quantizers = schemes.iter().map(|&scheme| Quantizer { calibration, scheme }).collect();
    AnalysisSpec { keep_scales: true, ..AnalysisSpec::errors(quantizers, Rounding::HalfEven) }
}

fn values(dtype: FloatType, n: u64) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    };
    let mut bytes = Vec::new();
    (0..n).for_each(|_| crate::tensor::write_f64(dtype, next() * next() * next(), &mut bytes));
    bytes
}

fn from_errors(analyzer: &TensorAnalyzer) -> bool {
    matches!(analyzer.moments, MomentsSource::ErrorSums { .. })
}

/// `exact` says that the moments come from f64 sums instead of the error sums.
fn assert_statistics(analysis: &Analysis, dtype: FloatType, bytes: &[u8], exact: bool) {
    let (expected, found) =
        (kernels::moments(dtype, bytes).statistics(), analysis.statistics.expect("is computed"));
    assert_eq!((found.count, found.zeros), (expected.count, expected.zeros), "{dtype:?}");
    assert_eq!((found.nan, found.inf), (expected.nan, expected.inf), "{dtype:?}");
    // Far less than the standard error of the mean.
    let uncertain = expected.std / (expected.count as f64).sqrt();
    for (found, expected) in [(found.mean, expected.mean), (found.std, expected.std)] {
        let tolerance = if exact { 1e-12 * expected.abs().max(1e-3) } else { 1e-5 * uncertain };
        let close = (found - expected).abs() <= tolerance;
        assert!(close || expected.is_nan() && found.is_nan(), "{dtype:?} {found} {expected}");
    }
}

/// The figures of the analysis are those of what `quantize_weights` returns.
fn assert_figures_are_those_of_the_quantized_tensor(
    dtype: FloatType,
    dims: &[u64],
    schemes: &[QuantizationScheme],
    calibration: Calibration,
) {
    let shape = Shape::new(dims).expect("fits");
    let bytes = values(dtype, shape.elements());
    let spec = spec_for(schemes, calibration);
    let analyzer = TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, None, 1 << 13);
    let analysis = run_in_memory(&analyzer, dtype, &bytes);
    assert_eq!(analysis.range, kernels::range(dtype, &bytes));
    let exact = !from_errors(&analyzer) || dtype == FloatType::F64;
    assert_statistics(&analysis, dtype, &bytes, exact);
    for outcome in &analysis.outcomes {
        let what = format!("{dtype:?} {dims:?} {:?}", outcome.quantizer);
        let quantized = outcome.quantizer.quantize_weights(dtype, &shape, &bytes).expect("ok");
        let found = outcome.result.as_ref().expect("quantizable");
        assert!(found.scales.all.as_ref() == Some(&quantized.scales), "{what}");
        let (mut noise, mut levels) = (0.0, std::collections::BTreeSet::new());
        let groups = outcome.quantizer.scheme.groups(&shape);
        for (i, &q) in quantized.values.iter().enumerate() {
            let scale = quantized.scales[groups.of(i as u64) as usize];
            let x = crate::tensor::read_f64(dtype, &bytes, i).expect("there");
            let hat = match dtype {
                FloatType::F64 => f64::from(scale) * f64::from(q),
                _ => f64::from(scale * f32::from(q)),
            };
            noise += (x - hat).powi(2);
            levels.insert(q);
        }
        let error = found.error.expect("is computed");
        assert_eq!(error.count, shape.elements(), "{what}");
        assert_eq!(error.levels.count() as usize, levels.len(), "{what}");
        assert!((error.noise - noise).abs() <= 1e-6 * noise, "{what}: {} {noise}", error.noise);
    }
}

#[test]
fn figures_are_those_of_the_quantized_tensor() {
    for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
        for dims in [
            &[3u64, 8_001][..],
            &[50, 1000],
            &[7, 3, 5, 5],
            &[12_003],
            &[2, 3, 7_000],
            &[],
            &[0, 4],
        ] {
            let min_max = Calibration::MinMax;
            assert_figures_are_those_of_the_quantized_tensor(dtype, dims, &SCHEMES, min_max);
        }
    }
}

/// Far from zero, the variance is the small difference of two large sums.
#[test]
fn a_small_deviation_far_from_zero_is_exact() {
    let shape = Shape::vector(700_000);
    for (dtype, step) in [(FloatType::F32, 1e-6), (FloatType::F16, 1e-3)] {
        let mut bytes = Vec::new();
        let value = |i: u64| 1.0 + step * (i * 7919 % 101) as f64;
        (0..700_000).for_each(|i| crate::tensor::write_f64(dtype, value(i), &mut bytes));
        let spec = spec_for(&SCHEMES[..1], Calibration::MinMax);
        let analyzer = TensorAnalyzer::new(&spec, dtype, &shape, None);
        assert!(from_errors(&analyzer) && analyzer.chunks() > 1);
        let found = run_in_memory(&analyzer, dtype, &bytes).statistics.expect("is computed");
        let expected = kernels::moments(dtype, &bytes).statistics();
        assert!((found.std / expected.std - 1.0).abs() < 1e-6, "{dtype:?} {found:?}");
    }
}

#[test]
fn figures_of_every_calibration_are_those_of_the_quantized_tensor() {
    for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
        for calibration in [
            Calibration::Percentile(99.5),
            Calibration::Mse,
            Calibration::Clip(0.7),
            Calibration::Magnitude(0.3),
        ] {
            for dims in [&[2u64, 4_501][..], &[7, 3, 5, 5]] {
                let schemes = &SCHEMES[..2];
                assert_figures_are_those_of_the_quantized_tensor(dtype, dims, schemes, calibration);
            }
        }
    }
}

/// Covers groups in one chunk and in many, with a histogram and without.
#[test]
fn learned_scales_are_used_by_channel() {
    for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
        for dims in [&[3u64, 8_001][..], &[7, 3, 5, 5], &[12_003]] {
            let shape = Shape::new(dims).expect("fits");
            let bytes = values(dtype, shape.elements());
            let channels = if dims.len() > 1 { dims[0] } else { 1 };
            let scales: Vec<f32> = (1..=channels).map(|c| 0.0007 * c as f32).collect();
            for scales in [&scales[..], &scales[..1]] {
                let known = QatScales { scales: scales.to_vec(), zero_point: None, levels: None };
                let spec = spec_for(&SCHEMES, Calibration::Learned);
                let analyzer =
                    TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, Some(&known), 1 << 13);
                for outcome in run_in_memory(&analyzer, dtype, &bytes).outcomes {
                    let what = format!("{dtype:?} {dims:?} {:?}", outcome.quantizer);
                    let Quantizer { calibration, scheme } = outcome.quantizer;
                    let found = outcome.result.expect("quantizable");
                    if scheme == QuantizationScheme::PER_TENSOR && scales.len() > 1 {
                        assert_eq!(calibration, Calibration::MinMax, "{what}");
                        continue;
                    }
                    assert_eq!(calibration, Calibration::Learned, "{what}");
                    let all = found.scales.all.expect("is computed");
                    let groups = scheme.groups(&shape);
                    assert_eq!(all.len() as u64, groups.count(), "{what}");
                    let mut noise = 0.0;
                    for (group, run) in groups.segments(0..shape.elements()) {
                        let channel = (run.start / shape.channel_len()) as usize;
                        let scale = if scales.len() > 1 { scales[channel] } else { scales[0] };
                        assert_eq!(all[group as usize], scale, "{what}");
                        let size = dtype.size();
                        let run = run.start as usize * size..run.end as usize * size;
                        let qtype = scheme.quantization_type();
                        let params = Quantization { scale, qtype, rounding: Rounding::HalfEven };
                        noise += kernels::error(dtype, &bytes[run], params).noise;
                    }
                    let error = found.error.expect("is computed");
                    assert!((error.noise - noise).abs() <= 1e-6 * noise, "{what}");
                }
            }
        }
    }
}

/// Losses of channels agree with the losses of the tensor, for every strategy.
#[test]
fn losses_of_channels_add_up_and_the_worst_is_found() {
    let schemes = ["per-tensor", "per-channel", "per-block:32", "per-block:64", "per-block:128"];
    let schemes = schemes.map(|scheme| scheme.parse().expect("a scheme"));
    for dtype in [FloatType::F32, FloatType::BF16] {
        for dims in [&[3u64, 8_001][..], &[20, 700], &[7, 3, 5, 5], &[2, 3, 7_000], &[0, 4]] {
            let shape = Shape::new(dims).expect("fits");
            let bytes = values(dtype, shape.elements());
            let plain = spec_for(&schemes, Calibration::MinMax);
            let asked = AnalysisSpec { channels: ChannelDetail::All, ..plain.clone() };
            let analysis = |spec| {
                let analyzer = TensorAnalyzer::with_chunk_bytes(spec, dtype, &shape, None, 1 << 13);
                run_in_memory(&analyzer, dtype, &bytes)
            };
            let alone = AnalysisSpec { errors: ErrorDetail::Loss, ..asked.clone() };
            let losses = analysis(&alone);
            let (plain, asked) = (analysis(&plain), analysis(&asked));
            for (loss, found) in losses.outcomes.iter().zip(&asked.outcomes) {
                let what = format!("{dtype:?} {dims:?} {:?}", found.quantizer);
                let (loss, found) = (loss.result.as_ref(), found.result.as_ref());
                let (loss, found) = (loss.expect("ok"), found.expect("ok"));
                assert_eq!((&loss.scales, loss.error), (&found.scales, None), "{what}");
                let (a, b) = (loss.loss.expect("is computed"), found.loss().expect("is computed"));
                assert!((a.noise - b.noise).abs() <= 1e-6 * b.noise, "{what}");
                assert!((a.signal - b.signal).abs() <= 1e-6 * b.signal, "{what}");
                let (a, b) = (loss.channels.as_ref(), found.channels.as_ref());
                let (a, b) = (a.expect("is computed").all(), b.expect("is computed").all());
                assert_eq!(a.len(), b.len(), "{what}");
                for (a, b) in a.iter().zip(b) {
                    assert!((a.noise - b.noise).abs() <= 1e-6 * b.noise, "{what}");
                }
            }
            for (plain, found) in plain.outcomes.iter().zip(&asked.outcomes) {
                let what = format!("{dtype:?} {dims:?} {:?}", found.quantizer);
                let (plain, found) = (plain.result.as_ref(), found.result.as_ref());
                let (plain, found) = (plain.expect("ok"), found.expect("ok"));
                assert_eq!(plain.scales, found.scales, "{what}");
                assert_eq!(plain.channels, None);
                let (plain, error) =
                    (plain.error.expect("is computed"), found.error.expect("is computed"));
                assert!((plain.noise - error.noise).abs() <= 1e-6 * plain.noise, "{what}");
                assert_eq!((plain.levels, plain.zeroed), (error.levels, error.zeroed), "{what}");
                let channels = found.channels.as_ref().expect("is computed");
                assert_eq!(channels.all().len() as u64, shape.channels(), "{what}");
                let sum: f64 = channels.all().iter().map(|channel| channel.noise).sum();
                assert!((sum - error.noise).abs() <= 1e-9 * sum, "{what}");
                let dbs = channels.all().iter().map(|channel| channel.sqnr_db());
                let worst = dbs.fold(f64::INFINITY, f64::min);
                assert_eq!(channels.worst().map(|(_, db)| db).unwrap_or(worst), worst);
            }
        }
    }
}

#[test]
fn blocks_measured_together_equal_blocks_measured_alone() {
    let schemes = [32, 64, 128].map(QuantizationScheme::per_block);
    for dims in [&[30u64, 1000][..], &[40, 333], &[4, 2, 1024], &[9, 130]] {
        let shape = Shape::new(dims).expect("fits");
        for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16, FloatType::F64] {
            let bytes = values(dtype, shape.elements());
            let outcomes = |schemes: &[QuantizationScheme]| {
                let spec = spec_for(schemes, Calibration::MinMax);
                let analyzer =
                    TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, None, 1 << 14);
                assert_eq!(analyzer.single_pass.nested.is_some(), schemes.len() == 3);
                run_in_memory(&analyzer, dtype, &bytes).outcomes
            };
            for (scheme, together) in schemes.iter().zip(outcomes(&schemes)) {
                let alone = outcomes(&[*scheme]).remove(0).result.expect("ok");
                let together = together.result.expect("ok");
                assert_eq!(alone.scales, together.scales, "{dtype:?} {dims:?} {scheme}");
                let (a, b) =
                    (alone.error.expect("is computed"), together.error.expect("is computed"));
                assert!((a.noise - b.noise).abs() <= 1e-6 * a.noise, "{dtype:?} {dims:?}");
                assert_eq!((a.levels, a.zeroed, a.count), (b.levels, b.zeroed, b.count));
            }
        }
    }
}

#[test]
fn the_mse_calibration_has_no_more_error_than_any_candidate() {
    let shape = Shape::vector(10_001);
    for dtype in [FloatType::F32, FloatType::BF16] {
        let bytes = values(dtype, 10_001);
        let noise = |calibration| {
            let scheme = "per-tensor/int4".parse().expect("a scheme");
            let spec = spec_for(&[scheme], calibration);
            let analyzer = TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, None, 1 << 13);
            let analysis = run_in_memory(&analyzer, dtype, &bytes);
            let outcome = analysis.outcomes.into_iter().next().expect("one");
            outcome.result.expect("quantizable").error.expect("is computed").noise
        };
        let least = noise(Calibration::Mse);
        assert!(least < noise(Calibration::MinMax), "{dtype:?}");
        for step in 0..64 {
            let share = (-f64::from(step) / 16.0).exp2();
            // For BF16 one error comes from the histogram, the other from f32 sums.
            let slack = if dtype == FloatType::F32 { 1e-9 } else { 1e-7 };
            assert!(least <= noise(Calibration::Clip(share)) * (1.0 + slack));
        }
    }
}

#[test]
fn the_histogram_is_that_of_the_elements() {
    for (dtype, n) in [(FloatType::BF16, 300_001), (FloatType::F32, 300_001), (FloatType::F16, 9)] {
        let bytes = values(dtype, n);
        let spec = AnalysisSpec {
            histogram: true,
            ..spec_for(&[QuantizationScheme::PER_TENSOR], Calibration::MinMax)
        };
        let analysis = analyze(&spec, dtype, &Shape::vector(n), &bytes);
        let counted = analysis.histogram.expect("is computed");
        assert_eq!(counted, ValueHistogram::of(dtype, &bytes));
        if counted.is_exact() {
            let again = spec.outcome_of(&counted, spec.quantizers[0]);
            let (again, first) = (again.result.expect("ok"), &analysis.outcomes[0].result);
            let first = first.as_ref().expect("ok");
            assert_eq!(again.scales, first.scales);
            let noise = |q: &Quantized| q.error.expect("is computed").noise;
            assert!((noise(&again) / noise(first) - 1.0).abs() < 1e-6);
        }
    }
}

#[test]
fn an_element_that_is_not_finite_is_reported_by_its_index() {
    let shape = Shape::new([2, 200_000]).expect("fits");
    for dtype in [FloatType::F32, FloatType::BF16, FloatType::F16] {
        let mut bytes = values(dtype, 400_000);
        let mut nan = Vec::new();
        crate::tensor::write_f64(dtype, f64::NAN, &mut nan);
        bytes[nan.len() * 300_001..nan.len() * 300_002].copy_from_slice(&nan);
        let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
        for calibration in [Calibration::MinMax, Calibration::Percentile(99.0)] {
            let spec = spec_for(&schemes, calibration);
            let analysis = analyze(&spec, dtype, &shape, &bytes);
            assert_statistics(&analysis, dtype, &bytes, true);
            for outcome in analysis.outcomes {
                assert_eq!(
                    outcome.result,
                    Err(NotQuantizable::NonFinite { nan: 1, inf: 0, first: 300_001 })
                );
            }
        }
    }
}

/// Presets give the same result as encoding and decoding each row separately.
#[test]
fn errors_of_presets_are_those_of_dequantized_rows() {
    let shape = Shape::new([160u64, 256]).expect("fits");
    let values: Vec<f32> =
        (0..shape.elements()).map(|i| ((i * i % 977) as f32 / 977.0 - 0.4) * 0.1).collect();
    let dtype = FloatType::F32;
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let quantizer = |preset| Quantizer {
        calibration: Calibration::MinMax,
        scheme: QuantizationScheme::Preset(preset),
    };
    let quantizers: Vec<Quantizer> = Preset::ALL.map(quantizer).to_vec();
    for errors in [ErrorDetail::Full, ErrorDetail::Loss] {
        let channels = ChannelDetail::All;
        let spec = AnalysisSpec::errors(quantizers.clone(), Rounding::HalfEven);
        let spec = AnalysisSpec { errors, channels, ..spec };
        let whole = analyze(&spec, dtype, &shape, &bytes);
        for chunk_bytes in [1 << 12, 1 << 16] {
            let analyzer =
                TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, None, chunk_bytes);
            let found = run_in_memory(&analyzer, dtype, &bytes);
            assert_eq!(found.outcomes.len(), Preset::ALL.len());
            let pairs = found.outcomes.iter().zip(&whole.outcomes).zip(Preset::ALL);
            for ((outcome, in_one), preset) in pairs {
                let found = outcome.result.as_ref().expect("finite");
                let in_one = in_one.result.as_ref().expect("finite");
                let coder = PresetCoder::new(preset, dtype, &shape, found_absmax(&values));
                let (mut noise, mut rows) = (0.0, Vec::new());
                let each = |x: &[f32], _: &[u8], restored: &[f32]| {
                    let squares = x
                        .iter()
                        .zip(restored)
                        .map(|(&x, &restored)| (f64::from(x) - f64::from(restored)).powi(2));
                    let of_row: f64 = squares.sum();
                    rows.push(of_row);
                    noise += of_row;
                };
                let mut scales = 0;
                coder.restore(&bytes, each, |_, _| scales += 1).expect("finite");
                let loss = found.loss().expect("measured");
                assert!((loss.noise / noise - 1.0).abs() < 1e-12, "{preset}");
                assert!(noise > 0.0, "{preset}");
                let channels = found.channels.as_ref().expect("is computed").all();
                assert_eq!(channels.len(), rows.len(), "{preset}");
                for (channel, row) in channels.iter().zip(rows) {
                    assert!((channel.noise - row).abs() <= 1e-12 * row, "{preset}");
                }
                assert_eq!(found.scales, in_one.scales, "{preset}");
                assert_eq!(found.scales.count, scales, "{preset}");
                let levels = |found: &Quantized| found.error.map(|error| error.levels);
                assert_eq!(levels(found), levels(in_one), "{preset}");
            }
        }
    }
}

fn found_absmax(values: &[f32]) -> f64 {
    values.iter().fold(0f32, |max, x| max.max(x.abs())).into()
}

#[test]
fn a_preset_that_does_not_fit_the_shape_has_no_result() {
    let shape = Shape::new([2u64, 192]).expect("fits");
    let scheme = QuantizationScheme::Preset(Preset::W4A16(128));
    let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
    let spec = AnalysisSpec::errors(vec![quantizer], Rounding::HalfEven);
    let found = analyze(&spec, FloatType::F32, &shape, &[0; 2 * 192 * 4]);
    let why = found.outcomes[0].result.as_ref().expect_err("does not fit");
    assert!(matches!(why, NotQuantizable::DoesNotFit { .. }), "{why}");
}

/// The loss of each expert of a tensor is that of its slice, for every strategy and detail.
#[test]
fn losses_of_experts_are_those_of_their_slices() {
    let mut schemes: Vec<QuantizationScheme> =
        ["per-channel", "per-block:32", "per-block:64", "per-block:128", "q8_0"]
            .map(|scheme| scheme.parse().expect("a scheme"))
            .to_vec();
    schemes.push(QuantizationScheme::Preset(Preset::Fp8Dynamic));
    schemes.push(QuantizationScheme::Preset(Preset::W4A16(128)));
    for dtype in [FloatType::F32, FloatType::BF16] {
        let dims = [3u64, 40, 128];
        let shape = Shape::new(dims).expect("fits").with_channel_axes(ChannelAxes::FirstTwo);
        let slice = Shape::new(&dims[1..]).expect("fits");
        let bytes = values(dtype, shape.elements());
        for channels in [ChannelDetail::None, ChannelDetail::Worst] {
            let spec = AnalysisSpec { channels, ..spec_for(&schemes, Calibration::MinMax) };
            let spec = AnalysisSpec { keep_scales: false, ..spec };
            let analyzer = TensorAnalyzer::with_chunk_bytes(&spec, dtype, &shape, None, 1 << 14);
            let found = run_in_memory(&analyzer, dtype, &bytes);
            let alone = |expert: usize| {
                let length = slice.elements() as usize * dtype.size();
                let bytes = bytes.get(expert * length..(expert + 1) * length).expect("in range");
                analyze(&spec, dtype, &slice, bytes)
            };
            let alone: Vec<Analysis> = (0..3).map(alone).collect();
            for (place, outcome) in found.outcomes.iter().enumerate() {
                let what = format!("{dtype:?} {channels:?} {:?}", outcome.quantizer);
                let found = outcome.result.as_ref().expect("fits");
                let losses = found.channels.as_ref().expect("is computed");
                assert_eq!(losses.worst().is_some(), channels == ChannelDetail::Worst, "{what}");
                assert_eq!(losses.experts().len(), 3, "{what}");
                for (expert, loss) in losses.experts().iter().enumerate() {
                    let alone = alone[expert].outcomes[place].result.as_ref().expect("fits");
                    let alone = alone.loss().expect("is computed");
                    assert!((alone.noise - loss.noise).abs() <= 1e-6 * alone.noise, "{what}");
                    assert!((alone.signal - loss.signal).abs() <= 1e-6 * alone.signal, "{what}");
                }
            }
        }
    }
}
