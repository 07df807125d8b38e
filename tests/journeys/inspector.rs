//! Journeys of a user through the inspector.

use crate::support::checkpoint::{self as made, f32s, weights};
use crate::support::driver::{DEMO, Driver, SHARDED, TINY_LLAMA, in_repository};
use quantscope::app::overlay::Overlay;
use quantscope::app::scroll::Motion;
use quantscope::app::table::Column;
use quantscope::app::{Action, Effect, Event};
use quantscope::checkpoint::Checkpoint;
use quantscope::tensor::TensorId;

/// The SQNRs of the visible rows, top to bottom.
fn decibels(driver: &Driver) -> Vec<f64> {
    let table = driver.table();
    let figure = |row: &String| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let unit = words.iter().position(|&word| word == "dB")?;
        words[unit - 1].trim_start_matches('≥').parse().ok()
    };
    table.iter().filter_map(figure).collect()
}

/// How many of the rows shown are weights, which come before norms and embeddings.
fn weights_shown(driver: &Driver) -> usize {
    let model = &driver.app.model;
    driver.app.table.visible_tensors().filter(|&id| model.quantizable(id)).count()
}

fn rows_with(driver: &Driver, text: &str) -> usize {
    driver.table().iter().filter(|row| row.contains(text)).count()
}

#[test]
fn after_calibration_the_worst_tensor_is_first_and_selected() {
    let driver = Driver::open(TINY_LLAMA);
    let ranking = decibels(&driver);
    let weights = weights_shown(&driver);
    assert!(weights > 10 && ranking[..weights].is_sorted(), "{}", driver.screen());
    assert_eq!(driver.cursor_row(), driver.table()[0]);
    driver.expect("worst SQNR first");
    driver.expect("weight error of int8 per tensor");
}

#[test]
fn before_calibration_all_tensors_are_listed_and_visible_ones_measured_first() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    assert_eq!(driver.table().len(), 18);
    driver.tick(Some(0.5));
    driver.expect("calibrating");
    driver.expect("50 %");
    driver.expect("0.25 s left");
    let seen: Vec<TensorId> = driver.app.table.visible_tensors().collect();
    let tick = Event::Tick {
        now: Default::default(),
        calibration: None,
        save: None,
        diff: None,
        outputs: None,
    };
    let effects = quantscope::app::update(&mut driver.app, tick);
    assert!(!effects.contains(&Effect::Prioritize(seen.clone())), "asked for once, not every time");
    driver.press("G");
    let now: Vec<TensorId> = driver.app.table.visible_tensors().collect();
    assert_ne!(seen, now);
    driver.release();
    driver.expect("calibrated");
    assert!(decibels(&driver)[..weights_shown(&driver)].is_sorted());
}

#[test]
fn the_cursor_stays_on_its_tensor_while_the_ranking_settles() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    driver.press("j j j");
    let held = driver.app.current_tensor();
    driver.release();
    assert_eq!(driver.app.current_tensor(), held);
    // Another order begins at its first row; another view keeps the tensor.
    driver.press("> >");
    assert_eq!(driver.app.table.cursor(), 0);
    driver.press("j");
    let held = driver.app.current_tensor();
    driver.press("t");
    assert_eq!(driver.app.current_tensor(), held);
}

#[test]
fn results_of_a_stopped_calibration_are_ignored() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    let generation = 1;
    driver.press("c");
    driver.expect("stopped");
    driver.expect("not measured");
    driver.release();
    driver.expect("stopped");
    driver.send(Event::CalibrationEnded { generation, meter: Default::default() });
    driver.expect("stopped");
    driver.press("c");
    driver.expect("calibrated");
}

#[test]
fn jobs_can_be_stopped_from_dialogs_and_prompts() {
    for window in ["?", "s", "/", "L", "r"] {
        let mut driver = Driver::open_waiting(TINY_LLAMA);
        driver.press(window);
        driver.press("Ctrl-t");
        driver.press("Esc Esc");
        driver.expect("not measured");
        driver.expect("calibrates again");
        driver.press("Ctrl-t");
        driver.expect("nothing runs in the background");
    }
}

#[test]
fn every_column_sorts_the_table_and_a_key_reverses_it() {
    let mut driver = Driver::open(TINY_LLAMA);
    // Without activations there is no column of output errors.
    for _ in 1..Column::ALL.len() {
        driver.press(">");
        driver.expect(&driver.app.table.sort.describe());
        driver.press("R");
        driver.expect(&driver.app.table.sort.describe());
    }
    assert_eq!(driver.app.table.sort.column, Column::Sqnr);
    driver.press("< < < < g");
    driver.expect("by name");
    assert!(driver.table()[0].contains("lm_head.weight"), "{}", driver.screen());
    driver.press("R G");
    assert!(driver.cursor_row().contains("lm_head.weight"), "{}", driver.screen());
}

#[test]
fn a_filter_narrows_the_table_with_every_key() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/q_proj");
    assert_eq!(driver.table().len(), 2);
    driver.expect("words  2 of 21 tensors");
    driver.press("Esc");
    assert_eq!(driver.table().len(), 18);
    driver.type_text("/*.1.*_proj.*");
    driver.press("Enter");
    assert_eq!(driver.table().len(), 7);
    driver.expect("7 of 21 tensors match *.1.*_proj.*");
    driver.press("Esc");
    driver.expect("21 tensors");
    driver.type_text("/re:layernorm|norm");
    assert_eq!(driver.table().len(), 5);
}

