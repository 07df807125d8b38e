//! `diff`: the changes from one checkpoint to another.

use super::error::Error;
use super::job_runner::JobRunner;
use super::options::{CsvArgs, OutputArgs, WorkArgs, open};
use super::output::{output, width};
use super::table::{Column, Table};
use crate::job::diff::{self, Change, Compared};
use crate::quantization::Thresholds;
use crate::report::csv_writer::CsvWriter;
use crate::report::document::ErrorFigures;
use crate::text::{figures, names};
use clap::Args;
use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope quantize my-model -o fake.safetensors --format fake-quantized\n  \
    quantscope diff my-model fake.safetensors\n  \
    quantscope diff my-model my-model --exit-code")]
pub struct Diff {
    /// The reference checkpoint; `demo:` is the built-in demo
    a: PathBuf,
    /// The checkpoint to compare with it
    b: PathBuf,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Output")]
    csv: CsvArgs,
    /// Exit with 1 if the checkpoints differ
    #[arg(long, help_heading = "Output")]
    exit_code: bool,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

impl Diff {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let (a, b) = (open(&self.a)?, open(&self.b)?);
        let job = || diff::start(a.clone(), b.clone(), self.work.threads());
        let mut compared = JobRunner::start(job, "comparing", self.work.quiet)?.only()??;
        compared.sort_by(|x, y| rank(x).total_cmp(&rank(y)));
        let mut out = output();
        if self.output.json {
            let tensors: Vec<_> = compared.iter().map(Entry::of).collect();
            let document = Document {
                a: a.path().to_string_lossy().into_owned(),
                b: b.path().to_string_lossy().into_owned(),
                totals: Totals::of(&compared),
                tensors,
            };
            crate::text::json::write(&mut out, &document)?;
            writeln!(out)?;
        } else if self.csv.csv {
            write_csv(&compared, &mut out)?;
        } else {
            print(&compared, &mut out, thresholds)?
        }
        out.flush()?;
        let totals = Totals::of(&compared);
        if self.exit_code && totals.differ() {
            Err(Error::Different { a: self.a, b: self.b, what: totals.to_string() })
        } else {
            Ok(())
        }
    }
}

/// The sort key: added, removed and reshaped tensors first, then by SQNR, identical ones last.
fn rank(compared: &Compared) -> f64 {
    match &compared.change {
        Change::Added { .. } | Change::Removed { .. } | Change::Reshaped { .. } => {
            f64::NEG_INFINITY
        }
        Change::Common { identical: true, .. } => f64::NAN,
        change => change.sqnr_db().filter(|db| !db.is_nan()).unwrap_or(f64::INFINITY),
    }
}

fn print(compared: &[Compared], out: &mut impl Write, thresholds: &Thresholds) -> io::Result<()> {
    let mut table = Table::new(&[
        ("tensor", Column::Name),
        ("A", Column::Left),
        ("B", Column::Left),
        ("SQNR", Column::Left),
        ("rel. error", Column::Right),
        ("max error", Column::Right),
        ("differing", Column::Right),
        ("change", Column::Note),
    ]);
    for tensor in compared {
        table.cell(names::visible(&tensor.name));
        let (from, to, figures, word) = match &tensor.change {
            Change::Added { dtype, .. } => (String::new(), dtype.to_string(), None, "added"),
            Change::Removed { dtype, .. } => (dtype.to_string(), String::new(), None, "removed"),
            Change::Reshaped { from, to } => (from.to_string(), to.to_string(), None, "reshaped"),
            Change::Common { from, to, difference, identical } => {
                let word = match (identical, from == to) {
                    (true, _) => "identical",
                    (false, true) => "changed",
                    (false, false) => "re-typed",
                };
                (from.to_string(), to.to_string(), difference.as_ref(), word)
            }
        };
        table.cell(names::visible(&from));
        table.cell(names::visible(&to));
        match figures {
            None => (0..4).for_each(|_| table.cell("")),
            Some(difference) => {
                let error = difference.sums.statistics();
                table.cell(figures::rated(error.sqnr_db, thresholds));
                table.cell(figures::percent(error.relative_error));
                table.cell(figures::plain(error.max_abs_error));
                table.cell(difference.differing);
            }
        }
        table.cell(word);
    }
    table.print(out, width())?;
    writeln!(out, "{}", Totals::of(compared))
}

