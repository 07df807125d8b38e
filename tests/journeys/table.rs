//! Scheme columns, and the mouse in every list.

use crate::support::driver::{DEMO, Driver, SHARDED, TINY_LLAMA, in_repository};
use quantscope::app::overlay::Overlay;
use quantscope::app::table::Column;
use quantscope::quantization::QuantizationScheme;

const GAIN: Column =
    Column::Gain { of: QuantizationScheme::PER_CHANNEL, over: QuantizationScheme::PER_TENSOR };

/// The figures of the column with this title, top to bottom.
fn figures(driver: &Driver, title: &str) -> Vec<f64> {
    let rows = driver.rows();
    let titles = &rows[3];
    // The end of the title's cell, which may have an arrow after the title.
    let start = titles.find(title).unwrap_or_else(|| panic!("{title} in {titles}"));
    let end = titles[..start].chars().count() + title.chars().count() + 2;
    let cell = |row: &String| -> Option<f64> {
        let text: String = row.chars().take(end).collect();
        let text = text.trim_end().strip_suffix(" dB")?;
        text.rsplit(' ').next()?.replace('−', "-").parse().ok()
    };
    driver.table().iter().filter_map(cell).collect()
}

#[test]
fn the_gain_of_a_scheme_is_shown_and_sorts_the_table() {
    let mut driver = Driver::open(DEMO);
    driver.expect_not("channel − tensor");
    driver.press("|");
    driver.expect("[x] shape");
    driver.expect("[ ] SQNR per channel");
    driver.expect("[ ] what per channel gains over per tensor");
    driver.press("j j j j j j j j j j Space Enter");
    driver.expect("channel − tensor ▼");
    driver.expect("largest gain of per channel over per tensor first");
    driver.press("g");
    let gains = figures(&driver, "channel − tensor");
    let model = &driver.app.model;
    let weights = model.checkpoint.ids().filter(|&id| model.quantizable(id)).count();
    assert!(gains[..weights].is_sorted_by(|a, b| a >= b), "{}", driver.screen());
    // The gain equals the difference of the two SQNRs in the detail.
    let id = driver.app.current_tensor().expect("a tensor");
    let by = |scheme| driver.app.model.sqnr_by(id, scheme).expect("measured");
    let gain = by(QuantizationScheme::PER_CHANNEL) - by(QuantizationScheme::PER_TENSOR);
    assert!((gain - gains[0]).abs() < 0.051, "{gain}: {}", driver.screen());
    driver.press("R g");
    let gains = figures(&driver, "channel − tensor");
    assert!(gains[..weights].is_sorted(), "{}", driver.screen());
    // The sort order includes the column while it is shown.
    driver.press("<");
    assert_eq!(driver.app.table.sort.column, Column::Sqnr);
    driver.press(">");
    assert_eq!(driver.app.table.sort.column, GAIN);
}

#[test]
fn any_schemes_column_is_chosen_in_the_settings() {
    let settings = "[table]\nsort = \"per-block:32\"\ncolumns = [\"bytes\", \"per-block:32\"]";
    let driver = Driver::open_with(TINY_LLAMA, settings);
    driver.expect("block 32 ▲");
    driver.expect("worst SQNR block 32 first");
    driver.expect_not("shape");
    assert!(figures(&driver, "block 32").is_sorted(), "{}", driver.screen());
}

#[test]
fn unmeasured_tensors_have_no_gain() {
    let settings = "[table]\ncolumns = [\"per-channel over per-tensor\"]";
    let mut driver = Driver::open_with(TINY_LLAMA, settings);
    driver.hold();
    driver.press("c");
    driver.tick(Some(0.1));
    let row = driver.table()[0].clone();
    assert!(row.contains('…') && !row.contains(" dB"), "{row}");
    driver.release();
    assert!(driver.table()[0].contains(" dB"), "{}", driver.screen());
}

#[test]
fn chosen_columns_are_restored() {
    let mut driver = Driver::open(TINY_LLAMA);
    assert!(!driver.app.session().to_toml().contains("columns"));
    driver.press("| Space j j j j j j Space Esc");
    driver.expect("per channel");
    let session = driver.app.session();
    let mut next = Driver::open(TINY_LLAMA);
    next.app.restore(&session);
    assert_eq!(next.app.settings.columns, driver.app.settings.columns);
    assert!(!next.app.settings.columns.contains(&Column::Shape));
}

