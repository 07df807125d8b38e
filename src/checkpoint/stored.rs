//! Stored tensors: what the headers of a checkpoint's files list.

use crate::checkpoint::io::source::Source;
use crate::checkpoint::strided::View;
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
}

/// How the elements of a stored tensor are arranged in its range of the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Contiguous, in row-major order.
    Direct,
    /// Strided.
    View(Box<View>),
    /// Deflated: `bytes` of elements, after the first `skip` bytes of the inflated data.
    Deflated { skip: u64, bytes: u64 },
}

impl Stored {
    /// A tensor of the first shard whose elements fill `range`.
    pub fn new(name: impl Into<Name>, dtype: DType, shape: Shape, range: Range<u64>) -> Stored {
        Stored { name: name.into(), dtype, shape, shard: 0, range, access: Access::Direct }
    }

    /// Bytes of its elements when they are contiguous.
    pub fn bytes(&self) -> u64 {
        match &self.access {
            Access::Direct => self.range.end - self.range.start,
            Access::View(view) => view.bytes(),
            Access::Deflated { bytes, .. } => *bytes,
        }
    }

    /// A view of the elements with the dimensions reversed, or the reason why none exists.
    pub(crate) fn transposed(&self) -> Result<View, String> {
        match &self.access {
            Access::Direct => {}
            Access::View(view) => return Ok(view.transposed()),
            Access::Deflated { .. } => {
                return Err("it is compressed; save it uncompressed to transpose it".into());
            }
        }
        let mut strides = vec![1; self.shape.rank()];
        let mut distance = 1u64;
        for (stride, &dim) in strides.iter_mut().zip(self.shape.dims()).rev() {
            *stride = distance;
            distance = distance.saturating_mul(dim);
        }
        let size = self.dtype.bytes_for(1).ok_or("its elements are not whole bytes")?;
        let view = View::new(self.shape.clone(), size, 0, &strides, self.bytes())?;
        Ok(view.transposed())
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
