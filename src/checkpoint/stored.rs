//! Stored tensors: what the headers of a checkpoint's files list.

use crate::checkpoint::access::{Access, Data, Indirect, Role};
use crate::checkpoint::io::source::Source;
use crate::checkpoint::strided::StridedView;
use crate::tensor::{DType, Name, Shape};
use std::ops::Range;

/// Tensors per parallel task; smaller tasks cost more to start than they save.
pub(super) const TENSORS_PER_TASK: usize = 4096;

/// Index of a stored tensor in the checkpoint's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredId(pub u32);

impl StoredId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor as a file's header lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The name in the file.
    pub name: Name,
    /// The type of the elements.
    pub dtype: DType,
    /// The dimensions as listed in the file.
    pub shape: Shape,
    /// Index of its file in the checkpoint's list of shards.
    pub shard: u32,
    /// The byte range of the elements in the file.
    pub range: Range<u64>,
    /// How the elements are read.
    pub access: Access,
    /// The role in the model.
    pub role: Role,
}

impl Stored {
    /// Creates a tensor of the first shard whose elements fill `range`.
    pub fn new(name: impl Into<Name>, dtype: DType, shape: Shape, range: Range<u64>) -> Stored {
        let (access, role) = (Access::Direct, Role::Network);
        Stored { name: name.into(), dtype, shape, shard: 0, range, access, role }
    }

    /// Size of the contiguous elements in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.access {
            Access::Direct | Access::Unreadable(_) => self.range.end - self.range.start,
            Access::Indirect(indirect) => indirect.bytes,
        }
    }

    /// Returns why its elements cannot be read; `None` if they can.
    pub fn unreadable(&self) -> Option<&str> {
        match &self.access {
            Access::Unreadable(why) => Some(why),
            Access::Direct | Access::Indirect(_) => None,
        }
    }

    /// Returns whether elements of the file are repeated.
    pub fn repeats(&self) -> bool {
        match &self.access {
            Access::Indirect(indirect) => indirect.view.as_ref().is_some_and(StridedView::repeats),
            Access::Direct | Access::Unreadable(_) => false,
        }
    }

    /// Returns access to the elements with the dimensions in another order, or the reason why
    /// they cannot be read.
    pub(crate) fn permuted(&self, order: &[usize]) -> Result<Indirect, String> {
        let (data, view, conversion) = match &self.access {
            Access::Direct => (Data::File, None, None),
            Access::Indirect(i) => (i.data.clone(), i.view.as_ref(), i.conversion),
            Access::Unreadable(why) => return Err(format!("it cannot be read: {why}")),
        };
        let view = match view {
            Some(view) => view.permuted(order),
            None => {
                let size = self.dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
                StridedView::contiguous(self.shape.clone(), size, self.bytes())?.permuted(order)
            }
        };
        Ok(Indirect { data, bytes: view.bytes(), view: Some(view), conversion })
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
    /// The file.
    pub source: Source,
    /// The file's key-value metadata, in the file's order.
    pub metadata: Vec<(String, String)>,
}

impl Shard {
    /// The file's name without its directory.
    pub fn name(&self) -> String {
        let path = self.source.path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Returns the first value of a metadata key.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}
