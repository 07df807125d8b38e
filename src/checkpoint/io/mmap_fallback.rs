//! Files of systems without leases, whose bytes are always copied: what `mapped` is there.

use std::convert::Infallible;
use std::fs::File;
use std::marker::PhantomData;
use std::ops::Range;

/// A file.
pub struct Mapped {
    file: File,
}

impl Mapped {
    pub fn new(file: File) -> Mapped {
        Mapped { file }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn unmap(&mut self) {}

    /// None are ever ready.
    pub fn ready<E>(
        &mut self,
        _: Range<u64>,
        _: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Option<Ready<'_>>, E> {
        Ok(None)
    }
}

/// Bytes that are ready for a look.
pub struct Ready<'m> {
    never: Infallible,
    of: PhantomData<&'m File>,
}

impl Ready<'_> {
    pub fn look<T>(self, _: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match self.never {}
    }
}
