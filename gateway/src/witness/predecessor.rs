//! A kernel half of another layout that is in effect when this one starts: its links get the new programs, each in one step, and what
//! it noted on sockets goes with them, so that sessions live on.
//!
//! Old and new programs do not understand each other: between the first link's swap and the last note's copy, packets without a note
//! are dropped, and sent again by TCP; a new socket of an agent's may be refused (EPERM) where the old programs of the BPF LSM look for
//! its note. Nothing passes unjudged meanwhile.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gateway_common::{Flow, MAX_PENDING, Note};

use super::bpf::{self, Access};
use super::kernel::at;
use super::pins::{Pins, is_attached, is_attached_to, pin_anew};
use super::{KernelConfig, WitnessError};

/// What is held of it until everything is taken over: its own witness may remove the pins at any moment.
#[derive(Default)]
pub(super) struct Predecessor {
    notes: Vec<OwnedFd>,
    pending: Vec<OwnedFd>,
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
            found.notes.extend(opened(&base.join("maps/NOTES")));
            found.pending.extend(opened(&base.join("maps/PENDING")));
            // None: it was never complete, or its witness is just leaving.
            let links = fs::read_dir(base.join("links")).into_iter().flatten().flatten();
            found.links.extend(links.filter_map(|link| Some((link.file_name(), opened(&link.path()).ok()?))));
        }
        Ok(found)
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

    /// Copies what sockets are known by. What this fails for is not known to the new programs: its packets are dropped.
    pub(super) fn carry_over(
        &self,
        program: impl FnOnce() -> Result<OwnedFd, WitnessError>,
        pending: BorrowedFd<'_>,
    ) -> Result<(), WitnessError> {
        if self.notes.is_empty() {
            return Ok(());
        }
        for from in &self.pending {
            bpf::copy_entries::<{ size_of::<Flow>() }, { size_of::<Note>() }>(from.as_fd(), pending, MAX_PENDING)
                .map_err(at("PENDING of another layout"))?;
        }
        let program = program()?;
        for from in &self.notes {
            let mut nothing = Vec::new();
            bpf::iterate_sockets(program.as_fd(), from.as_fd())
                .and_then(|mut sockets| sockets.read_to_end(&mut nothing))
                .map_err(at("NOTES of another layout"))?;
        }
        tracing::info!("what sockets are known by was taken over from another layout");
        Ok(())
    }
}

fn opened(path: &Path) -> io::Result<OwnedFd> {
    bpf::open_pin(path, Access::ReadWrite)
}
