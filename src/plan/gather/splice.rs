//! The statement with places for its tables: made by splicing, and only where every name's place is sure.

use std::collections::{BTreeMap, HashSet};
use std::ops::{ControlFlow, Range};

use sqlparser::ast::{
    ArrayElemTypeDef, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinConstraint, ObjectName,
    ObjectNamePart, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, TableAlias, TableFactor, TableWithJoins, Visit,
    Visitor,
};

use super::needs::identifier;
use crate::plan::collect::{Collected, address};
use crate::plan::contract::GatherPiece;
use crate::plan::names::{Target, folded_parts};
use crate::plan::refusal::{Refusal, RefusalCode};
use crate::plan::scope::constraint;
use crate::plan::select::Many;
use crate::plan::text::{Edits, Positions, quoted};
use crate::sql::{Token, TokenKind};

/// A table's name in the text.
#[derive(Debug)]
pub(in crate::plan) struct Place {
    pub(in crate::plan) ref_idx: usize,
    pub(super) is_only: bool,
    /// Token indexes, those of ONLY included.
    first: usize,
    last: usize,
    /// What must be said as the alias of what stands there instead.
    pub(in crate::plan) alias: Option<String>,
}

impl Place {
    /// The bytes of the name.
    pub(in crate::plan) fn range(&self, tokens: &[Token]) -> Range<usize> {
        tokens[self.first].start..tokens[self.last].end
    }
}

/// Finds the tables' names.
///
/// # Errors
/// `Clause`: the text cannot be rewritten with certainty.
pub(in crate::plan) fn places(many: &Many<'_>, collected: &Collected) -> Result<Vec<Place>, Refusal> {
    let positions = Positions::of(many.sql());
    let mut walk = Walk { many, collected, positions, places: Vec::new(), known: HashSet::new(), unsure: None };
    let flow = many.parsed.statement.visit(&mut walk);
    debug_assert!(flow.is_continue());
    if let Some(refusal) = walk.unsure.take() {
        return Err(refusal);
    }
    let Walk { mut places, mut known, .. } = walk;
    known.extend(many.parsed.unsaid.iter().filter_map(|start| many.tokens.binary_search_by_key(start, |token| token.start).ok()));
    places.sort_unstable_by_key(|place| place.first);
    places.dedup_by_key(|place| place.first);
    check_strays(many, &known)?;
    Ok(places)
}

/// The statement in pieces, times of the transaction put in.
pub(super) fn finish(
    many: &Many<'_>,
    places: &[Place],
    times: &Edits,
    input_of_ref: &BTreeMap<usize, usize>,
) -> Vec<GatherPiece> {
    let (sql, tokens) = (many.sql(), &many.tokens);
    let mut pieces = Vec::with_capacity(2 * places.len() + 1);
    let mut position = 0;
    for place in places {
        let Some(input_idx) = input_of_ref.get(&place.ref_idx) else { continue };
        let (start, end) = (tokens[place.first].start, tokens[place.last].end);
        pieces.push(GatherPiece::Text(times.apply(sql, position..start)));
        let written = sql.get(start..end).unwrap_or_default().to_owned();
        pieces.push(GatherPiece::Table { input_idx: *input_idx, written, alias: place.alias.clone() });
        position = end;
    }
    let end = tokens.last().map_or(sql.len(), |token| token.end);
    pieces.push(GatherPiece::Text(times.apply(sql, position..end)));
    pieces
}

struct Walk<'a> {
    many: &'a Many<'a>,
    collected: &'a Collected,
    positions: Positions,
    places: Vec<Place>,
    /// Tokens that the syntax tree explains: names of tables, columns and aliases.
    known: HashSet<usize>,
    unsure: Option<Refusal>,
}

