//! GGUF outputs quantized with an importance matrix of llama.cpp.

use crate::bytes;
use crate::support::gguf::{MadeTensor, made, wave};
use quantscope::activations::{ActivationMode, Activations, OutputError};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, output, scan, verify};
use quantscope::plan::Plan;
use quantscope::quantization::ggml::{Importance, ImportanceUse, importance_use, quantize_rows};
use quantscope::quantization::{
    AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding, ScaleStorage,
};
use quantscope::tensor::{BlockType, TensorId};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const DENSE: &str = "blk.0.attn_q.weight";
const EXPERTS: &str = "blk.0.ffn_up_exps.weight";
const UNKNOWN: &str = "blk.0.attn_k.weight";

/// A matrix of 3 rows, three experts of 2 rows, and a matrix without known importance.
fn source(directory: &Path) -> Checkpoint {
    let mut experts = wave(EXPERTS, 256, 6);
    experts.1 = vec![256, 2, 3];
    let tensors = [wave(DENSE, 512, 3), experts, wave(UNKNOWN, 256, 2)];
    crate::open(made(&directory.join("source.gguf"), &[], &tensors))
}

fn floats(name: String, dims: &[u64], values: &[f32]) -> MadeTensor {
    (name, dims.to_vec(), 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// The sums of the squared inputs of an expert.
fn sums(columns: usize, expert: usize) -> Vec<f32> {
    (0..columns).map(|n| ((n * 7 + expert * 3) % 11) as f32 + 0.25).collect()
}

/// An importance matrix in which the second expert received no inputs.
fn matrix(directory: &Path) -> PathBuf {
    let experts = [sums(256, 0), vec![0.0; 256], sums(256, 2)].concat();
    let tensors = [
        floats(format!("{DENSE}.in_sum2"), &[512, 1], &sums(512, 0)),
        floats(format!("{DENSE}.counts"), &[1, 1], &[3.0]),
        floats(format!("{EXPERTS}.in_sum2"), &[256, 3], &experts),
        floats(format!("{EXPERTS}.counts"), &[1, 3], &[2.0, 0.0, 5.0]),
    ];
    made(&directory.join("imatrix.gguf"), &[("imatrix.chunk_count", 9)], &tensors)
}

/// The importance that llama.cpp derives from the sums: means, and ones without inputs.
fn mean_squares(name: &str) -> Vec<Vec<f32>> {
    let mean = |sums: Vec<f32>, count: f32| sums.into_iter().map(|sum| sum / count).collect();
    match name {
        DENSE => vec![mean(sums(512, 0), 3.0)],
        _ => vec![mean(sums(256, 0), 2.0), vec![1.0; 256], mean(sums(256, 2), 5.0)],
    }
}

fn blocks_of(block: BlockType, data: &[u8], row: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let values: Vec<f32> = data.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect();
    let mut blocks = Vec::new();
    quantize_rows(block, &values, row, importance, &mut blocks).expect("quantizes");
    blocks
}

#[test]
fn blocks_are_made_by_the_importance_of_each_expert() {
    let directory = tempfile::tempdir().expect("temp");
    let source = source(directory.path());
    let matrix = matrix(directory.path());
    let recorded = Activations::open(std::slice::from_ref(&matrix), &source).expect("opens");
    let importance = recorded.importance(&source);
    let written = BlockType::ALL.iter().copied().filter(|&block| importance_use(block).is_some());
    for block in written {
        let needs_it = importance_use(block) == Some(ImportanceUse::Required);
        let out = directory.path().join(format!("{block}.gguf"));
        let mut plan = Plan::new(Rounding::default());
        plan.importance = importance.clone();
        let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Ggml(block));
        for id in source.ids().filter(|&id| !needs_it || importance.get(id).is_some()) {
            plan.mark(id, Quantizer { calibration, scheme });
        }
        let task = Task::Quantize { plan, format: OutputFormat::Gguf };
        let (file, _) = crate::run(&source, &out, task).expect("saves");
        for (name, row) in [(DENSE, 512), (EXPERTS, 256)] {
            let original = bytes(&source, name);
            let experts = mean_squares(name);
            let mut expected = Vec::new();
            for (part, mean) in original.chunks(original.len() / experts.len()).zip(&experts) {
                expected.extend(blocks_of(block, part, row, Some(mean)));
            }
            assert!(bytes(&file, name) == expected, "{block} {name}");
        }
        if !needs_it {
            let expected = blocks_of(block, &bytes(&source, UNKNOWN), 256, None);
            assert!(bytes(&file, UNKNOWN) == expected, "{block}");
        }
        let keys: Vec<_> = file.shards()[0]
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("quantize.imatrix."))
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        let path = matrix.to_string_lossy();
        let expected = [
            ("quantize.imatrix.file", path[..path.len().min(127)].to_owned()),
            ("quantize.imatrix.entries_count", "2".to_owned()),
            ("quantize.imatrix.chunks_count", "9".to_owned()),
        ];
        assert_eq!(keys, expected, "{block}");
        let known = importance.clone();
        verify::run_with_importance(&file, &source, known, None, &Progress::default())
            .expect("the same");
        if importance_use(block) == Some(ImportanceUse::Optional) {
            let unknown = Importance::default();
            let error =
                verify::run_with_importance(&file, &source, unknown, None, &Progress::default());
            let why = error.expect_err("made with importance").to_string();
            assert!(why.contains("--activations"), "{block}: {why}");
        }
    }
}

