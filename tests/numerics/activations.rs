//! Recorded activations: reading, matching to layers, and output errors compared with NumPy
//! (`tests/data/activations/make.py`).

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::support::{data, failure, json, stdout};
use quantscope::activations::Activations;
use quantscope::checkpoint::Checkpoint;
use quantscope::job::Progress;
use quantscope::job::output::{Finding, Request, run};
use quantscope::quantization::{
    Calibration, QuantizationScheme, Quantizer, Rounding, ScaleStorage,
};
use quantscope::tensor::TensorId;
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

const MOVES: &str = r#"{"conv":{"stride":[1],"padding":[[0,0]],"dilation":[1],"groups":1}}"#;

fn expected(case: &str, scheme: &str) -> Value {
    let text = fs::read_to_string(data("activations/expected.json")).expect("kept");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[case][scheme].clone()
}

fn tensor<'d>(document: &'d Value, name: &str) -> &'d Value {
    let tensors = document["tensors"].as_array().expect("a list");
    tensors.iter().find(|tensor| tensor["name"] == name).expect(name)
}

/// Asserts that a document's output errors equal NumPy's up to a relative 1e-5.
fn agree(document: &Value, expected: &Value, basis: &str) {
    let layers = expected.as_object().expect("layers");
    assert!(!layers.is_empty());
    for (name, ways) in layers {
        let output = &tensor(document, name)["output"];
        assert_eq!(output["basis"], basis, "{name}: {output}");
        for (way, wanted) in ways.as_object().expect("ways") {
            let found = output[way]["relative"].as_f64().expect("a figure");
            let wanted = wanted.as_f64().expect("a figure");
            assert!((found / wanted - 1.0).abs() < 1e-5, "{name} {way}: {found}, NumPy {wanted}");
            let db = output[way]["db"].as_f64().expect("a figure");
            assert!((db - 10.0 * wanted.log10()).abs() < 1e-4, "{name} {way}: {db} dB");
        }
    }
}

const SCHEMES: [&str; 3] = ["per-tensor", "per-channel", "per-block:32"];

#[test]
fn output_errors_of_the_demo_equal_numpy() {
    for scheme in SCHEMES {
        let found = json(&["analyze", "demo:", "--scheme", scheme, "--activations", "demo:"]);
        agree(&found, &expected("demo", scheme), "inputs");
    }
}

/// Measuring all schemes together gives the figures of each scheme alone.
#[test]
fn schemes_side_by_side_have_their_output_errors() {
    let all = "per-tensor,per-channel,per-block:32,per-channel/int4";
    let args = ["analyze", "demo:", "--schemes", all, "--activations", "demo:"];
    let found = json(&args);
    for (place, scheme) in SCHEMES.iter().enumerate() {
        let alone = json(&["analyze", "demo:", "--scheme", scheme, "--activations", "demo:"]);
        let wanted = expected("demo", scheme);
        for name in wanted.as_object().expect("layers").keys() {
            let side_by_side = &tensor(&found, name)["schemes"][place];
            assert_eq!(side_by_side["scheme"], *scheme);
            assert_eq!(side_by_side["output"], tensor(&alone, name)["output"], "{name} {scheme}");
        }
    }
    // The first scheme determines the main figure and the order.
    let wanted = expected("demo", SCHEMES[0]);
    agree(&found, &wanted, "inputs");
    let names = |document: &Value| -> Vec<Value> {
        let tensors = document["tensors"].as_array().expect("a list").iter();
        tensors.map(|tensor| tensor["name"].clone()).collect()
    };
    let alone = json(&["analyze", "demo:", "--activations", "demo:"]);
    assert_eq!(names(&found), names(&alone));
    assert_eq!(tensor(&found, "classifier.0.bias")["schemes"][0]["output"], Value::Null);
    // int4 has a much larger error.
    let db = |place: usize| {
        let output = &tensor(&found, "classifier.0.weight")["schemes"][place]["output"];
        output["weights"]["db"].as_f64().expect("a figure")
    };
    assert!(db(3) > db(1) + 20.0);

    let table = stdout(&args);
    let head = table.lines().next().expect("a head");
    for scheme in all.split(',') {
        assert!(head.contains(&format!("output {scheme}")), "{head}");
    }
    let line = table.lines().find(|line| line.contains("classifier.0.weight")).expect("a row");
    assert!(line.contains(&format!("{:.1} dB", db(1))), "{line}");
    assert!(table.contains("mean output") && table.contains("Output errors are"), "{table}");
    assert!(!table.contains("not of the model's output"), "{table}");
    let sorted = json(&[&args[..], &["--sort", "sqnr"]].concat());
    assert_ne!(names(&sorted), names(&found));
}

