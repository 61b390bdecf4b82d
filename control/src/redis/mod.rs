//! Control state in Redis: two hashes for each kind of document (revisions and
//! bodies), a hash for each lease, and a stream for the audit log. Each change
//! is one script, hence atomic.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use ids::{Revision, UnixMillis};
use serde_json::Value;
use store::redis::{eval, key};
use store::{Redis, StoreError, Topic};
use tokio::sync::watch;

use crate::document::{from_text, to_text};
use crate::{
    AUDIT_PAGE_MAX, AUDIT_RECORDS_MAX, AuditEntry, AuditRecord, ControlError, ControlStore, DocKey,
    DocKind, Document, Expected, Found, Lease,
};

const VERSION: i64 = 1;
const CHANGE: &str = include_str!("change.lua");
const LEASE: &str = include_str!("lease.lua");
/// Revision and body of one document, read together.
const GET: &str = "
local p = KEYS[1] .. 'control:'
return {redis.call('HGET', p .. 'revision:' .. ARGV[1], ARGV[2]), redis.call('HGET', p .. 'body:' .. ARGV[1], ARGV[2])}
";
/// The same of all documents of one kind.
const LIST: &str = "
local p = KEYS[1] .. 'control:'
return {redis.call('HGETALL', p .. 'revision:' .. ARGV[1]), redis.call('HGETALL', p .. 'body:' .. ARGV[1])}
";

pub(crate) struct RedisControl(Redis);

impl RedisControl {
    pub(crate) async fn open(redis: Redis) -> Result<Self, ControlError> {
        redis.component("control", VERSION).await?;
        Ok(Self(redis))
    }

    async fn change(
        &self,
        key: &DocKey,
        body: Option<&str>,
        expected: Expected,
        audit: AuditEntry,
        lease: Option<&Lease>,
    ) -> Result<Revision, ControlError> {
        let (word, expected_revision) = match expected {
            Expected::Any => ("any", 0),
            Expected::Absent => ("absent", 0),
            Expected::Revision(revision) => ("revision", revision.0),
        };
        let mut command = eval(CHANGE);
        command.arg(key.kind().as_str()).arg(key.name());
        command
            .arg(u8::from(body.is_some()))
            .arg(body.unwrap_or(""));
        command.arg(word).arg(expected_revision);
        command
            .arg(audit.at.0)
            .arg(audit.actor)
            .arg(audit.action)
            .arg(AUDIT_RECORDS_MAX);
        match lease {
            Some(lease) => command.arg(&lease.name).arg(&lease.holder).arg(lease.fence),
            None => command.arg("").arg("").arg(""),
        };
        let (outcome, revision): (String, u64) = self.0.write(command).await?;
        let conflict = |found| {
            Err(ControlError::Conflict {
                key: key.clone(),
                expected,
                found,
            })
        };
        match outcome.as_str() {
            "done" => Ok(Revision(revision)),
            "conflict_at" => conflict(Found::At(Revision(revision))),
            "conflict_absent" => conflict(Found::Absent),
            "fenced" => Err(ControlError::Fenced(
                lease.map_or_else(String::new, |lease| lease.name.clone()),
            )),
            _ => Err(StoreError::Corrupt { what: "answer" }.into()),
        }
    }

    /// Runs one operation on a lease; true where the lease is the holder's.
    async fn lease(
        &self,
        operation: &str,
        lease: &Lease,
        now: UnixMillis,
    ) -> Result<Option<u64>, ControlError> {
        let mut command = eval(LEASE);
        command.arg(operation).arg(&lease.name).arg(&lease.holder);
        command.arg(now.0).arg(lease.expires_at.0).arg(lease.fence);
        let fence: u64 = self.0.write(command).await?;
        Ok((fence > 0).then_some(fence))
    }
}

#[async_trait]
impl ControlStore for RedisControl {
    async fn get(&self, key: &DocKey) -> Result<Option<Document>, ControlError> {
        let mut command = eval(GET);
        command.arg(key.kind().as_str()).arg(key.name());
        let (revision, body): (Option<u64>, Option<String>) = self.0.read(command).await?;
        let (Some(revision), Some(text)) = (revision, body) else {
            return Ok(None);
        };
        Ok(Some(Document {
            revision: Revision(revision),
            body: from_text(key, &text)?,
        }))
    }

