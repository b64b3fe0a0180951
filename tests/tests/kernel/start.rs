//! A first start that fails in the middle.

use super::*;

/// What is attached first refuses all that agents send, and stays until a start succeeds.
#[test]
fn agents_are_shut_in_when_a_first_start_fails() {
    const BEFORE: &str = r#"
tcp, udp = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(("127.0.0.1", 9))
open(sys.argv[1], "w").write(str(os.getpid()))
print(attempt(lambda: udp.send(b"x")), attempt(lambda: tcp.connect(("127.0.0.1", int(sys.argv[2])))), attempt(socket.socket))
"#;
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    cgroup::clean().unwrap();
    let mut ground = Ground::new();
    ground.enter();
    let config = config(&ground);
    // Nothing can be pinned in its place.
    let pins = config.kernel.bpf_dir.join(format!("v{}", gateway_common::LAYOUT)).join("links");
    let in_the_way = pins.join("sock_create");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let mut command = Command::new(PROBE);
    command.arg("witness");
    let failed = witness::spawn_as(command, &config).expect_err("it cannot start").to_string();
    assert!(failed.contains("sock_create"), "{failed}");
    let server = bystander_server().port().to_string();
    let procs = ground.directory("agents/one").join("cgroup.procs");
    let agent = || {
        let output = python(&ground, "bystanders", BEFORE, &[procs.to_str().unwrap(), &server]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(agent(), "EPERM ECONNREFUSED EPERM\n");
    let bystander = python(&ground, "bystanders", CONNECT, &["127.0.0.1", &server]).output().unwrap();
    assert!(bystander.stdout.starts_with(b"direct"), "{bystander:?}");
    // The next one succeeds, and nothing of that is left.
    std::fs::remove_dir(&in_the_way).unwrap();
    let (_witness, interceptor, _) = start_witness(&config);
    let _gateway = Gateway::start(&interceptor, ground.port);
    assert_eq!(agent(), "EPERM ok ok\n");
    let left: Vec<_> = std::fs::read_dir(&pins).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("deny")), "{left:?}");
}
