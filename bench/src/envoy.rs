//! Envoy as an edge team would set it up for failover between two regions:
//! priorities, outlier detection on everything that counts as a failure, and
//! nothing that keeps state over more than one proxy, because it has none.

use std::{env, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::Context;
use e2e::{Process, eventually, get, settled};
use serde_json::{Value, json};

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Envoy {
    /// Starts one in front of these regions, the preferred one first. `dir` holds
    /// its configuration; `timeout` is that of a request.
    ///
    /// # Errors
    /// `ENVOY` names no Envoy, or it does not start.
    pub async fn start(
        name: &str,
        regions: &[SocketAddr],
        timeout: Duration,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let program = env::var_os("ENVOY").context("set ENVOY to the path of an Envoy")?;
        // Free now; nothing else here starts a server by number.
        let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = dir.join(format!("{name}.json"));
        std::fs::write(&file, format!("{:#}", config(free, regions, timeout)))?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "error",
            "--use-dynamic-base-id",
        ]);
        let process = Process::start(name, &mut command)?;
        eventually("envoy listens", Duration::from_secs(10), || async {
            settled(get(free, "/pay/").await.is_ok())
        })
        .await;
        Ok(Self {
            process,
            address: free,
        })
    }
}

fn config(listen: SocketAddr, regions: &[SocketAddr], timeout: Duration) -> Value {
    let address = |at: &SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    let endpoints: Vec<_> = regions
        .iter()
        .enumerate()
        .map(|(priority, at)| {
            json!({
                "priority": priority,
                "lb_endpoints": [{"endpoint": {"address": address(at)}}],
            })
        })
        .collect();
    let limits = json!({
        "max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096, "max_retries": 8
    });
    let route = json!({
        "match": {"prefix": "/"},
        "route": {"cluster": "pay", "timeout": format!("{}s", timeout.as_secs_f64())},
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({"static_resources": {
        "listeners": [{
            "name": "l",
            "address": address(&listen),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
            }]}],
        }],
        "clusters": [{
            "name": "pay",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "pay", "endpoints": endpoints},
            "circuit_breakers": {"thresholds": [limits]},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "outlier_detection": {
                "consecutive_5xx": 5, "consecutive_gateway_failure": 5,
                "enforcing_consecutive_gateway_failure": 100,
                "interval": "1s", "base_ejection_time": "30s", "max_ejection_percent": 100,
            },
        }],
    }})
}
