//! A map from tensors to quantizers with copy-on-write pages. Every undo step keeps a whole
//! plan, which may cover 100,000 tensors, so clones must be cheap.

use crate::quantization::Quantizer;
use crate::tensor::TensorId;
use rayon::prelude::*;
use std::sync::Arc;

/// Tensors per page.
const TENSORS_PER_PAGE: usize = 256;

/// Pages per parallel task: one page has too little work for a task of its own.
const PAGES_PER_TASK: usize = 16;

type Page = [Option<Quantizer>; TENSORS_PER_PAGE];

/// The page of tensors of which none was ever chosen.
static EMPTY_PAGE: Page = [None; TENSORS_PER_PAGE];

/// The chosen quantizers, in the order of the tensors.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Choices {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: TensorId) -> Option<Quantizer> {
        let page = self.pages.get(id.index() / TENSORS_PER_PAGE)?;
        *page.get(id.index() % TENSORS_PER_PAGE)?
    }

    pub(super) fn insert(&mut self, id: TensorId, quantizer: Quantizer) {
        self.reach(id);
        self.set(id, Some(quantizer));
    }

    /// Adds empty pages up to that of a tensor.
    fn reach(&mut self, id: TensorId) {
        let pages = id.index() / TENSORS_PER_PAGE + 1;
        if self.pages.len() < pages {
            self.pages.resize(pages, Arc::new(EMPTY_PAGE));
        }
    }

    pub(super) fn remove(&mut self, id: TensorId) {
        self.set(id, None);
    }

    fn set(&mut self, id: TensorId, choice: Option<Quantizer>) {
        let before = self.get(id);
        if before == choice {
            return;
        }
        let page = self.pages.get_mut(id.index() / TENSORS_PER_PAGE).map(Arc::make_mut);
        if let Some(place) = page.and_then(|page| page.get_mut(id.index() % TENSORS_PER_PAGE)) {
            *place = choice;
            self.len = self.len - usize::from(before.is_some()) + usize::from(choice.is_some());
        }
    }

    /// Gives each of `ids` the choice that `choose` returns for its present choice. Runs on all
    /// cores.
    pub(super) fn update(
        &mut self,
        ids: &[TensorId],
        choose: impl Fn(TensorId, Option<Quantizer>) -> Option<Quantizer> + Sync,
    ) {
        let Some(&last) = ids.iter().max() else { return };
        self.reach(last);
        let mut is_wanted = vec![false; self.pages.len() * TENSORS_PER_PAGE];
        ids.iter().for_each(|id| is_wanted[id.index()] = true);
        let wanted = is_wanted.par_chunks(TENSORS_PER_PAGE);
        let pages = self.pages.par_iter_mut().zip(wanted).enumerate();
        let lens = pages.with_min_len(PAGES_PER_TASK).map(|(number, (page, wanted))| {
            if wanted.contains(&true) {
                let mut next = **page;
                let ids = ids_of_page(number).zip(wanted).zip(&mut next);
                for ((id, _), choice) in ids.filter(|((_, wanted), _)| **wanted) {
                    *choice = choose(id, *choice);
                }
                if next != **page {
                    *page = Arc::new(next);
                }
            }
            page.iter().flatten().count()
        });
        self.len = lens.sum();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        let choices = self.pages.iter().flat_map(|page| page.iter());
        (0..).map(TensorId).zip(choices).filter_map(|(id, choice)| Some((id, (*choice)?)))
    }

    /// Computes something of the choices of each page, on all cores.
    pub(super) fn map_pages<T: Send>(
        &self,
        map: impl Fn(&mut dyn Iterator<Item = (TensorId, Quantizer)>) -> T + Sync,
    ) -> Vec<T> {
        let pages = self.pages.par_iter().enumerate().with_min_len(PAGES_PER_TASK);
        let chosen = pages.map(|(number, page)| {
            let chosen = ids_of_page(number).zip(page.iter());
            map(&mut chosen.filter_map(|(id, choice)| Some((id, (*choice)?))))
        });
        chosen.collect()
    }

    /// The tensors whose quantizer differs between `self` and `other`.
    pub(super) fn differing<'c>(
        &'c self,
        other: &'c Choices,
    ) -> impl ParallelIterator<Item = TensorId> {
        let pages = (0..self.pages.len().max(other.pages.len())).into_par_iter();
        pages.with_min_len(PAGES_PER_TASK).flat_map_iter(|number| {
            let (this, other) = (self.page(number), other.page(number));
            // Plans share the pages in which they do not differ.
            let compared = if std::ptr::eq(this, other) { 0 } else { TENSORS_PER_PAGE };
            let pairs = ids_of_page(number).zip(this.iter().zip(other)).take(compared);
            pairs.filter(|(_, (this, other))| this != other).map(|(id, _)| id)
        })
    }

    fn page(&self, number: usize) -> &Page {
        self.pages.get(number).map_or(&EMPTY_PAGE, |page| page)
    }
}

