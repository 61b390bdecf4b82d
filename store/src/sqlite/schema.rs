//! Which tables of which version are in the file.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::{StoreError, Topic};

/// Marks our files (`PRAGMA application_id`): "FlyW".
const APPLICATION_ID: i32 = 0x466C_7957;
/// The version of the tables below.
const STORE_VERSION: i64 = 1;

const STORE_TABLES: &str = "
CREATE TABLE store_component (component TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE store_change (topic TEXT PRIMARY KEY, counter INTEGER NOT NULL) WITHOUT ROWID;
";

/// Makes the store's own tables in a new file, and refuses a file that holds
/// something else or another version.
pub(super) fn create(connection: &mut Connection) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let id: i32 = tx.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id != APPLICATION_ID && tables > 0 {
        return Err(StoreError::Foreign(
            "an SQLite file that is not Flywheel's".to_owned(),
        ));
    }
    if id != APPLICATION_ID {
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.execute_batch(STORE_TABLES)?;
        tx.execute(
            "INSERT INTO store_component VALUES ('store', ?1)",
            [STORE_VERSION],
        )?;
        for topic in Topic::ALL {
            tx.execute("INSERT INTO store_change VALUES (?1, 0)", [topic.as_str()])?;
        }
    }
    let found = version(&tx, "store")?.unwrap_or(0);
    if found != STORE_VERSION {
        return Err(StoreError::Schema {
            component: "store",
            found,
            supported: STORE_VERSION,
        });
    }
    tx.commit()?;
    Ok(())
}

/// The same for the tables of one component.
pub(super) fn component(
    tx: &Transaction<'_>,
    component: &'static str,
    supported: i64,
    create: &str,
) -> Result<(), StoreError> {
    match version(tx, component)? {
        Some(found) if found == supported => Ok(()),
        Some(found) => Err(StoreError::Schema {
            component,
            found,
            supported,
        }),
        None => {
            tx.execute_batch(create)?;
            tx.execute(
                "INSERT INTO store_component VALUES (?1, ?2)",
                (component, supported),
            )?;
            Ok(())
        }
    }
}

fn version(tx: &Transaction<'_>, component: &str) -> Result<Option<i64>, StoreError> {
    let select = "SELECT version FROM store_component WHERE component = ?1";
    Ok(tx
        .query_row(select, [component], |row| row.get(0))
        .optional()?)
}
