//! The list of schemes, and choosing one in the Schemes tab.

use crate::support::checkpoint::{f32s, in_memory, weights};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use quantscope::app::overlay::Overlay;
use std::collections::BTreeSet;

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
