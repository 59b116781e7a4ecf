//! SQL text: tokens, fingerprints, statement classes, key values. Pure; knows nothing of shards.

mod alter;
mod classify;
mod cursor;
mod declare;
mod explain;
mod fingerprint;
mod lexer;
mod mentions;
mod prepare;
mod scan;
mod split;
mod timestamp;
mod value;

pub use alter::{TableChange, ViewParts, other_relations, sequence_owner, table_changes, view_parts};
pub use classify::{Classified, Command, CopyDirection, DeallocateTarget, DiscardTarget, SetScope, UtilityKind, classify};
pub use declare::{DeclareParts, FetchParts, Movement, Scroll, declare_parts, fetch_parts};
pub use explain::{ExplainFormat, ExplainOptions, explain_options};
pub use fingerprint::{Fingerprint, Literal, LiteralKind, fingerprint, fingerprint_of_only};
pub use lexer::{StringKind, Token, TokenKind, Tokens, fold_identifier, tokens};
pub use mentions::mentions;
pub use prepare::{ExecuteParts, PrepareParts, execute_parts, prepare_parts};
pub use split::split_statements;
pub use value::{KeyType, ParamFormat, ValueError, canonical_binary, canonical_literal, canonical_text, string_text};
