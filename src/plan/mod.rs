//! Statement + topology + schema + values → plan. Pure: no I/O, clock, randomness or globals.
//!
//! [`analyze`] is done once per shape and cached; [`Template::bind`] is done for each execution. A template's routing
//! depends on a literal only through the slots that it names, so texts of one fingerprint share it.
//!
//! A statement goes through these rooms: [`template`] (its class, hints, what is decided by the words alone) → [`reader`] (the
//! syntax tree) → [`collect`] (one walk over it: table references, conditions on keys) → [`bind`] (values into conditions, conditions
//! into shards) → [`select`], [`insert`], [`dml`] (what more than one shard needs) → [`merge`], [`combine`] or [`gather`]. Texts for
//! shards are made by splicing the original at token positions; the syntax tree is never printed.

mod array;
mod bind;
mod collect;
mod columns;
mod combine;
mod condition;
mod contract;
mod copy;
mod ddl;
mod derived;
mod dml;
mod explain;
mod final_sql;
mod finish;
mod functions;
mod gather;
mod hint;
mod home;
mod insert;
mod interval;
mod joins;
mod layout;
mod links;
mod lock;
mod merge;
mod names;
mod output;
mod policy;
mod predicate;
mod reach;
mod reader;
mod refusal;
mod scatter;
mod scope;
mod select;
mod selected;
mod shape;
mod slot;
mod template;
mod text;
mod views;

#[cfg(test)]
mod tests;

pub use contract::{
    Access, CombinePlan, Context, CopyOutPlan, CopyPlan, CopyRows, CursorPlan, ExplainPlan, FinalPiece, GatherColumn,
    GatherInput, GatherLink, GatherPiece, GatherPlace, GatherPlan, GatherSource, InsertPlan, MergePlan, Params, Plan,
    PlanSettings, RowValues, ShardStatement, SortKey, Values,
};
pub use copy::{CopyFormat, CopySplit, CopySplitter, Layout as CopyLayout, MAX_COPY_ROW_BYTES};
pub use ddl::{check_hint, families_apart, is_about_temporaries, made};
pub use explain::{
    ExplainReport, Figures, Outline, OutlinePart, ShardReport, assumed_schema, explain, explain_offline, outline, route_in_words,
};
pub use hint::{has_hint, hinted, shard_of_key};
pub use home::{at_home, is_met_at_home, off_home};
pub use lock::lock_statements;
pub use reader::is_readable;
pub use refusal::{Refusal, RefusalCode};
pub use scatter::scatter_refusal;
pub use template::{Template, analyze};
