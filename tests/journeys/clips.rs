//! The figures of the clip slider equal those of a save with that clip, for every dtype.

use crate::support::checkpoint::{Tensor, in_memory};
use crate::support::driver::Driver;
use quantscope::export::{OutputFormat, Request, Task};
use quantscope::job::{Progress, save};
use quantscope::plan::Plan;
use quantscope::quantization::{QuantizationScheme, Quantizer};
use quantscope::tensor::{FloatType, TensorId, read_f64, write_f64};

#[test]
fn figures_of_the_clip_slider_equal_those_of_a_save() {
    let values = || {
        (0..96 * 1024u32).map(|i| {
            let x = f64::from(i.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24) - 0.5;
            x * x * x + if i == 77 { 0.4 } else { 0.0 }
        })
    };
    for (dtype, float) in [
        ("F64", FloatType::F64),
        ("F32", FloatType::F32),
        ("F16", FloatType::F16),
        ("BF16", FloatType::BF16),
    ] {
        let mut bytes = Vec::new();
        values().for_each(|value| write_f64(float, value, &mut bytes));
        let weight = Tensor { name: "a.weight".into(), dtype, shape: vec![96, 1024], bytes };
        let mut driver = Driver::of(in_memory(&[weight]), false);
        driver.press("Tab");
        for slides in ["", "[", "[ [ [ [ [", "[ [ [ [ [ [ [ [ [ [ [ ["] {
            driver.press(slides);
            let printed = driver.app.histogram.clipped.expect("judged");
            assert!(printed.exact, "{dtype} {slides}");
            let calibration = driver.app.histogram.calibration();
            let quantizer = Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR };
            let checkpoint = &driver.app.model.checkpoint;
            let mut plan = Plan::default();
            plan.mark(TensorId(0), quantizer);
            let task = Task::Quantize { plan, format: OutputFormat::Safetensors };
            let out = driver.path("clipped.safetensors");
            let request = Request { task, out: out.clone(), force: true, copy: Vec::new() };
            let progress = Progress::default();
            let receipt =
                save::run(checkpoint, &request, Some(2), &progress, &|_| {}).expect("saves");
            let saved = receipt.quantized[0].on_disk;
            // Squares of a few thousand elements are summed in f32.
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
            assert!(close(printed.error.mse, saved.mse), "{dtype}: {printed:?}, {saved:?}");
            assert!(close(printed.error.sqnr_db, saved.sqnr_db), "{dtype}: {printed:?}, {saved:?}");
            assert_eq!(printed.error.max_abs_error, saved.max_abs_error, "{dtype}");
            assert_eq!(printed.error.levels_used, saved.levels_used, "{dtype}");
            assert_eq!(printed.error.zeroed, saved.zeroed, "{dtype}");
            let beyond = values().filter(|&value| {
                let mut stored = Vec::new();
                write_f64(float, value, &mut stored);
                let stored = read_f64(float, &stored, 0).expect("one");
                stored.abs() > printed.clip * (1.0 + 1e-7)
            });
            assert_eq!(printed.beyond, beyond.count() as u64, "{dtype} {slides}");
        }
    }
}