#[test]
fn a_filter_can_test_more_than_the_name() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Space");
    driver.type_text("/is:marked");
    assert_eq!(driver.table().len(), 1, "{}", driver.screen());
    driver.press("Ctrl-u");
    driver.type_text("size>60k !mlp");
    driver.expect("filter  2 of 21 tensors");
    driver.type_text(" sqnr<40.5");
    assert_eq!(driver.table().len(), 1, "{}", driver.screen());
    driver.type_text(" is:");
    driver.expect("is: marked, quantizable");
    driver.press("Esc");
    assert_eq!(driver.table().len(), 18);
}

#[test]
fn filter_matches_grow_with_the_results() {
    let nan = f32s("nan.weight", &[2, 2], [1.0, 2.0, f32::NAN, 3.0]);
    let tensors = [nan, f32s("one.weight", &[4, 4], [0.5; 16]), weights("w", &[8, 8])];
    let mut driver = Driver::of(made::in_memory(&tensors), true);
    driver.type_text("/is:nan");
    driver.expect("No tensor matches is:nan.");
    driver.release();
    assert_eq!(driver.table().len(), 1, "{}", driver.screen());
    driver.press("Ctrl-u");
    driver.type_text("is:constant");
    assert!(driver.table()[0].contains("one.weight"), "{}", driver.screen());
}

/// Each further letter tests only the tensors that matched before.
#[test]
fn a_longer_filter_tries_fewer_tensors() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/m");
    assert_eq!(driver.app.table.tried(), 21);
    driver.type_text("lp");
    let shown = driver.app.table.shown_count();
    assert!(shown < 21);
    driver.type_text(" up");
    assert!(driver.app.table.tried() <= shown);
    driver.press("Backspace");
    assert_eq!(driver.app.table.tried(), 21);
}

#[test]
fn an_incomplete_pattern_keeps_the_last_valid_filter() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/re:q_proj(");
    driver.expect("incomplete regular expression");
    assert_eq!(driver.table().len(), 2);
    driver.press("Enter");
    driver.expect("incomplete regular expression");
}

#[test]
fn a_filter_that_matches_nothing_says_so() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/zzz");
    driver.expect("No tensor matches zzz.");
    driver.press("Enter");
    for keys in ["Space", "a", "i", "x", "Enter", "n", "y", "j", "G", "t", "l", "h"] {
        driver.press(keys);
    }
    driver.press("Esc");
    driver.expect_not("No tensor matches");
}

#[test]
fn n_walks_through_the_matches_after_the_filter_is_gone() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/lm_head");
    driver.press("Enter Esc g n");
    assert!(driver.cursor_row().contains("lm_head.weight"));
    driver.press("N n");
    assert!(driver.cursor_row().contains("lm_head.weight"));
}

#[test]
fn go_to_finds_a_tensor_wherever_it_is() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/lm_head");
    driver.press("Enter");
    driver.type_text(":1 k_proj");
    driver.press("Enter");
    assert!(driver.cursor_row().contains("layers.1.self_attn.k_proj.weight"));
    driver.press("t -");
    driver.type_text(":0 o_proj");
    driver.press("Enter");
    let id = driver.app.current_tensor().expect("a tensor");
    let name = &driver.app.model.checkpoint.tensor(id).name;
    assert_eq!(name, "model.layers.0.self_attn.o_proj.weight");
}

#[test]
fn space_marks_a_tensor_and_the_plan_shows_the_saving() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.expect("nothing marked");
    driver.type_text("/0.mlp.up_proj");
    driver.press("Enter Space");
    assert!(driver.cursor_row().contains('●'));
    driver.expect("1 tensor marked");
    // 32768 elements of two bytes become one byte each, plus a scale of four bytes.
    driver.expect("722 kB → 689 kB");
    driver.press("Space");
    driver.expect("nothing marked");
}

#[test]
fn marking_a_norm_shows_a_warning() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/model.norm");
    driver.press("Enter Space");
    driver.expect("marked, although usually not quantized: it belongs to a norm");
    driver.expect("1 tensor marked");
}

#[test]
fn unquantizable_tensors_show_a_reason() {
    let ids = made::Tensor { name: "ids".into(), dtype: "I64", shape: vec![1], bytes: vec![0; 8] };
    let nan = f32s("nan.weight", &[2, 2], [1.0, 2.0, f32::NAN, 3.0]);
    let mut driver = Driver::of(made::in_memory(&[ids, nan, weights("w", &[8, 8])]), false);
    assert!(driver.cursor_row().contains("! nan.weight"), "{}", driver.screen());
    driver.expect("no scale");
    driver.press("Space");
    driver.expect("cannot be quantized: it holds 1 NaN and 0 Inf, the first at index 2");
    driver.press("G Space");
    driver.expect("cannot be quantized: its type is I64");
    driver.expect("Not measured: ");
}

#[test]
fn a_mark_is_removed_when_the_tensor_has_no_scale() {
    let nan = f32s("nan.weight", &[2, 2], [1.0, 2.0, f32::NAN, 3.0]);
    let mut driver = Driver::of(made::in_memory(&[nan]), true);
    driver.press("Space");
    driver.expect("1 tensor marked");
    driver.release();
    driver.expect("unmarked nan.weight");
    driver.expect("nothing marked");
    driver.press("u U");
    driver.expect("nothing marked");
}

#[test]
fn all_shown_are_marked_inverted_and_unmarked() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a");
    driver.expect("marked 15 tensors; 6 not quantizable (vectors, norms, embeddings …)");
    driver.press("a");
    driver.expect("unmarked 15 tensors");
    driver.type_text("/attn");
    driver.press("Enter a Esc i");
    driver.expect("inverted: 7 tensors marked");
}

