//! Forms of Postgres's grammar that the parser does not know by itself, drawn and thought of.

use super::expressions::Maker;
use super::fixture::Type;
use super::literal::{Statement, number};
use super::selects::Query;

impl Maker {
    /// A statement with one such form.
    pub(super) fn grammar(&mut self) -> Query {
        let form = self.random.below(18);
        let from = self.from(if form < 6 { 2 } else { 1 });
        let condition = self.where_clause();
        let int = self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned());
        let text = self.column_of_type(Type::Text).unwrap_or_else(|| "'us'".to_owned());
        let (any, alias, n) = (self.any_column(), self.some_alias(), number(self.random.between(0, 9)));
        let collation = self.random.pick(&["\"C\"", "\"und-x-icu\"", "\"de-x-icu\""]);
        let frame = self.random.pick(&["ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING"]);
        let excluded = self.random.pick(&["CURRENT ROW", "GROUP", "TIES", "NO OTHERS"]);
        let sets = self.random.pick(&["DISTINCT", "ALL"]);
        let statement = match form {
            0 => format!("SELECT min({text}::text COLLATE {collation}), count({text}::text COLLATE \"C\"){from}{condition}"),
            1 => format!("SELECT {text}::text COLLATE {collation} AS x, count(*){from}{condition} GROUP BY 1"),
            2 => format!("SELECT {any}, trim(trailing from {text}), concat(variadic ARRAY[{text}, 'x']){from}{condition}"),
            3 => format!("SELECT {int}, x, y{from}, jsonb_to_recordset('[{{\"x\": 1}}]') AS (x int, y text){condition}"),
            4 => format!("SELECT {int} isnull, {text} NOTNULL, xmlforest({int} AS a, {text} AS b){from}{condition}"),
            5 => format!("SELECT {int}, x, y{from}, ROWS FROM (generate_series(1, 2), unnest(ARRAY['a'])) AS r(x, y){condition}"),
            6 => format!("SELECT {any}{from} WHERE {text}::text COLLATE {collation} > {text} COLLATE {collation} OR {int} = {n}"),
            7 => format!("SELECT {int}, count(*) OVER (ORDER BY {int} {frame} EXCLUDE {excluded}){from}{condition}"),
            8 => {
                format!("SELECT {int}, {text}, count(*){from}{condition} GROUP BY {sets} ROLLUP ({int}, {text}), ROLLUP ({int})")
            }
            9 => format!(
                "SELECT {int}, {text}, count(*){from}{condition} GROUP BY GROUPING SETS (ROLLUP ({int}, {text}), GROUPING SETS (({int}), ()))"
            ),
            10 => format!("SELECT ({alias}).*{from}{condition}"),
            11 => format!("SELECT count(*) FROM (SELECT ({alias}).*{from}{condition}) x"),
            12 => "SELECT count(*) FROM (TABLE acct UNION TABLE acct) x".to_owned(),
            13 => format!("SELECT u.id, qty FROM acct FULL JOIN item USING (id) AS u WHERE u.id = {n} OR u.id < 3"),
            14 => format!("SELECT {int}, ((SELECT 1) UNION SELECT 1) AS one{from}{condition}"),
            15 => format!(
                "WITH RECURSIVE r(n) AS (SELECT {int}{from}{condition} UNION ALL SELECT (n + 1) % 3 FROM r) CYCLE n SET seen USING path SELECT n, seen FROM r WHERE n >= 0"
            ),
            16 => format!("SELECT xmlelement(name e, xmlattributes({int} AS nr), {text}) IS DOCUMENT{from}{condition}"),
            _ => format!("SELECT {any}{from} WHERE {int} = int8 '5' OR {text} ~~ ANY ('{{a%,b%}}') AND {int} isnull"),
        };
        Query { kind: "grammar", statement: Statement(statement), ranked: None, offset: 0 }
    }
}