/// Titles of the CSV columns.
const CSV_COLUMNS: [&str; 11] = [
    "name",
    "change",
    "from_dtype",
    "to_dtype",
    "from_shape",
    "to_shape",
    "sqnr_db",
    "relative_error",
    "max_abs_error",
    "mse",
    "differing",
];

fn write_csv(compared: &[Compared], out: &mut impl Write) -> io::Result<()> {
    let mut csv = CsvWriter::new(out, CSV_COLUMNS.into_iter())?;
    for tensor in compared {
        csv.text(&tensor.name)?;
        let mut cells = [const { String::new() }; 4];
        let (word, difference) = match &tensor.change {
            Change::Added { dtype, shape } => {
                [cells[1], cells[3]] = [dtype.to_string(), shape.to_string()];
                ("added", None)
            }
            Change::Removed { dtype, shape } => {
                [cells[0], cells[2]] = [dtype.to_string(), shape.to_string()];
                ("removed", None)
            }
            Change::Reshaped { from, to } => {
                [cells[2], cells[3]] = [from.to_string(), to.to_string()];
                ("reshaped", None)
            }
            Change::Common { from, to, difference, identical } => {
                [cells[0], cells[1]] = [from.to_string(), to.to_string()];
                (if *identical { "identical" } else { "changed" }, difference.as_ref())
            }
        };
        csv.value(word)?;
        cells.iter().try_for_each(|cell| csv.text(cell))?;
        let error = difference.map(|difference| difference.sums.statistics());
        csv.number(error.as_ref().map(|error| error.sqnr_db))?;
        csv.number(error.as_ref().map(|error| error.relative_error))?;
        csv.number(error.as_ref().map(|error| error.max_abs_error))?;
        csv.number(error.as_ref().map(|error| error.mse))?;
        csv.value(difference.map(|d| d.differing.to_string()).unwrap_or_default())?;
        csv.end_row()?;
    }
    csv.finish()
}

#[derive(Serialize)]
struct Document<'a> {
    a: String,
    b: String,
    tensors: Vec<Entry<'a>>,
    totals: Totals,
}

#[derive(Serialize, Default)]
struct Totals {
    added: usize,
    removed: usize,
    reshaped: usize,
    changed: usize,
    identical: usize,
}

impl Totals {
    fn differ(&self) -> bool {
        self.added + self.removed + self.reshaped + self.changed > 0
    }

    fn of(compared: &[Compared]) -> Totals {
        let mut totals = Totals::default();
        for tensor in compared {
            *match tensor.change {
                Change::Added { .. } => &mut totals.added,
                Change::Removed { .. } => &mut totals.removed,
                Change::Reshaped { .. } => &mut totals.reshaped,
                Change::Common { identical: true, .. } => &mut totals.identical,
                Change::Common { .. } => &mut totals.changed,
            } += 1;
        }
        totals
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Totals { added, removed, reshaped, changed, identical } = self;
        write!(
            f,
            "{added} added, {removed} removed, {reshaped} reshaped, {changed} changed, {identical} identical"
        )
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    change: &'static str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    One {
        dtype: &'a str,
        shape: &'a [u64],
    },
    Shapes {
        from_shape: &'a [u64],
        to_shape: &'a [u64],
    },
    Both {
        from_dtype: &'a str,
        to_dtype: &'a str,
        differing: Option<u64>,
        error: Option<ErrorFigures>,
    },
}

impl<'a> Entry<'a> {
    fn of(compared: &'a Compared) -> Entry<'a> {
        let (change, what) = match &compared.change {
            Change::Added { dtype, shape } => {
                ("added", What::One { dtype: dtype.name(), shape: shape.dims() })
            }
            Change::Removed { dtype, shape } => {
                ("removed", What::One { dtype: dtype.name(), shape: shape.dims() })
            }
            Change::Reshaped { from, to } => {
                ("reshaped", What::Shapes { from_shape: from.dims(), to_shape: to.dims() })
            }
            Change::Common { from, to, difference, identical } => {
                let both = What::Both {
                    from_dtype: from.name(),
                    to_dtype: to.name(),
                    differing: difference.as_ref().map(|d| d.differing),
                    error: difference.as_ref().map(|d| ErrorFigures::of(&d.sums.statistics())),
                };
                (if *identical { "identical" } else { "changed" }, both)
            }
        };
        Entry { name: &compared.name, change, what }
    }
}
