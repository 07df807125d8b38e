//! Every output format and every packed format, from the screen and from the command line: both
//! give the same bytes, and refusals give a reason.

use crate::support::checkpoint::{Tensor, weights, write};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA};
use crate::support::{data, failure, stdout};
use quantscope::app::overlay::Overlay;
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, WeightLayout};
use quantscope::quantization::QuantizationScheme;
use quantscope::tensor::FloatType;
use std::path::{Path, PathBuf};

const GGUF: &str = "tests/data/gguf/floats.gguf";
const BURN: OutputFormat = OutputFormat::Burn(WeightLayout::Source);

/// Selects a line of the open dialog by stepping to it.
fn choose(driver: &mut Driver, wanted: &str) {
    for _ in 0..16 {
        let Some(Overlay::Save(dialog)) = &driver.app.overlay else {
            panic!("the dialog is open:\n{}", driver.screen());
        };
        if dialog
            .choices(&driver.app.model, &driver.app.formats)
            .iter()
            .any(|choice| choice.chosen && choice.name == wanted)
        {
            return;
        }
        driver.press("Down");
    }
    panic!("{wanted} is not offered:\n{}", driver.screen());
}

fn type_path(driver: &mut Driver, name: &str) {
    driver.press("Ctrl-u");
    driver.type_text(name);
}

/// Steps through the schemes for new marks until `wanted` is selected.
fn choose_scheme(driver: &mut Driver, wanted: QuantizationScheme) {
    driver.press("X");
    let Some(Overlay::Schemes(list)) = &driver.app.overlay else {
        panic!("the list of schemes is not open:\n{}", driver.screen())
    };
    let at = list.choices.iter().position(|choice| choice.scheme == wanted);
    let (from, to) = (list.chosen, at.expect("offered"));
    (from..to).for_each(|_| driver.press("Down"));
    (to..from).for_each(|_| driver.press("Up"));
    driver.press("Enter");
    assert_eq!(driver.app.model.scheme(), wanted);
}

/// All files below a path, or the file itself, with their bytes, sorted.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return vec![(PathBuf::new(), std::fs::read(path).expect("reads"))];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("lists") {
        let entry = entry.expect("an entry").path();
        let name = PathBuf::from(entry.file_name().expect("named"));
        found.extend(files(&entry).into_iter().map(|(rest, bytes)| (name.join(rest), bytes)));
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn every_format_is_saved_from_the_screen_as_from_the_command_line() {
    let block = QuantizationScheme::per_block(32);
    for (source, format, scheme, out) in [
        (SHARDED, OutputFormat::Safetensors, QuantizationScheme::PER_TENSOR, "out.safetensors"),
        (SHARDED, OutputFormat::Safetensors, block, "out"),
        (SHARDED, OutputFormat::Int8, QuantizationScheme::PER_CHANNEL, "out"),
        (SHARDED, OutputFormat::Int8WeightOnly, block, "out"),
        (TINY_LLAMA, BURN, QuantizationScheme::PER_TENSOR, "out.bpk"),
        (GGUF, OutputFormat::Gguf, block, "out.gguf"),
        (SHARDED, OutputFormat::FakeQuantized, QuantizationScheme::PER_CHANNEL, "out"),
        (TINY_LLAMA, OutputFormat::FakeQuantized, block, "out.safetensors"),
    ] {
        let mut driver = Driver::open(source);
        choose_scheme(&mut driver, scheme);
        driver.press("a s");
        choose(&mut driver, &format.container().to_string());
        type_path(&mut driver, out);
        driver.press("Enter");
        driver.expect("Saved and verified");
        let line = driver.path(&format!("line-{out}"));
        let scheme = scheme.to_string();
        let arguments = ["quantize", source, "-o", &text(&line), "--quiet"];
        let choices = ["--format", format.name(), "--scheme", &scheme];
        // The screen also marks the output head, which the command line quantizes only if named.
        let names = ["--include", "lm_head.weight", "--include", "model.*"];
        let names = if format.is_directory() { &names[..] } else { &[] };
        stdout(&[&arguments[..], &choices[..], names].concat());
        let (screen, line) = (files(&driver.path(out)), files(&line));
        assert!(!screen.is_empty() && screen == line, "{format:?} of {source}");
    }
}

