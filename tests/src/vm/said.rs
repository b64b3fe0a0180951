//! What a virtual machine wrote to its serial console, and what must be in it.

use std::collections::BTreeMap;

use crate::postgres;

/// What a boot said: verdicts by name, and what the agent printed at each of its runs.
pub struct Said {
    pub all: String,
}

impl Said {
    pub fn verdicts(&self) -> BTreeMap<&str, &str> {
        self.all.lines().filter_map(|line| line.trim_end().strip_prefix("VERDICT ")?.split_once('=')).collect()
    }

    pub fn agent(&self, run: &str) -> String {
        let prefix = format!("AGENT {run}: ");
        let lines = self.all.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub fn assert_verdict(&self, name: &str, expected: &str) {
        assert_eq!(self.verdicts().get(name), Some(&expected), "verdict {name}\n{}", self.all);
    }

    /// The agent got its rows, with what is secret masked, and nothing else on the network.
    pub fn assert_masked(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("psql: 0") && agent.contains("Ada Okafor"), "{run}\n{}", self.all);
        assert!(agent.contains("1002") && !agent.contains(postgres::SSN), "{run}\n{}", self.all);
        assert!(!agent.contains(postgres::EMAIL), "{run}\n{}", self.all);
        assert!(agent.contains("SSL connection") && agent.contains("verified: 0"), "{run}\n{}", self.all);
        self.assert_nothing_elsewhere(run);
    }

    /// The agent ran, and reached nothing at all.
    pub fn assert_closed(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("psql: 2") && !agent.contains("Ada Okafor"), "{run}\n{}", self.all);
        self.assert_nothing_elsewhere(run);
    }

    /// A reboot: the agent starts by itself, the gateway does not, and nothing passes until it does.
    pub fn assert_reboot_stays_closed(&self) {
        self.assert_verdict("boot.kernel", "active");
        self.assert_verdict("boot.gateway", "inactive");
        self.assert_verdict("boot.started", "active");
        self.assert_closed("boot");
        self.assert_masked("late");
    }

    /// Another version, with an agent that tried to get by all the while, and one with a session: nothing stopped, nothing passed.
    pub fn assert_upgrade(&self) {
        self.assert_verdict("upgrade", "0");
        self.assert_verdict("upgrade.gateway", "active");
        self.assert_verdict("upgrade.enforcing", "0");
        self.assert_verdict("upgrade.restarted", "yes");
        self.assert_verdict("upgrade.swapped", "yes");
        self.assert_verdict("upgrade.agent-lives", "yes");
        self.assert_verdict("upgrade.session", "*******1002 *******1002 psql: 0");
        self.assert_verdict("upgrade.configuration", "kept");
        self.assert_masked("upgraded");
        assert!(self.number("prober.tries") > 20, "{}", self.all);
        self.assert_verdict("prober.free", "0");
    }

    pub fn number(&self, name: &str) -> u64 {
        let said = self.verdicts().get(name).and_then(|text| text.parse().ok());
        said.unwrap_or_else(|| panic!("no number {name}\n{}", self.all))
    }

    /// The agent tried a server that is no target, and got not a byte of its answer.
    fn assert_nothing_elsewhere(&self, run: &str) {
        let agent = self.agent(run);
        assert!(agent.contains("elsewhere: done") && !agent.contains("\"keys\""), "{run}\n{}", self.all);
    }
}
