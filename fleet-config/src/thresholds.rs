//! Reading `breaker:` into the core's policy.

use std::time::Duration;

use breaker_core::policy::{BreakerPolicy, Mode};

use crate::{
    read::{At, Fields},
    sections::{Settings, ms, secs},
    units::{show_duration, show_share},
    values::{boolean, count, duration, positive_share, share},
};

/// How long a trial lease outlives the service's total time-out: the result
/// still has to be reported.
const TRIAL_GRACE: Duration = Duration::from_secs(1);

/// Share of overloads among what a throttle lets through, rounded up.
const PROBED: f64 = 0.1;

/// Breaker settings as far as they are known before the whole service is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Thresholds {
    policy: BreakerPolicy,
    /// As written. Overload is metered and not broken; where the meter is off, the
    /// threshold is the one for failures, unless the file says otherwise.
    overload: Option<f64>,
}

impl Thresholds {
    /// The policy of a service that may take `total` to answer.
    pub(crate) fn policy(&self, total: Duration) -> BreakerPolicy {
        let unmetered = match self.policy.overload_throttle {
            true => self.policy.overload_rate_threshold,
            false => self.policy.failure_rate_threshold,
        };
        BreakerPolicy {
            overload_rate_threshold: self.overload.unwrap_or(unmetered),
            trial_timeout: total + TRIAL_GRACE,
            ..self.policy.clone()
        }
    }
}

pub(crate) fn read(fields: &mut Fields<'_>, out: &mut Thresholds) {
    let policy = &mut out.policy;
    fields.read("mode", &mut policy.mode, mode);
    fields.read(
        "failure_rate_threshold",
        &mut policy.failure_rate_threshold,
        positive_share,
    );
    fields.read("overload_rate_threshold", &mut out.overload, |at| {
        positive_share(at).map(Some)
    });
    let metered = fields.read("overload_throttle", &mut policy.overload_throttle, boolean);
    check_overload(fields, metered && policy.overload_throttle, out);
    let policy = &mut out.policy;
    fields.read(
        "min_request_volume",
        &mut policy.min_request_volume,
        count(1..=1_000_000),
    );
    fields.read("window", &mut policy.window, duration(secs(1)..=secs(60)));
    fields.read(
        "half_open_max_trials",
        &mut policy.half_open_max_trials,
        count(1..=100),
    );
    fields.read(
        "half_open_successes",
        &mut policy.half_open_successes,
        count(1..=1000),
    );
    fields.read(
        "ramp_duration",
        &mut policy.ramp_duration,
        duration(ms(0)..=secs(3600)),
    );
    fields.read("quorum", &mut policy.quorum, positive_share);
    fields.read("min_coverage", &mut policy.min_coverage, share);
    open_durations(fields, policy);
    slow_calls(fields, policy);
}

fn mode(at: &At<'_>) -> Option<Mode> {
    match at.text()? {
        "ENFORCE" => Some(Mode::Enforce),
        "SHADOW" => Some(Mode::Shadow),
        "DISABLED" => Some(Mode::Disabled),
        "FORCED_OPEN" | "FORCED_CLOSED" => {
            at.error(format_args!(
                "{} is not a setting but an operator's decision: use `rampctl override`, which \
                 asks for a reason and an expiry; here use ENFORCE, SHADOW, DISABLED",
                at.value
            ));
            None
        }
        _ => at.refuse("a mode", "use ENFORCE, SHADOW, DISABLED"),
    }
}

fn open_durations(fields: &mut Fields<'_>, policy: &mut BreakerPolicy) {
    let hour = secs(3600);
    let first = fields.read(
        "open_duration",
        &mut policy.open_duration,
        duration(ms(100)..=hour),
    );
    let cap = &mut policy.max_open_duration;
    let max = fields.read("max_open_duration", cap, duration(ms(100)..=24 * hour));
    if (first || max) && policy.open_duration > policy.max_open_duration {
        fields.at.error(format_args!(
            "open_duration ({}) is longer than max_open_duration ({}): raise the maximum or lower \
             the first",
            show_duration(policy.open_duration),
            show_duration(policy.max_open_duration)
        ));
    }
}

fn slow_calls(fields: &mut Fields<'_>, policy: &mut BreakerPolicy) {
    fields.read("slow_call_duration", &mut policy.slow_call_duration, |at| {
        duration(ms(1)..=secs(3600))(at).map(Some)
    });
    let rate = &mut policy.slow_call_rate_threshold;
    let written = fields.read("slow_call_rate_threshold", rate, positive_share);
    if written && policy.slow_call_duration.is_none() {
        fields.at.report.warn(format!(
            "{}.slow_call_rate_threshold has no effect without slow_call_duration",
            fields.at.path
        ));
    }
}

/// The throttle lets a tenth more through than a backend takes, to find out when
/// it takes more. A breaker that opens at so few overloads would open on its own
/// meter. Refused where a file asks for both; a file older than the throttle may
/// only not know of it.
fn check_overload(fields: &Fields<'_>, asked_for: bool, read: &Thresholds) {
    let low = read.overload.filter(|threshold| *threshold <= PROBED);
    let Some(threshold) = low.filter(|_| read.policy.overload_throttle) else {
        return;
    };
    let message = format!(
        "overload_rate_threshold ({}) is not above the {} of overloads that the throttle provokes \
         to find out what the backend takes, so the breaker would open on them: raise it, or set \
         overload_throttle: false",
        show_share(threshold),
        show_share(PROBED)
    );
    match asked_for {
        true => fields.at.error(message),
        false => fields
            .at
            .report
            .warn(format!("{}: {message}", fields.at.path)),
    }
}

/// A call that a time-out ends can never be slow.
pub(crate) fn check_slow_call(service: &Fields<'_>, settings: &Settings) {
    let total = settings.timeouts.total;
    match settings.thresholds.policy.slow_call_duration {
        Some(slow) if slow >= total => service.at.error(format_args!(
            "breaker.slow_call_duration ({}) is not below timeouts.total ({}), so no call could be \
             slow",
            show_duration(slow),
            show_duration(total)
        )),
        _ => {}
    }
}
