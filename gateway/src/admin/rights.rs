//! What a peer may ask: a pure function of what the kernel says of it and the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Caller;
use super::Request;
use super::peer::Facts;
use crate::approval::Approver;
use crate::config::{Access, AgentMatch, Config};

/// What somebody may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Host root, outside every agent.
    pub root: bool,
    pub admin: bool,
    pub audit: bool,
    /// Approver names held.
    pub approve: BTreeSet<String>,
}

/// Why somebody may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("refused: requests from an agent's cgroup are never answered")]
    AgentCgroup,
    #[error("refused: requests with an agent's user are never answered")]
    AgentUser,
    #[error("refused: {user} is in none of the groups of [access] in weir.toml")]
    Nobody { user: String },
    #[error("refused: this needs {needed}")]
    Lacks { needed: &'static str },
}

/// The groups of `[access]` as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    admin: Vec<u32>,
    audit: Vec<u32>,
    approve: BTreeMap<String, Vec<u32>>,
    /// Names that no group of this host has.
    pub(super) missing: BTreeSet<String>,
}

impl Groups {
    /// Looks the groups up; may block on a directory service. What cannot be found counts as nobody's.
    pub(super) fn resolve(access: &Access) -> Self {
        let mut missing = BTreeSet::new();
        let mut numbers = |names: &[String]| {
            let mut found = Vec::new();
            for name in names {
                match nix::unistd::Group::from_name(name) {
                    Ok(Some(group)) => found.push(group.gid.as_raw()),
                    Ok(None) | Err(_) => drop(missing.insert(name.clone())),
                }
            }
            found
        };
        let (admin, audit) = (numbers(&access.admin), numbers(&access.audit));
        let approve = access.approve.iter().map(|(name, groups)| (name.clone(), numbers(groups))).collect();
        Self { admin, audit, approve, missing }
    }

    pub(super) fn all(&self) -> Vec<u32> {
        self.admin.iter().chain(&self.audit).chain(self.approve.values().flatten()).copied().collect()
    }
}

/// The rights of a peer. Agents have none, root in an agent's cgroup included.
pub(super) fn of(peer: &Facts, groups: &Groups, config: &Config) -> Result<Rights, Refused> {
    let of_agents = config.agents.iter().filter_map(|agent| match &agent.matches {
        AgentMatch::Cgroup(path) => Some(path),
        AgentMatch::Unit(_) | AgentMatch::Container(_) | AgentMatch::UserOnly => None,
    });
    if config.gateway.agents.iter().chain(of_agents).any(|parent| is_below(parent, &peer.cgroup)) {
        return Err(Refused::AgentCgroup);
    }
    let is_agent = |uid: &u32| config.agents.iter().any(|agent| agent.uid == Some(*uid));
    if peer.is_subordinate || peer.uids.iter().any(is_agent) || is_agent(&peer.uid) {
        return Err(Refused::AgentUser);
    }
    let member = |of: &[u32]| peer.groups.iter().any(|group| of.contains(group));
    let root = peer.uid == 0;
    let approve = groups.approve.iter().filter(|(_, of)| root || member(of)).map(|(name, _)| name.clone()).collect();
    let admin = root || member(&groups.admin);
    let rights = Rights { root, admin, audit: admin || member(&groups.audit), approve };
    if rights == Rights::default() { Err(Refused::Nobody { user: peer.user.clone() }) } else { Ok(rights) }
}

