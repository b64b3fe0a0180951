//! The index: which sessions there were, and where their records lie. Built from the segments, and built anew whenever it
//! is missing, older than the code, or ahead of the segments.
//!
//! It has a row for each session and an extent for each session and segment, and decodes only notable records: a busy
//! session's statements cost it nothing. Their texts stay in the segments.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::event::{Event, Record};
use super::read::{ReadError, Reader};
use super::segment::HEADER_LEN;
use super::{RecordError, segment_numbers, segment_path};
use crate::approval::Transition;
use crate::ids::SessionId;

const FILE: &str = "index.sqlite";
/// Raise it when the tables change: an older index is thrown away and built anew.
const LAYOUT: i64 = 1;
/// Most rows of one listing.
pub const MAX_ROWS: u32 = 10_000;
/// Records of one session that are read into memory at most; the rest is only counted by its closing record.
const MAX_RECORDS: usize = 200_000;

const TABLES: &str = "
    CREATE TABLE position (segment INTEGER NOT NULL, offset INTEGER NOT NULL, sequence INTEGER NOT NULL, hash BLOB NOT NULL);
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, opened_ns INTEGER NOT NULL, closed_ns INTEGER, refused TEXT, message TEXT, rule TEXT,
        agent TEXT, subject TEXT, target TEXT, protocol TEXT, pid INTEGER, uid INTEGER, executable TEXT, cgroup TEXT,
        outcome TEXT, statements INTEGER NOT NULL DEFAULT 0, denied INTEGER NOT NULL DEFAULT 0,
        held INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, cells_masked INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX sessions_opened ON sessions (opened_ns);
    CREATE TABLE extents (
        session INTEGER NOT NULL, segment INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (session, segment)) WITHOUT ROWID;
    CREATE TABLE approvals (number INTEGER PRIMARY KEY, session INTEGER NOT NULL);
";

/// Which sessions a listing shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// At most so many, the newest; 0 is [`MAX_ROWS`].
    pub limit: u32,
    pub agent: Option<String>,
    pub target: Option<String>,
    /// Nanoseconds since the Unix epoch.
    pub since_ns: Option<u64>,
    pub refused_only: bool,
}

/// One session or refused connection, in a line.
#[derive(Clone, Debug, Serialize, serde::Deserialize)]
pub struct SessionRow {
    pub id: SessionId,
    pub opened_ns: u64,
    /// None while it is open.
    pub closed_ns: Option<u64>,
    /// The stage that refused the connection; such a row never was a session.
    pub refused: Option<String>,
    pub message: Option<String>,
    pub rule: Option<String>,
    pub agent: Option<String>,
    pub subject: Option<String>,
    pub target: Option<String>,
    pub protocol: Option<String>,
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    pub executable: Option<String>,
    pub cgroup: Option<String>,
    pub outcome: Option<String>,
    pub statements: u64,
    pub denied: u64,
    pub held: u64,
    pub rows: u64,
    pub cells_masked: u64,
}

/// How far the index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    pub offset: u64,
    /// Records so far.
    pub sequence: u64,
    pub hash: [u8; 32],
}

#[derive(Debug)]
pub struct Index {
    db: Connection,
}

