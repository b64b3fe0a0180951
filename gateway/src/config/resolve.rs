//! From what is written to what is meant: references found, texts read, defaults filled in, contradictions reported.

mod agents;
mod rules;
mod targets;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::raw::{
    At, RawAccess, RawConfig, RawCredential, RawDns, RawGateway, RawIdentity, RawMode, RawRecording, RawUnlisted,
    RawWithoutGateway,
};
use super::schema::{Fault, did_you_mean, key_part};
use super::{Access, Config, GatewayConfig, IdentityConfig, Mode, RecordingConfig, WithoutGateway, text};
use crate::target::CredentialSource;

const DEFAULT_AGENTS: &str = "agents.slice";
const DEFAULT_USER: &str = "weir";
const DEFAULT_RUNTIME_DIR: &str = "/run/weir";
const DEFAULT_STATE_DIR: &str = "/var/lib/weir";
const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/weir";
/// Above the privileged ports, below Linux's ephemeral ones (32768), and no service's own.
const DEFAULT_PORT: u16 = 15432;
const DEFAULT_DNS_PORT: u16 = 15353;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
const FIRST_EPHEMERAL_PORT: u16 = 32768;
const DEFAULT_KEEP: Duration = Duration::from_hours(90 * 24);
const DEFAULT_MAX_SIZE: u64 = 20 << 30;
const DEFAULT_REPLY_LIMIT: usize = 64 << 10;
const MAX_REPLY_LIMIT: u64 = 16 << 20;
const DEFAULT_GROUPS_CLAIM: &str = "groups";
const MAX_SHARDS: u16 = 256;
/// As many as resolv.conf(5) takes: a client would not wait for a fourth.
const MAX_DNS_SERVERS: usize = 3;
/// A tenth of what the gateway takes from all agents together.
const DEFAULT_SESSIONS_PER_AGENT: usize = 1_000;
const DEFAULT_DRAIN: Duration = Duration::from_mins(10);
/// Policy reaches what goes on there, approvers do not.
const MAX_DRAIN: Duration = Duration::from_hours(24);
const MAX_NAME: usize = 128;
const MAX_TEXT: usize = 1_000;
/// Agents, targets or rules of one configuration.
const MAX_ITEMS: usize = 4_096;

pub(super) type Faults = Vec<(usize, Fault)>;

/// Collects the files' contents, then makes one configuration of them.
pub(super) struct Resolver<'a> {
    uid_of: &'a dyn Fn(&str) -> Option<u32>,
    files: Vec<(usize, RawConfig)>,
    /// Names that exist in any file, also of tables that are wrong otherwise.
    known: Known,
    out: Out,
}

#[derive(Default)]
struct Known {
    agents: Vec<String>,
    targets: Vec<String>,
    approvers: Vec<String>,
}

#[derive(Default)]
struct Out {
    faults: Faults,
    warnings: Faults,
    /// Keys that were wrong in shape and are cut out: that they are missing is no second fault.
    cut: Vec<(usize, String)>,
}

/// Where something is written: the file, and the path of keys to the table.
struct Scope {
    file: usize,
    path: String,
}

impl Scope {
    fn new(file: usize, table: &str) -> Self {
        Self { file, path: table.to_owned() }
    }

    fn named(file: usize, table: &str, name: &str) -> Self {
        Self { file, path: format!("{table}.{}", key_part(name)) }
    }

    fn key(&self, key: &str) -> String {
        if key.is_empty() { self.path.clone() } else { format!("{}.{key}", self.path) }
    }
}

impl Out {
    fn is_cut(&self, scope: &Scope, key: &str) -> bool {
        let key = scope.key(key);
        self.cut.iter().any(|(file, cut)| *file == scope.file && cut.starts_with(&key))
    }

    fn fault(&mut self, scope: &Scope, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.faults.push((scope.file, Fault { span: span.clone(), key: scope.key(key), message: message.into() }));
    }

    fn warn(&mut self, scope: &Scope, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.warnings.push((scope.file, Fault { span: span.clone(), key: scope.key(key), message: message.into() }));
    }

    /// The value that `read` makes of a text; a fault if it does not.
    fn read<T>(
        &mut self,
        scope: &Scope,
        key: &str,
        text: &At<String>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        read(&text.value).map_err(|why| self.fault(scope, &text.span, key, why)).ok()
    }

