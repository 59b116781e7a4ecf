-- Makes compare_golden.tsv from a Postgres server: random values of each type with the edges of the type, in the server's
-- own order under collation C.
--   psql -X -v n=12 -f compare_golden.sql > compare_golden.tsv
-- Columns: type, OID, whether the value equals the one before it, binary format in hexadecimal. The unit test holds for
-- n=600 as well (all pairs of some 14,000 values).
\set QUIET on
\set ON_ERROR_STOP on
SET timezone = 'UTC';
DO $$ BEGIN PERFORM setseed(0.5); END $$;
CREATE TEMP TABLE r AS
  SELECT i, ('x' || left(md5(i::text), 16))::bit(64)::int8 >> (i % 60) AS big, random() AS f, md5('m' || i) AS m
  FROM generate_series(1, :n) i;
CREATE TEMP TABLE sorted (t text, oid oid, n int, is_same boolean, b bytea);
CREATE FUNCTION pg_temp.take(t text, query text, send text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE c text := CASE WHEN t IN ('text', 'varchar', 'bpchar') THEN 'COLLATE "C"' ELSE '' END;
BEGIN
  EXECUTE format('INSERT INTO sorted SELECT %L, %L::regtype, row_number() OVER w, coalesce(v = lag(v) OVER w, false), %s(v) '
    'FROM (SELECT v::%s %s FROM (%s) x(v)) x(v) WINDOW w AS (ORDER BY v)', t, t, send, t, c, query);
END $$;
\o /dev/null
SELECT pg_temp.take('bool', 'VALUES (true), (false)', 'boolsend');
SELECT pg_temp.take('int2', 'SELECT (big % 32768)::int2 FROM r UNION VALUES (32767::int2), (-32768), (0)', 'int2send');
SELECT pg_temp.take('int4', 'SELECT (big % 2147483648)::int4 FROM r UNION VALUES (2147483647), (-2147483648), (0)', 'int4send');
SELECT pg_temp.take('int8', 'SELECT big FROM r UNION VALUES (9223372036854775807), (-9223372036854775808), (0)', 'int8send');
SELECT pg_temp.take('oid', 'SELECT (abs(big % 4294967296))::oid FROM r UNION VALUES (4294967295::oid), (0), (2147483648)', 'oidsend');
SELECT pg_temp.take('float4', 'SELECT ((f - 0.5) * 10 ^ (i % 60 - 30))::float4 FROM r UNION ALL VALUES (''NaN''::float4), (''NaN''), (''Infinity''), (''-Infinity''), (0), (''-0''), (1e-45)', 'float4send');
SELECT pg_temp.take('float8', 'SELECT (f - 0.5) * 10 ^ (i % 600 - 300) FROM r UNION ALL VALUES (''NaN''::float8), (''NaN''), (''Infinity''), (''-Infinity''), (0), (''-0''), (5e-324)', 'float8send');
SELECT pg_temp.take('numeric', 'SELECT (f::numeric - 0.5) * 10::numeric ^ (i % 60 - 30) FROM r UNION ALL SELECT round(big::numeric / 7, i % 9) FROM r UNION ALL SELECT (big % 100)::numeric(20,4) FROM r UNION ALL SELECT big * 10::numeric ^ (i % 40) FROM r UNION ALL VALUES (''NaN''::numeric), (''NaN''), (''Infinity''), (''-Infinity''), (0), (0.00), (1), (1.0), (1.00000), (-1), (9999), (10000), (10000.0001), (0.0001), (-0.0001), (0.00010)', 'numeric_send');
SELECT pg_temp.take('date', 'SELECT date ''2000-01-01'' + (big % 2000000)::int FROM r UNION VALUES (date ''infinity''), (''-infinity''), (''4713-01-01 BC'')', 'date_send');
SELECT pg_temp.take('time', 'SELECT time ''00:00'' + f * interval ''1 day'' FROM r UNION VALUES (time ''24:00''), (''00:00'')', 'time_send');
SELECT pg_temp.take('timestamp', 'SELECT timestamp ''2000-01-01'' + (big % 100000000000) * interval ''1 s'' + f * interval ''1 s'' FROM r UNION VALUES (timestamp ''infinity''), (''-infinity'')', 'timestamp_send');
SELECT pg_temp.take('timestamptz', 'SELECT timestamptz ''2000-01-01'' + (big % 100000000000) * interval ''1 s'' FROM r UNION VALUES (timestamptz ''infinity''), (''-infinity'')', 'timestamptz_send');
SELECT pg_temp.take('uuid', 'SELECT m::uuid FROM r', 'uuid_send');
SELECT pg_temp.take('bytea', 'SELECT substr(decode(m, ''hex''), 1, i % 5) FROM r UNION SELECT decode(m, ''hex'') FROM r UNION VALUES (''\x00''::bytea), (''\x0000''), (''\xff'')', 'byteasend');
SELECT pg_temp.take('text', 'SELECT v FROM (SELECT left(m, i % 7) v FROM r UNION SELECT upper(m) FROM r UNION SELECT chr(200 + i) || m FROM r UNION VALUES (''''), ('' ''), (''a''), (''a ''), (''ab''), (''日本''), (E''a\tb''), (E''a\x01'')) y', 'textsend');
SELECT pg_temp.take('varchar', 'SELECT left(m, i % 7)::varchar FROM r UNION VALUES (''a''::varchar), (''a ''), (''B'')', 'varcharsend');
SELECT pg_temp.take('bpchar', 'SELECT v::char(40) FROM (SELECT left(m, i % 7) v FROM r UNION VALUES (''''), (''a''), (''B''), (E''a\x01''), (''a b'')) y UNION ALL VALUES (''a''::char(3)), (''a''::char(2)), (E''a\x01''), ('''')', 'bpcharsend');
SELECT pg_temp.take('name', 'SELECT m::name FROM r UNION VALUES (''''::name), (''a''), (''B''), (''ab'')', 'namesend');
SELECT pg_temp.take('"char"', 'SELECT DISTINCT chr(32 + i % 90)::"char" FROM r UNION VALUES (''''::"char"), ((-1)::"char")', 'charsend');
\o
\copy (SELECT t, oid, is_same, encode(b, 'hex') FROM sorted ORDER BY oid, n) TO PSTDOUT
