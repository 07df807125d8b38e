//! Journeys with recorded activations: opening them, sorting by them, and budgets.

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::support::driver::{DEMO, Driver, TINY_LLAMA};
use crate::support::stdout;
use crate::target::choose_presets;
use quantscope::activations::ActivationMode;
use quantscope::app::outputs::OutputsEvent;
use quantscope::app::overlay::Overlay;
use quantscope::app::{Event, Meter};
use quantscope::quantization::{Preset, QuantizationScheme};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The demo with measured output errors.
fn demo_with_outputs() -> Driver {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter");
    driver
}

/// The first `count` rows of the table.
fn names(driver: &Driver, count: usize) -> Vec<String> {
    let table = &driver.app.table;
    let rows = table.rows().iter().take(count);
    rows.map(|&row| driver.app.full_name(row).to_owned()).collect()
}

/// The events of measuring output errors, one per layer.
fn outputs_of(model: &str, captures: &str) -> Vec<OutputsEvent> {
    let mut driver = Driver::open(model);
    driver.press("A");
    driver.type_text(captures);
    driver.press("Enter");
    let mut outputs = driver.app.model.outputs.clone().expect("measured");
    let layers = std::mem::take(&mut outputs.found).into_iter();
    let layers = layers.map(|(id, found)| OutputsEvent::Found(id, found));
    let ended = std::iter::once(OutputsEvent::Ended(Ok(())));
    std::iter::once(OutputsEvent::Opened(outputs)).chain(layers).chain(ended).collect()
}

#[test]
fn opening_captures_sorts_the_table_by_output_error() {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    assert!(!driver.shows("output"), "no activations are open yet");
    assert_eq!(names(&driver, 2), ["features.13.weight", "classifier.0.weight"]);
    driver.press("A");
    driver.expect("Open recorded activations");
    driver.type_text("demo:");
    driver.press("Enter");
    driver.expect("outputs of 8 layers measured");
    driver.expect("−40.3 dB");
    // The tensor under the cursor has three figures.
    driver.expect("– dynamic");
    driver.expect("−38.5 dB");
    driver.expect("−37.3 dB");
    driver.press(">");
    driver.expect("worst output error first");
    assert_eq!(names(&driver, 2), ["features.13.weight", "features.3.weight"]);
    driver.press("R");
    driver.expect("best output error first");
    assert_eq!(names(&driver, 1), ["classifier.2.weight"]);
    driver.press("R");
    // Another scheme has another figure.
    driver.press("g Space x Down Enter");
    assert!(!driver.shows("−40.3 dB"));
}

#[test]
fn the_demo_opens_with_its_captures() {
    let mut driver = Driver::open_waiting(DEMO);
    driver.resize(150, 40);
    driver.app.activations = vec!["demo:".into()];
    driver.send(Event::Opened);
    driver.release();
    driver.expect("output");
    driver.expect("−40.3 dB");
}

#[test]
fn without_captures_the_table_cannot_be_sorted_by_output_error() {
    let mut driver = Driver::open(DEMO);
    for _ in 0..20 {
        driver.press(">");
        assert!(!driver.shows("output error"), "{}", driver.screen());
    }
    for _ in 0..20 {
        driver.press("<");
        assert!(!driver.shows("output error"), "{}", driver.screen());
    }
}

#[test]
fn captures_of_another_model_are_refused_with_a_sentence() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter");
    driver.expect("No activations");
    driver.expect_words("no recorded name matches a layer of");
    driver.press("Esc");
    assert!(driver.app.model.outputs.is_none());
}

#[test]
fn a_layer_that_cannot_be_measured_is_marked() {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    let mut bad = weights("classifier.0.input", &[2, 128]);
    bad.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let tensors: [Tensor; 3] =
        [bad, weights("classifier.2.input", &[2, 64]), weights("gone.input", &[2, 64])];
    let path = driver.path("captures.safetensors");
    write(&path, &tensors, &[]);
    driver.press("A");
    driver.type_text(path.to_str().expect("text"));
    driver.press("Enter");
    driver.expect("outputs of 1 layer measured, 1 not");
    driver.expect("unreadable");
}

