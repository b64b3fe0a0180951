use super::*;

#[test]
fn names_that_servers_would_cut_are_refused() {
    let header = [0; HEADER];
    let message_of = |name: &[u8]| [&header[..], name, b"\0SELECT 1\0\0\0"].concat();
    let longest = [b'n'; MAX_NAME];
    assert_eq!(parse(&message_of(&longest)).unwrap().name, &longest);
    assert_eq!(parse(&message_of(&[b'n'; MAX_NAME + 1])), Err(Malformed::Name(MAX_NAME + 1)));
    let bind_of = |portal: &[u8], statement: &[u8]| [&header[..], portal, b"\0", statement, b"\0\0\0\0\0\0\0"].concat();
    assert!(bind(&bind_of(&longest, &longest)).is_ok());
    for (portal, statement) in [(64, 1), (1, 64)] {
        let bound = bind_of(&vec![b'n'; portal], &vec![b'n'; statement]);
        assert_eq!(bind(&bound), Err(Malformed::Name(64)));
    }
}

/// A small generator, so that a failure is the same failure the next time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

fn stream(random: &mut Random) -> (Vec<u8>, Vec<(u8, usize)>) {
    let (mut bytes, mut messages) = (Vec::new(), Vec::new());
    for _ in 0..random.below(40) {
        let tag = b"QPBEDd"[random.below(6)];
        let length = if random.below(8) == 0 { random.below(60_000) } else { random.below(60) };
        message(&mut bytes, tag, |out| out.extend((0u8..251).cycle().take(length)));
        messages.push((tag, length + HEADER));
    }
    (bytes, messages)
}

fn handling(tag: u8, _length: usize) -> Handling {
    if tag == b'd' { Handling::Stream } else { Handling::Whole }
}

#[test]
fn any_split_gives_the_same_messages_and_the_same_bytes() {
    let mut random = Random(0x5eed);
    for _ in 0..200 {
        let (bytes, expected) = stream(&mut random);
        let mut inbox = Inbox::default();
        let (mut passed, mut messages) = (Vec::new(), Vec::new());
        let mut rest = &bytes[..];
        let mut part = 0;
        while !rest.is_empty() {
            let most = if random.below(4) == 0 { 1 } else { 5000 };
            let space = inbox.space().unwrap();
            let now = (1 + random.below(most)).min(rest.len()).min(space.len());
            space[..now].copy_from_slice(&rest[..now]);
            rest = &rest[now..];
            inbox.filled(now);
            loop {
                match inbox.next(handling).unwrap() {
                    Piece::Incomplete => break,
                    Piece::Message(tag, range) => {
                        messages.push((tag, range.len()));
                        passed.extend_from_slice(inbox.bytes(range));
                    }
                    Piece::Part(tag, range) => {
                        assert_eq!(tag, b'd');
                        part += range.len();
                        passed.extend_from_slice(inbox.bytes(range));
                        if inbox.streaming.is_none() {
                            messages.push((tag, std::mem::take(&mut part)));
                        }
                    }
                }
                inbox.compact();
            }
        }
        assert_eq!(passed, bytes);
        assert_eq!(messages, expected);
        assert!(inbox.is_empty());
    }
}

#[test]
fn impossible_lengths_are_errors_and_short_input_is_not() {
    for cut in 0..HEADER {
        assert_eq!(header(&b"Q\0\0\0\x05"[..cut]), Ok(None));
    }
    assert!(matches!(header(b"Q\0\0\0\x03"), Err(Malformed::Length { tag: b'Q', length: 3 })));
    assert!(matches!(header(b"Q\x7f\xff\xff\xff"), Err(Malformed::Length { .. })));
    let mut inbox = Inbox::default();
    inbox.space().unwrap()[..5].copy_from_slice(b"Q\x04\0\0\0");
    inbox.filled(5);
    assert!(matches!(inbox.next(handling), Err(Malformed::TooLarge { tag: b'Q', .. })));
    assert!(inbox.buffer.len() <= CHUNK);
}

/// Reads the bytes as they would come from a socket; the largest the buffer was.
fn read(inbox: &mut Inbox, mut bytes: &[u8]) -> Result<usize, NoRoom> {
    let mut largest = 0;
    while !bytes.is_empty() {
        let space = inbox.space()?;
        let now = space.len().min(bytes.len());
        space[..now].copy_from_slice(&bytes[..now]);
        bytes = &bytes[now..];
        inbox.filled(now);
        largest = largest.max(inbox.buffer.capacity());
    }
    Ok(largest)
}

fn message_of(tag: u8, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, tag, |out| out.resize(out.len() + length - HEADER, b'x'));
    bytes
}

