//! What is known of a function by its name: whether shards would agree on its value.

use std::cell::LazyCell;

use super::Context;
use super::gather::{self, Needs};
use super::names::{relation_of, table_name};
use super::reach::Reach;
use super::refusal::{Refusal, RefusalCode};
use super::select::Many;
use crate::sql::TokenKind;
use crate::topology::{CalledBy, Column, FunctionKind, FunctionVolatility, TableName, UserFunction};

/// A function called by a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FunctionCall {
    /// Folded; the schema first where it was written.
    pub(super) name: Vec<String>,
    pub(super) n_args: usize,
    pub(super) form: CallForm,
    /// Byte offset of the name.
    pub(super) start: usize,
    /// How many queries it is inside of; 1 is the statement's own.
    pub(super) depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallForm {
    Plain,
    /// With OVER.
    Window,
    /// With DISTINCT arguments.
    Distinct,
}

/// How a function behaves when several servers evaluate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// The same value for the same arguments, on every server.
    Pure,
    /// The statement's or transaction's time.
    Time,
    /// count, sum, min, max, avg.
    SplitAggregate,
    OtherAggregate,
    /// Depends on the server, or reads tables.
    Server,
    /// Volatile, changes nothing.
    Volatile,
    /// Volatile, and may write or lock.
    Writing,
    /// Not of the system, and not known to give the same on every server.
    User,
}

/// `CURRENT_TIMESTAMP` and the like, by what a literal of the transaction's time is cast to.
pub(super) fn time_cast(name: &str) -> Option<&'static str> {
    Some(match name {
        "now" | "transaction_timestamp" | "statement_timestamp" | "current_timestamp" => "",
        "current_date" => "date",
        "current_time" => "timetz",
        "localtimestamp" => "timestamp",
        "localtime" => "time",
        _ => return None,
    })
}

impl FunctionCall {
    /// Whether it may mean a function of users that is not IMMUTABLE.
    pub(super) fn may_be_changing(&self, context: &Context<'_>) -> bool {
        self.user_volatility(context).is_some_and(|volatility| volatility != FunctionVolatility::Immutable)
    }

    /// A call of which only the name is known.
    pub(super) fn named(name: Vec<String>) -> Self {
        Self { name, n_args: 0, form: CallForm::Plain, start: 0, depth: 0 }
    }

    /// The unqualified name.
    pub(super) fn short_name(&self) -> &str {
        self.name.last().map_or("", String::as_str)
    }

    /// A function outside the system schemas counts by its volatility and what it is made of: one that is not immutable may read
    /// tables, of which each server has other rows.
    pub(super) fn nature(&self, context: &Context<'_>) -> Nature {
        match self.schema() {
            Some("pg_catalog") => self.system_nature(context),
            Some(schema) => {
                let own: Vec<&UserFunction> = self.user_functions(context).filter(|function| function.schema == schema).collect();
                own_nature(&own, self.short_name(), context).0
            }
            None => {
                let path = &context.settings.search_path;
                let own: Vec<&UserFunction> =
                    self.user_functions(context).filter(|function| path.contains(&function.schema)).collect();
                let is_late = path.iter().position(|schema| schema == "pg_catalog").is_some_and(|place| place > 0);
                match (own.is_empty(), self.system_nature(context)) {
                    (true, system) => system,
                    (false, Nature::User) => own_nature(&own, self.short_name(), context).0,
                    (false, system) => self.either(own_nature(&own, self.short_name(), context), system, is_late),
                }
            }
        }
    }

    /// What a name is that is the system's and someone's own: which of them is called is a matter of the arguments' types, and of
    /// the path's order.
    fn either(&self, own: (Nature, bool), system: Nature, is_late: bool) -> Nature {
        match (own, system) {
            ((Nature::Pure, _), Nature::Time) if !is_late => Nature::Time,
            ((Nature::Pure, _), Nature::Pure | Nature::Server | Nature::Volatile | Nature::Writing) => system,
            // The types of partial columns are looked at: one that is not of the system is not combined.
            ((Nature::OtherAggregate, true), Nature::SplitAggregate) if self.short_name() != "count" => system,
            ((Nature::OtherAggregate, _), Nature::SplitAggregate | Nature::OtherAggregate) => Nature::OtherAggregate,
            _ => Nature::User,
        }
    }

    fn schema(&self) -> Option<&str> {
        self.name.len().checked_sub(2).map(|idx| self.name[idx].as_str())
    }

    fn user_functions<'a>(&self, context: &Context<'a>) -> impl Iterator<Item = &'a UserFunction> {
        context.schema.user_functions.get(self.short_name()).into_iter().flatten()
    }

    /// The volatility of the most volatile function of the name that is not of the system.
    pub(super) fn user_volatility(&self, context: &Context<'_>) -> Option<FunctionVolatility> {
        self.user_functions(context).map(|function| function.volatility).max()
    }

    fn system_nature(&self, context: &Context<'_>) -> Nature {
        let name = self.short_name();
        if time_cast(name).is_some() {
            return Nature::Time;
        }
        if SPLIT_AGGREGATES.contains(&name) {
            return Nature::SplitAggregate;
        }
        if OTHER_AGGREGATES.contains(&name) {
            return Nature::OtherAggregate;
        }
        if name == "age" && self.n_args == 1 {
            return Nature::Server;
        }
        if SYNTAX.contains(&name) || STABLE_AND_ALIKE.contains(&name) {
            return Nature::Pure;
        }
        by_volatility(name, context)
    }
}

