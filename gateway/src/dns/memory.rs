//! Which names an agent looked up, and what it was told: so that a connect to an address can be given back its name.
//! Pure: the time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Who asked: the cgroup's id and the uid, as the kernel captured them.
pub type AgentKey = (u64, u32);

/// How long after an answer's TTL a connect may still come by it. Clients keep addresses longer than they should: a Java
/// machine for half a minute, a pool or a loop of retries for some minutes. Who keeps one for ever is refused, and asks again.
pub(super) const GRACE: Duration = Duration::from_mins(10);
/// Askers remembered; one more takes the place of the one that asked the longest ago.
const MAX_AGENTS: usize = 4096;
/// Addresses remembered for one asker, of all names together; one more takes the place of the one that ends first.
const MAX_ADDRESSES: usize = 512;

/// One thing that an agent was told, and for how long it counts; for another gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    agent: AgentKey,
    name: String,
    address: IpAddr,
    remaining: Duration,
}

/// Of all askers together.
pub(crate) const MAX_TOLD: usize = MAX_AGENTS * MAX_ADDRESSES;

#[derive(Default)]
pub(super) struct Memory(HashMap<AgentKey, Agent>);

struct Agent {
    /// Until when each was told.
    told: HashMap<(IpAddr, Arc<str>), Instant>,
    last_asked: Instant,
}

impl Memory {
    /// An agent was told that `name` is at `addresses`, and that this is so for `ttl`.
    pub(super) fn remember(
        &mut self,
        agent: AgentKey,
        name: &Arc<str>,
        addresses: &[IpAddr],
        ttl: Duration,
        now: Instant,
    ) {
        for address in addresses {
            self.add(agent, (address.to_canonical(), Arc::clone(name)), now + ttl + GRACE, now);
        }
    }

    fn add(&mut self, agent: AgentKey, key: (IpAddr, Arc<str>), until: Instant, now: Instant) {
        let told = &mut self.agent(agent, now).told;
        if told.len() >= MAX_ADDRESSES && !told.contains_key(&key) {
            forget(told, now);
        }
        // What was told with a longer TTL before is still in the agent's hands.
        told.entry(key).and_modify(|old| *old = until.max(*old)).or_insert(until);
    }

    /// All of it, for another gateway's [`Memory::take_over`].
    pub(super) fn told(&self, now: Instant) -> Vec<Told> {
        let each = |(&agent, known): (&AgentKey, &Agent)| {
            let told = known.told.iter().map(move |((address, name), until)| Told {
                agent,
                name: name.to_string(),
                address: *address,
                remaining: until.saturating_duration_since(now),
            });
            told.collect::<Vec<_>>()
        };
        self.0.iter().flat_map(each).collect()
    }

    pub(super) fn take_over(&mut self, told: Vec<Told>, now: Instant) {
        for Told { agent, name, address, remaining } in told {
            self.add(agent, (address, name.into()), now + remaining, now);
        }
    }

    /// The names that led this agent to `address`, in order.
    pub(super) fn names_for(&self, agent: AgentKey, address: IpAddr, now: Instant) -> Vec<String> {
        let address = address.to_canonical();
        let Some(agent) = self.0.get(&agent) else { return Vec::new() };
        let known = agent.told.iter().filter(|((told, _), until)| *told == address && **until > now);
        let mut names: Vec<String> = known.map(|((_, name), _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Forgets what means something else now.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(&str, IpAddr) -> bool) {
        for agent in self.0.values_mut() {
            agent.told.retain(|(address, name), _| keeps(name, *address));
        }
    }

    fn agent(&mut self, key: AgentKey, now: Instant) -> &mut Agent {
        if self.0.len() >= MAX_AGENTS && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, agent)| agent.last_asked).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let agent = self.0.entry(key).or_insert_with(|| Agent { told: HashMap::new(), last_asked: now });
        agent.last_asked = now;
        agent
    }
}