/// Whether the cgroup is that one, or below it; everything is below the root.
fn is_below(parent: &str, cgroup: &str) -> bool {
    let parent = parent.trim_matches('/');
    let rest = cgroup.trim_start_matches('/').strip_prefix(parent);
    parent.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Rights {
    /// Whether this may be asked.
    pub(super) fn permit(&self, request: &Request) -> Result<(), Refused> {
        let (allowed, needed) = match request {
            // Everybody with any right.
            Request::Status | Request::Approvals | Request::Approval { .. } => (true, ""),
            Request::Sessions { .. }
            | Request::Denials { .. }
            | Request::Session { .. }
            | Request::Replay { .. }
            | Request::Why { .. }
            | Request::Explain { .. } => (self.audit, "a group of [access] audit or admin in weir.toml"),
            Request::Approve { .. } | Request::Deny { .. } => {
                (!self.approve.is_empty(), "a group of [access] approve in weir.toml")
            }
            Request::Kill { .. } | Request::Reload => (self.admin, "a group of [access] admin in weir.toml"),
            Request::Detach { .. } => (self.root, "root"),
        };
        if allowed { Ok(()) } else { Err(Refused::Lacks { needed }) }
    }

    pub(super) fn caller(&self, peer: &Facts) -> Caller {
        let by = Approver {
            user: peer.user.clone(),
            uid: peer.uid,
            login_uid: peer.login_uid,
            login_user: peer.login_user.clone(),
            names: self.approve.clone(),
        };
        Caller { by, sees_all: self.audit }
    }
}

/// So many in a minute.
#[derive(Debug)]
pub(super) struct RefusalBudget {
    each_minute: u32,
    used: Mutex<(Option<Instant>, u32)>,
}

impl RefusalBudget {
    pub(super) fn new(each_minute: u32) -> Self {
        Self { each_minute, used: Mutex::default() }
    }

    pub(super) fn take(&self) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.0.is_none_or(|since| since.elapsed() >= Duration::from_mins(1)) {
            *used = (Some(Instant::now()), 0);
        }
        used.1 += 1;
        used.1 <= self.each_minute
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::{AgentConfig, GatewayConfig, Mode, RecordingConfig, TokenSource};
    use crate::policy::Policy;

    const ADMIN: u32 = 10;
    const AUDIT: u32 = 20;
    const DBA: u32 = 30;
    const AGENT_UID: u32 = 2000;

    pub(in crate::admin) fn config() -> Config {
        Config {
            gateway: GatewayConfig {
                agents: vec!["agents.slice".into()],
                attach: String::new(),
                mode: Mode::Enforce,
                unlisted: Mode::Enforce,
                user: "weir".into(),
                runtime_dir: PathBuf::from("/run/weir"),
                state_dir: PathBuf::from("/var/lib/weir"),
                bpf_dir: PathBuf::from("/sys/fs/bpf/weir"),
                port: 1,
                dns_port: 2,
                shards: 1,
                max_sessions_per_agent: 1,
                drain: Duration::ZERO,
                without_gateway: crate::config::WithoutGateway::Refuse,
            },
            access: Access::default(),
            recording: RecordingConfig { directory: PathBuf::new(), keep: Duration::ZERO, max_size: 0, reply_limit: 0 },
            identity: None,
            dns_servers: Vec::new(),
            agents: vec![AgentConfig {
                name: "coder".into(),
                matches: AgentMatch::UserOnly,
                user: Some("agent-coder".into()),
                uid: Some(AGENT_UID),
                token: TokenSource::Environment("TOKEN".into()),
                accept_risk: Vec::new(),
                listen: Vec::new(),
            }],
            targets: Vec::new(),
            policy: Policy::default(),
            masks: Vec::new(),
            limits: Vec::new(),
            version: "0".into(),
        }
    }

    fn groups() -> Groups {
        Groups {
            admin: vec![ADMIN],
            audit: vec![AUDIT],
            approve: BTreeMap::from([("dba".to_owned(), vec![DBA]), ("security".to_owned(), vec![])]),
            missing: BTreeSet::new(),
        }
    }

    fn peer(uid: u32, groups: &[u32]) -> Facts {
        Facts {
            pid: 4242,
            uid,
            user: "somebody".into(),
            groups: groups.to_vec(),
            uids: vec![uid; 4],
            login_uid: None,
            login_user: None,
            cgroup: "/user.slice/session-1.scope".into(),
            is_subordinate: false,
        }
    }

    fn rights(peer: &Facts) -> Result<Rights, Refused> {
        of(peer, &groups(), &config())
    }

    #[test]
    fn groups_give_rights_and_strangers_have_none() {
        let dba = rights(&peer(1000, &[1000, DBA])).unwrap();
        assert_eq!(dba.approve, BTreeSet::from(["dba".to_owned()]));
        assert!(!dba.admin && !dba.audit && !dba.root);
        let auditor = rights(&peer(1000, &[AUDIT])).unwrap();
        assert!(auditor.audit && !auditor.admin && auditor.approve.is_empty());
        let admin = rights(&peer(1000, &[ADMIN])).unwrap();
        assert!(admin.admin && admin.audit && !admin.root && admin.approve.is_empty());
        let root = rights(&peer(0, &[])).unwrap();
        assert!(root.root && root.admin && root.audit && root.approve.len() == 2);
        assert!(matches!(rights(&peer(1000, &[1000])), Err(Refused::Nobody { .. })));
    }

    #[test]
    fn agents_are_refused_whatever_their_uid_and_groups() {
        for cgroup in ["/agents.slice", "/agents.slice/coder@a.service/deep"] {
            for uid in [0, 1000, AGENT_UID] {
                let agent = Facts { cgroup: cgroup.into(), ..peer(uid, &[ADMIN, AUDIT, DBA]) };
                assert_eq!(rights(&agent), Err(Refused::AgentCgroup));
            }
        }
        let mut elsewhere = config();
        elsewhere.agents[0].matches = AgentMatch::Cgroup("jobs/coder".into());
        let agent = Facts { cgroup: "/jobs/coder/1".into(), ..peer(0, &[]) };
        assert_eq!(of(&agent, &groups(), &elsewhere), Err(Refused::AgentCgroup));
        let near = Facts { cgroup: "/agents.slice.d/x".into(), ..peer(0, &[]) };
        assert!(rights(&near).is_ok(), "only whole components count");
    }

    #[test]
    fn no_uid_of_the_process_may_be_an_agents() {
        assert_eq!(rights(&peer(AGENT_UID, &[ADMIN])), Err(Refused::AgentUser));
        for place in 0..5 {
            let mut uids = vec![0; 5];
            uids[place] = AGENT_UID;
            let setuid = Facts { uids, ..peer(0, &[]) };
            assert_eq!(rights(&setuid), Err(Refused::AgentUser), "{place}");
        }
        let in_namespace = Facts { is_subordinate: true, ..peer(200_000, &[DBA]) };
        assert_eq!(rights(&in_namespace), Err(Refused::AgentUser));
    }

    #[test]
    fn each_request_needs_its_right() {
        let id = crate::ids::SessionId::new(1, 1);
        let reading = [
            Request::Sessions { limit: 1, agent: None, target: None, since_ns: None, refused_only: false },
            Request::Session { id },
            Request::Replay { id },
            Request::Why { id: id.operation(1) },
        ];
        let approving = [Request::Approve { number: 1, reason: None }, Request::Deny { number: 1, reason: None }];
        let managing = [Request::Kill { id }, Request::Reload];
        let detach = Request::Detach { seconds: 1, reason: "x".into() };
        let everybody = [Request::Status, Request::Approvals, Request::Approval { number: 1 }];

        let dba = rights(&peer(1000, &[DBA])).unwrap();
        let auditor = rights(&peer(1000, &[AUDIT])).unwrap();
        let admin = rights(&peer(1000, &[ADMIN])).unwrap();
        let root = rights(&peer(0, &[])).unwrap();
        let may = |who: &Rights, requests: &[Request]| requests.iter().all(|request| who.permit(request).is_ok());
        let may_not = |who: &Rights, requests: &[Request]| requests.iter().all(|request| who.permit(request).is_err());
        for who in [&dba, &auditor, &admin, &root] {
            assert!(may(who, &everybody));
        }
        assert!(may_not(&dba, &reading) && may(&dba, &approving) && may_not(&dba, &managing));
        assert!(may(&auditor, &reading) && may_not(&auditor, &approving) && may_not(&auditor, &managing));
        assert!(may(&admin, &reading) && may_not(&admin, &approving) && may(&admin, &managing));
        assert!(may(&root, &reading) && may(&root, &approving) && may(&root, &managing));
        assert!(root.permit(&detach).is_ok());
        for who in [&dba, &auditor, &admin] {
            assert!(who.permit(&detach).is_err());
        }
    }

    #[test]
    fn who_logged_in_is_known_whoever_acts() {
        for uid in [0, 1000, 1002] {
            let alice = Facts { login_uid: Some(1001), login_user: Some("alice".into()), ..peer(uid, &[DBA]) };
            let Caller { by, sees_all } = rights(&alice).unwrap().caller(&alice);
            assert_eq!((by.uid, by.login_uid, by.login_user.as_deref()), (uid, Some(1001), Some("alice")));
            assert_eq!(sees_all, uid == 0, "an approver sees what is his to decide");
        }
        let auditor = peer(1000, &[AUDIT]);
        assert!(rights(&auditor).unwrap().caller(&auditor).sees_all);
    }

    #[test]
    fn refusals_are_recorded_up_to_a_bound() {
        let budget = RefusalBudget::new(2);
        assert_eq!([budget.take(), budget.take(), budget.take()], [true, true, false]);
    }
}
