//! The Hub's endpoints that a fetch uses, for one repository.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use ids::Sha256Digest;

/// What every revision is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const PREFIX: &str = "/org/repo/resolve/";
const TREE: &str = "/api/models/org/repo/tree/";

/// When an answer's connection is closed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    Never,
    /// After so many bytes of each answer.
    After(usize),
    /// After so many bytes of one answer, and of all others at once.
    Once(usize),
    /// Never, but every answer is the whole file.
    NoRanges,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) revision: Option<String>,
    pub(crate) range_start: Option<u64>,
    pub(crate) token: Option<String>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    spoilt: Option<String>,
    refuses: bool,
    hostile: bool,
    cut: Cut,
    requests: Vec<Request>,
    sent: usize,
    stopped: bool,
    /// The status of every answer, if all is not well.
    away: Option<&'static str>,
    /// How many more requests are answered.
    answers_left: usize,
}

pub(crate) struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            spoilt: None,
            refuses: false,
            hostile: false,
            cut: Cut::Never,
            requests: Vec::new(),
            sent: 0,
            stopped: false,
            away: None,
            answers_left: usize::MAX,
        }));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stopped {
                    return;
                }
                // a client that goes away is its own matter
                let _ = answer(stream.unwrap(), &shared);
            }
        });
        Self {
            port,
            state,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn put(&self, file: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.files.insert(file.to_owned(), bytes.to_vec());
    }

    pub(crate) fn cut(&self, cut: Cut) {
        self.state.lock().unwrap().cut = cut;
    }

    /// Sends other bytes than the file's digest is of.
    pub(crate) fn spoil(&self, file: &str) {
        self.state.lock().unwrap().spoilt = Some(file.to_owned());
    }

    /// Answers 401 from now on.
    pub(crate) fn refuse(&self) {
        self.state.lock().unwrap().refuses = true;
    }

    /// Answers with a digest that would lead out of the cache.
    pub(crate) fn hostile_digest(&self) {
        let mut state = self.state.lock().unwrap();
        (state.refuses, state.hostile) = (false, true);
    }

    /// Answers this to everything from now on.
    pub(crate) fn away(&self, status: &'static str) {
        self.state.lock().unwrap().away = Some(status);
    }

    /// Answers so many more requests, and hangs up on all others.
    pub(crate) fn leave_after(&self, requests: usize) {
        self.state.lock().unwrap().answers_left = requests;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Bytes of files that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.state.lock().unwrap().sent
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.lock().unwrap().stopped = true;
        // wakes the thread up
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let (mut range_start, mut token) = (None, None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let start = value.trim().trim_start_matches("bytes=").split('-').next();
                range_start = start.and_then(|start| start.parse().ok());
            }
            "authorization" => token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let place = path.strip_prefix(PREFIX).and_then(|p| p.split_once('/'));
    let mut state = state.lock().unwrap();
    if state.answers_left == 0 {
        return stream.shutdown(Shutdown::Both);
    }
    state.answers_left -= usize::from(state.answers_left < usize::MAX);
    state.requests.push(Request {
        path: path.clone(),
        revision: place.map(|(revision, _)| revision.to_owned()),
        range_start,
        token,
    });
    let (head, body) = state.reply(&path, place.map(|(_, file)| file), range_start);
    let body = if method == "HEAD" { &[] } else { &body[..] };
    let sent = state.allowed(body.len(), place.is_some());
    state.sent += if place.is_some() { sent } else { 0 };
    drop(state);
    write!(stream, "{head}connection: close\r\n\r\n")?;
    stream.write_all(&body[..sent])?;
    stream.shutdown(Shutdown::Both)
}

impl State {
    fn reply(&self, path: &str, file: Option<&str>, start: Option<u64>) -> (String, Vec<u8>) {
        let status = |line: &str| {
            (
                format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n"),
                Vec::new(),
            )
        };
        if let Some(line) = self.away {
            return status(line);
        }
        if self.refuses {
            return status("401 Unauthorized");
        }
        if path.starts_with(TREE) {
            let entry = |(path, bytes): (&String, &Vec<u8>)| serde_json::json!({"type": "file", "oid": "0", "size": bytes.len(), "path": path});
            let body = serde_json::json!(self.files.iter().map(entry).collect::<Vec<_>>());
            let body = body.to_string().into_bytes();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
            return (head, body);
        }
        let Some((file, bytes)) = file.and_then(|file| self.files.get_key_value(file)) else {
            return status("404 Not Found");
        };
        let digest = match self.hostile {
            true => "../../../../outside".to_owned(),
            false => Sha256Digest::of(bytes).hex(),
        };
        let mut body = bytes.clone();
        if self.spoilt.as_ref() == Some(file) {
            body[0] ^= 1;
        }
        let size = body.len();
        let start = start.filter(|_| !matches!(self.cut, Cut::NoRanges));
        let first = match start {
            Some(start) => {
                let start = usize::try_from(start).unwrap();
                body.drain(..start);
                format!(
                    "206 Partial Content\r\ncontent-range: bytes {start}-{}/{size}",
                    size - 1
                )
            }
            None => "200 OK".to_owned(),
        };
        let head = format!(
            "HTTP/1.1 {first}\r\ncontent-length: {}\r\netag: \"{digest}\"\r\nx-repo-commit: {COMMIT}\r\n",
            body.len()
        );
        (head, body)
    }

    /// How much of a body is sent.
    fn allowed(&mut self, len: usize, is_file: bool) -> usize {
        if !is_file || len == 0 {
            return len;
        }
        match self.cut {
            Cut::Never | Cut::NoRanges => len,
            Cut::After(most) => len.min(most),
            Cut::Once(most) => {
                self.cut = Cut::Once(0);
                len.min(most)
            }
        }
    }
}
