//! `weir verify`: proves offline that the recordings are whole, or says where they are not.
//!
//! Without an anchor outside this host the proof is of self-consistency only: whoever may rewrite every file can make a
//! chain that is whole again, and a cut end looks like one that was never written. The index is no anchor, since it lies in
//! the same directory, but where it remembers more than the segments hold, that is told.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::event::Event;
use super::index::{self, Position};
use super::read::{ReadError, Reader};
use super::segment::{FrameError, Hash, Header};
use super::{RecordError, segment_numbers, segment_path};
use crate::approval::hex;

/// Most findings of a report; more of them say nothing more.
const MAX_FINDINGS: usize = 100;

/// The result; its exit code is the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Whole in itself; nothing outside this host vouches for it.
    SelfConsistent,
    /// Whole but for segments whose deletion is recorded.
    Deleted,
    /// Something was changed.
    Altered,
    /// The end or a segment is missing, or logs were mixed.
    Truncated,
}

/// What a walk over all segments found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub exit_code: u8,
    pub segments: u64,
    pub records: u64,
    /// SHA-256 at the chain's end, hexadecimal: noted elsewhere, it shows a later cut or rewrite.
    pub last_hash: String,
    /// What is wrong.
    pub findings: Vec<String>,
    /// What is not wrong, but worth knowing.
    pub notes: Vec<String>,
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
}

/// Reads everything, changes nothing. A gateway may be writing meanwhile.
pub fn verify(directory: &Path) -> Result<Report, RecordError> {
    // Read first, so that the segments cannot be behind it because of a gateway that writes.
    let mut walk = Walk { indexed: index::position_of(directory), ..Walk::default() };
    let (mut next, mut open) = (0, None);
    // Until there is none left: a gateway may begin a new segment, or delete an old one, at any moment.
    loop {
        let found = segment_numbers(directory)?.into_iter().find(|&number| number >= next);
        // Read after the listing: if another one follows, this one is complete.
        if let Some(open) = open.take() {
            walk.read(open, found.is_none())?;
        }
        let Some(number) = found else { return Ok(walk.report()) };
        open = walk.open(directory, number)?;
        next = number + 1;
    }
}

#[derive(Default)]
struct Walk {
    indexed: Option<Position>,
    /// Whether the place that the index remembers was passed.
    indexed_seen: bool,
    altered: Vec<String>,
    truncated: Vec<String>,
    notes: Vec<String>,
    segments: u64,
    records: u64,
    gaps: u64,
    /// The segment before, and the chain's end in it.
    before: Option<Before>,
    /// Recorded deletions: last hash by segment.
    deleted: BTreeMap<u64, Vec<u8>>,
    /// Segments that are not there, and the last hash that the segment after them says they had.
    missing: Vec<(u64, Hash)>,
}

/// A segment, and how far it was read.
struct Open {
    reader: Reader,
    at: Before,
}

#[derive(Clone, Copy)]
struct Before {
    number: u64,
    header: Header,
    hash: Hash,
    next_sequence: u64,
    /// It was read to its end without a finding.
    whole: bool,
}

impl Walk {
    fn open(&mut self, directory: &Path, number: u64) -> Result<Option<Open>, RecordError> {
        let path = segment_path(directory, number);
        let reader = match Reader::open(&path) {
            Ok(reader) => reader,
            // Deleted since it was listed; the record of that is still to come.
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(ReadError::Io(error)) => return Err(RecordError::io(&format!("reading {}", path.display()), &error)),
            Err(ReadError::Frame { error, .. }) => {
                self.headless(directory, number, error);
                return Ok(None);
            }
        };
        let header = *reader.header();
        self.segments += 1;
        self.link(number, &header);
        let at = Before { number, header, hash: header.hash(), next_sequence: header.first_sequence, whole: true };
        Ok(Some(Open { reader, at }))
    }

    fn read(&mut self, mut open: Open, is_last: bool) -> Result<(), RecordError> {
        let number = open.at.number;
        match self.frames(&mut open) {
            Ok(()) => {}
            Err(ReadError::Io(error)) => return Err(RecordError::io(&format!("reading segment {number}"), &error)),
            Err(ReadError::Frame { offset, error: FrameError::Incomplete }) if is_last => self.notes.push(format!(
                "segment {number} ends within a record at byte {offset}: a write under way, or one that was never \
                 acknowledged"
            )),
            Err(ReadError::Frame { offset, error }) => {
                open.at.whole = false;
                self.altered.push(format!("segment {number}, byte {offset}: {error}"));
            }
        }
        self.before = Some(open.at);
        Ok(())
    }

