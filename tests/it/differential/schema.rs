//! Tables and views that are made anew for each seed: keys of every type that hashes, columns of every type that is built in.

use super::fixture::{DATES, SLUGS, Table, Type, uuid};
use super::random::Random;

/// Types without a kind of their own: how each is declared, and values that it takes.
pub(super) const OTHERS: &[(&str, &[&str])] = &[
    ("interval", &["'1 day'", "'-3 hours'", "'1 mon 2 days'", "'25:00:00'", "'0'"]),
    ("time", &["'10:00'", "'23:59:59.999999'", "'00:00'"]),
    ("timetz", &["'10:00+02'", "'08:00+00'", "'23:00-05'"]),
    ("jsonb", &["'{\"a\": [1, null]}'", "'[]'", "'1.50'", "'\"x\"'", "'null'"]),
    ("json", &["'{\"a\":  1}'", "'[1,2]'"]),
    ("integer[]", &["'{1,2,NULL}'", "'{}'", "'{{1},{2}}'", "'{7}'"]),
    ("text[]", &["'{a,\"b c\",NULL}'", "'{}'", "'{Zoë}'"]),
    ("inet", &["'10.0.0.1/8'", "'::1'", "'10.0.0.1'"]),
    ("cidr", &["'10.0.0.0/8'", "'192.168.1.0/24'"]),
    ("macaddr", &["'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"]),
    ("bit(4)", &["B'1010'", "B'0000'"]),
    ("varbit", &["B'10'", "B''", "B'10101'"]),
    ("money", &["'12.34'", "'-1'", "'0'"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,3]'"]),
    ("numrange", &["'[1.5,2.5]'", "'(,)'"]),
    ("tstzrange", &["'[2024-01-01 00:00+00,2024-02-01 00:00+00)'", "'empty'"]),
    ("int4multirange", &["'{[1,3),[7,9)}'", "'{}'"]),
    ("tsvector", &["'a fat cat'", "'fat:1 cat:2'"]),
    ("tsquery", &["'fat & cat'", "'!rat'", "''"]),
    ("int2vector", &["'1 2'", "''"]),
    ("point", &["'(1,2)'", "'(0,0)'"]),
    ("box", &["'(2,2),(0,0)'", "'(1,1),(0,0)'"]),
    ("oid", &["7", "4000000000"]),
    ("\"char\"", &["'a'", "'Z'"]),
    ("name", &["'some'", "'Zoë'"]),
    ("pg_lsn", &["'0/16B3748'", "'FF/0'"]),
    ("character(6)", &["'ab'", "'ab    '", "'Zoë'", "''"]),
    ("gen_mood", &["'sad'", "'ok'", "'happy'"]),
    ("gen_amount", &["1.5", "20", "0"]),
    ("xml", &["'<a>1</a>'"]),
];

/// Plain declarations of each kind.
const KINDS: &[(Type, &[&str])] = &[
    (Type::Int, &["smallint", "integer", "bigint"]),
    (Type::Num, &["numeric", "numeric(9,3)"]),
    (Type::Float, &["float8", "real"]),
    (Type::Text, &["text", "varchar(30)", "text COLLATE \"C\"", "text COLLATE \"und-x-icu\"", "text COLLATE \"de-x-icu\""]),
    (Type::Date, &["date"]),
    (Type::Stamp, &["timestamp", "timestamp(3)"]),
    (Type::StampTz, &["timestamptz"]),
    (Type::Bool, &["boolean"]),
    (Type::Uuid, &["uuid"]),
    (Type::Bytes, &["bytea"]),
];

const KEYS: &[(Type, &str)] = &[
    (Type::Int, "bigint"),
    (Type::Int, "integer"),
    (Type::Int, "smallint"),
    (Type::Text, "text"),
    (Type::Text, "varchar(30)"),
    (Type::Text, "text COLLATE \"und-x-icu\""),
    (Type::Uuid, "uuid"),
];

/// What one seed adds to the tables that every run has.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub(super) ddl: String,
    /// Lines of `[databases.shop]`.
    pub(super) placement: String,
    pub(super) rows: Vec<String>,
    pub(super) tables: &'static [Table],
}

