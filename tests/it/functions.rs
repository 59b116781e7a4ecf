//! Functions, operators and casts that users made, over several shards: what reads tables is refused, what does not is right.

use tokio_postgres::types::{FromSql, Type};

use crate::harness::{Cluster, ProxyOptions, Single, check_refused, connect_with, failure, load_both, rows, value};

/// Made on every server by hand: most are not the affair of the proxy's DDL.
const MADE: &str = "\
CREATE FUNCTION slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT lower($1) || '-' $$;
CREATE FUNCTION n_orders(bigint) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM public.orders WHERE total_cents = $1 $$;
CREATE FUNCTION n_users() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM public.users); END $$;
CREATE FUNCTION rate(bigint) RETURNS numeric LANGUAGE sql STABLE AS $$ SELECT $1 * 1.5 $$;
CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'own ' || pg_catalog.lower($1) $$;
CREATE FUNCTION upper(text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT count(*)::text FROM public.users $$;
CREATE AGGREGATE product(bigint) (SFUNC = int8mul, STYPE = bigint, INITCOND = '1');
CREATE FUNCTION counted(bigint, bigint) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT $1 + count(*) FROM public.orders $$;
CREATE AGGREGATE counting(bigint) (SFUNC = counted, STYPE = bigint, INITCOND = '0');
CREATE FUNCTION said(bigint, bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT $1 + count(*) FROM public.orders $$;
CREATE AGGREGATE saying(bigint) (SFUNC = said, STYPE = bigint, INITCOND = '0');
CREATE OPERATOR <<< (LEFTARG = bigint, FUNCTION = n_orders_of, RIGHTARG = bigint);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION mood_number(mood) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM public.users $$;
CREATE CAST (mood AS bigint) WITH FUNCTION mood_number(mood);
CREATE DOMAIN busy AS bigint CHECK (n_orders(VALUE) > 0);
CREATE FUNCTION mood_equals(mood, text) RETURNS boolean LANGUAGE sql AS $$ SELECT count(*) > 0 FROM public.users $$;
CREATE OPERATOR = (LEFTARG = mood, FUNCTION = mood_equals, RIGHTARG = text);
CREATE FUNCTION n_own(public.users) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM public.orders WHERE user_id = $1.user_id + 1 $$;
CREATE FUNCTION beside(bigint, bigint DEFAULT n_orders(2)) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT $1 + $2 $$;
CREATE FUNCTION doubled(public.users) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT $1.user_id * 2 $$;
CREATE TYPE amount AS (cents bigint);
CREATE FUNCTION larger(amount, amount) RETURNS amount LANGUAGE sql IMMUTABLE AS \
  $$ SELECT CASE WHEN $1 IS NULL OR ($2).cents > ($1).cents THEN $2 ELSE $1 END $$;
CREATE AGGREGATE max(amount) (SFUNC = larger, STYPE = amount);
CREATE FUNCTION as_text(text, amount) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce($1, '') || ($2).cents $$;
CREATE AGGREGATE min(amount) (SFUNC = as_text, STYPE = text)";

fn made() -> String {
    let function = "CREATE FUNCTION n_orders_of(bigint, bigint) RETURNS boolean LANGUAGE sql STABLE AS \
                    $$ SELECT count(*) > $2 FROM public.orders WHERE user_id = $1 $$;";
    format!("{function}{MADE}")
}

#[tokio::test]
async fn what_reads_tables_is_refused_and_the_rest_is_right() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    for shard_idx in 0..3 {
        cluster.direct(shard_idx).await.batch_execute(&made()).await.unwrap();
    }
    let direct = single.connect().await;
    direct.batch_execute(&made()).await.unwrap();
    let proxy = cluster.proxy_with(ProxyOptions { database: "safe_functions = [\"rate\"]", ..ProxyOptions::default() }).await;
    let client = proxy.connect().await;
    let users: Vec<String> = (1..=30).map(|n| format!("({n}, 'N{}', 'e', 'us', '2024-01-01')", n % 7)).collect();
    let orders: Vec<String> = (1..=30).map(|n| format!("({n}, {}, 'new', {})", 1 + n * 7 % 30, n % 3 + 1)).collect();
    let statements = [
        format!("INSERT INTO users (user_id, name, email, country, created_at) VALUES {}", users.join(", ")),
        format!("INSERT INTO orders (order_id, user_id, status, total_cents) VALUES {}", orders.join(", ")),
    ];
    load_both(&client, &direct, &statements).await;
    let answered = [
        "SELECT slug(name) FROM users ORDER BY user_id",
        "SELECT slug(name), count(*) FROM users GROUP BY slug(name) ORDER BY 1",
        "SELECT count(DISTINCT slug(name)) FROM users WHERE slug(name) <> 'n1-'",
        "SELECT rate(total_cents), count(*) FROM orders GROUP BY 1 ORDER BY 1",
        "SELECT product(total_cents) FROM orders",
        "SELECT status, product(total_cents) FROM orders GROUP BY status",
        "SELECT max(total_cents), min(name) FROM orders JOIN users USING (user_id)",
        "SELECT max(ROW(total_cents)::amount) FROM orders",
        "SELECT length(min(ROW(total_cents)::amount)) FROM orders",
        "SELECT lower(name) FROM users ORDER BY user_id",
        "SELECT pg_catalog.upper(name) FROM users ORDER BY user_id",
        "SELECT n_orders(2), n_users() FROM users WHERE user_id = 7 AND false",
        "SELECT users.doubled FROM users WHERE name = 'N1' ORDER BY user_id",
        "SELECT users.count, max(users.name) FROM users",
        "SELECT DISTINCT doubled(u) % 8 FROM users u ORDER BY 1",
        "SELECT count(DISTINCT doubled(u)), max(doubled(u)) FROM users u",
        "SELECT user_id, doubled(u), rank() OVER (ORDER BY u.doubled % 5) FROM users u ORDER BY u.doubled",
        "SELECT u, count(*) OVER () FROM users u ORDER BY u.user_id",
        "SELECT o.order_id, u.doubled, u IS NULL, u::text, (u::users).name FROM orders o LEFT JOIN users u ON u.user_id = o.total_cents + 29 ORDER BY 1",
        "SELECT (x).name, x FROM (SELECT u AS x FROM users u JOIN orders o ON o.order_id = u.user_id + 3) s ORDER BY 1, 2",
        "SELECT array_agg(u ORDER BY u.user_id) FROM users u WHERE name = 'N1'",
    ];
    let refused = [
        "SELECT n_orders(user_id) FROM users",
        "SELECT count(*) FROM users WHERE n_users() > 3",
        "SELECT count(DISTINCT n_orders(user_id)) FROM users",
        "SELECT counting(total_cents) FROM orders",
        "SELECT saying(total_cents) FROM orders",
        "SELECT count(*) FROM users WHERE user_id <<< 1",
        "SELECT 'sad'::mood::bigint FROM users",
        "SELECT count(*) FROM users WHERE 'sad'::mood = name::text",
        "SELECT user_id::busy FROM users",
        "SELECT beside(user_id) FROM users",
        "SELECT users.n_own FROM users",
        "SELECT u.user_id FROM users u WHERE (u).n_own > 0",
    ];
    for path in ["public", "public, pg_catalog"] {
        for client in [&client, &direct] {
            client.batch_execute(&format!("SET search_path TO {path}")).await.unwrap();
        }
        for sql in answered {
            assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{path}: {sql}");
        }
        for sql in refused {
            let error = client.simple_query(sql).await.unwrap_err();
            assert_eq!(error.as_db_error().unwrap().detail(), Some("Reason code TL033."), "{sql}: {error:?}");
        }
    }
    // The own function of a system's name, which reads tables, is meant only where the path puts it first; that is not told here.
    assert_eq!(failure(&client, "SELECT upper(name) FROM users").await.0, "0A000");
}

#[tokio::test]
async fn code_on_one_shard_does_not_answer_for_all() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let database = "default_shard = \"shard1\"\nsafe_functions = [\"declared\"]";
    let proxy = cluster.proxy_with(ProxyOptions { database, ..ProxyOptions::default() }).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let users: Vec<String> = (1..=30).map(|n| format!("({n}, 'n{n}', 'e', 'us')")).collect();
    let plain = |sql: &str| sql.to_owned();
    let statements = [
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
        plain("INSERT INTO countries VALUES ('us', 'States', 'americas')"),
        plain("CREATE TABLE stray (id bigint, name text)"),
        plain("INSERT INTO stray VALUES (1, 'a'), (2, 'b')"),
        plain("CREATE VIEW all_users AS SELECT * FROM users"),
        plain("CREATE FUNCTION n_users() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM users'"),
        plain(
            "CREATE FUNCTION n_seen() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM public.all_users); END $$",
        ),
        plain("CREATE FUNCTION n_said() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT count(*) FROM users'"),
        plain("CREATE FUNCTION twice() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT 2 * public.n_users(); END"),
        plain("CREATE FUNCTION listed() RETURNS SETOF users LANGUAGE sql STABLE AS 'SELECT * FROM users'"),
        plain(
            "CREATE FUNCTION declared() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 7::bigint FROM users WHERE false UNION SELECT 7'",
        ),
        plain("CREATE FUNCTION n_countries() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM countries'"),
        plain("CREATE FUNCTION settle() RETURNS void LANGUAGE sql AS $$ UPDATE countries SET region = 'x' $$"),
        plain("CREATE FUNCTION name_of(bigint) RETURNS text LANGUAGE sql STABLE AS 'SELECT name FROM users WHERE user_id = $1'"),
        plain("CREATE VIEW counted AS SELECT n_users() AS n"),
    ];
    load_both(&client, &direct, &statements).await;
    let stray = "CREATE FUNCTION n_stray() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT count(*) FROM stray); END $$";
    load_both(&client, &direct, &[plain(stray)]).await;
    check_refused(
        &client,
        "TL033",
        &[
            "SELECT n_users()",
            "SELECT n_seen()",
            "SELECT n_said()",
            "SELECT n_said() FROM users",
            "SELECT twice()",
            "SELECT * FROM listed()",
            "SELECT count(*) FROM counted",
            "SELECT n_users() FROM stray WHERE id = 1",
            "INSERT INTO stray SELECT user_id, name FROM listed()",
            "CREATE TABLE copy AS SELECT * FROM listed()",
        ],
    )
    .await;
    check_refused(&client, "TL048", &["SELECT settle()", "SELECT settle() FROM users WHERE user_id = 1"]).await;
    check_refused(
        &client,
        "TL032",
        &[
            "SELECT query_to_xml('SELECT count(*) FROM users', true, true, '')",
            "SELECT * FROM ts_stat('SELECT to_tsvector(name) FROM users')",
        ],
    )
    .await;
    for sql in [
        "SELECT declared()",
        "SELECT n_countries()",
        "SELECT n_stray(), id FROM stray ORDER BY id",
        "SELECT n_stray()",
        "SELECT name_of(7) FROM users WHERE user_id = 7",
    ] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    let here: i64 = value(&client, "/* trunkline: shard=shard0 */ SELECT n_users()").await.parse().unwrap();
    assert!((1..30).contains(&here), "{here}");
    assert_eq!(value(&client, "SELECT region FROM countries").await, "americas");
}

