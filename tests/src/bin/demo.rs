//! `cargo xtask demo`: the main job, for real, told as a story. Every scene shows the command, what came back, and what was
//! checked; the first thing that is not as told ends it with an error.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use system_tests::Result;
use system_tests::env::Gateway;
use system_tests::postgres::{self, EMAIL, PASSWORD, SSN};
use system_tests::process::{Finished, PATIENCE, Running};
use system_tests::shop::{POLICY, Shop};

fn main() -> ExitCode {
    let keep = std::env::args().any(|word| word == "--keep");
    match Story::new().tell(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo stopped: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The teller: numbers scenes, shows commands and output, and keeps the checks honest.
struct Story {
    colour: bool,
    scene: u32,
    began: Instant,
}

impl Story {
    fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour, scene: 0, began: Instant::now() }
    }

    fn tell(&mut self, keep: bool) -> Result {
        self.step("starting a throw-away PostgreSQL (TLS, SCRAM), an OIDC issuer, and the agent's cgroup");
        let shop = Shop::new()?;
        let tls_target = tls_server(&shop)?;
        shop.configure(&format!("{}\n{POLICY}", tls_target.config))?;
        self.step("starting weir: programs attached, witness forked, privileges dropped");
        let gateway = shop.serve()?;

        self.connects(&shop)?;
        self.masks(&shop)?;
        self.refuses(&shop)?;
        self.holds(&shop)?;
        self.identifies(&shop)?;
        self.passes_tls(&shop, &tls_target)?;
        self.remembers(&shop)?;
        let _gateway = self.survives(&shop, gateway)?;

        println!("\nThat was the main job, in {} s.", self.began.elapsed().as_secs());
        if keep { Self::stay(&shop) } else { Ok(()) }
    }

    fn connects(&mut self, shop: &Shop) -> Result {
        self.scene("An unmodified psql connects by the database's name, without a password");
        let reply = self.psql(shop, "SELECT id, item, amount FROM orders ORDER BY id LIMIT 3")?;
        self.check("rows came back", reply.success() && reply.stdout.contains("kettle"))?;
        let logins = "SELECT usename, ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'orders_rw'";
        let held = Self::agent_session(shop, || shop.postgres.sql(logins))?;
        Self::output(&held);
        self.check(
            "the gateway logged in as orders_rw, over TLS, with the password it holds",
            held.contains("orders_rw|t|TLS"),
        )?;
        let found = shop.env.agent("sh").args(["-c", "env; cat /proc/self/environ"]).run()?.expect_success()?;
        self.check("the agent has no password to leak", !found.contains(PASSWORD))
    }

    fn masks(&mut self, shop: &Shop) -> Result {
        self.scene("Personal data comes back masked, under any name");
        for sql in ["SELECT * FROM customers", "SELECT c.ssn AS harmless, c.email::text AS label FROM customers AS c"] {
            let reply = self.psql(shop, sql)?;
            let leaked = reply.stdout.contains(SSN) || reply.stdout.contains(EMAIL);
            self.check(
                "ssn and e-mail are masked, the last four stay",
                reply.success() && !leaked && reply.stdout.contains("1002"),
            )?;
        }
        let reply = self.psql(shop, "SELECT note, card_number FROM payments")?;
        self.check("card numbers are found by value", reply.success() && !reply.stdout.contains(postgres::CARD))?;
        for sql in [
            "SELECT id FROM customers WHERE ssn LIKE '900-1%'",
            "SELECT name FROM customers ORDER BY email",
            "SELECT ssn::date FROM customers",
            "CREATE TABLE copied AS SELECT ssn FROM customers",
        ] {
            let reply = self.psql(shop, sql)?;
            self.check(
                "refused: what cannot be masked for sure is not shown",
                is_denied(&reply) && !reply.stdout.contains("900-"),
            )?;
        }
        Ok(())
    }

    fn refuses(&mut self, shop: &Shop) -> Result {
        self.scene("DROP TABLE is refused, and the connection lives on");
        let script = "BEGIN;\nSELECT count(*) FROM orders;\nDROP TABLE orders;\nSELECT 'the transaction is still open' AS state;\nCOMMIT;\n";
        self.command("psql  # with these lines typed in");
        Self::output(script);
        let mut psql = shop.client("psql").args(["--no-psqlrc", "--set", "VERBOSITY=verbose"]).start()?;
        psql.write(script)?;
        let reply = psql.finish(PATIENCE)?;
        Self::reply(&reply);
        self.check(
            "ERROR 42501 with the rule's message",
            reply.stderr.contains("42501") && reply.stderr.contains("go through migrations"),
        )?;
        self.check(
            "the transaction went on and was committed",
            reply.stdout.contains("still open") && reply.stdout.contains("COMMIT"),
        )?;
        let id = denial_id(&reply.stderr).ok_or("no ID in the denial")?;
        let why = self.weir(shop, &["why", &id])?;
        self.check("`weir why` explains it", why.success() && why.stdout.contains("no schema changes"))
    }

    fn holds(&mut self, shop: &Shop) -> Result {
        self.scene("DELETE without WHERE waits for a human");
        let sql = "DELETE FROM payments";
        for (verb, done) in [("deny", false), ("approve", true)] {
            let before = shop.postgres.sql("SELECT count(*) FROM payments")?;
            self.command(&format!("psql -c '{sql}'   # and, while it waits, in another terminal:"));
            let psql = shop.psql(sql).start()?;
            psql.wait_for("approval", PATIENCE)?;
            let number = approval_number(&psql.stderr()).ok_or("no number in the notice")?;
            self.weir(shop, &["approvals"])?;
            self.check("nothing ran while it waits", shop.postgres.sql("SELECT count(*) FROM payments")? == before)?;
            let answer = self.weir(shop, &[verb, &number, "--reason", "shown in the demo"])?;
            self.check(&format!("`weir {verb}` was taken"), answer.success())?;
            let reply = psql.finish(PATIENCE)?;
            Self::reply(&reply);
            let now = shop.postgres.sql("SELECT count(*) FROM payments")?;
            if done {
                self.check(
                    "approved: exactly this statement ran, once",
                    reply.stdout.contains("DELETE 3") && now == "0",
                )?;
            } else {
                self.check("denied: an error, and nothing ran", !reply.success() && now == before)?;
            }
        }
        Ok(())
    }

    fn identifies(&mut self, shop: &Shop) -> Result {
        self.scene("No valid token, no session; psql's own error line says why");
        let claims = shop.claims();
        let mut elsewhere = claims.clone();
        elsewhere["aud"] = "another-service".into();
        let cases = [
            ("expired", shop.issuer.expired_token(&claims)?),
            ("wrongly signed", shop.issuer.forged_token(&claims)?),
            ("for another audience", shop.issuer.token(&elsewhere)?),
        ];
        for (what, token) in cases {
            shop.env.set_token(&token)?;
            let reply = self.psql(shop, "SELECT 1")?;
            self.check(&format!("{what}: refused"), !reply.success() && reply.stderr.contains("token"))?;
        }
        std::fs::remove_file(shop.env.token_path())?;
        let reply = self.psql(shop, "SELECT 1")?;
        self.check("none at all: refused", !reply.success() && reply.stderr.contains("token"))?;
        shop.give_token(&claims)
    }

    fn passes_tls(&mut self, shop: &Shop, server: &TlsServer) -> Result {
        self.scene("TLS to a named target passes by its server name; nothing else gets out");
        let url = format!("https://{}:{}/", TLS_NAME, server.port);
        let reply = self.agent(
            shop,
            "curl",
            &[
                "--silent",
                "--show-error",
                "--output",
                "/dev/null",
                "--write-out",
                "HTTP %{http_code}\\n",
                "--cacert",
                &server.ca,
                &url,
            ],
        )?;
        self.check("curl to the target works, end-to-end TLS", reply.success() && reply.stdout.contains("HTTP 200"))?;
        let other = format!("https://localhost:{}/", server.port);
        let reply = self.agent(shop, "curl", &["--silent", "--show-error", "--insecure", &other])?;
        self.check("the same server under another name is refused", !reply.success())?;
        let reply = self.agent(shop, "curl", &["--silent", "--show-error", "--max-time", "5", "http://192.0.2.1/"])?;
        self.check("any other address is refused", !reply.success())?;
        let own = "python3 -m http.server --bind 127.0.0.1 18080 --directory / >/dev/null 2>&1 & server=$!; \
                   for i in $(seq 100); do curl --silent --fail --output /dev/null http://127.0.0.1:18080/ && ok=1 && break; sleep 0.1; done; \
                   kill $server; test -n \"$ok\" && echo 'its own server answered'";
        let reply = self.agent(shop, "sh", &["-c", own])?;
        self.check("the agent's own server on loopback stays reachable to it", reply.success())
    }

    fn remembers(&mut self, shop: &Shop) -> Result {
        self.scene("What happened can be listed, read, replayed and proven");
        let listed = self.weir(shop, &["sessions"])?;
        self.check("sessions and refusals are listed", listed.success())?;
        let id = find_session(shop, "masked", |row| row["cells_masked"].as_u64() > Some(3))?;
        let shown = self.weir(shop, &["sessions", "show", &id])?;
        let told = ["psql", "coder@shop.example", "coders", "orders", "customers"];
        self.check(
            "process, token, target, statements and verdicts",
            told.iter().all(|word| shown.stdout.contains(word)),
        )?;
        let replayed = self.weir(shop, &["sessions", "replay", &id])?;
        self.check(
            "the replay shows what the agent saw, masked",
            replayed.success() && !replayed.stdout.contains(SSN) && replayed.stdout.contains("1002"),
        )?;
        let verified = self.weir(shop, &["verify"])?;
        self.check("the chain is whole (exit 10: no outside anchor yet)", verified.code == Some(10))
    }

    fn survives(&mut self, shop: &Shop, gateway: Gateway) -> Result<Gateway> {
        self.scene("The gateway is killed: nothing passes. It is started again: work goes on");
        let mut open = shop.client("psql").args(["--no-psqlrc"]).start()?;
        open.write("UPDATE orders SET item = 'kettle, steel' WHERE id = 1;\n")?;
        open.wait_for("UPDATE 1", PATIENCE)?;
        let reached = connections(shop);
        self.command("kill -9 weir   # both processes");
        gateway.kill()?;
        let asked = Instant::now();
        let reply = self.psql(shop, "SELECT 1")?;
        self.check("the next connect fails at once", !reply.success() && asked.elapsed() < Duration::from_secs(3))?;
        self.check("nothing reached the database directly", connections(shop) == reached)?;
        open.kill();
        self.step("starting weir again");
        let gateway = shop.serve()?;
        let reply = self.psql(shop, "SELECT item FROM orders WHERE id = 1")?;
        self.check("work goes on", reply.stdout.contains("kettle, steel"))?;
        let listed = self.weir(shop, &["sessions", "list"])?;
        self.check("the broken session is closed as \"gateway lost\"", listed.stdout.contains("gateway lost"))?;
        let verified = self.weir(shop, &["verify"])?;
        let lost = find_session(shop, "gateway lost", |row| row["outcome"] == "gateway lost")?;
        let shown = self.weir(shop, &["sessions", "show", &lost])?;
        self.check(
            "no acknowledged record is missing",
            verified.code == Some(10) && shown.stdout.contains("UPDATE orders SET item"),
        )?;
        Ok(gateway)
    }

    /// Leaves everything running until Enter is pressed.
    fn stay(shop: &Shop) -> Result {
        let agent = agent_script(shop)?;
        let weir = format!("{} --config {}", shop.env.weir_path().display(), shop.env.config_path().display());
        println!("\nIt stays up until you press Enter. In another terminal, as root, try:\n");
        for (what, line) in [
            ("as the agent", format!("{agent} psql")),
            ("", format!("{agent} psql -c 'SELECT * FROM customers'")),
            ("", format!("{agent} psql -c 'DELETE FROM orders'")),
            ("as the approver", format!("{weir} approvals")),
            ("", format!("{weir} approve NUMBER")),
            ("as the auditor", format!("{weir} sessions")),
            ("", format!("{weir} sessions replay ID")),
            ("as the SRE", format!("{weir} status")),
            ("", format!("{weir} explain --target orders --agent coder 'DROP TABLE orders'")),
        ] {
            println!("  {what:<16}{line}");
        }
        std::io::stdin().read_line(&mut String::new())?;
        Ok(())
    }

    /// Runs `look` while a session of the agent is open.
    fn agent_session<T>(shop: &Shop, look: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut psql = shop.client("psql").args(["--no-psqlrc"]).start()?;
        psql.write("SELECT 'here';\n")?;
        psql.wait_for("here", PATIENCE)?;
        look()
    }

    fn psql(&self, shop: &Shop, sql: &str) -> Result<Finished> {
        self.command(&format!("psql -c \"{sql}\""));
        let reply = shop.psql(sql).run()?;
        Self::reply(&reply);
        Ok(reply)
    }

    fn agent(&self, shop: &Shop, program: &str, words: &[&str]) -> Result<Finished> {
        self.command(&format!("{program} {}", words.join(" ")));
        let reply = shop.env.agent(program).args(words).run()?;
        Self::reply(&reply);
        Ok(reply)
    }

    fn weir(&self, shop: &Shop, words: &[&str]) -> Result<Finished> {
        println!("    {} weir {}", self.paint("36", "#"), words.join(" "));
        let reply = shop.env.weir(words)?;
        Self::reply(&reply);
        Ok(reply)
    }

    fn step(&self, what: &str) {
        println!("{} {what}", self.paint("2", format!("[{:>3} s]", self.began.elapsed().as_secs())));
    }

    fn scene(&mut self, title: &str) {
        self.scene += 1;
        println!("\n{}", self.paint("1", format!("{}. {title}", self.scene)));
    }

    fn command(&self, line: &str) {
        println!("    {} {line}", self.paint("32", "agent$"));
    }

    fn reply(reply: &Finished) {
        Self::output(&reply.stdout);
        Self::output(&reply.stderr);
    }

    fn output(text: &str) {
        text.lines().filter(|line| !line.is_empty()).for_each(|line| println!("      {line}"));
    }

    fn check(&self, claim: &str, holds: bool) -> Result {
        if !holds {
            return Err(format!("it is not true that: {claim}").into());
        }
        println!("    {} {claim}", self.paint("32", "ok"));
        Ok(std::io::stdout().flush()?)
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

const TLS_NAME: &str = "model.api.internal";

/// A TLS server that stands for a model's API.
struct TlsServer {
    port: u16,
    ca: String,
    config: String,
    _process: Running,
}

fn tls_server(shop: &Shop) -> Result<TlsServer> {
    let ca = system_tests::ca::Ca::new()?;
    let leaf = ca.issue(&[TLS_NAME])?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = shop.env.dir().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (ca, cert, key) =
        (file("api-ca.pem", ca.pem())?, file("api.crt", &leaf.certificate)?, file("api.key", &leaf.key)?);
    let port = system_tests::env::free_port()?;
    let process = shop
        .env
        .bystander("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &port.to_string(), "-cert", &cert, "-key", &key])
        .start()?;
    let address = shop.postgres.address();
    shop.env.hosts(&[(postgres::NAME, address), (TLS_NAME, address)])?;
    let config = format!(
        "[[target]]\nname = \"model-api\"\nprotocol = \"tls-passthrough\"\naddress = [\"{TLS_NAME}:{port}\"]\n\n\
         [[rule]]\nname = \"coders ask the model\"\nagents = [\"coder\"]\ntargets = [\"model-api\"]\nkinds = [\"connect\"]\nthen = \"allow\"\n"
    );
    Ok(TlsServer { port, ca, config, _process: process })
}

fn is_denied(reply: &Finished) -> bool {
    !reply.success() && reply.stderr.contains("denied by policy")
}

/// The ID that a denial ends with: `(ID 01k3v9m2c7q4x-3)`.
fn denial_id(text: &str) -> Option<String> {
    Some(text.split_once("(ID ")?.1.split_once(')')?.0.to_owned())
}

/// The number in "waiting for approval 7".
fn approval_number(text: &str) -> Option<String> {
    let number: String = text.split_once("approval ")?.1.chars().take_while(char::is_ascii_digit).collect();
    (!number.is_empty()).then_some(number)
}

/// How often the server's log has seen a connection.
fn connections(shop: &Shop) -> usize {
    shop.postgres.log().matches("connection received").count()
}

/// The newest session that is as wanted.
fn find_session(shop: &Shop, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<String> {
    let listed = shop.env.weir(["sessions", "list", "--json"])?.expect_success()?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
    let found = all.iter().find(|row| wanted(row)).and_then(|row| row["id"].as_str());
    Ok(found.ok_or_else(|| format!("no session is listed that is {what}"))?.to_owned())
}

/// A script that runs a command as the agent, for people.
fn agent_script(shop: &Shop) -> Result<String> {
    let path = shop.env.dir().join("bin/as-agent");
    let cgroup = shop.env.cgroup().join("agents").join(system_tests::env::AGENT);
    let user = system_tests::env::AGENT_USER;
    let text = format!(
        "#!/bin/sh\n# Runs a command in the agent's cgroup, as its user; the database's place is all that it is told.\n\
         export PGHOST={} PGPORT={} PGDATABASE={} PGUSER=coder\ncd /\n\
         echo $$ > '{}/cgroup.procs' && exec setpriv --reuid {user} --regid {user} --init-groups --no-new-privs \
         --inh-caps=-all --bounding-set=-all -- \"$@\"\n",
        postgres::NAME,
        shop.postgres.port(),
        postgres::DATABASE,
        cgroup.display(),
    );
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path.to_string_lossy().into_owned())
}
