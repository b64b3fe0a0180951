//! Segments: the files that are the truth. Sans-io: bytes in, values out.
//!
//! A segment is a [`Header`] and frames. A frame is
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | length of the payload, little-endian |
//! | 4 | CRC-32 of length, hash and payload |
//! | 32 | SHA-256 over the hash before and the payload: the chain |
//! | n | payload: the [`Prefix`], then the event as MessagePack |
//!
//! The chain of a segment begins with the hash of its header, and the header has the last hash of the segment before. So
//! are changed, missing, exchanged and reordered records and segments seen.

use sha2::{Digest, Sha256};

use crate::ids::SessionId;

pub const MAGIC: &[u8; 8] = b"WEIRLOG1";
pub const HEADER_LEN: usize = 8 + 8 + 16 + 16 + 8 + 8 + 32 + 4;
pub const FRAME_HEADER_LEN: usize = 4 + 4 + 32;
pub const PREFIX_LEN: usize = 1 + 4 + 8 + 8 + 8;
/// A record that would be longer is refused at the writer's door.
pub const MAX_PAYLOAD: usize = 4 << 20;

const NOTABLE: u8 = 1;
const OPERATION: u8 = 2;
const KNOWN_FLAGS: u8 = NOTABLE | OPERATION;

/// The end of a chain so far.
pub type Hash = [u8; 32];

/// First bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts the segments of a log from 0.
    pub segment: u64,
    /// Of the host that wrote it; see [`super::recover::host_id`].
    pub host: [u8; 16],
    /// Random, the same for all segments of one directory.
    pub log: [u8; 16],
    /// Number of the first record, counted from 0 over all segments.
    pub first_sequence: u64,
    /// Nanoseconds since the Unix epoch.
    pub created_unix_ns: u64,
    /// Last hash of the segment before; zeros in the first.
    pub previous: Hash,
}

/// What readers need of every record, without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The index must decode this record; the others are only found through their session.
    pub notable: bool,
    /// It is an operation's decision: one for each statement.
    pub operation: bool,
    /// How many records right before this one were not known to be durable when it was written. All earlier ones were: if
    /// one of them is broken, that was no crash.
    pub unsynced: u32,
    pub sequence: u64,
    /// The session's ID as a number; 0 for records of no session.
    pub session: u64,
    /// Nanoseconds since the Unix epoch.
    pub at_unix_ns: u64,
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
    #[error("the record's number is not the next")]
    Sequence,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.host);
        bytes[32..48].copy_from_slice(&self.log);
        bytes[48..56].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.created_unix_ns.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.previous);
        let crc = crc32fast::hash(&bytes[..96]);
        bytes[96..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let bytes = bytes.first_chunk::<HEADER_LEN>().ok_or(FrameError::Incomplete)?;
        if &bytes[..8] != MAGIC {
            return Err(FrameError::Malformed);
        }
        if crc32fast::hash(&bytes[..96]) != u32_at(bytes, 96) {
            return Err(FrameError::Checksum);
        }
        let (mut host, mut log, mut previous) = ([0; 16], [0; 16], [0; 32]);
        host.copy_from_slice(&bytes[16..32]);
        log.copy_from_slice(&bytes[32..48]);
        previous.copy_from_slice(&bytes[64..96]);
        Ok(Self {
            segment: u64_at(bytes, 8),
            host,
            log,
            first_sequence: u64_at(bytes, 48),
            created_unix_ns: u64_at(bytes, 56),
            previous,
        })
    }

    /// Where the segment's chain begins.
    pub fn hash(&self) -> Hash {
        Sha256::digest(self.encode()).into()
    }
}

impl Prefix {
    /// What producers write; number and durability are the writer's to know, see [`seal`].
    pub fn encode(self) -> [u8; PREFIX_LEN] {
        let mut bytes = [0; PREFIX_LEN];
        bytes[0] = if self.notable { NOTABLE } else { 0 } | if self.operation { OPERATION } else { 0 };
        bytes[1..5].copy_from_slice(&self.unsynced.to_le_bytes());
        bytes[5..13].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[13..21].copy_from_slice(&self.session.to_le_bytes());
        bytes[21..].copy_from_slice(&self.at_unix_ns.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; PREFIX_LEN]) -> Option<Self> {
        (bytes[0] & !KNOWN_FLAGS == 0).then(|| Self {
            notable: bytes[0] & NOTABLE != 0,
            operation: bytes[0] & OPERATION != 0,
            unsynced: u32_at(bytes, 1),
            sequence: u64_at(bytes, 5),
            session: u64_at(bytes, 13),
            at_unix_ns: u64_at(bytes, 21),
        })
    }
}

/// The session in the beginning of a payload; `Some(None)` where it belongs to none, `None` where it is no payload.
pub fn session_of(payload: &[u8]) -> Option<Option<SessionId>> {
    let prefix = Prefix::decode(payload.first_chunk()?)?;
    Some((prefix.session != 0).then(|| SessionId::from_u64(prefix.session)))
}

/// Puts the record's number into a payload, and how many records before it are not durable yet.
pub fn seal(payload: &mut [u8], sequence: u64, unsynced: u64) {
    // More than the field holds cannot be outstanding: the queue's and the batches' bounds are far below.
    let unsynced = u32::try_from(unsynced).unwrap_or(u32::MAX);
    payload[1..5].copy_from_slice(&unsynced.to_le_bytes());
    payload[5..13].copy_from_slice(&sequence.to_le_bytes());
}

