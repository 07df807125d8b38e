//! The cache of analyses: outdated, damaged or forged entries are measured again.

use crate::support::checkpoint::{bytes, weights};
use quantscope::checkpoint::Checkpoint;
use quantscope::job::JobEvent;
use quantscope::job::cache::Cache;
use quantscope::job::scan::{self, Finding, Order};
use quantscope::quantization::{
    Analysis, AnalysisSpec, Calibration, QuantizationScheme, Quantizer, Rounding,
};
use quantscope::tensor::TensorId;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A checkpoint on disk with an old modification time, and an empty cache.
struct CachedModel {
    dir: TempDir,
    model: PathBuf,
}

impl CachedModel {
    fn new() -> CachedModel {
        let dir = tempfile::tempdir().expect("a directory");
        let model = dir.path().join("model.safetensors");
        let cached = CachedModel { dir, model };
        cached.write(1.0, 1_000_000);
        cached
    }

    /// Writes the model with its weights times `factor`, and sets the modification time in seconds
    /// since 1970.
    fn write(&self, factor: f32, seconds: u64) {
        let mut tensors = [weights("a", &[40, 64]), weights("b", &[300]), weights("c", &[8, 8, 9])];
        for raw in tensors.iter_mut().flat_map(|t| t.bytes.as_chunks_mut::<4>().0) {
            *raw = (f32::from_le_bytes(*raw) * factor).to_le_bytes();
        }
        fs::write(&self.model, bytes(&tensors)).expect("writes");
        self.touch(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    }

    fn touch(&self, when: SystemTime) {
        let file = File::options().append(true).open(&self.model).expect("opens");
        file.set_modified(when).expect("sets the time");
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// The results of a scan with the cache.
    fn found(&self, spec: &AnalysisSpec) -> Vec<Analysis> {
        scanned(&self.model, spec, Some(Cache::at(self.cache())))
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    fn only_kept(&self) -> PathBuf {
        let kept = self.kept();
        assert_eq!(kept.len(), 1, "{kept:?}");
        kept[0].clone()
    }
}

fn scanned(model: &Path, spec: &AnalysisSpec, cache: Option<Cache>) -> Vec<Analysis> {
    let checkpoint = Arc::new(Checkpoint::open(model).expect("opens"));
    let order = Arc::new(Order::new(checkpoint.ids().collect()));
    let mut job = scan::start(checkpoint, spec.clone(), order, Some(2), cache).expect("starts");
    let mut found: Vec<(TensorId, Analysis)> = Vec::new();
    loop {
        match job.wait(Duration::from_secs(60)) {
            JobEvent::Finding((id, result)) => found.push((id, result.expect("reads"))),
            JobEvent::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    found.sort_by_key(|(id, _): &(TensorId, Analysis)| *id);
    assert!(found.iter().map(|(id, _)| id.0).eq(0..3), "each tensor once");
    found.into_iter().map(|(_, analysis)| analysis).collect()
}

fn spec() -> AnalysisSpec {
    let schemes = [QuantizationScheme::PER_TENSOR, QuantizationScheme::per_block(32)];
    let quantizer = |scheme| Quantizer { calibration: Calibration::MinMax, scheme };
    AnalysisSpec {
        histogram: true,
        ..AnalysisSpec::errors(schemes.map(quantizer).to_vec(), Rounding::HalfEven)
    }
}

/// Tensors without learned scales are calibrated by min-max.
#[test]
fn effective_quantizers_are_restored_from_the_cache() {
    let cached = CachedModel::new();
    let mut learned = spec();
    learned.quantizers.iter_mut().for_each(|q| q.calibration = Calibration::Learned);
    let first = cached.found(&learned);
    assert_eq!(first, scanned(&cached.model, &learned, None));
    assert_eq!(cached.found(&learned), first);
    let outcomes = first.iter().flat_map(|analysis| &analysis.outcomes);
    assert!(outcomes.clone().all(|o| o.quantizer.calibration == Calibration::MinMax));
}

#[test]
fn a_second_scan_reads_only_the_cache() {
    let cached = CachedModel::new();
    let first = cached.found(&spec());
    assert_eq!(first, scanned(&cached.model, &spec(), None));
    // Other values with the same size and time are not noticed.
    cached.write(2.0, 1_000_000);
    assert_eq!(cached.found(&spec()), first);
    let other = scanned(&cached.model, &spec(), None);
    assert_ne!(other, first);
    // Another spec has an entry of its own.
    let clipped = AnalysisSpec { rounding: Rounding::HalfAway, ..spec() };
    assert_eq!(cached.found(&clipped), scanned(&cached.model, &clipped, None));
    // A change is noticed, and the entry of the old file is replaced.
    cached.write(2.0, 1_000_001);
    assert_eq!(cached.found(&spec()), other);
    assert_eq!(cached.kept().len(), 2);
    assert_eq!(cached.found(&spec()), other);
}

#[test]
fn recently_modified_files_are_not_cached() {
    let cached = CachedModel::new();
    cached.touch(SystemTime::now() + Duration::from_secs(3600));
    cached.found(&spec());
    // Results with one scale per block are not cached either.
    let cached = CachedModel::new();
    cached.found(&AnalysisSpec { keep_scales: true, ..spec() });
    assert_eq!(cached.kept(), Vec::<PathBuf>::new());
}

#[test]
fn a_partial_scan_is_continued() {
    let cached = CachedModel::new();
    let checkpoint = Arc::new(Checkpoint::open(&cached.model).expect("opens"));
    let order = Arc::new(Order::new(vec![TensorId(1)]));
    let cache = Some(Cache::at(cached.cache()));
    let mut job = scan::start(checkpoint, spec(), order, Some(1), cache).expect("starts");
    let is_found =
        |news: JobEvent<Finding>| matches!(news, JobEvent::Finding((TensorId(1), Ok(_))));
    assert!(is_found(job.wait(Duration::from_secs(60))));
    assert!(matches!(job.wait(Duration::from_secs(60)), JobEvent::Ended));
    let before = fs::read(cached.only_kept()).expect("reads");
    let found = cached.found(&spec());
    assert_eq!(found, scanned(&cached.model, &spec(), None));
    let after = fs::read(cached.only_kept()).expect("reads");
    assert!(after.starts_with(&before) && after.len() > before.len());
}

#[test]
fn a_damaged_cache_is_measured_again() {
    let cached = CachedModel::new();
    let expected = cached.found(&spec());
    let path = cached.only_kept();
    let sound = fs::read(&path).expect("reads");
    // Positions all over the file, each with every kind of damage.
    let places = (0..sound.len()).step_by(sound.len() / 60 + 1);
    for at in places.chain([sound.len() - 1]) {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x41;
        let cut = sound[..at].to_vec();
        let huge = [&sound[..at], &[0xFF; 12], &sound[at..]].concat();
        for damaged in [flipped, cut, huge] {
            fs::write(&path, &damaged).expect("writes");
            assert_eq!(cached.found(&spec()), expected, "at {at}");
            // The next scan has repaired the file.
            assert_eq!(fs::read(cached.only_kept()).expect("reads").len(), sound.len(), "at {at}");
        }
    }
}

#[test]
fn other_files_in_the_cache_directory_are_kept_or_replaced() {
    let cached = CachedModel::new();
    let expected = cached.found(&spec());
    let path = cached.only_kept();
    // A sparse file of a terabyte, if the file system supports that.
    let file = File::options().write(true).open(&path).expect("opens");
    if file.set_len(1 << 40).is_ok() {
        assert_eq!(cached.found(&spec()), expected);
    }
    fs::remove_file(&path).expect("removes");
    fs::create_dir(&path).expect("makes");
    assert_eq!(cached.found(&spec()), expected);
    fs::remove_dir_all(cached.cache()).expect("removes");
    fs::write(cached.cache(), "no directory").expect("writes");
    assert_eq!(cached.found(&spec()), expected);
}

#[test]
fn commands_share_the_cache() {
    let cached = CachedModel::new();
    let analyze = |more: &[&str]| {
        let model = cached.model.to_str().expect("text");
        let mut command =
            crate::support::quantscope(&[&["analyze", model, "--json"], more].concat());
        let ended = command.env("XDG_CACHE_HOME", cached.dir.path()).assert().success();
        String::from_utf8(ended.get_output().stdout.clone()).expect("text")
    };
    let kept = || fs::read_dir(cached.dir.path().join("quantscope")).map(Iterator::count);
    let plain = analyze(&["--no-cache"]);
    assert!(kept().is_err(), "nothing is kept");
    assert_eq!(analyze(&[]), plain);
    assert_eq!(kept().expect("is there"), 1);
    // Other weights with the same size and time.
    cached.write(2.0, 1_000_000);
    assert_eq!(analyze(&[]), plain);
    assert_ne!(analyze(&["--no-cache"]), plain);
}
