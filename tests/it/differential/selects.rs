//! Random SELECTs: sources, conditions, and what stands before and after them.

use super::expressions::Maker;
use super::literal::{Statement, number};

/// A SELECT in the parts that a comparison needs.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) kind: &'static str,
    pub(super) statement: Statement,
    /// The same rows without LIMIT, with the rank by ORDER BY after them; `None`: the statement says no order and no limit.
    pub(super) ranked: Option<Statement>,
    pub(super) offset: usize,
}

/// A sort item as written, and what it sorts by.
struct SortItem {
    written: String,
    means: String,
}

impl Maker {
    /// The next SELECT.
    pub(super) fn query(&mut self) -> Query {
        match self.random.below(100) {
            0..=29 => self.plain("plain", 1),
            30..=44 => self.plain("join", 2),
            45..=65 => self.grouped(),
            66..=69 => self.distinct(),
            70..=73 => self.set_operation(),
            74..=76 => self.with_query(),
            77..=80 => self.odd(),
            81..=85 => self.grammar(),
            _ => self.gathered(),
        }
    }

    fn plain(&mut self, kind: &'static str, n_tables: usize) -> Query {
        let from = self.from(n_tables);
        let condition = self.where_clause();
        let (mut items, mut sources) = (Vec::new(), Vec::new());
        match self.random.below(12) {
            0 | 1 => items.push("*".to_owned()),
            2 => {
                let alias = self.some_alias();
                items.push(format!("{alias}.*"));
            }
            3 => {
                let alias = self.some_alias();
                items.push(alias);
            }
            4 if self.random.chance(20) => {}
            _ => {
                for n in 0..self.random.between(1, 4) {
                    let source = match self.random.below(12) {
                        0 => number(self.random.between(0, 3)),
                        1 => "'k' || 'x'".to_owned(),
                        _ => self.any_expression(2),
                    };
                    let alias = match self.random.below(5) {
                        0 => format!(" AS x{n}"),
                        1 => " AS id".to_owned(),
                        2 => format!(" \"N {n}\""),
                        _ => String::new(),
                    };
                    items.push(format!("{source}{alias}"));
                    sources.push((source, alias));
                }
            }
        }
        let order = self.order_by(&sources);
        self.assemble(kind, &items.join(", "), &format!("{from}{condition}"), &order)
    }

    fn assemble(&mut self, kind: &'static str, items: &str, body: &str, order: &[SortItem]) -> Query {
        let (tail, offset) = self.tail();
        let written: Vec<&str> = order.iter().map(|item| item.written.as_str()).collect();
        let means: Vec<&str> = order.iter().map(|item| item.means.as_str()).collect();
        let by = |list: &[&str]| if list.is_empty() { String::new() } else { format!(" ORDER BY {}", list.join(", ")) };
        let statement = Statement(format!("SELECT {items}{body}{}{tail}", by(&written)));
        let comma = if items.is_empty() { "" } else { ", " };
        let rank = if order.is_empty() { "0::bigint".to_owned() } else { format!("dense_rank() OVER ({})", by(&means).trim()) };
        let ranked = Statement(format!("SELECT {items}{comma}{rank}{body}"));
        Query { kind, statement, ranked: Some(ranked), offset }
    }

