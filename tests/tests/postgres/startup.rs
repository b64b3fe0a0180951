//! How a session begins: the version of the protocol, which each leg has for itself, and the keys that cancel.

use std::time::Duration;

use system_tests::pgbouncer::Pgbouncer;
use system_tests::process::{PATIENCE, wait_until};
use system_tests::shop::{POLICY, Shop};

use super::World;

/// What a server of PostgreSQL 18 tells who asks for each version, with and without an option that nobody knows, and the length of
/// its key.
const ANSWERS: &str = "\
(3, 0) [] 4
(3, 0) [(3, 0, ['_pq_.x'])] 4
(3, 1) [] 4
(3, 1) [(3, 1, ['_pq_.x'])] 4
(3, 2) [] 32
(3, 2) [(3, 2, ['_pq_.x'])] 32
(3, 3) [(3, 2, [])] 32
(3, 3) [(3, 2, ['_pq_.x'])] 32
(3, 9999) [(3, 2, [])] 32
(3, 9999) [(3, 2, ['_pq_.x'])] 32
";

/// Debian's server speaks 3.0 and nothing else: it negotiates. A key of either length cancels, and no other bytes do.
#[test]
fn protocol_3_2_is_spoken_whatever_the_target_speaks() {
    let world = World::new();
    let said = world.shop.raw(include_str!("versions.py")).unwrap();
    let cancelled = ["(3, 0) slept", "(3, 0) 57014", "(3, 2) slept", "(3, 2) 57014"].join("\n") + "\n";
    assert_eq!(said, ANSWERS.to_owned() + &cancelled);
}

/// A key that no server would give is no key: the connection is closed, and the gateway goes on.
#[test]
fn a_key_beyond_the_protocols_bound_is_malformed() {
    let world = World::new();
    let said = world.raw(
        r#"
for length in 0, 1, 256, 257, 5000:
    s = connect()
    s.sendall(struct.pack(">III", 12 + length, 80877102, 7) + bytes(length))
    print(length, [tag for tag, _ in messages(s)])
"#,
    );
    assert_eq!(said, "0 [b'R', b'E']\n1 []\n256 []\n257 [b'R', b'E']\n5000 [b'R', b'E']\n");
    assert_eq!(world.rows("SELECT 1"), "1");
}

/// pgbouncer 1.18 hangs up on who asks for 3.2, as others do that stand before databases: it is asked for 3.0 then.
#[test]
fn a_pooler_that_does_not_negotiate_is_asked_for_3_0() {
    let shop = Shop::new().unwrap();
    let pooler = Pgbouncer::start(&shop, "session").unwrap();
    shop.configure_target(&pooler.target_config(), POLICY).unwrap();
    let _gateway = shop.serve().unwrap();
    let script = r#"
s = connect()
startup(s, 2)
stream = messages(s)
print([(tag, len(body)) for tag, body in until(stream, b"Z") if tag in b"vK"])
show(s, stream, b"SELECT id, ssn FROM customers WHERE id = 1")
"#;
    let client = shop.raw_client(script).env("PGPORT", pooler.port.to_string());
    let said = client.run().unwrap().expect_success().unwrap();
    assert!(said.starts_with("[(b'K', 36)]\n") && said.contains("*******1002"), "{said}");
}

/// libpq takes nothing but an answer to its start-up packet for a server's first word: a notice before it would end the attempt.
#[test]
fn whoever_waits_to_be_let_in_is_told_so() {
    let rule = "\n[[rule]]\nname = \"ask first\"\ntargets = [\"orders\"]\nkinds = [\"connect\"]\n\
                then = { hold = { approvers = [\"dba\"], count = 1, timeout = \"20s\" } }\n";
    let world = World::with(&(POLICY.to_owned() + rule));
    for verdict in ["approve", "deny"] {
        let psql = world.shop.psql("SELECT 'let', 'in'").env("PGCONNECT_TIMEOUT", "60").start().unwrap();
        wait_until("the notice", PATIENCE, || psql.stderr().contains("waiting for approval"))
            .unwrap_or_else(|error| panic!("{error}: {}", psql.stderr()));
        let number = super::approval_number(&psql.stderr());
        std::thread::sleep(Duration::from_secs(4));
        world.shop.env.weir([verdict, &number]).unwrap().expect_success().unwrap();
        let finished = psql.finish(PATIENCE).unwrap();
        if verdict == "approve" {
            assert!(finished.expect_success().unwrap().contains("let      | in"));
        } else {
            assert!(!finished.success() && finished.stderr.contains("was denied by"), "{finished:?}");
        }
    }
}
