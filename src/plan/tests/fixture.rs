//! The demo's tables over three shards, with a hand-built catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::plan::{Context, PlanSettings};
use crate::topology::{
    AgeMap, AgePolicy, CalledBy, Collation, Column, ColumnDefault, Engine, FunctionKind, FunctionVolatility, HashFunction,
    HashMapLevel, HiddenCall, Key, KeyMap, KeyValue, ListMap, Placement, Relation, RelationKind, Schema, Shard, ShardId, Table,
    TableName, Topology, Transfer, Trigger, TypeOid, UserFunction, ViewDefinition,
};

/// 2026-06-15 12:00:00 UTC in microseconds since 2000-01-01.
pub(super) const NOW: i64 = 834_840_000 * 1_000_000;

pub(super) struct Fixture {
    pub(super) topology: Topology,
    pub(super) schema: Schema,
    pub(super) settings: PlanSettings,
}

impl Fixture {
    pub(super) fn context(&self) -> Context<'_> {
        Context { topology: &self.topology, schema: &self.schema, settings: &self.settings }
    }
}

pub(super) fn fixture() -> Fixture {
    let names = ["americas", "europe", "asia"];
    let shards =
        names.iter().map(|name| Shard { name: (*name).to_owned(), dbname: "shop".to_owned(), nodes: Vec::new() }).collect();
    let settings = PlanSettings::default();
    let topology = Topology {
        database: "shop".to_owned(),
        shards,
        tables: tables(),
        default_shard: None,
        engine: Engine::Any,
        safe_functions: [TableName::new("public", "declared")].into(),
        epoch: 1,
    };
    Fixture { topology, schema: schema(), settings }
}

fn hash_level(column_idx: usize, branches: Vec<KeyMap>) -> KeyMap {
    let n = branches.len();
    let buckets: Vec<u16> = (0..4096).map(|bucket| (bucket * n / 4096) as u16).collect();
    KeyMap::Hash(HashMapLevel { column_idx, function: HashFunction::Postgres, buckets: buckets.into(), branches })
}

fn on(shard: u8) -> KeyMap {
    KeyMap::Shard(ShardId(shard))
}

fn list_level(column_idx: usize, branches: Vec<KeyMap>, default: Option<usize>) -> KeyMap {
    let lists = [["us", "ca", "mx", "br"], ["uk", "de", "fr", "es"], ["jp", "sg", "au", "in"]];
    let values = lists
        .iter()
        .enumerate()
        .flat_map(|(idx, list)| list.iter().map(move |value| (KeyValue::Text((*value).to_owned()), idx)))
        .collect();
    KeyMap::List(ListMap { column_idx, values, branches, default })
}

fn age_level() -> KeyMap {
    let day = 24 * 3600;
    let policy = AgePolicy { younger_than: vec![Duration::from_secs(7 * day), Duration::from_secs(30 * day)] };
    let watermarks = policy.initial_watermarks(NOW);
    KeyMap::Age(AgeMap { column_idx: 0, policy, watermarks, branches: vec![on(0), on(1), on(2)] })
}

fn key(columns: &[&str], map: KeyMap) -> Placement {
    Placement::Sharded(Key { columns: columns.iter().map(|column| (*column).to_owned()).collect(), map })
}

fn tables() -> HashMap<TableName, Arc<Table>> {
    let by_user = || key(&["user_id"], hash_level(0, vec![on(0), on(1), on(2)]));
    let in_group = |a, b| hash_level(1, vec![on(a), on(b)]);
    let all = [
        ("users", by_user()),
        ("orders", by_user()),
        ("order_items", by_user()),
        ("regional_metrics", key(&["region"], list_level(0, vec![on(0), on(1), on(2)], None))),
        ("metrics", key(&["recorded_at"], age_level())),
        ("events", key(&["region", "user_id"], list_level(0, vec![in_group(0, 1), in_group(1, 2), in_group(2, 0)], Some(0)))),
        ("guarded", by_user()),
        ("countries", Placement::Reference),
        ("noted", by_user()),
        ("policed", by_user()),
        ("policed_far", by_user()),
        ("policed_by_code", by_user()),
        ("policed_copy", Placement::Reference),
        ("loners", by_user()),
        ("folks", key(&["name"], hash_level(0, vec![on(0), on(1), on(2)]))),
        ("ruled_table", by_user()),
        ("moved", key(&["region"], list_level(0, vec![on(0), on(1), on(2)], None))),
        ("flags", Placement::Reference),
        ("counted", Placement::Pinned(ShardId(1))),
        ("audit", Placement::Pinned(ShardId(1))),
    ];
    let table = |(name, placement): (&str, Placement)| {
        let name = TableName::new("public", name);
        (name.clone(), Arc::new(Table { name, placement }))
    };
    all.into_iter().map(table).collect()
}

