//! Weights whose output channels do not lie along the first axis: `Conv1D` of GPT-2, transposed
//! convolutions, and experts stored as `[experts, in, out]`. Each has a twin that is stored with
//! its output channels first, and everything measured and saved is that of the twin.

use crate::support::checkpoint::{Tensor, f32s, weights, write};
use crate::{bytes, open, quantize, refusal, run};
use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Task};
use quantscope::job::element_window::{self, Quantization};
use quantscope::job::{Progress, channels, verify};
use quantscope::quantization::{
    Calibration, QuantizationScheme, Quantizer, Rounding, ScaleStorage,
};
use quantscope::tensor::FloatType;
use std::path::Path;

/// A weight: its name, its dimensions, their order with output channels first, the dimensions of
/// its scales, and the number of its biases.
type Weight = (&'static str, &'static [u64], &'static [usize], &'static [u64], u64);

const WEIGHTS: [Weight; 5] = [
    ("h.0.mlp.c_fc.weight", &[16, 48], &[1, 0], &[1, 48], 48),
    ("h.0.attn.c_proj.weight", &[32, 32], &[1, 0], &[1, 32], 32),
    ("upsample.0.weight", &[6, 4, 3, 3], &[1, 0, 2, 3], &[1, 4, 1, 1], 4),
    ("decoder.deconv.0.weight", &[4, 4, 5], &[1, 0, 2], &[1, 4, 1], 0),
    ("h.0.mlp.experts.gate_up_proj", &[3, 32, 24], &[0, 2, 1], &[3, 1, 24], 0),
];

const CONFIG: &str = r#"{"model_type": "gpt2", "hidden_size": 32}"#;

/// The elements with the axes in another order.
fn permuted(data: &[u8], size: usize, dims: &[u64], order: &[usize]) -> Vec<u8> {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<u64>();
    let count = dims.iter().product::<u64>();
    let element = |number: u64| {
        let mut rest = number;
        let mut at = 0;
        for &axis in order.iter().rev() {
            at += rest % dims[axis] * stride(axis);
            rest /= dims[axis];
        }
        data[at as usize * size..][..size].to_vec()
    };
    (0..count).flat_map(element).collect()
}

fn twin_name(number: usize) -> String {
    format!("twin.{number}")
}

/// The weights and their twins in a model directory.
fn model(directory: &Path) -> Checkpoint {
    let mut tensors: Vec<Tensor> = Vec::new();
    for (number, (name, dims, order, _, biases)) in WEIGHTS.into_iter().enumerate() {
        let mut weight = weights(name, dims);
        // Channels of different magnitudes.
        for (index, raw) in weight.bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let scaled = f32::from_le_bytes(*raw) * (1.0 + (index % 7) as f32);
            *raw = scaled.to_le_bytes();
        }
        let shape: Vec<u64> = match dims {
            [experts, rows, columns] if order[0] == 0 => vec![experts * columns, *rows],
            _ => order.iter().map(|&axis| dims[axis]).collect(),
        };
        let bytes = permuted(&weight.bytes, 4, dims, order);
        tensors.push(Tensor { name: twin_name(number), dtype: "F32", shape, bytes });
        if biases > 0 {
            let module = name.trim_end_matches(".weight");
            let zeros = (0..biases).map(|_| 0.0);
            tensors.push(f32s(&format!("{module}.bias"), &[biases], zeros));
        }
        tensors.push(weight);
    }
    write(&directory.join("model.safetensors"), &tensors, &[]);
    std::fs::write(directory.join("config.json"), CONFIG).expect("writes");
    open(directory)
}

