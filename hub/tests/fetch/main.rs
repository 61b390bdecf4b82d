//! Fetching from a small server that speaks the Hub's few endpoints, in a process
//! of its own for each fetch, since the Hub is found through the environment.

#![cfg(feature = "hf-hub")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use server::{Cut, Server};

const MODEL: &str = "FLYWHEEL_HUB_TEST_MODEL";

/// What a fetch said.
#[derive(Debug)]
enum Told {
    Path(PathBuf),
    Error(String),
}

impl Told {
    fn path(self) -> PathBuf {
        match self {
            Self::Path(path) => path,
            Self::Error(error) => panic!("{error}"),
        }
    }

    fn error(self) -> String {
        match self {
            Self::Error(error) => error,
            Self::Path(path) => panic!("{}", path.display()),
        }
    }
}

/// Not a test of its own: what the processes run.
#[test]
fn child() {
    let Ok(model) = std::env::var(MODEL) else {
        return;
    };
    let mut progress = 0;
    let found = hub::resolve(Path::new(&model), |seen| {
        assert!(seen.done_bytes <= seen.all_bytes && !seen.file.is_empty());
        progress += 1;
    });
    match found {
        Ok(path) => println!("\nPATH {}", path.display()),
        Err(error) => println!("\nERROR {error}"),
    }
    println!("PROGRESS {progress}");
}

fn fetch_with(model: &str, endpoint: &str, home: &Path, token: Option<&str>) -> Told {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env(MODEL, model)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .env("NO_PROXY", "*");
    for name in [
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("PATH ") {
            return Told::Path(path.into());
        }
        if let Some(error) = line.strip_prefix("ERROR ") {
            return Told::Error(error.to_owned());
        }
    }
    panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn fetch(model: &str, server: &Server, home: &Path) -> Told {
    fetch_with(model, &server.address(), home, None)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(len).collect()
}

#[test]
fn a_file_is_fetched_once_and_found_without_a_network() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    let model = bytes(1, 300_000);
    server.put("m.gguf", &model);
    let path = fetch_with(
        "hf:org/repo/m.gguf",
        &server.address(),
        home.path(),
        Some("hf_secret"),
    )
    .path();
    assert!(path.starts_with(home.path()) && path.ends_with("m.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), model);
    assert!(
        server
            .requests()
            .iter()
            .all(|r| r.token.as_deref() == Some("Bearer hf_secret"))
    );
    let sent = server.sent();
    assert_eq!(
        fetch("hf:org/repo/m.gguf", &server, home.path()).path(),
        path
    );
    assert_eq!(server.sent(), sent, "no byte of it again");
    let address = server.address();
    drop(server);
    let offline = fetch_with("hf:org/repo/m.gguf", &address, home.path(), None);
    assert_eq!(offline.path(), path);
}

#[test]
fn a_transfer_that_ends_early_goes_on_from_there() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    let model = bytes(2, 1_000_000);
    server.put("m.gguf", &model);
    server.cut(Cut::After(300_000));
    let path = fetch("hf:org/repo/m.gguf", &server, home.path()).path();
    assert_eq!(std::fs::read(&path).unwrap(), model);
    let starts: Vec<u64> = server
        .requests()
        .iter()
        .filter_map(|r| r.range_start)
        .collect();
    assert!(starts.len() >= 2 && starts.is_sorted(), "{starts:?}");
    assert!(starts[0] > 0);
    assert!(server.sent() < 1_500_000, "{}", server.sent());
}

#[test]
fn what_was_interrupted_goes_on_in_the_next_run() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    let model = bytes(3, 500_000);
    server.put("m.gguf", &model);
    server.cut(Cut::Once(200_000));
    let error = fetch("hf:org/repo/m.gguf", &server, home.path()).error();
    assert!(
        error.contains("was interrupted at") && error.contains("of 500000"),
        "{error}"
    );
    let snapshots = home.path().join("hub/models--org--repo/snapshots");
    assert!(!snapshots.exists(), "half a file is no file");
    server.cut(Cut::Never);
    let before = server.requests().len();
    let path = fetch("hf:org/repo/m.gguf", &server, home.path()).path();
    assert_eq!(std::fs::read(&path).unwrap(), model);
    let first = server.requests()[before..]
        .iter()
        .find_map(|r| r.range_start);
    assert!(first.is_some_and(|start| start > 0), "{first:?}");
}

#[test]
fn a_server_without_ranges_is_asked_for_all_again() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    let model = bytes(4, 400_000);
    server.put("m.gguf", &model);
    server.cut(Cut::Once(100_000));
    fetch("hf:org/repo/m.gguf", &server, home.path()).error();
    server.cut(Cut::NoRanges);
    let path = fetch("hf:org/repo/m.gguf", &server, home.path()).path();
    assert_eq!(std::fs::read(&path).unwrap(), model);
}

