//! Runs processes for the benchmarks.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_quantscope");

/// One run of a process: wall time, and peak memory if the system reports it.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub wall: Duration,
    pub peak: Option<u64>,
}

pub(crate) fn run(command: &mut Command) -> io::Result<Run> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let (id, has_ended) = (child.id(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Poll rarely on a separate thread, so as not to disturb the process.
        let watcher = scope.spawn(|| {
            let mut most = None;
            while !has_ended.load(Relaxed) {
                most = most.max(peak(id));
                std::thread::park_timeout(Duration::from_millis(3));
            }
            most
        });
        let ended = child.wait();
        let wall = started.elapsed();
        has_ended.store(true, Relaxed);
        watcher.thread().unpark();
        let peak = watcher.join().ok().flatten();
        match ended? {
            status if status.success() => Ok(Run { wall, peak }),
            status => Err(io::Error::other(format!("{command:?}: {status}"))),
        }
    })
}

/// The peak memory of a process so far, if the system reports it.
pub(crate) fn peak(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let held = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    held.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}

pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
