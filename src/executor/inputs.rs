//! The tables of a gather plan: their rows are read from the shards, and go to the engine as arrays if they are few, else into a
//! temporary table.
//!
//! Where rows of one table say which of another's matter, the smaller is read first, and the other's shards are asked for these.

use std::collections::{HashMap, HashSet};

use bytes::{Buf, BufMut, BytesMut};

use super::Conversation;
use super::array::Array;
use super::enlist::Enlisted;
use super::failure::Failure;
use super::fan_out::BoundValues;
use super::gather::Gathering;
use super::merge::malformed;
use crate::backend::OUTPUT_HIGH_WATER;
use crate::plan::{Access, GatherColumn, GatherInput, GatherLink, GatherPlace, GatherPlan, GatherSource};
use crate::session::copy_rows::BINARY_HEADER;
use crate::session::wire::{self, HEADER_LEN};
use crate::topology::{ShardId, ShardSet};

/// Most rows of a table that go to the engine as arrays, however small they are.
const MAX_ARRAY_ROWS: u64 = 10_000;

/// From this many rows on a temporary table's statistics and indexes are worth making, and a table wanted for its indexes is one.
const MIN_ANALYZED_ROWS: u64 = 1_000;

/// Most values of one table's column by which another table's rows are asked for.
const MAX_LINKED_VALUES: usize = 10_000;

/// A longer value may not fit into an entry of a B-tree, of which three are to be on a page: src/include/access/nbtree.h,
/// `BTMaxItemSize`.
const MAX_INDEXED_BYTES: usize = 2_000;

/// Most parameters of a Bind: their number has 16 bits.
const MAX_PARAMS: usize = u16::MAX as usize;

/// What is known of a plan's tables while they are read.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Most bytes of a table that go to the engine as arrays; 0: none do.
    max_array_bytes: usize,
    /// GROUP BY leans on primary keys, which only tables have.
    has_keys: bool,
    n_params: usize,
    /// Of those that were brought, by their index.
    places: HashMap<usize, GatherPlace>,
    arrays: Vec<Array>,
    /// Distinct values of columns that links begin at, by the indexes of input and column; none where they are too many.
    values: HashMap<(usize, usize), HashSet<Vec<u8>>>,
    /// Rows that the planner of a shard expects of tables in links.
    estimates: HashMap<usize, u64>,
}

/// A table that is being read.
#[derive(Debug)]
struct Load<'a> {
    input_idx: usize,
    input: &'a GatherInput,
    has_key: bool,
    /// CopyData messages with a row each, while they are few; `None`: they go into a temporary table.
    few: Option<BytesMut>,
    max_bytes: usize,
    /// Distinct values so far of the columns with these indexes.
    values: Vec<(usize, HashSet<Vec<u8>>)>,
    n_rows: u64,
    /// Of the columns that are looked up, in bytes.
    longest: usize,
}

/// What one table's shards are asked for because of what was read before.
#[derive(Debug)]
struct Restriction {
    /// Those that may have rows.
    shards: ShardSet,
    terms: Vec<String>,
    arrays: Vec<Array>,
}

impl Inputs {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// 08P01 for parameters that cannot be read.
    pub(super) fn new(gathering: &Gathering<'_>, max_array_bytes: usize, has_keys: bool) -> Result<Self, Failure> {
        Ok(Self {
            max_array_bytes,
            has_keys,
            n_params: gathering.values.n_values()?,
            places: HashMap::new(),
            arrays: Vec::new(),
            values: HashMap::new(),
            estimates: HashMap::new(),
        })
    }

    /// Where the engine finds the rows of an input.
    pub(super) fn place(&self, input_idx: usize) -> GatherPlace {
        self.places.get(&input_idx).copied().unwrap_or(GatherPlace::Named)
    }

    /// The parameters of the engine's statement.
    pub(super) fn values(&self, own: &BoundValues) -> Result<BoundValues, Failure> {
        own.with_arrays(&self.arrays)
    }

