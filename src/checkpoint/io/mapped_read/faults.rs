//! Mapped memory that is gone: a disk that fails, or a file that was cut off all the same.
//!
//! The system tells by SIGBUS, which ends a process. Where it is in watched memory, all of that
//! becomes zeros instead: whoever reads there goes on, and can ask afterwards. Elsewhere happens
//! what happened before.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Ranges that can be watched at the same time: several for each thread of a large machine.
const PLACES: usize = 512;

/// Addresses and lengths are kept in units of the smallest page there is.
const UNIT: u64 = 4096;

/// How a place keeps both in one number, so that nobody sees halves of two.
const LENGTH_BITS: u32 = 19;

static WATCHED: [Place; PLACES] = [const { Place::free() }; PLACES];

/// What was done with the signal before it was handled here; `None` if it cannot be.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

struct Place {
    /// 0 if it is free.
    range: AtomicU64,
    is_gone: AtomicBool,
}

impl Place {
    const fn free() -> Place {
        Place { range: AtomicU64::new(0), is_gone: AtomicBool::new(false) }
    }

    /// Address and length in bytes.
    fn range(&self) -> (u64, u64) {
        let packed = self.range.load(SeqCst);
        ((packed >> LENGTH_BITS) * UNIT, (packed & ((1 << LENGTH_BITS) - 1)) * UNIT)
    }
}

/// A mapped range that is watched until this is dropped, which must be before it is unmapped.
pub(super) struct Watch {
    place: &'static Place,
}

impl Watch {
    /// Watches the mapping of `length` bytes at `address`; `None` if it cannot.
    pub(super) fn new(address: usize, length: usize) -> Option<Watch> {
        if !is_installed() {
            return None;
        }
        let (address, length) = (address as u64, (length as u64).div_ceil(UNIT));
        if !address.is_multiple_of(UNIT) || length >> LENGTH_BITS != 0 {
            return None;
        }
        let packed = (address / UNIT) << LENGTH_BITS | length;
        let is_taken =
            |place: &&Place| place.range.compare_exchange(0, packed, SeqCst, SeqCst).is_ok();
        WATCHED.iter().find(is_taken).map(|place| Watch { place })
    }

    /// Whether zeros are in its place now.
    pub(super) fn is_gone(&self) -> bool {
        self.place.is_gone.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.place.is_gone.store(false, SeqCst);
        self.place.range.store(0, SeqCst);
    }
}

/// Sees to it that the signal is handled.
fn is_installed() -> bool {
    let install = || {
        // SAFETY: zeros are a valid `sigaction`; the pointers are to values that outlive the
        // call. The handler does only what one may: see there.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            // On the thread's own stack for signals, as the handler before it.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            let done = libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before);
            (done == 0).then_some(before)
        }
    };
    BEFORE.get_or_init(install).is_some()
}

/// Runs in the thread that read, at the instruction that did. It takes no lock and asks for no
/// memory: it reads and sets atomics, and makes system calls.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system gives a handler with SA_SIGINFO a valid one.
    let (at, code) = unsafe { ((*info).si_addr() as u64, (*info).si_code) };
    // Others than the system may send it, and then there is no address.
    let is_fault = code > 0;
    let is_there = |place: &&Place| {
        let (address, length) = place.range();
        at.checked_sub(address).is_some_and(|offset| offset < length)
    };
    if is_fault && let Some(place) = WATCHED.iter().find(is_there) {
        let (address, length) = place.range();
        // SAFETY: the range is watched, so it is a mapping of ours, of which every reference
        // is to bytes that may be read; after this they still may.
        let zeros = unsafe {
            libc::mmap(
                address as *mut libc::c_void,
                length as usize,
                libc::PROT_READ,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if zeros != libc::MAP_FAILED {
            place.is_gone.store(true, SeqCst);
            return;
        }
    }
    // What was before it meets the fault again when this returns.
    let before = BEFORE.get().and_then(Option::as_ref);
    // SAFETY: the action came from the system; without one there is a pointer to zeros, which
    // stand for what happens by default.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, before.unwrap_or(&default), ptr::null_mut());
        if !is_fault {
            libc::raise(signal);
        }
    }
}
