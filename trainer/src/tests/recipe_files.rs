//! A recipe whose stages read files of every format: what is refused, what is
//! drawn, and what becomes of an interrupted run whose files changed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};

use super::stages::prepared;
use super::{services, words};
use crate::data::EvaluationSet;
use crate::stage_files::{self, StageRows};
use crate::stages::train_stages;
use crate::{Config, Drawn, RunOutcome, TrainerError, run_once};

struct Folder(tempfile::TempDir);

impl Folder {
    fn write(&self, name: &str, rows: impl IntoIterator<Item = Value>) -> PathBuf {
        let lines: Vec<String> = rows.into_iter().map(|row| row.to_string()).collect();
        self.text(name, &lines.join("\n"))
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn stage(kind: &str, files: &[(&Path, Option<&str>)]) -> String {
    let mut text = format!("[[stage]]\nkind = {kind:?}\n");
    for (path, category) in files {
        let _ = writeln!(text, "[[stage.file]]\npath = {path:?}");
        if let Some(category) = category {
            let _ = writeln!(text, "category = {category:?}");
        }
    }
    text
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

fn chat(number: u64) -> Value {
    json!({ "messages": [message("user", &words(number, 6)), message("assistant", &words(number + 1, 4))] })
}

fn preference(number: u64) -> Value {
    json!({
        "input": { "messages": [message("user", &words(number, 6))] },
        "preferred_output": [message("assistant", &words(number + 1, 3))],
        "non_preferred_output": [message("assistant", &words(number + 2, 3))],
    })
}

/// Three stages over files of all formats, small enough for the tiny model.
fn recipe(folder: &Folder) -> String {
    let rows = |from: u64, of: &dyn Fn(u64) -> Value| -> Vec<Value> {
        (0..20).map(|i| of(from + 10 * i)).collect()
    };
    let book = folder.text("book.txt", &[words(1, 900), words(2, 900)].join("\n\n"));
    let notes = folder.write(
        "notes.jsonl",
        (0..4).map(|i| json!({ "text": words(50 + i, 40) })),
    );
    let mut chats = rows(1000, &chat);
    chats.insert(
        3,
        json!({ "messages": [message("assistant", "nobody asked")] }),
    );
    let chats = folder.write("chats.jsonl", chats);
    let alpaca = folder.write(
        "alpaca.jsonl",
        rows(
            2000,
            &|n| json!({ "instruction": words(n, 6), "input": "", "output": words(n + 1, 4) }),
        ),
    );
    let sharegpt = folder.write(
        "sharegpt.jsonl",
        rows(3000, &|n| {
            json!({ "conversations": [
            { "from": "human", "value": words(n, 6) }, { "from": "gpt", "value": words(n + 1, 4) },
        ] })
        }),
    );
    let reasoning = folder.write("reasoning.jsonl", (0..30).map(|i| {
        let n = 4000 + 10 * i;
        json!({ "question": words(n, 6), "thinking": words(n + 1, 6), "answer": words(n + 2, 2) })
    }));
    let general = folder.write("general.jsonl", rows(5000, &chat));
    let pairs = folder.write("pairs.jsonl", rows(6000, &preference));
    let mut text = "[gate]\nheld_out_min = 1\n[eval]\nanswer_tokens_max = 4\n\
         [training]\nepochs = 1\nsequence_tokens_max = 256\n[training.lora]\nrank = 2\n"
        .to_owned();
    text.push_str(&stage("cpt", &[(&book, None), (&notes, None)]));
    let sft = [
        (chats.as_path(), None),
        (alpaca.as_path(), None),
        (sharegpt.as_path(), None),
        (reasoning.as_path(), None),
        (general.as_path(), Some("general")),
    ];
    text.push_str(&stage("sft", &sft));
    text.push_str(&stage("dpo", &[(&pairs, None)]));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_train_from_files_of_every_format() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), &recipe(&folder)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let outcome = run_once(&services, Arc::clone(&stop), false).await.unwrap();
    let RunOutcome::Judged(report) = outcome else {
        panic!("{outcome:?}");
    };
    let training = report.training.as_ref().unwrap();
    let [cpt, sft, dpo] = &training.stages[..] else {
        panic!("{:?}", training.stages);
    };
    assert_eq!((cpt.files.refused, cpt.drawn), (0, None));
    assert!(cpt.files.kept >= 6 && cpt.examples[0] > 4, "{cpt:?}");
    // a quarter of what is learned is reasoning, a tenth of all is replay
    let Drawn {
        available, drawn, ..
    } = sft.drawn.unwrap();
    assert_eq!((available, drawn), ([30, 60, 20], [20, 60, 9]));
    assert_eq!(sft.examples.iter().sum::<usize>(), 89);
    assert_eq!((sft.files.kept, sft.files.refused), (110, 1));
    assert_eq!(dpo.files.kept, 20);
    assert_eq!(dpo.examples, [20 - dpo.files.held_out, dpo.files.held_out]);
    assert_eq!(training.held_out_pairs, dpo.files.held_out);
    let judged = report.evaluation.preference.as_ref().unwrap();
    assert_eq!(judged.pairs, dpo.files.held_out);
    let text = report.text();
    assert!(
        text.contains("drawn: reasoning 20 (22%), dialogue 60 (67%), general 9 (10%)"),
        "{text}"
    );

    // the refused line is named
    let run = data.path().join("trainer/runs").join(&report.run_id);
    let listed: Value =
        serde_json::from_slice(&std::fs::read(run.join("data-2.json")).unwrap()).unwrap();
    let refused = &listed["refused_rows"][0];
    assert_eq!(
        (&refused["line"], &refused["problem"]["reason"]),
        (&json!(4), &json!("roles"))
    );
    assert!(refused["path"].as_str().unwrap().ends_with("chats.jsonl"));

    // the same files and votes are the same dataset, others are not
    let again = run_once(&services, Arc::clone(&stop), false).await.unwrap();
    assert!(
        matches!(again, RunOutcome::Unchanged(digest) if digest == training.dataset),
        "{again:?}"
    );
    folder.write("pairs.jsonl", (0..8).map(|i| preference(7000 + 10 * i)));
    let changed = run_once(&services, stop, false).await.unwrap();
    assert!(matches!(changed, RunOutcome::Judged(_)), "{changed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_changed_since_the_run_was_prepared_are_not_trained() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let pairs = folder.write("pairs.jsonl", (0..8).map(|i| preference(10 * i)));
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), &stage("dpo", &[(&pairs, None)])).await;
    let prepared = prepared(&services, data.path());
    folder.write("pairs.jsonl", (0..8).map(|i| preference(10 * i + 1)));
    let stop = Arc::new(AtomicBool::new(false));
    let error = train_stages(&services, data.path(), &prepared, &stop)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            TrainerError::Config {
                key: "stage.file",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_no_use_and_rows_of_the_evaluation_are_refused() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let asked = words(77, 6);
    let asked_row = json!({ "messages": [message("user", &asked), message("assistant", "yes")] });
    let chats = folder.write("chats.jsonl", [chat(1), asked_row, chat(2)]);
    let texts = folder.write("texts.jsonl", [json!({ "text": words(3, 9) })]);
    let tasks = folder.write("tasks.jsonl", [json!({ "prompt": asked, "expect": "no" })]);
    let recipe = format!(
        "[eval]\ntasks = [{tasks:?}]\n{}",
        stage("sft", &[(&chats, None), (&texts, None)])
    );
    let data = tempfile::tempdir().unwrap();
    let services = services(data.path(), &recipe).await;
    let prepared = prepared(&services, data.path());
    let report = &prepared.files[0].report;
    assert_eq!((report.kept, report.refused), (2, 2));
    let listed = std::fs::read(data.path().join("data-1.json")).unwrap();
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let reasons: Vec<&Value> = (0..2)
        .map(|i| &listed["refused_rows"][i]["problem"]["reason"])
        .collect();
    assert_eq!(reasons, ["in_evaluation", "other_kind"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_stage_holds_out_no_other_trains() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let pairs = folder.write("pairs.jsonl", (0..30).map(|i| preference(10 * i)));
    // asked alike, answered otherwise
    let asked = |i: u64| {
        let user = format!("{}?", words(10 * i, 6).to_uppercase());
        json!({ "messages": [message("user", &user), message("assistant", &words(10 * i + 5, 4))] })
    };
    let chats = folder.write("chats.jsonl", (0..30).map(asked));
    let [sft, dpo] = [
        stage("sft", &[(&pairs, None), (&chats, None)]),
        stage("dpo", &[(&pairs, None)]),
    ];
    let data = tempfile::tempdir().unwrap();
    let alone = services(data.path(), &dpo).await;
    let alone = prepared(&alone, data.path());
    let held_out = &alone.files[0].held_out;
    assert!(!held_out.is_empty() && held_out.len() < 20);

    let data = tempfile::tempdir().unwrap();
    let both = services(data.path(), &format!("{sft}{dpo}")).await;
    let both = prepared(&both, data.path());
    // the gate's rows are those of the pairs alone, and both files are kept from them
    assert_eq!(both.held_out(), *held_out);
    let count = held_out.len();
    let report = &both.files[0].report;
    assert_eq!((report.kept, report.refused), (60 - 2 * count, 2 * count));
    assert_eq!(both.files[1].report, alone.files[0].report);
    let listed = std::fs::read(data.path().join("data-1.json")).unwrap();
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let refused = listed["refused_rows"].as_array().unwrap();
    assert_eq!(refused.len(), 2 * count);
    assert!(
        refused.iter().all(
            |row| row["line"].as_u64() > Some(0) && row["problem"]["reason"] == "in_evaluation"
        )
    );
    let kept = |at: usize| listed["files"][at]["kept"].as_u64();
    assert_eq!(
        (kept(0), kept(1)),
        (Some(30 - count as u64), Some(30 - count as u64))
    );
    // what is read again to train has the same name
    let stages = &both.stages;
    let others = stage_files::others(&both.files, 0);
    let base = super::tiny();
    let rows = StageRows::read(base, &Config::default(), both.votes(), &stages[0], &others);
    assert_eq!(rows.unwrap().report.digest, report.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_file_holds_out_another_file_does_not_train() {
    let folder = Folder(tempfile::tempdir().unwrap());
    // the same questions in both, with other words before them
    let asked = |before: &str, i: u64| {
        let mut row = preference(10 * i);
        let question = format!("{before} {}", words(10 * i, 14));
        row["input"]["messages"][0]["content"] = json!(question);
        row
    };
    let of = |name: &str, before: &str, answers: u64| {
        let rows = (0..20).map(|i| {
            let mut row = asked(before, i);
            row["preferred_output"][0]["content"] = json!(words(1000 + answers + i, 6));
            row["non_preferred_output"][0]["content"] = json!(words(2000 + answers + i, 6));
            row
        });
        folder.write(name, rows.collect::<Vec<_>>())
    };
    let (first, second) = (of("a.jsonl", "Well,", 0), of("b.jsonl", "So tell me:", 100));
    let data = tempfile::tempdir().unwrap();
    let recipe = stage("dpo", &[(&first, None), (&second, None)]);
    let services = services(data.path(), &recipe).await;
    let prepared = prepared(&services, data.path());
    let others = stage_files::others(&prepared.files, 0);
    let (base, stage) = (super::tiny(), &prepared.stages[0]);
    let rows = StageRows::read(base, &services.config, prepared.votes(), stage, &others).unwrap();
    assert!(!rows.held_out.is_empty() && rows.report.refused > 0);
    let mut judged = EvaluationSet::default();
    rows.held_out
        .iter()
        .for_each(|row| judged.add(row.row.prompt()));
    assert!(rows.train.iter().all(|row| !judged.holds(&row.row)));
    assert_eq!(rows.report.kept, 40 - rows.report.refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn general_answers_are_mixed_in_beside_pairs() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let pairs = folder.write(
        "pairs.jsonl",
        (0..12).map(|i| preference(10 * i)).chain([chat(900)]),
    );
    let rows = (0..9)
        .map(|i| chat(1000 + 10 * i))
        .chain([preference(2000)]);
    let general = folder.write("general.jsonl", rows);
    let data = tempfile::tempdir().unwrap();
    let recipe = format!(
        "[training]\nepochs = 1\nsequence_tokens_max = 256\n[training.lora]\nrank = 2\n{}\
         [stage.training.retention]\nweight = 1.0\nper_micro_batch = 2\n",
        stage("dpo", &[(&pairs, None), (&general, Some("general"))])
    );
    let services = services(data.path(), &recipe).await;
    let prepared = prepared(&services, data.path());
    let files = &prepared.files[0];
    // a pair among the answers and an answer among the pairs are of no use there
    assert_eq!((files.report.kept, files.report.refused), (21, 2));
    assert_eq!(files.report.pairs(), 12);
    let held_out = files.held_out.len();
    assert!(held_out > 0 && files.report.held_out == held_out);
    let stop = Arc::new(AtomicBool::new(false));
    let trained = train_stages(&services, data.path(), &prepared, &stop);
    let report = &trained.await.unwrap().stages[0];
    assert_eq!(report.examples, [12 - held_out, held_out]);
    assert_eq!(report.retained, 9);
    assert!(report.text().contains("9 general and praised to retain"));
    let steps = std::fs::read_to_string(data.path().join("steps.jsonl")).unwrap();
    let first: Value = serde_json::from_str(steps.lines().next().unwrap()).unwrap();
    assert!(
        first["loss"].as_f64() > first["loss_dpo"].as_f64(),
        "{first}"
    );
}
