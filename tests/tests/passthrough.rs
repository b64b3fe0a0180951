//! TLS pass-through and names on the real kernel: an unmodified curl reaches the target that its configuration names,
//! by name, through the resolver that the gateway is to it; and nothing else.

use std::fs;

use system_tests::ca::Ca;
use system_tests::env::{Env, Gateway, free_port};
use system_tests::issuer::Issuer;
use system_tests::process::{Finished, PATIENCE, Running, wait_until};

const NAME: &str = "api.models.internal";
/// Resolves for the gateway, and is no target's name.
const OTHER: &str = "files.models.internal";

/// A gateway between the agent and an HTTPS server. Dropped in this order.
struct World {
    _gateway: Gateway,
    _server: Running,
    _issuer: Issuer,
    port: u16,
    env: Env,
}

impl World {
    fn new() -> Self {
        let env = Env::new().unwrap();
        let issuer = Issuer::start().unwrap();
        let ca = Ca::new().unwrap();
        let leaf = ca.issue(&[NAME, OTHER]).unwrap();
        for (file, content) in [("ca.pem", ca.pem()), ("server.pem", &leaf.certificate), ("server.key", &leaf.key)] {
            fs::write(env.dir().join(file), content).unwrap();
        }
        let port = free_port().unwrap();
        let file = |name: &str| env.dir().join(name).display().to_string();
        let server = env
            .bystander("openssl")
            .args(["s_server", "-www", "-accept", &format!("127.0.0.1:{port}")])
            .args(["-cert", &file("server.pem"), "-key", &file("server.key")])
            .start()
            .unwrap();
        server.wait_for("ACCEPT", PATIENCE).unwrap();

        let here = "127.0.0.1".parse().unwrap();
        env.hosts(&[(NAME, here), (OTHER, here)]).unwrap();
        env.configure(&format!(
            "[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"a test's\"\n\n{}\n\
             [[target]]\nname = \"models\"\nprotocol = \"tls-passthrough\"\naddress = [\"{NAME}:{port}\"]\n\n\
             [[rule]]\nname = \"models\"\ntargets = [\"models\"]\nkinds = [\"connect\"]\nthen = \"allow\"\n",
            issuer.url(),
            env.agent_config(),
        ))
        .unwrap();
        env.set_token(&issuer.token(&serde_json::json!({})).unwrap()).unwrap();
        let gateway = env.serve().unwrap();
        Self { _gateway: gateway, _server: server, _issuer: issuer, port, env }
    }

    fn curl(&self, words: &[&str]) -> Finished {
        let ca = self.env.dir().join("ca.pem");
        let curl = self.env.agent("curl").args(["-sS", "--max-time", "20", "--cacert"]).arg(ca);
        curl.args(words).run().unwrap()
    }

    fn url(&self, name: &str) -> String {
        format!("https://{name}:{}/", self.port)
    }
}

#[test]
fn curl_reaches_the_target_by_its_name_and_verifies_it_itself() {
    let world = World::new();
    let page = world.curl(&[&world.url(NAME)]).expect_success().unwrap();
    assert!(page.contains("s_server"), "{page}");
}

#[test]
fn another_name_at_the_same_address_is_refused() {
    let world = World::new();
    // The address is known to the agent by the target's name; the handshake asks for another.
    let fronted = world.curl(&["--connect-to", &format!("{OTHER}::{NAME}:"), &world.url(OTHER)]);
    assert_eq!((fronted.code, fronted.stdout.as_str()), (Some(35), ""), "{}", fronted.stderr);
    assert!(fronted.stderr.contains("unrecognized name"), "{}", fronted.stderr);
    // An address that the agent never looked up leads to no target.
    let direct = world.curl(&["--resolve", &format!("{NAME}:{}:127.0.0.2", world.port), &world.url(NAME)]);
    assert_ne!(direct.code, Some(0));
}

#[test]
fn a_connection_ends_that_policy_does_not_allow_any_more() {
    let world = World::new();
    let client = world.env.agent("openssl").args(["s_client", "-servername", NAME, "-connect"]);
    let mut open = client.arg(format!("{NAME}:{}", world.port)).start().unwrap();
    open.wait_for("Verify return code", PATIENCE).unwrap();
    let config = fs::read_to_string(world.env.config_path()).unwrap();
    let reload = |config: String| {
        fs::write(world.env.config_path(), config).unwrap();
        world.env.weir(["reload"]).unwrap().expect_success().unwrap();
    };
    reload(format!("{config}\n[[mask]]\nname = \"of others\"\ncolumns = [\"*.*.ssn\"]\nwith = \"redact\"\n"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(open.is_running(), "{}", open.stdout());
    reload(config.replace("then = \"allow\"", "then = \"deny\""));
    wait_until("the end of the connection", PATIENCE, || !open.is_running()).unwrap();
}

#[test]
fn plain_http_and_strangers_are_refused() {
    let world = World::new();
    let plain = world.curl(&[&format!("http://{NAME}:{}/", world.port)]);
    assert!(!plain.success() && plain.stdout.is_empty(), "{}", plain.stdout);
    let other_port = world.curl(&[&format!("https://{NAME}:{}/", free_port().unwrap())]);
    assert!(!other_port.success());
}

#[test]
fn the_resolver_knows_the_targets_names_and_no_others() {
    let world = World::new();
    let dig = |words: &[&str]| {
        world.env.agent("dig").args(["+tries=1", "+timeout=5", "@192.0.2.53"]).args(words).run().unwrap().stdout
    };
    for transport in ["+notcp", "+tcp"] {
        let known = dig(&[transport, "API.models.INTERNAL", "A"]);
        assert!(known.contains("status: NOERROR") && known.contains("127.0.0.1"), "{transport} {known}");
        assert!(known.contains("API.models.INTERNAL."), "the letters are given back as asked: {known}");
        let lacking = dig(&[transport, NAME, "AAAA"]);
        assert!(lacking.contains("status: NOERROR") && lacking.contains("ANSWER: 0"), "{transport} {lacking}");
        for (name, kind) in [(OTHER, "A"), ("c2VjcmV0.evil.example", "A"), (NAME, "TXT"), ("localhost", "A")] {
            let refused = dig(&[transport, name, kind]);
            assert!(refused.contains("status: REFUSED"), "{transport} {name} {kind}: {refused}");
        }
    }
    let libc = world.env.agent("getent").args(["ahostsv4", NAME]).run().unwrap().expect_success().unwrap();
    assert!(libc.contains("127.0.0.1"), "{libc}");
    assert!(!world.env.agent("getent").args(["ahostsv4", OTHER]).run().unwrap().success());
}
