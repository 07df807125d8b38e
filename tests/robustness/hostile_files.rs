//! Hostile files: each is read correctly or refused with one sentence, quickly and with little
//! memory, and no text from a file reaches the terminal as a control sequence.

use crate::support::checkpoint::{Tensor, f32s, file, header, weights, write};
use crate::support::driver::Driver;
use crate::support::random::Random;
use quantscope::checkpoint::{Checkpoint, ReadError};
use quantscope::plan::{obstacle, recipe};
use quantscope::text::names::visible;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The time limit for one file, also on a slow machine.
const SOON: Duration = Duration::from_secs(20);
/// The memory limit for files of a few kilobytes, in KiB.
const MEMORY: u64 = 512 << 10;

/// Numbers that often cause overflows in readers.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7F,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];
const WORDS: [&str; 14] = [
    "18446744073709551615",
    "-1",
    "1e999",
    "null",
    "[[[[[[",
    "{}",
    "\"\"",
    "../../x",
    "\\u202e",
    "\\u0000",
    "\n",
    "F8_E4M3",
    "I8",
    "__metadata__",
];

/// Makes one change, usually near the beginning or end, where the headers are.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let near = bytes.len().min(1500);
    let at = match random.below(3) {
        0 => random.below(bytes.len()),
        1 => bytes.len() - near + random.below(near),
        _ => random.below(near),
    };
    match random.below(8) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 => bytes.truncate(at),
        3 => {
            let end = (at + random.below(40)).min(bytes.len());
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + random.below(40)).min(bytes.len());
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        5 => {
            let word = WORDS[random.below(WORDS.len())].as_bytes().to_vec();
            let end = (at + word.len()).min(bytes.len());
            bytes.splice(at..end, word);
        }
        6 => {
            let word = WORDS[random.below(WORDS.len())].as_bytes().to_vec();
            bytes.splice(at..at, word);
        }
        _ => {
            let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
            let width = [2, 4, 8][random.below(3)];
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
    }
}

/// Asserts that an error is not empty and has no control characters.
fn assert_sentence(text: &str) {
    assert!(text.len() > 10, "{text:?}");
    assert_harmless(&visible(text));
}

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn assert_harmless(text: &str) {
    let found = text.chars().find(|&c| is_hostile(c));
    assert!(found.is_none(), "{found:?} in {text:?}");
}

/// Reads both ends of every tensor, if the file opened. Returns whether it did.
fn explore(opened: Result<Checkpoint, ReadError>) -> bool {
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert_sentence(&error.to_string());
            return false;
        }
    };
    for (_, stored) in checkpoint.all_stored() {
        let size = checkpoint.shards()[stored.shard as usize].source.size();
        assert!(stored.range.start <= stored.range.end && stored.range.end <= size, "{stored:?}");
    }
    let mut reader = checkpoint.reader();
    for id in checkpoint.ids() {
        let count = checkpoint.tensor(id).parameters();
        let _ = obstacle(&checkpoint, id).map(|why| why.to_string());
        for range in [0..count.min(70), count.saturating_sub(70)..count] {
            let wanted = (range.end - range.start) as usize;
            match reader.elements(id, range) {
                Ok(Some((dtype, bytes))) => assert_eq!(bytes.len(), wanted * dtype.size()),
                Ok(None) => {}
                Err(error) => assert_sentence(&error.to_string()),
            }
        }
    }
    true
}

