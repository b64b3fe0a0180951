//! Every rule of approvals, and the races between them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::ids::SessionId;

const LONG: Duration = Duration::from_mins(10);
const AGENT_UID: u32 = 2000;

/// A recording in memory that can be told to fail, or to let a vote wait.
#[derive(Default)]
struct Memory {
    transitions: Mutex<Vec<Transition>>,
    full: AtomicBool,
    gate: Option<(Notify, Notify)>,
}

impl Ledger for Memory {
    fn record(&self, transition: Transition) -> Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send + '_>> {
        Box::pin(async move {
            if self.full.load(Ordering::SeqCst) {
                return Err("disk full".into());
            }
            if let (Some((reached, go)), Transition::Voted { .. }) = (&self.gate, &transition) {
                reached.notify_one();
                go.notified().await;
            }
            self.transitions.lock().unwrap().push(transition);
            Ok(())
        })
    }

    fn note(&self, transition: Transition) {
        self.transitions.lock().unwrap().push(transition);
    }
}

impl Memory {
    fn last(&self) -> Transition {
        self.transitions.lock().unwrap().last().unwrap().clone()
    }
}

fn approvals() -> (Approvals, Arc<Memory>) {
    let memory = Arc::new(Memory::default());
    (Approvals::new(7, memory.clone()), memory)
}

fn requirement(approvers: &[&str], count: u32, timeout: Duration) -> HoldRequirement {
    let approvers = approvers.iter().map(ToString::to_string).collect();
    HoldRequirement { rule: "whole-table writes".into(), message: None, approvers, count, timeout }
}

fn ask(requirements: Vec<HoldRequirement>) -> Ask {
    Ask {
        operation: SessionId::new(1_780_000_000_000, 1).operation(3),
        digest: [7; 32],
        text: "DELETE FROM orders".into(),
        parameters: None,
        agent: "coder".into(),
        agent_uid: AGENT_UID,
        place: "agents.slice/coder@a.service".into(),
        subject: "carol@example.com".into(),
        names: Vec::new(),
        groups: vec!["developers".into()],
        target: "orders".into(),
        database: Some("orders".into()),
        requirements,
        evidence: Evidence::default(),
        understood: None,
        actions: vec!["select orders".to_owned()],
        forecast: None,
    }
}

fn approver(user: &str, uid: u32, names: &[&str]) -> Approver {
    let names = names.iter().map(ToString::to_string).collect();
    Approver { user: user.into(), uid, login_uid: None, login_user: None, names }
}

/// Somebody who logged in as himself.
fn at_terminal(user: &str, uid: u32) -> Approver {
    Approver { login_uid: Some(uid), login_user: Some(user.into()), ..approver(user, uid, &["dba"]) }
}

/// `sudo weir`, or `sudo -u USER weir`, of somebody who logged in.
fn by_sudo(person: &Approver, user: &str, uid: u32) -> Approver {
    Approver { user: user.into(), uid, ..person.clone() }
}

fn alice() -> Approver {
    approver("alice", 1001, &["dba"])
}

fn bob() -> Approver {
    approver("bob", 1002, &["dba"])
}

#[tokio::test]
async fn an_approval_is_recorded_then_counts_then_is_claimed_once() {
    let (approvals, memory) = approvals();
    let mut pending = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    assert_eq!(pending.number(), 7);
    assert!(matches!(memory.last(), Transition::Requested(view) if view.text == "DELETE FROM orders"));
    assert_eq!(approvals.list().len(), 1);

    let view = approvals.approve(7, alice(), Some("ticket 12".into())).await.unwrap();
    assert_eq!(view.status, Status::Approved);
    assert!(matches!(memory.last(), Transition::Voted { completes: true, vote, .. } if vote.by == alice()));
    assert_eq!(pending.outcome().await, Outcome::Approved { by: vec![alice()] });
    assert_eq!(pending.outcome().await, Outcome::Expired, "an approval is handed out once");

    drop(pending);
    let late = approvals.approve(7, bob(), None).await.unwrap_err();
    assert!(matches!(late, ApprovalError::Over { status: Status::Approved, .. }), "{late}");
}

