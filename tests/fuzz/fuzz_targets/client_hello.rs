//! The first bytes of a TLS client mean the same however they arrive, and a name taken from them is one that can be judged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::protocol::tls_passthrough::wire::HelloReader;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = HelloReader::default().feed(bytes).ok();
    let mut reader = HelloReader::default();
    let mut pieces = bytes.chunks(usize::from(size).max(1)).map(|piece| reader.feed(piece).ok());
    let pieced = pieces.find(|read| *read != Some(None)).unwrap_or(Some(None));
    assert_eq!(whole, pieced, "in pieces of {size}");
    if let Some(Some(hello)) = whole
        && let Some(name) = hello.server_name
    {
        assert!(
            name.len() <= 253
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        );
    }
});
