//! `show`: the output channels or the elements of one tensor, like the tabs *Channels* and
//! *Values* of the screen.

use super::error::{Error, UsageError};
use super::job_runner::JobRunner;
use super::options::{CalibrationArgs, ModelArgs, OutputArgs, RoundingArgs, SchemeArgs, WorkArgs};
use super::output::{self, output, width};
use super::scan::Scan;
use super::table::{Column, Table};
use super::target::{MeasuredFor, MeasuredForArgs};
use crate::checkpoint::Checkpoint;
use crate::job::channels::{self, Channel};
use crate::job::element_window::{self, Element};
use crate::plan::Selection;
use crate::quantization::{AnalysisSpec, QuantizationScheme, Thresholds};
use crate::tensor::{Scalar, TensorId};
use crate::text::figures;
use crate::text::nearest::nearest;
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    quantscope show my-model lm_head.weight\n  \
    quantscope show my-model lm_head.weight --values 0..16")]
pub struct Show {
    #[command(flatten)]
    model: ModelArgs,
    /// The tensor's full name
    tensor: String,
    /// Show elements START to END (exclusive) in storage order instead of the output channels;
    /// without END, 32 elements
    #[arg(long, value_name = "START[..END]", value_parser = elements)]
    values: Option<Range<u64>>,
    #[command(flatten, next_help_heading = "Target")]
    target: MeasuredForArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    scheme: SchemeArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    calibration: CalibrationArgs,
    #[command(flatten, next_help_heading = "Quantization")]
    rounding: RoundingArgs,
    #[command(flatten, next_help_heading = "Output")]
    output: OutputArgs,
    #[command(flatten, next_help_heading = "Execution")]
    work: WorkArgs,
}

/// The most names that are suggested for a misspelt one.
const MAX_SUGGESTIONS: usize = 3;

/// The number of elements to show if no end is given.
const DEFAULT_ELEMENTS: u64 = 32;

/// Elements that are read at a time.
const READ_ELEMENTS: u64 = 1 << 16;

fn elements(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("invalid index '{text}': expected START or START..END"))
    };
    match text.split_once("..") {
        Some((start, end)) => Ok(number(start)?..number(end)?),
        None => number(text).map(|start| start..start.saturating_add(DEFAULT_ELEMENTS)),
    }
}

impl Show {
    pub fn run(self, thresholds: &Thresholds) -> Result<(), Error> {
        let checkpoint = self.model.open()?;
        let Some(id) = checkpoint.find(&self.tensor) else {
            return Err(self.no_such_tensor(&checkpoint));
        };
        let measured_for =
            self.target.resolve(&checkpoint, &Selection::default(), &self.scheme, &[])?;
        match self.values.clone() {
            Some(range) => self.values(&checkpoint, id, range, &measured_for),
            None => self.channels(&checkpoint, id, &measured_for, thresholds),
        }
    }

    /// The error for a name that no tensor has: it is a pattern, or it is misspelt.
    fn no_such_tensor(&self, checkpoint: &Checkpoint) -> Error {
        let selection = Selection { include: vec![self.tensor.clone()], exclude: Vec::new() };
        if selection.matching(checkpoint).is_ok() {
            let why = "is a pattern: expected the name of one tensor".to_owned();
            return self.refusal(checkpoint, why);
        }
        let names = checkpoint.tensors().iter().map(|tensor| tensor.name.as_str());
        let nearest = nearest(&self.tensor, names, MAX_SUGGESTIONS);
        UsageError::NoSuchTensor {
            path: checkpoint.path().to_owned(),
            name: self.tensor.clone(),
            nearest: nearest.into_iter().map(str::to_owned).collect(),
        }
        .into()
    }

    fn refusal(&self, checkpoint: &Checkpoint, why: String) -> Error {
        let (path, tensor) = (checkpoint.path().to_owned(), self.tensor.clone());
        UsageError::Tensor { path, tensor, why }.into()
    }

    /// Prints the output channels, largest magnitude first.
    fn channels(
        &self,
        checkpoint: &Arc<Checkpoint>,
        id: TensorId,
        measured_for: &MeasuredFor,
        thresholds: &Thresholds,
    ) -> Result<(), Error> {
        let shape = &checkpoint.tensor(id).shape;
        if shape.rank() < 2 || shape.elements() == 0 {
            let why = "has no output channels: expected at least two axes; --values START shows its elements";
            return Err(self.refusal(checkpoint, why.to_owned()));
        }
        let tensor = self.calibration.quantizer(checkpoint, QuantizationScheme::PER_TENSOR);
        let rounding = self.rounding.rounding;
        let scale_storage = measured_for.scale_storage();
        let spec = AnalysisSpec { scale_storage, ..AnalysisSpec::scales(vec![tensor], rounding) };
        let mut scan = Scan::start(checkpoint, vec![id], spec, "calibrating", &self.work, None)?;
        let analysis = match scan.next().transpose()? {
            Some((_, Some(found))) => found?,
            _ => {
                let why = format!(
                    "its type is {}: only floats have scales",
                    checkpoint.tensor(id).dtype.name()
                );
                return Err(self.refusal(checkpoint, why));
            }
        };
        drop(scan);
        let shared = match analysis.outcomes.first().map(|outcome| &outcome.result) {
            Some(Ok(quantized)) => quantized.scales.max,
            Some(Err(why)) => return Err(self.refusal(checkpoint, why.to_string())),
            None => return Err(Error::NoThreads),
        };
        let request = channels::Request { tensor: id, shared, rounding, scale_storage };
        let job = || channels::start(checkpoint.clone(), request, self.work.threads());
        let channels = JobRunner::start(job, "measuring", self.work.quiet)?.only()??;
        let mut ranked: Vec<(usize, Channel)> = channels.into_iter().enumerate().collect();
        ranked.sort_by(|(i, a), (j, b)| b.absmax.total_cmp(&a.absmax).then(i.cmp(j)));
        if self.output.json {
            let finite = |db: f64| if db.is_finite() { json!(db) } else { Value::Null };
            let channel = |(number, channel): &(usize, Channel)| {
                json!({
                    "channel": number,
                    "absmax": finite(channel.absmax),
                    "shared_sqnr_db": finite(channel.shared_db),
                    "own_sqnr_db": finite(channel.own_db),
                })
            };
            let channels: Vec<Value> = ranked.iter().map(channel).collect();
            return self.document(json!({ "scale": shared, "channels": channels }));
        }
        let mut table = Table::new(&[
            ("channel", Column::Right),
            ("absmax", Column::Right),
            ("tensor's scale", Column::Right),
            ("", Column::OptionalLeft),
            ("own scale", Column::Right),
            ("", Column::OptionalLeft),
            ("gain", Column::Right),
        ]);
        for (number, channel) in ranked {
            table.cell(number);
            table.cell(figures::plain(channel.absmax));
            for db in [channel.shared_db, channel.own_db] {
                table.cell(figures::decibels(db));
                table.cell(if db.is_nan() { "" } else { thresholds.rate(db).name() });
            }
            let gain = channel.own_db - channel.shared_db;
            let gain = if gain.is_nan() { String::new() } else { figures::gained(gain) };
            table.cell(gain.replace('−', "-"));
        }
        self.print(&table)
    }

