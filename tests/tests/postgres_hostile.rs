//! A target that is the agent's ally, or nobody's friend: whatever it sends, the session ends or what is sent is refused, nothing
//! of masked columns passes, and the held credential is not given away.
//!
//! The server tampers with one message and is honest otherwise, so that the gateway logs in and reads its catalog as it does
//! anywhere. What a server can always do is to lie consistently: to call a masked value the value of another column, in all
//! that it says. That is not tried.

#[path = "postgres_hostile/deeds.rs"]
mod deeds;
#[path = "postgres_hostile/server.rs"]
mod server;
#[path = "postgres_hostile/tables.rs"]
mod tables;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use system_tests::env::Gateway;
use system_tests::postgres::{self, EMAIL, NAME, PASSWORD, SSN};
use system_tests::process::{PATIENCE, Running, wait_until};
use system_tests::recording::{events, files_with};
use system_tests::shop::{POLICY, Shop};
use weir::record::event::Event;

use self::server::{Hostile, Seen, Stage, Tamper, Then, Whose};
use self::tables::{CATALOG, Case, HONEST, How, LOGIN, Must, RUN};

const CLIENT: &str = include_str!("postgres_hostile/client.py");
/// A session that goes on while others meet with deeds.
const BYSTANDER: &str = r#"
s, stream = session()
for line in sys.stdin:
    show(s, stream, b"SELECT id, ssn FROM customers WHERE id = 1")
"#;
/// The same row, masked.
const MASKED: &str = "*******1002";
/// Other rows' values, for a server that says more than it was asked.
const SECRETS: [&str; 3] = [SSN, EMAIL, "900-22-2003"];
/// What statements are refused with until the catalog is read.
const UNREAD: &str = "is denied until the people who run Weir have put this right";
/// A catalog that could not be read is read again after 2 s.
const CATALOG_RETRY: Duration = Duration::from_millis(2200);
/// The gateway gives a server 20 s for a login.
const LOGIN_LIMIT: Duration = Duration::from_secs(30);

/// The gateway asks nothing before the client does: what is tampered with is counted from the client's first word.
const ONE_SESSION: &str = "pool_mode = \"session\"\n";

/// The shop behind a gateway that reaches it through the hostile server. Dropped in this order.
struct World {
    gateway: Gateway,
    hostile: Hostile,
    shop: Shop,
}

/// What a client was told.
struct Told {
    alive: bool,
    /// Severity, code and message.
    errors: Vec<[String; 3]>,
    whole: String,
}

impl World {
    fn new() -> Self {
        let shop = Shop::new().unwrap();
        let hba = shop.postgres.sql("SHOW hba_file").unwrap();
        let mut hba = fs::OpenOptions::new().append(true).open(hba.trim()).unwrap();
        hba.write_all(b"hostnossl all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        shop.postgres.sql("SELECT pg_reload_conf()").unwrap();
        let leaf = shop.postgres.ca().issue(&[NAME]).unwrap();
        let hostile = Hostile::start(shop.postgres.port(), &leaf).unwrap();
        let target = postgres::target_config(hostile.port(), &shop.postgres.ca_path()) + ONE_SESSION;
        shop.configure_target(&target, POLICY).unwrap();
        let gateway = shop.serve().unwrap();
        Self { gateway, hostile, shop }
    }

    /// A client that goes where the hostile server is.
    fn client(&self, script: &str, words: &[&str]) -> Running {
        let client = self.shop.raw_client(script).args(words).env("PGPORT", self.hostile.port().to_string());
        client.start().unwrap()
    }

    fn ask(&self, how: How, sql: &str) -> Told {
        let said = self.client(CLIENT, &[how.word(), sql]).finish(PATIENCE).unwrap().expect_success().unwrap();
        Told::read(&said)
    }

    fn recordings(&self) -> PathBuf {
        self.gateway.state_dir().join("recordings")
    }

    fn events(&self) -> Vec<Event> {
        events(&self.recordings()).unwrap()
    }

    /// Runs a case and checks it; what is wrong with it.
    fn run(&self, case: &Case, how: How) -> Result<(), String> {
        let before = self.events().len();
        self.hostile.arm(case.tamper);
        let told = self.ask(how, case.sql);
        let seen = self.hostile.disarm();
        if seen.struck != 1 {
            return Err(format!("the deed was done {} times: {}", seen.struck, told.whole));
        }
        told.must(case.must)?;
        seen.holds_no_credential(case.must)?;
        self.is_recorded(before, case.must)
    }

    /// The record of a case says why it ended as it did.
    fn is_recorded(&self, before: usize, must: Must) -> Result<(), String> {
        let says_why = |event: &Event| match (must, event) {
            (Must::End(why) | Must::TurnAway(why) | Must::TurnAwayProven(why), Event::SessionClosed(closed)) => {
                closed.outcome.contains(why)
            }
            (Must::EndWithheld, Event::SessionClosed(closed)) => closed.outcome == "the target ended the session",
            (Must::Refuse(why), Event::OperationDecided(decided)) => {
                decided.refusal.as_ref().is_some_and(|it| it.contains(why))
            }
            (Must::Deny(why), Event::OperationDecided(decided)) => {
                decided.refusal.as_ref().is_some_and(|it| it.contains(UNREAD) && it.contains(why))
            }
            (Must::Withhold(_), Event::OperationReplied(replied)) => replied.outcome.starts_with("ERROR"),
            (Must::Mask, Event::OperationReplied(replied)) => replied.cells_masked == 1,
            _ => false,
        };
        let recorded = wait_until("the record", PATIENCE, || self.events()[before..].iter().any(says_why));
        recorded.map_err(|error| format!("{error}: {:#?}", &self.events()[before..]))
    }

    /// Nothing of it in recordings, nor in what the gateway logs.
    fn keeps_secrets(&self) -> Result<(), String> {
        for secret in SECRETS.into_iter().chain([PASSWORD]) {
            let found = files_with(&self.recordings(), secret).map_err(|error| error.to_string())?;
            if !found.is_empty() {
                return Err(format!("{secret} is in {found:?}"));
            }
            if self.shop.env.log().contains(secret) {
                return Err(format!("{secret} is in the log"));
            }
        }
        Ok(())
    }

    fn run_all<'c>(&self, cases: impl IntoIterator<Item = &'c Case>, mut between: impl FnMut() -> Result<(), String>) {
        let mut wrong = Vec::new();
        for case in cases {
            for how in case.how {
                let outcome = self.run(case, *how).and_then(|()| between());
                println!("{} {}: {}", case.name, how.word(), if outcome.is_ok() { "ok" } else { "WRONG" });
                wrong.extend(outcome.err().map(|error| format!("{} ({}): {error}", case.name, how.word())));
            }
        }
        wrong.extend(self.keeps_secrets().err());
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }
}

