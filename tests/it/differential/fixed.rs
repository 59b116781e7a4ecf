//! Statements that were thought of, not drawn: each is compared as the random ones are. Those that begin with `=` are compared in
//! order, the others as bags of rows.

pub(super) const FIXED: &str = r#"
SELECT count(*) FROM acct HAVING count(*) > 1000
SELECT 1 FROM acct HAVING false
SELECT 1 FROM acct HAVING true
SELECT count(*), sum(id + 3) FROM acct HAVING 1 = 0
SELECT grp, sum(id + 3) FROM acct GROUP BY grp HAVING NOT (2 > 1 OR false)
SELECT grp, sum(small) FROM acct GROUP BY grp HAVING 2 > 1 AND true
SELECT id FROM acct WHERE id BETWEEN SYMMETRIC 7 AND 3
SELECT id FROM acct WHERE id NOT BETWEEN SYMMETRIC 7 AND 3
SELECT id FROM acct WHERE NOT (id BETWEEN SYMMETRIC 7 AND 3) AND id < 12
SELECT id FROM acct WHERE id BETWEEN ASYMMETRIC 3 AND 7
SELECT n FROM metric WHERE at BETWEEN SYMMETRIC now() AND now() - interval '10 days'
SELECT n FROM metric WHERE at BETWEEN SYMMETRIC now() - interval '10 days' AND now()
SELECT a.n, b.kind FROM region a JOIN event b USING (region)
SELECT count(*) FROM (region a JOIN event b USING (region)) LEFT JOIN code c ON c.code = b.kind
INSERT INTO item (id, item) VALUES (900, 1), (901, 1), (902), (903, 1)
SELECT grp FROM acct GROUP BY grp, id % 2
SELECT sum(id), sum(grp), sum(small), sum(num) FROM acct
SELECT avg(v), avg(n), sum(v) FROM region
SELECT min(c COLLATE "und-x-icu"), max(c COLLATE "und-x-icu"), min(t COLLATE "und-x-icu"), max(lower(t) COLLATE "und-x-icu") FROM acct
SELECT grp, min((c || 'x') COLLATE "und-x-icu"), max(c) FROM acct GROUP BY grp
= SELECT c COLLATE "und-x-icu" AS x, count(*) FROM acct GROUP BY 1 ORDER BY 1 NULLS FIRST
= SELECT DISTINCT t COLLATE "und-x-icu" AS x FROM acct ORDER BY 1 DESC
SELECT avg(v), avg(n), sum(v), count(v) FROM region WHERE false
SELECT sum(k), avg(k) FROM tiny
SELECT sum(f4) FROM acct
SELECT avg(f4) FROM acct
SELECT max(u) FROM acct
SELECT max(by) FROM acct
SELECT min(b) FROM acct
SELECT id FROM acct WHERE id = ANY ('{1,NULL,3}')
SELECT id FROM acct WHERE id = ANY ('{1,2,3}'::bigint[])
SELECT id FROM acct WHERE id <> ALL (ARRAY[1, 2])
SELECT id FROM acct WHERE (id = 1) = (grp = 1)
SELECT id FROM acct WHERE id = 1 IS TRUE
SELECT id FROM acct WHERE id = 1 IS NOT TRUE
SELECT id FROM acct WHERE (id = 1) IS UNKNOWN
SELECT id FROM acct WHERE NOT id IN (1, 2)
SELECT id FROM acct WHERE id IN (1, NULL)
SELECT id FROM acct WHERE id NOT IN (1, NULL)
SELECT id FROM acct WHERE id = 5::numeric
SELECT id FROM acct WHERE id = 5::oid
SELECT id FROM acct WHERE id = '5'::numeric
SELECT id FROM acct WHERE id = 5.5::int
SELECT id FROM acct WHERE id = 1e1
SELECT id FROM acct WHERE id = '1e1'
SELECT id FROM acct WHERE id = ' 5'
SELECT id FROM acct WHERE id = '5 x'
SELECT id FROM acct WHERE id = '5'::char
SELECT id FROM acct WHERE id = 70000::int2
SELECT id FROM acct WHERE id = '+5'
SELECT id FROM acct WHERE id = - - 5
SELECT id FROM acct WHERE id = -(-5)
SELECT id FROM acct WHERE id = @ -5
SELECT id FROM acct WHERE id = 5and true
SELECT id FROM acct WHERE id=5or id=6
SELECT id FROM acct WHERE 5 IN (id, grp)
SELECT id FROM acct WHERE (id, grp) = (5, 1) OR id = 6
SELECT id FROM acct WHERE (id, grp) < (5, 3)
SELECT id FROM acct WHERE ROW(id) = ROW(5)
SELECT id FROM acct WHERE (acct).id = 5
SELECT id FROM acct WHERE acct.id = 5 AND public.acct.id = 5
SELECT slug FROM doc WHERE slug = 05::text
SELECT slug FROM doc WHERE slug = 5.0::text
SELECT slug FROM doc WHERE slug = 1e1::text
SELECT slug FROM doc WHERE slug = 'ab   '::char(5)
SELECT slug FROM doc WHERE slug = 'abc'::varchar(2)
SELECT slug FROM doc WHERE slug = 'a'::name
SELECT slug FROM doc WHERE slug = '5'::int::text
SELECT slug FROM doc WHERE slug = U&'\0061'
SELECT slug FROM doc WHERE slug = U&'!0061' UESCAPE '!'
SELECT slug FROM doc WHERE slug = E'\x61'
SELECT slug FROM doc WHERE slug = E'\u0061b'
SELECT slug FROM doc WHERE slug = N'a'
SELECT slug FROM doc WHERE slug = 'a' || 'b'
SELECT slug FROM doc WHERE slug = $$a$$ OR slug = $x$us$x$
SELECT slug FROM doc WHERE slug = 'back\slash'
SELECT slug FROM doc WHERE slug = E'back\\slash'
SELECT slug FROM doc WHERE slug LIKE 'a'
SELECT slug FROM doc WHERE slug ILIKE 'a'
SELECT slug FROM doc WHERE slug SIMILAR TO 'a|A'
SELECT slug FROM doc WHERE slug ~ '^a$'
SELECT slug FROM doc WHERE slug = 5
SELECT visit FROM visit WHERE visit = 'xyz'
SELECT n FROM visit WHERE visit = 'a708a7ae000040008000-00000000000e'
SELECT n FROM metric WHERE at = 'now'
SELECT n FROM metric WHERE at > 'yesterday'
SELECT n FROM metric WHERE at < 'tomorrow'
SELECT n FROM metric WHERE at = 'infinity'
SELECT n FROM metric WHERE at < 'infinity' AND at > '-infinity'
SELECT n FROM metric WHERE at < 'epoch'
SELECT n FROM metric WHERE at > now() - interval '7 days' * 2
SELECT n FROM metric WHERE at > now() + interval '-5 days'
SELECT n FROM metric WHERE at > now() - interval '1 mon'
SELECT n FROM metric WHERE at > now() - interval '1 month 2 days'
SELECT n FROM metric WHERE at > now() - interval '5' day
SELECT n FROM metric WHERE at > now() - interval '0-1'
SELECT n FROM metric WHERE at > now() - interval 'P5D'
SELECT n FROM metric WHERE at > now() + interval '5 days ago'
SELECT n FROM metric WHERE at > now() - interval '@ 5 days'
SELECT n FROM metric WHERE at > now() - interval '120:00:00'
SELECT n FROM metric WHERE at > now() - interval '5'
SELECT n FROM metric WHERE at > now() - interval '5 12:00'
SELECT n FROM metric WHERE at > now() - '5 days'::interval
SELECT n FROM metric WHERE at > now() - make_interval(days => 5)
SELECT n FROM metric WHERE at > now() - interval '1 week 3 hours'
SELECT n FROM metric WHERE at > current_date - 5
SELECT n FROM metric WHERE at > current_date - interval '5 days'
SELECT n FROM metric WHERE at > current_date + -5
SELECT n FROM metric WHERE at > localtimestamp - interval '5 days'
SELECT n FROM metric WHERE at > statement_timestamp() - interval '5 days'
SELECT n FROM metric WHERE at > clock_timestamp() - interval '5 days'
SELECT n FROM metric WHERE at >= current_timestamp(0) - interval '5 days'
SELECT n FROM metric WHERE at::date = current_date
SELECT n FROM metric WHERE at BETWEEN now() - interval '10 days' AND now()
SELECT n FROM metric WHERE now() - at < interval '10 days'
SELECT n FROM metric WHERE now() - interval '10 days' < at
SELECT n FROM metric WHERE at >= date_trunc('day', now() - interval '8 days')
SELECT region, n FROM region WHERE region IN ('us', 'zz')
SELECT region, n FROM region WHERE region = 'fr'
SELECT region, n FROM region WHERE region IS NULL
SELECT region, n FROM region WHERE region > 'k'
SELECT region, n FROM region WHERE region = lower('US')
SELECT region, n FROM region WHERE region = ANY (ARRAY['us', 'uk'])
SELECT region, uid FROM event WHERE region = 'uk'
SELECT region, uid FROM event WHERE region = 'us' AND uid IN (1, 2, 3)
SELECT region, uid FROM event WHERE uid = 5
SELECT region, uid FROM event WHERE (region, uid) IN (('us', 5), ('jp', 5))
SELECT a.kind, b.kind FROM event a JOIN event b ON a.region = b.region AND a.uid = b.uid
SELECT a.kind, b.kind FROM event a JOIN event b ON a.uid = b.uid
SELECT id FROM acct FULL JOIN item USING (id) WHERE id = 5
SELECT id FROM acct FULL JOIN item USING (id)
= SELECT id, i.item FROM acct a LEFT JOIN item i USING (id) ORDER BY id, i.item LIMIT 9
= SELECT id, i.item FROM acct a RIGHT JOIN item i USING (id) ORDER BY id, i.item LIMIT 9
= SELECT id, i.item FROM acct a FULL JOIN item i USING (id) ORDER BY id, i.item
= SELECT * FROM acct a RIGHT JOIN item i USING (id) ORDER BY 1, 15 LIMIT 9
= SELECT * FROM item i JOIN code c ON i.note = c.code ORDER BY 1, 2, 7 LIMIT 9
SELECT id FROM acct a LEFT JOIN item i USING (id) WHERE id = 5
SELECT id, a.t, s.qty FROM acct a LEFT JOIN (SELECT id, qty FROM item WHERE id = 3) s USING (id) JOIN acct b USING (id)
SELECT id, s.qty FROM (SELECT id, qty FROM item WHERE id = 3) s RIGHT JOIN acct a USING (id) JOIN item i USING (id)
SELECT x.id, b.t FROM (SELECT id, s.qty FROM acct a LEFT JOIN (SELECT id, qty FROM item WHERE id = 3) s USING (id)) x JOIN acct b ON b.id = x.id
SELECT id, b.t FROM (SELECT id FROM acct WHERE id = 3) a FULL JOIN item i USING (id) JOIN acct b USING (id)
SELECT id FROM acct a RIGHT JOIN item i USING (id) WHERE id = 77
SELECT id FROM acct a LEFT JOIN item i USING (id) WHERE i.id IS NULL
SELECT i.id FROM acct a RIGHT JOIN item i USING (id) WHERE a.id IS NULL
SELECT a.id FROM acct a LEFT JOIN item i ON a.id = i.id AND i.id = 5
SELECT a.id FROM acct a LEFT JOIN item i ON a.id = i.id AND a.id = 5
SELECT a.id, i.id FROM acct a LEFT JOIN item i ON i.id = 5
SELECT a.id FROM acct a LEFT JOIN item i ON a.id = i.id WHERE coalesce(i.id, 5) = 5
SELECT a.id FROM acct a LEFT JOIN item i ON a.id = i.id WHERE i.id = 5 OR i.id IS NULL
SELECT c.code, i.id FROM code c LEFT JOIN item i ON i.note = c.code AND i.id = 5
SELECT c.code, i.id FROM code c LEFT JOIN item i ON i.note = c.code WHERE i.id = 5 OR i.id IS NULL
SELECT c.code, i.id FROM code c LEFT JOIN item i ON i.note = c.code AND i.id IN (5, 7, 8)
SELECT c.code, i.id FROM code c FULL JOIN item i ON i.note = c.code
SELECT a.id, i.item FROM acct a LEFT JOIN (item i JOIN code c ON i.note = c.code) ON i.id = a.id
SELECT a.id, b.id FROM acct a LEFT JOIN item i ON a.id = i.id LEFT JOIN acct b ON b.id = i.id
SELECT a.id, b.id FROM acct a LEFT JOIN item i ON a.id = i.id RIGHT JOIN acct b ON b.id = i.id
SELECT a.id, b.id FROM acct a LEFT JOIN item i ON a.id = i.id FULL JOIN acct b ON b.id = i.id
SELECT a.id, b.id FROM acct a FULL JOIN item i ON a.id = i.id AND a.grp = 1 LEFT JOIN acct b ON b.id = a.id
SELECT a.id, i.id FROM acct a FULL JOIN item i ON a.id = i.id WHERE a.id = 5
SELECT a.id, i.id FROM acct a FULL JOIN item i ON a.id = i.id AND a.id = 5
SELECT a.id, i.id FROM acct a FULL JOIN item i ON a.id = i.id WHERE i.id = 5 OR a.id = 6
SELECT a.id FROM acct a NATURAL JOIN item i
SELECT a.id, c.code FROM acct a NATURAL JOIN code c WHERE a.id = 5
SELECT k, "Key" FROM tiny JOIN "Odd" ON k = "Key"
SELECT a.id, k FROM acct a JOIN tiny ON a.id = k
SELECT g, a.id FROM generate_series(1, 5) g LEFT JOIN acct a ON a.id = g
SELECT g, a.id FROM generate_series(1, 5) g JOIN acct a ON a.id = g
SELECT x, a.id FROM (VALUES (1), (2)) v(x) LEFT JOIN acct a ON a.id = x
SELECT x, a.id FROM acct a LEFT JOIN (VALUES (1), (2)) v(x) ON a.id = x
SELECT x, a.id FROM acct a RIGHT JOIN (VALUES (1), (2)) v(x) ON a.id = x
SELECT c.code, x.id FROM code c CROSS JOIN LATERAL (SELECT a.id FROM acct a WHERE a.c = c.code) x
SELECT a.id, x.label FROM acct a CROSS JOIN LATERAL (SELECT label FROM code WHERE code = a.c) x
SELECT a.id, x.label FROM acct a LEFT JOIN LATERAL (SELECT label FROM code WHERE code = a.c LIMIT 1) x ON true
SELECT id FROM acct WHERE id IN (SELECT 5)
SELECT id FROM acct WHERE grp = (SELECT max(rank) - 8 FROM code)
SELECT (SELECT label FROM code WHERE code = c) FROM acct
SELECT count(*) FROM (SELECT 1 FROM acct) s
SELECT count(*) FROM (SELECT 1 FROM acct WHERE id = 5) s
SELECT id FROM acct WHERE id = 5 UNION ALL SELECT id FROM acct WHERE id = 5
SELECT id FROM acct WHERE id = 5 UNION SELECT id FROM item WHERE id = 7
WITH x AS (SELECT 5 AS id) SELECT a.id FROM acct a JOIN x USING (id)
WITH acct AS (SELECT 1 AS id) SELECT * FROM acct
WITH acct AS (SELECT * FROM acct WHERE id = 5) SELECT id FROM acct
= SELECT id AS grp, grp AS id FROM acct ORDER BY grp, id
= SELECT id FROM acct ORDER BY id + 0 DESC
SELECT id FROM acct ORDER BY (id, grp)
SELECT acct FROM acct ORDER BY acct
= SELECT id FROM acct ORDER BY b, NOT b, id
= SELECT id FROM acct ORDER BY 1, 1 DESC
SELECT id FROM acct ORDER BY id USING >
= SELECT id x FROM acct ORDER BY "x"
= SELECT id x FROM acct ORDER BY X DESC
SELECT id "X" FROM acct ORDER BY x
= SELECT id FROM public.acct ORDER BY public.acct.id
= SELECT lower(c) AS c, id FROM acct ORDER BY c COLLATE "C" DESC, id
SELECT id AS x, grp AS x FROM acct ORDER BY x
= SELECT id AS x, id AS x FROM acct ORDER BY x
SELECT id FROM acct ORDER BY 2
SELECT id FROM acct ORDER BY 0
SELECT id FROM acct ORDER BY 'a'
= SELECT id FROM acct ORDER BY NULL, id
= SELECT id FROM acct ORDER BY d::timestamp, id
= SELECT id FROM acct ORDER BY ts::time, id
SELECT id FROM acct ORDER BY tz::timetz, id
= SELECT id FROM acct ORDER BY c::char(3), c, id
= SELECT id FROM acct ORDER BY c::name, id
= SELECT id FROM acct ORDER BY f8 DESC, id LIMIT 17
= SELECT id FROM acct ORDER BY num NULLS FIRST, id LIMIT 17
= SELECT id FROM acct ORDER BY by, u DESC, id
SELECT FROM acct ORDER BY id
SELECT FROM acct
SELECT id FROM acct LIMIT 1 + 1
SELECT id FROM acct LIMIT -1
SELECT id FROM acct LIMIT 2.5
SELECT id FROM acct LIMIT 3::text
SELECT id FROM acct OFFSET -1
SELECT id FROM acct LIMIT 'x'
SELECT count(*) FROM acct LIMIT 0
SELECT count(*) FROM acct OFFSET 1
SELECT count(*) FROM acct GROUP BY ()
SELECT grp, count(*) FROM acct GROUP BY grp, ()
SELECT grp, count(*) FROM acct GROUP BY DISTINCT grp
SELECT id, t, count(*) FROM acct GROUP BY id
SELECT 2 * grp + 1 FROM acct GROUP BY grp + 1
SELECT (grp + 1) * 2 FROM acct GROUP BY grp + 1
SELECT grp + 1 + 1 FROM acct GROUP BY grp + 1
SELECT -grp, - grp + 1 FROM acct GROUP BY grp
SELECT grp::text || 'x', count(*) FROM acct GROUP BY grp::text
SELECT grp % 2 = 0, count(*) FROM acct GROUP BY grp % 2
SELECT 5 - grp - 1 FROM acct GROUP BY grp - 1
SELECT grp BETWEEN 1 AND small + 1 FROM acct GROUP BY grp, small + 1
SELECT CASE WHEN grp = 1 THEN 'a' ELSE 'b' END AS k, count(*) FROM acct GROUP BY k ORDER BY k
SELECT grp AS small, count(*) FROM acct GROUP BY small
= SELECT count(*) AS n, grp FROM acct GROUP BY grp ORDER BY n DESC, grp NULLS FIRST
= SELECT c, min(t) FROM acct GROUP BY c ORDER BY c NULLS FIRST
SELECT count(*) FROM acct GROUP BY b HAVING b
SELECT sum(count(*)) FROM acct GROUP BY grp
SELECT count(*) FILTER (WHERE id > 3 AND grp = 1), sum(num) FILTER (WHERE false) FROM acct
SELECT sum(id) + sum(grp) * 2, sum(qty) / count(*), avg(qty)::int, round(avg(price), 2) FROM acct JOIN item USING (id)
SELECT avg(tz - '2024-01-01 00:00+00'), sum(tz - '2024-01-01 00:00+00') FROM acct
SELECT count(*) > 5 AND max(id) IS NOT NULL FROM acct
SELECT max(tz), min(tz), max(d), min(ts), max(c), min(t) FROM acct
SELECT max(k || 'x') FROM (SELECT code AS k FROM code) s
SELECT DISTINCT count(*) FROM acct
SELECT max(DISTINCT grp), count(ALL grp) FROM acct
SELECT count(grp ORDER BY id) FROM acct
SELECT count(a), count(a.*), count((a.id, a.grp)) FROM acct a
SELECT pg_catalog.count(*), "count"(*), COUNT(*) FROM acct
SELECT sum(1), max(2), count('x') FROM acct
SELECT sum(qty) OVER () FROM item
SELECT json_agg(id) FROM acct WHERE id = 5
SELECT string_agg(t, ',' ORDER BY t COLLATE "C") FROM acct
SELECT 'acct'::regclass FROM acct WHERE id IN (5, 6, 7)
SELECT id, 'acct'::regclass::oid > 0 FROM acct
SELECT id, current_setting('server_version') FROM acct
SELECT id, pg_typeof(id), to_char(tz, 'YYYY') FROM acct
SELECT id, date 'today' IS NULL FROM acct
SELECT * FROM acct WHERE id = 5 FOR UPDATE
SELECT 1 FROM acct TABLESAMPLE bernoulli (100)
SELECT 1 FROM pg_class c JOIN acct a ON c.oid = a.id
SELECT relname FROM pg_class WHERE relname = 'acct'
SELECT count(*) FROM information_schema.tables WHERE table_name = 'acct'
SELECT acct.nosuch FROM acct
SELECT nosuch FROM acct WHERE id = 5
SELECT * FROM nosuch
SELECT nosuch(id) FROM acct WHERE id = 5
SELECT a.id FROM acct
SELECT id FROM acct a, item b
SELECT /* x */ id -- y
SELECT 1 / 0 FROM acct
SELECT 1 / (id - 5) FROM acct WHERE id = 5
TABLE acct
TABLE code
VALUES (1), (2)
SELECT * FROM acct WHERE id = 5;
SELECT * FROM ONLY (acct) WHERE id IN (5, 6, 7)
SELECT * FROM acct * WHERE id IN (5, 6, 7)
SELECT x.y FROM acct x(y) WHERE y = 5
SELECT id FROM acct x(y) WHERE y = 5
SELECT x.y, grp FROM acct x(y) ORDER BY y LIMIT 3
SELECT x.id, x.y FROM item x(y, id) WHERE x.id IN (1, 2)
SELECT s.y FROM (acct JOIN item USING (id)) s(y) WHERE y IN (5, 7)
SELECT j.id FROM (acct a JOIN item i USING (id)) j WHERE j.id IN (5, 7)
SELECT u.id FROM acct JOIN item USING (id) AS u WHERE u.id = 5
SELECT acct.count FROM acct
SELECT (a).count, a.max FROM acct a
SELECT s.count FROM (SELECT grp, count(*) FROM acct GROUP BY 1) s
SELECT s.count FROM (SELECT grp FROM acct) s
SELECT acct.row_to_json FROM acct WHERE id IN (5, 6)
= SELECT id FROM acct q ORDER BY q.*
= SELECT id, item FROM item q ORDER BY q.* DESC LIMIT 5
= SELECT k FROM tiny ORDER BY (tiny.*) DESC, n
SELECT count(*) FROM item q GROUP BY q.*
SELECT count(*), max(q.id) FROM item q GROUP BY q.* HAVING q.* IS NOT NULL
SELECT q.* FROM code q GROUP BY q.*, code, label, rank
SELECT id FROM item q ORDER BY ROW(q.*) DESC
SELECT count(DISTINCT q.*), array_length(array_agg(q.*), 1), max(q.qty) FROM item q
SELECT f.* FROM acct a CROSS JOIN LATERAL (SELECT a.*) f WHERE f.id = 5
= SELECT t::swedish AS x, id FROM acct ORDER BY 1, 2
= SELECT id FROM acct ORDER BY c::swedish DESC NULLS LAST, id LIMIT 7
= SELECT slug::swedish AS x, count(*) FROM doc GROUP BY 1 ORDER BY 1 DESC
SELECT max(slug::swedish), min((slug::swedish)::text) FROM doc
SELECT grp FROM acct WHERE small < 5 GROUP BY grp ORDER BY 1, 'x'
= SELECT tiny.row_to_json FROM tiny ORDER BY (tiny.row_to_json)->>'n', (tiny.to_jsonb)->>'k'
SELECT DISTINCT (q).to_jsonb FROM item q WHERE q.id < 4
SELECT count(DISTINCT q.to_jsonb) FROM item q
SELECT id FROM acct FOR READ ONLY
SELECT a.id FROM acct a JOIN item USING (id) AS x WHERE EXISTS (SELECT FROM item b WHERE b.qty = x.id)
SELECT a.id FROM acct a JOIN item USING (id) AS x WHERE x.id IN (SELECT i.id FROM item i WHERE i.item = 1 AND i.id = x.id)
SELECT a.id FROM acct a JOIN item USING (id) AS x WHERE EXISTS (SELECT FROM item x WHERE x.id = a.grp)
SELECT acct.id FROM acct JOIN item USING (id) AS u WHERE EXISTS (SELECT FROM item u WHERE u.id = acct.id AND u.qty = 7)
SELECT price AS x FROM item WHERE (id, 1) = (NULL, 1) UNION ALL SELECT num AS x FROM acct WHERE NOT (grp NOT IN (SELECT n FROM audit_log))
SELECT count(*) FROM public.item WHERE EXISTS (SELECT 1 FROM acct a JOIN acct b USING (id) AS item WHERE item.id = a.id AND a.id = 5)
SELECT u.count FROM acct AS u(a)
SELECT u.count, u.b FROM acct AS u(a, count, b)
SELECT u."count" FROM acct u(a, b)
SELECT g.sum FROM acct u, unnest(ARRAY[1, 2]) g
SELECT t.max FROM acct, generate_series(1, 2) AS t
SELECT v.count FROM acct, (VALUES (1), (2)) v(a)
SELECT v.count FROM acct, (VALUES (1), (2)) v(count)
SELECT count(*) only FROM acct
SELECT grp only, count(*) FROM acct GROUP BY grp
SELECT 'a' 'b' FROM acct
"#;