#[test]
fn randomly_changed_files_are_read_or_refused() {
    let data = Path::new("tests/data");
    let directory = tempfile::tempdir().expect("a directory");
    let mut random = Random(1);
    let (mut opened, mut refused) = (0, 0);
    for (name, times) in [
        ("formats/awq-gemm/model.safetensors", 250),
        ("formats/bnb-nf4/model.safetensors", 250),
        ("formats/ct-int8-channel/model.safetensors", 250),
        ("formats/ct-pack8-channel/model.safetensors", 250),
        ("formats/fp8-block-deepseek/model.safetensors", 250),
        ("formats/fp8-tensor/model.safetensors", 250),
        ("formats/gptq-4bit-actorder/model.safetensors", 250),
        ("formats/mlx-4bit/model.safetensors", 250),
        ("formats/mxfp4-gpt-oss/model.safetensors", 250),
        ("gguf/blocks.gguf", 500),
        ("gguf/synth-a32.gguf", 250),
        ("numpy/packed.npz", 500),
        ("numpy/lone.npy", 250),
        ("pytorch/zip.pt", 500),
        ("pytorch/legacy.pt", 500),
        ("pytorch/wrapped.pt", 250),
    ] {
        let whole = std::fs::read(data.join(name)).expect("reads");
        let path = directory.path().join(Path::new(name).file_name().expect("named"));
        let config = data.join(name).with_file_name("config.json");
        let _ = std::fs::remove_file(directory.path().join("config.json"));
        if config.is_file() {
            std::fs::copy(config, directory.path().join("config.json")).expect("copies");
        }
        let start = Instant::now();
        for _ in 0..times {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            std::fs::write(&path, &bytes).expect("writes");
            if explore(Checkpoint::open(&path)) { opened += 1 } else { refused += 1 }
        }
        assert!(start.elapsed() < 4 * SOON, "{name} took {:?}", start.elapsed());
    }
    // A change in the data opens; a change in a header usually does not.
    assert!(opened > 300 && refused > 300, "{opened} opened, {refused} refused");
}

#[test]
fn randomly_changed_configs_indices_and_recipes_are_read_or_refused() {
    let data = Path::new("tests/data");
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let mut random = Random(2);
    let changed = |whole: &[u8], random: &mut Random| {
        let mut bytes = whole.to_vec();
        (0..=random.below(3)).for_each(|_| mutate(&mut bytes, random));
        bytes
    };
    for fixture in std::fs::read_dir(data.join("formats")).expect("lists") {
        let fixture = fixture.expect("an entry").path();
        if !fixture.join("model.safetensors").is_file() || !fixture.join("config.json").is_file() {
            continue;
        }
        std::fs::copy(fixture.join("model.safetensors"), path("model.safetensors"))
            .expect("copies");
        let config = std::fs::read(fixture.join("config.json")).expect("reads");
        for _ in 0..150 {
            std::fs::write(path("config.json"), changed(&config, &mut random)).expect("writes");
            explore(Checkpoint::open(&path("model.safetensors")));
        }
    }
    let sharded = data.join("tiny-llama/sharded");
    for entry in std::fs::read_dir(&sharded).expect("lists") {
        let from = entry.expect("an entry").path();
        std::fs::copy(&from, path(from.file_name().and_then(|n| n.to_str()).expect("text")))
            .expect("copies");
    }
    let index = std::fs::read(sharded.join("model.safetensors.index.json")).expect("reads");
    let inside = directory.path().canonicalize().expect("is there");
    for _ in 0..600 {
        let index_path = path("model.safetensors.index.json");
        std::fs::write(&index_path, changed(&index, &mut random)).expect("writes");
        let opened = Checkpoint::open(&index_path);
        for shard in opened.iter().flat_map(|checkpoint| checkpoint.shards()) {
            let real = shard.source.path().canonicalize().expect("it opened");
            assert!(real.starts_with(&inside), "{real:?}");
        }
        explore(opened);
    }
    let demo = quantscope::demo::open_model(Path::new("demo:")).expect("is built in");
    let whole = "version = 1\nrounding = \"half-even\"\n\n[[quantize]]\nscheme = \"per-block:32\"\ntensors = [\"classifier.0.weight\", \"classifier.2.weight\"]\n";
    for _ in 0..1500 {
        let text = changed(whole.as_bytes(), &mut random);
        let text = String::from_utf8_lossy(&text);
        if let Err(error) = recipe::from_toml(Path::new("r.toml"), &text, &demo) {
            assert_sentence(&error.to_string());
        }
    }
}

