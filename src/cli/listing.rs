//! The tensors a command shows, what is known of each, and what they add up to.

use super::error::Error;
use super::scan::Found;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::export::SaveError;
use crate::plan::{Selection, obstacle};
use crate::quantization::{
    Analysis, Calibration, NotQuantizable, QuantizationScheme, Quantized, Quantizer, diagnostics,
};
use crate::report::document::{Scale, Tensor, Totals};
use crate::tensor::{TensorId, TensorInfo};
use crate::text::{figures, names};
use std::borrow::Cow;
use std::io::{self, Write};

/// One tensor and what was found out about it.
pub(super) struct Row<'a> {
    checkpoint: &'a Checkpoint,
    id: TensorId,
    pub tensor: &'a TensorInfo,
    /// Why it is not quantized by default; `None` if it is.
    pub reason: Option<String>,
    pub analysis: Option<&'a Analysis>,
    /// Whether `quantize` with the same selection changes it.
    selected: bool,
    /// Why its figures are missing or no scale exists, if that is an error.
    failure: Option<Failure<'a>>,
}

enum Failure<'a> {
    Unread(&'a CheckpointError),
    /// It was asked for by name, and has no quantized form.
    Refused(SaveError),
}

impl<'a> Row<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        selection: &Selection,
        id: TensorId,
        found: Option<&'a Found>,
    ) -> Row<'a> {
        let tensor = checkpoint.tensor(id);
        let asked_for = || selection.names(&tensor.name);
        let (reason, analysis, failure) = (None, None, None);
        let mut row = Row { checkpoint, id, tensor, reason, analysis, selected: false, failure };
        match found {
            Some(Err(error)) => {
                row.reason = Some(error.to_string());
                row.failure = Some(Failure::Unread(error));
                return row;
            }
            Some(Ok(analysis)) => row.analysis = Some(analysis),
            None => {}
        }
        // What the values say weighs more than what the name says.
        if let Some(Err(why)) = row.analysis.and_then(outcome) {
            row.reason = Some(why.to_string());
            if asked_for() {
                row.failure = Some(Failure::Refused(refusal(checkpoint, id, why)));
            }
            return row;
        }
        match obstacle(checkpoint, id) {
            None => row.selected = true,
            Some(why) => {
                row.selected = why.can_be_overruled() && asked_for();
                row.reason = Some(why.to_string());
            }
        }
        row
    }

    /// What the quantizer makes of it.
    pub(super) fn quantized(&self) -> Option<&'a Quantized> {
        self.analysis.and_then(outcome)?.as_ref().ok()
    }

    /// What the document lists of it.
    pub(super) fn listed(&self) -> Tensor<'_> {
        let quantizer = self.quantizer().map(|quantizer| quantizer.scheme);
        let Row { checkpoint, id, .. } = *self;
        let listed = Tensor::listed(self.tensor, self.reason.as_deref());
        listed.observed(checkpoint.learned(id), checkpoint.watched(id), quantizer)
    }

    /// What its figures are of, as it was settled for this tensor.
    fn quantizer(&self) -> Option<Quantizer> {
        Some(self.analysis?.outcomes.first()?.quantizer)
    }

    /// What training with fake quantization left beside it, and whether that is used.
    pub(super) fn trained(&self) -> Option<String> {
        let learned = self.checkpoint.learned(self.id)?;
        let said = self.quantizer().map(|quantizer| match learned.fits(quantizer.scheme) {
            _ if quantizer.calibration == Calibration::Learned => format!("{learned}, used here"),
            Ok(()) => learned.to_string(),
            Err(why) => format!("{learned}, calibrated anew: {why}"),
        });
        Some(said.unwrap_or_else(|| learned.to_string()))
    }

    /// The same with the figures of an analysis. `duplicate_of`: the first tensor that holds
    /// the same bytes.
    pub(super) fn analyzed<'s>(
        &'s self,
        scale: Option<Scale<'s>>,
        duplicate_of: Option<&'s str>,
    ) -> Tensor<'s> {
        let statistics = self.analysis.and_then(|analysis| analysis.statistics.as_ref());
        let error = self.quantized().and_then(|quantized| quantized.error);
        let error = error.map(|sums| sums.statistics());
        let flags = self.analysis.map(|analysis| diagnostics(&self.tensor.dtype, analysis));
        let tensor = self.listed().analyzed(statistics, error.as_ref(), scale);
        tensor.examined(&flags.unwrap_or_default(), duplicate_of)
    }

    /// Whether `quantize` with the same selection changes it.
    pub(super) fn is_selected(&self) -> bool {
        self.selected
    }

    /// `yes`, or why not.
    pub(super) fn quantizable(&self) -> Cow<'static, str> {
        match &self.reason {
            None => "yes".into(),
            Some(why) => format!("no: {}", names::visible(why)).into(),
        }
    }
}

