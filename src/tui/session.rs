//! The session file: marks and cursor, kept from one run to the next.

use crate::app::{App, Session};
use std::io::Write;
use std::path::Path;

/// Restores the session kept at `path`. A missing or unreadable file is ignored.
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