impl Walk<'_> {
    fn refuse(&mut self, what: &str) {
        self.unsure.get_or_insert_with(|| Refusal::new(RefusalCode::Clause, format!("{what} across shards is not supported")));
    }

    /// The token at which an identifier stands.
    fn token_of(&self, ident: &Ident) -> Option<usize> {
        let start = self.positions.start(self.many.sql(), ident.span)?;
        self.many.tokens.binary_search_by_key(&start, |token| token.start).ok()
    }

    fn note(&mut self, ident: &Ident) {
        if let Some(token_idx) = self.token_of(ident) {
            self.known.insert(token_idx);
        }
    }

    fn note_all(&mut self, name: &ObjectName) {
        for part in &name.0 {
            if let ObjectNamePart::Identifier(ident) = part {
                self.note(ident);
            }
        }
    }

    fn alias(&mut self, alias: Option<&TableAlias>) {
        let Some(alias) = alias else { return };
        self.note(&alias.name);
        alias.columns.iter().for_each(|column| self.note(&column.name));
    }

    /// Notes a table's name, with what it is called in the statement when it has no alias.
    fn table(&mut self, name: &ObjectName, alias: Option<&TableAlias>) {
        let Some(&ref_idx) = self.collected.ref_by_address.get(&address(name)) else { return };
        let parts = folded_parts(name);
        let first = match name.0.first() {
            Some(ObjectNamePart::Identifier(ident)) => self.token_of(ident),
            _ => None,
        };
        let last = first.map(|first| first + 2 * (parts.len() - 1));
        let (Some(first), Some(last)) = (first, last) else {
            return self.refuse("a table's name of this form");
        };
        let (sql, tokens) = (self.many.sql(), &self.many.tokens);
        let is_there = (first..=last)
            .step_by(2)
            .zip(&parts)
            .all(|(token_idx, part)| tokens.get(token_idx).and_then(|token| identifier(sql, *token)).as_ref() == Some(part));
        if !is_there {
            return self.refuse("a table's name of this form");
        }
        let is_word = |idx: Option<usize>, word: &str| {
            idx.and_then(|idx| tokens.get(idx)).is_some_and(|token| token.is_word(sql.as_bytes(), word))
        };
        let is_only = is_word(first.checked_sub(1), "only");
        if is_word(first.checked_sub(2), "only") && !is_only {
            return self.refuse("ONLY (…)");
        }
        self.known.extend((first..=last).step_by(2));
        // The star says that the tables which inherit are meant too, as they are without it.
        let last = last + usize::from(tokens.get(last + 1).is_some_and(|token| sql.get(token.start..token.end) == Some("*")));
        if self.collected.refs[ref_idx].target != Target::Cte {
            let called = parts.last().map(|name| quoted(name));
            let first = first - usize::from(is_only);
            self.places.push(Place { ref_idx, is_only, first, last, alias: called.filter(|_| alias.is_none()) });
        }
    }

    fn column(&mut self, idents: &[Ident]) {
        if idents.len() > 2 {
            return self.refuse("a column's name with its schema");
        }
        idents.iter().for_each(|ident| self.note(ident));
    }

    /// Notes the columns of USING.
    fn joins(&mut self, table: &TableWithJoins) {
        for join in &table.joins {
            if let Some(JoinConstraint::Using(columns)) = constraint(&join.join_operator) {
                columns.iter().for_each(|column| self.note_all(column));
            }
        }
    }

    /// The type of a table's rows has the table's name, and stays what it is.
    fn type_name(&mut self, data_type: &DataType) {
        match data_type {
            DataType::Custom(name, _) => self.note_all(name),
            DataType::Array(ArrayElemTypeDef::SquareBracket(element, _)) => self.type_name(element),
            _ => {}
        }
    }

    fn wildcard(&mut self, name: &ObjectName) {
        match name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => self.note(ident),
            _ => self.refuse("* after a table's name with its schema"),
        }
    }
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.alias(Some(&cte.alias));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        select.from.iter().for_each(|table| self.joins(table));
        for item in &select.projection {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => self.note(alias),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => self.wildcard(name),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                self.refuse("TABLESAMPLE")
            }
            TableFactor::Table { name, alias, args: None, .. } => {
                self.table(name, alias.as_ref());
                self.alias(alias.as_ref());
            }
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. } => self.alias(alias.as_ref()),
            TableFactor::XmlTable { columns, alias, .. } => {
                columns.iter().for_each(|column| self.note(&column.name));
                self.alias(alias.as_ref());
            }
            TableFactor::NestedJoin { alias, table_with_joins } => {
                self.joins(table_with_joins);
                self.alias(alias.as_ref());
            }
            _ => self.refuse("this form of FROM"),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.column(std::slice::from_ref(ident)),
            Expr::CompoundIdentifier(idents) => self.column(idents),
            Expr::QualifiedWildcard(name, _) => self.wildcard(name),
            Expr::Cast { data_type, .. } => self.type_name(data_type),
            Expr::Function(function) => {
                let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
                for arg in &list.args {
                    if let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = arg {
                        self.wildcard(name);
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Refuses a word that could be the name of a table whose rows are elsewhere, and that the syntax tree does not explain: read
/// under its own name on the engine, the table would be a part of itself.
fn check_strays(many: &Many<'_>, known: &HashSet<usize>) -> Result<(), Refusal> {
    let (sql, tokens) = (many.sql(), &many.tokens);
    let is_table = |name: &str| {
        let context = many.context;
        context.topology.tables.keys().chain(context.schema.relations.keys()).any(|table| table.name == name)
            || context.settings.temporaries.contains(name)
    };
    let is_at =
        |idx: Option<usize>, test: &dyn Fn(Token) -> bool| idx.and_then(|idx| tokens.get(idx)).is_some_and(|token| test(*token));
    for (token_idx, token) in tokens.iter().enumerate() {
        if known.contains(&token_idx) {
            continue;
        }
        let Some(name) = identifier(sql, *token) else {
            // Written with escapes, it could be any name.
            if token.kind == TokenKind::QuotedIdentifier {
                return Err(Refusal::new(RefusalCode::Clause, "U&\"…\" across shards is not supported"));
            }
            continue;
        };
        let before = token_idx.checked_sub(1);
        let is_alias = is_at(before, &|token| token.is_word(sql.as_bytes(), "as"));
        let is_call = is_at(Some(token_idx + 1), &|token| token.is_punctuation(b'('));
        if is_table(&name) && !is_alias && !is_call {
            let message =
                format!("the word \"{name}\", which is also a table's name, in this place across shards is not supported");
            let position = sql.get(..token.start).map(|before| before.chars().count() + 1);
            return Err(Refusal::new(RefusalCode::Clause, message).with_position(position));
        }
    }
    Ok(())
}
