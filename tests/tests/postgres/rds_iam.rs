//! A login by tokens of AWS IAM, at a server that has AWS's own library judge them: who gets in, and what is said to whom.

use system_tests::env::Gateway;
use system_tests::process::{Finished, PATIENCE, wait_until};
use system_tests::rds::{self, KEY, Metadata, REGION, Rds};
use system_tests::recording;
use system_tests::shop::{POLICY, Shop};

const OTHER_KEY: &str = "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY";
/// As AWS's, but shorter: PAM has no room for theirs.
const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjEJj//////////wEaDGV1+A/b==";

struct Instance {
    gateway: Gateway,
    rds: Rds,
    shop: Shop,
}

impl Instance {
    fn new(session_token: Option<&str>) -> Self {
        let shop = Shop::new().unwrap();
        let rds = Rds::begin(&shop, session_token).unwrap();
        let key = rds::held_key(&shop, REGION, session_token).unwrap();
        shop.configure_target(&rds::target_config(&shop, &key).unwrap(), POLICY).unwrap();
        let gateway = shop.serve().unwrap();
        Self { gateway, rds, shop }
    }

    /// From now on with this in the login's `rds_iam`.
    fn reload(&self, iam: &str) {
        self.shop.configure_target(&rds::target_config(&self.shop, iam).unwrap(), POLICY).unwrap();
        self.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    }

    fn psql(&self, sql: &str) -> Finished {
        self.shop.psql(sql).args(["--tuples-only", "--no-align"]).run().unwrap()
    }

    /// The same to a session that does not begin: what the client and the records say.
    fn turned_away(&self) -> String {
        let refused = self.psql("SELECT 1");
        assert!(!refused.success() && refused.stdout.is_empty(), "{refused:?}");
        refused.stderr
    }

    /// Neither a key nor a token is anywhere that anybody reads.
    fn keeps_secrets(self) {
        let Self { gateway, rds, shop } = self;
        gateway.stop().unwrap();
        let signature = |token: &String| token.split_once("X-Amz-Signature=").unwrap().1[..64].to_owned();
        let mut secrets: Vec<String> = rds.seen().iter().map(signature).collect();
        secrets.extend([KEY, OTHER_KEY, SESSION_TOKEN, "X-Amz-", "X-Amz-Security-Token"].map(str::to_owned));
        let log = shop.env.log();
        for secret in secrets {
            assert!(!log.contains(&secret), "{secret} in the log:\n{log}");
            assert_eq!(recording::files_with(&shop.env.state_dir(), &secret).unwrap(), [""; 0], "{secret}");
        }
    }
}

/// The gateway's own sessions, which read the catalog, have tokens of their own.
#[test]
fn each_login_has_a_token_that_aws_would_take() {
    for session_token in [None, Some(SESSION_TOKEN)] {
        let instance = Instance::new(session_token);
        let masked = instance.psql("SELECT ssn, upper(email), name FROM customers WHERE id = 1");
        assert_eq!(masked.expect_success().unwrap(), "*******1002|***|Ada Okafor\n", "{:?}", instance.rds.said());
        assert_eq!(instance.psql("SELECT current_user").expect_success().unwrap(), "orders_rw\n");
        // Each is written down before it is judged; another reading of the catalog may be at it.
        wait_until("the judgement of all tokens", PATIENCE, || instance.rds.said().len() == instance.rds.seen().len())
            .unwrap();
        let said = instance.rds.said();
        assert!(said.len() >= 3 && said.iter().all(|it| it == "taken"), "{said:?}");
        instance.keeps_secrets();
    }
}

#[test]
fn a_token_that_is_not_taken_is_told_of_and_not_shown() {
    let instance = Instance::new(None);
    let told = "refused the login's IAM token: PAM authentication failed for user \"orders_rw\"; check rds_iam's region and key";
    instance.shop.env.set_credential("aws-key", OTHER_KEY).unwrap();
    let refused = instance.turned_away();
    assert!(refused.contains(told), "{refused}");
    instance.reload(&rds::held_key(&instance.shop, "eu-west-3", None).unwrap());
    let refused = instance.turned_away();
    assert!(refused.contains(told), "{refused}");
    assert_eq!(instance.rds.said(), ["refused: X-Amz-Signature", "refused: X-Amz-Credential X-Amz-Signature"]);
    instance.keeps_secrets();
}

