//! The answer of a job, together with the request it answers.

/// The latest answer, and the request that is still running.
///
/// A view calls [`JobAnswer::request`] with every frame, which returns each request only once.
/// [`JobAnswer::receive`] drops answers that are outdated.
#[derive(Debug)]
pub(crate) struct JobAnswer<K, T> {
    requested: Option<K>,
    answer: Option<(K, Result<T, String>)>,
}

impl<K, T> Default for JobAnswer<K, T> {
    fn default() -> Self {
        JobAnswer { requested: None, answer: None }
    }
}

impl<K: Clone + PartialEq, T> JobAnswer<K, T> {
    /// The request to send now; `None` if it is running or answered already.
    pub(crate) fn request(&mut self, request: K) -> Option<K> {
        let wanted = request.clone();
        self.request_unless(request, |known| *known == wanted)
    }

    /// The request to send now; `None` if a running or answered request `covers` it.
    pub(crate) fn request_unless(&mut self, request: K, covers: impl Fn(&K) -> bool) -> Option<K> {
        let answered = self.answer.as_ref().map(|(request, _)| request);
        if answered.into_iter().chain(&self.requested).any(covers) {
            return None;
        }
        self.requested = Some(request.clone());
        Some(request)
    }

    /// Keeps an answer if it answers the latest request.
    pub(crate) fn receive(&mut self, request: K, answer: Result<T, String>) {
        if self.requested.as_ref() == Some(&request) {
            self.requested = None;
            self.answer = Some((request, answer));
        }
    }

    /// The latest answer, if its request `fits`; `Err` says why it failed.
    pub(crate) fn answer(&self, fits: impl FnOnce(&K) -> bool) -> Option<Result<&T, &str>> {
        let (request, answer) = self.answer.as_ref()?;
        fits(request).then(|| answer.as_ref().map_err(String::as_str))
    }

    /// Drops the answer and the running request.
    pub(crate) fn clear(&mut self) {
        *self = JobAnswer::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_once_and_outdated_answers_are_dropped() {
        let mut answer: JobAnswer<u32, &str> = JobAnswer::default();
        assert_eq!(answer.request(1), Some(1));
        assert_eq!(answer.request(1), None);
        assert_eq!(answer.request(2), Some(2));
        answer.receive(1, Ok("outdated"));
        assert_eq!(answer.answer(|_| true), None);
        answer.receive(2, Ok("latest"));
        assert_eq!(answer.request(2), None);
        assert_eq!(answer.answer(|request| *request == 2), Some(Ok(&"latest")));
        assert_eq!(answer.answer(|request| *request == 1), None);
        answer.clear();
        assert_eq!(answer.request(2), Some(2));
    }
}
