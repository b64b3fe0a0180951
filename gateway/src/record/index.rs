//! The index: which sessions there were, and where their records lie. Made of the segments, and made anew whenever it is
//! missing, damaged, older than the code, or does not fit them.
//!
//! It has a row for each session and an extent for each session and segment, and decodes only notable records: a busy
//! session's statements cost it next to nothing. Their texts stay in the segments. It reads only what is durable, so it
//! never knows more than what survives a crash; if it does, the log was cut.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, params};
use serde::{Deserialize, Serialize};

use super::denials::{self, Denial};
use super::event::{Event, Record, SessionClosed};
use super::read::{Placed, ReadError, Reader};
use super::segment::{HEADER_LEN, Hash};
use super::{GATEWAY_LOST, RecordError, segment_numbers, segment_path};
use crate::approval::Transition;
use crate::ids::SessionId;
use crate::policy::Gate;

const FILE: &str = "index.sqlite";
/// Raise it when the tables change: an older index is thrown away and made anew.
const LAYOUT: i64 = 2;
/// Most rows of one listing.
pub const MAX_ROWS: u32 = 10_000;

const TABLES: &str = "
    CREATE TABLE position (
        segment INTEGER NOT NULL, last INTEGER NOT NULL, offset INTEGER NOT NULL, sequence INTEGER NOT NULL,
        hash BLOB NOT NULL);
    INSERT INTO position VALUES (0, 0, 0, 0, zeroblob(32));
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, opened_ns INTEGER NOT NULL, closed_ns INTEGER, refused TEXT, message TEXT, rule TEXT,
        agent TEXT, subject TEXT, target TEXT, protocol TEXT, pid INTEGER, uid INTEGER, executable TEXT, cgroup TEXT,
        outcome TEXT, statements INTEGER NOT NULL DEFAULT 0, denied INTEGER NOT NULL DEFAULT 0,
        held INTEGER NOT NULL DEFAULT 0, rows INTEGER NOT NULL DEFAULT 0, cells_masked INTEGER NOT NULL DEFAULT 0,
        observed INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX sessions_opened ON sessions (opened_ns);
    CREATE INDEX sessions_open ON sessions (id) WHERE closed_ns IS NULL;
    CREATE TABLE extents (
        session INTEGER NOT NULL, segment INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        PRIMARY KEY (session, segment)) WITHOUT ROWID;
    CREATE INDEX extents_segment ON extents (segment);
    CREATE TABLE approvals (number INTEGER PRIMARY KEY, session INTEGER NOT NULL);
";

/// Which sessions, or denials, a listing shows.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Known when the session is closed.
    pub rows: u64,
    /// Known when the session is closed.
    pub cells_masked: u64,
}

/// How far the index has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    /// Where the last record that was read begins, and where it ends.
    pub last: u64,
    pub offset: u64,
    /// Number of the next record.
    pub sequence: u64,
    /// Of the last record.
    pub hash: Hash,
}

/// A part of a segment in which a session's records lie, from the first one's beginning to the last one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub segment: u64,
    pub first: u64,
    pub last: u64,
}

#[derive(Debug)]
pub struct Index {
    db: Connection,
}

/// How far the index of a directory has come, if it has one that can be read. Changes nothing.
pub(super) fn position_of(directory: &Path) -> Option<Position> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(directory.join(FILE), flags).ok()?;
    Index { db }.position().ok()
}

impl Index {
    /// Opens the index of a directory, or makes an empty one.
    pub fn open(directory: &Path) -> Result<Self, RecordError> {
        match Self::open_file(&directory.join(FILE)) {
            Err(error) if error.is_damaged_index() => {
                tracing::warn!(%error, "the index cannot be used; it is made anew");
                Self::anew(directory)
            }
            opened => opened,
        }
    }

    /// Throws the index away and makes an empty one.
    pub fn anew(directory: &Path) -> Result<Self, RecordError> {
        for suffix in ["", "-wal", "-shm"] {
            match std::fs::remove_file(directory.join(format!("{FILE}{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(RecordError::io("deleting the index", &error));
                }
                _ => {}
            }
        }
        Self::open_file(&directory.join(FILE))
    }

    fn open_file(path: &Path) -> Result<Self, RecordError> {
        // SQLite would make it readable for everybody whom the umask lets.
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        made.map_err(|error| RecordError::io("opening the index", &error))?;
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "wal")?;
        db.pragma_update(None, "synchronous", "normal")?;
        let layout: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if layout == 0 {
            let transaction = db.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.execute_batch(denials::TABLE)?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
            transaction.commit()?;
        } else if layout == 1 {
            // To read all segments again would keep a gateway that takes over from starting in time: what was denied before is
            // told by the sessions only.
            let transaction = db.transaction()?;
            transaction.execute_batch("ALTER TABLE sessions ADD COLUMN observed INTEGER NOT NULL DEFAULT 0")?;
            transaction.execute_batch(denials::TABLE)?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
            transaction.commit()?;
        } else if layout != LAYOUT {
            return Err(RecordError::IndexLayout(layout));
        }
        Ok(Self { db })
    }