    fn direction(&mut self) -> &'static str {
        self.random.pick(&[
            "",
            "",
            " ASC",
            " DESC",
            " DESC",
            " NULLS FIRST",
            " NULLS LAST",
            " DESC NULLS LAST",
            " DESC NULLS FIRST",
        ])
    }

    fn order_by(&mut self, sources: &[(String, String)]) -> Vec<SortItem> {
        if self.random.chance(35) {
            return Vec::new();
        }
        let mut order = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let direction = self.direction();
            let named = if sources.is_empty() { None } else { Some(self.random.below(sources.len())) };
            let (written, means) = match (self.random.below(6), named) {
                (0, Some(idx)) => ((idx + 1).to_string(), sources[idx].0.clone()),
                (1, Some(idx)) if !sources[idx].1.is_empty() => {
                    let name = sources[idx].1.trim().trim_start_matches("AS ").to_owned();
                    let n_named = sources.iter().filter(|(_, alias)| alias == &sources[idx].1).count();
                    if n_named > 1 {
                        continue;
                    }
                    (name, sources[idx].0.clone())
                }
                (drawn, _) => {
                    let text = if drawn == 2 { self.any_expression(1) } else { self.any_column() };
                    let means = meant_by(&text, sources);
                    (text, means)
                }
            };
            // A bare constant is a position, or an error.
            let is_constant = means.starts_with(['\u{1}', '\'']) || means.chars().all(|c| c.is_ascii_digit() || c == '-');
            if is_constant && written == means {
                continue;
            }
            order.push(SortItem { written: format!("{written}{direction}"), means: format!("({means}){direction}") });
        }
        order
    }

    /// LIMIT and OFFSET, and the number of rows that the offset skips.
    fn tail(&mut self) -> (String, usize) {
        if self.random.chance(55) {
            return (String::new(), 0);
        }
        let limits = ["0", "1", "2", "3", "5", "10", "100", "9223372036854775807"];
        let n = self.random.pick(&limits).to_owned();
        let limit = match self.random.below(10) {
            0 => " LIMIT ALL".to_owned(),
            1 => format!(" FETCH FIRST {n} ROWS ONLY"),
            2 => " LIMIT NULL".to_owned(),
            3 => format!(" LIMIT {n}::int8"),
            4 => format!(" LIMIT '{n}'"),
            5 => " FETCH FIRST ROW ONLY".to_owned(),
            _ => format!(" LIMIT {}", number(n)),
        };
        if self.random.chance(50) {
            return (limit, 0);
        }
        let offset = self.random.below(30) * self.random.below(2);
        let text = match self.random.below(6) {
            0 => format!(" OFFSET {offset} ROWS"),
            1 => format!(" OFFSET ({offset})"),
            2 if offset == 0 => " OFFSET -0".to_owned(),
            _ => format!(" OFFSET {}", number(offset)),
        };
        match self.random.below(4) {
            0 => (text, offset),
            1 if limit.contains("LIMIT") => (format!("{text}{limit}"), offset),
            _ if limit.contains("FETCH") => (format!("{text}{limit}"), offset),
            _ => (format!("{limit}{text}"), offset),
        }
    }

    fn grouped(&mut self) -> Query {
        let n_tables = if self.random.chance(25) { 2 } else { 1 };
        let from = self.from(n_tables);
        let condition = self.where_clause();
        let n_keys = self.random.below(3);
        let mut keys = Vec::new();
        for _ in 0..n_keys {
            keys.push(if self.random.chance(65) { self.any_column() } else { self.any_expression(1) });
        }
        keys.retain(|key| !key.starts_with(['\u{1}', '\'']) && !key.contains("SELECT") && !key.contains('\u{1}'));
        let (mut items, mut sources, mut group_by) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..self.random.between(1, 3) {
            let source = match keys.first() {
                Some(_) if self.random.chance(40) => self.over_keys(&keys),
                _ => self.aggregate_expression(&keys),
            };
            let alias = if self.random.chance(30) { format!(" AS x{n}") } else { String::new() };
            items.push(format!("{source}{alias}"));
            sources.push((source, alias));
        }
        for key in &keys {
            let place = sources.iter().position(|(source, _)| source == key);
            group_by.push(match (place, self.random.below(4)) {
                (Some(idx), 0) => (idx + 1).to_string(),
                (Some(idx), 1) if !sources[idx].1.is_empty() => sources[idx].1.trim_start_matches(" AS ").to_owned(),
                (_, 2) => format!("({key})"),
                _ => key.clone(),
            });
        }
        let mut body = format!("{from}{condition}");
        if !group_by.is_empty() {
            body.push_str(&format!(" GROUP BY {}", group_by.join(", ")));
        }
        if self.random.chance(25) {
            let aggregate = self.aggregate();
            let having = self.random.pick(&["IS NOT NULL", "IS NULL", "IS NOT NULL"]);
            body.push_str(&format!(" HAVING {aggregate} {having}"));
        } else if self.random.chance(5) {
            body.push_str(self.random.pick(&[" HAVING true", " HAVING 1 = 0", " HAVING count(*) > 1"]));
        }
        let mut order = Vec::new();
        if self.random.chance(60) {
            for _ in 0..self.random.between(1, 2) {
                let direction = self.direction();
                let idx = self.random.below(sources.len());
                let (source, alias) = &sources[idx];
                let (written, means) = match self.random.below(4) {
                    0 => ((idx + 1).to_string(), source.clone()),
                    1 if !alias.is_empty() => (alias.trim_start_matches(" AS ").to_owned(), source.clone()),
                    2 => {
                        let aggregate = self.aggregate();
                        (aggregate.clone(), aggregate)
                    }
                    _ if source.starts_with(['\u{1}', '\'']) || source.chars().all(|c| c.is_ascii_digit()) => continue,
                    _ => (source.clone(), meant_by(source, &sources)),
                };
                order.push(SortItem { written: format!("{written}{direction}"), means: format!("({means}){direction}") });
            }
        }
        self.assemble("grouped", &items.join(", "), &body, &order)
    }

    fn distinct(&mut self) -> Query {
        let from = self.from(1);
        let condition = self.where_clause();
        let column = self.any_column();
        let distinct = if self.random.chance(20) { format!("DISTINCT ON ({column})") } else { "DISTINCT".to_owned() };
        let statement = Statement(format!("SELECT {distinct} {column} AS x{from}{condition}"));
        Query { kind: "distinct", statement, ranked: None, offset: 0 }
    }

    fn set_operation(&mut self) -> Query {
        let mut parts = Vec::new();
        for _ in 0..2 {
            let from = self.from(1);
            let condition = self.where_clause();
            let column = self.column_of_type(super::fixture::Type::Int).unwrap_or_else(|| "1".to_owned());
            parts.push(format!("SELECT {column} AS x{from}{condition}"));
        }
        let operator = self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
        let statement = Statement(format!("{} {operator} {}", parts[0], parts[1]));
        Query { kind: "set operation", statement, ranked: None, offset: 0 }
    }

    fn with_query(&mut self) -> Query {
        let from = self.from(1);
        let condition = self.where_clause();
        let materialized = self.random.pick(&["", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let inner = format!("WITH w AS {materialized}(SELECT *{from}{condition}) ");
        let outer = self.random.pick(&[
            "SELECT count(*) FROM w",
            "SELECT * FROM w",
            "SELECT 1 FROM w, code",
            "SELECT * FROM code WHERE EXISTS (SELECT 1 FROM w)",
            "SELECT a.id FROM acct a WHERE a.id = 5 AND EXISTS (SELECT FROM w)",
        ]);
        Query { kind: "with", statement: Statement(format!("{inner}{outer}")), ranked: None, offset: 0 }
    }

    /// Forms that are mostly refused, or that stand alone.
    fn odd(&mut self) -> Query {
        let from = self.from(1);
        let condition = self.where_clause();
        let alias = self.some_alias();
        let column = self.any_column();
        let text = match self.random.below(20) {
            16 => format!("SELECT (SELECT max({column}::text)){from}{condition}"),
            17 => format!("SELECT 1{from}, (SELECT max(rank) AS m FROM code) s"),
            18 => format!("SELECT (SELECT count(*) FILTER (WHERE {column} IS NULL) FROM code){from}{condition}"),
            19 => format!("SELECT (SELECT count(*) FROM code WHERE {column} IS NOT NULL) AS n{from}{condition}"),
            0 => format!("SELECT row_number() OVER (ORDER BY {column}){from}{condition}"),
            1 => format!("SELECT count(*) OVER (){from}{condition}"),
            2 => format!("SELECT {alias}.ctid IS NULL{from}{condition}"),
            3 => format!("SELECT {alias}.tableoid IS NULL{from}{condition}"),
            4 => format!("SELECT random() < 2{from}{condition}"),
            5 => format!("SELECT * {from}{condition} FOR UPDATE"),
            6 => "TABLE code".to_owned(),
            7 => "TABLE acct".to_owned(),
            8 => "VALUES (1, 'a'), (2, NULL)".to_owned(),
            9 => format!("SELECT * FROM (SELECT *{from}{condition}) s"),
            10 => format!("SELECT generate_series(1, 2){from}{condition}"),
            11 => format!("SELECT x FROM (VALUES (1), (2)) v(x) WHERE x IN (SELECT 1{from}{condition})"),
            12 => format!("SELECT (SELECT count(*){from}{condition}) AS n"),
            13 => format!("SELECT count(*){from}{condition} GROUP BY ROLLUP ({column})"),
            14 => format!("SELECT current_user, {column} IS NULL{from}{condition}"),
            _ => format!("SELECT now() > '2020-01-01', current_date > '2020-01-01'{from}{condition}"),
        };
        Query { kind: "odd", statement: Statement(text), ranked: None, offset: 0 }
    }
}

/// What a sort item means: a bare name is an output column of this name first. A cast has the name of what it casts.
fn meant_by(text: &str, sources: &[(String, String)]) -> String {
    let is_named = |(source, alias): &&(String, String)| match alias.as_str() {
        "" => !text.contains('.') && *source == format!("({text})::text"),
        alias => alias.trim_start_matches(" AS ") == text,
    };
    sources.iter().find(is_named).map_or_else(|| text.to_owned(), |(source, _)| source.clone())
}
