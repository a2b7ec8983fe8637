//! A sync over all groups: usually one round trip, and a second one to bring
//! back what the store has lost.

use std::collections::BTreeMap;

use breaker_core::{BackendName, Timestamp, Version};
use futures_util::future::try_join_all;
use redis::{
    ErrorKind, RedisError, RedisResult, ScriptInvocation, Value, aio::MultiplexedConnection,
    from_redis_value,
};

use super::{Group, RedisStore, unreadable};
use crate::store::{
    BackendState, Corrupt, REPLICA_TTL, ReplicaId, ReplicaView, StoreError, SyncReply, SyncRequest,
    codec, plausible,
};

/// What one group is asked.
#[derive(Default)]
struct Ask {
    offers: Vec<Offer>,
    /// Backends to read, with the register to write, or none.
    backends: BTreeMap<BackendName, Vec<u8>>,
}

/// A record that the store may lack.
struct Offer {
    name: BackendName,
    version: Version,
    body: Vec<u8>,
}

type Asks = BTreeMap<Group, Ask>;

/// What one group told.
struct Told {
    group: Group,
    now: u64,
    epoch: u64,
    backends: Vec<ToldBackend>,
}

struct ToldBackend {
    name: BackendName,
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
    corrupt: Vec<Corrupt>,
}

impl RedisStore {
    pub(super) async fn sync_groups(&self, request: SyncRequest) -> Result<SyncReply, StoreError> {
        let mut found = Found::default();
        let told = self.ask(asks(request)).await?;
        let wanted = self.take_in(told, &mut found);
        if !wanted.is_empty() {
            tracing::warn!(backends = ?wanted, "bringing back what the store has lost");
            let told = self.ask(self.offers(wanted)).await?;
            if !self.take_in(told, &mut found).is_empty() {
                return Err(StoreError::Repairing);
            }
        }
        Ok(SyncReply {
            now: found.now,
            backends: found.backends.into_values().collect(),
            corrupt: found.corrupt,
            ..SyncReply::default()
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
            name,
            version,
            body,
        } in ask.offers
        {
            call.arg(name.as_str());
            call.arg(version.epoch).arg(version.revision).arg(body);
        }
        call.arg(ask.backends.len());
        for (name, register) in ask.backends {
            let version = seen.version(&name).unwrap_or_default();
            call.arg(name.as_str()).arg(register);
            call.arg(version.epoch).arg(version.revision);
        }
        call
    }

    fn offers(&self, wanted: Vec<BackendName>) -> Asks {
        let mut asks = Asks::new();
        let seen = self.seen();
        for name in wanted {
            let ask = asks.entry(Group::of(&name)).or_default();
            ask.backends.insert(name.clone(), Vec::new());
            let offer = seen.known(&name).map(|known| Offer {
                name,
                version: known.record.breaker.version,
                body: known.body.clone(),
            });
            ask.offers.extend(offer);
        }
        asks
    }

    /// Returns those that the store wants from us. What it told of them is not
    /// taken in, lest we forget what we know before the store has it.
    fn take_in(&self, told: Vec<Told>, found: &mut Found) -> Vec<BackendName> {
        let mut wanted = Vec::new();
        for told in told {
            let mut seen = self.seen();
            seen.pass(told.now);
            seen.enter(told.group, told.epoch);
            found.now = seen.clock;
            drop(seen);
            for backend in told.backends {
                if backend.wanted {
                    wanted.push(backend.name);
                    continue;
                }
                let state = self.state(told.group, told.epoch, backend, &mut found.corrupt);
                found.backends.insert(state.name.clone(), state);
            }
        }
        wanted
    }

    fn state(
        &self,
        group: Group,
        epoch: u64,
        told: ToldBackend,
        corrupt: &mut Vec<Corrupt>,
    ) -> BackendState {
        let name = told.name;
        if let Some(body) = told.body {
            match codec::decode_record(&body, told.version) {
                Ok(record) => self.seen().learn(&name, &record, body),
                Err(reason) => corrupt.push(unreadable(group, "records", &name, &reason)),
            }
        }
        let exists = told.version != Version::default();
        let mut state = BackendState {
            others: views(group, &name, told.registers, corrupt),
            version: exists.then_some(told.version),
            record: None,
            epoch,
            name,
        };
        // We may know better: a commit of ours may have overtaken this answer.
        if let Some(known) = self.seen().known(&state.name).cloned()
            && Some(known.record.breaker.version) >= state.version
        {
            state.version = Some(known.record.breaker.version);
            state.record = Some(known.record.clone());
        }
        state
    }
}

fn asks(request: SyncRequest) -> Asks {
    let mut asks = Asks::new();
    for name in request.read {
        let ask = asks.entry(Group::of(&name)).or_default();
        ask.backends.entry(name).or_default();
    }
    for (name, view) in request.registers {
        let ask = asks.entry(Group::of(&name)).or_default();
        ask.backends.insert(name, codec::encode_view(&view));
    }
    for (name, held) in request.held {
        let ask = asks.entry(Group::of(&name)).or_default();
        ask.backends.entry(name.clone()).or_default();
        let version = held.breaker.version;
        if plausible(version) {
            let body = codec::encode_record(&held);
            ask.offers.push(Offer {
                name,
                version,
                body,
            });
        }
    }
    asks
}

fn views(
    group: Group,
    name: &BackendName,
    registers: Vec<[Vec<u8>; 2]>,
    corrupt: &mut Vec<Corrupt>,
) -> Vec<(ReplicaId, ReplicaView)> {
    let mut views = Vec::new();
    for [replica, bytes] in registers {
        let replica = String::from_utf8_lossy(&replica).into_owned();
        match codec::decode_view(&bytes) {
            Ok(view) => views.push((ReplicaId::new(&replica), view)),
            Err(reason) => {
                let field = format!("{name} {replica}");
                corrupt.push(unreadable(group, "registers", field, &reason));
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
    let (now, epoch, backends): (u64, u64, Vec<Value>) = from_redis_value(answer)?;
    let backends = backends.into_iter().map(told_backend);
    Ok(Told {
        group,
        now,
        epoch,
        backends: backends.collect::<RedisResult<_>>()?,
    })
}

fn told_backend(answer: Value) -> RedisResult<ToldBackend> {
    type Fields = (String, u64, u64, Option<Vec<u8>>, bool, Vec<Vec<u8>>);
    let (name, epoch, revision, body, wanted, registers): Fields = from_redis_value(answer)?;
    let name = BackendName::parse(&name).map_err(|error| {
        let kind = ErrorKind::UnexpectedReturnType;
        RedisError::from((kind, "a backend's name", error.to_string()))
    })?;
    let mut registers = registers.into_iter();
    let pairs = std::iter::from_fn(|| Some([registers.next()?, registers.next()?]));
    Ok(ToldBackend {
        name,
        version: Version { epoch, revision },
        body,
        wanted,
        registers: pairs.collect(),
    })
}
