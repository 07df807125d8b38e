//! Quantized checkpoints of other software: each packed weight is listed as one tensor with its
//! real name, shape and values. The fixtures in `tests/data/formats` contain the values of the
//! software that owns the format; the other expected values are computed here.

use quantscope::checkpoint::Checkpoint;
use quantscope::checkpoint::formats::safetensors::header_bytes;
use quantscope::export::{OutputFormat, Request, Task};
use quantscope::job::{Progress, save, verify};
use quantscope::plan::{Obstacle, Plan, obstacle, quantizable};
use quantscope::quantization::{QuantizationScheme, Rounding};
use quantscope::tensor::{DType, FloatType, Shape, TensorId};
use std::path::Path;

/// Decodes a range of a tensor.
fn elements(checkpoint: &Checkpoint, id: TensorId, range: std::ops::Range<u64>) -> Vec<f32> {
    let mut reader = checkpoint.reader();
    let (float, bytes) = reader.elements(id, range).expect("decodes").expect("has elements");
    assert_eq!(float, FloatType::F32);
    bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

fn all(checkpoint: &Checkpoint, id: TensorId) -> Vec<f32> {
    elements(checkpoint, id, 0..checkpoint.tensor(id).parameters())
}

/// Asserts that a tensor decodes bit for bit, in any range.
fn assert_decodes(checkpoint: &Checkpoint, name: &str, expected: &[f32]) {
    let id = checkpoint.find(name).unwrap_or_else(|| panic!("{name}"));
    let count = checkpoint.tensor(id).parameters();
    assert_eq!(count, expected.len() as u64, "{name}");
    let same = |found: &[f32], from: usize| {
        for (k, (a, b)) in found.iter().zip(&expected[from..]).enumerate() {
            let at = from + k;
            assert!(a.to_bits() == b.to_bits(), "{name}[{at}] is {a}, expected {b}");
        }
    };
    same(&all(checkpoint, id), 0);
    if checkpoint.packed_format(id).is_some() {
        assert_dequantizes(checkpoint, name, expected);
    }
    let row = checkpoint.tensor(id).shape.row_len();
    let bounds = [0, 1, 2, 7, row - 1, row, row + 1, 3 * row, count / 2 + 1, count - 1, count];
    for start in bounds {
        for end in bounds {
            if start <= end && end <= count {
                let found = elements(checkpoint, id, start..end);
                assert_eq!(found.len() as u64, end - start, "{name} {start}..{end}");
                same(&found, start as usize);
            }
        }
    }
}

/// Asserts that a tensor is dequantized to every float type with one rounding per value.
fn assert_dequantizes(checkpoint: &Checkpoint, name: &str, expected: &[f32]) {
    let directory = tempfile::tempdir().expect("temp");
    for to in [FloatType::F32, FloatType::BF16, FloatType::F16] {
        let out = directory.path().join(format!("{to:?}.safetensors"));
        let task = Task::Dequantize { to: Some(to) };
        let request = Request { task, out: out.clone(), force: false, copy: Vec::new() };
        save::run(checkpoint, &request, None, &Progress::default(), &|_| {}).expect("saves");
        let plain = Checkpoint::open(&out).expect("opens");
        let id = plain.find(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(plain.tensor(id).dtype, to.dtype());
        assert!(plain.ids().all(|id| plain.packed_format(id).is_none()));
        let bytes: Vec<u8> = match to {
            FloatType::BF16 => bf16s(expected),
            FloatType::F16 => {
                expected.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
            }
            _ => f32s(expected),
        };
        let mut reader = plain.reader();
        let read = reader.elements(id, 0..expected.len() as u64).expect("reads");
        assert!(read == Some((to, &bytes[..])), "{name} as {to:?}");
    }
}

/// Every fixture with the name of its tensor, its format, and its number of stored tensors.
const FIXTURES: [(&str, &str, usize); 9] = [
    ("awq-gemm", "awq int4, groups of 64", 3),
    ("bnb-nf4", "bitsandbytes nf4, blocks of 64", 4),
    ("ct-int8-channel", "compressed-tensors int8 per-channel", 2),
    ("ct-pack8-channel", "compressed-tensors packed int8 per-channel", 3),
    ("fp8-block-deepseek", "fp8 e4m3, blocks of 128×128", 2),
    ("fp8-tensor", "fp8 e4m3 per-tensor", 3),
    ("gptq-4bit-actorder", "gptq int4, groups of 64", 4),
    ("mlx-4bit", "mlx int4, groups of 64", 3),
    ("mxfp4-gpt-oss", "mxfp4, blocks of 32", 2),
];

/// The expected values were computed in F32, so all comparisons are exact.
#[test]
fn every_fixture_decodes_to_the_reference_values() {
    for (fixture, layout, parts) in FIXTURES {
        let directory = Path::new("tests/data/formats").join(fixture);
        let checkpoint = Checkpoint::open(&directory.join("model.safetensors")).expect(fixture);
        let answer = Checkpoint::open(&directory.join("expected.safetensors")).expect(fixture);
        assert_eq!(checkpoint.tensors().len(), 1, "{fixture}");
        for id in answer.ids() {
            let expected = answer.tensor(id);
            let found = checkpoint.find(&expected.name).unwrap_or_else(|| panic!("{fixture}"));
            assert_eq!(checkpoint.tensor(found).shape, expected.shape, "{fixture}");
            let described = checkpoint.packed_format(found).expect("quantized");
            assert_eq!((described.name().as_str(), described.parts().len()), (layout, parts));
            assert_eq!(checkpoint.tensor(found).bytes, checkpoint.total_bytes(), "{fixture}");
            assert_eq!(
                obstacle(&checkpoint, found),
                Some(Obstacle::AlreadyQuantized(layout.to_owned()))
            );
            assert_decodes(&checkpoint, &expected.name, &all(&answer, id));
        }
    }
}

/// A checkpoint of generated tensors in a temporary directory.
struct Model {
    directory: tempfile::TempDir,
}

impl Model {
    fn new(config: &str, tensors: &[(&str, DType, &[u64], Vec<u8>)]) -> Model {
        let directory = tempfile::tempdir().expect("temp");
        let shapes: Vec<Shape> =
            tensors.iter().map(|(_, _, dims, _)| Shape::new(*dims).expect("fits")).collect();
        let listed = tensors
            .iter()
            .zip(&shapes)
            .map(|((name, dtype, _, data), shape)| (*name, dtype, shape, data.len() as u64));
        let mut bytes = header_bytes(&[("format".to_owned(), "pt".to_owned())], listed);
        tensors.iter().for_each(|(_, _, _, data)| bytes.extend(data));
        std::fs::write(directory.path().join("model.safetensors"), bytes).expect("writes");
        if !config.is_empty() {
            std::fs::write(directory.path().join("config.json"), config).expect("writes");
        }
        Model { directory }
    }

    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.directory.path()).expect("opens")
    }

    /// Why the first tensor that is not decoded cannot be quantized.
    fn reason(&self) -> String {
        let checkpoint = self.open();
        let formats = checkpoint.ids().filter_map(|id| checkpoint.packed_format(id));
        let mut undecoded = formats.filter(|format| format.decoded().is_none());
        let first = undecoded.next();
        first.unwrap_or_else(|| panic!("all of {:?} are decoded", checkpoint.tensors())).name()
    }
}

