//! A recording store without a gateway: events to record, and a search for what no recording may hold.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use weir::config::RecordingConfig;
use weir::identity::Principal;
use weir::ids::{OperationId, SessionId};
use weir::origin::{Evidence, Origin};
use weir::policy::Gate;
use weir::record::event::{Event, GatewayStarted, OperationDecided, SessionOpened};
use weir::record::read::Reader;
use weir::record::{Limits, RecordError, Store};
use weir::target::Protocol;

use crate::Result;

/// Segments end often, and little is kept free: a test's disk is small.
pub const LIMITS: Limits =
    Limits { segment_bytes: 256 << 10, segment_age: Duration::from_hours(1), reserve_bytes: 1 << 20 };

/// Opens the store of a directory as a gateway would. Nothing is deleted.
pub fn open(directory: &Path) -> std::result::Result<Store, RecordError> {
    let config = RecordingConfig {
        directory: directory.to_owned(),
        keep: Duration::MAX,
        max_size: u64::MAX,
        reply_limit: 1 << 16,
    };
    let started = GatewayStarted {
        version: "test".to_owned(),
        host: "host".to_owned(),
        boot_id: "boot".to_owned(),
        config_version: "0".to_owned(),
        sessions_going_on: 0,
    };
    Store::open(&config, LIMITS, started, &HashSet::new())
}

/// An opened session of the agent "coder".
pub fn opened(id: SessionId) -> Event {
    let nowhere = std::net::SocketAddr::from(([192, 0, 2, 1], 5432));
    Event::SessionOpened(SessionOpened {
        id,
        origin: Origin {
            pid: 1,
            uid: 1,
            gid: 1,
            cgroup_id: 1,
            socket_cgroup_id: 1,
            netns_cookie: 1,
            connected_at: 1,
            started_at: None,
            destination: nowhere,
            source: nowhere,
        },
        evidence: Evidence::default(),
        principal: Principal {
            agent: "coder".to_owned(),
            subject: "coder".to_owned(),
            names: Vec::new(),
            issuer: "https://idp.example".to_owned(),
            groups: Vec::new(),
            expires_at: 0,
            token_id: None,
            token_digest: [0; 32],
        },
        target: "orders".to_owned(),
        protocol: Protocol::Postgres,
        config_version: "0".to_owned(),
        observe: false,
    })
}

/// A denied statement.
pub fn denied(operation: OperationId, text: &str) -> Event {
    Event::OperationDecided(OperationDecided {
        operation,
        text: text.to_owned(),
        database: None,
        actions: Vec::new(),
        statements: 1,
        parameters: None,
        gate: Gate::Deny { rule: None, message: "no".to_owned() },
        refusal: None,
        approval: None,
        at_us: 0,
    })
}

/// Every event in the segments of a directory, which may still grow.
pub fn events(directory: &Path) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    each_event(directory, |event| events.push(event))?;
    Ok(events)
}

/// The same one by one, where there are many.
pub fn each_event(directory: &Path, mut take: impl FnMut(Event)) -> Result {
    let mut segments: Vec<_> = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    segments.sort_unstable();
    for segment in segments {
        let mut reader = Reader::open(&segment)?;
        // A frame that is being written is as good as not there yet.
        while let Ok(Some(placed)) = reader.next(None) {
            take(placed.decode()?.event);
        }
    }
    Ok(())
}

/// Files below the directory that hold this text, in the clear. Recordings are not compressed: what is in them is found.
pub fn files_with(directory: &Path, needle: &str) -> Result<Vec<String>> {
    let options = ["--recursive", "--files-with-matches", "--text", "--fixed-strings", "--regexp"];
    let grep = Command::new("grep").args(options).arg(needle).arg(directory).output()?;
    match grep.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&grep.stdout).lines().map(str::to_owned).collect()),
        Some(1) => Ok(Vec::new()),
        _ => Err(format!("grep: {}", String::from_utf8_lossy(&grep.stderr)).into()),
    }
}
