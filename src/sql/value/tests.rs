use expect_test::{Expect, expect};

use super::*;

/// Lines of type, time zone, text in hexadecimal UTF-8, and what PostgreSQL 15 makes of it: the canonical value,
/// `range`, or `error`. Types `num2`, `num4` and `num8` are number literals for such columns. Made by
/// value_golden.sql.
const GOLDEN: &str = include_str!("../value_golden.tsv");

fn type_named(name: &str) -> KeyType {
    match name {
        "int2" | "num2" => KeyType::Int2,
        "int4" | "num4" => KeyType::Int4,
        "int8" | "num8" => KeyType::Int8,
        "text" => KeyType::Text,
        "bpchar" => KeyType::Bpchar,
        "uuid" => KeyType::Uuid,
        "date" => KeyType::Date,
        "timestamp" => KeyType::Timestamp,
        "timestamptz" => KeyType::Timestamptz,
        other => panic!("no such type: {other}"),
    }
}

/// The canonical form of the only literal in `sql`, which may have a minus sign.
fn literal(sql: &str, key_type: KeyType) -> Result<KeyValue, ValueError> {
    let mut fingerprint = crate::sql::Fingerprint::default();
    let has_standard_strings = !sql.ends_with(" -- off");
    crate::sql::fingerprint(sql.as_bytes(), has_standard_strings, &mut fingerprint);
    assert_eq!(fingerprint.literals.len(), 1, "{sql}");
    canonical_literal(sql.as_bytes(), fingerprint.literals[0], sql.starts_with('-'), key_type, "UTC")
}