#[test]
fn marks_can_be_undone_and_done_again() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("u");
    driver.expect("nothing to undo");
    driver.press("a x Down Enter u");
    driver.expect("15 tensors marked");
    driver.press("u");
    driver.expect("nothing marked");
    driver.press("U");
    driver.expect("15 tensors marked");
}

#[test]
fn presets_choose_by_role() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("p j j Enter");
    driver.expect("attention: 8 tensors marked");
    driver.press("p j j j Space");
    driver.expect("MLP: 14 tensors marked");
    driver.press("p j j j Enter");
    driver.expect("MLP: 6 tensors marked");
    driver.press("p Down Down Down Down Down Down Enter");
    driver.expect("nothing marked");
}

#[test]
fn schemes_are_changed_for_one_row_or_for_all() {
    let mut driver = Driver::open(DEMO);
    // The list is over the tensor's present scheme, and Enter marks the tensor.
    driver.press("x");
    driver.expect("▸ ● per tensor");
    driver.expect_words("Enter marks this tensor as per tensor");
    driver.press("Down Enter");
    driver.expect("1 mark now per channel; u undoes it");
    for scheme in ["block 128", "block 64", "block 32"] {
        driver.press("x Down Enter");
        assert!(driver.cursor_row().contains(scheme), "{}", driver.screen());
    }
    let before = decibels(&driver);
    driver.press("X Down Enter");
    driver.expect("weight error of int8 per channel");
    assert_ne!(decibels(&driver), before);
    assert!(decibels(&driver).is_sorted(), "{}", driver.screen());
}

#[test]
fn the_tree_folds_modules_and_sums_them_up() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("t g -");
    assert_eq!(driver.table().len(), 2);
    assert_eq!(rows_with(&driver, "20 tensors"), 1);
    driver.press("+");
    assert!(driver.app.table.rows().len() > 21);
    driver.press("- g");
    while !driver.cursor_row().contains("model") {
        driver.press("j");
    }
    driver.press("Enter");
    assert!(rows_with(&driver, "layers") == 1, "{}", driver.screen());
    driver.press("l h h");
    assert!(driver.cursor_row().contains("▸ model"), "{}", driver.screen());
}

#[test]
fn a_mark_on_a_module_marks_what_can_be_quantized_in_it() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("t -");
    driver.press("g");
    while !driver.cursor_row().contains("model") {
        driver.press("j");
    }
    driver.press("Space");
    driver.expect("marked 14 tensors; 6 not quantizable (vectors");
    assert!(driver.cursor_row().contains('●'));
    driver.type_text("/q_proj");
    driver.press("Enter g Space Esc");
    assert!(driver.table().iter().any(|row| row.contains('◐')), "{}", driver.screen());
    driver.expect("12 tensors marked");
}

#[test]
fn saving_ends_in_a_receipt_that_compares_the_disk_with_the_preview() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("s");
    driver.expect("nothing is marked");
    driver.press("a s");
    driver.expect("15 tensors quantized, 6 tensors unchanged");
    driver.press("Ctrl-u");
    driver.press("Enter");
    driver.expect("Type a path.");
    driver.type_text("out.safetensors");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.expect("On disk, 15 tensors have the error that was previewed.");
    let saved = Checkpoint::open(&driver.path("out.safetensors")).expect("opens");
    assert_eq!(saved.ids().filter(|&id| saved.packed_format(id).is_some()).count(), 15);
    driver.press("y");
    assert!(driver.screen.clipboard[0].contains("out.safetensors"));
    assert_eq!(driver.app.receipts(), driver.screen.clipboard);
    driver.press("Esc q");
    assert!(driver.has_quit(), "what is saved need not be asked about");
}

/// The screen and the command line write the same bytes.
#[test]
fn the_same_marks_give_the_same_bytes_as_the_command_line() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/mlp");
    driver.press("Enter a Esc s Ctrl-u");
    driver.type_text("screen.safetensors");
    driver.press("Enter");
    driver.expect("Saved and verified");
    let out = driver.path("line.safetensors");
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_quantscope"))
        .args(["quantize", TINY_LLAMA, "--include", "*.mlp.*", "--quiet", "-o"])
        .arg(&out)
        .output()
        .expect("runs");
    assert!(ended.status.success(), "{ended:?}");
    let bytes = |path| std::fs::read(path).expect("there");
    assert!(bytes(driver.path("screen.safetensors")) == bytes(out));
}

#[test]
fn an_existing_path_is_replaced_only_after_confirmation() {
    let mut driver = Driver::open(TINY_LLAMA);
    std::fs::write(driver.path("out.safetensors"), b"precious").expect("can be written");
    driver.press("a s Ctrl-u");
    driver.type_text("out.safetensors");
    driver.press("Enter");
    driver.expect("out.safetensors exists. Replace it?");
    driver.press("n");
    driver.expect("Save the quantized model");
    assert_eq!(std::fs::read(driver.path("out.safetensors")).expect("there"), b"precious");
    driver.press("Enter y");
    driver.expect("Saved and verified");
}

#[test]
fn a_failed_save_returns_to_the_dialog_with_the_reason() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a s Ctrl-u");
    driver.type_text("no/such/place.safetensors");
    driver.press("Enter");
    driver.expect_words("does not exist; create it first");
    driver.expect("Save the quantized model");
    driver.press("Esc");
    driver.expect("15 tensors marked");
}

