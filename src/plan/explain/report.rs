//! The answer to EXPLAIN of a statement on several shards: the column QUERY PLAN, in the style of src/backend/commands/explain.c.

use std::time::Duration;

use super::outline::Outline;

/// What was measured of rows on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub n_rows: u64,
    /// Bytes of the rows' messages.
    pub n_bytes: u64,
    /// From the request to the last row; `None` without TIMING.
    pub time: Option<Duration>,
}

/// What one shard was asked, and what it said.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardReport {
    pub shard: String,
    pub table: Option<String>,
    pub query: String,
    /// The shard's own answer to EXPLAIN, a line each.
    pub plan: Vec<String>,
    pub figures: Option<Figures>,
}

/// Everything that EXPLAIN tells.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainReport {
    pub outline: Outline,
    /// Of all shards of the outline.
    pub shard_names: Vec<String>,
    pub shards: Vec<ShardReport>,
    /// The engine that has run the final statement, and its part.
    pub engine: Option<(String, Figures)>,
    /// Of the whole answer.
    pub total: Option<Figures>,
}

impl ExplainReport {
    /// The lines of FORMAT TEXT.
    pub fn text(&self) -> Vec<String> {
        let names = self.shard_names.join(", ");
        let mut lines = vec![format!("{}  (shards: {names}){}", capital(self.outline.rung), actual(self.total))];
        lines.extend(self.notes().map(|(name, value)| format!("  {name}: {value}")));
        if let Some((engine, figures)) = &self.engine {
            lines.push(format!("  Engine: {engine}{}", actual(Some(*figures))));
        }
        for shard in &self.shards {
            let table = shard.table.as_ref().map(|table| format!("{table} on ")).unwrap_or_default();
            lines.push(format!("  ->  {table}{}{}", shard.shard, actual(shard.figures)));
            lines.push(format!("        Query: {}", shard.query));
            for (idx, line) in shard.plan.iter().enumerate() {
                lines.push(if idx == 0 { format!("        ->  {line}") } else { format!("            {line}") });
            }
        }
        lines
    }

    /// The one value of FORMAT JSON. A shard's own plan is in it as the shard has sent it.
    pub fn json(&self) -> String {
        let mut fields = vec![("Node Type", quoted(&capital(self.outline.rung)))];
        let names: Vec<String> = self.shard_names.iter().map(|name| quoted(name)).collect();
        fields.push(("Shards", format!("[{}]", names.join(", "))));
        let notes: Vec<(String, String)> = self.notes().collect();
        fields.extend(notes.iter().map(|(name, value)| (name.as_str(), quoted(value))));
        fields.extend(json_figures(self.total));
        if let Some((engine, figures)) = &self.engine {
            let mut of_engine = vec![("Shard Name", quoted(engine))];
            of_engine.extend(json_figures(Some(*figures)));
            fields.push(("Engine", object(&of_engine, 6)));
        }
        let shards: Vec<String> = self.shards.iter().map(|shard| format!("        {}", shard.json())).collect();
        fields.push(("Plans", format!("[\n{}\n      ]", shards.join(",\n"))));
        format!("[\n  {{\n    \"Plan\": {}\n  }}\n]", object(&fields, 4))
    }

    fn notes(&self) -> impl Iterator<Item = (String, String)> {
        let outline = &self.outline;
        let notes = outline.notes.iter().map(|(name, value)| (capital(name), value.clone()));
        let on_engine = outline.on_engine.iter().map(|table| ("Read on the Engine".to_owned(), table.clone()));
        notes.chain(on_engine).chain(outline.finish.iter().map(|sql| ("Final Query".to_owned(), sql.clone())))
    }
}

impl ShardReport {
    fn json(&self) -> String {
        let mut fields = vec![("Node Type", quoted("Shard")), ("Shard Name", quoted(&self.shard))];
        fields.extend(self.table.iter().map(|table| ("Relation Name", quoted(table))));
        fields.push(("Query", quoted(&self.query)));
        fields.extend(json_figures(self.figures));
        fields.push(("Explain", self.plan.join("\n")));
        object(&fields, 8)
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}

fn actual(figures: Option<Figures>) -> String {
    let Some(Figures { n_rows, n_bytes, time }) = figures else { return String::new() };
    let time = time.map(|time| format!("time={} ", milliseconds(time))).unwrap_or_default();
    format!(" (actual {time}rows={n_rows} bytes={n_bytes})")
}

fn json_figures(figures: Option<Figures>) -> Vec<(&'static str, String)> {
    let Some(Figures { n_rows, n_bytes, time }) = figures else { return Vec::new() };
    let mut fields: Vec<_> = time.map(|time| ("Actual Total Time", milliseconds(time))).into_iter().collect();
    fields.extend([("Actual Rows", n_rows.to_string()), ("Actual Bytes", n_bytes.to_string())]);
    fields
}

fn object(fields: &[(&str, String)], n_indent: usize) -> String {
    let indent = " ".repeat(n_indent);
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("{indent}  {}: {value}", quoted(name))).collect();
    format!("{{\n{}\n{indent}}}", lines.join(",\n"))
}

/// A JSON string: src/backend/utils/adt/json.c, `escape_json`.
fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            c if u32::from(c) < 0x20 => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ShardSet;

    #[test]
    fn plans_of_shards_stand_below_theirs() {
        let outline = Outline {
            rung: "merge",
            shards: ShardSet::EMPTY,
            parts: Vec::new(),
            notes: vec![("limit", "2".to_owned())],
            finish: None,
            on_engine: Vec::new(),
        };
        let figures = Figures { n_rows: 3, n_bytes: 40, time: Some(Duration::from_micros(1500)) };
        let shard = ShardReport {
            shard: "eu".to_owned(),
            table: None,
            query: "SELECT \"a\"".to_owned(),
            plan: vec!["Limit".to_owned(), "  ->  Seq Scan on t".to_owned()],
            figures: Some(Figures { time: None, ..figures }),
        };
        let report = ExplainReport {
            outline,
            shard_names: vec!["eu".to_owned(), "us".to_owned()],
            shards: vec![shard],
            engine: None,
            total: Some(figures),
        };
        let expected = [
            "Merge  (shards: eu, us) (actual time=1.500 rows=3 bytes=40)",
            "  Limit: 2",
            "  ->  eu (actual rows=3 bytes=40)",
            "        Query: SELECT \"a\"",
            "        ->  Limit",
            "              ->  Seq Scan on t",
        ];
        assert_eq!(report.text(), expected);
        assert!(report.json().contains("\"Query\": \"SELECT \\\"a\\\"\""), "{}", report.json());
    }
}
