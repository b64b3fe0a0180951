//! Where the kernel half is pinned: `bpf_dir/v<LAYOUT>`, with maps in `maps/` and one link a hook in `links/`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use gateway_common as common;
use gateway_common::{Detach, LAYOUT, Settings};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::bpf::{self, Access};
use super::kernel::{at, boot_time, io_error};
use super::{KernelConfig, WitnessError};

/// A pinned map, and the sizes without which it is not ours.
pub(super) struct PinnedMap {
    pub(super) name: &'static str,
    key: usize,
    value: usize,
    entries: usize,
}

const fn pinned(name: &'static str, key: usize, value: usize, entries: usize) -> PinnedMap {
    PinnedMap { name, key, value, entries }
}

pub(super) const MAPS: [PinnedMap; 14] = [
    pinned("NOTES", 4, size_of::<common::Note>(), 0),
    pinned("RESOLVERS", 4, size_of::<common::Resolvers>(), 0),
    pinned("PENDING", size_of::<common::Flow>(), size_of::<common::Note>(), common::MAX_PENDING),
    pinned("DNS_FLOWS", size_of::<common::DnsFlow>(), size_of::<common::Note>(), common::MAX_DNS_FLOWS),
    pinned("SETTINGS", 4, size_of::<Settings>(), 1),
    pinned("DETACH", 4, size_of::<Detach>(), 1),
    pinned("AGENT_CGROUPS", 8, 4, common::MAX_AGENT_IDS),
    pinned("AGENT_FILTER", 4, 4, common::AGENT_SLOTS),
    pinned("AGENT_UIDS", 4, 4, common::MAX_AGENT_UIDS),
    pinned("SUBORDINATES", 4, size_of::<common::Subordinates>(), 1),
    pinned("NETNS", 8, 4, common::MAX_NETNS),
    pinned("LISTEN", size_of::<common::Listen>(), 4, common::MAX_LISTEN),
    pinned("COUNTS", 4, 8, common::COUNTERS),
    pinned("EVENTS", 0, 0, common::EVENT_BYTES),
];

/// The directories of one layout.
pub(super) struct Pins {
    pub(super) base: PathBuf,
}

impl Pins {
    pub(super) fn new(config: &KernelConfig) -> Self {
        Self { base: config.bpf_dir.join(format!("v{LAYOUT}")) }
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.base.join("maps")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.base.join("links")
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }
}

/// Mounts bpffs where `bpf_dir` is to be, if none is there.
pub(super) fn mount_bpffs(bpf_dir: &Path) -> Result<(), WitnessError> {
    let parent = bpf_dir.parent().unwrap_or(bpf_dir);
    fs::create_dir_all(parent).map_err(at(parent.display()))?;
    if !is_bpffs(parent) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), parent, Some("bpf"), flags, Some("mode=700"))
            .map_err(|error| io_error(&format!("mounting bpffs on {}", parent.display()), error.desc()))?;
    }
    Ok(())
}

/// It is on a bpffs, or would be if it were there.
pub(super) fn is_bpffs(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.exists());
    nearest.is_some_and(|path| statfs(path).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC))
}

pub(super) fn create_directories(pins: &Pins) -> Result<(), WitnessError> {
    for directory in [pins.maps(), pins.links()] {
        fs::create_dir_all(&directory).map_err(at(directory.display()))?;
    }
    Ok(())
}

/// Maps of another shape would be used unchecked, and then no program loads: they and their links are moved aside, where
/// they go on enforcing until the new ones do.
pub(super) fn set_foreign_pins_aside(pins: &Pins) -> Result<(), WitnessError> {
    let foreign = MAPS.iter().any(|map| {
        let path = pins.map(map.name);
        path.exists() && !fits(map, &path)
    });
    if foreign {
        let aside = pins.base.with_file_name(format!("stale-{}", boot_time()));
        fs::rename(&pins.base, &aside).map_err(at(pins.base.display()))?;
    }
    Ok(())
}

fn fits(map: &PinnedMap, path: &Path) -> bool {
    MapInfo::from_pin(path).is_ok_and(|info| {
        info.key_size() as usize == map.key
            && info.value_size() as usize == map.value
            && info.max_entries() as usize == map.entries
    })
}

/// Everything beside this layout's directory goes when the new programs are in effect.
pub(super) fn remove_others(config: &KernelConfig, pins: &Pins) -> Result<(), WitnessError> {
    for entry in fs::read_dir(&config.bpf_dir).map_err(at(config.bpf_dir.display()))? {
        let path = entry.map_err(at(config.bpf_dir.display()))?.path();
        if path != pins.base {
            fs::remove_dir_all(&path).map_err(at(path.display()))?;
        }
    }
    Ok(())
}

/// Root's pins belong to whom their directory belongs to: the witness of weir.service, which is not root.
pub(super) fn give_to_owner(bpf_dir: &Path) -> Result<(), WitnessError> {
    let owner = fs::metadata(bpf_dir).map_err(at(bpf_dir.display()))?;
    let whose = (owner.uid(), owner.gid());
    if owner.uid() == 0 || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let mut directories = vec![bpf_dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).map_err(at(directory.display()))? {
            let path = entry.map_err(at(directory.display()))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(at(path.display()))?;
            if (metadata.uid(), metadata.gid()) != whose {
                lchown(&path, Some(whose.0), Some(whose.1)).map_err(at(path.display()))?;
            }
            if metadata.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), WitnessError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path.display())(error)),
        _ => Ok(()),
    }
}

/// Pins a link; where another one is pinned, that goes.
pub(super) fn pin_anew(pins: &Pins, name: &str, link: BorrowedFd<'_>) -> Result<(), WitnessError> {
    let fresh = pins.link(&format!("new-{name}"));
    remove_if_there(&fresh)?;
    bpf::pin(link, &fresh).map_err(at(name))?;
    fs::rename(&fresh, pins.link(name)).map_err(at(name))
}

/// Unpins everything, with all layouts; the kernel detaches what nobody holds any more.
pub(super) fn clean(bpf_dir: &Path) -> Result<(), WitnessError> {
    match fs::remove_dir_all(bpf_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(bpf_dir.display())(error)),
        _ => Ok(()),
    }
}

/// The link is there and holds on to the cgroup that is there now.
pub(super) fn is_attached(path: &Path, cgroup_id: u64) -> bool {
    bpf::open_pin(path, Access::ReadWrite).is_ok_and(|link| is_attached_to(link.as_fd(), cgroup_id))
}

pub(super) fn is_attached_to(link: BorrowedFd<'_>, cgroup_id: u64) -> bool {
    bpf::link_info(link).is_ok_and(|info| info.cgroup_id == cgroup_id)
}
