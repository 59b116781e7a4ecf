//! Terms of WHERE and ON that the shards can apply already.
//!
//! A term is taken only if all its columns are of one table, if it must hold for every row of that table that matters, and if
//! its text is found: read again by itself, it must give the same syntax tree.

use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};

use sqlparser::ast::{Expr, Ident, JoinConstraint, Query, Select, TableFactor, TableWithJoins, Visit, Visitor};

use crate::plan::collect::{Collected, address};
use crate::plan::functions::Nature;
use crate::plan::names::folded;
use crate::plan::predicate::{conjuncts, unnested};
use crate::plan::reader;
use crate::plan::scope::{Scope, Side, constraint, side};
use crate::plan::select::Many;
use crate::plan::text::{Edits, Positions, nesting, quoted};
use crate::sql::Token;

/// For each table reference the terms that every row of it that matters satisfies, ANDed.
pub(super) fn of(many: &Many<'_>, collected: &Collected, times: &Edits) -> BTreeMap<usize, String> {
    let Some(scopes) = &collected.scopes else { return BTreeMap::new() };
    let positions = Positions::of(many.sql());
    let mut walk = Walk { many, collected, scopes, times, positions, terms: BTreeMap::new() };
    let flow = many.parsed.statement.visit(&mut walk);
    debug_assert!(flow.is_continue());
    walk.terms.into_iter().map(|(ref_idx, terms)| (ref_idx, terms.join(" AND "))).collect()
}

struct Walk<'a> {
    many: &'a Many<'a>,
    collected: &'a Collected,
    scopes: &'a HashMap<usize, Scope>,
    times: &'a Edits,
    positions: Positions,
    terms: BTreeMap<usize, Vec<String>>,
}

/// A column in a term: the byte range of its name with what qualifies it, and the name.
#[derive(Debug)]
struct ColumnPlace {
    range: Range<usize>,
    name: String,
}

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let Some(scope) = self.scopes.get(&address(select)) else { return ControlFlow::Continue(()) };
        for term in select.selection.iter().flat_map(conjuncts) {
            self.term(term, scope, &|item_idx| !scope.items[item_idx].is_nullable);
        }
        let mut item_idx = 0;
        for tree in &select.from {
            self.tree(tree, scope, &mut item_idx);
        }
        ControlFlow::Continue(())
    }
}

