//! Which columns a statement can name at all.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, JoinConstraint, Select, SelectItem, SelectItemQualifiedWildcardKind,
    TableAlias, TableFactor, TableWithJoins, Visit, Visitor,
};

use crate::plan::Context;
use crate::plan::collect::{Collected, address};
use crate::plan::names::{Target, folded, folded_parts, table_name};
use crate::plan::scope::constraint;
use crate::plan::select::Many;
use crate::sql::{Token, TokenKind, fold_identifier};
use crate::topology::TableName;

/// What a statement's words and syntax tell of the columns that it reads.
#[derive(Debug, Default)]
pub(in crate::plan) struct Needs {
    /// Every identifier and keyword of the text, folded: a column that is not among them cannot be meant by its name.
    words: BTreeSet<String>,
    /// Tables of which every column is needed.
    whole: HashSet<TableName>,
    /// Every column of every table is needed.
    is_everything: bool,
    whole_rows: WholeRows,
}

/// How the statement names rows as a whole.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WholeRows {
    #[default]
    None,
    /// As what `.*` in a select list stands for.
    Listed,
    /// As values.
    Values,
}

impl Needs {
    pub(in crate::plan) fn all_of(&self, table: &TableName) -> bool {
        self.is_everything || self.whole.contains(table)
    }

    pub(in crate::plan) fn names(&self, column: &str) -> bool {
        self.words.contains(column)
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    pub(super) fn has_whole_rows(&self) -> bool {
        self.whole_rows > WholeRows::None
    }

    pub(super) fn has_row_values(&self) -> bool {
        self.whole_rows == WholeRows::Values
    }
}

/// The identifier that a token is, folded; `None` for what is no identifier or is written with escapes.
pub(in crate::plan) fn identifier(sql: &str, token: Token) -> Option<String> {
    let text = sql.get(token.start..token.end)?;
    match token.kind {
        TokenKind::Word => Some(fold_identifier(text).into_owned()),
        TokenKind::QuotedIdentifier => Some(text.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\"")),
        _ => None,
    }
}

/// What the statement needs of its tables.
pub(in crate::plan) fn of(many: &Many<'_>, collected: &Collected) -> Needs {
    let mut needs = Needs::default();
    let sql = many.sql();
    for token in &many.tokens {
        match (identifier(sql, *token), token.kind) {
            (Some(word), _) => drop(needs.words.insert(word)),
            // U&"…": any column may be meant.
            (None, TokenKind::QuotedIdentifier) => needs.is_everything = true,
            _ => {}
        }
    }
    // NATURAL joins compare the columns that both sides have.
    needs.is_everything |= needs.words.contains("natural");
    if collected.facts.row_call.is_yes() {
        (needs.is_everything, needs.whole_rows) = (true, WholeRows::Values);
    }
    let mut walk =
        Walk { collected, context: many.context, needs, aliases: Vec::new(), bare: BTreeSet::new(), values: BTreeSet::new() };
    let flow = many.parsed.statement.visit(&mut walk);
    debug_assert!(flow.is_continue());
    let Walk { mut needs, aliases, bare, values, .. } = walk;
    for (alias, table) in aliases {
        // A table's name where a column's could stand: the row as a whole.
        if bare.contains(&alias) {
            needs.whole_rows = needs.whole_rows.max(if values.contains(&alias) { WholeRows::Values } else { WholeRows::Listed });
            needs.whole.insert(table);
        }
    }
    needs
}

struct Walk<'a> {
    collected: &'a Collected,
    context: &'a Context<'a>,
    needs: Needs,
    /// What each table is called in its FROM, and its name.
    aliases: Vec<(String, TableName)>,
    /// Unqualified column names, and what stands before `.*`.
    bare: BTreeSet<String>,
    /// Those of them that stand in expressions.
    values: BTreeSet<String>,
}

impl Walk<'_> {
    fn table(&mut self, factor: &TableFactor) {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return };
        let parts = folded_parts(name);
        let is_cte = self
            .collected
            .ref_by_address
            .get(&address(name))
            .and_then(|ref_idx| self.collected.refs.get(*ref_idx))
            .is_some_and(|table_ref| table_ref.target == Target::Cte);
        if is_cte {
            return;
        }
        if renames(alias.as_ref()) {
            self.needs.whole.insert(table_name(&parts, self.context));
        }
        let called = alias.as_ref().map_or_else(|| parts.last().cloned().unwrap_or_default(), |alias| folded(&alias.name));
        self.aliases.push((called, table_name(&parts, self.context)));
    }

    /// `*`: every column of every table of the FROM list.
    fn wildcard(&mut self, from: &[TableWithJoins]) {
        for tree in from {
            self.wildcard_tree(tree);
        }
    }

    fn wildcard_tree(&mut self, tree: &TableWithJoins) {
        self.wildcard_factor(&tree.relation);
        for join in &tree.joins {
            self.wildcard_factor(&join.relation);
            self.needs.is_everything |= matches!(constraint(&join.join_operator), Some(JoinConstraint::Natural));
        }
    }

    fn wildcard_factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table { name, args: None, .. } => {
                self.needs.whole.insert(table_name(&folded_parts(name), self.context));
            }
            TableFactor::NestedJoin { table_with_joins, .. } => self.wildcard_tree(table_with_joins),
            TableFactor::Table { .. }
            | TableFactor::Derived { .. }
            | TableFactor::Function { .. }
            | TableFactor::UNNEST { .. } => {}
            _ => self.needs.is_everything = true,
        }
    }

    fn row_value(&mut self, parts: &[String]) {
        self.values.extend(parts.last().cloned());
        self.qualified_wildcard(parts);
    }

    fn qualified_wildcard(&mut self, parts: &[String]) {
        match parts {
            [alias] => drop(self.bare.insert(alias.clone())),
            _ => self.needs.is_everything = true,
        }
    }
}

/// A list of column aliases goes by the columns' positions.
fn renames(alias: Option<&TableAlias>) -> bool {
    alias.is_some_and(|alias| !alias.columns.is_empty())
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(_) => self.wildcard(&select.from),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    self.qualified_wildcard(&folded_parts(name));
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(_), _) => {}
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } | SelectItem::ExprWithAliases { .. } => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.table(factor);
        if let TableFactor::NestedJoin { alias, table_with_joins } = factor
            && alias.is_some()
        {
            // The alias of a join stands for all of its columns.
            self.wildcard_tree(table_with_joins);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => {
                self.values.insert(folded(ident));
                self.bare.insert(folded(ident));
            }
            Expr::QualifiedWildcard(name, _) => self.row_value(&folded_parts(name)),
            Expr::Wildcard(_) => self.needs.is_everything = true,
            Expr::Function(function) => {
                let FunctionArguments::List(list) = &function.args else { return ControlFlow::Continue(()) };
                for arg in &list.args {
                    let (FunctionArg::Unnamed(value)
                    | FunctionArg::Named { arg: value, .. }
                    | FunctionArg::ExprNamed { arg: value, .. }) = arg;
                    if let FunctionArgExpr::QualifiedWildcard(name) = value {
                        self.row_value(&folded_parts(name));
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
