//! The JSON document of `inspect`, `calibrate` and `analyze`: one shape, written tensor by
//! tensor, so that its size does not matter. Its keys are documented in the README.

use super::activations::{OutputFigures, Summary};
use super::listing::{Row, Totals};
use crate::checkpoint::Checkpoint;
use crate::quantization::{
    ErrorStatistics, Flag, Outcome, QuantizationScheme, Range, Statistics, flags,
};
use crate::tensor::Shape;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// A document being written.
pub struct Document<W> {
    out: W,
    empty: bool,
}

impl<W: Write> Document<W> {
    pub fn begin(
        mut out: W,
        checkpoint: &Checkpoint,
        scheme: QuantizationScheme,
    ) -> io::Result<Self> {
        out.write_all(b"{\"model\":")?;
        super::output::json(&mut out, &checkpoint.path().to_string_lossy())?;
        let format = checkpoint.format().name();
        write!(out, ",\"format\":\"{format}\",\"scheme\":\"{scheme}\",\"tensors\":[")?;
        Ok(Document { out, empty: true })
    }

    pub fn tensor(&mut self, tensor: &Tensor) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        Ok(super::output::json(&mut self.out, tensor)?)
    }

    /// `activations`: what the captures are, if there are any.
    pub fn end(mut self, totals: &Totals, activations: Option<&Summary>) -> io::Result<()> {
        self.out.write_all(b"],\"totals\":")?;
        super::output::json(&mut self.out, totals)?;
        if let Some(activations) = activations {
            self.out.write_all(b",\"activations\":")?;
            super::output::json(&mut self.out, activations)?;
        }
        self.out.write_all(b"}\n")?;
        self.out.flush()
    }
}

/// A tensor in the document. Figures that are not known, not finite or without meaning are
/// null.
#[derive(Serialize)]
pub struct Tensor<'a> {
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
    health: Option<Health<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemes: Option<Vec<SchemeFigures>>,
    /// Only where activations were given; null for a layer that was not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Option<OutputFigures>>,
}

/// What is odd with a tensor.
#[derive(Serialize)]
struct Health<'a> {
    flags: Vec<FlagText>,
    /// The first tensor that holds the same bytes.
    duplicate_of: Option<&'a str>,
}

#[derive(Serialize)]
struct FlagText {
    flag: &'static str,
    what: String,
    meaning: &'static str,
}

/// What one of several schemes makes of a tensor.
#[derive(Serialize)]
pub struct SchemeFigures {
    scheme: String,
    /// Values and F32 scales.
    bytes: u64,
    /// Why it has no figures.
    reason: Option<String>,
    #[serde(flatten)]
    error: ErrorFigures,
    worst_channel: Option<WorstChannel>,
}

#[derive(Serialize)]
struct WorstChannel {
    channel: u64,
    sqnr_db: f64,
}