    fn frames(&mut self, Open { reader, at }: &mut Open) -> Result<(), ReadError> {
        while let Some(frame) = reader.next(Some(&at.hash))? {
            if frame.prefix.sequence != at.next_sequence {
                return Err(ReadError::Frame { offset: frame.offset, error: FrameError::Sequence });
            }
            (at.hash, at.next_sequence) = (frame.hash, frame.prefix.sequence + 1);
            self.records += 1;
            if let Some(known) = self.indexed
                && (known.segment, known.offset) == (at.number, frame.end)
            {
                self.indexed_seen = known.hash == frame.hash;
            }
            if frame.prefix.notable {
                match frame.decode().map(|record| record.event) {
                    Ok(Event::SegmentDeleted { segment, last_hash, .. }) => _ = self.deleted.insert(segment, last_hash),
                    Ok(Event::Gap { .. }) => self.gaps += 1,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// A segment without a valid header: a live gateway's newest may not have it yet.
    fn headless(&mut self, directory: &Path, number: u64, error: FrameError) {
        if error == FrameError::Incomplete && !segment_path(directory, number + 1).exists() {
            self.notes.push(format!("segment {number} is being made, or its making was interrupted"));
        } else {
            self.altered.push(format!("segment {number}: the header is not valid: {error}"));
        }
    }

    /// How a segment goes on from the one before.
    fn link(&mut self, number: u64, header: &Header) {
        if header.segment != number {
            self.altered.push(format!("segment {number} is segment {} under another name", header.segment));
        }
        let Some(before) = self.before else {
            if number != 0 {
                self.missing.push((number - 1, header.previous));
            } else if header.previous != [0; 32] || header.first_sequence != 0 {
                self.truncated.push("segment 0 does not begin a log".to_owned());
            }
            return;
        };
        if header.log != before.header.log {
            self.truncated.push(format!("segments {} and {number} belong to different logs", before.number));
        } else if number != before.number + 1 {
            self.missing.push((number - 1, header.previous));
        } else if before.whole && (header.previous, header.first_sequence) != (before.hash, before.next_sequence) {
            self.truncated.push(format!("segment {number} does not continue segment {}", before.number));
        }
    }

    fn compare_with_index(&mut self) {
        let Some(known) = self.indexed else { return };
        if known.sequence == 0 || self.indexed_seen || !self.altered.is_empty() {
            return;
        }
        self.truncated.push(format!(
            "the index remembers {} records, up to byte {} of segment {}, which the segments do not have (the index is no \
             proof: it lies beside them)",
            known.sequence, known.offset, known.segment
        ));
    }

    /// The youngest segment that is missing since it was deleted. Those before it were deleted before; the records of that
    /// may have gone with younger segments.
    fn deleted_up_to(&self) -> Option<u64> {
        let recorded =
            |(number, hash): &&(u64, Hash)| self.deleted.get(number).is_some_and(|last| last[..] == hash[..]);
        self.missing.iter().filter(recorded).map(|&(number, _)| number).max()
    }

    fn report(mut self) -> Report {
        let mut verdict = Verdict::SelfConsistent;
        let deleted_up_to = self.deleted_up_to();
        if let Some(last) = deleted_up_to {
            verdict = Verdict::Deleted;
            self.notes.push(format!("segments up to {last} were deleted to keep to age or size, as recorded"));
            self.missing.retain(|&(missing, _)| missing > last);
        }
        for (last, _) in std::mem::take(&mut self.missing) {
            self.truncated.push(format!("segment {last} is missing, and no record says that it was deleted"));
        }
        if self.indexed.is_some_and(|known| deleted_up_to.is_none_or(|last| known.segment > last)) {
            self.compare_with_index();
        }
        if self.indexed.is_none() {
            self.notes.push("there is no readable index to compare the end of the log with".to_owned());
        }
        if self.gaps > 0 {
            self.notes.push(format!("{} recorded gaps: see the records of type `gap` for what happened", self.gaps));
        }
        if self.segments == 0 && self.altered.is_empty() && self.truncated.is_empty() {
            self.notes.push("there are no recordings".to_owned());
        }
        self.notes.push(
            "no anchor outside this host: a rewrite of the whole log, or an end cut off, would not be seen".to_owned(),
        );
        if !self.truncated.is_empty() {
            verdict = Verdict::Truncated;
        }
        if !self.altered.is_empty() {
            verdict = Verdict::Altered;
        }
        let mut findings = self.altered;
        findings.append(&mut self.truncated);
        findings.truncate(MAX_FINDINGS);
        Report {
            verdict,
            exit_code: verdict.exit_code(),
            segments: self.segments,
            records: self.records,
            last_hash: hex(&self.before.map_or([0; 32], |before| before.hash)),
            findings,
            notes: self.notes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.verdict {
            Verdict::SelfConsistent => "self-consistent",
            Verdict::Deleted => "self-consistent, older segments deleted as recorded",
            Verdict::Altered => "ALTERED",
            Verdict::Truncated => "TRUNCATED OR FORKED",
        };
        writeln!(f, "{words}: {} records in {} segments, last hash {}", self.records, self.segments, self.last_hash)?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "  wrong: {finding}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))
    }
}
