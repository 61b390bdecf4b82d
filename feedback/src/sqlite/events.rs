//! Consumer groups over the table of events, with the meaning of Redis
//! Streams: what was delivered stays pending until it is acknowledged.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::rows;
use crate::{Claimed, DELIVERIES_MAX, EventId, FeedbackError};

/// One claim of one consumer.
pub(super) struct Claim {
    pub(super) group: String,
    pub(super) consumer: String,
    pub(super) max: usize,
    /// What was delivered at or before this is given again.
    pub(super) idle_since: i64,
    pub(super) now: i64,
}

impl Claim {
    pub(super) fn run(self, tx: &Transaction<'_>) -> Result<Vec<Claimed>, FeedbackError> {
        let insert =
            "INSERT INTO feedback_group (name, delivered) VALUES (?1, 0) ON CONFLICT DO NOTHING";
        tx.prepare_cached(insert)?.execute([&self.group])?;
        self.bury(tx)?;
        let mut claimed = self.reclaim(tx)?;
        let room = self.max.saturating_sub(claimed.len());
        claimed.extend(self.deliver(tx, room)?);
        Ok(claimed)
    }

    /// Gives up on what was delivered too often.
    fn bury(&self, tx: &Transaction<'_>) -> Result<(), FeedbackError> {
        let idle = (&self.group, self.idle_since, DELIVERIES_MAX);
        let copy = "INSERT INTO feedback_dead (grp, event, vote, inference, change, bad_case, deliveries) \
                    SELECT p.grp, e.id, e.vote, e.inference, e.change, e.bad_case, p.deliveries \
                    FROM feedback_pending p JOIN feedback_event e ON e.id = p.event \
                    WHERE p.grp = ?1 AND p.delivered_at <= ?2 AND p.deliveries >= ?3";
        tx.prepare_cached(copy)?.execute(idle)?;
        let remove = "DELETE FROM feedback_pending WHERE grp = ?1 AND delivered_at <= ?2 AND deliveries >= ?3";
        tx.prepare_cached(remove)?.execute(idle)?;
        Ok(())
    }

    fn reclaim(&self, tx: &Transaction<'_>) -> Result<Vec<Claimed>, FeedbackError> {
        let select = "SELECT e.id, e.vote, e.inference, e.change, e.bad_case, p.deliveries + 1 \
                      FROM feedback_pending p JOIN feedback_event e ON e.id = p.event \
                      WHERE p.grp = ?1 AND p.delivered_at <= ?2 ORDER BY e.id LIMIT ?3";
        let found = collect(
            tx,
            select,
            (&self.group, self.idle_since, rows::limit(self.max)),
        )?;
        let update = "UPDATE feedback_pending SET consumer = ?3, delivered_at = ?4, deliveries = deliveries + 1 \
                      WHERE grp = ?1 AND event = ?2";
        let mut update = tx.prepare_cached(update)?;
        for claimed in &found {
            update.execute((&self.group, signed(claimed.event), &self.consumer, self.now))?;
        }
        Ok(found)
    }

    fn deliver(&self, tx: &Transaction<'_>, room: usize) -> Result<Vec<Claimed>, FeedbackError> {
        let select = "SELECT id, vote, inference, change, bad_case, 1 FROM feedback_event \
                      WHERE id > (SELECT delivered FROM feedback_group WHERE name = ?1) ORDER BY id LIMIT ?2";
        let found = collect(tx, select, (&self.group, rows::limit(room)))?;
        let insert = "INSERT INTO feedback_pending (grp, event, consumer, delivered_at, deliveries) \
                      VALUES (?1, ?2, ?3, ?4, 1)";
        let mut insert = tx.prepare_cached(insert)?;
        for claimed in &found {
            insert.execute((&self.group, signed(claimed.event), &self.consumer, self.now))?;
        }
        if let Some(last) = found.last() {
            tx.prepare_cached("UPDATE feedback_group SET delivered = ?2 WHERE name = ?1")?
                .execute((&self.group, signed(last.event)))?;
        }
        Ok(found)
    }
}

pub(super) fn ack(
    tx: &Transaction<'_>,
    group: &str,
    events: &[EventId],
) -> Result<(), FeedbackError> {
    let mut delete =
        tx.prepare_cached("DELETE FROM feedback_pending WHERE grp = ?1 AND event = ?2")?;
    for event in events {
        delete.execute((group, signed(*event)))?;
    }
    trim(tx)
}

/// Removes the events that no group can be given again: those up to the last
/// that every group was given, and before the oldest that is pending.
fn trim(tx: &Transaction<'_>) -> Result<(), FeedbackError> {
    let delete = "DELETE FROM feedback_event \
                  WHERE id <= (SELECT coalesce(min(delivered), 0) FROM feedback_group) \
                  AND id < (SELECT coalesce(min(event), 9223372036854775807) FROM feedback_pending)";
    tx.prepare_cached(delete)?.execute([])?;
    Ok(())
}

pub(super) fn backlog(db: &Connection, group: &str, bad_only: bool) -> Result<u64, FeedbackError> {
    let delivered: i64 = db
        .prepare_cached("SELECT delivered FROM feedback_group WHERE name = ?1")?
        .query_row([group], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    let new = "SELECT count(*) FROM feedback_event WHERE id > ?1 AND bad_case >= ?2";
    let pending = "SELECT count(*) FROM feedback_pending p JOIN feedback_event e ON e.id = p.event \
                   WHERE p.grp = ?1 AND e.bad_case >= ?2";
    let new: i64 = db
        .prepare_cached(new)?
        .query_row((delivered, bad_only), |row| row.get(0))?;
    let pending: i64 = db
        .prepare_cached(pending)?
        .query_row((group, bad_only), |row| row.get(0))?;
    Ok(rows::unsigned(new.saturating_add(pending)))
}

pub(super) fn dead_letters(
    db: &Connection,
    group: &str,
    limit: i64,
) -> Result<Vec<Claimed>, FeedbackError> {
    let select = "SELECT event, vote, inference, change, bad_case, deliveries FROM feedback_dead \
                  WHERE grp = ?1 ORDER BY event LIMIT ?2";
    collect(db, select, (group, limit))
}

fn collect(
    db: &Connection,
    select: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Claimed>, FeedbackError> {
    let mut statement = db.prepare_cached(select)?;
    let mut rows = statement.query(parameters)?;
    let mut claimed = Vec::new();
    while let Some(row) = rows.next()? {
        claimed.push(rows::claimed(row)?);
    }
    Ok(claimed)
}

fn signed(event: EventId) -> i64 {
    i64::try_from(event.0).unwrap_or(i64::MAX)
}
