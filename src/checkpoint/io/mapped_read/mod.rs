//! Looking at a file's bytes where they lie, in the system's page cache: where that is in large
//! pages, it takes half to four fifths of the time that copying them out of it takes. Small pages
//! take longer to map than to copy, so a file that has those is read like any other.
//!
//! A change to the file must not be seen by whoever looks. So bytes are looked at under a
//! [`Lease`] only, which the system grants where nobody has the file open for writing, and
//! while which nobody opens it so or cuts it off. A look is short, and who wants to write waits
//! for its end. Where there is no lease the bytes have to be copied.
//!
//! Two things can still go wrong. The disk may fail; and a process that is held up for most of
//! a minute loses its lease. The first would be a SIGBUS, and so would a file cut off after the
//! second. [`faults`] lets the look end all the same, and what it saw is thrown away.

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

/// Windows begin at its multiples: a large page of the system.
const ALIGNMENT: u64 = 2 << 20;

/// What is mapped at once, unless more is looked at: several looks, for it takes time to map,
/// and little, for it counts as the process's memory.
const WINDOW: u64 = 10 << 20;

/// Fewer bytes are copied sooner than they are mapped.
const LEAST: u64 = 512 << 10;

/// So far apart are bytes that come into memory together only in a large page.
const NEARBY: u64 = 256 << 10;

/// How many windows may be of no use before a file is read like any other. Its beginning is
/// often in small pages, for that is where the system begins to read ahead.
const PATIENCE: u32 = 4;

/// A file of which a part is mapped.
pub struct Mapped {
    file: File,
    window: Option<Window>,
    /// Whether leases on the file mean what they say, once somebody wanted to know.
    is_leasable: Option<bool>,
    /// How many windows of no use it takes until no more are tried.
    patience: u32,
}

impl Mapped {
    pub fn new(file: File) -> Mapped {
        Mapped { file, window: None, is_leasable: None, patience: PATIENCE }
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the memory back, for the file is not looked at for now.
    pub fn unmap(&mut self) {
        self.window = None;
    }

    /// The bytes of a range, ready for a look. `None` if they have to be copied, or if that
    /// takes no longer. `check` makes sure that the file has them; nobody changes it after.
    pub fn ready<E>(
        &mut self,
        bytes: Range<u64>,
        check: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Option<Ready<'_>>, E> {
        if self.patience == 0 {
            self.unmap();
            return Ok(None);
        }
        let file = &self.file;
        if bytes.end.saturating_sub(bytes.start) < LEAST
            || !*self.is_leasable.get_or_insert_with(|| lease::bind_everybody(file))
            || !is_cached(file, bytes.end - 1)
        {
            return Ok(None);
        }
        let Some(lease) = Lease::take(file) else {
            self.patience -= 1;
            return Ok(None);
        };
        check(file)?;
        let holds = |window: &Window| window.holds(&bytes) && !window.watch.is_gone();
        if !self.window.as_ref().is_some_and(holds) {
            // Unmapped first, so that there is but one at a time.
            self.window = None;
            self.window = Window::new(file, &bytes);
            let large = |window: &Window| window.has_large_pages(&bytes);
            match self.window.as_ref().map_or(Some(false), large) {
                Some(false) => self.patience -= 1,
                Some(true) => self.patience = (self.patience + 1).min(2 * PATIENCE),
                None => {}
            }
        }
        Ok(self.window.as_ref().map(|window| Ready { window, lease, bytes }))
    }
}

/// Whether the byte at `offset` is in memory. What is not is better read: the system then reads
/// ahead more, and keeps it in larger pieces, than where it is asked by looking.
fn is_cached(file: &File, offset: u64) -> bool {
    let (mut byte, now) = ([0], ReadWriteFlags::NOWAIT);
    let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, now);
    // Some file systems cannot say.
    !matches!(read, Err(Errno::AGAIN))
}

/// Bytes that nobody can change until they have been looked at.
pub struct Ready<'m> {
    window: &'m Window,
    lease: Lease<'m>,
    bytes: Range<u64>,
}

