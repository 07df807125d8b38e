//! Tensors of the source that are not written, and the warnings about them.

use crate::checkpoint::{Checkpoint, Format, Role, Stored};
use crate::tensor::DType;

/// The reason why a tensor is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOutReason {
    /// Its elements cannot be read.
    Unreadable,
    Optimizer,
    /// It is neither the network nor optimizer state.
    NotNetwork,
    /// Its type exists in its own format only.
    NoSuchType,
}

const LEFT_OUT_REASONS: [LeftOutReason; 4] = [
    LeftOutReason::Optimizer,
    LeftOutReason::NotNetwork,
    LeftOutReason::NoSuchType,
    LeftOutReason::Unreadable,
];

/// Returns whether a stored tensor is left out.
pub(super) fn is_left_out(checkpoint: &Checkpoint, stored: &Stored) -> bool {
    reason(checkpoint, stored).is_some()
}

fn reason(checkpoint: &Checkpoint, stored: &Stored) -> Option<LeftOutReason> {
    let foreign = matches!(checkpoint.format(), Format::PyTorch | Format::Npy | Format::Npz);
    match stored.role {
        Role::Optimizer if !checkpoint.keeps_training_state() => Some(LeftOutReason::Optimizer),
        Role::Other if !checkpoint.keeps_training_state() => Some(LeftOutReason::NotNetwork),
        _ if stored.unreadable().is_some() => Some(LeftOutReason::Unreadable),
        _ if foreign && matches!(stored.dtype, DType::Other(_)) => Some(LeftOutReason::NoSuchType),
        _ => None,
    }
}

/// Returns one warning for each reason: the number of tensors, the name of the first, and the
/// reason.
pub(super) fn warnings(checkpoint: &Checkpoint) -> Vec<String> {
    let warning = |wanted: LeftOutReason| {
        let all = || checkpoint.all_stored().filter(|(_, s)| reason(checkpoint, s) == Some(wanted));
        let (_, first) = all().next()?;
        let count = all().count();
        let why = match wanted {
            LeftOutReason::Unreadable => first.unreadable().unwrap_or_default().to_owned(),
            LeftOutReason::Optimizer => {
                "it is optimizer state, not the network; --training-state saves it".to_owned()
            }
            LeftOutReason::NotNetwork => {
                "it is not part of the network; --training-state saves it".to_owned()
            }
            LeftOutReason::NoSuchType => format!("no output has the type {}", first.dtype),
        };
        let name = first.name.escape_debug();
        Some(match count {
            1 => format!("left out '{name}': {why}"),
            _ => format!("left out {count} tensors, first '{name}': {why}"),
        })
    };
    LEFT_OUT_REASONS.into_iter().filter_map(warning).collect()
}
