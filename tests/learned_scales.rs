//! Checkpoints of training with fake quantization: what it left is recognised, used and
//! told, and the plain model can be had without it.

mod support;

use quantscope::checkpoint::Checkpoint;
use std::path::Path;
use support::checkpoint::{Tensor, f32s, weights, write};
use support::driver::Driver;
use support::{json, stdout};
use tempfile::tempdir;

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
fn what_training_learned_is_recognised() {
    let checkpoint = open(QAT);
    for layer in LAYERS {
        let id = checkpoint.find(&format!("{layer}.weight")).expect("there");
        let learned = checkpoint.learned(id).expect("learned");
        let stored = elements(&checkpoint, &format!("{layer}.weight_fake_quant.scale"));
        assert_eq!(learned.scales, stored);
        assert!(learned.symmetric, "{layer}");
        assert!(learned.to_string().starts_with("trained for int4, scale 0."), "{learned}");
    }
    let others = checkpoint.ids().filter(|&id| checkpoint.learned(id).is_some()).count();
    assert_eq!(others, LAYERS.len());
    assert!(!open("assets/demo.safetensors").has_learned());
}

#[test]
fn quantizing_uses_the_learned_scales_and_says_so() {
    let dir = tempdir().expect("temp");
    let source = open(QAT);
    for scheme in ["per-tensor", "per-channel", "per-block:32"] {
        let out = dir.path().join(format!("{}.safetensors", scheme.replace(':', "-")));
        let out = out.to_str().expect("text");
        let said = stdout(&["quantize", QAT, "-o", out, "--scheme", scheme]);
        assert!(said.contains("8 weights have the scale that their training learned"), "{said}");
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
    // A recipe keeps them, and something else can be asked for.
    let (recipe, out) = (dir.path().join("r.toml"), dir.path().join("again.safetensors"));
    let (recipe, out) = (recipe.to_str().expect("text"), out.to_str().expect("text"));
    stdout(&["quantize", QAT, "-o", out, "--write-recipe", recipe]);
    stdout(&["quantize", QAT, "-o", out, "--force", "--recipe", recipe]);
    let first = std::fs::read(dir.path().join("per-tensor.safetensors")).expect("reads");
    assert_eq!(std::fs::read(out).expect("reads"), first);
    for other in [&["--no-learned"][..], &["--calibration", "mse"]] {
        let said = stdout(&[&["quantize", QAT, "-o", out, "--force"], other].concat());
        assert!(!said.contains("learned"), "{said}");
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
    // Exactly the tensors of the network that was trained in float.
    assert_eq!(names(&plain), names(&open("assets/demo.safetensors")));
    assert!(!plain.has_learned());
    for layer in LAYERS {
        let name = format!("{layer}.weight");
        assert_eq!(elements(&plain, &name), elements(&source, &name));
    }
    let said = stdout(&["verify", out, "--against", QAT]);
    assert!(said.contains("bit for bit"), "{said}");
}

#[test]
fn observers_are_told_apart_and_weights_say_what_they_were_trained_for() {
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
fn the_screen_says_what_was_learned_and_marks_by_it() {
    let mut driver = Driver::open(QAT);
    driver.type_text(":classifier.0.weight");
    driver.press("Enter");
    driver.expect("trained for int4, scale 0.103123255;");
    driver.expect("a mark quantizes by it");
    driver.press("Space");
    driver.expect("int8 per tensor, learned scale");
    let quantizer = driver.app.model.plan().iter().next().expect("marked").1;
    assert_eq!(
        quantizer.calibration.to_string(),
        format!("magnitude:{}", f64::from(0.103123255f32) * 127.0)
    );
}

/// Of another kind than can be used: said, and left to calibration.
#[test]
fn scales_per_channel_and_zero_points_are_told_and_not_used() {
    let dir = tempdir().expect("temp");
    let part = |name: &str, values: Vec<f32>| -> Tensor {
        f32s(&format!("fc.weight_fake_quant.{name}"), &[values.len() as u64], values)
    };
    let model = |tensors: &[Tensor]| {
        let path = dir.path().join("model.safetensors");
        write(&path, tensors, &[]);
        path.to_str().expect("text").to_owned()
    };
    let fc = || weights("fc.weight", &[3, 8]);
    let path = model(&[fc(), part("scale", vec![0.01, 0.02, 0.03])]);
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().expect("text");
    let said = stdout(&["quantize", &path, "-o", out]);
    assert!(
        said.contains("0 weights have the scale")
            && said.contains("1 learned one for each channel"),
        "{said}"
    );
    let zero = Tensor {
        dtype: "I32",
        bytes: 3i32.to_le_bytes().into(),
        ..f32s("fc.weight_fake_quant.zero_point", &[1], [0.0])
    };
    let path = model(&[fc(), part("scale", vec![0.01]), zero]);
    assert!(stdout(&["analyze", &path]).contains("and zero points"));
    // What lies says nothing.
    for lie in [vec![0.01, 0.02], vec![f32::NAN], vec![-1.0], vec![]] {
        let path = model(&[fc(), part("scale", lie)]);
        assert!(!open(&path).has_learned());
    }
}
