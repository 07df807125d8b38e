//! Columns, and the orders of the rows.

use crate::activations::ActivationMode;
use crate::app::model::Model;
use crate::app::tensor_metrics::{SCHEMES, Sqnr, scheme_name};
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;

/// What lists, settings and orders depend on in a column: a row of the table of columns.
struct ColumnProperties {
    /// The name in the settings.
    name: &'static str,
    /// The title.
    title: &'static str,
    /// A description that may be longer than the title.
    meaning: &'static str,
    /// The order in words, ascending and descending.
    orders: [&'static str; 2],
    /// Whether the column can be hidden.
    is_optional: bool,
    /// Whether measurements can change the order.
    needs_findings: bool,
    /// Whether the order starts with the largest.
    starts_descending: bool,
    /// The sort key of a tensor, given its rank by name.
    key: fn(Sort, &Model, TensorId, u32) -> SortKey,
}

impl ColumnProperties {
    /// The order of the file. The other rows say in what they differ.
    const FILE: ColumnProperties = ColumnProperties {
        name: "file",
        title: "file order",
        meaning: "file order",
        orders: ["in file order", "in file order, last first"],
        is_optional: false,
        needs_findings: false,
        starts_descending: false,
        key: |sort, _, id, _| sort.directed(f64::from(id.0)),
    };
}

/// Defines the columns from rows of a column and its properties.
macro_rules! columns {
    ($($(#[$doc:meta])* $column:ident $properties:expr;)*) => {
        /// A column, or an order of the rows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant describes its fields")]
        pub enum Column {
            $($(#[$doc])* $column,)*
            /// The SQNR of a scheme, independent of the mark.
            By(QuantizationScheme),
            /// The SQNR of one scheme minus that of another.
            Gain { of: QuantizationScheme, over: QuantizationScheme },
        }

        impl Column {
            /// The columns that are not about a particular scheme.
            pub const ALL: [Column; [$(stringify!($column)),*].len()] = [$(Column::$column),*];

            /// The row of the table; `None` for a column about particular schemes.
            fn properties(self) -> Option<&'static ColumnProperties> {
                match self {
                    $(Column::$column => {
                        const PROPERTIES: ColumnProperties = $properties;
                        Some(&PROPERTIES)
                    })*
                    Column::By(_) | Column::Gain { .. } => None,
                }
            }
        }
    };
}

columns! {
    /// The order of the file.
    File ColumnProperties::FILE;
    /// The name.
    Name ColumnProperties {
        name: "name",
        title: "name",
        meaning: "name",
        orders: ["by name", "by name, Z first"],
        key: |sort, _, _, name_rank| sort.directed(f64::from(name_rank)),
        ..ColumnProperties::FILE
    };
    /// The shape.
    Shape ColumnProperties {
        name: "shape",
        title: "shape",
        meaning: "shape",
        orders: ["fewest parameters first", "most parameters first"],
        is_optional: true,
        starts_descending: true,
        key: |sort, model, id, _| sort.directed(model.checkpoint.tensor(id).parameters() as f64),
        ..ColumnProperties::FILE
    };
    /// The dtype.
    DType ColumnProperties {
        name: "dtype",
        title: "dtype",
        meaning: "dtype",
        orders: ["by dtype"; 2],
        is_optional: true,
        key: |sort, model, id, _| {
            let letters = model.checkpoint.tensor(id).dtype.name().bytes().chain([0; 6]).take(6);
            sort.directed(letters.fold(0.0, |n, letter| n * 256.0 + f64::from(letter)))
        },
        ..ColumnProperties::FILE
    };
    /// The size.
    Bytes ColumnProperties {
        name: "bytes",
        title: "bytes",
        meaning: "bytes",
        orders: ["smallest first", "largest first"],
        is_optional: true,
        starts_descending: true,
        key: |sort, model, id, _| sort.directed(model.checkpoint.tensor(id).bytes as f64),
        ..ColumnProperties::FILE
    };
    /// The SQNR with its rating.
    Sqnr ColumnProperties {
        name: "sqnr",
        title: "SQNR",
        meaning: "SQNR",
        orders: ["worst SQNR first", "best SQNR first"],
        needs_findings: true,
        key: Sort::sqnr_key,
        ..ColumnProperties::FILE
    };
    /// The output error of the layer; only with captured activations.
    Output ColumnProperties {
        name: "output",
        title: "output",
        meaning: "output",
        orders: ["best output error first", "worst output error first"],
        needs_findings: true,
        starts_descending: true,
        key: |sort, model, id, _| {
            match model.output(id).and_then(|error| error.db(ActivationMode::Weights)) {
                Some(db) => sort.directed(db.max(f64::MIN)),
                None => LAST,
            }
        },
        ..ColumnProperties::FILE
    };
    /// The sparkline; ordered by absmax in standard deviations.
    Values ColumnProperties {
        name: "values",
        title: "values",
        meaning: "sparkline of the values",
        orders: ["weakest outliers first", "strongest outliers first"],
        is_optional: true,
        needs_findings: true,
        starts_descending: true,
        key: |sort, model, id, _| {
            match model.measurement(id).metrics().map(|metrics| &metrics.statistics) {
                Some(s) if s.std > 0.0 => sort.directed(s.absmax / s.std),
                _ => LAST,
            }
        },
    };
    /// The scheme of the mark.
    Scheme ColumnProperties {
        name: "scheme",
        title: "scheme",
        meaning: "scheme of the mark, or of a new mark",
        orders: ["by scheme"; 2],
        is_optional: true,
        key: |sort, model, id, _| {
            if !model.is_marked(id) {
                return LAST;
            }
            let scheme = model.scheme_of(id);
            let known = || model.schemes().iter().chain(&SCHEMES);
            sort.directed(known().position(|&s| s == scheme).unwrap_or(0) as f64)
        },
        ..ColumnProperties::FILE
    };
}

impl Column {
    /// A column for each scheme of int8, for its gain over the first, and for each other scheme
    /// that the target holds.
    pub fn of_schemes(target: &[QuantizationScheme]) -> impl Iterator<Item = Column> {
        let others = target.iter().copied().filter(|scheme| !SCHEMES.contains(scheme));
        let by = others.chain(SCHEMES).map(Column::By);
        by.chain(SCHEMES.into_iter().skip(1).map(|of| Column::Gain { of, over: SCHEMES[0] }))
    }

    /// The name in the settings.
    pub fn name(self) -> String {
        match self {
            Column::By(scheme) => scheme.to_string(),
            Column::Gain { of, over } => format!("{of} over {over}"),
            plain => plain.properties().map_or("", |properties| properties.name).to_owned(),
        }
    }

    /// The column with a name of the settings.
    pub fn named(name: &str) -> Option<Column> {
        let scheme = |name: &str| {
            let scheme: QuantizationScheme = name.parse().ok()?;
            let is_column =
                SCHEMES.contains(&scheme) || scheme.preset().is_some() || scheme.ggml().is_some();
            is_column.then_some(scheme)
        };
        if let Some(plain) = Column::ALL.into_iter().find(|column| column.name() == name) {
            return Some(plain);
        }
        match name.split_once(" over ") {
            None => scheme(name).map(Column::By),
            Some((of, over)) => {
                let (of, over) = (scheme(of.trim())?, scheme(over.trim())?);
                (of != over).then_some(Column::Gain { of, over })
            }
        }
    }

    /// Whether measurements can change the order.
    pub fn needs_findings(self) -> bool {
        self.properties().is_none_or(|properties| properties.needs_findings)
    }

    /// Whether the column is about one or two particular schemes.
    pub fn is_of_schemes(self) -> bool {
        self.properties().is_none()
    }

    /// Whether the column can be hidden.
    pub fn is_optional(self) -> bool {
        self.properties().is_none_or(|properties| properties.is_optional)
    }

    /// The title.
    pub fn title(self) -> String {
        match self {
            Column::By(scheme) => scheme_name(scheme).into_owned(),
            Column::Gain { of, over } => {
                let short = |scheme| scheme_name(scheme).trim_start_matches("per ").to_owned();
                format!("{} − {}", short(of), short(over))
            }
            plain => plain.properties().map_or("", |properties| properties.title).to_owned(),
        }
    }

    /// A description of the column that is longer than the title.
    pub fn meaning(self) -> String {
        match self {
            Column::By(scheme) => format!("SQNR {}", scheme_name(scheme)),
            Column::Gain { of, over } => {
                format!("what {} gains over {}", scheme_name(of), scheme_name(over))
            }
            plain => plain.properties().map_or("", |properties| properties.meaning).to_owned(),
        }
    }

    /// Large sizes and bad errors come first, names from A.
    fn starts_descending(self) -> bool {
        match self.properties() {
            Some(properties) => properties.starts_descending,
            None => matches!(self, Column::Gain { .. }),
        }
    }
}

/// A sort key: the class decides first, then the value.
pub(crate) type SortKey = (u8, f64);

/// The key of tensors that have no place in the order.
const LAST: SortKey = (2, 0.0);

/// The order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The column that it is sorted by.
    pub column: Column,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl Sort {
    /// The order that a column starts with.
    pub fn by(column: Column) -> Sort {
        Sort { column, descending: column.starts_descending() }
    }

    /// The sort key of a tensor; smaller comes first. `name_rank` is its rank by name, if the
    /// order is that of names.
    pub(crate) fn key(self, model: &Model, id: TensorId, name_rank: u32) -> SortKey {
        match self.column {
            Column::By(scheme) => model.sqnr_by(id, scheme).map_or(LAST, |db| self.directed(db)),
            // In a vector every element is a channel, so the gain is large but meaningless.
            Column::Gain { of, over } => match model.gain(id, of, over) {
                Some(db) if model.quantizable(id) => self.directed(db),
                Some(db) => (2, self.directed(db).1),
                None => (3, 0.0),
            },
            plain => plain
                .properties()
                .map_or(LAST, |properties| (properties.key)(self, model, id, name_rank)),
        }
    }

    /// The key of a value in the direction of the order.
    fn directed(self, value: f64) -> SortKey {
        (1, if self.descending { -value } else { value })
    }

    /// The key of a tensor in the order of SQNRs. A tensor that cannot be quantized ranks below the
    /// worst.
    fn sqnr_key(self, model: &Model, id: TensorId, _: u32) -> SortKey {
        match model.sqnr(id) {
            Sqnr::Unreadable => (if self.descending { 3 } else { 0 }, 0.0),
            Sqnr::Impossible => (if self.descending { 3 } else { 0 }, 1.0),
            // Vectors, norms and embeddings do not hide the weights.
            Sqnr::DoesNotFit | Sqnr::F16 => (3, 0.0),
            Sqnr::Decibels(db) if !model.quantizable(id) => (2, self.directed(db).1),
            Sqnr::Decibels(db) => self.directed(db),
            Sqnr::Waiting => (4, 0.0),
            Sqnr::Stored => (5, 0.0),
            Sqnr::Nothing => (6, 0.0),
        }
    }

    /// Describes the order in words.
    pub fn describe(self) -> String {
        match (self.column, self.descending) {
            (Column::By(scheme), worst_last) => {
                let end = if worst_last { "best" } else { "worst" };
                format!("{end} SQNR {} first", scheme_name(scheme))
            }
            (Column::Gain { of, over }, largest) => {
                let end = if largest { "largest" } else { "smallest" };
                let (of, over) = (scheme_name(of), scheme_name(over));
                format!("{end} gain of {of} over {over} first")
            }
            (plain, descending) => {
                let [ascending, other] =
                    plain.properties().map_or([""; 2], |properties| properties.orders);
                (if descending { other } else { ascending }).to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PRESET_SCHEMES;

    #[test]
    fn every_column_is_found_by_its_name() {
        for column in Column::ALL.into_iter().chain(Column::of_schemes(&PRESET_SCHEMES)) {
            assert_eq!(Column::named(&column.name()), Some(column));
        }
        let gain = Column::named("per-block:32 over per-channel");
        let (of, over) = (QuantizationScheme::per_block(32), QuantizationScheme::PER_CHANNEL);
        assert_eq!(gain, Some(Column::Gain { of, over }));
        assert_eq!(gain.map(Column::title).as_deref(), Some("block 32 − channel"));
        for wrong in ["per-block:7", "per-channel over", "per-channel over per-channel", "luck"] {
            assert_eq!(Column::named(wrong), None, "{wrong}");
        }
    }
}