#[test]
fn all_parts_and_a_whole_folder_are_fetched_of_one_commit() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    for no in 1..=3 {
        server.put(&format!("q/m-0000{no}-of-00003.gguf"), &bytes(no, 5000));
    }
    let path = fetch(
        "hf:org/repo/q/m-00001-of-00003.gguf@v1",
        &server,
        home.path(),
    )
    .path();
    for no in 1..=3u8 {
        let part = path.with_file_name(format!("m-0000{no}-of-00003.gguf"));
        assert_eq!(std::fs::read(part).unwrap(), bytes(no, 5000));
    }
    let revisions: Vec<_> = server
        .requests()
        .iter()
        .map(|r| r.revision.clone())
        .collect();
    assert!(revisions.contains(&Some("v1".to_owned())));
    assert!(revisions.contains(&Some(server::COMMIT.to_owned())));
    let files = [
        "config.json",
        "tokenizer.json",
        "model-00001-of-00001.safetensors",
    ];
    for file in files {
        server.put(file, &bytes(9, 700));
    }
    server.put("pytorch_model.bin", b"never asked for");
    let folder = fetch("hf:org/repo", &server, home.path()).path();
    for file in files {
        assert_eq!(std::fs::read(folder.join(file)).unwrap(), bytes(9, 700));
    }
    let asked = |file: &str| server.requests().iter().any(|r| r.path.ends_with(file));
    assert!(asked("config.json") && !asked("pytorch_model.bin"));
}

/// A split file and a folder, and all that a fetch of them asks for.
fn put_models(server: &Server) {
    for no in 1..=2 {
        server.put(&format!("m-0000{no}-of-00002.gguf"), &bytes(no, 900));
    }
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        server.put(file, &bytes(8, 600));
    }
}

const MODELS: [&str; 2] = ["hf:org/repo/m-00001-of-00002.gguf", "hf:org/repo"];

#[test]
fn a_cached_model_is_used_while_the_hub_cannot_answer() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    put_models(&server);
    let paths = MODELS.map(|model| fetch(model, &server, home.path()).path());
    for status in ["503 Service Unavailable", "429 Too Many Requests"] {
        server.away(status);
        for (model, path) in MODELS.iter().zip(&paths) {
            assert_eq!(&fetch(model, &server, home.path()).path(), path);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        let error = fetch(MODELS[0], &server, elsewhere.path()).error();
        let said = error.contains("cannot be reached") && error.contains(&status[..3]);
        assert!(said, "{error}");
    }
}

#[test]
fn a_cached_model_is_used_wherever_the_hub_hangs_up() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    put_models(&server);
    for model in MODELS {
        let path = fetch(model, &server, home.path()).path();
        let before = server.requests().len();
        assert_eq!(fetch(model, &server, home.path()).path(), path);
        let asked = server.requests().len() - before;
        assert!(asked >= 3, "{asked}");
        for answered in 0..=asked {
            server.leave_after(answered);
            let found = fetch(model, &server, home.path()).path();
            assert_eq!(found, path, "after {answered} answers");
        }
        server.leave_after(usize::MAX);
    }
}

#[test]
fn without_a_network_a_part_of_a_model_is_no_model() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    put_models(&server);
    let [file, folder] = MODELS.map(|model| fetch(model, &server, home.path()).path());
    let address = server.address();
    drop(server);
    let part = "m-00002-of-00002.gguf";
    std::fs::remove_file(file.with_file_name(part)).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    for (model, missing) in MODELS.into_iter().zip([part, "model.safetensors"]) {
        let error = fetch_with(model, &address, home.path(), None).error();
        let lacks = format!("the cache lacks {missing}: fetch it");
        assert!(error.contains(&lacks), "{error}");
    }
}

#[test]
fn a_revision_is_noted_once_all_of_it_is_there() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    put_models(&server);
    server.spoil("m-00002-of-00002.gguf");
    let error = fetch(MODELS[0], &server, home.path()).error();
    assert!(error.contains("another digest"), "{error}");
    let noted = home.path().join("hub/models--org--repo/refs/main");
    assert!(!noted.exists());
    fetch(MODELS[1], &server, home.path()).path();
    assert_eq!(std::fs::read_to_string(noted).unwrap(), server::COMMIT);
}

#[test]
fn what_the_hub_does_not_have_or_give_is_said() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start();
    server.put("m.gguf", b"something");
    let missing = fetch("hf:org/repo/other.gguf", &server, home.path()).error();
    assert!(
        missing.contains("has no other.gguf in hf:org/repo"),
        "{missing}"
    );
    server.put("wrong.gguf", &bytes(5, 2000));
    server.spoil("wrong.gguf");
    let damaged = fetch("hf:org/repo/wrong.gguf", &server, home.path()).error();
    assert!(
        damaged.contains("wrong.gguf has another digest"),
        "{damaged}"
    );
    let snapshots = home.path().join("hub/models--org--repo/snapshots");
    assert!(!snapshots.exists(), "what is damaged is not there");
    server.refuse();
    let refused = fetch("hf:org/repo/m.gguf", &server, home.path()).error();
    assert!(refused.contains("HF_TOKEN"), "{refused}");
    server.hostile_digest();
    let hostile = fetch("hf:org/repo/m.gguf", &server, home.path()).error();
    assert!(hostile.contains("no usable digest"), "{hostile}");
}

#[test]
fn without_a_network_the_message_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    // a name that no resolver knows, and a port that nobody listens at
    for endpoint in ["http://hub.invalid", "http://127.0.0.1:9"] {
        let error = fetch_with("hf:org/repo/m.gguf", endpoint, home.path(), None).error();
        for part in [
            endpoint,
            "cannot be reached",
            "hf:org/repo/m.gguf",
            "give the path of a file",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
