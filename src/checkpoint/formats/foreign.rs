//! Describes files that are not checkpoints by their first bytes: pointers left by an incomplete
//! download, error pages, archives, and formats of other software.

use crate::checkpoint::error::Result;
use crate::checkpoint::formats::zip::Member;
use crate::checkpoint::io::source::Source;
use serde_json::Value;

/// Bytes read from the start of a file.
const HEAD_BYTES: u64 = 2048;

/// Maximum number of quoted characters of a server's answer.
const MAX_QUOTED: usize = 120;

/// The last bytes of a TensorFlow checkpoint's index (a LevelDB table).
const TENSORFLOW_INDEX: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];

/// Bytes at an offset that identify a format.
struct Signature {
    offset: usize,
    bytes: &'static [u8],
    what: &'static str,
}

const fn at(offset: usize, bytes: &'static [u8], what: &'static str) -> Signature {
    Signature { offset, bytes, what }
}

const UNPACK_GZIP: &str = "gzip-compressed data; unpack it first (gunzip)";
const OLD_GGML: &str =
    "which is older than GGUF; convert it with llama.cpp's convert_llama_ggml_to_gguf.py";

const SIGNATURES: [Signature; 28] = [
    at(0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow weights), which is not read"),
    at(512, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow weights), which is not read"),
    at(4, b"TFL3", "a TensorFlow Lite model, which is not read"),
    at(4, b"ET12", "an ExecuTorch program, which is not read"),
    at(0, b"\x1f\x8b", UNPACK_GZIP),
    at(0, b"\x28\xb5\x2f\xfd", "Zstandard-compressed data; unpack it first (zstd -d)"),
    at(0, b"\xfd7zXZ\0", "xz-compressed data; unpack it first (unxz)"),
    at(0, b"BZh", "bzip2-compressed data; unpack it first (bunzip2)"),
    at(0, b"\x04\x22\x4d\x18", "LZ4-compressed data; unpack it first (lz4 -d)"),
    at(0, b"PK\x05\x06", "an empty ZIP archive"),
    at(0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    at(0, b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    at(257, b"ustar", "a tar archive; unpack it first (tar -xf)"),
    at(0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    at(0, b"\xff\xd8\xff", "a JPEG image"),
    at(0, b"%PDF-", "a PDF document"),
    at(0, b"\x7fELF", "an ELF program"),
    at(0, b"MZ", "a Windows program"),
    at(0, b"SQLite format 3\0", "an SQLite database"),
    at(0, b"PAR1", "a Parquet table"),
    at(0, b"ARROW1", "an Arrow table"),
    at(0, b"lmgg", "a GGML file (unversioned)"),
    at(0, b"fmgg", "a GGMF file"),
    at(0, b"tjgg", "a GGJT file"),
    at(0, b"algg", "a GGLA adapter"),
    at(0, b"ptrt", "a TensorRT engine, which is not read"),
    at(0, b"ftrt", "a TensorRT engine, which is not read"),
    at(0, b"\x12\x01\0\0", "MXNet parameters, which are not read"),
];

/// Describes a file whose format is not supported, and what to do about it. The text completes "it
/// is …". `None` if the first bytes are not recognized.
pub(super) fn describe(source: &Source) -> Result<Option<String>> {
    let mut head = vec![0; source.size().min(HEAD_BYTES) as usize];
    source.read_exact(&source.open()?, &mut head, 0)?;
    if let Some(described) = of(&head, source.size() > HEAD_BYTES) {
        return Ok(Some(described));
    }
    let mut tail = [0; TENSORFLOW_INDEX.len()];
    if let Some(start) = source.size().checked_sub(tail.len() as u64) {
        source.read_exact(&source.open()?, &mut tail, start)?;
    }
    let is_index = tail == TENSORFLOW_INDEX;
    Ok(is_index.then(|| "a TensorFlow checkpoint's index, which is not read".to_owned()))
}

/// Describes a ZIP archive that has neither PyTorch's nor NumPy's members.
pub(super) fn describe_zip(members: &[Member]) -> String {
    let holds = |name: &str| members.iter().any(|member| member.name.ends_with(name));
    let is_model = |member: &&Member| {
        [".safetensors", ".gguf", ".pt", ".pth", ".ckpt", ".bin"]
            .iter()
            .any(|ending| member.name.ends_with(ending))
    };
    match members.iter().find(is_model) {
        _ if members.is_empty() => "an empty ZIP archive".to_owned(),
        _ if holds("model.weights.h5") => "a Keras archive, which is not read".to_owned(),
        Some(model) => {
            format!("a ZIP archive that holds '{}'; unpack it first", model.name.escape_debug())
        }
        None => "a ZIP archive without tensors of PyTorch or NumPy".to_owned(),
    }
}

fn of(head: &[u8], goes_on: bool) -> Option<String> {
    if head.iter().all(|&byte| byte == 0) {
        return Some(
            "a file whose first bytes are all zero; the download did not finish".to_owned(),
        );
    }
    if is_onnx(head) {
        return Some(
            "an ONNX model, which is not read; export the weights as safetensors from the framework that made it".to_owned(),
        );
    }
    if let Some(what) = protobuf(head).or_else(|| message_pack(head)) {
        return Some(what.to_owned());
    }
    if let Some(text) = text(head, goes_on) {
        return Some(of_text(&text));
    }
    let is_here = |signature: &&Signature| {
        head.get(signature.offset..).is_some_and(|rest| rest.starts_with(signature.bytes))
    };
    let signature = SIGNATURES.iter().find(is_here)?;
    let is_ggml =
        head.get(1..4).is_some_and(|rest| rest == b"mgg" || rest == b"jgg" || rest == b"lgg");
    Some(if is_ggml {
        let version = head.get(4..8).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
        let version = version.filter(|version| *version < 100 && !head.starts_with(b"lmgg"));
        let version = version.map(|v| format!(" of version {v}")).unwrap_or_default();
        format!("{}{version}, {OLD_GGML}", signature.what)
    } else {
        signature.what.to_owned()
    })
}

/// Returns whether the bytes start an ONNX `ModelProto`: `ir_version`, then one of the text
/// fields, `graph` or `opset_import`.
fn is_onnx(head: &[u8]) -> bool {
    match head {
        [0x08, version @ 3..=13, tag, length, ..] => match tag {
            // producer_name, producer_version, domain: short text.
            0x12 | 0x1a | 0x22 => {
                let name = head.get(4..4 + usize::from(*length)).unwrap_or_default();
                let is_word = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
                !name.is_empty() && name.iter().all(is_word) && *version > 2
            }
            // graph, opset_import: a message.
            0x3a | 0x42 => true,
            _ => false,
        },
        _ => false,
    }
}

/// Recognizes models that start with a version and a nested message: TensorFlow's `SavedModel` has
/// schema version 1, Core ML's `Model` a specification version of 2 or more.
fn protobuf(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x08, 1, 0x12, _, 0x0a, ..] => Some("a TensorFlow SavedModel, which is not read"),
        [0x08, 2..=20, 0x12, _, 0x0a, ..] => Some("a Core ML model, which is not read"),
        _ => None,
    }
}

/// Recognizes a map of one to fifteen entries whose first key is a short word, as Flax writes
/// weights.
fn message_pack(head: &[u8]) -> Option<&'static str> {
    let [0x81..=0x8f, length @ 0xa1..=0xbf, rest @ ..] = head else { return None };
    let key = rest.get(..usize::from(length & 0x1f))?;
    let is_word = key.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    is_word.then_some("MessagePack data (Flax weights), which is not read")
}

