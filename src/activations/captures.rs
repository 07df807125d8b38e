//! Opens files of recorded inputs and matches them to the weights of a checkpoint. Reads only
//! headers and summaries; `stream` reads the inputs when they are needed.

use crate::activations::convolution::{self, Convolution, METADATA_KEY};
use crate::activations::error::{ActivationsError, Fault};
use crate::activations::imatrix::{self, ImportanceMatrix};
use crate::activations::matching::Weights;
use crate::activations::recording::{Batch, Inputs, LayerKind, Recording, Source, Summary, floats};
use crate::activations::stream::Stream;
use crate::checkpoint::{Checkpoint, Format, has_extension};
use crate::quantization::ggml::{Importance, ImportanceOrigin};
use crate::tensor::{Shape, TensorId};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The last part of the name of a layer's recorded inputs, after the module's name.
const INPUT: &str = "input";

/// Recorded inputs of a checkpoint's layers.
#[derive(Debug)]
pub struct Activations {
    files: Vec<Checkpoint>,
    recordings: BTreeMap<TensorId, Recording>,
    unmatched: Vec<(PathBuf, String)>,
    /// The file that names the first importance matrix.
    origin: Option<ImportanceOrigin>,
}

/// The tensors that one file holds for one layer, before they are matched to a weight.
#[derive(Default)]
struct LayerTensors {
    /// Batches of inputs.
    inputs: Vec<TensorId>,
    min: Option<TensorId>,
    max: Option<TensorId>,
    mean_square: Option<TensorId>,
}

impl Activations {
    /// Opens files of captures, and matches them to the weights of `checkpoint`.
    pub fn open(
        paths: &[PathBuf],
        checkpoint: &Checkpoint,
    ) -> Result<Activations, ActivationsError> {
        let mut opened = Activations::none();
        opened.add_files(paths, checkpoint)?;
        opened.complete(paths.first().map(PathBuf::as_path), checkpoint)
    }

    /// Opens files like [`Activations::open`], in addition to captures that are open already.
    pub fn with(
        captures: Checkpoint,
        paths: &[PathBuf],
        checkpoint: &Checkpoint,
    ) -> Result<Activations, ActivationsError> {
        let mut opened = Activations::none();
        let path = captures.path().to_owned();
        opened.add(captures, checkpoint, &Weights::of(checkpoint))?;
        opened.add_files(paths, checkpoint)?;
        opened.complete(Some(&path), checkpoint)
    }

    fn add_files(
        &mut self,
        paths: &[PathBuf],
        checkpoint: &Checkpoint,
    ) -> Result<(), ActivationsError> {
        let weights = Weights::of(checkpoint);
        for path in paths {
            if has_extension(path, "dat") {
                let matrix = imatrix::read_legacy(path)?;
                self.summaries(path, matrix, checkpoint, &weights)?;
            } else {
                self.add(Checkpoint::open(path)?, checkpoint, &weights)?;
            }
        }
        Ok(())
    }

    fn none() -> Activations {
        let (files, unmatched) = (Vec::new(), Vec::new());
        Activations { files, recordings: BTreeMap::new(), unmatched, origin: None }
    }

    fn complete(
        self,
        path: Option<&Path>,
        checkpoint: &Checkpoint,
    ) -> Result<Self, ActivationsError> {
        if !self.recordings.is_empty() {
            return Ok(self);
        }
        let path = path.unwrap_or(Path::new("")).to_owned();
        let model = checkpoint.path().display();
        let why = match self.unmatched.first() {
            Some((_, name)) => format!(
                "no recorded name matches a layer of {model}; the first name is '{}'",
                name.escape_debug()
            ),
            None => "expected tensors named '<module>.input' or an importance matrix, found none; \
                     record inputs with assets/record_activations.py"
                .to_owned(),
        };
        Err(ActivationsError::File { path, why })
    }

