//! Small texts with a meaning: durations, sizes, addresses, places in the file system.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::rds_iam::MAX_KEY_ID;
use crate::target::{Address, Host, Network, first_of_network, full_length};

const HTTP_PORT: u16 = 80;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// `"30s"`, `"5m"`, `"12h"`, `"90d"`, `"2w"`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write a number and s, m, h, d or w, such as \"5m\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Bytes: `"64K"`, `"512M"`, `"20G"`, `"1T"`; powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number and K, M, G or T, such as \"20G\"");
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let power = match unit {
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << (10 * power)).ok_or_else(wrong)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

/// `"db.internal:5432"`, `"10.0.0.0/8:5432"`, `"10.1.2.3:5432"`, `"[::1]:5432"`, `"[fd00::/8]:5432"`.
pub(super) fn address(text: &str) -> Result<Address, String> {
    let wrong = |why: &str| format!("{text:?} is no address: {why}");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => text.rsplit_once(':'),
    }
    .ok_or_else(|| wrong("write host:port, such as \"db.internal:5432\" or \"[::1]:5432\""))?;
    let port = match port.parse() {
        Ok(0) | Err(_) => return Err(wrong("the port is a number from 1 to 65535")),
        Ok(port) => port,
    };
    let in_brackets = text.starts_with('[');
    if host.contains(':') && !in_brackets {
        return Err(wrong("write IPv6 addresses in brackets, such as \"[::1]:5432\""));
    }
    let host = match host.split_once('/') {
        Some((network, prefix)) => network_of(network, prefix).map_err(|why| wrong(&why))?,
        None => match host.parse::<IpAddr>() {
            Ok(ip) => Host::Network(ip, full_length(ip)),
            Err(_) if in_brackets => return Err(wrong("in brackets stands an IPv6 address")),
            Err(_) => Host::Name(name(host).map_err(|why| wrong(&why))?),
        },
    };
    Ok(Address { host, port })
}

fn network_of(network: &str, prefix: &str) -> Result<Host, String> {
    let ip: IpAddr = network.parse().map_err(|_| "before the slash stands an IP address".to_owned())?;
    let prefix: u8 = prefix
        .parse()
        .ok()
        .filter(|prefix| *prefix <= full_length(ip))
        .ok_or_else(|| format!("behind the slash stands the length of the prefix, up to {}", full_length(ip)))?;
    let first = first_of_network(ip, prefix);
    if first != ip {
        return Err(format!("it has bits behind its prefix; write \"{first}/{prefix}\""));
    }
    Ok(Host::Network(ip, prefix))
}

/// `"10.0.0.0/8"`, `"10.1.2.3"`, `"fd00::/8"`.
pub(super) fn network(text: &str) -> Result<Network, String> {
    let wrong = |why: &str| format!("{text:?} is no network: {why}");
    if let Some((network, prefix)) = text.split_once('/') {
        return match network_of(network, prefix).map_err(|why| wrong(&why))? {
            Host::Network(first, prefix) => Ok(Network { first, prefix }),
            Host::Name(_) => Err(wrong("names are none")),
        };
    }
    let first: IpAddr = text.parse().map_err(|_| wrong("write one such as \"10.0.0.0/8\" or \"10.1.2.3\""))?;
    Ok(Network { first, prefix: full_length(first) })
}

/// A DNS server, on port 53 if it names none.
pub(super) fn server(text: &str) -> Result<SocketAddr, String> {
    let server = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)));
    server.ok().filter(|server| server.port() != 0 && !server.ip().is_unspecified()).ok_or_else(|| {
        format!(
            "{text:?} is no server: write its address, with a port if need be, such as \"10.0.0.2\" or \"[::1]:5300\""
        )
    })
}

/// A host's name in lower case, without a trailing dot (RFC 1123, and underscores).
pub(super) fn name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.contains('*') {
        return Err("names have no wildcards here".to_owned());
    }
    let is_label = |label: &str| {
        let fits = !label.is_empty() && label.len() <= MAX_LABEL && !label.starts_with('-') && !label.ends_with('-');
        fits && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > MAX_NAME || !name.split('.').all(is_label) {
        return Err("the host is neither an IP address nor a host name".to_owned());
    }
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("the host looks like an IP address and is none".to_owned());
    }
    Ok(name)
}

/// A name as in a certificate: a host's, or `*.` and a host's.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    match text.strip_prefix("*.") {
        Some(rest) => name(rest).map(|rest| format!("*.{rest}")),
        None => name(text),
    }
    .map_err(|why| format!("{text:?} is no server name: {why}"))
}

/// A region of AWS: `"eu-central-1"`.
pub(super) fn aws_region(text: &str) -> Result<String, String> {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
    if text.len() <= MAX_LABEL && text.contains('-') && text.split('-').all(is_part) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no region of AWS, such as \"eu-central-1\""))
    }
}

