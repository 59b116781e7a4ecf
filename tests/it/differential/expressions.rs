//! Random expressions over the tables of a FROM list.

use super::fixture::{DATES, REGIONS, SLUGS, Table, Type, metric_times, uuid};
use super::literal::{cast, number, string};
use super::random::Random;
use super::schema::OTHERS;

/// What makes statements: the stream of numbers and the tables in sight.
pub(super) struct Maker {
    pub(super) random: Random,
    pub(super) scope: Vec<(String, &'static Table)>,
    /// Columns may stand without their table's name.
    pub(super) is_bare: bool,
    /// Those that every run has, and those of the seed.
    pub(super) tables: Vec<&'static Table>,
}

impl Maker {
    pub(super) fn new(random: Random, tables: Vec<&'static Table>) -> Self {
        Self { random, scope: Vec::new(), is_bare: false, tables }
    }

    pub(super) fn some_alias(&mut self) -> String {
        let idx = self.random.below(self.scope.len());
        self.scope[idx].0.clone()
    }

    fn written(&self, idx: usize, column: &str) -> String {
        if self.is_bare { column.to_owned() } else { format!("{}.{column}", self.scope[idx].0) }
    }

    pub(super) fn any_column(&mut self) -> String {
        let idx = self.random.below(self.scope.len());
        let columns = self.scope[idx].1.columns;
        let column = columns[self.random.below(columns.len())].0;
        self.written(idx, column)
    }

    pub(super) fn column_of_type(&mut self, wanted: Type) -> Option<String> {
        let all: Vec<(usize, &str)> = self
            .scope
            .iter()
            .enumerate()
            .flat_map(|(idx, (_, table))| table.columns.iter().map(move |column| (idx, column)))
            .filter(|(_, (_, column_type))| *column_type == wanted)
            .map(|(idx, (name, _))| (idx, *name))
            .collect();
        if all.is_empty() {
            return None;
        }
        let (idx, name) = all[self.random.below(all.len())];
        Some(self.written(idx, name))
    }

    /// A key column with its type.
    fn key_column(&mut self) -> Option<(String, Type, &'static str)> {
        let keyed: Vec<usize> = (0..self.scope.len()).filter(|idx| self.scope[*idx].1.n_key > 0).collect();
        if keyed.is_empty() {
            return None;
        }
        let idx = keyed[self.random.below(keyed.len())];
        let table = self.scope[idx].1;
        let (name, column_type) = table.columns[self.random.below(table.n_key)];
        Some((self.written(idx, name), column_type, table.name))
    }

    /// A value to compare a column of this type with.
    pub(super) fn value(&mut self, wanted: Type) -> String {
        match wanted {
            Type::Int => match self.random.below(24) {
                0 => string(self.random.between(-3, 12)),
                1 => format!("{}::bigint", number(self.random.between(1, 12))),
                2 => format!("{}::int2", number(self.random.between(1, 12))),
                3 => format!("{}.0", self.random.between(1, 12)),
                4 => format!("{}.5", self.random.between(1, 12)),
                5 => (1_i64 << 40).to_string(),
                6 => "9223372036854775807".to_owned(),
                7 => "99999999999999999999".to_owned(),
                8 => format!("{}.5::int", self.random.between(1, 12)),
                9 => format!("- {}", self.random.between(1, 3)),
                10 => format!("' {} '", self.random.between(1, 12)),
                11 => format!("'{}'::int", self.random.between(1, 12)),
                12 => "NULL".to_owned(),
                13 => format!("({} + 1)", self.random.between(1, 12)),
                14 => format!("CAST({} AS integer)", number(self.random.between(1, 12))),
                15 => format!("{}e0", self.random.between(1, 12)),
                16 => format!("+{}", self.random.between(1, 12)),
                17 => format!("0{}", self.random.between(1, 12)),
                _ => number(self.random.between(-3, 14)),
            },
            Type::Num => self.random.pick(&["1.5", "-2.25", "0", "'NaN'", "99999.125"]).to_owned(),
            Type::Float => self.random.pick(&["1.5", "0", "'Infinity'", "'NaN'", "-2.25"]).to_owned(),
            Type::Text => {
                let text = if self.random.chance(50) { self.random.pick(SLUGS) } else { self.random.pick(REGIONS) };
                match self.random.below(8) {
                    0 => cast('t', text),
                    1 if !text.contains(['\'', '\\']) => format!("E'{text}'"),
                    2 => format!("$q${text}$q$"),
                    3 if !text.contains('\'') => format!("'{text}'::varchar"),
                    4 if !text.contains(['\'', '\\']) => format!("'{text}' COLLATE \"C\""),
                    _ => string(text),
                }
            }
            Type::Date => cast('d', self.random.pick(DATES)),
            Type::Stamp => self.random.pick(&["'2024-02-29 10:00:00.123456'", "timestamp '1999-12-31 23:59:59'"]).to_owned(),
            Type::StampTz => self.time_value(),
            Type::Bool => self.random.pick(&["true", "false", "NULL", "'t'"]).to_owned(),
            Type::Uuid => {
                let value = uuid(self.random.between(1, 18));
                match self.random.below(4) {
                    0 => string(value.to_uppercase()),
                    1 => format!("'{{{value}}}'"),
                    2 => cast('u', value),
                    _ => string(value),
                }
            }
            Type::Bytes => self.random.pick(&["'\\x00ff'", "'\\x'::bytea", "'\\x00'"]).to_owned(),
            Type::Other(idx) => self.other(idx),
        }
    }