const NAMES: [&str; 3] = ["gen_a", "gen_b", "gen_c"];
const COLUMNS: [&str; 8] = ["x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8"];

impl Extra {
    pub(super) fn of(random: &mut Random) -> Self {
        let mut extra = Self { ddl: DDL_HEAD.to_owned(), ..Self::default() };
        let (key, key_type) = KEYS[random.below(KEYS.len())];
        let mut tables = Vec::new();
        for name in NAMES {
            let columns = extra.table(random, name, (key, key_type));
            let n_key = if name == "gen_c" { 0 } else { 1 };
            tables.push(Table { name, columns: Box::leak(columns.into_boxed_slice()), n_key });
            extra.placement.push_str(&match name {
                "gen_c" => format!("[[databases.shop.tables]]\nname = '{name}'\nreference = true\n"),
                _ => format!("[[databases.shop.tables]]\nname = '{name}'\nkey = {{ hash = 'k' }}\n"),
            });
        }
        extra.ddl.push_str(VIEWS);
        for (view, columns) in VIEW_COLUMNS {
            tables.push(Table { name: view, columns, n_key: 0 });
        }
        // A view of all that the first table has, under other names: its key shows.
        let (first, columns) = (&tables[0], tables[0].columns);
        let items: Vec<String> = columns.iter().map(|(name, _)| format!("{name} AS v_{name}")).collect();
        extra.ddl.push_str(&format!("CREATE VIEW v_first AS SELECT {} FROM {};\n", items.join(", "), first.name));
        let named: Vec<(&'static str, Type)> = columns.iter().map(|(name, kind)| (&*format!("v_{name}").leak(), *kind)).collect();
        tables.push(Table { name: "v_first", columns: Box::leak(named.into_boxed_slice()), n_key: 1 });
        extra.tables = Box::leak(tables.into_boxed_slice());
        extra
    }

    fn table(&mut self, random: &mut Random, name: &str, (key, key_type): (Type, &str)) -> Vec<(&'static str, Type)> {
        let mut columns = vec![("k", key)];
        let mut declared = vec![format!("k {key_type} NOT NULL"), "n integer NOT NULL".to_owned()];
        columns.push(("n", Type::Int));
        let n_columns = random.between(3, 8) as usize;
        for column in &COLUMNS[..n_columns] {
            let (kind, declaration) = if random.chance(55) {
                let idx = random.below(OTHERS.len());
                (Type::Other(idx), OTHERS[idx].0)
            } else {
                let (kind, all) = KINDS[random.below(KINDS.len())];
                (kind, all[random.below(all.len())])
            };
            columns.push((column, kind));
            declared.push(format!("{column} {declaration}"));
        }
        self.ddl.push_str(&format!("CREATE TABLE {name} ({}, PRIMARY KEY (k, n));\n", declared.join(", ")));
        let rows: Vec<String> = (0..24)
            .map(|n| {
                let mut row = vec![key_value(key, random), n.to_string()];
                for (_, kind) in &columns[2..] {
                    row.push(if random.chance(20) { "NULL".to_owned() } else { stored_value(*kind, random) });
                }
                format!("({})", row.join(", "))
            })
            .collect();
        self.rows.push(format!("INSERT INTO {name} VALUES {}", rows.join(", ")));
        columns
    }
}

fn text(random: &mut Random) -> String {
    format!("'{}'", random.pick(SLUGS).replace('\'', "''"))
}

fn key_value(kind: Type, random: &mut Random) -> String {
    match kind {
        Type::Text => text(random),
        Type::Uuid => format!("'{}'", uuid(random.between(1, 9))),
        _ => random.between(-3, 9).to_string(),
    }
}

fn stored_value(kind: Type, random: &mut Random) -> String {
    match kind {
        Type::Int => random.between(-5, 9).to_string(),
        Type::Num => random.pick(&["0", "1.5", "-2.25", "999.125", "'NaN'"]).to_owned(),
        Type::Float => random.pick(&["0", "0.25", "-2.25", "'NaN'", "'Infinity'"]).to_owned(),
        Type::Text => text(random),
        Type::Date => format!("'{}'", random.pick(DATES)),
        Type::Stamp => random.pick(&["'2024-02-29 10:00:00.123'", "'1999-12-31 23:59:59'", "'infinity'"]).to_owned(),
        Type::StampTz => random.pick(&["'2024-02-29 10:00:00.123456+00'", "'2024-10-27 00:30:00+00'", "'-infinity'"]).to_owned(),
        Type::Bool => random.pick(&["true", "false"]).to_owned(),
        Type::Uuid => format!("'{}'", uuid(random.between(1, 9))),
        Type::Bytes => random.pick(&["'\\x00ff'", "'\\x'", "'\\xff'"]).to_owned(),
        Type::Other(idx) => random.pick(OTHERS[idx].1).to_owned(),
    }
}

const DDL_HEAD: &str = "
CREATE TYPE gen_mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN gen_amount AS numeric(8,2) CHECK (VALUE >= 0);
";

const VIEWS: &str = "
CREATE VIEW v_plain AS SELECT id AS nr, grp, t, num, d FROM acct WHERE grp IS DISTINCT FROM 2;
CREATE VIEW v_join AS SELECT a.id, i.item, i.qty, a.c, i.note FROM acct a JOIN item i ON i.id = a.id;
CREATE VIEW v_left(id, label, qty) AS SELECT a.id, c.label, i.qty FROM acct a LEFT JOIN item i USING (id) LEFT JOIN code c ON c.code = a.t;
CREATE VIEW v_group AS SELECT grp, count(*) AS n, max(t COLLATE \"C\") AS last FROM acct GROUP BY grp;
CREATE VIEW v_union AS SELECT slug AS word FROM doc UNION SELECT note FROM item;
CREATE VIEW v_first_items AS SELECT id, item, price FROM item ORDER BY id, item LIMIT 9;
CREATE VIEW v_nested AS SELECT g.grp, g.n, p.nr FROM v_group g JOIN v_plain p ON p.grp = g.grp;
CREATE VIEW v_recent AS SELECT at, n FROM metric WHERE at > now() - interval '10 days';
CREATE VIEW v_code AS SELECT code, upper(label) AS label, rank FROM code;
CREATE VIEW v_fenced WITH (security_barrier) AS SELECT id, row_number() OVER (ORDER BY id) AS place FROM acct WHERE t <> '';
";

const VIEW_COLUMNS: &[(&str, &[(&str, Type)])] = &[
    ("v_plain", &[("nr", Type::Int), ("grp", Type::Int), ("t", Type::Text), ("num", Type::Num), ("d", Type::Date)]),
    ("v_join", &[("id", Type::Int), ("item", Type::Int), ("qty", Type::Int), ("c", Type::Text), ("note", Type::Text)]),
    ("v_left", &[("id", Type::Int), ("label", Type::Text), ("qty", Type::Int)]),
    ("v_group", &[("grp", Type::Int), ("n", Type::Int), ("last", Type::Text)]),
    ("v_union", &[("word", Type::Text)]),
    ("v_first_items", &[("id", Type::Int), ("item", Type::Int), ("price", Type::Num)]),
    ("v_nested", &[("grp", Type::Int), ("n", Type::Int), ("nr", Type::Int)]),
    ("v_recent", &[("at", Type::StampTz), ("n", Type::Int)]),
    ("v_code", &[("code", Type::Text), ("label", Type::Text), ("rank", Type::Int)]),
    ("v_fenced", &[("id", Type::Int), ("place", Type::Int)]),
];
