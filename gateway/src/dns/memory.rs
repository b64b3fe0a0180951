//! Which names an agent looked up, and what it was told: so that a connect to an address can be given back its name.
//! Pure: the time is an argument. Also counts an agent's refused queries, so that they fill no recording.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Who asked: the cgroup's id and the uid, as the kernel captured them.
pub type AgentKey = (u64, u32);

/// How long an answer is remembered. Longer than its TTL: clients keep addresses longer than they should.
pub(super) const REMEMBERED: Duration = Duration::from_hours(1);
/// Agents remembered; one more takes the place of the one that asked the longest ago.
const MAX_AGENTS: usize = 4096;
/// Addresses remembered for one agent, of all names together; one more takes the place of the oldest.
const MAX_ADDRESSES: usize = 1024;
/// Refused queries of one agent that are told of, in each window; the others are counted.
const MAX_REFUSALS: u32 = 20;
const REFUSAL_WINDOW: Duration = Duration::from_mins(1);

#[derive(Default)]
pub(super) struct Memory(HashMap<AgentKey, Agent>);

struct Agent {
    told: HashMap<(IpAddr, String), Instant>,
    last_asked: Instant,
    refusals: Refusals,
}

struct Refusals {
    since: Instant,
    told: u32,
    untold: u32,
}

impl Memory {
    /// An agent was told that `name` is at `addresses`.
    pub(super) fn remember(&mut self, agent: AgentKey, name: &str, addresses: &[IpAddr], now: Instant) {
        let told = &mut self.agent(agent, now).told;
        for address in addresses {
            if told.len() >= MAX_ADDRESSES {
                forget(told, now);
            }
            told.insert((address.to_canonical(), name.to_owned()), now);
        }
    }

    /// The names that led this agent to `address`, in order.
    pub(super) fn names_for(&self, agent: AgentKey, address: IpAddr, now: Instant) -> Vec<String> {
        let address = address.to_canonical();
        let Some(agent) = self.0.get(&agent) else { return Vec::new() };
        let known = agent.told.iter().filter(|((told, _), at)| *told == address && is_fresh(**at, now));
        let mut names: Vec<String> = known.map(|((_, name), _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Whether to tell of one more refused query of this agent's; if so, how many were passed over before.
    pub(super) fn refused(&mut self, agent: AgentKey, now: Instant) -> Option<u32> {
        let refusals = &mut self.agent(agent, now).refusals;
        if now.saturating_duration_since(refusals.since) >= REFUSAL_WINDOW {
            (refusals.since, refusals.told) = (now, 0);
        }
        if refusals.told >= MAX_REFUSALS {
            refusals.untold = refusals.untold.saturating_add(1);
            return None;
        }
        refusals.told += 1;
        Some(std::mem::take(&mut refusals.untold))
    }

    fn agent(&mut self, key: AgentKey, now: Instant) -> &mut Agent {
        if self.0.len() >= MAX_AGENTS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, agent)| agent.last_asked).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let agent = self.0.entry(key).or_insert_with(|| Agent {
            told: HashMap::new(),
            last_asked: now,
            refusals: Refusals { since: now, told: 0, untold: 0 },
        });
        agent.last_asked = now;
        agent
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < REMEMBERED
}

/// Makes room: what has expired goes, or else the oldest.
fn forget(told: &mut HashMap<(IpAddr, String), Instant>, now: Instant) {
    told.retain(|_, at| is_fresh(*at, now));
    if told.len() >= MAX_ADDRESSES {
        let oldest = told.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
        oldest.and_then(|oldest| told.remove(&oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AgentKey = (1, 1001);

    fn address(n: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0xc000_0200 + n))
    }

    #[test]
    fn names_are_each_agents_own_and_expire() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.remember(ONE, "b.internal", &[address(1), address(2)], start);
        memory.remember(ONE, "a.internal", &[address(1)], start + Duration::from_secs(1));
        let names = |agent, n, at| memory.names_for(agent, address(n), at);
        assert_eq!(names(ONE, 1, start), ["a.internal", "b.internal"]);
        assert_eq!(names(ONE, 2, start), ["b.internal"]);
        assert!(names(ONE, 3, start).is_empty());
        assert!(names((2, 1001), 1, start).is_empty() && names((1, 1002), 1, start).is_empty());
        assert_eq!(names(ONE, 1, start + REMEMBERED), ["a.internal"]);
        // An address is the same when it comes mapped into IPv6.
        assert_eq!(memory.names_for(ONE, "::ffff:192.0.2.2".parse().unwrap(), start), ["b.internal"]);
    }

    #[test]
    fn it_is_bounded_in_both_directions() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let at = |n: usize| start + Duration::from_millis(n as u64);
        for n in 0..=MAX_ADDRESSES {
            memory.remember(ONE, "db", &[address(u32::try_from(n).unwrap())], at(n));
        }
        assert_eq!(memory.0[&ONE].told.len(), MAX_ADDRESSES);
        assert!(memory.names_for(ONE, address(0), at(0)).is_empty());
        assert_eq!(memory.names_for(ONE, address(1), at(0)), ["db"]);
        for n in 0..MAX_AGENTS {
            memory.remember((n as u64, 0), "db", &[address(0)], at(MAX_ADDRESSES + 1 + n));
        }
        assert_eq!(memory.0.len(), MAX_AGENTS);
        assert!(!memory.0.contains_key(&ONE));
    }

    #[test]
    fn refusals_are_told_of_at_a_bounded_rate_and_counted() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let told = (0..100).filter(|_| memory.refused(ONE, start).is_some()).count();
        assert_eq!(told, 20);
        assert_eq!(memory.refused((2, 0), start), Some(0));
        assert_eq!(memory.refused(ONE, start + REFUSAL_WINDOW), Some(80));
        assert_eq!(memory.refused(ONE, start + REFUSAL_WINDOW), Some(0));
    }
}
