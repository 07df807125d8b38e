//! The accuracy of the demo network after quantization: each saved network is loaded and run on
//! the 500 held-out digits.
//!
//! The expected counts are those of PyTorch, printed by `assets/train_demo.py`.

use quantscope::checkpoint::Checkpoint;
use quantscope::export::{OutputFormat, Request, Task};
use quantscope::job::{Progress, save};
use quantscope::plan::{Plan, Selection, quantizable};
use quantscope::quantization::{Calibration, Preset, QuantizationScheme, Quantizer, Rounding};
use std::path::Path;

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path.as_ref()).expect("opens")
}

fn asset(name: &str) -> Checkpoint {
    open(Path::new("assets").join(name))
}

/// The elements of a tensor, dequantized if they are int8.
fn elements(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let id = checkpoint.find(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let count = checkpoint.tensor(id).parameters();
    let mut reader = checkpoint.reader();
    let (_, bytes) = reader.elements(id, 0..count).expect("reads").expect("floats");
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect()
}

/// The number of held-out digits that a network classifies correctly.
fn correct(tensors: &crate::digits::Tensors) -> usize {
    let held_out = asset("demo_digits.safetensors");
    let bytes = |name: &str| {
        let (id, stored) = held_out.all_stored().find(|(_, s)| s.name == name).expect("there");
        held_out.reader().stored(id, 0..stored.bytes()).expect("reads").to_vec()
    };
    let (images, labels) = (bytes("images"), bytes("labels"));
    (crate::digits::accuracy(tensors, &images, &labels) * labels.len() as f64).round() as usize
}

/// The number of correct digits after saving as int8 and loading the output.
fn correct_as_int8(network: &Checkpoint, scheme: QuantizationScheme) -> usize {
    let ids = Selection::default().resolve(network).expect("something to quantize");
    assert_eq!(ids.len(), 8, "five convolutions and three linear layers");
    saved(network, Plan::uniform(ids, scheme, Rounding::HalfEven))
}

/// The number of correct digits with the scales of quantization-aware training.
fn correct_as_trained(network: &Checkpoint) -> usize {
    let mut plan = Plan::default();
    for id in network.ids() {
        if network.learned(id).is_some() {
            let calibration = Calibration::Learned;
            plan.mark(id, Quantizer { calibration, scheme: QuantizationScheme::PER_TENSOR });
        }
    }
    assert_eq!(plan.len(), 8, "five convolutions and three linear layers");
    saved(network, plan)
}

fn saved(network: &Checkpoint, plan: Plan) -> usize {
    saved_as(network, plan, OutputFormat::Safetensors)
}

fn saved_as(network: &Checkpoint, plan: Plan, format: OutputFormat) -> usize {
    let directory = tempfile::tempdir().expect("temp");
    let out = directory.path().join("quantized.safetensors");
    let task = Task::Quantize { plan, format };
    let request = Request { task, out: out.clone(), force: false, copy: Vec::new() };
    save::run(network, &request, None, &Progress::default(), &|_| {}).expect("saves");
    let quantized = open(out);
    correct(&|name| elements(&quantized, name))
}

/// The number of correct digits with int4 weights, which are rounded here because int4 cannot be
/// saved.
fn correct_as_int4(network: &Checkpoint, per_channel: bool) -> usize {
    correct(&|name| {
        let mut values = elements(network, name);
        let id = network.find(name).expect("there");
        if quantizable(network, id) {
            let channels =
                if per_channel { network.tensor(id).shape.channels() as usize } else { 1 };
            let length = values.len() / channels;
            for group in values.chunks_exact_mut(length) {
                let scale = group.iter().fold(0f32, |most, x| most.max(x.abs())) / 7.0;
                group.iter_mut().for_each(|x| *x = (*x / scale).round_ties_even() * scale);
            }
        }
        values
    })
}

/// The numbers of correct digits: float, int8 per tensor, int8 per channel, int4 per tensor, int4
/// per channel.
fn counts(name: &str) -> [usize; 5] {
    let network = asset(name);
    [
        correct(&|name| elements(&network, name)),
        correct_as_int8(&network, QuantizationScheme::PER_TENSOR),
        correct_as_int8(&network, QuantizationScheme::PER_CHANNEL),
        correct_as_int4(&network, false),
        correct_as_int4(&network, true),
    ]
}

#[test]
fn the_demo_has_the_accuracy_of_pytorch() {
    assert_eq!(counts("demo.safetensors"), [497, 497, 497, 479, 493]);
}

/// The network trained with int4 fake quantization loses no digits, while post-training int4 per
/// tensor loses 18.
#[test]
fn the_int4_network_keeps_its_accuracy() {
    let [float, int8, _, int4, _] = counts("demo_qat.safetensors");
    assert_eq!((float, int8, int4), (487, 488, 491));
    // With the scales of the training, whose values fit int4.
    assert_eq!(correct_as_trained(&asset("demo_qat.safetensors")), 494);
}

/// The number of layers that a preset fits, and of correct digits with them in it.
fn correct_in(network: &Checkpoint, preset: Preset) -> (usize, usize) {
    let mut plan = Plan::default();
    for id in Selection::default().resolve(network).expect("something to quantize") {
        if preset.obstacle(&network.tensor(id).shape).is_none() {
            let (calibration, scheme) = (Calibration::MinMax, QuantizationScheme::Preset(preset));
            plan.mark(id, Quantizer { calibration, scheme });
        }
    }
    let layers = plan.len();
    (layers, saved_as(network, plan, OutputFormat::FakeQuantized))
}

/// The table of `src/guide/loaders.md`.
#[test]
fn presets_keep_the_accuracy_of_the_demo() {
    let network = asset("demo.safetensors");
    let found: Vec<(String, usize, usize)> = PRESETS
        .map(|(preset, ..)| {
            let (layers, correct) = correct_in(&network, preset);
            (preset.to_string(), layers, correct)
        })
        .to_vec();
    let expected: Vec<(String, usize, usize)> =
        PRESETS.map(|(preset, layers, correct)| (preset.to_string(), layers, correct)).to_vec();
    assert_eq!(found, expected);
    let guide = std::fs::read_to_string("src/guide/loaders.md").expect("the manual");
    for (name, layers, correct) in expected {
        let row = format!("{name:<14}{layers:>6}{correct:>10}");
        assert!(guide.lines().any(|line| line.starts_with(&row)), "no row {row:?}");
    }
}

/// Presets with the layers of eight that they fit, and the correct digits of 500.
const PRESETS: [(Preset, usize, usize); 9] = [
    (Preset::W4A16(8), 5, 497),
    (Preset::W4A16Asym(8), 5, 497),
    (Preset::Nvfp4A16, 3, 495),
    (Preset::Mxfp4A16, 2, 496),
    (Preset::Fp8Block, 8, 496),
    (Preset::Fp8Dynamic, 8, 496),
    (Preset::W8A8, 8, 497),
    (Preset::W8A16(8), 5, 497),
    (Preset::Mxfp8A16, 2, 497),
];
