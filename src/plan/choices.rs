//! A map from tensors to quantizers with copy-on-write pages. Every undo step keeps a whole
//! plan, which may cover 100,000 tensors, so clones must be cheap.

use crate::quantization::Quantizer;
use crate::tensor::TensorId;
use rayon::prelude::*;
use std::sync::Arc;

/// Tensors per page.
const TENSORS_PER_PAGE: usize = 256;

type Page = [Option<Quantizer>; TENSORS_PER_PAGE];

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
        let pages = id.index() / TENSORS_PER_PAGE + 1;
        if self.pages.len() < pages {
            self.pages.resize_with(pages, || Arc::new([None; TENSORS_PER_PAGE]));
        }
        self.set(id, Some(quantizer));
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (TensorId, Quantizer)> {
        let choices = self.pages.iter().flat_map(|page| page.iter());
        (0..).map(TensorId).zip(choices).filter_map(|(id, choice)| Some((id, (*choice)?)))
    }

    pub(super) fn par_iter(&self) -> impl ParallelIterator<Item = (TensorId, Quantizer)> {
        // A page has too little work for a task of its own.
        let pages = self.pages.par_iter().enumerate().with_min_len(16);
        pages.flat_map_iter(|(number, page)| {
            let ids = (number * TENSORS_PER_PAGE..).map(|id| TensorId(id as u32));
            ids.zip(page.iter()).filter_map(|(id, choice)| Some((id, (*choice)?)))
        })
    }

    /// The tensors whose quantizer differs between `self` and `other`.
    pub(super) fn differing<'c>(&'c self, other: &'c Choices) -> impl Iterator<Item = TensorId> {
        let pages = self.pages.len().max(other.pages.len());
        let differ = |&at: &usize| match (self.pages.get(at), other.pages.get(at)) {
            (Some(this), Some(other)) => !Arc::ptr_eq(this, other),
            _ => true,
        };
        let ids = (0..pages)
            .filter(differ)
            .flat_map(|at| at * TENSORS_PER_PAGE..(at + 1) * TENSORS_PER_PAGE);
        let ids = ids.map(|number| TensorId(number as u32));
        ids.filter(|&id| self.get(id) != other.get(id))
    }
}

impl PartialEq for Choices {
    fn eq(&self, other: &Choices) -> bool {
        self.len == other.len && self.differing(other).next().is_none()
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
            steps in prop::collection::vec((0..600u32, 0..3u8, any::<bool>()), 0..60),
        ) {
            let (mut choices, mut map) = (Choices::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for (id, kind, keep) in steps {
                let id = TensorId(id);
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
                let in_parallel: BTreeMap<TensorId, Quantizer> = then.par_iter().collect();
                prop_assert_eq!(&in_parallel, map_then);
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
