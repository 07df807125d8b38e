//! Reads a range of a tensor's elements, and quantizes each of them.

use super::{Job, Progress};
use crate::checkpoint::{Checkpoint, Content, ReadError, Reader};
use crate::quantization::{
    AnalysisSpec, GroupQuantizers, HistogramBuilder, QuantizationScheme, Quantizer, Rounding,
    ScaleStorage, TensorAnalyzer, kernels,
};
use crate::tensor::{FloatType, Scalar, Shape, TensorId, read_f64};
use std::ops::Range as Elements;
use std::sync::Arc;

/// Which elements to read, and how to quantize them.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The tensor.
    pub tensor: TensorId,
    /// Indices in storage order.
    pub elements: Elements<u64>,
    /// `None`: read the stored values only.
    pub quantization: Option<Quantization>,
}

/// How the elements would be quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// The quantizer.
    pub quantizer: Quantizer,
    /// How values halfway between two integers are rounded.
    pub rounding: Rounding,
    /// The type that scales are stored in.
    pub scale_storage: ScaleStorage,
    /// The scale of the whole tensor, if it is known already, so that the tensor need not be
    /// read to find it.
    pub scale: Option<f32>,
}

/// Elements of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The index of the first element.
    pub start: u64,
    /// The elements, in storage order.
    pub elements: Vec<Element>,
}

/// One element: its bytes, its value and its quantized value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Element {
    /// The bytes in the file.
    pub raw: Raw,
    /// `None` for a dtype that cannot be decoded.
    pub value: Option<Scalar>,
    /// `None` if the element is not a float or its group has no scale.
    pub quantized: Option<Quantized>,
}

/// An element's bytes in file order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raw {
    bytes: [u8; 8],
    size: u8,
}

impl Raw {
    fn new(raw: &[u8]) -> Raw {
        let mut bytes = [0; 8];
        let size = raw.len().min(8);
        bytes.iter_mut().zip(raw).for_each(|(to, from)| *to = *from);
        Raw { bytes, size: size as u8 }
    }

    /// Empty for an element of a packed format, which has no bytes of its own.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.size)).unwrap_or_default()
    }
}

/// A quantized element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantized {
    /// The quantized value.
    pub q: i8,
    /// The scale of the element's group.
    pub scale: f32,
    /// `scale * q`, rounded to f32.
    pub dequantized: f64,
    /// `x̂ − x`
    pub error: f64,
}

/// Why the elements cannot be shown.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum ValuesError {
    #[error("{0}")]
    Checkpoint(#[from] ReadError),
    #[error("cannot show single elements of {0}: they are smaller than a byte")]
    Packed(String),
}

/// Starts a job whose one finding is the window.
pub fn start(
    checkpoint: Arc<Checkpoint>,
    request: Request,
) -> std::io::Result<Job<Result<Window, ValuesError>>> {
    Job::start("values", Arc::new(Progress::default()), move |progress, sender| {
        let _ = sender.send(run(&checkpoint, &request, progress));
    })
}

/// Reads the requested elements, as far as the tensor has them.
pub fn run(
    checkpoint: &Checkpoint,
    request: &Request,
    progress: &Progress,
) -> Result<Window, ValuesError> {
    let id = request.tensor;
    let count = checkpoint.tensor(id).parameters();
    let start = request.elements.start.min(count);
    let range = start..request.elements.end.clamp(start, count);
    let mut reader = checkpoint.reader();
    let Some(float) = checkpoint.float_type(id) else {
        return Ok(Window { start, elements: stored(&mut reader, id, range)? });
    };
    let plain = matches!(checkpoint.content(id), Content::Plain(_));
    let bytes = match reader.elements(id, range.clone())? {
        Some((_, bytes)) => bytes.to_vec(),
        None => Vec::new(),
    };
    let mut elements: Vec<Element> = bytes
        .chunks_exact(float.size())
        .map(|raw| Element {
            raw: Raw::new(if plain { raw } else { &[] }),
            value: read_f64(float, raw, 0).map(Scalar::Float),
            quantized: None,
        })
        .collect();
    if let Some(params) = &request.quantization {
        quantize(&mut reader, id, &range, (float, &bytes), params, progress, &mut elements)?;
    }
    Ok(Window { start, elements })
}

