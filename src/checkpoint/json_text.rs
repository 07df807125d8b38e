//! Text in JSON, borrowed unless it is written with escapes.

use serde::Deserialize;
use std::borrow::Cow;

#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);
