//! Identifiers that people read, type and pass on.
//!
//! A session's ID is 64 bits, written as 13 lower-case letters and digits of Crockford's base 32: 42 bits of Unix
//! milliseconds, then 22 bits that begin at random in each millisecond, so that IDs sort by time and none is given twice. An operation is its session's ID
//! and a sequence number: `01k3v9m2c7q4x-12`. Every denial prints one; `weir why` takes it.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize, Serializer};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 13;
/// Of an operation's: a hyphen, and ten digits at most.
const OPERATION_LENGTH: usize = LENGTH + 11;

/// One session, refused ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SessionId(u64);

/// One operation of a session; operation 0 is the session's `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct OperationId {
    pub session: SessionId,
    pub sequence: u32,
}

/// The text is no ID.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an ID: expected {LENGTH} letters and digits, or these, '-' and a number")]
pub struct InvalidId(String);

/// Gives IDs, each greater than all before it. By chance alone two would soon be the same at a thousand connections a second.
#[derive(Debug, Default)]
pub struct SessionIds(AtomicU64);

impl SessionIds {
    /// `random` is asked once a millisecond. When the clock stands still or goes back, IDs are counted on.
    pub fn next(&self, unix_ms: u64, random: impl Fn() -> u32) -> SessionId {
        let next = |last: u64| {
            if SessionId(last).unix_ms() < unix_ms {
                // Half of the range is left to count on in.
                SessionId::new(unix_ms, random() >> 11).0
            } else {
                last.saturating_add(1)
            }
        };
        let mut last = self.0.load(Ordering::Relaxed);
        loop {
            let id = next(last);
            match self.0.compare_exchange_weak(last, id, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return SessionId(id),
                Err(other) => last = other,
            }
        }
    }
}

impl SessionId {
    /// `unix_ms`: milliseconds since the epoch; `random`: any 22 random bits (higher bits are ignored).
    pub fn new(unix_ms: u64, random: u32) -> Self {
        Self((unix_ms << 22) | u64::from(random & 0x3f_ffff))
    }

    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// When the session began, in milliseconds since the epoch.
    pub fn unix_ms(self) -> u64 {
        self.0 >> 22
    }

    pub fn from_u64(value: u64) -> Self {
        Self(value)
    }

    pub fn operation(self, sequence: u32) -> OperationId {
        OperationId { session: self, sequence }
    }
}

impl SessionId {
    fn letters(self) -> [u8; LENGTH] {
        let mut text = [0u8; LENGTH];
        for (i, slot) in text.iter_mut().rev().enumerate() {
            let digit = (self.0 >> (5 * i)) & 31;
            *slot = usize::try_from(digit).ok().and_then(|digit| ALPHABET.get(digit)).copied().unwrap_or(b'0');
        }
        text
    }
}

impl OperationId {
    /// What it is written as, put into a buffer: every record has one, so that nothing is allocated for it.
    fn written(self, buffer: &mut [u8; OPERATION_LENGTH]) -> &str {
        let mut rest = self.sequence;
        let mut start = OPERATION_LENGTH;
        loop {
            start -= 1;
            buffer[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        buffer[start - 1] = b'-';
        start -= 1 + LENGTH;
        buffer[start..start + LENGTH].copy_from_slice(&self.session.letters());
        std::str::from_utf8(&buffer[start..]).unwrap_or_default()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.letters()).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.letters()).unwrap_or_default())
    }
}

impl Serialize for OperationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.written(&mut [0; OPERATION_LENGTH]))
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId(text.to_owned());
        if text.len() != LENGTH {
            return Err(invalid());
        }
        let mut value = 0u64;
        for letter in text.bytes() {
            let digit = ALPHABET.iter().position(|&a| a == letter.to_ascii_lowercase()).ok_or_else(invalid)?;
            value = value.checked_mul(32).and_then(|v| v.checked_add(digit as u64)).ok_or_else(invalid)?;
        }
        Ok(Self(value))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.written(&mut [0; OPERATION_LENGTH]))
    }
}

impl FromStr for OperationId {
    type Err = InvalidId;

    /// A bare session ID stands for its operation 0.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (session, sequence) = text.split_once('-').unwrap_or((text, "0"));
        let sequence = sequence.parse().map_err(|_| InvalidId(text.to_owned()))?;
        Ok(Self { session: session.parse()?, sequence })
    }
}

impl TryFrom<String> for SessionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl TryFrom<String> for OperationId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_round_trip_and_sort_by_time() {
        let early = SessionId::new(1_780_000_000_000, u32::MAX);
        let late = SessionId::new(1_780_000_000_001, 0);
        assert!(early < late && early.to_string() < late.to_string());
        let operation = late.operation(12);
        assert_eq!(operation.to_string().parse::<OperationId>().unwrap(), operation);
        assert_eq!(early.to_string().parse::<OperationId>().unwrap(), early.operation(0));
        for sequence in [0, 7, 10, 4_294_967_295] {
            let written = format!("{late}-{sequence}");
            assert_eq!(late.operation(sequence).to_string(), written);
            assert_eq!(serde_json::to_value(late.operation(sequence)).unwrap(), written);
        }
    }

    #[test]
    fn no_id_is_given_twice() {
        let ids = SessionIds::default();
        let given: Vec<_> = (0..300_000_u64).map(|n| ids.next(1_780_000_000_000 + n / 1000 % 7, || u32::MAX)).collect();
        assert!(given.is_sorted_by(|one, other| one < other));
        assert_eq!(given[0].unix_ms(), 1_780_000_000_000);
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in ["", "abc", "01k3v9m2c7q4x-", "01k3v9m2c7q4x-x", "zzzzzzzzzzzzz", "01k3v9m2c7q4u"] {
            assert!(text.parse::<OperationId>().is_err(), "{text}");
        }
    }
}
