//! The command line as it is typed.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("weir").chain(line.split_whitespace()))
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_teaches_by_example() {
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        let help = command.get_after_long_help().unwrap_or_else(|| panic!("{name} has no long help")).to_string();
        assert!(help.contains("Examples:\n  ") && help.contains("weir "), "{name}: {help}");
        assert!(command.get_about().is_some(), "{name}");
    }
}

#[test]
fn what_people_type_is_understood() {
    for line in [
        "init --pid 1 --pid 2 --stdout",
        "check",
        "doctor --json",
        "serve --config /x",
        "kernel attach",
        "kernel status --json",
        "detach --for 15m --reason because",
        "run -- psql -h db",
        "run --agent coder --env A --env B -- sh -c x --agent y",
        "explain --target t --agent a --group g --group h SELECT",
        "why 01k3v9m2c7q4x-12",
        "status --json",
        "--config /x status",
        "sessions",
        "sessions --agent a --limit 5",
        "sessions list --agent a",
        "sessions --since 2h --refused",
        "denials",
        "denials --agent a --target t --since 2h --limit 5",
        "sessions kill 01k3v9m2c7q4x",
        "sessions show 01k3v9m2c7q4x",
        "sessions show 01k3v9m2c7q4x-3",
        "sessions replay 01k3v9m2c7q4x --speed 2.5",
        "sessions replay 01k3v9m2c7q4x --no-timing",
        "approvals",
        "approvals list",
        "approvals show 7",
        "approve 7 --reason because",
        "deny 7",
        "verify --dir /x",
        "completions bash",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "",
        "frobnicate",
        "detach --for 15m",
        "detach --for 15x --reason y",
        "run",
        "run psql",
        "explain --agent a SELECT",
        "why",
        "why nonsense",
        "sessions show",
        "sessions --limit 0",
        "sessions replay 01k3v9m2c7q4x --speed 0",
        "sessions replay 01k3v9m2c7q4x --speed 2 --no-timing",
        "approve",
        "approve seven",
        "approve -1",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_command_after_two_dashes_keeps_its_own_arguments() {
    let Command::Run(run) = parse("run --agent coder -- psql --agent x -c y").unwrap().command else { panic!() };
    assert!(format!("{run:?}").contains("[\"psql\", \"--agent\", \"x\", \"-c\", \"y\"]"), "{run:?}");
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut Cli::command(), "weir", &mut script);
    assert!(String::from_utf8(script).unwrap().contains("approve"));
    let directory = std::env::temp_dir().join(format!("weir-man-{}", std::process::id()));
    complete::manual(&Cli::command(), &directory).unwrap();
    assert!(directory.join("weir-sessions-show.1").exists());
    std::fs::remove_dir_all(directory).unwrap();
}
