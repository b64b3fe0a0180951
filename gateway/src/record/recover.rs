//! The start after whatever end: finds the end of the chain and cuts off what no caller was ever told is recorded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::read::{ReadError, Reader};
use super::segment::{self, FrameError, HEADER_LEN, Hash};
use super::{RecordError, segment_numbers, segment_path};

/// Bytes behind the last good record that are searched for records that were durable: more than segments have.
const SEARCHED: u64 = 256 << 20;

/// Where appending goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Number that the next segment gets.
    pub next_segment: u64,
    pub host: [u8; 16],
    pub log: [u8; 16],
    pub next_sequence: u64,
    pub hash: Hash,
}

/// What a start finds.
#[derive(Debug)]
pub struct Recovered {
    pub tail: Tail,
    /// What was not as a clean end leaves it; to be recorded.
    pub findings: Vec<String>,
}

/// Finds the end of the chain; cuts a torn write off the last segment, and makes the rest of it durable. Blocks. Nothing
/// but a write that was never acknowledged is cut: whatever else is wrong stays for `weir verify` to see, and appending goes
/// on after the last good record, in a segment of its own.
pub fn recover(directory: &Path) -> Result<Recovered, RecordError> {
    remove_unfinished(directory)?;
    let numbers = segment_numbers(directory)?;
    let host = host_id();
    let next_segment = numbers.last().map_or(0, |last| last + 1);
    let mut findings = Vec::new();
    for &number in numbers.iter().rev() {
        let is_last = number + 1 == next_segment;
        if let Some((log, next_sequence, hash)) = end_of(directory, number, is_last, &mut findings)? {
            return Ok(Recovered { tail: Tail { next_segment, host, log, next_sequence, hash }, findings });
        }
    }
    let log = random()?;
    Ok(Recovered { tail: Tail { next_segment, host, log, next_sequence: 0, hash: [0; 32] }, findings })
}

/// Removes a last segment that the gateway was making when it died: there was no record in it yet.
fn remove_unfinished(directory: &Path) -> Result<(), RecordError> {
    let Some(&last) = segment_numbers(directory)?.last() else { return Ok(()) };
    let path = segment_path(directory, last);
    let failed = |error: io::Error| RecordError::io(&format!("reading {}", path.display()), &error);
    if std::fs::metadata(&path).map_err(failed)?.len() > HEADER_LEN as u64 {
        return Ok(());
    }
    match Reader::open(&path) {
        Ok(_) => Ok(()),
        Err(ReadError::Io(error)) => Err(failed(error)),
        Err(ReadError::Frame { .. }) => std::fs::remove_file(&path).map_err(failed),
    }
}

type End = ([u8; 16], u64, Hash);

/// The end of one segment's chain; None if it has no header to begin with.
fn end_of(
    directory: &Path,
    number: u64,
    is_last: bool,
    findings: &mut Vec<String>,
) -> Result<Option<End>, RecordError> {
    let path = segment_path(directory, number);
    let named = |error: &io::Error| RecordError::io(&format!("reading {}", path.display()), error);
    let mut reader = match Reader::open(&path) {
        Ok(reader) => reader,
        Err(ReadError::Io(error)) => return Err(named(&error)),
        Err(ReadError::Frame { error, .. }) => {
            findings.push(format!("segment {number} was altered or damaged: its header is not valid: {error}"));
            return Ok(None);
        }
    };
    let header = *reader.header();
    let (mut hash, mut next, mut end) = (header.hash(), header.first_sequence, HEADER_LEN as u64);
    let error = loop {
        match reader.next(Some(&hash)) {
            Ok(Some(frame)) if frame.prefix.sequence != next => break FrameError::Sequence,
            Ok(Some(frame)) => (hash, end, next) = (frame.hash, frame.end, next + 1),
            Ok(None) => {
                // Nothing that is written is cut: what a killed gateway took ahead lies behind the end, and is given back.
                let give_back = |file: &File| if is_last { file.set_len(end) } else { Ok(()) };
                let file = OpenOptions::new().write(true).open(&path).map_err(|error| named(&error))?;
                give_back(&file).and_then(|()| file.sync_all()).map_err(|error| named(&error))?;
                return Ok(Some((header.log, next, hash)));
            }
            Err(ReadError::Io(error)) => return Err(named(&error)),
            Err(ReadError::Frame { error, .. }) => break error,
        }
    };
    let size = std::fs::metadata(&path).map_err(|error| named(&error))?.len();
    if is_last && is_torn(&path, end, next, error).map_err(|error| named(&error))? {
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| named(&error))?;
        file.set_len(end).and_then(|()| file.sync_all()).map_err(|error| named(&error))?;
        findings.push(format!(
            "{} bytes of a write that was never acknowledged were cut off segment {number} at byte {end}",
            size - end
        ));
    } else {
        findings.push(format!("segment {number} was altered or damaged at byte {end}: {error}"));
    }
    Ok(Some((header.log, next, hash)))
}

/// Whether what lies behind the last good record is a write that did not finish. After a power cut whole frames may lie
/// behind a hole, but none that was written when record `next` was durable already: if there is one, that record was
/// acknowledged once and has been altered since.
fn is_torn(path: &Path, end: u64, next: u64, error: FrameError) -> io::Result<bool> {
    if matches!(error, FrameError::Chain | FrameError::Sequence) {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(end))?;
    let mut bytes = Vec::new();
    file.take(SEARCHED).read_to_end(&mut bytes)?;
    let mut rest = &bytes[1.min(bytes.len())..];
    while let Some((frame, behind)) = segment::find_frame(rest, next) {
        if frame.prefix.sequence.saturating_sub(u64::from(frame.prefix.unsynced)) > next {
            return Ok(false);
        }
        rest = behind;
    }
    Ok(true)
}

/// Tells hosts apart in recordings without giving the machine's ID away, which systemd asks to keep private.
pub fn host_id() -> [u8; 16] {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let digest = Sha256::new().chain_update("weir recording\0").chain_update(machine.trim_ascii()).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    id
}

fn random() -> Result<[u8; 16], RecordError> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| RecordError::io("reading random bytes", &error))?;
    Ok(bytes)
}
