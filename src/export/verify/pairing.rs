//! Pairs the tensors of an output with those of its source.

use crate::checkpoint::packed::{FAKE_METADATA_KEY, Int8, QuantizedMetadata};
use crate::checkpoint::qat::is_observer;
use crate::checkpoint::{Checkpoint, Content, Format, Stored, StoredId};
use crate::export::compensated::{
    CLIPPED_KEY, COMPENSATED_KEY, CompensatedTensors, UPSTREAM_SCALES_KEY, listed_names,
};
use crate::export::error::SaveError;
use crate::export::ggml_blocks;
use crate::export::left_out::is_left_out;
use crate::export::weight_layout::is_transposed;
use crate::plan::gguf_mix::becomes_f16;
use crate::plan::rules::FusionUnits;
use crate::quantization::ggml::Importance;
use crate::quantization::{Calibration, Chunks, Preset, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{BlockType, DType, FloatType, Shape, TensorId};
use std::collections::{HashMap, HashSet};

/// Bytes of elements compared at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// How a tensor of the output was made from its counterpart in the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Copied byte for byte.
    Identical,
    /// Quantized to int8.
    Quantized,
    /// Quantized with a preset of compressed-tensors.
    Preset(Preset),
    /// Quantized to a block type of ggml.
    GgmlBlocks(BlockType),
    /// Dequantized to the given type, or rounded to it from wider floats.
    Dequantized(FloatType),
    /// Quantized to int8 and dequantized, in its own type.
    FakeQuantized(Quantizer, Rounding),
}

/// A tensor of the output and its counterpart in the source. A tensor of the output may be in
/// several pairs. At most one of them is not [`Match::Identical`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The tensor of the output.
    pub out: TensorId,
    /// Its counterpart in the source.
    pub source: TensorId,
    /// How it was made.
    pub matched: Match,
    /// For [`Match::Identical`]: pairs of stored tensors to compare, of the output and of the
    /// source.
    pub parts: Vec<(StoredId, StoredId)>,
    /// Whether the output holds the transpose of the source's tensor.
    pub transposed: bool,
}

/// All tensors of an output, paired.
#[derive(Debug)]
pub struct Pairing<'c> {
    /// The output.
    pub out: &'c Checkpoint,
    /// The source.
    pub source: &'c Checkpoint,
    /// The pairs in the order of the output.
    pub pairs: Vec<Pair>,
    /// The importance of the source's elements that was used for ggml's block types.
    pub importance: Importance,
    /// Tensors of the output whose rounding was compensated.
    pub(super) compensated: HashSet<TensorId>,
    /// Tensors of the output whose clips were searched.
    pub(super) clipped: HashSet<TensorId>,
    /// The checksums of the rows written of compensated tensors, if they are known.
    pub(super) written: Option<&'c CompensatedTensors>,
}

impl<'c> Pairing<'c> {
    /// Pairs the tensors by name.
    ///
    /// # Errors
    ///
    /// A tensor on either side has no counterpart, or has a shape or type that quantscope cannot
    /// have made from its counterpart.
    pub fn new(out: &'c Checkpoint, source: &'c Checkpoint) -> Result<Self, SaveError> {
        let names = Names::new(out, source, &source.ids().collect::<Vec<_>>());
        let pairs = out.ids().map(|id| {
            names.pair(id).map_err(|why| SaveError::TensorDiffers {
                path: out.path().to_owned(),
                tensor: out.tensor(id).name.to_string(),
                why,
            })
        });
        let pairing = Pairing::with_pairs(out, source, pairs.collect::<Result<_, _>>()?);
        match pairing.missing() {
            None => Ok(pairing),
            Some(id) => Err(pairing.is_missing(id)),
        }
    }