/// Elements that are not floats: their bytes, and their values if the dtype can be decoded.
fn stored(
    reader: &mut Reader,
    id: TensorId,
    range: Elements<u64>,
) -> Result<Vec<Element>, ValuesError> {
    let checkpoint = reader.checkpoint();
    let tensor = checkpoint.tensor(id);
    let packed = || ValuesError::Packed(tensor.dtype.name().to_owned());
    let Content::Plain(stored) = *checkpoint.content(id) else { return Err(packed()) };
    let size = tensor.dtype.bytes_for(1).filter(|&size| size <= 8).ok_or_else(packed)?;
    let bytes = reader.stored(stored, range.start * size..range.end * size)?;
    Ok(bytes
        .chunks_exact(size as usize)
        .map(|raw| Element {
            raw: Raw::new(raw),
            value: Scalar::read(&tensor.dtype, raw),
            quantized: None,
        })
        .collect())
}

/// Quantizes each element with the scale of its group.
fn quantize(
    reader: &mut Reader,
    id: TensorId,
    range: &Elements<u64>,
    (float, bytes): (FloatType, &[u8]),
    params: &Quantization,
    progress: &Progress,
    elements: &mut [Element],
) -> Result<(), ValuesError> {
    // The columns of a quantized element are those of int8 with one scale.
    let scheme = params.quantizer.scheme;
    if scheme.preset().is_some() || scheme.ggml().is_some() {
        return Ok(());
    }
    let checkpoint = reader.checkpoint();
    let major = checkpoint.channel_major(id);
    let shape = match &major {
        Some(_) => checkpoint.tensor(id).shape.clone(),
        None => checkpoint.tensor(id).shape.with_contiguous_channels(),
    };
    let groups = params.quantizer.scheme.groups(&shape);
    let quantizers = GroupQuantizers::new(params.quantizer, &shape, checkpoint.learned(id));
    let touched = || groups.segments(range.clone()).map(|(group, _)| group);
    let first = touched().min().unwrap_or(0);
    let channels = match major.filter(|_| groups.are_strided() && params.scale.is_none()) {
        Some((major, _)) => {
            let wanted = first..touched().max().map_or(first, |last| last + 1);
            Some(channel_scales(reader, id, float, &major, wanted, params, progress)?)
        }
        None => None,
    };
    for slice in groups.slices(range.start, float, bytes) {
        let scale = match (params.scale, &channels) {
            (Some(scale), _) => Some(scale),
            (None, Some(scales)) => scales.get((slice.group - first) as usize).copied(),
            (None, None) => {
                let group = groups.around(slice.start);
                let params = Quantization { quantizer: quantizers.of(slice.group), ..*params };
                group_scale(reader, id, float, group, &params, progress)?
            }
        };
        let Some(scale) = scale else { continue };
        let mut codes = vec![0i8; slice.positions.len()];
        kernels::quantize(float, slice.bytes, scale, params.rounding, &mut codes);
        let elements = elements.get_mut(slice.positions).unwrap_or_default();
        for (element, q) in elements.iter_mut().zip(codes) {
            let Some(Scalar::Float(value)) = element.value else { continue };
            let dequantized = f64::from(scale * f32::from(q));
            let error = dequantized - value;
            element.quantized = Some(Quantized { q, scale, dequantized, error });
        }
    }
    Ok(())
}

/// The scales of output channels that are not contiguous; none if the job was cancelled or
/// they have none. `major` is the tensor's shape with their axes first.
fn channel_scales(
    reader: &mut Reader,
    id: TensorId,
    float: FloatType,
    major: &Shape,
    channels: Elements<u64>,
    params: &Quantization,
    progress: &Progress,
) -> Result<Vec<f32>, ValuesError> {
    let (count, length) = (channels.end - channels.start, major.channel_len());
    let Some(shape) = Shape::new([count, length]) else { return Ok(Vec::new()) };
    let spec = AnalysisSpec {
        keep_scales: true,
        scale_storage: params.scale_storage,
        ..AnalysisSpec::scales(vec![params.quantizer], params.rounding)
    };
    let measurement = TensorAnalyzer::new(&spec, float, &shape, None);
    let mut builder = measurement.histogram_type().map(HistogramBuilder::new);
    let start = channels.start * length;
    let measured = measurement.run(builder.as_mut(), |elements, visit| {
        progress.check().map_err(|_| Unmeasured::Cancelled)?;
        let elements = start + elements.start..start + elements.end;
        let read = reader.with_channel_major_bytes(id, elements, |_, bytes| visit(bytes));
        read.map(drop).map_err(Unmeasured::Unreadable)
    });
    match measured {
        Ok(analysis) => {
            let outcome = analysis.outcomes.into_iter().next();
            let found = outcome.and_then(|outcome| outcome.result.ok());
            Ok(found.and_then(|found| found.scales.all).unwrap_or_default())
        }
        Err(Unmeasured::Cancelled) => Ok(Vec::new()),
        Err(Unmeasured::Unreadable(error)) => Err(error.into()),
    }
}

