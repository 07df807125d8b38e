//! The built-in demo: a small network that reads handwritten digits, with recorded inputs of its
//! layers. Imports `checkpoint` and `activations`; `cli`, `app` and `tui` may use it.

use crate::activations::{Activations, ActivationsError};
use crate::checkpoint::{Checkpoint, Result};
use std::path::{Path, PathBuf};

/// The word that opens the demo where a model's path is expected.
pub const WORD: &str = "demo:";

const NAME: &str = "demo";
const BYTES: &[u8] = include_bytes!("../assets/demo.safetensors");

/// The inputs of its layers for two training images of each digit.
const ACTIVATIONS: &[u8] = include_bytes!("../assets/demo_activations.safetensors");

/// Opens the demo from memory.
pub fn open() -> Result<Checkpoint> {
    Checkpoint::from_memory(NAME, BYTES)
}

/// Whether a checkpoint is the demo, and not a file with the same name.
pub fn is(checkpoint: &Checkpoint) -> bool {
    let in_memory = checkpoint.shards().iter().all(|shard| shard.source.is_memory());
    in_memory && checkpoint.path() == Path::new(NAME)
}

/// Opens the checkpoint at `model`, or the demo if it is [`WORD`].
pub fn open_model(model: &Path) -> Result<Checkpoint> {
    if model.as_os_str() == WORD { open() } else { Checkpoint::open(model) }
}

/// Opens files of recorded inputs for `checkpoint`. [`WORD`] opens those of the demo.
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
    fn the_demo_has_recorded_inputs_for_every_quantizable_layer() {
        let demo = open().expect("opens");
        let captures = open_activations(&[WORD.into()], &demo).expect("opens");
        let recorded: Vec<_> = captures.tensors().collect();
        let layers = demo.ids().filter(|&id| demo.tensor(id).shape.rank() > 1);
        assert_eq!(recorded, layers.collect::<Vec<_>>());
        assert!(captures.unmatched().is_empty() && captures.have_inputs());
    }
}
