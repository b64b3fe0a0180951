//! Which agent a cgroup and a user belong to, and where its token lies. Pure.
//!
//! Nobody may become another agent by naming a cgroup of its own after that agent's unit. So a unit is looked for only
//! where systemd puts units: as the first component below the agents' cgroups that is not a slice. A container is the outermost
//! one, and what is said of it is what the witness found in files of root's.

use super::IdentityError;
use crate::config::{AgentConfig, AgentMatch, Config, ContainerMatch, TokenSource};
use crate::origin::{Evidence, Origin, container_id};

/// The longest file name on Linux; an instance is part of one.
const MAX_WORD: usize = 255;

/// An agent, and the place in the cgroup tree that made it one.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) agent: &'a AgentConfig,
    /// The cgroup down to the component that matched, without leading slash; for a match by user alone, the whole.
    pub(super) cgroup: &'a str,
    instance: Option<&'a str>,
    /// The container, where it has a name: it comes back in another cgroup.
    container: Option<&'a str>,
}

/// The agent of an origin: the deepest match by cgroup, or the match by user. Two that contradict each other are none.
pub(super) fn find<'a>(
    config: &'a Config,
    origin: &Origin,
    evidence: &'a Evidence,
) -> Result<Found<'a>, IdentityError> {
    let cgroup = evidence.cgroup.trim_matches('/');
    let ambiguous = |one: &AgentConfig, other: &AgentConfig| IdentityError::Ambiguous {
        cgroup: cgroup.to_owned(),
        uid: origin.uid,
        agents: [one.name.clone(), other.name.clone()],
    };
    let mut best: Option<Found<'a>> = None;
    for agent in &config.agents {
        let Some(found) = match_cgroup(agent, &config.gateway.agents, cgroup, evidence) else { continue };
        match &best {
            Some(other) if other.cgroup.len() > found.cgroup.len() => {}
            Some(other) if other.cgroup.len() == found.cgroup.len() => return Err(ambiguous(other.agent, agent)),
            _ => best = Some(found),
        }
    }
    let mut by_user = config.agents.iter().filter(|agent| agent.uid == Some(origin.uid));
    match (best, by_user.next(), by_user.next()) {
        (Some(found), None, _) => Ok(found),
        (Some(found), Some(agent), None) if found.agent.name == agent.name => Ok(found),
        (None, Some(agent), None) => Ok(Found { agent, cgroup, instance: None, container: None }),
        (None, None, _) => Err(IdentityError::NoAgent { cgroup: cgroup.to_owned(), uid: origin.uid }),
        (Some(found), Some(agent), None) => Err(ambiguous(found.agent, agent)),
        (_, Some(one), Some(other)) => Err(ambiguous(one, other)),
    }
}

fn match_cgroup<'a>(
    agent: &'a AgentConfig,
    roots: &[String],
    cgroup: &'a str,
    evidence: &'a Evidence,
) -> Option<Found<'a>> {
    let below_roots = || roots.iter().filter_map(|root| below(root.trim_matches('/'), cgroup)).min_by_key(|r| r.len());
    match &agent.matches {
        AgentMatch::UserOnly => None,
        AgentMatch::Cgroup(path) => {
            let path = path.trim_matches('/');
            below(path, cgroup)?;
            Some(Found { agent, cgroup: &cgroup[..path.len()], instance: None, container: None })
        }
        AgentMatch::Unit(pattern) => {
            let rest = below_roots()?;
            let unit = rest.split('/').find(|component| component.strip_suffix(".slice").is_none())?;
            if !fits(pattern, unit) {
                return None;
            }
            let end = end_of(cgroup, rest, unit);
            Some(Found { agent, cgroup: &cgroup[..end], instance: instance(pattern, unit), container: None })
        }
        AgentMatch::Container(wanted) => {
            let rest = below_roots()?;
            let component = rest.split('/').find(|component| container_id(component).is_some())?;
            if container_id(component) != evidence.container.as_deref() || !is_container(wanted, evidence) {
                return None;
            }
            let end = end_of(cgroup, rest, component);
            let container = evidence.container_name.as_deref();
            let instance = wanted.name.as_deref().zip(container);
            let instance = instance.and_then(|(pattern, name)| instance_of_star(pattern, name));
            Some(Found { agent, cgroup: &cgroup[..end], instance, container })
        }
    }
}

/// What is said of the container is all that is wanted of it.
fn is_container(wanted: &ContainerMatch, evidence: &Evidence) -> bool {
    let named = |pattern: &String| evidence.container_name.as_deref().is_some_and(|name| fits(pattern, name));
    let labelled = |(key, value): &(String, String)| evidence.container_labels.get(key) == Some(value);
    let wants_something = wanted.name.is_some() || wanted.label.is_some();
    wants_something && wanted.name.as_ref().is_none_or(named) && wanted.label.as_ref().is_none_or(labelled)
}

/// Where a component of `rest` ends in `cgroup`, of which `rest` is the end.
fn end_of(cgroup: &str, rest: &str, component: &str) -> usize {
    cgroup.len() - rest.len() + offset_of_end(rest, component)
}