impl Told {
    fn read(said: &str) -> Self {
        let said: Value = serde_json::from_str(said).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let errors = said["errors"].as_array().unwrap().iter();
        Self {
            alive: said["alive"] == true,
            errors: errors.map(|it| [0, 1, 2].map(|field| text(&it[field]))).collect(),
            whole: text(&said["told"]),
        }
    }

    fn must(&self, must: Must) -> Result<(), String> {
        let ends = matches!(must, Must::End(_) | Must::EndWithheld | Must::TurnAway(_) | Must::TurnAwayProven(_));
        let has_error =
            |severity: &str, why: &str| self.errors.iter().any(|it| it[0] == severity && it[2].contains(why));
        let as_it_must = match must {
            Must::End(why) | Must::TurnAway(why) | Must::TurnAwayProven(why) => has_error("FATAL", why),
            Must::EndWithheld => has_error("FATAL", "the target's message is withheld"),
            Must::Refuse(why) | Must::Withhold(why) => has_error("ERROR", why) && !self.whole.contains(MASKED),
            Must::Deny(why) => has_error("ERROR", UNREAD) && has_error("ERROR", why),
            Must::Mask => self.errors.is_empty() && self.whole.contains(MASKED),
        };
        if let Some(secret) = SECRETS.iter().find(|secret| self.whole.contains(**secret)) {
            return Err(format!("the client has {secret}: {}", self.whole));
        }
        // What it asked afterwards was answered, or not.
        let as_it_must = as_it_must
            && self.alive != ends
            && self.whole.contains("afterwards") != (ends || matches!(must, Must::Deny(_)));
        if as_it_must { Ok(()) } else { Err(format!("not {must:?} but {:?}: {}", self.errors, self.whole)) }
    }
}

impl Seen {
    /// Nobody learns the password who did not prove that he knows it.
    fn holds_no_credential(&self, must: Must) -> Result<(), String> {
        let heard = String::from_utf8_lossy(&self.heard);
        let proof = heard.contains(",p=");
        // A PasswordMessage with a digest is as long as this.
        let digest = heard.contains("p\0\0\0(md5");
        let may_prove = !matches!(must, Must::TurnAway(_));
        if heard.contains(PASSWORD) || digest || proof && !may_prove {
            return Err(format!("the server has heard {heard:?}"));
        }
        Ok(())
    }
}

/// A session that was opened before, and is used again and again.
struct Bystander(Running);

impl Bystander {
    fn new(world: &World) -> Self {
        let mut bystander = Self(world.client(BYSTANDER, &[]));
        bystander.goes_on().unwrap();
        bystander
    }

    fn goes_on(&mut self) -> Result<(), String> {
        let answers = |it: &Running| it.stdout().matches(MASKED).count();
        let before = answers(&self.0);
        self.0.write("once more\n").map_err(|error| error.to_string())?;
        wait_until("another session's answer", PATIENCE, || answers(&self.0) > before)
            .map_err(|error| format!("{error}: {}{}", self.0.stdout(), self.0.stderr()))
    }
}