    /// The weights whose layers were recorded, in the checkpoint's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorId> {
        self.recordings.keys().copied()
    }

    /// The recording of the layer of `weight`.
    pub fn get(&self, weight: TensorId) -> Option<&Recording> {
        self.recordings.get(&weight)
    }

    /// The open files of recorded inputs. Importance matrices in llama.cpp's older format are not
    /// among them.
    pub(crate) fn files(&self) -> &[Checkpoint] {
        &self.files
    }

    /// Recorded names that match no layer, with their file.
    pub fn unmatched(&self) -> &[(PathBuf, String)] {
        &self.unmatched
    }

    /// The importance of the weights' elements: the mean squares of their inputs where these are
    /// known without the inputs, as an importance matrix has them.
    pub fn importance(&self, checkpoint: &Checkpoint) -> Importance {
        let of_weight = |(&id, recording): (&TensorId, &Recording)| {
            let Source::Summary(summary) = &recording.source else { return None };
            let mut values = summary.mean_square.clone()?;
            let row = usize::try_from(checkpoint.tensor(id).shape.row_len()).ok()?;
            let is_whole = row > 0 && values.len().is_multiple_of(row);
            // llama.cpp treats all inputs of an expert that received none alike.
            for expert in values.chunks_mut(row.max(1)) {
                if expert.iter().all(|&value| value == 0.0) {
                    expert.fill(1.0);
                }
            }
            is_whole.then_some((id, values))
        };
        let tensors = self.recordings.iter().filter_map(of_weight).collect();
        Importance::new(self.origin.clone().unwrap_or_default(), tensors)
    }

    /// Whether inputs were recorded for any layer, and not only summaries.
    pub fn have_inputs(&self) -> bool {
        self.recordings.values().any(|recording| matches!(recording.source, Source::Inputs(_)))
    }

    /// A reader of the captures for one thread.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(&self.files)
    }

    fn add(
        &mut self,
        captures: Checkpoint,
        checkpoint: &Checkpoint,
        weights: &Weights,
    ) -> Result<(), ActivationsError> {
        if captures.format() == Format::Gguf {
            let path = captures.path().to_owned();
            return self.summaries(&path, imatrix::read_gguf(&captures)?, checkpoint, weights);
        }
        let mut layers: BTreeMap<String, LayerTensors> = BTreeMap::new();
        for id in captures.ids() {
            let name = &captures.tensor(id).name;
            let Some((module, part)) = split_name(name) else {
                self.unmatched.push((captures.path().to_owned(), name.to_string()));
                continue;
            };
            let tensors = layers.entry(module.to_owned()).or_default();
            match part {
                "min" => tensors.min = Some(id),
                "max" => tensors.max = Some(id),
                "mean_square" => tensors.mean_square = Some(id),
                _ => tensors.inputs.push(id),
            }
        }
        let modules: Vec<&str> = layers.keys().map(String::as_str).collect();
        let found = weights.find(&modules);
        let convolutions = convolutions(&captures)?;
        let file = self.files.len();
        for ((module, tensors), weight) in layers.iter().zip(found) {
            let Some(weight) = weight else {
                let name = tensors.first().map_or(module.as_str(), |id| &captures.tensor(id).name);
                self.unmatched.push((captures.path().to_owned(), name.to_owned()));
                continue;
            };
            let layer = Layer { checkpoint, weight, captures: &captures };
            let convolution = convolutions.get(module.as_str());
            match tensors.inputs.as_slice() {
                [] => {
                    let summary = layer.summary(tensors)?;
                    let kind = layer.kind(convolution, tensors.first())?;
                    self.insert(&layer, tensors.first(), kind, Source::Summary(summary))?;
                }
                inputs => {
                    let kind = layer.kind(convolution, Some(inputs[0]))?;
                    let batches = inputs.iter().map(|&id| layer.batch(file, id, &kind));
                    let batches = batches.collect::<Result<Vec<_>, _>>()?;
                    let source = Source::Inputs(Inputs { batches });
                    self.insert(&layer, Some(inputs[0]), kind, source)?;
                }
            }
        }
        self.files.push(captures);
        Ok(())
    }

    /// Adds the tensors that one file has for a layer to those of other files.
    fn insert(
        &mut self,
        layer: &Layer,
        of: Option<TensorId>,
        kind: LayerKind,
        source: Source,
    ) -> Result<(), ActivationsError> {
        match self.recordings.get_mut(&layer.weight) {
            None => {
                self.recordings.insert(layer.weight, Recording { kind, source });
            }
            Some(known) => match (&mut known.source, source) {
                (Source::Inputs(known), Source::Inputs(more)) => known.batches.extend(more.batches),
                // Inputs are more exact than a summary.
                (Source::Inputs(_), Source::Summary(_)) => {}
                (Source::Summary(_), Source::Inputs(inputs)) => {
                    *known = Recording { kind, source: Source::Inputs(inputs) };
                }
                (Source::Summary(_), Source::Summary(_)) => {
                    return Err(layer.fault(of, Fault::TwoSummaries));
                }
            },
        }
        Ok(())
    }

    /// Adds the entries of an importance matrix, whose names are those of weights.
    fn summaries(
        &mut self,
        path: &Path,
        matrix: ImportanceMatrix,
        checkpoint: &Checkpoint,
        weights: &Weights,
    ) -> Result<(), ActivationsError> {
        let ImportanceMatrix { entries, dataset, chunks } = matrix;
        self.origin.get_or_insert_with(|| ImportanceOrigin {
            file: path.to_string_lossy().into_owned(),
            dataset,
            entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            chunks: chunks.filter(|&chunks| chunks > 0),
        });
        let module = |entry: &imatrix::Entry| {
            entry.name.strip_suffix(".weight").unwrap_or(&entry.name).to_owned()
        };
        let modules: Vec<String> = entries.iter().map(module).collect();
        let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
        for (entry, weight) in entries.into_iter().zip(weights.find(&modules)) {
            let Some(weight) = weight else {
                self.unmatched.push((path.to_owned(), entry.name));
                continue;
            };
            let tensor = checkpoint.tensor(weight);
            let fault = |fault| ActivationsError::Recorded {
                path: path.to_owned(),
                name: entry.name.clone(),
                fault: Box::new(fault),
            };
            let experts = match *tensor.shape.dims() {
                [experts, _, _] => experts,
                _ => 1,
            };
            let (expected, found) =
                (experts * tensor.shape.row_len(), entry.mean_square.len() as u64);
            if expected != found {
                let weight = tensor.name.to_string();
                return Err(fault(Fault::Summary { weight, expected, found }));
            }
            check_mean_squares(&entry.mean_square).map_err(fault)?;
            if self.recordings.contains_key(&weight) {
                return Err(fault(Fault::TwoSummaries));
            }
            let summary = Summary { mean_square: Some(entry.mean_square), absmax: None };
            let source = Source::Summary(summary);
            self.recordings.insert(weight, Recording { kind: LayerKind::Linear, source });
        }
        Ok(())
    }
}

