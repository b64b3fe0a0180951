//! An agent that connects without end, in every way that could make the gateway take it for another, and writes down what
//! was true: `storm crowd FIRST COUNT WIDTH DIRECTORY` makes processes, `storm batch FIRST COUNT DIRECTORY` is one of them.
//!
//! Each connection has a number, and the address that it goes to says which: see [`system_tests::storm`].

use std::collections::VecDeque;
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddrV6, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket, sockopt,
};
use nix::time::{ClockId, clock_gettime};
use system_tests::Result;
use system_tests::storm::{BATCH, Truth, destination};

/// Ports that many sockets after each other come from: below all that [`system_tests::env::free_port`] may give the gateway, which
/// no agent may bind.
const FEW_PORTS: std::ops::Range<u16> = 12_000..12_064;
/// The refusal comes; a connection that is not refused would be found by its missing record.
const PATIENCE: Duration = Duration::from_secs(20);

const DOWN_FOR_NS: u64 = 5_000_000_000;

fn main() -> Result {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["crowd", first, count, width, directory] => {
            crowd(first.parse()?, count.parse()?, width.parse()?, Path::new(directory))
        }
        ["batch", first, count, directory] => batch(first.parse()?, count.parse()?, Path::new(directory)),
        ["held"] => {
            wait(&mut std::io::stdin().lock());
            Ok(())
        }
        _ => Err("storm crowd FIRST COUNT WIDTH DIRECTORY".into()),
    }
}

/// A storm of processes, `width` at a time.
fn crowd(first: u32, count: u32, width: usize, directory: &Path) -> Result {
    let mut running = VecDeque::new();
    let end = first + count;
    for begin in (first..end).step_by(BATCH as usize) {
        if running.len() == width {
            let oldest = running.pop_front();
            oldest.map(ended).transpose()?;
        }
        let length = BATCH.min(end - begin);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["batch", &begin.to_string(), &length.to_string()]).arg(directory);
        running.push_back(command.spawn()?);
    }
    running.into_iter().try_for_each(ended)
}

fn ended(mut child: Child) -> Result {
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(format!("a batch failed: {status}").into()) }
}

fn batch(first: u32, count: u32, directory: &Path) -> Result {
    let mut truths = Vec::new();
    // The last one may end this process.
    let last = first + count - 1;
    let threads: Vec<_> = (first..last)
        .filter(|number| number % 4 == 3)
        .map(|number| std::thread::spawn(move || one(number).map_err(|error| error.to_string())))
        .collect();
    for number in (first..last).filter(|number| number % 4 != 3) {
        truths.push(one(number)?);
    }
    for thread in threads {
        truths.push(thread.join().map_err(|_| "a thread panicked")??);
    }
    let (stream, truth) = begin(last)?;
    truths.push(truth);
    let lines: String = truths.iter().map(Truth::line).collect();
    std::fs::write(directory.join(first.to_string()), lines)?;
    let mut held = Command::new(std::env::current_exe()?);
    held.arg("held").stdin(Stdio::from(OwnedFd::from(stream)));
    match (first / BATCH) % 3 {
        // The process becomes another program while the gateway looks.
        0 => Err(held.exec().into()),
        // It is gone, and another one holds the socket.
        1 => held.spawn().map(drop).map_err(Into::into),
        // It is gone, and the socket with it.
        _ => Ok(()),
    }
}

/// One connection until it is refused.
fn one(number: u32) -> Result<Truth> {
    let (mut stream, truth) = begin(number)?;
    wait(&mut stream);
    Ok(truth)
}

/// One connection, in the way that its number says.
fn begin(number: u32) -> Result<(TcpStream, Truth)> {
    let few = FEW_PORTS.end - FEW_PORTS.start;
    let port = FEW_PORTS.start + u16::try_from(number / 3 % u32::from(few))?;
    match connected(number, number.is_multiple_of(3).then_some(port)) {
        // Whoever had the port before still has it.
        Err(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL) => Ok(connected(number, None)?),
        connected => Ok(connected?),
    }
}

/// From a port that many sockets come from, right after each other, or from any.
fn connected(number: u32, port: Option<u16>) -> nix::Result<(TcpStream, Truth)> {
    let wanted = destination(number);
    let mapped = SockaddrIn6::from(SocketAddrV6::new(wanted.ip().to_ipv6_mapped(), wanted.port(), 0, 0));
    let is_v4 = !number.is_multiple_of(5);
    let family = if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(port) = port {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        if is_v4 {
            bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        } else {
            bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
        }
    }
    let first = boot_ns()?;
    let (before, after) = loop {
        let before = boot_ns()?;
        let connected =
            if is_v4 { connect(fd.as_raw_fd(), &SockaddrIn::from(wanted)) } else { connect(fd.as_raw_fd(), &mapped) };
        match connected {
            // A network namespace begins with its loopback device down, until the gateway comes.
            Err(Errno::ENETUNREACH) if before < first + DOWN_FOR_NS => std::thread::sleep(Duration::from_millis(20)),
            connected => break connected.and_then(|()| Ok((before, boot_ns()?)))?,
        }
    };
    let stream = TcpStream::from(fd);
    let source = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.local_addr());
    let truth = Truth {
        number,
        pid: std::process::id(),
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        source_port: source.map_err(|_| Errno::EINVAL)?.port(),
        before,
        after,
    };
    Ok((stream, truth))
}

fn boot_ns() -> nix::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

/// Until the gateway refuses.
fn wait(stream: &mut impl Read) {
    // A reset and an end are the same here.
    let _ = stream.read_to_end(&mut Vec::new());
}