#[tokio::test]
async fn numbers_go_on_and_unknown_ones_are_said_to_be_so() {
    let (approvals, _) = approvals();
    let first = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    let second = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    assert_eq!((first.number(), second.number()), (7, 8));
    for number in [0, 6, 9] {
        assert!(matches!(approvals.deny(number, alice(), None).await, Err(ApprovalError::Unknown(_))));
    }
}

#[tokio::test]
async fn only_an_approver_of_the_rule_may_decide() {
    let (approvals, memory) = approvals();
    let _pending = approvals.request(ask(vec![requirement(&["dba", "lead"], 1, LONG)])).await.unwrap();
    for approve in [true, false] {
        let by = approver("mallory", 1003, &["security"]);
        let error = approvals.vote(7, by, None, approve).await.unwrap_err();
        assert!(
            matches!(&error, ApprovalError::NotAnApprover { approvers, .. } if approvers == "dba, lead"),
            "{error}"
        );
    }
    assert!(matches!(memory.last(), Transition::Requested(_)), "a vote that does not count is no transition");
}

#[tokio::test]
async fn the_requester_cannot_decide_under_any_name() {
    let (approvals, _) = approvals();
    let _pending = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    let as_agent = approver("agent", AGENT_UID, &["dba"]);
    let by_subject = approver("carol", 1004, &["dba"]);
    let by_address = approver("Carol@example.com", 1005, &["dba"]);
    let by_sudo = Approver { login_uid: Some(AGENT_UID), ..approver("root", 0, &["dba"]) };
    for by in [as_agent, by_subject, by_address, by_sudo] {
        let error = approvals.approve(7, by.clone(), None).await.unwrap_err();
        assert!(matches!(error, ApprovalError::Requester { .. }), "{by:?}: {error}");
    }
}

/// Whom the token names, under each of its names, and whoever started the agent: also as root, or as another user.
#[tokio::test]
async fn nobody_approves_what_his_own_agent_asks() {
    let alice = at_terminal("alice", 1001);
    let opaque = "8f14e45f-ceea-467f-9b2c-3a1c0f4d5e6b".to_owned();
    let started = Evidence { login_uid: Some(1001), ..Evidence::default() };
    let plain = || Ask { subject: opaque.clone(), ..ask(vec![requirement(&["dba"], 1, LONG)]) };
    for (is_alices, asked) in [
        (true, Ask { subject: "alice@example.com".into(), ..plain() }),
        (true, Ask { names: vec!["Alice".into()], ..plain() }),
        (true, Ask { names: vec!["nobody".into(), "alice@example.com".into()], ..plain() }),
        (true, Ask { evidence: started, ..plain() }),
        (false, plain()),
        // Who logged in as root, or as the agent's own user, and started it keeps nobody else from deciding.
        (false, Ask { evidence: Evidence { login_uid: Some(0), ..Evidence::default() }, ..plain() }),
        (false, Ask { evidence: Evidence { login_uid: Some(AGENT_UID), ..Evidence::default() }, ..plain() }),
    ] {
        for by in [alice.clone(), by_sudo(&alice, "root", 0), by_sudo(&alice, "bob", 1002)] {
            let (approvals, _) = approvals();
            let _pending = approvals.request(asked.clone()).await.unwrap();
            let voted = approvals.approve(7, by.clone(), None).await;
            assert_eq!(matches!(voted, Err(ApprovalError::Requester { .. })), is_alices, "{by:?}: {voted:?}");
            assert_eq!(voted.is_ok(), !is_alices, "{by:?}: {voted:?}");
        }
    }
    // Without a login uid there is the name.
    let (approvals, _) = approvals();
    let _pending = approvals.request(Ask { names: vec!["alice".into()], ..plain() }).await.unwrap();
    let bare = Approver { login_uid: None, login_user: None, ..alice };
    assert!(matches!(approvals.approve(7, bare, None).await, Err(ApprovalError::Requester { .. })));
}

