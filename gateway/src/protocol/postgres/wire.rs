//! PostgreSQL's frontend/backend protocol (version 3), as bytes and values: no socket, no clock.
//!
//! [`Inbox`] holds what was read from one side and cuts it into messages, however the stream was split; a message whose
//! length is no length, or larger than the gateway holds, is an error, one that is not whole yet is not. [`Fields`] reads a
//! message's body. The functions at the end write the few messages that the gateway itself sends. See the PostgreSQL
//! manual, chapter "Frontend/Backend Protocol", sections "Message Formats" and "Error and Notice Message Fields".

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The server's own limit for start-up packets (MAX_STARTUP_PACKET_LENGTH).
pub const MAX_STARTUP: usize = 10_000;
/// A message that must be looked at as a whole may be this large, header included.
pub const MAX_HELD: usize = 16 << 20;
/// The same for a client's messages with a text. It is more than is ever parsed, so that a text which is too long for that is
/// answered by a denial and not by the end of the session.
const MAX_TEXT: usize = 4 << 20;
/// The same for a client's other messages, which hold names and numbers, or a reason.
const MAX_SMALL: usize = 16 << 10;
/// Memory that the inboxes of all clients together may take beyond what each has for itself ([`OWN`]): what large messages
/// take until they are whole and dealt with.
pub const MAX_HELD_BY_ALL: usize = 128 << 20;
/// A message whose body need not be looked at is passed on in parts once it is larger than this.
pub const STREAM_ABOVE: usize = 16 << 10;
/// What a read asks for at least, and what a buffer shrinks back to.
const CHUNK: usize = 16 << 10;
/// An empty buffer larger than this gives its memory back.
const KEEP: usize = 256 << 10;
/// A client's inbox of this size costs the others nothing.
const OWN: usize = 64 << 10;
/// The server's own limit for a message (PQ_LARGE_MESSAGE_LIMIT).
const MAX_MESSAGE: usize = 0x3fff_ffff;
/// No server's command tag is as long (COMPLETION_TAG_BUFSIZE).
const MAX_TAG: usize = 64;
/// Tag and length.
pub const HEADER: usize = 5;

const CANCEL_CODE: u32 = 80_877_102;
const SSL_CODE: u32 = 80_877_103;
const GSSENC_CODE: u32 = 80_877_104;

/// Bytes of a name that servers compare (NAMEDATALEN, less the zero).
pub const MAX_NAME: usize = 63;

/// The newest minor version of protocol 3 that is spoken here. What it has over 3.0 is keys of any length; 3.1 was never made, and
/// is 3.0 to whoever asks for it.
pub const NEWEST_MINOR: u16 = 2;
/// Bytes of a key for cancelling in protocol 3.0.
pub const KEY: usize = 4;
/// The same in protocol 3.2 ("Message Formats", BackendKeyData).
const LONG_KEYS: RangeInclusive<usize> = KEY..=MAX_KEY;
/// No key is longer.
pub const MAX_KEY: usize = 256;

/// These bytes are not the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a message of type {tag:?} has the impossible length {length}", tag = *tag as char)]
    Length { tag: u8, length: u32 },
    #[error("a message of type {tag:?} has {length} bytes, more than the {most} that can be checked", tag = *tag as char)]
    TooLarge { tag: u8, length: usize, most: usize },
    #[error("a start-up packet has the impossible length {0}")]
    StartupLength(u32),
    #[error("the protocol version {0}.{1} is not spoken here")]
    Version(u16, u16),
    #[error("the body of a message does not have its type's form")]
    Body,
    #[error(
        "the name of a prepared statement or portal has {0} bytes; servers tell names apart by the first {MAX_NAME} only"
    )]
    Name(usize),
    #[error("the name \"weir_probe\" is the gateway's own in its clients' sessions; take another")]
    OwnName,
}

/// The name of the gateway's own statements, portals and savepoints in its clients' sessions: nothing of a client's has it. What is
/// left under it by a question that was interrupted must never be a client's to run.
pub const OWN_NAME: &[u8] = b"weir_probe";