#[test]
fn output_channels_along_other_axes_have_their_own_scales() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("model")).expect("creates");
    let source = model(&path("model"));
    let scheme = QuantizationScheme::PER_CHANNEL;
    let receipt = quantize(&source, &path("int8"), scheme, OutputFormat::Safetensors);
    let saved = open(path("int8"));
    verify::run(&saved, &source, None, &Progress::default()).expect("verifies");
    let (floats, _) =
        run(&saved, &path("floats"), Task::Dequantize { to: None }).expect("dequantizes");
    quantize(&source, &path("fake"), scheme, OutputFormat::FakeQuantized);
    let fake = open(path("fake"));
    verify::run(&fake, &source, None, &Progress::default()).expect("verifies");
    // Its configuration says nothing of a file that lies alone.
    quantize(&source, &path("alone.safetensors"), scheme, OutputFormat::Safetensors);
    verify::run(&open(path("alone.safetensors")), &source, None, &Progress::default())
        .expect("verifies");

    let figures = |name: &str| {
        let found = receipt.quantized.iter().find(|it| it.tensor == name);
        found.unwrap_or_else(|| panic!("{name} is not quantized")).on_disk.sqnr_db
    };
    for (number, (name, dims, order, scale_dims, _)) in WEIGHTS.into_iter().enumerate() {
        let twin = twin_name(number);
        let scale = |name: &str| format!("{name}_scale");
        let (_, stored) = saved.all_stored().find(|(_, s)| *s.name == scale(name)).expect("scales");
        assert_eq!(stored.shape.dims(), scale_dims, "{name}");
        assert!(bytes(&saved, &scale(name)) == bytes(&saved, &scale(&twin)), "{name}");
        assert!(
            permuted(&bytes(&saved, name), 1, dims, order) == bytes(&saved, &twin),
            "{name}: other values"
        );
        let floats = bytes(&floats, name);
        assert!(permuted(&floats, 4, dims, order) == bytes(&fake, &twin), "{name}");
        assert!(floats == bytes(&fake, name), "{name}");
        // Sums are rounded in another order.
        let (found, expected) = (figures(name), figures(&twin));
        assert!((found - expected).abs() < 1e-4, "{name}: {found} dB, expected {expected} dB");

        let id = source.find(name).expect("there");
        let all = |name: &str| {
            let tensor = source.find(name).expect("there");
            let (rounding, scale_storage) = (Rounding::HalfAway, ScaleStorage::F32);
            let request = channels::Request { tensor, shared: 0.01, rounding, scale_storage };
            channels::run(&source, &request, Some(2), &Progress::default()).expect("reads")
        };
        assert_eq!(all(name), all(&twin), "{name}");

        let quantizer = Quantizer { calibration: Calibration::MinMax, scheme };
        let (rounding, scale_storage) = (Rounding::HalfAway, ScaleStorage::F32);
        let quantization = Quantization { quantizer, rounding, scale_storage, scale: None };
        let request = element_window::Request {
            tensor: id,
            elements: 5..45,
            quantization: Some(quantization),
        };
        let window = element_window::run(&source, &request, &Progress::default()).expect("reads");
        assert_eq!(window.elements.len(), 40);
        for (index, element) in (5..).zip(&window.elements) {
            let shown = element.quantized.expect("has a scale").dequantized as f32;
            let raw: [u8; 4] = floats[index * 4..][..4].try_into().expect("four bytes");
            assert_eq!(shown, f32::from_le_bytes(raw), "{name} {index}");
        }
        let (float, elements) = (FloatType::F32, bytes(&source, name));
        let shape = &source.tensor(id).shape;
        let quantized =
            quantizer.quantize_weights_rounding(float, shape, &elements, Rounding::HalfAway);
        let quantized = quantized.expect("finite");
        let values: Vec<u8> = quantized.values.iter().map(|&value| value as u8).collect();
        assert!(values == bytes(&saved, name), "{name}: quantized in memory");
    }
}

/// A chunk holds elements of all channels, and no channel as a whole.
#[test]
fn output_channels_of_a_tensor_of_many_chunks_have_their_own_scales() {
    let directory = tempfile::tempdir().expect("temp");
    let path = |name: &str| directory.path().join(name);
    std::fs::create_dir(path("model")).expect("creates");
    let weight = weights("h.0.mlp.c_fc.weight", &[512, 600]);
    let bias = f32s("h.0.mlp.c_fc.bias", &[600], (0..600).map(|_| 0.0));
    write(&path("model/model.safetensors"), &[weight, bias], &[]);
    let source = open(path("model/model.safetensors"));
    let scheme = QuantizationScheme::PER_CHANNEL;
    quantize(&source, &path("int8"), scheme, OutputFormat::Safetensors);
    let saved = open(path("int8"));
    verify::run(&saved, &source, None, &Progress::default()).expect("verifies");
    let scales = bytes(&saved, "h.0.mlp.c_fc.weight_scale");
    let elements = bytes(&source, "h.0.mlp.c_fc.weight");
    let (elements, _) = elements.as_chunks::<4>();
    for (channel, scale) in scales.as_chunks::<4>().0.iter().enumerate() {
        let column = elements.iter().skip(channel).step_by(600);
        let absmax = column.map(|raw| f32::from_le_bytes(*raw).abs()).fold(0.0, f32::max);
        assert_eq!(f32::from_le_bytes(*scale), absmax / 127.0, "{channel}");
    }
}

#[test]
fn formats_with_scales_of_the_first_axis_only_say_so() {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("model.safetensors");
    let (weight, bias) = ("h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias");
    let tensors = [weights(weight, &[16, 48]), f32s(bias, &[48], (0..48).map(|_| 0.0))];
    write(&path, &tensors, &[]);
    let source = open(path);
    let out = directory.path().join("out.safetensors");
    let why = refusal(&source, &out, QuantizationScheme::PER_CHANNEL, OutputFormat::ComfyUi);
    assert!(why.contains("cannot be comfyui: its output channels lie along axis 1"), "{why}");
    assert!(!out.exists());
}
