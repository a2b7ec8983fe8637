//! Fleet quotas: a rate that all gateways together may send, handed out in parts
//! that add up to it.
//!
//! A central counter would be asked for every request; equal parts starve the
//! gateway that has the clients. So parts follow demand, which gateways report,
//! and are leases: who is not heard of falls back to a rate that all may send at
//! once without exceeding the whole.

/// Share of the rate that is split evenly, whatever the demand: whose first
/// requests come between two grants is not refused for it.
pub const FLOOR: f64 = 0.05;

/// Share of the rate that is sent when every agent is on its own. Below 1, so
/// that a few who are cut off do not add to what the others are granted.
pub const ALONE: f64 = 0.75;

/// What is claimed of a quota: by an agent, or by a replica for all of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Claim {
    /// Agents that share this part; at least 1 for a part of the even split.
    pub agents: u32,
    /// Requests a second, 0 and up.
    pub wanted: f64,
}

impl Claim {
    /// One agent's.
    pub const fn of_agent(wanted: f64) -> Self {
        Self { agents: 1, wanted }
    }
}

/// Splits `rate` less what is `reserved` (requests a second) over claims: [`FLOOR`]
/// of it evenly by agents, the rest by what is wanted, and all of it evenly while
/// nobody wants anything. In the order of the claims; the parts add up to what was
/// split, and each is above 0 if that is and it has agents.
pub fn split(rate: f64, reserved: f64, claims: &[Claim]) -> Vec<f64> {
    let rest = (rate - reserved).max(0.0);
    let agents: f64 = claims.iter().map(|claim| f64::from(claim.agents)).sum();
    let wanted: f64 = claims.iter().map(|claim| claim.wanted).sum();
    let part = |claim: &Claim| {
        let even = f64::from(claim.agents) / agents.max(1.0);
        match wanted > 0.0 {
            true => rest * (FLOOR * even + (1.0 - FLOOR) * claim.wanted / wanted),
            false => rest * even,
        }
    };
    claims.iter().map(part).collect()
}

/// What each of `agents` may send when nobody tells it more: together [`ALONE`]
/// of the rate.
pub fn alone(rate: f64, agents: u32) -> f64 {
    ALONE * rate / f64::from(agents.max(1))
}
