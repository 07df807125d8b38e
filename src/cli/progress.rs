//! The progress line on standard error: bytes, bytes per second and the time left.

use crate::job::Progress;
use crate::text::figures;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// A line that is redrawn in place and erased at the end.
#[derive(Debug)]
pub(super) struct ProgressLine {
    enabled: bool,
    drawn: Option<Instant>,
}

/// How often the line is redrawn.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Jobs shorter than this show no progress.
const DELAY: Duration = Duration::from_millis(300);

impl ProgressLine {
    pub(super) fn new(quiet: bool) -> ProgressLine {
        ProgressLine { enabled: !quiet && stderr().is_terminal(), drawn: None }
    }

    /// Redraws the line if it is due.
    pub(super) fn draw(&mut self, doing: &str, progress: &Progress) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW_INTERVAL);
        if !self.enabled || !due || progress.elapsed() < DELAY {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(doing, progress.done(), progress.total(), progress.elapsed());
        // Failing to show progress is not an error.
        let _ = write!(stderr(), "\r\x1b[2K{line}");
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }
}

fn line(doing: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64();
    let mut line = format!(
        "{doing}  {} of {}  {}",
        figures::bytes(done),
        figures::bytes(total),
        figures::rate(rate)
    );
    if total > done && rate > 0.0 {
        let left = ((total - done) as f64 / rate).ceil() as u64;
        line += &match left {
            0..60 => format!("  ETA {left} s"),
            _ => format!("  ETA {}:{:02} min", left / 60, left % 60),
        };
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_bytes_rate_and_remaining_time() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("measuring", 2_000_000_000, 8_000_000_000, second),
            "measuring  2.00 GB of 8.00 GB  2.00 GB/s  ETA 3 s"
        );
        assert_eq!(
            line("writing", 1_000_000_000, 91_000_000_000, second),
            "writing  1.00 GB of 91.0 GB  1.00 GB/s  ETA 1:30 min"
        );
        assert_eq!(line("writing", 0, 0, second), "writing  0 B of 0 B  0 B/s");
    }
}
