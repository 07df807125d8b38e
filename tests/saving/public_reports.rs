//! Saving small files that reproduce public bug reports.

use crate::support::checkpoint::{Tensor, weights, write};
use crate::support::{data, failure, json};
use serde_json::Value;
use std::path::Path;
use tempfile::tempdir;

fn report(name: &str) -> String {
    data(&format!("reports/{name}"))
}

fn quantized(receipt: &Value) -> Vec<&str> {
    let all = receipt["quantized"].as_array().expect("a list");
    all.iter().map(|tensor| tensor["name"].as_str().expect("text")).collect()
}

/// A name that exists is that tensor, also if it looks like a pattern that another one matches.
#[test]
fn the_whole_name_of_a_tensor_takes_that_tensor() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("q.safetensors");
    let out = out.to_str().expect("text");
    let model = report("glob-takes-another-tensor/m.safetensors");
    let receipt = json(&["quantize", &model, "-o", out, "--include", "conv[0].weight"]);
    assert_eq!(quantized(&receipt), ["conv[0].weight"]);
}

/// The keys that Python wrote as `Infinity` are kept, and the outputs can be read again.
#[test]
fn a_config_with_infinity_is_saved_as_it_is() {
    let directory = tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let model = report("config-infinity/bf16");
    for format in ["safetensors", "compressed-tensors"] {
        let (out, plain) = (path(format), path(&format!("{format}-plain")));
        let receipt = json(&["quantize", &model, "-o", &out, "--format", format]);
        assert_eq!(quantized(&receipt).len(), 1, "{format}");
        json(&["dequantize", &out, "-o", &plain]);
        for saved in [&out, &plain] {
            let config = Path::new(saved).join("config.json");
            let text = std::fs::read_to_string(config).expect("is there");
            assert!(text.contains("Infinity"), "{saved}: {text}");
        }
    }
}

/// Lookup tables of RWKV, Bark, SAM and others, whose names do not contain `embedding`.
#[test]
fn tables_with_other_names_are_not_linear_layers() {
    let directory = tempdir().expect("a directory");
    let model = directory.path().join("m");
    std::fs::create_dir(&model).expect("creates");
    let tables = [
        "emb.weight",
        "semantic.input_embeds_layer.weight",
        "tok_emb.weight",
        "mask_decoder.mask_tokens.weight",
    ];
    let all = tables.iter().chain(&["l.fc.weight"]).map(|name| weights(name, &[32, 64]));
    write(&model.join("model.safetensors"), &all.collect::<Vec<Tensor>>(), &[]);
    std::fs::write(model.join("config.json"), "{}").expect("writes");
    let out = directory.path().join("out");
    let (model, out) = (model.to_str().expect("text"), out.to_str().expect("text"));
    let receipt = json(&["quantize", model, "-o", out, "--scheme", "W8A8"]);
    assert_eq!(quantized(&receipt), ["l.fc.weight"]);
}

/// Errors are those with scales as they are stored: F16 scales of tiny weights are subnormal.
#[test]
fn a_limit_is_kept_with_the_scales_that_are_written() {
    let directory = tempdir().expect("a directory");
    let out = directory.path().join("out");
    let out = out.to_str().expect("text");
    let model = report("min-sqnr-f16-scale");
    let save = ["quantize", &model, "-o", out, "--scheme", "W8A8", "--min-sqnr"];
    let (_, sentence) = failure(&[&save[..], &["40"]].concat());
    assert!(sentence.contains("no scheme keeps 40 dB"), "{sentence}");
    let receipt = json(&[&save[..], &["30"]].concat());
    assert_eq!(quantized(&receipt).len(), 1);
    let written = receipt["quantized"][0]["sqnr_db"].as_f64().expect("a figure");
    assert!((30.0..40.0).contains(&written), "{receipt}");
}

/// Neither the layers of a time embedding nor a class token, nor the state matrix of Mamba, are
/// tables, whatever their names contain.
#[test]
fn roles_are_not_guessed_from_a_word_in_the_name() {
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("m.safetensors");
    let tensors = [
        weights("time_embed.0.weight", &[32, 16]),
        weights("class_embed.weight", &[8, 16]),
        weights("class_embed.bias", &[8]),
        weights("embeddings.patch_embedding.weight", &[8, 3, 4, 4]),
        weights("embeddings.cls_token", &[1, 1, 16]),
        weights("mixer.A_log", &[32, 16]),
        weights("query_embed.weight", &[8, 16]),
        weights("text_embeddings.word_embeddings.weight", &[8, 16]),
    ];
    write(&path, &tensors, &[]);
    let found = json(&["inspect", path.to_str().expect("text")]);
    let rows = found["tensors"].as_array().expect("a list");
    let reason = |name: &str| {
        let row = rows.iter().find(|row| row["name"] == name).expect("listed");
        row["reason"].as_str().unwrap_or_default().to_owned()
    };
    for tensor in &tensors {
        let expected = match tensor.name.as_str() {
            "class_embed.bias" => "it has fewer than two dimensions",
            "query_embed.weight" => "it is an embedding",
            name if name.ends_with("word_embeddings.weight") => "it is an embedding",
            _ => "",
        };
        assert_eq!(reason(&tensor.name), expected, "{}", tensor.name);
    }
    let roles = found["summary"]["roles"].as_array().expect("a list");
    let count = |role: &str| {
        let of = roles.iter().find(|row| row["role"] == role).map(|row| &row["tensors"]);
        of.and_then(Value::as_u64).unwrap_or(0)
    };
    assert_eq!((count("embedding"), count("convolution"), count("other")), (2, 1, 4));
}