/// The path of `cgroup` below `root`, if it is `root` or below it.
fn below<'a>(root: &str, cgroup: &'a str) -> Option<&'a str> {
    if root.is_empty() {
        return Some(cgroup);
    }
    match cgroup.strip_prefix(root)? {
        "" => Some(""),
        rest => rest.strip_prefix('/'),
    }
}

/// Where the first component `unit` of `path` ends.
fn offset_of_end(path: &str, unit: &str) -> usize {
    let mut end = 0;
    for component in path.split('/') {
        end += component.len();
        if component == unit {
            break;
        }
        end += 1;
    }
    end
}

fn fits(pattern: &str, unit: &str) -> bool {
    match pattern.split_once('*') {
        Some((prefix, suffix)) => unit.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(suffix)),
        None => pattern == unit,
    }
}

/// The instance of a unit that fits: what `*` stands for, else systemd's (`name@INSTANCE.type`).
fn instance<'a>(pattern: &str, unit: &'a str) -> Option<&'a str> {
    if pattern.contains('*') {
        return instance_of_star(pattern, unit);
    }
    Some(unit.split_once('@')?.1.rsplit_once('.')?.0)
}

/// What `*` stands for.
fn instance_of_star<'a>(pattern: &str, text: &'a str) -> Option<&'a str> {
    let (prefix, suffix) = pattern.split_once('*')?;
    text.strip_prefix(prefix)?.strip_suffix(suffix)
}

impl Found<'_> {
    /// What a token is bound to: where the agent is each time it is started.
    pub(super) fn place(&self) -> String {
        self.container.map_or_else(|| self.cgroup.to_owned(), |name| format!("container {name}"))
    }

    /// What tells this instance of the agent from others. Below a cgroup that the configuration names each one has its own.
    pub(super) fn instance_place<'e>(&self, evidence: &'e Evidence) -> &'e str {
        let cgroup = evidence.cgroup.trim_matches('/');
        let end = match self.agent.matches {
            AgentMatch::Unit(_) | AgentMatch::Container(_) => self.cgroup.len(),
            AgentMatch::Cgroup(_) => {
                let below = cgroup.get(self.cgroup.len() + 1..).unwrap_or_default();
                below.find('/').map_or(cgroup.len(), |end| self.cgroup.len() + 1 + end)
            }
            AgentMatch::UserOnly => cgroup.len(),
        };
        &cgroup[..end]
    }

    /// The token's place with `%i` and `%u` filled in.
    pub(super) fn token_source(&self, evidence: &Evidence) -> Result<TokenSource, IdentityError> {
        let path = match &self.agent.token {
            TokenSource::File(path) => path,
            TokenSource::Environment(name) => return Ok(TokenSource::Environment(name.clone())),
        };
        let user = evidence.user.as_deref().or(self.agent.user.as_deref());
        expand(path, self.instance, user)
            .map(TokenSource::File)
            .map_err(|why| IdentityError::TokenPath { agent: self.agent.name.clone(), why })
    }
}

fn expand(template: &str, instance: Option<&str>, user: Option<&str>) -> Result<String, &'static str> {
    let mut path = String::with_capacity(template.len());
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            path.push(c);
            continue;
        }
        match rest.next() {
            Some('i') => {
                path.push_str(word(instance.ok_or("it has %i, and this cgroup's unit or container has no instance")?)?);
            }
            Some('u') => path.push_str(word(user.ok_or("it has %u, and this process's user has no name")?)?),
            Some('%') => path.push('%'),
            _ => return Err("it has a % that is neither %i, %u nor %%"),
        }
    }
    Ok(path)
}

