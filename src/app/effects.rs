//! What an update asks the runner to do.

use crate::app::event::Effect;

/// Effects in the order in which they are carried out.
pub(crate) type Effects = Vec<Effect>;
