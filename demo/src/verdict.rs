//! What the demonstration measured, held against what was promised.

use std::time::Duration;

use serde_json::{Value, json};

use crate::view::human;

/// One promise and what became of it.
#[derive(Debug, Clone)]
pub struct Check {
    /// What is promised.
    pub what: &'static str,
    /// What was measured.
    pub measured: String,
    /// What is allowed.
    pub limit: String,
    /// Whether it was kept.
    pub passed: bool,
}

impl Check {
    /// A count with an upper limit.
    pub fn at_most(what: &'static str, measured: u64, limit: u64) -> Self {
        Self {
            what,
            measured: measured.to_string(),
            limit: format!("≤ {limit}"),
            passed: measured <= limit,
        }
    }

    /// A count that must be exactly this.
    pub fn exactly(what: &'static str, measured: u64, wanted: u64) -> Self {
        Self {
            what,
            measured: measured.to_string(),
            limit: wanted.to_string(),
            passed: measured == wanted,
        }
    }

    /// A time with an upper limit.
    pub fn within(what: &'static str, measured: Duration, limit: Duration) -> Self {
        Self {
            what,
            measured: human(measured),
            limit: format!("≤ {}", human(limit)),
            passed: measured <= limit,
        }
    }

    /// A share of 1 with an upper limit.
    pub fn share_at_most(what: &'static str, measured: f64, limit: f64) -> Self {
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        Self {
            what,
            measured: percent(measured),
            limit: format!("≤ {}", percent(limit)),
            passed: measured <= limit,
        }
    }

    /// As JSON, for scripts.
    pub fn json(&self) -> Value {
        json!({ "what": self.what, "measured": self.measured, "limit": self.limit, "passed": self.passed })
    }
}

/// Rows of a table; the first column is left-aligned, the others right-aligned.
pub fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<_> = (0..).map_while(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                let fill = " ".repeat(width - cell.chars().count());
                if column == 0 {
                    format!("{cell}{fill}")
                } else {
                    format!("{fill}{cell}")
                }
            });
        format!("  {}", cells.collect::<Vec<_>>().join("   "))
            .trim_end()
            .to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The checks as a table that ends with the verdict.
pub fn checks(checks: &[Check]) -> String {
    let header = ["promise", "measured", "allowed", ""]
        .map(str::to_owned)
        .to_vec();
    let row = |check: &Check| {
        let mark = if check.passed { "ok" } else { "BROKEN" };
        vec![
            check.what.to_owned(),
            check.measured.clone(),
            check.limit.clone(),
            mark.to_owned(),
        ]
    };
    table(
        &std::iter::once(header)
            .chain(checks.iter().map(row))
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_knows_whether_its_promise_was_kept() {
        let cases = [
            (Check::at_most("a", 15, 15), true),
            (Check::at_most("a", 16, 15), false),
            (Check::exactly("a", 2, 1), false),
            (
                Check::within("a", Duration::from_millis(251), Duration::from_millis(250)),
                false,
            ),
            (Check::share_at_most("a", 0.2, 0.2), true),
        ];
        for (check, passed) in cases {
            assert_eq!(check.passed, passed, "{check:?}");
        }
    }

    #[test]
    fn tables_align() {
        let rows = [
            vec!["a".into(), "10".into()],
            vec!["long".into(), "1 ≤".into(), "x".into()],
        ];
        assert_eq!(table(&rows), "  a       10\n  long   1 ≤   x");
    }
}
