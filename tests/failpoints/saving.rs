//! A failing disk, a panicking thread, a source that changes: after any of these OUT is the old
//! or the complete new output, and the next save removes all leftovers.

use crate::support::checkpoint::{weights, write};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Receipt, Request, Task};
use quantscope::failpoints::{ArmedFailure, Failpoint, Failure, arm, disarm};
use quantscope::job::JobError;
use quantscope::job::save;
use quantscope::job::{JobEvent, Progress, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{QuantizationScheme, Rounding};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const TMP: &str = ".quantscope-tmp";

/// Takes the lock for failpoints, which are global to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model with two shards and every kind of file that a save handles.
fn model(directory: &Path) -> PathBuf {
    let model = directory.join("model");
    std::fs::create_dir_all(model.join("1_Pooling")).expect("creates");
    let names = ["a.safetensors", "b.safetensors"];
    let tensors = [
        vec![weights("a.weight", &[8, 16]), weights("a.bias", &[8])],
        vec![weights("b.weight", &[16, 8])],
    ];
    let mut map = serde_json::Map::new();
    for (name, tensors) in names.iter().zip(&tensors) {
        write(&model.join(name), tensors, &[("format", "pt")]);
        map.extend(tensors.iter().map(|t| (t.name.clone(), (*name).into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1056}, "weight_map": map});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).expect("writes");
    std::fs::write(model.join("config.json"), r#"{"model_type":"llama"}"#).expect("writes");
    std::fs::write(model.join("1_Pooling/config.json"), "{}").expect("writes");
    model
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).expect("opens")
}

fn request(source: &Checkpoint, out: &Path, scheme: QuantizationScheme, force: bool) -> Request {
    let ids = Selection::default().resolve(source).expect("something is quantizable");
    let plan = Plan::uniform(ids, scheme, Rounding::HalfEven);
    let task = Task::Quantize { plan, format: OutputFormat::Safetensors };
    Request { task, out: out.to_owned(), force, copy: Vec::new() }
}

fn save(source: &Checkpoint, request: &Request) -> Result<Receipt, JobError> {
    save::run(source, request, Some(2), &Progress::default(), &|_| {})
}

/// All files below a path with their bytes, sorted; empty if the path does not exist.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return vec![(PathBuf::new(), std::fs::read(path).expect("reads"))];
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten() {
        let entry = entry.expect("an entry").path();
        let name = PathBuf::from(entry.file_name().expect("named"));
        let inside = contents(&entry).into_iter();
        // Joining an empty path would add a trailing slash.
        found.extend(inside.map(|(rest, bytes)| {
            let below = rest.iter().fold(name.clone(), |path, part| path.join(part));
            (below, bytes)
        }));
    }
    found.sort();
    found
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("lists");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("utf-8")).collect();
    names.sort();
    names
}

/// A request to save, with the contents of the old and the expected new output.
struct SaveFixture {
    directory: tempfile::TempDir,
    source: Arc<Checkpoint>,
    request: Request,
    old: Vec<(PathBuf, Vec<u8>)>,
    new: Vec<(PathBuf, Vec<u8>)>,
}

impl SaveFixture {
    /// `out` is the name of a file or a directory. `exists` is whether there is an old output.
    fn new(out: &str, exists: bool) -> SaveFixture {
        let directory = tempfile::tempdir().expect("a directory");
        let source = Arc::new(open(&model(directory.path())));
        let place = directory.path().join("place");
        std::fs::create_dir(&place).expect("creates");
        let out = place.join(out);
        let save_as = |scheme| {
            save(&source, &request(&source, &out, scheme, true)).expect("saves");
            contents(&out)
        };
        let new = save_as(QuantizationScheme::PER_CHANNEL);
        let old = if exists {
            save_as(QuantizationScheme::PER_TENSOR)
        } else {
            remove(&out);
            Vec::new()
        };
        assert_ne!(old, new);
        let request = request(&source, &out, QuantizationScheme::PER_CHANNEL, exists);
        SaveFixture { directory, source, request, old, new }
    }

    fn save(&self) -> Result<Receipt, JobError> {
        save(&self.source, &self.request)
    }

    /// Asserts that OUT is the old output or the complete new one, and the new one if the save
    /// succeeded.
    fn assert_whole(&self, succeeded: bool, what: &str) {
        let found = contents(&self.request.out);
        assert!(found == self.new || (found == self.old && !succeeded), "{what}");
    }

    /// The names of leftover files beside OUT.
    fn leftovers(&self) -> Vec<String> {
        let out = self.request.out.file_name().and_then(|n| n.to_str()).expect("text");
        let mut names = names(self.request.out.parent().expect("a place"));
        names.retain(|name| name != out);
        names
    }

