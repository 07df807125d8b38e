use crate::{assert_same, not_opened, open, quantize, run};
use quantscope::checkpoint::Format;
use quantscope::export::{OutputFormat, Task};
use quantscope::plan::quantizable;
use quantscope::quantization::QuantizationScheme;
use std::path::Path;

const DATA: &str = "tests/data/numpy";

#[test]
fn stored_compressed_and_fortran_arrays_are_the_same() {
    let data = Path::new(DATA);
    for name in ["plain.npz", "packed.npz", "fortran.npz"] {
        let found = open(data.join(name));
        assert_eq!(found.format(), Format::Npz);
        assert_same(&found, &open(data.join("expected.safetensors")));
    }
    let lone = open(data.join("lone.npy"));
    assert_eq!(lone.format(), Format::Npy);
    assert_eq!(lone.tensor(lone.ids().next().expect("one")).name, "lone");
}

/// Ranges of a compressed array can be read in any order.
#[test]
fn a_compressed_array_is_read_in_any_order() {
    let found = open(Path::new(DATA).join("packed.npz"));
    let (id, _) = found.all_stored().find(|(_, s)| s.name == "dense/kernel").expect("is there");
    let whole = crate::bytes(&found, "dense/kernel");
    let mut reader = found.reader();
    for range in [100u64..192, 0..10, 10..20, 150..160, 64..64] {
        let part = &whole[range.start as usize..range.end as usize];
        assert_eq!(reader.stored(id, range).expect("reads"), part);
    }
}

/// All kinds of headers and members give the tensors and values of np.load.
#[test]
fn files_of_every_kind_list_their_tensors() {
    assert!(crate::cases::check(&Path::new(DATA).join("cases")) > 70);
}

/// mlx wrote such files before it supported safetensors.
#[test]
fn quantized_arrays_of_mlx_are_decoded() {
    let found = open(Path::new(DATA).join("mlx"));
    let expected = open("tests/data/packed/mlx-affine-3bit/expected.safetensors");
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(crate::floats(&found, name) == crate::floats(&expected, name));
    assert!(found.ids().all(|id| !quantizable(&found, id)), "{:?}", found.tensors());
}

/// From public bug reports: members with objects, and compressed members in column-major order.
#[test]
fn one_bad_member_does_not_close_the_archive() {
    let found = open(Path::new(DATA).join("reading/object_member.npz"));
    let config = found.find("config").expect("is listed");
    assert!(found.unreadable(config).is_some_and(|why| why.contains("Python objects")));
    assert_eq!(crate::floats(&found, "w").len(), 8 * 32 * 4);
    let found = open(Path::new(DATA).join("reading/fortran_deflated.npz"));
    let (a, transposed) = (crate::floats(&found, "a"), crate::floats(&found, "aT"));
    let element = |bytes: &[u8], index: usize| bytes[index * 4..index * 4 + 4].to_vec();
    for (row, column) in (0..8).flat_map(|row| (0..32).map(move |column| (row, column))) {
        assert_eq!(element(&a, row * 32 + column), element(&transposed, column * 8 + row));
    }
}

#[test]
fn arrays_are_converted_and_quantized_to_safetensors() {
    let directory = tempfile::tempdir().expect("temp");
    for name in ["plain.npz", "packed.npz", "fortran.npz"] {
        let source = open(Path::new(DATA).join(name));
        let path = |kind: &str| directory.path().join(format!("{name}.{kind}.safetensors"));
        let converted = run(&source, &path("floats"), Task::Dequantize { to: None });
        assert_same(&converted.expect("converts").0, &source);
        let scheme = QuantizationScheme::PER_CHANNEL;
        quantize(&source, &path("int8"), scheme, OutputFormat::Safetensors);
    }
}

#[test]
fn damaged_archives_are_refused() {
    let directory = tempfile::tempdir().expect("temp");
    let path = directory.path().join("m.npz");
    let whole = std::fs::read(Path::new(DATA).join("packed.npz")).expect("reads");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("writes");
    assert!(not_opened(&path).contains("not a valid ZIP file"));
    // The directory is intact, but the compressed elements are damaged.
    std::fs::write(&path, &whole).expect("writes");
    let range = open(&path).all_stored().next().expect("one").1.range.clone();
    let mut damaged = whole.clone();
    damaged[range.end as usize - 40..range.end as usize].fill(0xff);
    std::fs::write(&path, &damaged).expect("writes");
    let found = open(&path);
    let (id, stored) = found.all_stored().next().expect("one");
    let error = found.reader().stored(id, 0..stored.bytes()).map(<[u8]>::len);
    let error = error.expect_err("damaged").to_string();
    assert!(error.contains("m.npz, tensor 'dense/kernel': its compressed data"), "{error}");
}
