//! Checkpoints of quantization-aware training: their observers and scales are recognised, used
//! and reported, and the model can be saved without them.

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::support::driver::Driver;
use crate::support::{failure, json, stdout};
use quantscope::checkpoint::Checkpoint;
use std::path::Path;
use tempfile::{TempDir, tempdir};

const QAT: &str = "assets/demo_qat.safetensors";
const LAYERS: [&str; 8] = [
    "classifier.0",
    "classifier.2",
    "classifier.4",
    "features.0",
    "features.10",
    "features.13",
    "features.3",
    "features.6",
];

fn open(path: &str) -> Checkpoint {
    Checkpoint::open(Path::new(path)).expect("opens")
}

fn elements(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let id = checkpoint.find(name).unwrap_or_else(|| panic!("no {name}"));
    let count = checkpoint.tensor(id).parameters();
    let mut reader = checkpoint.reader();
    let (_, bytes) = reader.elements(id, 0..count).expect("reads").expect("floats");
    bytes.chunks_exact(4).map(|raw| f32::from_le_bytes(raw.try_into().expect("four"))).collect()
}

#[test]
fn learned_scales_are_recognised() {
    let checkpoint = open(QAT);
    for layer in LAYERS {
        let id = checkpoint.find(&format!("{layer}.weight")).expect("there");
        let learned = checkpoint.learned(id).expect("learned");
        let stored = elements(&checkpoint, &format!("{layer}.weight_fake_quant.scale"));
        assert_eq!(learned.scales, stored);
        assert_eq!(learned.zero_point, None, "{layer}");
        assert!(learned.to_string().starts_with("trained for int4, scale 0."), "{learned}");
    }
    let others = checkpoint.ids().filter(|&id| checkpoint.learned(id).is_some()).count();
    assert_eq!(others, LAYERS.len());
    assert!(!open("assets/demo.safetensors").has_learned());
}

#[test]
fn quantizing_uses_and_reports_learned_scales() {
    let dir = tempdir().expect("temp");
    let source = open(QAT);
    for scheme in ["per-tensor", "per-channel", "per-block:32"] {
        let out = dir.path().join(format!("{}.safetensors", scheme.replace(':', "-")));
        let out = out.to_str().expect("text");
        let printed = stdout(&["quantize", QAT, "-o", out, "--scheme", scheme]);
        assert!(
            printed.contains("8 weights have the scales that their training learned"),
            "{printed}"
        );
        let written = open(out);
        for layer in LAYERS {
            let scale = elements(&source, &format!("{layer}.weight_fake_quant.scale"))[0];
            let before = elements(&source, &format!("{layer}.weight"));
            let after = elements(&written, &format!("{layer}.weight"));
            for (x, y) in before.iter().zip(after) {
                assert_eq!(y, (x / scale).round_ties_even() * scale, "{layer} {scheme}");
            }
        }
        stdout(&["verify", out, "--against", QAT]);
    }
    // A recipe keeps learned scales, and another calibration can be chosen.
    let (recipe, out) = (dir.path().join("r.toml"), dir.path().join("again.safetensors"));
    let (recipe, out) = (recipe.to_str().expect("text"), out.to_str().expect("text"));
    stdout(&["quantize", QAT, "-o", out, "--write-recipe", recipe]);
    stdout(&["quantize", QAT, "-o", out, "--force", "--recipe", recipe]);
    let first = std::fs::read(dir.path().join("per-tensor.safetensors")).expect("reads");
    assert_eq!(std::fs::read(out).expect("reads"), first);
    for other in [&["--calibration", "min-max"][..], &["--calibration", "mse"]] {
        let printed = stdout(&[&["quantize", QAT, "-o", out, "--force"], other].concat());
        assert!(!printed.contains("learned"), "{printed}");
    }
}

#[test]
fn the_plain_model_has_no_observers() {
    let dir = tempdir().expect("temp");
    let out = dir.path().join("plain.safetensors");
    let out = out.to_str().expect("text");
    stdout(&["dequantize", QAT, "-o", out]);
    let (plain, source) = (open(out), open(QAT));
    let names = |checkpoint: &Checkpoint| -> Vec<String> {
        let mut names: Vec<String> =
            checkpoint.tensors().iter().map(|tensor| tensor.name.to_string()).collect();
        names.sort();
        names
    };
    // The tensors are exactly those of the network that was trained in float.
    assert_eq!(names(&plain), names(&open("assets/demo.safetensors")));
    assert!(!plain.has_learned());
    for layer in LAYERS {
        let name = format!("{layer}.weight");
        assert_eq!(elements(&plain, &name), elements(&source, &name));
    }
    let printed = stdout(&["verify", out, "--against", QAT]);
    assert!(printed.contains("bit for bit"), "{printed}");
}

