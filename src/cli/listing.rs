//! The tensors that a command lists, and their totals.

use super::error::Error;
use super::scan::ScanResult;
use super::target::MeasuredFor;
use crate::checkpoint::{Checkpoint, ReadError};
use crate::export::SaveError;
use crate::plan::gguf_mix::becomes_f16_in;
use crate::plan::rules::{Eligibility, Reason};
use crate::plan::target::Container;
use crate::plan::{Obstacle, Selection};
use crate::quantization::{
    Analysis, Calibration, NotQuantizable, QuantizationScheme, Quantized, Quantizer, diagnostics,
};
use crate::report::document::{Scale, Tensor, Totals};
use crate::tensor::{FloatType, TensorId, TensorInfo};
use crate::text::{figures, names};
use std::borrow::Cow;
use std::io::{self, Write};

/// One tensor of a listing.
pub(super) struct Row<'a> {
    checkpoint: &'a Checkpoint,
    id: TensorId,
    pub tensor: &'a TensorInfo,
    /// Why it is not quantized by default; `None` if it is.
    pub reason: Option<String>,
    pub analysis: Option<&'a Analysis>,
    /// Why the tensor is not quantized by default for any target, as far as the header shows.
    pub obstacle: Option<Obstacle>,
    /// Whether `quantize` with the same selection would quantize it.
    selected: bool,
    /// Whether the target stores it as F16, because no block divides its rows.
    becomes_f16: bool,
    /// Why it could not be measured or quantized, if that is an error.
    failure: Option<Failure<'a>>,
}

enum Failure<'a> {
    Unread(&'a ReadError),
    /// It was selected by name, and cannot be quantized.
    Refused(SaveError),
}

impl<'a> Row<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        selection: &Selection,
        measured_for: &MeasuredFor,
        id: TensorId,
        found: Option<&'a ScanResult>,
    ) -> Row<'a> {
        let tensor = checkpoint.tensor(id);
        let asked_for = || selection.names(&tensor.name);
        let mut row = Row {
            checkpoint,
            id,
            tensor,
            reason: None,
            analysis: None,
            obstacle: None,
            selected: false,
            becomes_f16: false,
            failure: None,
        };
        match found {
            Some(Err(error)) => {
                row.reason = Some(error.to_string());
                row.failure = Some(Failure::Unread(error));
                return row;
            }
            Some(Ok(analysis)) => row.analysis = Some(analysis),
            None => {}
        }
        // The values are stronger evidence than the name.
        if let Some(Err(why)) = row.analysis.and_then(outcome) {
            row.reason = Some(why.to_string());
            if asked_for() {
                row.failure = Some(Failure::Refused(refusal(checkpoint, id, why)));
            }
            return row;
        }
        let (selected, reason) = match measured_for.rules.eligibility(checkpoint, id) {
            Eligibility::ByDefault => (true, None),
            Eligibility::ByName(reason) => (asked_for(), Some(reason)),
            Eligibility::Never(reason) => (false, Some(reason)),
        };
        row.selected = selected;
        row.reason = reason.as_ref().map(Reason::to_string);
        if let Some(why) = measured_for.scheme_obstacle(tensor).filter(|_| selected) {
            row.selected = false;
            row.becomes_f16 = becomes_f16_in(measured_for.container(), checkpoint, id);
            row.reason.get_or_insert(why);
        }
        row.obstacle = match reason {
            Some(Reason::Obstacle(obstacle)) => Some(obstacle),
            _ => None,
        };
        row
    }

    /// The result of the quantizer; `None` if it cannot be quantized.
    pub(super) fn quantized(&self) -> Option<&'a Quantized> {
        self.analysis.and_then(outcome)?.as_ref().ok()
    }

    /// The tensor for the JSON document.
    pub(super) fn listed(&self) -> Tensor<'_> {
        let quantizer = self.quantizer().map(|quantizer| quantizer.scheme);
        let Row { checkpoint, id, .. } = *self;
        let listed = Tensor::listed(self.tensor, self.reason.as_deref());
        listed.observed(checkpoint.learned(id), checkpoint.observed(id), quantizer)
    }

    /// The quantizer that was used for this tensor.
    fn quantizer(&self) -> Option<Quantizer> {
        Some(self.analysis?.outcomes.first()?.quantizer)
    }

    /// The learned scales of quantization-aware training, and whether they are used.
    pub(super) fn trained(&self) -> Option<String> {
        let learned = self.checkpoint.learned(self.id)?;
        let text = self.quantizer().map(|quantizer| match learned.fits(quantizer.scheme) {
            _ if quantizer.calibration == Calibration::Learned => format!("{learned}, used here"),
            Ok(()) => learned.to_string(),
            Err(why) => format!("{learned}, not used: {why}"),
        });
        Some(text.unwrap_or_else(|| learned.to_string()))
    }

    /// The tensor with the figures of its analysis. `duplicate_of` names the first tensor that
    /// holds the same bytes.
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

    /// Whether `quantize` with the same selection would quantize it.
    pub(super) fn is_selected(&self) -> bool {
        self.selected
    }

    /// The cell `quantizable`: `yes`, or `no` and the reason.
    pub(super) fn quantizable(&self) -> Cow<'static, str> {
        match &self.reason {
            None => "yes".into(),
            Some(why) => format!("no: {}", names::visible(why)).into(),
        }
    }
}