#[test]
fn a_server_that_asks_for_something_else_is_sent_nothing() {
    let instance = Instance::new(None);
    let postgres = &instance.shop.postgres;
    rds::admit(&instance.shop, "scram-sha-256").unwrap();
    let refused = instance.turned_away();
    assert!(refused.contains("asks for a password by SCRAM, and not for an IAM token: GRANT rds_iam TO"), "{refused}");
    postgres.sql("SET password_encryption = 'md5'; ALTER ROLE orders_rw PASSWORD 'x'").unwrap();
    rds::admit(&instance.shop, "md5").unwrap();
    let refused = instance.turned_away();
    assert!(refused.contains("asks for a password by MD5, and not for an IAM token"), "{refused}");
    rds::admit(&instance.shop, "trust").unwrap();
    let refused = instance.turned_away();
    assert!(refused.contains("let the gateway in without a password"), "{refused}");
    assert_eq!(instance.rds.seen(), [""; 0]);
    instance.keeps_secrets();
}

/// And a password, where a token is asked for.
#[test]
fn a_password_is_not_sent_where_a_token_is_asked_for() {
    let instance = Instance::new(None);
    instance.shop.configure(POLICY).unwrap();
    instance.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    let refused = instance.turned_away();
    assert!(refused.contains("wants the password by clear text") && refused.contains("rds_iam = {"), "{refused}");
    assert_eq!(instance.rds.seen(), [""; 0]);
}

/// Its keys are fetched once, and only by the gateway.
#[test]
fn the_keys_may_be_those_of_the_instance_s_role() {
    let instance = Instance::new(Some(SESSION_TOKEN));
    let metadata = Metadata::start(&instance.shop, SESSION_TOKEN).unwrap();
    instance.reload(&metadata.role());
    for _ in 0..3 {
        assert_eq!(instance.psql("SELECT name FROM customers WHERE id = 1").expect_success().unwrap(), "Ada Okafor\n");
    }
    let said = instance.rds.said();
    assert!(said.len() >= 4 && said.iter().all(|it| it == "taken"), "{said:?}");
    let agent = || {
        let curl = instance.shop.env.agent("curl");
        curl.args(["--silent", "--show-error", "--max-time", "5", &metadata.url()]).run().unwrap()
    };
    assert!(!agent().success());
    let config = rds::target_config(&instance.shop, &metadata.role()).unwrap();
    let observe = format!("unlisted = \"observe\"\n{}", instance.shop.config_with(&config, POLICY));
    instance.shop.env.configure(&observe).unwrap();
    instance.shop.env.weir(["reload"]).unwrap().expect_success().unwrap();
    assert!(!agent().success(), "also where the rest is only observed");
    let roles = "/latest/meta-data/iam/security-credentials/";
    let asked = format!("ready\nPUT /latest/api/token 200\nGET {roles} 200\nGET {roles}gateway 200\n");
    assert_eq!(metadata.asked(), asked);
    let role = metadata.role();
    drop(metadata);
    assert!(instance.psql("SELECT 1").success(), "the keys that are held are good for an hour");
    instance.reload(&role.replace("127.0.0.1", "127.0.0.2"));
    let refused = instance.turned_away();
    assert!(refused.contains("the IAM token of the login cannot be made; the gateway's log"), "{refused}");
    assert!(!refused.contains("metadata") && !refused.contains("127.0.0.2"), "{refused}");
    let whole = "cannot be made: the instance's metadata service 127.0.0.2:";
    let state_dir = instance.shop.env.state_dir();
    let recorded = || recording::files_with(&state_dir, whole).is_ok_and(|it| !it.is_empty());
    wait_until("the whole error in the session's record", PATIENCE, recorded).unwrap();
    let log = instance.shop.env.log();
    assert!(log.contains("the instance's metadata service 127.0.0.2:"), "{log}");
    instance.keeps_secrets();
}
