//! `--ascii`: every pane and every dialog in ASCII, except names from files.

use super::sizes::{GGUF, PANES, SIZES, with_target};
use crate::support::checkpoint::{in_memory, weights};
use crate::support::driver::{Driver, SHARDED};
use quantscope::app::settings::Glyphs;

fn expect_ascii(driver: &mut Driver, keys: &str) {
    driver.app.settings.glyphs = Glyphs::Ascii;
    for (width, height) in SIZES {
        driver.resize(width, height);
        let screen = driver.screen();
        let other = screen.chars().find(|c| !c.is_ascii());
        assert!(other.is_none(), "{other:?} after '{keys}' at {width}×{height}:\n{screen}");
    }
}

#[test]
fn every_pane_and_dialog_is_ascii() {
    for keys in PANES {
        let mut driver = Driver::open(SHARDED);
        driver.press(keys);
        expect_ascii(&mut driver, keys);
    }
}

#[test]
fn every_pane_of_other_models_is_ascii() {
    for keys in ["", "b Home", "x", "a s", "Enter", "Tab Tab Tab", "T"] {
        let mut driver = with_target(GGUF, "llama.cpp");
        driver.press(keys);
        expect_ascii(&mut driver, keys);
    }
    // Recorded activations have a column and figures of their own.
    let mut demo = Driver::open("assets/demo.safetensors");
    demo.press("A");
    demo.type_text("demo:");
    demo.press("Enter");
    for keys in ["", "L", "Enter", "Esc b Home"] {
        demo.press(keys);
        expect_ascii(&mut demo, keys);
    }
}

#[test]
fn names_from_files_stay_as_they_are() {
    let mut driver = Driver::of(in_memory(&[weights("größe.weight", &[8, 8])]), false);
    driver.app.settings.glyphs = Glyphs::Ascii;
    driver.press("j");
    driver.expect("größe.weight");
    for row in driver.rows().iter().filter(|row| !row.contains("größe")) {
        assert!(row.is_ascii(), "{row}");
    }
}
