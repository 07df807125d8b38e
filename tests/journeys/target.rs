//! The target: choosing loaders, the tensors they leave float, and the changes of marks.

use crate::support::checkpoint::{weights, write};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA, in_repository, scan_of};
use quantscope::activations::ActivationMode;
use quantscope::app::overlay::Overlay;
use quantscope::app::{Event, Tab};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::LoadCheck;
use quantscope::plan::target::{Container, LinearScheme, Loader, Target};
use quantscope::quantization::{
    AnalysisSpec, Calibration, Preset, QuantizationScheme, Quantizer, Rounding, ScaleStorage,
};

/// Moves the cursor of the open list to a row.
fn choose(driver: &mut Driver, name: &str) {
    for _ in 0..16 {
        if driver.shows(&format!("▸ {name} ")) {
            return;
        }
        driver.press("j");
    }
    panic!("{name} is not in the list:\n{}", driver.screen());
}

fn choose_target(driver: &mut Driver, name: &str) {
    driver.press("T k k k k k k k k k k k k k k");
    choose(driver, name);
    driver.press("Enter");
}

fn schemes(driver: &Driver) -> Vec<QuantizationScheme> {
    let mut schemes: Vec<_> = Vec::new();
    for (_, quantizer) in driver.app.model.plan().iter() {
        if !schemes.contains(&quantizer.scheme) {
            schemes.push(quantizer.scheme);
        }
    }
    schemes
}

#[test]
fn the_target_is_in_the_header_and_decides_what_is_offered() {
    let mut driver = Driver::open(SHARDED);
    driver.expect("no target");
    driver.press("T");
    driver.expect("Which program is to load the output?");
    driver.expect_words("Writes safetensors.");
    choose(&mut driver, "vllm");
    driver.expect_words("Writes compressed-tensors W8A8.");
    driver.press("l");
    driver.expect_words("Writes compressed-tensors W8A16.");
    driver.press("h Enter");
    driver.expect("for vllm (compressed-tensors W8A8)");
    driver.expect("target vllm (compressed-tensors W8A8); all marks fit");
    driver.expect("weight error of int8 per channel");
    driver.press("a");
    driver.expect("marked 14 tensors");
    // The output head stays float, and the row and the line below the table say why.
    driver.type_text(":lm_head");
    driver.press("Enter");
    assert!(driver.cursor_row().contains("output head"), "{}", driver.screen());
    driver.expect("left as it is: it is the output head");
    driver.press("Space");
    driver.expect("marked, although usually not quantized: it is the output head");
    driver.press("u");
    driver.type_text(":embed_tokens");
    driver.press("Enter Space");
    driver.expect("cannot be quantized for vllm (compressed-tensors W8A8): it is an embedding");
}

#[test]
fn another_target_changes_the_marks_and_says_how() {
    let mut driver = Driver::open(SHARDED);
    driver.press("a");
    driver.type_text("/model.norm");
    driver.press("Enter Space Esc");
    driver.expect("16 tensors marked");
    choose_target(&mut driver, "vllm");
    driver.expect("unmarked model.norm.weight: it belongs to a norm");
    assert_eq!(driver.app.model.plan().len(), 15);
    assert_eq!(schemes(&driver), [QuantizationScheme::PER_CHANNEL]);
    driver.press("u");
    driver.expect("no target");
    assert_eq!(driver.app.model.plan().len(), 16);
    assert_eq!(schemes(&driver), [QuantizationScheme::PER_TENSOR]);
    driver.press("U");
    driver.expect("for vllm");
    assert_eq!(driver.app.model.plan().len(), 15);
}

#[test]
fn layers_that_a_loader_joins_are_marked_together() {
    let mut driver = Driver::open(SHARDED);
    driver.type_text("/0.self_attn.q_proj");
    driver.press("Enter Space Esc");
    choose_target(&mut driver, "vllm");
    driver.expect("marked 2 tensors that are loaded together with marked ones");
    assert_eq!(driver.app.model.plan().len(), 3);
    driver.type_text("/1.mlp.up_proj");
    driver.press("Enter Space");
    driver.expect("marked 2 tensors: they are loaded as one layer");
    assert_eq!(driver.app.model.plan().len(), 5);
    driver.press("Space");
    driver.expect("unmarked 2 tensors: they are loaded as one layer");
    assert_eq!(driver.app.model.plan().len(), 3);
}

