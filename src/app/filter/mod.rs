//! Filters that the user types: words in the name, and conditions such as `re:regex`,
//! `dtype:bf16`, `size>10M`, `sqnr<30` or `is:marked`. All of them must hold.

mod completion;
mod expression;
mod tensor;
mod term;
mod words;

pub(crate) use completion::complete;
pub(crate) use expression::{Filter, Matcher};
pub(crate) use tensor::{TensorSubject, begins};
pub(crate) use term::{Metric, Property, Subject, Vocabulary};
