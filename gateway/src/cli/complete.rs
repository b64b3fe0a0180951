//! `weir completions`, and the manual pages for packages.

use std::path::Path;

use clap::Command;

use super::output::{Error, Out};

pub(super) const HELP: &str = "\
Examples:
  weir completions bash > /etc/bash_completion.d/weir
  weir completions zsh > ~/.zfunc/_weir
  weir completions fish > ~/.config/fish/completions/weir.fish";

pub(super) fn completions(shell: clap_complete::Shell, command: &mut Command, out: &mut Out) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "weir", &mut script);
    out.raw(&script)?;
    Ok(0)
}

/// Writes `weir.1` and a page for each command: `weir-sessions.1`, `weir-sessions-show.1`.
pub(super) fn manual(command: &Command, directory: &Path) -> Result<u8, Error> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(command.clone(), directory)?;
    Ok(0)
}
