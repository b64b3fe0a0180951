use super::*;

use std::path::Path;

use crate::policy::{Kind, Then};
use crate::target::{Address, TlsMode};

/// The configuration of the design document.
const WHOLE: &str = r#"
[gateway]
agents   = ["agents.slice"]
unlisted = "deny"
mode     = "enforce"

[access]
admin   = ["weir-admin"]
approve = { dba = ["dba"] }
audit   = ["weir-audit"]

[recording]
keep     = "90d"
max_size = "20G"

[identity]
issuer   = "https://idp.example/realms/agents"
audience = "weir"

[[agent]]
name  = "coder"
unit  = "coder@*.service"
user  = "agent-coder"
token = { file = "/run/agents/%i.token" }

[[target]]
name      = "orders"
protocol  = "postgres"
address   = ["db.internal:5432", "10.0.0.0/8:5432"]
databases = ["orders"]
tls       = { ca = "/etc/weir/db-ca.pem" }
login     = { user = "orders_rw", password = { credential = "orders-db" } }

[[target]]
name      = "model"
protocol  = "tls-passthrough"
address   = ["api.example:443"]

[[rule]]
name    = "coders work on orders"
agents  = ["coder"]
targets = ["orders"]
kinds   = ["select", "insert", "update", "delete"]
then    = "allow"

[[rule]]
name    = "no schema changes"
targets = ["orders"]
kinds   = ["drop", "truncate", "alter"]
then    = "deny"
message = "Schema changes go through migrations."

[[rule]]
name      = "whole-table writes need a human"
kinds     = ["update", "delete"]
has_where = false
then      = { hold = { approvers = ["dba"], count = 1, timeout = "5m" } }

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

fn uid_of(name: &str) -> Option<u32> {
    match name {
        "agent-coder" => Some(4001),
        "agent-planner" => Some(4002),
        "root" => Some(0),
        "weir" => Some(990),
        _ => None,
    }
}

fn parse_files(files: &[(&str, &str)]) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    let sources: Vec<Source> =
        files.iter().map(|(path, text)| Source { path: path.into(), text: (*text).to_owned() }).collect();
    parse(&sources, &uid_of)
}

fn parse_one(text: &str) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    parse_files(&[("weir.toml", text)])
}

fn errors(text: &str) -> String {
    parse_one(text).map(|_| ()).expect_err("must be refused").to_string()
}

#[test]
fn the_design_s_configuration_is_what_it_says() {
    let (config, warnings) = parse_one(WHOLE).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.agents[0].matches, AgentMatch::Unit("coder@*.service".to_owned()));
    assert_eq!(config.agents[0].uid, Some(4001));
    assert_eq!(config.agents[0].token, TokenSource::File("/run/agents/%i.token".to_owned()));
    assert_eq!(config.targets[0].address.len(), 2);
    assert!(
        matches!(&config.targets[0].tls, TlsMode::VerifyFull { ca: Some(ca), .. } if ca == Path::new("/etc/weir/db-ca.pem"))
    );
    assert_eq!(config.policy.rules[1].then, Then::Deny);
    assert!(config.policy.rules[1].kinds.contains(Kind::Truncate));
    assert_eq!(
        config.policy.rules[2].then,
        Then::Hold { approvers: vec!["dba".to_owned()], count: 1, timeout: Duration::from_secs(300) }
    );
    assert_eq!(config.masks.len(), 2);
    assert_eq!(config.gateway.port, 15432);
    assert_eq!(config.recording.directory, Path::new("/var/lib/weir/recordings"));
    assert_eq!(config.version.len(), 16);
}
