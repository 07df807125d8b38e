//! The table of ggml's block types with their encoders and decoders.

use crate::quantization::ggml::{fp4, iq1, iq2, iq3, iq4, k_quants, legacy, ternary};
use crate::quantization::kernels::{Loop, run_loop};
use crate::tensor::BlockType;

/// How a type uses the importance of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportanceUse {
    /// It is not used.
    Ignored,
    /// It weights the errors of elements.
    Optional,
    /// It is required: ggml refuses to quantize without it.
    Required,
}

/// Decodes blocks. The second slice has their number of elements.
type Decode = fn(&[u8], &mut [f32]);

/// Quantizes a row of whole blocks and appends them, given the importance of the elements. Without
/// importance, all blocks are independent and several rows may be quantized at once.
type Quantize = fn(&[f32], Option<&[f32]>, &mut Vec<u8>);

/// The encoder and decoder of a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codec {
    pub decode: Decode,
    /// `None` for a type that exists in memory only.
    pub quantize: Option<(Quantize, ImportanceUse)>,
}

/// Returns the codec of a type; `None` for types that were removed from ggml or that it cannot
/// decode.
pub(crate) fn codec(block: BlockType) -> Option<Codec> {
    use ImportanceUse::{Ignored, Optional, Required};
    // Each type has loops of its own that call its functions directly: calls through parameters
    // would not be compiled for the instructions of the loop.
    macro_rules! decoder {
        ($decode:path) => {
            |blocks: &[u8], out: &mut [f32]| {
                struct Decode<'a>(&'a [u8], &'a mut [f32]);
                impl Loop for Decode<'_> {
                    type Output = ();

                    #[inline(always)]
                    fn run(self) {
                        let blocks = self.0.as_chunks().0.iter();
                        for (block, out) in blocks.zip(self.1.as_chunks_mut().0) {
                            $decode(block, out);
                        }
                    }
                }
                run_loop(Decode(blocks, out));
            }
        };
    }
    macro_rules! codec {
        ($decode:path, $quantize:path, $importance:expr) => {
            Codec {
                decode: decoder!($decode),
                quantize: Some((
                    |row, importance, out| {
                        struct Quantize<'a>(&'a [f32], Option<&'a [f32]>, &'a mut Vec<u8>);
                        impl Loop for Quantize<'_> {
                            type Output = ();

                            #[inline(always)]
                            fn run(self) {
                                $quantize(self.0, self.1, self.2);
                            }
                        }
                        run_loop(Quantize(row, importance, out));
                    },
                    $importance,
                )),
            }
        };
    }
    Some(match block {
        BlockType::Q1_0 => codec!(legacy::decode_q1_0, legacy::quantize_q1_0, Ignored),
        BlockType::Q2_0 => codec!(legacy::decode_q2_0, legacy::quantize_q2_0, Ignored),
        BlockType::Q4_0 => codec!(legacy::decode_q4_0, legacy::quantize_q4_0, Optional),
        BlockType::Q4_1 => codec!(legacy::decode_q4_1, legacy::quantize_q4_1, Optional),
        BlockType::Q5_0 => codec!(legacy::decode_q5_0, legacy::quantize_q5_0, Optional),
        BlockType::Q5_1 => codec!(legacy::decode_q5_1, legacy::quantize_q5_1, Optional),
        BlockType::Q8_0 => codec!(legacy::decode_q8_0, legacy::quantize_q8_0, Ignored),
        BlockType::Q2_K => codec!(k_quants::decode_q2_k, k_quants::quantize_q2_k, Optional),
        BlockType::Q3_K => codec!(k_quants::decode_q3_k, k_quants::quantize_q3_k, Optional),
        BlockType::Q4_K => codec!(k_quants::decode_q4_k, k_quants::quantize_q4_k, Optional),
        BlockType::Q5_K => codec!(k_quants::decode_q5_k, k_quants::quantize_q5_k, Optional),
        BlockType::Q6_K => codec!(k_quants::decode_q6_k, k_quants::quantize_q6_k, Optional),
        BlockType::Q8_K => Codec { decode: decoder!(k_quants::decode_q8_k), quantize: None },
        BlockType::IQ4_NL => codec!(iq4::decode_iq4_nl, iq4::quantize_iq4_nl, Optional),
        BlockType::IQ4_XS => codec!(iq4::decode_iq4_xs, iq4::quantize_iq4_xs, Optional),
        BlockType::IQ3_XXS => codec!(iq3::decode_iq3_xxs, iq3::quantize_iq3_xxs, Optional),
        BlockType::IQ3_S => codec!(iq3::decode_iq3_s, iq3::quantize_iq3_s, Optional),
        BlockType::IQ2_XXS => codec!(iq2::decode_iq2_xxs, iq2::quantize_iq2_xxs, Required),
        BlockType::IQ2_XS => codec!(iq2::decode_iq2_xs, iq2::quantize_iq2_xs, Required),
        BlockType::IQ2_S => codec!(iq2::decode_iq2_s, iq2::quantize_iq2_s, Optional),
        BlockType::IQ1_S => codec!(iq1::decode_iq1_s, iq1::quantize_iq1_s, Required),
        BlockType::IQ1_M => codec!(iq1::decode_iq1_m, iq1::quantize_iq1_m, Optional),
        BlockType::TQ1_0 => codec!(ternary::decode_tq1_0, ternary::quantize_tq1_0, Ignored),
        BlockType::TQ2_0 => codec!(ternary::decode_tq2_0, ternary::quantize_tq2_0, Ignored),
        BlockType::MXFP4 => codec!(fp4::decode_mxfp4, fp4::quantize_mxfp4, Ignored),
        BlockType::NVFP4 => codec!(fp4::decode_nvfp4, fp4::quantize_nvfp4, Ignored),
        BlockType::Q4_2
        | BlockType::Q4_3
        | BlockType::Q8_1
        | BlockType::Q4_0_4_4
        | BlockType::Q4_0_4_8
        | BlockType::Q4_0_8_8
        | BlockType::IQ4_NL_4_4
        | BlockType::IQ4_NL_4_8
        | BlockType::IQ4_NL_8_8 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_that_are_written_are_those_that_files_hold() {
        for &block in BlockType::ALL {
            let is_written = codec(block).is_some_and(|codec| codec.quantize.is_some());
            assert_eq!(is_written, block.is_written(), "{block}");
        }
    }
}
