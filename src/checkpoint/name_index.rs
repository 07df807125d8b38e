//! Places of named things in a list, found by name: four bytes each, for names lie in the list.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;
use std::hash::BuildHasher;

/// A shorter list is looked through faster than threads are woken.
const LONG: u32 = 10_000;

/// The first place in a list whose name stands at an earlier one too, after that one.
pub(super) fn twins<'n>(
    length: u32,
    name_of: impl Fn(u32) -> &'n str + Sync,
) -> Option<(u32, u32)> {
    let state = RandomState::default();
    let hash = |place: u32| state.hash_one(name_of(place));
    let hashes: Vec<u64> =
        (0..length).into_par_iter().with_min_len(LONG as usize / 2).map(hash).collect();
    // Equal names meet in the same part.
    let parts = if length < LONG { 1 } else { rayon::current_num_threads() as u64 };
    let first_in = |part: u64| {
        let mut names = ByName::new(state.clone(), (u64::from(length) / parts) as usize);
        (0..).zip(&hashes).find_map(|(place, &hash)| {
            // The table goes by the lowest and the highest bits.
            let is_here = (hash >> 32) % parts == part;
            let held = is_here
                .then(|| names.insert_hashed(hash, name_of(place), place, &name_of))
                .flatten();
            Some((held?, place))
        })
    };
    (0..parts).into_par_iter().filter_map(first_in).min_by_key(|&(_, place)| place)
}

/// `name_of` is always the list's name at a place.
#[derive(Debug, Default)]
pub(super) struct ByName {
    state: RandomState,
    places: HashTable<u32>,
}

impl ByName {
    pub(super) fn with_capacity(capacity: usize) -> ByName {
        ByName::new(RandomState::default(), capacity)
    }

    fn new(state: RandomState, capacity: usize) -> ByName {
        ByName { state, places: HashTable::with_capacity(capacity) }
    }

    /// Notes a place, unless one of that name is there already: then it is given.
    pub(super) fn insert<'n>(
        &mut self,
        name: &str,
        place: u32,
        name_of: impl Fn(u32) -> &'n str,
    ) -> Option<u32> {
        self.insert_hashed(self.state.hash_one(name), name, place, name_of)
    }

    fn insert_hashed<'n>(
        &mut self,
        hash: u64,
        name: &str,
        place: u32,
        name_of: impl Fn(u32) -> &'n str,
    ) -> Option<u32> {
        let same = |&at: &u32| name_of(at) == name;
        match self.places.entry(hash, same, |&at| self.state.hash_one(name_of(at))) {
            Entry::Occupied(held) => Some(*held.get()),
            Entry::Vacant(free) => {
                free.insert(place);
                None
            }
        }
    }

    pub(super) fn get<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
        self.places.find(self.state.hash_one(name), |&at| name_of(at) == name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_first_place() {
        let list = ["a", "b", "a", "c"];
        let name_of = |at: u32| list[at as usize];
        let mut places = ByName::with_capacity(1);
        let held: Vec<_> = (0..4).map(|at| places.insert(list[at as usize], at, name_of)).collect();
        assert_eq!(held, [None, None, Some(0), None]);
        assert_eq!((places.get("a", name_of), places.get("c", name_of)), (Some(0), Some(3)));
        assert_eq!(places.get("d", name_of), None);
    }

    #[test]
    fn the_first_twin_is_found_in_lists_of_any_length() {
        for length in [0, 1, 2, LONG - 1, LONG, 3 * LONG] {
            let mut list: Vec<String> = (0..length).map(|at| format!("layer {at}")).collect();
            let twins = |list: &[String]| super::twins(length, |at| &list[at as usize]);
            assert_eq!(twins(&list), None);
            if length < 2 {
                continue;
            }
            let (half, last) = (length / 2, length - 1);
            list[last as usize] = list[0].clone();
            assert_eq!(twins(&list), Some((0, last)));
            list[half as usize] = list[half as usize - 1].clone();
            assert_eq!(twins(&list), Some((half - 1, half)));
        }
    }
}