    pub fn position(&self) -> Result<Position, RecordError> {
        Ok(self.db.query_row("SELECT segment, last, offset, sequence, hash FROM position", [], |row| {
            Ok(Position {
                segment: unsigned(row.get(0)?),
                last: unsigned(row.get(1)?),
                offset: unsigned(row.get(2)?),
                sequence: unsigned(row.get(3)?),
                hash: row.get(4)?,
            })
        })?)
    }

    /// Whether the segments still have the record that the index read last. Where retention has deleted it, they may.
    pub fn fits(&self, directory: &Path) -> Result<bool, RecordError> {
        let position = self.position()?;
        let numbers = segment_numbers(directory)?;
        if position.sequence == 0 || numbers.first().is_some_and(|&oldest| oldest > position.segment) {
            return Ok(true);
        }
        let Ok(mut reader) = Reader::open(&segment_path(directory, position.segment)) else { return Ok(false) };
        if reader.seek(position.last).is_err() {
            return Ok(false);
        }
        let found = reader.next(None);
        Ok(matches!(found, Ok(Some(frame)) if (frame.hash, frame.end) == (position.hash, position.offset)))
    }

    /// Reads what became durable since the last time: records with numbers below `durable`.
    pub fn catch_up(&mut self, directory: &Path, durable: u64) -> Result<(), RecordError> {
        let mut position = self.position()?;
        for segment in segment_numbers(directory)? {
            if segment < position.segment {
                continue;
            }
            if segment > position.segment {
                (position.segment, position.offset) = (segment, 0);
            }
            self.read_segment(directory, &mut position, durable)?;
        }
        Ok(())
    }

