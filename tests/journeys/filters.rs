//! Filters: history, completion, ranking, and the same language wherever something is filtered.
//! Ranges of rows, and marking by a pattern.

use crate::support::checkpoint::{f32s, in_memory, weights, write};
use crate::support::driver::{DEMO, Driver, SHARDED, TINY_LLAMA};
use quantscope::checkpoint::Checkpoint;

/// The names of the first rows.
fn names(driver: &Driver, count: usize) -> Vec<String> {
    let checkpoint = &driver.app.model.checkpoint;
    let shown = driver.app.table.visible_tensors().take(count);
    shown.map(|id| checkpoint.tensor(id).name.to_string()).collect()
}

#[test]
fn older_filters_come_back_with_up() {
    let mut driver = Driver::open(TINY_LLAMA);
    for filter in ["/mlp", "/attn is:quantizable"] {
        driver.type_text(filter);
        driver.press("Enter Esc");
    }
    driver.press("/ Up");
    driver.expect("match attn is:quantizable");
    driver.press("Up");
    driver.expect("match mlp");
    assert_eq!(driver.app.table.shown_count(), 6);
    driver.press("Up");
    driver.expect("no older filter");
    driver.press("Down Down");
    driver.expect_not("match");
    driver.press("Up Enter");
    assert_eq!(driver.app.filter_text, "attn is:quantizable");
}

#[test]
fn tab_completes_conditions_properties_and_parts_of_names() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/is:quantiza");
    driver.press("Tab");
    assert_eq!(driver.app.filter_text, "is:quantizable");
    driver.type_text(" dtype:b");
    driver.press("Tab");
    assert_eq!(driver.app.filter_text, "is:quantizable dtype:bf16");
    driver.type_text(" gat");
    driver.press("Tab");
    assert_eq!(driver.app.filter_text, "is:quantizable dtype:bf16 gate_proj");
    assert_eq!(driver.app.table.shown_count(), 2);
    // Where several are possible they are named.
    driver.press("Ctrl-u");
    driver.type_text("si");
    driver.press("Tab");
    driver.expect("size<  size>");
    driver.press("Ctrl-u");
    driver.type_text("qqq");
    driver.press("Tab");
    driver.expect("nothing begins like this");
}

#[test]
fn fuzzy_matches_are_ranked_and_accidents_are_left_out() {
    let near = ["model.layers.1.self_attn.q_proj", "model.layers.12.self_attn.q_proj"];
    let far = [
        "language.1.sequences.approximate.objects",
        "model.embed.1.sequences.spares.of.objects.junk",
    ];
    let tensors: Vec<_> = near.iter().chain(&far).map(|name| weights(name, &[8, 8])).collect();
    let mut driver = Driver::of(in_memory(&tensors), false);
    driver.type_text("/1qproj");
    let shown = names(&driver, 9);
    assert!(
        !shown.is_empty() && shown.iter().all(|name| near.contains(&name.as_str())),
        "{shown:?}"
    );
    assert_eq!(shown[0], near[0], "the best match is first");
    // Letters that are only scattered over a name match nothing.
    driver.press("Ctrl-u");
    driver.type_text("lgjk");
    driver.expect("No tensor matches lgjk.");
}

#[test]
fn a_misspelt_condition_is_named_wherever_it_is_typed() {
    let mut driver = Driver::open(TINY_LLAMA);
    for keys in ["/", "*"] {
        driver.press(keys);
        driver.type_text("sqrn<20");
        driver.expect("did you mean sqnr?");
        driver.press("Enter");
        driver.expect("did you mean sqnr?");
        driver.press("Esc");
    }
    driver.press(":");
    driver.type_text("sqrn<20");
    driver.expect("did you mean sqnr?");
    driver.press("Esc");
}

#[test]
fn differences_are_filtered_in_the_language_of_the_table() {
    let mut driver = Driver::open(SHARDED);
    driver.press("a s Enter");
    driver.expect("Saved and verified");
    driver.press("D");
    driver.expect("15 changed, 6 identical");
    driver.press("/");
    driver.type_text("is:changed mlp");
    driver.expect("6 of 21 tensors");
    driver.press("Enter");
    driver.expect("6 of 21 tensors match is:changed mlp");
    driver.press("/ Ctrl-u");
    driver.type_text("absmax>3");
    driver.expect("'absmax' does not apply to differences");
    driver.press("Ctrl-u");
    driver.type_text("sqnr<0");
    driver.expect("No difference matches sqnr<0.");
    // Esc first shows all differences, then leaves.
    driver.press("Esc");
    driver.expect("15 changed, 6 identical");
    driver.press("Esc");
    driver.expect("21 tensors compared");
}

