use system_tests::cgroup::Ground;
use weir::witness::{self, WitnessConfig};

#[test]
fn attaches() {
    let ground = Ground::new();
    let config = WitnessConfig { kernel: ground.kernel_config(), token_files: vec![], token_variables: vec![], credentials: vec![] };
    match witness::kernel_attach(&config) { Ok(r) => println!("{r:#?}"), Err(e) => panic!("{e}") }
    match witness::kernel_attach(&config) { Ok(r) => println!("{}", r.enforcing()), Err(e) => panic!("{e}") }
}
