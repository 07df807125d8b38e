//! Stored tensors: what the headers of a checkpoint's files list.

use crate::checkpoint::access::{Access, Data, Indirect, Role};
use crate::checkpoint::io::source::Source;
use crate::checkpoint::strided::StridedView;
use crate::tensor::{DType, Name, Shape};
use std::ops::Range;

/// The position of a stored tensor in the checkpoint's list of them.
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
    pub name: Name,
    pub dtype: DType,
    pub shape: Shape,
    /// The position of its file in the checkpoint's list of shards.
    pub shard: u32,
    /// The bytes of the file that hold the elements, counted from its start.
    pub range: Range<u64>,
    pub access: Access,
    pub role: Role,
}

impl Stored {
    /// A tensor of the first shard whose elements fill `range`.
    pub fn new(name: impl Into<Name>, dtype: DType, shape: Shape, range: Range<u64>) -> Stored {
        let (access, role) = (Access::Direct, Role::Network);
        Stored { name: name.into(), dtype, shape, shard: 0, range, access, role }
    }

    /// Bytes of its elements when they are contiguous.
    pub fn bytes(&self) -> u64 {
        match &self.access {
            Access::Direct | Access::Unreadable(_) => self.range.end - self.range.start,
            Access::Indirect(indirect) => indirect.bytes,
        }
    }

    /// Why its elements cannot be read; `None` if they can.
    pub fn unreadable(&self) -> Option<&str> {
        match &self.access {
            Access::Unreadable(why) => Some(why),
            Access::Direct | Access::Indirect(_) => None,
        }
    }

    /// Whether several of its elements are one element of the file.
    pub fn repeats(&self) -> bool {
        match &self.access {
            Access::Indirect(indirect) => indirect.view.as_ref().is_some_and(StridedView::repeats),
            Access::Direct | Access::Unreadable(_) => false,
        }
    }

    /// The elements with the dimensions reversed, or the reason why none can be read.
    pub(crate) fn transposed(&self) -> Result<Indirect, String> {
        let (data, view, conversion) = match &self.access {
            Access::Direct => (Data::File, None, None),
            Access::Indirect(i) => (i.data.clone(), i.view.as_ref(), i.conversion),
            Access::Unreadable(why) => return Err(format!("it cannot be read: {why}")),
        };
        let view = match view {
            Some(view) => view.transposed(),
            None => {
                let size = self.dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
                StridedView::contiguous(self.shape.clone(), size, self.bytes())?.transposed()
            }
        };
        Ok(Indirect { data, bytes: view.bytes(), view: Some(view), conversion })
    }
}

/// One file of a checkpoint.
#[derive(Debug)]
pub struct Shard {
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

    /// The first value of a key of the metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }
}