/// The curve uses output errors, so it gives other marks.
#[test]
fn the_budget_uses_output_errors() {
    let marks = |activations: bool| -> Vec<u32> {
        let mut driver = Driver::open(DEMO);
        if activations {
            driver.press("A");
            driver.type_text("demo:");
            driver.press("Enter");
        }
        driver.press("b");
        driver.expect(if activations { "of the outputs" } else { "of the weights" });
        driver.press("Left Left Left Enter");
        driver.app.model.plan().iter().map(|(id, _)| id.0).collect()
    };
    let (by_weights, by_outputs) = (marks(false), marks(true));
    assert_ne!(by_weights, by_outputs);
}

#[test]
fn measured_layers_appear_one_by_one_and_measuring_can_be_stopped() {
    let mut driver = Driver::open(DEMO);
    driver.resize(150, 40);
    driver.hold();
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter");
    driver.expect("measuring outputs");
    driver.expect("c stops it");
    let mut news = outputs_of(DEMO, "demo:").into_iter();
    driver.send(Event::Outputs(news.next().expect("opened")));
    driver.expect("0 of 8 layers");
    let waiting = |driver: &Driver| driver.table().iter().filter(|row| row.contains('…')).count();
    assert_eq!(waiting(&driver), 8);
    // Progress and speed are shown.
    let meter = Meter {
        done: 25_000,
        total: 100_000,
        elapsed: Duration::from_secs(1),
        rate: Some(25_000.0),
    };
    let now = Duration::from_secs(5);
    let (calibration, save, diff) = (None, None, None);
    driver.send(Event::Tick { now, calibration, save, diff, outputs: Some(meter) });
    driver.expect(" 25 %");
    driver.expect("25.0 kB of 100 kB  25.0 kB/s  3.00 s left");
    // Layers are shown as their results arrive.
    for count in 1..=3 {
        driver.send(Event::Outputs(news.next().expect("a layer")));
        driver.expect(&format!("{count} of 8 layers"));
        assert_eq!(waiting(&driver), 8 - count);
    }
    driver.press("c");
    driver.expect("stopped: outputs of 3 of 8 layers measured; A measures again");
    assert!(!driver.is_busy() && driver.app.measuring_outputs.is_none());
    driver.expect("calibrated");
    // Results so far stay, and the other layers have none.
    assert_eq!(waiting(&driver), 0);
    let outputs = driver.app.model.outputs.as_ref().expect("opened");
    assert_eq!((outputs.found.len(), outputs.recorded.len()), (3, 8));
    // Afterwards the same key starts the calibration.
    driver.press("c");
    assert!(driver.is_busy());
}

#[test]
fn a_failed_measurement_is_reported_and_keeps_its_results() {
    let mut driver = Driver::open(DEMO);
    driver.hold();
    driver.press("A");
    driver.type_text("demo:");
    driver.press("Enter");
    let news = outputs_of(DEMO, "demo:");
    news.into_iter().take(2).for_each(|news| driver.send(Event::Outputs(news)));
    driver.send(Event::Outputs(OutputsEvent::Ended(Err("a disk went away".into()))));
    driver.expect("a disk went away");
    assert_eq!(driver.app.model.outputs.as_ref().expect("opened").found.len(), 1);
    assert!(driver.app.measuring_outputs.is_none());
    // An open window stays open.
    driver.press("Esc Space s");
    driver.send(Event::Outputs(OutputsEvent::Ended(Err("a disk went away".into()))));
    driver.expect("Save the quantized model");
    driver.expect("no activations: a disk went away");
}

#[test]
fn modules_show_the_worst_of_their_layers_and_filters_take_output_errors() {
    let mut driver = demo_with_outputs();
    let model = &driver.app.model;
    let db = |id| model.output(id).and_then(|error| error.db(ActivationMode::Weights));
    let mut all: Vec<(f64, String)> = model
        .checkpoint
        .ids()
        .filter_map(|id| Some((db(id)?, model.checkpoint.tensor(id).name.to_string())))
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst = |module: &str| {
        let (db, _) = all.iter().find(|(_, name)| name.starts_with(module)).expect("layers");
        format!("≤{db:.1} dB").replace('-', "−")
    };
    let folded = [worst("classifier"), worst("features")];
    let middle = all[2].0 - 0.001;
    driver.press("t");
    driver.press("-");
    for text in &folded {
        driver.expect(text);
    }
    driver.press("t");
    driver.type_text(&format!("/output>{middle:.3}"));
    driver.press("Enter");
    driver.press(">");
    let shown = names(&driver, 99);
    let expected: Vec<String> = all.iter().take(3).map(|(_, name)| name.clone()).collect();
    assert_eq!(shown, expected);
    driver.press("Esc");
    driver.type_text("/!output>-300 !is:norm output<0");
    assert!(names(&driver, 9).is_empty(), "nothing is better than −300 dB here");
    driver.press("Esc");
    driver.type_text("/output>");
    driver.expect("needs dB, such as -30");
    driver.press("Esc L End");
    driver.press("Home");
    driver.expect_words("A module shows the worst of its layers");
}

