//! Groups names that differ only in their digits, such as those of the same tensor in each layer.

use rayon::prelude::*;
use std::collections::HashMap;

/// The shapes of a list of names: two names have the same shape if they differ only in their
/// digits.
///
/// A search without digits finds the same in all names of a shape, and a model has few shapes: its
/// layers and experts repeat.
#[derive(Debug, Default)]
pub(super) struct NameShapes {
    /// Each shape as a name whose digits are zeros.
    shapes: Vec<String>,
    /// The index of the shape of each name.
    shape_of: Vec<u32>,
}

impl NameShapes {
    /// Groups names.
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str>) -> NameShapes {
        let mut indices: HashMap<String, u32> = HashMap::new();
        let mut found = NameShapes::default();
        let mut shape = String::new();
        for name in names {
            shape.clear();
            shape.extend(name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }));
            let index = indices.get(&shape).copied().unwrap_or_else(|| {
                let index = found.shapes.len() as u32;
                indices.insert(shape.clone(), index);
                found.shapes.push(shape.clone());
                index
            });
            found.shape_of.push(index);
        }
        found
    }

    /// The shapes, each as a name whose digits are zeros.
    pub(super) fn shapes(&self) -> impl ParallelIterator<Item = &str> + Clone {
        self.shapes.par_iter().map(String::as_str)
    }

    /// The value of each name, given that of its shape.
    pub(super) fn spread<T: Copy + Default>(&self, of_shapes: &[T]) -> Vec<T> {
        let value = |&shape: &u32| of_shapes.get(shape as usize).copied().unwrap_or_default();
        self.shape_of.iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_digits_share_a_shape() {
        let names = ["a.1.q", "a.2.q", "a.12.q", "a.b.q", "a.9.q"];
        let found = NameShapes::of(names.into_iter());
        assert_eq!(found.shapes, ["a.0.q", "a.00.q", "a.b.q"]);
        assert_eq!(found.spread(&[5, 6, 7]), [5, 5, 6, 7, 5]);
    }
}