    /// Pairs the tensors made from a share of the source. The output may hold others, even
    /// incomplete ones.
    ///
    /// # Errors
    ///
    /// A tensor of the share has no counterpart, or one that quantscope cannot have made from it.
    pub(crate) fn of_share(
        out: &'c Checkpoint,
        source: &'c Checkpoint,
        share: &HashSet<TensorId>,
    ) -> Result<Self, SaveError> {
        let names = Names::new(out, source, &share.iter().copied().collect::<Vec<_>>());
        let (mut pairs, mut failed) = (Vec::new(), HashMap::new());
        for id in out.ids() {
            match names.pair(id) {
                Ok(pair) => pairs.push(pair),
                Err(why) => _ = failed.insert(out.tensor(id).name.as_str(), why),
            }
        }
        let mut pairing = Pairing::with_pairs(out, source, pairs);
        pairing.pairs.retain(|pair| share.contains(&pair.source));
        let paired: HashSet<TensorId> = pairing.pairs.iter().map(|pair| pair.source).collect();
        let mut missing: Vec<TensorId> = share.difference(&paired).copied().collect();
        missing.sort();
        let Some(&first) = missing.first() else { return Ok(pairing) };
        let name = source.tensor(first).name.as_str();
        Err(match failed.remove(name) {
            Some(why) => SaveError::TensorDiffers {
                path: out.path().to_owned(),
                tensor: name.to_owned(),
                why,
            },
            None => pairing.is_missing(first),
        })
    }