/// What a connection's first packet asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    Tls,
    GssEncryption,
    Cancel { process: u32, key: &'a [u8] },
    Session { minor: u16, parameters: Vec<(&'a str, &'a str)> },
}

/// Length of the start-up packet that begins with these four bytes, these included.
pub fn startup_length(first: [u8; 4]) -> Result<usize, Malformed> {
    let length = u32::from_be_bytes(first);
    match usize::try_from(length) {
        Ok(whole @ 8..=MAX_STARTUP) => Ok(whole),
        _ => Err(Malformed::StartupLength(length)),
    }
}

/// Reads a whole start-up packet, its length included.
pub fn startup(packet: &[u8]) -> Result<Startup<'_>, Malformed> {
    let mut fields = Fields::new(packet.get(4..).ok_or(Malformed::Body)?);
    match fields.u32()? {
        SSL_CODE => fields.end().map(|()| Startup::Tls),
        GSSENC_CODE => fields.end().map(|()| Startup::GssEncryption),
        CANCEL_CODE => {
            let process = fields.u32()?;
            let key = fields.rest();
            if (1..=MAX_KEY).contains(&key.len()) { Ok(Startup::Cancel { process, key }) } else { Err(Malformed::Body) }
        }
        version => {
            let (major, minor) = ((version >> 16) as u16, (version & 0xffff) as u16);
            if major != 3 {
                return Err(Malformed::Version(major, minor));
            }
            Ok(Startup::Session { minor, parameters: startup_parameters(fields)? })
        }
    }
}

fn startup_parameters(mut fields: Fields<'_>) -> Result<Vec<(&str, &str)>, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = fields.text()?;
        if name.is_empty() {
            return fields.end().map(|()| parameters);
        }
        parameters.push((name, fields.text()?));
    }
}

/// What to do with a message whose header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It must be whole before anything is done with it.
    Whole,
    /// It may be passed on in parts.
    Stream,
}

/// The next piece of a stream. Ranges are for [`Inbox::bytes`] and stay valid until [`Inbox::compact`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A whole message: its tag, and where it lies, header included.
    Message(u8, Range<usize>),
    /// A part of a large message that is passed on as it comes; the first part begins with its header.
    Part(u8, Range<usize>),
    /// More bytes are needed.
    Incomplete,
}

/// Room for the large messages of all clients together. An agent has at most as much as it leaves: whatever one of them holds, there is
/// some for others.
#[derive(Debug)]
pub struct Room(Mutex<Shares>);

#[derive(Debug)]
struct Shares {
    left: usize,
    /// What is taken, by agents' names.
    taken: HashMap<Arc<str>, usize>,
}

/// The room, for one agent.
#[derive(Clone, Debug)]
pub struct Share {
    room: Arc<Room>,
    agent: Arc<str>,
}

/// The room is taken: whoever asks for more now must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "of the {} MiB that the gateway has for messages which clients have not sent to their end, this agent's share is taken; \
     try again later",
    MAX_HELD_BY_ALL >> 20
)]
pub struct NoRoom;

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self(Mutex::new(Shares { left: bytes, taken: HashMap::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Shares> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub fn new(room: &Arc<Room>, agent: &str) -> Self {
        Self { room: Arc::clone(room), agent: agent.into() }
    }

    fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut shares = self.room.lock();
        let left = shares.left.checked_sub(bytes).ok_or(NoRoom)?;
        let taken = shares.taken.get(&self.agent).copied().unwrap_or(0) + bytes;
        // What is small goes on longer.
        let most = if bytes <= OWN { left.saturating_mul(3) } else { left };
        if taken > most {
            return Err(NoRoom);
        }
        shares.left = left;
        shares.taken.insert(Arc::clone(&self.agent), taken);
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        let mut shares = self.room.lock();
        shares.left += bytes;
        if let Some(taken) = shares.taken.get_mut(&self.agent) {
            *taken -= bytes;
            if *taken == 0 {
                shares.taken.remove(&self.agent);
            }
        }
    }
}

/// How large a client's message of this type may be, header included. A Bind holds values, and a FunctionCall arguments.
pub fn most_of(tag: u8) -> usize {
    match tag {
        b'Q' | b'P' => MAX_TEXT,
        b'B' | b'F' => MAX_HELD,
        _ => MAX_SMALL,
    }
}

/// Whether a larger one, up to what the server itself takes, is read to its end and answered with an error. Of the others no
/// client in its senses sends a larger one: the server, too, ends the session.
fn is_passed_over(tag: u8) -> bool {
    most_of(tag) > MAX_SMALL
}

/// A message of a client's that was read to its end, and not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub tag: u8,
    /// Header included.
    pub length: usize,
}