/// Made for rows of a table, beside ones that the system or a polymorphic function would take for them.
const OF_ROWS: &str = "\
CREATE FUNCTION label(anyelement) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'any' $$;
CREATE FUNCTION label(public.users) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'user ' || $1.user_id $$;
CREATE FUNCTION said(public.users, text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT $1.name || '+' || $2 $$;
CREATE OPERATOR || (LEFTARG = public.users, RIGHTARG = text, FUNCTION = said);
CREATE FUNCTION alike(public.users, public.users) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1.name = $2.name $$;
CREATE OPERATOR = (LEFTARG = public.users, RIGHTARG = public.users, FUNCTION = alike);
CREATE FUNCTION as_text(public.orders) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'order ' || $1.order_id $$;
CREATE CAST (public.orders AS text) WITH FUNCTION as_text(public.orders)";

#[tokio::test]
async fn what_is_made_for_rows_of_a_table_takes_gathered_rows_too() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let direct = single.connect().await;
    direct.batch_execute(OF_ROWS).await.unwrap();
    for shard_idx in 0..3 {
        cluster.direct(shard_idx).await.batch_execute(OF_ROWS).await.unwrap();
    }
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let users: Vec<String> = (1..=9).map(|n| format!("({n}, 'N{}', 'e', 'us', '2024-01-01')", n % 3)).collect();
    let orders: Vec<String> = (1..=9).map(|n| format!("({}, {n}, 'new', {n})", n % 4)).collect();
    let statements = [
        format!("INSERT INTO users (user_id, name, email, country, created_at) VALUES {}", users.join(", ")),
        format!("INSERT INTO orders (order_id, user_id, status, total_cents) VALUES {}", orders.join(", ")),
    ];
    load_both(&client, &direct, &statements).await;
    for sql in [
        "SELECT DISTINCT label(u), label(u.*) FROM users u ORDER BY 1",
        "SELECT u || 'x', o.total_cents FROM users u JOIN orders o ON o.order_id = u.user_id ORDER BY 1, 2",
        "SELECT u = v, u.user_id FROM users u JOIN users v ON u.user_id = v.user_id + 3 ORDER BY 2",
        "SELECT o::text, CAST(o AS text), o || '' FROM orders o JOIN users u ON u.user_id = o.order_id ORDER BY o.total_cents",
        "SELECT u, v IS NULL, v FROM users u LEFT JOIN users v ON v.user_id = u.user_id + 5 ORDER BY u.user_id",
    ] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
    // A row of the table's type has no key.
    check_refused(&client, "TL083", &["SELECT label(u.*), count(*) FROM users u GROUP BY u.user_id ORDER BY 1"]).await;
    // In binary, values tell the types within them.
    for sql in [
        "SELECT array_agg(u ORDER BY u.user_id) FROM users u JOIN orders o ON o.order_id = u.user_id",
        "SELECT ARRAY[u] FROM users u JOIN orders o ON o.order_id = u.user_id WHERE u.user_id = o.total_cents",
        "SELECT DISTINCT ROW(u, 1) FROM users u JOIN orders o ON o.order_id = u.user_id WHERE o.total_cents < 3",
    ] {
        let home: u32 = value(&cluster.direct(0).await, "SELECT 'users'::regtype::oid").await.parse().unwrap();
        let binary = client.query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, Bytes>(0).0).collect::<Vec<_>>();
        assert!(!binary.is_empty());
        for value in binary {
            let told = value.windows(4).any(|bytes| bytes == home.to_be_bytes());
            assert!(told, "{sql}: {value:?}");
        }
    }
}