    fn with_pairs(out: &'c Checkpoint, source: &'c Checkpoint, pairs: Vec<Pair>) -> Pairing<'c> {
        let importance = Importance::default();
        let listed = |key: &str| -> HashSet<TensorId> {
            let names = listed_names(out, key);
            out.ids().filter(|&id| names.contains(out.tensor(id).name.as_str())).collect()
        };
        let (compensated, clipped) = (listed(COMPENSATED_KEY), listed(CLIPPED_KEY));
        let written = None;
        let mut pairing = Pairing { out, source, pairs, importance, compensated, clipped, written };
        pairing.pairs.extend(pairing.attached());
        pairing
    }

    /// The error of a tensor of the source without counterpart.
    fn is_missing(&self, id: TensorId) -> SaveError {
        SaveError::TensorDiffers {
            path: self.out.path().to_owned(),
            tensor: self.source.tensor(id).name.to_string(),
            why: "it is missing from the output".to_owned(),
        }
    }

    /// Sets the importance that was used for quantizing to ggml's block types.
    pub fn with_importance(self, importance: Importance) -> Pairing<'c> {
        Pairing { importance, ..self }
    }

    /// Sets the checksums of the rows written of compensated tensors.
    pub(crate) fn with_written(self, written: &'c CompensatedTensors) -> Pairing<'c> {
        Pairing { written: Some(written), ..self }
    }

    /// The pairs of tensors of the source that the output has as part of a quantized tensor:
    /// `k_scale` of a float model looks like a scale of the cache once its layers are quantized.
    fn attached(&self) -> Vec<Pair> {
        let Pairing { out, source, pairs, .. } = self;
        let paired: HashSet<TensorId> = pairs.iter().map(|pair| pair.source).collect();
        let unpaired = source.ids().filter(|id| !paired.contains(id));
        let unpaired = unpaired.filter_map(|id| Some((id, source.plain(id)?)));
        let unpaired: Vec<(TensorId, &Stored)> =
            unpaired.filter(|(_, stored)| !is_left_out(source, stored)).collect();
        if unpaired.is_empty() {
            return Vec::new();
        }
        let packed = out.ids().filter(|&id| out.packed_format(id).is_some());
        let owned = packed.flat_map(|id| parts(out, id).into_iter().map(move |part| (part, id)));
        let owned: HashMap<&str, (StoredId, TensorId)> =
            owned.map(|(part, id)| (out.stored(part).name.as_str(), (part, id))).collect();
        let pair = |(id, stored): (TensorId, &Stored)| {
            let &(part, owner) = owned.get(stored.name.as_str())?;
            let Content::Plain(original) = *source.content(id) else { return None };
            let written = out.stored(part);
            let is_alike = (&written.dtype, &written.shape) == (&stored.dtype, &stored.shape);
            is_alike.then(|| Pair {
                out: owner,
                source: id,
                matched: Match::Identical,
                parts: vec![(part, original)],
                transposed: false,
            })
        };
        unpaired.into_iter().filter_map(pair).collect()
    }

    /// Returns a tensor of the source that the output should contain but does not.
    fn missing(&self) -> Option<TensorId> {
        let Pairing { out, source, pairs, .. } = self;
        let paired: HashSet<TensorId> = pairs.iter().map(|pair| pair.source).collect();
        // An output has either all observers or none.
        let drops_observers =
            source.has_observers() && !out.ids().any(|id| is_observer(&out.tensor(id).name));
        let is_dropped = |id: TensorId| drops_observers && is_observer(&source.tensor(id).name);
        let is_left_out = |id| source.plain(id).is_some_and(|stored| is_left_out(source, stored));
        let mut unpaired = source.ids().filter(|id| !paired.contains(id));
        unpaired.find(|&id| !is_dropped(id) && !is_left_out(id))
    }

    /// Returns the chunks in which a pair is compared.
    pub fn chunks(&self, pair: &Pair) -> Chunks {
        if pair.matched == Match::Identical {
            let bytes = pair.parts.iter().map(|&(part, _)| self.out.stored(part).bytes()).sum();
            return Chunks::new(&Shape::vector(bytes), CHUNK_BYTES, None);
        }
        let size = self.source.float_type(pair.source).map_or(1, FloatType::size) as u64;
        let scheme = self.quantizer(pair).map(|(quantizer, _)| quantizer.scheme);
        Chunks::new(&self.out.tensor(pair.out).shape, CHUNK_BYTES / size, scheme)
    }

    /// Returns the quantizer of a tensor according to the output.
    pub fn quantizer(&self, pair: &Pair) -> Option<(Quantizer, Rounding)> {
        match pair.matched {
            Match::FakeQuantized(quantizer, rounding) => Some((quantizer, rounding)),
            Match::Quantized => {
                let int8 = self.out.packed_format(pair.out)?.int8()?;
                let Int8 { calibration, scheme, rounding, .. } = *int8;
                Some((Quantizer { calibration, scheme }, rounding))
            }
            Match::Preset(preset) => {
                let scheme = QuantizationScheme::Preset(preset);
                let calibration = Calibration::MinMax;
                Some((Quantizer { calibration, scheme }, Rounding::default()))
            }
            Match::GgmlBlocks(block) => Some((ggml_blocks::quantizer(block), Rounding::HalfAway)),
            Match::Identical | Match::Dequantized(_) => None,
        }
    }

    /// Returns the shape that was divided into groups. For a quantized tensor it is the output's,
    /// which has the axes of the channels. A model of floats may lack the configuration that
    /// determines them.
    fn grouped_shape(&self, pair: &Pair) -> &Shape {
        match pair.matched {
            Match::FakeQuantized(..) => &self.source.tensor(pair.source).shape,
            _ => &self.out.tensor(pair.out).shape,
        }
    }

    /// Returns the tensors whose scales must be computed before chunks are compared: those with
    /// groups longer than a chunk.
    pub fn to_calibrate(&self) -> impl Iterator<Item = (TensorId, Quantizer, Rounding)> {
        self.pairs.iter().filter_map(|pair| {
            let (quantizer, rounding) = self.quantizer(pair)?;
            let groups = quantizer.scheme.groups(self.grouped_shape(pair));
            let has_global = quantizer.scheme.preset().is_some_and(Preset::has_global_scale);
            (has_global || !self.chunks(pair).hold(&groups)).then_some((
                pair.source,
                quantizer,
                rounding,
            ))
        })
    }
}

