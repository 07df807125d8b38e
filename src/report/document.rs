//! The JSON document of `inspect`, `calibrate`, `analyze` and `report`. It is written tensor by
//! tensor, so that memory use does not grow with it. `quantscope help json` documents its keys.

use crate::activations::{ActivationMode, OutputError};
use crate::checkpoint::{ActivationRange, Checkpoint, ObservedActivations};
use crate::quantization::{
    Diagnostic, ErrorStatistics, Outcome, QatScales, QuantizationScheme, Range, Statistics,
};
use crate::tensor::{Shape, TensorInfo};
use crate::text::json;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// A JSON document that is being written.
pub(crate) struct Document<W> {
    out: W,
    empty: bool,
    /// Further keys, which follow the last.
    further: Vec<u8>,
}

impl<W: Write> Document<W> {
    pub(crate) fn begin(
        mut out: W,
        checkpoint: &Checkpoint,
        scheme: QuantizationScheme,
    ) -> io::Result<Self> {
        out.write_all(b"{\"model\":")?;
        json::write(&mut out, &checkpoint.path().to_string_lossy())?;
        let format = checkpoint.format().name();
        write!(out, ",\"format\":\"{format}\",\"scheme\":\"{scheme}\",\"tensors\":[")?;
        Ok(Document { out, empty: true, further: Vec::new() })
    }

    /// Adds a tensor: a [`Tensor`], or one with further keys.
    pub(crate) fn tensor(&mut self, tensor: &impl Serialize) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        Ok(json::write(&mut self.out, tensor)?)
    }

    /// Adds tensors that were written by [`list`].
    pub(crate) fn append(&mut self, listed: &[u8]) -> io::Result<()> {
        if !listed.is_empty() && !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        self.out.write_all(listed)
    }

    /// Adds a key at the end of the document.
    pub(crate) fn key(&mut self, key: &str, value: &impl Serialize) -> io::Result<()> {
        write!(self.further, ",\"{key}\":")?;
        Ok(json::write(&mut self.further, value)?)
    }

    pub(crate) fn end(mut self, totals: &Totals) -> io::Result<()> {
        self.totals(totals)?;
        self.close()
    }

    /// Ends the document with one more key.
    pub(crate) fn end_with(
        mut self,
        totals: &Totals,
        key: &str,
        value: &impl Serialize,
    ) -> io::Result<()> {
        self.totals(totals)?;
        write!(self.out, ",\"{key}\":")?;
        json::write(&mut self.out, value)?;
        self.close()
    }

    /// Ends it with two more keys.
    pub(crate) fn end_with_both(
        mut self,
        totals: &Totals,
        (first, value): (&str, &impl Serialize),
        (second, last): (&str, &impl Serialize),
    ) -> io::Result<()> {
        self.totals(totals)?;
        write!(self.out, ",\"{first}\":")?;
        json::write(&mut self.out, value)?;
        write!(self.out, ",\"{second}\":")?;
        json::write(&mut self.out, last)?;
        self.close()
    }

    fn totals(&mut self, totals: &Totals) -> io::Result<()> {
        self.out.write_all(b"],\"totals\":")?;
        Ok(json::write(&mut self.out, totals)?)
    }

    fn close(mut self) -> io::Result<()> {
        self.out.write_all(&self.further)?;
        self.out.write_all(b"}\n")?;
        self.out.flush()
    }
}

/// Appends a tensor to a list for [`Document::append`].
pub(crate) fn list(tensor: &impl Serialize, listed: &mut Vec<u8>) -> io::Result<()> {
    if !listed.is_empty() {
        listed.push(b',');
    }
    Ok(json::write(listed, tensor)?)
}

/// The key-value metadata of one file, in the file's order: `__metadata__` of safetensors.
#[derive(Serialize)]
pub(crate) struct FileMetadata<'a> {
    file: String,
    #[serde(serialize_with = "pairs")]
    values: &'a [(String, String)],
}

fn pairs<S: Serializer>(values: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(key, value)| (key, value)))
}

/// The metadata of every file that has any.
pub(crate) fn metadata(checkpoint: &Checkpoint) -> Vec<FileMetadata<'_>> {
    let files = checkpoint.shards().iter().filter(|shard| !shard.metadata.is_empty());
    files.map(|shard| FileMetadata { file: shard.name(), values: &shard.metadata }).collect()
}