fn shown(value: Result<KeyValue, ValueError>) -> String {
    match value {
        Ok(KeyValue::Null) => "null".to_owned(),
        Ok(KeyValue::Int(value) | KeyValue::Timestamp(value)) => value.to_string(),
        Ok(KeyValue::Text(text)) => format!("{text:?}"),
        Ok(KeyValue::Uuid(uuid)) => {
            let digits: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
            [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
        }
        Err(ValueError::OutOfRange) => "range".to_owned(),
        Err(ValueError::NotUnderstood) => "not understood".to_owned(),
    }
}

fn check(type_name: &str, texts: &[&str], expected: Expect) {
    let lines = texts.iter().map(|text| {
        let value = canonical_text(text, type_named(type_name), "Europe/Berlin");
        format!("{text:?}: {}\n", shown(value))
    });
    expected.assert_eq(&lines.collect::<String>());
}

fn check_literals(type_name: &str, texts: &[&str], expected: Expect) {
    let lines = texts.iter().map(|text| format!("{text:?}: {}\n", shown(literal(text, type_named(type_name)))));
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn what_is_understood_is_what_the_server_says() {
    let mut n_understood = 0;
    for line in GOLDEN.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [type_name, time_zone, hex, server] = fields[..] else { panic!("{line}") };
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let text = String::from_utf8(bytes.collect()).unwrap();
        let ours = match type_name {
            "num2" | "num4" | "num8" => literal(&text, type_named(type_name)),
            _ => canonical_text(&text, type_named(type_name), time_zone),
        };
        if ours != Err(ValueError::NotUnderstood) {
            assert_eq!(shown(ours), server, "{type_name} {text:?} in {time_zone}");
            n_understood += 1;
        }
    }
    assert!(n_understood > GOLDEN.lines().count() / 4, "{n_understood}");
}

#[test]
fn integers() {
    check(
        "int8",
        &["42", " +42\n", "-9223372036854775808", "9223372036854775808", "007"],
        expect![[r#"
        "42": 42
        " +42\n": 42
        "-9223372036854775808": -9223372036854775808
        "9223372036854775808": range
        "007": 7
    "#]],
    );
    check(
        "int8",
        &["", "-", "1_000", "0x1F", "1.0", "1e3", "+-1", "1 2", "٣"],
        expect![[r#"
        "": not understood
        "-": not understood
        "1_000": not understood
        "0x1F": not understood
        "1.0": not understood
        "1e3": not understood
        "+-1": not understood
        "1 2": not understood
        "٣": not understood
    "#]],
    );
    check(
        "int2",
        &["32767", "32768", "-32768"],
        expect![[r#"
        "32767": 32767
        "32768": range
        "-32768": -32768
    "#]],
    );
    check(
        "int4",
        &["-2147483648", "2147483648"],
        expect![[r#"
        "-2147483648": -2147483648
        "2147483648": range
    "#]],
    );
}

#[test]
fn number_literals() {
    check_literals(
        "int4",
        &["42", "-42", "42.0", "4.2e1", "420e-1", "42.5", "1e10", "-2147483648", "00.00", "1_0", "0x1F", "0e-30000"],
        expect![[r#"
            "42": 42
            "-42": -42
            "42.0": 42
            "4.2e1": 42
            "420e-1": 42
            "42.5": range
            "1e10": range
            "-2147483648": -2147483648
            "00.00": 0
            "1_0": not understood
            "0x1F": not understood
            "0e-30000": 0
        "#]],
    );
    check_literals(
        "text",
        &["42", "-007", "42.0", "99999999999999999999999"],
        expect![[r#"
        "42": "42"
        "-007": "-7"
        "42.0": not understood
        "99999999999999999999999": not understood
    "#]],
    );
    check_literals(
        "uuid",
        &["42"],
        expect![[r#"
        "42": not understood
    "#]],
    );
    check_literals(
        "timestamp",
        &["42"],
        expect![[r#"
        "42": not understood
    "#]],
    );
}

#[test]
fn string_literals() {
    check_literals(
        "text",
        &[
            "'us'",
            "'O''Brien'",
            r"'a\b'",
            "E'plain'",
            r"E'a\n'",
            "e'it''s'",
            "$$O'Brien$$",
            "$t$a$$b$t$",
            "''",
            "'''a'''",
            "'a'\n'b'",
            "'a''' --''\n'b'",
            "N'a'",
            "U&'a'",
            "B'1'",
            "-'a'",
            "'off' -- off",
            r"'o\ff' -- off",
        ],
        expect![[r#"
            "'us'": "us"
            "'O''Brien'": "O'Brien"
            "'a\\b'": "a\\b"
            "E'plain'": "plain"
            "E'a\\n'": not understood
            "e'it''s'": "it's"
            "$$O'Brien$$": "O'Brien"
            "$t$a$$b$t$": "a$$b"
            "''": ""
            "'''a'''": "'a'"
            "'a'\n'b'": not understood
            "'a''' --''\n'b'": not understood
            "N'a'": not understood
            "U&'a'": not understood
            "B'1'": not understood
            "-'a'": not understood
            "'off' -- off": "off"
            "'o\\ff' -- off": not understood
        "#]],
    );
    check_literals(
        "int4",
        &["'42'", "' 42 '", "'4 2'", "$$-1$$"],
        expect![[r#"
        "'42'": 42
        "' 42 '": 42
        "'4 2'": not understood
        "$$-1$$": -1
    "#]],
    );
}

#[test]
fn texts() {
    check(
        "text",
        &["us ", ""],
        expect![[r#"
        "us ": "us "
        "": ""
    "#]],
    );
    check(
        "bpchar",
        &["us  ", " us", "us\t ", ""],
        expect![[r#"
        "us  ": "us"
        " us": " us"
        "us\t ": "us\t"
        "": ""
    "#]],
    );
    check(
        "uuid",
        &[
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "a0-eebc999c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a1",
            "",
        ],
        expect![[r#"
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11": a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
            "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}": a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11": a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11
            "a0-eebc999c0b4ef8bb6d6bb9bd380a11": not understood
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11": not understood
            "a0eebc999c0b4ef8bb6d6bb9bd380a1": not understood
            "": not understood
        "#]],
    );
}

#[test]
fn dates_and_timestamps() {
    let texts =
        ["2000-01-02", "2000-01-01 00:00", "2000-01-01T00:00:01.5", "2000-01-01 02:00:00.000001+02", "1999-12-31 23:59:59Z"];
    check(
        "timestamptz",
        &texts,
        expect![[r#"
        "2000-01-02": 82800000000
        "2000-01-01 00:00": -3600000000
        "2000-01-01T00:00:01.5": -3598500000
        "2000-01-01 02:00:00.000001+02": 1
        "1999-12-31 23:59:59Z": -1000000
    "#]],
    );
    check(
        "timestamp",
        &texts,
        expect![[r#"
        "2000-01-02": 86400000000
        "2000-01-01 00:00": 0
        "2000-01-01T00:00:01.5": 1500000
        "2000-01-01 02:00:00.000001+02": 7200000001
        "1999-12-31 23:59:59Z": -1000000
    "#]],
    );
    check(
        "date",
        &texts,
        expect![[r#"
        "2000-01-02": 86400000000
        "2000-01-01 00:00": not understood
        "2000-01-01T00:00:01.5": not understood
        "2000-01-01 02:00:00.000001+02": not understood
        "1999-12-31 23:59:59Z": not understood
    "#]],
    );
    check(
        "timestamptz",
        &["2026-10-25 02:30", "2026-03-29 02:30", "2026-07-01 00:00"],
        expect![[r#"
        "2026-10-25 02:30": 846207000000000
        "2026-03-29 02:30": 828063000000000
        "2026-07-01 00:00": 836172000000000
    "#]],
    );
    let left = ["now", "infinity", "2026-11-21 BC", "2026-02-29", "2026-11-21 24:00", "2026-11-21 10:00:60", "2026-11-21 10"];
    check(
        "timestamptz",
        &left,
        expect![[r#"
        "now": not understood
        "infinity": not understood
        "2026-11-21 BC": not understood
        "2026-02-29": not understood
        "2026-11-21 24:00": not understood
        "2026-11-21 10:00:60": not understood
        "2026-11-21 10": not understood
    "#]],
    );
    let unknown_zone = canonical_text("2026-11-21 10:00", KeyType::Timestamptz, "Mars/Base");
    assert_eq!(unknown_zone, Err(ValueError::NotUnderstood));
}

#[test]
fn binary_values() {
    let binary = |bytes: &[u8], param_type, name| shown(canonical_binary(bytes, param_type, type_named(name)));
    let shown = [
        binary(&[0, 42], INT2, "int8"),
        binary(&[255, 255, 255, 214], 0, "int2"),
        binary(&70_000_i64.to_be_bytes(), INT8, "int2"),
        binary(&[0, 0, 0, 42], INT8, "int8"),
        binary(&[0, 42, 0], 0, "int8"),
        binary(b"us ", VARCHAR, "text"),
        binary(b"us ", TEXT, "bpchar"),
        binary(b"us ", BPCHAR, "text"),
        binary(&[0xff], TEXT, "text"),
        binary(&[0xab; 16], UUID, "uuid"),
        binary(&[0xab; 15], 0, "uuid"),
        binary(&(-1_i32).to_be_bytes(), DATE, "timestamp"),
        binary(&i32::MAX.to_be_bytes(), DATE, "date"),
        binary(&5_i64.to_be_bytes(), 0, "timestamptz"),
        binary(&i64::MIN.to_be_bytes(), TIMESTAMP, "timestamp"),
        binary(&5_i64.to_be_bytes(), TIMESTAMP, "timestamptz"),
        binary(&5_i64.to_be_bytes(), TIMESTAMPTZ, "date"),
    ];
    expect![[r#"
        42
        -42
        range
        not understood
        not understood
        "us "
        "us"
        not understood
        not understood
        abababab-abab-abab-abab-abababababab
        not understood
        -86400000000
        not understood
        5
        not understood
        not understood
        not understood
    "#]]
    .assert_eq(&(shown.join("\n") + "\n"));
}

#[test]
fn declared_types_that_would_mean_something_else_are_told() {
    assert!(KeyType::Int4.reads_text_of(INT8) && KeyType::Int4.reads_text_of(0) && KeyType::Bpchar.reads_text_of(TEXT));
    let float8 = 701;
    assert!(!KeyType::Int8.reads_text_of(float8) && !KeyType::Date.reads_text_of(TIMESTAMPTZ));
    assert!(!KeyType::Text.reads_text_of(BPCHAR));
}