#[test]
fn a_format_that_cannot_hold_the_plan_is_refused_before_writing() {
    let preview = |driver: &Driver| match &driver.app.overlay {
        Some(Overlay::Save(dialog)) => dialog.preview.clone().expect("previewed"),
        _ => panic!("the dialog is open:\n{}", driver.screen()),
    };
    let mut driver = Driver::open(SHARDED);
    driver.type_text("/model.norm");
    driver.press("Enter Space s");
    assert!(preview(&driver).is_ok());
    driver.press("Down");
    driver.expect("sharded-W8A8");
    let refusal = preview(&driver).expect_err("compressed-tensors is for Linear layers");
    let first_words: Vec<&str> = refusal.why.split_whitespace().take(3).collect();
    driver.expect(&first_words.join(" "));
    driver.press("Enter");
    driver.expect("Save the quantized model");
    assert_eq!(std::fs::read_dir(driver.directory.path()).expect("there").count(), 0);
}

#[test]
fn a_quantized_model_is_saved_as_floats() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("d");
    driver.expect("no tensor is quantized");
    driver.press("a s Enter");
    let mut quantized = Driver::open(driver.path("single-int8.safetensors"));
    assert_eq!(rows_with(&quantized, "int8 per-tensor"), 12);
    quantized.press("G");
    quantized.expect("Stored quantized");
    quantized.press("a");
    quantized.expect("no quantizable tensor");
    quantized.press("d Down");
    quantized.expect("15 tensors converted back to floats, 6 tensors unchanged");
    quantized.press("Enter");
    quantized.expect("Dequantized and verified");
    let out = quantized.path("single-int8-f32.safetensors");
    let float = Checkpoint::open(&out).expect("opens");
    assert_eq!(float.tensors().len(), 21);
    assert!(float.ids().all(|id| float.packed_format(id).is_none()));
}

#[test]
fn quitting_with_unsaved_marks_asks_first() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Space q");
    driver.expect("1 mark is not saved. Quit anyway?");
    driver.press("n");
    assert!(!driver.has_quit());
    driver.press("Ctrl-c Ctrl-c");
    assert!(driver.has_quit());
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("q");
    assert!(driver.has_quit());
}

#[test]
fn an_unreadable_tensor_marks_its_row_and_the_rest_continues() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.path().join(name), bytes).expect("can be written");
    };
    write("1.safetensors", &made::bytes(&[weights("first", &[64, 64])]));
    let last = made::bytes(&[weights("last", &[64, 64])]);
    write("2.safetensors", &last);
    let index =
        r#"{"metadata": {}, "weight_map": {"first": "1.safetensors", "last": "2.safetensors"}}"#;
    write("model.safetensors.index.json", index.as_bytes());
    let mut driver = Driver::open_waiting(directory.path());
    write("2.safetensors", &last[..last.len() - 4096]);
    driver.release();
    assert!(driver.cursor_row().contains("! last"), "{}", driver.screen());
    driver.expect("unreadable");
    driver.expect_words("2.safetensors, tensor 'last': the file has changed since it was opened");
    assert_eq!(decibels(&driver).len(), 1);
    driver.press("Space");
    driver.expect("cannot be quantized");
}

#[test]
fn a_panicking_worker_is_reported_and_the_screen_continues() {
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    driver.press("c");
    driver.panic_next_job("index out of bounds");
    driver.press("c");
    driver.expect("Calibration failed");
    driver.expect("index out of bounds");
    driver.press("Esc Space");
    driver.expect("1 tensor marked");
    driver.release();
    driver.press("c");
    driver.expect("calibrated");
}

#[test]
fn empty_models_have_their_own_messages() {
    let mut driver = Driver::of(made::in_memory(&[]), false);
    driver.expect("This checkpoint holds no tensors.");
    driver.press("j G Space a p x X t Enter y m Esc s d n c");
    driver.expect("there is no float tensor to calibrate");
    let ints = made::Tensor { name: "i".into(), dtype: "I8", shape: vec![4], bytes: vec![1; 4] };
    let driver = Driver::of(made::in_memory(&[ints]), false);
    driver.expect("nothing to calibrate: no tensor holds floats");
    driver.expect("no tensor can be quantized");
}

#[test]
fn names_from_files_are_escaped_on_the_screen() {
    let tensors = [weights("evil\n\u{1b}[2Jname\u{202e}", &[4, 4]), weights("层.权重", &[4, 4])];
    let mut driver = Driver::of(made::in_memory(&tensors), false);
    driver.expect("evil\\n\\u{1b}[2Jname\\u{202e}");
    driver.press("t + m Esc");
    let shown = driver.screen();
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'));
}

#[test]
fn metadata_shows_the_files_and_the_config() {
    let mut driver = Driver::open(SHARDED);
    driver.press("m");
    for text in ["model-00003-of-00004.safetensors", "__metadata__", "format                pt"] {
        driver.expect(text);
    }
    driver.press("G");
    driver.expect("\"vocab_size\"");
    driver.press("q");
    driver.expect_not("__metadata__");
}

#[test]
fn help_lists_every_key_and_can_be_searched() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.resize(120, 400);
    driver.press("?");
    for binding in quantscope::app::keys::BINDINGS {
        driver.expect(binding.help);
    }
    driver.type_text("undo");
    driver.expect("undo the last change of marks");
    driver.expect_not("next row");
    driver.type_text(" nothing of the kind");
    driver.expect("No key matches.");
    driver.press("Esc");
    driver.expect_not("No key matches.");
}

#[test]
fn the_mouse_moves_marks_sorts_and_chooses_tabs() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.click(30, 6);
    assert_eq!(driver.cursor_row(), driver.rows()[6]);
    driver.click(2, 8);
    assert!(driver.rows()[8].contains('●'), "{}", driver.screen());
    driver.click(6, 3);
    driver.expect("by name");
    let tabs = driver.rows().iter().position(|row| row.contains("Schemes")).expect("tabs");
    let before = driver.rows()[tabs].find("Schemes").expect("a tab");
    let x = driver.rows()[tabs][..before].chars().count();
    driver.click(x as u16, tabs as u16);
    driver.expect("rel. error");
    driver.send(Event::Wheel(3));
    assert_eq!(driver.app.table.top(), 3);
}

