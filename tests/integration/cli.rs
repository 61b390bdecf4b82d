//! The administration commands against a running gateway.

use std::process::Command;

use serde_json::{Value, json};

use super::app::{MODEL, TestApp};
use super::crash::program;
use super::fixtures::write_adapter;

/// Runs a command as JSON; its lines, or what it complained about.
async fn flywheel(app: &TestApp, args: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = Command::new(program("flywheel"));
    command
        .args(args)
        .args(["--url", &app.client.url, "--json"]);
    command.env("FLYWHEEL_ADMIN_KEY", &app.client.admin_key);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_turns_the_wheel_by_commands() {
    let app = TestApp::start().await;
    let digest = write_adapter(&app.root.join("one"), 1).to_string();
    flywheel(&app, &["adapters", "load", "candidate", "--path", "one"])
        .await
        .unwrap();
    let list = flywheel(&app, &["adapters", "list"]).await.unwrap();
    assert_eq!(list[0]["digest"], json!(digest));
    flywheel(
        &app,
        &[
            "adapters",
            "alias",
            "second",
            "candidate",
            "--expect",
            "none",
        ],
    )
    .await
    .unwrap();
    let refused = flywheel(
        &app,
        &[
            "adapters",
            "alias",
            "second",
            "candidate",
            "--expect",
            "none",
        ],
    )
    .await;
    assert!(refused.unwrap_err().contains("409"));
    let set = [
        "rollout",
        "set",
        MODEL,
        "--canary",
        "candidate",
        "--percent",
        "5",
    ];
    let rollout = flywheel(&app, &set).await.unwrap();
    assert_eq!(
        (&rollout[0]["canary"], &rollout[0]["basis_points"]),
        (&json!(digest), &json!(500))
    );
    let more = flywheel(&app, &["rollout", "set", MODEL, "--basis-points", "5000"])
        .await
        .unwrap();
    assert_eq!(
        (&more[0]["salt"], &more[0]["basis_points"]),
        (&rollout[0]["salt"], &json!(5000))
    );
    assert_eq!(
        flywheel(&app, &["rollout", "promote", MODEL])
            .await
            .unwrap()[0]["stable"],
        json!(digest)
    );
    assert_eq!(
        flywheel(&app, &["rollout", "rollback", MODEL])
            .await
            .unwrap()[0]["stable"],
        Value::Null
    );
    flywheel(&app, &set).await.unwrap();
    let abort = flywheel(&app, &["rollout", "abort", MODEL, "--reason", "enough"])
        .await
        .unwrap();
    assert_eq!(abort[0]["abort_reason"], "enough");
    assert_eq!(flywheel(&app, &["rollout", "show"]).await.unwrap().len(), 1);

    let id = app.ask(MODEL, Some("me"), 1).await.ok()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    app.vote(&id, json!({"value": false})).await.ok();
    let votes = flywheel(&app, &["feedback", "export"]).await.unwrap();
    assert_eq!(
        (&votes[0]["inference_id"], &votes[0]["metric_name"]),
        (&json!(id), &json!("thumbs"))
    );
    for name in ["second", "candidate"] {
        flywheel(&app, &["adapters", "unload", name]).await.unwrap();
    }
    flywheel(&app, &["adapters", "load", &digest])
        .await
        .unwrap();
    assert_eq!(app.answers(&digest, None).await, json!(digest));
    flywheel(&app, &["adapters", "unload", &digest])
        .await
        .unwrap();
    assert_eq!(app.ask(&digest, None, 1).await.status, 404);
    assert!(
        flywheel(&app, &["adapters", "unload", "nobody"])
            .await
            .unwrap_err()
            .contains("404")
    );
    app.stop().await;
}