#[test]
fn the_list_of_columns_fits_the_smallest_screen() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.resize(60, 15);
    driver.press("|");
    for _ in 0..13 {
        driver.press("j");
    }
    driver.expect("▸ [ ] what block 32 gains over per tensor");
    driver.expect("order by it");
}

/// The column and row of a text on the screen.
fn place(driver: &Driver, text: &str) -> (u16, u16) {
    let rows = driver.rows();
    let found = rows.iter().enumerate().find_map(|(y, row)| Some((y, row.find(text)?)));
    let (y, x) = found.unwrap_or_else(|| panic!("{text:?} on\n{}", driver.screen()));
    (rows[y][..x].chars().count() as u16, y as u16)
}

fn click_on(driver: &mut Driver, text: &str) {
    let (x, y) = place(driver, text);
    driver.click(x, y);
}

#[test]
fn the_scroll_bar_follows_the_mouse_outside_of_it() {
    let mut driver = Driver::open(SHARDED);
    driver.resize(120, 24);
    let last = driver.app.table.rows().len() - driver.app.table.height();
    assert!(last > 0, "{}", driver.screen());
    driver.click(119, 4);
    assert_eq!(driver.app.table.top(), 0);
    driver.drag(60, 30);
    assert_eq!(driver.app.table.top(), last, "{}", driver.screen());
    driver.drag(3, 0);
    assert_eq!(driver.app.table.top(), 0, "{}", driver.screen());
    // Dragging from a row moves the cursor.
    driver.click(30, 5);
    driver.drag(119, 8);
    assert_eq!(driver.app.table.cursor(), 4);
    assert_eq!(driver.app.table.top(), 0);
}

#[test]
fn a_click_on_a_hint_presses_its_key() {
    let mut driver = Driver::open(DEMO);
    click_on(&mut driver, "all shown  x");
    driver.expect("tensors marked");
    click_on(&mut driver, "u undo");
    driver.expect("nothing marked");
    click_on(&mut driver, "help  q");
    driver.expect("search");
    click_on(&mut driver, "Esc close");
    driver.expect_not("search");
    driver.press("Space");
    click_on(&mut driver, "quit");
    driver.expect("Quit anyway?");
    let (x, _) = place(&driver, "n no");
    driver.click(x, 35);
    driver.expect_not("Quit anyway?");
    assert!(!driver.has_quit());
    click_on(&mut driver, "q quit");
    let (x, _) = place(&driver, "y yes");
    driver.click(x, 35);
    assert!(driver.has_quit());
}

#[test]
fn a_click_chooses_in_every_list() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("p");
    click_on(&mut driver, "attention");
    driver.expect("▸ attention");
    click_on(&mut driver, "attention");
    driver.expect("attention: 8 tensors marked");

    driver.press("|");
    click_on(&mut driver, "SQNR per channel");
    driver.expect("[x] SQNR per channel");
    driver.press("Esc :");
    driver.type_text("down");
    click_on(&mut driver, "model.layers.1.mlp.down_proj.weight");
    assert!(driver.cursor_row().contains("layers.1.mlp.down_proj"), "{}", driver.screen());

    driver.press("b");
    driver.expect("[x] per channel");
    click_on(&mut driver, "per channel  ");
    driver.expect("[ ] per channel");
    driver.press("Esc");

    driver.hold();
    driver.press("D");
    driver.type_text(&in_repository(TINY_LLAMA));
    driver.press("Enter");
    assert_eq!(driver.held(), ["diff"]);
    driver.release();
    driver.expect("identical");
    let (x, y) = place(&driver, "rel. error");
    driver.click(x, y + 3);
    let Some(Overlay::Diff(_)) = driver.app.overlay else { panic!("still open") };
    driver.click(10, y + 3);
    assert!(driver.app.overlay.is_none(), "{}", driver.screen());
}

#[test]
fn a_click_beside_a_list_does_nothing() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("p");
    let before = driver.screen();
    for (x, y) in [(0, 0), (2, 8), (119, 10), (60, 33)] {
        driver.click(x, y);
        driver.drag(x, y);
    }
    assert_eq!(driver.screen(), before);
}