impl Pairing<'_> {
    /// Returns the groups of tensors in the source that share a global scale.
    pub fn scaled_together(&self) -> Vec<Vec<TensorId>> {
        let shares = |pair: &&Pair| match self.quantizer(pair) {
            Some((quantizer, _)) => {
                quantizer.scheme.preset().is_some_and(Preset::shares_global_scale)
            }
            None => false,
        };
        let ids: Vec<TensorId> = self.pairs.iter().filter(shares).map(|pair| pair.source).collect();
        if ids.is_empty() { Vec::new() } else { FusionUnits::of(self.source).grouped(ids) }
    }
}

/// The tensor names on both sides.
struct Names<'c> {
    out: &'c Checkpoint,
    source: &'c Checkpoint,
    tensors: HashMap<&'c str, TensorId>,
    /// Stored tensors of the source, each with the tensor it belongs to.
    stored: HashMap<&'c str, (StoredId, TensorId)>,
    out_stored: HashSet<&'c str>,
    fake_quantized: HashMap<String, (Quantizer, Rounding)>,
    /// int8 tensors with the scales of compressed-tensors.
    with_upstream_scales: HashSet<String>,
}

impl<'c> Names<'c> {
    /// The names in the output, and of these tensors of the source.
    fn new(out: &'c Checkpoint, source: &'c Checkpoint, ids: &[TensorId]) -> Names<'c> {
        let owned = ids.iter().flat_map(|&id| {
            parts(source, id).into_iter().map(move |part| {
                let name = source.stored(part).name.as_str();
                (name, (part, id))
            })
        });
        Names {
            out,
            source,
            tensors: ids.iter().map(|&id| (source.tensor(id).name.as_str(), id)).collect(),
            stored: owned.collect(),
            out_stored: out.all_stored().map(|(_, stored)| stored.name.as_str()).collect(),
            fake_quantized: fake_quantized(out),
            with_upstream_scales: listed_names(out, UPSTREAM_SCALES_KEY),
        }
    }

    /// Pairs a tensor of the output; an error if it has no counterpart.
    fn pair(&self, id: TensorId) -> Result<Pair, String> {
        let tensor = self.out.tensor(id);
        let found = match self.tensors.get(tensor.name.as_str()) {
            Some(&origin) => self.pair_with(id, origin),
            None => Err(format!("{} holds no tensor of that name", self.source.path().display())),
        };
        // Recognition of packed tensors uses the config, which a single output file does not have.
        // Its stored tensors are copies in any case.
        found.or_else(|why| self.copied(id).ok_or(why))
    }

    fn pair_with(&self, id: TensorId, origin: TensorId) -> Result<Pair, String> {
        let Names { out, source, .. } = *self;
        let (tensor, from) = (out.tensor(id), source.tensor(origin));
        let transposed = is_transposed(out, source, origin);
        let mut dims = from.shape.dims().to_vec();
        if transposed {
            dims.reverse();
        }
        if tensor.shape.dims() != dims {
            return Err(format!("its shape is {}, expected {dims:?}", tensor.shape));
        }
        let mut same = Vec::new();
        let is_float = from.dtype.float().is_some();
        let written_block = match tensor.dtype {
            DType::Block(block) if block.is_written() => Some(block),
            _ => None,
        };
        let matched = match (out.content(id), source.content(origin)) {
            (Content::Packed(a), Content::Packed(b)) if a.name() == b.name() => {
                let pair = self.copied(id);
                return pair.ok_or_else(|| "its parts differ from the source's".to_owned());
            }
            (Content::Packed(packed), Content::Plain(_)) if packed.int8().is_some() && is_float => {
                let has_upstream_scales = self.with_upstream_scales.contains(tensor.name.as_str());
                let preset = packed.int8().filter(|_| has_upstream_scales).and_then(int8_preset);
                preset.map_or(Match::Quantized, Match::Preset)
            }
            (Content::Packed(packed), Content::Plain(_))
                if packed.preset().is_some() && is_float =>
            {
                packed.preset().map_or(Match::Identical, Match::Preset)
            }
            (Content::Packed(_), Content::Plain(_)) if is_float && written_block.is_some() => {
                Match::GgmlBlocks(written_block.unwrap_or(BlockType::Q8_0))
            }
            (Content::Plain(_), Content::Packed(packed)) if packed.decoded().is_some() => {
                match tensor.dtype.float() {
                    Some(to) => Match::Dequantized(to),
                    None => return Err(different_types(&tensor.dtype, &from.dtype)),
                }
            }
            (Content::Plain(a), Content::Plain(b)) if tensor.dtype == from.dtype => {
                same.push((*a, *b));
                match self.fake_quantized.get(tensor.name.as_str()) {
                    Some(&(quantizer, rounding)) => Match::FakeQuantized(quantizer, rounding),
                    None => Match::Identical,
                }
            }
            (Content::Plain(_), Content::Plain(_))
                if tensor.dtype == DType::F16
                    && out.format() == Format::Gguf
                    && becomes_f16(source, origin) =>
            {
                Match::Dequantized(FloatType::F16)
            }
            _ => return Err(different_types(&tensor.dtype, &from.dtype)),
        };
        Ok(Pair { out: id, source: origin, matched, parts: same, transposed })
    }

    /// Pairs a tensor with the source tensor that it is a copy of: both consist of stored tensors
    /// with the same names, types and shapes.
    fn copied(&self, id: TensorId) -> Option<Pair> {
        let Names { out, source, .. } = *self;
        let mut origin = None;
        let mut same = Vec::new();
        for part in parts(out, id) {
            let stored = out.stored(part);
            let &(other, owner) = self.stored.get(stored.name.as_str())?;
            let original = source.stored(other);
            let is_alike = (&stored.dtype, &stored.shape) == (&original.dtype, &original.shape);
            if !is_alike || stored.bytes() != original.bytes() {
                return None;
            }
            origin.get_or_insert(owner);
            same.push((part, other));
        }
        let origin = origin?;
        let has = |part: StoredId| self.out_stored.contains(source.stored(part).name.as_str());
        let is_whole = parts(source, origin).into_iter().all(has);
        is_whole.then_some(Pair {
            out: id,
            source: origin,
            matched: Match::Identical,
            parts: same,
            transposed: false,
        })
    }
}

