//! What the witness says of a process that connected, and what it gives out of what the configuration names.

use super::*;

#[test]
fn the_witness_answers_what_the_configuration_names() {
    let directory = std::env::temp_dir().join(format!("weir-witness-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name);
    std::fs::write(path("one.token"), "header.claims.signature\n").unwrap();
    std::fs::write(path("password"), "held\n").unwrap();
    std::fs::set_permissions(path("password"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let scene = Scene::with(|config| {
        config.token_files = vec![format!("{}/%i.token", directory.display())];
        config.token_variables = vec!["AGENT_TOKEN".to_owned()];
        config.credentials = vec![CredentialName::File(path("password"))];
    });
    let gateway = scene.gateway();
    let script = format!("{CONNECT}\nsys.stdin.readline()");
    let mut agent = python(&scene.ground, "agents/one", &script, &["192.0.2.1", "5432", "--password=hunter2"])
        .env("AGENT_TOKEN", "from.the.environment")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (_, origin) = gateway.next();
    block_on(async {
        let witness = &scene.witness;
        let evidence = witness.evidence(&origin).await.unwrap();
        assert_eq!(evidence.cgroup, format!("/{}", scene.ground.below("agents/one")));
        assert_eq!((evidence.user.as_deref(), evidence.tree[0].pid), (Some("root"), agent.id()));
        assert!(evidence.tree[0].executable.contains("python3"), "{evidence:?}");
        assert_eq!(evidence.tree[0].argv.last().map(String::as_str), Some("--password=[redacted]"));
        let token = witness.token_environment(&origin, "AGENT_TOKEN").await.unwrap();
        assert_eq!(token.expose(), b"from.the.environment");
        assert!(matches!(witness.token_environment(&origin, "PATH").await, Err(WitnessError::NotConfigured(_))));
        assert_eq!(witness.token_file(&path("one.token")).await.unwrap().expose(), b"header.claims.signature");
        assert!(matches!(witness.token_file("/etc/shadow".as_ref()).await, Err(WitnessError::NotConfigured(_))));
        let held = CredentialSource::File(path("password"));
        assert_eq!(witness.credential(&held).await.unwrap().expose(), b"held");
        let other = CredentialSource::File("/etc/shadow".into());
        assert!(matches!(witness.credential(&other).await, Err(WitnessError::NotConfigured(_))));
        // The kernel tells exactly when the process began, and procfs in ticks: another one with its number is not believed.
        let began = origin.started_at.unwrap();
        assert!((0..10_000_000).contains(&(began - evidence.tree[0].started_at)), "{origin:?} {evidence:?}");
        for exactly in [Some(began - 10_000_000), Some(began + 10_000_000)] {
            let reused = Origin { started_at: exactly, ..origin.clone() };
            assert_eq!(witness.evidence(&reused).await, Err(WitnessError::Reused { pid: origin.pid }));
        }
        // Where the kernel does not tell, one that is younger than the connect is not.
        let reused = Origin { started_at: None, connected_at: 1, ..origin.clone() };
        assert_eq!(witness.evidence(&reused).await, Err(WitnessError::Reused { pid: origin.pid }));
        let moved = Origin { pid: std::process::id(), started_at: None, ..origin.clone() };
        assert_eq!(witness.evidence(&moved).await, Err(WitnessError::OtherCgroup { pid: std::process::id() }));
        let questions = (0..300).map(|_| {
            let (witness, origin) = (witness.clone(), origin.clone());
            tokio::spawn(async move { witness.evidence(&origin).await.unwrap().tree.len() })
        });
        for answer in questions.collect::<Vec<_>>() {
            assert!(answer.await.unwrap() >= 1);
        }
    });
    drop(agent.stdin.take());
    agent.wait().unwrap();
    assert_eq!(block_on(scene.witness.evidence(&origin)), Err(WitnessError::Gone { pid: origin.pid }));
    std::fs::remove_dir_all(&directory).unwrap();
}
