//! Who might run something for an agent outside its slice: one row for each function of `tests/vm/ways`, with what must come of
//! it for an agent with a user of its own, for one that shares its user with people, and for one that is root without a
//! capability; each as a bare unit, and with the drop-in that is shipped. A server that no target names says who got out. Engines of
//! containers are stand-ins here: suite `containers` asks the real ones, and looks at what root in a container of theirs sees.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use system_tests::vm::{Said, Tree};

use Must::{Answered, Blocked, Harmless, Intercepted, Open};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Must {
    /// Nobody runs it.
    Blocked,
    /// It is run, and is still the agent's: the gateway has recorded and refused it.
    Intercepted,
    /// The agent's own user does what it asks, and nothing leaves by it.
    Harmless,
    /// What was asked for is done, and nothing leaves by it yet: `weir doctor` fails, and calls it this.
    Answered(&'static str),
    /// It is run, and gets out: `weir doctor` fails, and calls it this.
    Open(&'static str),
}

/// `weir doctor` calls them so. What closes them is the drop-in, but for what is left behind in a home: a user of its own.
const SOCKETS: Must = Open("sockets");
const SHARED: Must = Open("shared user");
const ROOT: Must = Open("root");

pub(crate) struct Row {
    way: &'static str,
    bare: [Must; 3],
    locked: [Must; 3],
}

const USERS: [&str; 3] = ["agent-coder", "dev", "root"];
const CLOSED: [Must; 3] = [Blocked; 3];

/// Closed by the drop-in.
pub(crate) const fn row(way: &'static str, bare: [Must; 3]) -> Row {
    Row { way, bare, locked: CLOSED }
}

/// Not closed by it.
const fn stays(way: &'static str, bare: [Must; 3], locked: [Must; 3]) -> Row {
    Row { way, bare, locked }
}

const TABLE: [Row; 16] = [
    row("system_manager", [Blocked, Blocked, SOCKETS]),
    row("system_bus", [Blocked, Blocked, SOCKETS]),
    row("user_manager", [Intercepted, SHARED, ROOT]),
    row("user_bus", [Intercepted, SHARED, ROOT]),
    stays("drop_in", [Blocked, Blocked, ROOT], [Blocked, Blocked, ROOT]),
    row("cron", [Intercepted, SHARED, ROOT]),
    row("cron_file", [Blocked, Blocked, ROOT]),
    row("at_once", [Intercepted, SHARED, ROOT]),
    stays("profile", [Intercepted, SHARED, ROOT], [Intercepted, SHARED, ROOT]),
    stays("bashrc", [Intercepted, SHARED, ROOT], [Intercepted, SHARED, ROOT]),
    row("ssh_agent", [Harmless, Answered("shared user"), Answered("root")]),
    row("tmux_keys", [Intercepted, SHARED, ROOT]),
    // A private /tmp is no secret to the user that owns both sides.
    stays("tmux_by_proc", [Intercepted, SHARED, ROOT], [Intercepted, SHARED, Blocked]),
    row("docker", [SOCKETS; 3]),
    row("containerd", [SOCKETS; 3]),
    row("podman", [SOCKETS; 3]),
];

pub(crate) fn add(tree: &Tree) {
    for (name, text) in [
        ("escape", include_str!("../../vm/escape")),
        ("services", include_str!("../../vm/services")),
        ("ways", include_str!("../../vm/ways")),
    ] {
        tree.put(&format!("opt/smoke/{name}"), 0o755, text).unwrap();
    }
    for (name, text) in [
        ("bare@.service", include_str!("../../vm/way.service")),
        ("locked@.service", include_str!("../../vm/way.service")),
        ("canary.service", include_str!("../../vm/canary.service")),
        ("engine.socket", include_str!("../../vm/engine.socket")),
        ("engine@.service", include_str!("../../vm/engine@.service")),
        ("nightly.service", include_str!("../../vm/nightly.service")),
    ] {
        tree.put(&format!("usr/lib/systemd/system/{name}"), 0o644, text).unwrap();
    }
}

pub(crate) fn judge(said: &Said) {
    judge_all(said, &TABLE, &["root"]);
}

/// Every way of the table, by every agent, and nothing else; and doctor's word for each that is open. `stays`: what the drop-in
/// does not close.
pub(crate) fn judge_all(said: &Said, table: &[Row], stays: &[&str]) {
    let attempts = attempts(said);
    assert_eq!(attempts.len(), table.len() * 6, "{}", said.all);
    let mut wrong = String::new();
    for (kind, must) in [("bare", (|row| row.bare) as fn(&Row) -> [Must; 3]), ("locked", |row| row.locked)] {
        let findings = super::findings_of(said, &format!("DOCTOR-{kind}"));
        for (index, user) in USERS.into_iter().enumerate() {
            let unit = format!("{kind}@{user}");
            for row in table {
                let must = must(row)[index];
                let Some(attempt) = attempts.get(&(unit.as_str(), row.way)) else {
                    writeln!(wrong, "{unit}: {}: not tried", row.way).unwrap();
                    continue;
                };
                if !attempt.is(must) {
                    writeln!(wrong, "{unit}: {}: {attempt:?} where {must:?}", row.way).unwrap();
                }
                if let Open(subject) | Answered(subject) = must
                    && !names(&findings, subject, &unit, said)
                {
                    writeln!(wrong, "{unit}: {}: doctor has no finding {subject:?}", row.way).unwrap();
                }
            }
            // With the drop-in nothing else is found of it.
            let more = |finding: &&Value| {
                is_about(finding, &unit) && !stays.iter().any(|subject| finding["subject"] == *subject)
            };
            let more: Vec<&Value> = findings.iter().filter(more).filter(|_| kind == "locked").collect();
            if !more.is_empty() {
                writeln!(wrong, "{unit}: doctor has found {more:?}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}\n{}", said.all);
}

/// What was seen of one way.
#[derive(Debug)]
struct Attempt<'a> {
    /// `done` or `blocked`, and the last words of whoever was asked.
    answer: &'a str,
    got_out: bool,
    refused: bool,
}

impl Attempt<'_> {
    fn is(&self, must: Must) -> bool {
        match must {
            Blocked => !self.got_out && !self.refused && self.answer.starts_with("blocked "),
            Intercepted => !self.got_out && self.refused,
            Harmless | Answered(_) => !self.got_out && !self.refused && self.answer.starts_with("done "),
            Open(_) => self.got_out,
        }
    }
}

/// By unit and way.
fn attempts(said: &Said) -> BTreeMap<(&str, &str), Attempt<'_>> {
    let lines = |word: &'static str| {
        said.all.lines().filter_map(move |line| line.trim_end().strip_prefix(word)?.strip_prefix(' '))
    };
    let attempts = lines("WAY").map(|line| {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (unit, way, address, answer) = (word(), word(), word(), word());
        let got_out = lines("REACHED").any(|line| line == format!("{unit}.{way}"));
        let refused = lines("REFUSED").any(|line| line == format!("{address}:8081"));
        ((unit, way), Attempt { answer, got_out, refused })
    });
    attempts.collect()
}

fn names(findings: &[Value], subject: &str, unit: &str, said: &Said) -> bool {
    let failed = |finding: &&Value| finding["level"] == "fail" && finding["subject"] == subject;
    // Users are shared by number, not by unit.
    let uid = said.verdicts().get("dev.uid").copied().unwrap_or_default().to_owned();
    let shared = format!("agents run as uid {uid}, ");
    let about = |finding: &Value| {
        is_about(finding, unit) || finding["message"].as_str().unwrap_or_default().starts_with(&shared)
    };
    findings.iter().filter(failed).any(about)
}

fn is_about(finding: &Value, unit: &str) -> bool {
    finding["message"].as_str().unwrap_or_default().contains(&format!("/{unit}.service: "))
}