    /// Prints elements with their int8 values.
    fn values(
        &self,
        checkpoint: &Arc<Checkpoint>,
        id: TensorId,
        range: Range<u64>,
        measured_for: &MeasuredFor,
    ) -> Result<(), Error> {
        let tensor = checkpoint.tensor(id);
        let count = tensor.parameters();
        if range.start >= count {
            let why = format!("has {count} elements: index {} is out of range", range.start);
            return Err(self.refusal(checkpoint, why));
        }
        let quantizer = self.calibration.quantizer(checkpoint, measured_for.scheme);
        let quantization = Some(element_window::Quantization {
            quantizer,
            rounding: self.rounding.rounding,
            scale_storage: measured_for.scale_storage(),
            scale: None,
        });
        let mut table = Table::new(&[
            ("index", Column::Right),
            ("place", Column::Left),
            ("bytes", Column::OptionalLeft),
            ("value", Column::Right),
            ("q", Column::Right),
            ("dequantized", Column::Right),
            ("error", Column::Right),
            ("scale", Column::Right),
        ]);
        let mut documents = Vec::new();
        let end = range.end.min(count);
        let mut start = range.start;
        while start < end {
            let elements = start..end.min(start.saturating_add(READ_ELEMENTS));
            let request =
                element_window::Request { tensor: id, elements: elements.clone(), quantization };
            let job = || element_window::start(checkpoint.clone(), request);
            let window = JobRunner::start(job, "reading", self.work.quiet)?.only()?;
            let window = window.map_err(|why| self.refusal(checkpoint, why.to_string()))?;
            for (index, element) in (window.start..).zip(&window.elements) {
                let place = tensor.shape.coordinates(index);
                if self.output.json {
                    documents.push(document(index, &place, element))
                } else {
                    row(&mut table, index, &place, element)
                }
            }
            start = elements.end;
        }
        if self.output.json {
            self.document(json!({ "values": documents }))
        } else {
            self.print(&table)
        }
    }

    /// Prints a JSON document with the tensor's name and `found`.
    fn document(&self, mut found: Value) -> Result<(), Error> {
        let mut document = json!({ "tensor": self.tensor });
        if let (Some(all), Some(found)) = (document.as_object_mut(), found.as_object_mut()) {
            all.append(found);
        }
        output::print(&(document.to_string() + "\n"))
    }

    fn print(&self, table: &Table) -> Result<(), Error> {
        let mut out = output();
        table.print(&mut out, width())?;
        Ok(out.flush()?)
    }
}

fn document(index: u64, place: &[u64], element: &Element) -> Value {
    let finite = |x: f64| if x.is_finite() { json!(x) } else { Value::Null };
    let value = match element.value {
        Some(Scalar::Float(x)) => finite(x),
        Some(Scalar::Integer(n)) => {
            i64::try_from(n).map_or_else(|_| json!(n.to_string()), |n| json!(n))
        }
        Some(Scalar::Bool(b)) => json!(b),
        None => Value::Null,
    };
    let quantized = element.quantized.as_ref();
    json!({
        "index": index,
        "place": place,
        "value": value,
        "q": quantized.map(|q| q.q),
        "dequantized": quantized.map(|q| finite(q.dequantized)),
        "error": quantized.map(|q| finite(q.error)),
        "scale": quantized.map(|q| q.scale),
    })
}

fn row(table: &mut Table, index: u64, place: &[u64], element: &Element) {
    table.cell(index);
    table.cell(format_args!("{place:?}"));
    let bytes: Vec<String> = element.raw.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    table.cell(bytes.join(" "));
    // The ASCII minus sign, which other programs can read.
    let exact = |x: f64| figures::exact(x).replace('−', "-");
    table.cell(match element.value {
        Some(Scalar::Float(x)) => exact(x),
        Some(Scalar::Integer(n)) => n.to_string(),
        Some(Scalar::Bool(b)) => b.to_string(),
        None => String::new(),
    });
    match &element.quantized {
        Some(q) => {
            table.cell(q.q);
            table.cell(exact(q.dequantized));
            table.cell(figures::plain(q.error));
            table.cell(figures::plain(q.scale.into()));
        }
        None => (0..4).for_each(|_| table.cell("")),
    }
}
