//! `weir verify`: proves offline that the recordings are whole, or says where they are not.
//!
//! Without an anchor outside this host the proof is of self-consistency only: whoever may rewrite every file can make a
//! chain that is whole again. The index is no anchor either, but it tells when the end of the log was cut off afterwards.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::event::Event;
use super::index::{Index, Position};
use super::read::{ReadError, Reader};
use super::segment::{FrameError, Hash};
use super::{RecordError, segment_numbers, segment_path};

/// The result; its exit code is the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Whole in itself; nothing outside this host vouches for it yet.
    SelfConsistent,
    /// Whole but for segments whose deletion is recorded.
    Deleted,
    /// Something was changed.
    Altered,
    /// The end or a segment is missing, or two logs were mixed.
    Truncated,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub segments: u64,
    pub records: u64,
    /// SHA-256 at the chain's end, hexadecimal: note it elsewhere, and a later cut or rewrite can be shown.
    pub last_hash: String,
    /// What is wrong, and notes.
    pub findings: Vec<String>,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::SelfConsistent => 10,
            Self::Deleted => 12,
            Self::Altered => 20,
            Self::Truncated => 21,
        }
    }

    fn worse(self, other: Self) -> Self {
        if other.exit_code() > self.exit_code() { other } else { self }
    }
}

/// Reads everything, changes nothing. A gateway may be writing meanwhile.
pub fn verify(directory: &Path) -> Result<Report, RecordError> {
    let known = indexed_end(directory);
    let numbers = segment_numbers(directory)?;
    let mut walk = Walk::default();
    for (at, &number) in numbers.iter().enumerate() {
        walk.segment(directory, number, at + 1 == numbers.len())?;
    }
    if numbers.is_empty() {
        walk.findings.push("there are no recordings".to_owned());
    }
    walk.compare_with_index(known);
    Ok(walk.report(numbers.len() as u64))
}

/// How far the index had read. Opened before the segments are read, so that a live gateway is never behind it.
fn indexed_end(directory: &Path) -> Option<Position> {
    if !directory.join("index.sqlite").exists() {
        return None;
    }
    Index::open(directory).ok()?.position().ok()
}

#[derive(Default)]
struct Walk {
    verdict: Option<Verdict>,
    findings: Vec<String>,
    records: u64,
    /// Log, number and end of the chain of the segment before.
    before: Option<([u8; 16], u64, Hash)>,
    next_sequence: u64,
    /// Last hashes of segments whose deletion is recorded.
    deleted: Vec<(u64, Vec<u8>)>,
    /// A start in the middle, or a gap, that a record of deletion must explain.
    unexplained: Vec<(u64, Hash)>,
}

impl Walk {
    fn found(&mut self, verdict: Verdict, finding: String) {
        self.verdict = Some(self.verdict.map_or(verdict, |now| now.worse(verdict)));
        self.findings.push(finding);
    }

    fn segment(&mut self, directory: &Path, number: u64, is_last: bool) -> Result<(), RecordError> {
        let path = segment_path(directory, number);
        let mut reader = match Reader::open(&path) {
            Ok(reader) => reader,
            Err(ReadError::Io(error)) => return Err(RecordError::io(&format!("reading {}", path.display()), &error)),
            Err(ReadError::Frame { error, .. }) => {
                self.found(Verdict::Altered, format!("segment {number}: the header is not valid: {error}"));
                return Ok(());
            }
        };
        let header = *reader.header();
        if header.segment != number {
            self.found(Verdict::Altered, format!("segment {number} says it is segment {}", header.segment));
        }
        self.link(number, header.log, header.previous, header.first_sequence);
        let mut hash = header.previous;
        self.next_sequence = header.first_sequence;
        loop {
            match reader.next(Some(&hash)) {
                Ok(Some(frame)) => {
                    hash = frame.hash;
                    if frame.prefix.notable
                        && let Ok(record) = frame.decode()
                        && let Event::SegmentDeleted { segment, last_hash, .. } = record.event
                    {
                        self.deleted.push((segment, last_hash));
                    }
                    self.records += 1;
                    self.next_sequence += 1;
                }
                Ok(None) => break,
                Err(ReadError::Io(error)) => {
                    return Err(RecordError::io(&format!("reading {}", path.display()), &error));
                }
                Err(ReadError::Frame { offset, error: FrameError::Incomplete }) if is_last => {
                    self.findings.push(format!(
                        "segment {number} ends within a record at byte {offset}: a write under way, or one that was \
                         never acknowledged"
                    ));
                    break;
                }
                Err(error) => {
                    self.found(Verdict::Altered, format!("segment {number}, {error}"));
                    break;
                }
            }
        }
        self.before = Some((header.log, number, hash));
        Ok(())
    }

    fn link(&mut self, number: u64, log: [u8; 16], previous: Hash, first_sequence: u64) {
        let Some((before_log, before, hash)) = self.before else {
            if number != 0 {
                self.unexplained.push((number - 1, previous));
            } else if previous != [0; 32] {
                self.found(Verdict::Altered, "segment 0 does not begin a chain".to_owned());
            }
            return;
        };
        if log != before_log {
            self.found(Verdict::Truncated, format!("segments {before} and {number} belong to different logs"));
        } else if number != before + 1 {
            self.unexplained.push((number - 1, previous));
        } else if previous != hash || first_sequence != self.next_sequence {
            self.found(Verdict::Truncated, format!("segment {number} does not continue segment {before}"));
        }
    }

    fn compare_with_index(&mut self, known: Option<Position>) {
        let Some(known) = known else { return };
        let (segment, hash) = match self.before {
            Some((_, segment, hash)) => (segment, hash),
            None => (0, [0; 32]),
        };
        let behind = segment < known.segment || (segment == known.segment && self.next_sequence < known.sequence);
        let forked = segment == known.segment && self.next_sequence == known.sequence && hash != known.hash;
        if known.sequence > 0 && (behind || forked) && self.verdict.is_none_or(|verdict| verdict != Verdict::Altered) {
            self.found(
                Verdict::Truncated,
                format!(
                    "the index has read {} records up to segment {}, the log ends before",
                    known.sequence, known.segment
                ),
            );
        }
    }

    fn report(mut self, segments: u64) -> Report {
        for (last, hash) in std::mem::take(&mut self.unexplained) {
            if self.deleted.iter().any(|(segment, last_hash)| *segment == last && last_hash[..] == hash[..]) {
                self.found(Verdict::Deleted, format!("segments up to {last} were deleted by retention, as recorded"));
            } else {
                self.found(Verdict::Truncated, format!("segment {last} is missing, and no record says it was deleted"));
            }
        }
        let verdict = self.verdict.unwrap_or(Verdict::SelfConsistent);
        let last = self.before.map_or([0; 32], |(_, _, hash)| hash);
        Report {
            verdict,
            segments,
            records: self.records,
            last_hash: last.iter().map(|byte| format!("{byte:02x}")).collect(),
            findings: self.findings,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.verdict {
            Verdict::SelfConsistent => "self-consistent; nothing outside this host vouches for it yet",
            Verdict::Deleted => "self-consistent, older segments deleted as recorded",
            Verdict::Altered => "ALTERED",
            Verdict::Truncated => "TRUNCATED OR FORKED",
        };
        writeln!(f, "{words}: {} records in {} segments, last hash {}", self.records, self.segments, self.last_hash)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  {finding}"))
    }
}
