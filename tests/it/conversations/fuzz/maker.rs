//! Random messages of all kinds, most of them such as a client might send.

use crate::harness::message;
use crate::harness::random::Random;

const STATEMENTS: &[&str] = &["", "s", "t"];
const PORTALS: &[&str] = &["", "p", "q"];

/// What any client might ask, on one shard and on many.
const TEXTS: &[&str] = &[
    "SELECT 1",
    "SELECT 1, NULL, 'x'",
    "SELECT $1::int + 1",
    "SELECT $1::text",
    "SELECT name FROM users WHERE user_id = $1",
    "SELECT user_id, name FROM users ORDER BY user_id",
    "SELECT count(*) FROM users",
    "SELECT actor FROM audit ORDER BY audit_id",
    "SELECT generate_series(1, 5)",
    "SELECT 1/0",
    "SELEKT",
    "",
    " ; ",
    "-- nothing",
    "SELECT 1;",
    "BEGIN",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "INSERT INTO audit VALUES (20, 'x', 'y', '2024-01-01')",
    "INSERT INTO audit VALUES (21, 'x', 'y', '2024-01-01')",
    "INSERT INTO audit VALUES ($1, 'x', 'y', '2024-01-01') RETURNING audit_id",
    "UPDATE audit SET actor = 'zoe' WHERE audit_id = 1",
    "DELETE FROM audit WHERE audit_id = 2",
    "UPDATE users SET name = 'zoe' WHERE user_id = 2",
    "INSERT INTO users VALUES (30, 'x', '', 'us', '2024-01-01'), (31, 'x', '', 'us', '2024-01-01')",
    "COPY audit FROM STDIN",
    "COPY users FROM STDIN",
    "COPY (SELECT 1) TO STDOUT",
    "COPY audit TO STDOUT",
    "SET TimeZone TO 'Asia/Tokyo'",
    "RESET TimeZone",
    "SHOW TimeZone",
    "SET application_name TO 'x'",
    "SET LOCAL TimeZone TO 'Asia/Kolkata'",
    "DEALLOCATE s",
    "DEALLOCATE ALL",
    "DECLARE c CURSOR FOR SELECT audit_id FROM audit ORDER BY audit_id",
    "FETCH 1 FROM c",
    "CLOSE c",
];

/// What a simple query may hold besides.
const STRINGS: &[&str] = &[
    "SELECT 1; SELECT 2",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "BEGIN; SELECT 1",
    "SELECT 1; COMMIT; SELECT 2",
    "INSERT INTO audit VALUES (22, 'x', 'y', '2024-01-01'); SELECT 1/0",
    "INSERT INTO audit VALUES (23, 'x', 'y', '2024-01-01'); UPDATE users SET name = 'zed' WHERE user_id = 3",
    "BEGIN; INSERT INTO audit VALUES (24, 'x', 'y', '2024-01-01'); COMMIT",
    "SET TimeZone TO 'UTC'; SHOW TimeZone",
    "SELECT 1; SELEKT",
    "COPY audit FROM STDIN; SELECT 1",
];

const VALUES: &[Option<&[u8]>] =
    &[None, Some(b"1"), Some(b"2"), Some(b"x"), Some(b""), Some(b"\0\0\0\x03"), Some(b"\0\0\0\0\0\0\0\x01")];

const ROWS: &[&str] =
    &["60\tann\tlogin\t2024-01-01\n", "61\tbob\tx\t2024-01-01\n", "x\n", "1\ta\tb\t2024-01-01\n", "\\.\n", "62\ta", "\n"];

/// A message with the words that show it to the reader of a failure.
pub(super) type Shown = (String, Vec<u8>);

/// One random conversation: messages that end with Sync and Terminate, or with what cannot be read on.
pub(super) fn conversation(random: &mut Random) -> Vec<Shown> {
    let n_messages = 1 + random.below(14);
    let mut messages: Vec<Shown> = Vec::new();
    while messages.len() < n_messages {
        messages.extend(step(random));
    }
    // Messages after which no Sync comes need not be answered by the proxy.
    messages.push(("S".to_owned(), message(b'S', &[])));
    messages.push(if random.chance(5) { broken(random) } else { ("X".to_owned(), message(b'X', &[])) });
    messages
}

/// One message, or a few that belong together.
fn step(random: &mut Random) -> Vec<Shown> {
    match random.below(100) {
        0..=19 => vec![query(random)],
        20..=44 => {
            let statement = random.pick(STATEMENTS);
            let portal = random.pick(PORTALS);
            let mut messages = vec![parse(random, statement), bind(random, portal, statement)];
            if random.chance(40) {
                messages.push(of_name(random, b'D'));
            }
            messages.push(execute(random, portal));
            if random.chance(60) {
                messages.push(("S".to_owned(), message(b'S', &[])));
            }
            messages
        }
        45..=52 => {
            let statement = random.pick(STATEMENTS);
            vec![parse(random, statement)]
        }
        53..=62 => {
            let (portal, statement) = (random.pick(PORTALS), random.pick(STATEMENTS));
            vec![bind(random, portal, statement)]
        }
        63..=68 => {
            let portal = random.pick(PORTALS);
            vec![execute(random, portal)]
        }
        69..=73 => vec![of_name(random, b'D')],
        74..=77 => vec![of_name(random, b'C')],
        78..=84 => vec![("S".to_owned(), message(b'S', &[]))],
        85..=86 => vec![("H".to_owned(), message(b'H', &[]))],
        87..=93 => copy_input(random),
        94..=97 => vec![malformed(random)],
        _ => {
            let mut some = step(random);
            let at = random.below(some.len());
            let again = some[at].clone();
            some.push(again);
            some
        }
    }
}

