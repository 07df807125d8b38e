//! Places of named things in a list, found by name: four bytes each, for names lie in the list.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::BuildHasher;

/// `name_of` is always the list's name at a place.
#[derive(Debug, Default)]
pub struct ByName {
    state: RandomState,
    places: HashTable<u32>,
}

impl ByName {
    pub fn with_capacity(capacity: usize) -> ByName {
        ByName { places: HashTable::with_capacity(capacity), ..ByName::default() }
    }

    /// Notes a place, unless one of that name is there already: then it is given.
    pub fn insert<'n>(
        &mut self,
        name: &str,
        place: u32,
        name_of: impl Fn(u32) -> &'n str,
    ) -> Option<u32> {
        let hash = |name: &str| self.state.hash_one(name);
        let same = |&at: &u32| name_of(at) == name;
        match self.places.entry(hash(name), same, |&at| hash(name_of(at))) {
            Entry::Occupied(held) => Some(*held.get()),
            Entry::Vacant(free) => {
                free.insert(place);
                None
            }
        }
    }

    pub fn get<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
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
}
