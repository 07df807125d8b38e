//! Float models from packed ones whose weights alone do not give the layer's output.

use crate::support::{data, failure, stdout};
use quantscope::checkpoint::Checkpoint;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::fs;
use std::path::Path;
use tempfile::tempdir;

const LAYER: &str = "model.layers.0.self_attn.q_proj";

/// The elements of a tensor as floats.
fn floats(path: &Path, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    let id = checkpoint.find(name).expect("there");
    let mut reader = checkpoint.reader();
    let count = checkpoint.tensor(id).shape.elements();
    let (_, bytes) = reader.elements(id, 0..count).expect("reads").expect("floats");
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|&raw| f32::from_le_bytes(raw)).collect()
}

/// `y = W (x · pre_quant_scale)`, so the float weight is W with its columns multiplied. The scales
/// do not stay behind, where loaders would not use them.
#[test]
fn scales_of_a_layers_inputs_are_multiplied_into_its_weight() {
    let source = data("packed/modelopt-nvfp4");
    let directory = tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let bytes = fs::read(Path::new(&source).join("model.safetensors")).expect("reads");
    let stored = SafeTensors::deserialize(&bytes).expect("safetensors");
    let factors: Vec<f32> = (0..32u8).map(|column| 0.5 + f32::from(column) / 16.0).collect();
    let factor_bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let added = TensorView::new(Dtype::F32, vec![32], &factor_bytes).expect("fits");
    let mut tensors = stored.tensors();
    tensors.push((format!("{LAYER}.pre_quant_scale"), added));
    fs::create_dir(at("model")).expect("a directory");
    let file = serialize(tensors, None).expect("serializes");
    fs::write(at("model/model.safetensors"), file).expect("writes");
    let config = fs::read_to_string(Path::new(&source).join("config.json")).expect("reads");
    let config = config.replace("\"NVFP4\"", "\"NVFP4_AWQ\"");
    fs::write(at("model/config.json"), config).expect("writes");
    let dequantize = |model: &Path, out: &Path| {
        let [model, out] = [model, out].map(|path| path.to_str().expect("text"));
        stdout(&["dequantize", model, "-o", out, "--dtype", "f32"]);
    };
    dequantize(Path::new(&source), &at("plain"));
    dequantize(&at("model"), &at("out"));
    let weight = format!("{LAYER}.weight");
    let (plain, found) = (floats(&at("plain"), &weight), floats(&at("out"), &weight));
    assert_eq!(found.len(), 130 * 32);
    for (at, (plain, found)) in plain.iter().zip(&found).enumerate() {
        let expected = plain * factors[at % 32];
        assert!((found - expected).abs() <= expected.abs() * 1e-6, "{at}: {found}, {expected}");
    }
    let out = Checkpoint::open(&at("out")).expect("opens");
    let names: Vec<&str> = out.all_stored().map(|(_, stored)| &*stored.name).collect();
    assert!(names.iter().all(|name| !name.contains("scale")), "{names:?}");
}

#[test]
fn rotated_weights_are_refused_and_nothing_is_written() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out");
    let model = data("packed/ct-transform-config");
    let (code, said) = failure(&["dequantize", &model, "-o", out.to_str().expect("text")]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("its weights are rotated (transform_config), which quantscope does not undo"),
        "{said}"
    );
    assert!(!out.exists());
    let listed = stdout(&["inspect", &model]);
    assert!(listed.contains("transform_config"), "{listed}");
}
