//! Targets that are resolvers. Whoever may speak TLS with one has any name looked up there, which Weir's own resolver refuses,
//! and so tells whoever owns the name what stands in it. Weir passes the bytes of such targets on unread: that a query is one
//! (DNS over TLS or HTTPS) nobody sees.

use std::net::IpAddr;

use super::Finding;
use crate::config::{Config, Mode};
use crate::target::{Address, Host, Network, Target};

const SUBJECT: &str = "resolvers";
/// DNS over TLS (RFC 7858).
const DNS_OVER_TLS: u16 = 853;
/// Resolvers that answer everybody, by TLS or HTTPS. Not all of them: those that somebody may have listed without a thought, and
/// those that a network of addresses may have in it.
const PUBLIC_NAMES: &[&str] = &[
    "1dot1dot1dot1.cloudflare-dns.com",
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "common.dot.dns.yandex.net",
    "dns.adguard-dns.com",
    "dns.alidns.com",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.opendns.com",
    "dns.quad9.net",
    "dns.sb",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns9.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.opendns.com",
    "doh.pub",
    "doh.umbrella.com",
    "dot.pub",
    "family.cloudflare-dns.com",
    "firefox.dns.nextdns.io",
    "freedns.controld.com",
    "mozilla.cloudflare-dns.com",
    "one.one.one.one",
    "security.cloudflare-dns.com",
];
const PUBLIC_ADDRESSES: &[&str] = &[
    "1.0.0.1",
    "1.1.1.1",
    "8.8.4.4",
    "8.8.8.8",
    "9.9.9.9",
    "77.88.8.8",
    "94.140.14.14",
    "149.112.112.112",
    "208.67.222.222",
    "223.5.5.5",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2620:fe::fe",
    "2a10:50c0::ad1:ff",
];

/// One finding for each target that some agent may open and that is known for a resolver.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let level = if config.gateway.mode == Mode::Enforce { Finding::fail } else { Finding::warn };
    let finding = |target: &Target| {
        let why = target.address.iter().find_map(resolver_at)?;
        let agents: Vec<&str> = config
            .agents
            .iter()
            .map(|agent| agent.name.as_str())
            .filter(|agent| may_open(config, agent, target))
            .collect();
        (!agents.is_empty()).then(|| {
            let message = format!(
                "target {:?} has {why}: there {} may have any name looked up, unseen, and tell others what stands in it",
                target.name,
                agents.join(", ")
            );
            level(SUBJECT, message, "take it out of the target, or out of what the rules allow: Weir answers agents' queries")
        })
    };
    config.targets.iter().filter(|target| target.protocol.is_opaque()).filter_map(|target| finding(target)).collect()
}

fn may_open(config: &Config, agent: &str, target: &Target) -> bool {
    config.gateway.mode == Mode::Observe || config.policy.may_open(agent, &target.name)
}

/// What makes this address one of a resolver.
fn resolver_at(address: &Address) -> Option<String> {
    let port = address.port;
    let shown = match &address.host {
        Host::Name(name) => format!("{name}:{port}"),
        Host::Network(ip, prefix) => format!("{ip}/{prefix}, port {port}"),
    };
    if port == DNS_OVER_TLS {
        return Some(format!("{shown}, the port of DNS over TLS"));
    }
    match &address.host {
        Host::Name(name) => {
            PUBLIC_NAMES.contains(&name.as_str()).then(|| format!("{shown}, a public resolver (DNS over HTTPS)"))
        }
        &Host::Network(first, prefix) => {
            let network = Network { first, prefix };
            let public = PUBLIC_ADDRESSES.iter().find(|ip| ip.parse().is_ok_and(|ip: IpAddr| network.contains(ip)))?;
            Some(format!("{shown}, with the public resolver {public} in it (DNS over HTTPS)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_is_known_by_its_port_its_name_and_its_address() {
        let at = |host: Host, port: u16| resolver_at(&Address { host, port });
        let name = |name: &str| Host::Name(name.to_owned());
        let network = |text: &str, prefix: u8| Host::Network(text.parse().unwrap(), prefix);
        assert!(at(name("files.example"), 853).unwrap().contains("the port of DNS over TLS"));
        assert!(at(name("dns.google"), 443).unwrap().contains("a public resolver"));
        assert!(at(network("8.8.0.0", 16), 443).unwrap().contains("8.8.4.4"));
        assert!(at(network("::", 0), 443).is_some() && at(network("2606:4700::", 32), 8443).is_some());
        assert!(at(name("api.example"), 443).is_none() && at(network("203.0.113.0", 24), 443).is_none());
    }

    #[test]
    fn the_lists_are_in_order_and_can_be_read() {
        assert!(PUBLIC_NAMES.is_sorted());
        assert!(PUBLIC_ADDRESSES.iter().all(|ip| ip.parse::<IpAddr>().is_ok()));
    }
}
