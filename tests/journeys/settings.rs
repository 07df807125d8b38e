//! Settings, and their effect on the screen and on the command line.

use crate::support::driver::{Driver, TINY_LLAMA};
use crate::support::{data, quantscope};

#[test]
fn ratings_follow_the_thresholds_of_the_settings() {
    let mut driver = Driver::open_with(TINY_LLAMA, "[words]\nfair = 39.4\ngood = 39.6\n");
    driver.press("/");
    driver.type_text("proj.weight");
    driver.press("Enter");
    for (word, rows) in [("poor", 1), ("fair", 2)] {
        assert!(driver.table()[rows - 1].contains(word), "{word}:\n{}", driver.screen());
    }
    driver.press("/ Ctrl-u");
    driver.type_text("is:poor");
    driver.press("Enter");
    assert_eq!(driver.table().len(), 1, "{}", driver.screen());
    driver.press("L");
    driver.expect("< 39.4 dB");
    driver.expect("39.6–40 dB");
}

#[test]
fn the_command_line_uses_the_same_ratings() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("quantscope");
    std::fs::create_dir(&config).expect("a directory");
    std::fs::write(config.join("config.toml"), "[words]\nfair = 39.4\ngood = 39.6\n")
        .expect("written");
    let model = data("tiny-llama/single/model.safetensors");
    let mut analyze = quantscope(&["analyze", &model]);
    analyze.env("XDG_CONFIG_HOME", home.path());
    let output = analyze.assert().success().get_output().stdout.clone();
    let text = String::from_utf8(output).expect("text");
    for (row, word) in text.lines().skip(1).zip(["poor", "fair", "good"]) {
        assert!(row.split_whitespace().any(|printed| printed == word), "{word}:\n{text}");
    }

    std::fs::write(config.join("config.toml"), "[words]\nfair = 50.0\n").expect("written");
    let mut analyze = quantscope(&["analyze", &model]);
    analyze.env("XDG_CONFIG_HOME", home.path());
    let error = analyze.assert().failure().get_output().stderr.clone();
    let error = String::from_utf8(error).expect("text");
    assert!(error.contains("config.toml: words: fair, good and excellent"), "{error}");
}

/// The screen and every subcommand accept `--config`.
#[test]
fn the_command_line_reads_named_settings_too() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("own.toml");
    let model = data("tiny-llama/single/model.safetensors");
    let named = config.to_str().expect("text");
    std::fs::write(&config, "[words]\nfair = 39.4\ngood = 39.6\n").expect("written");
    let output =
        quantscope(&["analyze", &model, "--config", named]).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).expect("text");
    for (row, word) in text.lines().skip(1).zip(["poor", "fair", "good"]) {
        assert!(row.split_whitespace().any(|printed| printed == word), "{word}:\n{text}");
    }
    let report = home.path().join("report.json");
    let report = report.to_str().expect("text");
    for arguments in [
        vec!["analyze", &model, "--config", "nowhere.toml"],
        vec!["report", &model, "-o", report, "--config", "nowhere.toml"],
        vec!["diff", &model, &model, "--config", "nowhere.toml"],
    ] {
        let error = quantscope(&arguments).assert().code(1).get_output().stderr.clone();
        let error = String::from_utf8(error).expect("text");
        assert!(error.contains("nowhere.toml"), "{arguments:?}: {error}");
    }
}

#[test]
fn messages_and_hints_name_the_configured_keys() {
    let keys = "[keys.main]\nmark = \"V\"\nundo = \"z\"\ncalibrate = \"Ctrl-g\"\nback = \"Backspace\"\n\
                [keys.save]\nclose = \"Ctrl-y\"\n[keys.question]\naccept = \"Y\"\n\
                [keys.table]\nnext-match = \"Ctrl-n\"\n";
    let mut driver = Driver::open_with(TINY_LLAMA, keys);
    driver.expect("V marks this row");
    driver.expect("V mark");
    driver.press("/");
    driver.type_text("proj");
    driver.press("Enter");
    driver.expect("Backspace clears the filter, Ctrl-N and N repeat the search");
    driver.press("Backspace V s");
    driver.expect("Ctrl-Y write nothing");
    driver.press("Ctrl-y q");
    driver.expect("Y quit");
    driver.press("n b Enter");
    driver.press("Ctrl-g");
    driver.expect_not("Space");
    driver.press("?");
    driver.type_text("undo the last");
    driver.expect("z ");
}
