//! Users that agents' users may become: in a user namespace of its own a process is whoever /etc/subuid gives its user (subuid(5),
//! newuidmap(1)), and outside of agents' cgroups only its user tells that it is an agent's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use gateway_common::{MAX_SUBORDINATES, Subordinates, UidRange};

use super::kernel::{at, io_error};
use super::{KernelConfig, WitnessError};

const PASSWD: &str = "/etc/passwd";
/// Bytes of either file; a longer one is not understood.
const MAX_FILE: u64 = 1024 * 1024;

/// A line of /etc/subuid, of an agent's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subordinate {
    /// The agent's user.
    pub owner: u32,
    pub first: u32,
    pub last: u32,
}

/// What /etc/subuid gives the agents' users.
///
/// # Errors
///
/// A line of theirs cannot be understood, or has the number of somebody else in it, whom the agent could become.
pub(super) fn read(config: &KernelConfig) -> Result<Vec<Subordinate>, WitnessError> {
    if config.agent_uids.is_empty() {
        return Ok(Vec::new());
    }
    let subuid = text(&config.subuid)?;
    if subuid.is_empty() {
        return Ok(Vec::new());
    }
    let passwd = text(Path::new(PASSWD))?;
    let wrong = |why: String| io_error(&config.subuid.display().to_string(), &why);
    understood(config, &subuid, &passwd).map_err(wrong)
}

/// The same for the kernel half, and how many ranges that are.
pub(super) fn ranges(config: &KernelConfig) -> Result<(Subordinates, u32), WitnessError> {
    let merged = merged(&read(config)?);
    let mut ranges = [UidRange::default(); MAX_SUBORDINATES];
    let Some(places) = ranges.get_mut(..merged.len()) else {
        let why = format!(
            "{} ranges of agents' users that do not join, and no more than {MAX_SUBORDINATES} can be held",
            merged.len()
        );
        return Err(io_error(&config.subuid.display().to_string(), &why));
    };
    places.copy_from_slice(&merged);
    Ok((Subordinates { ranges }, u32::try_from(merged.len()).unwrap_or(u32::MAX)))
}

