//! Random SELECTs that no shard and no combination of partial rows can answer: they need rows of several shards in one place.

use super::expressions::Maker;
use super::fixture::{Table, Type};
use super::literal::{Statement, number};
use super::selects::Query;

/// Types whose values compare alike wherever they are, and print all of themselves.
const PLAIN: &[Type] = &[Type::Int, Type::Int, Type::Text, Type::Num, Type::Date, Type::StampTz, Type::Bool, Type::Uuid];

impl Maker {
    pub(super) fn gathered(&mut self) -> Query {
        let text = match self.random.below(14) {
            0 | 1 => self.with_subqueries(),
            2 => self.apart(),
            3 | 4 => self.common_tables(),
            5 => self.recursive(),
            6 | 7 => self.operations(),
            8 => self.windows(),
            9 => self.grouping_sets(),
            10 => self.distinct_on(),
            11 => self.ordered_aggregates(),
            12 => self.lateral(),
            _ => self.derived(),
        };
        Query { kind: "gathered", statement: Statement(text), ranked: None, offset: 0 }
    }

    fn plain_type(&mut self) -> Type {
        PLAIN[self.random.below(PLAIN.len())]
    }

    fn some_table(&mut self) -> &'static Table {
        let idx = if self.random.chance(60) { self.random.below(2) } else { self.random.below(self.tables.len()) };
        self.tables[idx]
    }

    /// Columns of the scope, one to three.
    fn columns(&mut self) -> String {
        let n = self.random.between(1, 3);
        (0..n).map(|_| self.any_column()).collect::<Vec<_>>().join(", ")
    }

    /// Runs `make` with one table in sight, called `alias`.
    fn inside(&mut self, alias: &str, table: &'static Table, make: impl FnOnce(&mut Self) -> String) -> String {
        let outer = (std::mem::replace(&mut self.scope, vec![(alias.to_owned(), table)]), self.is_bare);
        self.is_bare = false;
        let text = make(self);
        (self.scope, self.is_bare) = outer;
        text
    }

    /// A term with a subquery over a table of its own, correlated or not.
    fn subquery_term(&mut self, alias: &str) -> String {
        let kind = self.plain_type();
        let (kind, outer) = match self.column_of_type(kind) {
            Some(column) => (kind, column),
            None => (Type::Int, self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned())),
        };
        let table = self.some_table();
        let form = self.random.below(10);
        let is_correlated = self.random.chance(50);
        self.inside(alias, table, |maker| {
            let Some(inner) = maker.column_of_type(kind) else { return format!("EXISTS (SELECT 1 FROM {} {alias})", table.name) };
            let condition = maker.condition(1);
            let source = format!("FROM {} {alias} WHERE {condition}", table.name);
            let tie = if is_correlated { format!(" AND {inner} = {outer}") } else { String::new() };
            match form {
                0 | 1 => format!("{outer} IN (SELECT {inner} {source})"),
                2 | 3 => format!("{outer} NOT IN (SELECT {inner} {source})"),
                4 => format!("EXISTS (SELECT 1 {source} AND {inner} = {outer})"),
                5 => format!("NOT EXISTS (SELECT * {source} AND {inner} = {outer})"),
                6 => format!("(SELECT count(*) {source}{tie}) > {}", number(1)),
                7 if kind != Type::Bool && kind != Type::Uuid => format!("{outer} <= (SELECT max({inner}) {source}{tie})"),
                8 => format!("{outer} = ANY (SELECT {inner} {source})"),
                _ => format!("{outer} <> ALL (SELECT {inner} {source} AND {inner} IS NOT NULL)"),
            }
        })
    }

    fn with_subqueries(&mut self) -> String {
        let n_tables = if self.random.chance(30) { 2 } else { 1 };
        let from = self.from(n_tables);
        let term = self.subquery_term("s");
        let more = match self.random.below(4) {
            0 => format!(" AND {}", self.comparison_term()),
            1 => format!(" OR {}", self.comparison_term()),
            2 => format!(" AND {}", self.subquery_term("r")),
            _ => String::new(),
        };
        let items = match self.random.below(4) {
            0 => "*".to_owned(),
            1 => self.some_alias(),
            2 => {
                let item = self.subquery_term("q");
                format!("{}, {item} AS found", self.any_column())
            }
            _ => self.columns(),
        };
        format!("SELECT {items}{from} WHERE {term}{more}")
    }

    fn comparison_term(&mut self) -> String {
        format!("({})", self.condition(1))
    }

    /// Two tables joined by what is no key, or by nothing.
    fn apart(&mut self) -> String {
        let (left, right) = (self.some_table(), self.some_table());
        let side = *[" JOIN", " LEFT JOIN", " RIGHT JOIN", " FULL JOIN"].get(self.random.below(4)).unwrap_or(&" JOIN");
        if self.random.chance(15) {
            return format!("SELECT count(*), count(a), count(b) FROM {} a NATURAL{side} {} b", left.name, right.name);
        }
        self.is_bare = false;
        self.scope = vec![("a".to_owned(), left), ("b".to_owned(), right)];
        let pairs: Vec<(&str, &str)> = left
            .columns
            .iter()
            .flat_map(|(a, kind)| right.columns.iter().filter(move |(_, other)| other == kind).map(move |(b, _)| (*a, *b)))
            .collect();
        let items = self.columns();
        let Some(&(a, b)) = pairs.get(self.random.below(pairs.len().max(1))) else {
            let condition = self.condition(1);
            return format!("SELECT {items} FROM {} a, {} b WHERE {condition}", left.name, right.name);
        };
        // Other comparisons than equality cannot be the condition of a FULL JOIN.
        let operator = if side == " FULL JOIN" || self.random.chance(70) { "=" } else { "<" };
        let more = if self.random.chance(40) { format!(" AND {}", self.comparison_term()) } else { String::new() };
        let condition = if self.random.chance(50) { self.where_clause() } else { String::new() };
        format!("SELECT {items} FROM {} a{side} {} b ON a.{a} {operator} b.{b}{more}{condition}", left.name, right.name)
    }

    fn common_tables(&mut self) -> String {
        let (first, second) = (self.some_table(), self.some_table());
        let kept = self.inside("a", first, |maker| maker.where_clause());
        let materialized = self.random.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]).to_owned();
        let key = first.columns[0].0;
        let head = format!("WITH w AS {materialized}(SELECT * FROM {} a{kept})", first.name);
        match self.random.below(5) {
            0 => format!("{head} SELECT count(*), (SELECT count(*) FROM w) FROM {}", second.name),
            1 => format!("{head} SELECT x.{key}, y.{key} FROM w x LEFT JOIN w y ON x.{key} = y.{key} AND y.{key} IS NOT NULL"),
            2 => format!("{head}, v AS (SELECT {key} FROM w) SELECT * FROM v WHERE {key} IN (SELECT {key} FROM {})", first.name),
            3 => format!("{head} SELECT * FROM w EXCEPT SELECT * FROM {} a{kept}", first.name),
            // The name of the table, hidden by that of the query.
            _ => {
                let name = first.name;
                format!("WITH {name} AS (SELECT * FROM {name} a{kept}) SELECT count(*), count({key}) FROM {name}")
            }
        }
    }

    fn recursive(&mut self) -> String {
        let n = self.random.between(3, 20);
        match self.random.below(3) {
            0 => format!(
                "WITH RECURSIVE r(n) AS (SELECT 1::bigint UNION ALL SELECT n + 1 FROM r JOIN acct ON acct.id = r.n WHERE n < {n}) \
                 SELECT max(n), count(*) FROM r"
            ),
            1 => format!(
                "WITH RECURSIVE r AS (SELECT id, item FROM item WHERE id < {n} UNION SELECT i.id, i.item FROM item i JOIN r \
                 ON i.id = r.item) SELECT count(*), min(id), max(id) FROM r"
            ),
            _ => format!(
                "SELECT id FROM acct WHERE id IN (WITH RECURSIVE r(k) AS (VALUES (1::bigint) UNION SELECT id + 1 FROM item, r \
                 WHERE id = k AND k < {n}) SELECT k FROM r)"
            ),
        }
    }

    fn operations(&mut self) -> String {
        let kind = self.plain_type();
        let mut text = String::new();
        let n_parts = self.random.between(2, 3);
        for part in 0..n_parts {
            let from = self.from(1);
            let condition = self.where_clause();
            let column = self.column_of_type(kind).unwrap_or_else(|| "NULL".to_owned());
            let select = format!("SELECT {column} AS x{from}{condition}");
            if part > 0 {
                let operators = ["UNION", "UNION ALL", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"];
                text.push_str(&format!(" {} ", operators[self.random.below(operators.len())]));
            }
            text.push_str(&if self.random.chance(30) { format!("({select})") } else { select });
        }
        if self.random.chance(40) { format!("SELECT count(*), count(x) FROM ({text}) s") } else { text }
    }

    fn windows(&mut self) -> String {
        let n_tables = if self.random.chance(30) { 2 } else { 1 };
        let from = self.from(n_tables);
        let condition = self.where_clause();
        let (by, over) = (self.any_column(), self.any_column());
        let function = match self.random.below(8) {
            0 => "rank()".to_owned(),
            1 => "dense_rank()".to_owned(),
            2 => "count(*)".to_owned(),
            3 => format!("sum({})", self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned())),
            4 => format!("max({})", self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned())),
            5 => format!("lag({over})"),
            6 => format!("first_value({over})"),
            _ => "cume_dist()".to_owned(),
        };
        let direction = self.random.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]).to_owned();
        match self.random.below(3) {
            0 => format!("SELECT {over}, {function} OVER (ORDER BY {over}{direction}){from}{condition}"),
            1 => format!(
                "SELECT {by}, {over}, {function} OVER w{from}{condition} WINDOW w AS (PARTITION BY {by} ORDER BY {over}{direction})"
            ),
            _ => format!(
                "SELECT x, n FROM (SELECT {over} AS x, row_number() OVER (ORDER BY {over}{direction}) AS n{from}{condition}) s WHERE n <= 5"
            ),
        }
    }

    fn grouping_sets(&mut self) -> String {
        let from = self.from(1);
        let condition = self.where_clause();
        let (a, b) = (self.any_column(), self.any_column());
        let sets = match self.random.below(4) {
            0 => format!("ROLLUP ({a}, {b})"),
            1 => format!("CUBE ({a}, {b})"),
            2 => format!("GROUPING SETS (({a}, {b}), ({b}), ())"),
            _ => format!("{a}, GROUPING SETS (({b}), ())"),
        };
        let number = self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned());
        format!("SELECT {a}, {b}, grouping({a}, {b}), count(*), sum({number}){from}{condition} GROUP BY {sets}")
    }

    fn distinct_on(&mut self) -> String {
        let from = self.from(1);
        let condition = self.where_clause();
        let (a, b) = (self.any_column(), self.any_column());
        match self.random.below(3) {
            0 => format!("SELECT DISTINCT {a}, {b}{from}{condition}"),
            1 => format!("SELECT count(DISTINCT {a}), count(DISTINCT ({a}, {b})){from}{condition}"),
            _ => format!("SELECT DISTINCT ON ({a}) {a}, {b}{from}{condition} ORDER BY {a}, {b} DESC NULLS LAST"),
        }
    }

    fn ordered_aggregates(&mut self) -> String {
        let from = self.from(1);
        let condition = self.where_clause();
        let (a, b) = (self.any_column(), self.any_column());
        let int = self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned());
        let aggregate = match self.random.below(8) {
            0 => format!("array_agg({a} ORDER BY {a})"),
            1 => format!("string_agg({a}::text, ',' ORDER BY {a}::text COLLATE \"C\")"),
            2 => format!("percentile_disc(0.5) WITHIN GROUP (ORDER BY {a})"),
            3 => format!("stddev({int}), var_pop({int})"),
            4 => format!("bool_and({a} IS NULL), bit_or({int})"),
            5 => format!("jsonb_agg({a} ORDER BY {a}::text COLLATE \"C\")"),
            6 => format!("sum(DISTINCT {int}), avg(DISTINCT {int})"),
            _ => format!("array_agg(DISTINCT {a} ORDER BY {a} DESC)"),
        };
        if self.random.chance(50) {
            return format!("SELECT {aggregate}{from}{condition}");
        }
        format!("SELECT {b}, {aggregate}{from}{condition} GROUP BY {b}")
    }

    fn lateral(&mut self) -> String {
        let (left, right) = (self.some_table(), self.some_table());
        let key = left.columns[0].0;
        let kept = self.inside("b", right, |maker| maker.condition(1));
        let shared = right.columns.iter().find(|(_, kind)| *kind == left.columns[0].1).map(|(name, _)| *name);
        let tie = shared.map_or_else(|| "true".to_owned(), |name| format!("b.{name} = a.{key}"));
        let join = *["JOIN", "LEFT JOIN"].get(self.random.below(2)).unwrap_or(&"JOIN");
        format!(
            "SELECT a.{key}, s.n FROM {} a {join} LATERAL (SELECT count(*) AS n FROM {} b WHERE {tie} AND ({kept})) s ON s.n > 0",
            left.name, right.name
        )
    }

    fn derived(&mut self) -> String {
        let (left, right) = (self.some_table(), self.some_table());
        let kept = self.inside("a", left, |maker| maker.where_clause());
        let more = self.inside("b", right, |maker| maker.where_clause());
        let (x, y) = (left.columns[0], right.columns[0]);
        let on = if x.1 == y.1 { "s.x = t.y".to_owned() } else { "s.x IS NOT NULL".to_owned() };
        let join = *["JOIN", "LEFT JOIN", "RIGHT JOIN"].get(self.random.below(3)).unwrap_or(&"JOIN");
        format!(
            "SELECT x, y, n FROM (SELECT {} AS x, count(*) AS n FROM {} a{kept} GROUP BY 1) s {join} (SELECT {} AS y FROM {} b{more}) t ON {on}",
            x.0, left.name, y.0, right.name
        )
    }
}
