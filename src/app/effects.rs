//! The effects that an update requests from the runner.

use crate::app::event::Effect;

/// Effects in the order in which they are carried out.
pub(crate) type Effects = Vec<Effect>;
