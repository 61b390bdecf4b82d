//! What keeps a gateway from starting, and what its program says then.

use std::path::Path;
use std::process::{Command, Output};

use gateway::{Config, StartError};

use super::crash::program;
use super::fixtures::model_path;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_is_a_typed_error_and_never_ready() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model_path()).unwrap();
    for (name, bytes) in [
        ("half", &whole[..whole.len() / 2]),
        ("header", &whole[..1000]),
        ("empty", &whole[..0]),
        ("other", b"this is not a model at all".as_slice()),
    ] {
        let path = folder.path().join(format!("{name}.gguf"));
        std::fs::write(&path, bytes).unwrap();
        let config = Config::local(path, folder.path().join(name));
        let mut gateway = gateway::run(config).await.unwrap();
        let error = gateway.ready().await.unwrap_err();
        assert!(matches!(error, StartError::Model(_)), "{name}: {error}");
        let client = super::app::Client::new(gateway.url(), String::new());
        let ready = client.get("/health/ready").await;
        assert_eq!(ready.error(), (503, "model_loading".to_owned()), "{name}");
        gateway.shutdown().await;
    }
}

fn serve(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program("flywheel"));
    command
        .env_clear()
        .current_dir(folder)
        .arg("serve")
        .args(args);
    command.output().unwrap()
}

#[test]
fn the_program_says_why_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = model_path();
    let model = model.to_str().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "listne = '127.0.0.1:1'").unwrap();
    let config = config.to_str().unwrap();
    let threads = folder.path().join("threads.toml");
    std::fs::write(&threads, "[engine]\nthreads = 300").unwrap();
    let threads = threads.to_str().unwrap();
    let cut = folder.path().join("cut.gguf");
    std::fs::write(&cut, &std::fs::read(model).unwrap()[..5000]).unwrap();
    for (args, needle) in [
        (
            vec!["--model", model, "--listen", "0.0.0.0:0"],
            "no API keys are configured",
        ),
        (vec!["--listen", "127.0.0.1:0"], "no model is given"),
        (vec!["--model", model, "--config", config], "listne"),
        (
            vec!["--model", model, "--config", threads],
            "engine.threads: 300 is more than 256",
        ),
        (
            vec!["--model", model, "--store", "redis://me:secret@h/0"],
            "credentials do not belong",
        ),
        (vec!["--model", model, "--store", "mysql"], "embedded"),
        (
            vec!["--model", cut.to_str().unwrap(), "--listen", "127.0.0.1:0"],
            "cannot be served",
        ),
    ] {
        let output = serve(folder.path(), &args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} started");
        assert!(said.contains(needle), "{args:?} said {said}");
        assert!(!said.contains("secret"), "{said}");
    }
}
