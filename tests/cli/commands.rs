//! The command line: exit codes, errors, help, pipes and signals.

use crate::support::checkpoint::{Tensor, f32s, header, huge, weights, write, write_raw};
use crate::support::{data, failure, json, quantscope, stdout};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

fn model(tensors: &[Tensor]) -> (TempDir, String) {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("model.safetensors");
    write(&path, tensors, &[]);
    let path = path.to_str().expect("text").to_owned();
    (dir, path)
}

/// Asserts exit code 1 and exactly one line of error that contains all of `parts`.
#[track_caller]
fn fails(args: &[&str], parts: &[&str]) {
    let (code, sentence) = failure(args);
    assert_eq!(code, 1, "{sentence}");
    assert!(sentence.starts_with("error: ") && sentence.lines().count() == 1, "{sentence}");
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is not in: {sentence}");
    }
}

#[track_caller]
fn is_usage_error(args: &[&str], part: &str) {
    let (code, text) = failure(args);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains(part), "'{part}' is not in: {text}");
}

#[test]
fn a_wrong_path_is_one_sentence() {
    for command in ["inspect", "calibrate", "analyze"] {
        fails(&[command, "no/such/model"], &["no/such/model", "no such file or directory"]);
    }
    fails(&["no/such/model"], &["no/such/model", "no such file or directory"]);
    fails(&["quantize", "no/such", "-o", "out.safetensors"], &["no/such"]);
    fails(&["dequantize", "no/such", "-o", "out.safetensors"], &["no/such"]);
    let empty = tempdir().expect("a directory");
    fails(&["inspect", empty.path().to_str().expect("text")], &["no checkpoint in this directory"]);
}

#[test]
fn a_permission_error_is_one_sentence() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, path) = model(&[weights("w", &[4, 4])]);
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o000)).expect("own directory");
    let sentence = failure(&["inspect", &path]);
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).expect("own directory");
    assert!(sentence.0 == 1 && sentence.1.contains("permission denied"), "{sentence:?}");
}

#[test]
fn an_invalid_file_is_one_sentence() {
    let (dir, path) = model(&[weights("a", &[4, 4]), weights("b", &[4, 4])]);
    let whole = std::fs::read(&path).expect("just written");
    for (length, printed) in
        [(5, "too few"), (20, "cut off"), (whole.len() - 1, "cut off"), (0, "too few")]
    {
        std::fs::write(&path, &whole[..length]).expect("own file");
        fails(&["analyze", &path], &["model.safetensors", printed]);
    }
    let tensors = [weights("a", &[4, 4]), weights("b", &[4, 4])];
    let mut overlapping = header(&tensors, &[]);
    overlapping["b"]["data_offsets"] = serde_json::json!([32, 96]);
    write_raw(Path::new(&path), &overlapping, &[0; 96]);
    fails(&["analyze", &path], &["tensor 'b'", "32", "64", "no overlap"]);

    let mut unknown = header(&tensors, &[]);
    // An unknown field is ignored, but not an invalid type.
    unknown["b"]["\u{1b}[2Jdata"] = serde_json::json!(1);
    write_raw(Path::new(&path), &unknown, &[0; 128]);
    assert!(!stdout(&["inspect", &path]).contains('\u{1b}'));
    unknown["b"]["shape"] = serde_json::json!("\u{1b}[2J");
    write_raw(Path::new(&path), &unknown, &[0; 128]);
    let (_, sentence) = failure(&["inspect", &path]);
    assert!(!sentence.contains('\u{1b}'), "{sentence:?}");
    drop(dir);
}

#[test]
fn a_pattern_that_matches_nothing_names_the_nearest() {
    let (_dir, path) = model(&[weights("layers.0.up_proj.weight", &[4, 4])]);
    for command in ["inspect", "calibrate", "analyze"] {
        fails(
            &[command, &path, "--include", "layers.0.up_prj.weight"],
            &["'layers.0.up_prj.weight' matches no tensor", "'layers.0.up_proj.weight'"],
        );
        fails(&[command, &path, "--exclude", "*nothing*"], &["'*nothing*' matches no tensor"]);
    }
    fails(&["quantize", &path, "-o", "x", "--include", "zzz"], &["'zzz' matches no tensor"]);
}