/// The bytes of a value as they came.
struct Bytes(Vec<u8>);

impl FromSql<'_> for Bytes {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Nobody knows what such code reads before it runs.
#[tokio::test]
async fn code_that_puts_sql_together_needs_a_key() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = cluster.proxy_with(ProxyOptions { database: "default_shard = \"shard1\"", ..ProxyOptions::default() }).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let plpgsql = |head: &str, query: &str| {
        format!("CREATE FUNCTION {head} LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE {query} INTO n; RETURN n; END $$")
    };
    let statements = [
        "INSERT INTO users (user_id, name, email, country) VALUES (7, 'n', 'e', 'us')".to_owned(),
        "CREATE TABLE stray (id bigint, name text)".to_owned(),
        plpgsql("answer(text) RETURNS bigint", "$1"),
        plpgsql("one() RETURNS bigint", "'SELECT 1'"),
        "CREATE FUNCTION answer_twice(text) RETURNS bigint LANGUAGE sql AS 'SELECT 2 * answer($1)'".to_owned(),
    ];
    load_both(&client, &direct, &statements).await;
    check_refused(
        &client,
        "TL033",
        &[
            "SELECT answer('SELECT count(*) FROM users')",
            "SELECT answer_twice('SELECT count(*) FROM users') FROM stray",
            "SELECT answer(concat('SELECT count(*) FROM ', 'us', 'ers'))",
        ],
    )
    .await;
    for sql in ["SELECT answer('SELECT user_id FROM users WHERE user_id = 7') FROM users WHERE user_id = 7", "SELECT one()"] {
        assert_eq!(rows(&client, sql).await, rows(&direct, sql).await, "{sql}");
    }
}

