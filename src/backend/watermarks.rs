//! The control schema on the servers: age watermarks on the first shard, the decisions of two-phase commits on each.

use std::collections::HashMap;

use super::control::{ControlClient, ControlError};
use crate::topology::{AgePolicy, Placement, TableName, Topology, Watermarks};

/// Held in a transaction while the schema is made, for `IF NOT EXISTS` alone does not keep two proxies that start at once
/// apart: the slower one would fail with a duplicate key. The number is `trunklin` in ASCII.
const LOCK_KEY: i64 = 0x7472_756e_6b6c_696e;

const COMMITS: &str = "\
CREATE TABLE IF NOT EXISTS trunkline.commits (
  gid text PRIMARY KEY,
  committed_at timestamptz NOT NULL DEFAULT now()
);
GRANT USAGE ON SCHEMA trunkline TO PUBLIC;
GRANT SELECT, INSERT, DELETE ON trunkline.commits TO PUBLIC";

const WATERMARKS: &str = "\
CREATE TABLE IF NOT EXISTS trunkline.watermarks (
  database text NOT NULL,
  table_name text NOT NULL,
  position int NOT NULL,
  mark timestamptz NOT NULL,
  PRIMARY KEY (database, table_name, position)
)";

/// Takes two arrays of the same length. An integer number of microseconds this century is exact in a double.
const ADD_MARKS: &str = "\
INSERT INTO trunkline.watermarks (database, table_name, position, mark)
SELECT $1, $2, position - 1, '2000-01-01 00:00:00+00'::timestamptz + micros * '1 microsecond'::interval
FROM unnest($3::bigint[]) WITH ORDINALITY AS m (micros, position)
ON CONFLICT DO NOTHING";

const READ_MARKS: &str = "\
SELECT table_name, (extract(epoch FROM mark - '2000-01-01 00:00:00+00'::timestamptz) * 1000000)::bigint
FROM trunkline.watermarks WHERE database = $1 ORDER BY table_name, position";

/// Makes schema `trunkline` with table `commits`, where the coordinator of a two-phase commit writes down its decision,
/// unless they are there. `client` is connected to a shard's primary. Every user may add, read and remove decisions.
///
/// # Errors
/// The server's, with a hint in the text when the control user lacks the right (42501) or the server is a replica.
pub async fn ensure_control_schema(client: &mut ControlClient) -> Result<(), ControlError> {
    ensure_table(client, "trunkline.commits", COMMITS).await
}

/// Reads the watermarks of every table with an age level; a table without any gets its policy's first ones.
///
/// `client` is connected to the first shard's primary; `now_micros` is the time in microseconds since 2000-01-01 UTC.
/// Two proxies that start at once read the same marks: the first to write wins.
///
/// # Errors
/// The server's, or `Mismatch` (55000) when a table's number of tiers is not the one that its marks were made for.
pub async fn load_or_create(
    client: &mut ControlClient,
    topology: &Topology,
    now_micros: i64,
) -> Result<HashMap<TableName, Watermarks>, ControlError> {
    let aged: Vec<(&TableName, &AgePolicy)> = topology
        .tables
        .iter()
        .filter_map(|(name, table)| match &table.placement {
            Placement::Sharded(key) => key.age_policy().map(|policy| (name, policy)),
            Placement::Reference | Placement::Pinned(_) => None,
        })
        .collect();
    if aged.is_empty() {
        return Ok(HashMap::new());
    }
    ensure_table(client, "trunkline.watermarks", WATERMARKS).await?;
    let mut stored = read_marks(client, &topology.database).await?;
    let missing: Vec<_> = aged.iter().filter(|(name, _)| !stored.contains_key(&stored_name(name))).collect();
    for (name, policy) in &missing {
        add_marks(client, topology, name, &policy.initial_watermarks(now_micros)).await?;
    }
    if !missing.is_empty() {
        stored = read_marks(client, &topology.database).await?;
    }
    aged.into_iter().map(|(name, policy)| Ok((name.clone(), checked(name, policy, &stored)?))).collect()
}

/// The stored form of a name does not leave `public` out, so that it cannot be mistaken.
fn stored_name(name: &TableName) -> String {
    format!("{}.{}", name.schema, name.name)
}

