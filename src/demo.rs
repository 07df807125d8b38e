//! The checkpoint built into the binary: a small network that reads handwritten digits.
//!
//! With it come captures of what reaches its layers. Imports `checkpoint` and `activations`;
//! `cli`, `app` and `terminal` may use it.

use crate::activations::{Activations, ActivationsError};
use crate::checkpoint::{Checkpoint, Result};
use std::path::{Path, PathBuf};

/// What stands for the demo wherever a model's path is expected.
pub const WORD: &str = "demo:";

const NAME: &str = "demo";
const BYTES: &[u8] = include_bytes!("../assets/demo.safetensors");

/// What reaches its layers for two training images of each digit.
const ACTIVATIONS: &[u8] = include_bytes!("../assets/demo_activations.safetensors");

/// Opens the demo from memory.
pub fn open() -> Result<Checkpoint> {
    Checkpoint::from_memory(NAME, BYTES)
}

/// Whether a checkpoint is the demo, and no file of its name.
pub fn is(checkpoint: &Checkpoint) -> bool {
    let in_memory = checkpoint.shards().iter().all(|shard| shard.source.is_memory());
    in_memory && checkpoint.path() == Path::new(NAME)
}

/// Opens the checkpoint at `model`, or the demo if it is [`WORD`].
pub fn open_model(model: &Path) -> Result<Checkpoint> {
    if model.as_os_str() == WORD { open() } else { Checkpoint::open(model) }
}

/// Opens files of captures for `checkpoint`; [`WORD`] among them stands for the demo's own.
pub fn open_activations(
    paths: &[PathBuf],
    checkpoint: &Checkpoint,
) -> std::result::Result<Activations, ActivationsError> {
    let (demo, files): (Vec<_>, Vec<_>) =
        paths.iter().cloned().partition(|path| path.as_os_str() == WORD);
    if demo.is_empty() {
        Activations::open(&files, checkpoint)
    } else {
        let captures = Checkpoint::from_memory("demo's activations", ACTIVATIONS)?;
        Activations::with(captures, &files, checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_opens_under_its_name() {
        let demo = open_model(Path::new(WORD)).expect("the asset is a checkpoint");
        assert_eq!(demo.name(), "demo");
        assert!(
            is(&demo)
                && !is(&Checkpoint::open(Path::new("assets/demo.safetensors")).expect("opens"))
        );
        assert!(demo.find("classifier.0.weight").is_some());
    }

    #[test]
    fn the_demos_captures_are_of_every_layer_it_quantizes() {
        let demo = open().expect("opens");
        let captures = open_activations(&[WORD.into()], &demo).expect("opens");
        let recorded: Vec<_> = captures.tensors().collect();
        let layers = demo.ids().filter(|&id| demo.tensor(id).shape.rank() > 1);
        assert_eq!(recorded, layers.collect::<Vec<_>>());
        assert!(captures.unmatched().is_empty() && captures.have_inputs());
    }
}
