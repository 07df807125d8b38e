//! Failpoints: steps of the program that a test can make fail or panic.
//!
//! They exist only with the cargo feature `failpoints`, which this crate's own tests enable.
//! Without it `reach` is an empty function and nothing can be armed. Any module may import this
//! one; it imports none.

#[cfg(not(feature = "failpoints"))]
use std::io;

/// A step that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// A change of the disk during a save.
    Disk,
    /// A unit of work of a scan's worker.
    Scan,
    /// Drawing a frame of the screen.
    Screen,
}

/// Called before each step of a failpoint.
///
/// # Errors
///
/// The operating system error that a test armed for this step.
///
/// # Panics
///
/// A test armed a panic for this step.
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

    /// The effect of an armed step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Failure {
        /// The operating system reports the given error number.
        OsError(i32),
        /// The thread panics.
        Panic,
    }

    /// A failure at one step of a failpoint.
    #[derive(Clone, Copy, Debug)]
    pub struct ArmedFailure {
        pub failpoint: Failpoint,
        /// The number of the step since `arm`, from 0.
        pub step: u64,
        pub failure: Failure,
        /// Whether all later steps fail too.
        pub repeats: bool,
    }

    static IS_ARMED: AtomicBool = AtomicBool::new(false);
    static ARMED: Mutex<Option<ArmedFailure>> = Mutex::new(None);
    static STEPS: AtomicU64 = AtomicU64::new(0);

    /// Arms a failure for the whole process and resets the count of steps.
    pub fn arm(failure: ArmedFailure) {
        *ARMED.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
        STEPS.store(0, SeqCst);
        IS_ARMED.store(true, SeqCst);
    }

    /// Disarms, and returns the number of steps reached at the armed failpoint.
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
