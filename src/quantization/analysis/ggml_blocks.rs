//! Errors of ggml's block types: a chunk is quantized as ggml does, decoded, and compared.

use crate::quantization::analysis::element_run::ElementRun;
use crate::quantization::analysis::single_pass::ChunkResult;
use crate::quantization::ggml::{dequantize_blocks, quantize_rows, to_f32};
use crate::quantization::groups::Groups;
use crate::quantization::kernels;
use crate::quantization::loss::Loss;
use crate::quantization::quantizer::NotQuantizable;
use crate::tensor::BlockType;

impl ChunkResult {
    /// Measures a chunk of whole blocks. Without importance, blocks do not depend on the rest of
    /// their row.
    pub(super) fn measure_ggml_blocks(
        &mut self,
        block: BlockType,
        chunk: ElementRun,
        channels: Option<&Groups>,
    ) -> Result<(), NotQuantizable> {
        let (mut blocks, mut decoded) = (Vec::new(), Vec::new());
        let values = to_f32(chunk.dtype, chunk.bytes);
        quantize_rows(block, &values, block.elements() as usize, None, &mut blocks)
            .and_then(|()| dequantize_blocks(block, &blocks, &mut decoded))
            .map_err(|why| why.not_quantizable(block))?;
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
    }
}