/// One checkpoint for each packed format.
const STORED_QUANTIZED: [&str; 9] = [
    "formats/awq-gemm",
    "formats/bnb-nf4",
    "formats/ct-int8-channel",
    "formats/ct-pack8-channel",
    "formats/fp8-block-deepseek",
    "formats/fp8-tensor",
    "formats/gptq-4bit-actorder",
    "formats/mlx-4bit",
    "formats/mxfp4-gpt-oss",
];

/// Dequantizes from the screen and from the command line to every type that the dialog offers,
/// and returns the outputs.
fn dequantized(driver: &mut Driver, source: &str) -> Vec<Checkpoint> {
    let types = [
        ("original", None),
        ("f32", Some(FloatType::F32)),
        ("bf16", Some(FloatType::BF16)),
        ("f16", Some(FloatType::F16)),
    ];
    let mut found = Vec::new();
    for (name, dtype) in types {
        driver.press("d");
        driver.expect("Write the float model back");
        choose(driver, name);
        type_path(driver, name);
        driver.press("Enter");
        driver.expect("Dequantized and verified");
        driver.press("Esc");
        let (screen, line) = (driver.path(name), driver.path(&format!("line-{name}")));
        stdout(&["dequantize", source, "-o", &text(&line), "--dtype", name, "--quiet"]);
        assert!(files(&screen) == files(&line), "{source} as {name}");
        let floats = Checkpoint::open(&screen).expect("opens");
        for id in floats.ids() {
            assert!(floats.packed_format(id).is_none(), "{}", floats.tensor(id).name);
            if let Some(dtype) = dtype {
                assert_eq!(floats.tensor(id).dtype.float(), Some(dtype), "{source} as {name}");
            }
        }
        found.push(floats);
    }
    found
}

#[test]
fn every_packed_format_is_dequantized_from_the_screen_as_from_the_command_line() {
    for source in STORED_QUANTIZED {
        let source = data(source);
        // The directory also contains the expected values, so the model is named by its file.
        let source = format!("{source}/model.safetensors");
        let mut driver = Driver::open(&source);
        assert_eq!(driver.table().len(), 1, "one tensor, not its parts:\n{}", driver.screen());
        driver.expect("Stored quantized");
        let answer = Path::new(&source).with_file_name("expected.safetensors");
        let answer = Checkpoint::open(&answer).expect("opens");
        let names = |checkpoint: &Checkpoint| {
            let tensors = checkpoint.tensors().iter();
            tensors.map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>()
        };
        for floats in dequantized(&mut driver, &source) {
            assert_eq!(names(&floats), names(&answer), "{source}");
        }
    }
}

#[test]
fn own_outputs_are_dequantized_from_the_screen_as_from_the_command_line() {
    let directory = tempfile::tempdir().expect("a directory");
    for (source, format, out) in [
        (SHARDED, OutputFormat::Safetensors, "int8"),
        (TINY_LLAMA, BURN, "burn.bpk"),
        (GGUF, OutputFormat::Gguf, "q8_0.gguf"),
    ] {
        let saved = text(&directory.path().join(out));
        stdout(&["quantize", source, "-o", &saved, "--format", format.name(), "--quiet"]);
        let mut driver = Driver::open(&saved);
        let all = driver.app.model.checkpoint.ids();
        let int8 = all.filter(|&id| driver.app.model.checkpoint.packed_format(id).is_some());
        assert!(int8.count() > 2, "{}", driver.screen());
        driver.press("d");
        driver.expect("converted back to floats");
        driver.press("Enter");
        driver.expect("Dequantized and verified");
    }
}

/// Other formats of floats are converted to safetensors.
#[test]
fn other_formats_are_converted_from_the_screen_as_from_the_command_line() {
    for source in [
        "pytorch/zip.pt",
        "pytorch/legacy.pt",
        "pytorch/sharded",
        "numpy/packed.npz",
        "numpy/lone.npy",
    ] {
        let source = data(source);
        let mut driver = Driver::open(&source);
        driver.press("d");
        driver.expect("Write the float model back");
        type_path(&mut driver, "floats.safetensors");
        driver.press("Enter");
        driver.expect_words("verified");
        let (screen, line) = (driver.path("floats.safetensors"), driver.path("line.safetensors"));
        stdout(&["dequantize", &source, "-o", &text(&line), "--quiet"]);
        assert!(files(&screen) == files(&line), "{source}");
        let floats = Checkpoint::open(&screen).expect("opens");
        assert_eq!(floats.tensors().len(), driver.app.model.checkpoint.tensors().len());
    }
}

