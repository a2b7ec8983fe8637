//! What a process has used so far, read from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context;

/// `/proc` counts CPU time in hundredths of a second on every Linux we know:
/// `USER_HZ` is fixed by the kernel's ABI.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process and its threads, user and system.
///
/// # Errors
/// There is no such process, or no `/proc`.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The second field is the command in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("unknown form of stat")?;
    let ticks: u32 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u32>().unwrap_or_default())
        .sum();
    Ok(TICK * ticks)
}

/// Sum of every series of a counter in a Prometheus text page.
pub fn counter(page: &str, name: &str) -> f64 {
    page.lines()
        .filter(|line| line.starts_with(name))
        .filter(|line| matches!(line.as_bytes().get(name.len()), Some(b'{' | b' ')))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
