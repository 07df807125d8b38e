//! Copies that take no room and no time: where a file system can keep equal blocks of two
//! files once, the shards of which nothing is quantized need not be written anew.

use std::fs::File;
use std::io;
use std::ops::Range;

/// Blocks are shared whole, from and to such places.
const BLOCK: u64 = 4096;

/// Less is read and written as fast.
const LEAST: u64 = 64 << 10;

/// The whole blocks of `length` bytes that begin at `from` of one file and at `to` of another,
/// counted from there. None where blocks begin at other places in the two.
fn whole_blocks(from: u64, to: u64, length: u64) -> Range<u64> {
    let before = from.wrapping_neg() % BLOCK;
    let Some(end) = from.checked_add(length) else { return 0..0 };
    let blocks = before..length.saturating_sub(end % BLOCK);
    let are_alike = from % BLOCK == to % BLOCK;
    let length = blocks.end.saturating_sub(blocks.start);
    if are_alike && length >= LEAST { blocks } else { 0..0 }
}

/// Gives `to` the whole blocks of `length` bytes at `at`: those of `from` at `start`. Which of
/// them it has now; none where anything is in the way, and then they have to be written.
pub(crate) fn share(from: &File, start: u64, to: &File, at: u64, length: u64) -> Range<u64> {
    let blocks = whole_blocks(start, at, length);
    let (mut from_at, mut to_at) = (start + blocks.start, at + blocks.start);
    let end = start + blocks.end;
    while from_at < end {
        let left = usize::try_from(end - from_at).unwrap_or(usize::MAX);
        match copy_range(from, &mut from_at, to, &mut to_at, left) {
            // The source has become shorter; reading it tells.
            Ok(0) | Err(_) => return 0..0,
            Ok(_) => {}
        }
    }
    blocks
}

/// Copies at most `length` bytes and moves both places on; gives how many there were.
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
    fn whole_blocks_are_found_where_they_lie_alike() {
        assert_eq!(whole_blocks(4096, 0, LEAST), 0..LEAST);
        assert_eq!(whole_blocks(4095, 8191, LEAST + 8000), 1..LEAST + 4097);
        assert_eq!(whole_blocks(4097, 1, LEAST + 4095), 4095..LEAST + 4095);
        // Elsewhere in a block, too few, none.
        assert_eq!(whole_blocks(4096, 8, 1 << 30), 0..0);
        assert_eq!(whole_blocks(1, 1, LEAST), 0..0);
        assert_eq!(whole_blocks(9, 9, 100), 0..0);
        assert_eq!(whole_blocks(u64::MAX, u64::MAX, 1 << 30), 0..0);
    }

    /// File systems that share nothing copy the range, so this runs on any.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_shared_is_the_same() {
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
        for (place, &byte) in (0u64..).zip(&found) {
            let is_shared = (start + shared.start..start + shared.end).contains(&place);
            let expected = if is_shared { bytes[place as usize] } else { 0xEE };
            assert_eq!(byte, expected, "at {place}");
        }
        // A source that is cut off shares nothing.
        File::options().write(true).open(&source).and_then(|f| f.set_len(100)).expect("cuts");
        assert_eq!(share(&from, start, &to, at, length), 0..0);
    }
}