/// tiny-llama with synthetic inputs of two layers of its first MLP.
fn recorded_llama() -> (Driver, String) {
    let mut driver = Driver::open("tests/data/tiny-llama/single");
    driver.resize(130, 44);
    let inputs = |module: &str| {
        let values = (0..3 * 128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0);
        f32s(&format!("model.layers.0.mlp.{module}.input"), &[3, 128], values)
    };
    let path = driver.path("captures.safetensors");
    write(&path, &[inputs("up_proj"), inputs("gate_proj")], &[]);
    let path = path.to_str().expect("text").to_owned();
    driver.press("A");
    driver.type_text(&path);
    driver.press("Enter");
    driver.expect("outputs of 2 layers measured");
    driver.type_text("/*.0.mlp.*");
    driver.press("Enter a");
    driver.expect("marked 3 tensors");
    (driver, path)
}

/// Compares the weights and the configuration in two directories.
fn assert_same_files(one: &Path, other: &Path) {
    for name in ["model.safetensors", "config.json"] {
        let read = |directory: &Path| std::fs::read(directory.join(name)).expect("reads");
        assert!(read(one) == read(other), "{name}");
    }
}

#[test]
fn static_activations_are_chosen_in_the_save_dialog() {
    // Without captures static quantization is not offered.
    let mut plain = Driver::open("tests/data/tiny-llama/single");
    plain.press("a s");
    plain.expect("compressed-tensors W8A16");
    plain.expect_not("W8A8 static");

    let (mut driver, captures) = recorded_llama();
    driver.press("X Down Enter s Down");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.expect("3 tensors quantized");
    driver.press("Down");
    driver.expect("▸ compressed-tensors W8A8 static");
    driver.expect("2 tensors quantized, 19 tensors unchanged");
    driver.expect_words(
        "model.layers.0.mlp.down_proj.weight is not quantized: its input was not recorded",
    );
    driver.expect("single-W8A8-static");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.press("Esc");
    // The bytes equal those of the command line.
    let cli = driver.path("cli");
    let out = cli.to_str().expect("text");
    let model = "tests/data/tiny-llama/single";
    let args = ["quantize", model, "-o", out, "--include", "*.0.mlp.*", "--format", "int8"];
    let inputs = ["--activation-scheme", "static", "--activations", &captures];
    stdout(&[&args[..], &inputs].concat());
    let saved = driver.path("single-W8A8-static");
    assert_same_files(&saved, &cli);
    // The plan records the choice: a recipe contains it, and the dialog starts with it.
    driver.press("w");
    driver.press("Ctrl-u");
    driver.type_text("r.toml");
    driver.press("Enter");
    let recipe = driver.path("r.toml");
    let text = std::fs::read_to_string(&recipe).expect("a recipe");
    assert!(text.contains("scheme = \"static\"") && text.contains("up_proj"), "{text}");
    let again = driver.path("again");
    let recipe = recipe.to_str().expect("text");
    let out = again.to_str().expect("text");
    stdout(&["quantize", model, "-o", out, "--format", "int8", "--recipe", recipe]);
    assert_same_files(&saved, &again);
    driver.press("s");
    driver.expect("▸ compressed-tensors W8A8 static");
    driver.expect("2 scales of inputs from the plan");
    // Dynamic can be chosen again, and undo restores the marks that were left out.
    driver.press("Up");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.press("Esc u");
    assert_eq!(driver.app.model.plan().len(), 3);
    assert!(!driver.app.model.plan().inputs.is_static());
}

