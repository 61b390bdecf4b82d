//! Old versions go; what a rollout or an alias names stays, whatever the limit.

use adapter_store::{AdapterFiles, Lineage, Source};
use control::{AuditEntry, Expected};
use ids::{AdapterDigest, AliasName, BasisPoints, ModelName, UnixMillis};
use rollout::{Command, Rollout};

use super::{services, tiny};
use crate::Services;
use crate::recipe::fresh_adapter;
use crate::retention::make_room;
use crate::train::TrainConfig;

fn audit() -> AuditEntry {
    AuditEntry {
        actor: "test".to_owned(),
        action: "test".to_owned(),
        at: UnixMillis(1),
    }
}

/// A trained version of that age.
async fn version(services: &Services, number: i64) -> AdapterDigest {
    let mut config = TrainConfig {
        seed: number.unsigned_abs(),
        ..TrainConfig::default()
    };
    config.lora.rank = 1;
    let adapter = fresh_adapter(tiny(), &config).unwrap();
    let peft = adapter.to_peft(&tiny().config).unwrap();
    let files = AdapterFiles::new(peft.config_json, peft.safetensors);
    let lineage = Lineage {
        source: Source::Trained,
        ..Lineage::imported(UnixMillis(number))
    };
    services.adapters.put(&files, &lineage).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_previous_canary_and_aliased_versions_never_go() {
    let data = tempfile::tempdir().unwrap();
    let recipe = "[storage]\nversions_max = 1\nfree_bytes_min = 0\n";
    let services = services(data.path(), recipe).await;
    let mut made = Vec::new();
    for number in 1..=7 {
        made.push(version(&services, number).await);
    }
    // the oldest are in use: one was stable, one is, one is on trial, one has a name
    let control = &*services.control;
    let name = ModelName::new("flywheel").unwrap();
    let mut rollout = Rollout::new(name, services.base.digest, None, UnixMillis(1));
    for (number, promote) in [(0, true), (1, true), (2, false)] {
        let put = Command::SetCanary {
            adapter: made[number],
            basis_points: BasisPoints::new(500).unwrap(),
            new_salt: format!("salt-{number}"),
        };
        rollout = rollout.apply(put, UnixMillis(2)).unwrap();
        if promote {
            rollout = rollout.apply(Command::Promote, UnixMillis(3)).unwrap();
        }
    }
    control::rollouts::put(control, &rollout, Expected::Any, audit())
        .await
        .unwrap();
    let alias = AliasName::new("kept").unwrap();
    control::aliases::set(control, &alias, made[3], Expected::Any, audit())
        .await
        .unwrap();

    make_room(&services).await.unwrap();
    let mut left: Vec<AdapterDigest> = Vec::new();
    for manifest in services.adapters.list().await.unwrap() {
        left.push(manifest.digest);
    }
    let named = &made[..4];
    assert!(named.iter().all(|digest| left.contains(digest)), "{left:?}");
    assert_eq!(left.len(), named.len(), "all that nothing names are gone");
}
