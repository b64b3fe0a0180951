//! What is recorded. Self-describing, so that a recording of today is read by the auditors' tools of later years: fields
//! are stored by name, new ones have defaults, none is given another meaning.

use serde::{Deserialize, Serialize};

use crate::approval::Transition;
use crate::dns::RefusedQuery;
use crate::identity::Principal;
use crate::ids::{OperationId, SessionId};
use crate::intercept::DeniedEvent;
use crate::origin::{Evidence, Origin};
use crate::policy::{Action, Gate};
use crate::target::Protocol;

/// One record, with when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
    pub event: Event,
}

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
    /// An agent asked for a name, or a type of record, that it may not know; `passed_over` more were not recorded.
    DnsRefused {
        origin: Origin,
        name: String,
        kind: String,
        passed_over: u32,
    },
    /// A segment was deleted because of its age or of the space it took; its last hash keeps the chain provable.
    SegmentDeleted {
        segment: u64,
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
    pub parameters: Option<String>,
    pub gate: Gate,
    /// What the protocol refused whatever the rules say.
    pub refusal: Option<String>,
    /// Number of the approval that it waits for.
    pub approval: Option<u64>,
    /// Microseconds since the session began.
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

    /// Whether the index has a row of its own for it, beside its session's.
    pub(super) fn is_notable(&self) -> bool {
        match self {
            Self::OperationReplied(_) => false,
            Self::OperationDecided(event) => !matches!(event.gate, Gate::Allow { .. }),
            _ => true,
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

impl From<DeniedEvent> for Event {
    fn from(denied: DeniedEvent) -> Self {
        Self::KernelDenied { origin: denied.origin, reason: denied.reason.to_owned(), protocol: denied.protocol }
    }
}

impl From<RefusedQuery> for Event {
    fn from(query: RefusedQuery) -> Self {
        Self::DnsRefused { origin: query.origin, name: query.name, kind: query.kind, passed_over: query.passed_over }
    }
}
