//! Reads one shard's catalog into a [`Schema`]. One round trip.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_postgres::SimpleQueryMessage;

use super::control::{ControlClient, ControlError};
use crate::session::unpooled::{CodeEffects, code_leftover};
use crate::topology::{
    CalledBy, Collation, Column, ColumnDefault, FIRST_OWN_OID, FunctionKind, FunctionVolatility, HiddenCall, Manner, OwnType,
    Relation, RelationKind, Schema, TableName, Temporaries, Transfer, Trigger, TypeOid, TypeShape, UserFunction, ViewDefinition,
};

/// Relations outside the system schemas with their columns in order; one row without a column for a table that has none.
///
/// A stored expression's text form holds the OID of each function that it calls, of built-in ones too, which pg_depend
/// leaves out. Its other nodes with a result of their own are SQL value functions (CURRENT_DATE) and conversions by way
/// of text, which depend on settings. Settings of pg_database that came with later versions are read through JSON. The functions that
/// receive a tsquery or a vector refuse empty ones, which there are.
const COLUMNS: &str = "\
SELECT n.nspname, c.relname, c.relkind, a.attname, a.atttypid, pg_catalog.format_type(a.atttypid, a.atttypmod),
  CASE WHEN a.attcollation = 0 THEN 'none'
    WHEN NOT co.collisdeterministic THEN 'nondeterministic'
    WHEN co.collprovider = 'b' OR co.collprovider = 'c' AND co.collcollate IN ('C', 'POSIX') THEN 'c'
    WHEN co.collprovider = 'd' AND (db.provider = 'b' OR db.provider = 'c' AND db.datcollate IN ('C', 'POSIX')) THEN 'c'
    WHEN co.collprovider = 'd' THEN 'default'
    ELSE 'other' END,
  a.attnotnull OR coalesce(t.typnotnull, false), a.attidentity, a.attgenerated,
  CASE WHEN d.oid IS NULL THEN t.typdefault ELSE pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
  tree ~ '\\{(SQLVALUEFUNCTION|COERCEVIAIO|NEXTVALUEEXPR|XMLEXPR|MINMAXEXPR|ROWCOMPAREEXPR|ARRAYCOERCEEXPR)' OR EXISTS (
    SELECT FROM pg_catalog.regexp_matches(tree, ':(?:op|hash|neg)?funcid ([1-9]\\d*)', 'g') AS called
    LEFT JOIN pg_catalog.pg_proc AS p ON p.oid = called[1]::oid WHERE p.provolatile IS DISTINCT FROM 'i'),
  CASE WHEN own.typnamespace = 'pg_catalog'::pg_catalog.regnamespace THEN pg_catalog.format_type(a.atttypid, a.atttypmod)
    ELSE pg_catalog.quote_ident(tn.nspname) || '.' || pg_catalog.quote_ident(own.typname) END
    || CASE WHEN a.attcollation IN (0, own.typcollation) THEN ''
      ELSE ' COLLATE ' || pg_catalog.quote_ident(cn.nspname) || '.' || pg_catalog.quote_ident(co.collname) END,
  base.typtype = 'e' OR base.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND base.typtype IN ('b', 'r', 'm')
    AND base.typsend <> 0 AND base.typreceive <> 0 AND base.typname NOT LIKE 'reg%' AND base.typname NOT LIKE '\\_reg%'
    AND pg_catalog.ltrim(base.typname, '_') NOT IN ('tsquery', 'int2vector', 'oidvector')
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN (SELECT datcollate, coalesce(pg_catalog.to_jsonb(b) ->> 'datlocprovider', 'c') AS provider
  FROM pg_catalog.pg_database AS b WHERE datname = pg_catalog.current_database()) AS db
LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid AND t.typtype = 'd'
LEFT JOIN pg_catalog.pg_type AS own ON own.oid = a.atttypid
LEFT JOIN pg_catalog.pg_namespace AS tn ON tn.oid = own.typnamespace
LEFT JOIN pg_catalog.pg_type AS base ON base.oid = CASE WHEN own.typtype = 'd' THEN own.typbasetype ELSE own.oid END
LEFT JOIN pg_catalog.pg_collation AS co ON co.oid = a.attcollation
LEFT JOIN pg_catalog.pg_namespace AS cn ON cn.oid = co.collnamespace
LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
CROSS JOIN LATERAL (SELECT coalesce(d.adbin, t.typdefaultbin)::text AS tree) AS stored
WHERE";

