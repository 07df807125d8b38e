//! A SIGBUS handler for mapped memory that can no longer be read, because the disk failed or the
//! file was truncated.
//!
//! By default SIGBUS ends the process. If the fault is in a watched range, the handler replaces the
//! whole range with zeros, so that the interrupted read continues. The reader then asks
//! [`Watch::is_lost`] and discards what it read. Faults elsewhere go to the handler that was
//! installed before.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Number of ranges that can be watched at the same time: several per thread on a large machine.
const MAX_WATCHES: usize = 512;

/// Unit of the addresses and lengths in a slot: the smallest page size.
const PAGE_BYTES: u64 = 4096;

/// Bits of a slot's `range` that hold the length. Address and length share one atomic, so that the
/// signal handler never sees one of them without the other.
const LENGTH_BITS: u32 = 19;

static WATCHED: [WatchSlot; MAX_WATCHES] = [const { WatchSlot::free() }; MAX_WATCHES];

/// The action for SIGBUS before ours was installed; `None` if installing it failed.
static PREVIOUS_ACTION: OnceLock<Option<libc::sigaction>> = OnceLock::new();

struct WatchSlot {
    /// Address and length, packed; 0 if the slot is free.
    range: AtomicU64,
    is_lost: AtomicBool,
}

impl WatchSlot {
    const fn free() -> WatchSlot {
        WatchSlot { range: AtomicU64::new(0), is_lost: AtomicBool::new(false) }
    }

    /// Returns address and length in bytes.
    fn range(&self) -> (u64, u64) {
        let packed = self.range.load(SeqCst);
        ((packed >> LENGTH_BITS) * PAGE_BYTES, (packed & ((1 << LENGTH_BITS) - 1)) * PAGE_BYTES)
    }
}

/// Watches a mapped range. Must be dropped before the range is unmapped.
pub(super) struct Watch {
    slot: &'static WatchSlot,
}

impl Watch {
    /// Watches the mapping of `length` bytes at `address`. Returns `None` if the handler cannot be
    /// installed, the range is too long or all slots are taken.
    pub(super) fn new(address: usize, length: usize) -> Option<Watch> {
        if !is_installed() {
            return None;
        }
        let (address, length) = (address as u64, (length as u64).div_ceil(PAGE_BYTES));
        if !address.is_multiple_of(PAGE_BYTES) || length >> LENGTH_BITS != 0 {
            return None;
        }
        let packed = (address / PAGE_BYTES) << LENGTH_BITS | length;
        let is_taken =
            |slot: &&WatchSlot| slot.range.compare_exchange(0, packed, SeqCst, SeqCst).is_ok();
        WATCHED.iter().find(is_taken).map(|slot| Watch { slot })
    }

    /// Returns whether the range was replaced with zeros.
    pub(super) fn is_lost(&self) -> bool {
        self.slot.is_lost.load(SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.is_lost.store(false, SeqCst);
        self.slot.range.store(0, SeqCst);
    }
}

/// Installs the signal handler on the first call. Returns whether it is installed.
fn is_installed() -> bool {
    let install = || {
        // SAFETY: zeros are a valid `sigaction`, and the pointers are to values that outlive the
        // call. The handler is async-signal-safe, see there.
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            // Like the standard library's handler, use the thread's alternate signal stack.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            let done = libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous);
            (done == 0).then_some(previous)
        }
    };
    PREVIOUS_ACTION.get_or_init(install).is_some()
}

/// Handles SIGBUS in the faulting thread. Takes no lock and does not allocate: it only uses atomics
/// and system calls, as a signal handler must.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the system passes a valid `siginfo_t`.
    let (at, code) = unsafe { ((*info).si_addr() as u64, (*info).si_code) };
    // A process can also send the signal; then there is no address.
    let is_fault = code > 0;
    let contains_fault = |slot: &&WatchSlot| {
        let (address, length) = slot.range();
        at.checked_sub(address).is_some_and(|offset| offset < length)
    };
    if is_fault && let Some(slot) = WATCHED.iter().find(contains_fault) {
        let (address, length) = slot.range();
        // SAFETY: a watched range is one of our own read-only mappings, and every reference to it
        // is to readable bytes. They stay readable.
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
            slot.is_lost.store(true, SeqCst);
            return;
        }
    }
    // Restore the previous action. When the handler returns, the instruction faults again.
    let previous = PREVIOUS_ACTION.get().and_then(Option::as_ref);
    // SAFETY: the action came from `sigaction`, or is all zeros, which is the default action.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, previous.unwrap_or(&default), ptr::null_mut());
        if !is_fault {
            libc::raise(signal);
        }
    }
}