    /// Asserts that the next save to OUT succeeds and removes all leftovers.
    fn assert_clean_after_the_next(&self, what: &str) {
        let again = Request { force: true, ..self.request.clone() };
        save(&self.source, &again).unwrap_or_else(|e| panic!("{what}: the next save: {e}"));
        assert!(contents(&self.request.out) == self.new, "{what}");
        assert_eq!(self.leftovers(), [""; 0], "{what}");
    }

    fn back_to_old(&self) {
        remove(&self.request.out);
        for (name, bytes) in &self.old {
            let path = self.request.out.join(name);
            let path = if name.as_os_str().is_empty() { self.request.out.clone() } else { path };
            std::fs::create_dir_all(path.parent().expect("has one")).expect("creates");
            std::fs::write(path, bytes).expect("writes");
        }
    }

    /// The number of steps of a successful save.
    fn steps(&self) -> u64 {
        arm(ArmedFailure {
            failpoint: Failpoint::Disk,
            step: u64::MAX,
            failure: Failure::OsError(EIO),
            repeats: false,
        });
        let saved = self.save();
        let steps = disarm();
        saved.expect("saves");
        self.back_to_old();
        steps
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).expect("removes")
    } else {
        std::fs::remove_file(path).expect("removes")
    }
}

const OUTPUTS: [(&str, bool); 4] =
    [("out", true), ("out", false), ("out.safetensors", true), ("out.safetensors", false)];

#[test]
fn a_failure_at_any_step_of_a_save_leaves_the_old_or_the_new_output() {
    let _alone = alone();
    let mut injected = 0;
    for (out, exists) in OUTPUTS {
        let fixture = SaveFixture::new(out, exists);
        let steps = fixture.steps();
        assert!(steps > 8, "{steps}");
        for step in 0..steps {
            for (number, repeats) in
                [(EIO, false), (EACCES, false), (EINVAL, false), (ENOSPC, true), (EIO, true)]
            {
                let what = format!("{out} {exists}: step {step} of {steps}, {number} {repeats}");
                arm(ArmedFailure {
                    failpoint: Failpoint::Disk,
                    step,
                    failure: Failure::OsError(number),
                    repeats,
                });
                let saved = fixture.save();
                disarm();
                injected += 1;
                fixture.assert_whole(saved.is_ok(), &what);
                if let Err(error) = &saved {
                    let printed = error.to_string();
                    let known = ["Input/output", "Permission denied", "Invalid", "No space"];
                    assert!(known.iter().any(|k| printed.contains(k)), "{what}: {printed}");
                }
                let leftovers = fixture.leftovers();
                // If the disk keeps failing, leftovers cannot be removed. An old output is kept
                // until the new one is synced to disk.
                let in_place = contents(&fixture.request.out) == fixture.new;
                assert!(repeats || in_place || leftovers.is_empty(), "{what}: {leftovers:?}");
                assert!(leftovers.iter().all(|name| name.ends_with(TMP)), "{what}: {leftovers:?}");
                fixture.assert_clean_after_the_next(&what);
                fixture.back_to_old();
            }
        }
    }
    println!("{injected} faults injected");
}

#[test]
fn a_panic_at_any_step_of_a_save_leaves_the_old_or_the_new_output() {
    let _alone = alone();
    for (out, exists) in [("out", true), ("out.safetensors", false)] {
        let fixture = SaveFixture::new(out, exists);
        for step in 0..fixture.steps() {
            let what = format!("{out} {exists}: step {step}");
            arm(ArmedFailure {
                failpoint: Failpoint::Disk,
                step,
                failure: Failure::Panic,
                repeats: false,
            });
            let job = save::start(
                fixture.source.clone(),
                fixture.request.clone(),
                Default::default(),
                None,
                Some(2),
            );
            let mut job = job.expect("starts");
            let told = loop {
                match job.wait(Duration::from_secs(60)) {
                    JobEvent::Finding(save::SaveEvent::Phase(_)) => {}
                    JobEvent::Finding(save::SaveEvent::Finished(saved)) => {
                        break saved.map(|_| ()).map_err(|e| e.to_string());
                    }
                    JobEvent::Panicked(why) => break Err(why),
                    ended => panic!("{what}: {ended:?}"),
                }
            };
            disarm();
            fixture.assert_whole(told.is_ok(), &what);
            let why = told.expect_err("a panic is told");
            assert!(why.contains("a test's panic at step"), "{what}: {why}");
            fixture.assert_clean_after_the_next(&what);
            fixture.back_to_old();
        }
    }
}