/// An access key's ID (IAM's reference, "AccessKey"). What is none is not repeated: it may be the key itself.
pub(super) fn aws_access_key_id(text: &str) -> Result<String, String> {
    let is_id = (16..=MAX_KEY_ID).contains(&text.len());
    // A secret key that happens to be of letters and digits alone has small ones among them.
    let is_id = is_id && text.bytes().all(|it| it.is_ascii_uppercase() || it.is_ascii_digit());
    if is_id {
        Ok(text.to_owned())
    } else {
        Err("is no access key ID: 16 to 128 capital letters and digits, such as \"AKIA…\"".to_owned())
    }
}

/// Where a metadata service of EC2 is: `"http://[fd00:ec2::254]"`, `"http://127.0.0.1:1338"`.
pub(super) fn metadata_service(text: &str) -> Result<SocketAddr, String> {
    let place = text.strip_prefix("http://").map(|it| it.trim_end_matches('/')).unwrap_or_default();
    let with_port = || place.parse().ok();
    let alone = || Some(SocketAddr::new(place.trim_matches(['[', ']']).parse().ok()?, HTTP_PORT));
    with_port().or_else(alone).ok_or_else(|| {
        format!("{text:?} is no metadata service: write http:// and its IP address, such as \"http://[fd00:ec2::254]\"")
    })
}

/// A cgroup's path below the mount, without leading slash.
pub(super) fn cgroup(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    if path.starts_with('/') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!(
            "{text:?} is no cgroup: write its path below the cgroup2 mount, such as \"agents.slice\", without a leading slash"
        ));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_or_size_is_refused() {
        for text in ["", "5", "m", "-5m", "5 m", "5M", "1.5h", "5min", "99999999999999999999s", "9999999999999999999w"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "5", "G", "5g", "5GB", "1.5G", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(duration("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(size("20G"), Ok(20 << 30));
    }

    #[test]
    fn a_metadata_service_is_at_an_address() {
        for (text, expected) in [
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://127.0.0.1:1338/", "127.0.0.1:1338"),
            ("http://[fd00:ec2::254]", "[fd00:ec2::254]:80"),
            ("http://[fd00:ec2::254]:81", "[fd00:ec2::254]:81"),
        ] {
            assert_eq!(metadata_service(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "127.0.0.1", "https://127.0.0.1", "http://", "http://metadata.internal", "http://127.0.0.1/x"]
        {
            assert!(metadata_service(text).unwrap_err().contains("is no metadata service"), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "write host:port"),
            ("db.internal", "write host:port"),
            ("db.internal:", "from 1 to 65535"),
            ("db.internal:0", "from 1 to 65535"),
            ("db.internal:65536", "from 1 to 65535"),
            ("::1:5432", "in brackets"),
            ("[::1]5432", "write host:port"),
            ("[db.internal]:5432", "in brackets stands an IPv6"),
            ("10.0.0.300:5432", "looks like an IP address"),
            ("10.1.2.3/8:5432", "write \"10.0.0.0/8\""),
            ("10.0.0.0/33:5432", "up to 32"),
            ("[fd00::/129]:5432", "up to 128"),
            ("*.internal:5432", "no wildcards"),
            ("a..b:5432", "nor a host name"),
            ("-a:5432", "nor a host name"),
            ("a b:5432", "nor a host name"),
        ] {
            let error = address(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn networks_and_servers_are_read() {
        let net = |first: &str, prefix| Network { first: first.parse().unwrap(), prefix };
        assert_eq!(network("10.0.0.0/8"), Ok(net("10.0.0.0", 8)));
        assert_eq!(network("fd00::1"), Ok(net("fd00::1", 128)));
        for text in ["", "10.0.0.1/8", "db.internal", "10.0.0.0/33", "10.0.0.0/8:53"] {
            assert!(network(text).unwrap_err().contains("is no network"), "{text}");
        }
        for (text, expected) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("127.0.0.1:5300", "127.0.0.1:5300"),
            ("::1", "[::1]:53"),
            ("[::1]:54", "[::1]:54"),
        ] {
            assert_eq!(server(text), Ok(expected.parse().unwrap()));
        }
        for text in ["", "ns.internal", "10.0.0.2:0", "0.0.0.0", "10.0.0.2:dns"] {
            assert!(server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let network = |ip: &str, prefix| Host::Network(ip.parse().unwrap(), prefix);
        for (text, host) in [
            ("DB.Internal.:5432", Host::Name("db.internal".to_owned())),
            ("10.1.2.3:5432", network("10.1.2.3", 32)),
            ("10.0.0.0/8:5432", network("10.0.0.0", 8)),
            ("0.0.0.0/0:5432", network("0.0.0.0", 0)),
            ("[::1]:5432", network("::1", 128)),
            ("[fd00::/8]:5432", network("fd00::", 8)),
        ] {
            assert_eq!(address(text), Ok(Address { host, port: 5432 }), "{text}");
        }
    }
}
