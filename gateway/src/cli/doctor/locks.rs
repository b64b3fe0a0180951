//! What a filter of system calls keeps a process from. That one is in force can be seen, which one cannot: it is what systemd says of
//! the unit, or what `weir run` sets. Of any other nobody knows.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::cli::procfs::{self, Seen};
use crate::cli::run::cgroup2_mount;

/// What `weir run` lets a command make sockets of, in systemd's names; the rest of what it sets is closed here, too.
const SEALED_FAMILIES: &[&str] = &["AF_UNIX", "AF_INET", "AF_INET6"];

/// A way around, for one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// There is a filter, and nobody says which.
    Unknown,
    Closed,
}

/// The filter of a cgroup's processes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Locks {
    families: List,
    calls: List,
    /// clone3(2), whose arguments no filter can read, is closed with any restriction of namespaces.
    pub(super) namespaces: bool,
}

/// As `systemctl show` has it: what may be used, or, behind a `~`, what may not.
#[derive(Debug, PartialEq, Eq)]
struct List {
    is_of_allowed: bool,
    names: Vec<String>,
}

impl Locks {
    /// None where it is not known.
    pub(super) fn of(cgroup: &str) -> Option<Self> {
        Self::of_run(cgroup).or_else(|| Self::of_unit(cgroup))
    }

    /// `weir run` makes its cgroups as root; an agent's own, where cgroups are delegated, are the agent's.
    fn of_run(cgroup: &str) -> Option<Self> {
        let (_, name) = cgroup.rsplit_once('/')?;
        let number = name.strip_prefix("run-")?;
        let path = cgroup2_mount().ok()?.join(cgroup.trim_start_matches('/'));
        let is_roots = std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() == 0);
        (is_roots && number.parse::<u32>().is_ok()).then(Self::sealed)
    }

    fn sealed() -> Self {
        let list = |is_of_allowed, names: &[&str]| List {
            is_of_allowed,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        Self { families: list(true, SEALED_FAMILIES), calls: list(false, &["request_key"]), namespaces: true }
    }

    fn of_unit(cgroup: &str) -> Option<Self> {
        const PROPERTIES: &str = "--property=ControlGroup,RestrictAddressFamilies,RestrictNamespaces,SystemCallFilter";
        let unit = procfs::unit(cgroup)?;
        let shown =
            Command::new("systemctl").args(["show", PROPERTIES, "--", unit]).env("LC_ALL", "C").output().ok()?;
        if !shown.status.success() {
            return None;
        }
        Self::shown(&String::from_utf8_lossy(&shown.stdout), cgroup)
    }

    /// From what `systemctl show` prints of the unit that the cgroup is named after, if it is that unit's.
    fn shown(shown: &str, cgroup: &str) -> Option<Self> {
        let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let rest = cgroup.strip_prefix(value("ControlGroup").filter(|own| !own.is_empty())?)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        Some(Self {
            families: List::read(value("RestrictAddressFamilies").unwrap_or_default()),
            calls: List::read(value("SystemCallFilter").unwrap_or_default()),
            namespaces: !matches!(value("RestrictNamespaces"), None | Some("" | "no")),
        })
    }

    pub(super) fn close_family(&self, name: &str) -> bool {
        self.families.closes(name)
    }

    pub(super) fn close_call(&self, name: &str) -> bool {
        self.calls.closes(name)
    }
}

impl List {
    /// Nothing is no restriction.
    fn read(text: &str) -> Self {
        let (is_of_allowed, names) = match text.strip_prefix('~') {
            Some(names) => (false, names),
            None => (!text.is_empty(), text),
        };
        Self { is_of_allowed, names: names.split_whitespace().map(str::to_owned).collect() }
    }

    fn closes(&self, name: &str) -> bool {
        // A call may have an error of its own behind a colon.
        let has = self.names.iter().any(|it| it.split(':').next() == Some(name));
        has != self.is_of_allowed
    }
}

/// What a process that has a filter, or none, can do: `closes` is asked of the filter that is known.
pub(super) fn way(process: &Seen, locks: Option<&Locks>, closes: impl Fn(&Locks) -> bool) -> Way {
    match locks {
        _ if !process.filtered => Way::Open,
        None => Way::Unknown,
        Some(locks) if closes(locks) => Way::Closed,
        Some(_) => Way::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: &str = "ControlGroup=/agents.slice/coder.service\n";

    fn way_of(shown: &str, closes: impl Fn(&Locks) -> bool) -> Way {
        let locks = Locks::shown(&format!("{UNIT}{shown}"), "/agents.slice/coder.service/below");
        way(&Seen { filtered: true, ..Seen::default() }, locks.as_ref(), closes)
    }

    #[test]
    fn a_filter_closes_what_it_is_known_to_close() {
        let vsock = |shown| way_of(shown, |locks| locks.close_family("AF_VSOCK"));
        assert_eq!(vsock("RestrictAddressFamilies=AF_INET AF_UNIX"), Way::Closed);
        assert_eq!(vsock("RestrictAddressFamilies=~AF_VSOCK AF_PACKET"), Way::Closed);
        assert_eq!(vsock("RestrictAddressFamilies=AF_INET AF_VSOCK"), Way::Open);
        assert_eq!(vsock("RestrictAddressFamilies=~AF_PACKET"), Way::Open);
        assert_eq!(vsock("RestrictAddressFamilies=~"), Way::Open, "none is set");
        assert_eq!(vsock("SystemCallFilter=~clock_settime"), Way::Open, "a filter, and not that");
        let keys = |shown| way_of(shown, |locks| locks.close_call("request_key"));
        assert_eq!(keys("SystemCallFilter=~add_key request_key:1"), Way::Closed);
        assert_eq!(keys("SystemCallFilter=read write"), Way::Closed);
        assert_eq!(keys("SystemCallFilter=~clock_settime"), Way::Open);
        let namespaces = |shown| way_of(shown, |locks| locks.namespaces);
        assert_eq!(namespaces("RestrictNamespaces=yes"), Way::Closed);
        assert_eq!(namespaces("RestrictNamespaces=cgroup net"), Way::Closed, "some may be made, by the older calls");
        assert_eq!(namespaces("RestrictNamespaces=no"), Way::Open);
    }

    #[test]
    fn a_filter_that_nobody_knows_is_told_from_none_and_from_one_that_is_known() {
        let closes = |locks: &Locks| locks.namespaces;
        let sealed = Locks::sealed();
        assert_eq!(way(&Seen::default(), Some(&sealed), closes), Way::Open, "the unit's, but not this process's");
        let filtered = Seen { filtered: true, ..Seen::default() };
        assert_eq!(way(&filtered, None, closes), Way::Unknown);
        assert_eq!(way(&filtered, Some(&sealed), closes), Way::Closed);
        assert!(sealed.close_family("AF_VSOCK") && !sealed.close_family("AF_INET") && sealed.close_call("request_key"));
        let other = "ControlGroup=/agents.slice/coder.service\nRestrictNamespaces=yes";
        assert_eq!(Locks::shown(other, "/agents.slice/x/coder.service"), None, "a cgroup that calls itself so");
        assert_eq!(Locks::shown(other, "/agents.slice/coder.services"), None);
        assert_eq!(Locks::shown("ControlGroup=\nRestrictNamespaces=yes", "/agents.slice/coder.service"), None);
    }
}