/// Each of these is answered, not refused; marked as [`super::fixed::FIXED`] is.
pub(super) const GRAMMAR: &str = r#"
= SELECT id FROM acct ORDER BY c::text COLLATE "C" DESC, id
= SELECT id, (t::varchar(3) COLLATE "und-x-icu") AS x FROM acct ORDER BY 2, 1
= SELECT t::text COLLATE "C" AS x, count(*) FROM acct GROUP BY 1 ORDER BY 1
SELECT min(t::text COLLATE "und-x-icu"), max(c::text COLLATE "C") FROM acct
SELECT id FROM acct WHERE t::text COLLATE "C" < 'b' AND c::text COLLATE "und-x-icu" < 'b'
SELECT collation for (c), collation for (t || 'x') FROM acct
SELECT id, trim(leading from t), trim(both from c), substring(t similar '%#"[a-m]#"%' escape '#') FROM acct
SELECT id, format('%s-%s', variadic ARRAY[t, c]), num_nulls(variadic ARRAY[t, c]) FROM acct
SELECT count(concat(variadic ARRAY[t, c])) FROM acct
SELECT slug FROM doc WHERE slug = name 'a'
SELECT id FROM acct WHERE id = int8 '5' OR id = pg_catalog.int8 '6'
SELECT n FROM visit WHERE visit = uuid 'a708a7ae-0000-4000-8000-00000000000e'
SELECT id FROM acct WHERE t ~~ ANY ('{a%,b%}') AND NOT t ~~* ALL (ARRAY['z%'])
SELECT id FROM acct WHERE id operator(pg_catalog.=) ANY ('{5,6}') OR id + ANY ('{1}') = 3
SELECT id FROM acct WHERE grp isnull OR t notnull AND c ISNULL
SELECT id FROM acct* WHERE id IN (5, 6, 7)
SELECT DISTINCT a.grp FROM acct* a JOIN item * i USING (id)
SELECT id, sum(small) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW) FROM acct
SELECT id, count(*) OVER (ORDER BY grp GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE TIES) FROM acct
SELECT id, count(*) OVER (ORDER BY ts RANGE BETWEEN '300 days'::interval PRECEDING AND '1 day'::interval FOLLOWING EXCLUDE GROUP) FROM acct
SELECT grp, count(*) FROM acct GROUP BY ALL grp
SELECT a.id, a.t, count(*) FROM acct a JOIN doc d ON d.n = a.grp GROUP BY a.id
= SELECT d.slug, d.body, sum(a.small) FROM doc d LEFT JOIN acct a ON a.grp = d.n GROUP BY d.slug ORDER BY d.n, d.slug
SELECT d.*, count(*) FROM doc d, acct a WHERE a.grp = d.n GROUP BY d.slug HAVING d.n < 100 AND count(a.t) > 0
SELECT c.code, c.label, count(*) FROM acct a JOIN code c ON c.rank = a.grp GROUP BY c.code
SELECT c.code, c.label || 'x', count(DISTINCT a.t) FROM acct a JOIN code c ON c.rank = a.grp GROUP BY c.code
SELECT upper(d.body), i.item, i.*, count(*) FROM doc d JOIN item i ON i.item = d.n GROUP BY d.slug, i.id, i.item
SELECT e.kind, count(a.id), max(a.t) FROM event e JOIN acct a ON a.grp = e.n GROUP BY e.region, e.uid, e.n
= SELECT id, t FROM acct GROUP BY id ORDER BY small, id LIMIT 7
SELECT x.slug, x.n FROM (SELECT d.slug, d.n, d.body FROM doc d JOIN acct a ON a.id = d.n GROUP BY d.slug) x WHERE x.n > 0
SELECT count(*) FROM visit v JOIN doc d ON d.n = v.n GROUP BY v.visit HAVING v.page IS NOT NULL
SELECT a.id, to_jsonb(a), count(d.slug) FROM acct a LEFT JOIN doc d ON d.n = a.grp GROUP BY a.id
SELECT grp, small, count(*) FROM acct GROUP BY DISTINCT ROLLUP (grp, small), ROLLUP (grp)
SELECT grp, small, count(*) FROM acct GROUP BY ALL ROLLUP (grp, small), ROLLUP (grp)
SELECT grp, small, count(*) FROM acct GROUP BY GROUPING SETS (ROLLUP (grp, small), GROUPING SETS ((), (grp), CUBE (small)))
SELECT grp, small, grouping(grp, small), sum(id) FROM acct GROUP BY GROUPING SETS (GROUPING SETS ((grp, (small))), ())
SELECT count(*) FROM (TABLE acct UNION ALL TABLE acct) u
SELECT id FROM (TABLE acct) x WHERE id = 5
WITH x AS (TABLE item) SELECT id, count(*) FROM x GROUP BY id
SELECT k.code FROM code k WHERE EXISTS (TABLE doc)
= (TABLE code) ORDER BY 1
SELECT (a).* FROM acct a WHERE id IN (5, 6, 7)
SELECT (a).id, (a).* FROM acct a
SELECT x.id FROM (SELECT (a).* FROM acct a) x WHERE x.id = 5
SELECT x.k FROM (SELECT (r).* FROM (SELECT i.item AS k, a.id AS id FROM acct a JOIN item i USING (id)) r) x WHERE x.k = 1
SELECT x.k, x.id FROM (SELECT (r).*, id FROM (SELECT (i.item, a.t)::pair AS r, a.id FROM acct a JOIN item i USING (id)) s) x(k, w, id) WHERE x.k = 1
SELECT x.id FROM (SELECT (r).*, k FROM (SELECT ROW(grp, t)::pair AS r, id AS k FROM acct) s) x(id, w, k) WHERE x.id = 1
SELECT u.* FROM acct JOIN item USING (id) AS u
SELECT tiny.id, acct.grp FROM acct JOIN item USING (id) AS tiny WHERE tiny.id < 7
SELECT id, xmlelement(name item, xmlattributes(id AS doc)), xmlforest(id AS code) FROM acct
SELECT a.id, x.item FROM acct a, xmltable('/r' PASSING '<r><item>7</item></r>' COLUMNS item int PATH 'item') x
SELECT u.id, acct.t FROM acct LEFT JOIN item USING (id) AS u WHERE u.id IN (5, 6)
SELECT u.id, qty FROM acct FULL JOIN item USING (id) AS u WHERE u.id = 5
SELECT a.id, n, w, ord FROM acct a, ROWS FROM (generate_series(1, a.grp), unnest(ARRAY['a', 'b'])) WITH ORDINALITY AS r(n, w, ord)
SELECT a.id, r.x, r.y FROM acct a, ROWS FROM (jsonb_to_record('{"x": 1, "y": 2}') AS (x int, y int)) AS r WHERE a.id IN (5, 6)
SELECT id, x, y FROM acct, jsonb_to_recordset('[{"x": 1}, {"x": 2, "y": "z"}]') AS (x int, y text)
SELECT grp, count(x) FROM acct, json_to_record('{"x": 1}') AS (x int) GROUP BY grp
WITH RECURSIVE r(id) AS (SELECT id FROM acct WHERE id < 4 UNION ALL SELECT id + 5 FROM r WHERE id < 20) SEARCH DEPTH FIRST BY id SET place SELECT id, place FROM r
WITH RECURSIVE r(id) AS (SELECT id FROM acct UNION ALL SELECT (id + 1) % 3 FROM r) SEARCH BREADTH FIRST BY id SET place CYCLE id SET seen TO 'y' DEFAULT 'n' USING path SELECT id, seen, place FROM r
WITH RECURSIVE r(id, grp) AS (SELECT id, grp FROM acct WHERE id = 5 UNION ALL SELECT a.id, a.grp FROM acct a JOIN r ON a.id = r.grp) CYCLE id SET seen USING path SELECT * FROM r
SELECT id, ((SELECT 1) UNION SELECT 1) FROM acct WHERE id IN (5, 6)
SELECT ((SELECT count(*) FROM acct) UNION (SELECT count(*) FROM acct)) AS n
SELECT id FROM acct WHERE id IN ((SELECT 5) UNION SELECT 6)
SELECT WHERE EXISTS (SELECT FROM acct)
SELECT UNION SELECT FROM acct
SELECT acct.* IS NULL, acct.* IS NOT NULL, code.* IS NULL FROM acct LEFT JOIN code ON code = t
SELECT count(a), count(a.*), count(DISTINCT a.grp) FROM acct a
SELECT count(*) FROM item a JOIN item b ON a.* = b.*
SELECT a.id FROM item a, item b WHERE a.* IS NOT DISTINCT FROM b.* AND a.item = 1
SELECT id, xmlelement(name e, xmlattributes(id AS nr, grp), t), xmlforest(c AS x, id) FROM acct
SELECT xmlserialize(content xmlagg(xmlelement(name e, id) ORDER BY id) AS text) FROM acct
SELECT id, xmlserialize(document xmlroot(xmlelement(name e, id), version '1.0', standalone yes) AS varchar(80)) FROM acct
SELECT id, xmlpi(name php, 'x'), xmlparse(content '<a/>'), xml '<a/>' IS DOCUMENT, xmlelement(name a) IS NOT DOCUMENT FROM acct
SELECT count(*) FROM acct WHERE xmlexists('//e[text() = "5"]' PASSING BY REF xmlelement(name r, xmlelement(name e, id)))
SELECT a.id, x.e FROM acct a, LATERAL xmltable('/r/e' PASSING xmlelement(name r, xmlelement(name e, a.id)) COLUMNS e int PATH '.') x
SELECT a.id, x.n FROM acct a, xmltable(xmlnamespaces(DEFAULT 'u'), '/r/e' PASSING BY REF '<r xmlns="u"><e>7</e></r>' COLUMNS n int PATH '.', o FOR ORDINALITY) x
SELECT id, @-@ lseg '((0,0),(3,4))', !!'a & b'::tsquery, |/ 25.0 FROM acct
SELECT id, (id, grp) *= (5, 1), ROW(id) *< ROW(7::bigint) FROM acct
"#;
