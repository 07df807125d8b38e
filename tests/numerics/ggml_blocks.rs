//! Blocks of ggml's types equal those of `ggml_quantize_chunk` byte for byte, and decode to the
//! same floats.
//!
//! `ggml.safetensors` holds rows of 768 elements (`input`) and their `importance`, and for each
//! type `TYPE.bytes` and, with importance, `TYPE.imatrix.bytes`, one row after another. For
//! the rows that the metadata `decoded` lists, `TYPE.dequantized` or
//! `TYPE.imatrix.dequantized` has ggml's floats. Made by ggml 0.26.0 compiled without fused
//! products.

use quantscope::quantization::NotQuantizable;
use quantscope::quantization::ggml::{
    BlockError, ImportanceUse, dequantize_blocks, importance_use, quantize_rows,
};
use quantscope::tensor::BlockType;
use safetensors::SafeTensors;
use std::path::Path;

/// Elements per row.
const ROW: usize = 768;

/// The row of subnormals. In these types ggml converts an infinite quotient to an integer,
/// which C leaves undefined.
const SUBNORMAL_ROW: &str = "denormal_1e-40";
const UNDEFINED_FOR_SUBNORMALS: [BlockType; 9] = [
    BlockType::Q2_0,
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
    BlockType::TQ1_0,
    BlockType::TQ2_0,
    BlockType::MXFP4,
];

struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    fn read() -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/ggml.safetensors");
        Golden { bytes: std::fs::read(path).expect("the golden file") }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).expect("a safetensors file")
    }

    fn names(&self, key: &str) -> Vec<String> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).expect("a header");
        let metadata = metadata.metadata().as_ref().expect("metadata");
        serde_json::from_str(&metadata[key]).expect("a list of names")
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&raw| f32::from_le_bytes(raw)).collect()
}

fn quantized_types() -> impl Iterator<Item = (BlockType, ImportanceUse)> {
    BlockType::ALL.iter().filter_map(|&block| Some((block, importance_use(block)?)))
}

#[test]
fn rows_are_quantized_to_the_bytes_of_ggml() {
    let golden = Golden::read();
    let tensors = golden.tensors();
    let (input, importance) = (tensors.tensor("input"), tensors.tensor("importance"));
    let (input, importance) =
        (floats(input.expect("input").data()), floats(importance.expect("importance").data()));
    let row_names = golden.names("rows");
    let mut compared = 0;
    for (block, importance_use) in quantized_types() {
        let plain = (importance_use != ImportanceUse::Required).then_some((None, ""));
        let weighted = (importance_use != ImportanceUse::Ignored)
            .then_some((Some(importance.as_slice()), ".imatrix"));
        for (importance, suffix) in plain.into_iter().chain(weighted) {
            let name = format!("{block}{suffix}.bytes");
            let expected = tensors.tensor(&name).expect(&name);
            let row_bytes = ROW / block.elements() as usize * block.bytes() as usize;
            assert_eq!(expected.data().len(), row_names.len() * row_bytes, "{name}");
            for ((row, expected), row_name) in
                input.chunks(ROW).zip(expected.data().chunks(row_bytes)).zip(&row_names)
            {
                let mut found = Vec::new();
                quantize_rows(block, row, ROW, importance, &mut found).expect(&name);
                let undefined = UNDEFINED_FOR_SUBNORMALS.contains(&block) && importance.is_none();
                if row_name == SUBNORMAL_ROW && undefined {
                    assert_eq!(found.len(), row_bytes);
                    continue;
                }
                assert_eq!(found, expected, "{name} of the row {row_name}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 40 * 14 - 9);
}

#[test]
fn blocks_are_decoded_to_the_floats_of_ggml() {
    let golden = Golden::read();
    let tensors = golden.tensors();
    let (rows, decoded) = (golden.names("rows"), golden.names("decoded"));
    for (block, importance_use) in quantized_types() {
        let suffix = if importance_use == ImportanceUse::Required { ".imatrix" } else { "" };
        let bytes = tensors.tensor(&format!("{block}{suffix}.bytes")).expect("blocks");
        let expected = tensors.tensor(&format!("{block}{suffix}.dequantized")).expect("floats");
        let row_bytes = ROW / block.elements() as usize * block.bytes() as usize;
        for (row_name, expected) in decoded.iter().zip(expected.data().chunks(ROW * 4)) {
            let row = rows.iter().position(|name| name == row_name).expect("a row");
            let mut found = Vec::new();
            let blocks = &bytes.data()[row * row_bytes..][..row_bytes];
            dequantize_blocks(block, blocks, &mut found).expect("decoded");
            let bits = |floats: &[f32]| floats.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&found), bits(&floats(expected)), "{block} of the row {row_name}");
        }
    }
}

#[test]
fn every_written_type_is_decoded() {
    for (block, _) in quantized_types() {
        let mut decoded = Vec::new();
        dequantize_blocks(block, &vec![0; 3 * block.bytes() as usize], &mut decoded)
            .expect("zeros");
        assert_eq!(decoded.len(), 3 * block.elements() as usize);
        assert!(decoded.iter().all(|x| x.is_finite()), "{block}");
    }
}

#[test]
fn rows_that_are_not_quantizable_are_refused() {
    let mut out = Vec::new();
    let mut quantize = |block, row: &[f32], row_len, importance| {
        quantize_rows(block, row, row_len, importance, &mut out)
    };
    let row = [1f32; 256];
    assert_eq!(
        quantize(BlockType::Q4_K, &row, 128, None),
        Err(BlockError::Row { block: BlockType::Q4_K, found: 128 })
    );
    assert_eq!(
        quantize(BlockType::IQ2_XS, &row, 256, None),
        Err(BlockError::NoImportance { block: BlockType::IQ2_XS })
    );
    assert_eq!(
        quantize(BlockType::Q4_0, &row, 256, Some(&row[..32])),
        Err(BlockError::Importance { expected: 256, found: 32 })
    );
    assert_eq!(
        quantize(BlockType::Q8_K, &row, 256, None),
        Err(BlockError::NotWritten(BlockType::Q8_K))
    );
    let mut infinite = row;
    infinite[40] = f32::INFINITY;
    assert_eq!(
        quantize(BlockType::Q8_0, &infinite, 256, None),
        Err(NotQuantizable::NonFinite { nan: 0, inf: 1, first: 40 }.into())
    );
    infinite[40] = 1e9;
    for (block, _) in quantized_types().filter(|(block, _)| block.elements() <= 256) {
        // MXFP4's scales go up to 2^127, and NVFP4's elements are limited to 2688.
        let refused = quantize(block, &infinite, 256, Some(&row)).is_err();
        assert_eq!(refused, !matches!(block, BlockType::MXFP4 | BlockType::NVFP4), "{block}");
    }
}
