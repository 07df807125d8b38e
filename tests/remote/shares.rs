//! Shares of several machines that are written to a bucket, and joined there.

use crate::s3::{KEYS, Settings, bucket};
use crate::saving::tree;
use crate::support::checkpoint::{Tensor, weights, write};
use crate::support::data;
use std::fs;

const SCHEME: [&str; 2] = ["--scheme", "per-channel"];

#[test]
fn shares_in_a_bucket_are_joined_to_the_output_of_one_machine() {
    let (server, root) = bucket(false);
    let home = tempfile::tempdir().expect("a home");
    let settings = Settings::new(&server, home.path(), &KEYS);
    let near = data("tiny-llama/sharded");
    for (number, (model, count, options)) in [
        (near.as_str(), 1, &SCHEME[..]),
        (&near, 3, &["--for", "vllm"]),
        // In the same directory of the bucket as the output.
        ("s3://models/a b/sharded", 3, &SCHEME),
        (&near, 9, &SCHEME),
    ]
    .into_iter()
    .enumerate()
    {
        let here = home.path().join(format!("here-{number}"));
        let one = [&["quantize", model, "-o", here.to_str().expect("text")], options].concat();
        settings.run(&one);
        let out = format!("s3://models/a b/out {number}");
        for index in 1..=count {
            let partition = format!("{index}/{count}");
            let words = ["quantize", model, "-o", &out, "--partition", &partition];
            let said = settings.run(&[&words, options].concat());
            assert!(said.contains(&format!("{out}.partial/{index}-of-{count}")), "{said}");
        }
        settings.run(&["join", &out]);
        let there = tree(&root.path().join(format!("a b/out {number}")));
        assert!(there.contains_key("config.json"));
        assert!(tree(&here) == there, "{model} {count}");
        assert!(!root.path().join(format!("a b/out {number}.partial")).exists());
        settings.run(&["verify", &out, "--against", model, "--partition", "1/2"]);
    }
}

#[test]
fn shares_in_a_bucket_are_refused_as_in_a_directory() {
    let (server, root) = bucket(false);
    let home = tempfile::tempdir().expect("a home");
    let settings = Settings::new(&server, home.path(), &KEYS);
    let model = data("tiny-llama/sharded");
    let out = "s3://models/out";
    let words = |partition| ["quantize", &model, "-o", out, "--partition", partition];
    let of = |partition| settings.run(&[&words(partition)[..], &SCHEME].concat());
    assert!(settings.fails(&["join", out]).contains("s3://models/out.partial: does not exist"));
    of("1/2");
    let missing = settings.fails(&["join", out]);
    let command =
        format!("quantize {model} -o s3://models/out --scheme per-channel --partition 2/2");
    assert!(missing.contains("partition 2 of 2 is missing"), "{missing}");
    assert!(missing.contains(&command), "{missing}");
    let other = settings.fails(&words("2/2"));
    assert!(other.contains("was made with other options"), "{other}");
    let other = settings.fails(&[&words("2/3")[..], &SCHEME].concat());
    assert!(other.contains("is one of 2 partitions, and this is one of 3"), "{other}");
    of("2/2");
    assert!(of("2/2").contains("is in s3://models/out.partial/2-of-2 already"));

    // A worker that was killed before it wrote the last object.
    let partial = root.path().join("out.partial");
    fs::remove_file(partial.join("2-of-2.json")).expect("removes");
    assert!(settings.fails(&["join", out]).contains("partition 2 of 2 is missing"));
    of("2/2");

    // A piece that changed is never a part of an output.
    let files = tree(&partial.join("2-of-2/files"));
    let (name, bytes) = files.iter().next().expect("a piece");
    let mut changed = bytes.clone();
    changed[0] ^= 1;
    fs::write(partial.join("2-of-2/files").join(name), changed).expect("writes");
    let damaged = settings.fails(&["join", out]);
    assert!(damaged.contains("are not those that its worker verified"), "{damaged}");
    assert!(!root.path().join("out/config.json").exists());
    assert!(!root.path().join("out/model.safetensors.index.json").exists());
    assert_eq!(server.unfinished(), 0);
    fs::remove_file(partial.join("2-of-2.json")).expect("removes");
    of("2/2");

    // What an interrupted `join` left is written again.
    settings.run(&["join", out]);
    let here = home.path().join("here");
    let one = ["quantize", &model, "-o", here.to_str().expect("text")];
    settings.run(&[&one[..], &SCHEME].concat());
    assert!(tree(&here) == tree(&root.path().join("out")));

    let exists = settings.fails(&[&words("1/2")[..], &SCHEME].concat());
    assert!(exists.contains("exists already, and nothing in a bucket is replaced"), "{exists}");
    fs::write(root.path().join("out/other"), "").expect("writes");
    let holds = settings.fails(&[&words("1/2")[..], &SCHEME].concat());
    assert!(holds.contains("holds 'other', which is not a part of the output"), "{holds}");
}

#[test]
fn large_objects_are_written_in_parts_and_busy_servers_asked_again() {
    let (server, root) = bucket(false);
    let home = tempfile::tempdir().expect("a home");
    let settings = Settings::new(&server, home.path(), &KEYS);
    let model = home.path().join("model.safetensors");
    // Integers are copied. Their 76 MB are more than a part and a piece.
    let bytes = (0..18_500u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().repeat(1024);
    let (name, shape) = ("indices".to_owned(), vec![18_500 * 1024]);
    let indices = Tensor { name, dtype: "I32", shape, bytes };
    write(&model, &[indices, weights("w.weight", &[32, 32])], &[]);
    let model = model.to_str().expect("text");
    let out = "s3://models/large.safetensors";
    for partition in ["1/2", "2/2"] {
        server.refuse_writes(1);
        settings.run(&["quantize", model, "-o", out, "--partition", partition]);
    }
    server.refuse_writes(1);
    settings.run(&["join", out]);
    let here = home.path().join("here.safetensors");
    settings.run(&["quantize", model, "-o", here.to_str().expect("text")]);
    let (here, there) = (fs::read(here), fs::read(root.path().join("large.safetensors")));
    assert!(here.expect("reads") == there.expect("reads"));
    assert!(server.asked().iter().any(|path| path.contains("partNumber=2")));
    assert!(!root.path().join("large.safetensors.partial").exists());
}

#[test]
fn analyses_in_a_bucket_are_joined_to_the_report_of_one_machine() {
    let (server, root) = bucket(false);
    let home = tempfile::tempdir().expect("a home");
    let settings = Settings::new(&server, home.path(), &KEYS);
    let model = data("tiny-llama/sharded");
    for extension in ["csv", "json"] {
        let out = format!("s3://models/report.{extension}");
        for partition in ["1/2", "2/2"] {
            settings.run(&["analyze", &model, "-o", &out, "--partition", partition]);
        }
        let said = settings.run(&["join", &out]);
        assert!(said.contains(&format!("wrote {out}")), "{said}");
        let here = home.path().join(format!("here.{extension}"));
        let here = here.to_str().expect("text");
        settings.run(&["report", &model, "-o", here, "--no-cache"]);
        let there = fs::read(root.path().join(format!("report.{extension}"))).expect("reads");
        assert_eq!(fs::read(here).expect("reads"), there);
        assert!(!root.path().join(format!("report.{extension}.partial")).exists());
        let exists = settings.fails(&["report", &model, "-o", &out]);
        assert!(exists.contains("exists already"), "{exists}");
    }
}
