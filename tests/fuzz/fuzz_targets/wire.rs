//! PostgreSQL's messages are the same however the stream is split, every body is read without a panic, and a recorded reply
//! can always be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::protocol::postgres::wire::{self, Handling, Inbox, Malformed, Piece};

/// All whole messages of a stream that comes in pieces, and what ended it.
fn messages(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, Option<Malformed>) {
    let (mut inbox, mut found) = (Inbox::default(), Vec::new());
    for piece in bytes.chunks(size) {
        let mut rest = piece;
        while !rest.is_empty() {
            let space = inbox.space().expect("an input is far smaller than the room that messages share");
            let now = rest.len().min(space.len());
            space[..now].copy_from_slice(&rest[..now]);
            inbox.filled(now);
            rest = &rest[now..];
        }
        loop {
            match inbox.next(|_, _| Handling::Whole) {
                Ok(Piece::Message(_, range) | Piece::Part(_, range)) => found.push(inbox.bytes(range).to_vec()),
                Ok(Piece::Incomplete) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        inbox.compact();
    }
    (found, None)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = messages(bytes, bytes.len().max(1));
    assert_eq!(whole, messages(bytes, usize::from(size).max(1)), "in pieces of {size}");
    for message in &whole.0 {
        let _ = wire::parse(message);
        let _ = wire::bind(message);
        let _ = wire::row_description(message);
        let _ = wire::report_fields(message);
    }
    let _ = wire::startup(bytes);
    let _ = weir::protocol::postgres::render_reply(bytes);
});
