//! A kernel half of another layout, as an upgrade finds it.

use super::*;

#[test]
fn maps_of_another_layout_are_replaced_without_a_gap() {
    let scene = Scene::new();
    kill(scene.witness_pid);
    let maps = links(&scene).with_file_name("maps");
    // Eight bytes of key where four belong.
    std::fs::rename(maps.join("NETNS"), maps.join("AGENT_UIDS")).unwrap();
    let server = bystander_server().port().to_string();
    assert_eq!(scene.agent(CONNECT, &["127.0.0.1", &server]), "ECONNREFUSED\n");
    let (witness, interceptor, _) = start_witness(&scene.config);
    let _gateway = Gateway::start(&interceptor, scene.ground.port);
    assert!(scene.agent(CONNECT, &["127.0.0.1", &server]).starts_with("gateway"));
    assert!(block_on(witness.attachments()).unwrap().enforcing());
    let beside = std::fs::read_dir(&scene.config.kernel.bpf_dir).unwrap().count();
    assert_eq!(beside, 1, "the old layout is gone");
}

/// What is open goes on, and so does a server of the agent's own, which nobody but its note tells from others.
#[test]
fn sessions_live_on_in_another_layout() {
    const TALKER: &str = r#"
s = socket.create_connection(("192.0.2.1", 5432), timeout=20)
answers = s.makefile()
server = socket.create_server(("127.0.0.1", 0))
server.settimeout(2)
for line in sys.stdin:
    s.sendall(line.encode())
    client = socket.create_connection(server.getsockname(), timeout=20)
    try:
        server.accept()[0].sendall(b"own")
        who = client.recv(3).decode()
    except OSError as error:
        who = str(error)
    print(who, answers.readline().strip(), flush=True)
"#;
    /// Only their notes say that sockets of an agent by its user are an agent's.
    const SERVER: &str = r#"
os.setuid(54321)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
server.accept()
print("somebody came in", flush=True)
"#;
    const INTRUDER: &str = r#"
tries = 0
while not os.path.exists(sys.argv[2]):
    s = socket.socket()
    s.settimeout(0.02)
    tries += 1
    if attempt(lambda: s.connect(("127.0.0.1", int(sys.argv[1])))) == "ok":
        print("in")
    s.close()
print(tries)
"#;
    let mut scene = Scene::with(|config| config.kernel.agent_uids = vec![54_321]);
    for listener in intercept::listeners(scene.ground.port).unwrap() {
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
    }
    let mut talker = python(&scene.ground, "agents/one", TALKER, &[]);
    let mut talker = talker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = BufReader::new(talker.stdout.take().unwrap()).lines();
    let mut exchange = |what: &str| {
        writeln!(talker.stdin.as_ref().unwrap(), "{what}").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), format!("own {what}"));
    };
    exchange("before");
    let mut server = python(&scene.ground, "bystanders", SERVER, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let port = BufReader::new(server.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    let stop = std::env::temp_dir().join(format!("weir-layouts-{}", std::process::id()));
    let mut intruder = python(&scene.ground, "bystanders", INTRUDER, &[&port, stop.to_str().unwrap()]);
    let intruder = intruder.stdout(Stdio::piped()).spawn().unwrap();

    let pins = &scene.config.kernel.bpf_dir;
    for round in 0..3 {
        kill(scene.witness_pid);
        std::fs::rename(pins.join(format!("v{}", gateway_common::LAYOUT)), pins.join("v1")).unwrap();
        let before = Instant::now();
        (scene.witness, scene.interceptor, scene.witness_pid) = start_witness(&scene.config);
        exchange(&format!("after {round}"));
        println!("{:?} until the first word", before.elapsed());
        assert!(block_on(scene.witness.attachments()).unwrap().enforcing());
        assert_eq!(std::fs::read_dir(pins).unwrap().count(), 1, "the other layout is gone");
    }
    std::fs::write(&stop, "").unwrap();
    let tried = intruder.wait_with_output().unwrap();
    std::fs::remove_file(&stop).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let tries: u32 = String::from_utf8(tried.stdout).unwrap().trim().parse().expect("nobody came in");
    assert!(tries > 20, "{tries}");
    drop(talker.stdin.take());
    talker.wait().unwrap();
    assert_eq!(
        scene.agent("s = socket.create_connection((\"192.0.2.1\", 5432), 20); print(s.send(b\"x\"))", &[]),
        "1\n"
    );
}

/// What root has said goes on for as long as it said, and ends by itself.
#[test]
fn a_detach_goes_on_in_another_layout() {
    let mut scene = Scene::new();
    let server = bystander_server().port().to_string();
    let reason = "an upgrade in the middle of it";
    witness::detach(&scene.config, Duration::from_mins(1), reason).unwrap();
    kill(scene.witness_pid);
    let pins = &scene.config.kernel.bpf_dir;
    std::fs::rename(pins.join(format!("v{}", gateway_common::LAYOUT)), pins.join("v1")).unwrap();
    (scene.witness, scene.interceptor, scene.witness_pid) = {
        let mut command = Command::new(PROBE);
        command.arg("witness");
        let process = witness::spawn_as(command, &scene.config).unwrap_or_else(|error| panic!("the witness: {error}"));
        let detached = process.report().detached.as_ref().expect("it goes on");
        assert_eq!(detached.reason, reason);
        drop(process);
        witness::detach(&scene.config, Duration::ZERO, "done").unwrap();
        start_witness(&scene.config)
    };
    assert_eq!(scene.agent(CONNECT, &["127.0.0.1", &server]), "ECONNREFUSED\n");
}
