//! A tensor in memory with the axes of its output channels first.

use crate::tensor::Shape;

/// The shape and the elements of `size` bytes of a tensor with the axes of its output channels
/// first. `None` if they are first.
pub(super) fn channel_major(bytes: &[u8], size: usize, shape: &Shape) -> Option<(Shape, Vec<u8>)> {
    let (major, order) = shape.channel_major()?;
    let apart = |axis: usize| -> usize {
        let inner = shape.dims().get(axis + 1..).unwrap_or_default();
        inner.iter().map(|&dim| dim as usize).product()
    };
    let axes: Vec<(usize, usize)> =
        major.dims().iter().zip(order).map(|(&dim, axis)| (dim as usize, apart(axis))).collect();
    let mut out = Vec::with_capacity(bytes.len());
    for number in 0..bytes.len() / size.max(1) {
        let (mut rest, mut at) = (number, 0);
        for &(dim, apart) in axes.iter().rev() {
            at += rest % dim.max(1) * apart;
            rest /= dim.max(1);
        }
        out.extend_from_slice(bytes.get(at * size..(at + 1) * size).unwrap_or_default());
    }
    Some((major, out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ChannelAxes;

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
