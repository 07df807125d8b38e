//! A hash index from names to positions in a list. It stores four bytes per name, because the names
//! are in the list.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rayon::prelude::*;
use std::hash::BuildHasher;

/// Below this length a sequential search is faster than spawning threads.
const MIN_PARALLEL_LENGTH: u32 = 10_000;

/// Finds the first position in a list whose name also occurs earlier. Returns the earlier position
/// and this one.
pub(super) fn first_duplicate<'n>(
    length: u32,
    name_of: impl Fn(u32) -> &'n str + Sync,
) -> Option<(u32, u32)> {
    let state = RandomState::default();
    let hash = |position: u32| state.hash_one(name_of(position));
    let hashes: Vec<u64> = (0..length)
        .into_par_iter()
        .with_min_len(MIN_PARALLEL_LENGTH as usize / 2)
        .map(hash)
        .collect();
    // Equal names are in the same part.
    let parts = if length < MIN_PARALLEL_LENGTH { 1 } else { rayon::current_num_threads() as u64 };
    let first_in = |part: u64| {
        let mut names = NameIndex::new(state.clone(), (u64::from(length) / parts) as usize);
        (0..).zip(&hashes).find_map(|(position, &hash)| {
            // The table uses the lowest and the highest bits.
            let is_here = (hash >> 32) % parts == part;
            let held = is_here
                .then(|| names.insert_hashed(hash, name_of(position), position, &name_of))
                .flatten();
            Some((held?, position))
        })
    };
    (0..parts).into_par_iter().filter_map(first_in).min_by_key(|&(_, position)| position)
}

/// A hash index of a list. `name_of` is always the function that returns the list's name at a
/// position.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    state: RandomState,
    positions: HashTable<u32>,
}

impl NameIndex {
    pub(super) fn with_capacity(capacity: usize) -> NameIndex {
        NameIndex::new(RandomState::default(), capacity)
    }

    fn new(state: RandomState, capacity: usize) -> NameIndex {
        NameIndex { state, positions: HashTable::with_capacity(capacity) }
    }

    /// Adds a position, unless the name is already present; then returns the earlier position.
    pub(super) fn insert<'n>(
        &mut self,
        name: &str,
        position: u32,
        name_of: impl Fn(u32) -> &'n str,
    ) -> Option<u32> {
        self.insert_hashed(self.state.hash_one(name), name, position, name_of)
    }

    fn insert_hashed<'n>(
        &mut self,
        hash: u64,
        name: &str,
        position: u32,
        name_of: impl Fn(u32) -> &'n str,
    ) -> Option<u32> {
        let same = |&at: &u32| name_of(at) == name;
        match self.positions.entry(hash, same, |&at| self.state.hash_one(name_of(at))) {
            Entry::Occupied(held) => Some(*held.get()),
            Entry::Vacant(free) => {
                free.insert(position);
                None
            }
        }
    }

    pub(super) fn get<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
        self.positions.find(self.state.hash_one(name), |&at| name_of(at) == name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_to_its_first_position() {
        let list = ["a", "b", "a", "c"];
        let name_of = |at: u32| list[at as usize];
        let mut positions = NameIndex::with_capacity(1);
        let held: Vec<_> =
            (0..4).map(|at| positions.insert(list[at as usize], at, name_of)).collect();
        assert_eq!(held, [None, None, Some(0), None]);
        assert_eq!((positions.get("a", name_of), positions.get("c", name_of)), (Some(0), Some(3)));
        assert_eq!(positions.get("d", name_of), None);
    }

    #[test]
    fn the_first_duplicate_is_found_in_lists_of_any_length() {
        for length in
            [0, 1, 2, MIN_PARALLEL_LENGTH - 1, MIN_PARALLEL_LENGTH, 3 * MIN_PARALLEL_LENGTH]
        {
            let mut list: Vec<String> = (0..length).map(|at| format!("layer {at}")).collect();
            let first_duplicate =
                |list: &[String]| super::first_duplicate(length, |at| &list[at as usize]);
            assert_eq!(first_duplicate(&list), None);
            if length < 2 {
                continue;
            }
            let (half, last) = (length / 2, length - 1);
            list[last as usize] = list[0].clone();
            assert_eq!(first_duplicate(&list), Some((0, last)));
            list[half as usize] = list[half as usize - 1].clone();
            assert_eq!(first_duplicate(&list), Some((half - 1, half)));
        }
    }
}
