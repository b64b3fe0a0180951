//! Reading segments back: record by record, and the recovery of the end after a crash.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::event::Record;
use super::segment::{self, FRAME_HEADER_LEN, FrameError, HEADER_LEN, Hash, Header, MAX_PAYLOAD, Prefix};
use super::writer::Tail;
use super::{RecordError, segment_numbers, segment_path};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// A segment, read from front to back with bounded memory.
pub struct Reader {
    file: File,
    header: Header,
    buffer: Vec<u8>,
    /// What of `buffer` was read already.
    consumed: usize,
    /// Offset in the file of the first byte not consumed.
    offset: u64,
    at_end: bool,
}

/// One frame with its place.
pub struct Placed<'a> {
    pub offset: u64,
    pub end: u64,
    pub hash: Hash,
    pub prefix: Prefix,
    pub body: &'a [u8],
}

/// Why reading a segment stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("at byte {offset}: {error}")]
    Frame { offset: u64, error: FrameError },
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let mut file = File::open(path)?;
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        (&mut file).take(HEADER_LEN as u64).read_to_end(&mut bytes)?;
        let header = Header::decode(&bytes).map_err(|error| ReadError::Frame { offset: 0, error })?;
        let offset = HEADER_LEN as u64;
        Ok(Self { file, header, buffer: Vec::new(), consumed: 0, offset, at_end: false })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Goes on reading at a place where a frame begins.
    pub fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset.max(HEADER_LEN as u64);
        self.file.seek(SeekFrom::Start(self.offset))?;
        self.buffer.clear();
        self.consumed = 0;
        self.at_end = false;
        Ok(())
    }

    /// The next frame; None at the end. With `previous`, it must continue that chain.
    pub fn next(&mut self, previous: Option<&Hash>) -> Result<Option<Placed<'_>>, ReadError> {
        loop {
            let rest = &self.buffer[self.consumed..];
            let whole = match previous {
                Some(previous) => segment::check_frame(rest, previous).map(|frame| frame.len),
                None => segment::read_frame(rest).map(|frame| frame.len),
            };
            match whole {
                Ok(len) => return Ok(Some(self.take(len))),
                Err(FrameError::Incomplete) if !self.at_end => self.fill()?,
                Err(FrameError::Incomplete) if rest.is_empty() => return Ok(None),
                Err(error) => return Err(ReadError::Frame { offset: self.offset, error }),
            }
        }
    }

    fn take(&mut self, len: usize) -> Placed<'_> {
        let (from, offset) = (self.consumed, self.offset);
        self.consumed += len;
        self.offset += len as u64;
        let bytes = &self.buffer[from..from + len];
        let mut hash = [0; 32];
        hash.copy_from_slice(&bytes[8..FRAME_HEADER_LEN]);
        let (prefix, body) = bytes[FRAME_HEADER_LEN..].split_at(segment::PREFIX_LEN);
        let prefix = Prefix::decode(prefix).unwrap_or(Prefix { notable: true, session: 0 });
        Placed { offset, end: offset + len as u64, hash, prefix, body }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        debug_assert!(self.buffer.len() <= FRAME_HEADER_LEN + MAX_PAYLOAD);
        let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.buffer)?;
        self.at_end = read == 0;
        Ok(())
    }
}

impl Placed<'_> {
    pub fn decode(&self) -> Result<Record, RecordError> {
        rmp_serde::from_slice(self.body).map_err(|error| RecordError::Decode(error.to_string()))
    }
}

/// What a start finds.
pub struct Recovered {
    pub tail: Tail,
    /// Something other than a torn end is wrong; appending goes on in a new segment after the last good record.
    pub damage: Option<String>,
}

/// Finds the end of the chain; cuts a torn write off the last segment. Blocks.
pub fn recover(directory: &Path) -> Result<Recovered, RecordError> {
    let Some(&last) = segment_numbers(directory)?.last() else {
        let log = uuid()?;
        return Ok(Recovered { tail: Tail { next_segment: 0, log, next_sequence: 0, hash: [0; 32] }, damage: None });
    };
    let path = segment_path(directory, last);
    let named = |error: &io::Error| RecordError::io(&format!("reading {}", path.display()), error);
    let mut reader = match Reader::open(&path) {
        Ok(reader) => reader,
        Err(ReadError::Io(error)) => return Err(named(&error)),
        Err(ReadError::Frame { error, .. }) => return headless(directory, last, error),
    };
    let header = *reader.header();
    let (mut hash, mut records, mut end) = (header.previous, 0, HEADER_LEN as u64);
    let damage = loop {
        match reader.next(Some(&hash)) {
            Ok(Some(frame)) => (hash, end, records) = (frame.hash, frame.end, records + 1),
            Ok(None) => break None,
            Err(ReadError::Io(error)) => return Err(named(&error)),
            Err(ReadError::Frame { error, .. }) if is_torn(&path, end, error).map_err(|e| named(&e))? => {
                let file = std::fs::OpenOptions::new().write(true).open(&path).map_err(|e| named(&e))?;
                file.set_len(end).and_then(|()| file.sync_all()).map_err(|e| named(&e))?;
                tracing::warn!(segment = last, end, "a write that was never acknowledged was cut off");
                break None;
            }
            Err(error) => break Some(format!("segment {last}, {error}")),
        }
    };
    let tail = Tail { next_segment: last + 1, log: header.log, next_sequence: header.first_sequence + records, hash };
    Ok(Recovered { tail, damage })
}

/// Whether what lies behind the last good record is a write that did not finish: it reaches the file's end and no whole
/// frame follows. Anything else was acknowledged once and has been altered since.
fn is_torn(path: &Path, end: u64, error: FrameError) -> io::Result<bool> {
    if error == FrameError::Incomplete {
        return Ok(true);
    }
    if error == FrameError::Chain {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(end))?;
    let mut rest = Vec::new();
    file.take((FRAME_HEADER_LEN + MAX_PAYLOAD) as u64).read_to_end(&mut rest)?;
    // Blocks that the file system had allocated but not written read as zeros.
    let all_zero_from = rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let whole_frame_follows = (1..all_zero_from).any(|at| segment::read_frame(&rest[at..]).is_ok());
    Ok(!whole_frame_follows)
}

/// The last segment has no header: the crash came while it was made. Appending goes on after the one before.
fn headless(directory: &Path, last: u64, error: FrameError) -> Result<Recovered, RecordError> {
    let path = segment_path(directory, last);
    let len = std::fs::metadata(&path).map_err(|e| RecordError::io("reading a segment's size", &e))?.len();
    if error != FrameError::Incomplete || len > HEADER_LEN as u64 {
        let damage = Some(format!("segment {last} has no valid header"));
        let tail = Tail { next_segment: last + 1, log: uuid()?, next_sequence: 0, hash: [0; 32] };
        return Ok(Recovered { tail, damage });
    }
    std::fs::remove_file(&path).map_err(|e| RecordError::io("removing an empty segment", &e))?;
    recover(directory)
}

fn uuid() -> Result<[u8; 16], RecordError> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| RecordError::io("reading random bytes", &error))?;
    Ok(bytes)
}