/// An analysis weights errors while it quantizes, so that nothing is quantized a second time for the
/// errors of outputs.
#[test]
fn an_analysis_weights_errors_as_the_job_for_outputs_does() {
    let directory = tempfile::tempdir().expect("temp");
    let source = source(directory.path());
    let activations = Activations::open(&[matrix(directory.path())], &source).expect("opens");
    let importance = activations.importance(&source);
    let tensors: Vec<TensorId> = source.ids().collect();
    let quantizer = |block| {
        let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Ggml(block));
        Quantizer { calibration, scheme }
    };
    let quantizers = [BlockType::Q4_K, BlockType::Q8_0, BlockType::IQ2_XXS].map(quantizer).to_vec();
    let spec = AnalysisSpec {
        importance: importance.clone(),
        ..AnalysisSpec::errors(quantizers.clone(), Rounding::default())
    };
    let (analyses, outputs) = (Mutex::new(HashMap::new()), Mutex::new(HashMap::new()));
    let keep = |(id, found)| drop(analyses.lock().expect("whole").insert(id, found));
    let order = scan::Order::new(tensors.clone());
    scan::run(&source, &spec, &order, Some(2), &Progress::default(), &keep).expect("ends");
    let request = output::Request {
        tensors,
        quantizers,
        rounding: Rounding::default(),
        scale_storage: ScaleStorage::F16,
        calibration: Calibration::MinMax,
        importance: importance.clone(),
    };
    let keep = |(id, found)| drop(outputs.lock().expect("whole").insert(id, found));
    output::run(&source, &activations, &request, Some(2), &Progress::default(), &keep)
        .expect("ends");
    let (analyses, outputs) = (analyses.into_inner(), outputs.into_inner());
    let (analyses, outputs) = (analyses.expect("whole"), outputs.expect("whole"));
    for name in [DENSE, EXPERTS] {
        let id = source.find(name).expect("there");
        // The experts' importance is 1 where no inputs were recorded, and outputs need the inputs.
        let recording = activations.get(id).expect("recorded");
        assert_eq!(recording.is_importance(importance.get(id)), name == DENSE);
        let layer = outputs[&id].as_ref().expect("measured");
        let outcomes = &analyses[&id].as_ref().expect("measured").outcomes;
        assert_eq!((outcomes.len(), layer.errors.len()), (3, 3));
        for (outcome, (quantizer, error)) in outcomes.iter().zip(&layer.errors) {
            let weighted = outcome.result.as_ref().expect("quantizable").weighted.expect("known");
            let [weighted, error] =
                [&OutputError::weighted(weighted), error.as_ref().expect("known")]
                    .map(|error| error.ratio(ActivationMode::Weights).expect("known"));
            let is_same = (weighted / error - 1.0).abs() < 1e-12;
            assert_eq!(is_same, name == DENSE, "{name} {}: {weighted} {error}", quantizer.scheme);
        }
    }
    let unknown = &analyses[&source.find(UNKNOWN).expect("there")].as_ref().expect("measured");
    assert!(unknown.outcomes[0].result.as_ref().expect("quantizable").weighted.is_none());
}
