//! Shapes: a checked list of dimensions, outermost first.

use std::fmt;

/// Dimensions of a tensor. The number of elements is known to fit a `u64`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Box<[u64]>,
    elements: u64,
}

impl Shape {
    /// `None` when the product of the dimensions overflows.
    pub fn new(dims: impl Into<Box<[u64]>>) -> Option<Shape> {
        let dims = dims.into();
        let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        Some(Shape { dims, elements })
    }

    pub fn vector(n: u64) -> Shape {
        Shape { dims: Box::new([n]), elements: n }
    }

    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Output channels: slices along axis 0. A scalar is one channel.
    pub fn channels(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Elements of one output channel.
    pub fn channel_len(&self) -> u64 {
        self.elements.checked_div(self.channels()).unwrap_or(0)
    }

    /// Length of the last axis: the elements that lie side by side; 1 for a scalar.
    pub fn row_len(&self) -> u64 {
        self.dims.last().copied().unwrap_or(1)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<String> = self.dims.iter().map(u64::to_string).collect();
        f.pad(&format!("[{}]", text.join(", ")))
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
    fn an_overflowing_product_is_refused() {
        assert_eq!(Shape::new([u64::MAX, 2]), None);
        assert_eq!(Shape::new([u64::MAX, 2, 0]), None);
    }
}