    /// What links from tables that have been read say of this one, whose rows are on these shards.
    fn restriction(&self, plan: &GatherPlan, input_idx: usize, shards: ShardSet) -> Restriction {
        let mut restriction = Restriction { shards, terms: Vec::new(), arrays: Vec::new() };
        let expected = self.estimates.get(&input_idx).copied().unwrap_or(u64::MAX);
        for link in plan.links.iter().filter(|link| link.to.0 == input_idx) {
            let Some(values) = self.values.get(&link.from).filter(|values| values.len() as u64 <= expected / 2) else { continue };
            let column = |(input_idx, column_idx): (usize, usize)| plan.inputs.get(input_idx)?.columns.get(column_idx);
            let Some((from, to)) = column(link.from).zip(column(link.to)) else { continue };
            if self.n_params + restriction.arrays.len() >= MAX_PARAMS {
                break;
            }
            let mut array = Array::of(from.sent_type());
            values.iter().for_each(|value| array.push(Some(value)));
            restriction.arrays.push(array);
            restriction.terms.push(to.is_among(from, self.n_params + restriction.arrays.len()));
            if let Some(home) = link.shards_of(values.iter().map(Vec::as_slice), from.sent_type()) {
                restriction.shards = restriction.shards.intersection(home);
            }
        }
        restriction
    }

    fn load<'a>(&self, (input_idx, input): (usize, &'a GatherInput), plan: &GatherPlan) -> Load<'a> {
        let columns: HashSet<usize> =
            plan.links.iter().map(|link| link.from).filter(|from| from.0 == input_idx).map(|from| from.1).collect();
        let values = columns.into_iter().map(|column_idx| (column_idx, HashSet::new())).collect();
        let has_room = self.n_params + self.arrays.len() + input.columns.len() <= MAX_PARAMS;
        let has_key = self.has_keys && !input.primary_key.is_empty();
        let few = (self.max_array_bytes > 0 && !has_key && input.has_arrays() && has_room).then(BytesMut::new);
        Load { input_idx, input, has_key, few, max_bytes: self.max_array_bytes, values, n_rows: 0, longest: 0 }
    }

    /// Notes where the rows of a table are now.
    fn loaded(&mut self, load: Load<'_>) -> Result<(), Failure> {
        let place = match &load.few {
            None => GatherPlace::Temporary,
            Some(rows) => {
                let first = self.n_params + self.arrays.len() + 1;
                self.arrays.extend(arrays(load.input, rows)?);
                GatherPlace::Arrays { first }
            }
        };
        self.places.insert(load.input_idx, place);
        self.values.extend(load.values.into_iter().map(|(column_idx, values)| ((load.input_idx, column_idx), values)));
        Ok(())
    }
}

/// The columns of rows in CopyData messages.
fn arrays(input: &GatherInput, mut rows: &[u8]) -> Result<Vec<Array>, Failure> {
    let odd_row = || malformed("a shard sent a malformed row");
    let mut arrays: Vec<Array> = input.columns.iter().map(|column| Array::of(column.sent_type())).collect();
    while let Some(header) = wire::header(rows).map_err(|_| odd_row())? {
        let (message, rest) = rows.split_at_checked(header.len).ok_or_else(odd_row)?;
        let fields = wire::fields(message.get(HEADER_LEN..).unwrap_or_default()).filter(|fields| fields.len() == arrays.len());
        arrays.iter_mut().zip(fields.ok_or_else(odd_row)?).for_each(|(array, field)| array.push(field));
        rows = rest;
    }
    Ok(arrays)
}

impl Load<'_> {
    /// Notes the row that a DataRow's body holds.
    fn note(&mut self, body: &[u8]) {
        self.n_rows += 1;
        for &column_idx in &self.input.looked_up {
            let length = wire::field(body, column_idx).flatten().map_or(0, <[u8]>::len);
            self.longest = self.longest.max(length);
        }
        self.values.retain_mut(|(column_idx, values)| {
            if let Some(Some(value)) = wire::field(body, *column_idx)
                && !values.contains(value)
            {
                values.insert(value.to_vec());
            }
            values.len() <= MAX_LINKED_VALUES
        });
    }

    fn is_too_large(&self) -> bool {
        let max_rows = if self.input.looked_up.is_empty() { MAX_ARRAY_ROWS } else { MIN_ANALYZED_ROWS };
        self.few.as_ref().is_some_and(|rows| self.n_rows > max_rows || rows.len() > self.max_bytes)
    }
}

