//! A small server for the Hub's protocol, which can also violate it.

use crate::support::quantscope;
use assert_cmd::Command;
use serde_json::json;
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const TOKEN: &str = "hf_secret_token";
pub(crate) const SIGNATURE: &str = "signature-7f3a";

/// A request that a server received.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub line: String,
    pub authorization: Option<String>,
    pub bytes: u64,
}

/// A Hub and its CDN on two ports of the loopback interface.
pub(crate) struct Hub {
    pub endpoint: String,
    state: Arc<State>,
}

struct State {
    /// The directory with the files of each repository, by name.
    repositories: HashMap<String, PathBuf>,
    cdn: String,
    hub_asked: Mutex<Vec<ReceivedRequest>>,
    cdn_asked: Mutex<Vec<ReceivedRequest>>,
    /// The number of requests per path.
    counts: Mutex<HashMap<String, usize>>,
    /// Bytes that the CDN still sends before it refuses everything.
    allowance: AtomicI64,
    /// Milliseconds that each answer of the CDN takes.
    delay: AtomicU64,
    /// How often the repositories were changed.
    version: AtomicU64,
}

impl State {
    fn commit(&self, repository: &str) -> String {
        let version = self.version.load(SeqCst);
        let add = |sum: u64, b: u8| sum.wrapping_mul(31).wrapping_add(b.into());
        format!("{:040x}", repository.bytes().fold(7, add).wrapping_add(version))
    }
}

/// The commit of a repository that was never changed.
pub(crate) fn commit(repository: &str) -> String {
    let sum = repository.bytes().fold(7u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    format!("{sum:040x}")
}

impl Hub {
    /// Starts both servers. A repository's name determines how it misbehaves: `org/gated`,
    /// `org/private`, `org/limited`, `org/cut`, `org/expiring`, `org/liar` and so on.
    pub(crate) fn start(repositories: &[(&str, &Path)]) -> Hub {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port");
        let cdn = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = |listener: &TcpListener| {
            format!("http://{}", listener.local_addr().expect("an address"))
        };
        let named = |&(name, path): &(&str, &Path)| (name.to_owned(), path.to_owned());
        let state = Arc::new(State {
            repositories: repositories.iter().map(named).collect(),
            cdn: address(&cdn),
            hub_asked: Mutex::default(),
            cdn_asked: Mutex::default(),
            counts: Mutex::default(),
            allowance: AtomicI64::new(i64::MAX),
            delay: AtomicU64::new(0),
            version: AtomicU64::new(0),
        });
        let endpoint = address(&hub);
        serve(hub, state.clone(), answer_hub);
        serve(cdn, state.clone(), answer_cdn);
        Hub { endpoint, state }
    }

    /// A command of the program that finds this hub. `home` is the directory of the Hub's files.
    pub(crate) fn quantscope(&self, args: &[&str], home: &Path) -> Command {
        let mut command = quantscope(args);
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", home);
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE");
        command
    }

    pub(crate) fn hub_asked(&self) -> Vec<ReceivedRequest> {
        self.state.hub_asked.lock().expect("no panic").clone()
    }

    pub(crate) fn cdn_asked(&self) -> Vec<ReceivedRequest> {
        self.state.cdn_asked.lock().expect("no panic").clone()
    }

    /// Bytes that the CDN has sent.
    pub(crate) fn cdn_bytes(&self) -> u64 {
        let sent = self.cdn_asked().into_iter().map(|asked| asked.bytes);
        sent.filter(|&bytes| bytes != CLOSE).sum()
    }

    /// From now on the CDN refuses everything once it has sent this many bytes.
    pub(crate) fn allow(&self, bytes: i64) {
        self.state.allowance.store(bytes, SeqCst);
    }

    /// From now on each answer of the CDN takes this long.
    pub(crate) fn delay(&self, milliseconds: u64) {
        self.state.delay.store(milliseconds, SeqCst);
    }

    /// Gives all repositories another commit.
    pub(crate) fn change(&self) {
        self.state.version.fetch_add(1, SeqCst);
    }

    pub(crate) fn cdn(&self) -> &str {
        &self.state.cdn
    }
}

type Handler = fn(&State, &Ask, &mut TcpStream) -> u64;

fn serve(listener: TcpListener, state: Arc<State>, handler: Handler) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || {
                let Ok(mut writer) = stream.try_clone() else { return };
                let mut reader = BufReader::new(stream);
                while let Some(ask) = Ask::read(&mut reader) {
                    let bytes = handler(&state, &ask, &mut writer);
                    let asked = ReceivedRequest {
                        line: ask.path.clone(),
                        authorization: ask.authorization,
                        bytes,
                    };
                    let is_hub = handler as usize == answer_hub as Handler as usize;
                    let list = if is_hub { &state.hub_asked } else { &state.cdn_asked };
                    list.lock().expect("no panic").push(asked);
                    if bytes == CLOSE {
                        let _ = writer.shutdown(std::net::Shutdown::Both);
                        break;
                    }
                }
            });
        }
    });
}

