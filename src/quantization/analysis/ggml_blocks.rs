//! Errors of ggml's block types: a chunk is quantized as ggml does, decoded, and compared.

use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::single_pass::ChunkResult;
use crate::quantization::ggml::{
    CHECKED_FROM, ChunkMemory, RowImportance, decode_blocks, quantize_part,
};
use crate::quantization::groups::Groups;
use crate::quantization::kernels;
use crate::quantization::loss::Loss;
use crate::quantization::quantizer::NotQuantizable;
use crate::tensor::BlockType;

impl ChunkResult {
    /// Measures a chunk of whole rows.
    pub(super) fn measure_ggml_blocks(
        &mut self,
        block: BlockType,
        chunk: ElementRun,
        channels: Option<&Groups>,
        row_len: usize,
        importance: Option<RowImportance>,
    ) -> Result<(), NotQuantizable> {
        ChunkMemory::with(chunk.dtype, chunk.bytes, |memory| {
            let ChunkMemory { values, blocks, decoded } = memory;
            let has_errors = self.quantized.loss.is_some() || self.quantized.error.is_some();
            if !has_errors && values.iter().all(|x| x.abs() < CHECKED_FROM) {
                // Any row tells whether the type fits.
                values.truncate(row_len);
            }
            quantize_part(block, values, chunk.start, importance, blocks)
                .and_then(|()| decode_blocks(block, blocks, decoded))
                .map_err(|why| why.not_quantizable(block))?;
            if !has_errors {
                return Ok(());
            }
            self.quantized.weighted = importance.map(|all| all.loss(chunk.start, values, decoded));
            let bounds = channels.map(|channels| chunk.channel_bounds(channels));
            let (first, length) = bounds.map_or((usize::MAX, usize::MAX), |b| (b.first, b.length));
            let (mut start, mut end) = (0, first.min(values.len()));
            let mut losses: Vec<Loss> = Vec::new();
            while start < end {
                let part = start..end;
                let x = values.get(part.clone()).unwrap_or_default();
                let sums = kernels::restored_error(x, decoded.get(part).unwrap_or_default());
                self.quantized.add(&sums);
                losses.push((&sums).into());
                (start, end) = (end, end.saturating_add(length).min(values.len()));
            }
            if channels.is_some() {
                self.channels.extend(chunk.number_channels(channels, losses));
            }
            Ok(())
        })
    }
}
