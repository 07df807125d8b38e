//! Shapes: a checked list of dimensions, outermost first.

use crate::tensor::channel_axes::ChannelAxes;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The dimensions of a tensor, outermost first. The number of elements fits a `u64`.
///
/// Shapes are equal if their dimensions are equal; the channel axes are ignored.
#[derive(Clone, Debug)]
pub struct Shape {
    dims: Dims,
    elements: u64,
    channel_axes: ChannelAxes,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.dims == other.dims
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.dims.hash(state);
    }
}

/// A list of dimensions. Short lists are stored inline, because a checkpoint may have a hundred
/// thousand tensors.
#[derive(Clone)]
pub enum Dims {
    /// The number of dimensions, and an array that starts with them.
    Few(u8, [u64; INLINE_DIMS]),
    /// More dimensions than fit the array.
    Many(Vec<u64>),
}

const INLINE_DIMS: usize = 4;

impl Dims {
    /// The dimensions.
    pub fn as_slice(&self) -> &[u64] {
        match self {
            Dims::Few(rank, dims) => dims.get(..usize::from(*rank)).unwrap_or_default(),
            Dims::Many(dims) => dims,
        }
    }

    /// Appends a dimension.
    pub fn push(&mut self, dim: u64) {
        match self {
            Dims::Few(rank, dims) => match dims.get_mut(usize::from(*rank)) {
                Some(place) => {
                    *place = dim;
                    *rank += 1;
                }
                None => {
                    let mut many = dims.to_vec();
                    many.push(dim);
                    *self = Dims::Many(many);
                }
            },
            Dims::Many(dims) => dims.push(dim),
        }
    }
}

impl Default for Dims {
    fn default() -> Dims {
        Dims::Few(0, [0; INLINE_DIMS])
    }
}

impl<D: AsRef<[u64]>> From<D> for Dims {
    fn from(dims: D) -> Dims {
        let mut list = Dims::default();
        dims.as_ref().iter().for_each(|&dim| list.push(dim));
        list
    }
}

impl PartialEq for Dims {
    fn eq(&self, other: &Dims) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Dims {}

impl Hash for Dims {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl Shape {
    /// Creates a shape; `None` if the product of the dimensions overflows.
    pub fn new(dims: impl Into<Dims>) -> Option<Shape> {
        let dims = dims.into();
        let elements = dims.as_slice().iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        Some(Shape { dims, elements, channel_axes: ChannelAxes::First })
    }

    /// A shape of one element, without dimensions.
    pub fn scalar() -> Shape {
        Shape { dims: Dims::from([]), elements: 1, channel_axes: ChannelAxes::First }
    }

    /// A shape of one dimension.
    pub fn vector(n: u64) -> Shape {
        Shape { dims: Dims::from([n]), elements: n, channel_axes: ChannelAxes::First }
    }

    /// Returns the same dimensions with the given channel axes.
    pub fn with_channel_axes(self, axes: ChannelAxes) -> Shape {
        Shape { channel_axes: axes, ..self }
    }

    /// The lengths of the leading axes that enumerate output channels; of all axes if there are
    /// fewer. If output channels are not contiguous ([`Shape::channel_major`]), this and
    /// [`Shape::channels`] count contiguous rows.
    pub fn channel_dims(&self) -> &[u64] {
        let dims = self.dims();
        dims.get(..self.channel_axes.count()).unwrap_or(dims)
    }

    /// The axes along which output channels are counted.
    pub fn channel_axes(&self) -> ChannelAxes {
        self.channel_axes
    }

    /// Returns the same dimensions with axes that count contiguous rows, even if output channels
    /// are not contiguous.
    pub(crate) fn with_contiguous_channels(&self) -> Shape {
        let axes = match self.channel_axes {
            ChannelAxes::Second => ChannelAxes::First,
            ChannelAxes::FirstAndLast => ChannelAxes::FirstTwo,
            leading => leading,
        };
        self.clone().with_channel_axes(axes)
    }

