//! What a user does in the inspector, as keys in and sentences about the screen out.

#[path = "../support/mod.rs"]
mod support;

mod activations;
mod budget;
mod clips;
mod formats;
mod help;
mod inspector;
mod open;
mod schemes;
mod settings;
mod table;
mod target;
