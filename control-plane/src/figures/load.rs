//! What a backend was asked for and took: what its throttle and its mix are
//! decided by.

use breaker_core::{ByPriority, Counts, Priority, Timestamp, Window, window::slot_start};
use rampmeter_api::{convert::steering::from_by_priority, v1};

use super::{OfAgent, OfBackend, SPAN, intake::Noted};

impl OfBackend {
    /// Demand a second by priority. The ring holds whole seconds, the last of them
    /// not over.
    pub(super) fn directed(&self, now: Timestamp) -> ByPriority {
        let mut sum = ByPriority::default();
        for agent in self.agents.values() {
            sum += agent.rates.over(SPAN, now).directed;
        }
        let covered = SPAN.as_secs_f64() - 1.0 + (now.as_millis() % 1000) as f64 / 1000.0;
        ByPriority(sum.0.map(|count| count / covered))
    }

    /// Completed without overload, requests a second.
    pub(super) fn accepted(&self, now: Timestamp) -> f64 {
        let mut sum = Counts::default();
        for agent in self.agents.values() {
            sum += agent.window.total_since(now - SPAN);
        }
        sum.requests.saturating_sub(sum.overloads) as f64 / SPAN.as_secs_f64()
    }

    /// Refused by the throttle, the ramp and agents' limits. Of several agents, the
    /// one that its own limit stops most says nothing about the backend by that.
    pub(super) fn metered(&self) -> Window {
        let limited = |agent: &OfAgent| agent.metered.total_since(Timestamp::default()).overloads;
        let busiest = self.agents.iter().max_by_key(|(_, agent)| limited(agent));
        let busiest = busiest.filter(|_| self.agents.len() > 1).map(|(id, _)| id);
        let mut sum = Window::default();
        for (id, agent) in &self.agents {
            match Some(id) == busiest {
                true => sum.merge(&without_limited(&agent.metered)),
                false => sum.merge(&agent.metered),
            }
        }
        sum
    }
}

fn without_limited(metered: &Window) -> Window {
    let mut left = Window::default();
    for (slot, counts) in metered.slots() {
        let requests = counts.requests.saturating_sub(counts.overloads);
        let counts = Counts {
            requests,
            ..Counts::default()
        };
        left.record(slot_start(slot), counts);
    }
    left
}

impl OfAgent {
    /// What the throttle, the ramp and the agent's own limit refused: as of now,
    /// because reports are ten a second where any of them acts.
    pub(super) fn record_metered(
        &mut self,
        wire: &v1::BackendReport,
        now: Timestamp,
        cut: &mut Noted,
    ) {
        let refused = wire.rejections.unwrap_or_default();
        let said = [refused.throttle, refused.ramp, refused.limit];
        let mut left = wire.demand.min(u64::from(self.left(now)));
        let kept = said.map(|count| {
            let kept = count.min(left);
            left -= kept;
            kept
        });
        if kept != said {
            cut.note(|| {
                format!(
                    "{}: refused by throttle, ramp and limit {said:?} cut to {kept:?}",
                    wire.backend
                )
            });
        }
        let requests = kept.iter().sum();
        let [_, _, overloads] = kept;
        self.budget.0 -= requests;
        let counts = Counts {
            requests,
            overloads,
            ..Counts::default()
        };
        self.metered.record(now, counts);
    }
}

/// `demand` by priority. Agents of an older version do not tell it apart.
pub(super) fn directed(wire: &v1::BackendReport, wanted: u64, cut: &mut Noted) -> ByPriority {
    let Some(sent) = &wire.directed else {
        let mut all = ByPriority::default();
        all[Priority::Normal] = wanted as f64;
        return all;
    };
    match from_by_priority("directed", sent) {
        // As doubles, sums of whole numbers are a little off.
        Ok(directed) if directed.total() <= wanted as f64 * 1.001 => directed,
        Ok(directed) => {
            let total = directed.total();
            cut.note(|| format!("{}: {total} directed of a demand of {wanted}", wire.backend));
            ByPriority(directed.0.map(|count| count / total * wanted as f64))
        }
        Err(error) => {
            cut.note(|| format!("{}: {error}", wire.backend));
            ByPriority::default()
        }
    }
}