#[tokio::test]
async fn sudo_makes_nobody_a_second_person() {
    let alice = at_terminal("alice", 1001);
    // A session in which nobody logged in may say once who did.
    let invented = Approver { login_uid: Some(5555), ..alice.clone() };
    let bare = Approver { login_uid: None, login_user: None, ..alice.clone() };
    for again in [by_sudo(&alice, "root", 0), by_sudo(&alice, "bob", 1002), invented.clone(), bare.clone()] {
        for (first, second) in [(&alice, &again), (&again, &alice)] {
            let (approvals, _) = approvals();
            let _pending = approvals.request(ask(vec![requirement(&["dba"], 2, LONG)])).await.unwrap();
            assert_eq!(approvals.approve(7, first.clone(), None).await.unwrap().status, Status::Pending);
            let voted = approvals.approve(7, second.clone(), None).await;
            assert!(matches!(voted, Err(ApprovalError::VotedAlready { .. })), "{first:?} {second:?}: {voted:?}");
            let other = by_sudo(&at_terminal("bob", 1003), "root", 0);
            assert_eq!(approvals.approve(7, other, None).await.unwrap().status, Status::Approved);
        }
    }
    assert!(!met(&[requirement(&["dba"], 2, LONG)], &[&alice, &invented]));
    assert!(met(&[requirement(&["dba"], 2, LONG)], &[&alice, &bob()]));
}

