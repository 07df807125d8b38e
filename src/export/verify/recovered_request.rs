//! Recovers the request that must have produced an output.

use crate::checkpoint::formats::gguf::{
    IMPORTANCE_CHUNKS_KEY, IMPORTANCE_DATASET_KEY, IMPORTANCE_ENTRIES_KEY, IMPORTANCE_FILE_KEY,
};
use crate::checkpoint::packed::{COMFYUI, Int8Values, MLX, TORCHAO};
use crate::checkpoint::{Checkpoint, Format, PackedFormat, has_extension};
use crate::export::error::SaveError;
use crate::export::input_scales::input_scales;
use crate::export::request::{OutputFormat, Request, Task};
use crate::export::verify::pairing::{Match, Pairing};
use crate::export::weight_layout::layout_of;
use crate::plan::gguf_mix::becomes_f16;
use crate::plan::{InputQuantization, Plan, RoundingByInputs};
use crate::quantization::ggml::{Importance, ImportanceOrigin};
use crate::quantization::{Calibration, InputRounding, QuantizationScheme, Quantizer, Rounding};
use crate::tensor::{BlockType, FloatType};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Returns the request that produces an output with these pairs. `None` if every tensor is a copy:
/// such an output need not come from quantscope.
pub(super) fn recover(pairing: &Pairing) -> Result<Option<Request>, SaveError> {
    let mut plan = Plan::default();
    let (mut fake, mut packed, mut presets, mut container) = (false, false, false, None);
    let mut floats: Vec<(FloatType, Option<FloatType>)> = Vec::new();
    let mut inputs = BTreeMap::new();
    let recorded = input_scales(pairing.out)?;
    for pair in &pairing.pairs {
        if let Some((quantizer, rounding)) = pairing.quantizer(pair) {
            plan.mark(pair.source, quantizer);
            plan.rounding = match pair.matched {
                Match::GgmlBlocks(_) => Rounding::default(),
                _ => rounding,
            };
        }
        match pair.matched {
            Match::FakeQuantized(..) => fake = true,
            Match::Quantized => {
                let int8 = pairing.out.packed_format(pair.out).and_then(|layout| layout.int8());
                container = container.or(int8.and_then(|int8| int8.container));
                packed |= int8.is_some_and(|int8| int8.stored_as == Int8Values::Offset);
                inputs.extend(recorded.get(&pair.out).map(|&scale| (pair.source, scale)));
            }
            Match::Dequantized(_) if becomes_f16(pairing.source, pair.source) => {
                let scheme = QuantizationScheme::Ggml(BlockType::Q8_0);
                plan.mark(pair.source, Quantizer { calibration: Calibration::MinMax, scheme });
            }
            Match::Dequantized(to) => {
                let before =
                    pairing.source.packed_format(pair.source).map(|layout| layout.original());
                floats.push((to, before));
            }
            Match::Preset(_) => {
                presets = true;
                inputs.extend(recorded.get(&pair.out).map(|&scale| (pair.source, scale)));
                let name = pairing.out.packed_format(pair.out).map(PackedFormat::name);
                let is_of = |other: &&str| name.as_ref().is_some_and(|n| n.starts_with(*other));
                container = container.or([COMFYUI, MLX].into_iter().find(is_of));
            }
            Match::Identical | Match::GgmlBlocks(_) => {}
        }
    }
    if !inputs.is_empty() {
        plan.inputs = InputQuantization::Static(inputs);
    }
    plan.importance = recovered_importance(pairing);
    let by_inputs = pairing.pairs.iter().filter_map(|pair| {
        let found = InputRounding {
            compensates: pairing.compensated.contains(&pair.out),
            searches_clips: pairing.clipped.contains(&pair.out),
        };
        (found != InputRounding::default()).then_some((pair.source, found))
    });
    plan.by_inputs = RoundingByInputs::of_tensors(by_inputs.collect());
    let format = match pairing.out.format() {
        Format::Gguf => OutputFormat::Gguf,
        Format::Burnpack => OutputFormat::Burn(layout_of(pairing.out)),
        _ if fake => OutputFormat::FakeQuantized,
        _ if container == Some(COMFYUI) => OutputFormat::ComfyUi,
        _ if container == Some(MLX) => OutputFormat::Mlx,
        _ if container == Some(TORCHAO) => OutputFormat::Torchao,
        _ if presets => OutputFormat::Presets,
        _ if packed => OutputFormat::Int8WeightOnly,
        _ if container.is_some() => OutputFormat::Int8,
        _ => OutputFormat::Safetensors,
    };
    let task = match (plan.is_empty(), floats.first()) {
        (false, _) => Task::Quantize { plan, format },
        (true, Some(&(to, _))) => {
            let original = floats.iter().all(|(to, before)| Some(*to) == *before);
            Task::Dequantize { to: (!original).then_some(to) }
        }
        (true, None)
            if pairing.out.format() != pairing.source.format()
                || pairing.pairs.len() < pairing.source.tensors().len() =>
        {
            Task::Dequantize { to: None }
        }
        (true, None) => return Ok(None),
    };
    Ok(Some(Request { task, out: root(pairing.out, format), force: true, copy: Vec::new() }))
}

/// Returns the importance used for a GGUF file, with the origin recorded in the file.
fn recovered_importance(pairing: &Pairing) -> Importance {
    let find = |key: &str| {
        let mut metadata = pairing.out.shards().iter().flat_map(|shard| &shard.metadata);
        metadata.find(|(found, _)| found == key).map(|(_, value)| value.clone())
    };
    let number = |key: &str| find(key)?.parse::<u32>().ok();
    match find(IMPORTANCE_FILE_KEY) {
        None => Importance::default(),
        Some(file) => pairing.importance.with_origin(ImportanceOrigin {
            file,
            dataset: find(IMPORTANCE_DATASET_KEY),
            entries: number(IMPORTANCE_ENTRIES_KEY).unwrap_or(0),
            chunks: number(IMPORTANCE_CHUNKS_KEY),
        }),
    }
}

/// Returns the path of the whole output, whichever of its files was opened.
fn root(out: &Checkpoint, format: OutputFormat) -> PathBuf {
    let is_part = out.shards().len() > 1 && !out.path().is_dir();
    let is_inside = is_part || format.is_directory() || has_extension(out.path(), "json");
    let parent = out.path().parent().filter(|_| is_part);
    match out.directory().or(parent).filter(|_| is_inside) {
        Some(here) if here.as_os_str().is_empty() => PathBuf::from("."),
        Some(directory) => directory.to_owned(),
        None => out.path().to_owned(),
    }
}