#[test]
fn a_non_finite_tensor_is_listed_and_refused_by_name() {
    let mut values = vec![0.5; 16];
    values[5] = f32::NAN;
    values[9] = f32::NEG_INFINITY;
    let (dir, path) = model(&[f32s("bad", &[4, 4], values), weights("good", &[4, 4])]);
    let table = stdout(&["analyze", &path]);
    assert!(table.contains("no: it holds 1 NaN and 1 Inf, the first at index 5"));
    let name = ["bad", "1 NaN and 1 Inf", "index 5"];
    fails(&["analyze", &path, "--include", "bad"], &name);
    fails(&["calibrate", &path, "--include", "bad"], &name);
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().expect("text");
    fails(&["quantize", &path, "-o", out, "--include", "bad"], &name);
    assert!(!Path::new(out).exists());
    // A pattern does not name the tensor, so there is no error.
    stdout(&["analyze", &path, "--include", "b*"]);
}

#[test]
fn a_tensor_of_another_dtype_is_refused_by_name() {
    let bytes = vec![0; 16];
    let shape = vec![4];
    let (_dir, path) = model(&[Tensor { name: "steps".into(), dtype: "I32", shape, bytes }]);
    fails(&["quantize", &path, "-o", "x", "--include", "steps"], &["'steps'", "its type is I32"]);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    is_usage_error(&["analyze", "demo:", "--threads", "0"], "0 is not in 1..");
    is_usage_error(&["analyze", "demo:", "--threads", "many"], "many");
    is_usage_error(&["analyze", "demo:", "--scheme", "per-row"], "per-block:N");
    is_usage_error(&["quantize", "demo:", "-o", "x", "--scheme", "per-block:0"], "per-block:N");
    is_usage_error(&["analyze", "demo:", "--rounding", "up"], "half-away");
    is_usage_error(&["quantize", "demo:"], "--output <OUT>");
    is_usage_error(&["quantize", "demo:", "-o", "x", "--format", "gguf2"], "fake-quantized");
    is_usage_error(&["dequantize", "demo:", "-o", "x", "--dtype", "f8"], "bf16");
    is_usage_error(&["analyze"], "<MODEL>");
    is_usage_error(&["inspect", "demo:", "--nonsense"], "--nonsense");
}

