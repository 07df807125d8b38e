//! Every pane at several sizes: no word is cut, and important text is visible.

use crate::support::checkpoint::{f32s, in_memory, weights, write};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use quantscope::app::overlay::Overlay;
use std::collections::HashSet;

pub(crate) const GGUF: &str = "tests/data/gguf/synth-a32.gguf";

pub(crate) const SIZES: [(u16, u16); 4] = [(60, 15), (80, 24), (120, 36), (200, 60)];

/// The keys that open each pane from the table.
pub(crate) const PANES: [&str; 48] = [
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
    "A",
    "r",
    "X",
    "v j j",
    "t",
    "t Enter",
    "e / n o / p Enter",
    "D n o n e Enter",
    "a s Ctrl-u n o n e / o u t Enter",
    "b : 6",
    "a s ? F1",
    "BackTab Enter :",
    "a o Down Enter",
    "/ s q r n < 2",
    "/ z z z Enter",
];

/// A target by its name, for a model of which each pane is opened.
pub(crate) fn with_target(path: &str, target: &str) -> Driver {
    let mut driver = Driver::open(path);
    driver.press("T");
    driver.choose(target);
    driver.press("Enter");
    driver
}

/// A model with tensors of very long names.
pub(crate) fn long_names() -> Driver {
    let name = |n: usize| format!("model.{}{n}.weight", "very_long_part_of_a_name.".repeat(8));
    let tensors: Vec<_> = (0..20).map(|n| weights(&name(n), &[32, 32])).collect();
    Driver::of(in_memory(&tensors), false)
}

/// The words of a screen.
fn words(driver: &Driver) -> HashSet<String> {
    let screen = driver.screen();
    screen.split(|c: char| !c.is_alphabetic()).map(str::to_owned).collect()
}

/// The words of a dialog, paged to its end.
fn words_of_all_pages(driver: &mut Driver) -> HashSet<String> {
    let mut seen = words(driver);
    for _ in 0..6 {
        driver.press("PageDown");
        seen.extend(words(driver));
    }
    seen
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
            // The borders of a window have the table beside them.
            if window && row.contains(['╭', '╮', '╰', '╯']) {
                continue;
            }
            if window && number != 1 && row.contains('│') {
                continue;
            }
            let inside = number > 0 && piece.len() > 6;
            let text = piece.trim_end();
            let full = if inside {
                piece.chars().count() - text.chars().count() <= 3
            } else {
                length >= width
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
        expect_whole_words(&mut driver, keys);
    }
}

/// Asserts at every size that no word is cut at the right edge of the screen or of a window.
fn expect_whole_words(driver: &mut Driver, keys: &str) {
    driver.resize(300, 100);
    let mut known = words(driver);
    for (width, height) in SIZES {
        driver.resize(width, height);
        // A word that is scrolled to on a small screen is visible on a large one.
        known.extend(["Values".to_owned()]);
        for word in last_words(driver) {
            assert!(
                known.contains(&word),
                "'{word}' is cut at {width}×{height} after '{keys}':\n{}",
                driver.screen()
            );
        }
    }
}