#[test]
fn schemes_side_by_side_name_the_worst_channel_and_what_is_only_measured() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab Tab Tab");
    driver.expect("worst channel");
    driver.expect("int4 bl. 32");
    driver.expect("fp8 channel");
    let row = |driver: &Driver, name: &str| {
        driver.rows().into_iter().find(|row| row.contains(name)).expect("a row")
    };
    let before = row(&driver, "int4 channel");
    // The column "saved" says no.
    assert!(before.trim_end().ends_with("no"), "{before}");
    assert!(row(&driver, "block 64 ").trim_end().ends_with("yes"));
    driver.press("j");
    assert_ne!(row(&driver, "int4 channel"), before, "it follows the cursor");
}

#[test]
fn enter_opens_the_tensor_full_screen_on_small_terminals() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.resize(60, 15);
    driver.expect_not("largest error");
    driver.press("Enter");
    driver.expect("largest error");
    driver.press("j Esc");
    driver.expect_not("largest error");
}

#[test]
fn every_dialog_is_drawn_at_every_size() {
    let mut driver = Driver::open(TINY_LLAMA);
    let windows = [
        "", "?", "L", "m", "p", ":", "/", "a s", "q", "b", "w", "r", "D", "Enter", "t", "Tab",
        "Tab", "Enter",
    ];
    for keys in windows {
        driver.press(keys);
        for (width, height) in
            [(0, 0), (1, 1), (20, 3), (59, 15), (60, 14), (60, 15), (61, 23), (80, 24), (300, 100)]
        {
            driver.resize(width, height);
            let _ = driver.screen();
            for action in [Motion::Last, Motion::PageUp, Motion::First] {
                let key = match action {
                    Motion::Last => "End",
                    Motion::PageUp => "PageUp",
                    _ => "Home",
                };
                driver.press(key);
            }
        }
        driver.resize(120, 36);
        driver.press("Esc");
    }
    driver.resize(50, 12);
    driver.expect("needs 60×15, has 50×12");
}

#[test]
fn the_mouse_can_be_left_to_the_terminal() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("M");
    driver.expect("the mouse is the terminal's, to select text");
    driver.press("M");
    driver.expect("the mouse is here");
}

#[test]
fn every_window_can_be_drawn_in_ascii() {
    let mut driver = Driver::open(DEMO);
    driver.app.settings.glyphs = quantscope::app::settings::Glyphs::Ascii;
    for keys in ["", "?", "m", "p", ":", "a s", "b Home", "Tab", "[ [", "Tab", "Tab", "Tab"] {
        driver.press(keys);
        let screen = driver.screen();
        assert!(
            screen.is_ascii(),
            "{keys}: {:?}\n{screen}",
            screen.chars().find(|c| !c.is_ascii())
        );
        driver.press("Esc");
    }
}

#[test]
fn hints_offer_only_what_can_be_done() {
    let mut driver = Driver::open(TINY_LLAMA);
    assert!(!driver.app.can(Action::Save) && !driver.app.can(Action::Undo));
    let last = driver.rows().pop().expect("a row");
    assert!(!last.contains("save") && last.contains("q quit"), "{last}");
    driver.press("Space");
    let last = driver.rows().pop().expect("a row");
    assert!(last.contains("s save") && last.contains("u undo"), "{last}");
}

#[test]
fn every_element_of_a_tensor_can_be_shown() {
    let mut driver = Driver::open(DEMO);
    driver.type_text(":classifier.0.weight");
    driver.press("Enter BackTab");
    driver.expect("dequantized");
    driver.expect("[0, 0]");
    driver.press("j");
    driver.expect_not("[0, 0]");
    driver.press("k Enter G");
    driver.expect("[63, 127]");
    driver.press("g l l h");
    driver.expect("go to index");
    assert!(driver.cursor_row().contains("[1, 0]"), "{}", driver.screen());
    driver.type_text(":2, 5");
    driver.press("Enter");
    assert!(driver.cursor_row().contains("261  [2, 5]"), "{}", driver.screen());
    // A row has the bytes, the value, and the int8 value.
    let checkpoint = driver.app.model.checkpoint.clone();
    let id = driver.app.current_tensor().expect("a tensor");
    let mut reader = checkpoint.reader();
    let (_, bytes) = reader.elements(id, 261..262).expect("reads").expect("floats");
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(driver.cursor_row().contains(&hex.join(" ")), "{}", driver.screen());
    driver.type_text(":9999999");
    driver.press("Enter");
    driver.expect("expected an index below 8192, found 9999999");
    driver.press("Esc Esc");
    driver.expect("worst SQNR first");
}

#[test]
fn values_follow_the_scheme_and_the_tensor() {
    let mut driver = Driver::open(DEMO);
    driver.type_text(":classifier.0.weight");
    driver.press("Enter BackTab Enter");
    let scales = |driver: &Driver| -> std::collections::BTreeSet<String> {
        let rows = driver.rows();
        let rows = rows.iter().filter(|row| row.contains("  ["));
        rows.filter_map(|row| row.split_whitespace().last().map(str::to_owned)).collect()
    };
    assert_eq!(scales(&driver).len(), 1);
    driver.press("X Down Down Down Down Enter");
    // Blocks have 32 elements, and 29 rows are visible from element 20 on.
    driver.type_text(":40");
    driver.press("Enter");
    assert_eq!(scales(&driver).len(), 2, "{}", driver.screen());
    let first = driver.app.current_tensor();
    driver.press("J");
    assert_ne!(driver.app.current_tensor(), first);
    driver.expect("dequantized");
    driver.press("K");
    assert_eq!(driver.app.current_tensor(), first);
}

