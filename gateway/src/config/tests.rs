use super::*;

use std::path::Path;

use crate::mask::MaskKind;
use crate::policy::{Kind, Then};
use crate::target::{AwsKeys, CredentialSource, Proof, TlsMode};

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

/// The login in `WHOLE`.
const PASSWORD: &str = "{ user = \"orders_rw\", password = { credential = \"orders-db\" } }";

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
        Then::Hold { approvers: vec!["dba".to_owned()], count: 1, timeout: Duration::from_mins(5) }
    );
    assert_eq!(config.masks.len(), 2);
    assert_eq!(config.gateway.port, 15432);
    assert_eq!(config.recording.directory, Path::new("/var/lib/weir/recordings"));
    assert_eq!(config.version.len(), 16);
}

/// The text is product: what an SRE reads at the end of `weir check`.
#[test]
fn everything_that_is_wrong_is_said_at_once() {
    assert_eq!(errors(include_str!("tests/wrong.toml")), include_str!("tests/wrong.txt").trim_end());
}

/// `WHOLE` with one piece of text in the place of another.
fn whole_but(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "{from}");
    WHOLE.replacen(from, to, 1)
}

#[test]
fn each_mistake_has_its_own_words() {
    let agent = "unit  = \"coder@*.service\"\nuser  = \"agent-coder\"";
    let tls = "{ ca = \"/etc/weir/db-ca.pem\" }";
    let login = "login     = { user = \"orders_rw\", password = { credential = \"orders-db\" } }";
    for (from, to, expected) in [
        ("[gateway]", "[gateway", "weir.toml:2:9: unclosed table, expected `]`"),
        ("mode     = \"enforce\"", "mode     = ", "weir.toml:5:12: string values must be quoted"),
        ("[gateway]", "[gateway]\nagent = []", "gateway: unknown key \"agent\"; did you mean \"agents\"?"),
        ("[gateway]", "[gateway]\nissuer = \"x\"", "gateway: unknown key \"issuer\"; it belongs to [identity]"),
        ("[gateway]", "[gateway]\nxyz = 1", "gateway: unknown key \"xyz\"; known here: agents, attach,"),
        ("[gateway]", "[gateway]\nattach = \"system.slice\"", "\"system.slice\", where the programs are attached"),
        ("[gateway]", "[gateway]\nattach = \"../x\"", "gateway.attach: \"../x\" is no cgroup"),
        ("[gateway]", "[gateway]\nport = 70000", "gateway.port: expected a number from 0 to 65535"),
        ("[gateway]", "[gateway]\nstate_dir = \"var\"", "gateway.state_dir: \"var\" is no absolute path"),
        ("agents   = [\"agents.slice\"]", "agents = []", "gateway.agents: names no cgroup"),
        ("\"90d\"", "\"90 days\"", "recording.keep: \"90 days\" is no duration"),
        ("\"20G\"", "20", "recording.max_size: expected a string, found a number"),
        ("\"20G\"", "\"20G\"\nreply_limit = \"1G\"", "recording.reply_limit: at most 16M of a reply is kept"),
        ("https://idp.example/realms/agents", "idp.example", "identity.issuer: \"idp.example\" is no issuer"),
        ("https://idp.example/realms/agents", "http://idp.example", "use https://"),
        ("https://idp.example/realms/agents", "http://127.0.0.1:9/", "say why http:// is good enough"),
        ("https://idp.example/realms/agents", "https://", "names no host"),
        (agent, "", "agent.coder: needs a unit, a cgroup, a container or a user"),
        (
            agent,
            "unit = \"a@*.service\"\ncgroup = \"agents.slice/a\"",
            "has more than one of unit, cgroup and container",
        ),
        (agent, "cgroup = \"user.slice\"", "is not below any of [gateway] agents (\"agents.slice\")"),
        (agent, "user = \"nobody-knows\"", "this host has no user \"nobody-knows\""),
        (agent, "user = \"root\"", "\"root\" is no agent's own user"),
        (agent, "user = \"weir\"", "\"weir\" is no agent's own user"),
        (agent, "container = {}", "needs a name or a label"),
        (agent, "container = { name = \"a/b\" }", "is no container's name"),
        (agent, "container = { label = \"coder\" }", "is no label and its value"),
        (
            agent,
            "user = \"agent-coder\"",
            "token.file: has %i, but the agent has no unit or container with an instance",
        ),
        ("%i.token", "%x.token", "token.file: has a % that is neither"),
        (agent, "user = \"agent-coder\"\nlisten = [0]", "agent.coder.listen: 0 is no port"),
        (agent, "user = \"agent-coder\"\nlisten = [15432]", "listen: 15432 is the gateway's own port"),
        (agent, "user = \"agent-coder\"\nlisten = [80]", "listen: 80 is privileged"),
        (agent, "unit = \"a@*.service\"\nlisten = [8080]", "listen: needs a user of the agent's own"),
        (
            agent,
            "user = \"agent-coder\"\naccept_risk = [\"NET_RAW\"]",
            "accept_risk[0]: \"NET_RAW\" is not \"CAP_NET_ADMIN\"",
        ),
        ("{ file = \"/run/agents/%i.token\" }", "{ env = \"A=B\" }", "is the name of an environment variable"),
        ("{ file = \"/run/agents/%i.token\" }", "{ env = \"A\", file = \"/b\" }", "unknown key"),
        (
            "\"db.internal:5432\"",
            "\"db.internal\"",
            "target.orders.address[0]: \"db.internal\" is no address: write host:port",
        ),
        ("[\"db.internal:5432\", \"10.0.0.0/8:5432\"]", "[]", "target.orders.address: is empty"),
        (tls, "{ mode = \"disable\" }", "tls.mode: mode = \"disable\" lets others pose as the target"),
        (tls, "{ mode = \"disable\", insecure = \" \" }", "tls.insecure: say why"),
        (tls, "{ insecure = \"lab\" }", "tls.insecure: has no meaning with mode = \"verify-full\""),
        (
            tls,
            "{ mode = \"disable\", insecure = \"lab\", ca = \"/x\" }",
            "tls.ca: has no meaning with mode = \"disable\"",
        ),
        (tls, "{ ca = \"db-ca.pem\" }", "tls.ca: \"db-ca.pem\" is no absolute path"),
        (login, "", "target.orders: needs a login"),
        (login, "login = { user = \"\", password = { credential = \"a\" } }", "login.user: is empty"),
        (
            login,
            "login = { user = \"u\", password = { credential = \"../a\" } }",
            "is the name of a systemd credential",
        ),
        (login, "login = { user = \"u\" }", "login: needs a password = { credential = … } or an rds_iam"),
        (login, "server_names = [\"a.b\"]", "server_names: postgres targets have none"),
        (
            "[\"api.example:443\"]",
            "[\"api.example:443\"]\ndatabases = [\"x\"]",
            "databases: tls-passthrough targets have none",
        ),
        ("\"api.example:443\"", "\"*.example:443\"", "names have no wildcards here"),
        ("name      = \"model\"", "name      = \"orders\"", "target.orders.name: another target has this name"),
        ("name    = \"no schema changes\"", "name = \" \"", "a name has 1 to 128 letters"),
        (
            "then    = \"allow\"",
            "then    = \"alow\"",
            "then: \"alow\" is not \"allow\", \"deny\" or { hold = … }; did you mean \"allow\"?",
        ),
        (
            "then    = \"allow\"",
            "then    = true",
            "then: expected \"allow\", \"deny\" or { hold = … }, found a boolean",
        ),
        ("then    = \"allow\"", "", "the key \"then\" is missing"),
        ("approvers = [\"dba\"]", "approvers = []", "approvers: names nobody who could approve"),
        ("\"5m\"", "\"0s\"", "timeout: leaves no time to approve"),
        ("\"5m\"", "\"48h\"", "timeout: a request waits 24h at most"),
        ("columns = [\"public.customers.ssn\", \"*.*.email\"]", "", "mask.\"customer PII\": masks nothing"),
        (
            "\"*.*.email\"",
            "\"customers.email\"",
            "columns[1]: \"customers.email\" is no column: write \"schema.table.column\"",
        ),
        ("keep_last = 4", "keep_last = 0", "keep_last: expected a number from 1 to 32"),
        (
            "targets = [\"orders\"]\ncolumns",
            "targets = [\"model\"]\ncolumns",
            "nothing in target \"model\" can be masked",
        ),
        (
            "\"redact\"",
            "\"hide\"",
            "with: \"hide\" is not \"redact\", \"null\", { partial = … }, { fixed = … } or { hash = … }",
        ),
        ("\"redact\"", "{ hash = {} }", "with.hash: the key \"key\" is missing"),
        (
            "\"redact\"",
            "{ hash = { key = { credential = \"../a\" } } }",
            "with.hash.key.credential: is the name of a systemd",
        ),
        ("\"redact\"", "{ hash = { key = { file = \"mask-key\" } } }", "with.hash.key.file: "),
        (
            "\"redact\"",
            "{ hash = { key = \"0123\" } }",
            "with.hash.key: expected { credential = … } or { file = … }, found a string; a key never stands",
        ),
        ("\"redact\"", "{ fixed = \"a\\u0000\" }", "a NUL is no text in a database"),
        ("\"credit_card\"", "\"creditcard\"", "did you mean \"credit_card\"?"),
    ] {
        let errors = errors(&whole_but(from, to));
        assert!(errors.contains(expected), "{to}\nexpected: {expected}\nfound:\n{errors}");
        assert!(errors.lines().all(|line| line.starts_with("weir.toml:")), "{errors}");
    }
}

