//! A kernel half of another layout that is in effect when this one starts: its links get the new programs, each in one step, and what
//! it noted on sockets goes with them, so that sessions live on.
//!
//! Old and new programs do not understand each other. Notes are carried over before the gates change their programs, so that these know
//! whom they knew; and once more behind that. Whoever connects meanwhile is refused, or sends again; with the BPF LSM a socket that an
//! agent makes sends nothing until the old programs are gone, which is when the old witness notices (a fifth of a second). Nothing passes
//! unjudged.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData};
use gateway_common::{Detach, Settings};

use super::bpf::{self, Access};
use super::kernel::at;
use super::pins::{Pins, is_attached, is_attached_to, pin_anew};
use super::{KernelConfig, WitnessError};

/// What is held of it until everything is taken over: its own witness may remove the pins at any moment.
#[derive(Default)]
pub(super) struct Predecessor {
    notes: Vec<OwnedFd>,
    /// Whose gateway still runs, and whether agents pass for a time: where these are as they are in this layout.
    pub(super) settings: Option<Settings>,
    pub(super) detach: Option<Detach>,
    /// By their pins' names. Those that cannot change their program stay attached until the new ones are.
    links: BTreeMap<OsString, OwnedFd>,
    cgroup_id: u64,
}

impl Predecessor {
    /// Whatever is pinned beside this layout.
    pub(super) fn find(config: &KernelConfig, pins: &Pins, cgroup_id: u64) -> Result<Self, WitnessError> {
        let mut found = Self { cgroup_id, ..Self::default() };
        for entry in fs::read_dir(&config.bpf_dir).map_err(at(config.bpf_dir.display()))? {
            let base = entry.map_err(at(config.bpf_dir.display()))?.path();
            if base == pins.base {
                continue;
            }
            let map = |name: &str| -> PathBuf { base.join("maps").join(name) };
            found.notes.extend(opened(&map("NOTES")));
            found.settings = found.settings.or_else(|| only_value(&map("SETTINGS")));
            found.detach = found.detach.or_else(|| only_value(&map("DETACH")));
            // None: it was never complete, or its witness is just leaving.
            let links = fs::read_dir(base.join("links")).into_iter().flatten().flatten();
            found.links.extend(links.filter_map(|link| Some((link.file_name(), opened(&link.path()).ok()?))));
        }
        Ok(found)
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Its link of this name is attached where this layout's are to be.
    pub(super) fn has(&self, name: &str) -> bool {
        self.links.get(OsStr::new(name)).is_some_and(|link| is_attached_to(link.as_fd(), self.cgroup_id))
    }

    /// Makes its link this layout's, if this has none.
    pub(super) fn hand_over(&self, name: &str, pins: &Pins) -> Result<(), WitnessError> {
        match self.links.get(OsStr::new(name)) {
            Some(link) if self.has(name) && !is_attached(&pins.link(name), self.cgroup_id) => {
                pin_anew(pins, name, link.as_fd())
            }
            _ => Ok(()),
        }
    }

    /// Copies what sockets are known by, with an iterator's program.
    pub(super) fn carry_over(&self, program: BorrowedFd<'_>) -> Result<(), WitnessError> {
        for from in &self.notes {
            let mut nothing = Vec::new();
            bpf::iterate_sockets(program, from.as_fd())
                .and_then(|mut sockets| sockets.read_to_end(&mut nothing))
                .map_err(at("NOTES of another layout"))?;
        }
        Ok(())
    }
}

fn opened(path: &Path) -> io::Result<OwnedFd> {
    let pin = bpf::open_pin(path, Access::ReadWrite);
    if let Some(error) = pin.as_ref().err().filter(|error| error.kind() != io::ErrorKind::NotFound) {
        tracing::warn!(path = %path.display(), %error, "what another layout has there is lost");
    }
    pin
}

/// The value of an array that has one, if it is of this type's size.
fn only_value<T: aya::Pod>(path: &Path) -> Option<T> {
    let map = MapData::from_fd(opened(path).ok()?).ok()?;
    if map.info().ok()?.value_size() as usize != size_of::<T>() {
        return None;
    }
    Array::try_from(Map::Array(map)).ok()?.get(&0, 0).ok()
}
