use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::super::lexer::sqlish;
use super::*;

/// One line per statement: the statement, its class.
fn check(statements: &[&str], expected: Expect) {
    let lines = statements.iter().map(|sql| {
        let shown = match classify(sql.as_bytes(), true) {
            Classified::Command(command) => format!("{command:?}"),
            Classified::Explain { statement_start } => format!("Explain {}", &sql[statement_start..]),
            Classified::Utility { kind, objects } => {
                let name =
                    |(schema, name): &(Option<String>, String)| schema.clone().map_or_else(String::new, |s| s + ".") + name;
                format!("{kind:?} {}", objects.iter().map(name).collect::<Vec<_>>().join(" "))
            }
            other => format!("{other:?}"),
        };
        format!("{sql}: {}\n", shown.trim_end())
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn queries() {
    check(
        &[
            "SELECT 1",
            "(select 1)",
            "VALUES (1)",
            "table t",
            "WITH x AS (SELECT 1) DELETE FROM t",
            "insert into t values (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "MERGE INTO t",
            "SELECT 1 INTO TEMP x",
            "-- c\n /* d */ SELECT",
        ],
        expect![[r#"
            SELECT 1: Query
            (select 1): Query
            VALUES (1): Query
            table t: Query
            WITH x AS (SELECT 1) DELETE FROM t: Query
            insert into t values (1): Query
            UPDATE t SET a = 1: Query
            DELETE FROM t: Query
            MERGE INTO t: Query
            SELECT 1 INTO TEMP x: Query
            -- c
             /* d */ SELECT: Query
        "#]],
    );
}

#[test]
fn nothing_and_nonsense() {
    check(
        &["", " -- x\n/* y */", ";", "selec 1", "1", "'a", "\"select\" 1", "grand select", "explain", "copy t"],
        expect![[r#"
        : Empty
         -- x
        /* y */: Empty
        ;: Empty
        selec 1: Unknown
        1: Unknown
        'a: Unknown
        "select" 1: Unknown
        grand select: Unknown
        explain: Unknown
        copy t: Unknown
    "#]],
    );
}

#[test]
fn transactions() {
    check(
        &[
            "BEGIN",
            "begin work;",
            "BEGIN TRANSACTION ISOLATION LEVEL  REPEATABLE READ, READ ONLY -- c",
            "START TRANSACTION READ WRITE NOT DEFERRABLE",
            "BEGIN READ",
            "BEGIN READ ONLY,",
            "START",
            "COMMIT",
            "END TRANSACTION AND CHAIN",
            "COMMIT AND NO CHAIN",
            "COMMIT foo",
            "ROLLBACK WORK",
            "ABORT AND CHAIN",
            "ROLLBACK TO SAVEPOINT \"A b\"",
            "rollback transaction to B",
            "ROLLBACK TO",
            "SAVEPOINT s1",
            "RELEASE SAVEPOINT S1",
            "RELEASE savepoint",
            "SAVEPOINT s1 s2",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "COMMIT PREPARED x",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET LOCAL TRANSACTION READ ONLY",
            "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'",
            "SET TRANSACTION",
            "SET CONSTRAINTS ALL DEFERRED",
            "set constraints \"S\".a, b immediate",
            "SET CONSTRAINTS ALL",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        ],
        expect![[r#"
            BEGIN: Begin { modes: "" }
            begin work;: Begin { modes: "" }
            BEGIN TRANSACTION ISOLATION LEVEL  REPEATABLE READ, READ ONLY -- c: Begin { modes: "ISOLATION LEVEL  REPEATABLE READ, READ ONLY" }
            START TRANSACTION READ WRITE NOT DEFERRABLE: Begin { modes: "READ WRITE NOT DEFERRABLE" }
            BEGIN READ: Unknown
            BEGIN READ ONLY,: Unknown
            START: Unknown
            COMMIT: Commit { and_chain: false }
            END TRANSACTION AND CHAIN: Commit { and_chain: true }
            COMMIT AND NO CHAIN: Commit { and_chain: false }
            COMMIT foo: Unknown
            ROLLBACK WORK: Rollback { and_chain: false }
            ABORT AND CHAIN: Rollback { and_chain: true }
            ROLLBACK TO SAVEPOINT "A b": RollbackTo { name: "A b" }
            rollback transaction to B: RollbackTo { name: "b" }
            ROLLBACK TO: Unknown
            SAVEPOINT s1: Savepoint { name: "s1" }
            RELEASE SAVEPOINT S1: Release { name: "s1" }
            RELEASE savepoint: Release { name: "savepoint" }
            SAVEPOINT s1 s2: Unknown
            PREPARE TRANSACTION 'x': TwoPhase
            COMMIT PREPARED 'x': TwoPhase
            ROLLBACK PREPARED 'x': TwoPhase
            COMMIT PREPARED x: Unknown
            SET TRANSACTION ISOLATION LEVEL SERIALIZABLE: SetTransaction { modes: "ISOLATION LEVEL SERIALIZABLE" }
            SET LOCAL TRANSACTION READ ONLY: SetTransaction { modes: "READ ONLY" }
            SET TRANSACTION SNAPSHOT '00000003-0000001B-1': SetTransaction { modes: "SNAPSHOT '00000003-0000001B-1'" }
            SET TRANSACTION: Unknown
            SET CONSTRAINTS ALL DEFERRED: SetConstraints
            set constraints "S".a, b immediate: SetConstraints
            SET CONSTRAINTS ALL: Unknown
            SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY: SetCharacteristics { modes: "READ ONLY" }
        "#]],
    );
}

#[test]
fn settings() {
    check(
        &[
            "SET search_path TO a, \"B\", 'c'",
            "SET SESSION Work_Mem='64MB'",
            "SET LOCAL trunkline.shard = eu ; ",
            "SET \"TimeZone\" = 'UTC'",
            "SET x = -1.5",
            "SET x TO DEFAULT",
            "SET LOCAL x = DEFAULT",
            "SET TIME ZONE 'Europe/Berlin'",
            "SET TIME ZONE -8",
            "SET LOCAL TIME ZONE UTC",
            "SET TIME ZONE LOCAL",
            "SET timezone TO LOCAL",
            "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
        ],
        expect![[r#"
            SET search_path TO a, "B", 'c': Set { scope: Session, name: "search_path", value: "a, \"B\", 'c'" }
            SET SESSION Work_Mem='64MB': Set { scope: Session, name: "work_mem", value: "'64MB'" }
            SET LOCAL trunkline.shard = eu ; : Set { scope: Transaction, name: "trunkline.shard", value: "eu" }
            SET "TimeZone" = 'UTC': Set { scope: Session, name: "timezone", value: "'UTC'" }
            SET x = -1.5: Set { scope: Session, name: "x", value: "-1.5" }
            SET x TO DEFAULT: Reset { name: "x" }
            SET LOCAL x = DEFAULT: Set { scope: Transaction, name: "x", value: "DEFAULT" }
            SET TIME ZONE 'Europe/Berlin': Set { scope: Session, name: "timezone", value: "'Europe/Berlin'" }
            SET TIME ZONE -8: Set { scope: Session, name: "timezone", value: "-8" }
            SET LOCAL TIME ZONE UTC: Set { scope: Transaction, name: "timezone", value: "UTC" }
            SET TIME ZONE LOCAL: Reset { name: "timezone" }
            SET timezone TO LOCAL: Set { scope: Session, name: "timezone", value: "LOCAL" }
            SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE: Set { scope: Session, name: "timezone", value: "INTERVAL '-08:00' HOUR TO MINUTE" }
        "#]],
    );
}

#[test]
fn settings_by_other_words() {
    check(
        &[
            "SET NAMES 'utf8'",
            "SET NAMES",
            "SET client_encoding TO",
            "SET SCHEMA 'a'",
            "SET ROLE none",
            "SET role = x",
            "SET SESSION AUTHORIZATION joe",
            "SET SESSION SESSION AUTHORIZATION DEFAULT",
            "SET LOCAL SESSION AUTHORIZATION 'joe'",
            "SET SESSION authorization.x = 1",
            "SET XML OPTION DOCUMENT",
            "SET session = 1",
            "SET x",
            "SET x = ",
            "SET x = 1 2",
            "SET x = (1)",
            "SET x FROM CURRENT",
        ],
        expect![[r#"
            SET NAMES 'utf8': Set { scope: Session, name: "client_encoding", value: "'utf8'" }
            SET NAMES: Reset { name: "client_encoding" }
            SET client_encoding TO: Unknown
            SET SCHEMA 'a': Set { scope: Session, name: "search_path", value: "'a'" }
            SET ROLE none: Set { scope: Session, name: "role", value: "none" }
            SET role = x: Set { scope: Session, name: "role", value: "x" }
            SET SESSION AUTHORIZATION joe: Set { scope: Session, name: "session_authorization", value: "joe" }
            SET SESSION SESSION AUTHORIZATION DEFAULT: Reset { name: "session_authorization" }
            SET LOCAL SESSION AUTHORIZATION 'joe': Set { scope: Transaction, name: "session_authorization", value: "'joe'" }
            SET SESSION authorization.x = 1: Unknown
            SET XML OPTION DOCUMENT: Set { scope: Session, name: "xmloption", value: "DOCUMENT" }
            SET session = 1: Set { scope: Session, name: "session", value: "1" }
            SET x: Unknown
            SET x = : Unknown
            SET x = 1 2: Unknown
            SET x = (1): Unknown
            SET x FROM CURRENT: Unknown
        "#]],
    );
}

#[test]
fn resets_and_shows() {
    check(
        &[
            "RESET x.y",
            "RESET ALL",
            "RESET TIME ZONE",
            "RESET SESSION AUTHORIZATION",
            "RESET x y",
            "SHOW Server_Version",
            "SHOW ALL",
            "SHOW TIME ZONE",
            "SHOW TRANSACTION ISOLATION LEVEL",
            "SHOW SESSION AUTHORIZATION",
            "SHOW",
        ],
        expect![[r#"
            RESET x.y: Reset { name: "x.y" }
            RESET ALL: ResetAll
            RESET TIME ZONE: Reset { name: "timezone" }
            RESET SESSION AUTHORIZATION: Reset { name: "session_authorization" }
            RESET x y: Unknown
            SHOW Server_Version: Show { name: "server_version" }
            SHOW ALL: Show { name: "all" }
            SHOW TIME ZONE: Show { name: "timezone" }
            SHOW TRANSACTION ISOLATION LEVEL: Show { name: "transaction_isolation" }
            SHOW SESSION AUTHORIZATION: Show { name: "session_authorization" }
            SHOW: Unknown
        "#]],
    );
}

#[test]
fn session_state() {
    check(
        &[
            "DISCARD ALL",
            "DISCARD TEMPORARY",
            "DISCARD",
            "DEALLOCATE p",
            "DEALLOCATE PREPARE ALL",
            "DEALLOCATE prepare",
            "PREPARE p (int) AS SELECT $1",
            "PREPARE p",
            "PREPARE transaction AS SELECT 1",
            "EXECUTE P (1)",
            "DECLARE c BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT 1",
            "DECLARE c CURSOR FOR SELECT 1",
            "DECLARE c",
            "FETCH c",
            "FETCH FORWARD 5 FROM c",
            "MOVE -1 IN \"C\"",
            "FETCH ABSOLUTE 3",
            "CLOSE c",
            "CLOSE ALL",
            "LISTEN x",
            "UNLISTEN *",
            "NOTIFY x, 'y'",
            "LOAD 'z'",
            "LOCK TABLE t IN SHARE MODE",
        ],
        expect![[r#"
            DISCARD ALL: Discard(All)
            DISCARD TEMPORARY: Discard(Temp)
            DISCARD: Unknown
            DEALLOCATE p: Deallocate(Name("p"))
            DEALLOCATE PREPARE ALL: Deallocate(All)
            DEALLOCATE prepare: Deallocate(Name("prepare"))
            PREPARE p (int) AS SELECT $1: Prepare { name: "p" }
            PREPARE p: Unknown
            PREPARE transaction AS SELECT 1: Prepare { name: "transaction" }
            EXECUTE P (1): Execute { name: "p" }
            DECLARE c BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT 1: Declare { name: "c", is_with_hold: true }
            DECLARE c CURSOR FOR SELECT 1: Declare { name: "c", is_with_hold: false }
            DECLARE c: Unknown
            FETCH c: Fetch { name: "c" }
            FETCH FORWARD 5 FROM c: Fetch { name: "c" }
            MOVE -1 IN "C": Fetch { name: "C" }
            FETCH ABSOLUTE 3: Unknown
            CLOSE c: Close { name: Some("c") }
            CLOSE ALL: Close { name: None }
            LISTEN x: Listen
            UNLISTEN *: Unlisten
            NOTIFY x, 'y': Notify
            LOAD 'z': Load
            LOCK TABLE t IN SHARE MODE: LockTable
        "#]],
    );
}

#[test]
fn explain_and_copy() {
    check(
        &[
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE VERBOSE UPDATE t SET a = 1",
            "EXPLAIN (ANALYZE, BUFFERS OFF) (SELECT 1)",
            "EXPLAIN (SELECT 1)",
            "EXPLAIN ANALYZE (VALUES (1))",
            "EXPLAIN (costs off) EXECUTE p",
            "COPY t FROM STDIN",
            "COPY a.\"B\" (x, y) TO stdout WITH (FORMAT csv)",
            "COPY (SELECT 1) TO STDOUT",
            "COPY BINARY t FROM STDIN",
            "COPY t FROM '/x'",
            "COPY t TO PROGRAM 'x'",
        ],
        expect![[r#"
            EXPLAIN SELECT 1: Explain SELECT 1
            EXPLAIN ANALYZE VERBOSE UPDATE t SET a = 1: Explain UPDATE t SET a = 1
            EXPLAIN (ANALYZE, BUFFERS OFF) (SELECT 1): Explain (SELECT 1)
            EXPLAIN (SELECT 1): Explain (SELECT 1)
            EXPLAIN ANALYZE (VALUES (1)): Explain (VALUES (1))
            EXPLAIN (costs off) EXECUTE p: Execute { name: "p" }
            COPY t FROM STDIN: Copy(In)
            COPY a."B" (x, y) TO stdout WITH (FORMAT csv): Copy(Out)
            COPY (SELECT 1) TO STDOUT: Copy(Out)
            COPY BINARY t FROM STDIN: Copy(In)
            COPY t FROM '/x': Copy(Server)
            COPY t TO PROGRAM 'x': Copy(Server)
        "#]],
    );
}

#[test]
fn tables() {
    check(
        &[
            "CREATE TABLE t (a int GENERATED ALWAYS AS (1) STORED)",
            "CREATE UNLOGGED TABLE IF NOT EXISTS \"S\".T (a int)",
            "CREATE TABLE db.s.t ()",
            "CREATE TABLE p PARTITION OF s.t FOR VALUES IN (1)",
            "CREATE TABLE t (a, b) WITH (fillfactor=70) AS SELECT 1, 2",
            "CREATE TEMP TABLE t AS SELECT 1",
            "CREATE LOCAL TEMPORARY TABLE t (a int)",
            "CREATE TABLE pg_temp.t (a int)",
            "CREATE TABLE pg_temp.t AS EXECUTE p",
            "CREATE FOREIGN TABLE f (a int) SERVER s",
            "ALTER TABLE IF EXISTS ONLY s.t ADD COLUMN b int",
            "ALTER TABLE t ATTACH PARTITION p FOR VALUES IN (1)",
            "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
            "ALTER TABLE ALL IN TABLESPACE x SET TABLESPACE y",
            "DROP TABLE IF EXISTS a, s.b CASCADE",
            "DROP TABLE pg_temp_3.a",
            "TRUNCATE a, ONLY b *, c RESTART IDENTITY",
            "TRUNCATE TABLE a",
            "VACUUM",
            "VACUUM (FULL, ANALYZE) a (x, y), b",
            "VACUUM FULL VERBOSE a",
            "ANALYZE",
            "ANALYZE VERBOSE s.a (x)",
            "CLUSTER",
            "CLUSTER a USING i",
            "CLUSTER i ON a",
            "REINDEX TABLE a",
            "REINDEX (VERBOSE) INDEX CONCURRENTLY i",
            "REINDEX (CONCURRENTLY) TABLE a",
            "REINDEX DATABASE d",
        ],
        expect![[r#"
            CREATE TABLE t (a int GENERATED ALWAYS AS (1) STORED): Ddl t
            CREATE UNLOGGED TABLE IF NOT EXISTS "S".T (a int): Ddl S.t
            CREATE TABLE db.s.t (): Ddl s.t
            CREATE TABLE p PARTITION OF s.t FOR VALUES IN (1): Ddl p s.t
            CREATE TABLE t (a, b) WITH (fillfactor=70) AS SELECT 1, 2: CreateTableAs { is_temporary: false } t
            CREATE TEMP TABLE t AS SELECT 1: CreateTableAs { is_temporary: true } t
            CREATE LOCAL TEMPORARY TABLE t (a int): SessionState t
            CREATE TABLE pg_temp.t (a int): SessionState pg_temp.t
            CREATE TABLE pg_temp.t AS EXECUTE p: Execute { name: "p" }
            CREATE FOREIGN TABLE f (a int) SERVER s: Ddl f
            ALTER TABLE IF EXISTS ONLY s.t ADD COLUMN b int: Ddl s.t
            ALTER TABLE t ATTACH PARTITION p FOR VALUES IN (1): Ddl t p
            ALTER TABLE t DETACH PARTITION p CONCURRENTLY: NonTransactional t p
            ALTER TABLE ALL IN TABLESPACE x SET TABLESPACE y: Ddl
            DROP TABLE IF EXISTS a, s.b CASCADE: Ddl a s.b
            DROP TABLE pg_temp_3.a: SessionState pg_temp_3.a
            TRUNCATE a, ONLY b *, c RESTART IDENTITY: Ddl a b c
            TRUNCATE TABLE a: Ddl a
            VACUUM: NonTransactional
            VACUUM (FULL, ANALYZE) a (x, y), b: NonTransactional a b
            VACUUM FULL VERBOSE a: NonTransactional a
            ANALYZE: Maintenance
            ANALYZE VERBOSE s.a (x): Maintenance s.a
            CLUSTER: NonTransactional
            CLUSTER a USING i: Ddl a
            CLUSTER i ON a: Ddl a
            REINDEX TABLE a: Ddl a
            REINDEX (VERBOSE) INDEX CONCURRENTLY i: NonTransactional
            REINDEX (CONCURRENTLY) TABLE a: NonTransactional a
            REINDEX DATABASE d: NonTransactional
        "#]],
    );
}

#[test]
fn objects_on_tables() {
    check(
        &[
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t (a)",
            "CREATE INDEX ON t (a)",
            "DROP INDEX i",
            "DROP INDEX CONCURRENTLY i",
            "CREATE CONSTRAINT TRIGGER r AFTER UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE OR REPLACE RULE r AS ON INSERT TO s.t DO NOTHING",
            "CREATE POLICY p ON t",
            "CREATE STATISTICS s (ndistinct) ON a, b FROM t",
            "DROP TRIGGER r ON t",
            "ALTER POLICY p ON t RENAME TO q",
            "COMMENT ON TABLE s.t IS 'x'",
            "COMMENT ON COLUMN s.t.c IS 'x'",
            "COMMENT ON COLUMN t.c IS 'x'",
            "COMMENT ON CONSTRAINT c ON t IS 'x'",
            "COMMENT ON CONSTRAINT c ON DOMAIN d IS 'x'",
            "COMMENT ON FUNCTION f(int) IS 'on'",
            "SECURITY LABEL FOR p ON TABLE t IS 'x'",
            "GRANT SELECT (a, b), UPDATE ON t, s.u TO bob",
            "GRANT ALL ON TABLE t TO bob",
            "GRANT ALL ON ALL TABLES IN SCHEMA s TO bob",
            "GRANT USAGE ON SCHEMA s TO bob",
            "REVOKE GRANT OPTION FOR SELECT ON t FROM bob",
            "GRANT admin TO bob",
        ],
        expect![[r#"
            CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON ONLY s.t (a): NonTransactional s.t
            CREATE INDEX ON t (a): Ddl t
            DROP INDEX i: Ddl
            DROP INDEX CONCURRENTLY i: NonTransactional
            CREATE CONSTRAINT TRIGGER r AFTER UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION f(): Ddl t
            CREATE OR REPLACE RULE r AS ON INSERT TO s.t DO NOTHING: Ddl s.t
            CREATE POLICY p ON t: Ddl t
            CREATE STATISTICS s (ndistinct) ON a, b FROM t: Ddl t
            DROP TRIGGER r ON t: Ddl t
            ALTER POLICY p ON t RENAME TO q: Ddl t
            COMMENT ON TABLE s.t IS 'x': Ddl s.t
            COMMENT ON COLUMN s.t.c IS 'x': Ddl s.t
            COMMENT ON COLUMN t.c IS 'x': Ddl t
            COMMENT ON CONSTRAINT c ON t IS 'x': Ddl t
            COMMENT ON CONSTRAINT c ON DOMAIN d IS 'x': Ddl
            COMMENT ON FUNCTION f(int) IS 'on': Ddl
            SECURITY LABEL FOR p ON TABLE t IS 'x': Ddl t
            GRANT SELECT (a, b), UPDATE ON t, s.u TO bob: Ddl t s.u
            GRANT ALL ON TABLE t TO bob: Ddl t
            GRANT ALL ON ALL TABLES IN SCHEMA s TO bob: Ddl
            GRANT USAGE ON SCHEMA s TO bob: Ddl
            REVOKE GRANT OPTION FOR SELECT ON t FROM bob: Ddl t
            GRANT admin TO bob: Ddl
        "#]],
    );
}

#[test]
fn other_utilities() {
    check(
        &[
            "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "CREATE TEMP SEQUENCE s",
            "CREATE SEQUENCE pg_temp.s",
            "DROP VIEW pg_temp.v",
            "CREATE MATERIALIZED VIEW IF NOT EXISTS s.m AS SELECT 1",
            "REFRESH MATERIALIZED VIEW m",
            "CREATE FUNCTION pg_temp.f() RETURNS int AS 'x' LANGUAGE sql",
            "CREATE EXTENSION x",
            "CREATE DATABASE d",
            "DROP DATABASE d",
            "ALTER SYSTEM SET x = 1",
            "ALTER DATABASE d SET TABLESPACE x",
            "ALTER DATABASE d SET work_mem = '1MB'",
            "CREATE SUBSCRIPTION s",
            "CREATE EVENT TRIGGER e ON ddl_command_start",
            "CHECKPOINT",
            "DO $$ BEGIN END $$",
            "CALL p()",
            "REASSIGN OWNED BY a TO b",
            "DROP OWNED BY a",
            "IMPORT FOREIGN SCHEMA s",
            "ALTER TYPE t ADD VALUE 'x'",
            "CREATE",
        ],
        expect![[r#"
            CREATE OR REPLACE TEMP VIEW v AS SELECT 1: SessionState
            CREATE VIEW v AS SELECT 1: Ddl
            CREATE TEMP SEQUENCE s: SessionState
            CREATE SEQUENCE pg_temp.s: SessionState
            DROP VIEW pg_temp.v: SessionState
            CREATE MATERIALIZED VIEW IF NOT EXISTS s.m AS SELECT 1: CreateTableAs { is_temporary: false } s.m
            REFRESH MATERIALIZED VIEW m: Ddl
            CREATE FUNCTION pg_temp.f() RETURNS int AS 'x' LANGUAGE sql: SessionState
            CREATE EXTENSION x: Ddl
            CREATE DATABASE d: NonTransactional
            DROP DATABASE d: NonTransactional
            ALTER SYSTEM SET x = 1: NonTransactional
            ALTER DATABASE d SET TABLESPACE x: NonTransactional
            ALTER DATABASE d SET work_mem = '1MB': Ddl
            CREATE SUBSCRIPTION s: NonTransactional
            CREATE EVENT TRIGGER e ON ddl_command_start: Ddl
            CHECKPOINT: Maintenance
            DO $$ BEGIN END $$: Procedure
            CALL p(): Procedure
            REASSIGN OWNED BY a TO b: Ddl
            DROP OWNED BY a: Ddl
            IMPORT FOREIGN SCHEMA s: Ddl
            ALTER TYPE t ADD VALUE 'x': Ddl
            CREATE: Ddl
        "#]],
    );
}

proptest! {
    #[test]
    fn any_bytes_have_a_class(sql in sqlish(), first in prop::sample::select(&["", "set ", "copy ", "create table ", "fetch "][..])) {
        let text = [first.as_bytes(), &sql].concat();
        classify(&text, true);
    }
}