/// Seeded pseudo-random numbers.
fn noise(seed: u32, count: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state >> 8
    };
    (0..count).map(next).collect()
}

fn codes(seed: u32, count: usize, bits: u32) -> Vec<u8> {
    noise(seed, count).into_iter().map(|n| (n & ((1 << bits) - 1)) as u8).collect()
}

fn scales(seed: u32, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|n| (n % 1000 + 1) as f32 / 4096.0).collect()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bf16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
}

fn bf16(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

fn i32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Packs the codes of each row into words. No code crosses a word.
fn packed_rows(codes: &[u8], columns: usize, bits: u32) -> Vec<u8> {
    let per_word = (32 / bits) as usize;
    let rows = codes.chunks(columns);
    let words = rows.flat_map(|row| {
        row.chunks(per_word)
            .map(|word| (0..).zip(word).fold(0, |w, (k, &c)| w | u32::from(c) << (k * bits)))
            .collect::<Vec<u32>>()
    });
    i32s(&words.collect::<Vec<_>>())
}

fn transposed<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

fn pack_config(bits: u32, group: usize) -> String {
    format!(
        r#"{{"torch_dtype":"float16","quantization_config":{{"quant_method":"compressed-tensors","format":"pack-quantized","version":"0.15.0","config_groups":{{"group_0":{{"targets":["Linear"],"weights":{{"num_bits":{bits},"type":"int","symmetric":false,"strategy":"group","group_size":{group}}}}}}}}}}}"#
    )
}

#[test]
fn packed_integers_with_zero_points_and_columns_out_of_order() {
    let (rows, columns, group) = (10, 48, 16);
    for (bits, ordered) in [(4, true), (8, true), (4, false), (2, true), (3, true)] {
        let per_word = (32 / bits) as usize;
        let half = 1 << (bits - 1);
        let q = codes(bits, rows * columns, bits);
        let groups = columns / group;
        let z = codes(bits + 100, rows * groups, bits);
        let s = scales(bits, rows * groups);
        let order: Vec<u32> = (0..columns as u32).map(|i| (i * 7 + 3) % groups as u32).collect();
        let expected: Vec<f32> = (0..rows * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let g = if ordered { column / group } else { order[column] as usize };
                let at = row * groups + g;
                let (q, z) = (i32::from(q[i]) - half, i32::from(z[at]) - half);
                (q - z) as f32 * bf16(s[at])
            })
            .collect();
        let words = columns.div_ceil(per_word) as u64;
        // Zero points are packed along the rows.
        let zeros = packed_rows(&transposed(&z, groups), rows, bits);
        let zeros: Vec<[u8; 4]> = zeros.as_chunks::<4>().0.to_vec();
        let zeros = transposed(&zeros, rows.div_ceil(per_word)).concat();
        let scale_dims = [rows as u64, groups as u64];
        let mut tensors = vec![
            ("m.weight_shape", DType::I64, &[2][..], {
                [rows as i64, columns as i64].iter().flat_map(|n| n.to_le_bytes()).collect()
            }),
            ("m.weight_scale", DType::BF16, &scale_dims, bf16s(&s)),
        ];
        let packed_dims = [rows as u64, words];
        let zero_dims = [rows.div_ceil(per_word) as u64, groups as u64];
        let order_dims = [columns as u64];
        tensors.push(("m.weight_packed", DType::I32, &packed_dims, packed_rows(&q, columns, bits)));
        tensors.push(("m.weight_zero_point", DType::I32, &zero_dims, zeros));
        if !ordered {
            tensors.push(("m.weight_g_idx", DType::I32, &order_dims, i32s(&order)));
        }
        let model = Model::new(&pack_config(bits, group), &tensors);
        let checkpoint = model.open();
        assert_eq!(checkpoint.tensors().len(), 1);
        assert_decodes(&checkpoint, "m.weight", &expected);
        let layout = checkpoint.packed_format(TensorId(0)).expect("quantized");
        assert_eq!(layout.original(), FloatType::F16);
        assert!(layout.name().contains("asymmetric"), "{}", layout.name());
    }
}