    fn time_value(&mut self) -> String {
        let times = metric_times();
        let at = times[self.random.below(times.len())].clone();
        let n = self.random.between(0, 40);
        match self.random.below(9) {
            0 => string(at),
            1 => cast('z', at),
            2 => format!("now() - interval '{n} days'"),
            3 => format!("current_date - {n}"),
            4 => format!("CURRENT_TIMESTAMP - '{n} days'::interval"),
            5 => format!("'{}'", &at[..10]),
            6 => format!("timestamp '{}'", &at[..19]),
            7 => format!("date '{}'", &at[..10]),
            _ => format!("now() - '1 day'::interval * {n}"),
        }
    }

    pub(super) fn any_expression(&mut self, depth: usize) -> String {
        const ALL: &[Type] = &[Type::Int, Type::Int, Type::Text, Type::Num, Type::Float, Type::Date, Type::Bool, Type::StampTz];
        if depth == 0 || self.random.chance(55) {
            return self.any_column();
        }
        let wanted = ALL[self.random.below(ALL.len())];
        self.expression(wanted, depth)
    }

    pub(super) fn expression(&mut self, wanted: Type, depth: usize) -> String {
        if depth == 0 {
            return self.column_of_type(wanted).unwrap_or_else(|| self.constant(wanted));
        }
        let below = depth - 1;
        match (wanted, self.random.below(8)) {
            (Type::Int, 0) => format!("{} + {}", self.expression(Type::Int, below), number(self.random.between(0, 3))),
            (Type::Int, 1) => format!("length({})", self.expression(Type::Text, below)),
            (Type::Int, 2) => format!("coalesce({}, 0)", self.expression(Type::Int, below)),
            (Type::Int, 3) => format!("CASE WHEN {} THEN 1 ELSE 2 END", self.condition(below)),
            (Type::Int, 4) => format!("{} % 3", self.expression(Type::Int, below)),
            (Type::Text, 0) => format!("lower({})", self.expression(Type::Text, below)),
            (Type::Text, 1) => format!("{} || {}", self.expression(Type::Text, below), string("x")),
            (Type::Text, 2) => format!("coalesce({}, '-')", self.expression(Type::Text, below)),
            // COLLATE alone, and a cast alone, would have the name of their column, which ORDER BY then means.
            (Type::Text, 3) => format!("({} || '') COLLATE \"C\"", self.expression(Type::Text, 0)),
            (Type::Text, 4) => format!("({})::text || ''", self.expression(Type::Int, below)),
            (Type::Num, 0) => format!("({})::numeric", self.expression(Type::Int, below)),
            (Type::Num, 1) => format!("round({}, 1)", self.expression(Type::Num, below)),
            // Sums of small ones are exact: those of others depend on the order.
            (Type::Float, 0) => format!("(({}) % 1000)::float8 * 0.5", self.expression(Type::Int, below)),
            (Type::Date, 0) => format!("{} + 3", self.expression(Type::Date, below)),
            (Type::StampTz, 0) => format!("({})::timestamptz", self.expression(Type::Date, below)),
            (Type::Bool, _) => format!("({})", self.condition(below)),
            _ => self.column_of_type(wanted).unwrap_or_else(|| self.constant(wanted)),
        }
    }