#[test]
fn convolution_errors_equal_numpy() {
    let (model, captures) =
        (data("activations/layers.safetensors"), data("activations/inputs.safetensors"));
    for scheme in SCHEMES {
        let found = json(&["analyze", &model, "--scheme", scheme, "--activations", &captures]);
        agree(&found, &expected("layers", scheme), "inputs");
    }
}

/// The experts that transformers keeps in one parameter are recorded by their names in the file.
/// `tests/data/activations/experts/make.py` finds their rows from the router.
#[test]
fn experts_have_the_inputs_that_the_router_gives_them() {
    let [model, captures, rows] = ["model.safetensors", "inputs.safetensors", "expected.json"]
        .map(|name| data(&format!("activations/experts/{name}")));
    let found = json(&["analyze", &model, "--activations", &captures]);
    let inputs = Checkpoint::open(Path::new(&captures)).expect("opens");
    let expected: Value =
        serde_json::from_str(&fs::read_to_string(rows).expect("kept")).expect("JSON");
    let experts = expected.as_object().expect("experts");
    assert_eq!(experts.len(), 4);
    for (expert, expected) in experts {
        for layer in ["gate_proj", "up_proj", "down_proj"] {
            let output = &tensor(&found, &format!("{expert}.{layer}.weight"))["output"];
            assert_eq!(output["basis"], "inputs", "{expert}.{layer}: {output}");
            assert!(output["weights"]["db"].is_number(), "{expert}.{layer}: {output}");
            let id = inputs.find(&format!("{expert}.{layer}.input")).expect("recorded");
            assert_eq!(inputs.tensor(id).shape.dims()[0], expected["rows"].as_u64().expect("rows"));
            // Those of the down projection are not the router's rows.
            if layer != "down_proj" {
                let wanted = expected["mean_square"].as_array().expect("figures");
                assert_mean_squares(&inputs, id, wanted);
            }
        }
    }
}

/// Asserts that the mean squares of a BF16 tensor's columns are these.
fn assert_mean_squares(inputs: &Checkpoint, id: TensorId, wanted: &[Value]) {
    let mut reader = inputs.reader();
    let count = inputs.tensor(id).shape.elements();
    let (_, bytes) = reader.elements(id, 0..count).expect("reads").expect("floats");
    let bf16 = |raw: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([raw[0], raw[1]])) << 16);
    let values: Vec<f64> = bytes.chunks_exact(2).map(|raw| bf16(raw).into()).collect();
    let rows = (values.len() / wanted.len()) as f64;
    for (feature, wanted) in wanted.iter().enumerate() {
        let column = values.iter().skip(feature).step_by(16);
        let mean = column.map(|x| x * x).sum::<f64>() / rows;
        let wanted = wanted.as_f64().expect("a figure");
        assert!((mean - wanted).abs() < 1e-9, "feature {feature}: {mean}, expected {wanted}");
    }
}

#[test]
fn summaries_give_the_diagonal_approximation_marked_as_such() {
    let (model, captures) =
        (data("activations/layers.safetensors"), data("activations/summary.safetensors"));
    for scheme in SCHEMES {
        let args = ["analyze", &model, "--scheme", scheme, "--activations", &captures];
        let found = json(&args);
        agree(&found, &expected("diagonal", scheme), "diagonal");
        let output = &tensor(&found, "token.weight")["output"];
        assert!(output["static"]["db"].is_null() && output["input_scale"].is_number(), "{output}");
        let text = stdout(&args);
        assert!(text.contains("~-") && text.contains("diagonal approximation"), "{text}");
    }
}

#[test]
fn importance_matrices_of_llama_cpp_are_read_in_both_forms() {
    let model = data("gguf/floats.gguf");
    for form in ["imatrix.gguf", "imatrix.dat"] {
        let captures = data(&format!("activations/{form}"));
        let per_tensor = ["--scheme", "per-tensor", "--activations", &captures];
        let found = json(&[&["analyze", &model][..], &per_tensor].concat());
        agree(&found, &expected("imatrix", "per-tensor"), "diagonal");
    }
}

