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