#[test]
fn a_message_takes_what_it_needs_and_gives_it_back() {
    let room = Arc::new(Room::new(MAX_HELD_BY_ALL));
    let share = Share::new(&room, "coder");
    let mut inbox = Inbox::of_client(share.clone());
    let bytes = message_of(b'B', 9 << 20);
    let largest = read(&mut inbox, &bytes).unwrap();
    assert!(largest <= bytes.len() + CHUNK, "{largest}");
    assert!(room.lock().left < MAX_HELD_BY_ALL);
    assert!(matches!(inbox.next(handling), Ok(Piece::Message(b'B', _))));
    // With the beginning of the next one behind it, too.
    let next = message_of(b'Q', 1 << 20);
    read(&mut inbox, &next[..3]).unwrap();
    inbox.compact();
    assert!(inbox.buffer.capacity() <= 2 * CHUNK, "{}", inbox.buffer.capacity());
    assert_eq!(room.lock().left, MAX_HELD_BY_ALL);
    read(&mut inbox, &next[3..]).unwrap();
    assert!(matches!(inbox.next(handling), Ok(Piece::Message(b'Q', range)) if range.len() == 1 << 20));
    drop(inbox);
    assert_eq!(room.lock().left, MAX_HELD_BY_ALL);
}

#[test]
fn all_clients_together_have_so_much_room_and_no_more() {
    let room = Arc::new(Room::new(24 << 20));
    let share = Share::new(&room, "coder");
    let half = &message_of(b'B', 8 << 20)[..7 << 20];
    let mut first = Inbox::of_client(share.clone());
    assert!(read(&mut first, half).is_ok());
    let mut second = Inbox::of_client(share.clone());
    assert_eq!(read(&mut second, half), Err(NoRoom));
    // Another agent has some of what is left; one more of the rest.
    let small = &message_of(b'B', 4 << 20)[..3 << 20];
    let others: Vec<Inbox> = ["tester", "writer"]
        .iter()
        .map(|agent| {
            let mut inbox = Inbox::of_client(Share::new(&room, agent));
            assert_eq!(read(&mut inbox, half), Err(NoRoom), "{agent}");
            drop(inbox);
            let mut inbox = Inbox::of_client(Share::new(&room, agent));
            assert!(read(&mut inbox, small).is_ok(), "{agent}");
            inbox
        })
        .collect();
    // What is small goes on.
    assert!(read(&mut Inbox::of_client(share.clone()), &message_of(b'Q', 60_000)).is_ok());
    drop((first, second, others));
    assert!(room.lock().taken.is_empty());
    assert!(read(&mut Inbox::of_client(share.clone()), half).is_ok());
    // What the target sends is bounded by what is read of it at a time.
    assert!(read(&mut Inbox::default(), half).is_ok());
}

#[test]
fn a_clients_message_is_as_large_as_its_type_may_be() {
    let room = Arc::new(Room::new(MAX_HELD_BY_ALL));
    let share = Share::new(&room, "coder");
    for (tag, most) in [(b'E', MAX_SMALL), (b'~', MAX_SMALL)] {
        for (length, taken) in [(most, true), (most + 1, false)] {
            let mut inbox = Inbox::of_client(share.clone());
            read(&mut inbox, &message_of(tag, length)[..100]).unwrap();
            assert_eq!(inbox.next(handling).is_ok(), taken, "{tag} {length}");
        }
    }
}

#[test]
fn a_text_or_values_beyond_the_bound_are_passed_over_without_memory() {
    let room = Arc::new(Room::new(MAX_HELD_BY_ALL));
    let share = Share::new(&room, "coder");
    for (tag, most) in [(b'Q', MAX_TEXT), (b'P', MAX_TEXT), (b'B', MAX_HELD), (b'F', MAX_HELD)] {
        let length = most + 1;
        let mut inbox = Inbox::of_client(share.clone());
        let bytes = [message_of(tag, length), message_of(b'S', HEADER)].concat();
        let mut passed_over = Vec::new();
        for part in bytes.chunks(100_000) {
            read(&mut inbox, part).unwrap();
            assert!(!inbox.wants_more(), "{tag}");
            while !inbox.is_empty() && passed_over.is_empty() {
                assert_eq!(inbox.next(handling), Ok(Piece::Incomplete));
                passed_over.extend(inbox.passed_over());
            }
            inbox.compact();
        }
        assert_eq!(passed_over, [PassedOver { tag, length }]);
        assert!(matches!(inbox.next(handling), Ok(Piece::Message(b'S', _))));
        assert!(inbox.buffer.capacity() < 400_000, "{}", inbox.buffer.capacity());
    }
    // The server's own bound ends the session.
    assert!(header(b"Q\x3f\xff\xff\xff").is_ok());
    assert!(matches!(header(b"Q\x40\0\0\0"), Err(Malformed::Length { .. })));
}

/// What stands in the middle of a message is no header, whatever it looks like.
#[test]
fn the_middle_of_a_message_asks_for_no_more() {
    let mut inbox = Inbox::of_client(Share::new(&Arc::new(Room::new(MAX_HELD_BY_ALL)), "coder"));
    read(&mut inbox, b"d\0\x10\0\0data").unwrap();
    assert!(matches!(inbox.next(|_, _| Handling::Stream), Ok(Piece::Part(b'd', _))));
    read(&mut inbox, b"B\0\xff\0\0").unwrap();
    assert!(!inbox.wants_more() && inbox.large_message().is_none());
}