#[test]
fn observers_are_recognised_and_weights_report_their_training() {
    let found = json(&["inspect", QAT]);
    let tensors = found["tensors"].as_array().expect("a list");
    let observers = tensors.iter().filter(|tensor| {
        tensor["reason"].as_str().is_some_and(|why| why.contains("observer of fake quantization"))
    });
    assert_eq!(
        observers.count(),
        open(QAT).tensors().len() - open("assets/demo.safetensors").tensors().len()
    );
    let table = stdout(&["analyze", QAT, "--include", "*.weight"]);
    assert_eq!(table.matches("trained for int4, scale 0.").count(), 8, "{table}");
}

#[test]
fn the_screen_shows_learned_scales_and_marks_with_them() {
    let mut driver = Driver::open(QAT);
    driver.type_text(":classifier.0.weight");
    driver.press("Enter");
    driver.expect("trained for int4, scale 0.103123255;");
    driver.expect("marks use them");
    driver.press("Space");
    driver.expect("int8 per tensor, learned scales");
    let quantizer = driver.app.model.plan().iter().next().expect("marked").1;
    assert_eq!(quantizer.calibration.to_string(), "learned");
}

/// A weight with six output channels, and the tensors of its observer.
struct Trained {
    dir: TempDir,
    model: String,
}

impl Trained {
    fn new(parts: Vec<Tensor>) -> Trained {
        let dir = tempdir().expect("temp");
        let path = dir.path().join("model.safetensors");
        let tensors = [vec![weights("fc.weight", &[6, 8]), weights("fc.bias", &[6])], parts];
        write(&path, &tensors.concat(), &[]);
        let model = path.to_str().expect("text").to_owned();
        Trained { dir, model }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }
}

/// Shows a tensor on the whole of a tall screen, where no text is cut.
fn show_full_screen(driver: &mut Driver, name: &str) {
    driver.resize(90, 70);
    driver.type_text(&format!(":{name}"));
    driver.press("Enter Enter");
}

fn part(name: &str, values: &[f32]) -> Tensor {
    f32s(&format!("fc.weight_fake_quant.{name}"), &[values.len() as u64], values.to_vec())
}

fn zero_points(values: &[i32]) -> Tensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let count = values.len() as u64;
    let name = "fc.weight_fake_quant.zero_point".to_owned();
    Tensor { name, dtype: "I32", shape: vec![count], bytes }
}

const SCALES: [f32; 6] = [0.011, 0.012, 0.013, 0.0014, 0.0015, 0.016];