/// The error of a tensor that was selected by name and cannot be quantized.
pub(super) fn refusal(checkpoint: &Checkpoint, id: TensorId, why: &NotQuantizable) -> SaveError {
    let (path, tensor) = (checkpoint.path().to_owned(), checkpoint.tensor(id).name.to_string());
    SaveError::NotQuantizable { path, tensor, why: why.clone() }
}

fn outcome(analysis: &Analysis) -> Option<&Result<Quantized, NotQuantizable>> {
    analysis.outcomes.first().map(|outcome| &outcome.result)
}

/// Prints which activation observers could not be assigned to a layer.
pub(super) fn print_unplaced(checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
    let unplaced = checkpoint.unmatched_observers();
    let Some(first) = unplaced.first() else { return Ok(()) };
    writeln!(
        out,
        "{} of activations, first '{}' ({} … {}), match no layer by name. Their\nlayers are known only from the model's graph, which is not in the file.",
        figures::counted(unplaced.len(), "observer"),
        names::visible(&first.name),
        figures::plain(first.range.min),
        figures::plain(first.range.max),
    )
}

/// The totals of a listing, and the first error of each kind.
pub(super) struct ListingSummary {
    scheme: QuantizationScheme,
    /// The format that sizes are given for.
    container: Container,
    pub totals: Totals,
    pub selected: u64,
    unread: usize,
    first_unread: Option<String>,
    refused: Option<SaveError>,
}

impl ListingSummary {
    pub(super) fn new(measured_for: &MeasuredFor) -> ListingSummary {
        ListingSummary {
            scheme: measured_for.scheme,
            container: measured_for.container(),
            totals: Totals::default(),
            selected: 0,
            unread: 0,
            first_unread: None,
            refused: None,
        }
    }

    pub(super) fn add(&mut self, row: &mut Row) {
        let TensorInfo { shape, bytes, .. } = row.tensor;
        let after = match row.selected {
            true => self.container.bytes(self.scheme, row.tensor),
            false if row.becomes_f16 => shape.elements() * FloatType::F16.size() as u64,
            false => *bytes,
        };
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

    /// Adds the summary of the tensors that follow.
    pub(super) fn merge(&mut self, later: ListingSummary) {
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

    /// Prints the line below a table.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Totals { tensors, parameters, bytes, bytes_quantized } = self.totals;
        let share = if bytes == 0 { 1.0 } else { bytes_quantized as f64 / bytes as f64 };
        writeln!(out)?;
        writeln!(
            out,
            "{}, {} parameters, {}; quantizable: {}, as {}{} the whole is {} ({})",
            figures::counted(tensors as usize, "tensor"),
            figures::parameters(parameters),
            figures::bytes(bytes),
            self.selected,
            self.scheme,
            if self.scheme.is_scaled_int8() { " int8" } else { "" },
            figures::bytes(bytes_quantized),
            figures::percent(share),
        )
    }

    /// Returns the first error. The rest of the listing has been printed.
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
