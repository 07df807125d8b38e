//! Signals, as flags that the event loop reads.

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTSTP};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// The signals that ask the program to end.
#[cfg(unix)]
const END_SIGNALS: &[i32] = &[SIGTERM, SIGINT, SIGHUP, SIGQUIT];
#[cfg(not(unix))]
const END_SIGNALS: &[i32] = &[SIGTERM, SIGINT];

/// What a terminal that hung up is reported as.
#[cfg(unix)]
const HANG_UP: i32 = SIGHUP;
#[cfg(not(unix))]
const HANG_UP: i32 = SIGTERM;

/// Signals received since the program started.
pub(super) struct Signals {
    /// The number of the signal that asked the program to end; 0 if none did.
    end: Arc<AtomicUsize>,
    suspend: Arc<AtomicBool>,
}

impl Signals {
    /// Registers handlers for all signals.
    pub(super) fn register() -> std::io::Result<Signals> {
        let signals = Signals { end: Arc::default(), suspend: Arc::default() };
        let received = Arc::new(AtomicBool::new(false));
        for &signal in END_SIGNALS {
            // A second signal ends the process even if the event loop is stuck.
            signal_hook::flag::register_conditional_default(signal, received.clone())?;
            signal_hook::flag::register(signal, received.clone())?;
            signal_hook::flag::register_usize(signal, signals.end.clone(), signal as usize)?;
        }
        #[cfg(unix)]
        signal_hook::flag::register(SIGTSTP, signals.suspend.clone())?;
        Ok(signals)
    }

    /// Records that the terminal has hung up, as if a signal had reported it.
    pub(super) fn hang_up(&self) {
        let _ = self.end.compare_exchange(0, HANG_UP as usize, Relaxed, Relaxed);
    }

    /// The signal that asked the program to end.
    pub(super) fn end(&self) -> Option<i32> {
        match self.end.load(Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Whether the program was asked to suspend since the last call.
    pub(super) fn take_suspend(&self) -> bool {
        self.suspend.swap(false, Relaxed)
    }
}