/// Kind, name and columns of the relations: name, type (`time` for timestamptz), `C` for collation C, `now` and `seq` for defaults.
const RELATIONS: &str = "
table users: user_id bigint, email text, name text, country text C, score integer, balance numeric, created_at time now
table orders: order_id bigint, user_id bigint, status text C, total numeric, qty integer, note text, created_at time now
table order_items: item_id bigint, order_id bigint, user_id bigint, sku text C, quantity integer, price numeric
table regional_metrics: region text, name text, value double, recorded_at time now
table metrics: recorded_at time now, name text, value double, ratio real
table events: event_id bigint, region text, user_id bigint, kind text C, payload jsonb
table guarded: user_id bigint
table orders_old: order_id bigint, user_id bigint, total numeric
table countries: code text C, name text, population bigint, seen_at time
table flags: code text C, seen_at time
table noted: user_id bigint
table policed: user_id bigint, country text
table policed_far: user_id bigint
table policed_by_code: user_id bigint
table policed_copy: code text
table folks: name text fuzzy, age integer
table loners: id bigint, mail text, user_id bigint
table ruled_table: user_id bigint
table moved: region text
table counted: n bigint
table audit: audit_id bigint seq, actor text, at time now
view recent_orders: order_id bigint, user_id bigint
view open_orders: number bigint, who bigint, status text C, name text
view keyless: order_id bigint, status text C
view spending: who bigint, spent numeric
view big_spenders: who bigint, spent numeric
view week: order_id bigint, user_id bigint
view tree: code text C, depth integer
view places: code text C, name text
view any_place: code text C
view actors: actor text
view server_tables: relname text
view tables_of_users: relname text, name text
view barrier: user_id bigint, score integer
view watched: user_id bigint
view ruled: user_id bigint, score integer
view circle: user_id bigint
view odd: user_id bigint
view lucky: user_id bigint
mview order_counts: user_id bigint, n bigint
table stray: id bigint seq, user_id bigint
sequence numbers: last_value bigint
sequence audit_id_seq: last_value bigint
sequence users_id_seq: last_value bigint";

/// Name, relations that are read, flags, and the query as `pg_get_viewdef` prints it.
const VIEWS: &str = "
recent_orders | orders | | SELECT orders.order_id, orders.user_id FROM public.orders ORDER BY orders.created_at DESC LIMIT 100
open_orders | orders users | | SELECT o.order_id AS number, o.user_id AS who, o.status, u.name FROM (public.orders o JOIN public.users u ON ((u.user_id = o.user_id))) WHERE (o.status = 'open'::text)
keyless | orders | | SELECT orders.order_id, orders.status FROM public.orders
spending | open_orders | | SELECT open_orders.who, sum(open_orders.number) AS spent FROM public.open_orders GROUP BY open_orders.who
big_spenders | spending | | SELECT s.who, s.spent FROM public.spending s WHERE (s.spent > (100)::numeric)
week | orders | | SELECT orders.order_id, orders.user_id FROM public.orders WHERE (orders.created_at > (now() - '7 days'::interval))
tree | countries | | WITH RECURSIVE t(code, depth) AS ( SELECT countries.code, 1 FROM public.countries UNION ALL SELECT t_1.code, (t_1.depth + 1) FROM t t_1 WHERE (t_1.depth < 3) ) SELECT t.code, t.depth FROM t
places | countries | | SELECT countries.code, upper(countries.name) AS name FROM public.countries
any_place | countries | | SELECT countries.code FROM public.countries LIMIT 1
actors | audit | | SELECT DISTINCT audit.actor FROM public.audit
server_tables | | | SELECT pg_class.relname FROM pg_class
tables_of_users | users | | SELECT c.relname, u.name FROM (pg_class c JOIN public.users u ON ((u.name = (c.relname)::text)))
barrier | users | barrier | SELECT users.user_id, users.score FROM public.users ORDER BY users.score
watched | guarded | | SELECT guarded.user_id FROM public.guarded LIMIT 7
ruled | users | rules | SELECT users.user_id, users.score FROM public.users
circle | circle | | SELECT circle.user_id FROM public.circle
odd | users | | SELECT MATCH_RECOGNIZE users.user_id FROM public.users
lucky | users | | SELECT users.user_id FROM public.users WHERE (random() < (0.5)::double precision)
order_counts | orders | | SELECT orders.user_id, count(*) AS n FROM public.orders GROUP BY orders.user_id";