#[test]
fn learned_per_channel_scales_are_used_unchanged() {
    let trained = Trained::new(vec![part("scale", &SCALES), zero_points(&[0; 6])]);
    let source = elements(&open(&trained.model), "fc.weight");
    // Per channel is the default, because one scale per tensor cannot hold them; blocks can.
    let schemes = [&[][..], &["--scheme", "per-channel"], &["--scheme", "per-block:3"]];
    for (format, ending) in [("safetensors", ""), ("fake-quantized", "-fake")] {
        for (number, scheme) in schemes.iter().enumerate() {
            let out = trained.path(&format!("{number}{ending}.safetensors"));
            let recipe = trained.path(&format!("{number}{ending}.toml"));
            let quantize = ["quantize", &trained.model, "--format", format];
            let asked = ["-o", &out, "--write-recipe", &recipe];
            let printed = stdout(&[&quantize[..], &asked, scheme].concat());
            assert!(printed.contains("1 weight has the scales that its training"), "{printed}");
            let after = elements(&open(&out), "fc.weight");
            for (at, (x, y)) in source.iter().zip(after).enumerate() {
                let scale = SCALES[at / 8];
                let level = (x / scale).round_ties_even().clamp(-127.0, 127.0);
                assert_eq!(y, level * scale, "{format} {scheme:?} at {at}");
            }
            stdout(&["verify", &out, "--against", &trained.model]);
            // The recipe gives the same bytes.
            let text = std::fs::read_to_string(&recipe).expect("a recipe");
            assert!(text.contains("calibration = \"learned\""), "{text}");
            let again = trained.path("again.safetensors");
            let asked = ["-o", &again, "--force", "--recipe", &recipe];
            stdout(&[&quantize[..], &asked].concat());
            let read = |path: &str| std::fs::read(path).expect("reads");
            assert_eq!(read(&out), read(&again));
        }
    }
    // The measured error equals that of the saved file.
    let measured = json(&["analyze", &trained.model]);
    assert_eq!(measured["scheme"], "per-channel");
    let fc = &measured["tensors"][0];
    assert_eq!(fc["quantization"]["scale"].as_array().expect("a list").len(), 6);
    assert_eq!(fc["quantization"]["scale"][3], 0.0014);
    assert_eq!(fc["observed"]["learned"]["scales"][5], 0.016);
    assert_eq!(fc["observed"]["learned"]["not_taken"], serde_json::Value::Null);
    let verified = json(&["verify", &trained.path("1.safetensors"), "--against", &trained.model]);
    let (a, b) = (&fc["quantization"]["sqnr_db"], &verified["quantized"][0]["sqnr_db"]);
    let difference = a.as_f64().expect("dB") - b.as_f64().expect("dB");
    assert!(difference.abs() < 1e-6, "{a} {b}");
    // Tensors are calibrated if requested or if the scheme has one scale, and this is reported.
    let table = stdout(&["analyze", &trained.model]);
    assert!(table.contains("6 scales, used here"), "{table}");
    let table = stdout(&["analyze", &trained.model, "--scheme", "per-tensor"]);
    assert!(table.contains("not used: it learned one for each"), "{table}");
    let out = trained.path("own.safetensors");
    let own = ["quantize", &trained.model, "-o", &out, "--force", "--calibration", "min-max"];
    assert!(!stdout(&own).contains("learned"));
}

#[test]
fn the_screen_marks_with_learned_per_channel_scales() {
    // Further tensors that PyTorch saves, whose names start with the weight's name.
    let more = ["fake_quant_enabled", "observer_enabled"].map(|name| part(name, &[1.0]));
    let trained = Trained::new([vec![part("scale", &SCALES)], more.to_vec()].concat());
    let mut driver = Driver::open(&trained.model);
    show_full_screen(&mut driver, "fc.weight");
    driver.expect_words("6 scales; marks use them");
    driver.press("Space");
    driver.expect("int8 per channel, learned scales");
    // The output equals that of the command line.
    driver.press("s");
    driver.type_text(".safetensors");
    driver.press("Enter");
    driver.expect("Saved and verified");
    let out = trained.path("cli.safetensors");
    stdout(&["quantize", &trained.model, "-o", &out]);
    let saved = driver.path("model-int8.safetensors.safetensors");
    assert_eq!(std::fs::read(saved).expect("reads"), std::fs::read(out).expect("reads"));
    driver.press("Esc");
    // Learned scales are used by every scheme that can hold them, also after a scheme that cannot.
    let now = |driver: &Driver| driver.app.model.plan().iter().next().expect("marked").1.to_owned();
    driver.press("x Down Enter");
    assert_eq!(now(&driver).calibration.to_string(), "learned");
    driver.press("x Up Up Enter");
    let quantizer = now(&driver);
    let now_is = (quantizer.scheme.to_string(), quantizer.calibration.to_string());
    assert_eq!(now_is, ("per-tensor".to_owned(), "min-max".to_owned()));
    driver.expect_words("not used: it learned one for each channel");
    driver.press("x Down Enter");
    assert_eq!(now(&driver).calibration.to_string(), "learned");
    // Another calibration can be chosen, and then the learned scales again.
    driver.press("C");
    assert_eq!(now(&driver).calibration.to_string(), "min-max");
    driver.press("C C C C");
    assert_eq!(now(&driver).calibration.to_string(), "learned");
}

