//! What the kernel suite runs as other processes: the witness alone, and the gateway's process after it has given up its
//! privileges, trying what it must not be able to do.
//!
//! `probe witness` is `weir witness`, `probe usher` is `weir usher`. `probe confined USER PID FILE` prints one line `NAME yes|no` for each attempt.

use std::io::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["witness"] => weir::witness::run(),
        ["usher"] => weir::witness::run_usher(),
        ["confined", user, pid, file] => confined(user, pid, file),
        _ => Err(Error::other("usage: probe witness | probe confined USER PID FILE")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn confined(user: &str, pid: &str, file: &str) -> std::io::Result<()> {
    weir::intercept::drop_privileges(user)?;
    let pid_number: i32 = pid.parse().map_err(Error::other)?;
    let attempts = [
        ("load_program", load_program()),
        ("create_map", bpf(0, [1, 4, 4, 1])),
        ("raw_socket", socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP)),
        ("packet_socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0)),
        ("other_environment", std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|bytes| !bytes.is_empty())),
        ("init_environment", std::fs::read("/proc/1/environ").is_ok()),
        ("ptrace", ptrace(pid_number)),
        ("signal", nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid_number), None).is_ok()),
        ("root_file", std::fs::read(file).is_ok()),
        ("become_root", nix::unistd::setuid(0.into()).is_ok()),
        ("raise_core_limit", nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 1, 1).is_ok()),
        ("privileged_port", std::net::TcpListener::bind("127.0.0.1:79").is_ok()),
        ("own_memory_readable", std::fs::File::open("/proc/self/mem").is_ok()),
        ("own_cgroup", std::fs::read("/proc/self/cgroup").is_ok()),
        ("mounts", std::fs::read("/proc/self/mounts").is_ok()),
        ("nothing", true),
    ];
    for (name, allowed) in attempts {
        println!("{name} {}", if allowed { "yes" } else { "no" });
    }
    Ok(())
}

/// A socket filter of two instructions (`r0 = 0; exit`): the least that may be loaded.
fn load_program() -> bool {
    let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let licence = c"GPL";
    let attr: [u64; 3] = [1 | 2 << 32, instructions.as_ptr() as u64, licence.as_ptr() as u64];
    // SAFETY: BPF_PROG_LOAD reads the attribute and what it points to.
    unsafe { libc::syscall(libc::SYS_bpf, 5, attr.as_ptr(), size_of_val(&attr)) >= 0 }
}

fn bpf(command: libc::c_long, attr: [u32; 4]) -> bool {
    // SAFETY: BPF_MAP_CREATE reads the attribute.
    unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) >= 0 }
}

fn socket(family: i32, kind: i32, protocol: i32) -> bool {
    // SAFETY: a system call with integers.
    unsafe { libc::socket(family, kind, protocol) >= 0 }
}

fn ptrace(pid: i32) -> bool {
    // SAFETY: PTRACE_SEIZE takes no pointers.
    unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0 }
}
