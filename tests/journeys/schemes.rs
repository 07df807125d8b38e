//! The list of schemes, and choosing one in the Schemes tab.

use crate::support::checkpoint::{f32s, in_memory, weights};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use crate::support::gguf::{made, wave};
use crate::support::json;
use quantscope::app::overlay::Overlay;
use std::collections::BTreeSet;
use tempfile::tempdir;

/// The schemes of all marks.
fn marks(driver: &Driver) -> BTreeSet<String> {
    driver.app.model.plan().iter().map(|(_, quantizer)| quantizer.scheme.to_string()).collect()
}

fn names(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_list_shows_what_each_scheme_costs_the_row_the_marked_and_the_shown() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/mlp");
    driver.press("Enter a Esc x");
    driver.expect("this row");
    driver.expect("6 marked");
    driver.expect("15 shown");
    let row = driver.rows().into_iter().find(|row| row.contains("▸ ● per tensor"));
    let row = row.expect("the present scheme is chosen");
    // SQNR and bytes of each of the three.
    assert_eq!(row.matches(" dB").count(), 3, "{row}");
    assert_eq!(row.matches("kB").count(), 3, "{row}");
    driver.press("Esc");
    assert!(driver.app.overlay.is_none());
    assert_eq!(marks(&driver), names(&["per-tensor"]));
}

#[test]
fn the_marked_and_shown_are_changed_together() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a");
    driver.type_text("/attn");
    driver.press("Enter x Right Down");
    driver.expect_words("Enter makes 8 marks among the tensors shown per channel");
    driver.press("Enter");
    driver.expect("8 marks now per channel");
    assert_eq!(marks(&driver), names(&["per-channel", "per-tensor"]));
    driver.press("u");
    driver.expect("undone: 8 marks changed");
    assert_eq!(marks(&driver), names(&["per-tensor"]));
    // Without any mark there is nothing to change, and the list says so.
    driver.press("u x Right Enter");
    driver.expect("no tensor is marked and shown");
    driver.press("Esc");
}

#[test]
fn one_choice_changes_the_whole_table() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a X");
    driver.expect_words("Enter makes all 15 marks per tensor, and the table");
    driver.press("Down Down Enter");
    driver.expect("weight error of int8 block 128");
    assert_eq!(marks(&driver), names(&["per-block:128"]));
}

#[test]
fn only_schemes_of_the_target_are_offered() {
    let mut driver = Driver::open(SHARDED);
    driver.press("T");
    driver.choose("vllm");
    driver.press("Enter a x");
    let Some(Overlay::Schemes(list)) = &driver.app.overlay else { panic!("{}", driver.screen()) };
    let offered: Vec<String> =
        list.choices.iter().map(|choice| choice.scheme.to_string()).collect();
    assert_eq!(offered, ["per-channel"]);
    // All layers of this format have one scheme, so the list changes all.
    driver.expect_words("makes all 14 marks");
    driver.press("Esc");
}

#[test]
fn a_tensor_that_cannot_be_quantized_says_why_in_the_list() {
    let nan = f32s("nan.weight", &[2, 2], [1.0, 2.0, f32::NAN, 3.0]);
    let mut driver = Driver::of(in_memory(&[nan, weights("w", &[8, 8])]), false);
    driver.type_text("/is:nan");
    driver.press("Enter x");
    driver.expect_words("cannot be quantized");
    driver.press("Enter");
    driver.expect_words("cannot be quantized");
    driver.press("Esc");
}

#[test]
fn a_scheme_is_chosen_in_the_schemes_tab() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab Tab Tab Enter");
    driver.expect("Enter take it");
    driver.press("Down Down Down Enter");
    driver.expect("1 mark now block 64");
    assert_eq!(marks(&driver), names(&["per-block:64"]));
    // The cursor starts on the scheme that the next tensor has.
    driver.press("J");
    assert!(driver.cursor_row().contains("per tensor"), "{}", driver.screen());
    driver.press("Esc");
    driver.expect("1 tensor marked");
}

/// No figure of a block type is an estimate: neither in the list of types, nor in the table, nor in
/// the tabs.
#[test]
fn figures_of_gguf_types_are_those_of_an_analysis() {
    let directory = tempdir().expect("a directory");
    let tensors = [wave("blk.0.attn_q.weight", 512, 3), wave("blk.0.ffn_up.weight", 256, 5)];
    let source = made(&directory.path().join("source.gguf"), &[], &tensors);
    let mut driver = Driver::open(&source);
    driver.press("T");
    driver.choose("llama.cpp");
    driver.press("Enter X");
    let Some(Overlay::Schemes(list)) = &driver.app.overlay else { panic!("{}", driver.screen()) };
    let offered: Vec<String> =
        list.choices.iter().map(|choice| choice.scheme.to_string()).collect();
    assert!(["q3_K", "q4_K", "iq4_xs", "iq3_s"].iter().all(|&name| offered.contains(&name.into())));
    let path = source.to_str().expect("text");
    let analysis = json(&["analyze", path, "--schemes", &offered.join(","), "--no-cache"]);
    driver.press("Home Enter");
    for (place, scheme) in offered.iter().enumerate() {
        if place > 0 {
            driver.press("X Down Enter");
        }
        assert_eq!(driver.app.model.scheme().to_string(), *scheme);
        for tensor in analysis["tensors"].as_array().expect("a list") {
            let measured = &tensor["schemes"][place];
            assert_eq!(measured["scheme"], *scheme);
            let figure = |key: &str| measured[key].as_f64().expect("a figure");
            let name = tensor["name"].as_str().expect("a name");
            let row = driver.table().into_iter().find(|row| row.contains(name)).expect("a row");
            let shown = format!("{:.1} dB", figure("sqnr_db"));
            assert!(row.contains(&shown), "{scheme}: {shown}\n{row}");
            if driver.cursor_row().contains(name) {
                driver.expect(&format!("SQNR              {shown}"));
                driver.expect(&format!("{:.7}", figure("cosine_similarity")));
            }
        }
        driver.expect_not("≈");
        // The Histogram tab is about the clip of int8.
        driver.press("Tab");
        for _ in 0..3 {
            driver.press("Tab");
            driver.expect_not("≈");
        }
        driver.press("Tab");
    }
}