    /// A constant whose type shows.
    fn constant(&mut self, wanted: Type) -> String {
        match wanted {
            Type::Int => number(self.random.between(0, 9)),
            Type::Num => "1.50".to_owned(),
            Type::Float => "0.25::float8".to_owned(),
            Type::Text => cast('t', "k"),
            Type::Date => cast('d', "2024-01-01"),
            Type::Stamp => "timestamp '2024-01-01'".to_owned(),
            Type::StampTz => "timestamptz '2024-01-01 00:00+00'".to_owned(),
            Type::Bool => "true".to_owned(),
            Type::Uuid => cast('u', uuid(3)),
            Type::Bytes => "'\\x01'::bytea".to_owned(),
            Type::Other(idx) => self.other(idx),
        }
    }

    fn other(&mut self, idx: usize) -> String {
        let (declaration, values) = OTHERS[idx];
        format!("{}::{declaration}", self.random.pick(values))
    }

    pub(super) fn where_clause(&mut self) -> String {
        if self.random.chance(20) { String::new() } else { format!(" WHERE {}", self.condition(3)) }
    }

    pub(super) fn condition(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.comparison();
        }
        let below = depth - 1;
        match self.random.below(16) {
            0..=2 => format!("{} AND {}", self.condition(below), self.condition(below)),
            3 => format!("({} OR {})", self.condition(below), self.condition(below)),
            4 => format!("NOT ({})", self.condition(below)),
            5 => self.random.pick(&["true", "false", "1 = 0", "NULL", "1 = 1", "NULL::boolean"]).to_owned(),
            6 => self.subquery(),
            7..=12 => self.key_condition(),
            _ => self.comparison(),
        }
    }

    fn comparison(&mut self) -> String {
        const TYPES: &[Type] =
            &[Type::Int, Type::Text, Type::Date, Type::StampTz, Type::Num, Type::Bool, Type::Uuid, Type::Float];
        let others: Vec<Type> = self
            .scope
            .iter()
            .flat_map(|(_, table)| table.columns.iter().map(|(_, kind)| *kind))
            .filter(|kind| matches!(kind, Type::Other(_)))
            .collect();
        let wanted = match others.get(self.random.below(2 * others.len().max(1))) {
            Some(other) => *other,
            None => TYPES[self.random.below(TYPES.len())],
        };
        let Some(column) = self.column_of_type(wanted) else { return self.key_condition() };
        match self.random.below(8) {
            0 => format!("{column} IS NULL"),
            1 => format!("{column} IS NOT NULL"),
            2 => format!("{column} IS DISTINCT FROM {}", self.value(wanted)),
            _ => {
                let operator = self.random.pick(&["=", "<", ">", "<=", ">=", "<>", "!="]);
                format!("{column} {operator} {}", self.value(wanted))
            }
        }
    }

