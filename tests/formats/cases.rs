//! Compares files with `NAME.expected.json`, which lists the tensors as the software that owns
//! the format loads them.

use quantscope::checkpoint::{Checkpoint, Role, Stored, StoredId};
use quantscope::tensor::{FloatType, read_f64};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A stored tensor as quantscope reads it.
struct Actual {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    role: Role,
    /// Its elements, or why they cannot be read.
    bytes: Result<Vec<u8>, String>,
}

/// Checks every file and model directory in a directory. Returns their number.
pub(crate) fn check(directory: &Path) -> usize {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .expect("lists")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_none_or(|e| e != "json"))
        .collect();
    files.sort();
    let wrong: Vec<String> = files.iter().flat_map(|file| problems(file)).collect();
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
    files.len()
}

fn expected(file: &Path) -> Value {
    let name = file.file_name().expect("a name").to_string_lossy();
    let stem = file.file_stem().expect("a stem").to_string_lossy();
    let dashed = match name.rsplit_once('.') {
        Some((stem, extension)) => format!("{stem}-{extension}"),
        None => name.to_string(),
    };
    let found = [stem.to_string(), dashed, name.to_string()].into_iter().find_map(|name| {
        std::fs::read_to_string(file.with_file_name(format!("{name}.expected.json"))).ok()
    });
    serde_json::from_str(&found.unwrap_or_else(|| panic!("no rows for {name}"))).expect("JSON")
}

fn problems(file: &Path) -> Vec<String> {
    let expected = expected(file);
    let name = file.file_name().expect("a name").to_string_lossy();
    let opened = Checkpoint::open(file);
    let Value::Array(rows) = &expected else {
        // Such a file may be refused with a sentence that names its format.
        return match opened {
            Ok(_) => Vec::new(),
            Err(error) if error.to_string().len() > 20 => Vec::new(),
            Err(error) => vec![format!("{name}: {error}")],
        };
    };
    let checkpoint = match opened {
        Ok(checkpoint) => checkpoint,
        Err(error) => return vec![format!("{name}: does not open: {error}")],
    };
    let mut reader = checkpoint.reader();
    let read = |(id, stored): (StoredId, &Stored)| Actual {
        name: stored.name.to_string(),
        dtype: stored.dtype.name().to_owned(),
        shape: stored.shape.dims().to_vec(),
        role: stored.role,
        bytes: match stored.unreadable() {
            Some(why) => Err(why.to_owned()),
            None => Ok(reader
                .stored(id, 0..stored.bytes())
                .unwrap_or_else(|e| panic!("{name}: {e}"))
                .to_vec()),
        },
    };
    let mut actual: Vec<Actual> = checkpoint.all_stored().map(read).collect();
    let mut wrong = Vec::new();
    let names: HashSet<&str> = actual.iter().map(|row| row.name.as_str()).collect();
    if names.len() < actual.len() {
        wrong.push(format!("{name}: two tensors have one name"));
    }
    // Rows with a fixed name are matched first.
    let (free, named): (Vec<&Value>, Vec<&Value>) =
        rows.iter().partition(|row| row.get("name_free").is_some());
    for row in named.into_iter().chain(free) {
        let place = actual
            .iter()
            .position(|actual| has_name(row, &actual.name) && difference(row, actual).is_none());
        let Some(place) = place else {
            let nearest = actual.iter().find(|actual| has_name(row, &actual.name));
            let why = match nearest {
                Some(actual) => difference(row, actual).unwrap_or_default(),
                None => {
                    format!("not listed; {:?}", actual.iter().map(|a| &a.name).collect::<Vec<_>>())
                }
            };
            if row.get("optional").is_none() || nearest.is_some() {
                wrong.push(format!("{name}, '{}': {why}", row["name"]));
            }
            continue;
        };
        actual.remove(place);
    }
    for left in actual {
        wrong.push(format!("{name}: the row '{}' is not expected", left.name));
    }
    wrong
}

/// Whether a row accepts this name.
fn has_name(row: &Value, name: &str) -> bool {
    let texts = |key: &str| match &row[key] {
        Value::String(text) => vec![text.clone()],
        Value::Array(all) => all.iter().filter_map(|t| Some(t.as_str()?.to_owned())).collect(),
        _ => Vec::new(),
    };
    if row.get("name_free").is_some() {
        return true;
    }
    let mut names = ["name", "other_names", "state_dict_name"].iter().flat_map(|key| texts(key));
    let clash = row.get("name_clash").is_some();
    names.any(|known| {
        name == known
            || clash && name.strip_prefix(&known).is_some_and(|rest| rest.starts_with(" ("))
    })
}

/// Describes the difference between the expected and the actual row.
fn difference(row: &Value, actual: &Actual) -> Option<String> {
    let undecoded = row["undecoded"].as_str();
    let either_type = undecoded.is_some_and(|why| why.contains("either type"));
    if let Some(dtype) = row["dtype"].as_str()
        && dtype != actual.dtype
        && !either_type
    {
        return Some(format!("its type is {}, expected {dtype}", actual.dtype));
    }
    if let Value::Array(shape) = &row["shape"] {
        let shape: Vec<u64> = shape.iter().filter_map(Value::as_u64).collect();
        if shape != actual.shape {
            return Some(format!("its shape is {:?}, expected {shape:?}", actual.shape));
        }
    }
    let role = match row["role"].as_str() {
        Some("optimizer") => Some(Role::Optimizer),
        Some("other") => Some(Role::Other),
        Some("network") => Some(Role::Network),
        _ => None,
    };
    if role.is_some_and(|role| role != actual.role) {
        return Some(format!("its role is {:?}, expected {role:?}", actual.role));
    }
    let bytes = match (&actual.bytes, undecoded) {
        (Err(_), Some(_)) => return None,
        (Err(why), None) => return Some(format!("it cannot be read: {why}")),
        (Ok(bytes), _) => bytes,
    };
    if either_type {
        return None;
    }
    if let Some(expected) = row["sha256"].as_str() {
        let found = format!("{:x}", Sha256::digest(bytes));
        return (found != expected).then(|| format!("its bytes are {bytes:02x?}"));
    }
    if let Value::Array(expected) = &row["bytes"] {
        let expected: Vec<u8> = expected.iter().filter_map(|n| Some(n.as_u64()? as u8)).collect();
        return (expected != *bytes).then(|| format!("its bytes are {bytes:02x?}"));
    }
    let Value::Array(values) = &row["values"] else {
        return Some("it has values, and none are expected".to_owned());
    };
    let float = match actual.dtype.as_str() {
        "F32" => FloatType::F32,
        "F16" => FloatType::F16,
        "BF16" => FloatType::BF16,
        "I32" => {
            let found = bytes.as_chunks().0.iter().map(|n| i64::from(i32::from_le_bytes(*n)));
            let same = found.eq(values.iter().filter_map(Value::as_i64));
            return (!same).then(|| format!("its bytes are {bytes:02x?}"));
        }
        other => return Some(format!("the test cannot compare values of {other}")),
    };
    let found = (0..).map_while(|index| read_f64(float, bytes, index));
    // These types have at most 32 bits.
    let narrow = |value: f64| value as f32;
    let same = found.map(narrow).eq(values.iter().filter_map(Value::as_f64).map(narrow));
    (!same).then(|| format!("its bytes are {bytes:02x?}"))
}
