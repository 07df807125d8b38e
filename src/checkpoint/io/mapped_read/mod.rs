//! Reads file bytes directly from the page cache, without copying them.
//!
//! If the page cache holds the file in large pages, this takes 20 to 50 % less time than `read`.
//! Small pages take longer to map than to copy, so a file in small pages is read as usual.
//!
//! The bytes must not change while a closure reads them. So they are only lent under a [`Lease`],
//! which the system grants if no process has the file open for writing. Until it is released,
//! writers wait, so the closures are short. If the system grants no lease, the caller copies the
//! bytes.
//!
//! Two failures remain: the disk can fail, and a process that is stopped for most of a minute loses
//! its lease, after which the file can be truncated. Both raise SIGBUS. [`faults`] lets the closure
//! finish, and its result is discarded.

#![allow(unsafe_code)]

mod faults;
mod lease;

use faults::Watch;
use lease::Lease;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::hint::black_box;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// Windows begin at multiples of this: the size of a large page.
const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// Smallest window. Mapping takes time, so one window serves several reads; mapped pages count as
/// the process's memory, so it is not larger.
const MIN_WINDOW_BYTES: u64 = 10 << 20;

/// Copying fewer bytes than this is faster than mapping them.
const MIN_MAPPED_BYTES: u64 = 512 << 10;

/// Two bytes this far apart are mapped by one page fault only if they are in a large page.
const PAGE_PROBE_DISTANCE: u64 = 256 << 10;

/// Number of useless windows (no lease, or small pages) after which a file is only read by copying.
/// More than one, because the beginning of a file is often in small pages: there the system's
/// read-ahead starts.
const MAX_USELESS_WINDOWS: u32 = 4;

/// A file with one mapped window.
pub struct MappedFile {
    file: File,
    window: Option<Window>,
    /// Whether leases on the file bind all writers; `None` until first needed.
    is_leasable: Option<bool>,
    /// Number of useless windows left before mapping is given up.
    attempts_left: u32,
}

impl MappedFile {
    /// Wraps an open file; nothing is mapped yet.
    pub fn new(file: File) -> MappedFile {
        MappedFile { file, window: None, is_leasable: None, attempts_left: MAX_USELESS_WINDOWS }
    }

    /// The file, for reading by copying.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Unmaps the window.
    pub fn unmap(&mut self) {
        self.window = None;
    }

    /// Returns the bytes of a range, protected by a lease. `None` if copying them is necessary or
    /// as fast.
    ///
    /// `check` runs once the lease is held. It makes sure that the file is unchanged and contains
    /// the range.
    pub fn lease_bytes<E>(
        &mut self,
        bytes: Range<u64>,
        check: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Option<LeasedBytes<'_>>, E> {
        if self.attempts_left == 0 {
            self.unmap();
            return Ok(None);
        }
        let file = &self.file;
        if bytes.end.saturating_sub(bytes.start) < MIN_MAPPED_BYTES
            || !*self.is_leasable.get_or_insert_with(|| lease::binds_all_writers(file))
            || !is_cached(file, bytes.end - 1)
        {
            return Ok(None);
        }
        let Some(lease) = Lease::take(file) else {
            self.attempts_left -= 1;
            return Ok(None);
        };
        check(file)?;
        let holds = |window: &Window| window.holds(&bytes) && !window.watch.is_lost();
        if !self.window.as_ref().is_some_and(holds) {
            // Unmap first, so that at most one window is mapped.
            self.window = None;
            self.window = Window::new(file, &bytes);
            let large = |window: &Window| window.has_large_pages(&bytes);
            match self.window.as_ref().map_or(Some(false), large) {
                Some(false) => self.attempts_left -= 1,
                Some(true) => {
                    self.attempts_left = (self.attempts_left + 1).min(2 * MAX_USELESS_WINDOWS)
                }
                None => {}
            }
        }
        Ok(self.window.as_ref().map(|window| LeasedBytes { window, lease, bytes }))
    }
}

/// Returns whether the byte at `offset` is in the page cache. Bytes that are not are better read
/// with `read`, which reads ahead further and into larger pages than a page fault does.
fn is_cached(file: &File, offset: u64) -> bool {
    let (mut byte, now) = ([0], ReadWriteFlags::NOWAIT);
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, now);
    // Some file systems do not support the flag: assume that the byte is cached.
    !matches!(read, Err(Errno::AGAIN))
}

/// Bytes of a file that cannot change until they are released.
pub struct LeasedBytes<'m> {
    window: &'m Window,
    lease: Lease<'m>,
    bytes: Range<u64>,
}

