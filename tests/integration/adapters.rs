//! Loading, naming and unloading adapters while the gateway serves.

use reqwest::Method;
use serde_json::json;

use super::app::{MODEL, TestApp, question};
use super::fixtures::write_adapter;

#[tokio::test(flavor = "multi_thread")]
async fn load_name_pin_and_unload_in_vllm_words() {
    let app = TestApp::start().await;
    let digest = write_adapter(&app.root.join("one"), 1).to_string();
    let reply = app.load("one", "one").await;
    assert_eq!(
        reply.text,
        "Success: LoRA adapter 'one' added successfully."
    );
    assert_eq!(app.answers("one", None).await, json!(digest));
    assert_eq!(app.answers(&digest, None).await, json!(digest));
    assert_eq!(
        app.answers(MODEL, None).await,
        json!(null),
        "loading gives nobody traffic"
    );
    let mut body = question(MODEL, 1);
    body["adapter"] = json!("one");
    assert_eq!(
        app.post("/v1/chat/completions", body.clone()).await.ok()["adapter_digest"],
        json!(digest)
    );
    body["adapter"] = json!({"digest": digest});
    assert_eq!(
        app.post("/v1/chat/completions", body).await.ok()["adapter_digest"],
        json!(digest)
    );
    assert_eq!(
        app.get("/v1/models/one").await.ok()["adapter_digest"],
        json!(digest)
    );

    let again = app.load("one", "one").await;
    assert_eq!(again.status, 400);
    let message = "The lora adapter 'one' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.";
    assert_eq!(
        again.json()["error"],
        json!({"message": message, "type": "InvalidUserInput", "param": null, "code": null})
    );

    let list = app
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .ok();
    assert_eq!(list["data"][0]["base"], "unverified");
    assert_eq!(list["data"][0]["aliases"], json!(["one"]));
    let in_use = app
        .admin(
            Method::DELETE,
            &format!("/admin/v1/adapters/{digest}"),
            None,
        )
        .await;
    assert_eq!(in_use.error(), (409, "adapter_in_use".to_owned()));

    let body = json!({"lora_name": "one"});
    let gone = app
        .admin(Method::POST, "/v1/unload_lora_adapter", Some(body.clone()))
        .await;
    assert_eq!(
        gone.text,
        "Success: LoRA adapter 'one' removed successfully."
    );
    assert_eq!(
        app.ask("one", None, 1).await.error(),
        (404, "model_not_found".to_owned())
    );
    let twice = app
        .admin(Method::POST, "/v1/unload_lora_adapter", Some(body))
        .await;
    assert_eq!(twice.status, 404);
    assert_eq!(
        twice.json()["error"]["message"],
        "The lora adapter 'one' cannot be found."
    );
    assert_eq!(twice.json()["error"]["type"], "NotFoundError");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_stream_keeps_its_version_while_its_alias_moves() {
    let app = TestApp::start().await;
    let old = app.adapter("name", 1).await.to_string();
    let new = write_adapter(&app.root.join("new"), 2).to_string();
    let mut body = question("name", 60);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let alone = app.post("/v1/chat/completions", body.clone()).await.text;
    let client = app.client.clone();
    let running = tokio::spawn(async move { client.post("/v1/chat/completions", body).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let wrong = json!({"lora_name": "name", "lora_path": "new", "load_inplace": true, "expected_digest": new});
    let refused = app
        .admin(Method::POST, "/v1/load_lora_adapter", Some(wrong))
        .await;
    assert_eq!(refused.error(), (409, "conflict".to_owned()));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let right = json!({"lora_name": "name", "lora_path": "new", "load_inplace": true, "expected_digest": old});
    assert_eq!(
        app.admin(Method::POST, "/v1/load_lora_adapter", Some(right))
            .await
            .status,
        200
    );
    assert_eq!(app.answers("name", None).await, json!(new));
    let stream = running.await.unwrap().text;
    assert!(!stream.contains(&new) && stream.contains(&old));
    let strip = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: {"));
        lines
            .map(|line| line.split("\"choices\"").nth(1).unwrap_or("").to_owned())
            .collect()
    };
    assert_eq!(
        strip(&stream),
        strip(&alone),
        "not one token came from another version"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_may_lead_to_a_stored_version_which_is_loaded_when_it_is_asked_for() {
    let app = TestApp::start().await;
    app.adapter("one", 1).await;
    let list = app.admin(Method::GET, "/admin/v1/adapters", None).await;
    let bytes = list.ok()["data"][0]["resident_bytes"].as_u64().unwrap();
    app.stop().await;
    let app = TestApp::with(|config| config.engine.adapter_bytes_max = Some(3 * bytes)).await;
    let mut digests = Vec::new();
    for seed in 1..=6 {
        let digest = app.adapter(&format!("seed-{seed}"), seed).await;
        digests.push(json!(digest));
    }
    let resident = async || {
        let list = app
            .admin(Method::GET, "/admin/v1/adapters", None)
            .await
            .ok();
        let cards = list["data"].as_array().unwrap().clone();
        let loaded = cards.iter().filter(|card| card["resident"] == json!(true));
        (
            cards.len(),
            loaded
                .map(|card| card["digest"].clone())
                .collect::<Vec<_>>(),
        )
    };
    let (stored, loaded) = resident().await;
    assert_eq!(stored, 6, "all are stored");
    assert!(
        loaded.len() <= 3 && !loaded.contains(&digests[0]),
        "{loaded:?}"
    );
    // many at once: one load, and each answer names the version of its alias
    let asks = (0..12).map(|i| {
        let (client, seed) = (app.client.clone(), i % 6);
        async move {
            let reply = client
                .ask(&format!("seed-{}", seed + 1), None, 2)
                .await
                .ok();
            (seed, reply["adapter_digest"].clone())
        }
    });
    for (seed, digest) in futures::future::join_all(asks).await {
        assert_eq!(digest, digests[seed], "seed {seed}");
    }
    let first = app.answers("seed-1", None).await;
    assert_eq!(first, digests[0]);
    let (stored, loaded) = resident().await;
    assert!(
        loaded.contains(&digests[0]) && loaded.len() <= 3,
        "{loaded:?}"
    );
    assert_eq!(stored, 6);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_changes_nothing() {
    let app = TestApp::start().await;
    let good = app.adapter("good", 1).await;
    let folder = |name: &str| {
        write_adapter(&app.root.join(name), 3);
        app.root.join(name)
    };
    let rewrite = |name: &str, from: &str, to: &str| {
        let path = folder(name).join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = text.replace(from, to);
        assert_ne!(text, changed, "{from} is not in {text}");
        std::fs::write(path, changed).unwrap();
    };
    let weights = |name: &str, from: &[u8], to: &[u8]| {
        let path = folder(name).join("adapter_model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let places: Vec<usize> = bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, w)| *w == from)
            .map(|(i, _)| i)
            .collect();
        assert!(!places.is_empty());
        places
            .iter()
            .for_each(|at| bytes[*at..*at + to.len()].copy_from_slice(to));
        std::fs::write(path, bytes).unwrap();
    };
    rewrite("rank", "\"r\": 4", "\"r\": 5");
    weights("modules", b"self_attn", b"other_att");
    std::fs::write(folder("cut").join("adapter_model.safetensors"), b"short").unwrap();
    std::fs::write(folder("json").join("adapter_config.json"), b"{").unwrap();
    std::fs::remove_file(folder("pickle").join("adapter_model.safetensors")).unwrap();
    std::fs::write(app.root.join("pickle/adapter_model.bin"), b"x").unwrap();
    let outside = tempfile::tempdir().unwrap();
    write_adapter(outside.path(), 4);
    std::os::unix::fs::symlink(outside.path(), app.root.join("link")).unwrap();
    let before = app
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .text;
    for (path, status) in [
        ("rank", 400),
        ("modules", 400),
        ("cut", 400),
        ("json", 400),
        ("pickle", 400),
        ("link", 400),
        ("../outside", 400),
        ("/etc", 400),
        (outside.path().to_str().unwrap(), 400),
        ("nowhere", 404),
    ] {
        let reply = app.load("new", path).await;
        let kind = reply.json()["error"]["type"].clone();
        let wanted = if status == 404 {
            "NotFoundError"
        } else {
            "InvalidUserInput"
        };
        assert_eq!(
            (reply.status.as_u16(), kind),
            (status, json!(wanted)),
            "{path}: {}",
            reply.text
        );
    }
    for body in [
        json!({"lora_name": "x"}),
        json!({"lora_path": "x"}),
        json!({}),
    ] {
        let reply = app
            .admin(Method::POST, "/v1/load_lora_adapter", Some(body))
            .await;
        assert_eq!(
            reply.json()["error"]["message"],
            "Both 'lora_name' and 'lora_path' must be provided."
        );
    }
    for name in [MODEL, "SmolLM2-135M-Instruct.Q4_1", "white space"] {
        assert_eq!(app.load(name, "good").await.status, 400, "{name}");
    }
    let body = json!({"lora_name": "good", "lora_path": "cut", "load_inplace": true});
    assert_eq!(
        app.admin(Method::POST, "/v1/load_lora_adapter", Some(body))
            .await
            .status,
        400
    );
    let after = app
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .text;
    assert_eq!(before, after);
    assert_eq!(
        app.answers("good", None).await,
        json!(good),
        "the old version goes on serving"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_adapters_than_fit_are_all_served() {
    const REGISTERED: u64 = 6;
    let roomy = TestApp::start().await;
    roomy.adapter("one", 1).await;
    let list = roomy
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .ok();
    let bytes = list["data"][0]["resident_bytes"].as_u64().unwrap();
    roomy.stop().await;

    let app = TestApp::with(|config| config.engine.adapter_bytes_max = Some(2 * bytes)).await;
    let mut digests = Vec::new();
    for seed in 0..REGISTERED {
        let digest = app.adapter(&format!("adapter-{seed}"), seed).await;
        digests.push(digest.to_string());
    }
    let asked = (0..4 * REGISTERED).map(|i| {
        let (client, which) = (app.client.clone(), (i * 5 % REGISTERED) as usize);
        async move {
            let reply = client.ask(&format!("adapter-{which}"), None, 3).await;
            (which, reply.ok()["adapter_digest"].clone())
        }
    });
    for (which, answered_by) in futures::future::join_all(asked).await {
        assert_eq!(answered_by, json!(digests[which]));
    }
    let list = app
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .ok();
    let cards = list["data"].as_array().unwrap();
    let resident = cards.iter().filter(|card| card["resident"] == json!(true));
    assert_eq!(cards.len() as u64, REGISTERED);
    assert!((1..=2).contains(&resident.count()));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_on_disk_is_never_served() {
    let roomy = TestApp::start().await;
    roomy.adapter("one", 1).await;
    let list = roomy
        .admin(Method::GET, "/admin/v1/adapters", None)
        .await
        .ok();
    let bytes = list["data"][0]["resident_bytes"].as_u64().unwrap();
    roomy.stop().await;

    let app = TestApp::with(|config| config.engine.adapter_bytes_max = Some(bytes)).await;
    let damaged = app.adapter("damaged", 1).await;
    let whole = app.adapter("whole", 2).await;
    let data = app.root.parent().unwrap().join("data");
    let files = data.join("adapters/files").join(damaged.hex());
    let longest = std::fs::read_dir(files)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut content = std::fs::read(&longest).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&longest, content).unwrap();
    let refused = app.ask("damaged", None, 1).await;
    assert_eq!(refused.error(), (500, "internal_error".to_owned()));
    assert_eq!(
        app.answers("whole", None).await,
        json!(whole.to_string()),
        "the others go on"
    );
    app.stop().await;
}