const PERMANENT: &str = " c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp\\_%'
ORDER BY c.oid, a.attnum";

/// Those of the asking session. Of an index only its name is of interest.
const TEMPORARY: &str = " c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind <> 'c' ORDER BY c.oid, a.attnum";

/// Functions, with the most volatile one of each name: 'i' < 's' < 'v'. Those that a user makes in pg_catalog are few. An aggregate
/// is as volatile as the functions that it calls, and any function as those that give its parameters their defaults.
const FUNCTIONS: &str = "\
SELECT n.nspname, p.proname, max(greatest(p.provolatile::text COLLATE \"C\", parts.volatility, defaults.volatility)),
  bool_and(p.prokind IN ('f', 'p')), bool_and(p.prokind = 'a'),
  CASE WHEN bool_and(p.prokind = 'a') THEN bool_and(p.prorettype >= 16384) ELSE bool_or(p.prorettype >= 16384) END
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
LEFT JOIN (SELECT a.aggfnoid::oid AS oid, max(f.provolatile::text COLLATE \"C\") AS volatility FROM pg_catalog.pg_aggregate AS a
  JOIN pg_catalog.pg_proc AS f ON f.oid IN (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn)
  WHERE a.aggfnoid::oid >= 16384 GROUP BY 1) AS parts ON parts.oid = p.oid
LEFT JOIN (SELECT d.oid, max(f.provolatile::text COLLATE \"C\") AS volatility FROM pg_catalog.pg_proc AS d
  CROSS JOIN LATERAL pg_catalog.regexp_matches(d.proargdefaults::text, ':(?:op)?funcid ([1-9]\\d*)', 'g') AS called
  JOIN pg_catalog.pg_proc AS f ON f.oid = called[1]::oid WHERE d.oid >= 16384 GROUP BY 1) AS defaults ON defaults.oid = p.oid
WHERE n.nspname <> 'information_schema' AND p.prorettype <> 'trigger'::regtype GROUP BY 1, 2";

/// Partitions and tables that inherit, with one of their parents; and sequences with the tables that they belong to.
const PARENTS: &str = "\
SELECT n.nspname, c.relname, pn.nspname, p.relname, c.relkind FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS p ON p.oid = i.inhparent JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
UNION ALL SELECT n.nspname, c.relname, pn.nspname, p.relname, c.relkind FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS c ON c.oid = d.objid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace
WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = d.classid AND d.deptype IN ('a', 'i') AND c.relkind = 'S'
  AND n.nspname NOT LIKE 'pg\\_temp\\_%'";

/// Operators, casts and domains outside the system schemas that call functions which are not immutable, each with two types and
/// whether these are of the system. Operators of an extension in C that are stable depend on settings (`%` of pg_trgm): an operator has no
/// way to be told of a table.
const HIDDEN_CALLS: &str = "\
SELECT n.nspname, p.proname, o.oprname, l.typname, r.typname,
  coalesce(l.typnamespace = 'pg_catalog'::regnamespace, true), coalesce(r.typnamespace = 'pg_catalog'::regnamespace, true)
FROM pg_catalog.pg_operator AS o
JOIN pg_catalog.pg_proc AS p ON p.oid = o.oprcode JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_type AS l ON l.oid = o.oprleft LEFT JOIN pg_catalog.pg_type AS r ON r.oid = o.oprright
WHERE o.oprnamespace <> 'pg_catalog'::regnamespace AND p.provolatile <> 'i'
  AND NOT (p.provolatile = 's' AND p.prolang IN (SELECT l.oid FROM pg_catalog.pg_language AS l WHERE l.lanname = 'c')
    AND EXISTS (SELECT FROM pg_catalog.pg_depend AS e
      WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e'))
UNION ALL SELECT n.nspname, p.proname, NULL, s.typname, t.typname,
  s.typnamespace = 'pg_catalog'::regnamespace, t.typnamespace = 'pg_catalog'::regnamespace FROM pg_catalog.pg_cast AS c
JOIN pg_catalog.pg_proc AS p ON p.oid = c.castfunc JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_type AS s ON s.oid = c.castsource JOIN pg_catalog.pg_type AS t ON t.oid = c.casttarget
WHERE c.oid >= 16384 AND p.provolatile <> 'i'
UNION ALL SELECT DISTINCT n.nspname, p.proname, NULL, NULL, t.typname, true, false FROM pg_catalog.pg_constraint AS c
JOIN pg_catalog.pg_type AS t ON t.oid = c.contypid
JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = c.oid
  AND d.refclassid = 'pg_catalog.pg_proc'::regclass
JOIN pg_catalog.pg_proc AS p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.oid >= 16384 AND p.provolatile <> 'i'";

/// Indexes; of those that make rows conflict also their table and the columns of their key, each in a row, and whether that is the
/// table's primary key.
const INDEXES: &str = "\
SELECT n.nspname, c.relname, tn.nspname, t.relname, a.attname, x.indisprimary FROM pg_catalog.pg_index AS x
JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN (pg_catalog.pg_class AS t JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace)
  ON t.oid = x.indrelid AND (x.indisunique OR x.indisexclusion)
LEFT JOIN pg_catalog.pg_attribute AS a
  ON a.attrelid = t.oid AND a.attnum = ANY ((x.indkey::pg_catalog.int2[])[0:x.indnkeyatts - 1])
WHERE n.nspname <> 'pg_catalog' AND n.nspname NOT LIKE 'pg\\_t%'";

const SYSTEM_RELATIONS: &str = "\
SELECT relname FROM pg_catalog.pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')";

/// With -1 for no modifier: `bpchar` and not `character`, which would mean `character(1)`. Of types outside the system's also
/// what they are made of; multiranges came with version 14.
const TYPES: &str = "\
SELECT t.oid, CASE WHEN t.typtype <> 'c' THEN pg_catalog.format_type(t.oid, -1) END, n.nspname, t.typname,
  CASE WHEN t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0 THEN 'a' ELSE t.typtype END,
  CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE r.rngsubtype END
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_range AS r
  ON t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::pg_catalog.oid) AND t.typtype IN ('r', 'm')
WHERE (t.typtype IN ('b', 'e', 'd', 'r', 'm') OR t.typtype = 'c' AND t.oid >= 16384)
  AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp\\_%'";

/// Has the definitions of views printed with the schema of every name; until the end of the text, which is one transaction.
const EMPTY_PATH: &str = "SELECT pg_catalog.set_config('search_path', '', true)";

/// Views with their definitions, options, whether a write of them is something else, and one relation that they read; and tables
/// with row-level security, which have no definition.
const VIEWS: &str = "\
SELECT n.nspname, c.relname, CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
  coalesce(c.reloptions, '{}') && ARRAY['security_barrier=true', 'security_barrier=on', 'security_barrier=1'],
  coalesce(c.reloptions, '{}') && ARRAY['security_invoker=true', 'security_invoker=on', 'security_invoker=1'],
  EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
    OR EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = c.oid AND w.ev_type <> '1'),
  rn.nspname, r.relname
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN (pg_catalog.pg_rewrite AS w
  JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
    AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
  JOIN pg_catalog.pg_class AS r ON r.oid = d.refobjid
  JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace)
  ON w.ev_class = c.oid AND w.ev_type = '1' AND r.oid <> c.oid AND c.relkind IN ('v', 'm')
WHERE (c.relkind IN ('v', 'm') OR c.relrowsecurity) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\\_temp\\_%'
GROUP BY c.oid, n.nspname, c.relname, c.relkind, c.reloptions, rn.nspname, r.relname
ORDER BY c.oid, rn.nspname, r.relname";

/// Policies of tables with row-level security that have a subquery or call a function outside the system's.
const POLICIES: &str = "\
SELECT n.nspname, c.relname, pg_catalog.pg_get_expr(e.expression, c.oid) FROM pg_catalog.pg_policy AS p
JOIN pg_catalog.pg_class AS c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (VALUES (p.polqual), (p.polwithcheck)) AS e (expression)
WHERE c.relrowsecurity AND (e.expression::text ~ '\\{SUBLINK' OR EXISTS (
  SELECT FROM pg_catalog.regexp_matches(e.expression::text, ':(?:op)?funcid ([1-9]\\d*)', 'g') AS called WHERE called[1]::bigint >= 16384))";

/// The code of functions, procedures and triggers' functions that is told by its words, and calls of the functions that aggregates are
/// made of.
const BODIES: &str = "\
SELECT n.nspname, p.proname, coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) FROM pg_catalog.pg_proc AS p
JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND p.prolang NOT IN (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal'))
UNION ALL SELECT n.nspname, p.proname, fn.nspname || '.' || f.proname || '()' FROM pg_catalog.pg_aggregate AS a
JOIN pg_catalog.pg_proc AS p ON p.oid = a.aggfnoid JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_proc AS f ON f.oid IN (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggmfinalfn) AND f.oid >= 16384
JOIN pg_catalog.pg_namespace AS fn ON fn.oid = f.pronamespace WHERE a.aggfnoid::oid >= 16384";

/// Triggers by table, with their functions and whether they run before each row; and tables with rules, with the other relations
/// that these name, in the place of the function.
const TRIGGERS: &str = "\
SELECT n.nspname, c.relname, fn.nspname, p.proname, t.tgtype & 3 = 3, t.tgtype & 28 FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace AS fn ON fn.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
UNION ALL SELECT DISTINCT n.nspname, c.relname, rn.nspname, r.relname, NULL::boolean, 0 FROM pg_catalog.pg_rewrite AS w
JOIN pg_catalog.pg_class AS c ON c.oid = w.ev_class JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
JOIN pg_catalog.pg_class AS r ON r.oid = d.refobjid JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
WHERE w.ev_type <> '1' AND c.relkind IN ('r', 'p') AND r.oid <> c.oid AND n.nspname NOT IN ('pg_catalog', 'information_schema')";

/// Functions and procedures, and tables with triggers, whose code may leave state in its session, with the code.
const CODE: &str = "\
SELECT name, body FROM (
  SELECT p.proname AS name, coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc) AS body, p.prolang, p.pronamespace
  FROM pg_catalog.pg_proc AS p
  UNION ALL SELECT c.relname, p.prosrc, p.prolang, p.pronamespace FROM pg_catalog.pg_trigger AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal
) AS code
WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  AND prolang NOT IN (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal'))
  AND body ~* '\\m(set|reset|pg_advisory|pg_try_advisory|pg_notify|notify|listen|load|temp|pg_temp|hold|setseed|dblink_connect|lo_|loread|lowrite|nextval|currval|lastval|insert|merge|txid_current|pg_current)'";

/// Reads what functions and triggers of the shard that `client` is connected to may leave in their session.
///
/// # Errors
/// What the server answered, or that the connection broke.
pub async fn load_code(client: &ControlClient) -> Result<CodeEffects, ControlError> {
    let messages = client.connection().simple_query(CODE).await.map_err(|fault| client.error(&fault))?;
    let mut effects = CodeEffects::new();
    for message in &messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let (Some(name), Some(body)) = (row.get(0), row.get(1)) else { continue };
        let leftover = code_leftover(body);
        if !(leftover.makes.is_empty() && leftover.bonds.is_empty()) {
            let known = effects.entry(name.to_owned()).or_default();
            *known = known.and(leftover);
        }
    }
    Ok(effects)
}

/// Reads the catalog of the shard that `client` is connected to. `version` becomes the schema's.
///
/// Needs no rights beyond CONNECT. Close the client if the future is dropped before its end.
///
/// # Errors
/// What the server answered, or that the connection broke.
pub async fn load_schema(client: &ControlClient, version: u64) -> Result<Schema, ControlError> {
    let messages = client.connection().simple_query(&schema_sql()).await.map_err(|fault| client.error(&fault))?;
    let mut reader = Reader { schema: Schema { version, ..Schema::default() }, ..Reader::default() };
    let mut part = 0;
    for message in &messages {
        match message {
            SimpleQueryMessage::Row(row) => reader
                .take(part, &Texts(&|idx| row.get(idx)))
                .ok_or_else(|| ControlError::Mismatch("a row of the catalog is not understood".to_owned()))?,
            SimpleQueryMessage::CommandComplete(_) => part += 1,
            _ => {}
        }
    }
    Ok(reader.finish())
}

/// What a session is asked for the catalog as its transaction sees it. It has an empty search path afterwards, up to the end of
/// the transaction or of a part of it.
pub fn schema_sql() -> String {
    let columns = [COLUMNS, PERMANENT].concat();
    [
        columns.as_str(),
        FUNCTIONS,
        SYSTEM_RELATIONS,
        TYPES,
        PARENTS,
        HIDDEN_CALLS,
        INDEXES,
        TRIGGERS,
        EMPTY_PATH,
        BODIES,
        POLICIES,
        VIEWS,
    ]
    .join(";\n")
}

/// The answers to [`schema_sql`], one for each of its statements; `None` where a row is not understood.
pub fn schema_of(parts: &[Vec<Vec<Option<String>>>]) -> Option<Schema> {
    let mut reader = Reader::default();
    for (part, rows) in parts.iter().enumerate() {
        for row in rows {
            reader.take(part, &Texts(&|idx| row.get(idx).and_then(Option::as_deref)))?;
        }
    }
    Some(reader.finish())
}

/// A row's values by the indexes of its columns.
struct Texts<'a>(&'a dyn Fn(usize) -> Option<&'a str>);

impl<'a> Texts<'a> {
    fn get(&self, idx: usize) -> Option<&'a str> {
        (self.0)(idx)
    }
}