impl LeasedBytes<'_> {
    /// Calls `read` with the bytes. Returns `None` if they were lost meanwhile; the result is then
    /// discarded.
    pub fn with_bytes<T>(self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let result = read(self.window.bytes(&self.bytes));
        let is_intact = self.lease.release() && !self.window.watch.is_lost();
        is_intact.then_some(result)
    }
}

/// A mapped part of a file.
struct Window {
    /// Declared first, so that it is dropped before the memory is unmapped.
    watch: Watch,
    memory: Memory,
    /// The byte range of the file that is mapped. It may extend beyond the end of the file.
    range: Range<u64>,
}

impl Window {
    /// Maps a range that contains `bytes`.
    fn new(file: &File, bytes: &Range<u64>) -> Option<Window> {
        let start = bytes.start / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
        let length = usize::try_from((bytes.end - start).max(MIN_WINDOW_BYTES)).ok()?;
        let memory = Memory::map(file, start, length)?;
        let watch = Watch::new(memory.at.as_ptr() as usize, length)?;
        Some(Window { watch, memory, range: start..start + length as u64 })
    }

    fn holds(&self, bytes: &Range<u64>) -> bool {
        let Range { start, end } = self.range;
        start <= bytes.start && bytes.start <= bytes.end && bytes.end <= end
    }

    /// Returns whether `bytes` are in large pages. Mapping small ones takes as long as copying
    /// their content. `None` if this range is too short or badly aligned to find out.
    fn has_large_pages(&self, bytes: &Range<u64>) -> Option<bool> {
        let other =
            bytes.end.checked_sub(PAGE_PROBE_DISTANCE).filter(|&other| other > bytes.start)?;
        if (other - 1) / LARGE_PAGE_BYTES != (bytes.end - 1) / LARGE_PAGE_BYTES {
            return None;
        }
        let touch = |end: u64| black_box(self.bytes(&(end - 1..end)).first().copied());
        touch(bytes.end);
        let faults = minor_faults();
        touch(other);
        Some(minor_faults() == faults)
    }

    /// Returns the bytes of a range; empty if the window does not contain it. The file must contain
    /// the range.
    fn bytes(&self, bytes: &Range<u64>) -> &[u8] {
        if !self.holds(bytes) {
            return &[];
        }
        let (offset, length) = (bytes.start - self.range.start, bytes.end - bytes.start);
        // SAFETY: this part of the memory is mapped for reading while `self` lives, and lies inside
        // the file. Nobody writes to the file under the lease in `LeasedBytes`. If the lease is
        // lost, `Watch` keeps the memory readable and `LeasedBytes::with_bytes` returns `None`.
        unsafe {
            let at = self.memory.at.add(offset as usize);
            std::slice::from_raw_parts(at.as_ptr(), length as usize)
        }
    }
}

/// Returns the number of minor page faults of this thread so far.
fn minor_faults() -> libc::c_long {
    // SAFETY: zeros are a valid `rusage`, and the pointer is to one.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_minflt
    }
}

/// A read-only shared mapping of a file, unmapped on drop.
struct Memory {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is only read, and a mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}

