//! The optional layer of programs on the BPF LSM: whether this kernel takes it, and why not.
//!
//! These programs read three fields of kernel structures at fixed places. Rust has no relocations for that, so the places are
//! compared with the running kernel's own description of its types (BTF) first.

use std::fs;

use gateway_common as common;

use super::structures;

/// The list of active modules, in a file of securityfs. A program attached to a hook of a module that is not in it never runs.
const ACTIVE: &str = "/sys/kernel/security/lsm";

/// An attachment: the hook, which also names the link, and its program.
pub(super) struct LsmHook {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
}

const fn hook(name: &'static str, program: &'static str) -> LsmHook {
    LsmHook { name, program }
}

/// The hook that is asked before one process lays hands on another.
pub(super) const TRACING: &str = "ptrace_access_check";

pub(super) const HOOKS: [LsmHook; 5] = [
    hook("file_receive", "weir_file_receive"),
    hook("socket_sendmsg", "weir_socket_sendmsg"),
    hook("socket_accept", "weir_socket_accept"),
    hook("socket_create", "weir_socket_create"),
    hook(TRACING, "weir_ptrace_access_check"),
];

/// What the absence costs.
pub(super) const COST: &str = "a connected TCP socket that a process outside hands to an agent, or that a process had before it \
                               became one, is not stopped, nor is an agent that traces a process of its user outside";

/// Whether programs on the BPF LSM can be in effect here; the error says why not.
pub(super) fn available() -> Result<(), String> {
    let active = fs::read_to_string(ACTIVE).map_err(|error| format!("{ACTIVE}: {error}"))?;
    if !active.trim().split(',').any(|module| module == "bpf") {
        return Err(format!(
            "the BPF LSM is not active (CONFIG_BPF_LSM, and lsm={},bpf on the command line)",
            active.trim()
        ));
    }
    Ok(())
}

/// The fields are where the programs read them.
pub(super) fn check_layout() -> Result<(), String> {
    structures::check(&[
        ("socket", "file", common::SOCKET_FILE),
        ("socket", "sk", common::SOCKET_SK),
        ("sock_common", "skc_family", common::SOCK_FAMILY),
    ])
}