#[test]
fn startup_packets_are_read() {
    let mut packet = Vec::new();
    session_startup(&mut packet, 2, [("user", "a"), ("database", "b")]);
    assert_eq!(startup_length(packet[..4].try_into().unwrap()), Ok(packet.len()));
    let parameters = vec![("user", "a"), ("database", "b")];
    assert_eq!(startup(&packet), Ok(Startup::Session { minor: 2, parameters }));
    for cut in 8..packet.len() {
        assert_eq!(startup(&packet[..cut]), Err(Malformed::Body));
    }
    let mut packet = Vec::new();
    cancel_request(&mut packet, 7, &[1, 2, 3, 4, 5]);
    assert_eq!(startup(&packet), Ok(Startup::Cancel { process: 7, key: &[1, 2, 3, 4, 5] }));
    for (length, is_key) in [(0, false), (1, true), (MAX_KEY, true), (MAX_KEY + 1, false)] {
        let mut packet = Vec::new();
        cancel_request(&mut packet, 7, &vec![1; length]);
        assert_eq!(startup(&packet).is_ok(), is_key, "{length}");
    }
    let mut packet = Vec::new();
    tls_request(&mut packet);
    assert_eq!(startup(&packet), Ok(Startup::Tls));
    assert_eq!(startup_length([0, 0, 0, 7]), Err(Malformed::StartupLength(7)));
    assert_eq!(startup_length([0x47, 0x45, 0x54, 0x20]), Err(Malformed::StartupLength(0x4745_5420)));
    assert_eq!(startup(&[0, 0, 0, 8, 0, 2, 0, 0]), Err(Malformed::Version(2, 0)));
}

#[test]
fn a_server_speaks_what_it_was_asked_for_or_3_0() {
    let told = |body: &[u8], asked| {
        let mut whole = Vec::new();
        message(&mut whole, b'v', |out| out.extend_from_slice(body));
        negotiated(&whole, asked)
    };
    assert_eq!(told(&[0, 3, 0, 0, 0, 0, 0, 0], 2), Ok(0));
    // A newer one, what was asked for, one that never was, another protocol.
    for version in [[0, 3, 0, 3], [0, 3, 0, 2], [0, 3, 0, 1], [0, 2, 0, 0], [0, 4, 0, 0]] {
        let body = [&version[..], &[0; 4]].concat();
        assert!(matches!(told(&body, 2), Err(Malformed::Version(..))), "{version:?}");
    }
    for body in [&[0, 3, 0, 0, 0, 0, 0, 1][..], &[0, 3, 0, 0, 0, 0, 0, 0, 0], &[0, 3, 0, 0], &[]] {
        assert_eq!(told(body, 2), Err(Malformed::Body), "{body:?}");
    }
    assert_eq!(told(&[0, 3, 0, 0, 0, 0, 0, 0], 0), Err(Malformed::Body), "nobody asked");
    for (minor, length, is_key) in [
        (0, 3, false),
        (0, 4, true),
        (0, 5, false),
        (0, 32, false),
        (2, 0, false),
        (2, 3, false),
        (2, 4, true),
        (2, 32, true),
        (2, MAX_KEY, true),
        (2, MAX_KEY + 1, false),
    ] {
        let mut whole = Vec::new();
        backend_key_data(&mut whole, 7, &vec![9; length]);
        let read = backend_key(&whole, minor);
        assert_eq!(read.ok(), is_key.then_some((7, &vec![9; length][..])), "{minor} {length}");
    }
}

#[test]
fn bodies_that_promise_more_than_they_hold_are_malformed() {
    let mut whole = Vec::new();
    message(&mut whole, b'B', |out| {
        out.extend_from_slice(b"portal\0statement\0");
        out.extend_from_slice(&[0, 1, 0, 1, 0, 1, 0, 0, 0, 2, b'4', b'2', 0, 0]);
    });
    let read = bind(&whole).unwrap();
    assert_eq!(read.parameters, [Some(&b"42"[..])]);
    assert_eq!((read.portal, read.statement), (&b"portal"[..], &b"statement"[..]));
    for cut in HEADER..whole.len() {
        assert_eq!(bind(&whole[..cut]), Err(Malformed::Body), "{cut}");
    }
    let mut promise = Vec::new();
    message(&mut promise, b'T', |out| out.extend_from_slice(&[0xff, 0xff]));
    assert_eq!(row_description(&promise), Err(Malformed::Body));
}

#[test]
fn a_report_reads_back() {
    let mut out = Vec::new();
    Report::new(Severity::Error, "42501", "no\0pe").with_hint("ask").write(&mut out);
    assert_eq!(header(&out).unwrap(), Some((b'E', out.len())));
    assert_eq!(sqlstate(&out), Some("42501"));
    assert!(report_fields(&out).unwrap().contains(&(b'M', &b"nope"[..])));
}