const IAM: &str = r#"{ user = "orders_rw", rds_iam = { region = "eu-central-1", access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = { credential = "aws-key" } } }"#;

#[test]
fn a_login_may_be_by_iam_token() {
    let with_token = IAM
        .replace("AKIA", "ASIA")
        .replace("\"aws-key\" }", "\"aws-key\" }, session_token = { file = \"/etc/weir/aws-token\" }");
    let token = CredentialSource::File("/etc/weir/aws-token".into());
    for (login, session_token) in [(IAM, None), (&with_token, Some(token))] {
        let (config, warnings) = parse_one(&whole_but(PASSWORD, login)).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(warnings, []);
        let login = config.targets[0].login.as_ref().unwrap();
        let key = CredentialSource::Credential("aws-key".to_owned());
        let expected: Vec<_> = std::iter::once(&key).chain(&session_token).collect();
        assert_eq!(login.credentials().collect::<Vec<_>>(), expected);
        assert!(matches!(&login.proof, Proof::RdsIam(iam) if iam.region == "eu-central-1"));
    }
    let role = "{ user = \"orders_rw\", rds_iam = { region = \"eu-central-1\" } }";
    let (config, _) = parse_one(&whole_but(PASSWORD, role)).unwrap_or_else(|errors| panic!("{errors}"));
    let login = config.targets[0].login.as_ref().unwrap();
    assert_eq!(login.credentials().next(), None);
    let Proof::RdsIam(iam) = &login.proof else { panic!("{login:?}") };
    assert!(
        matches!(iam.keys, AwsKeys::InstanceRole { metadata_service } if metadata_service.to_string() == "169.254.169.254:80")
    );
}

