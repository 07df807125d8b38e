//! Checks that Burn loads the outputs of quantscope, and that they equal those of Burn's own
//! quantizer. `./run` calls this before and after quantscope.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamGroup, Quantizer};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::quantization::{
    Calibration, QuantMode, QuantScheme, QuantStore, QuantValue, ScaleDtype,
};
use burn::tensor::{Device, Tensor};
use burn_store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use std::error::Error;
use std::path::Path;

const BLOCK: u8 = 32;

#[derive(Module, Debug)]
struct Network {
    up: Linear,
    down: Linear,
}

impl Network {
    fn new(device: &Device) -> Network {
        Network {
            up: LinearConfig::new(64, 160).init(device),
            down: LinearConfig::new(160, 96).init(device),
        }
    }
}

/// A module mapper that dequantizes the weights.
struct Dequantize;

impl ModuleMapper for Dequantize {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.dequantize())
    }
}

/// The type and bytes of every parameter, including scales, by path.
#[derive(Default)]
struct Contents {
    path: Vec<String>,
    found: Vec<(String, String, Vec<u8>)>,
}

impl ModuleVisitor for Contents {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().into_data();
        let kind = format!("{:?} {:?}", data.dtype(), data.shape());
        self.found.push((self.path.join("."), kind, data.as_bytes().to_vec()));
    }
}

fn contents(network: &Network) -> Vec<(String, String, Vec<u8>)> {
    let mut contents = Contents::default();
    network.visit(&mut contents);
    contents.found
}

fn compare(what: &str, a: &Network, b: &Network) -> Result<(), Box<dyn Error>> {
    let (a, b) = (contents(a), contents(b));
    for (a, b) in a.iter().zip(&b) {
        if a != b {
            let at = a.2.iter().zip(&b.2).position(|(x, y)| x != y);
            let (kind, other) = (&a.1, &b.1);
            return Err(format!("{what}: {} differs: {kind} and {other}, byte {at:?}", a.0).into());
        }
    }
    if a.len() != b.len() {
        return Err(format!("{what}: {} parameters and {}", a.len(), b.len()).into());
    }
    let kinds: Vec<_> = a.iter().map(|(path, kind, _)| format!("  {path}: {kind}")).collect();
    println!("{what}: {} parameters are the same to the bit\n{}", a.len(), kinds.join("\n"));
    Ok(())
}

fn load(mut store: SafetensorsStore, device: &Device) -> Result<Network, Box<dyn Error>> {
    let mut network = Network::new(device);
    network.load_from(&mut store)?;
    Ok(network)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [step, directory] = arguments.as_slice() else {
        return Err("usage: burn-checker make|check DIRECTORY".into());
    };
    let device = Device::ndarray();
    let file = |name: &str| Path::new(directory).join(name);
    if step == "make" {
        let mut store = SafetensorsStore::from_file(file("model.safetensors"))
            .with_to_adapter(BurnToPyTorchAdapter);
        Network::new(&device).save_into(&mut store)?;
        return Ok(());
    }

    let pytorch = |name: &str| {
        let store = SafetensorsStore::from_file(file(name));
        load(store.with_from_adapter(PyTorchToBurnAdapter), &device)
    };
    let floats = pytorch("model.safetensors")?;
    let symmetric = QuantScheme::default()
        .with_value(QuantValue::Q8S)
        .with_store(QuantStore::Native)
        .with_mode(QuantMode::Symmetric);
    for (name, scheme) in [
        ("per-tensor", symmetric),
        ("per-block", symmetric.per_block([BLOCK], ScaleDtype::F32)),
    ] {
        let mut quantizer = Quantizer::new(Calibration::MinMax, scheme);
        let weights = ParamGroup::from_predicate("weight");
        let expected = floats.clone().quantize_weights_group(&mut quantizer, weights);
        let loaded = Network::new(&device).load_file(file(&format!("{name}.bpk")));
        compare(&format!("{name}.bpk and Burn's quantize_weights"), &loaded, &expected)?;
        let dequantized = loaded.map(&mut Dequantize);
        let plain = format!("{name}.safetensors");
        let given_back = load(SafetensorsStore::from_file(file(&plain)), &device)?;
        compare(&format!("{name}.bpk after Dequantize and {plain}"), &dequantized, &given_back)?;
        if name == "per-tensor" {
            let given_back = pytorch("floats.safetensors")?;
            compare("the same and floats.safetensors", &dequantized, &given_back)?;
        }
    }
    Ok(())
}