/// What was read from one side and is not dealt with yet.
#[derive(Debug, Default)]
pub struct Inbox {
    /// All of it initialised; what was read lies in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Of the message that is being passed on in parts: its tag, and how many bytes are still to come.
    streaming: Option<(u8, usize)>,
    /// Of the message that is too large to be kept: what it is, and how many bytes are still to come.
    passing_over: Option<(PassedOver, usize)>,
    /// A client's: messages are limited by their types, and what is large takes its memory from there.
    room: Option<Share>,
    /// Bytes taken of the room.
    taken: usize,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.give_back(self.taken);
        }
    }
}

impl Inbox {
    /// Of a client.
    pub fn of_client(room: Share) -> Self {
        let mut inbox = Self::default();
        inbox.room = Some(room);
        inbox
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Space to read into; grows only as fast as bytes come, and to no more than the message at hand needs. Tell
    /// [`Inbox::filled`] how much was read.
    pub fn space(&mut self) -> Result<&mut [u8], NoRoom> {
        if self.buffer.len() - self.end < CHUNK / 2 {
            // Nothing moves here: ranges that were given out stay valid while more is read, by a request that waits for people.
            let needed = self.end.max(self.start + self.large_message().unwrap_or(0)) + CHUNK;
            let doubled = self.buffer.len().max(CHUNK / 2) * 2;
            self.resize(needed.min(doubled))?;
        }
        Ok(&mut self.buffer[self.end..])
    }

    /// The only place where the buffer's size changes.
    fn resize(&mut self, size: usize) -> Result<(), NoRoom> {
        let taken = size.saturating_sub(OWN);
        if let Some(room) = &self.room {
            match taken.checked_sub(self.taken) {
                Some(more) => room.take(more)?,
                None => room.give_back(self.taken - taken),
            }
            self.taken = taken;
        }
        if size < self.buffer.len() {
            self.buffer.truncate(size);
            self.buffer.shrink_to_fit();
        } else {
            self.buffer.reserve_exact(size - self.buffer.len());
            self.buffer.resize(size, 0);
        }
        Ok(())
    }

    pub fn filled(&mut self, read: usize) {
        self.end = (self.end + read).min(self.buffer.len());
    }

    /// Forgets what was dealt with. Ranges given out before are void.
    pub fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && (self.start >= self.len() || self.large_message().is_some()) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        // Also where the next message has begun: it may not end for a long time.
        let keep = if self.room.is_some() { OWN } else { KEEP };
        if self.buffer.len() > keep && self.start == 0 && self.end <= CHUNK && self.large_message().is_none() {
            // Getting smaller needs no room.
            let _ = self.resize(self.end + CHUNK);
        }
    }

    /// Length of the message that has begun and is not whole, if it is large.
    fn large_message(&self) -> Option<usize> {
        let (tag, length) = header(&self.buffer[self.start..self.end]).ok()??;
        (self.is_held() && length > OWN.max(self.len()) && length <= self.most(tag)).then_some(length)
    }

    /// Whether what is there begins with a message's header.
    fn is_held(&self) -> bool {
        self.streaming.is_none() && self.passing_over.is_none()
    }

    fn most(&self, tag: u8) -> usize {
        if self.room.is_some() { most_of(tag) } else { MAX_HELD }
    }