#[test]
fn where_the_gateway_s_own_keys_are_from_is_known() {
    let has_keys_from = |login: &str, destination: &str| {
        let (config, _) = parse_one(&whole_but(PASSWORD, login)).unwrap_or_else(|errors| panic!("{errors}"));
        config.has_keys_from(destination.parse().unwrap())
    };
    let role = "{ user = \"orders_rw\", rds_iam = { region = \"eu-central-1\" } }";
    let elsewhere = role.replace("\" } }", "\", ec2_metadata_service_endpoint = \"http://192.0.2.9:1338\" } }");
    for there in ["169.254.169.254:80", "[::ffff:169.254.169.254]:80", "169.254.169.254:81", "[fd00:ec2::254]:80"] {
        assert!(has_keys_from(role, there) && has_keys_from(&elsewhere, there), "{there}");
        assert!(!has_keys_from(IAM, there) && !has_keys_from(PASSWORD, there), "{there}");
    }
    assert!(has_keys_from(&elsewhere, "192.0.2.9:1338") && !has_keys_from(&elsewhere, "192.0.2.9:80"));
    assert!(!has_keys_from(role, "192.0.2.9:1338"));
}

#[test]
fn a_metadata_service_that_may_be_anybody_s_is_warned_of() {
    let role = "{ user = \"orders_rw\", rds_iam = { region = \"eu-central-1\", ec2_metadata_service_endpoint = \"http://127.0.0.1:1338\" } }";
    let (_, warnings) = parse_one(&whole_but(PASSWORD, role)).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings.len(), 1);
    let warning = warnings[0].to_string();
    assert!(warning.contains("ec2_metadata_service_endpoint: is an address that any process"), "{warning}");
}

