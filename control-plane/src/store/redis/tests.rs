mod chaos;
mod cost;
mod history;
mod outages;
mod wrong;

use std::sync::Arc;

use super::RedisStore;
use crate::store::{
    ReplicaId, Store,
    testing::{
        contract::{Place, contract},
        redis_server::RedisServer,
    },
};

impl Place for RedisServer {
    async fn join(&self, replica: &str) -> Arc<dyn Store> {
        join(self, replica).await
    }
}

async fn join(server: &RedisServer, replica: &str) -> Arc<RedisStore> {
    let url = server.url();
    let opened = RedisStore::open(&url, ReplicaId::new(replica)).await;
    opened.expect("a Redis")
}

contract!(RedisServer::start(&[]));
