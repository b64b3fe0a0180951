//! Agents that wait for a gateway, where that is configured.

use super::*;

#[test]
fn without_a_gateway_agents_wait_where_that_is_configured() {
    const AWAY: Duration = Duration::from_secs(1);
    let scene = Scene::with(|config| config.kernel.hold_without_gateway = true);
    let server = bystander_server().port().to_string();
    let hosts = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "127.0.0.1"];
    let connect =
        |host: &&str| python(&scene.ground, "agents/one", CONNECT, &[host, &server]).stdout(Stdio::piped()).spawn();
    let mut agents: Vec<_> = hosts.iter().map(|host| connect(host).unwrap()).collect();
    let counter = |name: &str| block_on(scene.witness.attachments()).unwrap().counters[name];
    wait_for("their first try", || counter("redirected") == 4);
    std::thread::sleep(AWAY);
    for (agent, host) in agents.iter_mut().zip(hosts) {
        if agent.try_wait().unwrap().is_some() {
            let mut said = String::new();
            std::io::Read::read_to_string(agent.stdout.as_mut().unwrap(), &mut said).unwrap();
            panic!("{host}: it did not wait: {said}");
        }
    }
    let held = counter("held_down");
    assert!(held > 4, "{held}");
    let back = Instant::now();
    let _gateway = scene.gateway();
    for (agent, host) in agents.into_iter().zip(hosts) {
        let said = String::from_utf8(agent.wait_with_output().unwrap().stdout).unwrap();
        assert!(said.starts_with("gateway hello"), "{host}: {said}");
    }
    println!("served {:?} after the gateway came", back.elapsed());
    wait_for("the end of all connects", || block_on(scene.witness.attachments()).unwrap().pending == 0);
}
