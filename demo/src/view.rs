//! Where the story is told: a timeline that grows, and on a terminal a block
//! below it that shows the fleet as it is now. Without a terminal the block
//! becomes a line every other second, so that a log reads well too.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Between two lines of status without a terminal.
const PLAIN_STATUS: Duration = Duration::from_secs(2);

/// Where the story goes.
#[derive(Debug)]
pub struct View {
    start: Instant,
    screen: Screen,
    /// Every line of the timeline, for `-o json`.
    told: Vec<(Duration, String)>,
}

#[derive(Debug)]
enum Screen {
    /// The block's lines are redrawn in place.
    Live {
        drawn: usize,
    },
    Plain {
        last_status: Option<Instant>,
    },
    /// Nothing but the result: `-o json`.
    Silent,
}

impl View {
    /// Live on a terminal, plain lines otherwise.
    pub fn on_stdout() -> Self {
        let live = io::stdout().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self::new(if live {
            Screen::Live { drawn: 0 }
        } else {
            Screen::Plain { last_status: None }
        })
    }

    /// Remembers the timeline and shows nothing.
    pub fn silent() -> Self {
        Self::new(Screen::Silent)
    }

    fn new(screen: Screen) -> Self {
        Self {
            start: Instant::now(),
            screen,
            told: Vec::new(),
        }
    }

    /// Adds a line to the timeline, as of now.
    pub fn tell(&mut self, line: impl Into<String>) {
        self.tell_at(Instant::now(), line);
    }

    /// Adds a line to the timeline, as of a moment that may have passed.
    pub fn tell_at(&mut self, at: Instant, line: impl Into<String>) {
        let (at, line) = (at.saturating_duration_since(self.start), line.into());
        self.print(&format!("{:>8.3} s  {line}", at.as_secs_f64()));
        self.told.push((at, line));
    }

    /// Prints a line that is not part of the timeline.
    pub fn print(&mut self, line: &str) {
        if matches!(self.screen, Screen::Silent) {
            return;
        }
        let erase = self.erase();
        // A closed stdout ends the show, not the run.
        let _ = writeln!(io::stdout(), "{erase}{line}");
    }

    /// Shows the fleet as it is: `lines` on a terminal, `short` in a log.
    pub fn status(&mut self, lines: &[String], short: impl FnOnce() -> String) {
        let erase = self.erase();
        match &mut self.screen {
            Screen::Live { drawn } => {
                *drawn = lines.len();
                // No line may wrap, or the block would be taller than counted.
                let _ = writeln!(io::stdout(), "{erase}\x1b[?7l{}\x1b[?7h", lines.join("\n"));
                let _ = io::stdout().flush();
            }
            Screen::Plain { last_status } => {
                let due = last_status.is_none_or(|last| last.elapsed() >= PLAIN_STATUS);
                if due {
                    *last_status = Some(Instant::now());
                    let at = self.start.elapsed().as_secs_f64();
                    let _ = writeln!(io::stdout(), "{at:>8.3} s  · {}", short());
                }
            }
            Screen::Silent => {}
        }
    }

    /// Takes the block away; the timeline stays.
    pub fn end_status(&mut self) {
        let erase = self.erase();
        let _ = write!(io::stdout(), "{erase}");
        let _ = io::stdout().flush();
    }

    /// What was told, and when.
    pub fn told(&self) -> &[(Duration, String)] {
        &self.told
    }

    /// Escape codes that remove the drawn block.
    fn erase(&mut self) -> String {
        match &mut self.screen {
            Screen::Live { drawn } if *drawn > 0 => {
                format!("\x1b[{}A\x1b[J", std::mem::take(drawn))
            }
            Screen::Live { .. } | Screen::Plain { .. } | Screen::Silent => String::new(),
        }
    }
}

/// A bar of ten characters for a share of 0 to 1.
pub fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * 10.0).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(10 - full))
}

/// Milliseconds below a second, seconds above.
pub fn human(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1} s"),
        seconds if seconds >= 0.01 => format!("{:.0} ms", seconds * 1000.0),
        seconds => format!("{:.2} ms", seconds * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_read_well() {
        assert_eq!(
            (bar(0.0), bar(0.34), bar(1.0)),
            (
                "░░░░░░░░░░".into(),
                "███░░░░░░░".into(),
                "██████████".into()
            )
        );
        let times = [400, 62_000, 12_340_000].map(|us| human(Duration::from_micros(us)));
        assert_eq!(times, ["0.40 ms", "62 ms", "12.3 s"]);
    }

    #[test]
    fn a_silent_view_remembers_the_timeline() {
        let mut view = View::silent();
        view.tell("it begins");
        view.print("not part of it");
        let told: Vec<_> = view.told().iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(told, ["it begins"]);
    }
}
