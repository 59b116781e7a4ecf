//! One question's answer: read, compared, shown as an aligned table.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::DemoError;

/// Text rows under column names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Answer {
    /// Asks by a simple query: values come as text.
    pub(super) async fn to(client: &Client, sql: &str) -> Result<Self, DemoError> {
        let mut answer = Self::default();
        for message in client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    answer.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    answer.rows.push((0..row.len()).map(|idx| row.get(idx).unwrap_or_default().to_owned()).collect());
                }
                _ => {}
            }
        }
        Ok(answer)
    }

    /// Whether the rows are these. Averages have more digits than the expectation: numbers with a decimal point may differ
    /// by a part in 10⁹.
    pub(super) fn has_rows(&self, expected: &[Vec<String>]) -> bool {
        let is_same_row = |row: &Vec<String>, other: &Vec<String>| {
            row.len() == other.len() && row.iter().zip(other).all(|(cell, wanted)| is_same_cell(cell, wanted))
        };
        self.rows.len() == expected.len() && self.rows.iter().zip(expected).all(|(row, wanted)| is_same_row(row, wanted))
    }

    /// As psql aligns: numbers to the right, the rest to the left.
    pub(super) fn to_table(&self) -> String {
        let n_columns = self.columns.len();
        let cells = |idx: usize| self.rows.iter().filter_map(move |row| row.get(idx));
        let width = |idx: usize| cells(idx).chain([&self.columns[idx]]).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        let is_number: Vec<bool> = (0..n_columns).map(|idx| cells(idx).all(|cell| cell.parse::<f64>().is_ok())).collect();
        let header: Vec<String> = self.columns.iter().zip(&widths).map(|(name, width)| format!(" {name:^width$} ")).collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        let mut lines = vec![header.join("|").trim_end().to_owned(), rule.join("+")];
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&is_number).map(|((cell, width), is_number)| match is_number {
                true => format!(" {cell:>width$} "),
                false => format!(" {cell:<width$} "),
            });
            lines.push(cells.collect::<Vec<String>>().join("|").trim_end().to_owned());
        }
        lines.join("\n")
    }
}

fn is_same_cell(cell: &str, wanted: &str) -> bool {
    if cell == wanted {
        return true;
    }
    match (cell.contains('.'), cell.parse::<f64>(), wanted.parse::<f64>()) {
        (true, Ok(cell), Ok(wanted)) => (cell - wanted).abs() <= wanted.abs() * 1e-9,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &[&str], rows: &[&[&str]]) -> Answer {
        let owned = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        Answer { columns: owned(columns), rows: rows.iter().map(|row| owned(row)).collect() }
    }

    #[test]
    fn aligns_numbers_to_the_right() {
        let table = answer(&["name", "n"], &[&["ada", "7"], &["grace", "1200"]]).to_table();
        assert_eq!(table, " name  |  n\n-------+------\n ada   |    7\n grace | 1200");
    }

    #[test]
    fn allows_an_average_more_digits_only() {
        let given = answer(&["avg"], &[&["3.3333333333333333"]]);
        assert!(given.has_rows(&[vec![(10.0 / 3.0).to_string()]]));
        assert!(!given.has_rows(&[vec!["3.34".to_owned()]]));
        assert!(!answer(&["n"], &[&["10"]]).has_rows(&[vec!["10.0000000001".to_owned()]]));
    }
}
