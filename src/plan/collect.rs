//! One walk over a statement's syntax tree: every table reference with what must hold for its rows, and the facts that
//! decide on a rung.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArguments, Ident, LimitClause, ObjectName, Query, Select, SetExpr, Statement,
    TableFactor, Visit, Visitor,
};

use super::Context;
use super::condition::Condition;
use super::derived::{self, Exposed};
use super::functions::{CallForm, FunctionCall, Nature};
use super::links::{self, Links};
use super::names::{Target, folded, folded_parts, is_named, resolve};
use super::predicate::{self, unnested};
use super::reader::Parsed;
use super::scope::{Item, Scope, Using, items_of};
use super::text::Positions;
use crate::sql::{KeyType, Literal};
use crate::topology::{Key, Placement, Table};

/// One reference to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableRef {
    pub(super) target: Target,
    /// As written, folded.
    pub(super) name: Vec<String>,
    /// The types of the key's columns, where the snapshot knows them.
    pub(super) key_types: Vec<Option<KeyType>>,
    /// All of them hold for every row that matters.
    pub(super) conditions: Vec<Condition>,
    /// How many queries it is inside of; 1 is the statement's own.
    pub(super) depth: usize,
    pub(super) is_written: bool,
}

impl TableRef {
    pub(super) fn key(&self) -> Option<&Key> {
        match &self.table()?.placement {
            Placement::Sharded(key) => Some(key),
            Placement::Reference | Placement::Pinned(_) => None,
        }
    }

    /// The sharded table that it means.
    pub(super) fn table(&self) -> Option<&Arc<Table>> {
        match &self.target {
            Target::Sharded(table) => Some(table),
            _ => None,
        }
    }
}

/// A key column of one table reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyColumn {
    pub(super) ref_idx: usize,
    pub(super) column_idx: usize,
}

/// Rows of `to` that matter have in this column a value that `from` has in that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: KeyColumn,
    pub(super) to: KeyColumn,
}

/// What the walk found. Addresses are those of nodes of the walked tree.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) refs: Vec<TableRef>,
    pub(super) ref_by_address: HashMap<usize, usize>,
    pub(super) edges: Vec<Edge>,
    /// Equalities between keys in the ON of FULL JOINs: they bind neither side's rows, yet matches are on one shard.
    pub(super) full_pairs: Vec<Edge>,
    pub(super) functions: Vec<FunctionCall>,
    pub(super) n_queries: usize,
    /// The scope of the statement's own SELECT.
    pub(super) top: Option<Scope>,
    /// The scope of every SELECT, where [`collect_scopes`] asks for them.
    pub(super) scopes: Option<HashMap<usize, Scope>>,
    /// Equalities between columns of tables, where it asks for them.
    pub(super) links: Option<Links>,
    pub(super) facts: Facts,
}

/// Facts of a statement that the fields of its top SELECT do not show.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) locks: Seen,
    pub(super) nested_limit: Seen,
    pub(super) system_column: Seen,
    /// TABLE name, SELECT INTO and what else hides a table's name.
    pub(super) opaque: Seen,
    pub(super) nested_write: Seen,
    /// A literal was not where the lexer sees one: routing cannot rely on positions.
    pub(super) misplaced: Seen,
    pub(super) select_into: Seen,
    pub(super) into_temporary: Seen,
    /// A subquery holds an aggregate that may be one of the query around it.
    pub(super) outer_aggregate: Seen,
    /// `a.f` that calls `f(a)`: sections 4.2.6 and 38.5.3 of the manual. The row is its argument.
    pub(super) row_call: Seen,
    /// One of those, or `(…).f`, calls what is not the same wherever it is called.
    pub(super) changing_row_call: Seen,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    #[default]
    No,
    Yes,
}

impl Seen {
    pub(super) fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

/// The walk's state.
pub(super) struct Collector<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) sql: &'a str,
    pub(super) literals: &'a [Literal],
    pub(super) positions: Positions,
    pub(super) scopes: Vec<Scope>,
    pub(super) found: Collected,
    ctes: Vec<CteScope>,
    /// Derived tables and WITH queries: they do not see the scopes around them.
    barriers: Vec<usize>,
    table_functions: Vec<usize>,
    pub(super) query_depth: usize,
}

struct CteScope {
    names: Vec<String>,
    queries: Vec<usize>,
    n_visible: usize,
    is_recursive: bool,
    /// What each exposes where it is named.
    exposed: Vec<Exposed>,
}

/// The address of a node, as its identity while the tree is borrowed.
pub(super) fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

