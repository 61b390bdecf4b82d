//! The control state that all replicas share: aliases, rollouts and other
//! small documents, each with a revision; leases; and the audit log.
//!
//! Every change is a compare-and-set by revision, is written with its audit
//! record in one transaction, and is noticed by every process. Knows what a
//! document's name and size may be; what is in it only the typed helpers
//! [`aliases`] and [`rollouts`] know. No HTTP and no clock.

pub mod aliases;
mod document;
mod error;
mod lease;
mod redis;
pub mod rollouts;
mod sqlite;
mod typed;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ids::{Revision, UnixMillis};
use serde_json::Value;
use tokio::sync::watch;

pub use document::{
    AUDIT_PAGE_MAX, AUDIT_RECORDS_MAX, AuditEntry, AuditRecord, DOCUMENT_BYTES_MAX, DocKey,
    DocKind, Document, Expected, KEY_BYTES_MAX,
};
pub use error::{ControlError, Found};
pub use lease::{LEASE_NAME_BYTES_MAX, Lease};

/// A store of control state; both implementations pass one conformance suite.
#[async_trait]
pub trait ControlStore: Send + Sync {
    /// The document now, or none.
    async fn get(&self, key: &DocKey) -> Result<Option<Document>, ControlError>;

    /// All documents of one kind, by name.
    async fn list(&self, kind: DocKind) -> Result<Vec<(DocKey, Document)>, ControlError>;

    /// Writes the document where it still is as `expected`, with its audit
    /// record, and answers its new revision. Revisions of one key only grow,
    /// over deletions too.
    async fn put(
        &self,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError>;

    /// The same, and refused with [`ControlError::Fenced`] unless `lease` is
    /// the one in force.
    async fn put_fenced(
        &self,
        lease: &Lease,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError>;

    /// Removes the document where it still is as `expected`; a document that
    /// is not there conflicts with [`Expected::Revision`] only.
    async fn delete(
        &self,
        key: &DocKey,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<(), ControlError>;

    /// Takes the lease where it is free, expired, or already `holder`'s; each
    /// acquisition has a greater fence than all before it. None while another
    /// holder has it.
    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError>;

    /// Prolongs a lease that is still in force; none where it was lost.
    async fn renew_lease(
        &self,
        lease: &Lease,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError>;

    /// Gives the lease back; false where it was lost already.
    async fn release_lease(&self, lease: &Lease) -> Result<bool, ControlError>;

    /// Audit records with a sequence number above `after`, oldest first, at
    /// most [`AUDIT_PAGE_MAX`]. The newest [`AUDIT_RECORDS_MAX`] are kept.
    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRecord>, ControlError>;

    /// A number that grows when any document was changed, by any process.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The control state in an opened store.
///
/// # Errors
/// [`store::StoreError::Schema`] where it was written by another version.
pub async fn open(backend: &store::Backend) -> Result<Arc<dyn ControlStore>, ControlError> {
    match backend {
        store::Backend::Sqlite(sqlite) => {
            Ok(Arc::new(sqlite::SqliteControl::open(sqlite.clone()).await?))
        }
        store::Backend::Redis(redis) => {
            Ok(Arc::new(redis::RedisControl::open(redis.clone()).await?))
        }
    }
}