#[test]
fn unusable_learned_scales_are_calibrated_again_with_a_warning() {
    let scale = || part("scale", &[0.01]);
    let trained = Trained::new(vec![scale(), zero_points(&[3])]);
    let why = "its zero point is 3, and symmetric int8 has none";
    let out = trained.path("out.safetensors");
    let printed = stdout(&["quantize", &trained.model, "-o", &out]);
    assert!(
        printed.contains("'fc.weight' was calibrated again") && printed.contains(why),
        "{printed}"
    );
    let plain = trained.path("plain.safetensors");
    stdout(&["quantize", &trained.model, "-o", &plain, "--calibration", "min-max"]);
    let read = |path: &str| std::fs::read(path).expect("reads");
    assert_eq!(read(&out), read(&plain));
    assert!(stdout(&["analyze", &trained.model]).contains(why));
    let mut driver = Driver::open(&trained.model);
    show_full_screen(&mut driver, "fc.weight");
    driver.expect_words("not used: its zero point is 3, and symmetric int8 has none");
    // Zero points of 0 count as symmetric.
    let zeros = Trained::new(vec![scale(), zero_points(&[0])]);
    let printed = stdout(&["quantize", &zeros.model, "-o", &out, "--force"]);
    assert!(printed.contains("1 weight has the scales that its training learned"), "{printed}");
    // Scales for int16 are refused: int8 would clip nearly all elements.
    let ends = ["min_val", "max_val"].map(|end| {
        let value = if end == "min_val" { -327.68 } else { 327.67 };
        part(&format!("activation_post_process.{end}"), &[value])
    });
    let [min, max] = ends;
    let wide = Trained::new(vec![scale(), min, max]);
    let printed = stdout(&["quantize", &wide.model, "-o", &out, "--force"]);
    assert!(printed.contains("trained for values up to ±32768 scales"), "{printed}");
    // A recipe with learned scales is refused if the model has none.
    let recipe = trained.path("r.toml");
    let text = "version = 1\nrounding = \"half-even\"\n[[quantize]]\nscheme = \"per-tensor\"\ncalibration = \"learned\"\ntensors = [\"fc.weight\"]\n";
    std::fs::write(&recipe, text).expect("writes");
    let replay = ["quantize", &trained.model, "-o", &out, "--force", "--recipe", &recipe];
    let (_, printed) = failure(&replay);
    assert!(printed.contains("by learned scales") && printed.contains(why), "{printed}");
    // Invalid scales are ignored.
    for lie in [&[0.01, 0.02][..], &[f32::NAN], &[-1.0], &[]] {
        assert!(!open(&Trained::new(vec![part("scale", lie)]).model).has_learned());
    }
}

fn seen(observer: &str, min: f32, max: f32) -> [Tensor; 2] {
    let end = |end: &str, value| f32s(&format!("{observer}.{end}"), &[], [value]);
    [end("min_val", min), end("max_val", max)]
}

#[test]
fn observed_activation_ranges_are_shown_with_their_layer() {
    let output = seen("fc.activation_post_process.activation_post_process", -2.0, 3.5);
    let trained = Trained::new([part("scale", &[0.01])].into_iter().chain(output).collect());
    let found = json(&["inspect", &trained.model]);
    let observed = &found["tensors"][0]["observed"];
    assert_eq!(observed["output"], serde_json::json!({"min": -2.0, "max": 3.5}));
    assert_eq!(observed["input"], serde_json::Value::Null);
    let mut driver = Driver::open(&trained.model);
    show_full_screen(&mut driver, "fc.weight");
    driver.expect("outputs seen: −2.000 … 3.500");
    // torch.fx numbers its observers: only the graph says which layer they belong to.
    let numbered = Trained::new(seen("activation_post_process_0", -1.0, 2.0).into());
    let table = stdout(&["inspect", &numbered.model]);
    assert!(table.contains("first 'activation_post_process_0' (-1.000 … 2.000)"), "{table}");
    assert!(table.contains("graph, which is not in the file"), "{table}");
    let mut driver = Driver::open(&numbered.model);
    show_full_screen(&mut driver, "activation_post_process_0.min_val");
    driver.expect_words("saw −1.000 … 2.000; only the graph says of which layer");
    // An observer that recorded nothing is not shown.
    let (nothing, inf) = (f32::INFINITY, f32::NEG_INFINITY);
    let idle = Trained::new(seen("fc.activation_post_process", nothing, inf).into());
    assert_eq!(json(&["inspect", &idle.model])["tensors"][0].get("observed"), None);
}

