//! SQL's own PREPARE and EXECUTE: statements of the session, under the same names as those of the protocol.
//!
//! EXECUTE binds its arguments to the prepared statement as parameters, so it is planned and run like an Execute of the
//! protocol. A server evaluates the arguments.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::Conversation;
use super::batch::{SessionStatement, Target, bind_parts};
use super::describe::column_types;
use super::enlist::Watched;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::merge::Description;
use super::own::Progress;
use super::relay::{Mark, Ready};
use super::run::Run;
use crate::plan::Access;
use crate::session::prepared::{Prepared, ToldTypes};
use crate::session::row_description::columns;
use crate::session::transaction::Phase;
use crate::session::unpooled::{Leftover, SettingsTrace};
use crate::session::wire::{self, BodyReader, HEADER_LEN};
use crate::sql::{Classified, ExecuteParts, classify, execute_parts, prepare_parts};
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// How the client wants what EXECUTE gives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub description: Description,
    pub result_formats: &'a [i16],
}

/// A statement that was prepared before, with its parameters' types.
struct Stored {
    statement: SessionStatement,
    types: Vec<u32>,
}

/// An EXECUTE with its arguments bound.
pub(super) struct Named {
    stored: Stored,
    values: Vec<Option<Bytes>>,
    /// The tail of a Bind with them.
    body: BytesMut,
    target: Target,
}

impl Conversation {
    /// Runs PREPARE. The text is looked at by a server before the name, as in Postgres.
    ///
    /// # Errors
    /// The server's for the text; the planner's refusals; 42P05; 54000.
    pub(super) async fn prepare_named(&mut self, name: &str, sql: &str) -> Result<(), Failure> {
        let Some(parts) = prepare_parts(sql.as_bytes(), self.plan_settings.has_standard_strings) else {
            return Err(self.not_understood(sql).await);
        };
        let body = sql.get(parts.body_start..).unwrap_or_default().trim_end().trim_end_matches(';').trim_end();
        if !matches!(classify(body.as_bytes(), self.plan_settings.has_standard_strings), Classified::Query | Classified::Unknown)
        {
            return Err(self.not_understood(sql).await);
        }
        let cached = match self.fresh_template(body).await {
            Ok(cached) => cached,
            Err(refusal) => return Err(shifted(self.unparsed(body, refusal).await, sql, parts.body_start)),
        };
        let literals = Arc::from(self.fingerprint.literals.as_slice());
        let mut types = Vec::with_capacity(parts.types.len());
        for range in parts.types {
            let text = sql.get(range.clone()).unwrap_or_default();
            types.push(self.type_oid(text).await.map_err(|failure| moved(failure, sql, range.start, TYPE_PROBE.len()))?);
        }
        let shard = self.describing_shard(&cached.template.describe_shard()).await?;
        let described = self.describe(shard, body, &types).await;
        let described = described.map_err(|failure| shifted(failure, sql, parts.body_start))?;
        let types = described.param_types.clone();
        let told = ToldTypes { params: types.clone().into(), columns: column_types(described).into() };
        self.check_name(name.as_bytes())?;
        self.statements.check_room(name.as_bytes(), name.len() + body.len(), &self.database.query)?;
        self.check_leftover(cached.leftover)?;
        let prepared = self.intern(Bytes::copy_from_slice(body.as_bytes()), types);
        let statement = SessionStatement { prepared, cached, literals, planned: self.planned_now(), told: Some(Arc::new(told)) };
        self.statements.insert(Bytes::copy_from_slice(name.as_bytes()), statement);
        wire::command_complete(&mut self.client.output, b"PREPARE");
        self.release_if_idle().await;
        Ok(())
    }

    /// Runs EXECUTE, EXPLAIN EXECUTE or CREATE TABLE … AS EXECUTE. True if ReadyForQuery is already with the client.
    ///
    /// # Errors
    /// 26000; 42601 for the number of arguments; a server's for the arguments and for the statement itself.
    pub(super) async fn execute_named(&mut self, sql: &str, wanted: Wanted<'_>, ready: Ready) -> Result<bool, Failure> {
        let named = self.bind_named(sql, wanted.result_formats).await?;
        self.run_named(named, wanted, ready).await
    }

