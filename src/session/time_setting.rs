//! Settings that are a time: their text as a number of milliseconds and back.
//!
//! As `parse_int` and `convert_int_from_base_unit` in src/backend/utils/misc/guc.c.

use super::settings::SettingValue;

const UNITS: [(&str, f64); 6] =
    [("us", 0.001), ("ms", 1.0), ("min", 60_000.0), ("s", 1_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0)];

/// The value of a setting whose unit is the millisecond; `None` for what is not a plain number or string.
pub fn milliseconds(value: &SettingValue) -> Option<u64> {
    let text = match value {
        SettingValue::Text(text) => text.as_str(),
        SettingValue::Sql(text) => text.trim().trim_matches('\''),
    };
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "" => 1.0,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    let number = number.parse::<f64>().ok()? * factor;
    (0.0..=f64::from(i32::MAX)).contains(&number).then_some(number.round_ties_even() as u64)
}

/// So many milliseconds as SHOW prints them: in the largest unit that they are whole in.
pub fn shown(milliseconds: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)];
    match units.iter().find(|(_, factor)| milliseconds > 0 && milliseconds.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", milliseconds / factor),
        None if milliseconds == 0 => "0".to_owned(),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let of = |text: &str| milliseconds(&SettingValue::Sql(text.to_owned()));
        assert_eq!(of("50"), Some(50));
        assert_eq!(of("'1.5s'"), Some(1_500));
        assert_eq!(of("' 2 min '"), Some(120_000));
        assert_eq!(of("'1h'"), Some(3_600_000));
        assert_eq!(of("'soon'"), None);
        assert_eq!(milliseconds(&SettingValue::Text("1d".to_owned())), Some(86_400_000));
    }

    #[test]
    fn times_are_shown_in_their_largest_unit() {
        assert_eq!([0, 50, 1_500, 120_000, 5_400_000, 86_400_000].map(shown), ["0", "50ms", "1500ms", "2min", "90min", "1d"]);
    }
}
