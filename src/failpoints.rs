//! Failpoints: places in the program that a test can make fail or panic.
//!
//! They exist only with the cargo feature `failpoints`, which this crate's own tests switch
//! on. Without it `reach` is an empty function and nothing can be armed. Any module may
//! import this one; it imports none.

#[cfg(not(feature = "failpoints"))]
use std::io;

/// A kind of step that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// A step of a save that changes the disk.
    Disk,
    /// A step of a scan's worker.
    Scan,
    /// A frame of the screen.
    Screen,
}

/// Called before each step at a failpoint.
///
/// # Errors
/// The armed operating system error, if a test armed one for this step.
///
/// # Panics
/// If a test armed a panic for this step.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) fn reach(_: Failpoint) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub(crate) use armed::reach;
#[cfg(feature = "failpoints")]
pub use armed::{ArmedFailure, Failure, arm, disarm};

#[cfg(feature = "failpoints")]
mod armed {
    use super::Failpoint;
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
    use std::sync::{Mutex, PoisonError};

    /// What happens at an armed step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Failure {
        /// The operating system reports this error number.
        OsError(i32),
        /// The thread panics.
        Panic,
    }

    /// A failure that will happen at one step of a failpoint.
    #[derive(Clone, Copy, Debug)]
    pub struct ArmedFailure {
        pub failpoint: Failpoint,
        /// The step at which it happens, counted from 0 since `arm`.
        pub step: u64,
        pub failure: Failure,
        /// Whether every later step fails too.
        pub repeats: bool,
    }

    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<Option<ArmedFailure>> = Mutex::new(None);
    static STEPS: AtomicU64 = AtomicU64::new(0);

    /// Arms a failure for the whole process and restarts the count of steps.
    pub fn arm(failure: ArmedFailure) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        STEPS.store(0, SeqCst);
        IS_ARMED.store(true, SeqCst);
    }

    /// Disarms, and returns the number of steps that were reached at the armed failpoint.
    pub fn disarm() -> u64 {
        IS_ARMED.store(false, SeqCst);
        STEPS.load(SeqCst)
    }

    pub(crate) fn reach(failpoint: Failpoint) -> io::Result<()> {
        if !IS_ARMED.load(SeqCst) {
            return Ok(());
        }
        let armed = *ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(armed) = armed.filter(|armed| armed.failpoint == failpoint) else {
            return Ok(());
        };
        let step = STEPS.fetch_add(1, SeqCst);
        let fails = step == armed.step || armed.repeats && step > armed.step;
        match armed.failure {
            _ if !fails => Ok(()),
            Failure::OsError(number) => Err(io::Error::from_raw_os_error(number)),
            Failure::Panic => std::panic::panic_any(format!("a test's panic at step {step}")),
        }
    }
}