impl LayerTensors {
    /// Any of the layer's tensors, to name it in errors.
    fn first(&self) -> Option<TensorId> {
        let summary = [self.mean_square, self.min, self.max].into_iter().flatten();
        self.inputs.iter().copied().chain(summary).next()
    }
}

/// Splits a recorded tensor's name into the module and what follows `.input`: nothing or a
/// number for inputs; `min`, `max` or `mean_square` for a summary.
fn split_name(name: &str) -> Option<(&str, &str)> {
    let (module, part) = match name.rsplit_once('.') {
        None => ("", name),
        Some(parts) => parts,
    };
    if part == INPUT {
        return Some((module, ""));
    }
    let number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (head, last) = module.rsplit_once('.').unwrap_or(("", module));
    let known = number || ["min", "max", "mean_square"].contains(&part);
    (known && last == INPUT).then_some((head, part))
}

fn convolutions(captures: &Checkpoint) -> Result<HashMap<String, Convolution>, ActivationsError> {
    let mut all = HashMap::new();
    for shard in captures.shards() {
        let text = shard.metadata.iter().find(|(key, _)| key == METADATA_KEY);
        let Some((_, text)) = text else { continue };
        let path = || shard.source.path().to_owned();
        let parsed = convolution::parse(text).map_err(|why| ActivationsError::File {
            path: path(),
            why: format!("invalid metadata '{METADATA_KEY}': {why}"),
        })?;
        all.extend(parsed);
    }
    Ok(all)
}

/// Checks that mean squares are finite and not negative.
fn check_mean_squares(values: &[f32]) -> Result<(), Fault> {
    let wrong = values.iter().position(|value| !(value.is_finite() && *value >= 0.0));
    match wrong.and_then(|index| Some((index, *values.get(index)?))) {
        Some((index, value)) => Err(Fault::MeanSquare { index, value: value.into() }),
        None => Ok(()),
    }
}

/// A weight and a file with a recording of its layer.
struct Layer<'a> {
    checkpoint: &'a Checkpoint,
    weight: TensorId,
    captures: &'a Checkpoint,
}