/// Empty if it is not there.
fn text(path: &Path) -> Result<String, WitnessError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file.map_err(at(path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(at(path.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io_error(&path.display().to_string(), &format!("longer than {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn understood(config: &KernelConfig, subuid: &str, passwd: &str) -> Result<Vec<Subordinate>, String> {
    let users: Vec<(&str, u32)> = passwd.lines().filter_map(user).collect();
    let uid_of = |name: &str| {
        let known = || users.iter().find(|(known, _)| *known == name).map(|(_, uid)| *uid);
        name.parse().ok().or_else(|| config.agent_names.get(name).copied()).or_else(known)
    };
    let mut found = Vec::new();
    for line in subuid.lines() {
        let mut fields = line.split(':');
        let owner = fields.next().and_then(uid_of).filter(|uid| config.agent_uids.contains(uid));
        let Some(owner) = owner else { continue };
        let (Some(first), Some(count), None) = (number(fields.next()), number(fields.next()), fields.next()) else {
            return Err(format!("{line:?} is no user, first number and count"));
        };
        if count == 0 {
            continue;
        }
        let last = first.saturating_add(count - 1);
        if first == 0 {
            return Err(format!("{line:?} has root in it, whom that agent could become"));
        }
        let other = users.iter().find(|(_, uid)| (first..=last).contains(uid) && *uid != owner);
        if let Some((name, uid)) = other {
            return Err(format!("{line:?} has the user {name} ({uid}) in it, whom that agent could become"));
        }
        found.push(Subordinate { owner, first, last });
    }
    Ok(found)
}

/// Name and number of a line of passwd(5).
fn user(line: &str) -> Option<(&str, u32)> {
    let mut fields = line.split(':');
    Some((fields.next()?, fields.nth(1)?.parse().ok()?))
}

/// Only as everybody writes it: programs differ in what they make of another form, such as one with a zero in front.
fn number(field: Option<&str>) -> Option<u32> {
    let field = field?;
    let number = field.parse().ok()?;
    (u32::to_string(&number) == field).then_some(number)
}

/// What lies side by side is one.
fn merged(all: &[Subordinate]) -> Vec<UidRange> {
    let mut all: Vec<(u32, u32)> = all.iter().map(|range| (range.first, range.last)).collect();
    all.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    // None begins with 0, which is root's.
    merged.into_iter().map(|(first, last)| UidRange { first, count: last - first + 1 }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::own_origin;
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\ncoder:x:990:990::/:/bin/false\nalias:x:990:990::/:/bin/false\n\
        tester:x:991:991::/:/bin/false\nann:x:150000:1000::/home/ann:/bin/bash\n";

    fn config() -> KernelConfig {
        let agent_names = [("coder".to_owned(), 990), ("remote".to_owned(), 992)].into();
        KernelConfig { agent_uids: vec![990, 991, 992], agent_names, ..own_origin().0.kernel }
    }

    fn of(subuid: &str) -> Result<Vec<(u32, u32, u32)>, String> {
        let found = understood(&config(), subuid, PASSWD)?;
        Ok(found.into_iter().map(|range| (range.owner, range.first, range.last)).collect())
    }

    #[test]
    fn ranges_are_the_agents_users_by_whatever_name_or_number() {
        assert_eq!(of("coder:200000:65536\n"), Ok(vec![(990, 200_000, 265_535)]));
        assert_eq!(
            of("alias:200000:1\n991:300000:2\nremote:400000:1\n"),
            Ok(vec![(990, 200_000, 200_000), (991, 300_000, 300_001), (992, 400_000, 400_000)])
        );
        assert_eq!(of("# coder:1:2\nann:200000:65536\n0:1:2\n\nnobody-knows:1:x\ncoder:200000:0\n"), Ok(vec![]));
        assert_eq!(of("coder:4294967290:65536"), Ok(vec![(990, 4_294_967_290, u32::MAX)]));
    }

    #[test]
    fn what_cannot_be_held_is_an_error() {
        for line in ["coder", "coder:1", "coder:x:1", "coder:0x10:1", "coder:010:1", "coder: 10:1", "coder:1:1:1"] {
            assert!(of(line).is_err_and(|why| why.contains(line)), "{line}");
        }
        assert!(of("coder:0:65536").unwrap_err().contains("root"));
        assert!(of("coder:100000:65536").unwrap_err().contains("ann (150000)"));
        assert!(of("coder:991:1").unwrap_err().contains("tester (991)"), "another agent's");
        assert!(of("coder:990:1").is_ok(), "its own");
    }

    #[test]
    fn what_lies_side_by_side_takes_one_place() {
        let all = [(300, 399), (100, 199), (200, 299), (250, 260), (500, 500), (u32::MAX, u32::MAX), (7, u32::MAX)];
        let all = |count: usize| -> Vec<Subordinate> {
            all.iter().take(count).map(|&(first, last)| Subordinate { owner: 1, first, last }).collect()
        };
        let ranges = |count: usize| -> Vec<(u32, u32)> {
            merged(&all(count)).iter().map(|range| (range.first, range.count)).collect()
        };
        assert_eq!(ranges(5), [(100, 300), (500, 1)]);
        assert_eq!(ranges(7), [(7, u32::MAX - 6)]);
    }

    #[test]
    fn there_are_no_more_than_fit() {
        let path = std::env::temp_dir().join(format!("weir-subuid-{}", std::process::id()));
        let config = KernelConfig { subuid: path.clone(), ..config() };
        assert_eq!(ranges(&config).unwrap().1, 0, "no file");
        let file = |lines: usize| {
            let lines = (0..lines).map(|index| format!("coder:{}:1\n", 2_000_000_000 + 2 * index));
            std::fs::write(&path, lines.collect::<String>()).unwrap();
            ranges(&config)
        };
        assert_eq!(file(MAX_SUBORDINATES).unwrap().1, 64);
        let error = file(MAX_SUBORDINATES + 1).unwrap_err().to_string();
        assert!(error.contains("65 ranges") && error.contains(&path.display().to_string()), "{error}");
        std::fs::remove_file(path).unwrap();
    }
}