fn checked(name: &TableName, policy: &AgePolicy, stored: &HashMap<String, Watermarks>) -> Result<Watermarks, ControlError> {
    let marks = stored.get(&stored_name(name)).cloned().unwrap_or_default();
    if marks.0.len() != policy.younger_than.len() {
        return Err(ControlError::Mismatch(format!(
            "table \"{name}\" has {} tiers in the configuration, but trunkline.watermarks on the first shard was made for {}; \
             move its rows and change those lines before the number of tiers",
            policy.younger_than.len() + 1,
            marks.0.len() + 1,
        )));
    }
    if marks.0.windows(2).any(|pair| pair[0] < pair[1]) {
        return Err(ControlError::Mismatch(format!(
            "the watermarks of table \"{name}\" in trunkline.watermarks do not descend by position"
        )));
    }
    Ok(marks)
}

async fn read_marks(client: &ControlClient, database: &str) -> Result<HashMap<String, Watermarks>, ControlError> {
    let rows = client.connection().query(READ_MARKS, &[&database]).await.map_err(|fault| client.error(&fault))?;
    let mut stored: HashMap<String, Watermarks> = HashMap::new();
    for row in rows {
        let (name, mark) = row
            .try_get(0)
            .and_then(|name: String| Ok((name, row.try_get::<_, i64>(1)?)))
            .map_err(|fault| client.error(&fault))?;
        stored.entry(name).or_default().0.push(mark);
    }
    Ok(stored)
}

/// All marks of a table in one statement: who comes second adds none.
async fn add_marks(
    client: &ControlClient,
    topology: &Topology,
    name: &TableName,
    marks: &Watermarks,
) -> Result<(), ControlError> {
    let n_added = client
        .connection()
        .execute(ADD_MARKS, &[&topology.database, &stored_name(name), &marks.0])
        .await
        .map_err(|fault| client.error(&fault))?;
    if n_added > 0 {
        tracing::info!(database = %topology.database, table = %name, "first watermarks written");
    }
    Ok(())
}

/// Makes a table of schema `trunkline` unless it is there, so that a control user without the right to create works
/// where somebody else has made it.
async fn ensure_table(client: &mut ControlClient, name: &str, definition: &str) -> Result<(), ControlError> {
    let is_there = client
        .connection()
        .query_one("SELECT pg_catalog.to_regclass($1::text) IS NOT NULL", &[&name])
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|fault| client.error(&fault))?;
    if is_there {
        return Ok(());
    }
    let script = format!(
        "BEGIN; SET LOCAL client_min_messages = warning; SELECT pg_catalog.pg_advisory_xact_lock({LOCK_KEY}); \
         CREATE SCHEMA IF NOT EXISTS trunkline; {definition}; COMMIT"
    );
    let made = client.connection().batch_execute(&script).await.map_err(|fault| client.error(&fault));
    if let Err(error) = made {
        // The error of the script counts; should this fail too, the connection is broken and its next user is told so.
        drop(client.connection().batch_execute("ROLLBACK").await);
        return Err(with_advice(error, name, definition));
    }
    Ok(())
}

/// Says what to do when the control user may not create.
fn with_advice(error: ControlError, name: &str, definition: &str) -> ControlError {
    match error {
        ControlError::Server { node, sqlstate, message } if sqlstate.as_str() == "42501" => ControlError::Server {
            node,
            sqlstate,
            message: format!(
                "{message}; {name} is missing and the control user may not make it: GRANT CREATE ON DATABASE to the \
                 control user, or run as an administrator: CREATE SCHEMA IF NOT EXISTS trunkline; {definition}"
            ),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn policy() -> AgePolicy {
        AgePolicy { younger_than: vec![Duration::from_secs(86_400 * 7), Duration::from_secs(86_400 * 30)] }
    }

    #[track_caller]
    fn check(marks: &[i64], expected: Result<&[i64], &str>) {
        let name = TableName::new("public", "metrics");
        let stored = HashMap::from([("public.metrics".to_owned(), Watermarks(marks.to_vec()))]);
        match (checked(&name, &policy(), &stored), expected) {
            (Ok(found), Ok(wanted)) => assert_eq!(found.0, wanted),
            (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn marks_must_fit_the_policy() {
        check(&[7, 3], Ok(&[7, 3]));
        check(
            &[7],
            Err("\"metrics\" has 3 tiers in the configuration, but trunkline.watermarks on the first shard was made for 2"),
        );
        check(&[3, 7], Err("do not descend"));
    }
}