impl Layer<'_> {
    fn shape(&self) -> &Shape {
        &self.checkpoint.tensor(self.weight).shape
    }

    fn name(&self) -> String {
        self.checkpoint.tensor(self.weight).name.to_string()
    }

    fn fault(&self, of: Option<TensorId>, fault: Fault) -> ActivationsError {
        let name = of.map_or_else(|| self.name(), |id| self.captures.tensor(id).name.to_string());
        let (path, fault) = (self.captures.path().to_owned(), Box::new(fault));
        ActivationsError::Recorded { path, name, fault }
    }

    fn kind(
        &self,
        convolution: Option<&Convolution>,
        of: Option<TensorId>,
    ) -> Result<LayerKind, ActivationsError> {
        if self.shape().channel_major().is_some() {
            let axis = self.shape().channel_axes().output_axis();
            return Err(self.fault(of, Fault::OutputAxis { weight: self.name(), axis }));
        }
        match (self.shape().rank(), convolution) {
            (2, _) => Ok(LayerKind::Linear),
            (3..=5, Some(convolution)) => {
                let kind = convolution.clone().with_kernel(self.shape().dims());
                kind.map(LayerKind::Convolution).map_err(|why| self.fault(of, Fault::Geometry(why)))
            }
            (3..=5, None) => Err(self.fault(of, Fault::NoGeometry)),
            (rank, _) => Err(self.fault(of, Fault::Rank { weight: self.name(), rank })),
        }
    }

    /// Checks a tensor of inputs against the weight.
    fn batch(
        &self,
        file: usize,
        tensor: TensorId,
        kind: &LayerKind,
    ) -> Result<Batch, ActivationsError> {
        let fault = |fault| self.fault(Some(tensor), fault);
        let info = self.captures.tensor(tensor);
        if self.captures.float_type(tensor).is_none() {
            return Err(fault(Fault::NotFloat(info.dtype.name().to_owned())));
        }
        let (dims, shape) = (info.shape.dims(), self.shape());
        let elements = info.shape.elements();
        let (unit, spatial) = match kind {
            LayerKind::Linear => {
                let (expected, found) = (shape.row_len(), info.shape.row_len());
                if expected != found || dims.is_empty() {
                    return Err(fault(Fault::Width { weight: self.name(), expected, found }));
                }
                (expected, Vec::new())
            }
            LayerKind::Convolution(convolution) => {
                let per_group = shape.dims().get(1).copied().unwrap_or(0);
                let channels = per_group.saturating_mul(convolution.groups as u64);
                let axes = shape.rank() - 2;
                let expected = || format!("{channels} channels and {axes} axes after them");
                let wrong = || Fault::Channels {
                    weight: self.name(),
                    weight_shape: shape.to_string(),
                    found: info.shape.to_string(),
                    expected: expected(),
                };
                let sample = match dims.len().checked_sub(axes) {
                    Some(2) => dims.get(1..),
                    Some(1) => Some(dims),
                    _ => None,
                };
                let Some([found, spatial @ ..]) = sample else { return Err(fault(wrong())) };
                let spatial: Vec<usize> = spatial.iter().map(|&n| n as usize).collect();
                if *found != channels || convolution.positions(&spatial).is_none() {
                    return Err(fault(wrong()));
                }
                let plane = spatial.iter().map(|&n| n as u64).product::<u64>();
                (channels.saturating_mul(plane), spatial)
            }
        };
        if elements == 0 || unit == 0 {
            return Err(fault(Fault::Empty));
        }
        Ok(Batch { file, tensor, samples: elements / unit, unit, spatial })
    }

    /// Reads a summary, and checks it against the weight.
    fn summary(&self, tensors: &LayerTensors) -> Result<Summary, ActivationsError> {
        let per_group = self.shape().dims().get(1).copied().unwrap_or(0).max(1);
        let convolution = self.shape().rank() > 2;
        let read = |id: Option<TensorId>| -> Result<Option<Vec<f32>>, ActivationsError> {
            let Some(id) = id else { return Ok(None) };
            let found = self.captures.tensor(id).parameters();
            // The channels of a convolution are those of all its groups.
            let fits = found == per_group || convolution && found.is_multiple_of(per_group);
            if !fits || found == 0 {
                let weight = self.name();
                let fault = Fault::Summary { weight, expected: per_group, found };
                return Err(self.fault(Some(id), fault));
            }
            let values = floats(self.captures, id)?.ok_or_else(|| {
                let dtype = self.captures.tensor(id).dtype.name().to_owned();
                self.fault(Some(id), Fault::NotFloat(dtype))
            })?;
            Ok(Some(values))
        };
        let (min, max, mean_square) =
            (read(tensors.min)?, read(tensors.max)?, read(tensors.mean_square)?);
        if let Some(values) = &mean_square {
            check_mean_squares(values).map_err(|fault| self.fault(tensors.mean_square, fault))?;
        }
        let mut absmax = None;
        for (id, values) in [(tensors.min, &min), (tensors.max, &max)] {
            let Some(values) = values else { continue };
            for (index, &value) in (0..).zip(values) {
                if !value.is_finite() {
                    let value = value.into();
                    return Err(self.fault(id, Fault::NonFinite { index, value }));
                }
                absmax = Some(absmax.unwrap_or(0.0f64).max(f64::from(value.abs())));
            }
        }
        // The largest magnitude needs both ends of the range.
        let absmax = absmax.filter(|_| min.is_some() && max.is_some());
        Ok(Summary { mean_square, absmax })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_module_and_part() {
        assert_eq!(split_name("a.b.input"), Some(("a.b", "")));
        assert_eq!(split_name("a.b.input.12"), Some(("a.b", "12")));
        assert_eq!(split_name("a.input.mean_square"), Some(("a", "mean_square")));
        assert_eq!(split_name("input"), Some(("", "")));
        assert_eq!(split_name("input.min"), Some(("", "min")));
        for name in ["a.output", "a.input.std", "inputs", "a.b.min", ""] {
            assert_eq!(split_name(name), None, "{name}");
        }
    }
}