impl Index {
    /// Opens the index of a directory, or makes an empty one.
    pub fn open(directory: &Path) -> Result<Self, RecordError> {
        let path = directory.join(FILE);
        if let Ok(index) = Self::open_file(&path) {
            return Ok(index);
        }
        tracing::info!("the index is missing, damaged or of another layout; it is built anew");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(directory.join(format!("{FILE}{suffix}")));
        }
        Self::open_file(&path)
    }

    fn open_file(path: &Path) -> Result<Self, RecordError> {
        let db = Connection::open(path)?;
        // The index can be rebuilt, so it need not survive a power cut; it must not be half-written after a crash.
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "off")?;
        let layout: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match layout {
            LAYOUT => {}
            0 => {
                db.execute_batch(TABLES)?;
                db.execute("INSERT INTO position VALUES (0, 0, 0, zeroblob(32))", [])?;
                db.pragma_update(None, "user_version", LAYOUT)?;
            }
            _ => return Err(RecordError::Decode(format!("the index has layout {layout}"))),
        }
        Ok(Self { db })
    }

    pub fn position(&self) -> Result<Position, RecordError> {
        Ok(self.db.query_row("SELECT segment, offset, sequence, hash FROM position", [], |row| {
            Ok(Position {
                segment: unsigned(row.get(0)?),
                offset: unsigned(row.get(1)?),
                sequence: unsigned(row.get(2)?),
                hash: row.get(3)?,
            })
        })?)
    }

    /// Reads what was appended since the last time.
    pub fn catch_up(&mut self, directory: &Path) -> Result<(), RecordError> {
        let mut position = self.position()?;
        for segment in segment_numbers(directory)? {
            if segment < position.segment {
                continue;
            }
            if segment > position.segment {
                (position.segment, position.offset) = (segment, 0);
            }
            self.read_segment(directory, &mut position)?;
        }
        Ok(())
    }

    fn read_segment(&mut self, directory: &Path, position: &mut Position) -> Result<(), RecordError> {
        let path = segment_path(directory, position.segment);
        let mut reader = match Reader::open(&path) {
            Ok(reader) => reader,
            Err(ReadError::Io(error)) => return Err(RecordError::io(&format!("reading {}", path.display()), &error)),
            Err(ReadError::Frame { .. }) => return Ok(()),
        };
        let failed = |error| RecordError::io(&format!("reading {}", path.display()), &error);
        reader.seek(position.offset.max(HEADER_LEN as u64)).map_err(failed)?;
        let transaction = self.db.transaction()?;
        let mut extents: HashMap<u64, (u64, u64)> = HashMap::new();
        // A torn or altered frame ends the reading; `verify` is what judges it.
        while let Ok(Some(frame)) = reader.next(None) {
            if frame.prefix.session != 0 {
                extents.entry(frame.prefix.session).or_insert((frame.offset, frame.offset)).1 = frame.offset;
            }
            if frame.prefix.notable {
                match frame.decode() {
                    Ok(record) => note(&transaction, &record)?,
                    Err(error) => tracing::warn!(%error, "a record is not indexed"),
                }
            }
            (position.offset, position.sequence, position.hash) = (frame.end, position.sequence + 1, frame.hash);
        }
        for (session, (first, last)) in extents {
            transaction.execute(
                "INSERT INTO extents VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET last = max(last, excluded.last)",
                params![session.cast_signed(), position.segment.cast_signed(), first.cast_signed(), last.cast_signed()],
            )?;
        }
        transaction.execute(
            "UPDATE position SET segment = ?1, offset = ?2, sequence = ?3, hash = ?4",
            params![
                position.segment.cast_signed(),
                position.offset.cast_signed(),
                position.sequence.cast_signed(),
                position.hash
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Sessions, newest first.
    pub fn sessions(&self, filter: &Filter) -> Result<Vec<SessionRow>, RecordError> {
        let limit = if filter.limit == 0 { MAX_ROWS } else { filter.limit.min(MAX_ROWS) };
        let mut query = self.db.prepare_cached(
            "SELECT * FROM sessions
             WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR target = ?2) AND (?3 IS NULL OR opened_ns >= ?3)
               AND (NOT ?4 OR refused IS NOT NULL)
             ORDER BY opened_ns DESC, id DESC LIMIT ?5",
        )?;
        let since = filter.since_ns.map(u64::cast_signed);
        let rows =
            query.query_map(params![filter.agent, filter.target, since, filter.refused_only, limit], session_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Sessions that have no closing record.
    pub fn open_sessions(&self) -> Result<Vec<SessionRow>, RecordError> {
        let mut query = self.db.prepare("SELECT * FROM sessions WHERE closed_ns IS NULL ORDER BY id")?;
        let rows = query.query_map([], session_row)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// All records of a session, in order, out of the segments.
    pub fn records(&self, directory: &Path, id: SessionId) -> Result<Vec<Record>, RecordError> {
        let mut query =
            self.db.prepare_cached("SELECT segment, first, last FROM extents WHERE session = ?1 ORDER BY segment")?;
        let extents = query.query_map([id.as_u64().cast_signed()], |row| {
            Ok((unsigned(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?)))
        })?;
        let mut records = Vec::new();
        for extent in extents {
            let (segment, first, last) = extent?;
            let path = segment_path(directory, segment);
            let failed = |error: ReadError| RecordError::Decode(format!("{}: {error}", path.display()));
            let mut reader = Reader::open(&path).map_err(failed)?;
            reader.seek(first).map_err(|error| failed(error.into()))?;
            while let Some(frame) = reader.next(None).map_err(failed)? {
                if frame.offset > last || records.len() >= MAX_RECORDS {
                    break;
                }
                if frame.prefix.session == id.as_u64() {
                    records.push(frame.decode()?);
                }
            }
        }
        Ok(records)
    }

    pub fn next_approval_number(&self) -> Result<u64, RecordError> {
        let highest: Option<i64> = self.db.query_row("SELECT max(number) FROM approvals", [], |row| row.get(0))?;
        Ok(highest.map_or(1, |number| unsigned(number) + 1))
    }

    /// The session of an approval.
    pub fn approval_session(&self, number: u64) -> Result<Option<SessionId>, RecordError> {
        let session: Option<i64> = self
            .db
            .query_row("SELECT session FROM approvals WHERE number = ?1", [number.cast_signed()], |row| row.get(0))
            .optional()?;
        Ok(session.map(|id| SessionId::from_u64(unsigned(id))))
    }
}

/// Puts one decoded record into the tables.
fn note(db: &Connection, record: &Record) -> Result<(), RecordError> {
    let at = record.at_unix_ns.cast_signed();
    let signed = |id: SessionId| id.as_u64().cast_signed();
    match &record.event {
        Event::SessionOpened(event) => {
            let process = event.evidence.tree.first();
            db.prepare_cached(
                "INSERT OR REPLACE INTO sessions (id, opened_ns, agent, subject, target, protocol, pid, uid, executable, cgroup)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                signed(event.id), at, event.principal.agent, event.principal.subject, event.target,
                event.protocol.as_str(), event.origin.pid, event.origin.uid,
                process.map(|process| &process.executable), event.evidence.cgroup,
            ])?;
        }
        Event::ConnectionRefused(event) => {
            let process = event.evidence.as_ref().and_then(|evidence| evidence.tree.first());
            db.prepare_cached(
                "INSERT OR REPLACE INTO sessions
                   (id, opened_ns, closed_ns, refused, message, rule, agent, target, pid, uid, executable, cgroup)
                 VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                signed(event.id),
                at,
                event.reason,
                event.message,
                event.rule,
                event.agent,
                event.target,
                event.origin.as_ref().map(|origin| origin.pid),
                event.origin.as_ref().map(|origin| origin.uid),
                process.map(|process| &process.executable),
                event.evidence.as_ref().map(|evidence| &evidence.cgroup),
            ])?;
        }
        Event::OperationDecided(event) => {
            let column = match event.gate {
                crate::policy::Gate::Hold { .. } => "held",
                crate::policy::Gate::Deny { .. } => "denied",
                crate::policy::Gate::Allow { .. } => return Ok(()),
            };
            db.prepare_cached(&format!("UPDATE sessions SET {column} = {column} + 1 WHERE id = ?1"))?
                .execute([signed(event.operation.session)])?;
        }
        Event::SessionClosed(event) => {
            db.prepare_cached(
                "UPDATE sessions SET closed_ns = ?2, outcome = ?3, statements = ?4, rows = ?5, cells_masked = ?6 WHERE id = ?1",
            )?
            .execute(params![
                signed(event.id), at, event.outcome, event.statements.cast_signed(), event.rows.cast_signed(),
                event.cells_masked.cast_signed(),
            ])?;
        }
        Event::Approval(Transition::Requested(view)) => {
            db.prepare_cached("INSERT OR REPLACE INTO approvals VALUES (?1, ?2)")?
                .execute(params![view.number.cast_signed(), signed(view.operation.session)])?;
        }
        _ => {}
    }
    Ok(())
}

fn session_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        id: SessionId::from_u64(unsigned(row.get("id")?)),
        opened_ns: unsigned(row.get("opened_ns")?),
        closed_ns: row.get::<_, Option<i64>>("closed_ns")?.map(unsigned),
        refused: row.get("refused")?,
        message: row.get("message")?,
        rule: row.get("rule")?,
        agent: row.get("agent")?,
        subject: row.get("subject")?,
        target: row.get("target")?,
        protocol: row.get("protocol")?,
        pid: row.get("pid")?,
        uid: row.get("uid")?,
        executable: row.get("executable")?,
        cgroup: row.get("cgroup")?,
        outcome: row.get("outcome")?,
        statements: unsigned(row.get("statements")?),
        denied: unsigned(row.get("denied")?),
        held: unsigned(row.get("held")?),
        rows: unsigned(row.get("rows")?),
        cells_masked: unsigned(row.get("cells_masked")?),
    })
}

/// SQLite has signed integers only; the bits are kept.
fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}
