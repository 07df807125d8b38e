//! A tensor as the readers of PyTorch and NumPy files list it.

use crate::checkpoint::access::{Access, Conversion, Indirect};
use crate::checkpoint::formats::element_type::ElementType;
use crate::checkpoint::formats::region::{Region, RegionBase};
use crate::checkpoint::stored::Stored;
use crate::checkpoint::strided::StridedView;
use crate::tensor::{DType, Shape};
use std::ops::Range;

/// A tensor's type and shape as far as they are known, and either access to its elements or the
/// reason why they cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub dtype: DType,
    pub shape: Shape,
    pub range: Range<u64>,
    pub access: Access,
    /// File offset of the storage that the tensor is a view of.
    pub storage: Option<u64>,
}

impl Row {
    /// Converts the row to a stored tensor with the given name.
    pub(crate) fn stored(self, name: String) -> Stored {
        let stored = Stored::new(name, self.dtype, self.shape, self.range);
        Stored { access: self.access, ..stored }
    }

    pub(crate) fn unreadable(
        dtype: Option<DType>,
        shape: Option<Shape>,
        why: impl Into<String>,
    ) -> Row {
        Row {
            dtype: dtype.unwrap_or_else(|| DType::Other("unknown".into())),
            shape: shape.unwrap_or_else(|| Shape::vector(0)),
            range: 0..0,
            access: Access::Unreadable(why.into().into()),
            storage: None,
        }
    }

    /// Creates a row for elements selected by a view, or for all elements of the region.
    pub(crate) fn readable(
        element: &ElementType,
        shape: Shape,
        region: &Region,
        view: StridedView,
        conversion: Option<Conversion>,
    ) -> Row {
        let dtype = element.dtype.clone();
        let storage = match &region.base {
            RegionBase::File => Some(region.start),
            RegionBase::Deflated(range) => Some(range.start),
            RegionBase::Memory(_) => None,
        };
        let bytes = view.bytes();
        let contiguous = view.is_contiguous() || bytes == 0;
        let offset = if bytes == 0 { 0 } else { view.offset() };
        let in_order = contiguous.then(|| region.slice(offset, bytes)).flatten();
        let (range, data, view) = match in_order {
            Some(part) => {
                let direct = conversion.is_none() && matches!(part.base, RegionBase::File);
                let (range, data) = part.placed();
                if direct {
                    return Row { dtype, shape, range, access: Access::Direct, storage };
                }
                (range, data, None)
            }
            None => {
                let (range, data) = region.placed();
                (range, data, Some(view))
            }
        };
        let access = Access::Indirect(Indirect { data, bytes, view, conversion }.into());
        Row { dtype, shape, range, access, storage }
    }
}