#[test]
fn int8_with_zero_points_and_in_groups() {
    let (rows, columns, group) = (6, 40, 8);
    let q = codes(1, rows * columns, 8);
    let z = codes(2, rows * columns / group, 8);
    let s = scales(3, rows * columns / group);
    let groups = columns / group;
    let value = |i: usize, zero: bool| {
        let at = i / columns * groups + i % columns / group;
        let z = if zero { i32::from(z[at] as i8) } else { 0 };
        (i32::from(q[i] as i8) - z) as f32 * s[at]
    };
    let dims = [rows as u64, columns as u64];
    let scale_dims = [rows as u64, groups as u64];
    let mut tensors = vec![
        ("m.weight", DType::I8, &dims[..], q.clone()),
        ("m.weight_scale", DType::F32, &scale_dims[..], f32s(&s)),
    ];
    let model = Model::new("", &tensors);
    let expected: Vec<f32> = (0..q.len()).map(|i| value(i, false)).collect();
    assert_decodes(&model.open(), "m.weight", &expected);
    assert!(model.open().packed_format(TensorId(0)).is_some_and(|l| l.int8().is_some()));
    tensors.push(("m.weight_zero_point", DType::I8, &scale_dims[..], z.clone()));
    let model = Model::new("", &tensors);
    let expected: Vec<f32> = (0..q.len()).map(|i| value(i, true)).collect();
    assert_decodes(&model.open(), "m.weight", &expected);
    assert!(model.open().packed_format(TensorId(0)).is_some_and(|l| l.int8().is_none()));
}

/// Packs the codes of each column as one bit stream of words: `[in·b/32, out]`.
fn gptq_words(codes: &[u8], outer: usize, bits: u32) -> Vec<u32> {
    let inner = codes.len() / outer;
    let mut words = vec![0u32; inner * bits as usize / 32 * outer];
    for (i, &code) in codes.iter().enumerate() {
        let (row, column) = (i / inner, i % inner);
        for bit in 0..bits as usize {
            let at = column * bits as usize + bit;
            words[at / 32 * outer + row] |= u32::from(code >> bit & 1) << (at % 32);
        }
    }
    words
}

#[test]
fn gptq_of_both_versions_and_all_widths() {
    let (outer, inner, group) = (32, 64, 32);
    let groups = inner / group;
    for bits in [2, 3, 4, 8] {
        for (format, offset) in [("gptq", 1), ("gptq_v2", 0)] {
            let q = codes(bits, outer * inner, bits);
            let z = codes(bits + 9, groups * outer, bits);
            let s = scales(bits, groups * outer);
            let expected: Vec<f32> = (0..q.len())
                .map(|i| {
                    let at = i % inner / group * outer + i / inner;
                    (i32::from(q[i]) - i32::from(z[at]) - offset) as f32 * bf16(s[at])
                })
                .collect();
            let zeros = gptq_words(&z, groups, bits);
            let zeros = transposed(&zeros, groups);
            let config = format!(
                r#"{{"quantization_config":{{"quant_method":"gptq","bits":{bits},"group_size":{group},"checkpoint_format":"{format}"}}}}"#
            );
            let model = Model::new(
                &config,
                &[
                    ("m.qweight", DType::I32, &[inner as u64 * u64::from(bits) / 32, 32], {
                        i32s(&gptq_words(&q, outer, bits))
                    }),
                    ("m.qzeros", DType::I32, &[groups as u64, u64::from(bits)], i32s(&zeros)),
                    ("m.scales", DType::BF16, &[groups as u64, 32], bf16s(&s)),
                ],
            );
            let checkpoint = model.open();
            assert_eq!(checkpoint.tensor(TensorId(0)).shape.dims(), [32, 64]);
            assert_decodes(&checkpoint, "m.weight", &expected);
        }
    }
}

