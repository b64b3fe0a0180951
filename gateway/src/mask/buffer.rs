//! Where a protocol puts masked values together into messages again.

use super::{Masked, MaskedCell};

/// Bytes for the client: masked values, and the protocol's own framing between them. Framing is given as arrays of at most
/// eight bytes (a type, a length, a count), so that no value gets in by that way.
#[derive(Debug, Default)]
pub struct MaskedBuffer(Vec<u8>);

/// A position is behind the end of the buffer: a mistake in the protocol's code.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no number at byte {0} to set")]
pub struct OutOfBounds(usize);

impl MaskedBuffer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes back what was begun and cannot be finished.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    pub fn framing<const N: usize>(&mut self, bytes: [u8; N]) {
        const { assert!(N <= 8, "framing is small; values come masked") };
        self.0.extend_from_slice(&bytes);
    }

    /// The value's bytes; nothing for NULL.
    pub fn cell(&mut self, cell: &MaskedCell<'_>) {
        self.0.extend_from_slice(cell.value.as_deref().unwrap_or_default());
    }

    /// The value as a format has it between other bytes, with marks and escapes; `encode` gets None for NULL.
    pub fn encoded(&mut self, cell: &MaskedCell<'_>, encode: impl FnOnce(Option<&[u8]>, &mut Vec<u8>)) {
        encode(cell.value.as_deref(), &mut self.0);
    }

    pub fn append<T: AsRef<[u8]>>(&mut self, masked: &Masked<T>) {
        self.0.extend_from_slice(masked.as_ref());
    }

    /// Sets a big-endian number that was framed before its value was known, such as a message's length.
    pub fn set_u32(&mut self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        let place = self.0.get_mut(at..).and_then(|rest| rest.first_chunk_mut()).ok_or(OutOfBounds(at))?;
        *place = value.to_be_bytes();
        Ok(())
    }

    pub fn as_masked(&self) -> Masked<&[u8]> {
        Masked(&self.0)
    }

    pub fn into_masked(self) -> Masked<Vec<u8>> {
        Masked(self.0)
    }
}
