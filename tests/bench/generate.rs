//! Generates checkpoints of any size: `cargo run --release --example generate -- OUT --bytes 2GiB
//! --tensors 300 --dtype bf16 [--shards N] [--sparse]`.
//!
//! Weights are pseudo-random and nearly normal. With `--sparse` the data is a hole in the file, so
//! a terabyte takes no disk space.

use clap::Parser;
use quantscope::checkpoint::formats::safetensors::header_bytes;
use quantscope::tensor::{DType, FloatType, Shape, write_f64};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Parser)]
pub(crate) struct Args {
    /// The .safetensors file to write, or the directory with --shards.
    pub out: PathBuf,
    /// The total size of all tensors: 500, 20KiB, 3MiB, 2GiB, 1TiB.
    #[arg(long, value_parser = bytes, default_value = "64MiB")]
    pub bytes: u64,
    #[arg(long, default_value_t = 300)]
    pub tensors: u64,
    /// f32, bf16 or f16.
    #[arg(long, value_parser = float, default_value = "bf16")]
    pub dtype: FloatType,
    #[arg(long, default_value_t = 1)]
    pub shards: u64,
    #[arg(long)]
    pub sparse: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1u64 << 40,
        other => return Err(format!("unknown unit {other}")),
    };
    digits.parse::<u64>().map(|n| n * unit).map_err(|e| e.to_string())
}

fn float(text: &str) -> Result<FloatType, String> {
    DType::from_name(&text.to_uppercase()).float().ok_or_else(|| format!("unknown type {text}"))
}

/// A seeded xorshift64* generator: fast, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A nearly normal weight: the sum of four uniform 16-bit numbers.
    fn weight(&mut self) -> f32 {
        let bits = self.next();
        let sum: u64 = (0..4).map(|i| bits >> (16 * i) & 0xFFFF).sum();
        (sum as f32 / 65536.0 - 2.0) * 0.035
    }
}

#[allow(dead_code, reason = "the benchmarks make checkpoints too")]
fn main() -> io::Result<()> {
    run(&Args::parse())
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let per_shard = args.tensors.div_ceil(args.shards);
    let mut map = serde_json::Map::new();
    if args.shards > 1 {
        std::fs::create_dir_all(&args.out)?;
    }
    for shard in 0..args.shards {
        let name = format!("model-{:05}-of-{:05}.safetensors", shard + 1, args.shards);
        let path = if args.shards > 1 { args.out.join(&name) } else { args.out.clone() };
        let first = shard * per_shard;
        let tensors: Vec<_> = (first..(first + per_shard).min(args.tensors))
            .map(|n| (tensor_name(n), shape(args)))
            .collect();
        map.extend(tensors.iter().map(|(n, _)| (n.clone(), name.clone().into())));
        write_shard(args, &path, &tensors, args.seed + shard)?;
    }
    if args.shards > 1 {
        let index =
            serde_json::json!({ "metadata": { "total_size": args.bytes }, "weight_map": map });
        std::fs::write(args.out.join("model.safetensors.index.json"), index.to_string())?;
    }
    Ok(())
}

fn tensor_name(n: u64) -> String {
    const KINDS: [&str; 7] = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    format!("model.layers.{}.{}.weight", n / 7, KINDS[(n % 7) as usize])
}

/// The shape of a tensor: rows of 2048 elements, or one row if it has fewer.
fn shape(args: &Args) -> Shape {
    let elements = (args.bytes / args.tensors / args.dtype.size() as u64).max(1);
    let columns = elements.min(2048);
    Shape::new([elements / columns, columns]).unwrap_or_else(|| Shape::vector(1))
}

fn write_shard(args: &Args, path: &Path, tensors: &[(String, Shape)], seed: u64) -> io::Result<()> {
    let dtype = args.dtype.dtype();
    let size = args.dtype.size() as u64;
    let metadata = [("format".to_owned(), "pt".to_owned())];
    let listed = tensors.iter().map(|(n, s)| (n.as_str(), &dtype, s, s.elements() * size));
    let head = header_bytes(&metadata, listed);
    let total: u64 = tensors.iter().map(|(_, s)| s.elements() * size).sum();
    let file = File::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&head)?;
    if args.sparse {
        return out.get_ref().set_len(head.len() as u64 + total);
    }
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut buffer = Vec::with_capacity(8);
    for (_, shape) in tensors {
        for _ in 0..shape.elements() {
            let weight = random.weight();
            buffer.clear();
            write_f64(args.dtype, weight.into(), &mut buffer);
            out.write_all(&buffer)?;
        }
    }
    out.flush()
}