    /// Where a secret is. `example`: what such a one may be called.
    fn credential(
        &mut self,
        scope: &Scope,
        key: &str,
        raw: &At<RawCredential>,
        example: &str,
    ) -> Option<CredentialSource> {
        match &raw.value {
            RawCredential::Credential(name) => {
                let is_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
                if !is_name {
                    let message = format!("is the name of a systemd credential, such as \"{example}\"");
                    self.fault(scope, &raw.span, &format!("{key}.credential"), message);
                }
                Some(CredentialSource::Credential(name.clone()))
            }
            RawCredential::File(path) => {
                let path = At { value: path.clone(), span: raw.span.clone() };
                Some(CredentialSource::File(self.read(scope, &format!("{key}.file"), &path, absolute)?))
            }
        }
    }

    fn read_or<T>(
        &mut self,
        scope: &Scope,
        key: &str,
        text: Option<&At<String>>,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        text.and_then(|text| self.read(scope, key, text, read)).unwrap_or(default)
    }

    fn path_or(&mut self, scope: &Scope, key: &str, text: Option<&At<String>>, default: &str) -> PathBuf {
        self.read_or(scope, key, text, PathBuf::from(default), absolute)
    }

    /// Names from a list, each of which must be known.
    fn references(
        &mut self,
        scope: &Scope,
        key: &str,
        list: &[At<String>],
        known: &[String],
        (what, place): (&str, &str),
    ) -> Vec<String> {
        for name in list {
            if !known.contains(&name.value) {
                let near = did_you_mean(&name.value, known.iter().map(String::as_str));
                self.fault(scope, &name.span, key, format!("there is no {what} \"{}\"{place}{near}", name.value));
            }
        }
        list.iter().map(|name| name.value.clone()).collect()
    }
}

impl<'a> Resolver<'a> {
    pub(super) fn new(uid_of: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        Self { uid_of, files: Vec::new(), known: Known::default(), out: Out::default() }
    }

    /// Takes note of what is wrong in a file's shape already.
    pub(super) fn note_faults(&mut self, file: usize, faults: &[Fault]) {
        self.out.cut.extend(faults.iter().map(|fault| (file, fault.key.clone())));
    }