fn query(random: &mut Random) -> Shown {
    let sql = if random.chance(70) { random.pick(TEXTS) } else { random.pick(STRINGS) };
    (format!("Q {sql}"), message(b'Q', &[sql.as_bytes(), b"\0"].concat()))
}

fn parse(random: &mut Random, name: &str) -> Shown {
    let sql = random.pick(TEXTS);
    // Values for the parameters of a statement that has none are read by no server that the proxy spares the statement.
    let oids: &[u32] = if sql.contains('$') && random.chance(40) { &[23] } else { &[] };
    let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(oids.len()).unwrap().to_be_bytes());
    body.extend(oids.iter().flat_map(|oid| oid.to_be_bytes()));
    let types: Vec<String> = oids.iter().map(ToString::to_string).collect();
    (format!("P {name}|{}|{sql}", types.join(",")), message(b'P', &body))
}

fn bind(random: &mut Random, portal: &str, statement: &str) -> Shown {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
    let n_values = [0, 0, 0, 1, 1, 1, 2][random.below(7)];
    let formats: &[i16] = [&[][..], &[0], &[1], &[2]][[0, 0, 0, 0, 1, 1, 2, 3][random.below(8)]];
    push_formats(&mut body, formats);
    body.extend(u16::try_from(n_values).unwrap().to_be_bytes());
    let mut shown = Vec::new();
    for _ in 0..n_values {
        let value = VALUES[random.below(VALUES.len())];
        body.extend(value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
        body.extend(value.unwrap_or_default());
        shown.push(value.map_or("NULL".to_owned(), |value| value.escape_ascii().to_string()));
    }
    let results: &[i16] = [&[][..], &[0], &[1], &[1, 0]][[0, 0, 0, 0, 1, 2, 2, 3][random.below(8)]];
    push_formats(&mut body, results);
    (format!("B {portal}|{statement}|{formats:?} {}|{results:?}", shown.join(",")), message(b'B', &body))
}

fn push_formats(body: &mut Vec<u8>, formats: &[i16]) {
    body.extend(u16::try_from(formats.len()).unwrap().to_be_bytes());
    body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
}

fn execute(random: &mut Random, portal: &str) -> Shown {
    let n_rows = [0, 0, 0, 0, 1, 2, -1][random.below(7)];
    (format!("E {portal}|{n_rows}"), message(b'E', &[portal.as_bytes(), b"\0", &i32::to_be_bytes(n_rows)].concat()))
}

/// Describe or Close.
fn of_name(random: &mut Random, tag: u8) -> Shown {
    let (kind, names) = [("S", STATEMENTS), ("P", PORTALS)][random.below(2)];
    let name = random.pick(names);
    (format!("{} {kind} {name}", char::from(tag)), message(tag, &[kind.as_bytes(), name.as_bytes(), b"\0"].concat()))
}

/// Rows for a COPY that may have begun, and its end.
fn copy_input(random: &mut Random) -> Vec<Shown> {
    let mut messages = Vec::new();
    for _ in 0..random.below(3) {
        let rows = random.pick(ROWS);
        messages.push((format!("d {}", rows.escape_default()), message(b'd', rows.as_bytes())));
    }
    messages.push(match random.below(4) {
        0 => ("f no".to_owned(), message(b'f', b"no\0")),
        _ => ("c".to_owned(), message(b'c', &[])),
    });
    messages
}

/// A message whose body is cut short or too long, of the right length. The stream can be read on.
fn malformed(random: &mut Random) -> Shown {
    let portal = random.pick(PORTALS);
    let statement = random.pick(STATEMENTS);
    let (shown, bytes) = match random.below(6) {
        0 => query(random),
        1 => parse(random, statement),
        2 => bind(random, portal, statement),
        3 => execute(random, portal),
        4 => of_name(random, b'D'),
        _ => of_name(random, b'C'),
    };
    let mut body = bytes[5..].to_vec();
    // A server counts the values of a Bind before it has read them all.
    if random.chance(50) && bytes[0] != b'B' {
        body.truncate(random.below(body.len()));
    } else {
        body.extend(b"more");
    }
    (format!("m {} {}  (from {shown})", char::from(bytes[0]), body.escape_ascii()), message(bytes[0], &body))
}

/// What no server can read on after.
fn broken(random: &mut Random) -> Shown {
    let bytes: &[u8] = [
        &b"Q\0\0\0\x03"[..],
        b"Q\xff\xff\xff\xff",
        b"S\0\0\x40\0",
        b"Q\x40\0\0\x01",
        b"!\0\0\0\x04",
        b"p\0\0\0\x05\0",
        b"Q\0\0\0\x20SELECT",
        b"P\0",
        b"X\0\0\0\x04",
    ][random.below(9)];
    (format!("raw {}", bytes.escape_ascii()), bytes.to_vec())
}