impl SchemeFigures {
    pub fn of(outcome: &Outcome, shape: &Shape) -> SchemeFigures {
        let scheme = outcome.quantizer.scheme;
        let found = outcome.result.as_ref();
        let error = found.ok().and_then(|found| found.error);
        let worst = found.ok().and_then(|found| found.channels.as_ref()?.worst());
        SchemeFigures {
            scheme: scheme.to_string(),
            bytes: scheme.bytes(shape, 4),
            reason: found.err().map(|why| why.to_string()),
            error: error.map(|sums| ErrorFigures::of(&sums.statistics())).unwrap_or_default(),
            worst_channel: worst.map(|(channel, sqnr_db)| WorstChannel { channel, sqnr_db }),
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

/// What quantizing cost a tensor, in every document.
#[derive(Serialize, Default)]
pub struct ErrorFigures {
    mse: Option<f64>,
    rmse: Option<f64>,
    max_abs_error: Option<f64>,
    sqnr_db: Option<f64>,
    cosine_similarity: Option<f64>,
    relative_error: Option<f64>,
    zeroed: Option<f64>,
    levels_used: Option<u32>,
}

/// One number per tensor, a list otherwise.
pub enum Scale<'a> {
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

/// The f64 whose shortest decimal form is that of the f32 `x`, if reading it and narrowing
/// gives `x` again; rounding twice can miss it, and then `x` itself.
fn short(x: f32) -> f64 {
    match format!("{x:e}").parse::<f64>() {
        Ok(wide) if wide as f32 == x => wide,
        _ => f64::from(x),
    }
}

impl<'a> Tensor<'a> {
    /// What the headers tell.
    pub fn listed(row: &'a Row) -> Self {
        Tensor {
            name: &row.tensor.name,
            dtype: row.tensor.dtype.name(),
            shape: row.tensor.shape.dims(),
            parameters: row.tensor.parameters(),
            bytes: row.tensor.bytes,
            quantizable: row.reason.is_none(),
            reason: row.reason.as_deref(),
            figures: Figures::None {},
            health: None,
            schemes: None,
            output: None,
        }
    }

    /// The same, with what the layer's output loses.
    pub fn with_output(self, output: Option<OutputFigures>) -> Self {
        Tensor { output: Some(output), ..self }
    }

    pub fn calibrated(row: &'a Row, scale: Option<Scale<'a>>) -> Self {
        let stats = row.analysis.map(|analysis| RangeStats::of(&analysis.range));
        let figures = Figures::Calibrated {
            stats: stats.unwrap_or_default(),
            quantization: ScaleOnly { scale },
        };
        Tensor { figures, ..Tensor::listed(row) }
    }

    /// `duplicate_of`: the first tensor that holds the same bytes.
    pub fn analyzed(row: &'a Row, scale: Option<Scale<'a>>, duplicate_of: Option<&'a str>) -> Self {
        let stats = row.analysis.and_then(|analysis| analysis.statistics.as_ref()).map(Stats::of);
        let error = row.quantized().and_then(|quantized| quantized.error);
        let quantization = match error {
            Some(sums) => Quantization { scale, error: ErrorFigures::of(&sums.statistics()) },
            None => Quantization::default(),
        };
        let figures = Figures::Analyzed { stats: stats.unwrap_or_default(), quantization };
        let text = |flag: &Flag| FlagText {
            flag: flag.name(),
            what: flag.to_string(),
            meaning: flag.meaning(),
        };
        let flags = row.analysis.map(|analysis| flags(&row.tensor.dtype, analysis));
        let flags = flags.unwrap_or_default().iter().map(text).collect();
        let health = Some(Health { flags, duplicate_of });
        Tensor { figures, health, ..Tensor::listed(row) }
    }

    /// The same, with what each of several schemes makes of it.
    pub fn compared(
        row: &'a Row,
        schemes: Vec<SchemeFigures>,
        duplicate_of: Option<&'a str>,
    ) -> Self {
        let scale = row.quantized().filter(|found| found.scales.count == 1);
        let scale = scale.map(|found| Scale::One(found.scales.max));
        Tensor { schemes: Some(schemes), ..Tensor::analyzed(row, scale, duplicate_of) }
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

// A figure that is NaN or infinite becomes null as it is written.
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
    pub fn of(e: &ErrorStatistics) -> Self {
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
    fn every_scale_is_read_back_as_it_was() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let x = f32::from_bits(bits & 0x7fff_ffff);
            if x.is_finite() {
                let json = serde_json::to_string(&Scale::One(x)).expect("a number");
                assert_eq!(json.parse::<f64>().expect("a number") as f32, x, "{json}");
            }
        }
        // Its shortest form, narrowed from f64, is its neighbour.
        let trap = 7.038531e-26f32;
        assert_ne!("7.038531e-26".parse::<f64>().expect("a number") as f32, trap);
        assert_eq!(short(trap), f64::from(trap));
        assert_eq!(serde_json::to_string(&Scale::Each(&[0.1, 1.5])).expect("a list"), "[0.1,1.5]");
    }
}
