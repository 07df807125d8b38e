//! Runs the commands of the README and the manual.
//!
//! - ```` ```sh ````: every line is run; a document's blocks run in one directory, in order.
//! - ```` ```console ````: lines that start with `$ ` are run, and the lines after them are what
//!   they print to standard output and standard error. A line `…` stands for any lines.
//! - ```` ```sh skip: REASON ````: not run.
//!
//! The directory holds `my-model/` (a tiny Llama), `model.gguf`, `activations.safetensors` and the
//! repository's `assets/`.

use crate::markdown::{Block, Document, guide, readme, root};
use crate::support::{data, stdout};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Blocks that may be skipped, over all documents.
const MAX_SKIPPED: usize = 8;

#[test]
fn readme_commands_run() {
    run(&readme());
}

#[test]
fn manual_commands_run() {
    for page in guide() {
        run(&page);
    }
}

#[test]
fn every_block_of_code_is_of_a_known_kind() {
    let kinds = ["sh", "console", "text", "toml", "json", "python", "rust"];
    let mut skipped = 0;
    for document in guide().into_iter().chain([readme()]) {
        for block in document.blocks() {
            let reason = block.info.strip_prefix("sh skip: ").unwrap_or_default();
            let known = kinds.contains(&block.info.as_str()) || !reason.is_empty();
            assert!(known, "{}:{}: unknown kind '{}'", document.name, block.line, block.info);
            skipped += usize::from(!reason.is_empty());
        }
    }
    assert!(skipped <= MAX_SKIPPED, "{skipped} blocks are skipped, at most {MAX_SKIPPED} may be");
}

#[test]
fn shown_output_may_leave_lines_out() {
    assert!(fits("a\nb\nc\n", "a\n…\nc\n") && fits("a\n", "a\n…\n") && fits("a  \n", "a\n"));
    assert!(!fits("a\nb\n", "a\n") && !fits("a\nb\n", "…\na\n") && !fits("", "a\n"));
}

/// Runs the examples of `--help` in the order in which they are listed.
#[test]
fn examples_of_help_run() {
    for command in [
        "inspect",
        "calibrate",
        "analyze",
        "show",
        "quantize",
        "dequantize",
        "verify",
        "check",
        "diff",
        "report",
    ] {
        let help = stdout(&[command, "--help"]);
        let examples = help.split("\nExamples:\n").nth(1).expect("examples");
        let script: String = examples.lines().map(|line| format!("{}\n", line.trim())).collect();
        assert!(script.lines().all(|line| line.starts_with("quantscope ")), "{script}");
        let output = shell(workspace().path(), &script);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {text}\n{script}");
    }
}

/// Runs a document's blocks in a directory of its own.
fn run(document: &Document) {
    let directory = workspace();
    for block in document.blocks() {
        match block.info.as_str() {
            "sh" => {
                let output = shell(directory.path(), &block.text);
                assert!(output.status.success(), "{}", report(document, &block, &output));
            }
            "console" => run_console(document, &block, directory.path()),
            _ => {}
        }
    }
}

fn run_console(document: &Document, block: &Block, directory: &Path) {
    for step in block.text.split_inclusive('\n').fold(Vec::new(), group_by_prompt) {
        let (command, expected) = step;
        let output = shell(directory, &command);
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        let printed = String::from_utf8_lossy(&printed);
        let why = report(document, block, &output);
        assert!(fits(&printed, &expected), "{why}\n--- shown:\n{expected}");
    }
}

/// Collects pairs of a command and the text below it.
fn group_by_prompt(mut steps: Vec<(String, String)>, line: &str) -> Vec<(String, String)> {
    match (line.strip_prefix("$ "), steps.last_mut()) {
        (Some(command), _) => steps.push((command.to_owned(), String::new())),
        (None, Some((command, expected))) => {
            let continued = command.ends_with("\\\n") && expected.is_empty();
            let text = if continued { command } else { expected };
            text.push_str(line);
        }
        (None, None) => panic!("a console block must start with '$ ': {line}"),
    }
    steps
}

/// Whether a printed text matches the shown text, ignoring trailing spaces.
fn fits(printed: &str, shown: &str) -> bool {
    let lines = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    fits_lines(&lines(printed), &lines(shown))
}

fn fits_lines(printed: &[String], shown: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "…" => {
            (0..=printed.len()).any(|skipped| fits_lines(&printed[skipped..], rest))
        }
        Some((line, rest)) => printed.first() == Some(line) && fits_lines(&printed[1..], rest),
    }
}

fn report(document: &Document, block: &Block, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}:{}: {}\n{}--- standard output:\n{}--- standard error:\n{}",
        document.name,
        block.line,
        output.status,
        block.text,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Runs a shell script with this build of the program in PATH.
fn shell(directory: &Path, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_quantscope"));
    let folder = program.parent().expect("a folder");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(directory);
    command.env("PATH", std::env::join_paths(paths).expect("a search path"));
    for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env(variable, directory.join("home"));
    }
    command.env_remove("PAGER").output().expect("a shell")
}

/// Creates a directory with the files that the documents use.
fn workspace() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("my-model")).expect("a new directory");
    for entry in fs::read_dir(data("tiny-llama/single")).expect("a model of the tests") {
        let file = entry.expect("an entry").path();
        let name = file.file_name().expect("a name").to_owned();
        fs::copy(&file, at("my-model").join(name)).expect("a file of the model");
    }
    fs::copy(data("gguf/floats.gguf"), at("model.gguf")).expect("a file of the tests");
    let recorded = root().join("assets/demo_activations.safetensors");
    fs::copy(recorded, at("activations.safetensors")).expect("the demo's activations");
    fs::create_dir(at("assets")).expect("a new directory");
    for name in ["demo.safetensors", "demo_qat.safetensors"] {
        fs::copy(root().join("assets").join(name), at("assets").join(name)).expect("an asset");
    }
    directory
}
