//! What agents may ask, and what they may be told. Pure.
//!
//! A name is an agent's to ask if some rule could let that agent open a session with a target of that name. Of these names
//! it may ask for addresses, and for the targets' own service (SRV). Any other type could carry data either way, and any
//! other name would carry data to whoever answers for it; so nothing of these is ever sent on.
//!
//! Who asks for a target that is not its own would learn from a resolver's refusal only that names do not resolve, and try
//! again. So it is told an address that is nobody's, and its connection to that the gateway refuses in the protocol's words.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::message::{Family, Question, Wanted};
use super::rebinding;
use crate::config::{Config, Mode};
use crate::target::{Host, Network, Target};

/// The names that targets have.
#[derive(Debug)]
pub(super) struct Names {
    config: Arc<Config>,
    listed: HashMap<Arc<str>, Vec<Arc<Target>>>,
}

/// A name that this agent may ask, and its targets that this agent may connect to.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: Arc<str>,
    targets: Vec<Arc<Target>>,
    /// What policy would have said, where it only observes.
    pub(super) observed: Option<String>,
}

/// Why a name is not an agent's to ask.
#[derive(Debug)]
enum NotTheirs {
    /// No target has it.
    Unlisted,
    /// Others' targets have it.
    Listed(Arc<str>, String),
}

/// What a question comes to.
#[derive(Debug)]
pub(super) enum Judgement {
    Address(Asked),
    Service,
    /// A target's name that is not the agent's to ask, and why.
    Decline(Arc<str>, String),
    /// The name exists and has no record of this type, as far as this agent is concerned.
    Empty,
    /// Why, for the record.
    Refuse(String),
}

