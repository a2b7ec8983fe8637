//! What is told in the configuration in force, and each core's part of it.
//!
//! A core keeps what it needs until it hears that it changed, which is one load
//! of a number that hardly ever does: a request of an agent that tells nothing
//! pays that and a branch.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    time::Instant,
};

use tokio::sync::watch;

use crate::sight::{counts::Counts, flood::Flood, ids::Ids, record::Record};

/// Records of one core that wait to be written, and as many to be exported. The queues are
/// emptied every 50 ms, so a core would have to end 160,000 requests a second to
/// lose one. A record has about 1 KiB and at most 6, so a full queue holds 8 MiB,
/// and 48 if clients and configuration do their worst.
pub(crate) const QUEUE: usize = 8192;

/// One core's end of a queue.
pub(crate) type Queue = SyncSender<Box<Record>>;

/// The other ends, one for each core.
#[derive(Debug)]
pub(crate) struct Queues {
    queues: Vec<Receiver<Box<Record>>>,
    /// Where the next look begins, so that none waits for ever behind another.
    next: usize,
}

impl Queues {
    /// Gives records to `take` until there are none, or it has enough and says
    /// `false`. `false`: no core will send any more.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(Box<Record>) -> bool) -> bool {
        let count = self.queues.len();
        let mut gone = 0;
        for at in (0..count).map(|at| (self.next + at) % count) {
            loop {
                let record = match self.queues[at].try_recv() {
                    Ok(record) => record,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        gone += 1;
                        break;
                    }
                };
                if !take(record) {
                    self.next = at + 1;
                    return true;
                }
            }
        }
        gone < count
    }
}

/// A queue for each core.
pub(crate) fn queues(cores: usize) -> (Vec<Queue>, Queues) {
    let (into, out) = (0..cores).map(|_| sync_channel(QUEUE)).unzip();
    let queues = Queues {
        queues: out,
        next: 0,
    };
    (into, queues)
}

/// What is told. Swapped whole.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    pub(crate) log: Option<Kept>,
    pub(crate) tracing: Option<Kept>,
}

/// Where records go, and which share of them, 0 to 1.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) sample: f64,
    /// One for each core.
    pub(crate) queues: Arc<[Queue]>,
}

/// What all parts of an agent share about telling: what is to be told, and what
/// became of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    setup: Arc<watch::Sender<Arc<Setup>>>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) cores: usize,
    /// How often the log's file was to be opened anew.
    reopens: Arc<AtomicU64>,
}

impl Sight {
    /// Nothing is told yet.
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores,
            ..Self::default()
        }
    }

    /// The log's file was moved away: what follows goes to one of its name.
    pub(crate) fn reopen(&self) {
        self.reopens.fetch_add(1, Relaxed);
    }

    /// Changes when the file is to be opened anew.
    pub(crate) fn reopens(&self) -> u64 {
        self.reopens.load(Relaxed)
    }

    /// From the next request on.
    pub(crate) fn install(&self, setup: Setup) {
        self.setup.send_replace(Arc::new(setup));
    }

    /// A core's part.
    pub(crate) fn core(&self, core: usize) -> CoreSight {
        let mut news = self.setup.subscribe();
        let setup = news.borrow_and_update().clone();
        let view = View::new(&setup, core, self);
        CoreSight {
            core,
            shared: self.clone(),
            view: RefCell::new(view),
            news: RefCell::new(news),
        }
    }
}

/// One core's part of telling.
#[derive(Debug)]
pub(crate) struct CoreSight {
    core: usize,
    shared: Sight,
    view: RefCell<Option<Rc<View>>>,
    news: RefCell<watch::Receiver<Arc<Setup>>>,
}

impl CoreSight {
    /// What is to be told; `None`: nothing.
    pub(crate) fn view(&self) -> Option<Rc<View>> {
        self.refresh();
        self.view.borrow().clone()
    }

    /// Lets go of a configuration that is no longer in force. Requests do so
    /// themselves; this is for a core that has none.
    pub(crate) fn refresh(&self) {
        let mut news = self.news.borrow_mut();
        // An error says that no more will come.
        if news.has_changed().unwrap_or(false) {
            let setup = news.borrow_and_update().clone();
            *self.view.borrow_mut() = View::new(&setup, self.core, &self.shared);
        }
    }
}

/// One configuration as one core has it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) log: Option<Outlet>,
    pub(crate) tracing: Option<Outlet>,
    pub(crate) ids: Ids,
    pub(crate) counts: Arc<Counts>,
    flood: RefCell<Flood>,
    /// Seconds are counted from here.
    since: Instant,
}

/// One core's way out.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) sample: f64,
    queue: Queue,
}

impl Outlet {
    /// Takes a record, or does not.
    pub(crate) fn put(&self, record: Box<Record>) -> bool {
        self.queue.try_send(record).is_ok()
    }
}

impl View {
    fn new(setup: &Setup, core: usize, shared: &Sight) -> Option<Rc<Self>> {
        let outlet = |kept: &Kept| {
            Some(Outlet {
                sample: kept.sample,
                queue: kept.queues.get(core)?.clone(),
            })
        };
        let log = setup.log.as_ref().and_then(outlet);
        let tracing = setup.tracing.as_ref().and_then(outlet);
        (log.is_some() || tracing.is_some()).then(|| {
            Rc::new(Self {
                log,
                tracing,
                ids: Ids::new(),
                counts: shared.counts.clone(),
                flood: RefCell::new(Flood::new(shared.cores)),
                since: Instant::now(),
            })
        })
    }

    /// Whether a failure may be written down now, and how many were not since the
    /// last one was.
    pub(crate) fn let_failure_through(&self, now: Instant) -> Option<u64> {
        let second = now.saturating_duration_since(self.since).as_secs();
        let through = self.flood.borrow_mut().let_through(second);
        if through.is_none() {
            self.counts.lines_suppressed.add(1);
        }
        through
    }
}
