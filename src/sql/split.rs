//! One simple-query string into its statements.

use std::ops::Range;

/// Byte ranges of the statements of `sql`, split at top-level semicolons (not those in the body of `BEGIN ATOMIC … END`);
/// empty statements are left out. An empty result means an empty query.
pub fn split_statements(sql: &[u8], has_standard_strings: bool) -> Vec<Range<usize>> {
    let _ = (sql, has_standard_strings);
    Vec::new()
}