/// A tensor of the document. Figures that are unknown or not finite are null.
#[derive(Serialize)]
pub(crate) struct Tensor<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [u64],
    parameters: u64,
    bytes: u64,
    quantizable: bool,
    reason: Option<&'a str>,
    #[serde(flatten)]
    figures: Figures<'a>,
    #[serde(flatten)]
    diagnostics: Option<DiagnosticFigures<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemes: Option<Vec<SchemeFigures>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<Observed<'a>>,
}

/// The records of the observers of quantization-aware training for a weight.
#[derive(Serialize)]
struct Observed<'a> {
    learned: Option<LearnedFigures<'a>>,
    /// The ranges of the layer's inputs and outputs.
    input: Option<ExtentFigures>,
    output: Option<ExtentFigures>,
    /// The scale of the inputs as symmetric int8.
    input_scale: Option<f32>,
}

#[derive(Serialize)]
struct LearnedFigures<'a> {
    scales: Scale<'a>,
    zero_point: f64,
    /// The largest quantized value that training used.
    levels: Option<f64>,
    /// Why the scheme does not use the scales; null if it does, or if there is no scheme.
    not_taken: Option<String>,
}

#[derive(Serialize)]
struct ExtentFigures {
    min: f64,
    max: f64,
}

impl From<ActivationRange> for ExtentFigures {
    fn from(ActivationRange { min, max }: ActivationRange) -> Self {
        ExtentFigures { min, max }
    }
}

/// The output error of a layer for one quantizer.
#[derive(Serialize)]
pub(crate) struct OutputFigures {
    /// `inputs` if exact for the recorded inputs, or `diagonal`.
    basis: Option<&'static str>,
    /// Why there are no figures.
    reason: Option<String>,
    /// The scale of the layer's inputs as symmetric int8.
    input_scale: Option<f32>,
    weights: ModeFigures,
    dynamic: ModeFigures,
    r#static: ModeFigures,
}

#[derive(Serialize)]
struct ModeFigures {
    relative: Option<f64>,
    db: Option<f64>,
}

impl OutputFigures {
    pub(crate) fn of(
        error: Option<&OutputError>,
        input_scale: Option<f32>,
        reason: Option<String>,
    ) -> OutputFigures {
        let mode = |mode| ModeFigures {
            relative: error.and_then(|error| error.ratio(mode)),
            db: error.and_then(|error| error.db(mode)),
        };
        OutputFigures {
            basis: error.map(|error| error.basis.name()),
            reason,
            input_scale,
            weights: mode(ActivationMode::Weights),
            dynamic: mode(ActivationMode::Dynamic),
            r#static: mode(ActivationMode::Static),
        }
    }
}

/// The totals of the listed tensors.
#[derive(Debug, Default, Serialize)]
pub struct Totals {
    /// Number of tensors.
    pub tensors: u64,
    pub parameters: u64,
    pub bytes: u64,
    /// Bytes with the selected tensors quantized, including scales.
    pub bytes_quantized: u64,
}

/// The diagnostics of a tensor.
#[derive(Serialize)]
struct DiagnosticFigures<'a> {
    flags: Vec<DiagnosticText>,
    /// The first tensor that holds the same bytes.
    duplicate_of: Option<&'a str>,
}

#[derive(Serialize)]
struct DiagnosticText {
    flag: &'static str,
    what: String,
    meaning: &'static str,
}

/// The error of one of several schemes.
#[derive(Serialize)]
pub(crate) struct SchemeFigures {
    scheme: String,
    /// Bytes of values and F32 scales.
    bytes: u64,
    /// Why there are no figures.
    reason: Option<String>,
    #[serde(flatten)]
    error: ErrorFigures,
    worst_channel: Option<WorstChannel>,
    /// Present if activations were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<OutputFigures>,
}

#[derive(Serialize)]
struct WorstChannel {
    channel: u64,
    sqnr_db: f64,
}

impl SchemeFigures {
    /// The figures of a scheme whose outcome was not kept.
    pub(crate) fn known(
        scheme: QuantizationScheme,
        shape: &Shape,
        error: &ErrorStatistics,
    ) -> Self {
        SchemeFigures {
            scheme: scheme.to_string(),
            bytes: scheme.bytes(shape, 4),
            reason: None,
            error: ErrorFigures::of(error),
            worst_channel: None,
            output: None,
        }
    }

