//! The configuration as it is written: the shape of the TOML, and nothing decided yet. The JSON Schema is made from these
//! types, and `schema` checks files against it, so that a key exists in one place only.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};

use crate::mask::DetectorKind;
use crate::origin::Risk;
use crate::policy::{KIND_GROUPS, Kind, KindSet};
use crate::target::{PoolMode, Protocol};

/// A value that knows where it stands in its file.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        let span = spanned.span();
        Ok(Self { value: spanned.into_inner(), span })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

/// Weir's configuration: `/etc/weir/weir.toml`, and `conf.d/*.toml` next to it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) gateway: Option<At<RawGateway>>,
    pub(super) access: Option<At<RawAccess>>,
    pub(super) recording: Option<At<RawRecording>>,
    pub(super) identity: Option<At<RawIdentity>>,
    pub(super) dns: Option<At<RawDns>>,
    #[serde(default)]
    pub(super) agent: Vec<At<RawAgent>>,
    #[serde(default)]
    pub(super) target: Vec<At<RawTarget>>,
    #[serde(default)]
    pub(super) rule: Vec<At<RawRule>>,
    #[serde(default)]
    pub(super) mask: Vec<At<RawMask>>,
    #[serde(default)]
    pub(super) limit: Vec<At<RawLimit>>,
}

/// What is intercepted, and how the gateway runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGateway {
    /// cgroups below the cgroup2 mount; everything in them is intercepted. Default: `["agents.slice"]`.
    pub(super) agents: Option<Vec<At<String>>>,
    /// Where the programs are attached, below the cgroup2 mount. Default: its root. Agents must be below it.
    pub(super) attach: Option<At<String>>,
    /// `observe` forwards and records what policy would deny.
    pub(super) mode: Option<RawMode>,
    /// A destination that no target names.
    pub(super) unlisted: Option<RawUnlisted>,
    /// The user that the gateway becomes. Default: `weir`.
    pub(super) user: Option<At<String>>,
    /// Default: `/run/weir`.
    pub(super) runtime_dir: Option<At<String>>,
    /// Default: `/var/lib/weir`.
    pub(super) state_dir: Option<At<String>>,
    /// Where eBPF objects are pinned. Default: `/sys/fs/bpf/weir`.
    pub(super) bpf_dir: Option<At<String>>,
    /// TCP port on the loopback addresses. Default: 15432.
    pub(super) port: Option<At<u16>>,
    /// UDP port of the agents' resolver. Default: 15353.
    pub(super) dns_port: Option<At<u16>>,
    /// Runtimes, each on a thread of its own. Default: 0, one for each two cores.
    pub(super) shards: Option<At<u16>>,
    /// Sessions that one agent may have open at once; one more is refused. Default: 1000.
    pub(super) max_sessions_per_agent: Option<At<u32>>,
    /// How long open sessions go on in a gateway that was replaced, by a restart or an upgrade of weir.service. Default: `10m`.
    pub(super) drain: Option<At<String>>,
    /// What becomes of agents' new connections and DNS queries while no gateway runs, after a crash, say. `refuse` (the default):
    /// they are refused at once. `wait`: they wait for one that is back within 12 seconds, and fail after 25. Nothing passes either way.
    pub(super) without_gateway: Option<RawWithoutGateway>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWithoutGateway {
    Refuse,
    Wait,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawMode {
    Enforce,
    Observe,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawUnlisted {
    Deny,
    Observe,
}

/// Who may use the admin socket, by unix group; never from an agent's cgroup.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccess {
    #[serde(default)]
    pub(super) admin: Vec<At<String>>,
    /// Approver's name, as rules write it, and the unix groups whose members may approve.
    #[serde(default)]
    pub(super) approve: BTreeMap<String, At<Vec<String>>>,
    #[serde(default)]
    pub(super) audit: Vec<At<String>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecording {
    /// Default: `recordings` in the state directory.
    pub(super) directory: Option<At<String>>,
    /// How long recordings are kept: `"90d"`, the default.
    pub(super) keep: Option<At<String>>,
    /// How large they may grow: `"20G"`, the default.
    pub(super) max_size: Option<At<String>>,
    /// How much of each operation's reply is kept: `"64K"`, the default.
    pub(super) reply_limit: Option<At<String>>,
}

/// Who issues the agents' tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIdentity {
    /// The issuer's URL, exactly as tokens name it.
    pub(super) issuer: At<String>,
    /// The audience that tokens must be for.
    pub(super) audience: At<String>,
    /// The claim that lists groups. Default: `groups`.
    pub(super) groups_claim: Option<At<String>>,
    /// Trust anchors for the issuer's TLS, a PEM file. Default: the system's.
    pub(super) ca: Option<At<String>>,
    /// Why the issuer may be `http://`, on a loopback address.
    pub(super) insecure: Option<At<String>>,
}

/// How the gateway resolves the names of targets, for agents that ask.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDns {
    /// Recursive resolvers: `"10.0.0.2"`, `"127.0.0.1:5300"`, `"[::1]:5300"`. Default: those of `/etc/resolv.conf`.
    #[serde(default)]
    pub(super) servers: Vec<At<String>>,
}