/// The handler closed the connection on purpose.
const CLOSE: u64 = u64::MAX;

/// A request.
pub(crate) struct Ask {
    pub method: String,
    pub body: Vec<u8>,
    pub path: String,
    pub range: Option<(u64, u64)>,
    pub authorization: Option<String>,
    pub host: Option<String>,
    pub if_match: Option<String>,
}

impl Ask {
    pub(crate) fn read(reader: &mut impl BufRead) -> Option<Ask> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (range, authorization, host, if_match) = (None, None, None, None);
        let body = Vec::new();
        let mut ask = Ask { method, body, path, range, authorization, host, if_match };
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|&n| n > 0)?;
            let header = header.trim();
            if header.is_empty() {
                ask.body.resize(length, 0);
                reader.read_exact(&mut ask.body).ok()?;
                return Some(ask);
            }
            let (name, value) = header.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "host" => ask.host = Some(value.to_owned()),
                "content-length" => length = value.parse().ok()?,
                "if-match" => ask.if_match = Some(value.to_owned()),
                "authorization" => ask.authorization = Some(value.to_owned()),
                "range" => {
                    let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                    ask.range = Some((start.parse().ok()?, last.parse().ok()?));
                }
                _ => {}
            }
        }
    }
}

pub(crate) fn send(
    stream: &mut TcpStream,
    status: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> u64 {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    body.len() as u64
}

fn refuse(stream: &mut TcpStream, status: &str, code: &str) -> u64 {
    send(stream, status, &[("X-Error-Code", code)], b"{\"error\":\"no\"}")
}

fn files(root: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("lists") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path)
            } else {
                let name = path.strip_prefix(root).expect("below").to_string_lossy();
                let size = fs::metadata(&path).expect("there").len();
                found.push((name.replace('\\', "/"), size));
            }
        }
    }
    found.sort();
    found
}

fn count(state: &State, key: &str) -> usize {
    let mut counts = state.counts.lock().expect("no panic");
    let count = counts.entry(key.to_owned()).or_default();
    *count += 1;
    *count
}

/// `/api/models/ORG/NAME/revision/REV?blobs=true` and `/ORG/NAME/resolve/REV/PATH`.
fn answer_hub(state: &State, ask: &Ask, stream: &mut TcpStream) -> u64 {
    let path = ask.path.split('?').next().unwrap_or_default();
    let is_api = path.starts_with("/api/models/");
    let plain = path.trim_start_matches("/api/models").trim_start_matches('/');
    let parts: Vec<&str> = plain.splitn(5, '/').collect();
    let [org, name, _, revision, rest @ ..] = parts.as_slice() else {
        return send(stream, "404 Not Found", &[], b"");
    };
    let repository = format!("{org}/{name}");
    let token = ask.authorization.as_deref().map(|value| value.trim_start_matches("Bearer "));
    if repository == "org/old-name" {
        let to = ask.path.replace("org/old-name", "org/model");
        return send(stream, "307 Temporary Redirect", &[("Location", &to)], b"");
    }
    if token.is_some_and(|token| token != TOKEN) {
        return refuse(stream, "401 Unauthorized", "InvalidToken");
    }
    let root = state.repositories.get(&repository);
    let Some(root) = root.filter(|_| *name != "private" || token == Some(TOKEN)) else {
        let status = if token.is_some() { "404 Not Found" } else { "401 Unauthorized" };
        return refuse(stream, status, "RepoNotFound");
    };
    let commit = state.commit(&repository);
    if !["main", "refs%2Fpr%2F1", commit.as_str()].contains(revision) {
        return refuse(stream, "404 Not Found", "RevisionNotFound");
    }
    if *name == "limited" && count(state, path) == 1 {
        let headers = [("Retry-After", "0")];
        return send(stream, "429 Too Many Requests", &headers, b"");
    }
    if is_api {
        let siblings: Vec<_> = files(root)
            .into_iter()
            .map(|(name, size)| json!({"rfilename": name, "size": size}))
            .collect();
        let body = json!({"sha": commit, "siblings": siblings}).to_string();
        return send(stream, "200 OK", &[], body.as_bytes());
    }
    if *name == "gated" && token != Some(TOKEN) {
        return refuse(stream, "401 Unauthorized", "GatedRepo");
    }
    let file = rest.first().copied().unwrap_or_default();
    let Ok(bytes) = fs::read(root.join(file)) else {
        return refuse(stream, "404 Not Found", "EntryNotFound");
    };
    if !file.ends_with(".safetensors") && !file.ends_with(".gguf") {
        return send_range(stream, ask, &bytes, &[]);
    }
    let location = match *name {
        "circle" => ask.path.clone(),
        "to-file" => "file:///etc/passwd".to_owned(),
        _ => {
            let number = count(state, &format!("{repository}/{file}"));
            format!("{}/{repository}/{number}/{file}?Signature={SIGNATURE}", state.cdn)
        }
    };
    send(stream, "302 Found", &[("Location", &location)], b"Found. Redirecting")
}