#[test]
fn fp8_with_recorded_inputs_is_offered_once_they_are_known() {
    let fp8 = QuantizationScheme::Preset(Preset::Fp8);
    let mut plain = Driver::open("tests/data/tiny-llama/single");
    choose_presets(&mut plain, "vllm");
    assert!(!plain.app.model.schemes().contains(&fp8));

    let (mut driver, captures) = recorded_llama();
    choose_presets(&mut driver, "vllm");
    assert_eq!(driver.app.model.schemes().last(), Some(&fp8));
    // Budgets leave it out.
    driver.press("b");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    assert!(budget.schemes.iter().all(|(scheme, _)| *scheme != fp8));
    driver.press("Esc X End Enter");
    assert!(driver.app.model.plan().iter().all(|(_, quantizer)| quantizer.scheme == fp8));
    driver.press("s");
    driver.expect("2 tensors quantized, 19 tensors unchanged");
    driver.expect_words(
        "model.layers.0.mlp.down_proj.weight is not quantized: its input was not recorded",
    );
    driver.expect("single-FP8");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.press("Esc");
    // The bytes equal those of the command line.
    let cli = driver.path("cli");
    let out = cli.to_str().expect("text");
    let model = "tests/data/tiny-llama/single";
    let args = ["quantize", model, "-o", out, "--include", "*.0.mlp.*", "--for", "vllm"];
    let inputs = ["--activation-scheme", "static", "--activations", &captures];
    stdout(&[&args[..], &["--scheme", "FP8"], &inputs].concat());
    assert_same_files(&driver.path("single-FP8"), &cli);
}

/// The model of `recorded_llama` saved by the command line as W4A16.
fn saved_by_options(driver: &Driver, name: &str, captures: &str, options: &[&str]) -> PathBuf {
    let path = driver.path(name);
    let out = path.to_str().expect("text");
    let model = "tests/data/tiny-llama/single";
    let args = ["quantize", model, "-o", out, "--include", "*.0.mlp.*", "--for", "vllm"];
    let inputs = ["--scheme", "W4A16", "--activations", captures];
    stdout(&[&args[..], &inputs, options].concat());
    path
}

/// `recorded_llama` with its marks as W4A16 for vLLM, in the save dialog.
fn save_dialog_of_recorded_llama() -> (Driver, String) {
    let (mut driver, captures) = recorded_llama();
    choose_presets(&mut driver, "vllm");
    driver.press("X Home Enter s");
    driver.expect("single-W4A16");
    (driver, captures)
}

#[test]
fn marks_are_rounded_for_recorded_inputs_by_switches_of_the_save_dialog() {
    let (mut driver, captures) = save_dialog_of_recorded_llama();
    driver.expect("Ctrl-G error compensation (GPTQ): off");
    driver.expect("Ctrl-X clips by the output error: off");
    driver.press("Ctrl-g");
    driver.expect("error compensation (GPTQ): on");
    driver.expect("2 tensors rounded for recorded inputs, 1 tensor without them");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.expect("Output error on the recorded inputs");
    driver.expect("Lower than by rounding to nearest in 2 of 2 layers");
    driver.press("Esc");
    let saved = driver.path("single-W4A16");
    let options = ["--error-compensation"];
    assert_same_files(&saved, &saved_by_options(&driver, "compensated", &captures, &options));

    // The plan keeps the choice, and undo takes it back.
    driver.press("s");
    driver.expect("error compensation (GPTQ): on");
    driver.press("Esc u s");
    driver.expect("error compensation (GPTQ): off");
    driver.press("Esc U s Ctrl-x");
    driver.expect("clips by the output error: on");
    driver.type_text("-both");
    driver.press("Enter");
    driver.expect("clips only");
    let both = driver.path("single-W4A16-both");
    let options = ["--error-compensation", "--clip-search"];
    assert_same_files(&both, &saved_by_options(&driver, "both", &captures, &options));
    let Some(Overlay::Receipt(saved, _)) = &driver.app.overlay else { panic!("a receipt") };
    let command = saved.command.clone();
    assert!(command.contains(&format!("--activations {captures}")), "{command}");
    assert!(command.contains("error_compensation = true"), "{command}");
    assert!(command.contains("clip_search = true"), "{command}");

    // Another scheme is not rounded so, and its recipe does not say that it is.
    driver.press("Esc X End Enter w");
    driver.press("Ctrl-u");
    driver.type_text("other.toml");
    driver.press("Enter");
    let text = std::fs::read_to_string(driver.path("other.toml")).expect("a recipe");
    assert!(!text.contains("error_compensation") && !text.contains("clip_search"), "{text}");
    driver.press("s Ctrl-g");
    driver.expect_words("only W4A16, W4A16_ASYM and W8A16/127.5 of compressed-tensors are rounded");
}