/// The same for other models and targets: block types, presets, long names, a quantized model.
#[test]
fn no_word_is_cut_for_other_models() {
    let common =
        ["", "Enter", "Tab Tab Tab Enter", "x", "a x Right", "b", "b Home", "a s", "T", "|"];
    for keys in common {
        let mut gguf = with_target(GGUF, "llama.cpp");
        gguf.press(keys);
        expect_whole_words(&mut gguf, keys);
        let mut presets = with_target(SHARDED, "vllm");
        presets.press("T l l Enter");
        presets.press(keys);
        expect_whole_words(&mut presets, keys);
        let mut long = long_names();
        long.press(keys);
        expect_whole_words(&mut long, keys);
    }
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a s Enter");
    let saved = driver.path("single-int8.safetensors");
    for keys in ["", "Enter", "d", "d Down Down", "d Enter", "m"] {
        let mut quantized = Driver::open(&saved);
        quantized.press(keys);
        expect_whole_words(&mut quantized, keys);
    }
    let mut compared = Driver::open(TINY_LLAMA);
    compared.press("D");
    compared.type_text(saved.to_str().expect("text"));
    compared.press("Enter");
    compared.expect("changed");
    for keys in ["", "j", "/ m l p", "Ctrl-u s q r n < 2"] {
        compared.press(keys);
        expect_whole_words(&mut compared, keys);
    }
    compared.press("Esc");
    compared.resize(60, 15);
    let row = compared.cursor_row();
    let name = row.trim_start_matches('▌').split_whitespace().next().unwrap_or_default();
    assert!(name.chars().count() > 16, "{}", compared.screen());
    let mut waiting = Driver::open_waiting(TINY_LLAMA);
    waiting.tick(Some(0.41));
    expect_whole_words(&mut waiting, "calibrating");
}

/// The switches of the save dialog for recorded inputs, and what they change, at every size.
#[test]
fn the_switches_for_recorded_inputs_are_read_at_every_size() {
    let mut driver = with_target(TINY_LLAMA, "vllm");
    driver.press("T l l Enter");
    let path = driver.path("captures.safetensors");
    let values = (0..3 * 128).map(|i| (i * 37 % 101) as f32 - 50.0);
    let layer = "model.layers.0.mlp.up_proj.input";
    write(&path, &[f32s(layer, &[3, 128], values)], &[]);
    driver.press("A");
    driver.type_text(path.to_str().expect("text"));
    driver.press("Enter a s Ctrl-g");
    expect_whole_words(&mut driver, "a s Ctrl-g");
    for (width, height) in SIZES {
        driver.resize(width, height);
        let seen = words_of_all_pages(&mut driver);
        for word in ["compensation", "clips", "rounded", "recorded", "inputs"] {
            assert!(seen.contains(word), "{word} at {width}×{height}:\n{}", driver.screen());
        }
    }
    driver.resize(130, 44);
    driver.press("Enter");
    driver.expect("Output error on the recorded inputs");
    expect_whole_words(&mut driver, "the receipt");
}

/// Every entry of a list comes into sight under the cursor, at every size.
#[test]
fn every_list_scrolls_to_its_last_entry() {
    let lists = [("x", 5), ("X", 5), ("T", 13), ("p", 6), ("|", 14), ("b", 5), ("a s", 10)];
    for (keys, entries) in lists {
        let mut driver = Driver::open(TINY_LLAMA);
        driver.press(keys);
        driver.resize(300, 100);
        let entry = |driver: &Driver| {
            let rows = driver.rows();
            let row = rows.iter().find(|row| row.contains("▸ "));
            let row = row.unwrap_or_else(|| panic!("{keys}: no cursor:\n{}", driver.screen()));
            let text = row.split_once("▸ ").map_or("", |(_, text)| text);
            let text = text.trim_start().trim_start_matches("● ").trim_start();
            text.split("  ").next().unwrap_or_default().trim_end_matches('│').trim().to_owned()
        };
        let mut names = vec![entry(&driver)];
        for _ in 1..entries {
            driver.press("Down");
            names.push(entry(&driver));
        }
        let distinct: HashSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), entries, "{keys}: {names:?}");
        for (width, height) in SIZES {
            driver.resize(width, height);
            (1..entries).for_each(|_| driver.press("Up"));
            for (at, name) in names.iter().enumerate() {
                if at > 0 {
                    driver.press("Down");
                }
                assert_eq!(&entry(&driver), name, "{keys} at {width}×{height}");
            }
        }
    }
}

#[test]
fn first_and_last_entry_of_a_list_have_keys() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("T End");
    driver.expect("▸ fake-quantized");
    driver.press("Home");
    driver.expect("▸ no loader");
    driver.press("PageDown");
    driver.expect("▸ llama.cpp");
    driver.resize(60, 15);
    driver.expect(" of 13 ");
}