pub(crate) fn send_range(
    stream: &mut TcpStream,
    ask: &Ask,
    bytes: &[u8],
    headers: &[(&str, &str)],
) -> u64 {
    let Some((start, last)) = ask.range else { return send(stream, "200 OK", headers, bytes) };
    let size = bytes.len() as u64;
    if start >= size {
        return send(stream, "416 Range Not Satisfiable", &[], b"");
    }
    let last = last.min(size - 1);
    let sent = format!("bytes {start}-{last}/{size}");
    let body = &bytes[start as usize..=last as usize];
    let headers = [headers, &[("Content-Range", sent.as_str())]].concat();
    send(stream, "206 Partial Content", &headers, body)
}

/// `/ORG/NAME/NUMBER/PATH?Signature=…`: NUMBER counts how often the Hub gave the link.
fn answer_cdn(state: &State, ask: &Ask, stream: &mut TcpStream) -> u64 {
    let (path, query) = ask.path.split_once('?').unwrap_or((&ask.path, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').splitn(4, '/').collect();
    let [org, name, number, file] = parts.as_slice() else {
        return send(stream, "404 Not Found", &[], b"");
    };
    let root = state.repositories.get(&format!("{org}/{name}"));
    let bytes = root.and_then(|root| fs::read(root.join(file)).ok());
    let (Some(bytes), true) = (bytes, query == format!("Signature={SIGNATURE}")) else {
        return send(stream, "403 Forbidden", &[], b"<Error/>");
    };
    std::thread::sleep(Duration::from_millis(state.delay.load(SeqCst)));
    if state.allowance.load(SeqCst) <= 0 {
        return send(stream, "403 Forbidden", &[], b"<Error/>");
    }
    let (start, last) = ask.range.unwrap_or((0, bytes.len() as u64 - 1));
    state.allowance.fetch_sub(last.saturating_sub(start) as i64 + 1, SeqCst);
    match *name {
        // A link expires after two requests.
        "expiring" if count(state, &format!("{number} {path}")) > 2 => {
            send(stream, "403 Forbidden", &[], b"<Error><Code>AccessDenied</Code></Error>")
        }
        // Ends every body after 20,000 bytes.
        "cut" => {
            let (start, last) = ask.range.unwrap_or((0, bytes.len() as u64 - 1));
            let last = last.min(bytes.len() as u64 - 1);
            let body = &bytes[start as usize..=last as usize];
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{last}/{}\r\n\r\n",
                body.len(),
                bytes.len()
            );
            let sent = &body[..body.len().min(20_000)];
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
            CLOSE
        }
        "busy" if count(state, path) % 2 == 1 => send(stream, "503 Service Unavailable", &[], b""),
        "down" => send(stream, "503 Service Unavailable", &[], b""),
        "whole" => send(stream, "200 OK", &[], &bytes),
        "shifted" => {
            let headers = [("Content-Range", format!("bytes 1-100/{}", bytes.len()))];
            send(stream, "206 Partial Content", &[("Content-Range", &headers[0].1)], &bytes[..100])
        }
        "other-size" => {
            let sent = format!("bytes 0-99/{}", bytes.len() + 5);
            send(stream, "206 Partial Content", &[("Content-Range", &sent)], &bytes[..100])
        }
        "no-range" => send(stream, "206 Partial Content", &[], &bytes[..100]),
        "endless" => {
            let _ = stream.write_all(b"HTTP/1.1 206 Partial Content\r\n");
            for number in 0..1_000_000 {
                if writeln!(stream, "X-{number}: {}\r", "x".repeat(100)).is_err() {
                    break;
                }
            }
            CLOSE
        }
        "stalled" => {
            std::thread::sleep(Duration::from_secs(3600));
            CLOSE
        }
        _ => send_range(stream, ask, &bytes, &[]),
    }
}
