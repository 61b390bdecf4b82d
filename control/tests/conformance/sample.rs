//! Stores, keys and audit entries to test with.

use std::sync::Arc;

use control::{AuditEntry, ControlStore, DocKey, DocKind};
use ids::UnixMillis;
use store::testing::Place;

pub(crate) const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

pub(crate) async fn open(place: &Place) -> Arc<dyn ControlStore> {
    control::open(&place.open().await.unwrap()).await.unwrap()
}

pub(crate) fn key(name: &str) -> DocKey {
    DocKey::new(DocKind::Trainer, name).unwrap()
}

pub(crate) fn by(actor: &str) -> AuditEntry {
    AuditEntry {
        actor: actor.to_owned(),
        action: "test".to_owned(),
        at: NOW,
    }
}
