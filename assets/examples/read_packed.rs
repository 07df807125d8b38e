//! Reads the packed weights of a quantized checkpoint as floats.
//!
//! ```sh
//! cargo run --example read_packed -- tests/data/formats/gptq-4bit-actorder
//! ```

use quantscope::checkpoint::Checkpoint;
use quantscope::quantization::Dequantize;
use quantscope::tensor::{FloatType, read_f64};
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let path = argument.unwrap_or_else(|| "tests/data/formats/gptq-4bit-actorder".into());
    let checkpoint = Checkpoint::open(&path)?;
    for id in checkpoint.ids() {
        let Some(format) = checkpoint.packed_format(id) else { continue };
        let tensor = checkpoint.tensor(id);
        let mapper = Dequantize { to: Some(FloatType::F32) };
        let Some((dtype, bytes)) = checkpoint.map(id, mapper)? else { continue };
        let first: Vec<f64> = (0..4).filter_map(|index| read_f64(dtype, &bytes, index)).collect();
        println!("{} {} ({}): {first:?} …", tensor.name, tensor.shape, format.name());
    }
    Ok(())
}
