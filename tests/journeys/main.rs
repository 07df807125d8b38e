//! Journeys of a user through the inspector: keys in, assertions about the screen out.

#[path = "../support/mod.rs"]
mod support;

mod activations;
mod budget;
mod clips;
mod experts;
mod filters;
mod formats;
mod help;
mod inspector;
mod open;
mod schemes;
mod settings;
mod table;
mod target;