#[test]
fn what_an_iam_login_lacks_has_its_own_words() {
    let whole = whole_but(PASSWORD, IAM);
    let keys = "access_key_id = \"AKIAIOSFODNN7EXAMPLE\", secret_access_key = { credential = \"aws-key\" }";
    let tls = "{ ca = \"/etc/weir/db-ca.pem\" }";
    let addresses = "[\"db.internal:5432\", \"10.0.0.0/8:5432\"]";
    for (from, to, expected) in [
        (tls, "{ mode = \"disable\", insecure = \"lab\" }", "login.rds_iam: sends a token with which whoever gets it"),
        (tls, "{ mode = \"verify-ca\", insecure = \"lab\" }", "take mode and insecure out of tls"),
        (addresses, "[\"10.0.0.0/8:5432\"]", "login.rds_iam: needs the host name that tokens are for"),
        ("rds_iam =", "password = { credential = \"a\" }, rds_iam =", "login.rds_iam: has no meaning beside password"),
        ("\"eu-central-1\"", "\"Frankfurt\"", "login.rds_iam.region: \"Frankfurt\" is no region of AWS"),
        ("region = \"eu-central-1\",", "", "login.rds_iam: the key \"region\" is missing"),
        ("AKIAIOSFODNN7EXAMPLE", "hunter2-secret", "access_key_id: is no access key ID"),
        ("AKIAIOSFODNN7EXAMPLE", "hunter2XUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", "access_key_id: is no access key ID"),
        ("AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "is a temporary key's, which is good with its session_token"),
        (
            "{ credential = \"aws-key\" }",
            "\"hunter2-secret\"",
            "secret_access_key: expected { credential = … } or { file = … }, found a string; a key never stands",
        ),
        ("{ credential = \"aws-key\" }", "{ credential = \"a/b\" }", "secret_access_key.credential: is the name of"),
        (
            "{ credential = \"aws-key\" }",
            "{ credential = \"aws-key\" }, session_token = \"hunter2-secret\"",
            "session_token: expected { credential = … } or { file = … }, found a string; a token never stands",
        ),
        ("secret_access_key", "secret_acess_key", "did you mean \"secret_access_key\"?"),
        (
            ", secret_access_key = { credential = \"aws-key\" }",
            "",
            "access_key_id: is half of a key: secret_access_key is",
        ),
        (
            "access_key_id = \"AKIAIOSFODNN7EXAMPLE\",",
            "",
            "secret_access_key: is half of a key: access_key_id is missing",
        ),
        (
            "region =",
            "ec2_metadata_service_endpoint = \"http://127.0.0.1\", region =",
            "ec2_metadata_service_endpoint: has no meaning beside access_key_id",
        ),
        (
            keys,
            "ec2_metadata_service_endpoint = \"http://db.internal\"",
            "endpoint: \"http://db.internal\" is no metadata",
        ),
        (keys, "session_token = { credential = \"a\" }", "session_token: has no meaning without access_key_id"),
    ] {
        assert!(whole.contains(from), "{from}");
        let errors = errors(&whole.replacen(from, to, 1));
        assert!(errors.contains(expected), "{to}\nexpected: {expected}\nfound:\n{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    // The certificate's name will do.
    let named = whole.replacen(addresses, "[\"10.0.0.0/8:5432\"]", 1).replacen(
        tls,
        "{ ca = \"/etc/weir/db-ca.pem\", server_name = \"orders.rds.example\" }",
        1,
    );
    parse_one(&named).unwrap_or_else(|errors| panic!("{errors}"));
}

#[test]
fn secrets_written_in_the_wrong_place_are_not_repeated() {
    for (from, to) in [
        ("{ credential = \"orders-db\" }", "\"hunter2-secret\""),
        ("{ credential = \"orders-db\" }", "{ value = \"hunter2-secret\" }"),
        ("{ file = \"/run/agents/%i.token\" }", "\"hunter2-secret\""),
        ("{ credential = \"orders-db\" }", "[\"hunter2-secret\"]"),
        ("\"redact\"", "{ hash = { key = \"hunter2-secret\" } }"),
    ] {
        let errors = errors(&whole_but(from, to));
        assert!(!errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn words_of_the_file_cannot_deceive_who_reads_the_error() {
    let errors = errors("\"\\u001b[2J\\u202e\" = 1\n[[agent]]\nname = \"a\\u001b\"\nunit = 5");
    assert!(!errors.contains(['\u{1b}', '\u{202e}']), "{errors:?}");
}

#[test]
fn what_never_ends_is_bounded() {
    let deep = format!("a = {}", "[".repeat(50_000));
    let wide = "x = 1\n".repeat(10_000);
    let unknown: Vec<String> = (0..10_000).map(|i| format!("key{i} = 1")).collect();
    let long = format!("[gateway]\nmode = \"{}\"", "x".repeat(500_000));
    for text in [deep, wide, unknown.join("\n"), long, "\u{feff}[[rule]]\n".repeat(10_000), "\"".repeat(200_000)] {
        let errors = errors(&text);
        assert!(errors.len() < 1 << 18, "{} bytes of errors", errors.len());
    }
}

/// A file that is being written, or whose writer died: taken or refused, never a panic, always with a place.
#[test]
fn half_a_file_is_refused_where_it_ends() {
    for end in (0..WHOLE.len()).step_by(5) {
        let lines = WHOLE[..end].matches('\n').count() + 1;
        if let Err(errors) = parse_one(&WHOLE[..end]) {
            assert!(!errors.problems.is_empty());
            for problem in errors.problems {
                assert!((1..=lines).contains(&problem.line), "{end}: {problem}");
            }
        }
    }
}

#[test]
fn files_are_put_together_and_tables_stand_once() {
    let more = r#"
        [[rule]]
        name = "more"
        agents = ["coder"]
        kinds = ["show"]
        then = "allow"
    "#;
    let (config, _) = parse_files(&[("weir.toml", WHOLE), ("conf.d/a.toml", more)]).unwrap();
    assert_eq!(config.policy.rules.len(), 4);
    let errors = parse_files(&[("weir.toml", WHOLE), ("conf.d/a.toml", "\n[gateway]\n[[agent]]\nname = \"x\"\n")])
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert_eq!(
        errors,
        "conf.d/a.toml:2:1: gateway: stands in another file already; put it into one of them\n\
         conf.d/a.toml:3:1: agent.x: the key \"token\" is missing"
    );
    let (one, two) = (parse_one(WHOLE).unwrap().0, parse_one(&format!("{WHOLE}#")).unwrap().0);
    assert_ne!(one.version, two.version);
}

#[test]
fn what_is_odd_is_warned_of() {
    let odd = r#"
        [[rule]]
        name = "never"
        kinds = ["drop"]
        has_where = true
        then = "allow"

        [[rule]]
        name = "twice"
        agents = ["coder"]
        targets = ["orders"]
        kinds = ["select"]
        then = "allow"

        [[rule]]
        name = "futile"
        targets = ["orders"]
        kinds = ["drop"]
        then = "allow"

        [[rule]]
        name = "elsewhere"
        databases = ["billing"]
        then = "deny"

        [[target]]
        name = "orders2"
        protocol = "postgres"
        address = ["db.internal:5432"]
        databases = ["orders"]
        login = { user = "x", password = { file = "/etc/weir/x" } }

        [gateway]
        port = 40000
    "#;
    let whole =
        whole_but("[gateway]\nagents   = [\"agents.slice\"]\nunlisted = \"deny\"\nmode     = \"enforce\"\n", "");
    let (_, warnings) = parse_files(&[("weir.toml", &whole), ("odd.toml", odd)]).unwrap_or_else(|e| panic!("{e}"));
    let text = warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(text, include_str!("tests/odd.txt").trim_end());
}

#[test]
fn targets_are_found_by_name_or_address() {
    let more = r#"
        [[target]]
        name = "one"
        protocol = "tls-passthrough"
        address = ["10.1.2.3:5432", "[2001:db8::1]:443"]
    "#;
    let (config, _) = parse_files(&[("weir.toml", WHOLE), ("more.toml", more)]).unwrap_or_else(|e| panic!("{e}"));
    let found = |destination: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        match config.targets_for(destination.parse().unwrap(), &names) {
            TargetMatch::One(target) => target.name.clone(),
            TargetMatch::None => "-".to_owned(),
            TargetMatch::Ambiguous(names) => names.join("+"),
        }
    };
    for (destination, names, expected) in [
        ("192.0.2.1:5432", &[] as &[&str], "-"),
        ("192.0.2.1:5432", &["db.internal"], "orders"),
        ("192.0.2.1:5433", &["db.internal"], "-"),
        ("192.0.2.1:5432", &["other.internal"], "-"),
        ("10.9.9.9:5432", &[], "orders"),
        ("[::ffff:10.9.9.9]:5432", &[], "orders"),
        ("11.0.0.0:5432", &[], "-"),
        ("10.9.9.9:443", &[], "-"),
        ("10.9.9.9:443", &["api.example"], "model"),
        ("[2001:db8::1]:443", &[], "one"),
        ("[2001:db8::2]:443", &[], "-"),
        ("10.1.2.3:5432", &[], "orders+one"),
        ("10.9.9.9:443", &["api.example", "db.internal"], "model"),
    ] {
        assert_eq!(found(destination, names), expected, "{destination} {names:?}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = Scratch::new("unreadable");
    let place = |name: &str| directory.0.join(name);
    std::fs::create_dir(place("directory.toml")).unwrap();
    nix::unistd::mkfifo(&place("fifo.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(place("latin.toml"), b"[gateway]\nuser = \"\xe9\"\n").unwrap();
    std::fs::File::create(place("large.toml")).unwrap().set_len(100 << 20).unwrap();
    std::fs::write(place("half.toml"), &WHOLE[..WHOLE.len() / 2]).unwrap();
    for (name, expected) in [
        ("none.toml", "none.toml: there is no such file; `weir init` writes a first one"),
        ("directory.toml", "directory.toml: is not a regular file"),
        ("fifo.toml", "fifo.toml: is not a regular file"),
        ("latin.toml", "latin.toml:2:9: is not UTF-8 text from here on"),
        ("large.toml", "large.toml: is larger than 1024 KiB"),
        ("half.toml", "half.toml:"),
    ] {
        let errors = load(&place(name)).expect_err(name).to_string();
        assert!(errors.contains(expected), "{errors}");
        assert!(name == "half.toml" || errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn conf_d_is_read_in_order_and_with_the_same_care() {
    let directory = Scratch::new("conf-d");
    let main = directory.0.join("weir.toml");
    std::fs::write(&main, whole_but("user  = \"agent-coder\"\n", "")).unwrap();
    std::fs::create_dir(directory.0.join("conf.d")).unwrap();
    let rule = |name: &str| format!("[[rule]]\nname = \"{name}\"\nkinds = [\"show\"]\nthen = \"deny\"\n");
    for (file, text) in
        [("b.toml", rule("b")), ("a.toml", rule("a")), (".c.toml", rule("c")), ("d.toml~", "x".to_owned())]
    {
        std::fs::write(directory.0.join("conf.d").join(file), text).unwrap();
    }
    let config = load(&main).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = config.policy.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names[3..], ["a", "b"]);
    std::fs::create_dir(directory.0.join("conf.d/e.toml")).unwrap();
    assert!(load(&main).unwrap_err().to_string().ends_with("conf.d/e.toml: is not a regular file"));
}

#[test]
fn a_file_of_conf_d_is_not_lost_among_others() {
    let directory = Scratch::new("conf-d-crowded");
    let main = directory.0.join("weir.toml");
    std::fs::write(&main, whole_but("user  = \"agent-coder\"\n", "")).unwrap();
    let conf_d = directory.0.join("conf.d");
    std::fs::create_dir(&conf_d).unwrap();
    for number in 0..1024 {
        std::fs::write(conf_d.join(format!("{number}.toml~")), "").unwrap();
    }
    load(&main).unwrap_or_else(|errors| panic!("{errors}"));
    std::fs::write(conf_d.join("deny.toml"), "[[rule]]\nname = \"x\"\nkinds = [\"show\"]\nthen = \"deny\"\n").unwrap();
    assert!(load(&main).unwrap_err().to_string().ends_with("conf.d: has more than 1024 entries"));
}

#[test]
fn the_schema_is_json_and_knows_every_table() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    for table in ["gateway", "access", "recording", "identity", "agent", "target", "rule", "mask", "limit"] {
        assert!(schema["properties"][table].is_object(), "{table}");
    }
}

#[test]
fn rules_ask_for_kinds_columns_functions_and_sizes() {
    let directory = Scratch::new("facts");
    let main = directory.0.join("weir.toml");
    let said = |keys: &str| {
        std::fs::write(&main, whole_but("[[mask]]", &format!("[[rule]]\nname = \"x\"\n{keys}\n[[mask]]"))).unwrap();
        let loaded = load(&main).map_err(|errors| errors.to_string())?;
        let known = loaded.policy.rules.iter().find(|it| &*it.name == "x").cloned();
        Ok(known.unwrap())
    };
    let rule = said(
        "kinds = [\"ddl\", \"select\"]\ncolumns = [\"salary\"]\ncolumns_written = [\"public.orders.*\"]\nfunctions = [\"pg_sleep\"]\n\
         has_limit = false\nmore_rows_than = 100_000\nmore_statements_than = 1\nthen = \"deny\"",
    )
    .unwrap();
    assert_eq!(rule.kinds, [Kind::Create, Kind::Alter, Kind::Drop, Kind::Truncate, Kind::Select].into());
    assert_eq!((rule.columns[0].to_string(), rule.functions[0].to_string()), ("*.salary".into(), "pg_sleep".into()));
    assert_eq!((rule.has_limit, rule.more_rows_than, rule.more_statements_than), (Some(false), Some(100_000), Some(1)));
    for (keys, expected) in [
        ("more_rows_than = 1\nthen = \"allow\"", "rule.x.more_rows_than: an allow would let through what is large"),
        ("more_statements_than = 1\nthen = \"allow\"", "rule.x.more_statements_than: an allow"),
        ("columns = [\"a.b.c.d\"]\nthen = \"deny\"", "write \"schema.table.column\""),
        ("kinds = [\"write\"]\nthen = \"deny\"", "did you mean \"writes\"?"),
    ] {
        let errors: String = said(keys).unwrap_err();
        assert!(errors.contains(expected), "{keys}: {errors}");
    }
}

#[test]
fn limits_and_lookups_are_numbers_that_mean_something() {
    let with = |text: &str| whole_but("[[mask]]", &format!("{text}\n[[mask]]"));
    let directory = Scratch::new("limits");
    let main = directory.0.join("weir.toml");
    let said = |text: String| {
        std::fs::write(&main, text).unwrap();
        load(&main).map_err(|errors| errors.to_string())
    };
    let config =
        said(with("[[limit]]\nname = \"a page\"\nagents = [\"coder\"]\nrows = 10\nsession_bytes = \"2M\"")).unwrap();
    assert_eq!((config.limits[0].statement.rows, config.limits[0].session.bytes), (Some(10), Some(2 << 20)));
    for (text, expected) in [
        ("[[limit]]\nname = \"x\"", "limits nothing: give rows, bytes, session_rows or session_bytes"),
        ("[[limit]]\nname = \"x\"\nbytes = \"10\"", "is no size"),
        ("[[limit]]\nname = \"x\"\nrows = 1\nagents = [\"codr\"]", "\"coder\""),
        (
            "[[limit]]\nname = \"x\"\nrows = 1\n[[limit]]\nname = \"x\"\nrows = 1",
            "limit.x.name: another limit has this name",
        ),
    ] {
        let errors = said(with(text)).unwrap_err();
        assert!(errors.contains(expected), "{text}: {errors}");
    }
    let columns = "columns = [\"public.customers.ssn\", \"*.*.email\"]";
    let lookups = |number: u32| whole_but(columns, &format!("{columns}\nlookups_per_minute = {number}"));
    assert_eq!(said(lookups(20)).unwrap().masks[0].lookups_per_minute, Some(20));
    assert!(said(lookups(0)).unwrap_err().contains("from 1 to 10000"));
    let mask = "[[mask]]\nname = \"x\"\ndetect = [\"us_ssn\"]\nwith = { hash = { key = { credential = \"k\" } } }";
    assert!(said(with(mask)).unwrap_err().contains("is not hashed"));
}

/// A directory of this test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_hash_names_the_place_of_its_key() {
    let mask = |key: &str| {
        let hash = format!("{{ hash = {{ key = {key} }} }}");
        let config = parse_one(&whole_but("{ partial = { keep_last = 4 } }", &hash)).unwrap().0;
        config.masks[0].with.clone()
    };
    let key = CredentialSource::File("/etc/weir/mask-key".into());
    assert_eq!(mask("{ file = \"/etc/weir/mask-key\" }"), MaskKind::Hash { key });
    let key = CredentialSource::Credential("mask-key".to_owned());
    assert_eq!(mask("{ credential = \"mask-key\" }"), MaskKind::Hash { key });
}

#[test]
fn without_a_gateway_agents_are_refused_unless_they_are_to_wait() {
    let with = |line: &str| parse_one(&WHOLE.replacen("[gateway]\n", &format!("[gateway]\n{line}\n"), 1));
    for (line, expected) in [
        ("", WithoutGateway::Refuse),
        ("without_gateway = \"refuse\"", WithoutGateway::Refuse),
        ("without_gateway = \"wait\"", WithoutGateway::Wait),
    ] {
        assert_eq!(with(line).unwrap().0.gateway.without_gateway, expected, "{line}");
    }
    assert!(with("without_gateway = \"pass\"").is_err());
}