    /// Whether what is there is only the beginning of a message that must be whole.
    pub fn wants_more(&self) -> bool {
        if !self.is_held() {
            return false;
        }
        match header(&self.buffer[self.start..self.end]) {
            Ok(Some((tag, length))) => (self.len() + 1..=self.most(tag)).contains(&length),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// The type of the message that begins next, once its first byte has come.
    pub fn next_tag(&self) -> Option<u8> {
        if self.is_held() { self.buffer[self.start..self.end].first().copied() } else { None }
    }

    /// Whether the next piece is more of a message of which parts were given out.
    pub fn is_within_message(&self) -> bool {
        self.streaming.is_some()
    }

    /// Cuts the next piece off. `handling` says, by tag and length, what may be passed on in parts.
    pub fn next(&mut self, handling: impl FnOnce(u8, usize) -> Handling) -> Result<Piece, Malformed> {
        if let Some((tag, left)) = self.streaming {
            return Ok(self.part(tag, left));
        }
        if let Some((message, left)) = self.passing_over {
            self.pass_over(message, left);
            return Ok(Piece::Incomplete);
        }
        let Some((tag, length)) = header(&self.buffer[self.start..self.end])? else { return Ok(Piece::Incomplete) };
        if self.len() >= length {
            return Ok(Piece::Message(tag, self.take(length)));
        }
        if length > STREAM_ABOVE && handling(tag, length) == Handling::Stream {
            return Ok(self.part(tag, length));
        }
        let most = self.most(tag);
        if length > most && self.room.is_some() && is_passed_over(tag) {
            self.pass_over(PassedOver { tag, length }, length);
            return Ok(Piece::Incomplete);
        }
        if length > most {
            return Err(Malformed::TooLarge { tag, length, most });
        }
        Ok(Piece::Incomplete)
    }

    /// The message that [`Inbox::next`] has just passed over, if all of it has come. It takes no memory.
    pub fn passed_over(&mut self) -> Option<PassedOver> {
        self.passing_over.take_if(|(_, left)| *left == 0).map(|(message, _)| message)
    }

    fn pass_over(&mut self, message: PassedOver, left: usize) {
        let now = left.min(self.len());
        self.start += now;
        self.passing_over = Some((message, left - now));
    }

    fn part(&mut self, tag: u8, left: usize) -> Piece {
        let now = left.min(self.len());
        self.streaming = (left > now).then_some((tag, left - now));
        if now == 0 { Piece::Incomplete } else { Piece::Part(tag, self.take(now)) }
    }

    fn take(&mut self, length: usize) -> Range<usize> {
        let range = self.start..self.start + length;
        self.start = range.end;
        range
    }
}

/// Tag and length of the message at the beginning of `bytes`, header included; None if its header is not whole yet.
pub fn header(bytes: &[u8]) -> Result<Option<(u8, usize)>, Malformed> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(body @ 4..=MAX_MESSAGE) => Ok(Some((tag, body + 1))),
        _ => Err(Malformed::Length { tag, length }),
    }
}

/// Reads the fields of a message's body, front to back.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The fields of a whole message.
    pub fn of(message: &'a [u8]) -> Self {
        Self(message.get(HEADER..).unwrap_or_default())
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Body)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Body)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// An `Int16` that counts what follows.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        self.u16().map(usize::from)
    }

    /// A value: its length and its bytes, or NULL.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let length = self.array().map(i32::from_be_bytes)?;
        if length == -1 {
            return Ok(None);
        }
        self.take(usize::try_from(length).map_err(|_| Malformed::Body)?).map(Some)
    }

    /// A string's bytes, without the zero that ends it.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed::Body)?;
        let string = self.take(length)?;
        self.take(1)?;
        Ok(string)
    }

    /// The name of a prepared statement or portal. Servers compare as many bytes of it as [`MAX_NAME`] and no more: two longer
    /// ones that are one to the server could be two here, and one be judged where the other runs.
    pub fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let name = self.string()?;
        match name {
            _ if name.len() > MAX_NAME => Err(Malformed::Name(name.len())),
            OWN_NAME => Err(Malformed::OwnName),
            _ => Ok(name),
        }
    }

    /// A string that must be UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed::Body)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Body) }
    }
}