impl Names {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let mut listed: HashMap<Arc<str>, Vec<Arc<Target>>> = HashMap::new();
        for target in &config.targets {
            for address in &target.address {
                let Host::Name(name) = &address.host else { continue };
                let targets = listed.entry(name.as_str().into()).or_default();
                if !targets.iter().any(|other| Arc::ptr_eq(other, target)) {
                    targets.push(Arc::clone(target));
                }
            }
        }
        Self { config, listed }
    }

    /// The question of an agent that may connect to every target of this name, if there is one.
    pub(super) fn asked_by_all(&self, name: &str) -> Option<Asked> {
        let (name, targets) = self.listed.get_key_value(name)?;
        Some(Asked { name: Arc::clone(name), targets: targets.clone(), observed: None })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The decision on a question of this agent's; an error in its place says why the asker is no agent.
    pub(super) fn judge(&self, agent: Result<&str, &str>, question: &Question) -> Judgement {
        let (wanted, name) = question.wanted();
        let asked = match self.may_ask(agent, &name) {
            Ok(asked) => asked,
            Err(theirs) => return self.judge_foreign(&wanted, name, theirs),
        };
        match wanted {
            Wanted::Address(family) if asked.lacks(family) => Judgement::Empty,
            Wanted::Address(_) => Judgement::Address(asked),
            Wanted::Hints => Judgement::Empty,
            Wanted::Service(service) => {
                if asked.targets.iter().any(|target| target.protocol.service() == service) {
                    return Judgement::Service;
                }
                Judgement::Refuse("no target of this name is this service".to_owned())
            }
            Wanted::Other => Judgement::Refuse("records of this type are not answered".to_owned()),
        }
    }

    fn judge_foreign(&self, wanted: &Wanted, name: String, theirs: NotTheirs) -> Judgement {
        let observes = self.only_observes(&name);
        match (wanted, theirs) {
            (Wanted::Address(_), theirs) if observes => {
                let targets = self.listed.get(name.as_str()).cloned().unwrap_or_default();
                let observed = Some(theirs.into_reason());
                Judgement::Address(Asked { name: name.into(), targets, observed })
            }
            (Wanted::Hints, _) if observes => Judgement::Empty,
            (Wanted::Address(_), NotTheirs::Listed(name, why)) => Judgement::Decline(name, why),
            (_, theirs) => Judgement::Refuse(theirs.into_reason()),
        }
    }

    /// Whether a stub resolver's search list may have made the refused name out of one that targets have: it begins with the
    /// same label. Such a client must be told "no such name", or it never comes to the name that it looks for.
    pub(super) fn is_candidate(&self, question: &Question) -> bool {
        let (Wanted::Address(_) | Wanted::Hints, name) = question.wanted() else { return false };
        let first = |name: &str| name.split('.').next().map(str::to_owned);
        let label = first(&name);
        !self.listed.contains_key(name.as_str()) && self.listed.keys().any(|known| first(known) == label)
    }

    /// Why the agent must not be told that the name is at `address`; `own`: it is this host's.
    pub(super) fn objection(&self, asked: &Asked, address: IpAddr, own: bool) -> Option<String> {
        if let Some(other) = self.other_target(asked, address) {
            return Some(format!("an address of target \"{}\"", other.name));
        }
        let within: Vec<Network> = asked.targets.iter().flat_map(|target| target.resolve_within.clone()).collect();
        rebinding::objection(address, own, &within, asked.targets.iter().all(|target| target.is_verified()))
    }

    /// Whether an address that policy objects to is told all the same, and only recorded.
    pub(super) fn tells_all_the_same(&self, asked: &Asked) -> bool {
        asked.observed.is_some() || self.config.gateway.mode == Mode::Observe
    }

    /// Whether an SRV record may be told: it must lead to a name and port that the agent may connect to.
    pub(super) fn may_be_told(&self, agent: Result<&str, &str>, host: &str, port: u16) -> bool {
        self.may_ask(agent, host).is_ok_and(|asked| asked.ports().any(|own| own == port))
    }

    /// Whether a name that was told under this configuration means the same under the other.
    pub(super) fn agrees_on(&self, name: &str, other: &Self) -> bool {
        let meaning = |names: &Self| {
            let targets = names.listed.get(name)?;
            Some(targets.iter().map(|it| (it.name.clone(), it.resolve.clone(), it.resolve_within.clone())).collect())
        };
        let meanings: [Option<Vec<_>>; 2] = [meaning(self), meaning(other)];
        meanings[0] == meanings[1] && (meanings[0].is_some() || other.only_observes(name))
    }

    fn may_ask(&self, agent: Result<&str, &str>, name: &str) -> Result<Asked, NotTheirs> {
        let (name, targets) = self.listed.get_key_value(name).ok_or(NotTheirs::Unlisted)?;
        let theirs = |why| NotTheirs::Listed(Arc::clone(name), why);
        let agent = agent.map_err(|why| theirs(why.to_owned()))?;
        let may_open = |target: &&Arc<Target>| self.config.policy.may_open(agent, &target.name);
        let targets: Vec<_> = targets.iter().filter(may_open).cloned().collect();
        if targets.is_empty() {
            return Err(theirs(format!("no rule lets agent \"{agent}\" connect to a target of this name")));
        }
        Ok(Asked { name: Arc::clone(name), targets, observed: None })
    }

    fn only_observes(&self, name: &str) -> bool {
        let gateway = &self.config.gateway;
        let unlisted = !self.listed.contains_key(name);
        gateway.mode == Mode::Observe || (unlisted && gateway.unlisted == Mode::Observe)
    }

    /// A target that has not this name but, by the configuration's own words, this address, on a port where the two would
    /// be taken for each other: under the name, its policy and masks would not apply to it. (Addresses that two names share
    /// by their DNS are no such case: load balancers do that, and the connection is refused where it is ambiguous.)
    fn other_target(&self, asked: &Asked, address: IpAddr) -> Option<&Target> {
        let shares_port = |target: &Target| target.address.iter().any(|it| asked.ports().any(|port| port == it.port));
        let has_address = |target: &Target| {
            let fixed = target.resolve.iter().any(|fixed| fixed.to_canonical() == address.to_canonical());
            (fixed && shares_port(target))
                || asked.ports().any(|port| target.is_at(std::net::SocketAddr::new(address, port), &[]))
        };
        let others = self.config.targets.iter().filter(|target| !target.has_name(&asked.name));
        others.map(Arc::as_ref).find(|target| has_address(target))
    }
}

impl NotTheirs {
    fn into_reason(self) -> String {
        match self {
            Self::Unlisted => "no target has this name".to_owned(),
            Self::Listed(_, why) => why,
        }
    }
}

impl Asked {
    /// The addresses that the configuration fixes; none: look them up.
    pub(super) fn fixed(&self) -> Vec<IpAddr> {
        self.targets.iter().flat_map(|target| target.resolve.clone()).collect()
    }

    /// Whether the configuration leaves the name no addresses of this family. That is "no such record", not a refusal: at
    /// that, musl would make nothing of the other family's addresses either.
    fn lacks(&self, family: Family) -> bool {
        let mut within = self.targets.iter().flat_map(|target| &target.resolve_within).peekable();
        within.peek().is_some() && !within.any(|network| family.holds(network.first)) && self.fixed().is_empty()
    }