#[tokio::test]
async fn triggers_that_part_copies_or_move_rows_are_refused() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let options = ProxyOptions { database: "default_shard = \"shard1\"", ..ProxyOptions::default() };
    let proxy = cluster.proxy_with(options).await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let trigger = |name: &str, when: &str, table: &str, body: &str| {
        format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$; \
             CREATE TRIGGER t_{name} {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
    };
    let made = [
        trigger("touches", "AFTER INSERT", "orders", "UPDATE countries SET region = 'x';"),
        trigger("moves", "BEFORE INSERT OR UPDATE", "users", "NEW.user_id := NEW.user_id + 1;"),
        trigger("stamps", "BEFORE UPDATE", "countries", "NEW.region = now()::text;"),
        trigger(
            "keeps",
            "BEFORE INSERT",
            "order_items",
            "NEW.quantity := 1 + (SELECT count(*) FROM order_items WHERE user_id = NEW.user_id);",
        ),
        "CREATE RULE also AS ON INSERT TO visits DO ALSO INSERT INTO docs VALUES ('x', 'y')".to_owned(),
        "INSERT INTO countries VALUES ('us', 'States', 'americas')".to_owned(),
        "INSERT INTO order_items (item_id, user_id, order_id, sku, quantity, price_cents) VALUES (1, 7, 1, 's', 5, 5)".to_owned(),
        "INSERT INTO order_items (item_id, user_id, order_id, sku, quantity, price_cents) VALUES (2, 7, 1, 's', 5, 5), (3, 8, 1, 's', 5, 5)"
            .to_owned(),
    ];
    load_both(&client, &direct, &made).await;
    check_refused(
        &client,
        "TL048",
        &[
            "INSERT INTO orders (order_id, user_id, status, total_cents) VALUES (1, 7, 'new', 1)",
            "COPY orders FROM STDIN",
            "INSERT INTO users (user_id, name, email, country) VALUES (7, 'a', 'e', 'us')",
            "UPDATE users SET name = 'b' WHERE user_id = 7",
            "INSERT INTO visits VALUES ('00000000-0000-4000-8000-000000000001', '/')",
        ],
    )
    .await;
    check_refused(&client, "TL019", &["UPDATE countries SET name = 'x'"]).await;
    let sql = "SELECT item_id, quantity FROM order_items ORDER BY item_id";
    assert_eq!(rows(&client, sql).await, rows(&direct, sql).await);
    // Without the trigger it goes.
    client.batch_execute("DROP TRIGGER t_moves ON users; DROP TRIGGER t_stamps ON countries").await.unwrap();
    client
        .batch_execute(
            "INSERT INTO users (user_id, name, email, country) VALUES (7, 'a', 'e', 'us'); UPDATE countries SET name = 'x'",
        )
        .await
        .unwrap();
    assert_eq!(value(&client, "SELECT name FROM users WHERE user_id = 7").await, "a");
}

