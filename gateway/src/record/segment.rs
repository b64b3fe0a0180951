//! Segments: the files that are the truth. Sans-io: bytes in, values out.
//!
//! A segment is a header and frames. A frame is
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the payload, little-endian |
//! | 4 | CRC-32 of hash and payload |
//! | 32 | SHA-256 over the previous frame's hash and the payload: the chain |
//! | n | payload: the [`Prefix`], then the record as MessagePack |
//!
//! The first frame of a segment continues the chain from the hash in the header, which is the last hash of the segment
//! before. So is a missing, exchanged or reordered segment seen.

use sha2::{Digest, Sha256};

pub const MAGIC: &[u8; 8] = b"WEIRLOG1";
pub const HEADER_LEN: usize = 8 + 8 + 16 + 8 + 32 + 4;
pub const FRAME_HEADER_LEN: usize = 4 + 4 + 32;
pub const PREFIX_LEN: usize = 1 + 8;
/// A record that would be longer is refused at the writer's door.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// The end of a chain so far.
pub type Hash = [u8; 32];

/// First bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub segment: u64,
    /// The same for all segments of one directory.
    pub log: [u8; 16],
    /// Number of the first record, counted from 0 over all segments.
    pub first_sequence: u64,
    /// Last hash of the segment before; zeros in the first.
    pub previous: Hash,
}

/// What the index needs of every record, without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The index must decode this record; the others are only found through their session.
    pub notable: bool,
    /// The session's ID as a number; 0 for records of no session.
    pub session: u64,
}

/// One frame, borrowed from the bytes it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub hash: Hash,
    pub prefix: Prefix,
    /// MessagePack.
    pub body: &'a [u8],
    /// Bytes that the whole frame takes.
    pub len: usize,
}

/// What is wrong with the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame may go on behind the bytes that there are: a torn write, if nothing follows.
    #[error("the frame is incomplete")]
    Incomplete,
    #[error("the bytes are no frame")]
    Malformed,
    #[error("the frame's check sum is wrong")]
    Checksum,
    #[error("the frame does not continue the chain")]
    Chain,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.log);
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.previous);
        let crc = crc32fast::hash(&bytes[..72]);
        bytes[72..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let bytes = bytes.first_chunk::<HEADER_LEN>().ok_or(FrameError::Incomplete)?;
        if &bytes[..8] != MAGIC {
            return Err(FrameError::Malformed);
        }
        if crc32fast::hash(&bytes[..72]) != u32_at(bytes, 72) {
            return Err(FrameError::Checksum);
        }
        let (mut log, mut previous) = ([0; 16], [0; 32]);
        log.copy_from_slice(&bytes[16..32]);
        previous.copy_from_slice(&bytes[40..72]);
        Ok(Self { segment: u64_at(bytes, 8), log, first_sequence: u64_at(bytes, 32), previous })
    }
}

impl Prefix {
    pub fn encode(self) -> [u8; PREFIX_LEN] {
        let mut bytes = [0; PREFIX_LEN];
        bytes[0] = u8::from(self.notable);
        bytes[1..].copy_from_slice(&self.session.to_le_bytes());
        bytes
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let bytes = payload.first_chunk::<PREFIX_LEN>()?;
        Some(Self { notable: bytes[0] != 0, session: u64_at(bytes, 1) })
    }
}

/// Appends one frame to `out`; returns the chain's new end.
pub fn append_frame(out: &mut Vec<u8>, previous: &Hash, payload: &[u8]) -> Hash {
    let hash = link(previous, payload);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&hash);
    crc.update(payload);
    // The writer refuses payloads above MAX_PAYLOAD, so the length fits.
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&hash);
    out.extend_from_slice(payload);
    hash
}

/// Reads the frame at the start of `bytes` without proving that it continues a chain.
pub fn read_frame(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let header = bytes.get(..FRAME_HEADER_LEN).ok_or(FrameError::Incomplete)?;
    let length = u32_at(header, 0) as usize;
    if !(PREFIX_LEN..=MAX_PAYLOAD).contains(&length) {
        return Err(FrameError::Malformed);
    }
    let len = FRAME_HEADER_LEN + length;
    let payload = bytes.get(FRAME_HEADER_LEN..len).ok_or(FrameError::Incomplete)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..]);
    crc.update(payload);
    if crc.finalize() != u32_at(header, 4) {
        return Err(FrameError::Checksum);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(&header[8..]);
    let prefix = Prefix::decode(payload).ok_or(FrameError::Malformed)?;
    Ok(Frame { hash, prefix, body: &payload[PREFIX_LEN..], len })
}

/// Reads the frame at the start of `bytes` and proves that it follows `previous`.
pub fn check_frame<'a>(bytes: &'a [u8], previous: &Hash) -> Result<Frame<'a>, FrameError> {
    let frame = read_frame(bytes)?;
    if link(previous, &bytes[FRAME_HEADER_LEN..frame.len]) != frame.hash {
        return Err(FrameError::Chain);
    }
    Ok(frame)
}

fn link(previous: &Hash, payload: &[u8]) -> Hash {
    Sha256::new().chain_update(previous).chain_update(payload).finalize().into()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(session: u64, body: &[u8]) -> Vec<u8> {
        let mut payload = Prefix { notable: true, session }.encode().to_vec();
        payload.extend_from_slice(body);
        payload
    }

    #[test]
    fn a_header_survives_and_any_flipped_bit_is_seen() {
        let header = Header { segment: 7, log: [3; 16], first_sequence: 99, previous: [5; 32] };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
        for cut in 0..HEADER_LEN {
            assert_eq!(Header::decode(&bytes[..cut]), Err(FrameError::Incomplete));
        }
    }

    #[test]
    fn frames_chain_and_any_flipped_bit_is_seen() {
        let start = [9; 32];
        let mut bytes = Vec::new();
        let first = append_frame(&mut bytes, &start, &payload(1, b"one"));
        let len = bytes.len();
        let second = append_frame(&mut bytes, &first, &payload(2, b""));
        let frame = check_frame(&bytes, &start).unwrap();
        assert_eq!((frame.hash, frame.prefix.session, frame.body, frame.len), (first, 1, &b"one"[..], len));
        assert_eq!(check_frame(&bytes[len..], &first).unwrap().hash, second);
        assert_eq!(check_frame(&bytes[len..], &start), Err(FrameError::Chain));
        for cut in 0..len {
            assert_eq!(check_frame(&bytes[..cut], &start), Err(FrameError::Incomplete));
        }
        for bit in 0..len * 8 {
            let mut bad = bytes[..len].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check_frame(&bad, &start).is_err(), "bit {bit}");
        }
    }
}