/// What a session is asked for its own temporary relations.
pub fn temporaries_sql() -> String {
    [COLUMNS, TEMPORARY].concat()
}

/// The answer to [`temporaries_sql`].
pub fn temporaries(rows: &[Vec<Option<String>>]) -> Temporaries {
    let mut reader = Reader::default();
    let mut found = Temporaries::default();
    for row in rows {
        let get = |idx: usize| row.get(idx).and_then(Option::as_deref);
        if reader.take_column(&get).is_none() {
            found.indexes.extend(get(1).map(str::to_owned));
        }
    }
    found.relations = reader.relations.into_iter().map(|(name, relation)| (name.name, Arc::new(relation))).collect();
    found
}

/// Puts rows together; `None` when one lacks a value that it must have.
#[derive(Default)]
struct Reader {
    schema: Schema,
    relations: BTreeMap<TableName, Relation>,
    views: BTreeMap<TableName, ViewDefinition>,
}

impl Reader {
    fn take(&mut self, part: usize, row: &Texts<'_>) -> Option<()> {
        match part {
            0 => self.take_column(row.0)?,
            1 => self.take_function(row)?,
            2 => {
                self.schema.system_relations.insert(row.get(0)?.to_owned());
            }
            3 => self.take_type(row)?,
            4 => {
                let (child, parent) = (TableName::new(row.get(0)?, row.get(1)?), TableName::new(row.get(2)?, row.get(3)?));
                if row.get(4)? == "S" {
                    self.schema.sequence_owners.insert(child, parent);
                } else if let Some(other) = self.schema.parents.insert(child.clone(), parent) {
                    self.schema.other_parents.insert((child, other));
                }
            }
            5 => self.take_hidden_call(row)?,
            6 => self.take_index(row)?,
            7 => self.take_trigger(row)?,
            8 => {}
            9 => {
                let mentions = crate::sql::mentions(row.get(2).unwrap_or_default());
                self.schema.code.entry(TableName::new(row.get(0)?, row.get(1)?)).or_default().extend(mentions);
            }
            10 => {
                let policies = self.schema.policies.entry(TableName::new(row.get(0)?, row.get(1)?)).or_default();
                policies.insert(row.get(2)?.to_owned());
            }
            _ => self.take_view(row)?,
        }
        Some(())
    }

