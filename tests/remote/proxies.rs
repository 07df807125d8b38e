//! Proxies, as environment variables name them.

use crate::reading::hub;
use crate::support::quantscope;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that passes everything on, and the request lines that it was sent.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = shared.clone();
                std::thread::spawn(move || pass_on(stream, &asked));
            }
        });
        Proxy { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn pass_on(client: TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (mut first, mut head) = (String::new(), String::new());
    reader.read_line(&mut first).ok()?;
    asked.lock().expect("no panic").push(first.trim().to_owned());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let (method, target) = first.split_once(' ')?;
    let target = target.split(' ').next()?;
    let mut client = client;
    let mut server = match method {
        "CONNECT" => {
            let server = TcpStream::connect(target).ok()?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
            server
        }
        _ => {
            let (host, path) = target.strip_prefix("http://")?.split_once('/')?;
            let mut server = TcpStream::connect(host).ok()?;
            let request = format!("{method} /{path} HTTP/1.1\r\nConnection: close\r\n{head}\r\n");
            server.write_all(request.as_bytes()).ok()?;
            server
        }
    };
    let mut back = (server.try_clone().ok()?, client.try_clone().ok()?);
    let answers = std::thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        server.write_all(&buffer[..count]).ok()?;
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
    let _ = answers.join();
    Some(())
}

#[test]
fn requests_go_through_the_proxy_that_the_environment_names() {
    let hub = hub();
    let home = tempfile::tempdir().expect("a directory");
    let inspect = |variables: &[(&str, &str)]| {
        let mut command = hub.quantscope(&["inspect", "hf://org/sharded"], home.path());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.envs(variables.iter().copied()).assert().success();
    };
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let proxy = Proxy::start();
        inspect(&[(name, &proxy.url)]);
        assert!(!proxy.asked().is_empty(), "{name}");
        let proxy = Proxy::start();
        inspect(&[(name, &proxy.url), ("NO_PROXY", "127.0.0.1")]);
        assert_eq!(proxy.asked(), [""; 0], "{name}");
    }
}

#[test]
fn a_proxy_that_refuses_is_an_error_without_its_password() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let hub = hub();
    let mut command = quantscope(&["inspect", "hf://org/model"]);
    command.env("HF_ENDPOINT", &hub.endpoint).env_remove("NO_PROXY").env_remove("no_proxy");
    command.env("HF_HOME", "/nonexistent").env("HTTP_PROXY", format!("http://me:hidden@{address}"));
    let run = command.assert().failure();
    let said = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(said.contains("cannot reach") && !said.contains("hidden"), "{said}");
}
