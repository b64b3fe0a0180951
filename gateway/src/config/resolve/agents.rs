//! `[[agent]]`: how its processes are recognised, and where its token lies.

use std::ops::Range;

use super::super::raw::{At, RawAgent, RawContainer, RawToken};
use super::super::{AgentConfig, AgentMatch, ContainerMatch, GatewayConfig, TokenSource, text};
use super::{FIRST_UNPRIVILEGED_PORT, Names, Resolver, Scope, is_below};

impl Resolver<'_> {
    pub(super) fn agents(&mut self, raw: Vec<(usize, At<RawAgent>)>, gateway: &GatewayConfig) -> Vec<AgentConfig> {
        let mut names = Names::new("agent");
        let mut users: Vec<(u32, String)> = Vec::new();
        let mut agents = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "agent", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let matches = self.agent_match(&scope, &raw, &span, gateway);
            let uid = raw.user.as_ref().and_then(|user| self.agent_uid(&scope, user, gateway));
            if let (Some(uid), Some(user)) = (uid, &raw.user) {
                if let Some((_, other)) = users.iter().find(|(it, _)| *it == uid) {
                    let message = format!("is the user of agent \"{other}\" too; each agent needs one of its own");
                    self.out.fault(&scope, &user.span, "user", message);
                }
                users.push((uid, raw.name.value.clone()));
            }
            let listen = raw.listen.as_ref().map(|listen| self.listen(&scope, listen, raw.user.is_some(), gateway));
            let listen = listen.unwrap_or_default();
            let user = raw.user.map(|user| user.value);
            let token = self.token(&scope, &raw.token, &matches, user.as_deref());
            let accept_risk = raw.accept_risk;
            agents.push(AgentConfig { name: raw.name.value, matches, user, uid, token, accept_risk, listen });
        }
        agents
    }

    fn agent_match(
        &mut self,
        scope: &Scope,
        raw: &RawAgent,
        span: &Range<usize>,
        gateway: &GatewayConfig,
    ) -> AgentMatch {
        match (&raw.unit, &raw.cgroup, &raw.container) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
                let message = "has more than one of unit, cgroup and container; give one of them";
                self.out.fault(scope, span, "", message);
                AgentMatch::UserOnly
            }
            (Some(unit), None, None) => {
                self.out.read(scope, "unit", unit, self::unit).map_or(AgentMatch::UserOnly, AgentMatch::Unit)
            }
            (None, None, Some(container)) => self.container(scope, container),
            (None, Some(cgroup), None) => {
                let Some(path) = self.out.read(scope, "cgroup", cgroup, text::cgroup) else {
                    return AgentMatch::UserOnly;
                };
                if !gateway.agents.iter().any(|root| is_below(&path, root)) {
                    let roots = gateway.agents.join("\", \"");
                    self.out.fault(
                        scope,
                        &cgroup.span,
                        "cgroup",
                        format!("is not below any of [gateway] agents (\"{roots}\")"),
                    );
                }
                AgentMatch::Cgroup(path)
            }
            (None, None, None) => {
                let is_cut = ["user", "unit", "cgroup", "container"].iter().any(|key| self.out.is_cut(scope, key));
                if raw.user.is_none() && !is_cut {
                    self.out.fault(
                        scope,
                        span,
                        "",
                        "needs a unit, a cgroup, a container or a user: nothing would be this agent",
                    );
                }
                AgentMatch::UserOnly
            }
        }
    }

    fn container(&mut self, scope: &Scope, At { value: raw, span }: &At<RawContainer>) -> AgentMatch {
        if raw.name.is_none() && raw.label.is_none() {
            self.out.fault(scope, span, "container", "needs a name or a label, or every container would be this agent");
        }
        let name = raw.name.as_ref().and_then(|name| self.out.read(scope, "container.name", name, container_name));
        let label =
            raw.label.as_ref().and_then(|label| self.out.read(scope, "container.label", label, container_label));
        AgentMatch::Container(ContainerMatch { name, label })
    }

    fn agent_uid(&mut self, scope: &Scope, user: &At<String>, gateway: &GatewayConfig) -> Option<u32> {
        let name = &user.value;
        let Some(uid) = name.parse().ok().or_else(|| (self.uid_of)(name)) else {
            let message = format!("this host has no user \"{name}\"; make one, such as: useradd --system {name}");
            self.out.fault(scope, &user.span, "user", message);
            return None;
        };
        if uid == 0 || *name == gateway.user {
            self.out.fault(scope, &user.span, "user", format!("\"{name}\" is no agent's own user"));
        }
        Some(uid)
    }

    /// The kernel tells whose server it is by the user who made the socket.
    fn listen(&mut self, scope: &Scope, raw: &At<Vec<At<u16>>>, has_user: bool, gateway: &GatewayConfig) -> Vec<u16> {
        if !has_user && !self.out.is_cut(scope, "user") {
            self.out.fault(
                scope,
                &raw.span,
                "listen",
                "needs a user of the agent's own, by which its servers are known",
            );
        }
        for port in &raw.value {
            let wrong = match port.value {
                0 => "is no port",
                port if port == gateway.port => "is the gateway's own port",
                1..FIRST_UNPRIVILEGED_PORT => "is privileged, and agents bind no such port",
                _ => continue,
            };
            self.out.fault(scope, &port.span, "listen", format!("{} {wrong}", port.value));
        }
        raw.value.iter().map(|port| port.value).collect()
    }

    fn token(&mut self, scope: &Scope, raw: &At<RawToken>, matches: &AgentMatch, user: Option<&str>) -> TokenSource {
        match &raw.value {
            RawToken::File(path) => {
                let has_instance = match matches {
                    AgentMatch::Unit(unit) => unit.contains('*') || unit.contains('@'),
                    AgentMatch::Container(container) => container.name.as_ref().is_some_and(|name| name.contains('*')),
                    AgentMatch::Cgroup(_) | AgentMatch::UserOnly => false,
                };
                let wrong = token_path(path, has_instance, user.is_some());
                if let Some(wrong) = wrong {
                    self.out.fault(scope, &raw.span, "token.file", wrong);
                }
                TokenSource::File(path.clone())
            }
            RawToken::Env(name) => {
                let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !is_name {
                    self.out.fault(
                        scope,
                        &raw.span,
                        "token.env",
                        "is the name of an environment variable, such as \"AGENT_TOKEN\"",
                    );
                }
                TokenSource::Environment(name.clone())
            }
        }
    }
}