#[test]
fn tabs_and_the_wheel_work_in_full_screen_too() {
    let mut driver = Driver::open(DEMO);
    driver.press("Enter");
    click_on(&mut driver, "Schemes");
    driver.expect("worst channel");
    click_on(&mut driver, "Values");
    driver.expect("dequantized");
    driver.send(quantscope::app::Event::Wheel(3));
    assert_eq!(driver.app.values.top(), 3, "{}", driver.screen());
}

/// Elements are read whenever they become visible.
#[test]
fn values_that_become_visible_by_resizing_are_read() {
    let mut driver = Driver::open(DEMO);
    driver.resize(120, 24);
    driver.press("BackTab");
    driver.expect("dequantized");
    driver.resize(120, 200);
    driver.press("Enter");
    driver.resize(120, 400);
    driver.expect_not("reading");
    let rows = driver.rows();
    let last = rows.iter().rposition(|row| row.contains("[")).expect("values");
    assert!(!rows[last].contains('…'), "{}", rows[last]);
}

#[test]
fn unsuitable_tensors_show_the_rule() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.resize(60, 15);
    driver.press("/");
    driver.type_text("down_proj");
    driver.press("Enter");
    driver.expect("2 of 21 tensors match down_proj");
    // A message that is longer than the screen is wide is wrapped.
    driver.expect("Esc clears the filter, n and N repeat");
    driver.expect("the search");
}

#[test]
fn the_demo_explains_itself_and_how_to_open_a_model() {
    let mut driver = Driver::of(quantscope::demo::open().expect("opens"), false);
    driver.expect("reads digits; o opens yours");
    driver.resize(60, 15);
    driver.expect("36 tensors");
    let driver = Driver::open(DEMO);
    driver.expect_not("quantscope MODEL opens yours");
}

#[test]
fn the_full_screen_overview_has_the_histogram() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.expect_not("┼");
    driver.press("Enter");
    driver.expect("levels used");
    driver.expect("┼");
    driver.press("j");
    driver.expect("┼");
}

#[test]
fn lists_and_their_keys_fit_the_smallest_screen() {
    let mut driver = Driver::open(SHARDED);
    driver.resize(60, 15);
    driver.expect_not("safetensors, 4 fil");
    driver.press("p");
    driver.expect("add these  Esc leave");
    driver.expect("655 kB");
    for _ in 0..20 {
        driver.press("Down");
    }
    driver.expect("▸ nothing");
    driver.expect("add these  Esc leave");
    driver.press("Esc : Down Down Down Down Down Down Down");
    driver.expect("▸ ");
    driver.expect("more");
}

#[test]
fn a_misspelt_condition_is_named_and_the_filter_before_stays() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/mlp weight>3");
    driver.expect("unknown figure 'weight'");
    driver.expect("/mlp weight>3");
    assert_eq!(driver.table().len(), 6, "{}", driver.screen());
    driver.press("Ctrl-u");
    driver.type_text("sqrn<20");
    driver.expect("did you mean sqnr?");
    driver.press("Ctrl-u");
    driver.type_text("params>1B");
    driver.expect("No tensor matches params>1B.");
    driver.press("Ctrl-u");
    driver.type_text("params>1GB");
    driver.expect("such as 1M or 7B");
}

#[test]
fn one_key_shows_only_what_is_quantized_by_default() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press(".");
    driver.expect("15 of 21 tensors match is:quantizable");
    driver.type_text("/");
    driver.type_text(" mlp");
    driver.press("Enter .");
    driver.expect("6 of 21 tensors match mlp");
}

#[test]
fn a_number_goes_to_its_layer_and_repeats_a_movement() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text(":1 q_proj");
    driver.press("Enter");
    assert!(driver.cursor_row().contains("layers.1.self_attn.q_proj"), "{}", driver.screen());
    driver.press("g 5 j");
    assert_eq!(driver.app.table.cursor(), 5);
    driver.press("1 2 j 3 k");
    assert_eq!(driver.app.table.cursor(), 14);
}

#[test]
fn undo_says_what_it_undid() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a x Down Enter u");
    driver.expect("undone: 1 mark changed; 1 to undo, 1 to redo");
    driver.press("u");
    driver.expect("undone: 15 tensors unmarked; 0 to undo, 2 to redo");
    driver.press("U");
    driver.expect("redone: 15 tensors marked");
}