/// A kind of agent: how its processes are recognised, and where its token lies.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    pub(super) name: At<String>,
    /// A systemd unit, `*` for the instance: `"coder@*.service"`.
    pub(super) unit: Option<At<String>>,
    /// A path below the cgroup2 mount; everything below it is the agent.
    pub(super) cgroup: Option<At<String>>,
    /// A container whose cgroup is below the agents' (`docker run --cgroup-parent=agents.slice`): by its name, a label, or both.
    pub(super) container: Option<At<RawContainer>>,
    /// A user of the agent's own; its processes are the agent wherever they run.
    pub(super) user: Option<At<String>>,
    pub(super) token: At<RawToken>,
    /// Capabilities with which its processes get sessions, though they lead around the gateway. Default: none.
    #[serde(default)]
    pub(super) accept_risk: Vec<Risk>,
    /// TCP ports at which others may reach its servers. Default: none; only the agent itself reaches them.
    pub(super) listen: Option<At<Vec<At<u16>>>>,
}

/// What the container's runtime says of it: Docker, containerd, Podman or runc, run by root.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawContainer {
    /// Its name, `*` for any part of it: `"coder-*"`.
    pub(super) name: Option<At<String>>,
    /// A label that it has: `"weir.agent=coder"`. An annotation, where the runtime has no labels.
    pub(super) label: Option<At<String>>,
}

/// Where an agent's token lies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawToken {
    /// A file; `%i` is the unit's instance, `%u` the user's name.
    File(String),
    /// An environment variable of the connecting process.
    Env(String),
}

/// Something that agents connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) name: At<String>,
    pub(super) protocol: Protocol,
    /// What agents connect to: `"db.internal:5432"`, `"10.0.0.0/8:5432"`, `"[::1]:5432"`.
    pub(super) address: At<Vec<At<String>>>,
    /// Addresses that agents are told for its names. Default: what this host's resolver says.
    #[serde(default)]
    pub(super) resolve: Vec<At<String>>,
    /// Networks that its names may resolve into, loopback and private ones only if they stand here: `"10.0.0.0/8"`.
    /// Default: public addresses, and private ones where the certificate is verified.
    #[serde(default)]
    pub(super) resolve_within: Vec<At<String>>,
    /// Databases that sessions may name. Default: any.
    pub(super) databases: Option<At<Vec<String>>>,
    /// Whether sessions that no rule lets write are read-only at the target as well. Default: true. `false` for clients that lock rows
    /// or ask for a server that can be written, and only read.
    pub(super) read_only_sessions: Option<At<bool>>,
    /// For how long a pooler such as pgbouncer, where the target is one, keeps a connection of the server's for a client. With `"transaction"`,
    /// prepared statements and cursors of an earlier transaction are nobody's. Default: `"transaction"` if the target turns out to be a pooler.
    pub(super) pool_mode: Option<At<PoolMode>>,
    pub(super) tls: Option<At<RawTls>>,
    pub(super) login: Option<At<RawLogin>>,
    /// Server names that a tls-passthrough target accepts; `*.` for one label. Default: the names in `address`.
    pub(super) server_names: Option<At<Vec<String>>>,
}