#[test]
fn several_loaders_can_be_one_target() {
    let mut driver = Driver::open(SHARDED);
    driver.press("T");
    choose(&mut driver, "transformers");
    driver.press("Space");
    choose(&mut driver, "[x] transformers");
    choose(&mut driver, "[ ] vllm");
    driver.press("Space");
    driver.expect("[x] vllm");
    choose(&mut driver, "[ ] burn");
    driver.press("Space");
    driver.expect("one output has one format");
    driver.press("Enter");
    driver.expect("for transformers, vllm");
    let target = &driver.app.model.plan().target;
    assert_eq!(target.loaders(), [Loader::Transformers, Loader::Vllm]);
}

#[test]
fn a_target_that_this_model_cannot_have_says_why() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.press("T");
    choose(&mut driver, "ollama");
    driver.expect_words("Ollama opens GGUF, which is made from GGUF only");
    driver.press("Enter");
    driver.expect("Which program is to load the output?");
    driver.press("Esc");
    driver.expect("no target");
}

#[test]
fn the_save_dialog_offers_what_fits_and_a_refusal_offers_its_fix() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("a s");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.expect("vLLM opens compressed-tensors, not safetensors");
    driver.expect("for vllm (compressed-tensors W8A8)");
    driver.expect("14 tensors quantized, 7 tensors unchanged");
    // A format that does not fit is dim. If selected, the dialog shows the full reason.
    driver.press("Up");
    driver.expect_words("vLLM opens compressed-tensors, not safetensors");
    driver.press("Enter");
    driver.expect("Save the quantized model");
}

#[test]
fn marks_of_the_wrong_scheme_are_mended_with_one_key() {
    let mut driver = Driver::open(SHARDED);
    driver.type_text("/layers");
    driver.press("Enter a x Down Enter Esc s");
    driver.press("Down");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.expect_words("Ctrl-R: make all 14 marks per tensor");
    driver.press("Ctrl-r");
    assert_eq!(schemes(&driver).len(), 1);
    driver.expect("14 tensors quantized");
    driver.press("Enter");
    driver.expect("Saved and verified");
}

#[test]
fn the_save_dialog_asks_for_the_target_and_comes_back() {
    let mut driver = Driver::open(SHARDED);
    driver.press("a s Ctrl-f");
    driver.expect("Which program is to load the output?");
    choose(&mut driver, "vllm");
    driver.press("Enter");
    driver.expect("Save the quantized model");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.expect("sharded-W8A8");
    driver.press("Ctrl-f Esc");
    driver.expect("Save the quantized model");
    driver.press("Enter");
    driver.expect("Saved and verified");
    let saved = Checkpoint::open(&driver.path("sharded-W8A8")).expect("opens");
    assert!(saved.ids().filter(|&id| saved.packed_format(id).is_some()).count() >= 14);
}

#[test]
fn recipes_and_sessions_keep_the_target() {
    let mut driver = Driver::open(SHARDED);
    choose_target(&mut driver, "vllm");
    driver.press("a w Ctrl-u");
    driver.type_text("plan.toml");
    driver.press("Enter");
    let recipe = std::fs::read_to_string(driver.path("plan.toml")).expect("written");
    assert!(recipe.contains("for = [\"vllm\"]"), "{recipe}");
    let session = driver.app.session();
    let mut again = Driver::open(SHARDED);
    again.app.restore(&session);
    again.press("j");
    again.expect("for vllm (compressed-tensors W8A8)");
    let target = again.app.model.rules().target();
    assert_eq!(target.container(), Container::CompressedTensors(LinearScheme::W8A8));
    let mut other = Driver::open(SHARDED);
    std::fs::copy(driver.path("plan.toml"), other.path("plan.toml")).expect("copied");
    other.press("r Ctrl-u");
    other.type_text("plan.toml");
    other.press("Enter");
    other.expect("for vllm");
    assert_eq!(other.app.model.plan(), driver.app.model.plan());
}

