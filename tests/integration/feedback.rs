//! Votes over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::app::{MODEL, TestApp, question};

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_its_repetition_its_flip_and_its_retraction() {
    let app = TestApp::start().await;
    let id = app.ask(MODEL, Some("me"), 1).await.ok()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let first = app.vote(&id, json!({})).await.ok();
    assert_eq!(
        (&first["outcome"], &first["durability"]),
        (&json!("recorded"), &json!("fsynced"))
    );
    let again = app.vote(&id, json!({})).await.ok();
    assert_eq!(
        (&again["outcome"], &again["feedback_id"]),
        (&json!("unchanged"), &first["feedback_id"])
    );
    let flip = app.vote(&id, json!({"value": false})).await.ok();
    assert_eq!(
        (&flip["outcome"], &flip["supersedes"]),
        (&json!("superseded"), &first["feedback_id"])
    );
    app.vote(
        &id,
        json!({"metric_name": "demonstration", "value": "Paris.", "rater": "expert"}),
    )
    .await
    .ok();
    let path = format!("/v1/feedback/{}", flip["feedback_id"].as_str().unwrap());
    assert_eq!(
        app.send(app.request(Method::DELETE, &path)).await.status,
        200
    );
    assert_eq!(
        app.send(app.request(Method::DELETE, &path)).await.status,
        404
    );

    let export = app
        .admin(Method::GET, "/admin/v1/feedback/export", None)
        .await
        .text;
    let rows: Vec<Value> = export
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["superseded_by"], flip["feedback_id"]);
    assert_eq!(rows[1]["retracted"], true);
    assert_eq!(
        (&rows[2]["value"], &rows[2]["rater"]),
        (&json!("Paris."), &json!("expert"))
    );
    assert_eq!(
        (&rows[2]["rollout"], &rows[2]["arm"]),
        (&json!(MODEL), &json!("stable"))
    );
    let page = app
        .admin(
            Method::GET,
            "/admin/v1/feedback/export?after=1&limit=1",
            None,
        )
        .await
        .text;
    assert_eq!(page.lines().count(), 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn votes_that_are_refused() {
    let app = TestApp::start().await;
    let anonymous = app.ask(MODEL, None, 1).await;
    let token = anonymous.header("x-feedback-token").unwrap().to_owned();
    let id = anonymous.ok()["id"].as_str().unwrap().to_owned();
    let cases = [
        (id.as_str(), json!({}), 400, "missing_required_parameter"),
        (
            &id,
            json!({"rater": "r", "value": "yes"}),
            400,
            "invalid_type",
        ),
        (
            &id,
            json!({"rater": "r", "metric_name": "stars"}),
            400,
            "invalid_value",
        ),
        (
            &id,
            json!({"rater": "r", "token": "v1.e30.AAAA"}),
            400,
            "invalid_token",
        ),
        (
            &id,
            json!({"rater": "r", "stars": 1}),
            400,
            "unknown_parameter",
        ),
        (
            "chatcmpl-unknown",
            json!({"rater": "r"}),
            404,
            "inference_not_found",
        ),
        (
            "chatcmpl-unknown",
            json!({"rater": "r", "token": token}),
            400,
            "invalid_token",
        ),
    ];
    for (id, body, status, code) in cases {
        let reply = app.vote(id, body.clone()).await;
        assert_eq!(reply.error(), (status, code.to_owned()), "{body}");
    }
    app.vote(&id, json!({"rater": "r", "token": token, "id": "mine"}))
        .await
        .ok();
    let other = app
        .vote(&id, json!({"rater": "r", "value": false, "id": "mine"}))
        .await;
    assert_eq!(other.error(), (409, "id_conflict".to_owned()));
    assert_eq!(other.header("x-should-retry"), Some("false"));
    let export = app
        .admin(Method::GET, "/admin/v1/feedback/export", None)
        .await
        .text;
    assert_eq!(
        export.lines().count(),
        1,
        "only the one that was taken is there"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_right_after_a_stream_finds_its_answer() {
    let app = TestApp::start().await;
    for turn in 0..10 {
        let mut body = question(MODEL, 1);
        body["stream"] = json!(true);
        body["user"] = json!("me");
        let text = app.post("/v1/chat/completions", body).await.text;
        let id = text
            .split('"')
            .find(|part| part.starts_with("chatcmpl-"))
            .unwrap();
        assert_eq!(app.vote(id, json!({})).await.status, 200, "turn {turn}");
    }
    app.stop().await;
}