/// What functions of one name are that users made, and whether they are aggregates whose results are of types of their own.
fn own_nature(functions: &[&UserFunction], name: &str, context: &Context<'_>) -> (Nature, bool) {
    let of_one = |function: &&UserFunction| {
        let name = TableName::new(&function.schema, name);
        // One that is called immutable and reads rows all the same gives those of its shard.
        let reads = || !Reach::of_function(&name, context).is_everywhere();
        let is_alike =
            context.topology.safe_functions.contains(&name) || function.volatility == FunctionVolatility::Immutable && !reads();
        match function.kind {
            FunctionKind::Plain if is_alike => Nature::Pure,
            FunctionKind::Aggregate if is_alike => Nature::OtherAggregate,
            FunctionKind::Plain | FunctionKind::Aggregate | FunctionKind::Other => Nature::User,
        }
    };
    let natures: Vec<Nature> = functions.iter().map(of_one).collect();
    let nature = natures.first().filter(|first| natures.iter().all(|nature| nature == *first));
    let gives_own = functions.iter().all(|function| function.gives_own_type);
    (nature.copied().unwrap_or(Nature::User), gives_own)
}

/// The refusal of an operator, a cast or a domain whose function may read tables.
///
/// # Errors
/// `UserFunction`.
pub(super) fn refuse_hidden_calls(many: &Many<'_>) -> Result<(), Refusal> {
    let (sql, context) = (many.sql(), many.context);
    let has_operator = |name: &str| {
        many.tokens.iter().any(|token| token.kind == TokenKind::Operator && sql.get(token.start..token.end) == Some(name))
    };
    let needs = LazyCell::new(|| gather::needs(many, many.collected));
    let is_named = |types: &[String]| types.iter().any(|name| needs.names(name));
    let hidden = context.schema.hidden_calls.iter().filter(|call| !context.topology.safe_functions.contains(&call.function));
    for call in hidden {
        let may_be_told = || call.types.is_empty() || is_named(&call.types) || may_have_type(many, &needs, &call.types);
        let (is_called, what) = match &call.by {
            CalledBy::Operator(name) => (has_operator(name) && may_be_told(), format!("operator {name}")),
            CalledBy::Cast { from, to } => (may_be_told(), format!("the cast from {from} to {to}")),
            // Values that are read were checked when they were written.
            CalledBy::Domain(name) => (is_named(&call.types), format!("domain {name}")),
        };
        if is_called {
            let message = format!("{what}, which calls function {}, across shards is not supported", call.function);
            return Err(Refusal::new(RefusalCode::UserFunction, message));
        }
    }
    Ok(())
}

/// Whether values of such a type may be in the statement though it does not name it: in a column that it names, or given by a function.
fn may_have_type(many: &Many<'_>, needs: &Needs, type_names: &[String]) -> bool {
    let is_of_type = |column: &Column| {
        let shown = column.type_name.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
        type_names.iter().any(|name| shown.trim_matches('"') == name)
    };
    let context = many.context;
    let of_refs = many.collected.refs.iter().filter_map(|table_ref| Some((table_ref, relation_of(&table_ref.name, context)?)));
    of_refs.into_iter().any(|(table_ref, relation)| {
        let table = table_name(&table_ref.name, context);
        relation.columns.iter().any(|column| is_of_type(column) && (needs.names(&column.name) || needs.all_of(&table)))
    }) || many
        .collected
        .functions
        .iter()
        .flat_map(|call| call.user_functions(context))
        .any(|function| function.gives_own_type && function.kind != FunctionKind::Aggregate)
}

fn by_volatility(name: &str, context: &Context<'_>) -> Nature {
    if HARMLESS_VOLATILE.contains(&name) {
        return Nature::Volatile;
    }
    if PER_SERVER.contains(&name) {
        return Nature::Server;
    }
    let system = &context.schema.system_functions;
    match system.get(name) {
        Some(FunctionVolatility::Immutable) => Nature::Pure,
        Some(FunctionVolatility::Stable) => Nature::Server,
        Some(FunctionVolatility::Volatile) => Nature::Writing,
        None if system.is_empty() && IMMUTABLE.contains(&name) => Nature::Pure,
        None if system.is_empty() && WRITING.iter().any(|prefix| name.starts_with(prefix)) => Nature::Writing,
        None => Nature::User,
    }
}

const SPLIT_AGGREGATES: &[&str] = &["count", "sum", "min", "max", "avg"];

