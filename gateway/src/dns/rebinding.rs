//! Which addresses a target's name may have. Pure.
//!
//! The gateway connects to what the agent was told, with the target's credential and past the agent's own boundary. So
//! whoever answers for the name (a hostile target, its DNS provider, who forges answers) would choose what the gateway
//! reaches on this host and in its networks. What the configuration says itself (`resolve`, `/etc/hosts`) is not judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::{DNS_NETMASK, DNS_NETWORK};

use crate::target::Network;

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Public,
    /// RFC 1918, RFC 6598, RFC 4193 and what else is not routed in the Internet.
    Private,
    /// Neighbours, and the metadata services of clouds with their credentials.
    LinkLocal,
    Loopback,
    /// No host's, or the gateway's own resolver: nothing permits them.
    Never,
}

/// A metadata service (Azure's) that is not link-local like the others.
const METADATA: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Nobody's address (RFC 7600, "IPv4 dummy address"): what an agent is told of targets that are not its own.
pub(super) const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Why a target whose names may resolve `within` these networks must not be at `address`. `own`: it is one of this host's.
/// With no networks, public addresses will do, and private ones where the target is `verified`: there whoever leads the
/// gateway elsewhere gets a failed handshake and no credential.
pub(super) fn objection(address: IpAddr, own: bool, within: &[Network], verified: bool) -> Option<String> {
    let class = class(address);
    let what = match class {
        Class::Never => return Some("an address that no target can have".to_owned()),
        Class::Loopback => "a loopback address",
        Class::LinkLocal => "a link-local address or a cloud's metadata service",
        _ if own => "an address of this host",
        Class::Private => "a private address",
        Class::Public => "outside of the target's resolve_within",
    };
    let permitted = match class {
        Class::Public if within.is_empty() => !own,
        Class::Private if within.is_empty() && verified => !own,
        // A network that happens to have them (0.0.0.0/0) does not mean these.
        _ => within.iter().any(|network| {
            let is_meant = class == Class::Public || self::class(network.first) == class;
            network.contains(address) && is_meant && (!own || network.is_single() || class == Class::Loopback)
        }),
    };
    let hint = if own && class != Class::Loopback { "this very address" } else { "it" };
    (!permitted).then(|| format!("{what}; if that is right, put {hint} into the target's resolve_within"))
}

fn class(address: IpAddr) -> Class {
    match address.to_canonical() {
        IpAddr::V4(address) => class_v4(address),
        IpAddr::V6(address) => class_v6(address),
    }
}

fn class_v4(address: Ipv4Addr) -> Class {
    let [a, b, c, _] = address.octets();
    if address.to_bits() & DNS_NETMASK == DNS_NETWORK || address == NOBODY {
        return Class::Never;
    }
    match (a, b, c) {
        (0 | 224.., ..) => Class::Never,
        (127, ..) => Class::Loopback,
        (169, 254, _) => Class::LinkLocal,
        _ if address == METADATA => Class::LinkLocal,
        // RFC 1918, RFC 6598; of RFC 6890 protocol assignments and benchmarks.
        (10, ..) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18 | 19, _) => {
            Class::Private
        }
        _ => Class::Public,
    }
}

fn class_v6(address: Ipv6Addr) -> Class {
    if address.is_loopback() {
        return Class::Loopback;
    }
    let segments = address.segments();
    let embedded = |high: u16, low: u16| class_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match segments {
        // Unspecified, and addresses compatible with IPv4, which nobody uses any more.
        [0, 0, 0, 0, 0, 0, ..] => Class::Never,
        // Translators (RFC 6052, RFC 8215) and 6to4 (RFC 3056) lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        [0x64, 0xff9b, 1, ..] => Class::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 => Class::LinkLocal,
        // Unique local (RFC 4193), site-local (RFC 3879).
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Class::Private,
        [first, ..] if first & 0xff00 == 0xff00 => Class::Never,
        _ => Class::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(within: &[&str]) -> Vec<Network> {
        let network = |text: &&str| {
            let (first, prefix) = text.split_once('/').unwrap();
            Network { first: first.parse().unwrap(), prefix: prefix.parse().unwrap() }
        };
        within.iter().map(network).collect()
    }

    fn permitted(address: &str, within: &[&str]) -> bool {
        objection(address.parse().unwrap(), false, &networks(within), false).is_none()
    }

    #[test]
    fn without_a_word_only_public_addresses_are_permitted() {
        for address in ["192.0.2.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "2606:4700::1111"] {
            assert!(permitted(address, &[]), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.64.0.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.0.9",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "fe80::1",
            "fd00:ec2::254",
            "fc00::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!permitted(address, &[]), "{address}");
        }
    }

    #[test]
    fn a_target_that_proves_itself_may_be_at_a_private_address() {
        let objects = |address: &str, within: &[&str]| {
            objection(address.parse().unwrap(), false, &networks(within), true).is_some()
        };
        assert!(!objects("10.0.0.1", &[]) && !objects("fd00::1", &[]));
        assert!(objects("10.0.0.1", &["192.168.0.0/16"]), "the configuration says where");
        assert!(objects("127.0.0.1", &[]) && objects("169.254.169.254", &[]) && objects("::1", &[]));
    }

    #[test]
    fn networks_permit_what_they_name_and_nothing_that_they_merely_contain() {
        assert!(permitted("10.1.2.3", &["10.0.0.0/8"]));
        assert!(permitted("::ffff:10.1.2.3", &["10.0.0.0/8"]));
        assert!(permitted("127.0.0.1", &["127.0.0.0/8"]));
        assert!(permitted("fd00::1", &["10.0.0.0/8", "fd00::/8"]));
        assert!(permitted("192.0.2.1", &["0.0.0.0/0"]));
        for (address, within) in [
            ("11.1.2.3", "10.0.0.0/8"),
            ("192.0.2.1", "10.0.0.0/8"),
            ("10.1.2.3", "0.0.0.0/0"),
            ("127.0.0.1", "0.0.0.0/0"),
            ("169.254.169.254", "128.0.0.0/1"),
            ("::1", "::/0"),
            ("127.64.0.1", "127.0.0.0/8"),
            ("192.0.0.8", "192.0.0.0/24"),
            ("0.0.0.0", "0.0.0.0/0"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("2001:db8::1", "0.0.0.0/0"),
        ] {
            assert!(!permitted(address, &[within]), "{address} {within}");
        }
    }

    #[test]
    fn this_hosts_own_addresses_must_be_named_one_by_one() {
        let own = |address: &str, within: &[&str]| objection(address.parse().unwrap(), true, &networks(within), true);
        for (address, within) in [("192.0.2.1", ""), ("10.0.0.5", "10.0.0.0/8"), ("192.0.2.1", "192.0.2.0/24")] {
            let within: Vec<&str> = Some(within).filter(|it| !it.is_empty()).into_iter().collect();
            assert!(own(address, &within).unwrap().contains("an address of this host"), "{address}");
        }
        assert_eq!(own("10.0.0.5", &["10.0.0.5/32"]), None);
        assert_eq!(own("192.0.2.1", &["192.0.2.1/32"]), None);
        assert_eq!(own("127.0.0.1", &["127.0.0.0/8"]), None);
    }
}
