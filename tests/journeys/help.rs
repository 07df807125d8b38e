//! The help in every context, and keys without a binding.

use crate::support::driver::{Driver, TINY_LLAMA};
use quantscope::app::overlay::Overlay;

#[test]
fn the_help_opens_everywhere_at_the_keys_of_the_place() {
    for (keys, help, heading) in [
        ("", "?", "Moving"),
        ("b", "?", "In the budget"),
        ("p", "?", "In the list of presets"),
        ("x", "?", "In the list of schemes"),
        ("|", "?", "In the list of columns"),
        ("T", "?", "In the list of targets"),
        ("L", "?", "In a text"),
        ("Space q", "?", "In a question"),
        ("a s", "F1", "In the save dialog"),
        ("D", "F1", "In a prompt"),
        ("/", "F1", "While a filter is typed"),
        (":", "F1", "While a tensor's name is typed"),
        ("Tab Enter", "?", "In the histogram, on the whole screen"),
        ("Tab Tab Tab Enter", "?", "In the schemes, on the whole screen"),
    ] {
        let mut driver = Driver::open(TINY_LLAMA);
        driver.press(keys);
        let before = driver.screen();
        driver.press(help);
        let rows = driver.rows();
        let first = rows.iter().position(|row| row.contains("search")).expect("the help");
        assert!(rows[first + 2].contains(heading), "{keys}:\n{}", driver.screen());
        driver.press("Esc");
        assert_eq!(driver.screen(), before, "{keys}: Esc closes the help only");
    }
}

#[test]
fn leaving_the_help_keeps_the_choice_in_the_budget() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Home Right Right");
    let chosen = driver.app.model.plan().clone();
    driver.press("? Esc");
    assert!(matches!(driver.app.overlay, Some(Overlay::Budget(_))));
    assert_eq!(driver.app.model.plan(), &chosen);
}

#[test]
fn enter_in_the_help_does_what_the_key_does() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("?");
    driver.type_text("marks tensors shown");
    driver.press("Ctrl-u");
    driver.type_text("mark all quantizable");
    driver.press("Enter");
    driver.expect("marked 15 tensors");
    driver.press("b ?");
    driver.type_text("smallest there is");
    driver.press("Enter");
    driver.expect("395 kB");
    driver.press("?");
    driver.type_text("next tensor with a diagnostic");
    driver.press("Enter");
    driver.expect("works elsewhere: On the main screen");
    assert!(matches!(driver.app.overlay, Some(Overlay::Budget(_))));
}

#[test]
fn a_key_without_meaning_says_so() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Z");
    driver.expect("Z does nothing here; ? shows the keys");
    driver.press("j");
    driver.expect_not("does nothing here");
    // It is said once.
    driver.press("Z");
    driver.expect_not("does nothing here");
    driver.press("b Z");
    driver.expect("Z does nothing here; ? shows the keys");
}

/// Keys and texts of the help do not touch, and texts begin at the same column.
#[test]
fn keys_and_texts_of_the_help_are_apart() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("?");
    for (width, height) in [(60, 15), (120, 36)] {
        driver.resize(width, height);
        for _ in 0..6 {
            let rows = driver.rows();
            let inside = rows.iter().filter_map(|row| row.split('│').nth(1));
            let texts: Vec<Vec<char>> =
                inside.map(|row| row.trim_end().chars().collect()).collect();
            // Two columns of margin, two of the cursor, then the keys. Keys that are wider than
            // their column have a row of their own, and their text is in the next one.
            for pair in texts.windows(2) {
                let [text, next] = pair else { continue };
                let is_wide = next.len() > 22 && next[..22].iter().all(|c| *c == ' ');
                let is_key = text.len() > 22
                    && text[..4].iter().all(|c| [' ', '▸'].contains(c))
                    && text[4] != ' ';
                let apart = !is_key || is_wide || (text[21] == ' ' && text[22] != ' ');
                assert!(apart, "{}", driver.screen());
            }
            driver.press("PageDown");
        }
    }
}
