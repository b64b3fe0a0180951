//! The targets: do their names resolve, does anybody listen there?

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::Duration;

use super::Finding;
use crate::config::Config;
use crate::target::{Host, Target};

/// For one target: names may be slow, hosts may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of one target that are tried.
const MAX_TRIED: usize = 8;

/// All targets at once, each for a few seconds.
pub(super) fn reachable(config: &Config) -> Vec<Finding> {
    let waiting: Vec<_> = config
        .targets
        .iter()
        .map(|target| {
            let (done, result) = mpsc::channel();
            let (name, owned) = (target.name.clone(), target.clone());
            // Not joined: a resolver that hangs is left behind when this process ends.
            std::thread::spawn(move || done.send(look(&owned)));
            (name, result)
        })
        .collect();
    waiting
        .into_iter()
        .flat_map(|(name, result)| {
            result.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                vec![Finding::warn(&name, "its names did not resolve in time", "look at /etc/resolv.conf")]
            })
        })
        .collect()
}

fn look(target: &Target) -> Vec<Finding> {
    target
        .address
        .iter()
        .take(MAX_TRIED)
        .filter_map(|address| match &address.host {
            Host::Name(name) => Some(named(&target.name, name, address.port)),
            Host::Network(ip, length) if *length == full(*ip) => {
                Some(connect(&target.name, &format!("{ip}"), &[SocketAddr::new(*ip, address.port)]))
            }
            // Nobody knows which of them are there.
            Host::Network(..) => None,
        })
        .collect()
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn named(target: &str, name: &str, port: u16) -> Finding {
    // A pattern is a name of nobody's.
    if name.contains('*') {
        return Finding::ok(target, format!("{name} is a pattern"));
    }
    match (name, port).to_socket_addrs() {
        Ok(addresses) => connect(target, name, &addresses.take(MAX_TRIED).collect::<Vec<_>>()),
        Err(error) => {
            Finding::fail(target, format!("{name} does not resolve: {error}"), "correct its address in weir.toml")
        }
    }
}

fn connect(target: &str, name: &str, addresses: &[SocketAddr]) -> Finding {
    let mut last = format!("{name} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT) {
            Ok(_) => return Finding::ok(target, format!("{name} answers at {address}")),
            Err(error) => last = format!("{name} does not answer at {address}: {error}"),
        }
    }
    Finding::warn(target, last, "is it up, and does a firewall let this host through?")
}
