//! Experts of a layer stored as one tensor `[experts, out, in]`: every row of every expert is an
//! output channel, as if the experts were stored one by one.

use super::{bytes, open, run};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Task};
use quantscope::job::{Progress, verify};
use quantscope::plan::{Plan, Selection};
use quantscope::quantization::{QuantizationScheme, Rounding};
use std::path::Path;

const FUSED: &str = "tests/data/formats/fused-experts/fused.safetensors";
const SPLIT: &str = "tests/data/formats/fused-experts/split.safetensors";
const TENSOR: &str = "mlp.experts.down_proj";

fn save(source: &Checkpoint, out: &Path, format: OutputFormat) -> Checkpoint {
    let ids = Selection::default().resolve(source).expect("experts are quantizable");
    let plan = Plan::uniform(ids, QuantizationScheme::PER_CHANNEL, Rounding::HalfEven);
    run(source, out, Task::Quantize { plan, format }).expect("saves").0
}

#[test]
fn fused_experts_have_the_scales_of_separate_experts() {
    let directory = tempfile::tempdir().expect("temp");
    let (fused, split) = (open(FUSED), open(SPLIT));
    let path = |name: &str| directory.path().join(name);
    let all = save(&fused, &path("fused.safetensors"), OutputFormat::Safetensors);
    let each = save(&split, &path("split.safetensors"), OutputFormat::Safetensors);
    let scale = format!("{TENSOR}_scale");
    let (_, stored) = all.all_stored().find(|(_, s)| s.name == scale.as_str()).expect("scales");
    assert_eq!(stored.shape.dims(), [4, 64, 1]);
    let concatenated = |suffix: &str| -> Vec<u8> {
        let name = |expert: u32| format!("mlp.experts.{expert}.down_proj.weight{suffix}");
        (0..4).flat_map(|expert| bytes(&each, &name(expert))).collect()
    };
    assert!(bytes(&all, &scale) == concatenated("_scale"));
    assert!(bytes(&all, TENSOR) == concatenated(""));
    verify::run(&all, &fused, None, &Progress::default()).expect("verifies");

    let floats = run(&all, &path("floats.safetensors"), Task::Dequantize { to: None });
    let floats = floats.expect("dequantizes").0;
    verify::run(&floats, &all, None, &Progress::default()).expect("verifies");
    let fake = save(&fused, &path("fake.safetensors"), OutputFormat::FakeQuantized);
    assert!(bytes(&floats, TENSOR) == bytes(&fake, TENSOR));
    verify::run(&fake, &fused, None, &Progress::default()).expect("verifies");
}

/// Earlier versions wrote one scale for each expert.
#[test]
fn outputs_with_one_scale_per_expert_are_still_read() {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("old.safetensors");
    let metadata = serde_json::json!({
        "quantscope": serde_json::json!({
            "version": 1,
            "rounding": "half-even",
            "tensors": {"mlp.experts.up_proj": {"scheme": "per-channel", "dtype": "F32"}},
        }).to_string(),
    });
    let header = serde_json::json!({
        "__metadata__": metadata,
        "mlp.experts.up_proj": {"dtype": "I8", "shape": [2, 2, 2], "data_offsets": [0, 8]},
        "mlp.experts.up_proj_scale": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    })
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend([1u8, 2, 3, 4, 1, 2, 3, 4]);
    [0.5f32, 2.0].iter().for_each(|scale| file.extend(scale.to_le_bytes()));
    std::fs::write(&path, file).expect("writes");
    let floats: Vec<u8> =
        [0.5f32, 1.0, 1.5, 2.0, 2.0, 4.0, 6.0, 8.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(super::floats(&open(path), "mlp.experts.up_proj"), floats);
}