    /// The ports of this name.
    fn ports(&self) -> impl Iterator<Item = u16> {
        let addresses = self.targets.iter().flat_map(|target| &target.address);
        addresses.filter(|it| matches!(&it.host, Host::Name(name) if **name == *self.name)).map(|it| it.port)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use hickory_proto::rr::RecordType;

    use super::super::message::tests::question;
    use super::*;
    use crate::identity::tests::{config, identity_config};
    use crate::policy::{Policy, Rule, Then};
    use crate::target::{Address, Protocol, TlsMode};

    pub(in crate::dns) fn target(name: &str, resolve: &[&str]) -> Target {
        Target {
            name: name.to_owned(),
            protocol: Protocol::Postgres,
            address: vec![Address { host: Host::Name(name.to_owned()), port: 5432 }],
            resolve: resolve.iter().map(|address| address.parse().unwrap()).collect(),
            resolve_within: Vec::new(),
            databases: Vec::new(),
            read_only_sessions: true,
            pool_mode: None,
            tls: TlsMode::Disable { insecure: "test".to_owned() },
            login: None,
            server_names: Vec::new(),
        }
    }

    /// Lets these agents (none: all) do anything on these targets (none: all).
    pub(in crate::dns) fn rule(agents: &[&str], targets: &[&str]) -> Rule {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Rule { agents: strings(agents), targets: strings(targets), ..Rule::of_everything("r", Then::Allow) }
    }

    pub(in crate::dns) fn configured(targets: Vec<Target>, rules: Vec<Rule>) -> Config {
        let mut config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        config.targets = targets.into_iter().map(Arc::new).collect();
        config.policy = Policy::new(rules);
        config
    }

    fn names(targets: Vec<Target>, rules: Vec<Rule>) -> Names {
        Names::new(Arc::new(configured(targets, rules)))
    }

    /// `address`, `service`, `empty`, or why it is refused.
    fn verdict(names: &Names, agent: Result<&str, &str>, name: &str, kind: RecordType) -> String {
        match names.judge(agent, &question(name, kind)) {
            Judgement::Address(asked) => format!("address{}", asked.observed.map(|_| " observed").unwrap_or_default()),
            Judgement::Service => "service".to_owned(),
            Judgement::Decline(_, why) => format!("declined: {why}"),
            Judgement::Empty => "empty".to_owned(),
            Judgement::Refuse(why) => why,
        }
    }

    #[test]
    fn policy_says_which_agent_may_ask_which_name() {
        let targets = || vec![target("db.internal", &[]), target("wages.internal", &[])];
        let names = names(targets(), vec![rule(&["coder"], &["db.internal"]), rule(&["clerk"], &[])]);
        let ask = |agent, name| verdict(&names, agent, name, RecordType::A);
        assert_eq!(ask(Ok("coder"), "DB.internal."), "address");
        assert_eq!(ask(Ok("clerk"), "wages.internal"), "address");
        assert!(ask(Ok("coder"), "wages.internal").starts_with("declined: no rule lets agent \"coder\""));
        assert_eq!(ask(Ok("coder"), "c2VjcmV0.db.internal"), "no target has this name");
        assert_eq!(ask(Ok("coder"), "internal"), "no target has this name");
        assert_eq!(ask(Err("nobody's"), "db.internal"), "declined: nobody's");
        // Only an address is made up; whatever else is asked for is refused.
        assert_eq!(verdict(&names, Err("nobody's"), "db.internal", RecordType::TXT), "nobody's");
    }

    #[test]
    fn only_addresses_and_the_targets_service_are_answered() {
        let names = names(vec![target("db.internal", &[])], vec![rule(&[], &[])]);
        let ask = |name: &str, kind| verdict(&names, Ok("coder"), name, kind);
        assert_eq!(ask("db.internal", RecordType::AAAA), "address");
        assert_eq!(ask("_postgresql._tcp.db.internal", RecordType::SRV), "service");
        // Browsers and curl ask for these beside addresses. What they hold (other ports, keys that hide the server's name)
        // would only lead around the gateway.
        assert_eq!(ask("db.internal", RecordType::HTTPS), "empty");
        assert_eq!(ask("db.internal", RecordType::SVCB), "empty");
        for kind in [
            RecordType::TXT,
            RecordType::NULL,
            RecordType::ANY,
            RecordType::CNAME,
            RecordType::MX,
            RecordType::NS,
            RecordType::SOA,
            RecordType::AXFR,
            RecordType::SRV,
            RecordType::Unknown(65_280),
        ] {
            assert_eq!(ask("db.internal", kind), "records of this type are not answered", "{kind}");
        }
        for name in ["_c2VjcmV0._tcp.db.internal", "_https._tcp.db.internal"] {
            assert_eq!(ask(name, RecordType::SRV), "no target of this name is this service", "{name}");
        }
        for name in
            ["_postgresql._udp.db.internal", "_postgresql._tcp.x.db.internal", "_x._postgresql._tcp.db.internal"]
        {
            assert_ne!(ask(name, RecordType::SRV), "service", "{name}");
        }
        assert_eq!(ask("other.internal", RecordType::HTTPS), "no target has this name");
        assert_eq!(ask("1.2.0.192.in-addr.arpa", RecordType::PTR), "no target has this name");
    }

    #[test]
    fn a_family_without_a_network_is_not_asked_for() {
        let mut v4_only = target("db.internal", &[]);
        v4_only.resolve_within = vec![Network { first: "10.0.0.0".parse().unwrap(), prefix: 8 }];
        let names = names(vec![v4_only], vec![rule(&[], &[])]);
        assert_eq!(verdict(&names, Ok("coder"), "db.internal", RecordType::A), "address");
        assert_eq!(verdict(&names, Ok("coder"), "db.internal", RecordType::AAAA), "empty");
    }

    #[test]
    fn services_lead_to_names_and_ports_of_targets_only() {
        let names =
            names(vec![target("db.internal", &[]), target("wages.internal", &[])], vec![rule(&[], &["db.internal"])]);
        let told = |host, port| names.may_be_told(Ok("coder"), host, port);
        assert!(told("db.internal", 5432));
        assert!(!told("db.internal", 22) && !told("wages.internal", 5432) && !told("evil.example", 5432));
    }

    #[test]
    fn what_is_observed_is_looked_up_and_said_so() {
        let observing = |mode, unlisted| {
            let mut config = configured(vec![target("db.internal", &["192.0.2.7"])], vec![]);
            (config.gateway.mode, config.gateway.unlisted) = (mode, unlisted);
            Names::new(Arc::new(config))
        };
        let unlisted = observing(Mode::Enforce, Mode::Observe);
        assert_eq!(verdict(&unlisted, Ok("coder"), "files.example", RecordType::A), "address observed");
        assert!(verdict(&unlisted, Ok("coder"), "db.internal", RecordType::A).starts_with("declined: no rule lets"));
        let all = observing(Mode::Observe, Mode::Enforce);
        let Judgement::Address(asked) = all.judge(Ok("coder"), &question("db.internal", RecordType::A)) else {
            panic!("it is observed");
        };
        assert_eq!(asked.fixed(), ["192.0.2.7".parse::<IpAddr>().unwrap()], "where it really is");
        assert_eq!(verdict(&all, Ok("coder"), "files.example", RecordType::A), "address observed");
        assert_eq!(verdict(&all, Ok("coder"), "db.internal", RecordType::A), "address observed");
        assert_eq!(verdict(&all, Ok("coder"), "files.example", RecordType::TXT), "no target has this name");
    }

    #[test]
    fn candidates_of_a_search_list_are_told_apart() {
        let names = names(
            vec![target("orders.db.internal", &[]), target("wages.internal", &[])],
            vec![rule(&[], &["orders.db.internal"])],
        );
        let candidate = |name| names.is_candidate(&question(name, RecordType::A));
        for name in ["orders", "orders.internal", "orders.db.internal.corp.example", "wages.corp.example"] {
            assert!(candidate(name), "{name}");
        }
        for name in ["c2VjcmV0.evil.example", "order.db.internal", "x.orders.db.internal", "wages.internal"] {
            assert!(!candidate(name), "{name}");
        }
        assert!(!names.is_candidate(&question("orders.internal", RecordType::TXT)));
    }

    #[test]
    fn another_targets_address_is_objected_to_where_the_two_would_be_confused() {
        let mut by_address = target("billing", &[]);
        let first = "192.0.2.0".parse().unwrap();
        by_address.address = vec![Address { host: Host::Network(first, 24), port: 5432 }];
        let mut elsewhere = target("metrics", &[]);
        elsewhere.address = vec![Address { host: Host::Network("198.51.100.7".parse().unwrap(), 32), port: 9090 }];
        let targets =
            vec![target("db.internal", &[]), by_address, elsewhere, target("wages.internal", &["203.0.113.9"])];
        let names = names(targets, vec![rule(&[], &[])]);
        let Judgement::Address(asked) = names.judge(Ok("coder"), &question("db.internal", RecordType::A)) else {
            panic!("db.internal is a target's");
        };
        let objection = |address: &str| names.objection(&asked, address.parse().unwrap(), false);
        assert_eq!(objection("192.0.2.7").as_deref(), Some("an address of target \"billing\""));
        assert_eq!(objection("::ffff:192.0.2.7").as_deref(), Some("an address of target \"billing\""));
        assert_eq!(objection("203.0.113.9").as_deref(), Some("an address of target \"wages.internal\""));
        assert_eq!(objection("198.51.100.7"), None);
        assert!(objection("127.0.0.1").unwrap().contains("loopback"));
    }

    #[test]
    fn a_changed_configuration_changes_what_names_mean() {
        let one = |resolve: &[&str]| names(vec![target("db.internal", resolve)], vec![]);
        assert!(one(&[]).agrees_on("db.internal", &one(&[])));
        assert!(!one(&[]).agrees_on("db.internal", &one(&["192.0.2.1"])));
        assert!(!one(&[]).agrees_on("db.internal", &names(vec![], vec![])));
        assert!(!one(&[]).agrees_on("files.example", &one(&[])));
    }
}
