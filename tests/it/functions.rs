//! Functions, operators and casts that users made, over several shards: what reads tables is refused, what does not is right.

use crate::harness::{Cluster, ProxyOptions, Single, failure, load_both, rows};

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
CREATE OPERATOR <<< (LEFTARG = bigint, FUNCTION = n_orders_of, RIGHTARG = bigint);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION mood_number(mood) RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM public.users $$;
CREATE CAST (mood AS bigint) WITH FUNCTION mood_number(mood);
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
    let users: Vec<String> = (1..=30).map(|n| format!("({n}, 'N{}', 'e', 'us')", n % 7)).collect();
    let orders: Vec<String> = (1..=30).map(|n| format!("({n}, {}, 'new', {})", 1 + n * 7 % 30, n % 3 + 1)).collect();
    let statements = [
        format!("INSERT INTO users (user_id, name, email, country) VALUES {}", users.join(", ")),
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
    ];
    let refused = [
        "SELECT n_orders(user_id) FROM users",
        "SELECT count(*) FROM users WHERE n_users() > 3",
        "SELECT count(DISTINCT n_orders(user_id)) FROM users",
        "SELECT counting(total_cents) FROM orders",
        "SELECT count(*) FROM users WHERE user_id <<< 1",
        "SELECT 'sad'::mood::bigint FROM users",
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