#[test]
fn a_packed_format_that_is_only_recognised_is_named_and_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("exl2.safetensors");
    let words = |name: &str, shape: &[u64], bytes| Tensor {
        name: name.into(),
        dtype: "I32",
        shape: shape.into(),
        bytes: vec![1; bytes],
    };
    let tensors = [
        words("m.q_weight", &[4, 8], 128),
        words("m.q_scale", &[1, 1], 4),
        weights("n.weight", &[8, 8]),
    ];
    write(&model, &tensors, &[]);
    let source = text(&model);
    let out = text(&directory.path().join("out.safetensors"));

    let shown = stdout(&["inspect", &source]);
    assert!(shown.contains("m.weight") && shown.contains("exl2"), "{shown}");
    let (code, sentence) = failure(&["dequantize", &source, "-o", &out]);
    assert!(
        code == 1 && sentence.contains("'m.weight'") && sentence.contains("exl2"),
        "{sentence}"
    );
    let (code, sentence) = failure(&["quantize", &source, "-o", &out, "--include", "m.weight"]);
    assert!(code == 1 && sentence.contains("exl2"), "{sentence}");

    let mut driver = Driver::open(&model);
    driver.type_text(":m.weight");
    driver.press("Enter");
    assert!(driver.cursor_row().contains("m.weight"), "{}", driver.screen());
    driver.expect("exl2");
    driver.press("Space");
    driver.expect("nothing marked");
    driver.press("d");
    type_path(&mut driver, "out.safetensors");
    driver.press("Enter");
    driver.expect_words("exl2");
    driver.expect("Write the float model back");
    assert!(!driver.path("out.safetensors").exists());
    // The other marks are saved, and this tensor stays unchanged.
    driver.press("Esc a s");
    type_path(&mut driver, "out.safetensors");
    driver.press("Enter");
    driver.expect("Saved and verified");
}

#[test]
fn a_tensor_that_the_container_cannot_hold_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = text(&directory.path().join("out"));
    for (format, scheme) in [("int8", "W8A8"), ("int8-weight-only", "W8A16")] {
        for (tensor, why) in
            [("model.embed_tokens.weight", "embedding"), ("model.norm.weight", "norm")]
        {
            let (code, sentence) = failure(&[
                "quantize",
                SHARDED,
                "-o",
                &out,
                "--format",
                format,
                "--include",
                tensor,
            ]);
            assert!(code == 1, "{sentence}");
            for part in [tensor, scheme, why, "choose the format safetensors"] {
                assert!(sentence.contains(part), "{sentence}");
            }
            let mut driver = Driver::open(SHARDED);
            choose_scheme(&mut driver, QuantizationScheme::PER_CHANNEL);
            driver.type_text(&format!(":{tensor}"));
            driver.press("Enter Space s");
            choose(&mut driver, &format!("compressed-tensors {scheme}"));
            driver.expect_words(&format!("'{tensor}' cannot be int8 in compressed-tensors"));
            driver.press("Enter");
            driver.expect("Save the quantized model");
            assert_eq!(std::fs::read_dir(driver.directory.path()).expect("there").count(), 0);
        }
    }
}

#[test]
fn a_format_that_does_not_fit_the_source_says_why() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = |name: &str| text(&directory.path().join(name));
    for (source, format, out, why) in [
        (TINY_LLAMA, "gguf", out("a.gguf"), "only GGUF becomes GGUF"),
        (GGUF, "int8", out("a"), "no config.json"),
        (GGUF, "safetensors", out("a.safetensors"), "safetensors has no such type"),
        (SHARDED, "int8", out("a.safetensors"), "choose a path without an ending"),
        (SHARDED, "burn", out("a"), "ends in .bpk"),
    ] {
        let (code, sentence) = failure(&["quantize", source, "-o", &out, "--format", format]);
        assert!(code == 1 && sentence.contains(why), "{sentence}");
        let mut driver = Driver::open(source);
        driver.press("a s");
        choose(&mut driver, format.replace("int8", "compressed-tensors W8A8").as_str());
        type_path(&mut driver, Path::new(&out).file_name().and_then(|n| n.to_str()).expect("text"));
        driver.press("Enter");
        driver.expect_words(why);
        driver.expect("Save the quantized model");
    }
}

