//! Every pane at several sizes: no word is cut, and important text is visible.

use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use std::collections::HashSet;

const SIZES: [(u16, u16); 4] = [(60, 15), (80, 24), (120, 36), (200, 60)];

/// The keys that open each pane from the table.
const PANES: [&str; 33] = [
    "Tab Enter",
    "Tab Tab Enter",
    "Tab Tab Tab Enter",
    "BackTab Enter",
    "/",
    "/ m l p",
    "*",
    "a s Enter",
    "a s Enter Esc s Enter",
    "a s Ctrl-u Enter",
    "Space q",
    "e",
    "w",
    "x",
    "a x Right",
    "",
    "Enter",
    "Tab",
    "Tab Tab",
    "Tab Tab Tab",
    "BackTab",
    "b",
    "b Home",
    "p",
    "|",
    "T",
    "a s",
    "?",
    "L",
    "m",
    ":",
    "D",
    "o",
];

/// The words of a screen.
fn words(driver: &Driver) -> HashSet<String> {
    let screen = driver.screen();
    screen.split(|c: char| !c.is_alphabetic()).map(str::to_owned).collect()
}

/// The words at the right edge of the screen or of a window. Only these can be cut.
fn last_words(driver: &Driver) -> Vec<String> {
    let rows = driver.rows();
    let width = driver.buffer().area.width as usize;
    // A window covers the table.
    let window = driver.shows("╭");
    let mut found = Vec::new();
    for row in rows {
        let length = row.chars().count();
        for (number, piece) in row.split('│').enumerate() {
            if window && number != 1 && row.contains('│') {
                continue;
            }
            let inside = number > 0 && piece.len() > 6;
            let text = piece.trim_end();
            let full = match inside {
                true => piece.chars().count() - text.chars().count() <= 3,
                false => length >= width,
            };
            // Names and paths may be wrapped or shortened in the middle.
            let token = text.split_whitespace().last().unwrap_or_default();
            if token.contains(['.', '/', '_', '…']) {
                continue;
            }
            let word: String = text
                .chars()
                .rev()
                .take_while(|c| c.is_alphabetic())
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect();
            if full && !word.is_empty() {
                found.push(word);
            }
        }
    }
    found
}

#[test]
fn no_word_is_cut_at_any_size() {
    for keys in PANES {
        let mut driver = Driver::open(SHARDED);
        driver.press(keys);
        driver.resize(300, 100);
        let mut known = words(&driver);
        for (width, height) in SIZES {
            driver.resize(width, height);
            // A word that is scrolled to on a small screen is visible on a large one.
            known.extend(["Values".to_owned()]);
            for word in last_words(&driver) {
                assert!(
                    known.contains(&word),
                    "'{word}' is cut at {width}×{height} after '{keys}':\n{}",
                    driver.screen()
                );
            }
        }
    }
}

#[test]
fn a_refusal_its_fix_and_the_keys_are_in_sight_on_a_small_screen() {
    let mut driver = Driver::open(SHARDED);
    driver.type_text("/layers");
    driver.press("Enter a x Down Enter Esc s Down");
    driver.resize(60, 15);
    driver.expect_words("Ctrl-R: make all 14 marks per tensor");
    driver.expect_words("Esc write nothing");
    driver.expect("to  sharded-W8A8");
}

#[test]
fn a_small_screen_shows_every_scheme_of_the_budget() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b");
    driver.resize(60, 15);
    for scheme in ["per tensor", "per channel", "block 128", "block 64", "block 32"] {
        driver.expect(scheme);
    }
}

#[test]
fn every_window_names_the_way_out() {
    for keys in
        ["b", "p", "x", "|", "T", "a s", "?", "L", "m", ":", "D", "o", "/", "Space q", "Tab Enter"]
    {
        let mut driver = Driver::open(TINY_LLAMA);
        driver.press(keys);
        for (width, height) in SIZES {
            driver.resize(width, height);
            let last = driver.rows().pop().unwrap_or_default();
            let shown = last.contains("Esc") || last.contains("n no") || driver.shows("Esc ");
            assert!(shown, "{keys} at {width}×{height}:\n{}", driver.screen());
        }
    }
}