/// Every word of a long refusal, of its fix and of the summary is on some page of the window.
#[test]
fn a_long_refusal_is_read_in_pages() {
    let mut driver = Driver::open(SHARDED);
    driver.type_text("/layers");
    driver.press("Enter a x Down Enter Esc s Down");
    let Some(Overlay::Save(dialog)) = &driver.app.overlay else { panic!("{}", driver.screen()) };
    let refusal = dialog.preview.as_ref().and_then(|preview| preview.as_ref().err());
    let refusal = refusal.expect("a refusal");
    let fix = &refusal.fix.as_ref().expect("a fix").what;
    let summary = dialog.summary(&driver.app.model).join(" ");
    let all = [refusal.why.clone(), fix.clone(), summary].join(" ");
    let all: Vec<String> = all
        .split(|c: char| !c.is_alphabetic())
        .filter(|word| word.len() > 2)
        .map(str::to_owned)
        .collect();
    assert!(all.len() > 20, "{all:?}");
    for (width, height) in SIZES {
        driver.resize(width, height);
        let seen = words_of_all_pages(&mut driver);
        let missing: Vec<&String> = all.iter().filter(|word| !seen.contains(*word)).collect();
        assert!(missing.is_empty(), "{missing:?} at {width}×{height}:\n{}", driver.screen());
    }
}

#[test]
fn a_wide_screen_shows_the_schemes_in_full() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab Tab Tab");
    driver.resize(200, 60);
    for text in [
        "worst channel",
        "saved",
        "one scale per tensor; supported everywhere",
        "one scale per output channel, along axis 0",
        "one scale per n elements along the last axis",
    ] {
        driver.expect(text);
    }
    // Narrow screens keep what can be saved.
    driver.press("Enter");
    for (width, height) in SIZES {
        driver.resize(width, height);
        driver.expect("saved");
    }
    // The cursor stays visible in a list that is longer than the screen.
    let mut presets = with_target(SHARDED, "vllm");
    presets.press("T l l Enter Tab Tab Tab Enter");
    presets.resize(60, 15);
    for _ in 0..8 {
        presets.press("j");
        assert!(presets.cursor_row().contains("dB"), "{}", presets.screen());
    }
}

/// What is wrong with a filter is said in full, beside the text that is typed.
#[test]
fn a_misspelt_filter_is_explained_at_every_size() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/sqrn<20");
    for (width, height) in SIZES {
        driver.resize(width, height);
        driver.expect("/sqrn<20");
        driver.expect_words("unknown figure 'sqrn', did you mean sqnr? Known: size, params, sqnr");
    }
}

/// On a narrow screen the caption has no room for a name.
#[test]
fn the_whole_screen_view_names_its_tensor_at_every_size() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Enter");
    for _ in 0..5 {
        for (width, height) in SIZES {
            driver.resize(width, height);
            driver.expect("weight");
        }
        driver.press("Tab");
    }
}

#[test]
fn a_refusal_its_fix_and_the_keys_are_visible_on_a_small_screen() {
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

/// A message that is longer than the screen is wide is wrapped.
#[test]
fn a_long_message_is_read_in_full() {
    let mut nan = vec![0.5; 64];
    nan[5] = f32::NAN;
    let name = "model.layers.0.self_attention.query_projection.weight";
    let bad = f32s(name, &[8, 8], nan);
    let mut driver = Driver::of(in_memory(&[bad, weights("w", &[8, 8])]), false);
    driver.press("g Space");
    let status = driver.app.status.as_ref().map(|status| status.text.clone()).expect("a message");
    assert!(status.len() > 60, "{status}");
    for (width, height) in SIZES {
        driver.resize(width, height);
        driver.press("Space");
        let shown = words(&driver);
        for word in status.split(|c: char| !c.is_alphabetic()) {
            assert!(shown.contains(word), "{word} at {width}×{height}:\n{}", driver.screen());
        }
    }
}
