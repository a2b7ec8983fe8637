//! What an agent does with requests for one backend, and why: the strictest of
//! override, fleet or POP decision and local breaker, worked out in advance.

use std::{sync::Arc, time::Duration};

use breaker_core::{
    BreakerPolicy, Circuit, Mix, Mode, PopId, Ramp, Timestamp, Version, breaker::StateName,
};
use rampmeter_api::convert::decision::Decision;

use crate::admit::{lease::Lease, refusal::RefusalReason};

/// How far clients are spread where no ramp spreads them.
const SPREAD: Duration = Duration::from_secs(1);

/// No client is told to come back sooner.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// When an operator's override may be lifted is up to a person: clients look
/// again about this often.
const OVERRIDE_WAIT: Duration = Duration::from_secs(10);

/// How long it takes from nothing to everything where the control plane lets in
/// 10 % more a second: the throttle's pace, and a plan's way back.
const RISE: Duration = Duration::from_secs(10);

/// The next trial is due any moment.
const AT_ONCE: Timestamp = Timestamp::from_millis(0);

/// Swapped in whole whenever something changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stance {
    /// What to do.
    pub rule: Rule,
    /// The decision behind it.
    pub version: Version,
    /// The demand's mix of priorities: where a share cuts.
    pub mix: Mix,
    /// SHADOW: count what the rule refuses, but let it pass.
    pub shadow: bool,
}

/// What to do with requests.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// Let them pass.
    Pass,
    /// Let the smallest of these shares pass.
    Share(Shares),
    /// Let none pass, but those that claim a lease.
    Refuse {
        /// Why.
        reason: RefusalReason,
        /// When the next trial may run, about.
        until: Timestamp,
        /// Length of the ramp that follows.
        ramp: Duration,
        /// Trials to be claimed.
        leases: Vec<Arc<Lease>>,
    },
}

/// Shares of the demand, each cutting it alone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares {
    /// The fleet's ramp. A plan that is fresh has it in its shares already.
    pub fleet: Option<Ramp>,
    /// The POP's own ramp, of which no plan knows.
    pub pop: Option<Ramp>,
    /// The local breaker's.
    pub local: Option<Ramp>,
    /// The fleet's throttle, 0 to 1.
    pub throttle: Option<f64>,
}

impl Shares {
    /// The smallest, below 1, and whose it is.
    fn smallest(&self, now: Timestamp, planned: bool) -> Option<(f64, RefusalReason)> {
        let ramp = |ramp: &Option<Ramp>, reason| ramp.map(|ramp| (ramp.admission(now), reason));
        let fleet = self.fleet.filter(|_| !planned);
        let shares = [
            ramp(&fleet, RefusalReason::Ramp),
            ramp(&self.pop, RefusalReason::Ramp),
            ramp(&self.local, RefusalReason::Local),
            self.throttle.map(|share| (share, RefusalReason::Throttle)),
        ];
        let shares = shares
            .into_iter()
            .flatten()
            .filter(|(share, _)| *share < 1.0);
        shares.min_by(|(a, _), (b, _)| a.total_cmp(b))
    }

    /// Everything passes.
    fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// The answer for one request.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    Pass,
    /// Within this share only; else refuse for this reason.
    Share(f64, RefusalReason),
    /// With one of these leases only; else refuse for this reason.
    Trial(&'a [Arc<Lease>], RefusalReason),
    Refuse(RefusalReason),
}

/// What a stance is worked out from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The fleet's decision; `None` if none was ever heard.
    pub decision: Option<&'a Decision>,
    /// It was heard lately enough to bind.
    pub fresh: bool,
    /// Where this agent is.
    pub pop: &'a PopId,
    /// The backend's policy.
    pub policy: &'a BreakerPolicy,
    /// This agent's own breaker.
    pub local: &'a Circuit,
    /// Leases of the fleet.
    pub leases: &'a [Arc<Lease>],
    /// The lease of the local breaker.
    pub local_lease: Option<&'a Arc<Lease>>,
    /// The mix of what this agent sends there, for as long as it knows no other.
    pub mix: Mix,
    /// Now.
    pub now: Timestamp,
}

/// What the fleet decided for this POP: the stricter of the fleet's circuit and
/// its own, as the breaker itself has it.
pub fn ruling<'a>(decision: &'a Decision, pop: &PopId, now: Timestamp) -> &'a Circuit {
    let fleet = &decision.fleet;
    let Some(own) = decision.pops.get(pop) else {
        return fleet;
    };
    let ours = match (fleet, own) {
        (Circuit::Open { .. }, _) => false,
        (_, Circuit::Open { .. }) => true,
        _ => own.admission(now) <= fleet.admission(now),
    };
    if ours { own } else { fleet }
}