#[test]
fn a_recipe_with_compensation_and_clips_is_saved_the_same_on_the_screen() {
    let (recording, captures) = recorded_llama();
    let recipe = recording.path("plan.toml");
    let recipe = recipe.to_str().expect("text");
    let options = ["--error-compensation", "--clip-search", "--write-recipe", recipe];
    let cli = saved_by_options(&recording, "cli", &captures, &options);

    let mut driver = Driver::open("tests/data/tiny-llama/single");
    driver.resize(130, 44);
    driver.press("r");
    driver.press("Ctrl-u");
    driver.type_text(recipe);
    driver.press("Enter");
    driver.expect("3 tensors marked");
    // Without the recording it is refused, and can be rounded to nearest.
    driver.press("s");
    driver.expect("error compensation (GPTQ): on");
    driver.expect_words("is to be rounded for recorded inputs, and no open recording has them");
    driver.press("Enter");
    assert!(!driver.shows("Saved and verified"), "{}", driver.screen());
    driver.press("Ctrl-g Ctrl-x");
    driver.expect_not("no open recording has them");
    driver.press("Esc A");
    driver.type_text(&captures);
    driver.press("Enter");
    driver.expect("outputs of 2 layers measured");
    driver.press("s");
    driver.expect("2 tensors rounded for recorded inputs, 1 tensor without them");
    driver.press("Enter");
    driver.expect("Saved and verified");
    assert_same_files(&driver.path("single-W4A16"), &cli);
}

#[test]
fn all_marks_of_a_target_are_rounded_by_options_of_the_command_line() {
    let mut driver = Driver::open("tests/data/tiny-llama/single");
    driver.resize(130, 44);
    choose_presets(&mut driver, "vllm");
    let path = driver.path("captures.safetensors");
    let values = (0..3 * 128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0);
    let layer = "model.layers.0.mlp.up_proj.input";
    write(&path, &[f32s(layer, &[3, 128], values)], &[]);
    let captures = path.to_str().expect("text").to_owned();
    driver.press("A");
    driver.type_text(&captures);
    driver.press("Enter");
    driver.expect("outputs of 1 layer measured");
    driver.press("a s Ctrl-x Enter");
    driver.expect("Saved and verified");
    let Some(Overlay::Receipt(saved, _)) = &driver.app.overlay else { panic!("a receipt") };
    let command = saved.command.clone();
    let options = format!("--for vllm --scheme W4A16 --clip-search --activations {captures}");
    assert!(command.ends_with(&options), "{command}");
}

#[test]
fn saving_waits_for_the_calibration_of_inputs() {
    let mut driver = Driver::open("tests/data/tiny-llama/single");
    driver.resize(130, 44);
    let path = driver.path("captures.safetensors");
    let inputs = |module: &str| weights(&format!("model.layers.0.mlp.{module}.input"), &[3, 128]);
    write(&path, &[inputs("up_proj"), inputs("gate_proj")], &[]);
    driver.hold();
    driver.press("A");
    driver.type_text(path.to_str().expect("text"));
    driver.press("Enter");
    let news = outputs_of("tests/data/tiny-llama/single", path.to_str().expect("text"));
    news.into_iter().take(2).for_each(|news| driver.send(Event::Outputs(news)));
    driver.type_text("/*.0.mlp.*");
    driver.press("Enter a X Down Enter s Down Down");
    driver.expect("▸ compressed-tensors W8A8 static");
    driver.expect_words("2 marks are not quantized, such as model.layers.0.mlp.");
    driver.press("Enter");
    driver.expect_words("The inputs are still being calibrated. Wait");
    driver.press("Esc c");
    driver.expect("stopped: outputs of 1 of 2 layers measured");
}
