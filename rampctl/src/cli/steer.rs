//! Arguments of what an operator decides about traffic.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use rampmeter_api::v1::Version;

use super::{Why, duration, version};

/// `override`.
#[derive(Debug, Args)]
pub struct Override {
    /// SERVICE/REGION
    pub name: String,
    /// What to force
    #[arg(long, env = "RAMPMETER_CTL_MODE", required_unless_present = "clear")]
    pub mode: Option<Mode>,
    /// For how long, 1s to 24h; then it ends by itself
    #[arg(
        long = "for",
        env = "RAMPMETER_CTL_FOR",
        value_name = "DURATION",
        value_parser = duration,
        required_unless_present = "clear"
    )]
    pub expires_in: Option<Duration>,
    /// Who decides, and why.
    #[command(flatten)]
    pub why: Why,
    /// Force it open even if the service has no other admitted region
    #[arg(long, env = "RAMPMETER_CTL_BREAK_GLASS", conflicts_with = "clear")]
    pub break_glass: bool,
    /// End the override now
    #[arg(long, env = "RAMPMETER_CTL_CLEAR", conflicts_with_all = ["mode", "expires_in"])]
    pub clear: bool,
}

/// What an override forces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Refuse every request
    #[value(aliases = ["forced_open", "FORCED_OPEN"])]
    Open,
    /// Let every request through, whatever happens
    #[value(aliases = ["forced_closed", "FORCED_CLOSED"])]
    Closed,
    /// Decide and count, but let every request through
    #[value(alias = "SHADOW")]
    Shadow,
    /// Neither decide nor act
    #[value(alias = "DISABLED")]
    Disabled,
}

/// `drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// REGION
    pub region: String,
    /// Only this service; every service in the region if not given
    #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
    pub service: Option<String>,
    /// For how long, 1s to 24h; then it ends by itself
    #[arg(
        long = "for",
        env = "RAMPMETER_CTL_FOR",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub expires_in: Duration,
    /// Who decides, and why.
    #[command(flatten)]
    pub why: Why,
    /// Drain it even if a service has no other admitted region
    #[arg(long, env = "RAMPMETER_CTL_BREAK_GLASS")]
    pub break_glass: bool,
}

/// `undrain`.
#[derive(Debug, Args)]
pub struct Undrain {
    /// REGION
    pub region: String,
    /// Only this service; every service that has the region drained if not given
    #[arg(long, env = "RAMPMETER_CTL_SERVICE")]
    pub service: Option<String>,
    /// Who decides, and why.
    #[command(flatten)]
    pub why: Why,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// SERVICE
    #[arg(required = true)]
    pub service: Option<String>,
    /// What else to do with a plan than to show it.
    #[command(subcommand)]
    pub action: Option<PlanAction>,
}

/// What to do with a plan.
#[derive(Debug, Subcommand)]
pub enum PlanAction {
    /// Put the plan that waits into force (failover mode manual)
    Approve(Approve),
}

/// `plan approve`.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct Approve {
    /// SERVICE
    pub service: String,
    /// Only if this plan still waits, EPOCH.REVISION; the one that waits now if not given
    #[arg(
        long,
        env = "RAMPMETER_CTL_PLAN_VERSION",
        value_name = "EPOCH.REVISION",
        value_parser = version
    )]
    pub version: Option<Version>,
    /// Who decides, and why.
    #[command(flatten)]
    pub why: Why,
}