/// From a float model to a saved, checked and compared one, with keys only.
#[test]
fn from_a_model_to_a_saved_checked_and_compared_one() {
    let mut driver = Driver::open(SHARDED);
    driver.press("T Down Down Down Enter");
    driver.expect("for vllm (compressed-tensors W8A8)");
    driver.press("b");
    driver.expect("nothing quantized");
    driver.press(":");
    driver.type_text("600KB");
    driver.press("Enter Enter");
    driver.expect("tensors marked");
    let (totals, kept) = (driver.app.model.totals(), driver.app.model.plan().len());
    assert!(totals.after <= 600_000 && kept > 0, "{totals:?}");
    driver.press("s");
    driver.expect("▸ compressed-tensors W8A8 ");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.expect_words("nothing found that keeps it from loading in vLLM");
    // Figures of the screen are those of scales as the format stores them: BF16.
    driver.expect_words(&format!("On disk, {kept} tensors have the error that was previewed."));
    let saved = Checkpoint::open(&driver.path("sharded-W8A8")).expect("opens");
    assert_eq!(totals.after, saved.all_stored().map(|(_, stored)| stored.bytes()).sum::<u64>());
    let checked = LoadCheck::new(&saved, &[Loader::Vllm]).expect("a config");
    assert!(checked.loads() && checked.quantized == kept, "{checked:?}");
    driver.press("o");
    driver.expect("sharded-W8A8");
    assert_eq!(driver.app.model.checkpoint.path(), saved.path());
    driver.press("D Ctrl-u");
    driver.type_text(&in_repository(SHARDED));
    driver.press("Enter");
    driver.expect("changed");
    driver.press("Esc q");
    assert!(driver.has_quit());
}

/// Chooses presets of compressed-tensors for a loader.
pub(crate) fn choose_presets(driver: &mut Driver, loader: &str) {
    choose_target(driver, loader);
    driver.press("T l l Enter");
    driver.expect("compressed-tensors presets");
}

#[test]
fn presets_are_measured_marked_and_saved_as_previewed() {
    let mut driver = Driver::open(SHARDED);
    choose_presets(&mut driver, "transformers");
    driver.expect("14 schemes measured");
    driver.press("a");
    driver.expect("weight error of W4A16");
    let offered = driver.app.model.schemes().to_vec();
    assert_eq!(offered.len(), Preset::ALL.len());
    for (number, preset) in offered.into_iter().enumerate() {
        driver.press(if number == 0 { "X Enter" } else { "X Down Enter" });
        assert_eq!(schemes(&driver), [preset], "{}", driver.screen());
        driver.press("s");
        let name = preset.preset().map(Preset::name).unwrap_or_default();
        driver.expect(&format!("sharded-{name}"));
        driver.press("Enter");
        driver.expect("Saved and verified");
        // The global scale of NVFP4 is that of all tensors that a loader merges.
        driver.expect("On disk, 14 tensors have the error that was previewed.");
        driver.press("Esc");
    }
}

#[test]
fn the_schemes_tab_shows_what_the_target_holds() {
    let mut driver = Driver::open(SHARDED);
    choose_presets(&mut driver, "vllm");
    driver.type_text(":down_proj");
    driver.press("Enter");
    for _ in 0..Tab::ALL.len() {
        if driver.app.tab != Tab::Schemes {
            driver.press("Tab");
        }
    }
    driver.press("Enter");
    for preset in Preset::ALL {
        let scheme = QuantizationScheme::Preset(preset).to_string();
        let row = driver.rows().into_iter().find(|row| row.trim_start().starts_with(&scheme));
        let row = row.unwrap_or_else(|| panic!("{scheme}:\n{}", driver.screen()));
        assert!(row.contains("dB") && row.trim_end().ends_with("yes"), "{row}");
    }
    driver.expect("FP4 weights in groups of 16 with FP8 scales");
}

#[test]
fn a_budget_mixes_the_presets_and_says_what_it_holds() {
    let mut driver = Driver::open(SHARDED);
    choose_presets(&mut driver, "transformers");
    driver.press("b");
    driver.expect("holds    float 14");
    driver.press("Home");
    driver.expect("holds    int4 14");
    driver.type_text("50%");
    driver.press("Enter");
    let Some(Overlay::Budget(budget)) = &driver.app.overlay else { panic!("the budget is open") };
    let held = budget.composition(driver.app.model.plan());
    assert!(held.contains(", "), "{held}");
    driver.expect(&format!("holds    {held}"));
    driver.press("Enter s");
    driver.expect("sharded-mixed");
    driver.press("Enter");
    driver.expect("Saved and verified");
    driver.expect("14 tensors have the error that was previewed");
}