    fn read_segment(&mut self, directory: &Path, position: &mut Position, durable: u64) -> Result<(), RecordError> {
        let path = segment_path(directory, position.segment);
        let failed = |error| RecordError::io(&format!("reading {}", path.display()), &error);
        let mut reader = match Reader::open(&path) {
            Ok(reader) => reader,
            // Deleted by retention since it was listed.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(ReadError::Io(error)) => return Err(failed(error)),
            Err(ReadError::Frame { .. }) => return Ok(()),
        };
        reader.seek(position.offset.max(HEADER_LEN as u64)).map_err(failed)?;
        let mut batch =
            Batch { transaction: self.db.transaction()?, segment: position.segment, sessions: HashMap::new(), read: 0 };
        // A torn or altered frame ends the reading; `verify` is what judges it.
        while let Ok(Some(frame)) = reader.next(None) {
            if frame.prefix.sequence >= durable {
                break;
            }
            batch.add(&frame)?;
            (position.last, position.offset) = (frame.offset, frame.end);
            (position.sequence, position.hash) = (frame.prefix.sequence + 1, frame.hash);
        }
        if batch.read > 0 { batch.commit(position) } else { Ok(()) }
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

    /// What was denied, newest first.
    pub fn denials(&self, filter: &Filter) -> Result<Vec<Denial>, RecordError> {
        denials::list(&self.db, filter)
    }

    /// Where a session's records lie, in order.
    pub fn extents(&self, id: SessionId) -> Result<Vec<Extent>, RecordError> {
        let mut query =
            self.db.prepare_cached("SELECT segment, first, last FROM extents WHERE session = ?1 ORDER BY segment")?;
        let extents = query.query_map([signed(id)], |row| {
            Ok(Extent { segment: unsigned(row.get(0)?), first: unsigned(row.get(1)?), last: unsigned(row.get(2)?) })
        })?;
        Ok(extents.collect::<Result<_, _>>()?)
    }

    pub fn next_approval_number(&self) -> Result<u64, RecordError> {
        let highest: Option<i64> = self.db.query_row("SELECT max(number) FROM approvals", [], |row| row.get(0))?;
        Ok(highest.map_or(1, |number| unsigned(number) + 1))
    }

    /// Closing records for those `lost` sessions that have none, with what their other records sum up to. Reads the segments
    /// since the oldest of them, and none where there is none.
    pub fn lost_sessions(
        &self,
        directory: &Path,
        is_lost: impl Fn(SessionId) -> bool,
    ) -> Result<Vec<SessionClosed>, RecordError> {
        let mut query = self.db.prepare(
            "SELECT id, (SELECT min(segment) FROM extents WHERE session = id) FROM sessions WHERE closed_ns IS NULL",
        )?;
        let mut lost = HashMap::new();
        let mut from = u64::MAX;
        let rows = query.query_map([], |row| {
            Ok((SessionId::from_u64(unsigned(row.get(0)?)), row.get::<_, Option<i64>>(1)?.map(unsigned)))
        })?;
        for row in rows {
            let (id, first) = row?;
            if !is_lost(id) {
                continue;
            }
            from = from.min(first.unwrap_or(u64::MAX));
            lost.insert(id, SessionClosed::new(id, GATEWAY_LOST));
        }
        for number in segment_numbers(directory)?.into_iter().filter(|&number| number >= from) {
            sum_up(directory, number, &mut lost);
        }
        let mut lost: Vec<_> = lost.into_values().collect();
        lost.sort_by_key(|closed| closed.id);
        Ok(lost)
    }
}

/// Adds up what one segment tells of these sessions. What cannot be read is not summed up: the sum is a service, the
/// records are the truth.
fn sum_up(directory: &Path, number: u64, sessions: &mut HashMap<SessionId, SessionClosed>) {
    let Ok(mut reader) = Reader::open(&segment_path(directory, number)) else { return };
    while let Ok(Some(frame)) = reader.next(None) {
        let Some(closed) = sessions.get_mut(&SessionId::from_u64(frame.prefix.session)) else { continue };
        closed.statements += u64::from(frame.prefix.operation);
        if !frame.prefix.operation
            && let Ok(Record { event: Event::OperationReplied(reply), .. }) = frame.decode()
        {
            closed.rows += reply.rows;
            closed.cells_masked += reply.cells_masked;
            closed.bytes_down += reply.bytes;
        }
    }
}

/// Records of one segment on their way into the tables.
struct Batch<'a> {
    transaction: Transaction<'a>,
    segment: u64,
    /// By session's ID: first and last record, statements.
    sessions: HashMap<u64, (u64, u64, u64)>,
    read: u64,
}

