//! Stages as a run trains them: what falls apart leaves its last good adapter.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::lora::LoraAdapter;
use serde_json::json;

use super::{services, tiny, words};
use crate::prepared::Prepared;
use crate::stages::train_stages;
use crate::train::Checkpoints as _;
use crate::vote_rows::VoteRows;
use crate::{CheckpointFile, Instability, Services, TrainerError, stage_files};

/// A file of preferences.
pub(super) fn pairs(folder: &Path, count: u64) -> PathBuf {
    let message = |role: &str, seed: u64, count: usize| json!([{ "role": role, "content": words(seed, count) }]);
    let row = |i: u64| {
        json!({
            "input": { "messages": message("user", 10 * i, 6) },
            "preferred_output": message("assistant", 10 * i + 1, 3),
            "non_preferred_output": message("assistant", 10 * i + 2, 3),
        })
    };
    let path = folder.join("pairs.jsonl");
    let lines: Vec<String> = (0..count).map(|i| row(i).to_string()).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// A recipe of one stage of these pairs.
pub(super) fn recipe(pairs: &Path, training: &str) -> String {
    format!(
        "[eval]\nanswer_tokens_max = 4\n[training]\nsequence_tokens_max = 256\n{training}\n\
         [training.lora]\nrank = 2\n[[stage]]\nkind = \"dpo\"\n[[stage.file]]\npath = {pairs:?}\n"
    )
}

/// A run without votes.
pub(super) fn prepared(services: &Services, folder: &Path) -> Arc<Prepared> {
    let (base, config) = (&services.base, &services.config);
    let votes = VoteRows::of(&[], &config.pair_options(), false).unwrap();
    let stages = config.stages().unwrap();
    let files = stage_files::prepare(base, config, votes.votes(), &stages, folder).unwrap();
    Arc::new(Prepared {
        run_id: "run-1".to_owned(),
        dataset: votes.dataset,
        rated: votes.rated,
        refused: votes.report,
        claimed: Vec::new(),
        stages,
        files,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_falls_apart_keeps_its_last_good_adapter() {
    let data = tempfile::tempdir().unwrap();
    let pairs = pairs(data.path(), 9);
    // a decay that turns each factor round and triples it, until it overflows
    let training = "learning_rate = 1e-2\nwarmup_ratio = 0.0\ndecay = \"constant\"\n\
                    patience_epochs = 0\nmicro_batches = 1\nadamw = { weight_decay = 400.0 }";
    let services = services(data.path(), &recipe(&pairs, training)).await;
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut prepared = prepared(&services, folder.path());
    // more than a file may ask for
    Arc::make_mut(&mut prepared).stages[0].training.epochs = 60;
    let error = train_stages(&services, folder.path(), &prepared, &stop)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            TrainerError::Unstable(Instability::NonFinite { .. } | Instability::Diverged { .. })
        ),
        "{error}"
    );
    let kept = folder.path().join("last_good");
    let read = |name: &str| std::fs::read(kept.join(name)).unwrap();
    let (config, weights) = (
        read("adapter_config.json"),
        read("adapter_model.safetensors"),
    );
    let adapter = LoraAdapter::from_peft(&config, &weights, &tiny().config).unwrap();
    let factors = adapter.modules.values();
    assert!(
        factors
            .flat_map(|m| m.a.iter().chain(&m.b))
            .all(|v| v.is_finite())
    );
    // the checkpoint is of the last epoch that ended well, and has the same adapter
    let checkpoint = CheckpointFile::new(folder.path(), 0)
        .last()
        .unwrap()
        .unwrap();
    let best = checkpoint.best.unwrap();
    assert!(best.parameters.iter().flatten().all(|v| v.is_finite()));
    assert!(checkpoint.position.epochs >= best.epoch && best.epoch >= 1);
    assert!(folder.path().join("curve.svg").exists());
}
