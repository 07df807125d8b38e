//! Ctrl+C and `kill`: the first signal cancels the job, the second ends the process.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Whether a signal has arrived since the program started.
#[derive(Debug)]
pub(super) struct Interrupt {
    /// The signal that arrived, or 0.
    asked: Arc<AtomicUsize>,
    /// Whether the next signal ends the process immediately.
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Installs the signal handlers once.
    pub(super) fn listen() -> io::Result<&'static Interrupt> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = LISTENING.get() {
            return Ok(interrupt);
        }
        let interrupt = Interrupt { asked: Arc::default(), at_once: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the first signal sets `at_once` after it was checked.
            flag::register_conditional_shutdown(signal, 128 + signal, interrupt.at_once.clone())?;
            flag::register_usize(signal, interrupt.asked.clone(), signal as usize)?;
            flag::register(signal, interrupt.at_once.clone())?;
        }
        Ok(LISTENING.get_or_init(|| interrupt))
    }

    /// The signal that arrived.
    pub(super) fn signal(&self) -> Option<u8> {
        u8::try_from(self.asked.load(SeqCst)).ok().filter(|&signal| signal != 0)
    }

    /// Sets whether a signal may end the process immediately, because nothing needs cleaning up.
    pub(super) fn end_at_once(&self, at_once: bool) {
        if self.signal().is_none() {
            self.at_once.store(at_once, SeqCst);
        }
    }
}