#[test]
fn an_honest_server_in_the_middle_is_no_hindrance() {
    let world = World::new();
    world.run_all(&HONEST, || Ok(()));
    // What the cases look for would be found: without masks it is all there.
    let open =
        POLICY.replace("columns = [\"public.customers.ssn\", \"*.*.email\"]", "columns = [\"public.customers.since\"]");
    assert_ne!(open, POLICY);
    let target = postgres::target_config(world.hostile.port(), &world.shop.postgres.ca_path()) + ONE_SESSION;
    world.shop.configure_target(&target, &open).unwrap();
    world.gateway.reload().unwrap();
    let told = world.ask(How::Simple, tables::SSN_OF_ONE);
    assert!(told.whole.contains(SSN), "{}", told.whole);
    assert!(told.must(Must::Mask).is_err() && told.must(Must::End("")).is_err());
}

#[test]
fn what_a_server_says_out_of_turn_ends_the_session() {
    let world = World::new();
    let mut bystander = Bystander::new(&world);
    world.run_all(RUN, || bystander.goes_on());
}

#[test]
fn a_server_that_wants_the_credential_does_not_get_it() {
    let world = World::new();
    let mut bystander = Bystander::new(&world);
    // The bystander's statement would have the catalog read again, over the connection that the deed is for.
    world.run_all(LOGIN, || Ok(()));
    bystander.goes_on().unwrap();
}

#[test]
fn a_catalog_that_makes_no_sense_denies() {
    let world = World::new();
    let mut bystander = Bystander::new(&world);
    world.run_all(CATALOG, || {
        sleep(CATALOG_RETRY);
        bystander.goes_on()
    });
    wait_until("the end of all readings", PATIENCE, || world.hostile.open() <= 1).unwrap();
}

/// All at once: each takes as long as the gateway is patient.
#[test]
fn a_server_that_takes_its_time_delays_nobody_else() {
    let world = World::new();
    let mut bystander = Bystander::new(&world);
    let login = |stage, then, deed| Tamper { whose: Whose::Session, stage, tag: b'R', nth: 1, deed, then };
    let waiting: Vec<Running> = [
        Tamper { tag: b'S', ..login(Stage::Encryption, Then::Silence, deeds::nothing) },
        login(Stage::Login(10), Then::Silence, deeds::nothing),
        login(Stage::Login(10), Then::Drip, deeds::honest),
        login(Stage::Login(11), Then::Silence, deeds::nothing),
        login(Stage::Login(12), Then::Silence, deeds::half),
        Tamper { tag: b'S', ..login(Stage::Greeting, Then::Drip, deeds::honest) },
    ]
    .into_iter()
    .map(|tamper| {
        world.hostile.arm(tamper);
        let client = world.client(CLIENT, &["simple", tables::SSN_OF_ONE]);
        wait_until("the deed", PATIENCE, || world.hostile.struck() == 1).unwrap();
        client
    })
    .collect();
    bystander.goes_on().unwrap();
    for client in waiting {
        let said = client.finish(LOGIN_LIMIT).unwrap().expect_success().unwrap();
        Told::read(&said).must(Must::TurnAway("the target did not answer in time")).unwrap();
    }
    bystander.goes_on().unwrap();
    world.keeps_secrets().unwrap();
}

/// A statement may take as long as it takes, so there is no limit: but whoever waits for it can leave, or be sent away.
#[test]
fn a_client_need_not_wait_for_a_server_that_says_nothing() {
    let world = World::new();
    let mut bystander = Bystander::new(&world);
    let at =
        |stage, tag| Tamper { whose: Whose::Session, stage, tag, nth: 1, deed: deeds::nothing, then: Then::Silence };
    for tamper in [at(Stage::Probe, b'1'), at(Stage::Probe, b'N'), at(Stage::Run, b'T'), at(Stage::Run, b'C')] {
        for is_sent_away in [false, true] {
            let open = world.hostile.open();
            world.hostile.arm(tamper);
            let client = world.client(CLIENT, &["simple", tables::SSN_OF_ONE]);
            wait_until("the deed", PATIENCE, || world.hostile.struck() == 1).unwrap();
            bystander.goes_on().unwrap();
            if is_sent_away {
                world.end_newest_session();
                let said = client.finish(PATIENCE).unwrap().expect_success().unwrap();
                Told::read(&said).must(Must::End("the session was ended by")).unwrap();
            } else {
                drop(client);
            }
            wait_until("the end of the connection", PATIENCE, || world.hostile.open() <= open).unwrap();
        }
    }
    bystander.goes_on().unwrap();
    world.keeps_secrets().unwrap();
}

impl World {
    fn end_newest_session(&self) {
        let opened = self.events().into_iter().filter_map(|event| match event {
            Event::SessionOpened(opened) => Some(opened.id),
            _ => None,
        });
        let newest = opened.last().unwrap().to_string();
        self.shop.env.weir(["sessions", "kill", &newest]).unwrap().expect_success().unwrap();
    }
}
