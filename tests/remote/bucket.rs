//! A small server that speaks S3's protocol and checks signatures. It computes them itself, from
//! the description of Signature Version 4.

use crate::server::{Ask, send, send_range};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub(crate) const KEY: &str = "AKTEST";
pub(crate) const SECRET: &str = "a/secret+key";
pub(crate) const SESSION: &str = "session/token==";
const REGION: &str = "us-east-1";

/// A server with one bucket, `models`, whose objects are the files of a directory.
pub(crate) struct BucketServer {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    /// Whether objects may be read by anyone.
    is_public: bool,
    /// Whether nobody may list the bucket.
    hides_names: AtomicBool,
    /// What the tags of all objects end with.
    version: Mutex<String>,
    asked: Mutex<Vec<String>>,
    /// The number of requests to write that are still refused with status 503.
    busy: AtomicUsize,
    /// The parts of unfinished objects, by key and number.
    parts: Mutex<BTreeMap<String, BTreeMap<u16, Vec<u8>>>>,
}

impl BucketServer {
    pub(crate) fn start(root: &Path, is_public: bool) -> BucketServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State {
            root: root.to_owned(),
            is_public,
            hides_names: AtomicBool::new(false),
            version: Mutex::new("1".to_owned()),
            asked: Mutex::default(),
            busy: AtomicUsize::new(0),
            parts: Mutex::default(),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // An answer is written in two pieces.
                stream.set_nodelay(true).expect("sets");
                std::thread::spawn(move || {
                    let Ok(mut writer) = stream.try_clone() else { return };
                    let mut reader = BufReader::new(stream);
                    while let Some(ask) = Ask::read(&mut reader) {
                        answer(&state, &ask, &mut writer);
                        state.asked.lock().expect("no panic").push(ask.path);
                    }
                });
            }
        });
        BucketServer { endpoint, state }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().expect("no panic").clone()
    }

    /// Refuses the next requests to write.
    pub(crate) fn refuse_writes(&self, count: usize) {
        self.state.busy.store(count, SeqCst);
    }

    /// The number of objects of which there are parts.
    pub(crate) fn unfinished(&self) -> usize {
        self.state.parts.lock().expect("no panic").len()
    }

    pub(crate) fn hide_names(&self) {
        self.state.hides_names.store(true, SeqCst);
    }

    /// Gives all objects another tag.
    pub(crate) fn change(&self) {
        self.state.version.lock().expect("no panic").push('1');
    }
}

fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5C)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("ASCII");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).expect("text")
}