fn column(words: &str) -> Column {
    let words: Vec<&str> = words.split_whitespace().collect();
    let (type_oid, type_name): (TypeOid, &str) = match words[1] {
        "bigint" => (20, "bigint"),
        "integer" => (23, "integer"),
        "text" => (25, "text"),
        "real" => (700, "real"),
        "double" => (701, "double precision"),
        "time" => (1184, "timestamp with time zone"),
        "numeric" => (1700, "numeric"),
        "jsonb" => (3802, "jsonb"),
        other => panic!("type {other}"),
    };
    let how = words.get(2).copied();
    let collation = match (type_name, how) {
        ("text", Some("C")) => Collation::C,
        ("text", Some("fuzzy")) => Collation::Nondeterministic,
        ("text", _) => Collation::Default,
        _ => Collation::None,
    };
    let default = match how {
        Some("now") => ColumnDefault::Now,
        Some("seq") => ColumnDefault::Volatile("nextval('s'::regclass)".to_owned()),
        _ => ColumnDefault::None,
    };
    let declaration = match collation {
        Collation::C => format!("{type_name} COLLATE pg_catalog.\"C\""),
        Collation::None | Collation::Default | Collation::Other | Collation::Nondeterministic => type_name.to_owned(),
    };
    Column {
        name: words[0].to_owned(),
        type_oid,
        type_name: type_name.to_owned(),
        declaration,
        transfer: Transfer::Binary,
        collation,
        is_not_null: false,
        default,
    }
}

fn relation(line: &str) -> (TableName, Arc<Relation>) {
    let (head, columns) = line.split_once(": ").unwrap();
    let (kind, name) = head.split_once(' ').unwrap();
    let kind = match kind {
        "table" => RelationKind::Table,
        "view" => RelationKind::View,
        "mview" => RelationKind::MaterializedView,
        _ => RelationKind::Sequence,
    };
    (TableName::new("public", name), Arc::new(Relation { kind, columns: columns.split(", ").map(column).collect() }))
}

fn view(line: &str) -> (TableName, Arc<ViewDefinition>) {
    let parts: Vec<&str> = line.splitn(4, '|').map(str::trim).collect();
    let [name, reads, flags, query] = parts.as_slice() else { panic!("view {line}") };
    let name_of = |name: &str| TableName::new("public", name);
    let view = ViewDefinition {
        query: (*query).to_owned(),
        reads: reads.split_whitespace().map(name_of).collect(),
        is_barrier: flags.contains("barrier"),
        is_invoker: flags.contains("invoker"),
        has_write_rules: flags.contains("rules"),
    };
    (name_of(name), Arc::new(view))
}

/// Functions with their code.
const CODE: [(&str, &str); 14] = [
    ("count_users", "SELECT count(*) FROM users"),
    ("count_falsely", "SELECT count(*) FROM public.users"),
    ("count_twice", "SELECT 2 * count_users()"),
    ("count_audit", "SELECT count(*) FROM audit"),
    ("count_stray", "SELECT count(*) FROM stray"),
    ("count_countries", "SELECT count(*) FROM countries"),
    ("rename_country", "UPDATE countries SET name = 'x'"),
    ("declared", "SELECT count(*) FROM users"),
    ("run_text", "BEGIN RETURN QUERY EXECUTE q; END"),
    ("run_by_way", "SELECT * FROM run_text('SELECT 1')"),
    ("run_constant", "BEGIN EXECUTE 'SELECT 1'; END"),
    ("note_item", "BEGIN UPDATE countries SET population = 1; RETURN NULL; END"),
    ("move_item", "BEGIN NEW.region := 'de'; RETURN NEW; END"),
    ("stamp", "BEGIN NEW.seen_at := now(); RETURN NEW; END"),
];

/// Tables with a trigger, its function, and whether that runs before each row.
const TRIGGERS: [(&str, &str, bool); 5] = [
    ("noted", "note_item", false),
    ("moved", "move_item", true),
    ("flags", "stamp", true),
    ("counted", "count_users", false),
    ("orders_old", "count_users", false),
];

/// Tables with row-level security, and what their policies say.
const POLICIES: [(&str, &str); 5] = [
    ("policed", "(EXISTS ( SELECT FROM public.orders o WHERE ((o.user_id = policed.user_id) AND (o.status = 'new'::text))))"),
    ("policed", "(country IN ( SELECT countries.code FROM public.countries))"),
    ("policed_far", "(user_id IN ( SELECT orders.order_id FROM public.orders))"),
    ("policed_by_code", "(user_id < public.count_users())"),
    ("policed_copy", "(EXISTS ( SELECT FROM public.users WHERE (users.country = policed_copy.code)))"),
];

