//! The answer to EXPLAIN of a statement on several shards: the column QUERY PLAN, in the style of src/backend/commands/explain.c.

use std::time::Duration;

use super::formats::{self, Properties, Value};
use super::outline::Outline;
use crate::sql::ExplainFormat;

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

    /// The one value of another format; `None` for one that there is not. A shard's own plan is in it as the shard has sent it.
    pub fn value(&self, format: &ExplainFormat) -> Option<String> {
        match format {
            ExplainFormat::Json => Some(formats::json(&self.properties())),
            ExplainFormat::Yaml => Some(formats::yaml(&self.properties())),
            ExplainFormat::Xml => Some(formats::xml(&self.properties())),
            ExplainFormat::Text | ExplainFormat::Other => None,
        }
    }

    fn properties(&self) -> Properties {
        let mut properties = vec![text("Node Type", capital(self.outline.rung))];
        properties.push(("Shards".to_owned(), Value::Names(self.shard_names.clone())));
        properties.extend(self.notes().map(|(name, value)| (name, Value::Text(value))));
        properties.extend(measured(self.total));
        if let Some((engine, figures)) = &self.engine {
            let of_engine = std::iter::once(text("Shard Name", engine)).chain(measured(Some(*figures)));
            properties.push(("Engine".to_owned(), Value::Group(of_engine.collect())));
        }
        let shards = self.shards.iter().map(ShardReport::properties).collect();
        properties.push(("Plans".to_owned(), Value::Groups("Plan", shards)));
        properties
    }

    fn notes(&self) -> impl Iterator<Item = (String, String)> {
        let outline = &self.outline;
        let notes = outline.notes.iter().map(|(name, value)| (capital(name), value.clone()));
        let on_engine = outline.on_engine.iter().map(|table| ("Read on the Engine".to_owned(), table.clone()));
        notes.chain(on_engine).chain(outline.finish.iter().map(|sql| ("Final Query".to_owned(), sql.clone())))
    }
}

impl ShardReport {
    fn properties(&self) -> Properties {
        let mut properties = vec![text("Node Type", "Shard"), text("Shard Name", &self.shard)];
        properties.extend(self.table.iter().map(|table| text("Relation Name", table)));
        properties.push(text("Query", &self.query));
        properties.extend(measured(self.figures));
        properties.push(("Explain".to_owned(), Value::Written(self.plan.join("\n"))));
        properties
    }
}

fn text(name: &str, value: impl Into<String>) -> (String, Value) {
    (name.to_owned(), Value::Text(value.into()))
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

fn measured(figures: Option<Figures>) -> Properties {
    let Some(Figures { n_rows, n_bytes, time }) = figures else { return Vec::new() };
    let number = |name: &str, value: String| (name.to_owned(), Value::Number(value));
    let time = time.map(|time| number("Actual Total Time", milliseconds(time)));
    let counts = [number("Actual Rows", n_rows.to_string()), number("Actual Bytes", n_bytes.to_string())];
    time.into_iter().chain(counts).collect()
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
        let json = report.value(&ExplainFormat::Json).unwrap();
        assert!(json.contains("\"Query\": \"SELECT \\\"a\\\"\""), "{json}");
    }
}
