//! Jobs as processes, each as a ratio to a plain read or write of the same bytes in the same run:
//! `cargo bench --bench jobs [-- --dir DIR --rounds 5 --only WORD]`.
//!
//! Creates checkpoints of up to 6 GB in DIR, one after the other, and removes them. Prints the
//! README's table. If Python with NumPy is on PATH or named by $PYTHON, it also prints how much
//! faster than NumPy a job is. Compare ratios: absolute figures drift. Each file is read from the
//! disk once before it is measured.

#[path = "generate.rs"]
mod generate;
#[path = "process.rs"]
mod process;

use clap::Parser;
use process::{PROGRAM, Run, median, run};
use quantscope::checkpoint::Checkpoint;
use quantscope::checkpoint::formats::safetensors;
use quantscope::job::{Progress, scan};
use quantscope::quantization::{
    AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding,
};
use quantscope::tensor::FloatType;
use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/peer.py");

/// The number of rounds with NumPy, which is slow.
const PEER_ROUNDS: usize = 3;

#[derive(Parser)]
struct Args {
    /// The directory for the checkpoints; by default the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Run only checkpoints whose description contains this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Bench {
    dir: PathBuf,
    rounds: usize,
    only: String,
    python: Option<String>,
}

impl Bench {
    /// Creates a checkpoint for `work`, if its description matches `--only`.
    fn on(
        &self,
        what: &str,
        make: generate::Args,
        work: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        if !what.contains(&self.only) {
            return Ok(());
        }
        println!("\n{what}\n");
        generate::run(&make)?;
        if make.out.is_file() {
            from_the_disk(&make.out)?;
        }
        let done = work(&make.out);
        if make.out.is_dir() {
            fs::remove_dir_all(&make.out)?
        } else {
            fs::remove_file(&make.out)?
        }
        done
    }

    fn args(&self, bytes: u64, tensors: u64, dtype: FloatType) -> generate::Args {
        let out = self.dir.join("quantscope-bench.safetensors");
        generate::Args { out, bytes, tensors, dtype, shards: 1, sparse: false, seed: 1 }
    }

    fn heading(&self) {
        println!("| job | wall | against | ratio | peak memory | NumPy takes |");
        println!("|---|---|---|---|---|---|");
    }

    /// Alternates the reference, the job and, in the first rounds, the peer, and prints their medians.
    fn row(
        &self,
        name: &str,
        yard: &str,
        mut yardstick: impl FnMut() -> io::Result<Run>,
        mut job: impl FnMut() -> io::Result<Run>,
        mut peer: impl FnMut() -> Option<Run>,
    ) -> io::Result<()> {
        let (mut walls, mut yards, mut ratios, mut peak) = (vec![], vec![], vec![], None);
        let mut peers = vec![];
        for round in 0..self.rounds {
            if round < PEER_ROUNDS {
                peers.extend(peer().map(|run| run.wall.as_secs_f64()));
            }
            let by = yardstick()?.wall.as_secs_f64();
            let run = job()?;
            walls.push(run.wall.as_secs_f64());
            yards.push(by);
            ratios.push(run.wall.as_secs_f64() / by);
            peak = peak.max(run.peak);
        }
        let wall = median(walls);
        let peak = peak.map_or("–".into(), |peak| format!("{:.0} MiB", peak as f64 / 1048576.0));
        let times = |peer: f64| format!("{peer:.1} s, {:.1} × as long", peer / wall);
        println!(
            "| {name} | {wall:.3} s | {yard}, {:.3} s | {:.2} × | {peak} | {} |",
            median(yards),
            median(ratios),
            if peers.is_empty() { "–".into() } else { times(median(peers)) },
        );
        Ok(())
    }

    fn peer(&self, report: &str, model: &Path, out: Option<&Path>) -> Option<Run> {
        run(Command::new(self.python.as_ref()?).arg(PEER).arg(report).arg(model).args(out)).ok()
    }

    fn measure(&self, model: &Path, peers: bool) -> io::Result<()> {
        let read = || run(Command::new("dd").arg(of("if=", model)).args(["of=/dev/null", "bs=1M"]));
        for (job, report) in [("calibrate", "range"), ("analyze", "report")] {
            let ours = || run(Command::new(PROGRAM).args([job, "--no-cache"]).arg(model));
            let peer = || peers.then(|| self.peer(report, model, None)).flatten();
            self.row(job, "`dd` reading it", read, ours, peer)?;
        }
        Ok(())
    }

    /// Compares several schemes in one run with `calibrate`, and a further scheme from histograms.
    fn schemes(&self, model: &Path) -> io::Result<()> {
        const ALL: &str = "per-tensor,per-channel,per-block:128,per-block:64,per-block:32";
        let calibrate = || run(Command::new(PROGRAM).args(["calibrate", "--no-cache"]).arg(model));
        for schemes in ["per-tensor", ALL] {
            let analyze = || {
                let command = ["analyze", "--no-cache", "--schemes", schemes];
                run(Command::new(PROGRAM).args(command).arg(model))
            };
            let name = format!("analyze --schemes {schemes}");
            self.row(&name, "`calibrate`", calibrate, analyze, || None)?;
        }
        let checkpoint = Checkpoint::open(model).map_err(io::Error::other)?;
        let by = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
        let int8 = by(QuantizationScheme::PER_TENSOR);
        let spec = AnalysisSpec {
            histogram: true,
            ..AnalysisSpec::errors(vec![int8], Rounding::HalfEven)
        };
        let counted = Mutex::new(Vec::new());
        let order = scan::Order::new(checkpoint.ids().collect());
        scan::run(&checkpoint, &spec, &order, None, &Progress::default(), &|(_, found)| {
            let counted = counted.lock();
            counted.unwrap_or_else(PoisonError::into_inner).extend(found.ok());
        })
        .map_err(io::Error::other)?;
        let counted = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let int4 = by("per-tensor/int4".parse().map_err(io::Error::other)?);
        let times = (0..self.rounds).map(|_| {
            let started = Instant::now();
            for counted in counted.iter().filter_map(|found| found.histogram.as_ref()) {
                black_box(spec.outcome_of(counted, int4));
            }
            started.elapsed().as_secs_f64()
        });
        let time = median(times.collect()) * 1e3;
        println!(
            "\nOne more scheme for all tensors, from what was counted: {time:.1} ms on one core"
        );
        Ok(())
    }