/// One column of a RowDescription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Vec<u8>,
    /// The table it plainly comes from, 0 if none, and its number there.
    pub table: u32,
    pub attribute: i16,
    pub type_oid: u32,
    /// What the type is bounded by, in its own way; -1 for nothing.
    pub modifier: i32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// Reads a RowDescription.
pub fn row_description(message: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut fields = Fields::of(message);
    let count = fields.count()?;
    // Every column takes 19 bytes at least: what a length promises is not what is allocated.
    let mut columns = Vec::with_capacity(count.min(message.len() / 19 + 1));
    for _ in 0..count {
        let name = fields.string()?.to_vec();
        let (table, attribute, type_oid) = (fields.u32()?, fields.i16()?, fields.u32()?);
        let (_size, modifier, format) = (fields.i16()?, fields.u32()?.cast_signed(), fields.i16()?);
        if !matches!(format, 0 | 1) {
            return Err(Malformed::Body);
        }
        columns.push(Column { name, table, attribute, type_oid, modifier, format });
    }
    fields.end()?;
    Ok(columns)
}

/// How many columns a DataRow has. The values after that are read to the end: each must lie in the message.
pub fn row_columns(message: &[u8]) -> Result<usize, Malformed> {
    let mut fields = Fields::of(message);
    let count = fields.count()?;
    for _ in 0..count {
        fields.value()?;
    }
    fields.end()?;
    Ok(count)
}

/// Whether a message that carries no values is what its type says, and nothing else: it is passed on as it is.
pub fn check_form(tag: u8, message: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::of(message);
    match tag {
        b'1' | b'2' | b'3' | b'I' | b'c' | b'n' | b's' => {}
        b'C' => return command_tag(message).map(drop),
        b'G' | b'H' => {
            fields.u8()?;
            formats(&mut fields)?;
        }
        b't' => {
            // Of more parameters than it can count, which no Bind can give, the server tells the count's lower half.
            let (count, types) = (fields.count()?, fields.rest().len());
            if types % 4 != 0 || (types / 4) % (1 << 16) != count {
                return Err(Malformed::Body);
            }
        }
        b'Z' => {
            TransactionState::from_byte(fields.u8()?).ok_or(Malformed::Body)?;
        }
        // What it describes is read elsewhere.
        _ => return Ok(()),
    }
    fields.end()
}

/// The tag of a CommandComplete: capital words and numbers (the server's `cmdtaglist.h`). It is told and recorded as it is, so
/// nothing else may come by this way.
pub fn command_tag(message: &[u8]) -> Result<&str, Malformed> {
    let mut fields = Fields::of(message);
    let tag = fields.text()?;
    fields.end()?;
    let is_word = |word: &str| {
        word.bytes().all(|byte| byte.is_ascii_uppercase())
            || word.bytes().all(|byte| byte.is_ascii_digit())
            || word == "???"
    };
    if tag.len() <= MAX_TAG && tag.split(' ').all(is_word) { Ok(tag) } else { Err(Malformed::Body) }
}

/// A Parse message.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub query: &'a [u8],
    /// The types that the client gives its parameters, as they are in the message: a count and an oid for each.
    pub types: &'a [u8],
}

pub fn parse(message: &[u8]) -> Result<Parse<'_>, Malformed> {
    let mut fields = Fields::of(message);
    let (name, query) = (fields.name()?, fields.string()?);
    let types = fields.0;
    for _ in 0..fields.count()? {
        fields.u32()?;
    }
    fields.end()?;
    Ok(Parse { name, query, types })
}

/// A Bind message. What comes after the names is kept as it is: it is what an approval is bound to.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub parameter_formats: Vec<i16>,
    pub parameters: Vec<Option<&'a [u8]>>,
    pub result_formats: Vec<i16>,
    pub values: &'a [u8],
}

