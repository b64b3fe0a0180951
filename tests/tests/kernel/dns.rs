//! What an agent asks a resolver reaches the gateway, and the answer comes from whom it asked.

use super::*;

/// Answers every A query with 192.0.2.99 and every other one with nothing; tells who asked whom.
fn resolver(scene: &Scene) -> Receiver<Result<Origin, String>> {
    let (sender, receiver) = channel();
    for socket in intercept::dns_sockets(scene.ground.dns_port).unwrap() {
        let (interceptor, sender) = (scene.interceptor.clone(), sender.clone());
        std::thread::spawn(move || block_on(resolve(socket, interceptor, sender)));
    }
    receiver
}

async fn resolve(socket: DnsSocket, interceptor: Interceptor, asked: Sender<Result<Origin, String>>) {
    let mut buffer = [0u8; 512];
    while let Ok((length, peer)) = socket.recv(&mut buffer).await {
        let origin = interceptor.dns_origin(peer).map_err(|error| error.to_string());
        // First told, then answered: whoever has the answer finds the origin.
        if asked.send(origin).is_err() {
            return;
        }
        socket.send(&dns_answer(&buffer[..length]), peer).await.unwrap();
    }
}

fn dns_answer(query: &[u8]) -> Vec<u8> {
    // The question ends after the root label, type and class; EDNS records behind it are not repeated.
    let name = query[12..].iter().position(|&byte| byte == 0).unwrap();
    let question = 12 + name + 5;
    let is_a = query[question - 3] == 1;
    let mut answer = query[..question].to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 99]);
    }
    answer
}

#[test]
fn dns_goes_to_the_gateway_and_looks_like_the_asked_resolver() {
    const QUERY: &str = r#"
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x08internal\x00\x00\x01\x00\x01"
def ask(s, resolver):
    s.settimeout(10)
    s.sendto(query, (resolver, 53))
    answer, source = s.recvfrom(512)
    print(resolver, source[0], source[1], socket.inet_ntoa(answer[-4:]))
two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
two.settimeout(10)
two.sendto(query, ("192.0.2.1", 53))
two.sendto(query, ("192.0.2.2", 53))
sources = sorted(two.recvfrom(512)[1][0] for _ in range(2))
print(*sources)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
ask(six, "2001:db8::53")
ask(six, "2001:db8::54")
ask(six, "::ffff:192.0.2.3")
ask(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "127.0.0.53")
for family, resolver in ((socket.AF_INET, "192.0.2.4"), (socket.AF_INET6, "2001:db8::55"), (socket.AF_INET6, "::ffff:192.0.2.5")):
    connected = socket.socket(family, socket.SOCK_DGRAM)
    connected.settimeout(10)
    connected.connect((resolver, 53))
    connected.send(query)
    answer, source = connected.recvfrom(512)
    print(resolver, connected.getpeername()[0], source[0], socket.inet_ntoa(answer[-4:]))
"#;
    let scene = Scene::new();
    let asked = resolver(&scene);
    let seen = scene.agent(QUERY, &[]);
    let expected = "192.0.2.1 192.0.2.2\n\
        2001:db8::53 2001:db8::53 53 192.0.2.99\n\
        2001:db8::54 2001:db8::54 53 192.0.2.99\n\
        ::ffff:192.0.2.3 ::ffff:192.0.2.3 53 192.0.2.99\n\
        127.0.0.53 127.0.0.53 53 192.0.2.99\n\
        192.0.2.4 192.0.2.4 192.0.2.4 192.0.2.99\n\
        2001:db8::55 2001:db8::55 2001:db8::55 192.0.2.99\n\
        ::ffff:192.0.2.5 ::ffff:192.0.2.5 ::ffff:192.0.2.5 192.0.2.99\n";
    assert_eq!(seen, expected);
    let resolvers: Vec<String> = asked.try_iter().map(|origin| origin.unwrap().destination.to_string()).collect();
    for resolver in
        ["192.0.2.1:53", "192.0.2.2:53", "[2001:db8::53]:53", "192.0.2.3:53", "127.0.0.53:53", "[2001:db8::55]:53"]
    {
        assert!(resolvers.iter().any(|asked| asked == resolver), "{resolver} in {resolvers:?}");
    }
}

/// Somebody who is no agent binds the port from which an agent has asked: as the resolver knows who asks by that, it would be the agent's
/// word.
#[test]
fn whoever_takes_the_port_of_an_agent_asks_nothing_in_its_name() {
    const ASK: &str = r#"
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02db\x08internal\x00\x00\x01\x00\x01"
for family, resolver in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::53")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(10)
    s.sendto(query, (resolver, 53))
    s.recvfrom(512)
    print(s.getsockname()[1])
"#;
    const FORGE: &str = r#"
dns_port, ports = int(sys.argv[1]), {socket.AF_INET: int(sys.argv[2]), socket.AF_INET6: int(sys.argv[3])}
INET, INET6 = socket.AF_INET, socket.AF_INET6
for family, resolver in ((INET, "127.64.0.1"), (INET, "127.0.0.1"), (INET, "0.0.0.0"), (INET6, "::1"), (INET6, "::"),
                         (INET6, "::ffff:127.64.0.1")):
    # The agent asked from the same port, and not by the other family.
    port = ports[INET if "." in resolver else INET6]
    for connects in (False, True):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.bind(("", port))
        def ask():
            if connects:
                s.connect((resolver, dns_port))
                s.send(b"forged")
            else:
                s.sendto(b"forged", (resolver, dns_port))
        print(resolver, connects, attempt(ask))
        s.close()
other = socket.socket(INET, socket.SOCK_DGRAM)
other.bind(("127.0.0.1", 0))
print("others", attempt(lambda: socket.socket(INET, socket.SOCK_DGRAM).sendto(b"x", other.getsockname())))
"#;
    let scene = Scene::new();
    let asked = resolver(&scene);
    let ports = scene.agent(ASK, &[]);
    let mut words = vec![scene.ground.dns_port.to_string()];
    words.extend(ports.lines().map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for _ in 0..2 {
        asked.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    let output = scene.python("bystanders", FORGE, &words);
    let said = String::from_utf8(output.stdout).unwrap();
    let forged: Vec<&str> = said.lines().filter(|line| !line.ends_with("ECONNREFUSED")).collect();
    assert_eq!((forged, said.lines().count()), (vec!["others ok"], 13), "{said}{:?}", String::from_utf8(output.stderr));
    assert!(asked.try_recv().is_err(), "the resolver was asked");
}

#[test]
fn dig_and_glibc_are_satisfied() {
    let scene = Scene::new();
    let asked = resolver(&scene);
    for resolver in ["192.0.2.53", "2001:db8::53", "127.0.0.53"] {
        let mut command = scene.ground.command("agents/one", "dig");
        let output = command.args(["+short", "+tries=1", &format!("@{resolver}"), "db.internal"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "192.0.2.99", "{resolver} {output:?}");
        asked.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    let script = "print(sorted({a[4][0] for a in socket.getaddrinfo('db.internal', 5432)}))";
    assert_eq!(scene.agent(script, &[]), "['192.0.2.99']\n");
}
