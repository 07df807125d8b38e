//! PyTorch checkpoints: a pickle that describes the tensors, and storages that hold their
//! elements. Imported by `formats/format.rs` and `checkpoint/open.rs`; knows nothing of packed
//! formats, plans or screens.
//!
//! The pickle is parsed, never run: `machine` builds a graph of values in which a call is a value
//! too. `rebuild` recognizes the calls that create tensors, `tensor` locates their elements, `walk`
//! names them. The containers are `archive` (ZIP), `legacy` and `tar`.

mod archive;
mod array;
mod distributed;
mod graph;
mod key_text;
mod legacy;
mod machine;
mod payload;
mod read;
mod rebuild;
mod roles;
mod stack;
mod storage;
mod tar;
mod tensor;
mod text;
mod value;
mod walk;

pub(crate) use archive::describe_archive;
pub(crate) use distributed::{Distributed, distributed_directory, read_distributed};
pub(crate) use read::{has_pickle, is_pickle, read};

#[cfg(test)]
mod tests;