    /// Takes note of what a file defines, right or wrong, so that a reference to it is no second error.
    pub(super) fn note_names(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let names = match key.get_ref().as_ref() {
                "agent" => &mut self.known.agents,
                "target" => &mut self.known.targets,
                "access" => {
                    let approve = value.get_ref().as_table().and_then(|access| access.get("approve"));
                    let approvers = approve.and_then(|approve| approve.get_ref().as_table());
                    self.known
                        .approvers
                        .extend(approvers.into_iter().flat_map(|it| it.keys().map(|key| key.get_ref().to_string())));
                    continue;
                }
                _ => continue,
            };
            let tables = value.get_ref().as_array().into_iter().flat_map(|array| array.iter());
            let found = tables.filter_map(|item| item.get_ref().as_table()?.get("name")?.get_ref().as_str());
            names.extend(found.map(str::to_owned));
        }
    }

    pub(super) fn add(&mut self, file: usize, raw: RawConfig) {
        self.files.push((file, raw));
    }

    /// The configuration (to be used only if there are no faults), the faults, and the warnings.
    pub(super) fn finish(mut self, version: String) -> (Config, Faults, Faults) {
        let mut once = Once::default();
        let (mut agents, mut targets, mut rules) = (Vec::new(), Vec::new(), Vec::new());
        let (mut masks, mut limits) = (Vec::new(), Vec::new());
        for (file, raw) in std::mem::take(&mut self.files) {
            once.gateway.set(&mut self.out, file, "gateway", raw.gateway);
            once.access.set(&mut self.out, file, "access", raw.access);
            once.recording.set(&mut self.out, file, "recording", raw.recording);
            once.identity.set(&mut self.out, file, "identity", raw.identity);
            once.dns.set(&mut self.out, file, "dns", raw.dns);
            agents.extend(raw.agent.into_iter().map(|agent| (file, agent)));
            targets.extend(raw.target.into_iter().map(|target| (file, target)));
            rules.extend(raw.rule.into_iter().map(|rule| (file, rule)));
            masks.extend(raw.mask.into_iter().map(|mask| (file, mask)));
            limits.extend(raw.limit.into_iter().map(|limit| (file, limit)));
        }
        let gateway = self.gateway(once.gateway.0);
        let access = self.access(once.access.0);
        let recording = self.recording(once.recording.0, &gateway);
        let identity = once.identity.0.and_then(|(file, raw)| self.identity(file, &raw.value));
        if let (None, Some((file, agent))) = (&identity, agents.first()) {
            let message = "agents need [identity]: who issues their tokens, and for which audience";
            let is_wrong = |key: &String| key.starts_with("identity");
            let said = self.out.cut.iter().any(|(_, key)| is_wrong(key))
                || self.out.faults.iter().any(|(_, fault)| is_wrong(&fault.key));
            if !said {
                self.out.fault(&Scope::named(*file, "agent", &agent.value.name.value), &agent.span, "", message);
            }
        }
        let dns_servers = once.dns.0.map_or_else(Vec::new, |(file, raw)| self.dns_servers(file, &raw.value));
        let agents = self.agents(agents, &gateway);
        let targets = self.targets(targets);
        let policy = self.policy(rules, &access, &targets);
        let masks = self.masks(masks, &targets);
        let limits = self.limits(limits, &targets);
        let targets = targets.into_iter().map(Arc::new).collect();
        let config = Config {
            gateway,
            access,
            recording,
            identity,
            dns_servers,
            agents,
            targets,
            policy,
            masks,
            limits,
            version,
        };
        (config, self.out.faults, self.out.warnings)
    }

    fn gateway(&mut self, raw: Option<(usize, At<RawGateway>)>) -> GatewayConfig {
        let (file, raw) = raw.map_or_else(Default::default, |(file, raw)| (file, raw.value));
        let (out, scope) = (&mut self.out, Scope::new(file, "gateway"));
        let attach = match &raw.attach {
            Some(attach) if attach.value.is_empty() => String::new(),
            attach => out.read_or(&scope, "attach", attach.as_ref(), String::new(), text::cgroup),
        };
        let mut agents = Vec::new();
        for (i, agent) in raw.agents.iter().flatten().enumerate() {
            let key = format!("agents[{i}]");
            let Some(path) = out.read(&scope, &key, agent, text::cgroup) else { continue };
            if !is_below(&path, &attach) {
                let message = format!(
                    "is not below \"{attach}\", where the programs are attached: nothing in it would be intercepted"
                );
                out.fault(&scope, &agent.span, &key, message);
            }
            agents.push(path);
        }
        if raw.agents.is_none() {
            agents.push(DEFAULT_AGENTS.to_owned());
        }
        if raw.agents.as_ref().is_some_and(Vec::is_empty) {
            out.faults.push((
                file,
                Fault {
                    span: 0..0,
                    key: scope.key("agents"),
                    message: "names no cgroup: nothing would be intercepted".to_owned(),
                },
            ));
        }
        let mut port = |key: &str, port: Option<At<u16>>, default: u16| {
            let Some(At { value, span }) = port else { return default };
            if value < FIRST_UNPRIVILEGED_PORT {
                out.fault(
                    &scope,
                    &span,
                    key,
                    format!("the gateway has no privileges: take a port from {FIRST_UNPRIVILEGED_PORT} on"),
                );
            } else if value >= FIRST_EPHEMERAL_PORT {
                let message = format!(
                    "other programs get ports from {FIRST_EPHEMERAL_PORT} on by chance, and then the gateway cannot start"
                );
                out.warn(&scope, &span, key, message);
            }
            value
        };
        let (port, dns_port) = (port("port", raw.port, DEFAULT_PORT), port("dns_port", raw.dns_port, DEFAULT_DNS_PORT));
        let shards = raw.shards.map_or(0, |At { value, span }| {
            if value > MAX_SHARDS {
                out.fault(&scope, &span, "shards", format!("at most {MAX_SHARDS}"));
            }
            usize::from(value)
        });
        let max_sessions_per_agent =
            raw.max_sessions_per_agent.map_or(DEFAULT_SESSIONS_PER_AGENT, |At { value, span }| {
                let value = usize::try_from(value).unwrap_or(usize::MAX);
                let most = crate::live::MAX_SESSIONS;
                if !(1..=most).contains(&value) {
                    out.fault(&scope, &span, "max_sessions_per_agent", format!("1 to {most}"));
                }
                value
            });
        GatewayConfig {
            agents,
            attach,
            mode: match raw.mode {
                Some(RawMode::Observe) => Mode::Observe,
                Some(RawMode::Enforce) | None => Mode::Enforce,
            },
            unlisted: match raw.unlisted {
                Some(RawUnlisted::Observe) => Mode::Observe,
                Some(RawUnlisted::Deny) | None => Mode::Enforce,
            },
            user: out.read_or(&scope, "user", raw.user.as_ref(), DEFAULT_USER.to_owned(), not_empty),
            runtime_dir: out.path_or(&scope, "runtime_dir", raw.runtime_dir.as_ref(), DEFAULT_RUNTIME_DIR),
            state_dir: out.path_or(&scope, "state_dir", raw.state_dir.as_ref(), DEFAULT_STATE_DIR),
            bpf_dir: out.path_or(&scope, "bpf_dir", raw.bpf_dir.as_ref(), DEFAULT_BPF_DIR),
            port,
            dns_port,
            shards,
            max_sessions_per_agent,
            drain: out.read_or(&scope, "drain", raw.drain.as_ref(), DEFAULT_DRAIN, drain),
            without_gateway: match raw.without_gateway {
                Some(RawWithoutGateway::Wait) => WithoutGateway::Wait,
                Some(RawWithoutGateway::Refuse) | None => WithoutGateway::Refuse,
            },
        }
    }

    fn access(&mut self, raw: Option<(usize, At<RawAccess>)>) -> Access {
        let (file, raw) = raw.map_or_else(Default::default, |(file, raw)| (file, raw.value));
        let scope = Scope::new(file, "access");
        let mut approve = BTreeMap::new();
        for (name, groups) in raw.approve {
            if groups.value.is_empty() {
                let message = "has no group, so nobody could approve";
                self.out.fault(&scope, &groups.span, &format!("approve.{}", key_part(&name)), message);
            }
            approve.insert(name, groups.value);
        }
        let names = |list: Vec<At<String>>| list.into_iter().map(|name| name.value).collect();
        Access { admin: names(raw.admin), approve, audit: names(raw.audit) }
    }

    fn recording(&mut self, raw: Option<(usize, At<RawRecording>)>, gateway: &GatewayConfig) -> RecordingConfig {
        let (file, raw) = raw.map_or_else(Default::default, |(file, raw)| (file, raw.value));
        let (out, scope) = (&mut self.out, Scope::new(file, "recording"));
        let directory =
            out.read_or(&scope, "directory", raw.directory.as_ref(), gateway.state_dir.join("recordings"), absolute);
        let limit = |text: &str| match text::size(text)? {
            bytes if bytes <= MAX_REPLY_LIMIT => usize::try_from(bytes).map_err(|error| error.to_string()),
            _ => Err(format!("at most {}M of a reply is kept", MAX_REPLY_LIMIT >> 20)),
        };
        RecordingConfig {
            directory,
            keep: out.read_or(&scope, "keep", raw.keep.as_ref(), DEFAULT_KEEP, text::duration),
            max_size: out.read_or(&scope, "max_size", raw.max_size.as_ref(), DEFAULT_MAX_SIZE, text::size),
            reply_limit: out.read_or(&scope, "reply_limit", raw.reply_limit.as_ref(), DEFAULT_REPLY_LIMIT, limit),
        }
    }

    fn identity(&mut self, file: usize, raw: &RawIdentity) -> Option<IdentityConfig> {
        let (out, scope) = (&mut self.out, Scope::new(file, "identity"));
        let insecure = reason(out, &scope, raw.insecure.as_ref());
        let issuer = out.read(&scope, "issuer", &raw.issuer, |text| issuer(text, insecure.is_some()))?;
        let audience = out.read(&scope, "audience", &raw.audience, not_empty)?;
        let claim = raw.groups_claim.as_ref();
        Some(IdentityConfig {
            issuer,
            audience,
            groups_claim: out.read_or(&scope, "groups_claim", claim, DEFAULT_GROUPS_CLAIM.to_owned(), not_empty),
            ca: raw.ca.as_ref().and_then(|ca| out.read(&scope, "ca", ca, absolute)),
            insecure,
        })
    }
}

