//! SIGKILL at any moment of a save: OUT is the old output or the complete new one, and the next
//! save resumes or removes the unfinished output.
//!
//! `QUANTSCOPE_KILLS=500 cargo test --release --test robustness kills` kills 500 of them.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOURCE: &str = "tests/data/tiny-llama/sharded";

fn quantize(out: &Path, scheme: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quantscope"));
    command.args(["quantize", SOURCE, "--force", "--quiet", "--threads", "2"]);
    command.args(["--scheme", scheme, "-o"]).arg(out);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return vec![(path.to_owned(), std::fs::read(path).expect("reads"))];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let mut found: Vec<_> =
        entries.flat_map(|entry| contents(&entry.expect("an entry").path())).collect();
    found.sort();
    found
}

/// A seeded pseudo-random generator.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_killed_save_leaves_the_old_output_or_the_new_one() {
    let kills: u32 =
        std::env::var("QUANTSCOPE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = 0x9E37_79B9_7F4A_7C15;
    let (mut died, mut replaced, mut left) = (0, 0, 0);
    for (share, out) in [("out", 2), ("out.safetensors", 2)].map(|(out, n)| (kills / n, out)) {
        let out = directory.path().join(out);
        let saved = |scheme| {
            assert!(quantize(&out, scheme).status().expect("runs").success());
            contents(&out)
        };
        let a = saved("per-tensor");
        let started = Instant::now();
        let b = saved("per-channel");
        let whole = started.elapsed();
        let mut old_is_a = false;
        for _ in 0..share {
            let (old, new, scheme) =
                if old_is_a { (&a, &b, "per-channel") } else { (&b, &a, "per-tensor") };
            let mut child = quantize(&out, scheme).spawn().expect("starts");
            let thousandths = next(&mut random) % 1100;
            std::thread::sleep(whole.mul_f64(thousandths as f64 / 1000.0));
            child.kill().expect("is killed, or has ended");
            let status = child.wait().expect("ends");
            died += u32::from(!status.success());
            let found = contents(&out);
            assert!(found == *old || found == *new, "neither the old nor the new");
            assert!(!status.success() || found == *new, "it printed done");
            replaced += u32::from(found == *new);
            let names = std::fs::read_dir(directory.path()).expect("lists");
            let names = names.map(|e| e.expect("an entry").file_name().into_string());
            let leftovers: Vec<String> =
                names.map(|n| n.expect("text")).filter(|n| !n.starts_with("out")).collect();
            assert!(leftovers.iter().all(|n| n.ends_with(".quantscope-tmp")), "{leftovers:?}");
            left += u32::from(!leftovers.is_empty());
            old_is_a = found == a;
        }
        std::thread::sleep(Duration::from_millis(1));
        saved("per-tensor");
        let names = std::fs::read_dir(directory.path()).expect("lists");
        assert!(
            names
                .into_iter()
                .all(|e| { e.expect("an entry").file_name().to_string_lossy().starts_with("out") })
        );
    }
    println!("{died} killed in time, {replaced} had replaced OUT, {left} left something behind");
    assert!(died > kills / 4, "hardly any was killed in time: {died}");
}

/// A killed save resumes when it is started again, and gives the same bytes.
#[test]
fn a_killed_save_is_continued_by_the_same_command() {
    let kills: u32 =
        std::env::var("QUANTSCOPE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = 0x2545_F491_4F6C_DD1D;
    let (mut killed, mut resumed) = (0, 0);
    for (share, name) in [("out", 2), ("out.safetensors", 2)].map(|(out, n)| (kills / n, out)) {
        let out = directory.path().join(name);
        let save = || {
            let mut command = quantize(&out, "per-channel");
            let output = command.arg("--json").stdout(Stdio::piped()).output().expect("runs");
            assert!(output.status.success());
            String::from_utf8(output.stdout).expect("text").contains("bytes_resumed")
        };
        let started = Instant::now();
        save();
        let (whole, expected) = (started.elapsed(), contents(&out));
        let mut left = share;
        while left > 0 {
            let existed = out.symlink_metadata().is_ok();
            if out.is_dir() {
                std::fs::remove_dir_all(&out).expect("removes");
            } else if existed {
                std::fs::remove_file(&out).expect("removes");
            }
            // Up to three kills in a row, then a save that runs to its end.
            for _ in 0..3.min(left) {
                let mut child = quantize(&out, "per-channel").spawn().expect("starts");
                let thousandths = next(&mut random) % 1000;
                std::thread::sleep(whole.mul_f64(thousandths as f64 / 1000.0));
                child.kill().expect("is killed, or has ended");
                killed += u32::from(!child.wait().expect("ends").success());
                left -= 1;
            }
            resumed += u32::from(save());
            assert!(contents(&out) == expected, "other bytes after {killed} kills");
        }
        let names = std::fs::read_dir(directory.path()).expect("lists");
        let names = names.map(|e| e.expect("an entry").file_name().into_string());
        assert!(names.map(|n| n.expect("text")).all(|name| name.starts_with("out")));
    }
    println!("{killed} killed in time, {resumed} saves resumed");
    assert!(resumed > 0, "none resumed after {killed} kills");
}
