//! Crashes and outages.

use super::{Event, Micros, World, ms, secs};

pub enum Chaos {
    /// Something breaks now and then, until this time.
    Season(Micros),
    AgentUp(usize),
    ReplicaUp(usize),
    StoreUp,
    /// The agent finds another replica, if its own is down.
    Reconnect(usize),
}

impl World {
    pub(super) fn chaos(&mut self, chaos: Chaos) {
        match chaos {
            Chaos::Season(end) if self.now < end => {
                self.break_something();
                let pause = self.rng.between(ms(200), secs(2));
                self.after(pause, Event::Chaos(Chaos::Season(end)));
            }
            Chaos::Season(_) => {}
            Chaos::AgentUp(agent) => self.agents[agent] = self.agents[agent].restarted(),
            Chaos::ReplicaUp(replica) => {
                self.replicas[replica] = self.replicas[replica].restarted();
                let life = self.replicas[replica].life;
                self.after(0, Event::ReplicaTick { replica, life });
            }
            Chaos::StoreUp => self.store.up = true,
            Chaos::Reconnect(agent) => self.reconnect(agent),
        }
    }

    fn break_something(&mut self) {
        let pause = self.rng.between(ms(50), secs(4));
        match self.rng.between(0, 5) {
            0..=2 => {
                let agent = self.rng.between(0, self.agents.len() as u64 - 1) as usize;
                if std::mem::take(&mut self.agents[agent].up) {
                    self.after(pause, Event::Chaos(Chaos::AgentUp(agent)));
                }
            }
            3 | 4 => {
                let replica = self.rng.between(0, self.replicas.len() as u64 - 1) as usize;
                if std::mem::take(&mut self.replicas[replica].up) {
                    self.after(pause, Event::Chaos(Chaos::ReplicaUp(replica)));
                    self.scatter(replica);
                }
            }
            _ => {
                if std::mem::take(&mut self.store.up) {
                    self.after(pause, Event::Chaos(Chaos::StoreUp));
                }
            }
        }
    }

    /// Its agents notice, each in its own time.
    fn scatter(&mut self, replica: usize) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].replica == replica {
                let pause = self.rng.between(ms(10), secs(1));
                self.after(pause, Event::Chaos(Chaos::Reconnect(agent)));
            }
        }
    }

    fn reconnect(&mut self, agent: usize) {
        if self.replicas[self.agents[agent].replica].up {
            return;
        }
        let living: Vec<usize> = (0..self.replicas.len())
            .filter(|r| self.replicas[*r].up)
            .collect();
        if living.is_empty() {
            self.after(ms(300), Event::Chaos(Chaos::Reconnect(agent)));
        } else {
            let pick = self.rng.between(0, living.len() as u64 - 1) as usize;
            self.agents[agent].replica = living[pick];
        }
    }
}
