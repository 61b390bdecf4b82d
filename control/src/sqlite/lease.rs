//! Leases in the embedded store. A released lease keeps its row, and with it
//! the fence, which never falls.

use ids::UnixMillis;
use rusqlite::{OptionalExtension, Transaction};

use crate::{ControlError, Lease};

pub(super) fn acquire(
    tx: &Transaction<'_>,
    name: String,
    holder: String,
    now: UnixMillis,
    expires_at: UnixMillis,
) -> Result<Option<Lease>, ControlError> {
    let upsert = "INSERT INTO control_lease (name, holder, fence, expires_at) VALUES (?1, ?2, 1, ?3) \
                  ON CONFLICT (name) DO UPDATE \
                  SET holder = excluded.holder, fence = fence + 1, expires_at = excluded.expires_at \
                  WHERE control_lease.expires_at <= ?4 OR control_lease.holder = excluded.holder \
                  RETURNING fence";
    let fence: Option<i64> = tx
        .prepare_cached(upsert)?
        .query_row((&name, &holder, expires_at.0, now.0), |row| row.get(0))
        .optional()?;
    Ok(fence.map(|fence| Lease {
        name,
        holder,
        fence: u64::try_from(fence).unwrap_or(0),
        expires_at,
    }))
}

pub(super) fn renew(
    tx: &Transaction<'_>,
    lease: Lease,
    now: UnixMillis,
    expires_at: UnixMillis,
) -> Result<Option<Lease>, ControlError> {
    let update = "UPDATE control_lease SET expires_at = ?1 \
                  WHERE name = ?2 AND holder = ?3 AND fence = ?4 AND expires_at > ?5";
    let changed = tx.prepare_cached(update)?.execute((
        expires_at.0,
        &lease.name,
        &lease.holder,
        super::signed(lease.fence),
        now.0,
    ))?;
    Ok((changed > 0).then_some(Lease {
        expires_at,
        ..lease
    }))
}

pub(super) fn release(tx: &Transaction<'_>, lease: &Lease) -> Result<bool, ControlError> {
    let update = "UPDATE control_lease SET expires_at = ?1, holder = '' \
                  WHERE name = ?2 AND holder = ?3 AND fence = ?4";
    let changed = tx.prepare_cached(update)?.execute((
        i64::MIN,
        &lease.name,
        &lease.holder,
        super::signed(lease.fence),
    ))?;
    Ok(changed > 0)
}

/// Whether nobody acquired the lease after `lease`. Time is not asked: a
/// holder that is late, but was not replaced, does no harm.
pub(super) fn is_in_force(tx: &Transaction<'_>, lease: &Lease) -> Result<bool, ControlError> {
    let select = "SELECT 1 FROM control_lease WHERE name = ?1 AND holder = ?2 AND fence = ?3";
    let found = tx
        .prepare_cached(select)?
        .query_row(
            (&lease.name, &lease.holder, super::signed(lease.fence)),
            |_| Ok(()),
        )
        .optional()?;
    Ok(found.is_some())
}
