//! A recorded reply in lines for people, as psql would show it.

use super::wire::{self, Fields};

/// Lines of one reply.
const MAX_LINES: usize = 1_000;
/// Characters of one value.
const MAX_VALUE: usize = 200;
/// Columns of one row.
const MAX_COLUMNS: usize = 100;

/// Renders what was recorded: whole messages as the client got them, the last of them perhaps cut off. What cannot be read
/// is left out. Values are not escaped here: whoever shows the lines does.
pub fn render(content: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut table = Table::default();
    let mut rest = content;
    while lines.len() + table.rows.len() < MAX_LINES {
        let Ok(Some((tag, length))) = wire::header(rest) else { break };
        let Some((message, behind)) = rest.split_at_checked(length) else {
            table.write(&mut lines);
            lines.push("... (the rest was not kept)".to_owned());
            return lines;
        };
        rest = behind;
        match tag {
            b'T' => {
                table.write(&mut lines);
                let columns = wire::row_description(message).unwrap_or_default();
                table.names = columns.iter().take(MAX_COLUMNS).map(|column| shown(&column.name, 0)).collect();
                table.formats = columns.iter().map(|column| column.format).collect();
            }
            b'D' => table.rows.extend(row(message, &table.formats)),
            b'C' => {
                table.write(&mut lines);
                lines.push(String::from_utf8_lossy(Fields::of(message).string().unwrap_or_default()).into_owned());
            }
            b's' => table.write(&mut lines),
            b'E' | b'N' => {
                table.write(&mut lines);
                lines.extend(report(message));
            }
            b'd' => {
                let data = String::from_utf8_lossy(message.get(wire::HEADER..).unwrap_or_default()).into_owned();
                lines.push(cut(data.trim_end_matches('\n')));
            }
            _ => {}
        }
    }
    table.write(&mut lines);
    lines
}

#[derive(Default)]
struct Table {
    names: Vec<String>,
    formats: Vec<i16>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Writes the rows there are under their names, aligned, and forgets them.
    fn write(&mut self, lines: &mut Vec<String>) {
        let rows = std::mem::take(&mut self.rows);
        let names = std::mem::take(&mut self.names);
        self.formats.clear();
        if names.is_empty() && rows.is_empty() {
            return;
        }
        let columns = rows.iter().map(Vec::len).chain([names.len()]).max().unwrap_or(0);
        let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|at| rows.iter().chain([&names]).map(|row| cell(row, at).chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &[String]| {
            let cells = widths.iter().enumerate().map(|(at, width)| format!(" {:width$} ", cell(row, at)));
            cells.collect::<Vec<_>>().join("|").trim_end().to_owned()
        };
        lines.push(line(&names));
        lines.push(widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
        lines.extend(rows.iter().map(|row| line(row)));
    }
}

fn row(message: &[u8], formats: &[i16]) -> Option<Vec<String>> {
    let mut fields = Fields::of(message);
    let count = fields.count().ok()?;
    let mut cells = Vec::new();
    for at in 0..count.min(MAX_COLUMNS) {
        let value = fields.value().ok()?;
        cells
            .push(value.map_or_else(|| "NULL".to_owned(), |value| shown(value, formats.get(at).copied().unwrap_or(0))));
    }
    Some(cells)
}

fn shown(value: &[u8], format: i16) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if format == 0 => cut(text),
        _ => {
            use std::fmt::Write;
            let mut hex = String::from("\\x");
            for byte in value.iter().take(MAX_VALUE / 2) {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            hex
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn report(message: &[u8]) -> Vec<String> {
    let fields = wire::report_fields(message).unwrap_or_default();
    let text = |letter| {
        let found = fields.iter().find(|(known, _)| *known == letter);
        found.map(|(_, text)| cut(&String::from_utf8_lossy(text)))
    };
    let mut lines = vec![format!("{}:  {}", text(b'S').unwrap_or_default(), text(b'M').unwrap_or_default())];
    lines.extend(text(b'D').map(|detail| format!("DETAIL:  {detail}")));
    lines.extend(text(b'H').map(|hint| format!("HINT:  {hint}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::postgres::wire::{Column, message, put_row_description, put_string};

    fn reply() -> Vec<u8> {
        let mut out = Vec::new();
        let column =
            |name: &[u8]| Column { name: name.to_vec(), table: 0, attribute: 0, type_oid: 25, modifier: -1, format: 0 };
        put_row_description(&mut out, &[column(b"id"), column(b"ssn")], None);
        message(&mut out, b'D', |out| {
            out.extend_from_slice(&[0, 2, 0, 0, 0, 2, b'4', b'2', 0xff, 0xff, 0xff, 0xff]);
        });
        message(&mut out, b'C', |out| put_string(out, b"SELECT 1"));
        out
    }

    #[test]
    fn a_reply_is_a_table() {
        assert_eq!(render(&reply()), [" id | ssn", "----+------", " 42 | NULL", "SELECT 1"]);
    }

    #[test]
    fn what_is_cut_off_or_broken_is_shown_as_far_as_it_goes() {
        let whole = reply();
        for end in 0..whole.len() {
            render(&whole[..end]);
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[end] ^= 1 << bit;
                render(&broken);
            }
        }
    }
}
