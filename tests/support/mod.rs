//! Shared by the tests: generated checkpoints, and the program itself.
#![allow(dead_code, reason = "each test program uses a part")]

pub(crate) mod checkpoint;
pub(crate) mod driver;
pub(crate) mod gguf;
pub(crate) mod random;
pub(crate) mod svg;

use assert_cmd::Command;
use serde_json::Value;
use std::path::PathBuf;

pub(crate) fn quantscope(args: &[&str]) -> Command {
    let mut command = assert_cmd::cargo::cargo_bin_cmd!("quantscope");
    command.args(args);
    // Keep the user's cache and settings out of the tests.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command.env("XDG_CONFIG_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// The path of a file in `tests/data`.
pub(crate) fn data(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(path);
    path.to_str().expect("this repository's path is text").to_owned()
}

/// Runs the program, asserts success, and returns its output.
pub(crate) fn stdout(args: &[&str]) -> String {
    let run = quantscope(args).assert().success();
    String::from_utf8(run.get_output().stdout.clone()).expect("text")
}

/// Runs the program with `--json`, asserts success, and returns the document.
pub(crate) fn json(args: &[&str]) -> Value {
    let text = stdout(&[args, &["--json"]].concat());
    serde_json::from_str(&text).expect("one JSON document")
}

/// Runs the program, asserts failure, and returns the exit code and the last line of the error.
pub(crate) fn failure(args: &[&str]) -> (i32, String) {
    let run = quantscope(args).assert().failure();
    let output = run.get_output();
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let code = output.status.code().expect("an exit code");
    (code, text.trim_end().to_owned())
}
