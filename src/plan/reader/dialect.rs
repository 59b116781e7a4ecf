//! The parser's Postgres, with what it lacks.

use std::any::TypeId;

use sqlparser::ast::Expr;
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};

/// The dialect that texts are read in: the parser's own but for COLLATE after a cast, `a::text COLLATE "C"`, whose precedence the
/// parser knows and which it does not read there.
///
/// A dialect cannot be extended but by naming all that it says: the parser asks each of these of the dialect that it was given, and
/// some also whether it is Postgres's ([`Dialect::dialect`]).
#[derive(Debug)]
pub(super) struct Postgres;

const OWN: PostgreSqlDialect = PostgreSqlDialect {};

/// Questions that the parser's own dialect answers.
macro_rules! as_its_own {
    ($($question:ident)*) => {
        $(fn $question(&self) -> bool { OWN.$question() })*
    };
}

impl Dialect for Postgres {
    fn dialect(&self) -> TypeId {
        OWN.dialect()
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        OWN.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        OWN.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        OWN.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        OWN.is_identifier_part(ch)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        OWN.is_custom_operator_part(ch)
    }

    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        OWN.is_reserved_for_identifier(kw)
    }

    fn is_table_alias(&self, kw: &Keyword, parser: &mut Parser) -> bool {
        OWN.is_table_alias(kw, parser)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        OWN.get_next_precedence(parser)
    }

    fn prec_value(&self, prec: Precedence) -> u8 {
        OWN.prec_value(prec)
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, _precedence: u8) -> Option<Result<Expr, ParserError>> {
        // All that stand here at once: what is before them is copied.
        let mut collations = Vec::new();
        while parser.parse_keyword(Keyword::COLLATE) {
            match parser.parse_object_name(false) {
                Ok(collation) => collations.push(collation),
                Err(error) => return Some(Err(error)),
            }
        }
        if collations.is_empty() {
            return None;
        }
        let collated = |expr, collation| Expr::Collate { expr: Box::new(expr), collation };
        Some(Ok(collations.into_iter().fold(expr.clone(), collated)))
    }

    as_its_own! {
        supports_unicode_string_literal supports_filter_during_aggregation supports_group_by_expr
        supports_alter_user_as_alter_role allow_extract_custom allow_extract_single_quotes
        supports_create_index_with_clause supports_explain_with_utility_options supports_listen_notify
        supports_exclude_constraint supports_factorial_operator supports_bitwise_shift_operators supports_comment_on
        supports_load_extension supports_named_fn_args_with_colon_operator supports_named_fn_args_with_expr_name
        supports_empty_projections supports_nested_comments supports_string_escape_constant
        supports_numeric_literal_underscores supports_array_typedef_with_brackets supports_geometric_types
        supports_order_by_using_operator supports_set_names supports_alter_column_type_using
        supports_left_associative_joins_without_parens supports_notnull_operator supports_interval_options
        supports_insert_table_alias supports_create_table_like_parenthesized supports_select_wildcard_with_alias
        supports_comma_separated_trim supports_xml_expressions supports_aliased_function_args
        supports_comment_optimizer_hint
    }
}
