//! Undo and redo for values that are cheap to clone.

/// The states before and after the current one.
#[derive(Clone, Debug, Default)]
pub struct History<T> {
    past: Vec<T>,
    future: Vec<T>,
}

impl<T: Clone + PartialEq> History<T> {
    /// Records `before`, the state that a change replaces, and drops the states to redo.
    pub fn record(&mut self, before: T) {
        self.past.push(before);
        self.future.clear();
    }

    /// Replaces `present` with the previous state. Returns false if there is nothing to undo.
    pub fn undo(&mut self, present: &mut T) -> bool {
        Self::step(&mut self.past, &mut self.future, present)
    }

    /// Replaces `present` with the state that was undone last. Returns false if there is nothing
    /// to redo.
    pub fn redo(&mut self, present: &mut T) -> bool {
        Self::step(&mut self.future, &mut self.past, present)
    }

    fn step(from: &mut Vec<T>, to: &mut Vec<T>, present: &mut T) -> bool {
        match from.pop() {
            Some(other) => {
                to.push(std::mem::replace(present, other));
                true
            }
            None => false,
        }
    }

    /// The number of changes that can be undone and redone.
    pub fn depth(&self) -> (usize, usize) {
        (self.past.len(), self.future.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undo_and_redo_restore_the_states_in_order() {
        let (mut history, mut now) = (History::default(), 1);
        for next in [2, 3] {
            history.record(now);
            now = next;
        }
        assert!(history.undo(&mut now) && history.undo(&mut now) && !history.undo(&mut now));
        assert_eq!(now, 1);
        assert!(history.redo(&mut now));
        assert_eq!(now, 2);
        history.record(now);
        now = 9;
        assert!(!history.redo(&mut now));
        assert_eq!((now, history.depth()), (9, (2, 0)));
    }
}