impl Batch<'_> {
    fn add(&mut self, frame: &Placed<'_>) -> Result<(), RecordError> {
        self.read += 1;
        let record = frame.prefix.notable.then(|| frame.decode()).transpose().unwrap_or_else(|error| {
            tracing::warn!(sequence = frame.prefix.sequence, %error, "a record is not indexed");
            None
        });
        if frame.prefix.session != 0 {
            let entry = match self.sessions.entry(frame.prefix.session) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    if !record.as_ref().is_some_and(is_first) {
                        expect(&self.transaction, SessionId::from_u64(frame.prefix.session))?;
                    }
                    entry.insert((frame.offset, frame.offset, 0))
                }
            };
            entry.1 = frame.offset;
            entry.2 += u64::from(frame.prefix.operation);
        }
        if let Some(record) = &record {
            self.note(record)?;
            denials::note(&self.transaction, self.segment, record)?;
        }
        Ok(())
    }

    fn commit(self, position: &Position) -> Result<(), RecordError> {
        let segment = position.segment.cast_signed();
        {
            let mut extent = self.transaction.prepare_cached(
                "INSERT INTO extents VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET last = max(last, excluded.last)",
            )?;
            // Its closing record, which may be in the same batch already, knows better.
            let mut count = self.transaction.prepare_cached(
                "UPDATE sessions SET statements = statements + ?2 WHERE id = ?1 AND closed_ns IS NULL",
            )?;
            for (session, (first, last, statements)) in self.sessions {
                let session = session.cast_signed();
                extent.execute(params![session, segment, first.cast_signed(), last.cast_signed()])?;
                if statements > 0 {
                    count.execute(params![session, statements.cast_signed()])?;
                }
            }
            self.transaction.execute(
                "UPDATE position SET segment = ?1, last = ?2, offset = ?3, sequence = ?4, hash = ?5",
                params![
                    segment,
                    position.last.cast_signed(),
                    position.offset.cast_signed(),
                    position.sequence.cast_signed(),
                    position.hash
                ],
            )?;
        }
        Ok(self.transaction.commit()?)
    }

    /// Puts one decoded record into the tables.
    fn note(&self, record: &Record) -> Result<(), RecordError> {
        let db = &self.transaction;
        let at = record.at_unix_ns.cast_signed();
        match &record.event {
            Event::SessionOpened(event) => {
                let process = event.evidence.tree.first();
                db.prepare_cached(
                    "INSERT OR REPLACE INTO sessions
                       (id, opened_ns, agent, subject, target, protocol, pid, uid, executable, cgroup, observed)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                )?
                .execute(params![
                    signed(event.id),
                    at,
                    event.principal.agent,
                    event.principal.subject,
                    event.target,
                    event.protocol.as_str(),
                    event.origin.pid,
                    event.origin.uid,
                    process.map(|process| &process.executable),
                    event.evidence.cgroup,
                    event.observe,
                ])?;
            }
            Event::ConnectionRefused(event) => {
                let process = event.evidence.as_ref().and_then(|evidence| evidence.tree.first());
                db.prepare_cached(
                    "INSERT OR REPLACE INTO sessions
                       (id, opened_ns, closed_ns, refused, message, rule, agent, target, pid, uid, executable, cgroup, observed)
                     VALUES (?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
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
                    event.observed,
                ])?;
            }
            Event::OperationDecided(event) => {
                let update = match event.gate {
                    Gate::Hold { .. } => "UPDATE sessions SET held = held + 1 WHERE id = ?1",
                    Gate::Deny { .. } => "UPDATE sessions SET denied = denied + 1 WHERE id = ?1",
                    Gate::Allow { .. } => return Ok(()),
                };
                db.prepare_cached(update)?.execute([signed(event.operation.session)])?;
            }
            Event::SessionClosed(event) => {
                db.prepare_cached(
                    "UPDATE sessions SET closed_ns = ?2, outcome = ?3, statements = ?4, rows = ?5, cells_masked = ?6
                     WHERE id = ?1",
                )?
                .execute(params![
                    signed(event.id),
                    at,
                    event.outcome,
                    event.statements.cast_signed(),
                    event.rows.cast_signed(),
                    event.cells_masked.cast_signed(),
                ])?;
            }
            Event::Approval(Transition::Requested(view)) => {
                db.prepare_cached("INSERT OR REPLACE INTO approvals VALUES (?1, ?2)")?
                    .execute(params![view.number.cast_signed(), signed(view.operation.session)])?;
            }
            Event::SegmentDeleted { segment, .. } => self.forget(*segment)?,
            _ => {}
        }
        Ok(())
    }

    /// Forgets what lay in segments up to this one, and the closed sessions that have nothing left. Numbers of approvals
    /// stay: none is given twice.
    fn forget(&self, segment: u64) -> Result<(), RecordError> {
        denials::forget(&self.transaction, segment)?;
        let segment = segment.cast_signed();
        self.transaction.execute(
            "DELETE FROM sessions WHERE closed_ns IS NOT NULL
               AND id IN (SELECT session FROM extents WHERE segment <= ?1)
               AND id NOT IN (SELECT session FROM extents WHERE segment > ?1)",
            [segment],
        )?;
        self.transaction.execute("DELETE FROM extents WHERE segment <= ?1", [segment])?;
        Ok(())
    }
}

/// Whether the record makes the session's row.
fn is_first(record: &Record) -> bool {
    matches!(record.event, Event::SessionOpened(_) | Event::ConnectionRefused(_))
}

/// Makes a session's row, if it has none: of one whose beginning retention has deleted there will be no more.
fn expect(db: &Connection, id: SessionId) -> Result<(), RecordError> {
    db.prepare_cached("INSERT OR IGNORE INTO sessions (id, opened_ns) VALUES (?1, ?2)")?
        .execute(params![signed(id), (id.unix_ms() * 1_000_000).cast_signed()])?;
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

/// SQLite has signed integers only; the bits are kept. Times stay positive until the year 2262, IDs until 2039: they are not
/// compared there, only looked up.
fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

fn signed(id: SessionId) -> i64 {
    id.as_u64().cast_signed()
}

impl RecordError {
    /// Whether a new index would help.
    pub(super) fn is_damaged_index(&self) -> bool {
        match self {
            Self::IndexLayout(_) => true,
            Self::Index(error) => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            }
            _ => false,
        }
    }
}
