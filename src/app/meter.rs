//! The progress and the speed of a job.

use std::collections::VecDeque;
use std::time::Duration;

/// The progress of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meter {
    /// Units of work that are done.
    pub done: u64,
    /// All units of work.
    pub total: u64,
    /// Time since the start.
    pub elapsed: Duration,
    /// Bytes per second over the last seconds, once a [`RateTracker`] has measured it.
    pub rate: Option<f64>,
}

impl Meter {
    /// The share that is done, from 0 to 1.
    pub fn share(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => (self.done as f64 / total as f64).min(1.0),
        }
    }

    /// Bytes per second over the last seconds, or since the start if that is not known.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        let average = if seconds > 0.0 { self.done as f64 / seconds } else { 0.0 };
        self.rate.unwrap_or(average)
    }

    /// The time left at that rate.
    pub fn left(&self) -> Option<Duration> {
        let rest = self.total.saturating_sub(self.done) as f64;
        Duration::try_from_secs_f64(rest / self.rate()).ok()
    }
}

/// The time a rate is averaged over: long enough not to flicker, short enough to follow a disk
/// that slows down.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// No rate is computed over a shorter time.
const MIN_RATE_SPAN: Duration = Duration::from_millis(300);

/// The recent progress of one job.
#[derive(Clone, Debug, Default)]
pub struct RateTracker {
    seen: VecDeque<(Duration, u64)>,
}

impl RateTracker {
    /// Returns the meter with its rate over the last seconds.
    pub fn update(&mut self, meter: Meter) -> Meter {
        if self.seen.back().is_some_and(|&(at, done)| at > meter.elapsed || done > meter.done) {
            // A new job has started.
            self.seen.clear();
        }
        self.seen.push_back((meter.elapsed, meter.done));
        while self
            .seen
            .get(1)
            .is_some_and(|&(at, _)| meter.elapsed.saturating_sub(at) >= RATE_WINDOW)
        {
            self.seen.pop_front();
        }
        let rate = self.seen.front().and_then(|&(at, done)| {
            let span = meter.elapsed.saturating_sub(at);
            (span >= MIN_RATE_SPAN).then(|| (meter.done - done) as f64 / span.as_secs_f64())
        });
        Meter { rate, ..meter }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(millis: u64, done: u64) -> Meter {
        let elapsed = Duration::from_millis(millis);
        Meter { done, total: 10_000_000, elapsed, rate: None }
    }

    #[test]
    fn the_rate_is_averaged_over_the_last_seconds() {
        let mut tracker = RateTracker::default();
        let first = tracker.update(meter(100, 1_000_000));
        assert_eq!((first.rate, first.rate()), (None, 10_000_000.0));
        for second in 1..=10 {
            tracker.update(meter(100 + second * 1000, 1_000_000 + second * 1000));
        }
        let slow = tracker.update(meter(11_100, 1_011_000));
        assert_eq!(slow.rate(), 1000.0);
        assert_eq!(slow.left(), Some(Duration::from_secs(8989)));
        let other = tracker.update(meter(10, 500));
        assert_eq!(other.rate, None);
    }

    #[test]
    fn a_stalled_job_has_no_remaining_time() {
        let mut tracker = RateTracker::default();
        for second in 0..5 {
            tracker.update(meter(second * 1000, 7));
        }
        assert_eq!(tracker.update(meter(5000, 7)).left(), None);
    }
}
