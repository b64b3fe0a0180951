//! `cargo xtask tidy`: the project's conventions and those invariants of ARCHITECTURE.md that text can show.
//!
//! A rule is a function from a file to what is wrong in it. Exceptions stand in tables here, each with its reason, so
//! that one more of them is a change that a reviewer sees.

use std::fs;
use std::path::Path;

use crate::{Result, paths, shell};

const MAX_LINES: usize = 1000;
const REQUIRED: [&str; 3] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"];

/// Where `unsafe` may stand: small wrappers around one thing that the standard library and nix do not offer.
const UNSAFE: &[(&str, &str)] = &[
    ("gateway-ebpf/", "eBPF programs work on raw kernel pointers"),
    ("gateway/src/admin/sys.rs", "peer groups, pidfd and extended attributes: system calls without a safe wrapper"),
    ("gateway/src/intercept.rs", "the kernel's events as they lie in the ring; sched_setscheduler(2)"),
    ("gateway/src/witness/bpf.rs", "bpf(2)"),
    ("gateway/src/witness/cgroup.rs", "open_by_handle_at(2): a cgroup by its number"),
    ("gateway/src/witness/kernel.rs", "the socket option SO_NETNS_COOKIE"),
    ("gateway/src/witness/notes.rs", "pidfd_getfd(2), and socket options that nix does not have"),
    ("gateway/src/witness/privileges.rs", "prctl(2), capset(2)"),
    ("gateway/src/witness/serve.rs", "signal(2), to ignore some"),
    ("gateway/src/witness/user_namespaces.rs", "ioctl(2): whose a namespace is"),
    ("gateway/src/witness/usher.rs", "ioctl(2): the loopback device up"),
    ("gateway/src/packets.rs", "descriptors that arrive with a message"),
    ("tests/bypass/", "tries the system calls that an agent must not succeed with"),
    ("tests/src/bin/probe.rs", "tries the system calls that an agent must not succeed with"),
    ("tests/src/sabotage.rs", "bpf(2) and ptrace(2), against the gateway"),
    ("gateway-common/src/lib.rs", "marks the shared structs as plain data for aya"),
    ("gateway/src/cli/time.rs", "localtime_r"),
    ("gateway/src/cli/run/seal.rs", "a system call filter"),
];

/// Where the name of a protocol may stand outside `protocol/`.
const PROTOCOL_NAMES: &[(&str, &str)] = &[
    ("gateway/src/protocol.rs", "the one match"),
    ("gateway/src/target.rs", "the enum that the match is on"),
    ("gateway/src/config/", "the configuration's words for it"),
    ("gateway/src/cli/doctor/ways.rs", "the places of other servers' sockets"),
];
const PROTOCOLS: [&str; 3] = ["postgres", "tls_passthrough", "tlspassthrough"];

/// No I/O and no clock: bytes and values in, values out.
const PURE: [&str; 4] = ["gateway/src/policy.rs", "gateway/src/policy/", "gateway/src/mask.rs", "gateway/src/mask/"];
const IMPURE: [&str; 6] = ["std::net", "tokio", "std::fs", "std::io", "SystemTime", "Instant"];

/// Who may touch eBPF objects. gateway-common only marks its structs.
const EBPF: [&str; 5] = [
    "gateway/src/witness.rs",
    "gateway/src/witness/",
    "gateway/src/intercept.rs",
    "gateway/src/intercept/",
    "gateway-common/",
];

/// Hosts that a URL in the tree may name: documentation, and names that lead nowhere by design (RFC 2606, RFC 6761).
const HOSTS: &[&str] = &[
    "www.apache.org",
    "www.postgresql.org",
    "www.rfc-editor.org",
    "docs.kernel.org",
    "keepachangelog.com",
    "semver.org",
];
const HOST_ENDINGS: [&str; 5] = [".example", ".example.com", ".test", ".internal", ".invalid"];