/// `QuantWrapper` names the observer of its input `quant`.
#[test]
fn observed_inputs_give_static_input_scales() {
    let dir = tempdir().expect("temp");
    let model = dir.path().join("model");
    std::fs::create_dir(&model).expect("a directory");
    let config = r#"{"model_type": "two-layers", "architectures": ["TwoLayers"]}"#;
    std::fs::write(model.join("config.json"), config).expect("writes");
    let mut tensors = vec![weights("fc.module.weight", &[8, 16]), weights("out.weight", &[8, 16])];
    tensors.extend(seen("fc.quant.activation_post_process", -2.54, 1.0));
    tensors.extend(seen("out.activation_post_process", -1.0, 1.0));
    write(&model.join("model.safetensors"), &tensors, &[("format", "pt")]);
    let model = model.to_str().expect("text");
    let out = dir.path().join("out");
    let out = out.to_str().expect("text");
    let named = ["--include", "fc.module.weight", "--include", "out.*"];
    let quantize = ["quantize", model, "-o", out, "--format", "int8"];
    let printed = stdout(&[&quantize[..], &named, &["--activation-scheme", "static"]].concat());
    assert!(
        printed.contains("inputs of 1 layer have the scales that their observers"),
        "{printed}"
    );
    assert!(printed.contains("'out.weight' was left as it is: no inputs"), "{printed}");
    let written = open(out);
    let (id, _) = written
        .all_stored()
        .find(|(_, stored)| stored.name == "fc.module.input_scale")
        .expect("a scale");
    let raw = written.reader().stored(id, 0..4).expect("reads").to_vec();
    let scale = f32::from_le_bytes(raw.try_into().expect("four"));
    assert_eq!(scale, 2.54f32 / 127.0);
    let printed = stdout(&["verify", out, "--against", model]);
    assert!(
        printed.contains("scales of inputs: 1, those that observers in the source"),
        "{printed}"
    );

    // If the names do not say which layer an observer belongs to, this is reported.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("a directory");
    std::fs::write(other.join("config.json"), config).expect("writes");
    let mut tensors = vec![weights("out.weight", &[8, 16])];
    tensors.extend(seen("out.activation_post_process", -1.0, 1.0));
    tensors.extend(seen("activation_post_process_1", -1.0, 1.0));
    write(&other.join("model.safetensors"), &tensors, &[("format", "pt")]);
    let other = other.to_str().expect("text");
    let quantize = ["quantize", other, "-o", out, "--force", "--format", "int8"];
    let (_, printed) = failure(&[&quantize[..], &["--activation-scheme", "static"]].concat());
    assert!(printed.contains("needs recorded inputs, --activations FILE"), "{printed}");
    assert!(
        printed.contains("the 2 observers in this model") && printed.contains("graph"),
        "{printed}"
    );
}

#[test]
fn a_budget_uses_learned_scales() {
    let dir = tempdir().expect("temp");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (out, recipe) = (path("out.safetensors"), path("r.toml"));
    let args = ["quantize", QAT, "-o", &out, "--max-bytes", "37500", "--write-recipe", &recipe];
    stdout(&args);
    stdout(&["verify", &out, "--against", QAT]);
    let text = std::fs::read_to_string(&recipe).expect("a recipe");
    assert!(text.contains("\"learned\"") && !text.contains("min-max"), "{text}");
    let mut driver = Driver::open(QAT);
    driver.press("b Left Left Left Enter");
    let plan = driver.app.model.plan();
    assert!(plan.len() > 1);
    assert!(plan.iter().all(|(_, quantizer)| quantizer.calibration.to_string() == "learned"));
    assert!(!driver.shows("not measured"));
}

/// Burn's layout transposes a weight, so a block contains elements of several channels.
#[test]
fn per_channel_scales_do_not_fit_blocks_across_channels() {
    let trained = Trained::new(vec![part("scale", &SCALES)]);
    let out = trained.path("out.bpk");
    let quantize = ["quantize", &trained.model, "-o", &out, "--format", "burn"];
    let blocks = [&quantize[..], &["--scheme", "per-block:2"]].concat();
    let (_, printed) = failure(&[&blocks[..], &["--layout", "burn"]].concat());
    assert!(
        printed.contains("its blocks would span output channels, which have learned scales"),
        "{printed}"
    );
    stdout(&[&blocks[..], &["--layout", "burn", "--calibration", "min-max"]].concat());
    stdout(&[&blocks[..], &["--force"]].concat());
    stdout(&["verify", &out, "--against", &trained.model]);
}