impl Ready<'_> {
    /// Gives the bytes to `look`. `None` if they were lost meanwhile, and what was made of them
    /// is worth nothing.
    pub fn look<T>(self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let seen = look(self.window.bytes(&self.bytes));
        let is_true = self.lease.give_back() && !self.window.watch.is_gone();
        is_true.then_some(seen)
    }
}

/// A mapped part of a file.
struct Window {
    /// Dropped before the memory is unmapped.
    watch: Watch,
    memory: Memory,
    /// Which bytes of the file the memory is, or would be if it were as long.
    range: Range<u64>,
}

impl Window {
    /// Maps `bytes` and some after them.
    fn new(file: &File, bytes: &Range<u64>) -> Option<Window> {
        let start = bytes.start / ALIGNMENT * ALIGNMENT;
        let length = usize::try_from((bytes.end - start).max(WINDOW)).ok()?;
        let memory = Memory::map(file, start, length)?;
        let watch = Watch::new(memory.at.as_ptr() as usize, length)?;
        Some(Window { watch, memory, range: start..start + length as u64 })
    }

    fn holds(&self, bytes: &Range<u64>) -> bool {
        let Range { start, end } = self.range;
        start <= bytes.start && bytes.start <= bytes.end && bytes.end <= end
    }

    /// Whether the memory of `bytes` is mapped in large pages; to map small ones takes as long
    /// as to copy what is in them. `None` where these bytes do not tell.
    fn has_large_pages(&self, bytes: &Range<u64>) -> Option<bool> {
        let other = bytes.end.checked_sub(NEARBY).filter(|&other| other > bytes.start)?;
        if (other - 1) / ALIGNMENT != (bytes.end - 1) / ALIGNMENT {
            return None;
        }
        let touch = |end: u64| black_box(self.bytes(&(end - 1..end)).first().copied());
        touch(bytes.end);
        let faults = faults_so_far();
        touch(other);
        Some(faults_so_far() == faults)
    }

    /// The bytes of a range that the window holds, of a file that has them.
    fn bytes(&self, bytes: &Range<u64>) -> &[u8] {
        if !self.holds(bytes) {
            return &[];
        }
        let (offset, length) = (bytes.start - self.range.start, bytes.end - bytes.start);
        // SAFETY: this part of the memory is mapped for reading as long as `self` lives, and
        // lies in the file. Nobody writes to that under the lease that `Ready` has. Where one
        // is lost, `Watch` keeps the memory readable and `Ready::look` gives nothing.
        unsafe {
            let at = self.memory.at.add(offset as usize);
            std::slice::from_raw_parts(at.as_ptr(), length as usize)
        }
    }
}

/// How often this thread has touched memory that had yet to be mapped.
fn faults_so_far() -> libc::c_long {
    // SAFETY: zeros are a valid `rusage`, and the pointer is to one.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage.ru_minflt
    }
}

/// Mapped memory.
struct Memory {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: it is memory for reading, which is where it is for every thread.
unsafe impl Send for Memory {}

impl Memory {
    fn map(file: &File, start: u64, length: usize) -> Option<Memory> {
        let start = start.try_into().ok()?;
        // SAFETY: a mapping at an address of the system's choice touches no other.
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

    fn mapped(path: &Path) -> Mapped {
        Mapped::new(File::open(path).expect("opens"))
    }

    fn ready(mapped: &mut Mapped, bytes: Range<u64>) -> Option<Ready<'_>> {
        let ready: Result<_, Infallible> = mapped.ready(bytes, |_| Ok(()));
        match ready {
            Ok(ready) => ready,
            Err(never) => match never {},
        }
    }

    /// Whether this machine's directory of temporary files has leases; few have none.
    fn has_leases(path: &Path) -> bool {
        let file = File::open(path).expect("opens");
        let has = lease::bind_everybody(&file) && Lease::take(&file).is_some();
        if !has {
            eprintln!("no leases at {}: nothing is tested here", path.display());
        }
        has
    }