    /// Adds the output error.
    pub(crate) fn with_output(self, output: Option<OutputFigures>) -> SchemeFigures {
        SchemeFigures { output, ..self }
    }

    pub(crate) fn of(outcome: &Outcome, shape: &Shape) -> SchemeFigures {
        let scheme = outcome.quantizer.scheme;
        let found = outcome.result.as_ref();
        let error = found.ok().and_then(|found| found.error);
        let worst = found.ok().and_then(|found| found.channels.as_ref()?.worst());
        SchemeFigures {
            scheme: scheme.to_string(),
            bytes: scheme.bytes(shape, 4),
            reason: found.err().map(std::string::ToString::to_string),
            error: error.map(|sums| ErrorFigures::of(&sums.statistics())).unwrap_or_default(),
            worst_channel: worst.map(|(channel, sqnr_db)| WorstChannel { channel, sqnr_db }),
            output: None,
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Figures<'a> {
    None {},
    Calibrated { stats: RangeStats, quantization: ScaleOnly<'a> },
    Analyzed { stats: Stats, quantization: Quantization<'a> },
}

#[derive(Serialize, Default)]
struct RangeStats {
    min: Option<f64>,
    max: Option<f64>,
    absmax: Option<f64>,
    nan: Option<u64>,
    inf: Option<u64>,
}

#[derive(Serialize)]
struct ScaleOnly<'a> {
    scale: Option<Scale<'a>>,
}

#[derive(Serialize, Default)]
struct Stats {
    count: Option<u64>,
    min: Option<f64>,
    max: Option<f64>,
    absmax: Option<f64>,
    mean: Option<f64>,
    std: Option<f64>,
    zeros: Option<u64>,
    nan: Option<u64>,
    inf: Option<u64>,
}

#[derive(Serialize, Default)]
struct Quantization<'a> {
    scale: Option<Scale<'a>>,
    #[serde(flatten)]
    error: ErrorFigures,
}

/// The quantization error of a tensor, with the same keys in every document.
#[derive(Serialize, Default)]
pub(crate) struct ErrorFigures {
    mse: Option<f64>,
    rmse: Option<f64>,
    max_abs_error: Option<f64>,
    sqnr_db: Option<f64>,
    cosine_similarity: Option<f64>,
    relative_error: Option<f64>,
    zeroed: Option<f64>,
    levels_used: Option<u32>,
}

/// A number for a per-tensor scheme, and a list otherwise.
pub(crate) enum Scale<'a> {
    One(f32),
    Each(&'a [f32]),
}

impl Serialize for Scale<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Scale::One(scale) => short(*scale).serialize(serializer),
            Scale::Each(scales) => serializer.collect_seq(scales.iter().map(|&s| short(s))),
        }
    }
}

/// The f64 with the same shortest decimal form as the f32 `x`, if narrowing it gives `x` again.
/// Rounding twice can give a neighbour of `x`; then `x` itself is returned.
fn short(x: f32) -> f64 {
    match format!("{x:e}").parse::<f64>() {
        Ok(wide) if wide as f32 == x => wide,
        _ => f64::from(x),
    }
}

impl<'a> Tensor<'a> {
    /// A tensor as listed in the header. `reason` says why it is not quantized by default.
    pub(crate) fn listed(tensor: &'a TensorInfo, reason: Option<&'a str>) -> Self {
        Tensor {
            name: &tensor.name,
            dtype: tensor.dtype.name(),
            shape: tensor.shape.dims(),
            parameters: tensor.parameters(),
            bytes: tensor.bytes,
            quantizable: reason.is_none(),
            reason,
            figures: Figures::None {},
            diagnostics: None,
            schemes: None,
            observed: None,
        }
    }

