//! Control state in the embedded store.
//!
//! A removed document leaves its row with no body, so that its revisions go on
//! growing and a stale compare-and-set can never match a re-made document.

mod lease;

use std::time::Duration;

use async_trait::async_trait;
use ids::{Revision, UnixMillis};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde_json::Value;
use store::sqlite::bump;
use store::{Sqlite, StoreError, Topic};
use tokio::sync::watch;

use crate::document::{from_text, to_text};
use crate::{
    AUDIT_PAGE_MAX, AUDIT_RECORDS_MAX, AuditEntry, AuditRecord, ControlError, ControlStore, DocKey,
    DocKind, Document, Expected, Found, Lease,
};

const VERSION: i64 = 1;
const TABLES: &str = "
CREATE TABLE control_document (
  kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, body TEXT,
  PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE control_lease (
  name TEXT PRIMARY KEY, holder TEXT NOT NULL, fence INTEGER NOT NULL, expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE control_audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, body_before TEXT, body_after TEXT
);
";

pub(crate) struct SqliteControl(Sqlite);

/// One change of a document.
struct Change {
    key: DocKey,
    body: Option<String>,
    expected: Expected,
    audit: AuditEntry,
    lease: Option<Lease>,
}

impl SqliteControl {
    pub(crate) async fn open(sqlite: Sqlite) -> Result<Self, ControlError> {
        sqlite.component("control", VERSION, TABLES).await?;
        Ok(Self(sqlite))
    }

    async fn change(&self, change: Change) -> Result<Revision, ControlError> {
        self.0.write(move |tx| change.apply(tx)).await
    }
}

#[async_trait]
impl ControlStore for SqliteControl {
    async fn get(&self, key: &DocKey) -> Result<Option<Document>, ControlError> {
        let key = key.clone();
        self.0
            .read(move |db| row_of(db, &key)?.and_then(Stored::document).transpose())
            .await
    }

    async fn list(&self, kind: DocKind) -> Result<Vec<(DocKey, Document)>, ControlError> {
        self.0.read(move |db| list(db, kind)).await
    }

    async fn put(
        &self,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError> {
        let body = Some(to_text(key, &body)?);
        self.change(Change {
            key: key.clone(),
            body,
            expected,
            audit,
            lease: None,
        })
        .await
    }

    async fn put_fenced(
        &self,
        lease: &Lease,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError> {
        let body = Some(to_text(key, &body)?);
        self.change(Change {
            key: key.clone(),
            body,
            expected,
            audit,
            lease: Some(lease.clone()),
        })
        .await
    }

    async fn delete(
        &self,
        key: &DocKey,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<(), ControlError> {
        let change = Change {
            key: key.clone(),
            body: None,
            expected,
            audit,
            lease: None,
        };
        self.change(change).await.map(drop)
    }

    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError> {
        crate::lease::check(name, holder)?;
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.0
            .write(move |tx| lease::acquire(tx, name, holder, now, now.plus(ttl)))
            .await
    }

    async fn renew_lease(
        &self,
        lease: &Lease,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError> {
        let lease = lease.clone();
        self.0
            .write(move |tx| lease::renew(tx, lease, now, now.plus(ttl)))
            .await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<bool, ControlError> {
        let lease = lease.clone();
        self.0.write(move |tx| lease::release(tx, &lease)).await
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRecord>, ControlError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        self.0
            .read(move |db| audit(db, after, limit.min(AUDIT_PAGE_MAX)))
            .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes(Topic::Control)
    }
}

/// A row of `control_document`, a tombstone included.
struct Stored {
    key: DocKey,
    revision: Revision,
    body: Option<String>,
}

impl Stored {
    fn document(self) -> Option<Result<Document, ControlError>> {
        let text = self.body?;
        Some(from_text(&self.key, &text).map(|body| Document {
            revision: self.revision,
            body,
        }))
    }
}

fn row_of(db: &Connection, key: &DocKey) -> Result<Option<Stored>, ControlError> {
    let mut select = db.prepare_cached(
        "SELECT revision, body FROM control_document WHERE kind = ?1 AND name = ?2",
    )?;
    let read = |row: &Row<'_>| {
        Ok(Stored {
            key: key.clone(),
            revision: Revision(unsigned(row, 0)?),
            body: row.get(1)?,
        })
    };
    Ok(select
        .query_row((key.kind().as_str(), key.name()), read)
        .optional()?)
}

fn list(db: &Connection, kind: DocKind) -> Result<Vec<(DocKey, Document)>, ControlError> {
    let select = "SELECT revision, body, name FROM control_document \
                  WHERE kind = ?1 AND body IS NOT NULL ORDER BY name";
    let mut select = db.prepare_cached(select)?;
    let mut rows = select.query([kind.as_str()])?;
    let mut documents = Vec::new();
    while let Some(row) = rows.next()? {
        let key = DocKey::new(kind, row.get::<_, String>(2)?)?;
        let body = from_text(&key, &row.get::<_, String>(1)?)?;
        documents.push((
            key,
            Document {
                revision: Revision(unsigned(row, 0)?),
                body,
            },
        ));
    }
    Ok(documents)
}

impl Change {
    fn apply(self, tx: &Transaction<'_>) -> Result<Revision, ControlError> {
        if let Some(lease) = &self.lease
            && !lease::is_in_force(tx, lease)?
        {
            return Err(ControlError::Fenced(lease.name.clone()));
        }
        let stored = row_of(tx, &self.key)?;
        let last = stored
            .as_ref()
            .map_or(Revision(0), |stored| stored.revision);
        let before = stored.and_then(|stored| stored.body);
        let found = if before.is_some() {
            Found::At(last)
        } else {
            Found::Absent
        };
        let matches = match self.expected {
            Expected::Any => true,
            Expected::Absent => found == Found::Absent,
            Expected::Revision(revision) => found == Found::At(revision),
        };
        if !matches {
            return Err(ControlError::Conflict {
                key: self.key,
                expected: self.expected,
                found,
            });
        }
        if before.is_none() && self.body.is_none() {
            return Ok(last);
        }
        let revision = Revision(last.0.saturating_add(1));
        self.write(tx, revision, before)?;
        Ok(revision)
    }

    fn write(
        &self,
        tx: &Transaction<'_>,
        revision: Revision,
        before: Option<String>,
    ) -> Result<(), ControlError> {
        let (kind, name) = (self.key.kind().as_str(), self.key.name());
        let upsert = "INSERT INTO control_document (kind, name, revision, body) VALUES (?1, ?2, ?3, ?4) \
                      ON CONFLICT (kind, name) DO UPDATE SET revision = excluded.revision, body = excluded.body";
        tx.prepare_cached(upsert)?
            .execute((kind, name, signed(revision.0), &self.body))?;
        let insert = "INSERT INTO control_audit (at, actor, action, kind, name, revision, body_before, body_after) \
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let audit = &self.audit;
        tx.prepare_cached(insert)?.execute((
            audit.at.0,
            &audit.actor,
            &audit.action,
            kind,
            name,
            signed(revision.0),
            before,
            &self.body,
        ))?;
        let oldest = tx
            .last_insert_rowid()
            .saturating_sub(signed(AUDIT_RECORDS_MAX));
        tx.prepare_cached("DELETE FROM control_audit WHERE seq <= ?1")?
            .execute([oldest])?;
        Ok(bump(tx, Topic::Control)?)
    }
}

fn audit(db: &Connection, after: i64, limit: usize) -> Result<Vec<AuditRecord>, ControlError> {
    let select = "SELECT seq, at, actor, action, kind, name, revision, body_before, body_after \
                  FROM control_audit WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let mut select = db.prepare_cached(select)?;
    let mut rows = select.query((after, i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(audit_record(row)?);
    }
    Ok(records)
}

fn audit_record(row: &Row<'_>) -> Result<AuditRecord, ControlError> {
    let kind: DocKind = serde_json::from_value(Value::String(row.get(4)?))
        .map_err(|_| StoreError::Corrupt { what: "audit log" })?;
    let key = DocKey::new(kind, row.get::<_, String>(5)?)?;
    let body = |column: usize| -> Result<Option<Value>, ControlError> {
        row.get::<_, Option<String>>(column)?
            .map(|text| from_text(&key, &text))
            .transpose()
    };
    Ok(AuditRecord {
        seq: unsigned(row, 0)?,
        at: UnixMillis(row.get(1)?),
        actor: row.get(2)?,
        action: row.get(3)?,
        revision: Revision(unsigned(row, 6)?),
        before: body(7)?,
        after: body(8)?,
        key,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
