//! Training files and fine-tuning jobs over HTTP; the trainer is not here.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::app::{MODEL, Reply, TestApp};

const JOBS: &str = "/v1/fine_tuning/jobs";

async fn upload(app: &TestApp, form: Form) -> Reply {
    let request = app.admin_request(Method::POST, "/v1/files", None);
    app.send(request.multipart(form)).await
}

fn form(content: &str) -> Form {
    let file = Part::bytes(content.as_bytes().to_vec()).file_name("pairs.jsonl");
    Form::new().text("purpose", "fine-tune").part("file", file)
}

async fn get(app: &TestApp, path: &str) -> Reply {
    app.admin(Method::GET, path, None).await
}

async fn post(app: &TestApp, path: &str, body: Option<Value>) -> Reply {
    app.admin(Method::POST, path, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_taken_listed_given_back_and_deleted() {
    let app = TestApp::start().await;
    let first = upload(&app, form("{\"a\": 1}\n")).await.ok();
    assert_eq!(first["object"], "file");
    assert_eq!(
        (&first["bytes"], &first["filename"]),
        (&json!(9), &json!("pairs.jsonl"))
    );
    // the file before its purpose, as some clients send it
    let file = Part::bytes(vec![b'x'; 3_000_000]).file_name("big.jsonl");
    let reversed = Form::new().part("file", file).text("purpose", "fine-tune");
    let second = upload(&app, reversed).await.ok();
    assert_eq!(second["bytes"], 3_000_000);
    let id = first["id"].as_str().unwrap();

    let newest = get(&app, "/v1/files?limit=1").await.ok();
    assert_eq!(
        (&newest["data"][0]["id"], &newest["has_more"]),
        (&second["id"], &json!(true))
    );
    let after = newest["last_id"].as_str().unwrap();
    let oldest = get(&app, &format!("/v1/files?limit=1&after={after}"))
        .await
        .ok();
    assert_eq!(
        (&oldest["data"][0]["id"], &oldest["has_more"]),
        (&first["id"], &json!(false))
    );
    for (purpose, count) in [("fine-tune", 2), ("fine-tune-results", 0)] {
        let path = format!("/v1/files?purpose={purpose}");
        let listed = get(&app, &path).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), count);
    }
    assert_eq!(
        get(&app, &format!("/v1/files/{id}/content")).await.text,
        "{\"a\": 1}\n"
    );
    let deleted = app
        .admin(Method::DELETE, &format!("/v1/files/{id}"), None)
        .await;
    assert_eq!(deleted.ok()["deleted"], true);
    let gone = get(&app, &format!("/v1/files/{id}")).await;
    assert_eq!(gone.error(), (404, "file_not_found".to_owned()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_forms_leave_nothing() {
    let app = TestApp::start().await;
    let part = || Part::bytes(b"{}".to_vec()).file_name("a");
    for (form, status, code) in [
        (
            Form::new().text("purpose", "fine-tune"),
            400,
            "missing_required_parameter",
        ),
        (
            Form::new().part("file", part()),
            400,
            "missing_required_parameter",
        ),
        (
            Form::new().part("file", part()).text("purpose", "batch"),
            400,
            "unsupported_parameter",
        ),
        // only the trainer writes such
        (
            Form::new()
                .part("file", part())
                .text("purpose", "fine-tune-results"),
            400,
            "unsupported_parameter",
        ),
        (form("{}").text("colour", "red"), 400, "unknown_parameter"),
        (form(""), 400, "invalid_value"),
        (form("{}").part("file", part()), 400, "invalid_value"),
    ] {
        assert_eq!(upload(&app, form).await.error(), (status, code.to_owned()));
    }
    let json = post(&app, "/v1/files", Some(json!({}))).await;
    assert_eq!(json.error(), (415, "unsupported_media_type".to_owned()));
    let files = get(&app, "/v1/files").await.ok();
    assert_eq!(files["data"], json!([]));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_is_held_goes_on_and_is_given_up() {
    let app = TestApp::start().await;
    let file = upload(&app, form("{}\n")).await.ok()["id"].clone();
    let body = json!({
        "model": MODEL, "training_file": file, "suffix": "facts", "seed": 3,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5, "n_epochs": 2}}},
    });
    let job = post(&app, JOBS, Some(body.clone())).await.ok();
    assert_eq!(
        (&job["object"], &job["status"]),
        (&json!("fine_tuning.job"), &json!("queued"))
    );
    assert_eq!(job["method"]["dpo"]["hyperparameters"]["beta"], 0.5);
    assert_eq!(
        job["method"]["dpo"]["hyperparameters"]["batch_size"],
        "auto"
    );
    let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
    assert_eq!(get(&app, &path).await.ok(), job);
    assert_eq!(get(&app, JOBS).await.ok()["data"][0], job);

    let in_use = app
        .admin(
            Method::DELETE,
            &format!("/v1/files/{}", file.as_str().unwrap()),
            None,
        )
        .await;
    assert_eq!(in_use.error(), (409, "file_in_use".to_owned()));
    for (command, status) in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
    ] {
        let job = post(&app, &format!("{path}/{command}"), None).await.ok();
        assert_eq!(job["status"], status);
    }
    let late = post(&app, &format!("{path}/resume"), None).await;
    assert_eq!(late.error(), (409, "impossible_transition".to_owned()));
    assert_eq!(late.header("x-should-retry"), Some("false"));
    let events = get(&app, &format!("{path}/events")).await.ok();
    assert_eq!(
        (&events["object"], &events["has_more"]),
        (&json!("list"), &json!(false))
    );
    assert_eq!(
        get(&app, &format!("{path}/checkpoints")).await.ok()["data"],
        json!([])
    );

    for (field, value, error) in [
        ("model", json!("nobody"), (404, "model_not_found")),
        ("training_file", json!("file-none"), (404, "file_not_found")),
        (
            "method",
            json!({"type": "reinforcement"}),
            (400, "unsupported_parameter"),
        ),
    ] {
        let mut wrong = body.clone();
        wrong[field] = value;
        let reply = post(&app, JOBS, Some(wrong)).await;
        assert_eq!(reply.error(), (error.0, error.1.to_owned()));
    }
    let unknown = get(&app, &format!("{JOBS}/ftjob-none")).await;
    assert_eq!(
        unknown.error(),
        (404, "fine_tuning_job_not_found".to_owned())
    );
    let stranger = app.get(JOBS).await;
    assert_eq!(stranger.status, 401);
    app.stop().await;
}