    fn take_type(&mut self, row: &Texts<'_>) -> Option<()> {
        let oid: TypeOid = row.get(0)?.parse().ok()?;
        if let Some(name) = row.get(1) {
            self.schema.type_names.insert(oid, name.to_owned());
        }
        if oid >= FIRST_OWN_OID {
            let (schema, name) = (row.get(2)?.to_owned(), row.get(3)?.to_owned());
            let inner = || row.get(5)?.parse().ok();
            let shape = match row.get(4)? {
                "a" => TypeShape::Array,
                "c" => TypeShape::Composite,
                "d" => TypeShape::Domain { base: inner()? },
                "r" => TypeShape::Range { subtype: inner()? },
                "m" => TypeShape::Multirange { subtype: inner()? },
                _ => TypeShape::Plain,
            };
            self.schema.own_types.insert(oid, OwnType { schema, name, shape });
        }
        Some(())
    }

    fn take_function(&mut self, row: &Texts<'_>) -> Option<()> {
        let (schema, name, volatility) = (row.get(0)?, row.get(1)?.to_owned(), volatility(row.get(2)?));
        if schema == "pg_catalog" {
            self.schema.system_functions.insert(name, volatility);
            return Some(());
        }
        let kind = match (row.get(3)?, row.get(4)?) {
            ("t", _) => FunctionKind::Plain,
            (_, "t") => FunctionKind::Aggregate,
            _ => FunctionKind::Other,
        };
        let gives_own_type = row.get(5)? == "t";
        let function = UserFunction { schema: schema.to_owned(), volatility, kind, gives_own_type };
        self.schema.user_functions.entry(name).or_default().push(function);
        Some(())
    }