/// Walks a statement.
pub(super) fn collect(parsed: &Parsed, literals: &[Literal], context: &Context<'_>) -> Collected {
    let mut collector = Collector::bare(parsed, literals, context);
    let flow = parsed.statement.visit(&mut collector);
    debug_assert!(flow.is_continue());
    collector.found
}

/// The same, keeping the scope of every SELECT by its address, and what is equal in tables.
pub(super) fn collect_scopes(parsed: &Parsed, literals: &[Literal], context: &Context<'_>) -> Collected {
    let mut collector = Collector::bare(parsed, literals, context);
    (collector.found.scopes, collector.found.links) = (Some(HashMap::new()), Some(Links::default()));
    let flow = parsed.statement.visit(&mut collector);
    debug_assert!(flow.is_continue());
    collector.found
}

impl<'a> Collector<'a> {
    /// A collector that has walked nothing yet, to read single values.
    pub(super) fn bare(parsed: &'a Parsed, literals: &'a [Literal], context: &'a Context<'a>) -> Self {
        Self {
            context,
            sql: &parsed.sql,
            literals,
            positions: Positions::of(&parsed.sql),
            scopes: Vec::new(),
            found: Collected::default(),
            ctes: Vec::new(),
            barriers: Vec::new(),
            table_functions: Vec::new(),
            query_depth: 0,
        }
    }
}