/// What is wrong with a request's signature.
fn refusal(state: &State, ask: &Ask, path: &str, query: &[(&str, &str)]) -> Option<&'static str> {
    let value = |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let Some(signature) = value("X-Amz-Signature") else {
        return (!state.is_public).then_some("AccessDenied");
    };
    let credential = decoded(value("X-Amz-Credential")?);
    let (key, scope) = credential.split_once('/')?;
    if key != KEY {
        return Some("InvalidAccessKeyId");
    }
    if value("X-Amz-Security-Token").is_some_and(|token| decoded(token) != SESSION) {
        return Some("ExpiredToken");
    }
    let mut signed: Vec<String> = query
        .iter()
        .filter(|(key, _)| *key != "X-Amz-Signature")
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    signed.sort();
    let host = ask.host.as_deref().unwrap_or_default();
    let canonical = format!(
        "{}\n{path}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD",
        ask.method,
        signed.join("&")
    );
    let date = value("X-Amz-Date")?;
    let digest = hex(&Sha256::digest(canonical.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let mut signing_key = format!("AWS4{SECRET}").into_bytes();
    for part in [date.get(..8)?, REGION, "s3", "aws4_request"] {
        signing_key = hmac(&signing_key, part);
    }
    (hex(&hmac(&signing_key, &to_sign)) != signature).then_some("SignatureDoesNotMatch")
}

fn refuse(stream: &mut TcpStream, status: &str, code: &str) -> u64 {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    send(stream, status, &[("Content-Type", "application/xml")], body.as_bytes())
}

fn answer(state: &State, ask: &Ask, stream: &mut TcpStream) -> u64 {
    let (path, query) = ask.path.split_once('?').unwrap_or((&ask.path, ""));
    let query: Vec<(&str, &str)> =
        query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    if let Some(code) = refusal(state, ask, path, &query) {
        return refuse(stream, "403 Forbidden", code);
    }
    let key = decoded(path);
    let Some(key) = key.strip_prefix("/models/") else {
        return refuse(stream, "404 Not Found", "NoSuchBucket");
    };
    if ask.method != "GET" {
        return write(state, ask, key, &query, stream);
    }
    if query.contains(&("list-type", "2")) {
        return list(state, &query, stream);
    }
    let Ok(bytes) = fs::read(state.root.join(key)) else {
        return refuse(stream, "404 Not Found", "NoSuchKey");
    };
    let tag = tag(state, key);
    if ask.if_match.as_ref().is_some_and(|wanted| *wanted != tag) {
        return refuse(stream, "412 Precondition Failed", "PreconditionFailed");
    }
    send_range(stream, ask, &bytes, &[("ETag", &tag)])
}

/// Puts and removes objects, and puts parts together.
fn write(
    state: &State,
    ask: &Ask,
    key: &str,
    query: &[(&str, &str)],
    stream: &mut TcpStream,
) -> u64 {
    if state.busy.fetch_update(SeqCst, SeqCst, |count| count.checked_sub(1)).is_ok() {
        return refuse(stream, "503 Service Unavailable", "SlowDown");
    }
    let value = |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let mut parts = state.parts.lock().expect("no panic");
    let path = state.root.join(key);
    let put = |bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("a directory")).expect("creates");
        fs::write(&path, bytes).expect("writes");
    };
    let xml = "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"";
    let tag = tag(state, key);
    let body = match (ask.method.as_str(), value("uploadId"), value("partNumber")) {
        ("PUT", Some("u1"), Some(number)) => {
            let of_object = parts.get_mut(key).expect("an upload");
            of_object.insert(number.parse().expect("a number"), ask.body.clone());
            String::new()
        }
        ("PUT", None, None) => {
            put(&ask.body);
            String::new()
        }
        ("POST", None, None) if value("uploads").is_some() => {
            parts.insert(key.to_owned(), BTreeMap::new());
            format!(
                "<InitiateMultipartUploadResult {xml}><Bucket>models</Bucket><Key>{key}</Key><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
            )
        }
        ("POST", Some("u1"), None) => {
            let uploaded = parts.remove(key).expect("an upload");
            let named = String::from_utf8_lossy(&ask.body).matches("<PartNumber>").count();
            assert_eq!(named, uploaded.len());
            let sizes: Vec<usize> = uploaded.values().map(Vec::len).collect();
            let (last, others) = sizes.split_last().expect("parts");
            assert!(others.iter().all(|size| *size == others[0] && *size >= 5 << 20), "{sizes:?}");
            assert!(last <= &others[0], "{sizes:?}");
            put(&uploaded.into_values().collect::<Vec<_>>().concat());
            format!(
                "<CompleteMultipartUploadResult {xml}><Location>here</Location><Bucket>models</Bucket><Key>{key}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
                tag.replace('"', "&quot;")
            )
        }
        ("DELETE", Some("u1"), None) => {
            parts.remove(key);
            return send(stream, "204 No Content", &[], b"");
        }
        ("DELETE", None, None) => {
            fs::remove_file(&path).expect("removes");
            // A bucket has no empty directories.
            let parents = path.ancestors().skip(1).take_while(|path| *path != state.root);
            for parent in parents {
                if fs::remove_dir(parent).is_err() {
                    break;
                }
            }
            return send(stream, "204 No Content", &[], b"");
        }
        _ => return refuse(stream, "400 Bad Request", "InvalidRequest"),
    };
    send(stream, "200 OK", &[("ETag", &tag)], body.as_bytes())
}

fn tag(state: &State, key: &str) -> String {
    let version = state.version.lock().expect("no panic");
    format!("\"{}{version}\"", hex(&Sha256::digest(key.as_bytes())[..8]))
}

/// Two names a page, so that pages are met.
fn list(state: &State, query: &[(&str, &str)], stream: &mut TcpStream) -> u64 {
    if state.hides_names.load(SeqCst) {
        return refuse(stream, "403 Forbidden", "AccessDenied");
    }
    let value =
        |name: &str| query.iter().find(|(key, _)| *key == name).map(|(_, value)| decoded(value));
    let prefix = value("prefix").unwrap_or_default();
    let after = value("continuation-token").unwrap_or_default();
    let directory = state.root.join(&prefix);
    let mut names: Vec<(String, bool, u64)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .map(|entry| {
            let entry = entry.expect("an entry");
            let found = fs::metadata(entry.path()).expect("there");
            let name = entry.file_name().into_string().expect("text");
            (name, found.is_dir(), found.len())
        })
        .collect();
    names.sort();
    let page: Vec<_> = names.iter().filter(|(name, ..)| *name > after).take(2).collect();
    let mut body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>models</Name><Prefix>{prefix}</Prefix><KeyCount>{}</KeyCount><MaxKeys>2</MaxKeys><Delimiter>/</Delimiter>",
        page.len()
    );
    let last = page.last().filter(|last| names.last() != Some(*last));
    body += &format!("<IsTruncated>{}</IsTruncated>", last.is_some());
    if let Some((name, ..)) = last {
        body += &format!("<NextContinuationToken>{name}</NextContinuationToken>");
    }
    for (name, is_directory, size) in page {
        body += &if *is_directory {
            format!("<CommonPrefixes><Prefix>{prefix}{name}/</Prefix></CommonPrefixes>")
        } else {
            format!(
                "<Contents><Key>{prefix}{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{}</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                tag(state, &format!("{prefix}{name}")).replace('"', "&quot;")
            )
        };
    }
    body += "</ListBucketResult>";
    send(stream, "200 OK", &[("Content-Type", "application/xml")], body.as_bytes())
}