fn unit(text: &str) -> Result<String, String> {
    let has_type = [".service", ".scope"].iter().any(|kind| text.ends_with(kind) && text.len() > kind.len());
    if !has_type || text.contains('/') || text.matches('*').count() > 1 {
        return Err(format!("{text:?} is no unit: write its name, such as \"coder@*.service\", one `*` at most"));
    }
    Ok(text.to_owned())
}

/// The characters of containers' names in all runtimes, and one `*`.
fn container_name(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
    if text.is_empty() || !text.chars().all(is_name) || text.matches('*').count() > 1 {
        return Err(format!("{text:?} is no container's name, such as \"coder-*\", one `*` at most"));
    }
    Ok(text.to_owned())
}

fn container_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label and its value, such as \"weir.agent=coder\"")),
    }
}

fn token_path(path: &str, has_instance: bool, has_user: bool) -> Option<String> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Some(format!("{path:?} is no absolute path"));
    }
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        match after.chars().next() {
            Some('i') if !has_instance => {
                return Some("has %i, but the agent has no unit or container with an instance".to_owned());
            }
            Some('u') if !has_user => return Some("has %u, but the agent has no user".to_owned()),
            Some('i' | 'u' | '%') => rest = &after[1..],
            _ => {
                return Some(
                    "has a % that is neither %i (the unit's instance), %u (the user's name) nor %%".to_owned(),
                );
            }
        }
    }
    None
}