/// Sorting by output error gives another order than sorting by weight error.
#[test]
fn output_errors_rank_the_demo_differently() {
    let ranked = |sort: &[&str]| -> Vec<String> {
        let args = ["analyze", "demo:", "--include", "*.weight", "--activations", "demo:"];
        let found = json(&[&args, sort].concat());
        let layers = found["tensors"].as_array().expect("a list").iter();
        let layers = layers.filter(|tensor| tensor["output"].is_object());
        layers.map(|tensor| tensor["name"].as_str().expect("text").to_owned()).collect()
    };
    let by_weights = ranked(&["--sort", "sqnr"]);
    let by_output = ranked(&[]);
    assert_eq!(by_output.len(), 8);
    assert_eq!(by_weights[..2], ["features.13.weight", "classifier.0.weight"]);
    assert_eq!(by_output[..2], ["features.13.weight", "features.3.weight"]);
    assert_eq!(by_output, ranked(&["--sort", "output"]));
    // Inputs with a few large values lose most with a static scale.
    assert_eq!(
        ranked(&["--sort", "output-static"])[..2],
        ["features.13.weight", "features.6.weight"]
    );
    let (code, _) = failure(&["analyze", "demo:", "--sort", "output"]);
    assert_eq!(code, 2, "without activations there is nothing to order by");
}

#[test]
fn the_number_of_threads_does_not_change_figures() {
    let document = |threads| {
        stdout(&["analyze", "demo:", "--activations", "demo:", "--json", "--threads", threads])
    };
    assert_eq!(document("1"), document("5"));
}

fn model(dir: &Path, tensors: &[Tensor]) -> String {
    let path = dir.join("model.safetensors");
    write(&path, tensors, &[]);
    path.to_str().expect("text").to_owned()
}

fn captures(dir: &Path, name: &str, tensors: &[Tensor], metadata: &[(&str, &str)]) -> String {
    let path = dir.join(name);
    write(&path, tensors, metadata);
    path.to_str().expect("text").to_owned()
}