impl Collector<'_> {
    /// The index of the table reference at `name`, new or known.
    pub(super) fn table_ref(&mut self, name: &ObjectName) -> usize {
        let address = address(name);
        if let Some(ref_idx) = self.found.ref_by_address.get(&address) {
            return *ref_idx;
        }
        let parts = folded_parts(name);
        let target = if self.is_cte(&parts) { Target::Cte } else { resolve(&parts, self.context) };
        let mut table_ref = TableRef {
            target,
            name: parts,
            key_types: Vec::new(),
            conditions: Vec::new(),
            depth: self.query_depth,
            is_written: false,
        };
        table_ref.key_types = self.key_types(&table_ref);
        self.found.refs.push(table_ref);
        let ref_idx = self.found.refs.len() - 1;
        self.found.ref_by_address.insert(address, ref_idx);
        ref_idx
    }

    fn key_types(&self, table_ref: &TableRef) -> Vec<Option<KeyType>> {
        let Some(key) = table_ref.key() else { return Vec::new() };
        let relation = super::names::relation_of(&table_ref.name, self.context);
        let type_of = |column: &String| super::columns::key_type(relation.as_ref()?.column(column)?);
        key.columns.iter().map(type_of).collect()
    }

    fn is_cte(&self, parts: &[String]) -> bool {
        let [name] = parts else { return false };
        self.ctes.iter().any(|scope| scope.names.iter().take(scope.n_visible).any(|cte| cte == name))
    }

    fn push_ctes(&mut self, query: &Query) {
        let with = query.with.as_ref();
        let ctes = with.map(|with| with.cte_tables.as_slice()).unwrap_or_default();
        let is_recursive = with.is_some_and(|with| with.recursive);
        self.barriers.extend(ctes.iter().map(|cte| address(&*cte.query)));
        self.ctes.push(CteScope {
            names: ctes.iter().map(|cte| folded(&cte.alias.name)).collect(),
            queries: ctes.iter().map(|cte| address(&*cte.query)).collect(),
            n_visible: if is_recursive { ctes.len() } else { 0 },
            is_recursive,
            exposed: Vec::new(),
        });
        if is_recursive {
            return;
        }
        for (cte_idx, cte) in ctes.iter().enumerate() {
            self.see_ctes(cte_idx);
            // What a WITH query reads is one query further in than the query that it belongs to.
            self.query_depth += 1;
            let exposed = derived::of_cte(self, &cte.query, &cte.alias, query);
            self.query_depth -= 1;
            if let Some(scope) = self.ctes.last_mut() {
                scope.exposed.push(exposed);
            }
        }
        self.see_ctes(0);
    }

    fn see_ctes(&mut self, n_visible: usize) {
        if let Some(scope) = self.ctes.last_mut() {
            scope.n_visible = n_visible;
        }
    }

    /// What the WITH query that `name` means here exposes.
    pub(super) fn exposed_by_cte(&self, name: &str) -> Exposed {
        let found = self.ctes.iter().rev().find_map(|scope| {
            let cte_idx = scope.names.iter().take(scope.n_visible).position(|cte| cte == name)?;
            Some(scope.exposed.get(cte_idx).cloned().unwrap_or_default())
        });
        found.unwrap_or_default()
    }

    /// Says which WITH names the query at `address` sees: those before it, or all in WITH RECURSIVE.
    fn move_cte(&mut self, address: usize, is_after: bool) {
        for scope in &mut self.ctes {
            if let Some(cte_idx) = scope.queries.iter().position(|query| *query == address)
                && !scope.is_recursive
            {
                scope.n_visible = cte_idx + usize::from(is_after);
            }
        }
    }

    fn note_body(&mut self, body: &SetExpr) {
        match body {
            SetExpr::Table(_) => self.found.facts.opaque = Seen::Yes,
            SetExpr::SetOperation { left, right, .. } => {
                self.note_body(left);
                self.note_body(right);
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                self.found.facts.nested_write = Seen::Yes;
            }
            SetExpr::Select(select) => {
                if let Some(into) = &select.into {
                    self.found.facts.select_into = Seen::Yes;
                    self.found.facts.into_temporary = if into.temporary { Seen::Yes } else { Seen::No };
                }
            }
            SetExpr::Query(_) | SetExpr::Values(_) => {}
        }
    }

    /// Adds what a WHERE or ON term says of the tables of the innermost scope.
    pub(super) fn add_conjuncts(&mut self, terms: &[&Expr]) {
        let Some(scope) = self.scopes.last() else { return };
        let ref_idxs: Vec<(usize, bool)> = scope.items.iter().flat_map(Item::restricted_refs).collect();
        for term in terms {
            for (ref_idx, is_nullable) in &ref_idxs {
                match predicate::condition(self, term, *ref_idx, *is_nullable) {
                    Condition::Unknown => {}
                    condition => self.found.refs[*ref_idx].conditions.push(condition),
                }
            }
        }
    }

    fn note_function(&mut self, expr: &Expr) {
        match expr {
            Expr::Function(function) => {
                let n_args = match &function.args {
                    FunctionArguments::List(list) => list.args.len(),
                    FunctionArguments::None | FunctionArguments::Subquery(_) => 0,
                };
                let is_distinct = matches!(&function.args, FunctionArguments::List(list)
                    if matches!(list.duplicate_treatment, Some(sqlparser::ast::DuplicateTreatment::Distinct)));
                let form = match (&function.over, is_distinct) {
                    (Some(_), _) => CallForm::Window,
                    (None, true) => CallForm::Distinct,
                    (None, false) => CallForm::Plain,
                };
                self.push_function(&function.name, n_args, form);
                self.note_outer_aggregate(function);
            }
            Expr::Identifier(ident) => self.note_column(&folded(ident)),
            Expr::CompoundIdentifier(idents) => {
                let Some(last) = idents.last() else { return };
                let name = folded(last);
                self.note_column(&name);
                if let [.., table, _] = idents.as_slice() {
                    match self.has_column(table, &name) {
                        Some(false) => self.note_row_call(last, true),
                        // A column, or an aggregate: gathered rows do for both.
                        None if self.is_aggregate(&name) => self.found.facts.changing_row_call = Seen::Yes,
                        _ => {}
                    }
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                let is_row = matches!(unnested(root), Expr::Identifier(ident) if self.is_table(ident));
                for (idx, access) in access_chain.iter().enumerate() {
                    if let AccessExpr::Dot(Expr::Identifier(name)) = access {
                        self.note_row_call(name, is_row && idx == 0);
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether the innermost table of this name has such a column; `None` where its columns are not known. What is in no FROM clause is
    /// taken for a column.
    fn has_column(&self, table: &Ident, column: &str) -> Option<bool> {
        let mut items = self.scopes.iter().rev().flat_map(|scope| &scope.items);
        items.find(|item| is_named(table, &item.alias)).map_or(Some(true), |item| item.shows(column))
    }

    fn is_aggregate(&self, name: &str) -> bool {
        let nature = FunctionCall::named(vec![name.to_owned()]).nature(self.context);
        matches!(nature, Nature::SplitAggregate | Nature::OtherAggregate)
    }

    fn is_table(&self, name: &Ident) -> bool {
        self.scopes.iter().flat_map(|scope| &scope.items).any(|item| is_named(name, &item.alias))
    }

    /// A function of this name may be called: with a table's row, or with another value.
    fn note_row_call(&mut self, name: &Ident, is_of_table: bool) {
        let call = FunctionCall::named(vec![folded(name)]);
        let is_known = self.context.schema.user_functions.contains_key(call.short_name());
        let nature = call.nature(self.context);
        if nature == Nature::User && !is_known {
            return;
        }
        if is_of_table {
            self.found.facts.row_call = Seen::Yes;
        }
        let is_changing = !matches!(nature, Nature::Pure | Nature::Time | Nature::Server);
        if is_changing {
            self.found.facts.changing_row_call = Seen::Yes;
        }
        if is_of_table || is_changing {
            self.push_function(&ObjectName::from(vec![name.clone()]), 1, CallForm::Plain);
        }
    }

    /// An aggregate belongs to the innermost query whose columns it names: src/backend/parser/parse_agg.c,
    /// `check_agg_arguments`.
    fn note_outer_aggregate(&mut self, function: &Function) {
        let is_nested = self.query_depth > 1;
        let is_aggregate = self.found.functions.last().is_some_and(|call| {
            matches!(call.nature(self.context), Nature::SplitAggregate | Nature::OtherAggregate | Nature::User)
        });
        let (Some(scope), true) = (self.scopes.last(), is_nested && is_aggregate) else { return };
        let names = names_in(function);
        if !names.is_empty() && names.iter().all(|name| scope.find(name).is_empty()) {
            self.found.facts.outer_aggregate = Seen::Yes;
        }
    }

    fn push_function(&mut self, name: &ObjectName, n_args: usize, form: CallForm) {
        let start = match name.0.first() {
            Some(sqlparser::ast::ObjectNamePart::Identifier(ident)) => self.positions.start(self.sql, ident.span),
            _ => None,
        };
        let Some(start) = start else {
            self.found.facts.misplaced = Seen::Yes;
            return;
        };
        self.found.functions.push(FunctionCall { name: folded_parts(name), n_args, form, start, depth: self.query_depth });
    }

    fn note_column(&mut self, name: &str) {
        if matches!(name, "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid") {
            self.found.facts.system_column = Seen::Yes;
        }
    }

    fn push_scope(&mut self, items: Vec<Item>, usings: Vec<Using>) {
        let is_top = self.scopes.iter().all(|scope| scope.items.is_empty());
        let scope = Scope { items, usings, sees_outer: false };
        if is_top && self.found.top.is_none() && !scope.items.is_empty() {
            self.found.top = Some(scope.clone());
        }
        self.scopes.push(scope);
    }
}

/// The column names in a call's arguments and clauses.
fn names_in(function: &Function) -> Vec<Vec<String>> {
    struct Names(Vec<Vec<String>>);
    impl Visitor for Names {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(ident) => self.0.push(vec![folded(ident)]),
                Expr::CompoundIdentifier(idents) => self.0.push(idents.iter().map(folded).collect()),
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(Vec::new());
    let flow = function.visit(&mut names);
    debug_assert!(flow.is_continue());
    names.0
}

impl Visitor for Collector<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.move_cte(address(query), false);
        self.push_ctes(query);
        self.found.n_queries += 1;
        self.query_depth += 1;
        if !query.locks.is_empty() {
            self.found.facts.locks = Seen::Yes;
        }
        let has_limit = query.fetch.is_some()
            || matches!(&query.limit_clause, Some(LimitClause::LimitOffset { .. } | LimitClause::OffsetCommaLimit { .. }));
        if has_limit && self.found.n_queries > 1 {
            self.found.facts.nested_limit = Seen::Yes;
        }
        self.note_body(&query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.ctes.pop();
        self.query_depth -= 1;
        self.move_cte(address(query), true);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let (items, usings) = items_of(self, &select.from);
        self.push_scope(items, usings);
        if let Some(scope) = self.scopes.last_mut() {
            // Only a subquery in an expression of the query around it may lean on that query's rows.
            scope.sees_outer = self.barriers.is_empty();
        }
        predicate::from_terms(self, &select.from);
        if let Some(selection) = &select.selection {
            self.add_conjuncts(&predicate::conjuncts(selection));
            predicate::where_edges(self, selection);
        }
        links::of_where(self, select);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let scope = self.scopes.pop();
        if let (Some(scopes), Some(scope)) = (&mut self.found.scopes, scope) {
            scopes.insert(address(select), scope);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        predicate::enter_write(self, statement);
        ControlFlow::Continue(())
    }

    fn post_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if matches!(statement, Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) | Statement::Insert(_)) {
            self.scopes.pop();
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(args), .. } => {
                self.table_functions.push(address(name));
                self.push_function(name, args.args.len(), CallForm::Plain);
            }
            TableFactor::Function { name, args, .. } => self.push_function(name, args.len(), CallForm::Plain),
            TableFactor::Derived { subquery, .. } => self.barriers.push(address(&**subquery)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if !self.table_functions.contains(&address(relation)) {
            self.table_ref(relation);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.note_function(expr);
        ControlFlow::Continue(())
    }
}

impl Collector<'_> {
    /// Makes a scope of its own for a write's tables and marks the one that is written.
    pub(super) fn enter(&mut self, items: Vec<Item>, usings: Vec<Using>, written: Option<usize>) {
        if let Some(ref_idx) = written {
            self.found.refs[ref_idx].is_written = true;
        }
        self.push_scope(items, usings);
    }
}
