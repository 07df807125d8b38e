//! The importance of elements, which weights their errors when ggml's block types are quantized.

use crate::quantization::loss::Loss;
use crate::tensor::{Shape, TensorId};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The origin of an importance matrix, as llama.cpp records it in a quantized file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceOrigin {
    /// The path of the file, as given by the user.
    pub file: String,
    /// The name of the first text for which activations were recorded.
    pub dataset: Option<String>,
    /// Number of weights in the file.
    pub entries: u32,
    /// Number of chunks of text that were recorded.
    pub chunks: Option<u32>,
}

/// The importance of the elements of weights: the mean square of the inputs that each column is
/// multiplied with. A tensor of experts has one value per expert and column. Copies share the
/// values.
#[derive(Clone, Default, PartialEq)]
pub struct Importance(Option<Arc<Contents>>);

#[derive(Clone, PartialEq)]
struct Contents {
    origin: ImportanceOrigin,
    tensors: Arc<BTreeMap<TensorId, Vec<f32>>>,
    hash: u64,
}

impl Importance {
    /// Creates the importance of the given tensors.
    pub fn new(origin: ImportanceOrigin, tensors: BTreeMap<TensorId, Vec<f32>>) -> Importance {
        if tensors.is_empty() {
            return Importance::default();
        }
        let mut hasher = DefaultHasher::new();
        for (id, values) in &tensors {
            id.hash(&mut hasher);
            values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        }
        let hash = hasher.finish();
        Importance(Some(Arc::new(Contents { origin, tensors: Arc::new(tensors), hash })))
    }

    /// Creates a reference to a matrix whose values are not loaded, as in a recipe.
    pub fn named(file: String) -> Importance {
        let origin = ImportanceOrigin { file, ..ImportanceOrigin::default() };
        Importance(Some(Arc::new(Contents { origin, tensors: Arc::default(), hash: 0 })))
    }

    /// Returns whether no tensor has an importance.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|contents| contents.tensors.is_empty())
    }

    /// The matrix to load the values from, if only its name is known.
    pub fn missing(&self) -> Option<&str> {
        self.origin().filter(|_| self.is_empty()).map(|origin| origin.file.as_str())
    }

    /// The origin, if it was given.
    pub fn origin(&self) -> Option<&ImportanceOrigin> {
        Some(&self.0.as_ref()?.origin)
    }

    /// Returns the same values with another origin.
    pub fn with_origin(&self, origin: ImportanceOrigin) -> Importance {
        let same = |contents: &Arc<Contents>| Contents { origin, ..(**contents).clone() };
        Importance(self.0.as_ref().map(same).map(Arc::new))
    }

    /// Returns the importance of the elements of a tensor, if it is known.
    pub fn get(&self, id: TensorId) -> Option<&[f32]> {
        self.0.as_ref()?.tensors.get(&id).map(Vec::as_slice)
    }

    /// Returns the importance of a tensor's elements, row by row.
    pub(crate) fn of_rows(&self, id: TensorId, shape: &Shape) -> Option<RowImportance<'_>> {
        Some(RowImportance::new(self.get(id)?, shape))
    }
}

impl fmt::Debug for Importance {
    /// Represents all values: equal texts mean equal importance.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Importance(none)"),
            Some(contents) => {
                let count = contents.tensors.len();
                write!(f, "Importance({count} tensors, {:016x})", contents.hash)
            }
        }
    }
}

/// The importance of the elements of one tensor, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowImportance<'i> {
    values: &'i [f32],
    row_len: usize,
    /// Number of consecutive rows with the same importance: the rows of one expert.
    rows_alike: usize,
}

impl<'i> RowImportance<'i> {
    /// Creates it from `values`: one per column of a tensor of `shape`, or per expert and column.
    pub(crate) fn new(values: &'i [f32], shape: &Shape) -> RowImportance<'i> {
        let row_len = shape.row_len().max(1);
        let rows = shape.elements() / row_len;
        let row_len = usize::try_from(row_len).unwrap_or(usize::MAX);
        let matrices = (values.len() / row_len).max(1) as u64;
        let rows_alike = usize::try_from(rows / matrices).unwrap_or(usize::MAX).max(1);
        RowImportance { values, row_len, rows_alike }
    }

    pub(super) fn row_len(self) -> usize {
        self.row_len
    }

    /// Returns the importance of the columns in row `row`, and the number of rows from there on
    /// with the same importance.
    pub(super) fn at_row(self, row: u64) -> (&'i [f32], usize) {
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        let start = (row / self.rows_alike).saturating_mul(self.row_len);
        let values = self.values.get(start..start.saturating_add(self.row_len));
        (values.unwrap_or_default(), self.rows_alike - row % self.rows_alike)
    }

    /// Returns signal and noise of elements from index `start` of the tensor, each weighted by its
    /// importance.
    pub(crate) fn loss(self, start: u64, x: &[f32], restored: &[f32]) -> Loss {
        let mut loss = Loss::default();
        let (mut index, mut pairs) = (start, x.iter().zip(restored));
        while pairs.len() > 0 {
            let (row, column) = (index / self.row_len as u64, index % self.row_len as u64);
            let columns = self.at_row(row).0.get(column as usize..).unwrap_or_default();
            if columns.is_empty() {
                break;
            }
            index += columns.len() as u64;
            for (importance, (x, restored)) in columns.iter().zip(pairs.by_ref()) {
                let weighted = |x: f32| f64::from(x) * f64::from(x) * f64::from(*importance);
                loss.signal += weighted(*x);
                loss.noise += weighted(x - restored);
            }
        }
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expert_has_its_own_importance() {
        let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
        let shape = Shape::new([3, 4, 2]).expect("fits");
        let rows = RowImportance::new(&values, &shape);
        assert_eq!(rows.at_row(0), (&values[..2], 4));
        assert_eq!(rows.at_row(3), (&values[..2], 1));
        assert_eq!(rows.at_row(4), (&values[2..4], 4));
        assert_eq!(rows.at_row(11), (&values[4..], 1));
    }

    #[test]
    fn losses_are_weighted_by_column_and_expert() {
        let values: Vec<f32> = (0..6).map(|n| n as f32).collect();
        let shape = Shape::new([3, 4, 2]).expect("fits");
        let rows = RowImportance::new(&values, &shape);
        let (x, restored) = ([2.0; 24], [1.0; 24]);
        assert_eq!(rows.loss(0, &x, &restored), Loss { signal: 240.0, noise: 60.0 });
        // The second column of the first expert's last row, and the next expert's first row.
        let loss = rows.loss(7, &x[7..10], &restored[7..10]);
        assert_eq!(loss, Loss { signal: 24.0, noise: 6.0 });
    }

    #[test]
    fn the_debug_text_distinguishes_values() {
        let of = |value: f32| {
            let tensors = BTreeMap::from([(TensorId(3), vec![1.0, value])]);
            Importance::new(ImportanceOrigin::default(), tensors)
        };
        assert_eq!(format!("{:?}", of(2.0)), format!("{:?}", of(2.0)));
        assert_ne!(format!("{:?}", of(2.0)), format!("{:?}", of(3.0)));
        assert!(Importance::new(ImportanceOrigin::default(), BTreeMap::new()).is_empty());
    }
}
