//! What a reload changes for sessions that are open: under masks, a target or an agent that are not the same any more they end.

use std::time::Duration;

use super::World;
use system_tests::process::{PATIENCE, Running};
use system_tests::shop::{POLICY, RAW};

/// The policy without the mask of one column.
fn loose() -> String {
    let loose = POLICY.replace("columns = [\"public.customers.ssn\", \"*.*.email\"]", "columns = [\"*.*.email\"]");
    assert_ne!(loose, POLICY);
    loose
}

impl World {
    /// A session that waits for a line, and sends a statement then.
    fn session(&self, statement: &str) -> Running {
        let script = format!(
            r#"{RAW}
s, stream = session()
s.sendall(msg(b"Q", b"SELECT id FROM customers\0"))
until(stream, b"Z")
print("ready", flush=True)
sys.stdin.readline()
print("goes on", flush=True)
s.sendall(msg(b"Q", b"{statement}\0"))
for kind, body in until(stream, b"Z"):
    print(kind, body)
"#
        );
        let session = self.shop.client("/usr/bin/python3").args(["-u", "-c"]).arg(script).start().unwrap();
        session.wait_for("ready", PATIENCE).unwrap();
        session
    }

    fn reload(&self) {
        self.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    }
}

/// What a session says that goes on now.
fn said(mut session: Running) -> String {
    session.write("go\n").unwrap();
    session.finish(PATIENCE).unwrap().stdout
}

#[test]
fn a_session_from_before_a_reload_gives_nobody_its_old_masks() {
    let world = World::with(&loose());
    let old = world.session("SELECT * FROM nosuch");
    world.shop.configure(POLICY).unwrap();
    world.reload();
    // What it says asks for the catalog: the relation is in none that there is.
    let said = said(old);
    assert!(said.contains("masks") && said.contains("connect again"), "{said}");
    assert_eq!(world.rows("SELECT ssn FROM customers WHERE id = 1"), "*******1002");
}

#[test]
fn masks_that_come_while_the_token_is_verified_again_hold() {
    let world = World::with(&loose());
    // Taken for 30 s more, and verified again at each statement.
    let mut claims = world.shop.claims();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    claims["exp"] = serde_json::json!(now);
    world.shop.give_token(&claims).unwrap();
    let mut old = world.session("SELECT ssn FROM customers WHERE id = 1");
    // Keys are not fetched more often.
    std::thread::sleep(Duration::from_secs(11));
    let fetched = world.shop.issuer.jwks_requests();
    world.shop.issuer.rotate(true).unwrap();
    world.shop.issuer.set_delay(Duration::from_secs(3));
    world.shop.give_token(&world.shop.claims()).unwrap();
    old.write("go\n").unwrap();
    old.wait_for("goes on", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    world.shop.configure(POLICY).unwrap();
    world.reload();
    let said = old.finish(PATIENCE).unwrap().stdout;
    assert!(world.shop.issuer.jwks_requests() > fetched, "nothing was waited for");
    assert!(said.contains("masks") && said.contains("connect again") && !said.contains("900-"), "{said}");
}

#[test]
fn a_session_ends_whose_target_or_agent_is_not_what_it_was() {
    let world = World::new();
    let target = world.shop.postgres.target_config();
    let address = format!("127.0.0.1:{}", world.shop.postgres.port());
    let statement = "SELECT 'here ' || 'still'";
    // One more address is no matter.
    let old = world.session(statement);
    let more = target.replacen("address = [", &format!("address = [\"{address}\", "), 1);
    assert_ne!(more, target);
    world.shop.configure_target(&more, POLICY).unwrap();
    world.reload();
    let went_on = said(old);
    assert!(went_on.contains("here still"), "{went_on}");
    // What sessions may ask for there is.
    let old = world.session(statement);
    let other = target.replacen("databases = [", "databases = [\"reports\", ", 1);
    assert_ne!(other, target);
    world.shop.configure_target(&other, POLICY).unwrap();
    world.reload();
    let ended = said(old);
    assert!(ended.contains("configuration of this target changed; connect again"), "{ended}");
    world.shop.configure(POLICY).unwrap();
    world.reload();
    // So is another reading of tokens, and whether policy is only observed.
    let path = world.shop.env.config_path();
    let config = std::fs::read_to_string(&path).unwrap();
    for (from, to, told) in [
        ("audience = \"weir\"", "audience = \"weir\"\ngroups_claim = \"roles\"", "what is read in them, changed"),
        ("[gateway]\n", "[gateway]\nmode = \"observe\"\n", "connect again"),
    ] {
        let old = world.session(statement);
        let other = config.replacen(from, to, 1);
        assert_ne!(other, config);
        std::fs::write(&path, other).unwrap();
        world.reload();
        let ended = said(old);
        assert!(ended.contains(told) && !ended.contains("here still"), "{told}: {ended}");
        std::fs::write(&path, &config).unwrap();
        world.reload();
    }
    // So is an agent that is none any more.
    let old = world.session(statement);
    let other = config.replace("/agents/coder\"\nuser = ", "/agents/another\"\n# user = ");
    assert_ne!(other, config);
    std::fs::write(&path, other).unwrap();
    world.reload();
    let ended = said(old);
    assert!(ended.contains("configuration of this agent changed") && !ended.contains("here still"), "{ended}");
}