/// The other aggregates of pg_catalog, from Postgres 14 on; window functions are told by OVER.
const OTHER_AGGREGATES: &[&str] = &[
    "any_value",
    "array_agg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "covar_pop",
    "covar_samp",
    "cume_dist",
    "dense_rank",
    "every",
    "grouping",
    "json_agg",
    "json_agg_strict",
    "json_arrayagg",
    "json_object_agg",
    "json_object_agg_strict",
    "json_object_agg_unique",
    "json_object_agg_unique_strict",
    "json_objectagg",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_object_agg",
    "jsonb_object_agg_strict",
    "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict",
    "mode",
    "percent_rank",
    "percentile_cont",
    "percentile_disc",
    "range_agg",
    "range_intersect_agg",
    "rank",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "row_number",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "var_pop",
    "var_samp",
    "variance",
    "xmlagg",
];

/// Function-like syntax that has no row in pg_proc.
const SYNTAX: &[&str] = &[
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "row",
    "array",
    "exists",
    "cast",
    "extract",
    "trim",
    "substring",
    "position",
    "overlay",
    "treat",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "normalize",
];

/// Stable by the catalog, yet alike on servers with the same settings: they read the session's settings only.
const STABLE_AND_ALIKE: &[&str] = &[
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "text",
    "enum_first",
    "enum_last",
    "enum_range",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "pg_collation_for",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "json_object",
    "overlaps",
    "pg_typeof",
    "plainto_tsquery",
    "phraseto_tsquery",
    "websearch_to_tsquery",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "age",
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "current_role",
    "current_user",
    "date_bin",
    "date_part",
    "date_trunc",
    "format",
    "generate_series",
    "generate_subscripts",
    "json_build_array",
    "json_build_object",
    "json_strip_nulls",
    "jsonb_build_array",
    "jsonb_build_object",
    // Of bytea and an encoding's name; the others are immutable.
    "length",
    "make_interval",
    "make_timestamp",
    "make_timestamptz",
    "num_nonnulls",
    "num_nulls",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "session_user",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "user",
];

const HARMLESS_VOLATILE: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// Functions whose value is a matter of one server or one connection, whatever their volatility.
const PER_SERVER: &[&str] = &[
    "current_catalog",
    "current_database",
    "current_query",
    "current_schema",
    "current_schemas",
    "current_setting",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "pg_conf_load_time",
    "pg_current_wal_lsn",
    "pg_is_in_recovery",
    "pg_last_wal_replay_lsn",
    "pg_postmaster_start_time",
    "pg_column_size",
    "pg_database_size",
    "pg_table_size",
    "pg_relation_size",
    "pg_total_relation_size",
    "txid_current_snapshot",
    "version",
];

/// Known without a snapshot.
const IMMUTABLE: &[&str] = &[
    "abs",
    "acos",
    "array_append",
    "array_cat",
    "array_dims",
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_prepend",
    "array_remove",
    "array_replace",
    "array_upper",
    "ascii",
    "asin",
    "atan",
    "atan2",
    "bit_length",
    "btrim",
    "cardinality",
    "cbrt",
    "ceil",
    "ceiling",
    "char_length",
    "character_length",
    "chr",
    "cos",
    "cot",
    "decode",
    "degrees",
    "div",
    "encode",
    "exp",
    "factorial",
    "first_value",
    "floor",
    "gcd",
    "hashtext",
    "hashtextextended",
    "initcap",
    "isfinite",
    "json_array_elements",
    "json_array_elements_text",
    "json_array_length",
    "json_each",
    "json_each_text",
    "json_extract_path",
    "json_extract_path_text",
    "json_object_keys",
    "json_typeof",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_array_length",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
    "jsonb_object_keys",
    "jsonb_path_exists",
    "jsonb_path_query",
    "jsonb_pretty",
    "jsonb_set",
    "jsonb_typeof",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "lag",
    "last_value",
    "lcm",
    "lead",
    "left",
    "length",
    "ln",
    "log",
    "log10",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "make_time",
    "md5",
    "mod",
    "nth_value",
    "ntile",
    "octet_length",
    "pi",
    "pow",
    "power",
    "quote_ident",
    "radians",
    "range_merge",
    "regexp_match",
    "regexp_matches",
    "regexp_replace",
    "regexp_split_to_array",
    "regexp_split_to_table",
    "repeat",
    "replace",
    "reverse",
    "right",
    "round",
    "rpad",
    "rtrim",
    "scale",
    "sha256",
    "sha512",
    "sign",
    "sin",
    "split_part",
    "sqrt",
    "starts_with",
    "string_to_array",
    "strpos",
    "substr",
    "tan",
    "to_ascii",
    "to_hex",
    "translate",
    "trunc",
    "unnest",
    "upper",
    "width_bucket",
];

/// Beginnings of names of system functions that write or lock, known without a snapshot.
const WRITING: &[&str] = &[
    "currval",
    "dblink",
    "lastval",
    "lo_",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory",
    "pg_cancel",
    "pg_create",
    "pg_current_xact",
    "pg_drop",
    "pg_export_snapshot",
    "pg_logical",
    "pg_notify",
    "pg_promote",
    "pg_reload",
    "pg_replication",
    "pg_stat_reset",
    "pg_switch",
    "pg_terminate",
    "pg_try_advisory",
    "set_config",
    "setseed",
    "setval",
    "txid_current",
];
