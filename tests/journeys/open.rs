//! Opening another model, completing paths, and the actions of the receipt.

use crate::support::checkpoint::{weights, write};
use crate::support::driver::{Driver, SHARDED, TINY_LLAMA, in_repository};
use quantscope::app::Action;
use quantscope::checkpoint::Checkpoint;

#[test]
fn another_model_opens_without_quitting() {
    let mut driver = Driver::open(TINY_LLAMA);
    write(&driver.path("other.safetensors"), &[weights("other.weight", &[8, 8])], &[]);
    write(&driver.path("third.safetensors"), &[weights("third.weight", &[8, 8])], &[]);
    driver.press("o");
    driver.expect("Open another model");
    driver.expect("other.safetensors");
    driver.type_text("no-such-model");
    driver.expect("no known model fits");
    driver.press("Enter");
    driver.expect_words("no-such-model");
    driver.expect("Open another model");
    driver.press("Ctrl-u");
    driver.type_text("oth");
    driver.press("Tab Enter");
    driver.expect("other.weight");
    driver.expect("calibrated");
    // The previous model is at the top of the list.
    driver.press("o Down");
    driver.expect("opened before");
    driver.press("Enter");
    driver.expect("lm_head.weight");
    driver.press("o Esc");
    driver.expect("lm_head.weight");
}

/// The end of a message says what to do, and the keys say how to leave.
#[test]
fn a_long_message_leaves_its_end_and_the_keys_on_a_small_screen() {
    let mut driver = Driver::open(TINY_LLAMA);
    driver.resize(60, 15);
    driver.press("o");
    driver.type_text(&format!("/{}", ["a-very-long-directory-name"; 24].join("/")));
    driver.press("Enter");
    let screen = driver.rows().join("\n");
    driver.expect_words("there is no such file or directory");
    driver.expect("…");
    for word in ["open", "choose", "complete", "stay"] {
        assert!(screen.contains(word), "{word} is missing:\n{screen}");
    }
    driver.press("Esc D");
    driver.type_text(&format!("/{}", ["a-very-long-directory-name"; 24].join("/")));
    driver.press("Enter");
    driver.expect_words("there is no such file or directory");
    driver.expect("leave");
}

/// Models of the Hugging Face cache have their names on the Hub, and open at the snapshot that
/// `refs/main` names.
#[test]
fn models_of_the_hugging_face_cache_are_offered_and_open() {
    let mut driver = Driver::open(TINY_LLAMA);
    for (name, layer) in [("models--org--small", "small"), ("models--org--large", "large")] {
        let repository = driver.hub().join(name);
        let snapshot = repository.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).expect("created");
        std::fs::create_dir_all(repository.join("refs")).expect("created");
        std::fs::write(repository.join("refs/main"), "abc").expect("written");
        let tensor = weights(&format!("{layer}.weight"), &[8, 8]);
        write(&snapshot.join("model.safetensors"), &[tensor], &[]);
    }
    // A data set is not a model.
    std::fs::create_dir_all(driver.hub().join("datasets--org--texts/snapshots")).expect("created");
    driver.press("o");
    for shown in ["org/small", "org/large", "Hugging Face"] {
        driver.expect(shown);
    }
    driver.expect_not("models--");
    driver.expect_not("texts");
    driver.press("Down Down");
    let chosen = driver.rows().into_iter().find(|row| row.contains("▸ ")).expect("a choice");
    assert!(chosen.contains("org/"), "{chosen}");
    driver.press("Enter");
    driver.expect("calibrated");
    // A name that fits one model opens it.
    driver.press("o");
    driver.type_text("org/large");
    driver.press("Enter");
    driver.expect("large.weight");
    driver.press("o");
    driver.type_text("org small");
    driver.press("Enter");
    driver.expect("small.weight");
}

#[test]
fn the_receipt_opens_compares_and_copies_the_command() {
    let mut driver = Driver::open(SHARDED);
    driver.press("a s Enter");
    driver.expect("Saved and verified");
    driver.press("c");
    let command = driver.screen.clipboard.last().cloned().expect("copied");
    assert!(command.starts_with("quantscope quantize"), "{command}");
    assert!(command.ends_with("--scheme per-tensor"), "{command}");
    driver.press("D");
    driver.expect("15 changed, 6 identical");
    driver.press("Esc");
    driver.press("s Enter y");
    driver.expect("Saved and verified");
    driver.press("o");
    driver.expect("int8 per-tensor");
    assert_eq!(driver.app.receipts().len(), 2);
}

/// For marks with several schemes, the command uses a recipe and writes the same bytes.
#[test]
fn the_command_line_of_a_receipt_writes_the_same_bytes() {
    let mut driver = Driver::open(in_repository(TINY_LLAMA));
    driver.press("a x Down Enter s Ctrl-u");
    driver.type_text("out.safetensors");
    driver.press("Enter");
    driver.expect("Saved and verified");
    let first = std::fs::read(driver.path("out.safetensors")).expect("saved");
    driver.press("c");
    let command = driver.screen.clipboard.last().cloned().expect("copied");
    assert!(command.contains("--recipe /dev/stdin <<'END'"), "{command}");
    std::fs::remove_file(driver.path("out.safetensors")).expect("removed");
    let program = env!("CARGO_BIN_EXE_quantscope");
    let command = command.replacen("quantscope quantize", &format!("'{program}' quantize"), 1);
    let ended = std::process::Command::new("sh")
        .args(["-c", &command])
        .current_dir(driver.directory.path())
        .output()
        .expect("runs");
    assert!(ended.status.success(), "{ended:?}");
    assert!(first == std::fs::read(driver.path("out.safetensors")).expect("saved again"));
}

#[test]
fn paths_are_completed_and_missing_directories_created() {
    let mut driver = Driver::open(TINY_LLAMA);
    std::fs::create_dir(driver.path("models")).expect("created");
    driver.press("a s Ctrl-u");
    driver.type_text("mo");
    driver.press("Tab");
    driver.expect("models/");
    driver.type_text("new/out.safetensors");
    driver.press("Enter");
    driver.expect_words("does not exist");
    driver.expect("Ctrl-D create the directory");
    assert!(driver.app.can(Action::CreateDirectory));
    driver.press("Ctrl-d Enter");
    driver.expect("Saved and verified");
    Checkpoint::open(&driver.path("models/new/out.safetensors")).expect("opens");
    driver.press("Esc w Ctrl-u");
    driver.type_text("recipes/plan.toml");
    driver.press("Enter");
    driver.expect("Ctrl-D create the directory");
    driver.press("Ctrl-d Enter");
    driver.expect("was written to recipes/plan.toml");
    // Several candidates are completed up to their common prefix.
    driver.press("r Ctrl-u");
    driver.type_text("zzz");
    driver.press("Tab");
    driver.expect("no path begins like this");
}
