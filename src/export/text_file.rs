//! Writes a text file such as a report or a recipe atomically.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::io::remote::BucketDirectory;
use crate::checkpoint::io::remote_path::is_remote;
use crate::export::atomic_output::AtomicOutput;
use crate::export::error::SaveError;
use crate::export::output_path::may_be_written;
use crate::path_error::IoContext;
use std::io::{self, Write};
use std::path::Path;

/// Writes `out` with `write`. An existing file is replaced if `force` is set, but never a file of
/// the model. `out` may be in a bucket.
pub fn write_text(
    source: &Checkpoint,
    out: &Path,
    force: bool,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), SaveError> {
    if is_remote(out) {
        return write_object(out, force, write);
    }
    may_be_written(source, out)?;
    if let Ok(found) = out.symlink_metadata() {
        // A link to a terminal cannot be replaced either.
        let leads_to_file = out.metadata().is_ok_and(|found| found.is_file());
        let leads_nowhere = found.is_symlink() && out.metadata().is_err();
        if !leads_to_file && !leads_nowhere {
            let found = out.metadata().unwrap_or(found);
            let what = if found.is_dir() { "a directory" } else { "not a regular file" };
            let why = format!("is {what}; choose another path");
            return Err(SaveError::Unfit { path: out.to_owned(), why });
        }
        if belongs_to_model(source, out) {
            return Err(SaveError::IsSource(out.to_owned()));
        }
        if !force {
            return Err(SaveError::Exists(out.to_owned()));
        }
    }
    let output = AtomicOutput::begin(out, false)?;
    output.write(write).context(out)?;
    output.sync()?;
    output.commit(force)
}

/// Writes a text to a bucket.
fn write_object(
    out: &Path,
    force: bool,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), SaveError> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let directory = BucketDirectory::new(out.parent().unwrap_or(out)).context(out)?;
    let (objects, _) = directory.names("").context(out)?;
    if !force && objects.iter().any(|object| *object == name) {
        return Err(SaveError::Exists(out.to_owned()));
    }
    let mut text = Vec::new();
    write(&mut text).context(out)?;
    Ok(directory.write(&name, &text).context(out)?)
}

/// Returns whether an existing file is an index, a config or a tokenizer: a JSON file in the
/// model's directory.
fn belongs_to_model(source: &Checkpoint, out: &Path) -> bool {
    let Ok(out) = out.canonicalize() else { return false };
    let is_json = out.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let directories = [source.directory(), source.path().parent()];
    let lies_there = |directory: &Path| {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        directory.canonicalize().is_ok_and(|real| Some(real.as_path()) == out.parent())
    };
    is_json && directories.into_iter().flatten().any(lies_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DEMO: &[u8] = include_bytes!("../../assets/demo.safetensors");

    fn write(source: &Checkpoint, out: &Path, force: bool) -> Result<(), String> {
        let text = |out: &mut dyn Write| out.write_all(b"new");
        write_text(source, out, force, text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_text_is_written_atomically_and_replaces_only_other_texts() {
        let directory = tempfile::tempdir().expect("a directory");
        let source = Checkpoint::from_memory("demo", DEMO).expect("the demo");
        let out = directory.path().join("report.html");
        fs::write(&out, "old and longer").expect("written");
        let why = write(&source, &out, false).expect_err("it exists");
        assert!(why.contains("exists already"), "{why}");
        assert_eq!(write(&source, &out, true), Ok(()));
        assert_eq!(fs::read(&out).expect("written"), b"new");
        assert!(write(&source, directory.path(), true).is_err());
        if cfg!(unix) {
            let link = directory.path().join("link");
            std::os::unix::fs::symlink("/dev/null", &link).expect("a link");
            for device in [Path::new("/dev/null"), &link] {
                let why = write(&source, device, true).expect_err("a device");
                assert!(why.contains("is not a regular file"), "{why}");
            }
            fs::remove_file(link).expect("is removed");
        }
        let failed = write_text(&source, &out, true, |_| Err(io::Error::other("full")));
        assert!(failed.is_err_and(|error| error.to_string().contains("full")));
        assert_eq!(fs::read(&out).expect("is unchanged"), b"new");
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1, "nothing left over");
    }

    #[test]
    fn no_file_of_the_model_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let model = directory.path().join("model.safetensors");
        let config = directory.path().join("config.json");
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo.safetensors");
        fs::copy(demo, &model).expect("copied");
        fs::write(&config, "{}").expect("written");
        let source = Checkpoint::open(&model).expect("opens");
        for out in [&model, &config] {
            let why = write(&source, out, true).expect_err("the source");
            assert!(why.contains("is the checkpoint itself"), "{why}");
        }
        assert_eq!(write(&source, &directory.path().join("report.json"), false), Ok(()));
    }
}
