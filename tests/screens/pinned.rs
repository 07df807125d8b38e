//! Compares screens with the pictures in `screenshots/`, cell by cell and including colours.
//! `UPDATE_SCREENSHOTS=1 cargo test --test screens` redraws the pictures.

use crate::support::checkpoint as made;
use crate::support::driver::{DEMO, Driver, SHARDED, TINY_LLAMA};
use crate::support::svg::{picture, picture_on_light};
use quantscope::ui::{Colours, Theme};
use std::path::PathBuf;

/// Compares the screen with its picture, or redraws the picture.
fn pin(driver: &Driver, name: &str) {
    pin_picture(driver, name, picture(&driver.buffer()));
}

fn pin_picture(driver: &Driver, name: &str, now: String) {
    let path = PathBuf::from("screenshots").join(format!("{name}.svg"));
    if std::env::var_os("UPDATE_SCREENSHOTS").is_some() {
        std::fs::create_dir_all("screenshots").expect("can be made");
        std::fs::write(&path, now).expect("can be written");
        return;
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        pinned == now,
        "{} differs from the screen. If the change is meant: UPDATE_SCREENSHOTS=1 cargo test --test screens\n{}",
        path.display(),
        driver.screen()
    );
}

#[test]
fn the_ranked_table() {
    let mut driver = Driver::open(DEMO);
    pin(&driver, "table");
    driver.press("a j j x");
    pin(&driver, "marks");
    driver.press("Tab");
    pin(&driver, "histogram");
    driver.press("[ [ [ Enter %");
    pin(&driver, "histogram-clip");
    driver.press("Enter Tab");
    pin(&driver, "channels");
    driver.press("Tab");
    pin(&driver, "schemes");
}

#[test]
fn the_outputs_of_the_layers() {
    let mut driver = Driver::open(DEMO);
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter >");
    pin(&driver, "outputs");
}

#[test]
fn the_module_tree() {
    let mut driver = Driver::open(SHARDED);
    driver.press("t");
    driver.type_text("/mlp");
    driver.press("Enter g Space");
    pin(&driver, "tree");
}

#[test]
fn a_filter_being_typed() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/attn weight");
    pin(&driver, "filter");
}

#[test]
fn calibrating() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    driver.tick(Some(0.41));
    pin(&driver, "calibrating");
}

#[test]
fn saving() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a G Space s");
    pin(&driver, "save");
    driver.press("Enter");
    pin(&driver, "receipt");
    driver.press("Esc s Enter");
    pin(&driver, "replace");
}

#[test]
fn dequantizing() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a s Enter");
    let mut driver = Driver::open(driver.path("single-int8.safetensors"));
    pin(&driver, "quantized");
    driver.press("d");
    pin(&driver, "dequantize");
}

#[test]
fn windows() {
    let mut driver = Driver::open(SHARDED);
    for (key, name) in
        [("?", "help"), ("L", "legend"), ("m", "metadata"), ("p", "presets"), (":", "go-to")]
    {
        driver.press(key);
        pin(&driver, name);
        driver.press("Esc");
    }
    driver.press("a q");
    pin(&driver, "quit");
}

#[test]
fn what_goes_wrong() {
    let nan = made::f32s("head.weight", &[2, 2], [1.0, f32::NAN, f32::INFINITY, 0.5]);
    let tensors =
        [nan, made::weights("body.weight", &[64, 64]), made::weights("a\u{202e}b\n", &[8, 8])];
    let mut driver = Driver::of(made::in_memory(&tensors), false);
    pin(&driver, "no-scale");
    driver.panic_next_job("index out of bounds: the len is 3 but the index is 7");
    driver.press("c");
    pin(&driver, "error");
}

#[test]
fn every_kind_of_terminal() {
    let mut driver = Driver::open(DEMO);
    driver.press("j Space");
    driver.theme = Theme::new(Colours::TrueOnLight);
    pin_picture(&driver, "light", picture_on_light(&driver.buffer()));
    for (name, colours) in [("ansi", Colours::Ansi), ("mono", Colours::None)] {
        driver.theme = Theme::new(colours);
        pin(&driver, name);
    }
    driver.theme = Theme::new(Colours::True);
    for (width, height) in [(60, 15), (80, 24), (200, 50), (50, 10)] {
        driver.resize(width, height);
        pin(&driver, &format!("size-{width}x{height}"));
    }
}

#[test]
fn the_values_of_a_tensor() {
    let mut driver = Driver::open(DEMO);
    driver.press("BackTab Enter j j j l");
    pin(&driver, "values");
    driver.press(":");
    pin(&driver, "go-to-element");
}

#[test]
fn the_budget() {
    let mut driver = Driver::open(DEMO);
    driver.press("a b Home Right Right Right Right Right");
    pin(&driver, "budget");
    driver.resize(60, 15);
    pin(&driver, "budget-60x15");
}

#[test]
fn comparing() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/mlp");
    driver.press("Enter a Esc s Enter Esc D");
    driver.type_text("single-int8.safetensors");
    pin(&driver, "prompt");
    driver.press("Enter");
    pin(&driver, "diff");
}
