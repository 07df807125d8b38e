//! Parsing headers, and `inspect` as a process, for checkpoints with very many tensors:
//! `cargo bench --bench opening [-- --dir DIR --rounds 15]`.
//!
//! Also measures the inspector's first frame on a terminal, including for a model of 2 GiB.
//!
//! The models are 100,000 tensors in one file and in 50 shards, and a sparse terabyte in 200
//! shards. Times are ratios to `read_metadata` of the safetensors crate on the same bytes, and to
//! a parser that discards the same JSON. Compare ratios: absolute figures drift.

#[path = "generate.rs"]
mod generate;
#[path = "process.rs"]
mod process;

use clap::Parser;
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use process::{PROGRAM, median, run};
use quantscope::checkpoint::Checkpoint;
use quantscope::checkpoint::formats::safetensors;
use quantscope::tensor::FloatType;
use serde::de::IgnoredAny;
use std::hint::black_box;
use std::io::{self, Read};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Parser)]
struct Args {
    /// The directory for the checkpoints; by default the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The path, the bytes up to the end of the header, and the file size of every shard.
struct Headers(Vec<(PathBuf, Vec<u8>, u64)>);

impl Headers {
    fn of(model: &Path) -> io::Result<Headers> {
        let mut files: Vec<PathBuf> = if model.is_dir() {
            std::fs::read_dir(model)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?
        } else {
            vec![model.to_owned()]
        };
        files.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
        files.sort();
        let read = files.into_iter().map(|path| {
            let bytes = std::fs::read(&path)?;
            let length = bytes.len() as u64;
            Ok((path, bytes, length))
        });
        read.collect::<io::Result<_>>().map(Headers)
    }

    fn json(bytes: &[u8]) -> &[u8] {
        let length = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        bytes.get(8..8 + length as usize).unwrap_or_default()
    }

    /// Parses the headers with the safetensors crate.
    fn by_the_crate(&self) {
        for (_, bytes, _) in &self.0 {
            black_box(::safetensors::SafeTensors::read_metadata(bytes).expect("valid"));
        }
    }

    /// Parses the JSON and discards it, as a lower bound for every reader.
    fn walked(&self) {
        for (_, bytes, _) in &self.0 {
            let text = std::str::from_utf8(Self::json(bytes)).expect("text");
            black_box(serde_json::from_str::<IgnoredAny>(text).expect("JSON"));
        }
    }

