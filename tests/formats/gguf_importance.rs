//! GGUF outputs quantized with an importance matrix of llama.cpp.

use crate::bytes;
use crate::gguf::{MadeTensor, made, wave};
use quantscope::activations::Activations;
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, verify};
use quantscope::plan::Plan;
use quantscope::quantization::ggml::{Importance, ImportanceUse, importance_use, quantize_rows};
use quantscope::quantization::{Calibration, QuantizationScheme, Quantizer, Rounding};
use quantscope::tensor::BlockType;
use std::path::{Path, PathBuf};

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