/// How the gateway speaks TLS to the target. Default: certificate and name are verified.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) mode: Option<At<RawTlsMode>>,
    /// Trust anchors, a PEM file. Default: the system's.
    pub(super) ca: Option<At<String>>,
    /// The name in the target's certificate, if it is not the one that agents connect to.
    pub(super) server_name: Option<At<String>>,
    /// Why less than verify-full is good enough here.
    pub(super) insecure: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawTlsMode {
    VerifyFull,
    VerifyCa,
    Disable,
}

/// The login that the gateway holds: a user, and one of the others to prove it by.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLogin {
    pub(super) user: At<String>,
    #[schemars(extend("x-hint" = "a password never stands in a configuration file: put it into a systemd credential and \
        write { credential = \"orders-db\" }, or into a file that only root can read and write { file = \"/etc/weir/orders-db\" }"))]
    pub(super) password: Option<At<RawCredential>>,
    /// AWS IAM's database authentication, of RDS and Aurora: a token in the password's place, which is made for each login.
    pub(super) rds_iam: Option<At<RawRdsIam>>,
}

/// Where the database is, and keys that may `rds-db:connect` as the login's user. Default: those of the EC2 instance's role.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRdsIam {
    /// `"eu-central-1"`.
    pub(super) region: At<String>,
    pub(super) access_key_id: Option<At<String>>,
    #[schemars(extend("x-hint" = "a key never stands in a configuration file: put it into a systemd credential and \
        write { credential = \"aws-key\" }, or into a file that only root can read and write { file = \"/etc/weir/aws-key\" }"))]
    pub(super) secret_access_key: Option<At<RawCredential>>,
    /// What temporary keys (`ASIA...`) come with.
    #[schemars(extend("x-hint" = "a token never stands in a configuration file: put it into a systemd credential and \
        write { credential = \"aws-token\" }, or into a file that only root can read and write { file = \"/etc/weir/aws-token\" }"))]
    pub(super) session_token: Option<At<RawCredential>>,
    /// Where the instance's metadata service is, if it is not where EC2 has it for IPv4: `"http://[fd00:ec2::254]"`.
    /// Whoever answers there gives the gateway its keys: a port of the loopback interface may be anybody's while its service is down.
    pub(super) ec2_metadata_service_endpoint: Option<At<String>>,
}

/// Where a held secret lies.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawCredential {
    /// A systemd credential of the gateway's unit.
    Credential(String),
    /// A file that only root and the gateway's user can read.
    File(String),
}

/// What agents may do. A matcher that is left out matches everything (but `unparsed` must be named to be allowed).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: At<String>,
    #[serde(default)]
    pub(super) agents: Vec<At<String>>,
    /// Groups of the agent's token.
    #[serde(default)]
    pub(super) groups: Vec<At<String>>,
    #[serde(default)]
    pub(super) targets: Vec<At<String>>,
    #[serde(default)]
    pub(super) databases: Vec<At<String>>,
    #[serde(default)]
    pub(super) kinds: Vec<RawKinds>,
    /// `schema.table` or `table`, `*` for any part of a name.
    #[serde(default)]
    pub(super) tables: Vec<At<String>>,
    /// `schema.table.column`, `table.column` or `column`: columns that the statement names, to read or to write.
    #[serde(default)]
    pub(super) columns: Vec<At<String>>,
    /// The same of columns that it writes.
    #[serde(default)]
    pub(super) columns_written: Vec<At<String>>,
    /// `schema.function` or `function`: what the statement calls.
    #[serde(default)]
    pub(super) functions: Vec<At<String>>,
    /// Whether the statement has a WHERE.
    pub(super) has_where: Option<bool>,
    /// Whether the query has a LIMIT.
    pub(super) has_limit: Option<bool>,
    /// Whole tables (no WHERE, no LIMIT) that have more rows than this, or nobody knows how many, by the target's own estimate. Of rules
    /// that deny or hold.
    pub(super) more_rows_than: Option<At<u64>>,
    /// More statements than this, sent as one text. Of rules that deny or hold.
    pub(super) more_statements_than: Option<At<u32>>,
    pub(super) then: RawThen,
    /// What the agent is told when the rule denies or holds.
    pub(super) message: Option<At<String>>,
}