pub(crate) fn run() -> Result {
    let listed = shell::output(&mut shell::command("git", ["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    let mut findings: Vec<String> = Vec::new();
    for required in REQUIRED {
        if !paths::root().join(required).exists() {
            findings.push(format!("{required}: missing"));
        }
    }
    for path in listed.lines() {
        // Not text, or listed but deleted in the work tree: nothing to read.
        if let Ok(text) = fs::read_to_string(paths::root().join(path)) {
            findings.extend(check(path, &text).into_iter().map(|finding| format!("{path}{finding}")));
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    Err(format!("tidy: {} findings", findings.len()))
}

/// All that is wrong with one file, each as `:LINE: what` or `: what`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    if is_rust {
        findings.extend(check_rust(path, text));
    }
    if !path.ends_with("Cargo.lock") {
        findings.extend(machine_specific(text));
    }
    findings
}

fn check_rust(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let is_tests = path.ends_with("/tests.rs");
    if !text.starts_with("//!") && !is_tests {
        findings.push(": opens without a paragraph (`//!`) for newcomers".to_owned());
    }
    if text.lines().count() > MAX_LINES {
        findings.push(format!(": over {MAX_LINES} lines"));
    }
    let mut in_tests = is_tests;
    for (number, line) in text.lines().enumerate() {
        in_tests |= line.trim_start().starts_with("#[cfg(test)]");
        let code = code_of(line);
        let complaints = forbidden_anywhere(path, code).into_iter();
        let complaints = complaints.chain(if in_tests { None } else { forbidden_outside_tests(path, code) });
        findings.extend(complaints.map(|complaint| format!(":{}: {complaint}", number + 1)));
    }
    findings
}

/// A line without its comment and without its string literals' contents... as far as one line shows it.
fn code_of(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

fn forbidden_anywhere(path: &str, code: &str) -> Option<&'static str> {
    if path == "xtask/src/tidy.rs" {
        return None; // it names what it forbids
    }
    if code.contains("#[allow(") || code.contains("#![allow(") {
        return Some("use `expect` with a reason instead of `allow`");
    }
    if ["todo!(", "unimplemented!(", "dbg!("].iter().any(|mac| code.contains(mac)) {
        return Some("unfinished work (todo!, unimplemented!, dbg!)");
    }
    let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| code.contains(word));
    if is_unsafe && !is_in(path, UNSAFE.iter().map(|(place, _)| *place)) {
        return Some("`unsafe` outside the wrappers that xtask/src/tidy.rs lists");
    }
    None
}

fn forbidden_outside_tests(path: &str, code: &str) -> Option<&'static str> {
    if !path.starts_with("gateway/src/") {
        return None;
    }
    let is_pure = is_in(path, PURE) || (path.starts_with("gateway/src/protocol/") && path.ends_with("/wire.rs"));
    if is_pure && IMPURE.iter().any(|word| code.contains(word)) {
        return Some("I/O or a clock in policy, mask or wire: values in, values out");
    }
    if has_path(code, "aya::") && !is_in(path, EBPF) {
        return Some("only the witness and intercept touch eBPF objects");
    }
    let names_protocol = PROTOCOLS.iter().any(|name| code.to_ascii_lowercase().contains(name));
    if names_protocol
        && !path.starts_with("gateway/src/protocol/")
        && !is_in(path, PROTOCOL_NAMES.iter().map(|(place, _)| *place))
    {
        return Some("a protocol's name outside protocol/");
    }
    None
}

/// Whether `code` uses a path that starts with `root`, not one that only ends with it (`libaya::`).
fn has_path(code: &str, root: &str) -> bool {
    code.match_indices(root).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A place is a file, or a directory with its `/`.
fn is_in<'a>(path: &str, places: impl IntoIterator<Item = &'a str>) -> bool {
    places.into_iter().any(|place| if place.ends_with('/') { path.starts_with(place) } else { path == place })
}

/// Paths of one developer's machine, and hosts that are neither examples nor documentation.
fn machine_specific(text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // Split, so that this file does not name them either.
        let machine_paths = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];
        if machine_paths.iter().any(|path| absolute(line, path)) {
            findings.push(format!(":{}: an absolute path of one machine", number + 1));
        }
        for host in hosts(line).filter(|host| !is_known_host(host)) {
            findings.push(format!(":{}: the host `{host}` is neither an example nor documentation", number + 1));
        }
    }
    findings
}

/// Whether `path` stands in `line` as an absolute path, not inside a longer one.
fn absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c)))
}

/// The hosts of the http(s) URLs in a line.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    let starts =
        line.match_indices("://").filter(|(at, _)| line[..*at].ends_with("http") || line[..*at].ends_with("https"));
    starts.map(|(at, _)| {
        let rest = &line[at + 3..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-".contains(c))).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn is_known_host(host: &str) -> bool {
    // Loopback, the networks for documentation (RFC 5737), `{placeholder}`, `[::1]`, and names without a domain.
    let is_nowhere = ["127.", "192.0.2.", "198.51.100.", "203.0.113."].iter().any(|net| host.starts_with(net));
    is_nowhere
        || !host.contains('.')
        || HOSTS.contains(&host)
        || HOST_ENDINGS.iter().any(|ending| host.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_what_it_forbids() {
        for (path, line) in [
            ("gateway/src/x.rs", "#[allow(dead_code)]"),
            ("gateway/src/x.rs", "    todo!()"),
            ("gateway/src/x.rs", "    unsafe { f() }"),
            ("gateway/src/policy/rule.rs", "use std::time::Instant;"),
            ("gateway/src/protocol/postgres/wire.rs", "use tokio::io::AsyncRead;"),
            ("gateway/src/session.rs", "use aya::maps::HashMap;"),
            ("gateway/src/session.rs", "Protocol::Postgres => true,"),
            ("gateway/src/x.rs", concat!("let a = \"/ro", "ot/x\";")),
            ("gateway/src/x.rs", concat!("let a = \"https:", "//mirror.net/x\";")),
        ] {
            assert_eq!(check(path, &format!("//! x\n{line}\n")).len(), 1, "{path}: {line}");
        }
        assert_eq!(check("gateway/src/x.rs", "fn f() {}\n").len(), 1, "a module without its paragraph");
        assert_eq!(check("gateway/src/x.rs", &"//! x\n".repeat(MAX_LINES + 1)).len(), 1, "a long file");
    }

    #[test]
    fn each_rule_lets_pass_what_is_right() {
        for (path, line) in [
            ("gateway/src/x.rs", "#[expect(dead_code, reason = \"used by the next step\")]"),
            ("gateway-ebpf/src/main.rs", "    unsafe { f() }"),
            ("gateway/src/session.rs", "// as Postgres does"),
            ("gateway/src/session.rs", "#[cfg(test)] mod tests { const P: &str = \"postgres\"; }"),
            ("gateway/src/witness/pins.rs", "use aya::maps::HashMap;"),
            ("gateway/src/x.rs", "let a = \"https://idp.example/realms\";"),
            ("gateway/src/x.rs", "let a = format!(\"http://{address}/\");"),
            ("gateway/src/x.rs", concat!("format!(\"{dir}/wo", "rk/x\")")),
        ] {
            assert_eq!(check(path, &format!("//! x\n{line}\n")), Vec::<String>::new(), "{path}: {line}");
        }
    }
}
