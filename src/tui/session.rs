//! The session file: marks and cursor, saved from one run to the next.

use crate::app::{App, Session};
use crate::demo;
use crate::directories::{self, DirectoryKind};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The path of a model's session file, derived from the whole path of the model, so that models
/// with the same name have different files. `None` if the model's path or the user's directories
/// are unknown.
pub fn path_of(model: &Path) -> Option<PathBuf> {
    let path = if model.as_os_str() == demo::WORD {
        model.to_owned()
    } else {
        std::fs::canonicalize(model).ok()?
    };
    let name = path.file_name()?.to_string_lossy().replace(|c: char| !c.is_alphanumeric(), "-");
    // FNV-1a: the same on every machine and in every version.
    let hash = path.to_string_lossy().bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let state = directories::of(DirectoryKind::State)?;
    Some(state.join("sessions").join(format!("{name}-{hash:016x}.toml")))
}

/// Restores the session from `path`. A missing or unreadable file is ignored.
pub(super) fn restore(app: &mut App, path: &Path) {
    let text = std::fs::read_to_string(path).ok();
    if let Some(session) = text.and_then(|text| Session::parse(&text).ok()) {
        app.restore(&session);
    }
}

/// Writes the session to `path`, through a temporary file.
pub(super) fn keep(app: &App, path: &Path) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(app.session().to_toml().as_bytes())?;
    file.persist(path)?;
    Ok(())
}