    #[test]
    fn bytes_are_seen_where_they_lie() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let mut mapped = mapped(&path);
        for bytes in [7..1_000_008, 5..LENGTH, 900_001..2_000_000, LENGTH - LEAST..LENGTH] {
            let expected: Vec<u8> = bytes.clone().map(|n| (n % 251) as u8).collect();
            let ready = ready(&mut mapped, bytes.clone()).expect("mapped");
            assert!(ready.look(|seen| seen == expected).expect("still there"), "{bytes:?}");
        }
        assert!(ready(&mut mapped, 0..LEAST - 1).is_none(), "too few");
    }

    #[test]
    fn who_wants_to_write_waits_for_the_end_of_a_look() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let has_written = AtomicBool::new(false);
        let mut mapped = mapped(&path);
        // After a first look, for that of a second lease is another signal unless it is asked
        // for anew, and it would end the process.
        let first = ready(&mut mapped, 0..LENGTH).expect("mapped");
        assert_eq!(first.look(<[u8]>::len), Some(LENGTH as usize));
        std::thread::scope(|scope| {
            let ready = ready(&mut mapped, 0..LENGTH).expect("mapped");
            let seen = ready.look(|bytes| {
                scope.spawn(|| {
                    File::create(&path).expect("opens, and cuts it off");
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
    fn a_file_that_is_written_to_is_not_looked_at() {
        let (_directory, path) = file();
        let mut mapped = mapped(&path);
        let writer = File::options().append(true).open(&path).expect("opens");
        for _ in 0..2 {
            assert!(ready(&mut mapped, 0..LENGTH).is_none());
        }
        drop(writer);
        if has_leases(&path) {
            assert!(ready(&mut mapped, 0..LENGTH).is_some());
        }
    }

    #[test]
    fn what_was_seen_without_a_lease_is_thrown_away() {
        let (_directory, path) = file();
        if !has_leases(&path) {
            return;
        }
        let mut mapped = mapped(&path);
        let ready = ready(&mut mapped, 0..LENGTH).expect("mapped");
        // As the system takes it away from who does not give it back in time.
        assert!(Lease::of(ready.lease.file()).give_back());
        assert_eq!(ready.look(<[u8]>::len), None);
    }

    #[test]
    fn memory_that_is_gone_reads_as_zeros_and_is_known_to_be() {
        let (_directory, path) = file();
        let file = File::open(&path).expect("opens");
        let bytes = LENGTH / 2..LENGTH;
        let other = Window::new(&file, &bytes).expect("mapped");
        let window = Window::new(&file, &bytes).expect("mapped");
        assert_eq!(window.bytes(&bytes).iter().max(), Some(&250));
        assert!(!window.watch.is_gone());
        File::options().write(true).open(&path).and_then(|f| f.set_len(1)).expect("cuts it off");
        assert_eq!(window.bytes(&bytes).iter().max(), Some(&0));
        assert!(window.watch.is_gone() && !other.watch.is_gone());
        // What comes to the same place is watched anew.
        drop((window, other));
        std::fs::write(&path, vec![1; LENGTH as usize]).expect("writes");
        let window = Window::new(&file, &bytes).expect("mapped");
        assert_eq!(window.bytes(&bytes).iter().min(), Some(&1));
        assert!(!window.watch.is_gone());
    }

    /// Runs itself once more, for it does not survive.
    #[test]
    fn other_faults_end_the_process_as_before() {
        const INSIDE: &str = "QUANTSCOPE_TEST_FAULT";
        let (_directory, path) = file();
        if std::env::var_os(INSIDE).is_none() {
            let name = "other_faults_end_the_process_as_before";
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
        File::options().write(true).open(&path).and_then(|f| f.set_len(0)).expect("cuts it off");
        assert_eq!(watched.bytes(&(0..LENGTH)).iter().max(), Some(&0));
        // SAFETY: it is not there, which is what this is about.
        let never = unsafe { memory.at.read_volatile() };
        unreachable!("read {never}");
    }
}