    fn key_condition(&mut self) -> String {
        let Some((column, key_type, _)) = self.key_column() else { return "1 = 1".to_owned() };
        let [a, b, c] = std::array::from_fn(|_| self.value(key_type));
        match self.random.below(32) {
            0..=6 => format!("{column} = {a}"),
            7 => format!("{a} = {column}"),
            8 | 9 => format!("{column} IN ({a}, {b}, {c})"),
            10 => format!("{column} NOT IN ({a}, {b})"),
            11 => format!("({column} = {a} OR {column} = {b})"),
            12 => format!("{column} BETWEEN {a} AND {b}"),
            13 => format!("{column} NOT BETWEEN {a} AND {b}"),
            14 => format!("{column} BETWEEN SYMMETRIC {a} AND {b}"),
            15 => format!("{column} < {a}"),
            16 => format!("{column} >= {a}"),
            17 => format!("{column} > {a} AND {column} <= {b}"),
            18 => format!("{column} IS NOT DISTINCT FROM {a}"),
            19 => format!("{column} IS DISTINCT FROM {a}"),
            20 => format!("({column} = {a}) IS TRUE"),
            21 => format!("({column} = {a}) IS NOT TRUE"),
            22 => format!("NOT {column} <> {a}"),
            23 => format!("CASE WHEN {column} = {a} THEN true ELSE {column} = {b} END"),
            24 => format!("({column}, 1) = ({a}, 1)"),
            25 => format!("({column}, 1) IN (({a}, 1), ({b}, 2))"),
            26 => format!("{column} = ANY (ARRAY[{a}, {b}])"),
            27 => format!("{column} = {a} AND {column} = {b}"),
            28 => format!("coalesce({column} = {a}, true)"),
            29 if key_type == Type::Int => format!("{column} + 0 = {a}"),
            29 if key_type == Type::Text => format!("lower({column}) = {a}"),
            30 => format!("{column} = (SELECT {a})"),
            _ => format!("{column} >= {a}"),
        }
    }

    fn subquery(&mut self) -> String {
        let int = self.column_of_type(Type::Int).unwrap_or_else(|| "1".to_owned());
        let text = self.column_of_type(Type::Text).unwrap_or_else(|| "'us'".to_owned());
        match self.random.below(11) {
            0 => format!("{int} IN (SELECT rank FROM code)"),
            1 => format!("{text} IN (SELECT code FROM code WHERE rank < 3)"),
            2 => format!("{text} NOT IN (SELECT code FROM code)"),
            3 => format!("EXISTS (SELECT 1 FROM code k WHERE k.code = {text})"),
            4 => format!("{int} > (SELECT count(*) FROM code)"),
            5 => format!("{int} >= (SELECT max(rank) - 8 FROM code)"),
            6 => format!("{int} IN (SELECT qty FROM item k)"),
            7 => format!("EXISTS (SELECT 1 FROM item k WHERE k.id = {int})"),
            8 => format!("{int} IN (SELECT k.id FROM acct k WHERE k.id = 5)"),
            9 => format!("{int} NOT IN (SELECT n FROM audit_log)"),
            _ => format!("{text} = ANY (SELECT code FROM code ORDER BY rank LIMIT 1)"),
        }
    }

