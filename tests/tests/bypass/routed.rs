//! An agent in a network namespace that has a way out of its own: a cable to the host, which forwards. Each attempt is the first word
//! from a namespace that nobody has seen yet.

use system_tests::outside::Branch;

use super::*;

/// What may come of each, but for the packet socket of a container's root: that is open wherever it is (`TABLE`).
const TECHNIQUES: &[(&str, &[&str])] = &[
    ("tcp", &["closed", "blocked ECONNRESET"]),
    ("udp", &["blocked ECONNREFUSED"]),
    // What was held is not asked again.
    ("dns_udp", &["answer refused", "blocked EAGAIN"]),
    ("ping", &["blocked EPERM", "blocked EACCES"]),
    ("packet", &["blocked EPERM", "blocked EACCES"]),
];

const FORWARDED: Duration = Duration::from_millis(200);

impl Scene {
    /// Tries it in a new namespace, begun by whoever `place` says.
    fn attempt_behind<'p>(&'p self, place: impl FnOnce(&str) -> Place<'p>, technique: &str) -> Attempt {
        let branch = Branch::new(self.outside).unwrap();
        self.leaks();
        let port = next_port();
        let own = [
            format!("interface={}", branch.interface()),
            format!("hardware={}", branch.hardware()),
            format!("host={}", Branch::ADDRESS),
        ];
        let running = place(&format!("--net={}", branch.path()))
            .arg(technique)
            .args(own)
            .args(self.arguments(port))
            .start()
            .unwrap();
        let mut attempt = self.end(running, false, port);
        // It has one more host to cross.
        std::thread::sleep(FORWARDED);
        attempt.leaks.extend(self.leaks());
        attempt
    }
}

#[test]
fn a_namespace_with_a_way_of_its_own_leads_out_for_no_agent() {
    let scene = Scene::new();
    let (env, bypass) = (&scene.shop.env, scene.bypass.to_str().unwrap());
    let mut wrong = Vec::new();
    for (technique, expected) in TECHNIQUES {
        // Who is no agent gets out there.
        let free = scene.attempt_behind(|net| env.bystander("nsenter").args([net, "--", bypass]), technique);
        if free.leaks.is_empty() {
            wrong.push(format!("free: {technique}: {} and no leak", free.said));
        }
        for attacker in Attacker::ALL {
            let attempt =
                scene.attempt_behind(|net| env.attacker_behind(&["nsenter", net, "--"], attacker, bypass), technique);
            let Attempt { said, leaks, .. } = &attempt;
            let is_open = *technique == "packet" && attacker == Attacker::Container && !scene.lsm;
            let as_expected = expected.iter().any(|words| said.starts_with(words));
            if is_open == leaks.is_empty() || !(is_open || as_expected || scene.lsm && *technique == "packet") {
                wrong.push(format!("{attacker:?}: {technique}: {said}, {} leaks", leaks.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