impl Stance {
    /// Everything passes.
    pub fn pass() -> Self {
        Self {
            rule: Rule::Pass,
            version: Version::default(),
            mix: Mix::default(),
            shadow: false,
        }
    }

    /// The strictest of what is known. An override holds also while the control
    /// plane is away, until it expires: a person made it, and knows more than
    /// silence does.
    pub fn of(inputs: &Inputs<'_>) -> Self {
        let decision = inputs.decision;
        let configured = inputs.policy.mode;
        let mode = decision.map_or(configured, |d| d.mode(configured, inputs.now));
        let rule = match mode {
            Mode::Disabled | Mode::ForcedClosed => Rule::Pass,
            Mode::ForcedOpen => Rule::Refuse {
                reason: RefusalReason::Override,
                until: AT_ONCE,
                ramp: OVERRIDE_WAIT,
                leases: Vec::new(),
            },
            Mode::Enforce | Mode::Shadow => inputs.strictest(),
        };
        Self {
            version: decision.map_or_else(Version::default, |decision| decision.version),
            mix: match decision.map(|decision| decision.mix) {
                Some(mix) if mix != Mix::default() => mix,
                _ if matches!(rule, Rule::Share(_)) => inputs.mix,
                // Nothing cuts, so it does not matter, and need not change.
                _ => Mix::default(),
            },
            rule,
            shadow: mode == Mode::Shadow,
        }
    }

    /// No request passes, but for trials.
    pub(crate) fn is_shut(&self) -> bool {
        matches!(self.rule, Rule::Refuse { .. }) && !self.shadow
    }

    /// `planned`: a plan that is fresh sends the request here.
    pub(crate) fn answer(&self, now: Timestamp, planned: bool) -> Answer<'_> {
        match &self.rule {
            Rule::Pass => Answer::Pass,
            Rule::Share(shares) => match shares.smallest(now, planned) {
                None => Answer::Pass,
                Some((share, reason)) => Answer::Share(share, reason),
            },
            Rule::Refuse { reason, leases, .. } if leases.is_empty() => Answer::Refuse(*reason),
            Rule::Refuse { reason, leases, .. } => Answer::Trial(leases, *reason),
        }
    }

    /// Share of requests that pass at `now`, 0 to 1.
    pub(crate) fn share(&self, now: Timestamp, planned: bool) -> f64 {
        match self.answer(now, planned) {
            _ if self.shadow => 1.0,
            Answer::Pass => 1.0,
            Answer::Share(share, _) => share,
            Answer::Trial(..) | Answer::Refuse(_) => 0.0,
        }
    }

    /// Share of requests that pass at `now` without a plan, 0 to 1.
    pub fn admission(&self, now: Timestamp) -> f64 {
        self.share(now, false)
    }

    /// The fleet's throttle, if it cuts.
    pub fn throttle(&self) -> Option<f64> {
        match &self.rule {
            Rule::Share(shares) => shares.throttle,
            Rule::Pass | Rule::Refuse { .. } => None,
        }
    }

    /// The effective state: what this agent's requests meet. `local` is its own
    /// breaker's, which may be behind it.
    pub fn state(&self, local: StateName) -> StateName {
        match &self.rule {
            Rule::Pass | Rule::Share(_) => StateName::Closed,
            Rule::Refuse { reason, .. } => match reason {
                RefusalReason::HalfOpen => StateName::HalfOpen,
                RefusalReason::Local => local,
                RefusalReason::Open
                | RefusalReason::Override
                | RefusalReason::Ramp
                | RefusalReason::Throttle
                | RefusalReason::QueueTimeout
                | RefusalReason::Limit => StateName::Open,
            },
        }
    }

    /// The fleet or the POP decided it, not the local breaker.
    pub fn by_fleet(&self) -> bool {
        match &self.rule {
            Rule::Pass => true,
            Rule::Share(shares) => shares.local.is_none(),
            Rule::Refuse { reason, .. } => *reason != RefusalReason::Local,
        }
    }

    /// Time until the next trial and this client's place in the ramp behind
    /// it. `dice` is uniform in [0, 1).
    pub(crate) fn retry_after(&self, reason: RefusalReason, now: Timestamp, dice: f64) -> Duration {
        let left = |ramp: &Option<Ramp>| ramp.map_or(Duration::ZERO, |ramp| left(&ramp, now));
        match (&self.rule, reason) {
            (_, RefusalReason::Limit) | (Rule::Pass, _) => spread(Duration::ZERO, dice),
            (Rule::Share(shares), RefusalReason::Throttle) => {
                later(1.0 - shares.throttle.unwrap_or(1.0), dice)
            }
            (Rule::Share(shares), _) => {
                let ramps = [&shares.fleet, &shares.pop, &shares.local];
                let longest = ramps.into_iter().map(left).max();
                spread(longest.unwrap_or_default(), dice)
            }
            (Rule::Refuse { until, ramp, .. }, _) => now.until(*until) + spread(*ramp, dice),
        }
        .max(MIN_RETRY_AFTER)
    }
}