fn policies() -> BTreeMap<TableName, BTreeSet<String>> {
    let mut policies: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
    for (name, policy) in POLICIES {
        policies.entry(TableName::new("public", name)).or_default().insert(policy.to_owned());
    }
    policies
}

/// Functions of users: name, schema, volatility and kind.
fn functions() -> impl Iterator<Item = (&'static str, &'static str, FunctionVolatility, FunctionKind)> {
    use FunctionVolatility::{Immutable, Stable, Volatile};
    [
        ("order_total", "public", Stable, FunctionKind::Plain),
        ("slug", "public", Immutable, FunctionKind::Plain),
        ("touch", "public", Volatile, FunctionKind::Plain),
        ("declared", "public", Stable, FunctionKind::Plain),
        ("count_users", "public", Stable, FunctionKind::Plain),
        ("count_falsely", "public", Immutable, FunctionKind::Plain),
        ("count_twice", "public", Stable, FunctionKind::Plain),
        ("count_audit", "public", Stable, FunctionKind::Plain),
        ("count_stray", "public", Stable, FunctionKind::Plain),
        ("count_countries", "public", Stable, FunctionKind::Plain),
        ("rename_country", "public", Volatile, FunctionKind::Plain),
        ("run_text", "public", Immutable, FunctionKind::Plain),
        ("run_by_way", "public", Stable, FunctionKind::Plain),
        ("run_constant", "public", Stable, FunctionKind::Plain),
        ("mixed", "public", Immutable, FunctionKind::Plain),
        ("mixed", "other", Volatile, FunctionKind::Plain),
        ("median", "public", Immutable, FunctionKind::Aggregate),
        ("reading_sum", "public", Stable, FunctionKind::Aggregate),
        // Overloads of the system's names.
        ("reverse", "public", Stable, FunctionKind::Plain),
        ("initcap", "public", Immutable, FunctionKind::Plain),
        ("max", "public", Immutable, FunctionKind::Aggregate),
        ("every", "public", Immutable, FunctionKind::Aggregate),
    ]
    .into_iter()
}

fn schema() -> Schema {
    let mut user_functions: BTreeMap<String, Vec<UserFunction>> = BTreeMap::new();
    for (name, schema, volatility, kind) in functions() {
        let function = UserFunction { schema: schema.to_owned(), volatility, kind, gives_own_type: name == "max" };
        user_functions.entry(name.to_owned()).or_default().push(function);
    }
    let hidden = |function: &str, by: CalledBy, types: &[&str]| HiddenCall {
        function: TableName::new("public", function),
        by,
        types: types.iter().map(|name| (*name).to_owned()).collect(),
    };
    let operator = |name: &str| CalledBy::Operator(name.to_owned());
    let public = |name: &str| TableName::new("public", name);
    let code = |(name, code): (&str, &str)| (public(name), crate::sql::mentions(code).into_iter().collect());
    let trigger = |(table, function, is_before_row): (&str, &str, bool)| {
        (public(table), [Trigger { function: public(function), is_before_row, events: Trigger::ALL }].into())
    };
    Schema {
        version: 1,
        code: CODE.into_iter().map(code).collect(),
        triggers: TRIGGERS.into_iter().map(trigger).collect(),
        sequence_owners: [(public("audit_id_seq"), public("audit")), (public("users_id_seq"), public("users"))].into(),
        unique: [(
            public("loners"),
            [
                ("loners_pkey".to_owned(), ["id".to_owned(), "user_id".to_owned()].into()),
                ("loners_mail".to_owned(), ["mail".to_owned()].into()),
            ]
            .into(),
        )]
        .into(),
        rules: [(public("ruled_table"), [public("orders")].into())].into(),
        relations: RELATIONS.lines().filter(|line| !line.is_empty()).map(relation).collect(),
        views: VIEWS.lines().filter(|line| !line.is_empty()).map(view).collect(),
        parents: [(TableName::new("public", "orders_old"), TableName::new("public", "orders"))].into(),
        policies: policies(),
        guarded: [TableName::new("public", "guarded")].into(),
        user_functions,
        hidden_calls: [
            hidden("looks_up", operator("<<<"), &[]),
            hidden("looks_up", operator("="), &["mood"]),
            hidden("declared", operator("<<|"), &[]),
            hidden("looks_up", CalledBy::Cast { from: "mood".to_owned(), to: "text".to_owned() }, &["mood"]),
            hidden("looks_up", CalledBy::Domain("known".to_owned()), &["known"]),
        ]
        .into(),
        ..Schema::default()
    }
}