#[test]
fn bitsandbytes_double_quantized_and_int8() {
    let (rows, columns, block, nested) = (7u64, 33u64, 16u64, 4u64);
    let count = (rows * columns) as usize;
    let blocks = count.div_ceil(block as usize);
    let q = codes(5, count, 4);
    let a = codes(6, blocks, 8);
    let map: Vec<f32> = (0..16).map(|i| i as f32 / 8.0 - 1.0).collect();
    let nested_map: Vec<f32> = (0..256).map(|i| i as f32 / 128.0 - 1.0).collect();
    let nested_absmax = scales(7, blocks.div_ceil(nested as usize));
    let offset = 0.75f64;
    let expected: Vec<f32> = (0..count)
        .map(|i| {
            let b = i / block as usize;
            let absmax =
                nested_map[usize::from(a[b])] * nested_absmax[b / nested as usize] + offset as f32;
            map[usize::from(q[i])] * absmax
        })
        .collect();
    let packed: Vec<u8> =
        q.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
    let state = format!(
        r#"{{"quant_type":"fp4","blocksize":{block},"dtype":"bfloat16","shape":[{rows},{columns}],"nested_blocksize":{nested},"nested_dtype":"float32","nested_offset":{offset}}}"#
    );
    let bytes = packed.len() as u64;
    let int8 = codes(8, 12, 8);
    let scb = [0.5f32, 3.0, 0.25];
    let model = Model::new(
        r#"{"quantization_config":{"quant_method":"bitsandbytes"}}"#,
        &[
            ("m.weight", DType::U8, &[bytes, 1], packed),
            ("m.weight.absmax", DType::U8, &[blocks as u64], a),
            ("m.weight.quant_map", DType::F32, &[16], f32s(&map)),
            ("m.weight.nested_quant_map", DType::F32, &[256], f32s(&nested_map)),
            ("m.weight.nested_absmax", DType::F32, &[nested_absmax.len() as u64], {
                f32s(&nested_absmax)
            }),
            ("m.weight.quant_state.bitsandbytes__fp4", DType::U8, &[state.len() as u64], {
                state.clone().into_bytes()
            }),
            ("e.weight", DType::I8, &[3, 4], int8.clone()),
            ("e.SCB", DType::F32, &[3], f32s(&scb)),
            ("e.weight_format", DType::U8, &[], vec![0]),
        ],
    );
    let checkpoint = model.open();
    assert_eq!(checkpoint.tensors().len(), 2);
    assert_decodes(&checkpoint, "m.weight", &expected);
    let layout = checkpoint.packed_format(TensorId(0)).expect("quantized");
    assert_eq!(layout.name(), "bitsandbytes fp4, blocks of 16, double quantized");
    assert_eq!(layout.original(), FloatType::BF16);
    let expected: Vec<f32> =
        (0..12).map(|i| f32::from(int8[i] as i8) * scb[i / 4] * (1.0 / 127.0)).collect();
    assert_decodes(&checkpoint, "e.weight", &expected);
}