    fn table(&mut self) -> &'static Table {
        // The first two have most columns, and share a key.
        let idx = if self.random.chance(45) { self.random.below(2) } else { self.random.below(self.tables.len()) };
        self.tables[idx]
    }

    /// A FROM clause of `n` tables; makes them the scope.
    pub(super) fn from(&mut self, n: usize) -> String {
        self.scope.clear();
        self.is_bare = false;
        let first = self.table();
        if n == 1 {
            return match self.random.below(5) {
                0 => {
                    self.scope.push(("a".to_owned(), first));
                    format!(" FROM {} a", first.name)
                }
                1 => {
                    self.scope.push((first.name.to_owned(), first));
                    format!(" FROM public.{}", first.name)
                }
                2 => {
                    self.scope.push((first.name.to_owned(), first));
                    format!(" FROM ONLY {}", first.name)
                }
                _ => {
                    self.scope.push((first.name.to_owned(), first));
                    self.is_bare = true;
                    format!(" FROM {}", first.name)
                }
            };
        }
        self.scope.push(("a".to_owned(), first));
        let mut text = format!(" FROM {} AS a", first.name);
        let n_more = if self.random.chance(25) { 2 } else { 1 };
        for alias in ["b", "c"].into_iter().take(n_more) {
            text.push_str(&self.join(alias));
        }
        text
    }

    fn join(&mut self, alias: &str) -> String {
        let other = match self.random.below(4) {
            0 => self.tables[7],
            1 => self.table(),
            _ => self.tables[self.random.below(2)],
        };
        let source = format!("{} {alias}", other.name);
        let left: Vec<(String, Type)> = self
            .scope
            .iter()
            .flat_map(|(name, table)| table.columns.iter().map(move |(column, kind)| (format!("{name}.{column}"), *kind)))
            .collect();
        let shared: Vec<&str> = other.columns.iter().map(|(name, _)| *name).filter(|name| self.is_once(name)).collect();
        self.scope.push((alias.to_owned(), other));
        let side = self.random.pick(&["JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        // Mostly on the keys.
        let (column, kind) = other.columns[if self.random.chance(75) { 0 } else { self.random.below(other.columns.len()) }];
        let mut alike: Vec<&String> = left.iter().filter(|(_, other)| *other == kind).map(|(name, _)| name).collect();
        if self.random.chance(70) && alike.iter().any(|name| name.ends_with(".id")) {
            alike.retain(|name| name.ends_with(".id"));
        }
        if alike.is_empty() {
            return match self.random.below(3) {
                0 => format!(" CROSS JOIN {source}"),
                1 => format!(" {side} {source} ON true"),
                _ => format!(", {source}"),
            };
        }
        let equal = format!("{} = {alias}.{column}", alike[self.random.below(alike.len())]);
        let on = match self.random.below(6) {
            0 => format!("{equal} AND {}", self.comparison()),
            1 => format!("{} AND {equal}", self.key_condition()),
            2 => format!("({equal} OR {})", self.comparison()),
            _ => equal.clone(),
        };
        match self.random.below(12) {
            0 if !shared.is_empty() => format!(" {side} {source} USING ({})", self.random.pick(&shared)),
            1 => format!(" NATURAL {side} {source}"),
            2 => format!(", LATERAL (SELECT * FROM code k WHERE k.code IS NOT NULL) l0{alias} CROSS JOIN {source}"),
            3 => format!(", {source}"),
            _ => format!(" {side} {source} ON {on}"),
        }
    }

    /// Whether exactly one table of the scope has a column of this name.
    fn is_once(&self, name: &str) -> bool {
        self.scope.iter().filter(|(_, table)| table.columns.iter().any(|(column, _)| *column == name)).count() == 1
    }

    pub(super) fn aggregate(&mut self) -> String {
        const SUMMED: &[Type] = &[Type::Int, Type::Num, Type::Float];
        const ORDERED: &[Type] =
            &[Type::Int, Type::Num, Type::Text, Type::Date, Type::Stamp, Type::StampTz, Type::Float, Type::Bool];
        let summed = SUMMED[self.random.below(SUMMED.len())];
        let ordered = ORDERED[self.random.below(ORDERED.len())];
        let filter = if self.random.chance(15) { format!(" FILTER (WHERE {})", self.comparison()) } else { String::new() };
        let call = match self.random.below(14) {
            0..=2 => "count(*)".to_owned(),
            3 => format!("count({})", self.any_column()),
            4 | 5 => format!("sum({})", self.expression(summed, 1)),
            6 => format!("avg({})", self.expression(summed, 1)),
            7 | 8 => format!("min({})", self.expression(ordered, 1)),
            9 | 10 => format!("max({})", self.expression(ordered, 1)),
            11 => {
                let distinct = self.random.pick(&["count(DISTINCT", "min(DISTINCT", "max(DISTINCT", "sum(ALL"]);
                format!("{distinct} {})", self.expression(Type::Int, 0))
            }
            12 => format!("count({})", self.some_alias()),
            _ => format!("pg_catalog.sum({})", self.expression(Type::Int, 0)),
        };
        format!("{call}{filter}")
    }

    pub(super) fn aggregate_expression(&mut self, keys: &[String]) -> String {
        let aggregate = self.aggregate();
        match self.random.below(9) {
            0 => format!("coalesce(({aggregate})::text, '-')"),
            1 => format!("{aggregate} IS NULL"),
            2 => format!("CASE WHEN count(*) > 2 THEN 'many' ELSE ({aggregate})::text END"),
            3 => format!("count(*) + {}", number(self.random.between(0, 3))),
            4 if !keys.is_empty() => format!("({})::text || count(*)", keys[0]),
            5 => number(self.random.between(0, 3)),
            _ => aggregate,
        }
    }

    /// An expression over one of the keys.
    pub(super) fn over_keys(&mut self, keys: &[String]) -> String {
        let key = keys[self.random.below(keys.len())].clone();
        match self.random.below(6) {
            0 => format!("{key} IS NULL"),
            1 => format!("({key})::text"),
            2 => format!("length(({key})::text) * 2"),
            _ => key,
        }
    }
}