    /// Adds the records of observers. `scheme` is the scheme of the figures, if any.
    pub(crate) fn observed(
        self,
        learned: Option<&'a QatScales>,
        observed: Option<&ObservedActivations>,
        scheme: Option<QuantizationScheme>,
    ) -> Self {
        let learned = learned.map(|learned| LearnedFigures {
            scales: match learned.scales.as_slice() {
                [scale] => Scale::One(*scale),
                scales => Scale::Each(scales),
            },
            zero_point: learned.zero_point.unwrap_or(0.0),
            levels: learned.levels,
            not_taken: scheme
                .and_then(|scheme| learned.fits(scheme).err())
                .map(|why| why.to_string()),
        });
        if learned.is_none() && observed.is_none() {
            return self;
        }
        let observed = Observed {
            learned,
            input: observed.and_then(|observed| observed.input).map(ExtentFigures::from),
            output: observed.and_then(|observed| observed.output).map(ExtentFigures::from),
            input_scale: observed.and_then(ObservedActivations::input_scale),
        };
        Tensor { observed: Some(observed), ..self }
    }

    pub(crate) fn calibrated(self, range: Option<&Range>, scale: Option<Scale<'a>>) -> Self {
        let figures = Figures::Calibrated {
            stats: range.map(RangeStats::of).unwrap_or_default(),
            quantization: ScaleOnly { scale },
        };
        Tensor { figures, ..self }
    }

    pub(crate) fn analyzed(
        self,
        statistics: Option<&Statistics>,
        error: Option<&ErrorStatistics>,
        scale: Option<Scale<'a>>,
    ) -> Self {
        let quantization = match error {
            Some(error) => Quantization { scale, error: ErrorFigures::of(error) },
            None => Quantization::default(),
        };
        let stats = statistics.map(Stats::of).unwrap_or_default();
        Tensor { figures: Figures::Analyzed { stats, quantization }, ..self }
    }

    /// Adds diagnostics. `duplicate_of` names the first tensor that holds the same bytes.
    pub(crate) fn examined(self, flags: &[Diagnostic], duplicate_of: Option<&'a str>) -> Self {
        let text = |flag: &Diagnostic| DiagnosticText {
            flag: flag.name(),
            what: flag.to_string(),
            meaning: flag.meaning(),
        };
        let diagnostics =
            Some(DiagnosticFigures { flags: flags.iter().map(text).collect(), duplicate_of });
        Tensor { diagnostics, ..self }
    }

    /// Adds the figures of several schemes.
    pub(crate) fn compared(self, schemes: Vec<SchemeFigures>) -> Self {
        Tensor { schemes: Some(schemes), ..self }
    }
}

impl RangeStats {
    fn of(range: &Range) -> Self {
        let any = range.finite() > 0;
        RangeStats {
            min: any.then_some(range.min),
            max: any.then_some(range.max),
            absmax: any.then_some(range.absmax()),
            nan: Some(range.nan),
            inf: Some(range.inf),
        }
    }
}

// NaN and infinities are written as null.
impl Stats {
    fn of(s: &Statistics) -> Self {
        Stats {
            count: Some(s.count),
            min: Some(s.min),
            max: Some(s.max),
            absmax: Some(s.absmax),
            mean: Some(s.mean),
            std: Some(s.std),
            zeros: Some(s.zeros),
            nan: Some(s.nan),
            inf: Some(s.inf),
        }
    }
}

impl ErrorFigures {
    pub(crate) fn of(e: &ErrorStatistics) -> Self {
        ErrorFigures {
            mse: Some(e.mse),
            rmse: Some(e.rmse),
            max_abs_error: Some(e.max_abs_error),
            sqnr_db: Some(e.sqnr_db),
            cosine_similarity: Some(e.cosine_similarity),
            relative_error: Some(e.relative_error),
            zeroed: Some(e.zeroed),
            levels_used: Some(e.levels_used),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_survive_a_round_trip() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let x = f32::from_bits(bits & 0x7fff_ffff);
            if x.is_finite() {
                let json = serde_json::to_string(&Scale::One(x)).expect("a number");
                assert_eq!(json.parse::<f64>().expect("a number") as f32, x, "{json}");
            }
        }
        // The shortest form of this number, narrowed from f64, gives its neighbour.
        let trap = 7.038531e-26f32;
        assert_ne!("7.038531e-26".parse::<f64>().expect("a number") as f32, trap);
        assert_eq!(short(trap), f64::from(trap));
        assert_eq!(serde_json::to_string(&Scale::Each(&[0.1, 1.5])).expect("a list"), "[0.1,1.5]");
    }
}