#[tokio::test]
async fn a_vote_that_would_not_count_is_known_before() {
    let (approvals, memory) = approvals();
    let _pending = approvals.request(ask(vec![requirement(&["dba"], 2, LONG)])).await.unwrap();
    let long = "x".repeat(MAX_REASON + 1);
    let would = |number, by: &Approver, reason| approvals.would_count(number, by, reason, true);
    assert!(would(7, &alice(), Some(&long[1..])).is_ok());
    assert!(matches!(would(7, &alice(), Some(&long)), Err(ApprovalError::ReasonTooLong)));
    assert!(matches!(would(999, &alice(), None), Err(ApprovalError::Unknown(999))));
    assert!(matches!(would(7, &approver("eve", 1007, &["security"]), None), Err(ApprovalError::NotAnApprover { .. })));
    approvals.approve(7, alice(), None).await.unwrap();
    assert!(matches!(would(7, &alice(), None), Err(ApprovalError::VotedAlready { .. })));
    assert!(approvals.would_count(7, &alice(), None, false).is_ok(), "one may think better of it");
    assert_eq!(memory.transitions.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn approvers_know_what_is_theirs() {
    let (approvals, _) = approvals();
    let _pending =
        approvals.request(ask(vec![requirement(&["dba"], 1, LONG), requirement(&["security"], 1, LONG)])).await;
    let view = approvals.show(7).unwrap();
    let is_for = |name: &str| view.is_for(&BTreeSet::from([name.to_owned()]));
    assert_eq!((is_for("dba"), is_for("security"), is_for("web")), (true, true, false));
    assert!(!view.is_for(&BTreeSet::new()));
}

#[tokio::test]
async fn every_requirement_needs_its_number_of_distinct_people() {
    let (approvals, _) = approvals();
    let requirements = vec![requirement(&["dba"], 2, LONG), requirement(&["security"], 1, LONG)];
    let mut pending = approvals.request(ask(requirements)).await.unwrap();
    assert_eq!(approvals.approve(7, alice(), None).await.unwrap().status, Status::Pending);
    assert!(matches!(approvals.approve(7, alice(), None).await, Err(ApprovalError::VotedAlready { .. })));
    let alice_by_sudo = Approver { login_uid: Some(1001), ..approver("root", 0, &["dba", "security"]) };
    assert!(matches!(approvals.approve(7, alice_by_sudo, None).await, Err(ApprovalError::VotedAlready { .. })));
    assert_eq!(approvals.approve(7, bob(), None).await.unwrap().status, Status::Pending);
    let dave = approver("dave", 1006, &["security"]);
    assert_eq!(approvals.approve(7, dave.clone(), None).await.unwrap().status, Status::Approved);
    assert_eq!(pending.outcome().await, Outcome::Approved { by: vec![alice(), bob(), dave] });
}

#[tokio::test]
async fn one_deny_wins_even_from_who_said_yes() {
    let (approvals, _) = approvals();
    let mut pending = approvals.request(ask(vec![requirement(&["dba"], 2, LONG)])).await.unwrap();
    approvals.approve(7, alice(), None).await.unwrap();
    approvals.deny(7, alice(), Some("wrong table".into())).await.unwrap();
    assert!(matches!(approvals.approve(7, bob(), None).await, Err(ApprovalError::Over { .. })));
    assert_eq!(pending.outcome().await, Outcome::Denied { by: alice(), reason: Some("wrong table".into()) });
}

#[tokio::test]
async fn the_shortest_timeout_ends_the_wait() {
    let (approvals, memory) = approvals();
    let requirements = vec![requirement(&["dba"], 1, LONG), requirement(&["dba"], 1, Duration::from_millis(5))];
    let mut pending = approvals.request(ask(requirements)).await.unwrap();
    assert_eq!(pending.outcome().await, Outcome::Expired);
    assert!(matches!(memory.last(), Transition::Ended { status: Status::Expired, .. }));
    assert!(matches!(
        approvals.approve(7, alice(), None).await,
        Err(ApprovalError::Over { status: Status::Expired, .. })
    ));
}

#[tokio::test]
async fn a_vote_after_the_deadline_does_not_count_though_nobody_looked() {
    let (approvals, _) = approvals();
    let mut pending = approvals.request(ask(vec![requirement(&["dba"], 1, Duration::ZERO)])).await.unwrap();
    let error = approvals.approve(7, alice(), None).await.unwrap_err();
    assert!(matches!(error, ApprovalError::Over { status: Status::Expired, .. }), "{error}");
    assert_eq!(pending.outcome().await, Outcome::Expired);
}

#[tokio::test]
async fn without_requirements_nobody_can_say_yes() {
    let (approvals, _) = approvals();
    let mut pending = approvals.request(ask(vec![])).await.unwrap();
    assert!(approvals.approve(7, alice(), None).await.is_err());
    assert_eq!(pending.outcome().await, Outcome::Expired);
}

#[tokio::test]
async fn a_client_that_goes_away_withdraws_its_request() {
    let (approvals, memory) = approvals();
    drop(approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap());
    assert!(matches!(memory.last(), Transition::Ended { status: Status::Withdrawn, .. }));
    assert!(approvals.list().is_empty());
    let error = approvals.approve(7, alice(), None).await.unwrap_err();
    assert!(matches!(error, ApprovalError::Over { status: Status::Withdrawn, .. }), "{error}");
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let (approvals, memory) = approvals();
    let mut pending = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    memory.full.store(true, Ordering::SeqCst);
    assert!(matches!(approvals.approve(7, alice(), None).await, Err(ApprovalError::NotRecorded(_))));
    assert_eq!(approvals.show(7).unwrap().status, Status::Pending);
    let second = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await;
    assert!(matches!(second, Err(RequestError::NotRecorded(_))));
    assert_eq!(approvals.list().len(), 1, "a request that is not recorded is not seen");
    memory.full.store(false, Ordering::SeqCst);
    approvals.approve(7, alice(), None).await.unwrap();
    assert_eq!(pending.outcome().await, Outcome::Approved { by: vec![alice()] });
}

#[tokio::test]
async fn a_vote_that_is_recorded_as_its_client_leaves_does_not_count() {
    let memory = Arc::new(Memory { gate: Some((Notify::new(), Notify::new())), ..Memory::default() });
    let approvals = Approvals::new(7, memory.clone());
    let pending = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    let voter = approvals.clone();
    let vote = tokio::spawn(async move { voter.approve(7, alice(), None).await });
    let (reached, go) = memory.gate.as_ref().unwrap();
    reached.notified().await;
    drop(pending);
    go.notify_one();
    let error = vote.await.unwrap().unwrap_err();
    assert!(matches!(error, ApprovalError::Over { status: Status::Withdrawn, .. }), "{error}");
}

#[tokio::test]
async fn a_vote_counts_though_the_approver_hangs_up() {
    let memory = Arc::new(Memory { gate: Some((Notify::new(), Notify::new())), ..Memory::default() });
    let approvals = Approvals::new(7, memory.clone());
    let mut pending = approvals.request(ask(vec![requirement(&["dba"], 1, LONG)])).await.unwrap();
    let voter = approvals.clone();
    let vote = tokio::spawn(async move { voter.approve(7, alice(), None).await });
    let (reached, go) = memory.gate.as_ref().unwrap();
    reached.notified().await;
    vote.abort();
    assert!(vote.await.unwrap_err().is_cancelled());
    go.notify_one();
    assert_eq!(pending.outcome().await, Outcome::Approved { by: vec![alice()] });
}

#[tokio::test]
async fn waiting_is_bounded_in_number_and_length() {
    let (approvals, _) = approvals();
    let of = |agent: &str, place: usize| {
        let ask = ask(vec![requirement(&["dba"], 1, LONG)]);
        approvals.request(Ask { agent: agent.into(), place: format!("{agent}@{place}.service"), ..ask })
    };
    let mut waiting = Vec::new();
    for place in 0..MAX_PENDING_PER_AGENT / MAX_PENDING_PER_PLACE {
        for _ in 0..MAX_PENDING_PER_PLACE {
            waiting.push(of("coder", place).await.unwrap());
        }
        assert!(matches!(of("coder", place).await, Err(RequestError::TooMany)), "an instance has its share");
    }
    assert!(matches!(of("coder", 99).await, Err(RequestError::TooMany)), "and so have all of an agent");
    assert!(of("planner", 0).await.is_ok(), "another agent is not in the way");
    let long = Ask { text: "x".repeat(MAX_TEXT + 1), ..ask(vec![requirement(&["dba"], 1, LONG)]) };
    assert!(matches!(approvals.request(long).await, Err(RequestError::TooLong(_))));
    waiting.pop();
    waiting.push(of("coder", 3).await.expect("an end makes room"));

    // A few agents do not take all that there is.
    for agent in ["a", "b", "c"] {
        for number in 0..MAX_PENDING_PER_AGENT {
            waiting.push(of(agent, number).await.unwrap());
        }
    }
    assert_eq!(waiting.len(), MAX_PENDING / 2);
    for number in 0..MAX_PENDING_PER_PLACE {
        waiting.push(of("late", number).await.unwrap());
    }
    assert!(matches!(of("late", 99).await, Err(RequestError::TooMany)));
    assert!(matches!(of("a", 99).await, Err(RequestError::TooMany)));
    let mut agents = 0..;
    while waiting.len() < MAX_PENDING {
        waiting.push(of(&format!("agent-{}", agents.next().unwrap()), 0).await.unwrap());
    }
    assert!(matches!(of("one more", 0).await, Err(RequestError::TooMany)));
}

/// Many voters, many polls of the outcome: one approval comes out of each request, whatever the order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_race_of_votes_and_waits_approves_exactly_once() {
    let (approvals, memory) = approvals();
    for round in 0..50 {
        let mut pending = approvals.request(ask(vec![requirement(&["dba"], 3, LONG)])).await.unwrap();
        let number = pending.number();
        let accepted = Arc::new(AtomicUsize::new(0));
        let voters: Vec<_> = (0..8u32)
            .map(|i| {
                let (approvals, accepted) = (approvals.clone(), Arc::clone(&accepted));
                tokio::spawn(async move {
                    // Each of four people votes from two terminals.
                    let by = approver(&format!("user{}", i / 2), 3000 + i / 2, &["dba"]);
                    if approvals.approve(number, by, None).await.is_ok() {
                        accepted.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let mut approved = 0;
        loop {
            tokio::select! {
                outcome = pending.outcome() => {
                    approved += usize::from(matches!(&outcome, Outcome::Approved { by } if by.len() == 3));
                    if outcome == Outcome::Expired { break }
                }
                () = tokio::task::yield_now() => {}
            }
        }
        for voter in voters {
            voter.await.unwrap();
        }
        assert_eq!((approved, accepted.load(Ordering::SeqCst)), (1, 3), "round {round}");
    }
    let completed = memory
        .transitions
        .lock()
        .unwrap()
        .iter()
        .filter(|t| matches!(t, Transition::Voted { completes: true, .. }))
        .count();
    assert_eq!(completed, 50);
}
