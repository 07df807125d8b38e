//! Analysing a tensor that is in memory.

use crate::quantization::analysis::analyzer::TensorAnalyzer;
use crate::quantization::analysis::both_orders::BothOrders;
use crate::quantization::analysis::results::Analysis;
use crate::quantization::analysis::spec::AnalysisSpec;
use crate::quantization::channel_major::channel_major;
use crate::quantization::value_histogram::HistogramBuilder;
use crate::tensor::{FloatType, Shape};

/// Analyses a tensor whose little-endian elements are `bytes`.
pub fn analyze(spec: &AnalysisSpec, dtype: FloatType, shape: &Shape, bytes: &[u8]) -> Analysis {
    let run = |spec: &AnalysisSpec, shape: &Shape, bytes: &[u8]| {
        run_in_memory(&TensorAnalyzer::new(spec, dtype, shape, None), dtype, bytes)
    };
    let stored = shape.with_contiguous_channels();
    let major = channel_major(bytes, dtype.size(), shape);
    match major.and_then(|major| Some((BothOrders::new(spec)?, major))) {
        Some((orders, (major, permuted))) => orders.join(
            run(&orders.stored, &stored, bytes),
            run(&orders.channel_major, &major, &permuted),
        ),
        None => run(spec, &stored, bytes),
    }
}

pub(super) fn run_in_memory(analyzer: &TensorAnalyzer, dtype: FloatType, bytes: &[u8]) -> Analysis {
    let size = dtype.size();
    let mut histogram = analyzer.histogram_type().map(HistogramBuilder::new);
    let analysis = analyzer.run(histogram.as_mut(), |elements, analyze_chunk| {
        let range = elements.start as usize * size..elements.end as usize * size;
        analyze_chunk(bytes.get(range).unwrap_or_default());
        Ok::<(), std::convert::Infallible>(())
    });
    match analysis {
        Ok(analysis) => analysis,
        Err(never) => match never {},
    }
}