/// Appends one frame to `out`; returns the chain's new end. The payload has at most [`MAX_PAYLOAD`] bytes.
pub fn append_frame(out: &mut Vec<u8>, previous: &Hash, payload: &[u8]) -> Hash {
    let hash = link(previous, payload);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(&length, &hash, payload).to_le_bytes());
    out.extend_from_slice(&hash);
    out.extend_from_slice(payload);
    hash
}

/// How long the frame at the start of `bytes` says it is, if that can be.
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    (PREFIX_LEN..=MAX_PAYLOAD).contains(&length).then_some(FRAME_HEADER_LEN + length)
}

/// Reads the frame at the start of `bytes` without proving that it continues a chain.
pub fn read_frame(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let header = bytes.first_chunk::<FRAME_HEADER_LEN>().ok_or(FrameError::Incomplete)?;
    let len = frame_len(header).ok_or(FrameError::Malformed)?;
    let payload = bytes.get(FRAME_HEADER_LEN..len).ok_or(FrameError::Incomplete)?;
    let mut hash = [0; 32];
    hash.copy_from_slice(&header[8..]);
    if checksum(&header[..4], &hash, payload) != u32_at(header, 4) {
        return Err(FrameError::Checksum);
    }
    let (prefix, body) = payload.split_first_chunk().ok_or(FrameError::Malformed)?;
    let prefix = Prefix::decode(prefix).ok_or(FrameError::Malformed)?;
    Ok(Frame { hash, prefix, body, len })
}

/// Reads the frame at the start of `bytes` and proves that it follows `previous`.
pub fn check_frame<'a>(bytes: &'a [u8], previous: &Hash) -> Result<Frame<'a>, FrameError> {
    let frame = read_frame(bytes)?;
    if link(previous, &bytes[FRAME_HEADER_LEN..frame.len]) != frame.hash {
        return Err(FrameError::Chain);
    }
    Ok(frame)
}

/// Finds a whole frame behind bytes that are none, which has a number from `sequence` on and could be one of `bytes`. What
/// makes it fast is that nearly no place passes the first look. Also returns what lies behind the frame.
pub fn find_frame(bytes: &[u8], sequence: u64) -> Option<(Frame<'_>, &[u8])> {
    let plausible = sequence..=sequence.saturating_add(bytes.len() as u64);
    (0..bytes.len()).find_map(|at| {
        let rest = &bytes[at..];
        let prefix = rest.get(FRAME_HEADER_LEN..)?.first_chunk().and_then(Prefix::decode)?;
        let frame = plausible.contains(&prefix.sequence).then(|| read_frame(rest).ok())??;
        Some((frame, &rest[frame.len..]))
    })
}

fn link(previous: &Hash, payload: &[u8]) -> Hash {
    Sha256::new().chain_update(previous).chain_update(payload).finalize().into()
}

fn checksum(length: &[u8], hash: &Hash, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(length);
    crc.update(hash);
    crc.update(payload);
    crc.finalize()
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

    const HEADER: Header =
        Header { segment: 7, host: [2; 16], log: [3; 16], first_sequence: 99, created_unix_ns: 4, previous: [5; 32] };

    fn payload(session: u64, body: &[u8]) -> Vec<u8> {
        let prefix = Prefix { notable: true, operation: false, unsynced: 0, sequence: 0, session, at_unix_ns: 77 };
        let mut payload = prefix.encode().to_vec();
        payload.extend_from_slice(body);
        payload
    }

    #[test]
    fn a_header_survives_and_any_flipped_bit_is_seen() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Ok(HEADER));
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
        let start = HEADER.hash();
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

    #[test]
    fn a_prefix_survives_and_is_sealed() {
        let mut bytes = payload(u64::MAX, b"");
        seal(&mut bytes, 12, u64::MAX);
        let expected = Prefix {
            notable: true,
            operation: false,
            unsynced: u32::MAX,
            sequence: 12,
            session: u64::MAX,
            at_unix_ns: 77,
        };
        assert_eq!(Prefix::decode(bytes.first_chunk().unwrap()), Some(expected));
    }

    /// Bytes as an attacker or a broken disk may leave them: many of them, and none may do harm.
    #[test]
    fn arbitrary_bytes_are_judged_without_a_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut valid = Vec::new();
        append_frame(&mut valid, &[0; 32], &payload(1, &[7; 50]));
        for round in 0..20_000 {
            // Half of them are mutations of a frame: they come further.
            let mut bytes = if round % 2 == 0 { valid.clone() } else { vec![0; random(200)] };
            for _ in 0..=random(8) {
                if bytes.is_empty() {
                    break;
                }
                let at = random(bytes.len());
                bytes[at] = u8::try_from(random(256)).unwrap();
            }
            bytes.truncate(random(bytes.len() + 1));
            let intact = valid.starts_with(&bytes) && bytes.len() == valid.len();
            assert_eq!(read_frame(&bytes).is_ok(), intact, "{bytes:?}");
            let _ = find_frame(&bytes, 0);
            assert!(Header::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_frame_is_found_behind_garbage() {
        let mut sealed = payload(1, b"body");
        seal(&mut sealed, 5, 2);
        let mut bytes = vec![0xab; 333];
        append_frame(&mut bytes, &[0; 32], &sealed);
        assert_eq!(
            find_frame(&bytes, 4).map(|(frame, _)| (frame.prefix.sequence, frame.prefix.unsynced)),
            Some((5, 2))
        );
        assert!(find_frame(&bytes, 6).is_none(), "an older record is no sign of anything");
        assert!(find_frame(&bytes[..bytes.len() - 1], 4).is_none());
    }
}
