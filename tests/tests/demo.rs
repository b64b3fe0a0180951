//! `cargo xtask demo` tells the truth: every scene ends as it is told, within two minutes.

use std::process::Command;
use std::time::Duration;

use system_tests::Result;
use system_tests::process::Running;

const TWO_MINUTES: Duration = Duration::from_mins(2);

#[test]
fn every_scene_ends_as_it_is_told() -> Result {
    let told = Running::start(Command::new(env!("CARGO_BIN_EXE_demo")))?.finish(TWO_MINUTES)?.expect_success()?;
    assert!(told.contains("That was the main job"), "{told}");
    Ok(())
}
