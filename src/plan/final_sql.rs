//! The engine's final statement, once a shard has described the partial columns.

use super::contract::{CombinePlan, FinalPiece};
use super::refusal::{Refusal, RefusalCode};
use crate::topology::{Schema, TypeOid};

impl CombinePlan {
    /// The engine's final statement, given the types of the partial columns as a shard described them.
    ///
    /// Its parameters `$1`, `$2`, … are the partial columns as arrays.
    ///
    /// # Errors
    /// `PartialType` (0A000): a type whose aggregate does not split exactly, or that has no array to be sent in.
    pub fn final_sql(&self, column_types: &[TypeOid], schema: &Schema) -> Result<String, Refusal> {
        let names = column_types.iter().map(|oid| type_name(*oid, schema)).collect::<Result<Vec<_>, _>>()?;
        if names.len() != self.n_columns {
            return Err(Refusal::new(RefusalCode::PartialType, "a shard described other columns than were asked for"));
        }
        self.assemble(&names, |idx| column_types.get(idx).copied().unwrap_or(0))
    }

    /// The final statement with `t0`, `t1`, … for the types that only a shard can tell.
    pub(super) fn sketch(&self) -> String {
        let names: Vec<String> = (0..self.n_columns).map(|idx| format!("t{idx}")).collect();
        self.assemble(&names, |_| 0).unwrap_or_else(|refusal| refusal.message)
    }

    /// `oid_of` gives 0 for a type that is not known yet.
    fn assemble(&self, names: &[String], oid_of: impl Fn(usize) -> TypeOid) -> Result<String, Refusal> {
        if self.odd_columns.iter().any(|idx| matches!(oid_of(*idx), 25 | 1042 | 1043)) {
            let message = "text under a collation of its own, compared across shards by partial rows, is not supported";
            return Err(Refusal::new(RefusalCode::PartialType, message));
        }
        let mut sql = String::new();
        for piece in &self.finish {
            match piece {
                FinalPiece::Text(text) => sql.push_str(text),
                FinalPiece::Source => sql.push_str(&self.source(names, &oid_of)),
                FinalPiece::Sum { column_idx } => {
                    refuse_unless(is_summed, oid_of(*column_idx), "sum")?;
                    sql.push_str(&format!("(sum(p.c{column_idx})::{})", names[*column_idx]));
                }
                FinalPiece::Count { column_idx } => sql.push_str(&format!("coalesce(sum(p.c{column_idx}), 0)::bigint")),
                FinalPiece::Min { column_idx } => {
                    refuse_unless(is_ordered, oid_of(*column_idx), "min")?;
                    sql.push_str(&format!("min(p.c{column_idx})"));
                }
                FinalPiece::Max { column_idx } => {
                    refuse_unless(is_ordered, oid_of(*column_idx), "max")?;
                    sql.push_str(&format!("max(p.c{column_idx})"));
                }
                FinalPiece::Avg { sum_idx, count_idx } => sql.push_str(&average(*sum_idx, *count_idx, oid_of(*sum_idx))?),
            }
        }
        Ok(sql)
    }

    /// Text of a column under collation C keeps that collation: it is sorted and compared in the final statement.
    fn source(&self, names: &[String], oid_of: &impl Fn(usize) -> TypeOid) -> String {
        let arrays: Vec<String> = names.iter().enumerate().map(|(idx, name)| format!("${}::{name}[]", idx + 1)).collect();
        let columns: Vec<String> = (0..names.len()).map(|idx| format!("c{idx}")).collect();
        let rows = format!("unnest({}) AS p({})", arrays.join(", "), columns.join(", "));
        let is_c = |idx: usize| self.c_columns.contains(&idx) && matches!(oid_of(idx), 25 | 1042 | 1043 | 0);
        if !(0..names.len()).any(is_c) {
            return rows;
        }
        let columns: Vec<String> = (0..names.len())
            .map(|idx| if is_c(idx) { format!("c{idx} COLLATE \"C\" AS c{idx}") } else { format!("c{idx}") })
            .collect();
        format!("(SELECT {} FROM {rows}) AS p", columns.join(", "))
    }
}

fn refuse_unless(is_good: fn(TypeOid) -> bool, oid: TypeOid, function: &str) -> Result<(), Refusal> {
    if oid == 0 || is_good(oid) {
        return Ok(());
    }
    Err(Refusal::new(RefusalCode::PartialType, format!("{function} over this type across shards is not supported")))
}

