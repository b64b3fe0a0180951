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

    /// The next frame; None at the end. With `previous`, it must continue that chain. After the end, or an incomplete
    /// frame, it may be called again: what was appended meanwhile is read.
    pub fn next(&mut self, previous: Option<&Hash>) -> Result<Option<Placed<'_>>, ReadError> {
        loop {
            let rest = &self.buffer[self.consumed..];
            let found = match previous {
                Some(previous) => segment::check_frame(rest, previous),
                None => segment::read_frame(rest),
            };
            match found {
                Ok(Frame { hash, prefix, len, .. }) => {
                    let (from, offset) = (self.consumed, self.offset);
                    self.consumed += len;
                    self.offset += len as u64;
                    let body = &self.buffer[from + FRAME_HEADER_LEN + segment::PREFIX_LEN..self.consumed];
                    return Ok(Some(Placed { offset, end: self.offset, hash, prefix, body }));
                }
                Err(FrameError::Incomplete) => {
                    let is_empty = rest.is_empty();
                    if self.fill()? {
                        continue;
                    }
                    let torn = ReadError::Frame { offset: self.offset, error: FrameError::Incomplete };
                    return if is_empty { Ok(None) } else { Err(torn) };
                }
                Err(error) => return Err(ReadError::Frame { offset: self.offset, error }),
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

impl Placed<'_> {
    pub fn decode(&self) -> Result<Record, RecordError> {
        Ok(Record {
            sequence: self.prefix.sequence,
            at_unix_ns: self.prefix.at_unix_ns,
            event: Event::decode(self.body)?,
        })
    }
}
