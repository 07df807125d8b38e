//! What the rows are ordered by.

/// A column, and what rows can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// The order of the file.
    File,
    Name,
    Shape,
    DType,
    Bytes,
    Sqnr,
    /// What the layer's output loses; there only with activations.
    Output,
    /// The sketch of the values; ordered by how far they reach beyond most of them.
    Values,
    Scheme,
}

impl Column {
    pub const ALL: [Column; 9] = [
        Column::File,
        Column::Name,
        Column::Shape,
        Column::DType,
        Column::Bytes,
        Column::Sqnr,
        Column::Output,
        Column::Values,
        Column::Scheme,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Column::File => "file order",
            Column::Name => "name",
            Column::Shape => "shape",
            Column::DType => "dtype",
            Column::Bytes => "bytes",
            Column::Sqnr => "SQNR",
            Column::Output => "output",
            Column::Values => "values",
            Column::Scheme => "scheme",
        }
    }

    /// Big things first, bad things first, names from A.
    fn starts_descending(self) -> bool {
        matches!(self, Column::Shape | Column::Bytes | Column::Values | Column::Output)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    pub column: Column,
    pub descending: bool,
}

impl Sort {
    pub fn by(column: Column) -> Sort {
        Sort { column, descending: column.starts_descending() }
    }

    /// The order in words.
    pub fn describe(self) -> &'static str {
        match (self.column, self.descending) {
            (Column::File, false) => "in file order",
            (Column::File, true) => "in file order, last first",
            (Column::Name, false) => "by name",
            (Column::Name, true) => "by name, Z first",
            (Column::Shape, true) => "most parameters first",
            (Column::Shape, false) => "fewest parameters first",
            (Column::DType, _) => "by dtype",
            (Column::Bytes, true) => "largest first",
            (Column::Bytes, false) => "smallest first",
            (Column::Sqnr, false) => "worst SQNR first",
            (Column::Sqnr, true) => "best SQNR first",
            (Column::Output, true) => "worst output error first",
            (Column::Output, false) => "best output error first",
            (Column::Values, true) => "farthest outliers first",
            (Column::Values, false) => "nearest outliers first",
            (Column::Scheme, _) => "by scheme",
        }
    }
}
