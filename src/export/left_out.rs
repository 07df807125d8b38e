//! Tensors of the source that are not written, and the warnings about them.

use crate::checkpoint::{Checkpoint, Format, Role, Stored};
use crate::tensor::DType;

/// The reason why a tensor is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its elements cannot be read.
    Unreadable,
    Optimizer,
    /// It is neither the network nor optimizer state.
    NotNetwork,
    /// Its type exists in its own format only.
    NoSuchType,
}

const REASONS: [Reason; 4] =
    [Reason::Optimizer, Reason::NotNetwork, Reason::NoSuchType, Reason::Unreadable];

/// Returns whether a stored tensor is left out.
pub(super) fn is_left_out(checkpoint: &Checkpoint, stored: &Stored) -> bool {
    reason(checkpoint, stored).is_some()
}

fn reason(checkpoint: &Checkpoint, stored: &Stored) -> Option<Reason> {
    let foreign = matches!(checkpoint.format(), Format::PyTorch | Format::Npy | Format::Npz);
    match stored.role {
        Role::Optimizer if !checkpoint.keeps_training_state() => Some(Reason::Optimizer),
        Role::Other if !checkpoint.keeps_training_state() => Some(Reason::NotNetwork),
        _ if stored.unreadable().is_some() => Some(Reason::Unreadable),
        _ if foreign && matches!(stored.dtype, DType::Other(_)) => Some(Reason::NoSuchType),
        _ => None,
    }
}

/// Returns one warning for each reason: the number of tensors, the name of the first, and the
/// reason.
pub(super) fn warnings(checkpoint: &Checkpoint) -> Vec<String> {
    let warning = |wanted: Reason| {
        let all = || checkpoint.all_stored().filter(|(_, s)| reason(checkpoint, s) == Some(wanted));
        let (_, first) = all().next()?;
        let count = all().count();
        let why = match wanted {
            Reason::Unreadable => first.unreadable().unwrap_or_default().to_owned(),
            Reason::Optimizer => {
                "it is optimizer state, not the network; --training-state saves it".to_owned()
            }
            Reason::NotNetwork => {
                "it is not part of the network; --training-state saves it".to_owned()
            }
            Reason::NoSuchType => format!("no output has the type {}", first.dtype),
        };
        let name = first.name.escape_debug();
        Some(match count {
            1 => format!("left out '{name}': {why}"),
            _ => format!("left out {count} tensors, first '{name}': {why}"),
        })
    };
    REASONS.into_iter().filter_map(warning).collect()
}