/// Scales of F32 and of BF16 give other errors, so that another target measures again.
#[test]
fn figures_follow_the_scales_of_the_target() {
    let mut driver = Driver::open(SHARDED);
    let weight = "model.layers.0.mlp.up_proj.weight";
    let id = driver.app.model.checkpoint.find(weight).expect("there");
    let per_channel = QuantizationScheme::PER_CHANNEL;
    let shown =
        |driver: &Driver| driver.app.model.error(id, per_channel).expect("measured").sqnr_db;
    let with_f32 = shown(&driver);
    choose_target(&mut driver, "vllm");
    let with_bf16 = shown(&driver);
    assert_ne!(with_f32, with_bf16);
    let spec = AnalysisSpec {
        scale_storage: ScaleStorage::ElementType,
        ..AnalysisSpec::errors(vec![driver.app.model.quantizer_of(id)], Rounding::HalfEven)
    };
    let mut found = scan_of(&driver.app.model.checkpoint, vec![id], &spec).into_iter();
    let analysis = found.next().expect("one tensor").1.expect("reads");
    let outcome = analysis.outcomes.first().expect("one quantizer");
    let error = outcome.result.as_ref().expect("quantizable").error.expect("measured");
    assert_eq!(with_bf16, error.statistics().sqnr_db);
    driver.press("u");
    driver.expect("no target");
    assert_eq!(shown(&driver), with_f32);
}

#[test]
fn a_session_for_a_target_that_the_model_cannot_have_is_restored_without_it() {
    let mut driver = Driver::open(SHARDED);
    driver.press("a");
    let mut plan = driver.app.model.plan().clone();
    let marked = plan.len();
    plan.target = Target::format(Container::Gguf);
    driver.app.model.replace(plan);
    let session = driver.app.session();
    let mut again = Driver::open(SHARDED);
    again.app.restore(&session);
    again.press("j");
    again.expect("no target");
    assert_eq!(again.app.model.plan().len(), marked);
}

/// A mark's error that was measured with the scales of the former target comes too late.
#[test]
fn errors_of_a_former_target_are_dropped() {
    let mut driver = Driver::open(SHARDED);
    let weight = "model.layers.0.mlp.up_proj.weight";
    let id = driver.app.model.checkpoint.find(weight).expect("there");
    choose_target(&mut driver, "vllm");
    let quantizer = Quantizer {
        calibration: Calibration::Percentile(99.9),
        scheme: QuantizationScheme::PER_CHANNEL,
    };
    driver.app.model.mark_with(id, quantizer);
    driver.press("j");
    let shown = |driver: &Driver| {
        let metrics = driver.app.model.measurement(id).metrics().expect("measured");
        metrics.error_of(quantizer).expect("measured").sqnr_db
    };
    let with_bf16 = shown(&driver);
    let late = |driver: &Driver, scale_storage: ScaleStorage| {
        let spec = AnalysisSpec {
            scale_storage,
            ..AnalysisSpec::errors(vec![quantizer], Rounding::HalfEven)
        };
        let found = scan_of(&driver.app.model.checkpoint, vec![id], &spec).into_iter().next();
        let (tensor, found) = found.expect("one tensor");
        Event::MarkMeasured { tensor, scale_storage, found }
    };
    let event = late(&driver, ScaleStorage::F32);
    driver.send(event);
    assert_eq!(shown(&driver), with_bf16);
    let event = late(&driver, ScaleStorage::ElementType);
    driver.send(event);
    assert_eq!(shown(&driver), with_bf16);
}

/// Another target while recorded inputs are being opened: all is measured with its scales.
#[test]
fn output_errors_follow_a_target_that_changes_meanwhile() {
    let weight = "model.layers.0.mlp.up_proj.weight";
    let mut expected = Driver::open(SHARDED);
    let id = expected.app.model.checkpoint.find(weight).expect("there");
    let columns = expected.app.model.checkpoint.tensor(id).shape.row_len();
    let open = |driver: &mut Driver| {
        let path = driver.path("inputs.safetensors");
        write(&path, &[weights("model.layers.0.mlp.up_proj.input", &[8, columns])], &[]);
        driver.press("A");
        driver.type_text(path.to_str().expect("text"));
        driver.press("Enter");
    };
    let ratio = |driver: &Driver| {
        let quantizer = driver.app.model.default_quantizer(id, QuantizationScheme::PER_CHANNEL);
        let outputs = driver.app.model.outputs.as_ref().expect("measured");
        outputs.error(id, quantizer).and_then(|error| error.ratio(ActivationMode::Weights))
    };
    open(&mut expected);
    let with_f32 = ratio(&expected);
    choose_target(&mut expected, "vllm");
    let with_bf16 = ratio(&expected);
    assert!(with_bf16.is_some() && with_bf16 != with_f32);
    let mut driver = Driver::open(SHARDED);
    driver.hold();
    open(&mut driver);
    assert!(driver.app.model.outputs.is_none(), "the inputs are not open yet");
    choose_target(&mut driver, "vllm");
    driver.release();
    assert_eq!(ratio(&driver), with_bf16);
}