/// The scale of a group; `None` if it has none or the job was cancelled.
fn group_scale(
    reader: &mut Reader,
    id: TensorId,
    float: FloatType,
    group: Elements<u64>,
    params: &Quantization,
    progress: &Progress,
) -> Result<Option<f32>, ValuesError> {
    let Quantizer { calibration, scheme } = params.quantizer;
    let alone = QuantizationScheme::one_scale(scheme.quantization_type());
    let quantizers = vec![Quantizer { calibration, scheme: alone }];
    let spec = AnalysisSpec {
        scale_storage: params.scale_storage,
        ..AnalysisSpec::scales(quantizers, params.rounding)
    };
    let shape = Shape::vector(group.end - group.start);
    let measurement = TensorAnalyzer::new(&spec, float, &shape, None);
    let mut builder = measurement.histogram_type().map(HistogramBuilder::new);
    let measured = measurement.run(builder.as_mut(), |elements, visit| {
        progress.check().map_err(|_| Unmeasured::Cancelled)?;
        let elements = group.start + elements.start..group.start + elements.end;
        let read = reader.elements(id, elements).map_err(Unmeasured::Unreadable)?;
        visit(read.map_or(&[], |(_, bytes)| bytes));
        Ok(())
    });
    match measured {
        Ok(analysis) => {
            let outcome = analysis.outcomes.into_iter().next();
            Ok(outcome.and_then(|outcome| outcome.result.ok()).map(|found| found.scales.max))
        }
        Err(Unmeasured::Cancelled) => Ok(None),
        Err(Unmeasured::Unreadable(error)) => Err(error.into()),
    }
}

enum Unmeasured {
    Cancelled,
    Unreadable(ReadError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantization::{Calibration, Dequantize};
    use std::path::Path;

    #[test]
    fn window_elements_equal_those_of_the_quantized_tensor() {
        let path = Path::new("tests/data/tiny-llama/single/model.safetensors");
        let checkpoint = Checkpoint::open(path).expect("opens");
        let id = checkpoint.find("model.layers.0.mlp.up_proj.weight").expect("there");
        let shape = &checkpoint.tensor(id).shape;
        let mut reader = checkpoint.reader();
        let (float, bytes) =
            reader.elements(id, 0..shape.elements()).expect("reads").expect("floats");
        for scheme in [
            QuantizationScheme::PER_TENSOR,
            QuantizationScheme::PER_CHANNEL,
            QuantizationScheme::per_block(48),
        ] {
            let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
            let whole = quantizer.quantize_weights(float, shape, bytes).expect("finite");
            let hat = Dequantize { to: Some(FloatType::F32) }.map_tensor(&whole);
            let params = Quantization {
                quantizer,
                rounding: Rounding::HalfEven,
                scale_storage: ScaleStorage::F32,
                scale: None,
            };
            let request = Request { tensor: id, elements: 100..1000, quantization: Some(params) };
            let window = run(&checkpoint, &request, &Progress::default()).expect("reads");
            assert_eq!((window.start, window.elements.len()), (100, 900));
            for (i, element) in (100..).zip(&window.elements) {
                let size = float.size();
                assert_eq!(element.raw.bytes(), &bytes[i * size..][..size]);
                let quantized = element.quantized.expect("has a scale");
                assert_eq!(quantized.q, whole.values[i]);
                assert_eq!(Some(quantized.dequantized), read_f64(FloatType::F32, &hat, i));
                let value = read_f64(float, bytes, i).expect("there");
                assert_eq!(element.value, Some(Scalar::Float(value)));
                assert_eq!(quantized.error, quantized.dequantized - value);
            }
        }
    }

    #[test]
    fn a_window_ends_with_the_tensor() {
        let path = Path::new("tests/data/tiny-llama/single/model.safetensors");
        let checkpoint = Checkpoint::open(path).expect("opens");
        let id = checkpoint.find("model.norm.weight").expect("there");
        let count = checkpoint.tensor(id).parameters();
        let request = Request { tensor: id, elements: count - 3..u64::MAX, quantization: None };
        let window = run(&checkpoint, &request, &Progress::default()).expect("reads");
        assert_eq!(window.elements.len(), 3);
        assert!(window.elements.iter().all(|element| element.quantized.is_none()));
    }
}
