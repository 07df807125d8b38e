//! AnalysisSpec that a job answers once, in the background.

use crate::app::Event;
use crate::job::{Job, News, Progress};

/// What is asked about; a new question takes the place of the last of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Values,
    Counts,
    Clip,
    Schemes,
    Channels,
    Duplicates,
    Diff,
    Report,
}

/// A question under way, whatever type its answer has. Dropping it cancels the job.
pub(super) trait Question {
    /// `Some` once the job is over: what to tell the state, if anything.
    fn poll(&mut self) -> Option<Option<Event>>;

    fn progress(&self) -> &Progress;
}

struct Asked<T, F> {
    job: Job<T>,
    /// What is said when the job ends without an answer.
    given_up: &'static str,
    tell: F,
}

/// A question that `job` answers and `tell` turns into an event.
pub(super) fn question<T: Send + 'static>(
    job: Job<T>,
    given_up: &'static str,
    tell: impl Fn(Result<T, String>) -> Option<Event> + 'static,
) -> Box<dyn Question> {
    Box::new(Asked { job, given_up, tell })
}

impl<T, F> Question for Asked<T, F>
where
    T: Send + 'static,
    F: Fn(Result<T, String>) -> Option<Event>,
{
    fn poll(&mut self) -> Option<Option<Event>> {
        let answer = match self.job.poll() {
            News::Finding(answer) => Ok(answer),
            News::Nothing => return None,
            News::Ended => Err(self.given_up.to_owned()),
            News::Panicked(why) => Err(why),
        };
        Some((self.tell)(answer))
    }

    fn progress(&self) -> &Progress {
        self.job.progress()
    }
}
