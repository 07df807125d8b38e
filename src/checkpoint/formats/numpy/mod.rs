//! NumPy arrays: NPY files, and NPZ archives of them. Imported by `formats/format.rs`,
//! `checkpoint/open.rs` and, for its element types, `formats/pytorch`; knows nothing of packed
//! formats, plans or screens.

mod array_type;
mod header;
mod literal;
mod read;

pub(crate) use array_type::{ArrayType, array_type};
pub(crate) use header::MAGIC;
pub(crate) use read::{is_archive, read_npy, read_npz};
