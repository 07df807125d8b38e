//! The budget: the schemes of the target, whole fusion units, and typed sizes.

use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use quantscope::app::overlay::Overlay;
use quantscope::quantization::QuantizationScheme;

fn choose_target(driver: &mut Driver, name: &str) {
    driver.press("T");
    while !driver.shows(&format!("▸ {name} ")) {
        driver.press("j");
    }
    driver.press("Enter");
}

#[test]
fn the_budget_offers_what_the_target_holds_and_keeps_units_whole() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("b");
    driver.expect("(•) per channel");
    driver.expect_not("block 32");
    // vLLM does not load one scale per tensor.
    driver.expect_not("( ) per tensor");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    let units = driver.app.model.rules().units();
    for point in 0..=budget.last() {
        let plan = budget.curve.plan(point, Default::default());
        assert_eq!(units.split_in(&plan).count(), 0, "at point {point}");
    }
    driver.press("Home Enter s");
    driver.expect("14 tensors quantized");
    driver.press("Enter");
    driver.expect("Saved and verified");
}

#[test]
fn a_format_with_one_scheme_has_one_scheme_chosen() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("T l Enter b");
    driver.expect("compressed-tensors W8A16");
    driver.press("Home");
    let schemes = |driver: &Driver| {
        let mut schemes: Vec<QuantizationScheme> = Vec::new();
        for (_, quantizer) in driver.app.model.plan().iter() {
            if !schemes.contains(&quantizer.scheme) {
                schemes.push(quantizer.scheme);
            }
        }
        schemes
    };
    assert_eq!(schemes(&driver), [QuantizationScheme::PER_CHANNEL]);
    driver.press("j Space");
    driver.expect("(•) block 128");
    assert_eq!(schemes(&driver), [QuantizationScheme::per_block(128)], "{}", driver.screen());
}

#[test]
fn sizes_shares_and_errors_are_typed() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b");
    driver.type_text("500kB");
    driver.expect("go to    500kB");
    driver.press("Enter");
    let after = driver.app.model.totals().after;
    assert!((450_000..=500_000).contains(&after), "{after}");
    driver.expect("500kB: ");
    driver.press(":");
    driver.expect("60MB, 50% or 40dB");
    driver.type_text("60%");
    driver.press("Enter");
    let after = driver.app.model.totals().after;
    assert!(after <= 722_000 * 6 / 10, "{after}");
    driver.type_text("42dB");
    driver.press("Enter");
    let mean = driver.app.model.quality().mean.expect("marks");
    assert!((42.0..43.0).contains(&mean), "{mean}");
    // An impossible size is reported, and the text can be corrected.
    driver.type_text("1kB");
    driver.press("Enter");
    driver.expect("no plan is that small: the smallest has 395 kB");
    driver.press("Ctrl-u");
    driver.type_text("small");
    driver.press("Enter");
    driver.expect("invalid size 'small'");
    driver.press("Esc Esc");
    driver.expect("nothing marked");
}

/// The plan line and the budget show the same mean with the same name.
#[test]
fn the_mean_is_one_figure_everywhere() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Home");
    let rows = driver.rows();
    let mean = |row: &str| {
        let after = row.split_once("mean ")?.1;
        Some(after.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    };
    let told: Vec<String> =
        rows.iter().filter_map(|row| mean(row)).filter(|m| m.contains("dB")).collect();
    assert_eq!(told.len(), 2, "{}", driver.screen());
    assert_eq!(told[0], told[1]);
}