#[test]
fn values_of_other_dtypes_are_shown_too() {
    let ids = made::Tensor {
        name: "ids".into(),
        dtype: "I64",
        shape: vec![2],
        bytes: [(-7i64).to_le_bytes(), 300i64.to_le_bytes()].concat(),
    };
    let nan = f32s("nan.weight", &[2, 2], [1.0, 2.0, f32::NAN, 3.0]);
    let mut driver = Driver::of(made::in_memory(&[ids, nan]), false);
    driver.press("BackTab");
    driver.expect("NaN");
    driver.expect_not("dequantized");
    driver.press("G");
    driver.expect("f9 ff ff ff ff ff ff ff");
    driver.expect("−7");
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("a s Enter");
    let mut quantized = Driver::open(driver.path("single-int8.safetensors"));
    quantized.type_text(":up_proj");
    quantized.press("Enter BackTab");
    quantized.expect("decoded from int8 per-tensor");
}

#[test]
fn an_unreadable_values_window_shows_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    made::write(&path, &[weights("w", &[64, 64])], &[]);
    let mut driver = Driver::open(&path);
    let bytes = std::fs::read(&path).expect("there");
    std::fs::write(&path, &bytes[..bytes.len() - 64]).expect("can be written");
    driver.press("BackTab");
    driver.expect("the file has changed since it was opened");
}

#[test]
fn the_budget_changes_the_marks_and_esc_restores_them() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Space");
    let before = driver.app.model.plan().clone();
    driver.press("b");
    driver.expect("your marks");
    assert_eq!(driver.app.model.plan(), &before, "only looked at so far");
    driver.press("Home");
    driver.expect("15 tensors marked");
    driver.expect("395 kB");
    driver.press("Esc");
    driver.expect("1 tensor marked");
    assert_eq!(driver.app.model.plan(), &before);
    driver.press("u");
    driver.expect("nothing marked");
}

#[test]
fn a_budget_choice_is_one_undo_step() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Left Left Left");
    let chosen = driver.app.model.plan().clone();
    assert!(!chosen.is_empty());
    driver.press("Enter");
    assert_eq!(driver.app.model.plan(), &chosen);
    driver.expect("u undoes it");
    driver.press("u");
    driver.expect("nothing marked");
    driver.press("U");
    assert_eq!(driver.app.model.plan(), &chosen);
}

/// The screen and the command line choose the same schemes.
#[test]
fn the_budget_equals_that_of_the_command_line() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Home Right Right Right Right Right");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    let size = budget.point().bytes.to_string();
    driver.press("Enter");
    let recipe = driver.path("line.toml");
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_quantscope"))
        .args(["quantize", TINY_LLAMA, "--quiet", "--max-bytes", &size, "-o"])
        .arg(driver.path("line.safetensors"))
        .arg("--write-recipe")
        .arg(&recipe)
        .output()
        .expect("runs");
    assert!(ended.status.success(), "{ended:?}");
    let checkpoint = driver.app.model.checkpoint.clone();
    let line = quantscope::plan::recipe::read(&recipe, &checkpoint).expect("a recipe");
    assert_eq!(&line, driver.app.model.plan());
}

#[test]
fn schemes_can_be_forbidden() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b Home Down Down Space Down Space Down Space End PageDown");
    let blocks = driver
        .app
        .model
        .plan()
        .iter()
        .filter(|(_, quantizer)| quantizer.scheme.to_string().starts_with("per-block"));
    assert_eq!(blocks.count(), 0);
    driver.press("Up Up Up Space Up Space");
    driver.press("k k Space j Space");
    driver.press("Esc");
    driver.press("b Space Down Space Down Space Down Space Down Space");
    driver.expect("no scheme is allowed");
    driver.press("Left Home PageUp Esc");
}

#[test]
fn the_budget_says_when_there_is_nothing_to_choose() {
    let ids = made::Tensor { name: "ids".into(), dtype: "I64", shape: vec![1], bytes: vec![0; 8] };
    let mut driver = Driver::of(made::in_memory(&[ids]), false);
    driver.press("b");
    driver.expect("no tensor is quantizable");
    let mut driver = Driver::open_waiting(TINY_LLAMA);
    driver.press("b");
    driver.expect("nothing is measured yet");
    driver.release();
    driver.press("b");
    driver.expect("points");
}

#[test]
fn a_click_on_the_curve_selects_its_point() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b");
    let rows = driver.rows();
    let corner = rows.iter().position(|row| row.contains('└')).expect("a curve");
    let x = rows[corner].chars().take_while(|&c| c != '└').count();
    driver.click(x as u16 + 1, corner as u16 - 2);
    driver.expect("15 tensors marked");
    driver.click(118, corner as u16 - 2);
    driver.click(3, 6);
    assert!(matches!(driver.app.overlay, Some(Overlay::Budget(_))));
}

#[test]
fn the_mouse_drags_along_the_curve_past_its_ends() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("b");
    let rows = driver.rows();
    let corner = rows.iter().position(|row| row.contains('└')).expect("a curve");
    let x = rows[corner].chars().take_while(|&c| c != '└').count() as u16;
    let place = |driver: &Driver| match &driver.app.overlay {
        Some(Overlay::Budget(budget)) => (budget.at, budget.last()),
        _ => panic!("the budget was left"),
    };
    driver.click(x + 1, corner as u16 - 2);
    driver.drag(0, 0);
    let (at, last) = place(&driver);
    assert_eq!(at, last, "the smallest");
    driver.drag(x + 30, 0);
    let (between, _) = place(&driver);
    assert!(0 < between && between < last, "{between} of {last}");
    driver.drag(119, 35);
    assert_eq!(place(&driver).0, 0, "everything as it is");
}