    /// Returns the shape with the axes of output channels first, and the order of the axes that
    /// produces it. `None` if they are first already, or if the tensor has no elements.
    pub fn channel_major(&self) -> Option<(Shape, Vec<usize>)> {
        let order = self.channel_axes.channel_major(self.rank())?;
        let dims: Vec<u64> =
            order.iter().filter_map(|&axis| self.dims().get(axis).copied()).collect();
        let axes = match self.channel_axes {
            ChannelAxes::FirstAndLast => ChannelAxes::FirstTwo,
            _ => ChannelAxes::First,
        };
        // The product does not depend on the order.
        let shape = Shape::new(dims)?.with_channel_axes(axes);
        (self.elements > 0).then_some((shape, order))
    }

    /// The dimensions.
    pub fn dims(&self) -> &[u64] {
        self.dims.as_slice()
    }

    /// Returns the position of element `index` along each axis.
    pub fn coordinates(&self, index: u64) -> Vec<u64> {
        let mut rest = index;
        let mut coordinates: Vec<u64> = self
            .dims()
            .iter()
            .rev()
            .map(|&dim| {
                let at = rest % dim.max(1);
                rest /= dim.max(1);
                at
            })
            .collect();
        coordinates.reverse();
        coordinates
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Number of output channels: slices along axis 0, or along axes 0 and 1 of a tensor that
    /// holds all experts of a layer. A scalar is one channel.
    pub fn channels(&self) -> u64 {
        // This product is a prefix of the product checked by `new`, so it does not overflow.
        self.channel_dims().iter().product()
    }

    /// Number of experts, if the tensor holds all experts of a layer: its slices along axis 0.
    pub fn experts(&self) -> Option<u64> {
        let holds_experts =
            matches!(self.channel_axes, ChannelAxes::FirstTwo | ChannelAxes::FirstAndLast);
        self.dims().first().copied().filter(|_| holds_experts && self.rank() == 3)
    }

    /// Elements of one output channel.
    pub fn channel_len(&self) -> u64 {
        self.elements.checked_div(self.channels()).unwrap_or(0)
    }

    /// Length of the last axis, whose elements are contiguous; 1 for a scalar.
    pub fn row_len(&self) -> u64 {
        self.dims().last().copied().unwrap_or(1)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_some() || f.precision().is_some() {
            return f.pad(&format!("{:?}", self.dims()));
        }
        f.write_str("[")?;
        for (axis, dim) in self.dims().iter().enumerate() {
            f.write_str(if axis == 0 { "" } else { ", " })?;
            dim.fmt(f)?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims).expect("fits")
    }

    #[test]
    fn a_scalar_is_one_channel_of_one_element() {
        let s = shape(&[]);
        assert_eq!((s.elements(), s.channels(), s.channel_len(), s.row_len()), (1, 1, 1, 1));
        assert_eq!(s.to_string(), "[]");
    }

    #[test]
    fn channels_lie_along_the_first_axis() {
        let s = shape(&[8, 4, 3, 3]);
        assert_eq!((s.elements(), s.channels(), s.channel_len(), s.row_len()), (288, 8, 36, 3));
        assert_eq!(shape(&[0, 4]).channel_len(), 0);
    }

    #[test]
    fn fused_experts_have_a_channel_for_every_row() {
        let s = shape(&[4, 8, 16]).with_channel_axes(ChannelAxes::FirstTwo);
        assert_eq!((s.channels(), s.channel_len(), s.channel_dims()), (32, 16, &[4, 8][..]));
        assert_eq!(s, shape(&[4, 8, 16]));
        assert_eq!((s.experts(), shape(&[4, 8, 16]).experts()), (Some(4), None));
        let empty = shape(&[4, 8, 0]).with_channel_axes(ChannelAxes::FirstTwo);
        assert_eq!((empty.channels(), empty.channel_len()), (32, 0));
    }

    #[test]
    fn dimensions_are_the_same_few_or_many() {
        for rank in 0..9 {
            let dims: Vec<u64> = (1..=rank).collect();
            let s = shape(&dims);
            assert_eq!((s.dims(), s.rank()), (dims.as_slice(), rank as usize));
            assert_eq!(s.to_string(), format!("{dims:?}"));
            assert_eq!(s, Shape { dims: Dims::Many(dims), ..s.clone() });
        }
        assert_eq!(format!("{:>7}|{:<7}|", shape(&[2, 3]), shape(&[2])), " [2, 3]|[2]    |");
    }

    #[test]
    fn an_overflowing_product_is_refused() {
        assert_eq!(Shape::new([u64::MAX, 2]), None);
        assert_eq!(Shape::new([u64::MAX, 2, 0]), None);
    }
}
