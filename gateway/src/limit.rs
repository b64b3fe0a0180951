//! How much of a target's data one statement, and one session, may take. Pure.
//!
//! All limits that match an agent and a target apply: of each bound the lowest.

use std::sync::Arc;

/// One `[[limit]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRule {
    pub name: String,
    /// Empty: all agents.
    pub agents: Vec<String>,
    /// Empty: all targets.
    pub targets: Vec<String>,
    pub statement: Amount<Option<u64>>,
    pub session: Amount<Option<u64>>,
}

/// Rows of results, and their bytes as the target sends them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount<T> {
    pub rows: T,
    pub bytes: T,
}

/// What a statement may take: the limits that apply to it.
#[derive(Clone, Debug, Default)]
pub struct Allowance(Vec<Arc<LimitRule>>);

impl LimitRule {
    fn applies(&self, agent: &str, target: &str) -> bool {
        let is_among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|it| it == name);
        is_among(&self.agents, agent) && is_among(&self.targets, target)
    }
}

impl Allowance {
    pub fn new(limits: &[Arc<LimitRule>], agent: &str, target: &str) -> Self {
        Self(limits.iter().filter(|it| it.applies(agent, target)).cloned().collect())
    }

    /// Why a statement must end that has taken so much, in a session that has, with it; for people.
    pub fn exceeded(&self, statement: Amount<u64>, session: Amount<u64>) -> Option<String> {
        let bound = |most: Option<u64>, taken: u64, what: &str, whole: &str, rule: &LimitRule| {
            let most = most.filter(|most| taken > *most)?;
            Some(format!("{whole} may take {most} {what} (limit \"{}\")", rule.name))
        };
        self.0.iter().find_map(|rule| {
            bound(rule.statement.rows, statement.rows, "rows", "one statement", rule)
                .or_else(|| bound(rule.statement.bytes, statement.bytes, "bytes", "one statement", rule))
                .or_else(|| bound(rule.session.rows, session.rows, "rows", "one session", rule))
                .or_else(|| bound(rule.session.bytes, session.bytes, "bytes", "one session", rule))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(agents: &[&str], rows: u64, session_bytes: Option<u64>) -> Arc<LimitRule> {
        Arc::new(LimitRule {
            name: format!("at most {rows}"),
            agents: agents.iter().map(|it| (*it).to_owned()).collect(),
            targets: vec!["orders".to_owned()],
            statement: Amount { rows: Some(rows), bytes: None },
            session: Amount { rows: None, bytes: session_bytes },
        })
    }

    #[test]
    fn the_lowest_bound_that_applies_is_the_one() {
        let limits = [rule(&[], 100, Some(1000)), rule(&["coder"], 10, None)];
        let taken = |rows, bytes| Amount { rows, bytes };
        let coder = Allowance::new(&limits, "coder", "orders");
        assert_eq!(coder.exceeded(taken(10, 99), taken(10, 99)), None);
        assert!(coder.exceeded(taken(11, 99), taken(11, 99)).is_some_and(|it| it.contains("at most 10\"")));
        let other = Allowance::new(&limits, "other", "orders");
        assert_eq!(other.exceeded(taken(100, 1000), taken(900, 1000)), None);
        assert!(other.exceeded(taken(101, 0), taken(101, 0)).is_some_and(|it| it.contains("100 rows")));
        assert!(other.exceeded(taken(1, 1), taken(1, 1001)).is_some_and(|it| it.contains("one session")));
        let elsewhere = Allowance::new(&limits, "coder", "billing");
        assert_eq!(elsewhere.exceeded(taken(u64::MAX, u64::MAX), taken(u64::MAX, u64::MAX)), None);
    }
}