pub fn bind(message: &[u8]) -> Result<Bind<'_>, Malformed> {
    let mut fields = Fields::of(message);
    let (portal, statement) = (fields.name()?, fields.name()?);
    bound(portal, statement, fields.0)
}

/// A Bind message again, from its names and what is behind them.
pub fn bound<'a>(portal: &'a [u8], statement: &'a [u8], values: &'a [u8]) -> Result<Bind<'a>, Malformed> {
    let mut fields = Fields(values);
    let parameter_formats = formats(&mut fields)?;
    let count = fields.count()?;
    let mut parameters = Vec::with_capacity(count.min(values.len() / 4 + 1));
    for _ in 0..count {
        parameters.push(fields.value()?);
    }
    let result_formats = formats(&mut fields)?;
    fields.end()?;
    Ok(Bind { portal, statement, parameter_formats, parameters, result_formats, values })
}

/// The arguments of a FunctionCall message as [`bound`] takes them: the same, but for the format of what comes back.
pub fn call_arguments(message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut fields = Fields::of(message);
    let _function = fields.u32()?;
    let (arguments, _format) = fields.rest().split_last_chunk::<2>().ok_or(Malformed::Body)?;
    Ok([arguments, &[0, 0]].concat())
}

fn formats(fields: &mut Fields<'_>) -> Result<Vec<i16>, Malformed> {
    let count = fields.count()?;
    (0..count).map(|_| fields.i16()).collect()
}

/// The fields of an ErrorResponse or NoticeResponse, by their letter.
pub fn report_fields(message: &[u8]) -> Result<Vec<(u8, &[u8])>, Malformed> {
    let mut fields = Fields::of(message);
    let mut report = Vec::new();
    loop {
        match fields.u8()? {
            0 => return Ok(report),
            letter => report.push((letter, fields.string()?)),
        }
    }
}

/// The SQLSTATE of an ErrorResponse or NoticeResponse, if it is one: five capitals and digits.
pub fn sqlstate(message: &[u8]) -> Option<&str> {
    let fields = report_fields(message).ok()?;
    let (_, code) = fields.into_iter().find(|&(letter, _)| letter == b'C')?;
    let code = std::str::from_utf8(code).ok()?;
    is_sqlstate(code).then_some(code)
}

pub fn is_sqlstate(code: &str) -> bool {
    code.len() == 5 && code.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
}

/// Appends a message: `body` writes what follows the length.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    sized(out, body);
}

/// Appends an `Int32` length, itself included, and what `body` writes.
fn sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its zero. A zero inside ends nothing: it is left out.
pub fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().copied().filter(|&byte| byte != 0));
    out.push(0);
}

/// How bad a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The connection ends.
    Fatal,
    Error,
    Notice,
}

impl Severity {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Fatal => b"FATAL",
            Self::Error => b"ERROR",
            Self::Notice => b"NOTICE",
        }
    }
}

/// Something that the gateway itself tells a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    pub fn new(severity: Severity, code: &str, message: impl Into<String>) -> Self {
        Self { severity, code: code.to_owned(), message: message.into(), detail: None, hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends it as an ErrorResponse or a NoticeResponse.
    pub fn write(&self, out: &mut Vec<u8>) {
        let tag = if self.severity == Severity::Notice { b'N' } else { b'E' };
        message(out, tag, |out| {
            let mut field = |letter: u8, text: &[u8]| {
                out.push(letter);
                put_string(out, text);
            };
            field(b'S', self.severity.text());
            field(b'V', self.severity.text());
            field(b'C', self.code.as_bytes());
            field(b'M', self.message.as_bytes());
            if let Some(detail) = &self.detail {
                field(b'D', detail.as_bytes());
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint.as_bytes());
            }
            out.push(0);
        });
    }
}

/// Where a session is between transactions: what ReadyForQuery says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    Idle,
    Open,
    Failed,
}