/// The tensors of a page, and all that follow.
fn ids_of_page(number: usize) -> impl Iterator<Item = TensorId> {
    (number * TENSORS_PER_PAGE..).map(|id| TensorId(id as u32))
}

impl PartialEq for Choices {
    fn eq(&self, other: &Choices) -> bool {
        let same_page = |number| {
            let (this, other) = (self.page(number), other.page(number));
            std::ptr::eq(this, other) || this == other
        };
        self.len == other.len && (0..self.pages.len().max(other.pages.len())).all(same_page)
    }
}

impl FromIterator<(TensorId, Quantizer)> for Choices {
    fn from_iter<I: IntoIterator<Item = (TensorId, Quantizer)>>(chosen: I) -> Choices {
        let mut choices = Choices::default();
        chosen.into_iter().for_each(|(id, quantizer)| choices.insert(id, quantizer));
        choices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{Calibration, QuantizationScheme};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn quantizer(kind: u8) -> Option<Quantizer> {
        let by = |scheme| Some(Quantizer { calibration: Calibration::MinMax, scheme });
        match kind {
            0 => None,
            1 => by(QuantizationScheme::PER_TENSOR),
            _ => by(QuantizationScheme::PER_CHANNEL),
        }
    }

    proptest! {
        /// Compares the map with a `BTreeMap`, also after copies have diverged.
        #[test]
        fn choices_behave_like_a_map(
            steps in prop::collection::vec((0..600u32, 0..4u8, any::<bool>()), 0..60),
        ) {
            let (mut choices, mut map) = (Choices::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for (id, kind, keep) in steps {
                let id = TensorId(id);
                if kind == 3 {
                    // Inverts all marks from the tensor on.
                    let ids: Vec<TensorId> = (id.0..600).rev().map(TensorId).collect();
                    choices.update(&ids, |_, choice| choice.xor(quantizer(1)));
                    for id in ids {
                        if map.remove(&id).is_none() {
                            map.insert(id, quantizer(1).expect("a choice"));
                        }
                    }
                    continue;
                }
                match quantizer(kind) {
                    Some(quantizer) => {
                        choices.insert(id, quantizer);
                        map.insert(id, quantizer);
                    }
                    None => {
                        choices.remove(id);
                        map.remove(&id);
                    }
                }
                if keep {
                    kept.push((choices.clone(), map.clone()));
                }
            }
            kept.push((choices.clone(), map.clone()));
            for (then, map_then) in &kept {
                prop_assert!(then.iter().eq(map_then.iter().map(|(&id, &q)| (id, q))));
                let pages = then.map_pages(|page| page.collect::<Vec<_>>());
                prop_assert!(pages.concat().into_iter().eq(map_then.iter().map(|(&id, &q)| (id, q))));
                prop_assert_eq!(then.len(), map_then.len());
                prop_assert_eq!(*then == choices, *map_then == map);
                let differing: Vec<TensorId> = then.differing(&choices).collect();
                let other = |id: &TensorId| map_then.get(id) != map.get(id);
                let ids = (0..600).map(TensorId);
                prop_assert_eq!(differing, ids.filter(other).collect::<Vec<_>>());
                prop_assert!(*then == map_then.iter().map(|(&id, &q)| (id, q)).collect());
            }
        }
    }
}