#[tokio::test]
async fn policies_are_judged_by_each_shard_or_refused() {
    let (cluster, single) = (Cluster::start(3).await, Single::start().await);
    let proxy = cluster.proxy().await;
    let (client, direct) = (proxy.connect().await, single.connect().await);
    let users: Vec<String> = (1..=20).map(|n| format!("({n}, 'n{n}', 'e', '{}')", ["us", "uk"][n % 2])).collect();
    let orders: Vec<String> = (1..=10).map(|n| format!("({n}, {}, 'new', 1)", n * 2)).collect();
    let statements = [
        "INSERT INTO countries VALUES ('us', 'States', 'americas')".to_owned(),
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
        format!("INSERT INTO orders (order_id, user_id, status, total_cents) VALUES {}", orders.join(", ")),
        "CREATE ROLE watched LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO watched".to_owned(),
        "CREATE POLICY by_key ON users USING (EXISTS (SELECT FROM orders o WHERE o.user_id = users.user_id) \
         AND country IN (SELECT code FROM countries))"
            .to_owned(),
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY".to_owned(),
        "CREATE VIEW named WITH (security_barrier) AS SELECT user_id, name FROM users".to_owned(),
        "GRANT SELECT ON named TO watched".to_owned(),
    ];
    load_both(&client, &direct, &statements).await;
    let watched = connect_with(&proxy.target("watched")).await.unwrap();
    direct.batch_execute("SET ROLE watched").await.unwrap();
    for sql in
        ["SELECT count(*) FROM users", "SELECT name FROM users ORDER BY user_id", "SELECT name FROM users WHERE user_id = 4"]
    {
        assert_eq!(rows(&watched, sql).await, rows(&direct, sql).await, "{sql}");
    }
    client.batch_execute("CREATE POLICY far ON users USING (user_id IN (SELECT order_id FROM orders))").await.unwrap();
    let refused = [
        "SELECT count(*) FROM users",
        "SELECT name FROM users WHERE user_id = 4",
        "UPDATE users SET name = 'x' WHERE user_id = 4",
        "COPY users TO STDOUT",
        "SELECT * FROM named",
    ];
    check_refused(&watched, "TL048", &refused).await;
    client.batch_execute("ALTER TABLE users DISABLE ROW LEVEL SECURITY").await.unwrap();
    assert_eq!(value(&watched, "SELECT count(*) FROM users").await, "20");
}
