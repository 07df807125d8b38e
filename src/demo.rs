//! The checkpoint built into the binary: a small network that reads handwritten digits.
//!
//! Imports `checkpoint` alone; `cli`, `app` and `terminal` may use it.

use crate::checkpoint::{Checkpoint, Result};
use std::path::Path;

/// What stands for the demo wherever a model's path is expected.
pub const WORD: &str = "demo:";

const NAME: &str = "demo";
const BYTES: &[u8] = include_bytes!("../assets/demo.safetensors");

/// Opens the demo from memory.
pub fn open() -> Result<Checkpoint> {
    Checkpoint::from_memory(NAME, BYTES)
}

/// Opens the checkpoint at `model`, or the demo if it is [`WORD`].
pub fn open_model(model: &Path) -> Result<Checkpoint> {
    if model.as_os_str() == WORD { open() } else { Checkpoint::open(model) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_opens_under_its_name() {
        let demo = open_model(Path::new(WORD)).expect("the asset is a checkpoint");
        assert_eq!(demo.name(), "demo");
        assert!(demo.find("classifier.0.weight").is_some());
    }
}