#[test]
fn help_lists_every_command_and_flag() {
    let general = stdout(&["--help"]);
    let man = stdout(&["man"]);
    let view = ["--include", "--exclude", "--scheme", "--json", "--help"];
    let scan = [&view[..], &["--calibration", "--threads", "--quiet"]].concat();
    let save = ["--output", "--force", "--json", "--threads", "--quiet", "--help"];
    for (command, flags) in [
        ("inspect", view.to_vec()),
        ("calibrate", scan.clone()),
        ("analyze", [&scan[..], &["--rounding"]].concat()),
        ("quantize", [&scan[..], &save[..], &["--rounding", "--format"]].concat()),
        ("dequantize", [&save[..], &["--dtype"]].concat()),
        ("verify", vec!["--against", "--json", "--threads", "--quiet", "--help"]),
        ("completions", vec!["--help"]),
        ("man", vec!["--help"]),
    ] {
        assert!(general.contains(&format!("  {command} ")), "{command}");
        assert!(man.contains(&format!("QUANTSCOPE {}", command.to_uppercase())), "{command}");
        let help = stdout(&[command, "--help"]);
        for flag in flags {
            assert!(help.contains(flag), "{command} {flag}");
            assert!(man.contains(&flag.replace('-', "\\-")), "man: {flag}");
        }
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("dequantize") && script.contains("include"), "{shell}");
    }
    assert_eq!(stdout(&["--version"]), format!("quantscope {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_inspector_needs_a_terminal() {
    fails(&[], &["needs a terminal", "quantscope analyze MODEL"]);
    fails(&["demo:"], &["needs a terminal"]);
    is_usage_error(&["--threads", "0"], "0 is not in 1..");
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    for args in [
        &["inspect", "demo:"][..],
        &["analyze", "demo:", "--json"],
        &["calibrate", "demo:", "--json"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"))
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .args(args)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::create("/dev/full").expect("on every Linux");
    let output = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"))
        .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
        .args(["inspect", "demo:"])
        .stdout(full)
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).starts_with("error: standard output: No space")
    );
}

#[test]
#[cfg(unix)]
fn a_signal_cancels_a_long_job_cleanly() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempdir().expect("a directory");
    let Some(path) = huge(dir.path(), &[]) else { return };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let child = Command::new(assert_cmd::cargo::cargo_bin!("quantscope"))
            .env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"))
            .arg("analyze")
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("it runs still");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(code));
        assert!(output.stdout.is_empty());
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(printed, "error: interrupted\n");
        assert!(asked.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn hostile_names_are_shown_escaped() {
    let name = "a\u{1b}[31m\u{202e}evil\nline";
    let (_dir, path) = model(&[weights(name, &[4, 4])]);
    for command in ["inspect", "calibrate", "analyze"] {
        let table = stdout(&[command, &path]);
        assert!(table.contains("a\\u{1b}[31m\\u{202e}evil\\nline"), "{table}");
    }
    // JSON contains the name unescaped.
    let document = crate::support::json(&["inspect", &path]);
    assert_eq!(document["tensors"][0]["name"], name);
}

#[test]
fn only_results_are_printed_into_a_pipe() {
    let run = quantscope(&["analyze", &data("tiny-llama/sharded")]).assert().success();
    assert!(run.get_output().stderr.is_empty());
    assert!(!run.get_output().stdout.contains(&0x1b));
}

#[test]
fn tables_for_people() {
    let model = data("tiny-llama/sharded");
    insta::assert_snapshot!(stdout(&["analyze", &model, "--exclude", "*layers.1*"]));
    insta::assert_snapshot!(stdout(&["inspect", "demo:", "--include", "features.1.*"]));
    insta::assert_snapshot!(stdout(&[
        "calibrate",
        &model,
        "--scheme",
        "per-channel",
        "--include",
        "*norm*",
        "--include",
        "*self_attn*"
    ]));
}

/// `show` prints the content of the screen's tabs for one tensor.
#[test]
fn show_prints_channels_and_elements() {
    let name = "classifier.4.weight";
    let text = stdout(&["show", "demo:", name]);
    let rows: Vec<&str> = text.lines().collect();
    assert!(rows[0].contains("tensor's scale") && rows[0].contains("gain"), "{text}");
    assert_eq!(rows.len(), 1 + 10, "{text}");
    let document = json(&["show", "demo:", name]);
    let channels = document["channels"].as_array().expect("a list");
    let absmax = |channel: &serde_json::Value| channel["absmax"].as_f64().expect("a number");
    assert!(channels.windows(2).all(|pair| absmax(&pair[0]) >= absmax(&pair[1])), "{document}");
    let analysis = json(&["analyze", "demo:", "--include", name]);
    let scale = analysis["tensors"][0]["quantization"]["scale"].as_f64().expect("a number");
    assert!((absmax(&channels[0]) / 127.0 - scale).abs() < 1e-7, "{scale}: {document}");

    let text = stdout(&["show", "demo:", name, "--values", "17"]);
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 1 + 32, "{text}");
    assert!(rows[1].contains("17") && rows[1].contains("[1, 1]"), "{text}");
    let document = json(&["show", "demo:", name, "--values", "158..999"]);
    let values = document["values"].as_array().expect("a list");
    assert_eq!(values.len(), 2, "it has 160: {document}");
    let (q, back) = (values[0]["q"].as_f64(), values[0]["dequantized"].as_f64());
    let (q, back) = (q.expect("a number"), back.expect("a number"));
    assert!((q * scale - back).abs() < 1e-6, "{document}");
    assert_eq!(values[0]["place"], serde_json::json!([9, 14]));
    // Integers have no scale.
    let whole = json(&["show", "demo:", "features.1.num_batches_tracked", "--values", "0"]);
    assert!(whole["values"][0]["value"].is_i64() && whole["values"][0]["q"].is_null(), "{whole}");
}

#[test]
fn show_explains_what_it_cannot_show() {
    for (arguments, part) in [
        (vec!["classifier.4.weigh"], "the nearest name is 'classifier.4.weight'"),
        (vec!["classifier.*"], "is a pattern: expected the name of one tensor"),
        (vec!["classifier.4.bias"], "has no output channels"),
        (vec!["classifier.4.bias", "--values", "10"], "has 10 elements"),
    ] {
        let (code, printed) = failure(&[&["show", "demo:"], &arguments[..]].concat());
        assert!(code == 1 && printed.contains(part), "{arguments:?}: {printed}");
    }
    let (code, _) = failure(&["show", "demo:", "classifier.4.bias", "--values", "1..x"]);
    assert_eq!(code, 2);
}