    fn take_hidden_call(&mut self, row: &Texts<'_>) -> Option<()> {
        let function = TableName::new(row.get(0)?, row.get(1)?);
        let (left, right) = ((row.get(3), row.get(5)? == "t"), (row.get(4), row.get(6)? == "t"));
        let own = [left, right].into_iter().filter(|(_, is_of_system)| !is_of_system).filter_map(|(name, _)| name);
        let mut types: Vec<String> = own.map(str::to_owned).collect();
        let by = match (row.get(2), left.0) {
            (Some(name), _) => CalledBy::Operator(name.to_owned()),
            (None, Some(from)) => {
                let (from, to) = (from.to_owned(), row.get(4)?.to_owned());
                if types.is_empty() {
                    types = vec![from.clone(), to.clone()];
                }
                CalledBy::Cast { from, to }
            }
            (None, None) => CalledBy::Domain(row.get(4)?.to_owned()),
        };
        self.schema.hidden_calls.insert(HiddenCall { function, by, types });
        Some(())
    }

    fn take_index(&mut self, row: &Texts<'_>) -> Option<()> {
        let index = TableName::new(row.get(0)?, row.get(1)?);
        if let (Some(schema), Some(table)) = (row.get(2), row.get(3)) {
            let indexes = self.schema.unique.entry(TableName::new(schema, table)).or_default();
            indexes.entry(index.name.clone()).or_default().extend(row.get(4).map(str::to_owned));
            if row.get(5)? == "t" {
                let key = self.schema.primary_keys.entry(TableName::new(schema, table)).or_default();
                key.extend(row.get(4).map(str::to_owned));
            }
        }
        self.schema.indexes.insert(index);
        Some(())
    }

