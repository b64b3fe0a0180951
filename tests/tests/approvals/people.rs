//! Who may decide, and who may look: the requester is kept out under every name, and teams see what is theirs.

use std::path::Path;

use serde_json::{Value, json};
use system_tests::process::Finished;
use system_tests::shop::POLICY;

use super::{DELETE, PATIENCE, World, number};

/// A user, and group, of every Debian; no agent, and root for nobody.
const OTHER: &str = "daemon";
const OTHER_UID: &str = "1";
const AUDITOR: &str = "bin";

impl World {
    fn weir_as(&self, user: &str, line: &str) -> Finished {
        let env = &self.shop.env;
        let place = env.bystander_as(user, &env.weir_path().to_string_lossy()).args(line.split_whitespace());
        place.arg("--config").arg(env.config_path()).run().unwrap()
    }

    /// As root in whose session `uid` logged in: `sudo weir ...`.
    fn weir_by_sudo(&self, uid: &str, line: &str) -> Finished {
        let env = &self.shop.env;
        let script = r#"echo "$1" > /proc/self/loginuid && shift && exec "$@""#;
        let place = env.bystander("sh").args(["-c", script, "sh", uid]).arg(env.weir_path());
        place.args(line.split_whitespace()).arg("--config").arg(env.config_path()).run().unwrap()
    }
}

fn keeps_login_uids() -> bool {
    Path::new("/proc/self/loginuid").exists()
}

fn policy(approvers: &str) -> String {
    let access = "approve = { dba = [\"root\"] }\naudit   = [\"root\"]";
    assert!(POLICY.contains(access));
    POLICY.replace(access, &format!("approve = {{ {approvers} }}\naudit   = [\"root\", \"{AUDITOR}\"]"))
}

#[test]
fn a_team_sees_the_approvals_that_are_its_own() {
    let world = World::with_policy(&policy(&format!("dba = [\"root\"], web = [\"{OTHER}\"]")));
    let (psql, approval) = world.hold(DELETE);
    let number = number(&approval);
    let listed = |user: &str| -> Value {
        serde_json::from_str(&world.weir_as(user, "approvals --json").expect_success().unwrap()).unwrap()
    };
    assert_eq!(listed(OTHER), json!([]), "another team's");
    let shown = world.weir_as(OTHER, &format!("approvals show {number}"));
    assert!(shown.code == Some(1) && shown.stderr.contains("there is no approval"), "{shown:?}");
    assert!(shown.stdout.is_empty() && !shown.stderr.contains(DELETE), "{shown:?}");
    let voted = world.weir_as(OTHER, &format!("approve {number}"));
    assert!(voted.code == Some(1) && voted.stderr.contains("needs one of these approvers: dba"), "{voted:?}");

    assert_eq!(listed(AUDITOR)[0]["text"], DELETE);
    let shown = world.weir_as(AUDITOR, &format!("approvals show {number}")).expect_success().unwrap();
    assert!(shown.contains(DELETE), "{shown}");
    drop(psql);
}

#[test]
fn nobody_approves_what_his_own_agent_asks() {
    let world = World::with_policy(&policy(&format!("dba = [\"root\", \"{OTHER}\"]")));
    let opaque = "8f14e45f-ceea-467f-9b2c-3a1c0f4d5e6b";
    for claims in [
        json!({ "sub": format!("{OTHER}@shop.example") }),
        json!({ "sub": opaque, "preferred_username": OTHER }),
        json!({ "sub": opaque, "email": format!("{OTHER}@shop.example") }),
    ] {
        world.shop.give_token(&claims).unwrap();
        let (psql, approval) = world.hold(DELETE);
        let number = number(&approval);
        let mut refused = vec![world.weir_as(OTHER, &format!("approve {number}"))];
        if keeps_login_uids() {
            refused.push(world.weir_by_sudo(OTHER_UID, &format!("approve {number}")));
        }
        for refused in refused {
            assert!(refused.code == Some(1) && refused.stderr.contains("own agent"), "{claims}: {refused:?}");
        }
        world.weir(&format!("deny {number}")).expect_success().unwrap();
        psql.finish(PATIENCE).unwrap();
    }
}

#[test]
fn who_starts_an_agent_does_not_approve_what_it_asks() {
    if !keeps_login_uids() {
        return;
    }
    let world = World::with_policy(&policy(&format!("dba = [\"root\", \"{OTHER}\"]")));
    // As `weir run` from the shell of somebody who logged in.
    let script = r#"echo "$1" > /proc/self/loginuid && exec psql --no-psqlrc --command "$2""#;
    let psql = world.shop.client("sh").args(["-c", script, "sh", OTHER_UID, DELETE]).start().unwrap();
    psql.wait_for("approval", PATIENCE).unwrap();
    let approval = world.waiting().pop().unwrap();
    assert_eq!(approval["evidence"]["login_uid"].to_string(), OTHER_UID, "{approval}");
    let approve = format!("approve {}", number(&approval));
    for refused in [world.weir_as(OTHER, &approve), world.weir_by_sudo(OTHER_UID, &approve)] {
        assert!(refused.code == Some(1) && refused.stderr.contains("own agent"), "{refused:?}");
    }
    world.weir(&approve).expect_success().unwrap();
    assert!(psql.finish(PATIENCE).unwrap().success());
}

#[test]
fn two_people_are_not_one_with_sudo() {
    if !keeps_login_uids() {
        return;
    }
    let two = policy(&format!("dba = [\"root\", \"{OTHER}\", \"{AUDITOR}\"]")).replace("count = 1", "count = 2");
    let world = World::with_policy(&two);
    let (psql, approval) = world.hold(DELETE);
    let approve = format!("approve {}", number(&approval));
    world.weir_as(OTHER, &approve).expect_success().unwrap();
    let again = world.weir_by_sudo(OTHER_UID, &approve);
    assert!(again.code == Some(1) && again.stderr.contains("has voted"), "{again:?}");
    assert_eq!(world.waiting().len(), 1);
    world.weir_as(AUDITOR, &approve).expect_success().unwrap();
    assert!(psql.finish(PATIENCE).unwrap().success());
}

/// Or whoever repeats them pushes other evidence out.
#[test]
fn a_vote_on_nothing_takes_little_room() {
    let world = World::new();
    let recordings = world.shop.env.state_dir().join("recordings");
    let recorded = || -> usize {
        let events = system_tests::recording::events(&recordings).unwrap();
        events.iter().map(|event| serde_json::to_string(event).unwrap().len()).sum()
    };
    let before = recorded();
    let reason = "x".repeat(60 * 1024);
    for _ in 0..20 {
        let voted = world.shop.env.weir(["approve", "999", "--reason", &reason]).unwrap();
        assert!(voted.code == Some(1) && voted.stderr.contains("a reason has at most"), "{voted:?}");
    }
    let unknown = world.weir("approve 999");
    assert!(unknown.code == Some(1) && unknown.stderr.contains("there is no approval 999"), "{unknown:?}");
    let grown = recorded() - before;
    assert!(grown > 0 && grown < 20 * 4096, "{grown}");
}
