//! The targets: do their names resolve to what agents may be told, does anybody listen there?

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::Finding;
use crate::config::{Config, Mode};
use crate::dns;
use crate::target::{Host, Target};

/// For one target: names may be slow, hosts may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of one target that are tried.
const MAX_TRIED: usize = 8;

/// All targets at once, each for a few seconds.
pub(super) fn reachable(config: &Arc<Config>) -> Vec<Finding> {
    let waiting: Vec<_> = config
        .targets
        .iter()
        .map(|target| {
            let (done, result) = mpsc::channel();
            let (name, owned, config) = (target.name.clone(), target.clone(), Arc::clone(config));
            // Not joined: a resolver that hangs is left behind when this process ends.
            std::thread::spawn(move || done.send(look(&config, &owned)));
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

fn look(config: &Arc<Config>, target: &Target) -> Vec<Finding> {
    target
        .address
        .iter()
        .take(MAX_TRIED)
        .flat_map(|address| match &address.host {
            Host::Name(name) => named(config, &target.name, name, address.port),
            Host::Network(ip, length) if *length == full(*ip) => {
                vec![connect(&target.name, &format!("{ip}"), &[SocketAddr::new(*ip, address.port)])]
            }
            // Nobody knows which of them are there.
            Host::Network(..) => Vec::new(),
        })
        .collect()
}

fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn named(config: &Arc<Config>, target: &str, name: &str, port: u16) -> Vec<Finding> {
    // A pattern is a name of nobody's.
    if name.contains('*') {
        return vec![Finding::ok(target, format!("{name} is a pattern"))];
    }
    let preview = match dns::preview(config, name) {
        Ok(preview) => preview,
        Err(error) => {
            let message = format!("{name} does not resolve: {error}");
            return vec![Finding::fail(target, message, "correct its address in weir.toml")];
        }
    };
    let level =
        if preview.told.is_empty() && config.gateway.mode == Mode::Enforce { Finding::fail } else { Finding::warn };
    let untold = preview.untold.iter().take(MAX_TRIED).map(|(address, why)| {
        let (what, hint) =
            why.split_once("; ").unwrap_or((why, "correct its address in weir.toml, or ask who answers for it"));
        level(target, format!("{name} resolves to {address}, which agents are not told: {what}"), hint.to_owned())
    });
    let mut findings: Vec<Finding> = untold.collect();
    if !preview.told.is_empty() || findings.is_empty() {
        let addresses = preview.told.iter().take(MAX_TRIED).map(|ip| SocketAddr::new(*ip, port));
        findings.push(connect(target, name, &addresses.collect::<Vec<_>>()));
    }
    findings
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
