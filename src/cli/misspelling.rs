//! Recognizes misspelt subcommands, which clap would take for the path of a model.

use std::ffi::OsString;
use std::path::Path;
use strsim::osa_distance;

/// The most single-character edits of a misspelt subcommand.
const MAX_EDITS: usize = 2;

/// Returns an error message if the first argument looks like a misspelt subcommand. Options and
/// names of files never do.
pub(super) fn subcommand(command: &clap::Command, arguments: &[OsString]) -> Option<String> {
    let word = arguments.get(1)?.to_str()?;
    let is_name = word.chars().all(|c| c.is_ascii_alphabetic() || c == '-' || c == '_');
    if !is_name || word.starts_with('-') || Path::new(word).exists() {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let edits = names.map(|name| (osa_distance(&lower, name), name));
    let (edits, name) = edits.min()?;
    let is_similar = edits <= MAX_EDITS && edits < name.len() / 2 && name != word;
    if !is_similar {
        return None;
    }
    Some(format!("no subcommand and no file is named '{word}'; did you mean '{name}'?"))
}
