//! Dates and timestamps in ISO form, as microseconds since 2000-01-01.
//!
//! Only forms that mean the same under every DateStyle and on every version are read; the rest is Postgres's.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

use super::value::trimmed;

pub(super) const MICROS_PER_DAY: i64 = 86_400_000_000;

const POSTGRES_EPOCH: DateTime = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);

/// The Unix time of 2000-01-01 in microseconds.
const POSTGRES_EPOCH_UNIX_MICROS: i64 = 10_957 * MICROS_PER_DAY;

/// Longest offset that Postgres takes: MAX_TZDISP_HOUR of src/include/datatype/timestamp.h.
const MAX_OFFSET_HOURS: u8 = 15;

/// The midnight of a date (`2026-11-21`).
pub(super) fn date_micros(text: &str) -> Option<i64> {
    let (date, rest) = take_date(trimmed(text))?;
    if rest.is_empty() { micros_since_epoch(date.at(0, 0, 0, 0)) } else { None }
}

/// A timestamp without time zone. An offset in the text is read and ignored, as Postgres does.
pub(super) fn local_micros(text: &str) -> Option<i64> {
    micros_since_epoch(take_timestamp(text)?.0)
}

/// A timestamp with time zone; without an offset in the text it is local to `time_zone`, an IANA name.
pub(super) fn utc_micros(text: &str, time_zone: &str) -> Option<i64> {
    let (local, zone) = take_timestamp(text)?;
    let offset = match zone {
        Some(offset) => offset,
        None if is_utc(time_zone) => Offset::UTC,
        None => {
            // DetermineTimeZoneOffset of datetime.c: a time that a clock change leaves out counts by the offset before
            // the change, one that occurs twice by the offset after it. Both are the later instant.
            let timestamp = TimeZone::get(time_zone).ok()?.to_ambiguous_timestamp(local).later().ok()?;
            return timestamp.as_microsecond().checked_sub(POSTGRES_EPOCH_UNIX_MICROS);
        }
    };
    micros_since_epoch(local)?.checked_sub(i64::from(offset.seconds()).checked_mul(1_000_000)?)
}

fn is_utc(time_zone: &str) -> bool {
    ["UTC", "Etc/UTC", "GMT"].iter().any(|name| time_zone.eq_ignore_ascii_case(name))
}

fn micros_since_epoch(local: DateTime) -> Option<i64> {
    i64::try_from(local.duration_since(POSTGRES_EPOCH).as_micros()).ok()
}

/// `2026-11-21`, `2026-11-21 10:00`, `2026-11-21T10:00:00.123456+05:30`.
fn take_timestamp(text: &str) -> Option<(DateTime, Option<Offset>)> {
    let (date, rest) = take_date(trimmed(text))?;
    if rest.is_empty() {
        return Some((date.at(0, 0, 0, 0), None));
    }
    let clock = rest.strip_prefix('T').or_else(|| rest.strip_prefix(' '))?;
    let (time, rest) = take_time(clock)?;
    let zone = rest.trim_start_matches(' ');
    let offset = if zone.is_empty() { None } else { Some(offset_of(zone)?) };
    Some((date.to_datetime(time), offset))
}

/// A year of four digits from 0001, a month and a day of two.
fn take_date(text: &str) -> Option<(Date, &str)> {
    let (century, rest) = take_two_digits(text)?;
    let (year, rest) = take_two_digits(rest)?;
    let (month, rest) = take_two_digits(rest.strip_prefix('-')?)?;
    let (day, rest) = take_two_digits(rest.strip_prefix('-')?)?;
    let year = i16::from(century) * 100 + i16::from(year);
    let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    // Postgres has no year 0.
    if year > 0 { Some((date, rest)) } else { None }
}

/// Hours and minutes, then seconds, then up to six digits of a fraction: more would be rounded.
fn take_time(text: &str) -> Option<(Time, &str)> {
    let (hour, rest) = take_two_digits(text)?;
    let (minute, mut rest) = take_two_digits(rest.strip_prefix(':')?)?;
    let mut second = 0;
    let mut nanos = 0;
    if let Some(seconds) = rest.strip_prefix(':') {
        (second, rest) = take_two_digits(seconds)?;
        if let Some(fraction) = rest.strip_prefix('.') {
            let n_digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=6).contains(&n_digits) {
                return None;
            }
            let unit = 10_i32.checked_pow(9 - u32::try_from(n_digits).ok()?)?;
            nanos = fraction[..n_digits].parse::<i32>().ok()?.checked_mul(unit)?;
            rest = &fraction[n_digits..];
        }
    }
    let time = Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?, nanos).ok()?;
    Some((time, rest))
}

/// `Z`, `UTC`, `+05`, `+0530`, `+05:30`, `+05:30:15`; east is positive.
fn offset_of(zone: &str) -> Option<Offset> {
    if matches!(zone, "Z" | "UTC" | "GMT") {
        return Some(Offset::UTC);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, rest) = take_two_digits(zone.strip_prefix(['+', '-'])?)?;
    let (minutes, rest) = if rest.is_empty() { (0, "") } else { take_two_digits(rest.strip_prefix(':').unwrap_or(rest))? };
    let (seconds, rest) = if rest.is_empty() { (0, "") } else { take_two_digits(rest.strip_prefix(':')?)? };
    if !rest.is_empty() || hours > MAX_OFFSET_HOURS || minutes > 59 || seconds > 59 {
        return None;
    }
    Offset::from_seconds(sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60 + i32::from(seconds))).ok()
}

fn take_two_digits(text: &str) -> Option<(u8, &str)> {
    match text.as_bytes() {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', ..] => Some(((tens - b'0') * 10 + (ones - b'0'), &text[2..])),
        _ => None,
    }
}
