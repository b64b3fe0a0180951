//! What is recorded. Self-describing, so that a recording of today is read by the auditors' tools of later years: fields
//! are stored by name, new ones have defaults, none is given another meaning.

use serde::{Deserialize, Serialize};

use super::RecordError;
use super::segment::Prefix;
use crate::approval::Transition;
use crate::dns::RefusedQuery;
use crate::identity::Principal;
use crate::ids::{OperationId, SessionId};
use crate::intercept::DeniedEvent;
use crate::origin::{Evidence, Origin};
use crate::policy::{Action, Gate};
use crate::target::Protocol;

/// One record: an event, its number, and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counts from 0 over the whole log.
    pub sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    GatewayStarted(GatewayStarted),
    GatewayStopped {
        reason: String,
    },
    ConfigReloaded {
        version: String,
    },
    ConfigRejected {
        error: String,
    },
    SessionOpened(SessionOpened),
    ConnectionRefused(ConnectionRefused),
    OperationDecided(OperationDecided),
    Approval(Transition),
    OperationReplied(OperationReplied),
    SessionClosed(SessionClosed),
    /// Reading the records is recorded, too.
    AdminAction(Box<crate::admin::Action>),
    KernelDenied {
        origin: Origin,
        reason: String,
        protocol: u16,
    },
    /// An agent asked for a name, or a type of record, that it may not know, or too often, or the name resolves to what it
    /// must not; `passed_over` more were not recorded.
    DnsRefused {
        origin: Origin,
        name: String,
        kind: String,
        #[serde(default)]
        reason: String,
        /// It was answered all the same: policy says to observe only.
        #[serde(default)]
        observed: bool,
        passed_over: u32,
    },
    /// A segment was deleted because of its age or of the space it took; its last hash keeps the chain provable.
    SegmentDeleted {
        segment: u64,
        #[serde(with = "serde_bytes")]
        last_hash: Vec<u8>,
        records: u64,
    },
    /// Records were lost between two moments, and why.
    Gap {
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewayStarted {
    pub version: String,
    pub host: String,
    pub boot_id: String,
    pub config_version: String,
    /// Open sessions that go on in gateways that this one replaces.
    #[serde(default)]
    pub sessions_going_on: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionOpened {
    pub id: SessionId,
    pub origin: Origin,
    pub evidence: Evidence,
    pub principal: Principal,
    pub target: String,
    pub protocol: Protocol,
    pub config_version: String,
    /// What policy denies is only reported.
    pub observe: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRefused {
    pub id: SessionId,
    pub origin: Option<Origin>,
    pub evidence: Option<Evidence>,
    pub agent: Option<String>,
    pub target: Option<String>,
    /// The stage that refused: `origin`, `target`, `identity`, `policy`, `gateway`.
    pub reason: String,
    pub message: String,
    pub rule: Option<String>,
    /// It was passed through all the same: policy says to observe only.
    #[serde(default)]
    pub observed: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationDecided {
    pub operation: OperationId,
    /// Redacted already.
    pub text: String,
    pub database: Option<String>,
    pub actions: Vec<Action>,
    /// How many statements were sent together.
    #[serde(default = "crate::policy::one")]
    pub statements: usize,
    /// Redacted already.
    pub parameters: Option<String>,
    pub gate: Gate,
    /// What the protocol refused whatever the rules say.
    pub refusal: Option<String>,
    /// Number of the approval that it waits for.
    pub approval: Option<u64>,
    /// Microseconds since the session began.
    pub at_us: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(count: &usize) -> bool {
    *count == 1
}

/// An [`OperationDecided`] that borrows: it is made for every statement, so nothing is copied only to be written.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "operation_decided")]
pub struct Deciding<'a> {
    pub operation: OperationId,
    pub text: &'a str,
    pub database: Option<&'a str>,
    pub actions: &'a [Action],
    #[serde(skip_serializing_if = "is_one")]
    pub statements: usize,
    pub parameters: Option<&'a str>,
    pub gate: &'a Gate,
    pub refusal: Option<&'a str>,
    pub approval: Option<u64>,
    pub at_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationReplied {
    pub operation: OperationId,
    /// In the protocol's words: a command tag, an error's code.
    pub outcome: String,
    pub rows: u64,
    pub cells_masked: u64,
    pub masks: Vec<String>,
    /// Bytes of the whole reply as the client got it.
    pub bytes: u64,
    /// The reply as the client got it, masked, up to the configured limit.
    #[serde(with = "serde_bytes")]
    pub content: Vec<u8>,
    pub content_truncated: bool,
    /// Microseconds since the session began: forwarded, and reply complete.
    pub started_us: u64,
    pub finished_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionClosed {
    pub id: SessionId,
    pub outcome: String,
    pub statements: u64,
    pub rows: u64,
    pub cells_masked: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// What the recorder takes: events, and what is stored as one.
pub trait Recordable: Serialize {
    /// What readers learn of the record without decoding it. Its number is the writer's to give.
    fn prefix(&self, at_unix_ns: u64) -> Prefix;
}

impl SessionClosed {
    /// With totals yet to be filled in.
    pub(super) fn new(id: SessionId, outcome: &str) -> Self {
        Self { id, outcome: outcome.to_owned(), statements: 0, rows: 0, cells_masked: 0, bytes_up: 0, bytes_down: 0 }
    }
}

impl Event {
    /// The session that the event belongs to.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::SessionOpened(event) => Some(event.id),
            Self::ConnectionRefused(event) => Some(event.id),
            Self::OperationDecided(event) => Some(event.operation.session),
            Self::OperationReplied(event) => Some(event.operation.session),
            Self::SessionClosed(event) => Some(event.id),
            Self::Approval(transition) => Some(transition.operation().session),
            Self::GatewayStarted(_)
            | Self::GatewayStopped { .. }
            | Self::ConfigReloaded { .. }
            | Self::ConfigRejected { .. }
            | Self::AdminAction(_)
            | Self::KernelDenied { .. }
            | Self::DnsRefused { .. }
            | Self::SegmentDeleted { .. }
            | Self::Gap { .. } => None,
        }
    }

    /// The operation that the event belongs to.
    pub fn operation(&self) -> Option<OperationId> {
        match self {
            Self::OperationDecided(event) => Some(event.operation),
            Self::OperationReplied(event) => Some(event.operation),
            Self::Approval(transition) => Some(transition.operation()),
            _ => None,
        }
    }

    /// What there may be thousands of a second is read at once, as what its tag says: an enum with tags has serde keep all
    /// fields first.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match tag(bytes) {
            Some(b"connection_refused") => read(bytes).map(Self::ConnectionRefused),
            Some(b"session_opened") => read(bytes).map(Self::SessionOpened),
            Some(b"session_closed") => read(bytes).map(Self::SessionClosed),
            _ => read(bytes),
        }
    }

    /// A short stable word, as in the stored form.
    pub fn name(&self) -> &'static str {
        match self {
            Self::GatewayStarted(_) => "gateway_started",
            Self::GatewayStopped { .. } => "gateway_stopped",
            Self::ConfigReloaded { .. } => "config_reloaded",
            Self::ConfigRejected { .. } => "config_rejected",
            Self::SessionOpened(_) => "session_opened",
            Self::ConnectionRefused(_) => "connection_refused",
            Self::OperationDecided(_) => "operation_decided",
            Self::Approval(_) => "approval",
            Self::OperationReplied(_) => "operation_replied",
            Self::SessionClosed(_) => "session_closed",
            Self::AdminAction(_) => "admin_action",
            Self::KernelDenied { .. } => "kernel_denied",
            Self::DnsRefused { .. } => "dns_refused",
            Self::SegmentDeleted { .. } => "segment_deleted",
            Self::Gap { .. } => "gap",
        }
    }
}

impl Recordable for Event {
    fn prefix(&self, at_unix_ns: u64) -> Prefix {
        let (notable, operation) = match self {
            Self::OperationReplied(_) => (false, false),
            Self::OperationDecided(event) => (is_notable(&event.gate), true),
            _ => (true, false),
        };
        let session = self.session().map_or(0, SessionId::as_u64);
        Prefix { notable, operation, unsynced: 0, sequence: 0, session, at_unix_ns }
    }
}

impl Recordable for Deciding<'_> {
    fn prefix(&self, at_unix_ns: u64) -> Prefix {
        let session = self.operation.session.as_u64();
        Prefix { notable: is_notable(self.gate), operation: true, unsynced: 0, sequence: 0, session, at_unix_ns }
    }
}

/// Whether the index must decode a decision. It need not where all is as usual: a busy session must not keep it busy.
fn is_notable(gate: &Gate) -> bool {
    !matches!(gate, Gate::Allow { .. })
}

/// Appends the stored form: MessagePack, fields by name, addresses as text.
pub(super) fn encode(event: &impl Recordable, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map().with_human_readable();
    event.serialize(&mut serializer).map_err(|error| RecordError::Encode(error.to_string()))
}

fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, RecordError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes).with_human_readable();
    T::deserialize(&mut deserializer).map_err(|error| RecordError::Decode(error.to_string()))
}

/// The tag, where the stored form begins with it: a map of at most 15 fields (one byte), the key `type`, a text of at most 31
/// bytes (MessagePack specification, "Formats").
pub(super) fn tag(bytes: &[u8]) -> Option<&[u8]> {
    let (text, rest) = bytes.get(1..)?.strip_prefix(b"\xa4type")?.split_first()?;
    if text & 0xe0 == 0xa0 { rest.get(..usize::from(text & 0x1f)) } else { None }
}

impl From<DeniedEvent> for Event {
    fn from(denied: DeniedEvent) -> Self {
        Self::KernelDenied { origin: denied.origin, reason: denied.reason.to_owned(), protocol: denied.protocol }
    }
}

impl From<RefusedQuery> for Event {
    fn from(query: RefusedQuery) -> Self {
        let RefusedQuery { origin, name, kind, reason, observed, passed_over } = query;
        Self::DnsRefused { origin, name, kind, reason, observed, passed_over }
    }
}
