//! A sync over all groups: usually one round trip, and a second one to bring
//! back what the store has lost.

use std::collections::BTreeMap;

use breaker_core::{BackendName, Timestamp, Version, ids::ServiceName};
use futures_util::future::try_join_all;
use redis::{
    ErrorKind, RedisError, RedisResult, ScriptInvocation, Value, aio::MultiplexedConnection,
    from_redis_value,
};

use super::{Group, RedisStore, unreadable};
use crate::store::{
    About, BackendState, Corrupt, Current, REPLICA_TTL, ReplicaId, ServiceState, StoreError,
    SyncReply, SyncRequest, plausible, subject::Subject,
};

/// What one group is asked.
#[derive(Default)]
struct Ask {
    offers: Vec<Offer>,
    /// What to read, with the register to write, or none.
    names: BTreeMap<About, Vec<u8>>,
}

/// A record that the store may lack.
struct Offer {
    about: About,
    version: Version,
    body: Vec<u8>,
}

type Asks = BTreeMap<Group, Ask>;

/// What one group told.
struct Told {
    group: Group,
    now: u64,
    epoch: u64,
    records: Vec<ToldRecord>,
}

/// What was told of one backend or service.
struct ToldRecord {
    about: About,
    /// Zero for none.
    version: Version,
    /// Absent if it is the one we know, or there is none.
    body: Option<Vec<u8>>,
    /// The store lacks what we know.
    wanted: bool,
    registers: Vec<[Vec<u8>; 2]>,
}

/// The reply, as far as it is known.
#[derive(Default)]
struct Found {
    now: Timestamp,
    backends: BTreeMap<BackendName, BackendState>,
    services: BTreeMap<ServiceName, ServiceState>,
    corrupt: Vec<Corrupt>,
}

impl RedisStore {
    pub(super) async fn sync_groups(&self, request: SyncRequest) -> Result<SyncReply, StoreError> {
        let mut found = Found::default();
        let told = self.ask(asks(request)).await?;
        let wanted = self.take_in(told, &mut found);
        if !wanted.is_empty() {
            tracing::warn!(records = ?wanted, "bringing back what the store has lost");
            let told = self.ask(self.offers(wanted)).await?;
            if !self.take_in(told, &mut found).is_empty() {
                return Err(StoreError::Repairing);
            }
        }
        Ok(SyncReply {
            now: found.now,
            backends: found.backends.into_values().collect(),
            services: found.services.into_values().collect(),
            corrupt: found.corrupt,
        })
    }

    /// Asks all groups at once: one round trip.
    async fn ask(&self, asks: Asks) -> Result<Vec<Told>, StoreError> {
        let calls: Vec<_> = asks
            .into_iter()
            .map(|(group, ask)| (group, self.invocation(group, ask)))
            .collect();
        let run = |connection: MultiplexedConnection| async move {
            let ask = |(group, call)| ask_group(connection.clone(), group, call);
            try_join_all(calls.into_iter().map(ask)).await
        };
        self.link.run(run).await
    }

    fn invocation(&self, group: Group, ask: Ask) -> ScriptInvocation<'_> {
        let seen = self.seen();
        let mut call = self.scripts.sync.prepare_invoke();
        for noun in ["meta", "records", "registers"] {
            call.key(group.key(noun));
        }
        seen.header(group, self.channel(group), &mut call);
        call.arg(self.replica.as_str());
        call.arg(REPLICA_TTL.as_millis() as u64);
        call.arg(ask.offers.len());
        for Offer {
            about,
            version,
            body,
        } in ask.offers
        {
            call.arg(about.as_str());
            call.arg(version.epoch).arg(version.revision).arg(body);
        }
        call.arg(ask.names.len());
        for (about, register) in ask.names {
            let version = seen.version(&about).unwrap_or_default();
            call.arg(about.as_str()).arg(register);
            call.arg(version.epoch).arg(version.revision);
        }
        call
    }

    fn offers(&self, wanted: Vec<About>) -> Asks {
        let mut asks = Asks::new();
        let seen = self.seen();
        for about in wanted {
            let ask = asks.entry(Group::of(&about)).or_default();
            ask.names.insert(about.clone(), Vec::new());
            let offer = seen.known(&about).map(|known| Offer {
                about,
                version: known.version,
                body: known.body.clone(),
            });
            ask.offers.extend(offer);
        }
        asks
    }

    /// Returns those that the store wants from us. What it told of them is not
    /// taken in, lest we forget what we know before the store has it.
    fn take_in(&self, told: Vec<Told>, found: &mut Found) -> Vec<About> {
        let mut wanted = Vec::new();
        for told in told {
            let mut seen = self.seen();
            seen.pass(told.now);
            seen.enter(told.group, told.epoch);
            found.now = seen.clock;
            drop(seen);
            for record in told.records {
                if record.wanted {
                    wanted.push(record.about);
                    continue;
                }
                match record.about.clone() {
                    About::Backend(name) => {
                        let state = self.current(name.clone(), told.epoch, record, found);
                        found.backends.insert(name, state);
                    }
                    About::Service(name) => {
                        let state = self.current(name.clone(), told.epoch, record, found);
                        found.services.insert(name, state);
                    }
                    // Nobody asks for it: it has no record.
                    About::Fleet => {}
                }
            }
        }
        wanted
    }

    fn current<S: Subject>(
        &self,
        name: S,
        epoch: u64,
        told: ToldRecord,
        found: &mut Found,
    ) -> Current<S, S::Record, S::View> {
        let about = told.about;
        if let Some(body) = told.body {
            match S::decode(&body, told.version) {
                Ok(_) => self.seen().learn(&about, told.version, body),
                Err(reason) => {
                    let corrupt = unreadable(Group::of(&about), "records", &about, &reason);
                    found.corrupt.push(corrupt);
                }
            }
        }
        let exists = told.version != Version::default();
        let mut current = Current {
            name,
            epoch,
            version: exists.then_some(told.version),
            record: None,
            others: views::<S>(&about, told.registers, &mut found.corrupt),
        };
        // We may know better: a commit of ours may have overtaken this answer.
        let known = self.seen().known(&about).cloned();
        if let Some(known) = known
            && Some(known.version) >= current.version
        {
            current.version = Some(known.version);
            current.record = S::decode(&known.body, known.version).ok();
        }
        current
    }
}