/// Makes room: what has expired goes, or else what ends first.
fn forget(told: &mut HashMap<(IpAddr, Arc<str>), Instant>, now: Instant) {
    told.retain(|_, until| *until > now);
    if told.len() >= MAX_ADDRESSES {
        let first = told.iter().min_by_key(|(_, until)| **until).map(|(key, _)| key.clone());
        first.and_then(|first| told.remove(&first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: AgentKey = (1, 1001);
    const TTL: Duration = Duration::from_secs(30);

    fn address(n: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from_bits(0xc000_0200 + n))
    }

    #[test]
    fn names_are_each_agents_own_and_end_with_their_ttl_and_a_grace() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.remember(ONE, &"b.internal".into(), &[address(1), address(2)], TTL, start);
        memory.remember(ONE, &"a.internal".into(), &[address(1)], 2 * TTL, start);
        let names = |agent, n, at| memory.names_for(agent, address(n), at);
        assert_eq!(names(ONE, 1, start), ["a.internal", "b.internal"]);
        assert_eq!(names(ONE, 2, start), ["b.internal"]);
        assert!(names(ONE, 3, start).is_empty());
        assert!(names((2, 1001), 1, start).is_empty() && names((1, 1002), 1, start).is_empty());
        assert_eq!(names(ONE, 1, start + GRACE + TTL / 2), ["a.internal", "b.internal"]);
        assert_eq!(names(ONE, 1, start + TTL + GRACE), ["a.internal"]);
        assert!(names(ONE, 1, start + 2 * TTL + GRACE).is_empty());
        // An address is the same when it comes mapped into IPv6.
        assert_eq!(memory.names_for(ONE, "::ffff:192.0.2.2".parse().unwrap(), start), ["b.internal"]);
    }

    #[test]
    fn a_shorter_ttl_takes_nothing_back() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.remember(ONE, &"db".into(), &[address(1)], 10 * TTL, start);
        memory.remember(ONE, &"db".into(), &[address(1)], Duration::ZERO, start + TTL);
        assert_eq!(memory.names_for(ONE, address(1), start + 9 * TTL + GRACE), ["db"]);
    }

    #[test]
    fn what_means_something_else_now_is_forgotten() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.remember(ONE, &"old".into(), &[address(1)], TTL, start);
        memory.remember(ONE, &"new".into(), &[address(1)], TTL, start);
        memory.retain(|name, at| name == "new" && at == address(1));
        assert_eq!(memory.names_for(ONE, address(1), start), ["new"]);
    }

    #[test]
    fn another_gateway_takes_it_over() {
        let (mut memory, mut next, start) = (Memory::default(), Memory::default(), Instant::now());
        memory.remember(ONE, &"db".into(), &[address(1)], TTL, start);
        next.take_over(memory.told(start + TTL / 2), start + TTL / 2);
        assert_eq!(next.names_for(ONE, address(1), start + GRACE), ["db"]);
        assert!(next.names_for(ONE, address(1), start + TTL + GRACE).is_empty());
    }

    #[test]
    fn it_is_bounded_in_both_directions() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let at = |n: usize| start + Duration::from_millis(n as u64);
        let db: Arc<str> = "db".into();
        for n in 0..=MAX_ADDRESSES {
            memory.remember(ONE, &db, &[address(u32::try_from(n).unwrap())], TTL, at(n));
        }
        assert_eq!(memory.0[&ONE].told.len(), MAX_ADDRESSES);
        assert!(memory.names_for(ONE, address(0), at(0)).is_empty());
        assert_eq!(memory.names_for(ONE, address(1), at(0)), ["db"]);
        for n in 0..MAX_AGENTS {
            memory.remember((n as u64, 0), &db, &[address(0)], TTL, at(MAX_ADDRESSES + 1 + n));
        }
        assert_eq!(memory.0.len(), MAX_AGENTS);
        assert!(!memory.0.contains_key(&ONE));
    }
}