/// That a tensor asked for by name has no quantized form.
pub(super) fn refusal(checkpoint: &Checkpoint, id: TensorId, why: &NotQuantizable) -> SaveError {
    let (path, tensor) = (checkpoint.path().to_owned(), checkpoint.tensor(id).name.to_string());
    SaveError::NotQuantizable { path, tensor, why: why.clone() }
}

fn outcome(analysis: &Analysis) -> Option<&Result<Quantized, NotQuantizable>> {
    analysis.outcomes.first().map(|outcome| &outcome.result)
}

/// Below a table: observers whose layer the names do not tell.
pub(super) fn print_unplaced(checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
    let unplaced = checkpoint.unplaced();
    let Some(first) = unplaced.first() else { return Ok(()) };
    writeln!(
        out,
        "{} of activations, first '{}' ({} … {}): whose inputs or outputs these are stands in\nthe model's graph, which is not in the file.",
        figures::counted(unplaced.len(), "observer"),
        names::visible(&first.name),
        figures::plain(first.extent.min),
        figures::plain(first.extent.max),
    )
}

/// The totals so far, and what must be said at the end.
pub(super) struct HistogramBuilder {
    scheme: QuantizationScheme,
    pub totals: Totals,
    pub selected: u64,
    unread: usize,
    first_unread: Option<String>,
    refused: Option<SaveError>,
}

impl HistogramBuilder {
    pub(super) fn new(scheme: QuantizationScheme) -> HistogramBuilder {
        let totals = Totals::default();
        HistogramBuilder {
            scheme,
            totals,
            selected: 0,
            unread: 0,
            first_unread: None,
            refused: None,
        }
    }

    pub(super) fn add(&mut self, row: &mut Row) {
        let TensorInfo { shape, bytes, .. } = row.tensor;
        let after = if row.selected { self.scheme.bytes(shape, 4) } else { *bytes };
        self.totals.tensors += 1;
        self.totals.parameters += shape.elements();
        self.totals.bytes += bytes;
        self.totals.bytes_quantized += after;
        self.selected += u64::from(row.selected);
        match row.failure.take() {
            Some(Failure::Unread(error)) => {
                self.unread += 1;
                self.first_unread.get_or_insert_with(|| error.to_string());
            }
            Some(Failure::Refused(refused)) => _ = self.refused.get_or_insert(refused),
            None => {}
        }
    }

    /// Takes over what another has counted of later tensors.
    pub(super) fn absorb(&mut self, later: HistogramBuilder) {
        let Totals { tensors, parameters, bytes, bytes_quantized } = later.totals;
        self.totals.tensors += tensors;
        self.totals.parameters += parameters;
        self.totals.bytes += bytes;
        self.totals.bytes_quantized += bytes_quantized;
        self.selected += later.selected;
        self.unread += later.unread;
        self.first_unread = self.first_unread.take().or(later.first_unread);
        self.refused = self.refused.take().or(later.refused);
    }

    /// The line below a table.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Totals { tensors, parameters, bytes, bytes_quantized } = self.totals;
        let share = if bytes == 0 { 1.0 } else { bytes_quantized as f64 / bytes as f64 };
        writeln!(out)?;
        writeln!(
            out,
            "{tensors} tensors, {} parameters, {}; quantizable: {}, as {} int8 the whole is {} ({})",
            figures::parameters(parameters),
            figures::bytes(bytes),
            self.selected,
            self.scheme,
            figures::bytes(bytes_quantized),
            figures::percent(share),
        )
    }

    /// An error if something went wrong on the way; the rest has been shown all the same.
    pub(super) fn conclude(self) -> Result<(), Error> {
        if let Some(refused) = self.refused {
            return Err(refused.into());
        }
        match self.first_unread {
            Some(first) => Err(Error::Unread { count: self.unread, first }),
            None => Ok(()),
        }
    }
}