fn asks(mut request: SyncRequest) -> Asks {
    let mut asks = Asks::new();
    for (name, view) in request.backends() {
        ask_for(&mut asks, name, view.as_ref());
    }
    for (name, view) in request.services {
        ask_for(&mut asks, name, view.as_ref());
    }
    for (name, held) in request.held {
        offer(&mut asks, name, &held);
    }
    for (name, held) in request.held_services {
        offer(&mut asks, name, &held);
    }
    asks
}

fn ask_for<S: Subject>(asks: &mut Asks, name: S, view: Option<&S::View>) {
    let about = name.into();
    let ask = asks.entry(Group::of(&about)).or_default();
    let register = ask.names.entry(about).or_default();
    if let Some(view) = view {
        *register = S::encode_view(view);
    }
}

fn offer<S: Subject>(asks: &mut Asks, name: S, held: &S::Record) {
    let about = name.into();
    let ask = asks.entry(Group::of(&about)).or_default();
    ask.names.entry(about.clone()).or_default();
    let version = S::version(held);
    if plausible(version) {
        let body = S::encode(held);
        ask.offers.push(Offer {
            about,
            version,
            body,
        });
    }
}

fn views<S: Subject>(
    about: &About,
    registers: Vec<[Vec<u8>; 2]>,
    corrupt: &mut Vec<Corrupt>,
) -> Vec<(ReplicaId, S::View)> {
    let mut views = Vec::new();
    for [replica, bytes] in registers {
        let replica = String::from_utf8_lossy(&replica).into_owned();
        match S::decode_view(&bytes) {
            Ok(view) => views.push((ReplicaId::new(&replica), view)),
            Err(reason) => {
                let field = format!("{about} {replica}");
                corrupt.push(unreadable(Group::of(about), "registers", field, &reason));
            }
        }
    }
    views
}

async fn ask_group(
    mut connection: MultiplexedConnection,
    group: Group,
    call: ScriptInvocation<'_>,
) -> RedisResult<Told> {
    told(group, call.invoke_async(&mut connection).await?)
}

fn told(group: Group, answer: Value) -> RedisResult<Told> {
    let (now, epoch, records): (u64, u64, Vec<Value>) = from_redis_value(answer)?;
    let records = records.into_iter().map(told_record);
    Ok(Told {
        group,
        now,
        epoch,
        records: records.collect::<RedisResult<_>>()?,
    })
}

fn told_record(answer: Value) -> RedisResult<ToldRecord> {
    type Fields = (String, u64, u64, Option<Vec<u8>>, bool, Vec<Vec<u8>>);
    let (name, epoch, revision, body, wanted, registers): Fields = from_redis_value(answer)?;
    let about = About::parse(&name).map_err(|error| {
        let kind = ErrorKind::UnexpectedReturnType;
        RedisError::from((kind, "a record's name", error.to_string()))
    })?;
    let mut registers = registers.into_iter();
    let pairs = std::iter::from_fn(|| Some([registers.next()?, registers.next()?]));
    Ok(ToldRecord {
        about,
        version: Version { epoch, revision },
        body,
        wanted,
        registers: pairs.collect(),
    })
}
