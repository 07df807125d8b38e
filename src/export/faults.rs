//! A seam for tests: a disk that fails, or a thread that panics, when they say so. Nothing
//! is armed unless a test of this crate's library arms it; until then it is one look at a
//! flag.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// Where something can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each step of a save that changes the disk.
    Disk,
    /// Each step of a scan's worker.
    Scan,
    /// Each frame of the screen.
    Screen,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The system says no, with this number.
    Error(i32),
    Panic,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub place: Place,
    /// Counted from 0 since it was armed.
    pub step: u64,
    pub how: How,
    /// Whether every later step fails too.
    pub lasting: bool,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static FAULT: Mutex<Option<Fault>> = Mutex::new(None);
static STEPS: AtomicU64 = AtomicU64::new(0);

/// Counts from 0 on, and fails as told.
pub fn arm(fault: Fault) {
    *FAULT.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    STEPS.store(0, SeqCst);
    ARMED.store(true, SeqCst);
}

/// Back to how things are; gives the steps taken at the armed place.
pub fn disarm() -> u64 {
    ARMED.store(false, SeqCst);
    STEPS.load(SeqCst)
}

/// A step is about to be taken.
pub(crate) fn reach(place: Place) -> io::Result<()> {
    if !ARMED.load(SeqCst) {
        return Ok(());
    }
    let armed = *FAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(fault) = armed.filter(|fault| fault.place == place) else { return Ok(()) };
    let step = STEPS.fetch_add(1, SeqCst);
    let fails = step == fault.step || fault.lasting && step > fault.step;
    match fault.how {
        _ if !fails => Ok(()),
        How::Error(number) => Err(io::Error::from_raw_os_error(number)),
        How::Panic => std::panic::panic_any(format!("a test's panic at step {step}")),
    }
}