impl Memory {
    fn map(file: &File, start: u64, length: usize) -> Option<Memory> {
        let start = start.try_into().ok()?;
        // SAFETY: the system chooses the address, so no other mapping is affected.
        let at = unsafe {
            let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
            libc::mmap(ptr::null_mut(), length, read, shared, file.as_raw_fd(), start)
        };
        if at == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(at.cast()).map(|at| Memory { at, length })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this address and length, and no reference to it is left.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::os::unix::process::ExitStatusExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;
    use tempfile::TempDir;

    const LENGTH: u64 = 3 << 20;

    fn file() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model");
        let bytes: Vec<u8> = (0..LENGTH).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, bytes).expect("writes");
        (directory, path)
    }

    fn mapped(path: &Path) -> MappedFile {
        MappedFile::new(File::open(path).expect("opens"))
    }

    fn lease_bytes(mapped: &mut MappedFile, bytes: Range<u64>) -> Option<LeasedBytes<'_>> {
        let leased: Result<_, Infallible> = mapped.lease_bytes(bytes, |_| Ok(()));
        match leased {
            Ok(leased) => leased,
            Err(never) => match never {},
        }
    }

    /// Returns whether the directory for temporary files supports leases; most do.
    fn has_leases(path: &Path) -> bool {
        let file = File::open(path).expect("opens");
        let has = lease::binds_all_writers(&file) && Lease::take(&file).is_some();
        if !has {
            eprintln!("skipped: no file leases at {}", path.display());
        }
        has
    }

    #[test]
    fn bytes_are_read_without_a_copy() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let mut mapped = mapped(&path);
        for bytes in
            [7..1_000_008, 5..LENGTH, 900_001..2_000_000, LENGTH - MIN_MAPPED_BYTES..LENGTH]
        {
            let expected: Vec<u8> = bytes.clone().map(|n| (n % 251) as u8).collect();
            let leased = lease_bytes(&mut mapped, bytes.clone()).expect("mapped");
            assert!(leased.with_bytes(|seen| seen == expected).expect("still there"), "{bytes:?}");
        }
        assert!(lease_bytes(&mut mapped, 0..MIN_MAPPED_BYTES - 1).is_none(), "too few");
    }

    #[test]
    fn a_writer_waits_until_the_lease_is_released() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let has_written = AtomicBool::new(false);
        let mut mapped = mapped(&path);
        // A second lease would report with another signal unless it is set again; that signal would
        // end the process. So take a first lease before the one under test.
        let first = lease_bytes(&mut mapped, 0..LENGTH).expect("mapped");
        assert_eq!(first.with_bytes(<[u8]>::len), Some(LENGTH as usize));
        std::thread::scope(|scope| {
            let leased = lease_bytes(&mut mapped, 0..LENGTH).expect("mapped");
            let seen = leased.with_bytes(|bytes| {
                scope.spawn(|| {
                    File::create(&path).expect("truncates");
                    has_written.store(true, SeqCst);
                });
                std::thread::sleep(Duration::from_millis(100));
                (has_written.load(SeqCst), bytes.iter().map(|&b| u64::from(b)).sum::<u64>())
            });
            let sum = (0..LENGTH).map(|n| n % 251).sum();
            assert_eq!(seen, Some((false, sum)));
        });
        assert!(has_written.load(SeqCst));
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 0);
    }

    #[test]
    fn a_file_open_for_writing_is_not_mapped() {
        let (_directory, path) = file();
        let mut mapped = mapped(&path);
        let writer = File::options().append(true).open(&path).expect("opens");
        for _ in 0..2 {
            assert!(lease_bytes(&mut mapped, 0..LENGTH).is_none());
        }
        drop(writer);
        if has_leases(&path) {
            assert!(lease_bytes(&mut mapped, 0..LENGTH).is_some());
        }
    }

    #[test]
    fn bytes_read_after_the_lease_was_lost_are_discarded() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let mut mapped = mapped(&path);
        let leased = lease_bytes(&mut mapped, 0..LENGTH).expect("mapped");
        // The system does the same to a process that does not release its lease in time.
        assert!(Lease::held(leased.lease.file()).release());
        assert_eq!(leased.with_bytes(<[u8]>::len), None);
    }

    #[test]
    fn lost_memory_reads_as_zeros_and_is_reported() {
        let (_directory, path) = file();
        let file = File::open(&path).expect("opens");
        let bytes = LENGTH / 2..LENGTH;
        let other = Window::new(&file, &bytes).expect("mapped");
        let window = Window::new(&file, &bytes).expect("mapped");
        assert_eq!(window.bytes(&bytes).iter().max(), Some(&250));
        assert!(!window.watch.is_lost());
        File::options().write(true).open(&path).and_then(|f| f.set_len(1)).expect("truncates");
        assert_eq!(window.bytes(&bytes).iter().max(), Some(&0));
        assert!(window.watch.is_lost() && !other.watch.is_lost());
        // A new mapping at the same address is watched as well.
        drop((window, other));
        std::fs::write(&path, vec![1; LENGTH as usize]).expect("writes");
        let window = Window::new(&file, &bytes).expect("mapped");
        assert_eq!(window.bytes(&bytes).iter().min(), Some(&1));
        assert!(!window.watch.is_lost());
    }

    /// Runs itself in a child process, which the fault ends.
    #[test]
    fn faults_in_other_memory_end_the_process() {
        const INSIDE: &str = "QUANTSCOPE_TEST_FAULT";
        let (_directory, path) = file();
        if std::env::var_os(INSIDE).is_none() {
            let name = "faults_in_other_memory_end_the_process";
            let child = Command::new(std::env::current_exe().expect("known"))
                .args([&format!("checkpoint::io::mapped_read::tests::{name}"), "--exact"])
                .env(INSIDE, "1")
                .output()
                .expect("runs");
            assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
            return;
        }
        let file = File::open(&path).expect("opens");
        let watched = Window::new(&file, &(0..LENGTH)).expect("mapped");
        let memory = Memory::map(&file, 0, LENGTH as usize).expect("mapped");
        File::options().write(true).open(&path).and_then(|f| f.set_len(0)).expect("truncates");
        assert_eq!(watched.bytes(&(0..LENGTH)).iter().max(), Some(&0));
        // SAFETY: the memory is not readable; the test expects the resulting SIGBUS.
        let never = unsafe { memory.at.read_volatile() };
        unreachable!("read {never}");
    }
}