    /// Looks up what an EXECUTE names, and binds its arguments. Errors are those of [`Self::execute_named`].
    async fn bind_named(&mut self, sql: &str, result_formats: &[i16]) -> Result<Box<Named>, Failure> {
        let Some(parts) = execute_parts(sql.as_bytes(), self.plan_settings.has_standard_strings) else {
            return Err(self.not_understood(sql).await);
        };
        let stored = match self.stored(&parts, sql).await {
            Ok(stored) => stored,
            // The grammar is looked at first.
            Err(failure) => return Err(self.grammar_failure(sql).await.unwrap_or(failure)),
        };
        let (n_expected, n_given) = (stored.types.len(), parts.arguments.len());
        // What has no parameters takes any arguments, and does not look at them: EvaluateParams in src/backend/commands/prepare.c.
        if n_expected != n_given && n_expected > 0 {
            let message = format!("wrong number of parameters for prepared statement \"{}\"", parts.name);
            let detail = format!("Expected {n_expected} parameters but got {n_given}.");
            let failure = Failure::client(Report::new(SqlState::SYNTAX_ERROR, message).with_detail(detail));
            return Err(self.grammar_failure(sql).await.unwrap_or(failure));
        }
        let values = self.argument_values(sql, &parts, &stored.types).await?;
        let body = bind_body(&values, result_formats);
        self.check_leftover(stored.statement.cached.leftover)?;
        let target = self.target(&stored.statement, &bind_parts(&body, b"", b"", BodyReader(&body))?)?;
        Ok(Box::new(Named { stored, values, body, target }))
    }

    /// Runs a bound EXECUTE. True if ReadyForQuery is already with the client.
    ///
    /// # Errors
    /// A server's for the statement.
    pub(super) async fn run_named(&mut self, named: Box<Named>, wanted: Wanted<'_>, ready: Ready) -> Result<bool, Failure> {
        let Named { stored, body, target, .. } = *named;
        match target {
            Target::Own { plan, values } => {
                let values = BoundValues { param_types: stored.types, ..values.as_ref().clone() };
                self.run_many(&stored.statement.prepared.text, &plan, &values, wanted.description).await?;
                Ok(false)
            }
            Target::One { shard, access, leftover, changes } => {
                let shard = match shard {
                    Some(shard) => shard,
                    None => self.any_live_shard(access).await?,
                };
                let mut run = Run::new(shard, leftover);
                run.changes = changes.iter().flat_map(|changes| changes.iter().cloned()).collect();
                self.run_stored((run, access), &stored.statement, &body, (wanted, ready)).await
            }
        }
    }

    /// Opens a portal for the rows of an EXECUTE; the inner `Err`: it gives none before it has run whole.
    ///
    /// # Errors
    /// Those of [`Self::execute_named`]; TL097 where what it leaves behind could not be followed.
    pub(super) async fn open_named(&mut self, sql: &str, values: &BoundValues) -> Result<Result<Progress, Box<Named>>, Failure> {
        let named = self.bind_named(sql, &values.result_formats).await?;
        let text = &*named.stored.statement.prepared.text;
        match &named.target {
            Target::Own { plan, values } if plan.reads_several() => {
                let values = BoundValues { param_types: named.stored.types.clone(), ..values.as_ref().clone() };
                self.open_rows(text, plan, &values).await.map(Ok)
            }
            Target::One { shard, access, leftover, changes } => {
                let shard = match shard {
                    Some(shard) => *shard,
                    None => self.any_live_shard(*access).await?,
                };
                let described = self.describe(shard, text, &named.stored.types).await?;
                let Some(columns) = described.row_description else { return Ok(Err(named)) };
                if *leftover != Leftover::NOTHING || changes.is_some() {
                    return Err(Failure::refused(
                        "TL097",
                        "a row limit for an EXECUTE that may change the session is not supported",
                        "Fetch all rows at once, or prepare the statement by the protocol.",
                    ));
                }
                let mut encoded = bind_body(&named.values, &[]);
                encoded.truncate(encoded.len() - 2);
                let (param_types, result_formats) = (named.stored.types.clone(), values.result_formats.clone());
                let bound = BoundValues { param_types, encoded: encoded.freeze(), result_formats, told: None };
                let open = self.open_portal_of_one((shard, *access), text, &bound, &columns).await?;
                Ok(Ok(Progress::Open(Box::new(open))))
            }
            Target::Own { .. } => Ok(Err(named)),
        }
    }