/// Rows of 40 elements become F16 in GGUF, a type of its own that other formats do not have.
#[test]
fn a_tensor_that_only_gguf_makes_f16_stays_as_it_is_in_other_formats() {
    let mut driver = Driver::open(GGUF);
    driver.press("a s");
    choose(&mut driver, "fake-quantized");
    type_path(&mut driver, "out.safetensors");
    driver.expect_words("blk.0.odd.weight is not quantized: no block type divides its rows");
}

#[test]
fn unsupported_files_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let mut unknown = std::fs::read(GGUF).expect("reads");
    unknown[4] = 9;
    std::fs::write(path("v9.gguf"), unknown).expect("writes");
    let model = path("gptq");
    std::fs::create_dir(&model).expect("creates");
    let fixture = data("formats/gptq-4bit-actorder/model.safetensors");
    std::fs::copy(fixture, model.join("model.safetensors")).expect("copies");
    std::fs::write(model.join("config.json"), "{ not JSON").expect("writes");
    // Without its config a packed tensor is named, not decoded, and the model still opens.
    let opened = crate::support::quantscope(&["inspect", &text(&model)]).assert().success();
    let warnings = String::from_utf8_lossy(&opened.get_output().stderr).into_owned();
    assert!(warnings.contains("config.json: it is not a JSON object"), "{warnings}");
    for (source, part) in [(text(&path("v9.gguf")), "it has version 9, expected 2 or 3")] {
        for command in ["inspect", "analyze", "calibrate"] {
            let (code, sentence) = failure(&[command, &source]);
            assert!(code == 1 && sentence.starts_with("error: "), "{sentence}");
            assert!(sentence.contains(part) && sentence.lines().count() == 1, "{sentence}");
        }
        let out = text(&path("out.safetensors"));
        for command in ["quantize", "dequantize"] {
            let (code, sentence) = failure(&[command, &source, "-o", &out]);
            assert!(code == 1 && sentence.contains(part), "{sentence}");
        }
        // The screen uses the same function to open models.
        let error = quantscope::demo::open_model(Path::new(&source)).expect_err("refused");
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// If no tensor is quantized, an invalid config only affects what needs it.
#[test]
fn an_invalid_config_affects_only_what_needs_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("model");
    std::fs::create_dir(&model).expect("creates");
    std::fs::copy(TINY_LLAMA, model.join("model.safetensors")).expect("copies");
    std::fs::write(model.join("config.json"), "{ not JSON").expect("writes");
    // Without its config a packed tensor is named, not decoded, and the model still opens.
    let opened = crate::support::quantscope(&["inspect", &text(&model)]).assert().success();
    let warnings = String::from_utf8_lossy(&opened.get_output().stderr).into_owned();
    assert!(warnings.contains("config.json: it is not a JSON object"), "{warnings}");
    let (source, out) = (text(&model), text(&directory.path().join("out")));
    let (code, sentence) = failure(&["quantize", &source, "-o", &out, "--format", "int8"]);
    assert!(code == 1 && sentence.contains("config.json: it is not a JSON object"), "{sentence}");
    stdout(&["quantize", &source, "-o", &out, "--quiet"]);

    let mut driver = Driver::open(&model);
    driver.press("m");
    driver.expect("{ not JSON");
    driver.press("Esc a s");
    choose(&mut driver, "compressed-tensors W8A8");
    driver.expect_words("config.json: it is not a JSON object");
    driver.press("Enter");
    driver.expect("Save the quantized model");
    choose(&mut driver, "safetensors");
    type_path(&mut driver, "out");
    driver.press("Enter");
    driver.expect("Saved and verified");
}
