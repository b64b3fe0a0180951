//! Where no rule or mask applies, the bytes that reach the target are those that the client sent, and the bytes that reach the
//! client are those of the target, however either stream is split. Seen at the database's end, with a tap in front of it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use system_tests::env::free_port;
use system_tests::postgres::NAME;
use system_tests::process::{PATIENCE, wait_until};
use system_tests::shop::{POLICY, Shop};

/// What the gateway itself says last.
const GOODBYE: &[u8] = b"X\0\0\0\x04";

/// Passes everything on to the database, in pieces of a size, and notes what clients sent.
struct Tap {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    fn new(database: u16, piece: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", free_port().unwrap())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, database) = (client.unwrap(), TcpStream::connect(("127.0.0.1", database)).unwrap());
                let (from, to, notes) =
                    (client.try_clone().unwrap(), database.try_clone().unwrap(), Arc::clone(&notes));
                thread::spawn(move || pass(from, to, piece, |bytes| notes.lock().unwrap().extend_from_slice(bytes)));
                thread::spawn(move || pass(database, client, piece, |_| {}));
            }
        });
        Self { port, heard }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, piece: usize, note: impl Fn(&[u8])) {
    let mut chunk = [0; 4096];
    to.set_nodelay(true).unwrap();
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        note(&chunk[..read]);
        if chunk[..read].chunks(piece).any(|part| to.write_all(part).is_err()) {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// Sends one conversation in pieces of the size in its first line, and prints it and what came back.
const CLIENT: &str = r#"
import hashlib, threading
piece = int(sys.stdin.readline())
def described(name): return msg(b"D", b"P" + name + b"\0")
def session_of(number):
    out = query(b"SELECT %d" % number) + query(b"SELECT item FROM orders ORDER BY id; SELECT 2 /* " + b"x" * (number * 37) + b" */")
    out += parse(b"", b"SELECT generate_series(1, %d)" % number) + bind(b"", b"") + described(b"") + execute(b"") + sync
    out += parse(b"s%d" % number, b"SELECT 'v'::text, $1::int") + msg(b"B", b"p\0s%d\0\0\0\0\x01\0\0\0\x04%04d\0\0" % (number, number)) + described(b"p")
    out += msg(b"E", b"p\0\0\0\0\x01") + msg(b"H") + sync + query(b"SELECT no_such_column")
    out += query(b"COPY payments (order_id, card_number, note) FROM STDIN") + msg(b"d", b"1\t2\tpiece %d\n" % number) * number + msg(b"c")
    return out
sent = b"".join(session_of(number) for number in range(1, 12))
s = connect()
startup(s)
stream = messages(s)
errors(until(stream, b"Z"))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def send():
    for at in range(0, len(sent), piece):
        s.sendall(sent[at:at + piece])
writer = threading.Thread(target=send)
writer.start()
digest, ready = hashlib.sha256(), 0
for tag, body in stream:
    digest.update(tag + body)
    ready += tag == b"Z"
    if ready == 11 * 6:
        break
assert ready == 11 * 6, "the session ended early"
writer.join()
print(digest.hexdigest())
print(sent.hex())
s.sendall(msg(b"X"))
s.close()
"#;

#[test]
fn the_bytes_that_are_forwarded_are_the_bytes_that_came() {
    let shop = Shop::new().unwrap();
    // The tap must see what is sent: this once, without encryption.
    let hba = shop.postgres.sql("SHOW hba_file").unwrap();
    let mut hba = std::fs::OpenOptions::new().append(true).open(hba.trim()).unwrap();
    hba.write_all(b"hostnossl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    shop.postgres.sql("SELECT pg_reload_conf()").unwrap();
    let mut replies = Vec::new();
    // Client and target split alike, down to every byte on its own.
    for piece in [1, 2, 3, 5, 64, 1000, 1 << 20] {
        let tap = Tap::new(shop.postgres.port(), piece);
        let target = format!(
            "[[target]]\nname = \"tapped\"\nprotocol = \"postgres\"\naddress = [\"{NAME}:{}\"]\n\
             tls = {{ mode = \"disable\", insecure = \"a test's\" }}\n\
             login = {{ user = \"orders_rw\", password = {{ credential = \"orders-db\" }} }}\n\
             [[rule]]\nname = \"all\"\ntargets = [\"tapped\"]\nthen = \"allow\"\n",
            tap.port
        );
        shop.configure(&format!("{POLICY}\n{target}")).unwrap();
        let gateway = shop.serve().unwrap();
        let mut client = shop.raw_client(CLIENT).env("PGPORT", tap.port.to_string()).start().unwrap();
        client.write(&format!("{piece}\n")).unwrap();
        let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
        let (digest, sent) = said.trim().split_once('\n').unwrap();
        let bye = wait_until("the gateway's goodbye", PATIENCE, || tap.heard.lock().unwrap().ends_with(GOODBYE));
        bye.unwrap_or_else(|error| {
            let heard = tap.heard.lock().unwrap();
            panic!(
                "{error}: in pieces of {piece}: {:?}",
                String::from_utf8_lossy(&heard[heard.len().saturating_sub(300)..])
            )
        });
        drop(gateway);
        let heard = tap.heard.lock().unwrap().clone();
        let heard = heard.strip_suffix(GOODBYE).unwrap();
        let sent: Vec<u8> =
            (0..sent.len()).step_by(2).map(|at| u8::from_str_radix(&sent[at..at + 2], 16).unwrap()).collect();
        let begins = sent.get(..32).expect("something was sent");
        let login = heard.windows(begins.len()).position(|part| part == begins).expect("the first of it was heard");
        let differs = (0..sent.len().max(heard.len() - login)).find(|at| sent.get(*at) != heard.get(login + at));
        let around = |bytes: &[u8], at: usize| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())]).into_owned()
        };
        assert!(
            differs.is_none(),
            "in pieces of {piece}, at {differs:?}: {:?} was sent, {:?} heard",
            around(&sent, differs.unwrap_or(0)),
            around(heard, login + differs.unwrap_or(0))
        );
        replies.push(digest.to_owned());
        shop.postgres.sql("DELETE FROM payments WHERE note LIKE 'piece %'").unwrap();
    }
    replies.dedup();
    assert_eq!(replies.len(), 1, "what came back depends on how it was split");
}
