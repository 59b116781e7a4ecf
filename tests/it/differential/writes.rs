//! Random writes: rows by VALUES and COPY, changes by key and without, in and out of transactions.

use super::expressions::Maker;
use super::fixture::{REGIONS, SLUGS, TABLES, Table, Type, metric_times, uuid};
use super::literal::{Statement, number, string};

/// One step of a session that writes.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Run(Statement),
    /// COPY … FROM STDIN with its data.
    Copy(String, String),
}

impl Maker {
    /// The next step. `is_open`: a transaction block is open.
    pub(super) fn step(&mut self, is_open: bool) -> Step {
        let text = match (self.random.below(100), is_open) {
            (0..=5, false) => "BEGIN".to_owned(),
            (0..=9, true) => self.random.pick(&["COMMIT", "COMMIT", "ROLLBACK", "ROLLBACK", "END", "ABORT"]).to_owned(),
            (10..=13, true) => self.random.pick(&["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]).to_owned(),
            (14..=21, _) => return self.copy(),
            (22..=52, _) => self.insert(),
            (53..=70, _) => self.update(),
            (71..=80, _) => self.delete(),
            (81..=84, _) => format!("{}; {}", self.insert(), self.insert()),
            (85..=86, _) => self.insert_select(),
            (87, _) => self.merge(),
            (88..=90, _) => {
                let update = self.update();
                let update = update.split(" RETURNING").next().unwrap_or_default();
                format!("WITH w AS ({update} RETURNING 1) SELECT count(*) FROM w")
            }
            _ => {
                let table = self.written_table();
                format!("SELECT count(*), count({}) FROM {}", table.columns.last().unwrap().0, table.name)
            }
        };
        Step::Run(Statement(text))
    }

    fn written_table(&mut self) -> &'static Table {
        &TABLES[self.random.below(TABLES.len())]
    }

    /// A value for a column of an INSERT.
    fn stored(&mut self, table: &Table, column_idx: usize) -> String {
        let (name, kind) = table.columns[column_idx];
        let is_key = column_idx < table.n_key.max(1);
        if self.random.chance(if is_key { 2 } else { 12 }) {
            return "NULL".to_owned();
        }
        if self.random.chance(6) {
            return "DEFAULT".to_owned();
        }
        if is_key && self.random.chance(4) {
            return self.value(kind);
        }
        match kind {
            Type::Int if table.name == "tiny" => number(self.random.between(-20, 20)),
            Type::Int if self.random.chance(15) => string(self.random.between(1, 60)),
            Type::Int => number(self.random.between(1, 60)),
            Type::Text if name == "region" => string(self.random.pick(REGIONS)),
            Type::Text if name == "code" => string(self.random.pick(&["us", "uk", "jp", "xx", "yy", "zz"])),
            Type::Text => string(self.random.pick(SLUGS)),
            Type::Uuid => string(uuid(self.random.between(1, 30))),
            Type::StampTz if is_key => {
                let times = metric_times();
                string(&times[self.random.below(times.len())])
            }
            Type::StampTz => string("2024-02-29 10:00:00+00"),
            Type::Num => "1.25".to_owned(),
            Type::Float => "0.5".to_owned(),
            Type::Date => "'2024-01-01'".to_owned(),
            Type::Stamp => "'2024-01-01 10:00'".to_owned(),
            Type::Bool => self.random.pick(&["true", "false"]).to_owned(),
            Type::Bytes | Type::Other(_) => "'\\x00'".to_owned(),
        }
    }

    fn insert(&mut self) -> String {
        let table = self.written_table();
        // Some columns, the key's mostly among them, in some order.
        let mut columns: Vec<usize> = (0..table.columns.len()).collect();
        let is_listed = self.random.chance(60);
        if is_listed {
            let n_required = if table.n_key == 0 { 1 } else { table.n_key + 1 }.min(columns.len());
            let keep = n_required + self.random.below(columns.len() - n_required + 1);
            columns.truncate(keep);
            if self.random.chance(4) {
                columns.remove(0);
            }
            let turn = self.random.below(columns.len().max(1));
            columns.rotate_left(turn);
        }
        let names: Vec<&str> = columns.iter().map(|idx| table.columns[*idx].0).collect();
        let n_rows = if self.random.chance(50) { 1 } else { self.random.between(2, 6) };
        let rows: Vec<String> = (0..n_rows)
            .map(|_| {
                let values: Vec<String> = columns.iter().map(|idx| self.stored(table, *idx)).collect();
                format!("({})", values.join(", "))
            })
            .collect();
        let list = if is_listed { format!(" ({})", names.join(", ")) } else { String::new() };
        let alias = if self.random.chance(10) { " AS g" } else { "" };
        let mut text = format!("INSERT INTO {}{alias}{list} VALUES {}", table.name, rows.join(", "));
        if columns.is_empty() {
            text = format!("INSERT INTO {} DEFAULT VALUES", table.name);
        }
        text.push_str(&self.on_conflict(table));
        text.push_str(&self.returning(table));
        text
    }

    fn on_conflict(&mut self, table: &Table) -> String {
        let last = table.columns.last().unwrap().0;
        let target: Vec<&str> = match table.name {
            "item" | "region" | "metric" | "tiny" => table.columns[..2].iter().map(|(name, _)| *name).collect(),
            "event" => table.columns[..3].iter().map(|(name, _)| *name).collect(),
            _ => vec![table.columns[0].0],
        };
        let target = target.join(", ");
        match self.random.below(9) {
            0 | 1 => " ON CONFLICT DO NOTHING".to_owned(),
            2 => format!(" ON CONFLICT ({target}) DO NOTHING"),
            3 | 4 if table.name != "tiny" => format!(" ON CONFLICT ({target}) DO UPDATE SET {last} = excluded.{last}"),
            5 => format!(" ON CONFLICT ({target}) DO UPDATE SET {0} = excluded.{0}", table.columns[0].0),
            6 if self.random.chance(30) => format!(" ON CONFLICT ({target}) DO UPDATE SET {} = DEFAULT", table.columns[0].0),
            _ => String::new(),
        }
    }

    fn returning(&mut self, table: &Table) -> String {
        match self.random.below(8) {
            // Its default is the time, which no two servers share.
            _ if table.name == "metric" => String::new(),
            0 => " RETURNING *".to_owned(),
            1 => format!(" RETURNING {} AS x, 1", table.columns[0].0),
            _ => String::new(),
        }
    }

    /// Makes a table the only one in sight, and says what a WHERE over it is.
    fn written_where(&mut self, table: &'static Table) -> String {
        self.scope = vec![(table.name.to_owned(), table)];
        self.is_bare = true;
        match self.random.below(12) {
            0 => String::new(),
            1 | 2 => self.where_clause(),
            _ => {
                let (column, kind) = table.columns[0];
                let mut text = format!(" WHERE {column} = {}", self.value(kind));
                if self.random.chance(30) {
                    text.push_str(&format!(" AND {}", self.condition(1)));
                }
                if table.name == "event" && self.random.chance(70) {
                    text.push_str(&format!(" AND uid = {}", number(self.random.between(1, 12))));
                }
                text
            }
        }
    }

    fn update(&mut self) -> String {
        let table = self.written_table();
        let condition = self.written_where(table);
        let column_idx = if self.random.chance(5) { 0 } else { self.random.below(table.columns.len() - 1) + 1 };
        let value = self.stored(table, column_idx);
        let from = if self.random.chance(10) { " FROM code k" } else { "" };
        let join = match (from.is_empty(), condition.is_empty()) {
            (true, _) => String::new(),
            (_, true) => " WHERE k.code = 'us'".to_owned(),
            _ => " AND k.code = 'us'".to_owned(),
        };
        format!(
            "UPDATE {} SET {} = {value}{from}{condition}{join}{}",
            table.name,
            table.columns[column_idx].0,
            self.returning(table).replace("RETURNING *", if from.is_empty() { "RETURNING *" } else { "RETURNING 1" })
        )
    }

    fn delete(&mut self) -> String {
        let table = self.written_table();
        let mut condition = self.written_where(table);
        if table.n_key == 0 && (condition.is_empty() || self.random.chance(50)) {
            condition = format!(" WHERE {} = {}", table.columns[0].0, self.stored(table, 0).replace("DEFAULT", "NULL"));
        }
        format!("DELETE FROM {}{condition}{}", table.name, self.returning(table))
    }

    fn insert_select(&mut self) -> String {
        let id = self.random.between(1, 60);
        match self.random.below(7) {
            0 => format!("INSERT INTO doc (slug, n) SELECT label, rank FROM code WHERE rank = {}", number(id % 4)),
            1 => format!("INSERT INTO item (id, item) SELECT id, 90 + item FROM item WHERE id = {}", number(id)),
            2 => format!(
                "INSERT INTO item (id, item) SELECT {}, n FROM generate_series(50, 52) n ON CONFLICT DO NOTHING",
                number(id)
            ),
            3 => "INSERT INTO code SELECT code || 'q', label, rank FROM code WHERE rank = 9 ON CONFLICT DO NOTHING".to_owned(),
            4 => "INSERT INTO item (id, item) SELECT id, 99 FROM acct ON CONFLICT DO NOTHING".to_owned(),
            5 => format!("INSERT INTO acct (id, grp) SELECT * FROM (VALUES ({}, 1)) v", number(id)),
            _ => format!("INSERT INTO audit_log SELECT {}, label FROM code LIMIT 1", number(100 + id)),
        }
    }

    fn merge(&mut self) -> String {
        let id = self.random.between(1, 60);
        format!(
            "MERGE INTO item i USING (SELECT {id}::bigint AS id) s ON i.id = s.id AND i.id = {id} \
             WHEN MATCHED THEN UPDATE SET note = 'merged' WHEN NOT MATCHED THEN INSERT (id, item) VALUES ({id}, 1)"
        )
    }

    fn copy(&mut self) -> Step {
        let table = self.written_table();
        let n_columns = table.columns.len();
        let is_csv = self.random.chance(50);
        let is_listed = self.random.chance(50);
        let mut columns: Vec<usize> = (0..n_columns).collect();
        if is_listed {
            let turn = self.random.below(n_columns);
            columns.rotate_left(turn);
        }
        let names: Vec<&str> = columns.iter().map(|idx| table.columns[*idx].0).collect();
        let has_header = is_csv && self.random.chance(30);
        let delimiter = if self.random.chance(30) { "|" } else { [",", "\t"][usize::from(!is_csv)] };
        let mut data = if has_header { names.join(delimiter) + "\n" } else { String::new() };
        for _ in 0..self.random.below(8) {
            let fields: Vec<String> = columns.iter().map(|idx| self.copied(table, *idx, is_csv, delimiter)).collect();
            data.push_str(&fields.join(delimiter));
            data.push_str(if is_csv && self.random.chance(10) { "\r\n" } else { "\n" });
        }
        if data.contains("\r\n") {
            data = data.replace("\r\n", "\n").replace('\n', "\r\n");
        }
        if !is_csv && self.random.chance(20) {
            data.push_str("\\.\n");
        }
        let mut options = vec![format!("DELIMITER '{delimiter}'")];
        if is_csv {
            options.push("FORMAT csv".to_owned());
        }
        if has_header {
            options.push("HEADER".to_owned());
        }
        let list = if is_listed { format!(" ({})", names.join(", ")) } else { String::new() };
        Step::Copy(format!("COPY {}{list} FROM STDIN WITH ({})", table.name, options.join(", ")), data)
    }

    fn copied(&mut self, table: &Table, column_idx: usize, is_csv: bool, delimiter: &str) -> String {
        let marked = self.stored(table, column_idx);
        let Some(value) = marked.strip_prefix('\u{1}').and_then(|rest| rest.strip_suffix('\u{2}')).map(|rest| &rest[1..]) else {
            let null = if is_csv { "" } else { "\\N" };
            return match marked.trim_matches('\'') {
                "NULL" | "DEFAULT" => null.to_owned(),
                text if text.starts_with('\\') => {
                    if is_csv {
                        text.to_owned()
                    } else {
                        format!("\\{text}")
                    }
                }
                text if text.contains([' ', '$', ':', '(']) => null.to_owned(),
                text => text.to_owned(),
            };
        };
        match is_csv {
            true if value.is_empty() || value.contains(['"', ',', ' ']) || self.random.chance(20) => {
                format!("\"{}\"", value.replace('"', "\"\""))
            }
            true => value.to_owned(),
            false => value.replace('\\', "\\\\").replace(delimiter, &format!("\\{delimiter}")),
        }
    }
}
