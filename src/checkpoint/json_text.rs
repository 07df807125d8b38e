//! A JSON string, borrowed unless it contains escapes.

use serde::Deserialize;
use std::borrow::Cow;

#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);
