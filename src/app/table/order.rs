//! Columns, and the orders of the rows.

use crate::activations::ActivationMode;
use crate::app::keymap::name_of;
use crate::app::model::Model;
use crate::app::tensor_metrics::{SCHEMES, Sqnr, scheme_name};
use crate::quantization::QuantizationScheme;
use crate::tensor::TensorId;

/// A column, or an order of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant describes its fields")]
pub enum Column {
    /// The order of the file.
    File,
    /// The name.
    Name,
    /// The shape.
    Shape,
    /// The dtype.
    DType,
    /// The size.
    Bytes,
    /// The SQNR with its rating.
    Sqnr,
    /// The output error of the layer; only with captured activations.
    Output,
    /// The sparkline; ordered by absmax in standard deviations.
    Values,
    /// The scheme of the mark.
    Scheme,
    /// The SQNR of a scheme, independent of the mark.
    By(QuantizationScheme),
    /// The SQNR of one scheme minus that of another.
    Gain { of: QuantizationScheme, over: QuantizationScheme },
}

impl Column {
    /// The columns that are not about a particular scheme.
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
            Column::DType => "dtype".to_owned(),
            plain => name_of(plain),
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
        use Column::{By, Gain, Output, Sqnr, Values};
        matches!(self, Sqnr | Output | Values | By(_) | Gain { .. })
    }

    /// Whether the column is about one or two particular schemes.
    pub fn is_of_schemes(self) -> bool {
        matches!(self, Column::By(_) | Column::Gain { .. })
    }

    /// Whether the column can be hidden.
    pub fn is_optional(self) -> bool {
        use Column::{Bytes, DType, Scheme, Shape, Values};
        self.is_of_schemes() || matches!(self, Shape | DType | Bytes | Values | Scheme)
    }

    /// The title.
    pub fn title(self) -> String {
        let title = match self {
            Column::File => "file order",
            Column::Name => "name",
            Column::Shape => "shape",
            Column::DType => "dtype",
            Column::Bytes => "bytes",
            Column::Sqnr => "SQNR",
            Column::Output => "output",
            Column::Values => "values",
            Column::Scheme => "scheme",
            Column::By(scheme) => return scheme_name(scheme).into_owned(),
            Column::Gain { of, over } => {
                let short = |scheme| scheme_name(scheme).trim_start_matches("per ").to_owned();
                return format!("{} − {}", short(of), short(over));
            }
        };
        title.to_owned()
    }

    /// A description of the column that is longer than the title.
    pub fn meaning(self) -> String {
        match self {
            Column::Values => "sparkline of the values".to_owned(),
            Column::Scheme => "scheme of the mark, or of a new mark".to_owned(),
            Column::By(scheme) => format!("SQNR {}", scheme_name(scheme)),
            Column::Gain { of, over } => {
                format!("what {} gains over {}", scheme_name(of), scheme_name(over))
            }
            other => other.title(),
        }
    }

    /// Large sizes and bad errors come first, names from A.
    fn starts_descending(self) -> bool {
        use Column::{Bytes, Gain, Output, Shape, Values};
        matches!(self, Shape | Bytes | Values | Output | Gain { .. })
    }
}

/// A sort key: the class decides first, then the value.
pub(crate) type SortKey = (u8, f64);

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
        let tensor = model.checkpoint.tensor(id);
        let descending = self.descending;
        let directed = |value: f64| (1, if descending { -value } else { value });
        match self.column {
            Column::File => directed(f64::from(id.0)),
            Column::Name => directed(f64::from(name_rank)),
            Column::Shape => directed(tensor.parameters() as f64),
            Column::Bytes => directed(tensor.bytes as f64),
            Column::DType => {
                let letters = tensor.dtype.name().bytes().chain([0; 6]).take(6);
                directed(letters.fold(0.0, |n, letter| n * 256.0 + f64::from(letter)))
            }
            Column::Scheme => {
                if model.is_marked(id) {
                    let scheme = model.scheme_of(id);
                    let known = || model.schemes().iter().chain(&SCHEMES);
                    directed(known().position(|&s| s == scheme).unwrap_or(0) as f64)
                } else {
                    (2, 0.0)
                }
            }
            Column::Values => {
                match model.measurement(id).metrics().map(|metrics| &metrics.statistics) {
                    Some(s) if s.std > 0.0 => directed(s.absmax / s.std),
                    _ => (2, 0.0),
                }
            }
            Column::Output => {
                match model.output(id).and_then(|error| error.db(ActivationMode::Weights)) {
                    Some(db) => directed(db.max(f64::MIN)),
                    None => (2, 0.0),
                }
            }
            Column::By(scheme) => match model.sqnr_by(id, scheme) {
                Some(db) => directed(db),
                None => (2, 0.0),
            },
            // In a vector every element is a channel, so the gain is large but meaningless.
            Column::Gain { of, over } => match model.gain(id, of, over) {
                Some(db) if model.quantizable(id) => directed(db),
                Some(db) => (2, directed(db).1),
                None => (3, 0.0),
            },
            // A tensor that cannot be quantized ranks below the worst.
            Column::Sqnr => match model.sqnr(id) {
                Sqnr::Unreadable => (if descending { 3 } else { 0 }, 0.0),
                Sqnr::Impossible => (if descending { 3 } else { 0 }, 1.0),
                // Vectors, norms and embeddings do not hide the weights.
                Sqnr::DoesNotFit | Sqnr::F16 => (3, 0.0),
                Sqnr::Decibels(db) if !model.quantizable(id) => (2, directed(db).1),
                Sqnr::Decibels(db) => directed(db),
                Sqnr::Waiting => (4, 0.0),
                Sqnr::Stored => (5, 0.0),
                Sqnr::Nothing => (6, 0.0),
            },
        }
    }

    /// Describes the order in words.
    pub fn describe(self) -> String {
        let words = match (self.column, self.descending) {
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
            (Column::Values, true) => "strongest outliers first",
            (Column::Values, false) => "weakest outliers first",
            (Column::Scheme, _) => "by scheme",
            (Column::By(scheme), worst_last) => {
                let end = if worst_last { "best" } else { "worst" };
                return format!("{end} SQNR {} first", scheme_name(scheme));
            }
            (Column::Gain { of, over }, largest) => {
                let end = if largest { "largest" } else { "smallest" };
                let (of, over) = (scheme_name(of), scheme_name(over));
                return format!("{end} gain of {of} over {over} first");
            }
        };
        words.to_owned()
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
