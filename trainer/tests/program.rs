//! The program `flywheel-trainer` from the outside.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn trainer(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flywheel-trainer"));
    command.env_clear().args(args).output().unwrap()
}

#[test]
fn refused_rows_are_listed_with_line_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let good = r#"{"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}"#;
    let bad = r#"{"messages": [{"role": "user", "content": "Nobody answers."}]}"#;
    std::fs::write(&path, format!("{good}\n")).unwrap();
    let path = path.to_str().unwrap();
    let passed = trainer(&["check-data", path]);
    assert_eq!(passed.status.code(), Some(0), "{passed:?}");

    std::fs::write(path, format!("{good}\n{bad}\nno json\n")).unwrap();
    let refused = trainer(&["check-data", path]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8(refused.stdout).unwrap();
    assert!(said.contains(":2:") && said.contains(":3:"), "{said}");
    let json = trainer(&["check-data", path, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&report["kept"], &report["refused"]),
        (&1.into(), &2.into())
    );
    assert_eq!(report["refused_rows"][0]["line"], 2);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none.jsonl");
    let absent = trainer(&["check-data", none.to_str().unwrap()]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("none.jsonl"));
    let no_model = trainer(&["once", "--data", folder.path().to_str().unwrap()]);
    assert_eq!(no_model.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_model.stderr).contains("model"));
}

/// A path below `tests/golden/tiny_llama`.
fn tiny(name: &str) -> String {
    format!(
        "{}/../tests/golden/tiny_llama/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

#[test]
fn a_step_is_measured() {
    let model = tiny("model.gguf");
    let small = ["--pairs", "2", "--tokens", "24", "--rank", "2", "--json"];
    let measured = trainer(&[&["bench", "--model", &model, "--steps", "3"], &small[..]].concat());
    assert_eq!(measured.status.code(), Some(0), "{measured:?}");
    let report: serde_json::Value = serde_json::from_slice(&measured.stdout).unwrap();
    assert_eq!(
        (&report["pairs"], &report["tokens"]),
        (&2.into(), &96.into())
    );
    // each pair's prompt once, and of each sequence all but the last token
    assert_eq!(report["rows"], 2 * (12 + 2 * 11));
    assert_eq!(report["seconds"].as_array().unwrap().len(), 3);
    for key in [
        "tokens_per_second",
        "peak_rss_bytes",
        "gflop",
        "gemm_gflops_max",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn an_adapter_is_exported_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (model, adapter) = (tiny("model.gguf"), tiny("adapter"));
    let to = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (format, out) in [
        ("peft", to("peft")),
        ("gguf-lora", to("lora.gguf")),
        ("merged-gguf", to("merged.gguf")),
    ] {
        let args = [
            "export",
            "--model",
            &model,
            "--adapter",
            &adapter,
            "--format",
            format,
            "--out",
            &out,
        ];
        let exported = trainer(&args);
        assert_eq!(exported.status.code(), Some(0), "{exported:?}");
        let again = trainer(&args);
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("exists"));
    }
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |root: &str| std::fs::read(format!("{root}/{file}")).unwrap();
        assert_eq!(read(&to("peft")), read(&adapter));
    }
    // what was merged is a model
    let merged = model::BaseModel::open(to("merged.gguf").as_ref()).unwrap();
    assert_eq!(merged.config.layer_count, 2);
    let none = trainer(&[
        "export",
        "--model",
        &model,
        "--format",
        "peft",
        "--out",
        &to("x"),
    ]);
    assert_eq!(none.status.code(), Some(2), "an adapter is needed");
}