#[test]
fn the_mouse_drags_the_clip_and_the_cursor_but_no_marks() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab Enter");
    let rows = driver.rows();
    let axis = rows.iter().position(|row| row.contains('┼')).expect("an axis") as u16;
    driver.click(3, axis - 3);
    let wide = driver.app.histogram.share();
    driver.drag(20, axis - 3);
    let narrow = driver.app.histogram.share();
    assert!(narrow < wide && wide <= 1.0, "{narrow} {wide}");
    driver.drag(1, axis - 3);
    assert_eq!(driver.app.histogram.share(), 1.0, "past the end nothing is clipped");

    driver.press("Enter");
    let marks = driver.app.model.plan().len();
    driver.click(30, 5);
    driver.drag(1, 9);
    assert_eq!(driver.cursor_row(), driver.rows()[9]);
    driver.drag(6, 3);
    assert_eq!(driver.app.model.plan().len(), marks);
    driver.expect("worst SQNR first");
}

/// A recipe gives the same bytes on the command line as on the screen.
#[test]
fn a_recipe_written_here_gives_the_same_bytes_on_the_command_line() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("w");
    driver.expect("nothing is marked");
    driver.type_text("/mlp");
    driver.press("Enter a j x Down Down Down Enter Esc");
    driver.press("w Ctrl-u");
    driver.press("Enter");
    driver.expect("Type a path.");
    driver.type_text("plan.toml");
    driver.press("Enter");
    driver.expect("the plan with 6 tensors was written to plan.toml");
    driver.press("s Ctrl-u");
    driver.type_text("screen.safetensors");
    driver.press("Enter Esc");
    let out = driver.path("line.safetensors");
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_quantscope"))
        .args(["quantize", TINY_LLAMA, "--quiet", "--recipe"])
        .arg(driver.path("plan.toml"))
        .arg("-o")
        .arg(&out)
        .output()
        .expect("runs");
    assert!(ended.status.success(), "{ended:?}");
    let bytes = |path| std::fs::read(path).expect("there");
    assert!(bytes(driver.path("screen.safetensors")) == bytes(out));
    // The screen reads the recipe back.
    let plan = driver.app.model.plan().clone();
    let mut again = Driver::open(TINY_LLAMA);
    std::fs::copy(driver.path("plan.toml"), again.path("plan.toml")).expect("copied");
    again.press("Space r Ctrl-u");
    again.type_text("plan.toml");
    again.press("Enter");
    again.expect("6 tensors marked by plan.toml");
    assert_eq!(again.app.model.plan(), &plan);
    again.press("u");
    again.expect("1 tensor marked");
}

#[test]
fn an_existing_recipe_is_replaced_only_after_confirmation() {
    let mut driver = Driver::open(TINY_LLAMA);
    std::fs::write(driver.path("plan.toml"), "precious").expect("can be written");
    driver.press("Space w Ctrl-u");
    driver.type_text("plan.toml");
    driver.press("Enter");
    driver.expect("Press Enter again to replace it");
    assert_eq!(std::fs::read_to_string(driver.path("plan.toml")).expect("there"), "precious");
    driver.press("Enter");
    driver.expect("the plan with 1 tensor was written to plan.toml");
    driver.press("w Ctrl-u");
    driver.type_text("no/such/place.toml");
    driver.press("Enter");
    driver.expect_words("create it first");
    driver.press("Esc r Ctrl-u");
    driver.type_text("other.toml");
    std::fs::write(driver.path("other.toml"), "version = 9").expect("can be written");
    driver.press("Enter");
    driver.expect_words("not a recipe");
    driver.expect("1 tensor marked");
}

#[test]
fn two_checkpoints_are_compared_side_by_side() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.type_text("/up_proj");
    driver.press("Enter a Esc s Enter Esc D");
    driver.expect("Compare with another checkpoint");
    driver.type_text("nowhere");
    driver.press("Enter");
    driver.expect_words("nowhere");
    driver.expect("Compare with another checkpoint");
    driver.press("Ctrl-u");
    driver.type_text("single-int8.safetensors");
    driver.press("Enter");
    driver.expect("2 changed, 19 identical");
    assert!(driver.cursor_row().contains("up_proj"), "{}", driver.screen());
    assert!(driver.cursor_row().contains("re-typed"), "{}", driver.screen());
    driver.press("j y");
    assert!(driver.screen.clipboard[0].contains("identical"));
    let row = driver.cursor_row();
    driver.press("Enter");
    let id = driver.app.current_tensor().expect("a tensor");
    let name = driver.app.model.checkpoint.tensor(id).name.clone();
    let end = name.rsplit('.').nth(1).expect("a module");
    assert!(name.ends_with("up_proj.weight") && row.contains(end), "{name}\n{row}");
    driver.press("D Ctrl-u");
    driver.type_text(&in_repository(DEMO));
    driver.press("Enter");
    driver.expect("36 added, 21 removed");
    driver.press("G Enter");
    driver.expect("this model has no tensor");
    driver.press("Esc");
    driver.expect("worst SQNR first");
}

#[test]
fn a_running_comparison_can_be_cancelled() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.hold();
    driver.press("D");
    driver.type_text(&in_repository(DEMO));
    driver.press("Enter");
    driver.expect("comparing");
    driver.press("Esc");
    driver.expect("comparison cancelled");
    driver.send(Event::Compared(Ok(Vec::new())));
    driver.expect("worst SQNR first");
}