    fn parsed(&self) {
        for (path, bytes, length) in &self.0 {
            black_box(safetensors::parse(path, Self::json(bytes), *length).expect("valid"));
        }
    }
}

/// Runs the works in turn, and returns the median time of each in milliseconds.
fn in_turn<const N: usize>(rounds: usize, mut works: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut took = [(); N].map(|()| Vec::new());
    for _ in 0..rounds {
        for (work, took) in works.iter_mut().zip(&mut took) {
            let started = Instant::now();
            work();
            took.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    took.map(median)
}

fn opening(model: &Path, rounds: usize) -> io::Result<()> {
    let headers = Headers::of(model)?;
    let [theirs, floor, parsed, opened] = in_turn(
        rounds,
        [
            &mut || headers.by_the_crate(),
            &mut || headers.walked(),
            &mut || headers.parsed(),
            &mut || _ = black_box(Checkpoint::open(model).expect("opens")),
        ],
    );
    println!("| work | ms | × read_metadata | × a walk over the JSON |");
    println!("|---|---|---|---|");
    for (what, took) in [
        ("the safetensors crate's `read_metadata`", theirs),
        ("a walk over the JSON", floor),
        ("header to index", parsed),
        ("`Checkpoint::open`, files read", opened),
    ] {
        println!("| {what} | {took:.1} | {:.2} | {:.2} |", took / theirs, took / floor);
    }
    Ok(())
}

fn inspecting(model: &Path, rounds: usize) -> io::Result<()> {
    println!("\n| process | wall, ms | peak memory |");
    println!("|---|---|---|");
    for arguments in [&["inspect"][..], &["inspect", "--json"]] {
        let mut walls = Vec::new();
        let mut peak = None;
        for _ in 0..rounds {
            let run = run(Command::new(PROGRAM).args(arguments).arg(model))?;
            walls.push(run.wall.as_secs_f64() * 1e3);
            peak = peak.max(run.peak);
        }
        let peak = peak.map_or("–".into(), |peak| format!("{:.0} MiB", peak as f64 / 1048576.0));
        println!("| `{}` | {:.0} | {peak} |", arguments.join(" "), median(walls));
    }
    Ok(())
}

const ROWS: NonZero<u16> = NonZero::new(36).expect("more than none");
const COLUMNS: NonZero<u16> = NonZero::new(120).expect("more than none");

/// Starts the inspector on a terminal. Returns the time until the first complete frame, and the
/// memory at that point. The last line of the first frame ends with the key to quit.
fn first_frame(model: &Path) -> Result<(f64, Option<u64>), Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;
    let pty = native_pty_system();
    let pair = pty.openpty(PtySize {
        rows: ROWS.get(),
        cols: COLUMNS.get(),
        pixel_width: 0,
        pixel_height: 0,
    })?;
    let mut command = CommandBuilder::new(PROGRAM);
    command.arg(model);
    command.env("TERM", "xterm-256color");
    for place in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"] {
        command.env(place, home.path());
    }
    let mut reader = pair.master.try_clone_reader()?;
    let started = Instant::now();
    let mut child = pair.slave.spawn_command(command)?;
    let mut screen = vt100::Parser::new(ROWS, COLUMNS, 0);
    let mut buffer = [0; 1 << 16];
    let found = loop {
        let read = reader.read(&mut buffer)?;
        screen.process(buffer.get(..read).unwrap_or_default());
        let lines: Vec<String> = screen.screen().rows(0, COLUMNS.get()).collect();
        if lines.last().is_some_and(|line| line.trim_end().ends_with("quit")) {
            let took = started.elapsed().as_secs_f64() * 1e3;
            break (took, child.process_id().and_then(process::peak));
        }
    };
    child.kill()?;
    child.wait()?;
    Ok(found)
}

fn first_frames(model: &Path, rounds: usize) -> Result<(), Box<dyn std::error::Error>> {
    let frames = (0..rounds).map(|_| first_frame(model)).collect::<Result<Vec<_>, _>>()?;
    let peak = frames.iter().filter_map(|frame| frame.1).max();
    let peak = peak.map_or("–".into(), |peak| format!("{:.0} MiB", peak as f64 / 1048576.0));
    let took = median(frames.into_iter().map(|frame| frame.0).collect());
    println!("| the inspector's first frame | {took:.0} | {peak} by then |");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { dir, rounds, .. } = Args::parse();
    let dir = tempfile::tempdir_in(dir.unwrap_or_else(std::env::temp_dir))?;
    let many = |out, shards| generate::Args {
        out: dir.path().join(out),
        bytes: 12_800_000,
        tensors: 100_000,
        dtype: FloatType::BF16,
        shards,
        sparse: true,
        seed: 1,
    };
    let terabyte = generate::Args { bytes: 1 << 40, tensors: 2000, ..many("terabyte", 200) };
    let large = generate::Args {
        bytes: 2 << 30,
        tensors: 300,
        sparse: false,
        ..many("large.safetensors", 1)
    };
    for (what, args) in [
        ("100,000 tensors in one file", many("one.safetensors", 1)),
        ("100,000 tensors in 50 shards", many("shards", 50)),
    ] {
        println!("\n{what}\n");
        generate::run(&args)?;
        opening(&args.out, rounds)?;
        inspecting(&args.out, rounds)?;
        first_frames(&args.out, rounds)?;
    }
    println!("\n1 TiB in 200 shards, a sparse file each");
    generate::run(&terabyte)?;
    inspecting(&terabyte.out, rounds)?;
    first_frames(&terabyte.out, rounds)?;
    println!("\n2 GiB in 300 tensors");
    generate::run(&large)?;
    inspecting(&large.out, rounds)?;
    first_frames(&large.out, rounds)
}
