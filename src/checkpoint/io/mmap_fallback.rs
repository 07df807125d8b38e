//! Stands in for `mapped_read` on systems without file leases: bytes are always copied.

use std::convert::Infallible;
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;

/// A file.
pub struct MappedFile {
    file: File,
}

impl MappedFile {
    /// Wraps an open file.
    pub fn new(file: File) -> MappedFile {
        MappedFile { file }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Does nothing: nothing is ever mapped.
    pub fn unmap(&mut self) {}

    /// Always returns `None`: the caller copies the bytes.
    pub fn lease_bytes<E>(
        &mut self,
        _: Range<u64>,
        _: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Option<LeasedBytes<'_>>, E> {
        Ok(None)
    }
}

/// Never constructed on this system.
pub struct LeasedBytes<'m> {
    never: Infallible,
    of: PhantomData<&'m File>,
}

impl LeasedBytes<'_> {
    /// Never called.
    pub fn with_bytes<T>(self, _: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.never {}
    }
}
