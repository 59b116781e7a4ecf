-- Makes hash_golden.tsv from a Postgres server (no partitions are needed, and nothing is left but empty tables g…):
--   psql -X -v n=30 -f hash_golden.sql > hash_golden.tsv
-- n=3000 gives some 43,000 values; the unit test holds for those as well. Columns: type, text in hexadecimal UTF-8
-- (timestamps as microseconds since 2000-01-01), remainder modulo 65,536. The remainder is 43235 (the low bits of what
-- hash_combine64 adds) more than the column's hash; the server's own satisfies_hash_partition is asked for each.
\set QUIET on
\set ON_ERROR_STOP on
SET client_min_messages = error; SET timezone = 'UTC';
DROP TABLE IF EXISTS g2,g4,g8,gt,gv,gb,gu,gts,gtz;
CREATE TABLE g2 (k int2) PARTITION BY HASH (k);
CREATE TABLE g4 (k int4) PARTITION BY HASH (k);
CREATE TABLE g8 (k int8) PARTITION BY HASH (k);
CREATE TABLE gt (k text) PARTITION BY HASH (k);
CREATE TABLE gv (k varchar(200)) PARTITION BY HASH (k);
CREATE TABLE gb (k char(60)) PARTITION BY HASH (k);
CREATE TABLE gu (k uuid) PARTITION BY HASH (k);
CREATE TABLE gts (k timestamp) PARTITION BY HASH (k);
CREATE TABLE gtz (k timestamptz) PARTITION BY HASH (k);
CREATE TEMP TABLE n AS SELECT i, ('x' || left(md5(i::text), 16))::bit(64)::int8 AS r, md5('a' || i) AS m FROM generate_series(1, :n) i;
CREATE TEMP TABLE ints AS SELECT DISTINCT v FROM (SELECT (r >> (i % 63)::int) v FROM n UNION SELECT i - :n / 2 FROM n UNION VALUES (0::int8), (-1), (32767), (-32768), (2147483647), (-2147483648), (9223372036854775807), (-9223372036854775808), (4294967296), (-4294967296)) x;
CREATE TEMP TABLE texts AS SELECT DISTINCT v FROM (SELECT left(m || m, (i % 41)::int) v FROM n UNION SELECT left(repeat(chr(224 + i % 40), 3) || m, i % 23) FROM n UNION VALUES ('us'), ('日本語'), ('O''Brien'), (E'a\tb\\n')) x WHERE v !~ ' $';
CREATE TEMP TABLE micros AS SELECT v FROM (SELECT v % 100000000000000000 AS v FROM ints) x;
CREATE FUNCTION pg_temp.m(h int8) RETURNS int LANGUAGE sql AS 'SELECT (((h & 65535) + 43235) & 65535)::int';
CREATE TEMP TABLE out AS
SELECT 'int2' t, v::text v, pg_temp.m(hashint2extended(v::int2, 8816678312871386365)) r, satisfies_hash_partition('g2'::regclass, 65536, pg_temp.m(hashint2extended(v::int2, 8816678312871386365)), v::int2) ok FROM ints WHERE v BETWEEN -32768 AND 32767
UNION ALL SELECT 'int4', v::text, pg_temp.m(hashint4extended(v::int4, 8816678312871386365)), satisfies_hash_partition('g4'::regclass, 65536, pg_temp.m(hashint4extended(v::int4, 8816678312871386365)), v::int4) FROM ints WHERE v BETWEEN -2147483648 AND 2147483647
UNION ALL SELECT 'int8', v::text, pg_temp.m(hashint8extended(v, 8816678312871386365)), satisfies_hash_partition('g8'::regclass, 65536, pg_temp.m(hashint8extended(v, 8816678312871386365)), v) FROM ints
UNION ALL SELECT 'text', v, pg_temp.m(hashtextextended(v, 8816678312871386365)), satisfies_hash_partition('gt'::regclass, 65536, pg_temp.m(hashtextextended(v, 8816678312871386365)), v) FROM texts
UNION ALL SELECT 'varchar', v, pg_temp.m(hashtextextended(v, 8816678312871386365)), satisfies_hash_partition('gv'::regclass, 65536, pg_temp.m(hashtextextended(v, 8816678312871386365)), v::varchar(200)) FROM texts
UNION ALL SELECT 'bpchar', v, pg_temp.m(hashbpcharextended(v::char(60), 8816678312871386365)), satisfies_hash_partition('gb'::regclass, 65536, pg_temp.m(hashbpcharextended(v::char(60), 8816678312871386365)), v::char(60)) FROM texts
UNION ALL SELECT 'uuid', m::uuid::text, pg_temp.m(uuid_hash_extended(m::uuid, 8816678312871386365)), satisfies_hash_partition('gu'::regclass, 65536, pg_temp.m(uuid_hash_extended(m::uuid, 8816678312871386365)), m::uuid) FROM n
UNION ALL SELECT 'timestamp', v::text, pg_temp.m(timestamp_hash_extended(ts, 8816678312871386365)), satisfies_hash_partition('gts'::regclass, 65536, pg_temp.m(timestamp_hash_extended(ts, 8816678312871386365)), ts) FROM (SELECT v, timestamp '2000-01-01' + (v / 1000000) * interval '1 s' + (v % 1000000) * interval '1 us' ts FROM micros) x
UNION ALL SELECT 'timestamptz', v::text, pg_temp.m(timestamp_hash_extended(ts::timestamp, 8816678312871386365)), satisfies_hash_partition('gtz'::regclass, 65536, pg_temp.m(timestamp_hash_extended(ts::timestamp, 8816678312871386365)), ts) FROM (SELECT v, timestamptz '2000-01-01 00:00:00+00' + (v / 1000000) * interval '1 s' + (v % 1000000) * interval '1 us' ts FROM micros) x;
DO $$ BEGIN IF EXISTS (SELECT FROM out WHERE NOT ok) THEN RAISE 'the server places a value elsewhere'; END IF; END $$;
\copy (SELECT t, encode(convert_to(v, 'UTF8'), 'hex'), r FROM out ORDER BY t, v) TO PSTDOUT