/// If the system cannot swap two directories atomically, a killed save may have renamed the old
/// output.
#[test]
fn a_replaced_output_is_restored_after_a_failure() {
    let _alone = alone();
    let fixture = SaveFixture::new("out", true);
    let aside = fixture.request.out.with_file_name(format!(".out.old{TMP}"));
    std::fs::rename(&fixture.request.out, &aside).expect("renames");
    let careful = Request { force: false, ..fixture.request.clone() };
    let error =
        save(&fixture.source, &careful).expect_err("the old one is there again").to_string();
    assert!(error.contains("exists already"), "{error}");
    assert!(contents(&fixture.request.out) == fixture.old && fixture.leftovers().is_empty());
    // If the save was killed slightly later, both exist.
    std::fs::create_dir(&aside).expect("creates");
    std::fs::write(aside.join("old"), "old").expect("writes");
    fixture.assert_clean_after_the_next("both");
}

#[test]
fn a_temporary_name_that_is_a_link_is_not_written_through() {
    let _alone = alone();
    for (out, exists) in [("out", true), ("out.safetensors", true)] {
        let fixture = SaveFixture::new(out, exists);
        let precious = fixture.directory.path().join("precious");
        std::fs::write(&precious, "precious").expect("writes");
        let temporary = fixture.request.out.with_file_name(format!(".{out}{TMP}"));
        #[cfg(unix)]
        for hard in [false, true] {
            if hard {
                std::fs::hard_link(&precious, &temporary).expect("links")
            } else {
                std::os::unix::fs::symlink(&precious, &temporary).expect("links")
            }
            let saved = fixture.save();
            assert_eq!(std::fs::read(&precious).expect("reads"), b"precious", "{out} {hard}");
            let error = saved.expect_err("refused").to_string();
            assert!(error.contains("is a link"), "{error}");
            assert!(contents(&fixture.request.out) == fixture.old);
            std::fs::remove_file(&temporary).expect("removes");
        }
    }
}

/// If OUT is a symbolic link, the link is replaced and its target stays.
#[test]
#[cfg(unix)]
fn an_output_that_is_a_link_is_replaced_and_not_followed() {
    let _alone = alone();
    for out in ["out", "out.safetensors"] {
        let fixture = SaveFixture::new(out, true);
        let real = fixture.directory.path().join("real");
        std::fs::rename(&fixture.request.out, &real).expect("renames");
        std::os::unix::fs::symlink(&real, &fixture.request.out).expect("links");
        fixture.save().expect("saves");
        assert!(!fixture.request.out.is_symlink());
        assert!(contents(&fixture.request.out) == fixture.new && contents(&real) == fixture.old);
        assert_eq!(fixture.leftovers(), [""; 0]);
    }
}

/// The source is refused as OUT, however its path is written.
#[test]
#[cfg(unix)]
fn the_source_is_never_written() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let path = model(directory.path());
    let before = contents(&path);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("links");
    let to_file = directory.path().join("file.safetensors");
    std::os::unix::fs::symlink(path.join("a.safetensors"), &to_file).expect("links");
    let outs = [
        path.clone(),
        link.clone(),
        path.join("../model"),
        path.join("a.safetensors"),
        link.join("b.safetensors"),
        to_file,
        directory.path().to_owned(),
    ];
    for source in [&path, &link] {
        let source = open(source);
        for out in &outs {
            for force in [false, true] {
                let request = request(&source, out, QuantizationScheme::PER_TENSOR, force);
                save(&source, &request).expect_err(&format!("{out:?}"));
                assert!(contents(&path) == before, "{out:?}");
            }
        }
    }
    assert_eq!(names(directory.path()), ["file.safetensors", "link", "model"]);
}

/// A snapshot consists of links to blobs, which are read and never written to.
#[test]
#[cfg(unix)]
fn a_hugging_face_cache_is_read_and_never_written() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let plain = model(directory.path());
    let cache = directory.path().join("models--org--name");
    let (blobs, snapshot) = (cache.join("blobs"), cache.join("snapshots/main1"));
    std::fs::create_dir_all(cache.join("refs")).expect("creates");
    std::fs::create_dir_all(&blobs).expect("creates");
    std::fs::write(cache.join("refs/main"), "main1").expect("writes");
    for (number, (name, bytes)) in contents(&plain).into_iter().enumerate() {
        std::fs::write(blobs.join(number.to_string()), bytes).expect("writes");
        let link = snapshot.join(&name);
        std::fs::create_dir_all(link.parent().expect("has one")).expect("creates");
        let up = "../".repeat(1 + name.components().count());
        std::os::unix::fs::symlink(format!("{up}blobs/{number}"), link).expect("links");
    }
    let before = contents(&cache);
    let source = open(&cache);
    let place = directory.path().join("into");
    std::os::unix::fs::symlink(&snapshot, &place).expect("links");
    for out in [
        snapshot.join("new"),
        blobs.join("new.safetensors"),
        place.join("new"),
        cache.join("refs/x"),
    ] {
        let request = request(&source, &out, QuantizationScheme::PER_TENSOR, true);
        let error = save(&source, &request).expect_err("a cache").to_string();
        assert!(error.contains("Hugging Face cache"), "{error}");
    }
    let out = directory.path().join("out");
    save(&source, &request(&source, &out, QuantizationScheme::PER_TENSOR, false)).expect("saves");
    assert!(contents(&cache) == before);
    // Linked sidecar files are copied as regular files.
    assert!(out.join("1_Pooling/config.json").is_file() && !out.join("config.json").is_symlink());
    assert_eq!(names(&out), names(&plain));
}

