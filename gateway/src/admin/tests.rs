//! The server and the client together, over a real socket.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use super::*;
use crate::admin::client::{ClientError, ask_all, ask_one};
use crate::config::Access;

/// A directory of the test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-admin-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers the approvals list with a fixed number of items, a kill with a failure.
struct Fake {
    config: Arc<Config>,
    recorded: Mutex<Vec<Action>>,
    full: bool,
}

impl Backend for Fake {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    async fn process(&self, pid: i32) -> Result<Process, WitnessError> {
        crate::witness::read_peer(pid, |_| false)
    }

    async fn record(&self, action: Action) -> Result<(), LedgerError> {
        self.recorded.lock().unwrap().push(action);
        if self.full { Err("disk full".into()) } else { Ok(()) }
    }

    fn check(&self, request: &Request, _: &Caller) -> Result<(), Failure> {
        match request {
            Request::Approve { number: 999, .. } => Err(Failure::not_found("there is no approval 999")),
            _ => Ok(()),
        }
    }

    async fn answer(&self, request: Request, caller: Caller, items: &Items) -> Result<(), Failure> {
        match request {
            Request::Approvals => {
                for i in 0..100 {
                    items.send(&i).await?;
                }
                Ok(())
            }
            Request::Reload => items.send(&caller.by.user).await,
            Request::Status => items.send(&"x".repeat(lines::MAX_REPLY)).await,
            _ => Err(Failure::not_found("no such thing")),
        }
    }
}

/// Whoever runs this test is gateway and admin.
fn config(runtime_dir: &Path) -> Config {
    let mut config = rights::tests::config();
    config.gateway.runtime_dir = runtime_dir.to_owned();
    config.gateway.user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    config.access.admin = vec![nix::unistd::Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name];
    config
}

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn start(config: Config, full: bool) -> Arc<Fake> {
    let listener = Listener::bind(&config).unwrap();
    let fake = Arc::new(Fake { config: Arc::new(config), recorded: Mutex::default(), full });
    tokio::spawn(serve(listener, Arc::clone(&fake)));
    fake
}

/// The client blocks, the server must go on.
async fn client<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.unwrap()
}

#[tokio::test]
async fn requests_are_answered_in_items_and_what_matters_is_recorded() {
    let scratch = Scratch::new("answers");
    let fake = start(config(&scratch.0), false);
    let directory = scratch.0.clone();
    let listed: Vec<u32> = client(move || ask_all(&directory, Request::Approvals)).await.unwrap();
    assert_eq!(listed, (0..100).collect::<Vec<_>>());
    assert!(fake.recorded.lock().unwrap().is_empty(), "looking at what waits is no event");

    let directory = scratch.0.clone();
    let user: String = client(move || ask_one(&directory, Request::Reload)).await.unwrap();
    assert_eq!(user, fake.config.gateway.user);
    let recorded = fake.recorded.lock().unwrap().pop().unwrap();
    assert_eq!((recorded.actor.uid, recorded.request, recorded.refused), (uid(), Request::Reload, None));
    assert_eq!(recorded.actor.pid, i32::try_from(std::process::id()).unwrap());

    let directory = scratch.0.clone();
    let id = SessionId::new(1, 1);
    let failed = client(move || ask_one::<u32>(&directory, Request::Kill { id })).await.unwrap_err();
    assert!(matches!(failed, ClientError::Failed(Failure { kind: FailureKind::NotFound, .. })), "{failed}");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let scratch = Scratch::new("full");
    start(config(&scratch.0), true);
    let directory = scratch.0.clone();
    let failed = client(move || ask_one::<String>(&directory, Request::Reload)).await.unwrap_err();
    assert!(failed.to_string().contains("could not be recorded"), "{failed}");
}

/// Or whoever repeats them pushes other evidence out.
#[tokio::test]
async fn votes_that_cannot_count_are_recorded_briefly_and_so_many() {
    let scratch = Scratch::new("votes");
    let mut config = config(&scratch.0);
    config.access.approve = [("dba".to_owned(), config.access.admin.clone())].into();
    let fake = start(config, false);
    let request = Request::Approve { number: 999, reason: Some("x".repeat(60 * 1024)) };
    let times = RECORDED_REFUSALS + 5;
    for _ in 0..times {
        let (directory, request) = (scratch.0.clone(), request.clone());
        let failed = client(move || ask_one::<u32>(&directory, request)).await.unwrap_err();
        assert!(matches!(failed, ClientError::Failed(Failure { kind: FailureKind::NotFound, .. })), "{failed}");
    }
    let recorded = fake.recorded.lock().unwrap();
    assert_eq!(recorded.len(), RECORDED_REFUSALS as usize);
    for action in &*recorded {
        assert_eq!(action.refused.as_deref(), Some("there is no approval 999"));
        let Request::Approve { reason: Some(reason), .. } = &action.request else { panic!("{action:?}") };
        assert!(reason.len() < MAX_RECORDED + 50 && reason.ends_with("more bytes)"), "{}", reason.len());
    }
}