/// This client's place among those that come back over `wait`.
fn spread(wait: Duration, dice: f64) -> Duration {
    (wait + SPREAD).mul_f64(dice)
}

/// When to come back where so large a share of the demand, 0 to 1, finds no room:
/// spread over the time in which there may be room for all. `dice` is uniform in
/// [0, 1).
pub(crate) fn later(refused: f64, dice: f64) -> Duration {
    let rise = RISE.mul_f64(refused.clamp(0.0, 1.0));
    spread(rise, dice).max(MIN_RETRY_AFTER)
}

impl Inputs<'_> {
    fn strictest(&self) -> Rule {
        let ruling = self
            .decision
            .map(|decision| ruling(decision, self.pop, self.now));
        let ramp = self
            .decision
            .map_or(self.policy.ramp_duration, |d| d.ramp_duration);
        match ruling {
            // Stale: the local breaker took these over.
            Some(Circuit::Open { .. } | Circuit::HalfOpen { .. }) if !self.fresh => {
                self.local_rule()
            }
            Some(Circuit::Open { until, .. }) => {
                self.refuse(RefusalReason::Open, *until, ramp, self.leases)
            }
            Some(Circuit::HalfOpen { .. }) => {
                self.refuse(RefusalReason::HalfOpen, AT_ONCE, ramp, self.leases)
            }
            Some(Circuit::Closed { .. }) | None => self.local_rule(),
        }
    }

    /// The local breaker's, beside the fleet's shares.
    fn local_rule(&self) -> Rule {
        let ramp = self.policy.ramp_duration;
        match self.local {
            Circuit::Open { until, .. } => self.refuse(RefusalReason::Local, *until, ramp, &[]),
            Circuit::HalfOpen { .. } => {
                let leases = self.local_lease.map(std::slice::from_ref);
                self.refuse(
                    RefusalReason::Local,
                    self.now,
                    ramp,
                    leases.unwrap_or_default(),
                )
            }
            Circuit::Closed { .. } => match self.shares() {
                shares if shares.is_idle() => Rule::Pass,
                shares => Rule::Share(shares),
            },
        }
    }

    fn shares(&self) -> Shares {
        let ramp = |circuit: Option<&Circuit>| match circuit {
            Some(Circuit::Closed { ramp, .. }) => {
                ramp.filter(|ramp| ramp.admission(self.now) < 1.0)
            }
            Some(Circuit::Open { .. } | Circuit::HalfOpen { .. }) | None => None,
        };
        let decision = self.decision;
        // A throttle that nobody renews would hold for ever.
        let throttle = decision.filter(|_| self.fresh).and_then(|d| d.throttle);
        Shares {
            fleet: ramp(decision.map(|d| &d.fleet)),
            pop: ramp(decision.and_then(|d| d.pops.get(self.pop))),
            local: ramp(Some(self.local)),
            throttle: throttle.filter(|share| *share < 1.0),
        }
    }

    fn refuse(
        &self,
        reason: RefusalReason,
        until: Timestamp,
        ramp: Duration,
        leases: &[Arc<Lease>],
    ) -> Rule {
        let usable = leases.iter().filter(|lease| lease.is_free());
        Rule::Refuse {
            reason,
            until,
            ramp,
            leases: usable.cloned().collect(),
        }
    }
}

/// Time until a ramp reaches full admission.
fn left(ramp: &Ramp, now: Timestamp) -> Duration {
    let rise = ramp.duration.mul_f64((1.0 - ramp.from).clamp(0.0, 1.0));
    now.until(ramp.from_at + rise)
}
