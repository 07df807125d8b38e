//! An answer that a job computes, together with the request it answers.

/// The latest answer, and the request that is still running.
///
/// A view asks for what it shows with every frame; [`Fetched::request`] says once what has to
/// be requested, and [`Fetched::receive`] drops answers that are no longer wanted.
#[derive(Debug)]
pub(crate) struct Fetched<K, T> {
    requested: Option<K>,
    answer: Option<(K, Result<T, String>)>,
}

impl<K, T> Default for Fetched<K, T> {
    fn default() -> Self {
        Fetched { requested: None, answer: None }
    }
}

impl<K: Clone + PartialEq, T> Fetched<K, T> {
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

    /// The latest answer, if its request is one that `fits`; `Err` says why it failed.
    pub(crate) fn answer(&self, fits: impl FnOnce(&K) -> bool) -> Option<Result<&T, &str>> {
        let (request, answer) = self.answer.as_ref()?;
        fits(request).then(|| answer.as_ref().map_err(String::as_str))
    }

    /// Drops the answer and the running request.
    pub(crate) fn forget(&mut self) {
        *self = Fetched::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_once_and_outdated_answers_are_dropped() {
        let mut fetched: Fetched<u32, &str> = Fetched::default();
        assert_eq!(fetched.request(1), Some(1));
        assert_eq!(fetched.request(1), None);
        assert_eq!(fetched.request(2), Some(2));
        fetched.receive(1, Ok("outdated"));
        assert_eq!(fetched.answer(|_| true), None);
        fetched.receive(2, Ok("latest"));
        assert_eq!(fetched.request(2), None);
        assert_eq!(fetched.answer(|request| *request == 2), Some(Ok(&"latest")));
        assert_eq!(fetched.answer(|request| *request == 1), None);
        fetched.forget();
        assert_eq!(fetched.request(2), Some(2));
    }
}
