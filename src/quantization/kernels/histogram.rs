//! Exact histograms of 16-bit floats.

/// Elements of each bit pattern of a 16-bit type.
pub type Counts = [u64; 65536];

/// Adds each 16-bit element's bit pattern to `counts`.
pub fn histogram(bytes: &[u8], counts: &mut Counts) {
    for raw in bytes.as_chunks::<2>().0 {
        counts[usize::from(u16::from_le_bytes(*raw))] += 1;
    }
}
