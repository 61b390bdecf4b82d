//! Canaries, from 5% to promotion and back, with real requests.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::app::{MODEL, TestApp};

const USERS: usize = 60;
/// The id of a token that is a word.
const REPEATED_TOKEN: &str = "1000";

/// The users whose answer comes from `digest`.
async fn users_on(app: &TestApp, digest: &str) -> BTreeSet<usize> {
    let mut on = BTreeSet::new();
    for user in 0..USERS {
        if app.answers(MODEL, Some(&format!("user-{user}"))).await == json!(digest) {
            on.insert(user);
        }
    }
    on
}

/// The users that the published formula sends to the canary.
fn expected(salt: &str, basis_points: u16) -> BTreeSet<usize> {
    let canary = |user: &usize| rollout::bucket(salt, &format!("user-{user}")) < basis_points;
    (0..USERS).filter(canary).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_percent_half_promoted_rolled_back() {
    let app = TestApp::start().await;
    let canary = app.adapter("candidate", 1).await.to_string();
    let set = app
        .set_rollout(json!({"canary": canary, "basis_points": 500}))
        .await
        .ok();
    assert_eq!(set["status"], "running");
    let salt = set["salt"].as_str().unwrap().to_owned();
    let early = users_on(&app, &canary).await;
    assert_eq!(early, expected(&salt, 500));
    let set = app
        .set_rollout(json!({"canary": canary, "basis_points": 5000}))
        .await
        .ok();
    assert_eq!(
        set["salt"],
        json!(salt),
        "the salt stays while the share rises"
    );
    let late = users_on(&app, &canary).await;
    assert_eq!(late, expected(&salt, 5000));
    assert!(early.is_subset(&late), "nobody moves back");

    let analysis = app
        .admin(Method::GET, "/admin/v1/rollouts/flywheel/analysis", None)
        .await
        .ok();
    assert_eq!(
        analysis["stable"]["counted"].as_u64().unwrap()
            + analysis["canary"]["counted"].as_u64().unwrap(),
        2 * USERS as u64
    );
    let promoted = app.command("promote").await.ok();
    assert_eq!(
        (&promoted["status"], &promoted["stable"]),
        (&json!("promoted"), &json!(canary))
    );
    assert_eq!(users_on(&app, &canary).await.len(), USERS);
    assert_eq!(
        app.command("promote").await.error(),
        (409, "impossible_transition".to_owned())
    );
    assert_eq!(app.command("rollback").await.ok()["stable"], Value::Null);
    assert!(users_on(&app, &canary).await.is_empty());
    assert_eq!(app.command("rollback").await.status, 409);
    let audit = app.admin(Method::GET, "/admin/v1/audit", None).await.ok();
    let actions: Vec<&str> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "rollout.create",
            "alias.load",
            "rollout.set",
            "rollout.set",
            "rollout.promote",
            "rollout.rollback"
        ]
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_compare_revisions() {
    let app = TestApp::start().await;
    let canary = app.adapter("candidate", 1).await.to_string();
    let path = "/admin/v1/rollouts/flywheel";
    let body = json!({"canary": canary, "basis_points": 500});
    let naked = app.admin(Method::PUT, path, Some(body.clone())).await;
    assert_eq!(naked.error(), (428, "revision_needed".to_owned()));
    let stale = app
        .admin_request(Method::PUT, path, Some(body.clone()))
        .header("if-match", "\"99\"");
    let stale = app.send(stale).await;
    assert_eq!(stale.error(), (409, "conflict".to_owned()));
    assert_eq!(stale.header("x-should-retry"), Some("false"));
    let created = app.admin_request(Method::PUT, "/admin/v1/rollouts/second", Some(body.clone()));
    assert_eq!(
        app.send(created.header("if-none-match", "*")).await.status,
        200
    );
    let again = app.admin_request(Method::PUT, "/admin/v1/rollouts/second", Some(body));
    assert_eq!(
        app.send(again.header("if-none-match", "*")).await.status,
        409
    );
    let unknown = json!({"canary": format!("sha256:{}", "0".repeat(64)), "basis_points": 500});
    assert_eq!(
        app.set_rollout(unknown).await.error(),
        (404, "adapter_not_found".to_owned())
    );
    assert_eq!(
        app.rollout().await["status"],
        "idle",
        "a refused change changes nothing"
    );
    assert_eq!(
        app.admin(Method::GET, "/admin/v1/rollouts/nobody", None)
            .await
            .status,
        404
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_switch_is_at_once_and_aborts() {
    let app = TestApp::start().await;
    let canary = app.adapter("candidate", 1).await.to_string();
    app.set_rollout(json!({"canary": canary, "basis_points": 10_000}))
        .await
        .ok();
    assert_eq!(app.answers(MODEL, Some("u")).await, json!(canary));
    let body = json!({"active": true, "reason": "a drill"});
    let state = app
        .admin(Method::POST, "/admin/v1/kill", Some(body))
        .await
        .ok();
    assert_eq!(state["aborted"], json!([MODEL]));
    assert_eq!(app.answers(MODEL, Some("u")).await, Value::Null);
    assert_eq!(app.rollout().await["abort_reason"], "a drill");
    // A new canary gets nobody while the switch is thrown.
    app.set_rollout(json!({"canary": canary, "basis_points": 10_000}))
        .await
        .ok();
    assert_eq!(app.answers(MODEL, Some("u")).await, Value::Null);
    let state = app
        .admin(
            Method::POST,
            "/admin/v1/kill",
            Some(json!({"active": false})),
        )
        .await
        .ok();
    assert_eq!(state["active"], false);
    assert_eq!(app.answers(MODEL, Some("u")).await, json!(canary));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_repeats_itself_is_stopped_by_its_guards() {
    let app = TestApp::start().await;
    let bad = app.adapter("bad", 1).await.to_string();
    let guards = json!([
        {"kind": "empty", "max_share": 2500, "min_samples": 8},
        {"kind": "repetition", "max_share": 2500, "min_samples": 8},
        {"kind": "errors", "max_share": 1000, "min_samples": 8},
    ]);
    let body = json!({"canary": bad, "basis_points": 10_000, "guardrails": guards});
    app.set_rollout(body).await.ok();
    let mut reached = 0;
    for user in 0..20 {
        // One token again and again, as a collapsed model says it.
        let mut body = super::app::question(MODEL, 96);
        body["user"] = json!(format!("user-{user}"));
        body["logit_bias"] = json!({REPEATED_TOKEN: 100});
        let answer = app.post("/v1/chat/completions", body).await.ok();
        if answer["adapter_digest"] == Value::Null {
            break;
        }
        reached += 1;
    }
    // 25% of at least 8 may be bad: the third is one too many.
    assert_eq!(reached, 3, "requests that reached the bad canary");
    let mut rollout = app.rollout().await;
    for _ in 0..40 {
        if rollout["status"] == "aborted" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        rollout = app.rollout().await;
    }
    assert_eq!(rollout["status"], "aborted");
    assert!(
        rollout["abort_reason"]
            .as_str()
            .unwrap()
            .contains("repetitive"),
        "{rollout}"
    );
    app.stop().await;
}
