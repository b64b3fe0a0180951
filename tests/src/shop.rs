//! The whole scene on one stage: an agent with a token, an identity provider, a shop's database behind the gateway, and the
//! policy that the demo tells about and the suites hold Weir to.

use serde_json::json;

use crate::Result;
use crate::env::{self, Env, Gateway, Place};
use crate::issuer::Issuer;
use crate::postgres::{self, Postgres};

/// What coders may do: work on the shop, see no personal data, change no schema, and ask before they write a whole table.
pub const POLICY: &str = r#"
[access]
admin   = ["root"]
approve = { dba = ["root"] }
audit   = ["root"]

[[rule]]
name    = "coders work on orders"
agents  = ["coder"]
targets = ["orders"]
kinds   = ["select", "insert", "update", "delete", "transaction", "set", "show"]
then    = "allow"

[[rule]]
name    = "no schema changes"
targets = ["orders"]
kinds   = ["create", "drop", "truncate", "alter"]
then    = "deny"
message = "Schema changes go through migrations."

[[rule]]
name      = "whole-table writes need a human"
kinds     = ["update", "delete"]
has_where = false
then      = { hold = { approvers = ["dba"], count = 1, timeout = "20s" } }

[[mask]]
name    = "customer PII"
targets = ["orders"]
columns = ["public.customers.ssn", "*.*.email"]
with    = { partial = { keep_last = 4 } }

[[mask]]
name   = "secrets anywhere"
detect = ["credit_card", "aws_access_key"]
with   = "redact"
"#;

/// What scripts of [`Shop::raw`] begin with.
pub const RAW: &str = include_str!("raw.py");

/// Agent, issuer and database, configured; the gateway is started by [`Shop::serve`].
pub struct Shop {
    pub postgres: Postgres,
    pub issuer: Issuer,
    // Last: what runs inside it is dropped before it.
    pub env: Env,
}

impl Shop {
    pub fn new() -> Result<Self> {
        let env = Env::new()?;
        let postgres = Postgres::start(&env)?;
        Self::with(env, postgres)
    }

    /// The scene around a server that was started with options of its own.
    pub fn with(env: Env, postgres: Postgres) -> Result<Self> {
        let issuer = Issuer::start()?;
        env.hosts(&[(postgres::NAME, postgres.address())])?;
        env.set_credential("orders-db", postgres::PASSWORD)?;
        let shop = Self { postgres, issuer, env };
        shop.give_token(&shop.claims())?;
        shop.configure(POLICY)?;
        Ok(shop)
    }

    /// Writes the configuration: everything that the scene needs, and these rules and masks.
    pub fn configure(&self, policy: &str) -> Result {
        self.configure_target(&self.postgres.target_config(), policy)
    }

    /// The same with this `[[target]]` section in the place of the database's own.
    pub fn configure_target(&self, target: &str, policy: &str) -> Result {
        self.env.configure(&self.config_with(target, policy))
    }

    /// All but the `[gateway]` section.
    pub fn config_with(&self, target: &str, policy: &str) -> String {
        let identity = format!(
            "[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"the issuer of this scene speaks HTTP on loopback\"\n",
            self.issuer.url()
        );
        [&identity, &self.env.agent_config(), target, policy].join("\n")
    }

    /// Claims of a token that is good.
    pub fn claims(&self) -> serde_json::Value {
        json!({ "sub": "coder@shop.example", "groups": ["coders"] })
    }

    pub fn give_token(&self, claims: &serde_json::Value) -> Result {
        self.env.set_token(&self.issuer.token(claims)?)
    }

    pub fn serve(&self) -> Result<Gateway> {
        self.env.serve()
    }

    /// `psql` as the agent would type it: a host, a port, a database; no password, nothing of Weir.
    pub fn psql(&self, sql: &str) -> Place<'_> {
        self.client("psql").args(["--no-psqlrc", "--command", sql])
    }

    /// A Python script as the agent, which speaks the protocol by hand: see `raw.py`. What it printed.
    pub fn raw(&self, script: &str) -> Result<String> {
        self.raw_client(script).run()?.expect_success()
    }

    /// The same, to be started.
    pub fn raw_client(&self, script: &str) -> Place<'_> {
        self.client("/usr/bin/python3").args(["-u", "-c"]).arg(format!("{RAW}\n{script}"))
    }

    /// A client of libpq as the agent, told where the database is and nothing else.
    pub fn client(&self, program: &str) -> Place<'_> {
        self.placed(self.env.agent(program))
    }

    /// A client in another place than usual, with the same variables.
    pub fn placed<'a>(&self, place: Place<'a>) -> Place<'a> {
        place
            .env("PGHOST", postgres::NAME)
            .env("PGPORT", self.postgres.port().to_string())
            .env("PGDATABASE", postgres::DATABASE)
            .env("PGUSER", env::AGENT)
            .env("PGCONNECT_TIMEOUT", "10")
    }
}
