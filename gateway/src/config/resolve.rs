//! From what is written to what is meant: references found, texts read, defaults filled in, contradictions reported.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::raw::{
    At, RawAccess, RawAgent, RawConfig, RawCredential, RawGateway, RawHold, RawIdentity, RawLogin, RawMask, RawMode,
    RawRecording, RawRule, RawTarget, RawThen, RawTls, RawTlsMode, RawToken, RawUnlisted, RawWith,
};
use super::schema::{Fault, did_you_mean, key_part};
use super::{
    Access, AgentConfig, AgentMatch, Config, GatewayConfig, IdentityConfig, Mode, RecordingConfig, TokenSource, text,
};
use crate::mask::{ColumnPattern, MAX_MASKS, MaskKind, MaskRule};
use crate::policy::{self, Policy, Rule, TablePattern, Then};
use crate::target::{Address, CredentialSource, Login, Protocol, Target, TlsMode};

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
const DEFAULT_HOLD: Duration = Duration::from_mins(5);
/// A client waits no longer, and a transaction holds its locks no longer.
const MAX_HOLD: Duration = Duration::from_hours(24);
const MAX_APPROVALS: u32 = 16;
const MAX_SHARDS: u16 = 256;
const MAX_NAME: usize = 128;
const MAX_TEXT: usize = 1_000;
const MAX_KEEP_LAST: u8 = 32;
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
        let (mut agents, mut targets, mut rules, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (file, raw) in std::mem::take(&mut self.files) {
            once.gateway.set(&mut self.out, file, "gateway", raw.gateway);
            once.access.set(&mut self.out, file, "access", raw.access);
            once.recording.set(&mut self.out, file, "recording", raw.recording);
            once.identity.set(&mut self.out, file, "identity", raw.identity);
            agents.extend(raw.agent.into_iter().map(|agent| (file, agent)));
            targets.extend(raw.target.into_iter().map(|target| (file, target)));
            rules.extend(raw.rule.into_iter().map(|rule| (file, rule)));
            masks.extend(raw.mask.into_iter().map(|mask| (file, mask)));
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
        let agents = self.agents(agents, &gateway);
        let targets = self.targets(targets);
        let policy = self.policy(rules, &access, &targets);
        let masks = self.masks(masks, &targets);
        let targets = targets.into_iter().map(Arc::new).collect();
        let config = Config { gateway, access, recording, identity, agents, targets, policy, masks, version };
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

    fn agents(&mut self, raw: Vec<(usize, At<RawAgent>)>, gateway: &GatewayConfig) -> Vec<AgentConfig> {
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
            let user = raw.user.map(|user| user.value);
            let token = self.token(&scope, &raw.token, &matches, user.as_deref());
            agents.push(AgentConfig { name: raw.name.value, matches, user, uid, token });
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
        match (&raw.unit, &raw.cgroup) {
            (Some(unit), Some(_)) => {
                self.out.fault(scope, &unit.span, "unit", "has a unit and a cgroup; give one of them");
                AgentMatch::UserOnly
            }
            (Some(unit), None) => {
                self.out.read(scope, "unit", unit, self::unit).map_or(AgentMatch::UserOnly, AgentMatch::Unit)
            }
            (None, Some(cgroup)) => {
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
            (None, None) => {
                let is_cut = ["user", "unit", "cgroup"].iter().any(|key| self.out.is_cut(scope, key));
                if raw.user.is_none() && !is_cut {
                    self.out.fault(scope, span, "", "needs a unit, a cgroup or a user: nothing would be this agent");
                }
                AgentMatch::UserOnly
            }
        }
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

    fn token(&mut self, scope: &Scope, raw: &At<RawToken>, matches: &AgentMatch, user: Option<&str>) -> TokenSource {
        match &raw.value {
            RawToken::File(path) => {
                let has_instance =
                    matches!(matches, AgentMatch::Unit(unit) if unit.contains('*') || unit.contains('@'));
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

    fn targets(&mut self, raw: Vec<(usize, At<RawTarget>)>) -> Vec<Target> {
        let mut names = Names::new("target");
        let mut seen: Vec<(Address, String)> = Vec::new();
        let mut targets = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "target", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let address = self.addresses(&scope, &raw.address);
            for (address, at) in address.iter().zip(&raw.address.value) {
                if let Some((_, other)) = seen.iter().find(|(it, _)| it == address) {
                    let message = format!(
                        "is an address of target \"{other}\" too: connections to it are ambiguous, and refused"
                    );
                    self.out.warn(&scope, &at.span, "address", message);
                }
                seen.push((address.clone(), raw.name.value.clone()));
            }
            let resolve = raw.resolve.iter().enumerate().filter_map(|(i, at)| {
                self.out.read(&scope, &format!("resolve[{i}]"), at, |text| {
                    text.parse::<IpAddr>().map_err(|_| format!("{text:?} is no IP address"))
                })
            });
            let resolve = resolve.collect();
            self.suits_protocol(&scope, &raw, &span);
            let tls = self.tls(&scope, raw.tls.as_ref());
            let login = raw.login.and_then(|login| self.login(&scope, &login.value));
            let server_names = raw.server_names.into_iter().flat_map(|At { value, span }| {
                value
                    .into_iter()
                    .filter_map(|name| {
                        let name = At { value: name, span: span.clone() };
                        self.out.read(&scope, "server_names", &name, text::server_name)
                    })
                    .collect::<Vec<_>>()
            });
            let server_names = server_names.collect();
            targets.push(Target {
                name: raw.name.value,
                protocol: raw.protocol,
                address,
                resolve,
                databases: raw.databases.map(|it| it.value).unwrap_or_default(),
                tls,
                login,
                server_names,
            });
        }
        targets
    }

    fn addresses(&mut self, scope: &Scope, raw: &At<Vec<At<String>>>) -> Vec<Address> {
        if raw.value.is_empty() {
            self.out.fault(scope, &raw.span, "address", "is empty: nothing would reach this target");
        }
        let mut addresses = Vec::new();
        for (i, at) in raw.value.iter().enumerate() {
            addresses.extend(self.out.read(scope, &format!("address[{i}]"), at, text::address));
        }
        addresses
    }

    /// Keys that make sense for some protocols only.
    fn suits_protocol(&mut self, scope: &Scope, raw: &RawTarget, span: &Range<usize>) {
        let mut only = |key: &str, at: Option<&Range<usize>>, why: &str| {
            if let Some(at) = at {
                self.out.fault(scope, at, key, format!("{} targets have none: {why}", raw.protocol.as_str()));
            }
        };
        match raw.protocol {
            Protocol::TlsPassthrough => {
                let why = "their bytes are passed on as they are";
                only("login", raw.login.as_ref().map(|it| &it.span), why);
                only("tls", raw.tls.as_ref().map(|it| &it.span), why);
                only("databases", raw.databases.as_ref().map(|it| &it.span), why);
            }
            Protocol::Postgres => {
                let why = "sessions are told apart by address";
                only("server_names", raw.server_names.as_ref().map(|it| &it.span), why);
                if raw.login.is_none() && !self.out.is_cut(scope, "login") {
                    let message = "needs a login = { user = …, password = { credential = … } }: the gateway logs in, agents have no password";
                    self.out.fault(scope, span, "", message);
                }
            }
        }
    }

    fn tls(&mut self, scope: &Scope, raw: Option<&At<RawTls>>) -> TlsMode {
        let Some(At { value: raw, span }) = raw else { return TlsMode::VerifyFull { ca: None, server_name: None } };
        let scope = Scope { file: scope.file, path: scope.key("tls") };
        let out = &mut self.out;
        let ca = raw.ca.as_ref().and_then(|ca| out.read(&scope, "ca", ca, absolute));
        let server_name = raw.server_name.as_ref().and_then(|name| out.read(&scope, "server_name", name, text::name));
        let insecure = reason(out, &scope, raw.insecure.as_ref());
        let mode = raw.mode.as_ref().map_or(RawTlsMode::VerifyFull, |mode| mode.value);
        let mut unused = |key: &str, at: Option<&At<String>>, mode: &str| {
            if let Some(at) = at {
                out.fault(&scope, &at.span, key, format!("has no meaning with mode = \"{mode}\""));
            }
        };
        let name = match mode {
            RawTlsMode::VerifyFull => {
                unused("insecure", raw.insecure.as_ref(), "verify-full");
                return TlsMode::VerifyFull { ca, server_name };
            }
            RawTlsMode::VerifyCa => "verify-ca",
            RawTlsMode::Disable => "disable",
        };
        unused("server_name", raw.server_name.as_ref(), name);
        if matches!(mode, RawTlsMode::Disable) {
            unused("ca", raw.ca.as_ref(), name);
        }
        if raw.insecure.is_none() {
            let at = raw.mode.as_ref().map_or(span, |mode| &mode.span);
            let message = format!(
                "mode = \"{name}\" lets others pose as the target; say why that is good enough here: insecure = \"…\""
            );
            out.fault(&scope, at, "mode", message);
        }
        let insecure = insecure.unwrap_or_default();
        match mode {
            RawTlsMode::Disable => TlsMode::Disable { insecure },
            RawTlsMode::VerifyCa | RawTlsMode::VerifyFull => TlsMode::VerifyCa { ca, insecure },
        }
    }

    fn login(&mut self, scope: &Scope, raw: &RawLogin) -> Option<Login> {
        let out = &mut self.out;
        let user = out.read(scope, "login.user", &raw.user, not_empty)?;
        let password = match &raw.password.value {
            RawCredential::Credential(name) => {
                let is_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
                if !is_name {
                    out.fault(
                        scope,
                        &raw.password.span,
                        "login.password.credential",
                        "is the name of a systemd credential, such as \"orders-db\"",
                    );
                }
                CredentialSource::Credential(name.clone())
            }
            RawCredential::File(path) => {
                let path = At { value: path.clone(), span: raw.password.span.clone() };
                CredentialSource::File(out.read(scope, "login.password.file", &path, absolute)?)
            }
        };
        Some(Login { user, password })
    }

    fn policy(&mut self, raw: Vec<(usize, At<RawRule>)>, access: &Access, targets: &[Target]) -> Policy {
        let mut names = Names::new("rule");
        let (mut rules, mut places) = (Vec::new(), Vec::new());
        for (file, At { value: raw, .. }) in raw {
            let scope = Scope::named(file, "rule", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let at = raw.name.span.clone();
            let rule = self.rule(&scope, raw, access);
            if let Some(message) = never_meets_a_database(&rule, targets) {
                self.out.warn(&scope, &at, "databases", message);
            }
            rules.push(rule);
            places.push((scope, at));
        }
        let policy = Policy::new(rules);
        for lint in policy::lint(&policy) {
            if let Some((scope, at)) = places.get(lint.rule) {
                self.out.warn(scope, at, "", lint.message);
            }
        }
        policy
    }

    fn rule(&mut self, scope: &Scope, raw: RawRule, access: &Access) -> Rule {
        let agents = self.out.references(scope, "agents", &raw.agents, &self.known.agents, ("agent", ""));
        let targets = self.out.references(scope, "targets", &raw.targets, &self.known.targets, ("target", ""));
        let tables = raw.tables.iter().enumerate().filter_map(|(i, pattern)| {
            let read = |text: &str| text.parse::<TablePattern>().map_err(|error| error.to_string());
            self.out.read(scope, &format!("tables[{i}]"), pattern, read)
        });
        let tables = tables.collect();
        let message = raw.message.as_ref().and_then(|message| self.out.read(scope, "message", message, not_long));
        let values = |list: Vec<At<String>>| list.into_iter().map(|it| it.value).collect();
        let then = match raw.then {
            RawThen::Allow => Then::Allow,
            RawThen::Deny => Then::Deny,
            RawThen::Hold(hold) => self.hold(scope, &hold, access),
        };
        Rule {
            name: raw.name.value.into(),
            agents,
            groups: values(raw.groups),
            targets,
            databases: values(raw.databases),
            kinds: raw.kinds.into_iter().collect(),
            tables,
            has_where: raw.has_where,
            then,
            message,
        }
    }

    fn hold(&mut self, scope: &Scope, raw: &RawHold, access: &Access) -> Then {
        let scope = Scope { file: scope.file, path: scope.key("then.hold") };
        let list = &raw.approvers.value;
        let approvers =
            self.out.references(&scope, "approvers", list, &self.known.approvers, ("approver", " in [access] approve"));
        for name in list {
            if access.approve.get(&name.value).is_some_and(Vec::is_empty) {
                let message = format!("\"{}\" has no group in [access] approve, so nobody could approve", name.value);
                self.out.fault(&scope, &name.span, "approvers", message);
            }
        }
        if list.is_empty() {
            self.out.fault(&scope, &raw.approvers.span, "approvers", "names nobody who could approve");
        }
        let count = raw.count.as_ref().map_or(1, |At { value, span }| {
            if !(1..=MAX_APPROVALS).contains(value) {
                self.out.fault(&scope, span, "count", format!("expected a number from 1 to {MAX_APPROVALS}"));
            }
            *value
        });
        let timeout = |text: &str| match text::duration(text)? {
            Duration::ZERO => Err("leaves no time to approve".to_owned()),
            timeout if timeout > MAX_HOLD => Err("a request waits 24h at most".to_owned()),
            timeout => Ok(timeout),
        };
        let timeout = self.out.read_or(&scope, "timeout", raw.timeout.as_ref(), DEFAULT_HOLD, timeout);
        Then::Hold { approvers, count, timeout }
    }

    fn masks(&mut self, raw: Vec<(usize, At<RawMask>)>, targets: &[Target]) -> Vec<Arc<MaskRule>> {
        let mut names = Names::new("mask");
        names.max = MAX_MASKS;
        let mut masks = Vec::new();
        for (file, At { value: raw, span }) in raw {
            let scope = Scope::named(file, "mask", &raw.name.value);
            names.add(&mut self.out, &scope, &raw.name);
            let named = self.out.references(&scope, "targets", &raw.targets, &self.known.targets, ("target", ""));
            let is_cut = self.out.is_cut(&scope, "detect") || self.out.is_cut(&scope, "columns");
            if raw.columns.is_empty() && raw.detect.is_empty() && !is_cut {
                self.out.fault(&scope, &span, "", "masks nothing: give columns, detect, or both");
            }
            let is_opaque =
                |target: &&Target| target.protocol == Protocol::TlsPassthrough && named.contains(&target.name);
            if let Some(target) = targets.iter().find(is_opaque) {
                let message =
                    format!("nothing in target \"{}\" can be masked: its bytes are passed on as they are", target.name);
                self.out.fault(&scope, &span, "targets", message);
            }
            let columns = raw.columns.iter().enumerate().filter_map(|(i, pattern)| {
                let read = |text: &str| text.parse::<ColumnPattern>().map_err(|error| error.to_string());
                self.out.read(&scope, &format!("columns[{i}]"), pattern, read)
            });
            let columns = columns.collect();
            let with = self.with(&scope, raw.with);
            masks.push(Arc::new(MaskRule {
                name: raw.name.value,
                targets: named,
                columns,
                detectors: raw.detect,
                with,
            }));
        }
        masks
    }

    fn with(&mut self, scope: &Scope, raw: RawWith) -> MaskKind {
        match raw {
            RawWith::Redact => MaskKind::Redact,
            RawWith::Null => MaskKind::Null,
            RawWith::Partial(partial) => {
                let At { value, span } = partial.keep_last;
                if !(1..=MAX_KEEP_LAST).contains(&value) {
                    let message = format!("expected a number from 1 to {MAX_KEEP_LAST}; \"redact\" keeps nothing");
                    self.out.fault(scope, &span, "with.partial.keep_last", message);
                }
                MaskKind::Partial { keep_last: usize::from(value) }
            }
            RawWith::Fixed(text) => {
                let fixed = |text: &str| match text {
                    _ if text.contains('\0') => Err("a NUL is no text in a database".to_owned()),
                    _ => not_long(text),
                };
                MaskKind::Fixed(self.out.read_or(scope, "with.fixed", Some(&text), String::new(), fixed))
            }
        }
    }
}

/// Tables that all files together may have once.
#[derive(Default)]
struct Once {
    gateway: Single<RawGateway>,
    access: Single<RawAccess>,
    recording: Single<RawRecording>,
    identity: Single<RawIdentity>,
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

fn unit(text: &str) -> Result<String, String> {
    let has_type = [".service", ".scope"].iter().any(|kind| text.ends_with(kind) && text.len() > kind.len());
    if !has_type || text.contains('/') || text.matches('*').count() > 1 {
        return Err(format!("{text:?} is no unit: write its name, such as \"coder@*.service\", one `*` at most"));
    }
    Ok(text.to_owned())
}

fn token_path(path: &str, has_instance: bool, has_user: bool) -> Option<String> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Some(format!("{path:?} is no absolute path"));
    }
    let mut rest = path;
    while let Some((_, after)) = rest.split_once('%') {
        match after.chars().next() {
            Some('i') if !has_instance => return Some("has %i, but the agent has no unit with an instance".to_owned()),
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

/// A rule that names databases which none of its targets has can never match.
fn never_meets_a_database(rule: &Rule, targets: &[Target]) -> Option<String> {
    let mut own = targets.iter().filter(|target| rule.targets.is_empty() || rule.targets.contains(&target.name));
    let has = |target: &Target| {
        target.protocol != Protocol::TlsPassthrough
            && (target.databases.is_empty() || target.databases.iter().any(|it| rule.databases.contains(it)))
    };
    let never = !rule.databases.is_empty() && !targets.is_empty() && !own.any(has);
    never.then(|| "can never match: none of the rule's targets has one of these databases".to_owned())
}

fn is_below(path: &str, root: &str) -> bool {
    root.is_empty() || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