/// The preset of an int8 tensor that has the scales of compressed-tensors.
fn int8_preset(int8: &Int8) -> Option<Preset> {
    match int8.scheme {
        QuantizationScheme::PerChannel(..) => Some(Preset::W8A8),
        QuantizationScheme::PerBlock(_, _, columns) => Some(Preset::W8A16(columns)),
        _ => None,
    }
}

fn different_types(found: &DType, source: &DType) -> String {
    format!("its type is {found}, the source's {source}")
}

/// Returns the stored tensors of a tensor.
pub(crate) fn parts(checkpoint: &Checkpoint, id: TensorId) -> Vec<StoredId> {
    match checkpoint.content(id) {
        Content::Plain(stored) => vec![*stored],
        Content::Packed(packed) => packed.parts(),
    }
}

/// Returns the tensors listed in the metadata of a fake-quantized output.
fn fake_quantized(out: &Checkpoint) -> HashMap<String, (Quantizer, Rounding)> {
    let texts = out.shards().iter().flat_map(|s| &s.metadata);
    let texts = texts.filter(|(key, _)| key == FAKE_METADATA_KEY);
    let parsed = texts.filter_map(|(_, t)| serde_json::from_str::<QuantizedMetadata>(t).ok());
    parsed
        .flat_map(|metadata| {
            let rounding = metadata.rounding.parse().unwrap_or_default();
            metadata.tensors.into_iter().filter_map(move |(name, described)| {
                let scheme: QuantizationScheme = described.scheme.parse().ok()?;
                let calibration = described.calibration().ok()?;
                Some((name, (Quantizer { calibration, scheme }, rounding)))
            })
        })
        .collect()
}