    /// The body of the RowDescription of an EXECUTE; `None` when there is none, or no such statement.
    ///
    /// # Errors
    /// A server's.
    pub(super) async fn describe_named(&mut self, sql: &str) -> Result<Option<Bytes>, Failure> {
        let Some(parts) = execute_parts(sql.as_bytes(), self.plan_settings.has_standard_strings) else { return Ok(None) };
        let Ok(stored) = self.stored(&parts, sql).await else { return Ok(None) };
        let shard = self.describing_shard(&stored.statement.cached.template.describe_shard()).await?;
        let prepared = &stored.statement.prepared;
        let described = self.describe(shard, &prepared.text, &prepared.param_types).await?;
        Ok(described.row_description)
    }

    /// 42P05 for a name that is taken.
    pub(super) fn check_name(&self, name: &[u8]) -> Result<(), Failure> {
        if name.is_empty() || self.statements.get(name).is_none() {
            return Ok(());
        }
        let message = format!("prepared statement \"{}\" already exists", String::from_utf8_lossy(name));
        Err(Failure::client(Report::new(SqlState::DUPLICATE_PREPARED_STATEMENT, message)))
    }

    /// The statement that an EXECUTE names, with what stands around the EXECUTE put around it.
    async fn stored(&mut self, parts: &ExecuteParts, sql: &str) -> Result<Stored, Failure> {
        let mut statement = self.statement(parts.name.as_bytes())?.clone();
        self.renew_statement(parts.name.as_bytes(), &mut statement).await?;
        let Prepared { text, param_types, .. } = &*Arc::clone(&statement.prepared);
        let shard = self.describing_shard(&statement.cached.template.describe_shard()).await?;
        let types = self.describe(shard, text, param_types).await?.param_types;
        let around = (sql.get(..parts.start).unwrap_or_default(), sql.get(parts.end..).unwrap_or_default());
        if !around.0.trim().is_empty() {
            let text = format!("{}{text}{}", around.0, around.1.trim_end().trim_end_matches(';'));
            statement.cached = match self.fresh_template(&text).await {
                Ok(cached) => cached,
                Err(refusal) => return Err(self.unparsed(&text, refusal).await),
            };
            statement.literals = Arc::from(self.fingerprint.literals.as_slice());
            statement.prepared = self.intern(Bytes::from(text), types.clone());
        }
        Ok(Stored { statement, types })
    }

    /// A shard to look at a text: the one that it needs, or any.
    async fn describing_shard(&mut self, needed: &Option<ShardId>) -> Result<ShardId, Failure> {
        match needed {
            Some(shard) => Ok(*shard),
            None => self.any_live_shard(Access::Read).await,
        }
    }

    /// The OID of a type by its name.
    async fn type_oid(&mut self, name: &str) -> Result<u32, Failure> {
        let shard = self.describing_shard(&None).await?;
        let described = self.describe(shard, &format!("{TYPE_PROBE}{name}"), &[]).await?;
        let body = described.row_description.unwrap_or_default();
        Ok(columns(&body).and_then(|columns| columns.first().map(|column| column.type_oid)).unwrap_or(0))
    }