/// int2, int4, int8, numeric, float4, float8, money, interval: their sums are of these types.
fn is_summed(oid: TypeOid) -> bool {
    matches!(oid, 20 | 21 | 23 | 700 | 701 | 790 | 1186 | 1700)
}

/// Types that min and max of every supported version know, and that come back as they are.
fn is_ordered(oid: TypeOid) -> bool {
    is_summed(oid) || matches!(oid, 25 | 26 | 869 | 1042 | 1082 | 1083 | 1114 | 1184 | 1266)
}

/// The average in the type that Postgres's avg gives: numeric for integers and numeric, double precision, interval.
fn average(sum_idx: usize, count_idx: usize, oid: TypeOid) -> Result<String, Refusal> {
    let (sum, count) = (format!("sum(p.c{sum_idx})"), format!("nullif(sum(p.c{count_idx}), 0)"));
    match oid {
        0 => Ok(format!("({sum} / {count})")),
        20 | 21 | 23 | 1700 => Ok(format!("({sum}::numeric / {count})")),
        701 | 1186 => Ok(format!("({sum} / {count}::double precision)")),
        700 => Err(Refusal::new(RefusalCode::PartialType, "avg over real across shards is not supported")
            .with_hint("Cast the value: avg(x::double precision).")),
        _ => Err(Refusal::new(RefusalCode::PartialType, "avg over this type across shards is not supported")),
    }
}

/// A type's name for `$n::name[]`.
fn type_name(oid: TypeOid, schema: &Schema) -> Result<String, Refusal> {
    let built_in = match oid {
        16 => "boolean",
        17 => "bytea",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        25 => "text",
        26 => "oid",
        114 => "json",
        700 => "real",
        701 => "double precision",
        790 => "money",
        869 => "inet",
        1042 => "bpchar",
        1043 => "character varying",
        1082 => "date",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1186 => "interval",
        1266 => "time with time zone",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        _ => "",
    };
    if !built_in.is_empty() {
        return Ok(built_in.to_owned());
    }
    // Arrays of arrays would be flattened by unnest; bit's name means bit(1); a server does not read an empty int2vector or tsquery as
    // it sends it.
    match schema.type_names.get(&oid) {
        Some(name) if !name.ends_with("[]") && !matches!(oid, 22 | 1560 | 3615) => Ok(name.clone()),
        _ => Err(Refusal::new(
            RefusalCode::PartialType,
            format!("values of type {oid} in a grouped SELECT across shards are not supported"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ShardSet;

    fn plan(finish: Vec<FinalPiece>, n_columns: usize, c_columns: Vec<usize>) -> CombinePlan {
        CombinePlan { shards: ShardSet::first(2), text: String::new(), n_columns, c_columns, odd_columns: Vec::new(), finish }
    }

    #[test]
    fn types_decide_the_casts() {
        let text = |text: &str| FinalPiece::Text(text.to_owned());
        let sum = plan(vec![text("SELECT "), FinalPiece::Sum { column_idx: 0 }, text(" FROM "), FinalPiece::Source], 1, vec![]);
        assert_eq!(
            sum.final_sql(&[20], &Schema::default()).unwrap(),
            "SELECT (sum(p.c0)::bigint) FROM unnest($1::bigint[]) AS p(c0)"
        );
        assert_eq!(sum.final_sql(&[25], &Schema::default()).unwrap_err().code, RefusalCode::PartialType);
        let max = plan(vec![FinalPiece::Max { column_idx: 0 }, text(" FROM "), FinalPiece::Source], 1, vec![0]);
        assert_eq!(
            max.final_sql(&[25], &Schema::default()).unwrap(),
            "max(p.c0) FROM (SELECT c0 COLLATE \"C\" AS c0 FROM unnest($1::text[]) AS p(c0)) AS p"
        );
        let avg = plan(vec![FinalPiece::Avg { sum_idx: 0, count_idx: 1 }], 2, vec![]);
        assert_eq!(avg.final_sql(&[20, 20], &Schema::default()).unwrap(), "(sum(p.c0)::numeric / nullif(sum(p.c1), 0))");
        assert_eq!(avg.final_sql(&[700, 20], &Schema::default()).unwrap_err().code, RefusalCode::PartialType);
        assert_eq!(avg.final_sql(&[20], &Schema::default()).unwrap_err().code, RefusalCode::PartialType);
    }
}
