//! The chunks in which the entries of an output are encoded.

use crate::checkpoint::Checkpoint;
use crate::export::OutputPlan;
use crate::quantization::{Chunks, Preset, Quantizer};
use crate::tensor::TensorId;

/// One entry of an output file, whose chunks are to be encoded.
pub(super) struct EntryChunks {
    pub(super) file: usize,
    pub(super) entry: usize,
    pub(super) chunks: Chunks,
    /// The tensor whose scales must be found before the entry can be encoded.
    pub(super) calibrate: Option<(TensorId, Quantizer)>,
}

/// The entries to encode, in the order of the plan.
pub(super) fn entry_chunks(checkpoint: &Checkpoint, output_plan: &OutputPlan) -> Vec<EntryChunks> {
    let mut pieces = Vec::new();
    for (file, out) in output_plan.files.iter().enumerate() {
        for (entry, described) in out.entries.iter().enumerate() {
            let Some(chunks) = described.chunks(checkpoint) else { continue };
            let calibrate = described.quantizer().filter(|(id, quantizer)| {
                let preset = quantizer.scheme.preset();
                preset.is_some_and(Preset::has_global_scale)
                    || !chunks
                        .hold(&quantizer.scheme.groups(described.grouped_shape(checkpoint, *id)))
            });
            pieces.push(EntryChunks { file, entry, chunks, calibrate });
        }
    }
    pieces
}