/// Files outside of the model's directory are not copied, even if links point to them.
#[test]
#[cfg(unix)]
fn sidecar_files_outside_of_the_directory_are_not_copied() {
    let _alone = alone();
    let directory = tempfile::tempdir().expect("a directory");
    let model = model(directory.path());
    std::fs::write(directory.path().join("secret"), "secret").expect("writes");
    std::fs::create_dir(directory.path().join("private")).expect("creates");
    std::fs::write(directory.path().join("private/key"), "secret").expect("writes");
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, model.join(name)).expect("links");
    };
    link("../secret", "tokenizer.json");
    link("../private", "assets");
    link("1_Pooling/config.json", "inside.json");
    link("nowhere", "dangling");
    link(".", "again");
    let source = open(&model);
    let out = directory.path().join("out");
    let request = request(&source, &out, QuantizationScheme::PER_TENSOR, false);
    let receipt = save(&source, &request).expect("saves");
    assert!(contents(&out).iter().all(|(_, bytes)| bytes != b"secret"));
    assert!(out.join("inside.json").is_file());
    for name in ["tokenizer.json", "assets", "dangling"] {
        assert!(receipt.warnings.iter().any(|w| w.contains(name)), "{:?}", receipt.warnings);
        assert!(!out.join(name).exists());
    }
}

/// Changes the source during a phase of a save, and returns the error.
fn disturbed(phase: &'static str, happens: &(dyn Fn(&Path) + Sync)) -> String {
    let fixture = SaveFixture::new("out", true);
    let shard = fixture.directory.path().join("model/b.safetensors");
    let during = |now: &'static str| {
        if now == phase {
            happens(&shard);
        }
    };
    let saved =
        save::run(&fixture.source, &fixture.request, Some(2), &Progress::default(), &during);
    assert!(contents(&fixture.request.out) == fixture.old, "{phase}");
    assert_eq!(fixture.leftovers(), [""; 0], "{phase}");
    saved.expect_err(phase).to_string()
}

#[test]
fn a_source_that_changes_during_a_save_fails_the_save() {
    let _alone = alone();
    let later = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
        let time = file.metadata().and_then(|m| m.modified()).expect("a time");
        file.set_modified(time + Duration::from_secs(1)).expect("sets");
    };
    let shrinks = |path: &Path| {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("opens");
        file.set_len(file.metadata().expect("a length").len() - 100).expect("shortens");
    };
    let replaced = |path: &Path| {
        let mut bytes = std::fs::read(path).expect("reads");
        *bytes.last_mut().expect("some") ^= 1;
        std::fs::remove_file(path).expect("removes");
        std::fs::write(path, bytes).expect("writes");
        later(path);
    };
    let vanishes = |path: &Path| std::fs::remove_file(path).expect("removes");
    for phase in ["calibrating", "writing", "verifying"] {
        for (what, happens, sentence) in [
            ("shrinks", &shrinks as &(dyn Fn(&Path) + Sync), "has changed since it was opened"),
            ("replaced", &replaced, "has changed since it was opened"),
            ("vanishes", &vanishes, "no such file"),
        ] {
            let error = disturbed(phase, happens);
            assert!(error.to_lowercase().contains(sentence), "{what} {phase}: {error}");
            assert!(error.contains("b.safetensors"), "{error}");
        }
    }
}

/// A reader that has the file open already gets an error.
#[test]
fn a_file_that_is_truncated_while_it_is_read_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    write(&path, &[weights("first", &[64, 64]), weights("last", &[64, 64])], &[]);
    let checkpoint = open(&path);
    let mut reader = checkpoint.reader();
    let (first, last) =
        (checkpoint.find("first").expect("it"), checkpoint.find("last").expect("it"));
    reader.elements(first, 0..10).expect("reads");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    file.set_len(file.metadata().expect("a length").len() - 4).expect("shortens");
    let error = reader.elements(last, 4000..4096).expect_err("short").to_string();
    assert!(error.contains("'last'") && error.contains("has become shorter"), "{error}");
    reader.elements(last, 0..10).expect("what is still there is read");
}

/// The check after a save is the same as `verify`, against a source that is as it was.
#[test]
fn saved_outputs_can_be_verified_again() {
    let _alone = alone();
    let fixture = SaveFixture::new("out", false);
    fixture.save().expect("saves");
    let out = open(&fixture.request.out);
    verify::run(&out, &fixture.source, None, &Progress::default()).expect("verifies");
}
