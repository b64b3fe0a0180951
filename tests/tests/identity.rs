//! Identity on the real kernel: an unmodified psql, its agent's token in a file, and every way in which that token can
//! be no good. The reason must arrive in psql's own error line, and the token in none.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::json;
use system_tests::env::{AGENT_USER, Gateway};
use system_tests::issuer::{Algorithm, now};
use system_tests::postgres::{DATABASE, NAME};
use system_tests::process::{Finished, wait_until};
use system_tests::shop::Shop;

const SELECT: &str = "SELECT id FROM orders LIMIT 0";

/// A refusal that takes longer than this waited for something.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Two fetches of the issuer's keys are 10 s apart.
const KEYS_FETCHED: Duration = Duration::from_secs(20);
/// What the gateway forgives clocks, in seconds.
const LEEWAY: i64 = 30;

/// The shop behind a gateway. Dropped in this order.
struct World {
    gateway: Gateway,
    shop: Shop,
}

impl World {
    /// Without a token yet.
    fn new() -> Self {
        Self::with_token_in(None)
    }

    /// With another place for the agent's token than its file.
    fn with_token_in(place: Option<&str>) -> Self {
        let shop = Shop::new().unwrap();
        fs::remove_file(shop.env.token_path()).unwrap();
        if let Some(place) = place {
            let config = fs::read_to_string(shop.env.config_path()).unwrap();
            let file = format!("{{ file = \"{}\" }}", shop.env.token_path().display());
            assert!(config.contains(&file), "{config}");
            fs::write(shop.env.config_path(), config.replace(&file, place)).unwrap();
        }
        Self { gateway: shop.serve().unwrap(), shop }
    }

    fn good_token(&self) -> String {
        self.shop.issuer.token(&self.shop.claims()).unwrap()
    }

    /// One `SELECT` by the agent.
    fn select(&self) -> Finished {
        self.shop.psql(SELECT).run().unwrap()
    }

    fn select_with(&self, token: &str) -> Finished {
        self.shop.env.set_token(token).unwrap();
        self.select()
    }

    /// The same in another cgroup, as another user.
    fn select_in(&self, group: &str, user: &str) -> Finished {
        let port = self.shop.postgres.port().to_string();
        let place = self.shop.env.agent_in(group, user, "psql").unwrap();
        place.args(["-X", "-h", NAME, "-p", &port, "-d", DATABASE, "-c", SELECT]).run().unwrap()
    }

    /// psql's error line for a token, which must not hold it.
    fn refusal(&self, token: &str) -> String {
        let begun = Instant::now();
        let refused = self.select_with(token);
        assert_refused(&refused);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!refused.stderr.contains(part) && !self.shop.env.log().contains(part), "the token is shown");
        }
        refused.stderr
    }
}

fn assert_refused(finished: &Finished) {
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("FATAL"), "{}", finished.stderr);
}

fn assert_selected(finished: Finished) {
    assert!(finished.expect_success().unwrap().contains("(0 rows)"));
}

#[test]
fn a_good_token_opens_a_session_without_a_password() {
    let world = World::new();
    for algorithm in [Algorithm::ES256, Algorithm::RS256] {
        assert_selected(world.select_with(&world.shop.issuer.token_with(algorithm, &world.shop.claims()).unwrap()));
    }
}

#[test]
fn a_token_that_is_no_good_is_refused_with_its_reason() {
    let world = World::new();
    let none = world.select();
    assert_refused(&none);
    assert!(none.stderr.contains("the token of agent 'coder' cannot be read"), "{}", none.stderr);

    let expired = world.refusal(&world.shop.issuer.expired_token(&json!({})).unwrap());
    assert!(expired.contains("expired 60 s ago") || expired.contains("expired 61 s ago"), "{expired}");
    assert!(expired.contains(&world.shop.env.token_path().display().to_string()), "{expired}");
    let forged = world.refusal(&world.shop.issuer.forged_token(&json!({})).unwrap());
    assert!(forged.contains("has a wrong signature"), "{forged}");
    let other = world.refusal(&world.shop.issuer.token(&json!({ "aud": "other" })).unwrap());
    assert!(other.contains("is for audience \"other\", not for weir"), "{other}");
    let early = world.refusal(&world.shop.issuer.token(&json!({ "nbf": now() + 600 })).unwrap());
    assert!(early.contains("is not valid for another"), "{early}");
    assert!(world.refusal("not.a.token").contains("is not a JWT"));

    // Nobody else is worse off, and the same agent is well again as soon as its token is.
    assert_selected(world.select_with(&world.good_token()));
}

#[test]
fn a_token_file_that_is_no_plain_file_is_refused_at_once() {
    let world = World::new();
    let path = world.shop.env.token_path();
    let good = world.shop.env.dir().join("elsewhere.token");
    fs::write(&good, world.good_token()).unwrap();
    let make = |what: &str| match what {
        "symbolic link" => symlink(&good, &path).unwrap(),
        "not a regular file" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "larger than" => fs::File::create(&path).unwrap().set_len(1 << 30).unwrap(),
        _ => drop(fs::File::create(&path).unwrap()),
    };
    for expected in ["symbolic link", "not a regular file", "larger than", "empty"] {
        make(expected);
        let begun = Instant::now();
        let refused = world.select();
        assert_refused(&refused);
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
        assert!(begun.elapsed() < AT_ONCE, "{expected}: {:?}", begun.elapsed());
        fs::remove_file(&path).unwrap();
    }
    assert_selected(world.select_with(&world.good_token()));
}

