//! Names of output columns, as Postgres gives them (FigureColname of src/backend/parser/parse_target.c).

use sqlparser::ast::{DataType, Expr, SelectItem, Value};

use super::collect::Collected;
use super::names::{folded, last_part};
use super::scope::Item;
use super::select::Plain;

/// The name of a select item's column; `None` for `*`.
pub(super) fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(expr) => Some(expression_name(expr)),
        _ => None,
    }
}

/// The name that Postgres gives an expression without an alias.
pub(super) fn expression_name(expr: &Expr) -> String {
    figured(expr).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

/// A name and whether it is a strong one: a cast's type names a column only where nothing better is found.
fn figured(expr: &Expr) -> Option<(String, bool)> {
    let strong = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(ident) => Some((folded(ident), true)),
        Expr::CompoundIdentifier(idents) => idents.last().map(|ident| (folded(ident), true)),
        Expr::Nested(inner) => figured(inner),
        Expr::Collate { expr, .. } => figured(expr),
        Expr::CompoundFieldAccess { root, .. } => figured(root),
        Expr::Function(function) => Some((last_part(&function.name), true)),
        Expr::Cast { expr, data_type, .. } => match figured(expr) {
            Some((name, true)) => Some((name, true)),
            _ => Some((type_name(data_type), false)),
        },
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), false)),
        Expr::Interval(_) => Some(("interval".to_owned(), false)),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figured) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".to_owned(), false)),
        },
        Expr::Extract { .. } => strong("extract"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(sqlparser::ast::TrimWhereField::Leading) => "ltrim",
            Some(sqlparser::ast::TrimWhereField::Trailing) => "rtrim",
            Some(sqlparser::ast::TrimWhereField::Both) | None => "btrim",
        }),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Exists { .. } => strong("exists"),
        Expr::Value(value) if matches!(value.value, Value::Boolean(_)) => Some(("bool".to_owned(), false)),
        _ => None,
    }
}

/// The internal name of a type: what FigureColname sees in the parse tree.
fn type_name(data_type: &DataType) -> String {
    let text = data_type.to_string().to_ascii_lowercase();
    let word: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == ' ').collect();
    match word.trim() {
        "int" | "integer" => "int4",
        "smallint" => "int2",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" | "float" | "double" => "float8",
        "boolean" => "bool",
        "character varying" => "varchar",
        "character" | "char" => "bpchar",
        "decimal" | "dec" => "numeric",
        "timestamp with time zone" => "timestamptz",
        "timestamp without time zone" => "timestamp",
        "time with time zone" => "timetz",
        "time without time zone" => "time",
        other => other,
    }
    .to_owned()
}

/// Where one output column of a plain SELECT comes from.
#[derive(Debug, Clone)]
pub(super) enum OutputSource {
    /// The select item with this index.
    Item(usize),
    /// A column that `*` stands for: FROM item, column name.
    Star { item_idx: usize, column: String },
}

/// The output columns, with `*` replaced by what the snapshot knows; `None` where that is not known.
pub(super) fn output_columns(plain: &Plain<'_>, collected: &Collected) -> Option<Vec<OutputSource>> {
    let mut columns = Vec::new();
    for (idx, item) in plain.select.projection.iter().enumerate() {
        match item {
            SelectItem::Wildcard(_) => {
                let scope = collected.top.as_ref().filter(|scope| scope.usings.is_empty())?;
                for item_idx in 0..scope.items.len() {
                    columns.extend(star(&scope.items, item_idx)?);
                }
            }
            SelectItem::QualifiedWildcard(sqlparser::ast::SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let alias = last_part(name);
                let scope = collected.top.as_ref()?;
                let item_idx = scope.items.iter().position(|item| item.alias == alias)?;
                columns.extend(star(&scope.items, item_idx)?);
            }
            _ => columns.push(OutputSource::Item(idx)),
        }
    }
    Some(columns)
}

fn star(items: &[Item], item_idx: usize) -> Option<Vec<OutputSource>> {
    let relation = items[item_idx].relation.as_ref()?;
    let column = |name: &String| OutputSource::Star { item_idx, column: name.clone() };
    Some(relation.columns.iter().map(|of| column(&of.name)).collect())
}