#[test]
fn a_pattern_marks_in_one_step() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("*");
    driver.type_text("mlp");
    driver.expect("6 match, 6 quantizable");
    driver.press("Enter");
    driver.expect("marked 6 of 6 tensors that match mlp; u undoes it");
    driver.press("*");
    driver.type_text("*.0.*");
    driver.expect("9 match, 7 quantizable");
    driver.press("Enter");
    driver.expect("marked 4 of 9 tensors that match *.0.*");
    // Patterns are in the history of filters, and Ctrl-X unmarks.
    driver.press("* Up Up Ctrl-x");
    driver.expect("unmarked 6 of 6 tensors that match mlp");
    driver.press("*");
    driver.type_text("norm");
    driver.press("Enter");
    driver.expect("none of them more can be marked");
    driver.press("u u");
    driver.expect("undone: 4 tensors unmarked");
}

#[test]
fn a_range_is_marked_and_given_a_scheme() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("v");
    driver.expect("Space marks it");
    driver.press("3 j");
    driver.expect("range of 4 rows");
    driver.press("Space");
    driver.expect("marked 4 tensors");
    driver.expect_not("range of");
    driver.press("v k x Down Enter");
    driver.expect("2 marks now per channel");
    driver.press("v j Esc");
    driver.expect("the range was ended");
    driver.press("g v G Space");
    driver.expect("marked 15 tensors; 6 not quantizable");
    // The cursor may be at the upper end.
    driver.press("v k k Space");
    driver.expect("no quantizable tensor in the range");
}

#[test]
fn vectors_and_norms_do_not_stand_between_the_worst_weights() {
    let driver = Driver::open(DEMO);
    let model = &driver.app.model;
    let order: Vec<bool> = driver.app.table.shown().map(|id| model.quantizable(id)).collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "{}", driver.screen());
    assert!(order.contains(&true) && order.contains(&false));
}

#[test]
fn a_new_order_starts_at_its_first_row() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("j j j j >");
    assert_eq!(driver.app.table.cursor(), 0);
    driver.press("G R");
    assert_eq!(driver.app.table.cursor(), 0);
}

#[test]
fn a_long_name_is_seen_in_full_and_copied() {
    let name = format!("model.{}weight", "very_long_part_of_a_name.".repeat(8));
    assert_eq!(name.len(), 212);
    let mut driver = Driver::of(in_memory(&[weights(&name, &[8, 8])]), false);
    driver.resize(80, 24);
    driver.press("Enter");
    let pieces: String = driver.rows()[3..7].iter().map(|row| row.trim()).collect();
    assert!(pieces.starts_with(&name), "{}", driver.screen());
    driver.press("y");
    assert_eq!(driver.screen.clipboard.last(), Some(&name));
    driver.press("Esc");
    driver.expect("weight");
}

#[test]
fn a_high_column_does_not_hide_the_others_in_a_sparkline() {
    let mut values = vec![0.001f32; 4000];
    values.extend([0.5; 40]);
    values.extend([-0.5; 40]);
    values.extend([1.0; 16]);
    let mut driver =
        Driver::of(in_memory(&[f32s("w.weight", &[64, 64], values), weights("x", &[8, 8])]), false);
    driver.resize(150, 40);
    let row = driver.table().into_iter().find(|row| row.contains("w.weight")).expect("a row");
    assert!(row.contains(" log"), "{row}");
    let row = driver.table().into_iter().find(|row| row.contains(" x ")).expect("a row");
    assert!(!row.contains(" log"), "{row}");
}

/// The histogram says which counts it shows, and `%` changes them.
#[test]
fn a_logarithmic_histogram_says_so() {
    let mut values = vec![0.001f32; 4000];
    values.extend([0.5; 40]);
    values.extend([-0.5; 40]);
    values.extend([1.0; 16]);
    let mut driver = Driver::of(in_memory(&[f32s("w.weight", &[64, 64], values)]), false);
    driver.press("Tab Enter");
    driver.expect("log counts");
    driver.press("%");
    driver.expect("linear counts");
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab Enter");
    driver.expect("linear counts");
}

#[test]
fn models_opened_before_are_offered_in_the_next_run() {
    let mut driver = Driver::open(TINY_LLAMA);
    let kept = driver.path("kept");
    std::fs::create_dir(&kept).expect("created");
    write(&kept.join("first.safetensors"), &[weights("first.weight", &[8, 8])], &[]);
    driver.press("o");
    driver.type_text("kept/first.safetensors");
    driver.press("Enter");
    driver.expect("first.weight");
    let recent = std::fs::read_to_string(driver.recent_models()).expect("written");
    assert_eq!(recent.lines().count(), 2, "{recent}");
    // The next run has the same list.
    let checkpoint = Checkpoint::open(SHARDED.as_ref()).expect("opens");
    let mut next = Driver::with_recent(checkpoint, &recent);
    next.press("o Down");
    next.expect("opened before");
    next.press("Enter");
    next.expect("first.weight");
}
