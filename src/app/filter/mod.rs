//! Filters that the user types: words in the name, and conditions such as `re:regex`,
//! `dtype:bf16`, `size>10M`, `sqnr<30` or `is:marked`. All of them must hold.

mod expression;
mod term;
mod words;

pub(crate) use expression::{Filter, TENSORS_PER_TASK, TensorMatcher};
pub(crate) use term::Property;