/// Decodes the first bytes as text; `None` if they are binary.
fn text(head: &[u8], goes_on: bool) -> Option<String> {
    let utf16 = |decode: fn([u8; 2]) -> u16| {
        let units = head.get(2..)?.chunks_exact(2).map(|pair| decode([pair[0], pair[1]]));
        Some(char::decode_utf16(units).filter_map(Result::ok).collect::<String>())
    };
    let decoded = match head {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes)?,
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes)?,
        _ => match std::str::from_utf8(head) {
            Ok(text) => text.to_owned(),
            // The last character may be cut off at the end of the head.
            Err(e) if goes_on && e.error_len().is_none() => {
                String::from_utf8_lossy(head.get(..e.valid_up_to())?).into_owned()
            }
            Err(_) => return None,
        },
    };
    let is_control =
        |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}' | '\u{1b}');
    (!decoded.contains(is_control)).then_some(decoded)
}

fn of_text(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').trim();
    let lower: String = text.chars().take(300).collect::<String>().to_lowercase();
    let size = || {
        let line = text.lines().find_map(|line| line.trim().strip_prefix("size "));
        line.and_then(|size| size.trim().parse::<u64>().ok())
    };
    let real_file = |size: Option<u64>| match size {
        Some(size) => format!("; the real file has {size} bytes ({})", decimal(size)),
        None => String::new(),
    };
    if lower.starts_with("version https://git-lfs")
        || lower.starts_with("version http://git-media")
        || (lower.starts_with("version https://hawser"))
    {
        return format!(
            "a Git LFS pointer{}; run `git lfs pull`, or download the file",
            real_file(size())
        );
    }
    if lower.contains("xet version")
        || lower.starts_with("# xet")
        || lower.starts_with("version https://huggingface.co/docs/hub/xet")
    {
        let size = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            let is_size = key.trim() == "filesize";
            is_size.then(|| value.trim().trim_matches('"').parse::<u64>().ok()).flatten()
        });
        return format!("a Xet pointer{}; download the file (`hf download`)", real_file(size));
    }
    if ["<!doctype html", "<html"].iter().any(|tag| lower.contains(tag)) {
        return "an HTML page; a web page answered the download (a login, a licence to accept, or a wrong address)".to_owned();
    }
    if lower.starts_with('<') {
        let message =
            between(text, "<Message>", "</Message>").or_else(|| between(text, "<Code>", "</Code>"));
        let answer = message.map(|m| format!("; the server answered {:?}", shortened(m)));
        return format!("an XML document{}", answer.unwrap_or_default());
    }
    if lower.starts_with('{') || lower.starts_with('[') {
        let json: Option<Value> = serde_json::from_str(text).ok();
        let message = json.as_ref().and_then(|json| {
            let inner = ["error", "message", "detail"].iter().find_map(|key| json.get(key))?;
            inner.as_str().or_else(|| inner.get("message")?.as_str())
        });
        let answer = message.map(|m| format!("; the server answered {:?}", shortened(m)));
        return format!("a JSON document{}", answer.unwrap_or_default());
    }
    let first = text.lines().next().unwrap_or_default();
    format!("text, not a model: {:?}", shortened(first))
}

/// Formats a size in decimal units: `4.94 GB`.
fn decimal(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{} …", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