impl Resolver<'_> {
    fn dns_servers(&mut self, file: usize, raw: &RawDns) -> Vec<SocketAddr> {
        let scope = Scope::new(file, "dns");
        if let Some(at) = raw.servers.get(MAX_DNS_SERVERS) {
            self.out.fault(&scope, &at.span, "servers", format!("there are more than {MAX_DNS_SERVERS} of them"));
        }
        let servers = raw.servers.iter().enumerate();
        servers.filter_map(|(i, at)| self.out.read(&scope, &format!("servers[{i}]"), at, text::server)).collect()
    }
}

/// Tables that all files together may have once.
#[derive(Default)]
struct Once {
    gateway: Single<RawGateway>,
    access: Single<RawAccess>,
    recording: Single<RawRecording>,
    identity: Single<RawIdentity>,
    dns: Single<RawDns>,
}

struct Single<T>(Option<(usize, At<T>)>);

impl<T> Default for Single<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Single<T> {
    fn set(&mut self, out: &mut Out, file: usize, table: &str, value: Option<At<T>>) {
        let Some(value) = value else { return };
        if self.0.is_some() {
            out.fault(
                &Scope::new(file, table),
                &value.span,
                "",
                "stands in another file already; put it into one of them",
            );
        } else {
            self.0 = Some((file, value));
        }
    }
}

