//! Folds results in a fixed order, whatever order they arrive in, so that sums are the same
//! for any number of threads.

use std::collections::BTreeMap;

/// Folds items in the order of their index. Items that arrive early wait for those before them.
pub(super) struct OrderedFold<T, A> {
    next: u64,
    early: BTreeMap<u64, T>,
    folded: Option<A>,
}

impl<T, A> OrderedFold<T, A> {
    pub(super) fn new(start: A) -> Self {
        OrderedFold { next: 0, early: BTreeMap::new(), folded: Some(start) }
    }

    /// Adds item `k`. Returns the result once all `count` items were added.
    pub(super) fn add(
        &mut self,
        k: u64,
        item: T,
        count: u64,
        fold: impl Fn(&mut A, T),
    ) -> Option<A> {
        self.early.insert(k, item);
        while let Some(item) = self.early.remove(&self.next) {
            if let Some(folded) = &mut self.folded {
                fold(folded, item);
            }
            self.next += 1;
        }
        if self.next == count { self.folded.take() } else { None }
    }

    /// Adds several items like [`OrderedFold::add`].
    pub(super) fn add_all(
        &mut self,
        items: impl Iterator<Item = (u64, T)>,
        count: u64,
        fold: impl Fn(&mut A, T),
    ) -> Option<A> {
        items.fold(None, |whole, (k, item)| self.add(k, item, count, &fold).or(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_folded_in_their_order() {
        let mut all = OrderedFold::new(String::new());
        let mut add =
            |k, item| all.add(k, item, 4, |all: &mut String, item: &str| all.push_str(item));
        assert_eq!([add(2, "c"), add(0, "a"), add(3, "d")], [None, None, None]);
        assert_eq!(add(1, "b").as_deref(), Some("abcd"));
    }
}