    async fn release_if_idle(&mut self) {
        if self.transaction.phase == Phase::Idle {
            self.settle_pins(true).await;
            self.release();
        }
    }

    /// The values of the arguments, converted to the parameters' types as EXECUTE converts them: by a server, where they are
    /// more than plain literals.
    async fn argument_values(&mut self, sql: &str, parts: &ExecuteParts, types: &[u32]) -> Result<Vec<Option<Bytes>>, Failure> {
        let texts = || parts.arguments.iter().map(|range| sql.get(range.clone()).unwrap_or_default());
        if types.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(values) = texts().zip(types).map(|(text, type_oid)| plain_value(text, *type_oid)).collect() {
            return Ok(values);
        }
        let access = if texts().any(|text| text.contains('(')) { Access::Write } else { Access::Read };
        let shard = self.any_live_shard(access).await?;
        // Arguments may call functions that leave something.
        let leftover = self.template(sql)?.leftover;
        self.check_leftover(leftover)?;
        self.check_parameter_types(shard, types).await?;
        let idx = self.enlist_to_leave(shard, access, leftover).await?;
        if leftover.settings != SettingsTrace::Kept {
            self.enlisted[idx].lease.settings = None;
        }
        let parameters: Vec<String> = (1..=types.len()).map(|number| format!("${number}")).collect();
        let echo = self.intern(Bytes::from(format!("SELECT {}", parameters.join(", "))), types.to_vec());
        let (Some(first), Some(last)) = (parts.arguments.first(), parts.arguments.last()) else { return Ok(Vec::new()) };
        let prefix = format!("EXECUTE {}(", echo.server_name);
        let text = format!("{prefix}{})", sql.get(first.start..last.end).unwrap_or_default());
        match self.evaluate(idx, &echo, &text).await {
            Ok(values) => {
                self.release_if_idle().await;
                Ok(values)
            }
            Err(failure) => Err(moved(failure, sql, first.start, prefix.len())),
        }
    }

    /// The one row of a text that executes `echo`.
    async fn evaluate(&mut self, idx: usize, echo: &Prepared, text: &str) -> Result<Vec<Option<Bytes>>, Failure> {
        let types = self.view.types.of(self.enlisted[idx].lease.shard);
        let connection = self.enlisted[idx].begin_statement();
        connection.unnamed = None;
        connection.prepare(echo, types);
        let output = &mut connection.socket.output;
        wire::parse(output, b"", text.as_bytes(), &[]);
        wire::bind(output, b"", b"", &[0, 0, 0, 0, 0, 0]);
        wire::execute(output, b"", 0);
        wire::bare(output, b'S');
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            return Err(self.abandon(idx, error).await);
        }
        let mut values = Vec::new();
        let mut failure = None;
        loop {
            let (tag, message) = self.next_message(idx, Watched::Client).await?;
            match tag {
                b'D' => {
                    let fields = wire::fields(&message[HEADER_LEN..]).unwrap_or_default();
                    values = fields.into_iter().map(|field| field.map(Bytes::copy_from_slice)).collect();
                }
                b'E' => failure = Some(self.shard_error(idx, &message)),
                b'Z' => return failure.map_or(Ok(values), Err),
                _ => {}
            }
        }
    }

    /// Runs a prepared statement on one shard, whose answer the client gets without what belongs to Parse and Bind.
    async fn run_stored(
        &mut self,
        (mut run, access): (Run, Access),
        statement: &SessionStatement,
        body: &[u8],
        (wanted, ready): (Wanted<'_>, Ready),
    ) -> Result<bool, Failure> {
        let Wanted { description, result_formats } = wanted;
        self.check_parameter_types(run.shard, &statement.prepared.param_types).await?;
        let idx = self.enlist_to_leave(run.shard, access, run.leftover).await?;
        self.enlisted[idx].begin_statement();
        let name = self.ensure_parsed(idx, &mut run, true, &statement.prepared);
        let output = &mut self.enlisted[idx].lease.socket.output;
        wire::bind(output, b"", name.as_bytes(), body);
        let formats = self.kept_formats(result_formats);
        if description == Description::Send {
            wire::describe_or_close(&mut self.enlisted[idx].lease.socket.output, b'D', b'P', b"");
            self.expect_columns_of(idx, &statement.prepared, None);
        } else {
            self.learn_columns(idx, b"", (&statement.prepared, &formats));
        }
        wire::execute(&mut self.enlisted[idx].lease.socket.output, b"", 0);
        self.expect_rows(idx, &statement.prepared, &formats);
        run.push(Mark::Hide);
        let is_last = self.transaction.phase != Phase::Implicit && !self.has_untold_parameters();
        let ready = if is_last { ready } else { Ready::Swallow };
        let is_synced = self.finish_run(&mut run, ready).await?;
        Ok(is_synced && ready == Ready::Relay)
    }
}