/// All inputs in one file, in several files, or in several batches give the same figures.
#[test]
fn batches_and_files_are_combined() {
    let dir = tempdir().expect("temp");
    let values: Vec<f32> = (0..60u8).map(|i| (f32::from(i) * 0.37).cos() * 3.0).collect();
    let part = |name: &str, rows: std::ops::Range<usize>| {
        f32s(name, &[rows.len() as u64, 6], values[rows.start * 6..rows.end * 6].to_vec())
    };
    let model = model(dir.path(), &[weights("inner.fc.weight", &[4, 6])]);
    let whole = captures(dir.path(), "whole.safetensors", &[part("inner.fc.input", 0..10)], &[]);
    let first = captures(dir.path(), "first.safetensors", &[part("inner.fc.input", 0..3)], &[]);
    // Names with the prefix of an enclosing model are also matched.
    let more = [part("m.inner.fc.input.0", 3..4), part("m.inner.fc.input.1", 4..10)];
    let more = captures(dir.path(), "more.safetensors", &more, &[]);
    for calibration in ["min-max", "percentile:90", "mse", "clip:0.5"] {
        let figures = |files: &[&str]| {
            let args =
                ["analyze", &model, "--activation-calibration", calibration, "--activations"];
            let found = json(&[&args, files].concat());
            tensor(&found, "inner.fc.weight")["output"].clone()
        };
        let (whole, parts) = (figures(&[&whole]), figures(&[&first, &more]));
        assert_eq!(whole["input_scale"], parts["input_scale"], "{calibration}");
        for way in ["weights", "dynamic", "static"] {
            let figure = |of: &Value| of[way]["relative"].as_f64().expect("a figure");
            assert!((figure(&whole) / figure(&parts) - 1.0).abs() < 1e-6, "{calibration} {way}");
        }
    }
    let scale = |calibration: &str| {
        let args = ["analyze", &model, "--activation-calibration", calibration];
        let found = json(&[&args[..], &["--activations", &whole]].concat());
        tensor(&found, "inner.fc.weight")["output"]["input_scale"].as_f64().expect("a scale")
    };
    let mut magnitudes: Vec<f32> = values.iter().map(|x| x.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    let close = |found: f64, clip: f32| (found * 127.0 / f64::from(clip) - 1.0).abs() < 1e-6;
    assert!(close(scale("min-max"), magnitudes[59]));
    assert!(close(scale("percentile:90"), magnitudes[53]));
    assert!(close(scale("clip:0.5"), magnitudes[59] / 2.0));
    assert!(scale("mse") <= scale("min-max"));
}

#[test]
fn faults_of_captures_are_one_sentence() {
    let dir = tempdir().expect("temp");
    let model = model(
        dir.path(),
        &[
            weights("fc.weight", &[4, 6]),
            weights("other.weight", &[4, 6]),
            weights("conv.weight", &[2, 3, 3]),
            weights("norm.weight", &[6]),
        ],
    );
    let file = dir.path().join("captures.safetensors");
    let sentence = |tensors: &[Tensor], metadata: &[(&str, &str)]| {
        write(&file, tensors, metadata);
        let path = file.to_str().expect("text");
        let (code, error) = failure(&["analyze", &model, "--activations", path]);
        assert_eq!(code, 1, "{error}");
        error
    };
    let moves = [("quantscope.convolutions", MOVES)];
    let printed = sentence(&[weights("fc.input", &[3, 5])], &[]);
    assert!(
        printed.contains(
            "'fc.input': wrong last dimension: weight 'fc.weight' takes 6 features, found 5"
        ),
        "{printed}"
    );
    let mut nan = weights("fc.input", &[3, 6]);
    nan.bytes[7 * 4..8 * 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let printed = sentence(&[nan], &[]);
    assert!(printed.contains("'fc.input': value 7 is not finite: found NaN"), "{printed}");
    let printed = sentence(&[weights("conv.input", &[2, 3, 9])], &[]);
    assert!(
        printed.contains("stride, padding and dilation of the convolution are missing"),
        "{printed}"
    );
    for shape in [&[2u64, 4, 9][..], &[2, 3, 2], &[9], &[1, 2, 3, 9]] {
        let printed = sentence(&[weights("conv.input", shape)], &moves);
        assert!(printed.contains("expected [samples, channels, …]"), "{shape:?}: {printed}");
    }
    let printed =
        sentence(&[weights("conv.input", &[2, 3, 9])], &[("quantscope.convolutions", "{}{")]);
    assert!(printed.contains("invalid metadata 'quantscope.convolutions'"), "{printed}");
    let printed = sentence(&[weights("fc.input", &[0, 6])], &[]);
    assert!(printed.contains("no samples were recorded"), "{printed}");
    let printed = sentence(&[weights("gone.input", &[2, 6])], &[]);
    assert!(
        printed.contains("no recorded name matches a layer of") && printed.contains("gone.input"),
        "{printed}"
    );
    let printed = sentence(&[weights("fc.output", &[2, 6])], &[]);
    assert!(printed.contains("no recorded name matches"), "{printed}");
    let printed = sentence(&[weights("fc.input.mean_square", &[5])], &[]);
    assert!(printed.contains("takes 6 features, found 5"), "{printed}");
    let printed =
        sentence(&[f32s("fc.input.mean_square", &[6], [1.0, 2.0, -1.0, 0.0, 1.0, 1.0])], &[]);
    assert!(
        printed
            .contains("invalid mean square of feature 2: expected a finite number ≥ 0, found -1"),
        "{printed}"
    );
    let whole = Tensor { dtype: "I32", ..weights("fc.input", &[2, 6]) };
    let printed = sentence(&[whole], &[]);
    assert!(printed.contains("expected F64, F32, F16 or BF16, found I32"), "{printed}");
    let (_, printed) = failure(&["analyze", &model, "--activations", "/nowhere.safetensors"]);
    assert!(printed.contains("no such file"), "{printed}");
    fs::write(dir.path().join("bad.dat"), [9, 0, 0, 0, 1]).expect("writes");
    let bad = dir.path().join("bad.dat");
    let (_, printed) = failure(&["analyze", &model, "--activations", bad.to_str().expect("text")]);
    assert!(printed.contains("not an importance matrix"), "{printed}");
}

#[test]
fn missing_and_unmatched_recordings_are_reported() {
    let dir = tempdir().expect("temp");
    let model =
        model(dir.path(), &[weights("fc.weight", &[4, 6]), weights("other.weight", &[4, 6])]);
    let tensors = [weights("fc.input", &[3, 6]), weights("gone.input", &[3, 6])];
    let captures = captures(dir.path(), "c.safetensors", &tensors, &[]);
    let text = stdout(&["analyze", &model, "--activations", &captures]);
    assert!(
        text.contains("No inputs were recorded for 1 quantizable tensor, first 'other.weight'"),
        "{text}"
    );
    assert!(
        text.contains("1 recorded names match no layer of this model, first 'gone.input' in"),
        "{text}"
    );
    let found = json(&["analyze", &model, "--activations", &captures]);
    assert!(tensor(&found, "other.weight")["output"].is_null());
    assert_eq!(found["activations"]["unmatched"][0]["name"], "gone.input");
}

/// A layer that cannot be measured does not affect the others.
#[test]
fn one_bad_layer_does_not_hide_the_others() {
    let dir = tempdir().expect("temp");
    let model = model(dir.path(), &[weights("a.weight", &[4, 6]), weights("b.weight", &[4, 6])]);
    let mut bad = weights("a.input", &[3, 6]);
    bad.bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let tensors = [bad, weights("b.input", &[3, 6])];
    let captures = captures(dir.path(), "c.safetensors", &tensors, &[]);
    let run =
        crate::support::quantscope(&["analyze", &model, "--json", "--activations", &captures]);
    let run = { run }.assert().code(1);
    let found: Value = serde_json::from_slice(&run.get_output().stdout).expect("a document");
    assert!(tensor(&found, "b.weight")["output"]["weights"]["db"].is_number());
    let reason = tensor(&found, "a.weight")["output"]["reason"].clone();
    assert!(
        reason.as_str().expect("a sentence").contains("value 0 is not finite: found inf"),
        "{reason}"
    );
}

/// Any file of captures is read or refused with a sentence.
#[test]
fn invalid_captures_are_refused_or_read() {
    let dir = tempdir().expect("temp");
    let mut random = crate::support::random::Random(8);
    let cases = [
        ("activations/layers.safetensors", "activations/inputs.safetensors"),
        ("activations/layers.safetensors", "activations/summary.safetensors"),
        ("gguf/floats.gguf", "activations/imatrix.gguf"),
        ("gguf/floats.gguf", "activations/imatrix.dat"),
    ];
    let quantizer = Quantizer {
        calibration: Calibration::Percentile(99.0),
        scheme: QuantizationScheme::PER_CHANNEL,
    };
    let (mut read, mut refused) = (0, 0);
    for (model, captures) in cases {
        let checkpoint = Checkpoint::open(Path::new(&data(model))).expect("opens");
        let whole = fs::read(data(captures)).expect("reads");
        let ending = captures.rsplit('.').next().expect("an ending");
        let path = dir.path().join(format!("lie.{ending}"));
        for round in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(4) {
                // Usually change the header, where most bytes matter.
                let reach = if round % 3 == 0 { bytes.len() } else { bytes.len().min(900) };
                let at = random.below(reach);
                bytes[at] = random.below(256) as u8;
            }
            if round % 7 == 0 {
                bytes.truncate(random.below(whole.len()));
            }
            fs::write(&path, &bytes).expect("writes");
            let Ok(activations) = Activations::open(std::slice::from_ref(&path), &checkpoint)
            else {
                refused += 1;
                continue;
            };
            let request = Request {
                tensors: activations.tensors().collect(),
                quantizers: vec![quantizer],
                rounding: Rounding::HalfEven,
                scale_storage: ScaleStorage::F32,
                calibration: Calibration::Percentile(99.0),
                importance: activations.importance(&checkpoint),
            };
            let told = std::sync::Mutex::new(0);
            let progress = Progress::default();
            let tell = |(_, found): Finding| {
                if let Err(error) = found {
                    assert!(!error.to_string().contains("panicked"), "{error}");
                }
                *told.lock().expect("whole") += 1;
            };
            run(&checkpoint, &activations, &request, Some(1), &progress, &tell).expect("ends");
            assert_eq!(told.into_inner().expect("whole"), activations.tensors().len());
            read += 1;
        }
    }
    assert!(read > 20 && refused > 20, "{read} read, {refused} refused");
}