/// Names of one sort, each of which may be given once.
struct Names {
    what: &'static str,
    max: usize,
    seen: std::collections::BTreeSet<String>,
}

impl Names {
    fn new(what: &'static str) -> Self {
        Self { what, max: MAX_ITEMS, seen: std::collections::BTreeSet::new() }
    }

    fn add(&mut self, out: &mut Out, scope: &Scope, name: &At<String>) {
        let text = &name.value;
        if text.trim().is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
            out.fault(
                scope,
                &name.span,
                "name",
                format!("a name has 1 to {MAX_NAME} letters, and no control characters"),
            );
        }
        if !self.seen.insert(text.clone()) {
            out.fault(scope, &name.span, "name", format!("another {} has this name", self.what));
        }
        if self.seen.len() == self.max + 1 {
            out.fault(scope, &name.span, "", format!("there are more than {} of [[{}]]", self.max, self.what));
        }
    }
}

/// The reason for something insecure; it must say something.
fn reason(out: &mut Out, scope: &Scope, raw: Option<&At<String>>) -> Option<String> {
    let said = |text: &str| match text.trim() {
        "" => Err("say why, for whoever reads this next".to_owned()),
        _ => not_long(text),
    };
    raw.map(|text| out.read(scope, "insecure", text, said).unwrap_or_default())
}

fn issuer(text: &str, insecure: bool) -> Result<String, String> {
    let host = |rest: &str| -> String {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((ip, _)) => ip.to_owned(),
            None => authority.split(':').next().unwrap_or_default().to_owned(),
        }
    };
    if let Some(rest) = text.strip_prefix("https://") {
        return if host(rest).is_empty() { Err(format!("{text:?} names no host")) } else { Ok(text.to_owned()) };
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(format!("{text:?} is no issuer: write its URL, such as \"https://idp.example/realms/agents\""));
    };
    let host = host(rest);
    if host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        return Err("tokens are only as safe as the way to their issuer: use https://".to_owned());
    }
    if insecure {
        return Ok(text.to_owned());
    }
    Err("use https://, or say why http:// is good enough on this loopback address: insecure = \"…\"".to_owned())
}

fn is_below(path: &str, root: &str) -> bool {
    root.is_empty() || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn drain(text: &str) -> Result<Duration, String> {
    match text::duration(text)? {
        duration if duration <= MAX_DRAIN => Ok(duration),
        _ => Err(format!("at most {} h", MAX_DRAIN.as_secs() / 3600)),
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path.is_absolute() && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if plain { Ok(path) } else { Err(format!("{text:?} is no absolute path")) }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { not_long(text) }
}

fn not_long(text: &str) -> Result<String, String> {
    if text.len() > MAX_TEXT { Err(format!("has more than {MAX_TEXT} letters")) } else { Ok(text.to_owned()) }
}
