//! Whatever an agent sends as a query: an answer is one to it, fits what the client takes, and can be read again.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use weir::dns::message::{Question, Transport, Unanswerable};

const RESPONSE: u8 = 0x80;
const AUTHENTIC: u8 = 0x20;
/// Every octet of the longest name escaped, as `\ddd`.
const MAX_NAME: usize = 4 * 255;

fuzz_target!(|query: &[u8]| {
    let question = match Question::read(query) {
        Ok(question) => question,
        Err(Unanswerable::Ignore) => return,
        Err(Unanswerable::Error(answer)) => return is_answer(query, &answer),
    };
    let name = question.name();
    assert!(name.len() <= MAX_NAME && name.is_ascii() && !name.contains(char::is_control), "{name:?}");
    assert!(name.bytes().all(|byte| !byte.is_ascii_uppercase()));
    let (_, asked) = question.wanted();
    assert!(name.ends_with(&asked));

    let v4 = (0..40).map(|n| IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)));
    let v6 = (0..40).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
    let addresses: Vec<IpAddr> = v4.chain(v6).collect();
    let (cut, given) = question.addresses(&addresses, 30, Transport::Udp);
    let (whole, all) = question.addresses(&addresses, 30, Transport::Tcp);
    assert!(cut.len() <= 1232 && given.len() <= all.len() && all.starts_with(&given));
    for answer in
        [cut, whole, question.refuse(), question.fail(), question.no_name(), question.services(&[], 30, Transport::Udp)]
    {
        is_answer(query, &answer);
    }
});

fn is_answer(query: &[u8], answer: &[u8]) {
    assert_eq!(answer[..2], query[..2], "the id");
    assert!(answer[2] & RESPONSE != 0 && answer[3] & AUTHENTIC == 0);
    // An answer is nothing to be answered.
    assert_eq!(Question::read(answer).unwrap_err(), Unanswerable::Ignore);
}