    fn take_trigger(&mut self, row: &Texts<'_>) -> Option<()> {
        let (table, other) = (TableName::new(row.get(0)?, row.get(1)?), TableName::new(row.get(2)?, row.get(3)?));
        match row.get(4) {
            Some(is_before_row) => {
                let events = row.get(5)?.parse().ok()?;
                let trigger = Trigger { function: other, is_before_row: is_before_row == "t", events };
                self.schema.triggers.entry(table).or_default().insert(trigger);
            }
            None => {
                self.schema.rules.entry(table).or_default().insert(other);
            }
        }
        Some(())
    }

    fn take_view(&mut self, row: &Texts<'_>) -> Option<()> {
        let name = TableName::new(row.get(0)?, row.get(1)?);
        let Some(query) = row.get(2) else {
            self.schema.guarded.insert(name);
            return Some(());
        };
        let is_true = |idx: usize| row.get(idx) == Some("t");
        let view = self.views.entry(name).or_insert_with(|| ViewDefinition {
            query: query.trim().trim_end_matches(';').to_owned(),
            reads: Vec::new(),
            is_barrier: is_true(3),
            is_invoker: is_true(4),
            has_write_rules: is_true(5),
        });
        if let (Some(schema), Some(relation)) = (row.get(6), row.get(7)) {
            view.reads.push(TableName::new(schema, relation));
        }
        Some(())
    }