#[test]
fn the_clip_of_the_histogram_can_be_moved_and_kept() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("Tab");
    driver.expect("every value counted");
    driver.expect("39.3 dB good");
    driver.press("]");
    driver.expect("nothing is clipped");
    driver.press("[ [ [");
    driver.expect("87.8 % of absmax");
    driver.press("=");
    driver.expect("marked per tensor, clip at 87.8 %");
    let id = driver.app.current_tensor().expect("a tensor");
    let preview = driver.app.histogram.clipped.expect("judged").error.sqnr_db;
    assert_eq!(driver.app.model.sqnr(id).decibels(), Some(preview));
    // The saved file has the error that the slider showed.
    driver.press("s Ctrl-u");
    driver.type_text("out.safetensors");
    driver.press("Enter");
    driver.expect("On disk, 1 tensor has the error that was previewed.");
    driver.press("Esc %");
    driver.expect("log counts");
    driver.press("j k");
    driver.expect("87.8 % of absmax");
}

#[test]
fn a_clip_is_estimated_from_bins_until_it_is_measured() {
    let mut driver = Driver::open(DEMO);
    driver.hold();
    driver.press("Tab [ [ [ [");
    driver.expect("≈ from bins");
    let estimate = driver.app.histogram.clipped.expect("judged");
    let sqnr = |driver: &Driver| {
        let screen = driver.screen();
        screen.lines().find_map(|line| Some(line.split_once("SQNR     ")?.1.to_owned()))
    };
    assert!(sqnr(&driver).expect("shown").starts_with("≈ "), "{}", driver.screen());
    // Four moves requested four measurements; results for earlier clips are ignored.
    driver.release();
    let exact = driver.app.histogram.clipped.expect("judged");
    assert!(!sqnr(&driver).expect("shown").starts_with("≈ "), "{}", driver.screen());
    assert!(!estimate.exact && exact.exact && exact.share == estimate.share);
    assert!((estimate.error.sqnr_db - exact.error.sqnr_db).abs() < 0.5);
    driver.press("=");
    driver.expect("1 tensor marked");
    driver.expect_not("not measured yet");
    let id = driver.app.current_tensor().expect("a tensor");
    assert_eq!(driver.app.model.sqnr(id).decibels(), Some(exact.error.sqnr_db));
}

#[test]
fn a_mark_can_be_calibrated_another_way() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("C");
    driver.expect("nothing is marked here");
    driver.press("Space x Down Enter C");
    driver.expect("1 mark now calibrated by least MSE");
    driver.press("Tab BackTab");
    driver.expect("int8 per channel, least MSE");
    driver.expect_not("not measured yet");
    driver.press("s Ctrl-u");
    driver.type_text("out.safetensors");
    driver.press("Enter");
    driver.expect("On disk, 1 tensor has the error that was previewed.");
    driver.press("Esc C C C");
    driver.expect("calibrated by min–max");
}

#[test]
fn channels_that_stand_out_are_named() {
    let mut values = vec![0.01f32; 64];
    values[5 * 8 + 3] = -1.0;
    let odd = f32s("odd.weight", &[8, 8], values);
    let mut driver = Driver::of(made::in_memory(&[odd, f32s("bias", &[4], [1.0; 4])]), false);
    driver.expect("! channel 5 spans 100.0 times");
    driver.press("Tab Tab");
    driver.expect("absmax of each of 8 output channels");
    let rows = driver.rows();
    let titles = rows.iter().position(|row| row.contains("× median")).expect("a list");
    assert!(rows[titles + 1].trim_start().starts_with("5 "), "{}", driver.screen());
    assert!(rows[titles + 1].contains("100.00"), "{}", driver.screen());
    driver.press("Enter G Esc j");
    driver.expect("No output channels");
}

#[test]
fn diagnostics_are_shown_explained_and_found_by_filters() {
    let mut dead = vec![0.5f32; 64];
    dead[8..16].fill(0.0);
    dead[0] = 0.25;
    let tensors = [
        weights("a.weight", &[8, 8]),
        f32s("b.weight", &[8, 8], [0.5; 64]),
        f32s("c.weight", &[8, 8], dead),
        weights("d.weight", &[8, 8]),
    ];
    let mut driver = Driver::of(made::in_memory(&tensors), false);
    driver.type_text(":a.weight");
    driver.press("Enter f");
    let first = driver.cursor_row();
    assert!(first.starts_with("▌!") && !first.contains("a.weight"), "{first}");
    driver.press("f");
    let second = driver.cursor_row();
    assert!(second.starts_with("▌!") && second != first, "{second}");
    driver.press("F");
    assert_eq!(driver.cursor_row(), first);
    driver.type_text("/is:dead");
    assert_eq!(driver.table().len(), 1, "{}", driver.screen());
    driver.press("Enter Enter");
    driver.expect("1 output channel is all zeros: they cost nothing in int8");
}

#[test]
fn tied_tensors_are_flagged_and_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tied.safetensors");
    let tied: Vec<f32> = (0..32).map(|i| (i as f32).cos()).collect();
    let tensors = [
        f32s("embed.weight", &[8, 4], tied.clone()),
        weights("fc.weight", &[8, 4]),
        f32s("head.weight", &[8, 4], tied),
    ];
    made::write(&path, &tensors, &[]);
    let mut driver = Driver::open(path.to_str().expect("text"));
    driver.press("/");
    driver.type_text("is:duplicate");
    driver.press("Enter");
    driver.expect("1 of 3 tensors");
    driver.expect("head.weight");
    driver.expect("the same bytes as embed.weight");
}