/// What may stand in a path: nothing that could lead out of the directory that the configuration names.
fn word(text: &str) -> Result<&str, &'static str> {
    let harmless = !text.is_empty()
        && text.len() <= MAX_WORD
        && !text.contains("..")
        && !text.contains(|c: char| c == '/' || c.is_control())
        && text != ".";
    if harmless { Ok(text) } else { Err("the unit's instance or the user's name is not fit for a path") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_matched_by_its_name_and_label_and_only_the_outermost() {
        let roots = ["agents.slice".to_owned()];
        let (id, other) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        let outer = format!("agents.slice/docker-{id}.scope");
        let labels = [("weir.agent".to_owned(), "coder".to_owned())];
        let evidence = Evidence {
            cgroup: format!("/{outer}/docker-{other}.scope"),
            container: Some(id.clone()),
            container_name: Some("coder-7".to_owned()),
            container_labels: labels.into(),
            ..Evidence::default()
        };
        let found = |name: Option<&str>, label: Option<(&str, &str)>, evidence: &Evidence| {
            let label = label.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let wanted = ContainerMatch { name: name.map(str::to_owned), label };
            let agent = super::super::tests::agent("coder", AgentMatch::Container(wanted));
            let found = match_cgroup(&agent, &roots, evidence.cgroup.trim_matches('/'), evidence);
            found.map(|found| (found.cgroup.to_owned(), found.instance.map(str::to_owned)))
        };
        assert_eq!(found(Some("coder-*"), None, &evidence), Some((outer.clone(), Some("7".to_owned()))));
        assert_eq!(found(Some("coder-7"), Some(("weir.agent", "coder")), &evidence), Some((outer, None)));
        assert_eq!(found(None, Some(("weir.agent", "tester")), &evidence), None);
        assert_eq!(found(Some("coder-*"), Some(("weir.agent", "tester")), &evidence), None);
        assert_eq!(found(Some("tester"), None, &evidence), None);
        assert_eq!(found(None, None, &evidence), None);
        // The id is of another one than the path's outermost.
        assert_eq!(found(Some("coder-*"), None, &Evidence { container: Some(other), ..evidence.clone() }), None);
        let elsewhere = Evidence { cgroup: format!("/other.slice/docker-{id}.scope"), ..evidence };
        assert_eq!(found(Some("coder-*"), None, &elsewhere), None);
    }

    #[test]
    fn a_unit_is_matched_where_systemd_puts_units_only() {
        let roots = ["agents.slice".to_owned()];
        let agent = super::super::tests::agent("coder", AgentMatch::Unit("coder@*.service".to_owned()));
        let evidence = Evidence::default();
        let found = |cgroup: &'static str| {
            match_cgroup(&agent, &roots, cgroup, &evidence)
                .map(|found| (found.cgroup, found.instance.unwrap().to_owned()))
        };
        let a = Some(("agents.slice/coder@a.service", "a".to_owned()));
        assert_eq!(found("agents.slice/coder@a.service"), a);
        assert_eq!(found("agents.slice/coder@a.service/sub/coder@b.service"), a);
        let nested = "agents.slice/agents-x.slice/coder@a.service";
        assert_eq!(found("agents.slice/agents-x.slice/coder@a.service/1"), Some((nested, "a".to_owned())));
        for other in [
            "",
            "agents.slice",
            "agents.slicer/coder@a.service",
            "user.slice/coder@a.service",
            "agents.slice/other.service/coder@a.service",
            "agents.slice/other.service/x.slice/coder@a.service",
            "agents.slice/coder@a.service.d",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn instances_have_places_of_their_own() {
        let place = |matches: AgentMatch, cgroup: &str| {
            let agent = super::super::tests::agent("coder", matches.clone());
            let evidence = Evidence { cgroup: cgroup.to_owned(), ..Evidence::default() };
            let trimmed = cgroup.trim_matches('/');
            let by_cgroup = match_cgroup(&agent, &["agents.slice".to_owned()], trimmed, &evidence);
            let found = by_cgroup.unwrap_or(Found { agent: &agent, cgroup: trimmed, instance: None, container: None });
            found.instance_place(&evidence).to_owned()
        };
        let unit = AgentMatch::Unit("coder@*.service".to_owned());
        assert_eq!(place(unit, "/agents.slice/coder@a.service/made/by/itself"), "agents.slice/coder@a.service");
        let cgroup = AgentMatch::Cgroup("agents.slice/coder".to_owned());
        assert_eq!(place(cgroup.clone(), "/agents.slice/coder"), "agents.slice/coder");
        assert_eq!(place(cgroup.clone(), "/agents.slice/coder/run-7"), "agents.slice/coder/run-7");
        assert_eq!(place(cgroup, "/agents.slice/coder/run-7/made/by/itself"), "agents.slice/coder/run-7");
        assert_eq!(place(AgentMatch::UserOnly, "/user.slice/x"), "user.slice/x");
    }

    #[test]
    fn instances_are_found_with_and_without_a_wildcard() {
        for (pattern, unit, expected) in [
            ("coder@*.service", "coder@a.b.service", Some("a.b")),
            ("coder@a.service", "coder@a.service", Some("a")),
            ("coder.service", "coder.service", None),
            ("run-*.scope", "run-7.scope", Some("7")),
        ] {
            assert!(fits(pattern, unit), "{pattern} {unit}");
            assert_eq!(instance(pattern, unit), expected);
        }
        // Prefix and suffix must not share a letter.
        assert!(!fits("a@*@a", "a@a"));
        assert!(!fits("coder@*.service", "encoder@a.service"));
    }

    #[test]
    fn paths_are_filled_in_and_never_left() {
        assert_eq!(expand("/run/agents/%i.token", Some("a"), None).unwrap(), "/run/agents/a.token");
        assert_eq!(expand("/run/%u/100%%", None, Some("agent")).unwrap(), "/run/agent/100%");
        for instance in ["", ".", "..", "a/b", "../x", "a..b", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(expand("/run/%i", Some(instance), None).is_err(), "{instance:?}");
        }
        for (template, user) in [("/run/%i", Some("agent")), ("/run/%u", None), ("/run/%x", None), ("/run/%", None)] {
            assert!(expand(template, None, user).is_err(), "{template}");
        }
    }
}
