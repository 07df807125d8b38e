//! Metadata about rounding, calibration and original types, for formats that cannot express them.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::packed::{
    CALIBRATION_KEY, ORIGINAL_KEY, ROUNDING_KEY, calibration_metadata, strings_by_tensor,
};
use crate::export::formats::shards::FileMetadata;
use crate::export::output_plan::Entry;
use crate::plan::Plan;
use crate::quantization::Rounding;

/// Returns the metadata of a file with the rounding, the calibrations and the original types of its
/// entries.
pub(super) fn with_provenance(
    checkpoint: &Checkpoint,
    plan: &Plan,
    mut metadata: FileMetadata,
    entries: &[Entry],
) -> FileMetadata {
    note_quantizers(checkpoint, plan, entries, &mut metadata);
    note_original_types(checkpoint, entries, &mut metadata);
    metadata
}

/// Records the rounding and the calibration of a file's entries where they are not the defaults.
pub(super) fn note_quantizers(
    checkpoint: &Checkpoint,
    plan: &Plan,
    entries: &[Entry],
    metadata: &mut FileMetadata,
) {
    metadata.retain(|(key, _)| key != ROUNDING_KEY && key != CALIBRATION_KEY);
    if plan.rounding != Rounding::default() {
        metadata.push((ROUNDING_KEY.into(), plan.rounding.name().into()));
    }
    let calibrations = entries.iter().filter_map(|entry| {
        let (id, quantizer) = entry.quantizer()?;
        Some((checkpoint.tensor(id).name.as_str(), quantizer.calibration))
    });
    if let Some(text) = calibration_metadata(calibrations) {
        metadata.push((CALIBRATION_KEY.into(), text));
    }
}

/// Records the original types of the quantized tensors of a file, in addition to those recorded in
/// the source.
fn note_original_types(checkpoint: &Checkpoint, entries: &[Entry], metadata: &mut FileMetadata) {
    let mut types = strings_by_tensor(metadata, ORIGINAL_KEY);
    types.extend(entries.iter().filter_map(|entry| {
        let (id, _) = entry.quantizer()?;
        let tensor = checkpoint.tensor(id);
        Some((tensor.name.to_string(), tensor.dtype.name().to_owned()))
    }));
    metadata.retain(|(key, _)| key != ORIGINAL_KEY);
    // Serializing strings cannot fail.
    metadata.push((ORIGINAL_KEY.into(), serde_json::to_string(&types).unwrap_or_default()));
}
