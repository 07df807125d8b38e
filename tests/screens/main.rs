//! Drawing: pinned screens, pictures of the demo, and the cost of a frame.

#[path = "../pictures/src/script.rs"]
mod script;
#[path = "../support/session.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod session;
#[path = "../support/mod.rs"]
mod support;

mod ascii;
mod demo_pictures;
mod frame_cost;
mod pinned;
mod sizes;
