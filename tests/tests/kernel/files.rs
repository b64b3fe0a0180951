//! Where the witness has its configuration from: what keeps the gateway within limits is not told them by the gateway.

use super::*;

#[test]
fn a_witness_reads_its_configuration_itself_and_is_not_told_it() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    cgroup::clean().unwrap();
    let mut ground = Ground::new();
    ground.enter();
    let directory = std::env::temp_dir().join(format!("weir-files-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (path, token) = (directory.join("weir.toml"), directory.join("another.token"));
    std::fs::write(&token, "a token").unwrap();
    let write = |file: &str| {
        let kernel = ground.kernel_config();
        let text = format!(
            "[gateway]\nagents = [\"{agents}\"]\nattach = \"{attach}\"\nport = {port}\ndns_port = {dns_port}\nbpf_dir = \"{bpf_dir}\"\n\
             [identity]\nissuer = \"https://idp.example\"\naudience = \"weir\"\n\
             [[agent]]\nname = \"one\"\ncgroup = \"{agents}/one\"\ntoken = {{ file = \"{file}\" }}\n",
            agents = kernel.agents[0],
            attach = kernel.attach,
            port = kernel.port,
            dns_port = kernel.dns_port,
            bpf_dir = kernel.bpf_dir.display(),
        );
        std::fs::write(&path, text).unwrap();
        weir::config::load(&path).unwrap().version.clone()
    };
    let first = write("/nowhere/one.token");
    let mut command = Command::new(PROBE);
    command.arg("witness");
    let process = witness::spawn_with_files(command, &config(&ground), &path).unwrap();
    let (witness, _interceptor) = process.into_parts().unwrap();
    let reads = |file: &std::path::Path| block_on(witness.token_file(file));

    // Whoever speaks for the gateway names what is to be shown, and nobody an agent.
    let mut wanted = config(&ground);
    wanted.token_files = vec!["/etc/shadow".to_owned()];
    wanted.kernel.agents = Vec::new();
    let refused = block_on(witness.reconfigure(wanted)).unwrap_err().to_string();
    assert!(refused.contains("reads its configuration itself"), "{refused}");
    assert!(matches!(reads("/etc/shadow".as_ref()), Err(WitnessError::NotConfigured(_))));
    // What the files say is taken up when the gateway has read the same.
    let second = write(token.to_str().unwrap());
    let refused = block_on(witness.reload(2, "0123456789abcdef")).unwrap_err().to_string();
    assert!(refused.contains("reload again") && reads(&token).is_err(), "{refused}");
    block_on(witness.reload(2, &second)).unwrap();
    assert_eq!(reads(&token).unwrap().expose(), b"a token");
    // What was in force before is, again, when the gateway cannot take up what it read; once.
    block_on(witness.go_back(2)).unwrap();
    assert!(matches!(reads(&token), Err(WitnessError::NotConfigured(_))));
    // Another one, that did not arrive, takes nothing back.
    block_on(witness.reload(2, &second)).unwrap();
    block_on(witness.go_back(3)).unwrap();
    block_on(witness.go_back(2)).unwrap();
    assert_eq!(reads(&token).unwrap().expose(), b"a token");
    let earlier = write("/nowhere/one.token");
    assert!(earlier == first && block_on(witness.reload(3, &second)).is_err(), "only what is there now");
    std::fs::remove_dir_all(&directory).unwrap();
}