    fn quantize(&self, model: &Path, peers: bool) -> io::Result<()> {
        let out = self.dir.join("quantscope-bench-out.safetensors");
        let copy = self.dir.join("quantscope-bench-copy");
        let save = || {
            let _ = fs::remove_file(&out);
            run(Command::new(PROGRAM).arg("quantize").arg(model).arg("-o").arg(&out))
        };
        save()?;
        let saved = self.dir.join("quantscope-bench-saved");
        fs::rename(&out, &saved)?;
        let write = || {
            let _ = fs::remove_file(&copy);
            let mut dd = Command::new("dd");
            run(dd.arg(of("if=", &saved)).arg(of("of=", &copy)).args(["bs=1M", "conv=fsync"]))
        };
        let peers_out = self.dir.join("quantscope-bench-peer");
        let peer = || {
            let _ = fs::remove_file(&peers_out);
            peers.then(|| self.peer("quantize", model, Some(&peers_out))).flatten()
        };
        let done = self.row("quantize", "`dd conv=fsync` writing OUT", write, save, peer);
        for made in [out, copy, saved, peers_out] {
            let _ = fs::remove_file(made);
        }
        done
    }

    /// Compares parsing the header with the safetensors crate, and measures `inspect`.
    fn inspect(&self, model: &Path) -> io::Result<()> {
        let bytes = fs::read(model)?;
        let crates = || {
            let started = Instant::now();
            black_box(::safetensors::SafeTensors::read_metadata(&bytes))
                .map_err(io::Error::other)?;
            Ok(Run { wall: started.elapsed(), peak: None })
        };
        let ours = || {
            let started = Instant::now();
            let length = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
            let json = bytes.get(8..8 + length as usize).unwrap_or_default();
            black_box(safetensors::parse(model, json, bytes.len() as u64))
                .map_err(io::Error::other)?;
            Ok(Run { wall: started.elapsed(), peak: None })
        };
        self.row(
            "header to index",
            "the safetensors crate's `read_metadata`",
            crates,
            ours,
            || None,
        )?;
        let process = || run(Command::new(PROGRAM).arg("inspect").arg(model));
        self.row("inspect, the process", "the same", crates, process, || None)
    }
}

/// Loads a file into the page cache by reading it from the disk. A file that was just written is
/// cached in smaller pages, which are slower to read.
fn from_the_disk(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    file.sync_all()?;
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    run(Command::new("dd").arg(of("if=", path)).args(["of=/dev/null", "bs=1M"])).map(drop)
}

fn of(key: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(key);
    argument.push(path);
    argument
}

fn main() -> io::Result<()> {
    let Args { dir, rounds, only, .. } = Args::parse();
    let python = std::env::var("PYTHON").unwrap_or("python3".into());
    let has_numpy = run(Command::new(&python).args(["-c", "import numpy"])).is_ok();
    let dir = dir.unwrap_or_else(std::env::temp_dir);
    let bench = Bench { dir, rounds, only, python: has_numpy.then_some(python) };
    const GIB: u64 = 1 << 30;
    let two = |tensors, dtype| bench.args(2 * GIB, tensors, dtype);
    bench.on("2 GiB of BF16 in 300 tensors", two(300, FloatType::BF16), |model| {
        bench.heading();
        bench.measure(model, true)?;
        bench.quantize(model, true)?;
        bench.schemes(model)
    })?;
    for (what, args) in [
        ("2 GiB of BF16 in one tensor", two(1, FloatType::BF16)),
        ("2 GiB of F32 in 300 tensors", two(300, FloatType::F32)),
        ("2 GiB of F16 in 300 tensors", two(300, FloatType::F16)),
        ("20 GiB of zeros in a sparse file", {
            generate::Args { sparse: true, ..bench.args(20 * GIB, 300, FloatType::BF16) }
        }),
    ] {
        bench.on(what, args, |model| {
            bench.heading();
            bench.measure(model, false)?;
            // Zeros take as many bytes on disk as other data.
            if what.contains("zeros") { Ok(()) } else { bench.quantize(model, false) }
        })?;
    }
    bench.on(
        "100,000 tensors of 128 bytes",
        bench.args(12_800_000, 100_000, FloatType::BF16),
        {
            |model| {
                bench.heading();
                bench.inspect(model)?;
                bench.measure(model, false)
            }
        },
    )?;
    let out = bench.dir.join("quantscope-bench-shards");
    let sparse = generate::Args {
        out,
        shards: 200,
        sparse: true,
        ..bench.args(1 << 40, 2000, FloatType::BF16)
    };
    bench.on("1 TiB in 200 shards, a sparse file each", sparse, |model| {
        let index = model.join("model.safetensors.index.json");
        let read =
            || run(Command::new("dd").arg(of("if=", &index)).args(["of=/dev/null", "bs=1M"]));
        bench.heading();
        let inspect = || run(Command::new(PROGRAM).arg("inspect").arg(model));
        bench.row("inspect", "`dd` reading the index", read, inspect, || None)
    })
}
