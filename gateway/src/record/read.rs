//! Reading segments back, record by record, with bounded memory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::RecordError;
use super::event::{Event, Record};
use super::segment::{self, FRAME_HEADER_LEN, Frame, FrameError, HEADER_LEN, Hash, Header, MAX_PAYLOAD, Prefix};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// A segment, read from front to back. It may grow meanwhile.
pub struct Reader {
    file: File,
    header: Header,
    buffer: Vec<u8>,
    /// What of `buffer` was read already.
    consumed: usize,
    /// Offset in the file of the first byte not consumed.
    offset: u64,
}

/// A frame in the buffer.
struct Found {
    hash: Hash,
    prefix: Prefix,
    len: usize,
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
    #[error(transparent)]
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
        Ok(Self { file, header, buffer: Vec::new(), consumed: 0, offset: HEADER_LEN as u64 })
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
        Ok(())
    }

    /// The next frame; None at the end, be it that of the file or where zeros begin that were written ahead. With `previous`, it
    /// must continue that chain. After the end, or an incomplete frame, it may be called again: what was appended meanwhile is
    /// read.
    pub fn next(&mut self, previous: Option<&Hash>) -> Result<Option<Placed<'_>>, ReadError> {
        let found = match self.find(previous) {
            // What was read while it was being written over zeros may be old in parts: it is read once more.
            Err(ReadError::Frame { .. }) => self.find(previous),
            found => found,
        };
        let Some(Found { hash, prefix, len }) = found? else { return Ok(None) };
        let (from, offset) = (self.consumed, self.offset);
        self.consumed += len;
        self.offset += len as u64;
        let body = &self.buffer[from + FRAME_HEADER_LEN + segment::PREFIX_LEN..self.consumed];
        Ok(Some(Placed { offset, end: self.offset, hash, prefix, body }))
    }

    /// The next frame, whole at the beginning of what is not consumed.
    fn find(&mut self, previous: Option<&Hash>) -> Result<Option<Found>, ReadError> {
        loop {
            let rest = &self.buffer[self.consumed..];
            let found = match previous {
                Some(previous) => segment::check_frame(rest, previous),
                None => segment::read_frame(rest),
            };
            match found {
                Ok(Frame { hash, prefix, len, .. }) => return Ok(Some(Found { hash, prefix, len })),
                Err(FrameError::Incomplete) => {
                    let is_empty = rest.is_empty();
                    if self.fill()? {
                        continue;
                    }
                    return if is_empty { Ok(None) } else { self.end_in_zeros(FrameError::Incomplete) };
                }
                Err(error) => return self.end_in_zeros(error),
            }
        }
    }

    /// What is no frame may be where writing has come to: there, nothing but zeros lies behind the last record, or behind the
    /// beginning of one. The same as the end of the file then.
    fn end_in_zeros(&mut self, error: FrameError) -> Result<Option<Found>, ReadError> {
        let rest = &self.buffer[self.consumed..];
        let len = segment::frame_len(rest).unwrap_or(FRAME_HEADER_LEN).min(rest.len());
        let begun = rest[..len].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let is_cut = matches!(error, FrameError::Incomplete | FrameError::Malformed | FrameError::Checksum)
            && begun < len
            && is_zero(&rest[len..])
            && self.zeros_follow()?;
        let offset = self.offset;
        // Where it is read on, be it later.
        self.seek(offset)?;
        match (is_cut, begun) {
            (true, 0) => Ok(None),
            (true, _) => Err(ReadError::Frame { offset, error: FrameError::Incomplete }),
            (false, _) => Err(ReadError::Frame { offset, error }),
        }
    }

    /// Whether there is nothing else behind the buffer.
    fn zeros_follow(&mut self) -> io::Result<bool> {
        let mut chunk = Vec::new();
        loop {
            chunk.clear();
            if (&mut self.file).take(CHUNK as u64).read_to_end(&mut chunk)? == 0 {
                return Ok(true);
            }
            if !is_zero(&chunk) {
                return Ok(false);
            }
        }
    }

    /// Reads more; false if there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        debug_assert!(
            self.buffer.len() < FRAME_HEADER_LEN + MAX_PAYLOAD,
            "whole frames are consumed before more is read"
        );
        let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.buffer)?;
        Ok(read > 0)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

impl Placed<'_> {
    pub fn decode(&self) -> Result<Record, RecordError> {
        Ok(Record {
            sequence: self.prefix.sequence,
            at_unix_ns: self.prefix.at_unix_ns,
            event: Event::decode(self.body)?,
        })
    }
}