const FP4: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn fp4(code: u8) -> f32 {
    let magnitude = FP4[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

#[test]
fn nvfp4_of_both_producers() {
    let (rows, columns) = (5usize, 64usize);
    let q = codes(11, rows * columns, 4);
    let packed: Vec<u8> = q.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect();
    // The E4M3 code of 2^k has the exponent field k + 7.
    let powers: Vec<i32> = noise(12, rows * 4).into_iter().map(|n| (n % 9) as i32 - 4).collect();
    let scale: Vec<u8> = powers.iter().map(|k| ((k + 7) << 3) as u8).collect();
    let global = 3.0f32;
    let run = |i: usize| 2f32.powi(powers[i / columns * 4 + i % columns / 16]);
    let (dims, scale_dims) = ([5u64, 32], [5u64, 4]);
    let divided: Vec<f32> = (0..q.len()).map(|i| fp4(q[i]) * (run(i) / global)).collect();
    let model = Model::new(
        r#"{"torch_dtype":"bfloat16"}"#,
        &[
            ("m.weight_packed", DType::U8, &dims, packed.clone()),
            ("m.weight_scale", DType::F8E4M3, &scale_dims, scale.clone()),
            ("m.weight_global_scale", DType::F32, &[1], f32s(&[global])),
            ("m.input_global_scale", DType::F32, &[1], f32s(&[1.0])),
        ],
    );
    assert_decodes(&model.open(), "m.weight", &divided);
    assert_eq!(model.open().tensors().len(), 1);
    let multiplied: Vec<f32> = (0..q.len()).map(|i| fp4(q[i]) * (run(i) * global)).collect();
    let model = Model::new(
        "",
        &[
            ("m.weight", DType::U8, &dims, packed),
            ("m.weight_scale", DType::F8E4M3, &scale_dims, scale),
            ("m.weight_scale_2", DType::F32, &[], f32s(&[global])),
        ],
    );
    assert_decodes(&model.open(), "m.weight", &multiplied);
}

#[test]
fn mlx_of_every_width() {
    let (rows, groups) = (4usize, 3usize);
    for bits in 2..=8u32 {
        let group = 32usize;
        let columns = groups * group;
        let q = codes(bits, rows * columns, bits);
        let (s, b) = (scales(bits, rows * groups), scales(bits + 50, rows * groups));
        let row_bytes = columns * bits as usize / 8;
        let mut packed = vec![0u8; rows * row_bytes];
        for (i, &code) in q.iter().enumerate() {
            for bit in 0..bits as usize {
                let at = i % columns * bits as usize + bit;
                packed[i / columns * row_bytes + at / 8] |= (code >> bit & 1) << (at % 8);
            }
        }
        let expected: Vec<f32> = (0..q.len())
            .map(|i| {
                let at = i / columns * groups + i % columns / group;
                f32::from(q[i]) * bf16(s[at]) + bf16(b[at])
            })
            .collect();
        // The bits of a module take precedence over the general ones.
        let config =
            format!(r#"{{"quantization":{{"group_size":32,"bits":9,"m":{{"bits":{bits}}}}}}}"#);
        let dims = [rows as u64, row_bytes as u64 / 4];
        let beside = [rows as u64, groups as u64];
        let model = Model::new(
            &config,
            &[
                ("m.weight", DType::U32, &dims, packed),
                ("m.scales", DType::BF16, &beside, bf16s(&s)),
                ("m.biases", DType::BF16, &beside, bf16s(&b)),
            ],
        );
        let checkpoint = model.open();
        assert_decodes(&checkpoint, "m.weight", &expected);
        assert_eq!(
            checkpoint.packed_format(TensorId(0)).map(|l| l.original()),
            Some(FloatType::BF16)
        );
    }
}

#[test]
fn quanto_and_fp8_of_every_scale() {
    let q = codes(20, 24, 8);
    let s = [0.5f32, 0.25, 2.0];
    // E5M2 is the upper byte of an F16.
    let fp8: Vec<u8> =
        (0..24).map(|i| (half::f16::from_f32(i as f32 * 0.5 - 4.0).to_bits() >> 8) as u8).collect();
    let value = |i: usize| half::f16::from_bits(u16::from(fp8[i]) << 8).to_f32();
    let model = Model::new(
        "",
        &[
            ("a.weight._data", DType::I8, &[3, 8], q.clone()),
            ("a.weight._scale", DType::F32, &[3, 1], f32s(&s)),
            ("a.input_scale", DType::F32, &[], f32s(&[1.0])),
            ("b.weight._data", DType::F8E5M2, &[3, 8], fp8.clone()),
            ("b.weight._scale", DType::F32, &[3, 1], f32s(&s)),
            ("c.weight", DType::F8E5M2, &[3, 8], fp8.clone()),
            ("c.weight_scale", DType::F32, &[3, 1], f32s(&s)),
            ("e.weight", DType::F8E5M2, &[3, 8], fp8.clone()),
            ("e.scale_weight", DType::F32, &[], f32s(&[8.0])),
        ],
    );
    let checkpoint = model.open();
    let names: Vec<_> = checkpoint.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a.weight", "b.weight", "c.weight", "e.weight"]);
    let int8: Vec<f32> = (0..24).map(|i| f32::from(q[i] as i8) * s[i / 8]).collect();
    let scaled: Vec<f32> = (0..24).map(|i| value(i) * s[i / 8]).collect();
    assert_decodes(&checkpoint, "a.weight", &int8);
    assert_decodes(&checkpoint, "b.weight", &scaled);
    assert_decodes(&checkpoint, "c.weight", &scaled);
    assert_decodes(&checkpoint, "e.weight", &(0..24).map(|i| value(i) * 8.0).collect::<Vec<_>>());
    let name = |k: u32| checkpoint.packed_format(TensorId(k)).expect("quantized").name();
    assert_eq!(name(2), "fp8 e5m2 per-channel");
    assert_eq!(name(3), "fp8 e5m2 per-tensor");
    // If the file has no scales, these are plain FP8 numbers. If other tensors have scales, the
    // scales of this one are missing.
    let unscaled = ("d.weight", DType::F8E5M2, &[3u64, 8][..], fp8.clone());
    let model = Model::new("", std::slice::from_ref(&unscaled));
    let checkpoint = model.open();
    assert_decodes(&checkpoint, "d.weight", &(0..24).map(value).collect::<Vec<_>>());
    assert_eq!(checkpoint.packed_format(TensorId(0)).expect("packed").name(), "fp8 e5m2, unscaled");
    let scaled = [
        unscaled,
        ("c.weight", DType::F8E5M2, &[3, 8], fp8.clone()),
        ("c.weight_scale", DType::F32, &[3, 1], f32s(&s)),
    ];
    let reason = Model::new("", &scaled).reason();
    assert!(reason.contains("other tensors of its type have some"), "{reason}");
}

/// Fused experts: each matrix has its own blocks, with partial blocks at its edges.
#[test]
fn fp8_blocks_of_stacked_matrices() {
    let (experts, rows, columns) = (3usize, 5usize, 7usize);
    let codes: Vec<u8> = codes(31, experts * rows * columns, 6);
    let s = scales(32, experts * 3 * 2);
    let e4m3 = |code: u8| match code >> 3 {
        0 => f32::from(code & 7) * 2f32.powi(-9),
        e => (1.0 + f32::from(code & 7) / 8.0) * 2f32.powi(i32::from(e) - 7),
    };
    let expected: Vec<f32> = (0..codes.len())
        .map(|i| {
            let (e, r, c) = (i / 35, i / 7 % 5, i % 7);
            e4m3(codes[i]) * s[e * 6 + r / 2 * 2 + c / 4]
        })
        .collect();
    let model = Model::new(
        r#"{"quantization_config":{"quant_method":"fp8","weight_block_size":[2,4]}}"#,
        &[
            ("m.gate_up_proj", DType::F8E4M3, &[3, 5, 7], codes.clone()),
            ("m.gate_up_proj_scale_inv", DType::F32, &[3, 3, 2], f32s(&s)),
        ],
    );
    assert_decodes(&model.open(), "m.gate_up_proj", &expected);
}

#[test]
fn fp8_of_another_type_than_the_configured_one_is_named() {
    for (fmt, is_decoded) in [("e4m3", true), ("float8_e4m3fn", true), ("e5m2", false)] {
        let config = format!(
            r#"{{"quantization_config":{{"quant_method":"fp8","fmt":"{fmt}","weight_block_size":[2,4]}}}}"#
        );
        let parts = [
            ("m.weight", DType::F8E4M3, &[2u64, 4][..], codes(3, 8, 6)),
            ("m.weight_scale_inv", DType::F32, &[1, 1], f32s(&[0.5])),
        ];
        let checkpoint = Model::new(&config, &parts).open();
        let id = checkpoint.find("m.weight").expect("listed");
        assert_eq!(checkpoint.float_type(id).is_some(), is_decoded, "{fmt}");
    }
}

/// Transposed formats are read in panels. A tensor larger than a panel is decoded the same in
/// chunks.
#[test]
fn tensors_larger_than_a_panel_are_the_same_in_chunks() {
    let (outer, inner) = (2048u64, 8192u64);
    let q: Vec<u32> = noise(41, (outer * inner / 8) as usize);
    let z: Vec<u32> = noise(42, (inner / 64 * outer / 8) as usize);
    let s = scales(43, (inner / 64 * outer) as usize);
    let model = Model::new(
        r#"{"quantization_config":{"quant_method":"awq","bits":4,"group_size":64,"version":"gemm"}}"#,
        &[
            ("m.qweight", DType::I32, &[inner, outer / 8], i32s(&q)),
            ("m.qzeros", DType::I32, &[inner / 64, outer / 8], i32s(&z)),
            ("m.scales", DType::BF16, &[inner / 64, outer], bf16s(&s)),
        ],
    );
    let checkpoint = model.open();
    let id = checkpoint.find("m.weight").expect("recognised");
    let place = [0, 4, 1, 5, 2, 6, 3, 7];
    let value = |i: u64| {
        let (row, column) = (i / inner, i % inner);
        let nibble = |words: &[u32], line: u64| {
            let word = words[(line * outer / 8 + row / 8) as usize];
            (word >> (4 * place[(row % 8) as usize]) & 15) as i32
        };
        let scale = bf16(s[(column / 64 * outer + row) as usize]);
        (nibble(&q, column) - nibble(&z, column / 64)) as f32 * scale
    };
    let mut reader = checkpoint.reader();
    for start in [0, inner * 3 + 5, inner * 1000, inner * 2047 + 8000, inner * 500] {
        let range = start..(start + 20_000).min(outer * inner);
        let (_, bytes) = reader.elements(id, range.clone()).expect("reads").expect("floats");
        for (i, raw) in range.zip(bytes.as_chunks::<4>().0) {
            assert_eq!(f32::from_le_bytes(*raw), value(i), "{i}");
        }
    }
}

#[test]
fn packed_formats_known_only_by_name_are_named_and_kept() {
    for (config, tensors, layout) in [
        (
            "",
            vec![
                ("m.q_weight", DType::I32, &[4u64, 8][..], vec![1; 128]),
                ("m.q_scale", DType::I32, &[1, 1], vec![1; 4]),
            ],
            "exl2",
        ),
        (
            "",
            vec![
                ("m.W_q", DType::U8, &[4, 8], vec![1; 32]),
                ("m.meta", DType::U8, &[3], vec![1; 3]),
            ],
            "hqq",
        ),
        (
            r#"{"quantization_config":{"quant_method":"bitnet"}}"#,
            vec![("m.weight", DType::U8, &[4, 8], vec![1; 32])],
            "bitnet",
        ),
        (
            r#"{"quantization_config":{"quant_method":"awq","version":"gemv","bits":4}}"#,
            vec![
                ("m.qweight", DType::I32, &[4, 8], vec![1; 128]),
                ("m.qzeros", DType::I32, &[4, 1], vec![1; 16]),
                ("m.scales", DType::F16, &[4, 8], vec![1; 64]),
            ],
            "awq",
        ),
    ] {
        let checkpoint = Model::new(config, &tensors);
        let directory = &checkpoint.directory;
        let checkpoint = checkpoint.open();
        assert_eq!(checkpoint.tensors().len(), 1, "{layout}");
        let named = checkpoint.packed_format(TensorId(0)).expect("marked").name();
        assert!(named.contains(layout) && named.contains("does not read"), "{named}");
        assert_eq!(checkpoint.tensor(TensorId(0)).name, "m.weight");
        let why = obstacle(&checkpoint, TensorId(0)).expect("an obstacle");
        assert!(!why.can_be_overruled() && why.to_string().contains(layout), "{why}");
        assert_eq!(checkpoint.float_type(TensorId(0)), None);
        let out = directory.path().join("out");
        let task = Task::Dequantize { to: None };
        let request = Request { task, out: out.clone(), force: false, copy: Vec::new() };
        let error = save::run(&checkpoint, &request, None, &Progress::default(), &|_| {})
            .expect_err("refused")
            .to_string();
        assert!(error.contains("'m.weight'") && error.contains(layout), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn inconsistent_parts_of_a_packed_tensor_are_reported() {
    let f16 = |n: usize| vec![0u8; n * 2];
    let i32 = |n: usize| vec![0u8; n * 4];
    let gptq = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":64}}"#;
    let awq = r#"{"quantization_config":{"quant_method":"awq","bits":4,"group_size":64}}"#;
    type Tensors<'t> = Vec<(&'t str, DType, &'t [u64], Vec<u8>)>;
    let cases: Vec<(&str, Tensors, &str)> = vec![
        (
            gptq,
            vec![
                ("m.qweight", DType::I32, &[8, 8], i32(64)),
                ("m.qzeros", DType::I32, &[1, 2], i32(2)),
                ("m.scales", DType::F16, &[1, 8], f16(8)),
            ],
            "expected [1, 1]",
        ),
        (
            gptq,
            vec![
                ("m.qweight", DType::I32, &[8, 8], i32(64)),
                ("m.qzeros", DType::I32, &[2, 1], i32(2)),
                ("m.scales", DType::F16, &[2, 8], f16(16)),
            ],
            "need 1 rows of scales, found 2",
        ),
        (
            awq,
            vec![
                ("m.qweight", DType::I32, &[64, 1], i32(64)),
                ("m.qzeros", DType::I32, &[1, 1], i32(1)),
                ("m.scales", DType::F16, &[1, 9], f16(9)),
            ],
            "expected [1, 8]",
        ),
        (
            "",
            vec![
                ("m.weight", DType::F8E4M3, &[200, 4], vec![0; 800]),
                ("m.weight_scale_inv", DType::F32, &[1, 1], i32(1)),
            ],
            "expected [2, 1]",
        ),
        (
            "",
            vec![
                ("m.weight", DType::F8E4M3, &[4, 4], vec![0; 16]),
                ("m.weight_scale", DType::I32, &[1], i32(1)),
            ],
            "expected floats",
        ),
        (
            "",
            vec![
                ("m.weight", DType::I8, &[4, 4], vec![0; 16]),
                ("m.weight_scale", DType::F32, &[3, 1], i32(3)),
            ],
            "expected [4, 1]",
        ),
        (
            "",
            vec![
                ("m.weight_packed", DType::I32, &[4, 4], i32(16)),
                ("m.weight_scale", DType::F32, &[4, 1], i32(4)),
            ],
            "'m.weight_shape' are missing",
        ),
        (
            "",
            vec![
                ("m.weight_packed", DType::I32, &[4, 4], i32(16)),
                ("m.weight_scale", DType::F32, &[4, 1], i32(4)),
                ("m.weight_shape", DType::I64, &[2], vec![0xFF; 16]),
            ],
            "expected its rows and columns",
        ),
        (
            "",
            vec![
                ("x_blocks", DType::U8, &[2, 4, 2, 16], vec![0; 256]),
                ("x_scales", DType::U8, &[2, 4, 3], vec![0; 24]),
            ],
            "expected [2, 4, 2]",
        ),
        (
            r#"{"quantization":{"group_size":64,"bits":4}}"#,
            vec![
                ("m.weight", DType::U32, &[4, 4], i32(16)),
                ("m.scales", DType::F16, &[4, 1], f16(4)),
                ("m.biases", DType::F16, &[4, 1], f16(4)),
            ],
            "fit several widths",
        ),
        (
            "",
            vec![
                ("m.weight", DType::U8, &[8, 1], vec![0; 8]),
                ("m.weight.quant_state.bitsandbytes__nf4", DType::U8, &[2], b"{}".to_vec()),
            ],
            "expected JSON",
        ),
        (
            "",
            vec![
                ("m.weight._data", DType::I8, &[4, 4], vec![0; 16]),
                ("m.weight._scale", DType::F32, &[5, 1], i32(5)),
            ],
            "expected [4, 1]",
        ),
        (
            "{ not json",
            vec![
                ("m.weight", DType::I8, &[4, 4], vec![0; 16]),
                ("m.weight_scale", DType::F32, &[4, 1], i32(4)),
            ],
            "config.json: it is not a JSON object",
        ),
        (
            gptq,
            vec![
                ("m.weight", DType::F16, &[1], f16(1)),
                ("m.qweight", DType::I32, &[8, 8], i32(64)),
                ("m.qzeros", DType::I32, &[1, 1], i32(1)),
                ("m.scales", DType::F16, &[1, 8], f16(8)),
            ],
            "is stored plain",
        ),
    ];
    for (config, tensors, sentence) in cases {
        let with_plain =
            [tensors, vec![("other.weight", DType::F32, &[2, 2], vec![0; 16])]].concat();
        let model = Model::new(config, &with_plain);
        let reason = model.reason();
        assert!(reason.contains(sentence), "{sentence}: {reason}");
        // The checkpoint still opens.
        let checkpoint = model.open();
        let other = checkpoint.find("other.weight").expect("listed");
        assert!(quantizable(&checkpoint, other), "{sentence}");
        assert!(checkpoint.ids().all(|id| id == other || !quantizable(&checkpoint, id)));
    }
}

#[test]
fn a_group_index_out_of_range_is_an_error_when_read() {
    let config = r#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":64}}"#;
    let model = Model::new(
        config,
        &[
            ("m.qweight", DType::I32, &[8, 8], vec![0; 256]),
            ("m.qzeros", DType::I32, &[1, 1], vec![0; 4]),
            ("m.scales", DType::F16, &[1, 8], vec![0; 16]),
            ("m.g_idx", DType::I32, &[64], i32s(&[7; 64])),
        ],
    );
    let checkpoint = model.open();
    let error = checkpoint.reader().elements(TensorId(0), 0..10).expect_err("a lie").to_string();
    assert!(error.contains("the index 7, expected 0 to below 1"), "{error}");
}

/// `dequantize` gives plain names and no trace of quantization, copies sidecar files, and verifies
/// every value.
#[test]
fn dequantized_models_are_plain() {
    for (fixture, _, _) in FIXTURES {
        let source = tempfile::tempdir().expect("temp");
        let fixtures = Path::new("tests/data/formats").join(fixture);
        for name in ["model.safetensors", "config.json"] {
            std::fs::copy(fixtures.join(name), source.path().join(name)).expect("copies");
        }
        std::fs::write(source.path().join("tokenizer.json"), "{}").expect("writes");
        let checkpoint = Checkpoint::open(source.path()).expect(fixture);
        let answer = Checkpoint::open(&fixtures.join("expected.safetensors")).expect(fixture);
        let out = tempfile::tempdir().expect("temp");
        for (name, to) in [("f32", Some(FloatType::F32)), ("original", None)] {
            let out = out.path().join(name);
            let request = Request {
                task: Task::Dequantize { to },
                out: out.clone(),
                force: false,
                copy: Vec::new(),
            };
            let receipt = save::run(&checkpoint, &request, Some(2), &Progress::default(), &|_| {})
                .unwrap_or_else(|e| panic!("{fixture}: {e}"));
            assert_eq!((receipt.dequantized, receipt.sidecar_files), (1, 1), "{fixture}");
            let plain = Checkpoint::open(&out).expect(fixture);
            assert_eq!(plain.all_stored().len(), 1, "{fixture}");
            let config = std::fs::read_to_string(out.join("config.json")).expect("reads");
            assert!(!config.contains("quant") && config.contains("SampleModel"), "{config}");
            assert!(out.join("tokenizer.json").is_file());
            if to.is_some() {
                let id = answer.ids().next().expect("one");
                assert_decodes(&plain, &answer.tensor(id).name, &all(&answer, id));
            }
            verify::run(&plain, &checkpoint, None, &Progress::default()).expect("verifies");
        }
    }
}

/// Packed tensors are copied unchanged while other tensors become int8.
#[test]
fn packed_tensors_are_copied_while_others_are_quantized() {
    let weight: Vec<f32> = scales(50, 64);
    let model = Model::new(
        "",
        &[
            ("m.weight", DType::I8, &[4, 4], codes(51, 16, 8)),
            ("m.weight_scale", DType::F32, &[4, 1], f32s(&[1.0; 4])),
            ("n.weight", DType::F32, &[8, 8], f32s(&weight)),
        ],
    );
    let checkpoint = model.open();
    let out = model.directory.path().join("out.safetensors");
    let id = checkpoint.find("n.weight").expect("there");
    let plan = Plan::uniform([id], QuantizationScheme::PER_CHANNEL, Rounding::HalfEven);
    let task = Task::Quantize { plan, format: OutputFormat::Safetensors };
    let request = Request { task, out: out.clone(), force: false, copy: Vec::new() };
    let receipt =
        save::run(&checkpoint, &request, None, &Progress::default(), &|_| {}).expect("saves");
    assert_eq!((receipt.quantized.len(), receipt.unchanged), (1, 1));
}