#[test]
fn no_text_of_a_request_is_recorded_at_length() {
    let long = || "ä".repeat(30 * 1024);
    let few = |request: Request| serde_json::to_string(&request.for_record()).unwrap().len() < 64 * 1024;
    assert!(few(Request::Detach { seconds: 1, reason: long() }));
    assert!(few(Request::Denials { limit: 1, agent: Some(long()), target: Some(long()), since_ns: None }));
    let sessions =
        Request::Sessions { limit: 1, agent: Some(long()), target: None, since_ns: None, refused_only: true };
    assert!(few(sessions));
    assert!(few(Request::Explain {
        target: long(),
        agent: long(),
        groups: vec![long(); 500],
        database: Some(long()),
        text: long(),
    }));
    let short = Request::Deny { number: 7, reason: Some("not today".into()) };
    assert_eq!(short.clone().for_record(), short);
}

#[tokio::test]
async fn an_agent_is_refused_and_recorded() {
    let scratch = Scratch::new("agent");
    let mut config = config(&scratch.0);
    // This very process plays the agent.
    config.agents[0].uid = Some(uid());
    let fake = start(config, false);
    let directory = scratch.0.clone();
    let failed = client(move || ask_all::<u32>(&directory, Request::Approvals)).await.unwrap_err();
    assert!(matches!(failed, ClientError::Failed(Failure { kind: FailureKind::Refused, .. })), "{failed}");
    let recorded = fake.recorded.lock().unwrap().pop().unwrap();
    assert_eq!(recorded.refused, Some(Refused::AgentUser.to_string()));
}

#[tokio::test]
async fn a_forked_child_cannot_speak_for_the_process_that_connected() {
    let scratch = Scratch::new("child");
    let fake = start(config(&scratch.0), false);
    let path = scratch.0.join(listener::SOCKET);
    let answer = client(move || {
        use std::io::{Read as _, Write as _};
        let stream = StdStream::connect(path).unwrap();
        let mut hello = [0u8; 256];
        let length = (&stream).read(&mut hello).unwrap();
        let hello: lines::Hello = serde_json::from_slice(&hello[..length]).unwrap();
        let asked = serde_json::to_string(&lines::Asked { nonce: hello.nonce, ask: Request::Reload }).unwrap();
        // Another process writes the line on the socket that this process connected.
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::os::fd::OwnedFd::from(stream.try_clone().unwrap()))
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{asked}").unwrap();
        assert!(child.wait().unwrap().success());
        let mut answer = Vec::new();
        let _ = (&stream).read_to_end(&mut answer);
        answer
    })
    .await;
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert!(fake.recorded.lock().unwrap().is_empty());
}

#[tokio::test]
async fn bad_input_ends_one_connection_and_no_other() {
    let scratch = Scratch::new("bad");
    start(config(&scratch.0), false);
    for bad in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"nonce\":\"0\",\"ask\":{\"request\":\"reload\"}}\n",
        "x".repeat(100_000).as_bytes(),
    ] {
        let path = scratch.0.join(listener::SOCKET);
        let bad = bad.to_vec();
        let answer = client(move || {
            use std::io::{Read as _, Write as _};
            let mut stream = StdStream::connect(path).unwrap();
            let _ = stream.write_all(&bad);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        })
        .await;
        assert!(!answer.contains("\"item\"") && !answer.contains("\"end\""), "{answer}");
    }
    let directory = scratch.0.clone();
    let too_long = client(move || ask_one::<String>(&directory, Request::Status)).await.unwrap_err();
    assert!(matches!(too_long, ClientError::Closed), "{too_long}");
    let directory = scratch.0.clone();
    assert_eq!(client(move || ask_all::<u32>(&directory, Request::Approvals)).await.unwrap().len(), 100);
}

#[test]
fn one_user_cannot_take_all_connections() {
    let slots = Slots::default();
    let mut held: Vec<Slot> = (0..MAX_CONNECTIONS_PER_USER).map(|_| slots.take(1000).unwrap()).collect();
    assert!(slots.take(1000).is_none());
    let other = slots.take(0).expect("another user has places of its own");
    held.pop();
    assert!(slots.take(1000).is_some(), "an end makes room");
    drop((held, other));
    assert!(slots.0.lock().unwrap().is_empty());
    let users = u32::try_from(MAX_CONNECTIONS).unwrap();
    let all: Vec<_> = (0..users).map(|uid| slots.take(uid).unwrap()).collect();
    assert!(slots.take(users).is_none());
    drop(all);
}

#[tokio::test]
async fn the_socket_is_taken_over_from_the_dead_only_and_open_to_its_groups_only() {
    let scratch = Scratch::new("bind");
    let mut config = config(&scratch.0);
    let path = scratch.0.join(listener::SOCKET);
    drop(Listener::bind(&config).unwrap());
    assert!(path.exists(), "a socket file outlives its process");
    config.access = Access::default();
    let listener = Listener::bind(&config).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = Listener::bind(&config).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    config.access.audit = vec!["daemon".into(), "no-such-group".into()];
    let _listener = Listener::bind(&config).unwrap();
    // With an access list, the group bits show its mask.
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);

    let unreachable = client::ask(&scratch.0.join("nowhere"), Request::Status).err().unwrap().to_string();
    assert!(unreachable.contains("systemctl status weir"), "{unreachable}");
}