/// A kind, or a word for several.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawKinds(pub(super) KindSet);

impl RawKinds {
    fn words() -> impl Iterator<Item = (&'static str, KindSet)> {
        let kinds = Kind::ALL.iter().map(|it| (it.as_str(), KindSet::from([*it])));
        kinds.chain(KIND_GROUPS.iter().map(|(word, kinds)| (*word, kinds.iter().copied().collect())))
    }
}

impl<'de> Deserialize<'de> for RawKinds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let known = Self::words().find(|(known, _)| *known == word);
        known.map(|(_, kinds)| Self(kinds)).ok_or_else(|| serde::de::Error::custom(format!("\"{word}\" is no kind")))
    }
}

impl JsonSchema for RawKinds {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = Self::words().map(|(word, _)| word).collect();
        schemars::json_schema!({
            "description": "What an action does: a kind, or `writes`, `ddl` or `privileges` for several.",
            "type": "string",
            "enum": words,
        })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawThen {
    Allow,
    Deny,
    /// Wait for people.
    Hold(RawHold),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHold {
    /// Names from `[access] approve`; members of any of them may approve.
    pub(super) approvers: At<Vec<At<String>>>,
    /// How many different people must. Default: 1.
    pub(super) count: Option<At<u32>>,
    /// How long the request waits: `"5m"`, the default.
    pub(super) timeout: Option<At<String>>,
}

/// What clients do not see.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMask {
    pub(super) name: At<String>,
    #[serde(default)]
    pub(super) targets: Vec<At<String>>,
    /// `schema.table.column`, `*` for any of the three: masked whole.
    #[serde(default)]
    pub(super) columns: Vec<At<String>>,
    /// Findings anywhere: masked where they are found.
    #[serde(default)]
    pub(super) detect: Vec<DetectorKind>,
    pub(super) with: RawWith,
    /// How often a minute an agent may look rows up by a value of these columns that it knows (`WHERE email = $1`). Default:
    /// not at all, as whoever may ask often enough finds every value.
    pub(super) lookups_per_minute: Option<At<u32>>,
}

/// How much of a target's data agents take. A statement that would take more ends with an error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimit {
    pub(super) name: At<String>,
    #[serde(default)]
    pub(super) agents: Vec<At<String>>,
    #[serde(default)]
    pub(super) targets: Vec<At<String>>,
    /// Rows of one statement's results.
    pub(super) rows: Option<At<u64>>,
    /// Their bytes: `"10M"`.
    pub(super) bytes: Option<At<String>>,
    /// The same of all statements of one session.
    pub(super) session_rows: Option<At<u64>>,
    pub(super) session_bytes: Option<At<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWith {
    Redact,
    Null,
    /// Stars, but for the last characters.
    Partial(RawPartial),
    /// Always this text.
    Fixed(At<String>),
    /// A keyed hash: equal values look alike.
    Hash(RawHash),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHash {
    /// A secret of 32 bytes or more: whoever has it can try values.
    #[schemars(extend("x-hint" = "a key never stands in a configuration file: put it into a systemd credential and \
        write { credential = \"mask-key\" }, or into a file that only root can read and write { file = \"/etc/weir/mask-key\" }"))]
    pub(super) key: At<RawCredential>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPartial {
    pub(super) keep_last: At<u8>,
}
