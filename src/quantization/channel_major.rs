//! A tensor in memory with the axes of its output channels first.

use crate::quantization::strided_rows::transpose;
use crate::tensor::{ChannelAxes, Shape};

/// The shape and the elements of `size` bytes of a tensor with the axes of its output channels
/// first. `None` if they are first.
pub(super) fn channel_major(bytes: &[u8], size: usize, shape: &Shape) -> Option<(Shape, Vec<u8>)> {
    let (major, _) = shape.channel_major()?;
    let (matrices, rows, columns) = match *shape.dims() {
        [matrices, rows, columns] if shape.channel_axes() == ChannelAxes::FirstAndLast => {
            (matrices, rows, columns)
        }
        [rows, columns, ..] => (1, rows, columns),
        _ => return None,
    };
    let length = bytes.len() / (matrices.max(1) as usize);
    let unit = length / ((rows * columns).max(1) as usize);
    // Items of no whole element mean that the bytes are not those of the shape.
    if unit == 0 || !unit.is_multiple_of(size) {
        return None;
    }
    let mut out = vec![0; bytes.len()];
    for (from, to) in bytes.chunks_exact(length).zip(out.chunks_exact_mut(length)) {
        transpose(from, unit, rows as usize, columns as usize, to);
    }
    Some((major, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_channels_come_first() {
        let shape = |dims: &[u64], axes| Shape::new(dims).expect("fits").with_channel_axes(axes);
        let bytes: Vec<u8> = (0..12).collect();
        assert_eq!(channel_major(&bytes, 1, &shape(&[3, 4], ChannelAxes::First)), None);
        let (major, found) =
            channel_major(&bytes, 1, &shape(&[3, 4], ChannelAxes::Second)).expect("strided");
        assert_eq!(major.dims(), [4, 3]);
        assert_eq!(found, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        let (major, found) =
            channel_major(&bytes, 1, &shape(&[2, 2, 3], ChannelAxes::FirstAndLast))
                .expect("strided");
        assert_eq!((major.dims(), major.channels()), (&[2, 3, 2][..], 6));
        assert_eq!(found, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let (_, found) =
            channel_major(&bytes, 2, &shape(&[1, 2, 3], ChannelAxes::Second)).expect("strided");
        assert_eq!(found, bytes);
    }
}