    async fn list(&self, kind: DocKind) -> Result<Vec<(DocKey, Document)>, ControlError> {
        let mut command = eval(LIST);
        command.arg(kind.as_str());
        let (revisions, bodies): (HashMap<String, u64>, HashMap<String, String>) =
            self.0.read(command).await?;
        let mut documents = Vec::with_capacity(bodies.len());
        for (name, text) in bodies {
            let revision = Revision(revisions.get(&name).copied().unwrap_or(0));
            let key = DocKey::new(kind, name)?;
            let body = from_text(&key, &text)?;
            documents.push((key, Document { revision, body }));
        }
        documents.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(documents)
    }

    async fn put(
        &self,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError> {
        let text = to_text(key, &body)?;
        self.change(key, Some(&text), expected, audit, None).await
    }

    async fn put_fenced(
        &self,
        lease: &Lease,
        key: &DocKey,
        body: Value,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<Revision, ControlError> {
        let text = to_text(key, &body)?;
        self.change(key, Some(&text), expected, audit, Some(lease))
            .await
    }

    async fn delete(
        &self,
        key: &DocKey,
        expected: Expected,
        audit: AuditEntry,
    ) -> Result<(), ControlError> {
        self.change(key, None, expected, audit, None)
            .await
            .map(drop)
    }

    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError> {
        crate::lease::check(name, holder)?;
        let wanted = Lease {
            name: name.to_owned(),
            holder: holder.to_owned(),
            fence: 0,
            expires_at: now.plus(ttl),
        };
        let fence = self.lease("acquire", &wanted, now).await?;
        Ok(fence.map(|fence| Lease { fence, ..wanted }))
    }

    async fn renew_lease(
        &self,
        lease: &Lease,
        ttl: Duration,
        now: UnixMillis,
    ) -> Result<Option<Lease>, ControlError> {
        let wanted = Lease {
            expires_at: now.plus(ttl),
            ..lease.clone()
        };
        let fence = self.lease("renew", &wanted, now).await?;
        Ok(fence.map(|_| wanted))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<bool, ControlError> {
        Ok(self.lease("release", lease, UnixMillis(0)).await?.is_some())
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRecord>, ControlError> {
        let mut command = redis::cmd("XRANGE");
        command
            .arg(key("control:audit"))
            .arg(format!("({after}-0"))
            .arg("+");
        command.arg("COUNT").arg(limit.min(AUDIT_PAGE_MAX));
        let entries: Vec<(String, HashMap<String, String>)> = self.0.read(command).await?;
        entries
            .into_iter()
            .map(|(id, fields)| audit_record(&id, fields))
            .collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes(Topic::Control)
    }
}

fn audit_record(
    id: &str,
    mut fields: HashMap<String, String>,
) -> Result<AuditRecord, ControlError> {
    let corrupt = || StoreError::Corrupt { what: "audit log" };
    let seq = id
        .split('-')
        .next()
        .and_then(|seq| seq.parse().ok())
        .ok_or_else(corrupt)?;
    let mut take = |name: &str| fields.remove(name).ok_or_else(corrupt);
    let at = take("at")?.parse().map_err(|_| corrupt())?;
    let revision = take("revision")?.parse().map_err(|_| corrupt())?;
    let kind: DocKind =
        serde_json::from_value(Value::String(take("kind")?)).map_err(|_| corrupt())?;
    let key = DocKey::new(kind, take("name")?)?;
    let (actor, action) = (take("actor")?, take("action")?);
    let mut body = |name: &str| {
        fields
            .remove(name)
            .map(|text| from_text(&key, &text))
            .transpose()
    };
    let (before, after) = (body("before")?, body("after")?);
    Ok(AuditRecord {
        seq,
        at: UnixMillis(at),
        actor,
        action,
        revision: Revision(revision),
        before,
        after,
        key,
    })
}
