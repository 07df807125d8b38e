//! The table of packed formats.

use crate::checkpoint::packed::format::PackedTensor;
use crate::checkpoint::packed::listing::{Listing, PartTensor};
use crate::checkpoint::packed::{
    awq, bitsandbytes, comfyui, compressed_tensors, foreign, fp8, gpt_oss, gptq, mlx, modelopt,
    quanto, torchao,
};

/// Examines one stored tensor. Returns `Some` if it holds the values of a tensor of this format:
/// decoded if all evidence agrees, else undecoded with the reason. Returns `None` for other
/// formats.
pub(super) type Recognize = fn(&Listing, PartTensor) -> Option<PackedTensor>;

/// Every format in the order of checking: formats with markers first, then those recognized by
/// names and shapes, then those that are never decoded.
pub(super) const FORMATS: [(&str, Recognize); 18] = [
    ("ComfyUI", comfyui::recognize),
    ("GPTQ", gptq::recognize),
    ("AWQ", awq::recognize),
    ("bitsandbytes, 4 bits", bitsandbytes::four_bits),
    ("bitsandbytes, int8", bitsandbytes::eight_bits),
    ("optimum-quanto", quanto::recognize),
    ("compressed-tensors, packed", compressed_tensors::packed),
    ("compressed-tensors, int8", compressed_tensors::int8),
    ("gpt-oss", gpt_oss::recognize),
    ("MLX", mlx::recognize),
    ("DeepSeek-V4 experts", fp8::deepseek_experts),
    ("torchao, int8", torchao::recognize),
    ("names of one format only", foreign::by_signature),
    ("ModelOpt", modelopt::recognize),
    ("FP8", fp8::recognize),
    ("a method that config.json names", foreign::by_method),
    ("scales of an unknown format", foreign::with_scales),
    ("scales without their weight", foreign::scales_alone),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Source;
    use crate::checkpoint::formats::safetensors;
    use crate::checkpoint::stored::Shard;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    fn fixtures() -> Vec<PathBuf> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let folders = ["packed", "formats"].map(|folder| tests.join(folder));
        let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("lists"));
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.join("model.safetensors").is_file()).collect()
    }

    /// Returns the formats in the table that are the first to claim a tensor of a fixture.
    fn formats_of(fixture: &Path) -> BTreeSet<&'static str> {
        let source = Source::file(&fixture.join("model.safetensors")).expect("opens");
        let header = safetensors::read(&source).expect("reads");
        let shards = [Shard { source, metadata: header.metadata }];
        let listing = Listing::new(Some(fixture), &shards, &header.tensors);
        let first = |part: PartTensor| {
            let takes = |recognize: &Recognize| recognize(&listing, part).is_some();
            FORMATS.iter().find(|(_, recognize)| takes(recognize)).map(|(name, _)| *name)
        };
        listing.parts().filter_map(first).collect()
    }

    /// The tests that compare values and change files use all fixtures, so they cover every format
    /// that has a fixture.
    #[test]
    fn every_format_has_a_fixture() {
        let found: BTreeSet<&str> =
            fixtures().iter().flat_map(|fixture| formats_of(fixture)).collect();
        let missing: Vec<&str> =
            FORMATS.iter().map(|(name, _)| *name).filter(|name| !found.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