/// A primary key holds on each shard by itself.
fn not_unique(input: &GatherInput) -> Failure {
    let message =
        format!("GROUP BY leans on the primary key of \"{}\", of which several shards have the same value", input.table);
    Failure::refused(
        "TL083",
        message,
        "Name all columns outside aggregates in GROUP BY, or bind the statement to one shard by key.",
    )
}

impl Conversation {
    /// Brings the rows of these inputs to the engine, in whose transaction temporary tables are made.
    ///
    /// # Errors
    /// A shard's or the engine's own, 54000 over a limit of what may be gathered.
    pub(super) async fn bring_all(
        &mut self,
        engine: &mut Enlisted,
        brought: &[(usize, &GatherInput)],
        (gathering, inputs): (&mut Gathering<'_>, &mut Inputs),
    ) -> Result<(), Failure> {
        let deadline = self.timer.deadline();
        let mut order: Vec<usize> = (0..brought.len()).collect();
        for (input_idx, input) in brought {
            let is_linked = |link: &GatherLink| link.to.0 == *input_idx || link.from.0 == *input_idx;
            if gathering.plan.links.iter().any(is_linked) {
                self.timer.set(deadline);
                let n_rows = self.estimate(input, gathering.values).await?;
                inputs.estimates.insert(*input_idx, n_rows);
            }
        }
        order.sort_by_key(|&part_idx| inputs.estimates.get(&brought[part_idx].0).copied().unwrap_or(0));
        for part_idx in order {
            self.watch_part(part_idx + 1);
            self.timer.set(deadline);
            self.bring(engine, brought[part_idx], (gathering, inputs)).await?;
        }
        Ok(())
    }

    fn shards_of(&mut self, input: &GatherInput) -> ShardSet {
        match input.source {
            GatherSource::Shards(shards) => shards,
            GatherSource::AnyOne => ShardSet::only(self.any_shard()),
        }
    }

    /// How many rows a shard's planner expects, times the shards.
    async fn estimate(&mut self, input: &GatherInput, values: &BoundValues) -> Result<u64, Failure> {
        let shards = self.shards_of(input);
        let Some(shard) = shards.iter().next() else { return Ok(0) };
        let text = format!("EXPLAIN {}", input.select_sql(&[]));
        let watch = self.watch.take();
        let outcome = self.first_line(shard, &text, values).await;
        self.watch = watch;
        let line = outcome?;
        let n_rows = line.split_once(" rows=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        Ok(n_rows.map_or(u64::MAX, |n_rows| n_rows.saturating_mul(shards.len() as u64)))
    }

    async fn first_line(&mut self, shard: ShardId, text: &str, values: &BoundValues) -> Result<String, Failure> {
        let idxs = self.fan_out(&[(shard, text)], Access::Read, values, &[0]).await?;
        let mut first = None;
        while let Some(row) = self.next_row(&idxs, idxs[0]).await? {
            let line = wire::field(&row, 0).flatten().unwrap_or_default();
            first.get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
        }
        Ok(first.unwrap_or_default())
    }

    /// Reads one table's rows from the shards.
    async fn bring(
        &mut self,
        engine: &mut Enlisted,
        (input_idx, input): (usize, &GatherInput),
        (gathering, inputs): (&mut Gathering<'_>, &mut Inputs),
    ) -> Result<(), Failure> {
        let restriction = inputs.restriction(gathering.plan, input_idx, self.shards_of(input));
        let values = gathering.values.with_arrays(&restriction.arrays)?;
        let text = input.select_sql(&restriction.terms);
        let statements: Vec<(ShardId, &str)> = restriction.shards.iter().map(|shard| (shard, text.as_str())).collect();
        let idxs = self.fan_out(&statements, Access::Read, &values, &[1]).await?;
        self.expect_columns(input.columns.iter().map(GatherColumn::sent_type));
        let mut load = inputs.load((input_idx, input), gathering.plan);
        let outcome = self.stream(engine, &idxs, (&mut load, gathering)).await;
        if outcome.is_err() {
            // Those that a shard's failure has ended already are ready, or gone.
            let running: Vec<usize> = (0..self.enlisted.len()).filter(|&idx| !self.enlisted[idx].is_ready).collect();
            self.cancel_and_drain(&running).await;
        }
        outcome?;
        inputs.loaded(load)
    }

    async fn stream(
        &mut self,
        engine: &mut Enlisted,
        idxs: &[usize],
        (load, gathering): (&mut Load<'_>, &mut Gathering<'_>),
    ) -> Result<(), Failure> {
        if load.few.is_none() {
            self.make_table(engine, load).await?;
        }
        loop {
            let mut open = None;
            for &idx in idxs {
                let (n_before, n_bytes) = (load.n_rows, self.move_rows(engine, (idxs, idx), load).await?);
                self.watch_rows(idx, load.n_rows - n_before, n_bytes);
                gathering.holding.add(load.n_rows - n_before, n_bytes)?;
                if !self.enlisted[idx].is_ready {
                    open = Some(idx);
                }
            }
            let Some(wanted) = open else { break };
            self.fill_any(idxs, wanted).await?;
        }
        if load.few.is_none() {
            self.end_table(engine, load).await?;
        }
        Ok(())
    }

    /// Makes the temporary table of an input and begins to fill it, with what has come already.
    async fn make_table(&mut self, engine: &mut Enlisted, load: &mut Load<'_>) -> Result<(), Failure> {
        let table = GatherInput::temporary(load.input_idx);
        let sql = format!("{};COPY {table} FROM STDIN (FORMAT binary)", load.input.create_sql(load.input_idx, load.has_key));
        engine.begin_statement().write_query(sql.as_bytes());
        self.send_to_engine(engine).await?;
        while self.next_of_engine(engine).await?.0 != b'G' {}
        let output = &mut engine.lease.socket.output;
        wire::copy_data(output, BINARY_HEADER);
        output.extend_from_slice(&load.few.take().unwrap_or_default());
        Ok(())
    }

    async fn end_table(&mut self, engine: &mut Enlisted, load: &Load<'_>) -> Result<(), Failure> {
        let output = &mut engine.lease.socket.output;
        wire::copy_data(output, &(-1i16).to_be_bytes());
        wire::bare(output, b'c');
        self.send_to_engine(engine).await?;
        self.finish_on_engine(engine).await.map_err(|failure| match failure.sqlstate() {
            Some(b"23505") => not_unique(load.input),
            _ => failure,
        })?;
        if load.n_rows < MIN_ANALYZED_ROWS {
            return Ok(());
        }
        self.run_on_engine(engine, &load.input.prepare_sql(load.input_idx, load.longest > MAX_INDEXED_BYTES)).await
    }

    /// Moves the whole rows in a backend's buffer to the engine's output, or keeps them while they are few; sends that on when it
    /// has grown large. Gives the rows' bytes. A DataRow's body in binary is a tuple of COPY's binary format, byte for byte, and its
    /// frame that of CopyData.
    async fn move_rows(
        &mut self,
        engine: &mut Enlisted,
        (idxs, idx): (&[usize], usize),
        load: &mut Load<'_>,
    ) -> Result<u64, Failure> {
        let mut n_bytes = 0;
        while !self.enlisted[idx].is_ready {
            let header = match self.enlisted[idx].lease.buffered_header() {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(_) => return self.next_of(idxs, idx).await.map(|_| n_bytes),
            };
            if header.tag != b'D' {
                match (header.tag, self.enlisted[idx].take_answer(header)) {
                    (b'E', Some(message)) => return Err(self.shard_failed(idxs, idx, &message).await),
                    (b'T', Some(message)) => self.check_described(idxs, &message).await?,
                    _ => {}
                }
                continue;
            }
            let input = &mut self.enlisted[idx].lease.socket.input;
            load.note(&input[HEADER_LEN..header.len]);
            let output = load.few.as_mut().unwrap_or(&mut engine.lease.socket.output);
            output.put_u8(b'd');
            output.extend_from_slice(&input[1..header.len]);
            input.advance(header.len);
            n_bytes += header.len as u64;
            if load.is_too_large() {
                self.make_table(engine, load).await?;
            }
            if engine.lease.socket.output.len() >= OUTPUT_HIGH_WATER {
                self.send_to_engine(engine).await?;
                if engine.has_answered() {
                    // In the middle of a COPY it says only why it fails.
                    self.finish_on_engine(engine).await?;
                }
            }
        }
        Ok(n_bytes)
    }
}