const TYPE_PROBE: &str = "SELECT NULL::";

/// The tail of a Bind with these values as text.
fn bind_body(values: &[Option<Bytes>], result_formats: &[i16]) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_i16(0);
    body.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
    for value in values {
        match value {
            None => body.put_i32(-1),
            Some(value) => {
                body.put_i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
                body.put_slice(value);
            }
        }
    }
    body.put_u16(u16::try_from(result_formats.len()).unwrap_or(u16::MAX));
    result_formats.iter().for_each(|format| body.put_i16(*format));
    body
}

/// The value of a literal that cannot be wrong for its type and means the same in Bind: NULL, a plain string for text, a small
/// whole number for a type of numbers.
fn plain_value(text: &str, type_oid: u32) -> Option<Option<Bytes>> {
    // From pg_type: text, varchar; int8, int4, numeric.
    const STRINGS: [u32; 2] = [25, 1043];
    const NUMBERS: [u32; 3] = [20, 23, 1700];
    if text.eq_ignore_ascii_case("null") {
        return Some(None);
    }
    let is_plain = |body: &str| !body.contains(['\'', '\\']);
    let string = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).filter(|body| is_plain(body));
    if let Some(body) = string.filter(|_| STRINGS.contains(&type_oid)) {
        return Some(Some(Bytes::copy_from_slice(body.as_bytes())));
    }
    let digits = string.unwrap_or(text);
    let is_small = (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_small && NUMBERS.contains(&type_oid)).then(|| Some(Bytes::copy_from_slice(digits.as_bytes())))
}

/// An error about a part of the text that starts at byte `start`, as one about the whole.
fn shifted(failure: Failure, sql: &str, start: usize) -> Failure {
    moved(failure, sql, start, 0)
}

/// The same for a text that has `n_before` characters before the part.
pub(super) fn moved(failure: Failure, sql: &str, start: usize, n_before: usize) -> Failure {
    let Failure::Shard(message) = failure else { return failure };
    let n_there = sql.get(..start).map_or(0, |before| before.chars().count());
    let mut encoded = BytesMut::with_capacity(message.len());
    wire::report_with_position(&mut encoded, message.get(HEADER_LEN..).unwrap_or_default(), |position| {
        position.checked_sub(n_before).map(|position| position + n_there)
    });
    Failure::Shard(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literals_that_cannot_be_wrong_are_taken_unseen() {
        let of = |text, type_oid| {
            plain_value(text, type_oid).map(|value| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        assert_eq!(of("NULL", 600), Some(None));
        assert_eq!(of("'a b'", 25), Some(Some("a b".to_owned())));
        assert_eq!(of("42", 23), Some(Some("42".to_owned())));
        assert_eq!(of("'42'", 20), Some(Some("42".to_owned())));
        for (text, type_oid) in
            [("'it''s'", 25), ("E'a'", 25), ("42", 25), ("'x'", 23), ("4294967296", 23), ("1+1", 23), ("'2024-01-01'", 1082)]
        {
            assert_eq!(of(text, type_oid), None, "{text}");
        }
    }
}
