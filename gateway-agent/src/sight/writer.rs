//! The thread that writes the access log. A disk that is slow or full, or a pipe
//! that nobody reads, costs lines, which are counted, and nothing else.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::sight::{
    line,
    setup::{Queues, Sight},
};

/// How often the queues are looked into: so long a line may wait.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Least time between two attempts to open a file that cannot be.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Writes until every core has let go of its queue.
pub(crate) struct Writer {
    /// `None`: standard output.
    path: Option<PathBuf>,
    sight: Sight,
    file: Option<File>,
    /// Not before this.
    open_at: Option<Instant>,
    /// `Sight::reopens` when the file was opened.
    reopens: u64,
    lines: Vec<u8>,
    count: u64,
    /// The last write failed, maybe in the middle of a line.
    torn: bool,
}

impl Writer {
    pub(crate) fn new(path: Option<&Path>, sight: &Sight) -> Self {
        Self {
            path: path.map(Path::to_owned),
            sight: sight.clone(),
            file: None,
            open_at: None,
            reopens: sight.reopens(),
            lines: Vec::with_capacity(BUFFER_BYTES + 4096),
            count: 0,
            torn: false,
        }
    }

    pub(crate) fn run(mut self, mut queues: Queues) {
        // An empty file says that it works.
        self.open();
        loop {
            let more = queues.drain(|record| {
                line::write(&record, &mut self.lines);
                self.count += 1;
                if self.lines.len() >= BUFFER_BYTES {
                    self.flush();
                }
                true
            });
            self.flush();
            if !more {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn flush(&mut self) {
        let reopens = self.sight.reopens();
        if self.reopens != reopens {
            self.reopens = reopens;
            self.file = None;
            self.open_at = None;
            self.open();
        }
        if self.count == 0 {
            return;
        }
        let written = self.write();
        let counts = &self.sight.counts;
        match &written {
            Ok(()) => counts.lines_written.add(self.count),
            Err(_) => counts.lines_dropped.add(self.count),
        }
        if let (Err(error), false) = (&written, self.torn) {
            tracing::error!("the access log cannot be written, its lines are lost: {error}");
        }
        self.torn = written.is_err();
        self.lines.clear();
        self.count = 0;
    }

    fn write(&mut self) -> io::Result<()> {
        if self.path.is_none() {
            return write(io::stdout().lock(), self.torn, &self.lines);
        }
        self.open();
        match &mut self.file {
            Some(file) => write(file, self.torn, &self.lines),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&mut self) {
        let Some(path) = &self.path else { return };
        let now = Instant::now();
        if self.file.is_some() || self.open_at.is_some_and(|at| now < at) {
            return;
        }
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                let first = self.open_at.is_none();
                self.open_at = Some(now + OPEN_AGAIN);
                if first {
                    let path = path.display();
                    tracing::error!("the access log {path} cannot be opened: {error}");
                }
            }
        }
    }
}

/// After half a line, a line of its own, so that all others stay whole.
fn write(mut into: impl Write, torn: bool, lines: &[u8]) -> io::Result<()> {
    if torn {
        into.write_all(b"\n")?;
    }
    into.write_all(lines)?;
    into.flush()
}
