//! The pictures of the demo in `screenshots/demo`, drawn by `tests/pictures/run`, equal the screen
//! of the real program on a pseudo-terminal.

#![cfg(unix)]

use crate::script::Step;
use crate::session::Session;
use portable_pty::CommandBuilder;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

const PICTURES: &str = "screenshots/demo";
const PATIENCE: Duration = Duration::from_secs(30);

fn steps(name: &str) -> Vec<Step> {
    let text = std::fs::read_to_string(Path::new("tests/pictures/scripts").join(name));
    crate::script::parse(&text.expect("a script")).expect("steps")
}

/// Plays a script on a model and calls `at_picture` for each of its pictures. At the end of the
/// script all marks must be saved, so that one Ctrl+C quits: a second one could arrive after the
/// program has restored the terminal, and kill it.
fn play(name: &str, model: &str, mut at_picture: impl FnMut(&mut Session, &str)) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = CommandBuilder::new("sh");
    let program = env!("CARGO_BIN_EXE_quantscope");
    let line = format!("cd '{}' && exec '{program}' '{model}'", directory.path().display());
    command.args(["-c", &line]);
    let mut session = Session::spawn(command, &[("COLORTERM", "truecolor")]);
    for step in steps(name) {
        match step {
            Step::Wait(text) => session.wait_for(&text),
            Step::Gone(text) => session.wait_until(&text, |s| !s.screen().contains(&text)),
            Step::Press(sent) => session.press(&sent),
            Step::Picture(name) => at_picture(&mut session, &name),
            Step::Hold(_) => {}
        }
    }
    session.press("\x03");
    assert_eq!(session.end().exit_code(), 0);
}

#[test]
fn the_pictures_of_the_demo_are_what_the_screen_shows() {
    play("screens", "demo:", |session, name| {
        let path = Path::new(PICTURES).join(format!("{name}.txt"));
        let pinned = std::fs::read_to_string(&path).unwrap_or_default();
        let start = Instant::now();
        loop {
            let now = crate::script::lasting(&session.screen());
            if now == pinned {
                return;
            }
            let line = now.lines().zip(pinned.lines()).find(|(now, pinned)| now != pinned);
            assert!(
                start.elapsed() < PATIENCE,
                "{} differs from the screen. If the change is meant: tests/pictures/run\n{line:#?}\n{now}",
                path.display(),
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn the_films_can_be_shot() {
    play("job-demo", "demo:", |_, _| {});
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tiny-llama/sharded");
    play("job", model, |_, _| {});
}

#[test]
fn there_are_no_other_pictures_of_the_demo() {
    let mut expected = BTreeSet::from(["job.gif".to_owned()]);
    for step in steps("screens") {
        if let Step::Picture(name) = step {
            expected.extend([format!("{name}.png"), format!("{name}.txt")]);
        }
    }
    let entries = std::fs::read_dir(PICTURES).expect("lists");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let found: BTreeSet<String> =
        names.map(|name| name.into_string().expect("a plain name")).collect();
    assert_eq!(found, expected);
}