impl TransactionState {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

pub fn ready_for_query(out: &mut Vec<u8>, state: TransactionState) {
    message(out, b'Z', |out| out.push(state.byte()));
}

/// A NotificationResponse with its payload taken out.
pub fn withheld_notification(out: &mut Vec<u8>, notification: &[u8]) -> Result<(), Malformed> {
    let mut fields = Fields::of(notification);
    let (process, channel) = (fields.u32()?, fields.string()?);
    fields.string()?;
    fields.end()?;
    message(out, b'A', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        put_string(out, channel);
        put_string(out, b"");
    });
    Ok(())
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    message(out, b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
}

pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    message(out, b'S', |out| {
        put_string(out, name.as_bytes());
        put_string(out, value.as_bytes());
    });
}

pub fn backend_key_data(out: &mut Vec<u8>, process: u32, key: &[u8]) {
    message(out, b'K', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// Reads a NegotiateProtocolVersion of a server that was asked for this minor version, and for no options: the one that it speaks,
/// which must be an older one.
pub fn negotiated(message: &[u8], asked: u16) -> Result<u16, Malformed> {
    let mut fields = Fields::of(message);
    let (major, minor, unknown) = (fields.u16()?, fields.u16()?, fields.u32()?);
    fields.end()?;
    match (major, minor) {
        // Servers that tell an older version speak 3.0: there is no 3.1.
        (3, 0) if asked > 0 && unknown == 0 => Ok(minor),
        (3, 0) => Err(Malformed::Body),
        _ => Err(Malformed::Version(major, minor)),
    }
}

/// Reads a BackendKeyData: the process, and its key of as many bytes as the version has.
pub fn backend_key(message: &[u8], minor: u16) -> Result<(u32, &[u8]), Malformed> {
    let mut fields = Fields::of(message);
    let (process, key) = (fields.u32()?, fields.rest());
    let is_key = if minor < 2 { key.len() == KEY } else { LONG_KEYS.contains(&key.len()) };
    if is_key { Ok((process, key)) } else { Err(Malformed::Body) }
}

fn version(minor: u16) -> u32 {
    3 << 16 | u32::from(minor)
}

/// NegotiateProtocolVersion: this minor version is spoken, and none of these options.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, minor: u16, unknown: &[&str]) {
    message(out, b'v', |out| {
        out.extend_from_slice(&version(minor).to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown.len()).unwrap_or(u32::MAX).to_be_bytes());
        for name in unknown {
            put_string(out, name.as_bytes());
        }
    });
}

/// RowDescription, as far as [`Column`] knows; `formats` as a Bind asked for them, where that is not in the columns.
pub fn put_row_description(out: &mut Vec<u8>, columns: &[Column], formats: Option<&[i16]>) {
    message(out, b'T', |out| {
        out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (index, column) in columns.iter().enumerate() {
            let format = match formats {
                None => column.format,
                Some([]) => 0,
                Some([all]) => *all,
                Some(each) => each.get(index).copied().unwrap_or(0),
            };
            put_string(out, &column.name);
            out.extend_from_slice(&column.table.to_be_bytes());
            out.extend_from_slice(&column.attribute.to_be_bytes());
            out.extend_from_slice(&column.type_oid.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&format.to_be_bytes());
        }
    });
}

/// A start-up packet that opens a session of protocol 3.
pub fn session_startup<'a>(out: &mut Vec<u8>, minor: u16, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    sized(out, |out| {
        out.extend_from_slice(&version(minor).to_be_bytes());
        for (name, value) in parameters {
            put_string(out, name.as_bytes());
            put_string(out, value.as_bytes());
        }
        out.push(0);
    });
}

pub fn tls_request(out: &mut Vec<u8>) {
    sized(out, |out| out.extend_from_slice(&SSL_CODE.to_be_bytes()));
}

pub fn cancel_request(out: &mut Vec<u8>, process: u32, key: &[u8]) {
    sized(out, |out| {
        out.extend_from_slice(&CANCEL_CODE.to_be_bytes());
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(key);
    });
}

#[cfg(test)]
mod tests;