#[test]
fn a_token_is_good_in_one_place_only() {
    let world = World::new();
    assert_selected(world.select_with(&world.good_token()));
    // The agent's user counts as the agent in any cgroup; its token does not.
    let refused = world.select_in("elsewhere", AGENT_USER);
    assert_refused(&refused);
    assert!(refused.stderr.contains("is in use by"), "{}", refused.stderr);
    assert_selected(world.select());
}

/// The other signature that ECDSA has for the same text: anybody can make it of the first (P-256: s becomes n - s).
const TWIN: &str = r#"
import base64, sys
n = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
text, _, signature = sys.argv[1].rpartition(".")
signature = base64.urlsafe_b64decode(signature + "==")
s = n - int.from_bytes(signature[32:], "big")
print(text + "." + base64.urlsafe_b64encode(signature[:32] + s.to_bytes(32, "big")).rstrip(b"=").decode())
"#;

#[test]
fn a_token_with_its_other_signature_is_the_same_token() {
    let world = World::new();
    let token = world.good_token();
    assert_selected(world.select_with(&token));
    let twin = world.shop.env.bystander("python3").args(["-c", TWIN, &token]).run().unwrap().expect_success().unwrap();
    assert_ne!(twin.trim(), token);
    world.shop.env.set_token(twin.trim()).unwrap();
    let refused = world.select_in("elsewhere", AGENT_USER);
    assert_refused(&refused);
    assert!(refused.stderr.contains("is in use by"), "{}", refused.stderr);
    // It is good, where it belongs; and no other signature is.
    assert_selected(world.select());
    let text = token.rsplit_once('.').unwrap().0;
    let refused = world.select_with(&format!("{text}.{}", "A".repeat(86)));
    assert!(refused.stderr.contains("wrong signature"), "{}", refused.stderr);
}

#[test]
fn who_is_no_configured_agent_gets_nothing() {
    let world = World::new();
    let refused = world.select_in("stranger", "daemon");
    assert_refused(&refused);
    assert!(refused.stderr.contains("no agent is configured"), "{}", refused.stderr);
}

#[test]
fn a_token_in_the_environment_is_the_process_own() {
    let world = World::with_token_in(Some("{ env = \"AGENT_TOKEN\" }"));
    let select = |token: Option<String>| {
        let psql = world.shop.psql(SELECT);
        match token {
            Some(token) => psql.env("AGENT_TOKEN", token).run().unwrap(),
            None => psql.run().unwrap(),
        }
    };
    assert_selected(select(Some(world.good_token())));
    assert_refused(&select(None));
    assert_refused(&select(Some(world.shop.issuer.forged_token(&json!({})).unwrap())));
}

#[test]
fn keys_rotate_and_the_issuer_may_be_down_for_a_while() {
    let world = World::new();
    assert_selected(world.select_with(&world.good_token()));
    let fetched = world.shop.issuer.jwks_requests();

    // Known keys need no issuer.
    world.shop.issuer.set_down(true);
    assert_selected(world.select_with(&world.shop.issuer.token(&json!({ "jti": "2" })).unwrap()));
    world.shop.issuer.set_down(false);
    assert_eq!(world.shop.issuer.jwks_requests(), fetched);

    world.shop.issuer.rotate(false).unwrap();
    world.shop.env.set_token(&world.good_token()).unwrap();
    wait_until("the new keys", KEYS_FETCHED, || world.select().success()).unwrap();
    assert_eq!(world.shop.issuer.jwks_requests(), fetched + 1);
}

#[test]
fn a_session_lives_as_long_as_its_agent_has_a_valid_token() {
    let world = World::new();
    let dying = |seconds: i64| {
        world.shop.issuer.token(&json!({ "exp": now() - LEEWAY + seconds, "jti": seconds.to_string() })).unwrap()
    };
    world.shop.env.set_token(&dying(8)).unwrap();
    let mut psql = world.shop.client("psql").arg("--no-psqlrc").start().unwrap();
    psql.write("SELECT count(*) AS one FROM orders;\n").unwrap();
    psql.wait_for("one", AT_ONCE).unwrap();

    // Renewed in time: nobody notices.
    world.shop.env.set_token(&dying(12)).unwrap();
    psql.write("SELECT count(*) AS two FROM orders;\n").unwrap();
    psql.wait_for("two", AT_ONCE).unwrap();

    // Not renewed: the session ends, and says why.
    let ended = wait_until("the session's end", Duration::from_secs(30), || {
        drop(psql.write("SELECT count(*) FROM orders;\n"));
        psql.stderr().contains("expired")
    });
    ended.unwrap();
    assert!(!world.gateway.is_gone());
}
