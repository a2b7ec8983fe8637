//! Events of all groups, merged as they are read.
//!
//! A group's events are in its own slot, where a commit can append them in the
//! same step. Listing the fleet's therefore merges 257 streams, lazily, so that
//! a page never pulls more than a little of each. People ask for it, not agents.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{
    ErrorKind, RedisError, RedisResult, Value, aio::MultiplexedConnection, from_redis_value,
};

use super::{Group, RedisStore};
use crate::store::{EventCursor, EventPage, EventQuery, StoreError};

/// Events read at once from a group: at first from one of many, and at most. Each
/// read of a group doubles it, so that a page from a single busy group takes a
/// few round trips, and one from all groups costs some MiB at worst.
const AT_ONCE: (usize, usize) = (16, 256);

type Entry = (EventCursor, Bytes);

/// The not yet read rest of one group's events, newest first.
struct Tail {
    group: Group,
    buffer: VecDeque<Entry>,
    at_once: usize,
    /// Where to read on, as XREVRANGE's end.
    end: String,
    exhausted: bool,
}

impl RedisStore {
    pub(super) async fn list_events(&self, query: EventQuery) -> Result<EventPage, StoreError> {
        let run = |connection| async move { list(connection, &query).await };
        self.link.run(run).await
    }
}

async fn list(connection: MultiplexedConnection, query: &EventQuery) -> RedisResult<EventPage> {
    let groups: Vec<_> = match query.about() {
        Some(about) => vec![Group::of(&about)],
        None => Group::all().collect(),
    };
    let at_once = if groups.len() == 1 {
        AT_ONCE.1
    } else {
        AT_ONCE.0
    };
    let read = |group| {
        let mut connection = connection.clone();
        async move {
            let mut tail = Tail::new(group, query.before, at_once);
            tail.fill(&mut connection, query).await?;
            Ok::<_, RedisError>(tail)
        }
    };
    let mut tails = try_join_all(groups.into_iter().map(read)).await?;
    let mut connection = connection.clone();
    let mut page: Vec<Entry> = Vec::new();
    loop {
        let newest = tails.iter_mut().max_by_key(|tail| tail.head());
        let Some((entry, tail)) = newest.and_then(|tail| Some((tail.buffer.pop_front()?, tail)))
        else {
            return Ok(self::page(page, false));
        };
        if page.len() == query.page_size() {
            return Ok(self::page(page, true));
        }
        page.push(entry);
        tail.fill(&mut connection, query).await?;
    }
}

fn page(entries: Vec<Entry>, more: bool) -> EventPage {
    let last = entries.last().map(|(cursor, _)| *cursor);
    EventPage {
        events: entries.into_iter().map(|(_, bytes)| bytes).collect(),
        next: last.filter(|_| more),
    }
}

impl Tail {
    fn new(group: Group, before: Option<EventCursor>, at_once: usize) -> Self {
        let end = before.map_or_else(
            || "+".to_owned(),
            |at| {
                // Order is by time, then group: the same instant is still to
                // come in groups below the cursor's.
                let exclusive = if group.0 < at.group { "" } else { "(" };
                format!("{exclusive}{}-{}", at.millis, at.sequence)
            },
        );
        Self {
            group,
            buffer: VecDeque::new(),
            at_once,
            end,
            exhausted: false,
        }
    }

    fn head(&self) -> Option<EventCursor> {
        self.buffer.front().map(|(cursor, _)| *cursor)
    }

    /// Makes sure that the buffer has a head, unless there is none.
    async fn fill(
        &mut self,
        connection: &mut MultiplexedConnection,
        query: &EventQuery,
    ) -> RedisResult<()> {
        while self.buffer.is_empty() && !self.exhausted {
            let mut read = redis::cmd("XREVRANGE");
            read.arg(self.group.key("events")).arg(&self.end).arg("-");
            read.arg("COUNT").arg(self.at_once);
            let entries: Vec<Value> = read.query_async(connection).await?;
            self.exhausted = entries.len() < self.at_once;
            self.at_once = (self.at_once * 2).min(AT_ONCE.1);
            for entry in entries {
                self.take(entry, query)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: Value, query: &EventQuery) -> RedisResult<()> {
        let (id, fields): (String, Vec<Vec<u8>>) = from_redis_value(entry)?;
        let parts = id.split_once('-');
        let parts = parts.and_then(|(ms, seq)| Some((ms.parse().ok()?, seq.parse().ok()?)));
        let (millis, sequence) = parts.ok_or_else(|| {
            let kind = ErrorKind::UnexpectedReturnType;
            RedisError::from((kind, "an event's id", id.clone()))
        })?;
        self.end = format!("({id}");
        // Others' entries in our stream are none of our business.
        let [_, about, _, bytes] = &fields[..] else {
            return Ok(());
        };
        let cursor = EventCursor {
            millis,
            sequence,
            group: self.group.0,
        };
        let wanted = query.about();
        if wanted.is_none_or(|wanted| wanted.as_str().as_bytes() == about) {
            self.buffer.push_back((cursor, Bytes::from(bytes.clone())));
        }
        Ok(())
    }
}
