//! Aligned tables.

use crate::style::{Tone, Word};

/// Rows under headings, aligned to the left, two spaces apart.
pub(crate) struct Table {
    rows: Vec<Vec<Word>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        let headings = headings
            .iter()
            .map(|heading| Word::new(heading, Tone::Faint));
        Self {
            rows: vec![headings.collect()],
        }
    }

    /// A table without headings, of keys and values.
    pub(crate) fn plain() -> Self {
        Self { rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Word; N]) {
        self.rows.push(cells.into());
    }

    /// Appends the table, each line after `indent`.
    pub(crate) fn write(&self, out: &mut String, indent: &str, colour: bool) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(Word::width).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                cell.write(&mut line, width + 2, colour);
            }
            *out += line.trim_end();
            *out += "\n";
        }
    }

    pub(crate) fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        self.write(&mut out, "", colour);
        out
    }
}

/// A line of a table whose rows come one by one, so that its columns have widths
/// fixed beforehand; what is wider pushes the rest on.
pub(crate) fn line(cells: &[(Word, usize)], last: &Word, colour: bool) -> String {
    let mut out = String::new();
    for (cell, width) in cells {
        cell.write(&mut out, (cell.width() + 2).max(*width), colour);
    }
    last.write(&mut out, 0, colour);
    out.truncate(out.trim_end().len());
    out + "\n"
}