/// Runs the program with a memory limit.
fn run(arguments: &[&str]) -> Output {
    let start = Instant::now();
    let program = env!("CARGO_BIN_EXE_quantscope");
    #[cfg(target_os = "linux")]
    let mut command = {
        let mut command = Command::new("sh");
        let script = format!("ulimit -d {MEMORY}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, program]);
        command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
        command
    };
    #[cfg(not(target_os = "linux"))]
    let mut command = Command::new(program);
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    let output = command.args(arguments).output().expect("runs");
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{arguments:?}: {output:?}");
    assert!(start.elapsed() < SOON, "{arguments:?} took {:?}", start.elapsed());
    for printed in [&output.stdout, &output.stderr] {
        assert_harmless(std::str::from_utf8(printed).expect("text"));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if code == Some(1) {
        let mut sentences = said.lines().filter(|line| !line.starts_with("warning: "));
        let error = sentences.next().unwrap_or_default();
        assert!(error.starts_with("error: "), "{arguments:?}: {said}");
        assert!(sentences.next().is_none(), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    output
}

fn raw(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Files with at most one tensor, each with a different invalid or unusual header.
fn invalid_and_unusual_files() -> Vec<(&'static str, Vec<u8>, bool)> {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let named = |name: &str| {
        let tensor = Tensor { name: name.into(), dtype: "U8", shape: vec![4], bytes: vec![7; 4] };
        file(&header(&[tensor], &[]), &[7; 4])
    };
    let dims = |n: usize, dim: &str| format!("[{}]", vec![dim; n].join(","));
    let mut long = raw(&one("\"U8\"", "[4]", "[0,4]"), 4);
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut beyond = raw(&one("\"U8\"", "[4]", "[0,4]"), 4);
    beyond[..8].copy_from_slice(&100_000_001u64.to_le_bytes());
    let twice = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
    let keys = r#"{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#;
    vec![
        ("empty", Vec::new(), false),
        ("seven bytes", vec![0; 7], false),
        ("no header", 0u64.to_le_bytes().to_vec(), false),
        ("an endless header", long, false),
        ("a header beyond the limit", beyond, false),
        ("no JSON", raw("{ not JSON", 0), false),
        ("not text", raw("{\u{0}\u{1}", 0), false),
        ("an array", raw("[]", 0), false),
        ("no tensors", raw("{}", 0), true),
        ("deep", raw(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), false),
        (
            "deep metadata",
            raw(&format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)), 0),
            false,
        ),
        ("twice", raw(twice, 8), false),
        ("a key twice", raw(keys, 4), false),
        ("ten thousand dimensions", raw(&one("\"U8\"", &dims(10_000, "1"), "[0,1]"), 1), true),
        ("ten thousand large ones", raw(&one("\"U8\"", &dims(10_000, "9"), "[0,1]"), 1), false),
        (
            "zeros and large ones",
            raw(&one("\"F32\"", "[0,18446744073709551615,9]", "[0,0]"), 0),
            true,
        ),
        ("overflow", raw(&one("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0), false),
        ("bytes overflow", raw(&one("\"F64\"", "[4611686018427387904]", "[0,0]"), 0), false),
        ("a fraction", raw(&one("\"U8\"", "[0.5]", "[0,4]"), 4), false),
        ("infinite", raw(&one("\"U8\"", "[1e999]", "[0,4]"), 4), false),
        ("negative", raw(&one("\"U8\"", "[-4]", "[0,4]"), 4), false),
        (
            "offsets overflow",
            raw(&one("\"U8\"", "[4]", "[18446744073709551612,18446744073709551616]"), 4),
            false,
        ),
        (
            "far away",
            raw(&one("\"U8\"", "[4]", "[18446744073709551611,18446744073709551615]"), 4),
            false,
        ),
        ("backwards", raw(&one("\"U8\"", "[4]", "[4,0]"), 4), false),
        ("three offsets", raw(&one("\"U8\"", "[4]", "[0,4,8]"), 4), false),
        (
            "a type of the future",
            raw(&one("\"F2_E1M0\u{1b}[2J\"", "[4]", "[0,4]").replace('\u{1b}', "\\u001b"), 4),
            true,
        ),
        ("a type that is a number", raw(&one("7", "[4]", "[0,4]"), 4), false),
        ("no type", raw(&one("\"\"", "[4]", "[0,4]"), 4), true),
        ("metadata of numbers", raw(r#"{"__metadata__":{"a":1}}"#, 0), false),
        (
            "an unknown key",
            raw(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"\n":1}}"#, 4),
            true,
        ),
        ("no name", named(""), true),
        ("a path for a name", named("../../etc/passwd"), true),
        ("a name that clears", named("a\n\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{8}b"), true),
        ("a name that turns", named("\u{202e}gpj.exe\u{2066}\u{200f}"), true),
        ("a name of C1", named("\u{9b}31mred\u{85}"), true),
        ("a name of 64 kB", named(&"näme.".repeat(11_000)), true),
        ("a name of dots", named(&".".repeat(20_000)), true),
        ("a name with nothing to see", named("\u{200b}\u{feff}\u{ad}\u{0}"), true),
    ]
}

#[test]
fn every_invalid_header_is_one_error_sentence() {
    let directory = tempfile::tempdir().expect("a directory");
    for (what, bytes, opens) in invalid_and_unusual_files() {
        let path = directory.path().join("m.safetensors");
        std::fs::write(&path, &bytes).expect("writes");
        let model = path.to_str().expect("text");
        for command in ["inspect", "analyze"] {
            let output = run(&[command, model]);
            assert_eq!(output.status.success(), opens, "{what}: {output:?}");
        }
        let output = run(&["inspect", model, "--json"]);
        if opens {
            let document: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(document["tensors"].is_array(), "{what}");
        }
    }
}

/// Asserts at two sizes that every window contains only printable characters.
fn assert_screens(driver: &mut Driver) {
    for size in [(120, 36), (60, 15)] {
        driver.resize(size.0, size.1);
        for keys in [
            "g", "t + G", "t", "Tab", "Tab", "m", "G", "Esc", "L", "Esc", "Enter", "Esc", "a", "s",
            "Esc", "d", "Esc", ":", "Esc", "/", "Esc", "p", "Esc", "y",
        ] {
            driver.press(keys);
            let buffer = driver.buffer();
            buffer.content().iter().for_each(|cell| assert_harmless(cell.symbol()));
        }
    }
}

#[test]
fn hostile_files_that_open_can_be_drawn() {
    for (_, bytes, opens) in invalid_and_unusual_files() {
        if opens {
            let checkpoint = Checkpoint::from_memory("odd.safetensors", bytes.leak());
            assert_screens(&mut Driver::of(checkpoint.expect("opens"), false));
        }
    }
}

const CLEARS: &str = "evil\n\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}name\u{9b}31m";

/// Names and texts from a file are escaped in every output.
#[test]
fn no_text_from_files_controls_the_terminal() {
    let directory = tempfile::tempdir().expect("a directory");
    // The directory and the file also have such names.
    let folder = directory.path().join("dir\u{1b}[2J\u{202e}");
    std::fs::create_dir(&folder).expect("creates");
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let nan = f32s(&format!("nan.{CLEARS}"), &[2, 2], [1.0, f32::NAN, 2.0, 3.0]);
    let tensors = [weights(CLEARS, &[8, 16]), weights("plain.weight", &[8, 16]), nan];
    let model = text(&path("model\n\u{1b}]0;x\u{7}.safetensors"));
    write(Path::new(&model), &tensors, &[("format", CLEARS), (CLEARS, "value")]);
    let other = text(&path("other.safetensors"));
    write(Path::new(&other), &tensors[..2], &[]);
    let (out, recipe_file) = (text(&path("out.safetensors")), text(&path("recipe.toml")));
    for arguments in [
        vec!["inspect", &model],
        vec!["calibrate", &model],
        vec!["analyze", &model],
        vec!["analyze", &model, "--json"],
        vec!["analyze", &model, "--include", "plain.weigth"],
        vec!["analyze", &model, "--include", "evil*"],
        vec!["quantize", &model, "-o", &out, "--write-recipe", &recipe_file],
        vec!["verify", &out, "--against", &model],
        vec!["verify", &out, "--against", &other],
        vec!["diff", &model, &other],
        vec!["diff", &out, &model],
        vec!["quantize", &model, "-o", &out, "--recipe", &recipe_file, "--force"],
        vec!["quantize", &other, "-o", &out, "--recipe", &recipe_file, "--force"],
        vec!["quantize", &model, "-o", &text(&path("a")), "--format", "int8"],
        vec!["quantize", &model, "-o", &out, "--include", &format!("nan.{CLEARS}"), "--force"],
        vec!["dequantize", &out, "-o", &text(&path("back.safetensors"))],
        vec!["dequantize", &model, "-o", &text(&path("no.safetensors"))],
        vec!["inspect", &text(&path("no\u{1b}such"))],
        vec!["inspect", &text(&folder)],
    ] {
        run(&arguments);
    }
    let mut driver = Driver::open(&model);
    assert_screens(&mut driver);
    driver.resize(120, 36);
    driver.press("m");
    assert_screens(&mut driver);
}

#[test]
fn an_index_never_leads_out_of_the_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let model = directory.path().join("model");
    std::fs::create_dir_all(model.join("in")).expect("creates");
    let outside = directory.path().join("outside.safetensors");
    write(&outside, &[weights("secret", &[2, 2])], &[]);
    write(&model.join("in/a.safetensors"), &[weights("a", &[2, 2])], &[]);
    let index = model.join("model.safetensors.index.json");
    let open = |shard: &str| {
        let json = serde_json::json!({"metadata": {}, "weight_map": {"secret": shard}});
        std::fs::write(&index, json.to_string()).expect("writes");
        Checkpoint::open(&model)
    };
    let absolute = outside.to_str().expect("text");
    for shard in ["../outside.safetensors", absolute, "in/../../outside.safetensors", "..", "/"] {
        let error = open(shard).expect_err(shard).to_string();
        assert!(error.contains("leads out of the model's directory"), "{shard}: {error}");
    }
    for shard in ["", ".", "in", "a\0b", "no\u{1b}.safetensors", "model.safetensors.index.json"] {
        let error = open(shard).expect_err(shard).to_string();
        assert_sentence(&error);
    }
    let json = r#"{"metadata":{},"weight_map":{"a":"in/a.safetensors"}}"#;
    std::fs::write(&index, json).expect("writes");
    assert_eq!(Checkpoint::open(&model).expect("opens").tensors().len(), 1);
    // A revision in refs that points out of the cache is not followed.
    let cache = directory.path().join("models--o--n");
    std::fs::create_dir_all(cache.join("refs")).expect("creates");
    std::fs::create_dir_all(cache.join("snapshots")).expect("creates");
    for name in ["../../model", "/", ""] {
        std::fs::write(cache.join("refs/main"), name).expect("writes");
        assert_sentence(&Checkpoint::open(&cache).expect_err(name).to_string());
    }
}

/// Sparse files that are far larger than any real file of their kind.
#[test]
#[cfg(unix)]
fn endless_files_beside_a_model_are_not_read_into_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let endless = |name: &str| {
        let file = std::fs::File::create(directory.path().join(name)).expect("creates");
        file.set_len(1 << 40).is_ok()
    };
    let model = directory.path().join("model.safetensors");
    write(&model, &[weights("a.weight", &[4, 8])], &[]);
    if !endless("config.json") || !endless("r.toml") || !endless("endless.index.json") {
        return;
    }
    let model = model.to_str().expect("text").to_owned();
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    run(&["inspect", &model]);
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let out = path("out");
    let recipe = said(run(&["quantize", &model, "-o", &out, "--recipe", &path("r.toml")]));
    assert!(recipe.contains("more than the limit"), "{recipe}");
    let index = said(run(&["inspect", &path("endless.index.json")]));
    assert!(index.contains("more than the limit"), "{index}");
    let int8 = said(run(&["quantize", &model, "-o", &out, "--format", "int8"]));
    assert!(int8.contains("more than the limit"), "{int8}");
    let mut driver = Driver::open(&model);
    driver.press("m G");
    driver.expect("more than the limit");
    let cache = directory.path().join("models--o--n");
    std::fs::create_dir_all(cache.join("refs")).expect("creates");
    let refs = std::fs::File::create(cache.join("refs/main")).expect("creates");
    refs.set_len(1 << 40).expect("as the others");
    run(&["inspect", cache.to_str().expect("text")]);
}
