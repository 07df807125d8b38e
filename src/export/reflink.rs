//! Shares blocks between files instead of copying them, on file systems with reflinks: unchanged
//! tensors then take neither time nor space.

use std::fs::File;
use std::io;
use std::ops::Range;

/// Block size. Only whole blocks can be shared, between aligned offsets.
const BLOCK_BYTES: u64 = 4096;

/// Sharing fewer bytes than this is not faster than copying them.
const MIN_SHARED_BYTES: u64 = 64 << 10;

/// Returns the whole blocks among `length` bytes at `from` in one file and at `to` in another,
/// relative to these offsets. Empty if the offsets differ modulo the block size.
fn whole_blocks(from: u64, to: u64, length: u64) -> Range<u64> {
    let before = from.wrapping_neg() % BLOCK_BYTES;
    let Some(end) = from.checked_add(length) else { return 0..0 };
    let blocks = before..length.saturating_sub(end % BLOCK_BYTES);
    let is_aligned = from % BLOCK_BYTES == to % BLOCK_BYTES;
    let length = blocks.end.saturating_sub(blocks.start);
    if is_aligned && length >= MIN_SHARED_BYTES { blocks } else { 0..0 }
}

/// Shares the whole blocks of `length` bytes, from offset `start` of `from` to offset `at` of `to`.
/// Returns the shared range relative to `at`; empty if sharing failed, then the caller must write
/// the bytes.
pub(crate) fn share(from: &File, start: u64, to: &File, at: u64, length: u64) -> Range<u64> {
    let blocks = whole_blocks(start, at, length);
    let (mut from_at, mut to_at) = (start + blocks.start, at + blocks.start);
    let end = start + blocks.end;
    while from_at < end {
        let left = usize::try_from(end - from_at).unwrap_or(usize::MAX);
        match copy_range(from, &mut from_at, to, &mut to_at, left) {
            // The source was truncated; the caller's read reports it.
            Ok(0) | Err(_) => return 0..0,
            Ok(_) => {}
        }
    }
    blocks
}

/// Copies at most `length` bytes and advances both offsets. Returns the number of copied bytes.
#[cfg(target_os = "linux")]
fn copy_range(
    from: &File,
    from_at: &mut u64,
    to: &File,
    to_at: &mut u64,
    length: usize,
) -> io::Result<usize> {
    Ok(rustix::fs::copy_file_range(from, Some(from_at), to, Some(to_at), length)?)
}

#[cfg(not(target_os = "linux"))]
fn copy_range(_: &File, _: &mut u64, _: &File, _: &mut u64, _: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_need_equal_alignment() {
        assert_eq!(whole_blocks(4096, 0, MIN_SHARED_BYTES), 0..MIN_SHARED_BYTES);
        assert_eq!(whole_blocks(4095, 8191, MIN_SHARED_BYTES + 8000), 1..MIN_SHARED_BYTES + 4097);
        assert_eq!(whole_blocks(4097, 1, MIN_SHARED_BYTES + 4095), 4095..MIN_SHARED_BYTES + 4095);
        // Different alignment, too few bytes, no bytes.
        assert_eq!(whole_blocks(4096, 8, 1 << 30), 0..0);
        assert_eq!(whole_blocks(1, 1, MIN_SHARED_BYTES), 0..0);
        assert_eq!(whole_blocks(9, 9, 100), 0..0);
        assert_eq!(whole_blocks(u64::MAX, u64::MAX, 1 << 30), 0..0);
    }

    /// On file systems without reflinks the call copies the range, so the test runs anywhere.
    #[cfg(target_os = "linux")]
    #[test]
    fn shared_bytes_equal_the_source() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().expect("a directory");
        let [source, out] = ["source", "out"].map(|name| directory.path().join(name));
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&source, &bytes).expect("writes");
        std::fs::write(&out, vec![0xEE; bytes.len() + 8192]).expect("writes");
        let from = File::open(&source).expect("opens");
        let to = File::options().write(true).open(&out).expect("opens");
        let (start, length) = (5000, 200_000);
        let at = start + 8192;
        let shared = share(&from, start, &to, at, length);
        assert_eq!(shared, whole_blocks(start, at, length));
        assert!(shared.end - shared.start > 190_000);
        let mut found = vec![0; bytes.len()];
        File::open(&out).and_then(|out| out.read_exact_at(&mut found, 8192)).expect("reads");
        for (at, &byte) in (0u64..).zip(&found) {
            let is_shared = (start + shared.start..start + shared.end).contains(&at);
            let expected = if is_shared { bytes[at as usize] } else { 0xEE };
            assert_eq!(byte, expected, "at {at}");
        }
        // A truncated source shares nothing.
        File::options().write(true).open(&source).and_then(|f| f.set_len(100)).expect("truncates");
        assert_eq!(share(&from, start, &to, at, length), 0..0);
    }
}
