//! Ctrl-C and `kill`: the first asks the work to stop, the second ends the program.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// What the signals have said since the program started.
#[derive(Debug)]
pub(super) struct Interrupt {
    /// The signal that asked to stop, or 0.
    asked: Arc<AtomicUsize>,
    /// Whether the next signal ends the program where it stands.
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> io::Result<&'static Interrupt> {
        static LISTENING: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = LISTENING.get() {
            return Ok(interrupt);
        }
        let interrupt = Interrupt { asked: Arc::default(), at_once: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the signal that sets `at_once` does not yet act on it.
            flag::register_conditional_shutdown(signal, 128 + signal, interrupt.at_once.clone())?;
            flag::register_usize(signal, interrupt.asked.clone(), signal as usize)?;
            flag::register(signal, interrupt.at_once.clone())?;
        }
        Ok(LISTENING.get_or_init(|| interrupt))
    }

    /// The signal that asked to stop.
    pub(super) fn signal(&self) -> Option<u8> {
        u8::try_from(self.asked.load(SeqCst)).ok().filter(|&signal| signal != 0)
    }

    /// Whether there is nothing to clean up, so that a signal may end the program at once.
    pub(super) fn end_at_once(&self, at_once: bool) {
        if self.signal().is_none() {
            self.at_once.store(at_once, SeqCst);
        }
    }
}