impl Walk<'_> {
    /// Takes the terms of a tree's ON clauses. An inner join's bind its tables if no outer join fills those with NULLs; those of
    /// an outer join bind the side that it does not preserve, if that is one table.
    fn tree(&mut self, tree: &TableWithJoins, scope: &Scope, item_idx: &mut usize) {
        let start = *item_idx;
        self.factor(&tree.relation, scope, item_idx);
        for join in &tree.joins {
            let right = *item_idx;
            self.factor(&join.relation, scope, item_idx);
            let end = *item_idx;
            let Some(JoinConstraint::On(on)) = constraint(&join.join_operator) else { continue };
            let side = side(&join.join_operator);
            let binds = |idx: usize| match side {
                Side::Inner => (start..end).contains(&idx) && !scope.items[idx].is_nullable,
                Side::Left => end - right == 1 && idx == right,
                Side::Right => right - start == 1 && idx == start,
                Side::Full | Side::Other => false,
            };
            for term in conjuncts(on) {
                self.term(term, scope, &binds);
            }
        }
    }

    fn factor(&mut self, factor: &TableFactor, scope: &Scope, item_idx: &mut usize) {
        match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.tree(table_with_joins, scope, item_idx),
            _ => *item_idx += 1,
        }
    }

    /// Takes a term if it is about one table that it binds.
    fn term(&mut self, term: &Expr, scope: &Scope, binds: &dyn Fn(usize) -> bool) {
        let (sql, tokens) = (self.many.sql(), self.many.tokens.as_slice());
        let mut columns = Columns { scope, positions: &self.positions, sql, tokens, places: Vec::new(), item_idx: None };
        if term.visit(&mut columns).is_break() {
            return;
        }
        let Columns { places, item_idx: Some(item_idx), .. } = columns else { return };
        let Some(ref_idx) = scope.items.get(item_idx).and_then(|item| item.ref_idx).filter(|_| binds(item_idx)) else { return };
        let Some(range) = places.first().and_then(|first| self.text_range(term, first.range.start)) else { return };
        if !places.iter().all(|place| range.contains(&place.range.start)) || !self.is_alike_everywhere(&range) {
            return;
        }
        let mut edits = self.times.clone();
        for place in places {
            edits.replace(place.range, quoted(&place.name));
        }
        let text = edits.apply(self.many.sql(), range);
        let terms = self.terms.entry(ref_idx).or_default();
        let text = format!("({text})");
        if !terms.contains(&text) {
            terms.push(text);
        }
    }

    fn is_alike_everywhere(&self, range: &Range<usize>) -> bool {
        self.collected
            .functions
            .iter()
            .filter(|call| range.contains(&call.start))
            .all(|call| matches!(call.nature(self.many.context), Nature::Pure | Nature::Time))
    }

    /// The bytes of a term that has a column at byte `at`: those between the words around it which, read again by themselves, give
    /// the term. A parenthesis may be around the term or within it: both are tried.
    fn text_range(&self, term: &Expr, at: usize) -> Option<Range<usize>> {
        let tokens = &self.many.tokens;
        let mut anchor = tokens.binary_search_by_key(&at, |token| token.start).ok()?;
        loop {
            let first = self.first_token(anchor);
            let end = self.end_token(first, anchor);
            let range = tokens.get(first)?.start..tokens.get(end.checked_sub(1)?)?.end;
            if self.gives(term, self.many.sql().get(range.clone())?) {
                return Some(range);
            }
            anchor = first.checked_sub(1).filter(|&before| nesting(tokens[before]) > 0)?;
        }
    }

    fn gives(&self, term: &Expr, text: &str) -> bool {
        reader::term(text).is_some_and(|again| again == *unnested(term))
    }

    fn is_one_of(&self, token: Token, words: &[&str]) -> bool {
        words.iter().any(|word| token.is_word(self.many.sql().as_bytes(), word))
    }

    /// The first token after the AND, WHERE, ON or parenthesis before the anchor.
    fn first_token(&self, anchor: usize) -> usize {
        let (tokens, mut depth) = (&self.many.tokens, 0);
        for idx in (0..anchor).rev() {
            let token = tokens[idx];
            depth -= nesting(token);
            depth += i32::from(self.is_one_of(token, &["end"])) - i32::from(self.is_one_of(token, &["case"]) && depth > 0);
            if depth < 0 || (depth == 0 && self.is_one_of(token, &["and", "where", "on"])) {
                return idx + 1;
            }
        }
        0
    }

    /// The token before which the term that begins at `first` ends.
    fn end_token(&self, first: usize, anchor: usize) -> usize {
        const ENDS: &[&str] = &[
            "group",
            "order",
            "having",
            "limit",
            "offset",
            "fetch",
            "for",
            "union",
            "intersect",
            "except",
            "window",
            "join",
            "inner",
            "full",
            "cross",
            "natural",
            "where",
        ];
        let (tokens, mut depth, mut n_between) = (&self.many.tokens, 0, 0);
        for idx in first..tokens.len() {
            let token = tokens[idx];
            depth += nesting(token);
            if depth < 0 || (depth == 0 && (token.is_punctuation(b',') || token.is_punctuation(b';'))) {
                return idx;
            }
            if self.is_one_of(token, &["case"]) {
                depth += 1;
            } else if self.is_one_of(token, &["end"]) {
                depth -= 1;
            }
            if depth > 0 {
                continue;
            }
            let is_called = tokens.get(idx + 1).is_some_and(|next| next.is_punctuation(b'('));
            let is_and = self.is_one_of(token, &["and"]);
            match () {
                () if self.is_one_of(token, &["between"]) => n_between += 1,
                () if is_and && n_between > 0 => n_between -= 1,
                () if is_and && idx > anchor => return idx,
                () if self.is_one_of(token, ENDS) || (self.is_one_of(token, &["left", "right"]) && !is_called) => return idx,
                () => {}
            }
        }
        tokens.len()
    }
}

/// The columns of a term; the walk breaks off at what is not a known column of one table, and at subqueries.
struct Columns<'a> {
    scope: &'a Scope,
    positions: &'a Positions,
    sql: &'a str,
    tokens: &'a [Token],
    places: Vec<ColumnPlace>,
    item_idx: Option<usize>,
}

impl Columns<'_> {
    fn column(&mut self, idents: &[Ident]) -> ControlFlow<()> {
        let names: Vec<String> = idents.iter().map(folded).collect();
        let is_merged = matches!(names.as_slice(), [name] if self.scope.is_merged(name));
        let found = self.scope.find(&names);
        let (&[item_idx], Some(name), false) = (found.as_slice(), names.last(), is_merged || names.len() > 2) else {
            return ControlFlow::Break(());
        };
        let has_column =
            self.scope.items.get(item_idx).is_some_and(|item| item.relation.is_some() && item.has(name) == Some(true));
        let range = idents.first().zip(idents.last()).and_then(|(first, last)| {
            let (start, last) = (self.positions.start(self.sql, first.span)?, self.positions.start(self.sql, last.span)?);
            let token = self.tokens.get(self.tokens.binary_search_by_key(&last, |token| token.start).ok()?)?;
            Some(start..token.end)
        });
        let (Some(range), true, true) = (range, has_column, self.item_idx.is_none_or(|known| known == item_idx)) else {
            return ControlFlow::Break(());
        };
        self.item_idx = Some(item_idx);
        self.places.push(ColumnPlace { range, name: name.clone() });
        ControlFlow::Continue(())
    }
}

impl Visitor for Columns<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(ident) => self.column(std::slice::from_ref(ident)),
            Expr::CompoundIdentifier(idents) => self.column(idents),
            Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}