    /// `get` gives the values of a row of [`COLUMNS`].
    fn take_column<'a>(&mut self, get: &dyn Fn(usize) -> Option<&'a str>) -> Option<()> {
        let name = TableName::new(get(0)?, get(1)?);
        let kind = kind(get(2)?)?;
        let relation = self.relations.entry(name).or_insert_with(|| Relation { kind, columns: Vec::new() });
        let Some(column_name) = get(3) else { return Some(()) };
        let type_name = get(5)?.to_owned();
        let default = match (get(9)?, get(8)?) {
            ("", "") => classify_default(get(10), get(11) == Some("t"), &type_name),
            ("", _) => ColumnDefault::Volatile("identity".to_owned()),
            _ => ColumnDefault::Generated,
        };
        relation.columns.push(Column {
            name: column_name.to_owned(),
            type_oid: get(4)?.parse().ok()?,
            type_name,
            declaration: get(12)?.to_owned(),
            transfer: if get(13)? == "t" { Transfer::Binary } else { Transfer::Text },
            collation: match get(6)? {
                "none" => Collation::None,
                "c" => Collation::C,
                "default" => Collation::Default,
                "nondeterministic" => Collation::Nondeterministic,
                _ => Collation::Other,
            },
            is_not_null: get(7)? == "t",
            default,
        });
        Some(())
    }

    /// Keeps of what code names that which there is.
    fn reduce_code(&mut self) {
        let names: BTreeSet<String> = self.relations.keys().map(|name| name.name.to_lowercase()).collect();
        let Schema { code, user_functions, system_functions, .. } = &mut self.schema;
        let is_function = |name: &String| {
            let system = system_functions.get(name);
            user_functions.contains_key(name) || system.is_some_and(|volatility| *volatility != FunctionVolatility::Immutable)
        };
        for mentions in code.values_mut() {
            mentions.retain(|mention| match mention.manner {
                Manner::Read | Manner::Written => names.contains(&mention.name),
                Manner::Called => {
                    is_function(&mention.name) || mention.name.starts_with("current_") || mention.name.starts_with("local")
                }
                Manner::Assigned | Manner::Composed => true,
            });
        }
        code.retain(|_, mentions| !mentions.is_empty());
    }

    fn finish(mut self) -> Schema {
        self.reduce_code();
        self.schema.relations = self.relations.into_iter().map(|(name, relation)| (name, Arc::new(relation))).collect();
        self.schema.views = self.views.into_iter().map(|(name, view)| (name, Arc::new(view))).collect();
        self.schema
    }
}

/// What the column is filled with. `expression` is as `pg_get_expr` prints it.
///
/// The transaction's time counts as such only where it is assigned as it is: CURRENT_DATE in a timestamp column, or
/// `now()` cast or shifted first, is a different value.
fn classify_default(expression: Option<&str>, is_changing: bool, type_name: &str) -> ColumnDefault {
    let Some(expression) = expression else { return ColumnDefault::None };
    let is_now = match expression {
        "now()" | "transaction_timestamp()" | "CURRENT_TIMESTAMP" => true,
        "LOCALTIMESTAMP" => type_name == "timestamp without time zone",
        "CURRENT_DATE" => type_name == "date",
        _ => false,
    };
    match (is_now, is_changing) {
        (true, _) => ColumnDefault::Now,
        (false, true) => ColumnDefault::Volatile(expression.to_owned()),
        (false, false) if expression.starts_with("NULL::") => ColumnDefault::None,
        (false, false) => ColumnDefault::Immutable(expression.to_owned()),
    }
}

fn kind(relkind: &str) -> Option<RelationKind> {
    Some(match relkind {
        "r" => RelationKind::Table,
        "p" => RelationKind::PartitionedTable,
        "v" => RelationKind::View,
        "m" => RelationKind::MaterializedView,
        "f" => RelationKind::ForeignTable,
        "S" => RelationKind::Sequence,
        _ => return None,
    })
}

fn volatility(provolatile: &str) -> FunctionVolatility {
    match provolatile {
        "i" => FunctionVolatility::Immutable,
        "s" => FunctionVolatility::Stable,
        _ => FunctionVolatility::Volatile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, is_changing: bool, type_name: &str, expected: ColumnDefault) {
        assert_eq!(classify_default(Some(expression), is_changing, type_name), expected, "{expression}");
    }

    #[test]
    fn the_time_counts_as_such_only_in_its_own_type() {
        let volatile = |text: &str| ColumnDefault::Volatile(text.into());
        check("now()", true, "timestamp with time zone", ColumnDefault::Now);
        check("now()", true, "date", ColumnDefault::Now);
        check("CURRENT_DATE", true, "date", ColumnDefault::Now);
        check("CURRENT_DATE", true, "timestamp with time zone", volatile("CURRENT_DATE"));
        check("(now() - '1 day'::interval)", true, "date", volatile("(now() - '1 day'::interval)"));
        check("'a'::text", false, "text", ColumnDefault::Immutable("'a'::text".into()));
        check("NULL::character varying", false, "character varying", ColumnDefault::None);
        assert_eq!(classify_default(None, false, "text"), ColumnDefault::None);
    }
}
