-- Makes value_golden.tsv from a Postgres server: what it makes of texts and number literals.
--   psql -X -f value_golden.sql < input.tsv > value_golden.tsv
-- Input columns: type (int2 … timestamptz; num2, num4, num8 for a number literal), time zone, text in hexadecimal UTF-8.
-- The inputs here are a seeded sample of 350 out of 35,000 that were checked: random ISO forms with one fault in ten
-- (hour 24, second 60, month 13, seven digits of a fraction, odd offsets), a third of them around the clock changes of
-- seven zones; integers at the edges of the types; number literals with fractions and exponents; UUIDs with hyphens and
-- braces at random.
\set QUIET on
\set ON_ERROR_STOP on
SET client_min_messages = error;
CREATE TEMP TABLE input (t text, z text, h text);
\copy input FROM PSTDIN
CREATE FUNCTION pg_temp.answer(t text, z text, v text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE x text; n numeric;
BEGIN
  PERFORM set_config('timezone', z, false);
  CASE
    WHEN t = 'date' THEN SELECT ((v::date - date '2000-01-01') * 86400000000)::text INTO x;
    WHEN t = 'timestamp' THEN SELECT (extract(epoch FROM v::timestamp - '2000-01-01') * 1000000)::int8::text INTO x;
    WHEN t = 'timestamptz' THEN SELECT (extract(epoch FROM v::timestamptz - '2000-01-01+00') * 1000000)::int8::text INTO x;
    WHEN t = 'uuid' THEN SELECT v::uuid::text INTO x;
    WHEN t LIKE 'int_' THEN EXECUTE format('SELECT (%L::%s)::text', v, t) INTO x;
    ELSE
      EXECUTE 'SELECT (' || v || ')::numeric' INTO n;
      IF n <> trunc(n) THEN RETURN 'range'; END IF;
      EXECUTE format('SELECT (%s::int%s)::text', n, right(t, 1)) INTO x;
  END CASE;
  RETURN x;
EXCEPTION WHEN numeric_value_out_of_range THEN RETURN 'range'; WHEN others THEN RETURN 'error';
END $$;
\copy (SELECT t, z, h, coalesce(pg_temp.answer(t, z, convert_from(decode(h, 'hex'), 'UTF8')), 'error') FROM input) TO PSTDOUT
