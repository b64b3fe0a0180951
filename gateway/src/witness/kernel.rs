//! Loads, attaches, pins, adopts, checks and removes the kernel half.
//!
//! Everything is pinned below `bpf_dir/v<LAYOUT>`: maps in `maps/`, one link a hook in `links/`. The pins outlive every
//! process of Weir, so that agents stay closed in whatever dies. A start that finds pins adopts them: the maps are used
//! again and each link's program is swapped in one step; of another layout, the links are ([`super::predecessor`]). A start that
//! finds none attaches a plain deny first.
//!
//! The witness holds each link besides, so that nothing is detached when somebody removes the pins, and puts the pins back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::Program;
use aya::{Btf, Ebpf, EbpfLoader};
use gateway_common as common;
use gateway_common::{COUNTER_NAMES, CgroupPath, DETACH_REASON, Detach, NETNS_SERVED, Settings, Subordinates};

use super::bpf::{self, Access};
use super::cgroup::{self, Cgroup};
use super::lsm::{self, LsmHook};
use super::pins::{self, MAPS, Pins, create_directories, is_attached, is_bpffs, pin_anew, remove_if_there};
use super::predecessor::Predecessor;
use super::structures;
use super::subordinates;
use super::{AttachmentReport, Detached, HookReport, KernelConfig, MAX_DETACH, WitnessError, requirements};

/// Aligned, since the ELF reader wants it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WEIR_EBPF_OBJECT"));

/// One attachment: the link's name, its program, and the attach type (`enum bpf_attach_type`).
struct Hook {
    name: &'static str,
    program: &'static str,
    attach_type: u32,
}

const fn hook(name: &'static str, program: &'static str, attach_type: u32) -> Hook {
    Hook { name, program, attach_type }
}

/// The last hooks, which pass what has a note.
const GATES: usize = 2;

/// In the order of attachment: what carries notes first, then what redirects, the gates last.
const HOOKS: [Hook; 15] = [
    hook("sock_create", "weir_sock_create", 2),
    hook("sock_ops", "weir_sock_ops", 3),
    hook("bind4", "weir_bind4", 8),
    hook("bind6", "weir_bind6", 9),
    hook("setsockopt", "weir_setsockopt", 22),
    hook("getpeername4", "weir_getpeername4", 29),
    hook("getpeername6", "weir_getpeername6", 30),
    hook("recvmsg4", "weir_recvmsg4", 19),
    hook("recvmsg6", "weir_recvmsg6", 20),
    hook("sendmsg4", "weir_sendmsg4", 14),
    hook("sendmsg6", "weir_sendmsg6", 15),
    hook("connect4", "weir_connect4", 10),
    hook("connect6", "weir_connect6", 11),
    hook("egress", "weir_egress", 1),
    hook("ingress", "weir_ingress", 0),
];

/// The one that takes most of a kernel comes last.
const DENY_HOOKS: [Hook; 6] = [
    hook("deny_connect4", "deny_connect4", 10),
    hook("deny_connect6", "deny_connect6", 11),
    hook("deny_sendmsg4", "deny_sendmsg4", 14),
    hook("deny_sendmsg6", "deny_sendmsg6", 15),
    hook("deny_sock_create", "deny_sock_create", 2),
    hook("deny_egress", "deny_egress", 1),
];

/// The program that knows agents' cgroups as they are made, and its link.
const CGROUP_MADE: &str = "weir_cgroup_made";

/// The loaded and attached kernel half. Dropping it leaves everything pinned and attached.
pub(super) struct Kernel {
    ebpf: Ebpf,
    config: KernelConfig,
    attached_to: Cgroup,
    /// Users that agents' users may become, and how many ranges these are. Read with the configuration.
    subordinates: (Subordinates, u32),
    /// Every link, under the name of its pin.
    links: BTreeMap<String, OwnedFd>,
    /// Why programs cannot tell who sends a packet, or has a socket listen.
    blind: Option<String>,
    /// Why a new cgroup of agents is known only a moment after it was made.
    slow_to_see: Option<String>,
    /// Why this kernel did not take the programs of the BPF LSM, though it has that.
    without_lsm: Option<String>,
}

/// What a link to a hook of the BPF LSM is called.
fn lsm_name(hook: &str) -> String {
    format!("lsm-{hook}")
}

impl Kernel {
    /// Attaches everything, or adopts what is attached.
    pub(super) fn attach(config: KernelConfig) -> Result<Self, WitnessError> {
        Self::attach_all(config).map_err(requirements::explain)
    }

    fn attach_all(config: KernelConfig) -> Result<Self, WitnessError> {
        pins::mount_bpffs(&config.bpf_dir)?;
        let pins = Pins::new(&config);
        pins::set_foreign_pins_aside(&pins)?;
        create_directories(&pins)?;
        let places = structures::places();
        let ebpf = load_maps(&pins, places.as_ref().ok())?;
        let root = open_cgroup(&config)?;
        let attached_to = cgroup::look_up(&config.cgroup_mount, &config.attach).map_err(at(&config.attach))?;
        let subordinates = subordinates::ranges(&config)?;
        let mut kernel = Self {
            ebpf,
            config,
            attached_to,
            subordinates,
            links: BTreeMap::new(),
            blind: places.as_ref().err().cloned(),
            slow_to_see: places.err(),
            without_lsm: None,
        };
        let predecessor = Predecessor::find(&kernel.config, &pins, attached_to.id)?;
        kernel.inherit(&predecessor)?;
        kernel.apply_settings()?;
        if kernel.slow_to_see.is_none() {
            kernel.slow_to_see = kernel.watch_cgroups(&pins).err();
            // Once more: of cgroups that were made in between, the program before told the filter before, whose pin may be gone.
            kernel.apply_settings()?;
        }
        let is_free = |hook: &Hook| !is_attached(&pins.link(hook.name), attached_to.id) && !predecessor.has(hook.name);
        if HOOKS.iter().any(is_free) {
            for hook in &DENY_HOOKS {
                kernel.attach_hook(&pins, hook, root.as_fd())?;
            }
        }
        for hook in &HOOKS {
            kernel.load_program(hook.program)?;
        }
        let of_lsm = lsm::available().is_ok().then(|| kernel.load_lsm());
        let carrier = predecessor.has_notes().then(|| kernel.load_program("weir_carry_notes")).transpose()?;
        // Everything is loaded: from here on it takes no time.
        let (others, gates) = HOOKS.split_at(HOOKS.len() - GATES);
        for hooks in [others, gates] {
            for hook in hooks {
                predecessor.hand_over(hook.name, &pins)?;
                let link = kernel.attach_hook(&pins, hook, root.as_fd())?;
                kernel.links.insert(hook.name.to_owned(), link);
            }
            if let Some(carrier) = &carrier {
                predecessor.carry_over(carrier.as_fd())?;
            }
        }
        kernel.without_lsm = of_lsm.and_then(|loaded| kernel.attach_lsm(&pins, loaded).err());
        drop(predecessor);
        let report = kernel.report()?;
        if let Some(hook) = report.hooks.iter().find(|hook| !hook.effective) {
            return Err(io_error("attach", &format!("{} is attached but not in effect", hook.name)));
        }
        for hook in &DENY_HOOKS {
            remove_if_there(&pins.link(hook.name))?;
        }
        pins::remove_others(&kernel.config, &pins)?;
        pins::give_to_owner(&kernel.config.bpf_dir)?;
        Ok(kernel)
    }

    /// Whose gateway it is until another one starts, so that agents wait for that; and a detach goes on.
    fn inherit(&mut self, predecessor: &Predecessor) -> Result<(), WitnessError> {
        if let Some(Settings { gateway_cgroup, gateway_level, .. }) = predecessor.settings {
            let mut map: Array<_, Settings> = self.map("SETTINGS")?.try_into().map_err(map_error("SETTINGS"))?;
            let own = map.get(&0, 0).map_err(map_error("SETTINGS"))?;
            if own.gateway_cgroup == 0 {
                map.set(0, Settings { gateway_cgroup, gateway_level, ..own }, 0).map_err(map_error("SETTINGS"))?;
            }
        }
        if let Some(detach) = predecessor.detach {
            let mut map: Array<_, Detach> = self.map("DETACH")?.try_into().map_err(map_error("DETACH"))?;
            if map.get(&0, 0).map_err(map_error("DETACH"))?.until == 0 {
                map.set(0, detach, 0).map_err(map_error("DETACH"))?;
            }
        }
        Ok(())
    }

    /// Applies a new configuration without letting go of anything.
    pub(super) fn reconfigure(&mut self, config: KernelConfig) -> Result<(), WitnessError> {
        let moved = config.attach != self.config.attach
            || config.bpf_dir != self.config.bpf_dir
            || config.cgroup_mount != self.config.cgroup_mount
            || (config.port, config.dns_port) != (self.config.port, self.config.dns_port);
        if moved {
            return Err(io_error("reload", "attach, bpf_dir, port and dns_port change only with a restart"));
        }
        let subordinates = subordinates::ranges(&config)?;
        let before =
            (std::mem::replace(&mut self.config, config), std::mem::replace(&mut self.subordinates, subordinates));
        // What was refused is not looked after either.
        self.apply_settings().inspect_err(|_| (self.config, self.subordinates) = before)
    }

    /// Whether an agent's user may become this one.
    pub(super) fn is_subordinate(&self, uid: u32) -> bool {
        let (Subordinates { ranges }, _) = &self.subordinates;
        ranges.iter().any(|range| uid.checked_sub(range.first).is_some_and(|number| number < range.count))
    }

    /// Looks after what may change under us: cgroups that were removed and made again, attachments that somebody took away.
    /// Errors are for the log and for the report; the next round tries again.
    pub(super) fn look_after(&mut self) -> Result<(), WitnessError> {
        // Each whatever became of the other: under weir.service, a cgroup of agents that is gone is for others to make.
        let settings = self.apply_settings();
        let attachments = self.look_after_attachments();
        settings.and(attachments)
    }

    fn look_after_attachments(&mut self) -> Result<(), WitnessError> {
        let attach_point =
            cgroup::look_up(&self.config.cgroup_mount, &self.config.attach).map_err(at(&self.config.attach))?;
        self.attached_to = attach_point;
        let pins = Pins::new(&self.config);
        let root = open_cgroup(&self.config)?;
        for hook in &HOOKS {
            if !self.is_in_effect(hook, root.as_fd()) {
                let link = self.new_link(hook, root.as_fd())?;
                tracing::warn!(hook = hook.name, "somebody had detached a program; it is attached again");
                // The pin is the old link's, if there is one.
                remove_if_there(&pins.link(hook.name))?;
                self.links.insert(hook.name.to_owned(), link);
            }
        }
        if !is_bpffs(&self.config.bpf_dir) {
            return Err(io_error(
                &self.config.bpf_dir.display().to_string(),
                "no bpffs is mounted there any more: agents stay behind the gateway only as long as this witness runs; mount it again",
            ));
        }
        self.put_pins_back(&pins)
    }

    /// Whether another witness takes care of the kernel half by now: its links are there, and this one's are of no use.
    pub(super) fn let_go_if_succeeded(&mut self, retired: bool) {
        if self.links.is_empty() {
            return;
        }
        let own = Pins::new(&self.config).base;
        let layouts = fs::read_dir(&self.config.bpf_dir).into_iter().flatten().flatten();
        // Not those that were set aside, of this very layout maybe.
        let mut layouts = layouts.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"v"));
        let is_kept = |base: &Path| {
            let links = base.join("links");
            (retired || *base != *own)
                && HOOKS.iter().all(|hook| is_attached(&links.join(hook.name), self.attached_to.id))
        };
        if let Some(successor) = layouts.find_map(|entry| Some(entry.path()).filter(|path| is_kept(path))) {
            self.links.clear();
            if successor != own {
                // The other one has removed them, or this one put them back at that moment. An error means the former.
                let _ = fs::remove_dir_all(own);
            }
        }
    }

    /// Holds no link any more: they are another witness's affair.
    pub(super) fn has_let_go(&self) -> bool {
        self.links.is_empty()
    }

    /// The link that is held is attached to the cgroup that is there now, and its program among those that run.
    fn is_in_effect(&self, hook: &Hook, root: BorrowedFd<'_>) -> bool {
        let Some(link) = self.links.get(hook.name) else { return false };
        bpf::link_info(link.as_fd()).is_ok_and(|info| {
            info.cgroup_id == self.attached_to.id
                && bpf::effective_programs(root, hook.attach_type).is_ok_and(|ids| ids.contains(&info.program_id))
        })
    }

    /// Maps and links whose pins somebody has removed: the very same ones, which the programs and the gateway use.
    fn put_pins_back(&self, pins: &Pins) -> Result<(), WitnessError> {
        let is_missing = |path: &Path| fs::symlink_metadata(path).is_err();
        let links = self.links.iter().map(|(name, link)| (pins.link(name), link.as_fd()));
        let lost: Vec<_> = links.filter(|(path, _)| is_missing(path)).collect();
        let maps = MAPS.iter().map(|map| (pins.map(map.name), map.name));
        let lost_maps: Vec<_> = maps.filter(|(path, _)| is_missing(path)).collect();
        if lost.is_empty() && lost_maps.is_empty() {
            return Ok(());
        }
        create_directories(pins)?;
        // Links last: with all of them there, everything is.
        for (path, name) in &lost_maps {
            let map = self.map_ref(name)?;
            bpf::pin(map, path).map_err(at(name))?;
        }
        for (path, link) in &lost {
            bpf::pin(*link, path).map_err(at(path.display()))?;
        }
        tracing::warn!(pins = lost.len() + lost_maps.len(), "somebody had removed pins; they are there again");
        Ok(())
    }

    /// Agents' cgroups are known from the moment on in which they are made. Such a link cannot change its program: the new one is in
    /// effect beside the old one before that goes.
    fn watch_cgroups(&mut self, pins: &Pins) -> Result<(), String> {
        let program = self.load_program(CGROUP_MADE).map_err(|error| first_line(&error.to_string()).to_owned())?;
        let link = bpf::create_typed_link(program.as_fd()).map_err(|error| error.to_string())?;
        self.replace_pin(pins, CGROUP_MADE, link).map_err(|error| error.to_string())
    }

    /// Puts the pin of a new link in the place of an old one, which goes with it.
    fn replace_pin(&mut self, pins: &Pins, name: &str, link: OwnedFd) -> Result<(), WitnessError> {
        pin_anew(pins, name, link.as_fd())?;
        self.links.insert(name.to_owned(), link);
        Ok(())
    }

    /// The layer is attached as a whole, and its absence is no reason not to start. Such a link cannot change its program: the new
    /// one is in effect beside the old one before that goes.
    fn attach_lsm(&mut self, pins: &Pins, programs: Result<Vec<OwnedFd>, String>) -> Result<(), String> {
        let mut links = Vec::new();
        for (hook, program) in lsm::HOOKS.iter().zip(programs?) {
            let link = bpf::create_typed_link(program.as_fd()).map_err(|error| format!("{}: {error}", hook.name))?;
            links.push((lsm_name(hook.name), link));
        }
        for (name, link) in links {
            self.replace_pin(pins, &name, link).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Programs in the order of [`lsm::HOOKS`].
    fn load_lsm(&mut self) -> Result<Vec<OwnedFd>, String> {
        lsm::check_layout()?;
        let btf = Btf::from_sys_fs().map_err(|error| chain(&error))?;
        lsm::HOOKS.iter().map(|hook| self.load_lsm_hook(hook, &btf)).collect()
    }

    fn load_lsm_hook(&mut self, hook: &LsmHook, btf: &Btf) -> Result<OwnedFd, String> {
        let Some(Program::Lsm(program)) = self.ebpf.program_mut(hook.program) else {
            return Err(format!("{}: the object has no such program", hook.program));
        };
        if program.fd().is_err() {
            program
                .load(hook.name, btf)
                .map_err(|error| format!("{}: {}", hook.program, first_line(&chain(&error))))?;
        }
        let fd = program.fd().map_err(|error| chain(&error))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| error.to_string())
    }

    /// Forgets all network namespaces but this process's own, in which the gateway listens: the sockets in the others died
    /// with the gateway before.
    pub(super) fn begin_netns(&mut self) -> Result<(), WitnessError> {
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(at("a socket"))?;
        let own = netns_cookie(&socket).map_err(at("SO_NETNS_COOKIE"))?;
        self.set_netns(own, Some(NETNS_SERVED))?;
        let map: HashMap<_, u64, u32> = self.map("NETNS")?.try_into().map_err(map_error("NETNS"))?;
        let known: Vec<u64> = map.keys().collect::<Result<_, _>>().map_err(map_error("NETNS"))?;
        known.into_iter().filter(|cookie| *cookie != own).try_for_each(|cookie| self.set_netns(cookie, None))
    }

    /// What agents of a network namespace meet: `NETNS_*`; `None` until it was looked at.
    pub(super) fn set_netns(&mut self, cookie: u64, state: Option<u32>) -> Result<(), WitnessError> {
        let mut map: HashMap<_, u64, u32> = self.map("NETNS")?.try_into().map_err(map_error("NETNS"))?;
        match state {
            Some(state) => map.insert(cookie, state, 0).map_err(map_error("NETNS")),
            None => match map.remove(&cookie) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                Err(error) => Err(map_error("NETNS")(error)),
            },
        }
    }

    pub(super) fn report(&self) -> Result<AttachmentReport, WitnessError> {
        let mut report = if self.has_let_go() {
            status(&self.config)?
        } else {
            status_by(&self.config, |name| self.links.get(name).ok_or(io::ErrorKind::NotFound)?.try_clone())?
        };
        if let Some(reason) = &self.without_lsm {
            report.warnings.push(reason.clone());
        }
        if let Some(reason) = &self.slow_to_see {
            report.warnings.push(format!(
                "what is started in a cgroup of agents within a moment of its making is free until that is noticed: {reason}"
            ));
        }
        // Sockets that an agent did not make get nowhere by the BPF LSM.
        if let Some(reason) = &self.blind
            && (report.lsm.iter().any(|hook| !hook.effective) || report.lsm.is_empty())
        {
            report.gaps.push(format!(
                "programs find no way through this kernel's structures: of sockets that an agent was handed, or had before it became one, a \
                 UDP socket that is connected, a ping socket or a raw one is not stopped, and others get in where it listens: {reason}"
            ));
        }
        Ok(report)
    }

    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What the gateway gets: the notes and the DNS flows for reading, and the ring buffer of denied events.
    pub(super) fn descriptors(&self) -> Result<[OwnedFd; 3], WitnessError> {
        let pins = Pins::new(&self.config);
        let open = |name, access| bpf::open_pin(&pins.map(name), access).map_err(at(name));
        Ok([open("NOTES", Access::ReadOnly)?, open("DNS_FLOWS", Access::ReadOnly)?, open("EVENTS", Access::ReadWrite)?])
    }

    fn map_ref(&self, name: &str) -> Result<BorrowedFd<'_>, WitnessError> {
        let map = self.ebpf.map(name).ok_or_else(|| io_error(name, "the object has no such map"))?;
        match map {
            Map::Array(map)
            | Map::HashMap(map)
            | Map::LruHashMap(map)
            | Map::PerCpuArray(map)
            | Map::RingBuf(map)
            | Map::SkStorage(map) => Ok(map.fd().as_fd()),
            _ => Err(io_error(name, "not a kind of map that is pinned")),
        }
    }

    fn map(&mut self, name: &str) -> Result<&mut Map, WitnessError> {
        self.ebpf.map_mut(name).ok_or_else(|| io_error(name, "the object has no such map"))
    }

    /// Loads the program once.
    fn load_program(&mut self, name: &str) -> Result<OwnedFd, WitnessError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| io_error(name, "the object has no such program"))?;
        if program.fd().is_err() {
            let loaded = match program {
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSock(program) => program.load(),
                Program::CgroupSockopt(program) => program.load(),
                Program::CgroupSkb(program) => program.load(),
                Program::SockOps(program) => program.load(),
                Program::BtfTracePoint(program) => program.load("cgroup_mkdir", &kernel_types(name)?),
                Program::Iter(program) => program.load("bpf_sk_storage_map", &kernel_types(name)?),
                _ => return Err(io_error(name, "not a kind of program that is loaded so")),
            };
            loaded.map_err(|error| io_error(name, &chain(&error)))?;
        }
        let fd = program.fd().map_err(|error| io_error(name, &chain(&error)))?;
        fd.as_fd().try_clone_to_owned().map_err(at(name))
    }

    /// Swaps the program of the pinned link; makes a new link where there is none, or where it belongs to a cgroup that is
    /// no more, and lets the old one go only then.
    fn attach_hook(&mut self, pins: &Pins, hook: &Hook, root: BorrowedFd<'_>) -> Result<OwnedFd, WitnessError> {
        let path = pins.link(hook.name);
        if is_attached(&path, self.attached_to.id) {
            let program = self.load_program(hook.program)?;
            let link = bpf::open_pin(&path, Access::ReadWrite).map_err(at(hook.name))?;
            if bpf::update_link(link.as_fd(), program.as_fd()).is_ok() {
                return Ok(link);
            }
        }
        let link = self.new_link(hook, root)?;
        pin_anew(pins, hook.name, link.as_fd())?;
        Ok(link)
    }

    fn new_link(&mut self, hook: &Hook, root: BorrowedFd<'_>) -> Result<OwnedFd, WitnessError> {
        let program = self.load_program(hook.program)?;
        bpf::create_link(program.as_fd(), root, hook.attach_type).map_err(at(hook.name))
    }

    /// Agents' cgroups (made where they are missing), agents' users, the gateway's cgroup and ports.
    fn apply_settings(&mut self) -> Result<(), WitnessError> {
        // Read before the cgroups are looked up: one that is made in between, and that the kernel half knows already, is not stale.
        let known: BTreeSet<u64> =
            self.agent_ids()?.keys().collect::<Result<_, _>>().map_err(map_error("AGENT_CGROUPS"))?;
        let AgentCgroups { ids, levels, trouble } = agent_cgroups(&self.config)?;
        let uids: BTreeSet<u32> = self.config.agent_uids.iter().copied().collect();
        let mut filter: Array<_, u32> = self.map("AGENT_FILTER")?.try_into().map_err(map_error("AGENT_FILTER"))?;
        for id in ids.union(&known) {
            filter.set(common::agent_slot(*id), 1, 0).map_err(map_error("AGENT_FILTER"))?;
        }
        let mut cgroups = self.agent_ids()?;
        for id in ids.difference(&known) {
            cgroups.insert(id, 1, 0).map_err(map_error("AGENT_CGROUPS"))?;
        }
        let stale_paths = self.fill_paths()?;
        let mut users: HashMap<_, u32, u32> = self.map("AGENT_UIDS")?.try_into().map_err(map_error("AGENT_UIDS"))?;
        let stale_users = fill(&mut users, &uids, 1).map_err(map_error("AGENT_UIDS"))?;
        self.write_settings(levels, &uids)?;
        self.write_listen()?;
        // What is an agent no longer goes last: until then there are too many agents, never too few. Where one was not found, nobody
        // knows which of those that are known is its own.
        trouble?;
        let stale: Vec<u64> = known.difference(&ids).copied().collect();
        remove_all(&mut self.agent_ids()?, &stale);
        let mut users: HashMap<_, u32, u32> = self.map("AGENT_UIDS")?.try_into().map_err(map_error("AGENT_UIDS"))?;
        remove_all(&mut users, &stale_users);
        let mut paths: HashMap<_, CgroupPath, u64> =
            self.map("AGENT_PATHS")?.try_into().map_err(map_error("AGENT_PATHS"))?;
        remove_all(&mut paths, &stale_paths);
        Ok(())
    }

    fn agent_ids(&mut self) -> Result<HashMap<&mut MapData, u64, u32>, WitnessError> {
        self.map("AGENT_CGROUPS")?.try_into().map_err(map_error("AGENT_CGROUPS"))
    }

    /// By which agents' cgroups are known as they are made; those that are agents' no longer.
    fn fill_paths(&mut self) -> Result<Vec<CgroupPath>, WitnessError> {
        let wanted: BTreeSet<CgroupPath> = self.config.agents.iter().filter_map(|path| cgroup_path(path)).collect();
        let mut paths: HashMap<_, CgroupPath, u64> =
            self.map("AGENT_PATHS")?.try_into().map_err(map_error("AGENT_PATHS"))?;
        fill(&mut paths, &wanted, 0).map_err(map_error("AGENT_PATHS"))
    }

    /// Who may be reached no longer goes first.
    fn write_listen(&mut self) -> Result<(), WitnessError> {
        let wanted: BTreeSet<common::Listen> =
            self.config.listen.iter().map(|&(uid, port)| common::Listen { uid, port, reserved: 0 }).collect();
        let mut map: HashMap<_, common::Listen, u32> = self.map("LISTEN")?.try_into().map_err(map_error("LISTEN"))?;
        let present: Vec<common::Listen> = map.keys().collect::<Result<_, _>>().map_err(map_error("LISTEN"))?;
        for stale in present.iter().filter(|listen| !wanted.contains(listen)) {
            map.remove(stale).map_err(map_error("LISTEN"))?;
        }
        fill(&mut map, &wanted, 1).map(drop).map_err(map_error("LISTEN"))
    }

    fn write_settings(&mut self, agent_levels: u32, uids: &BTreeSet<u32>) -> Result<(), WitnessError> {
        let gateway = gateway_cgroup(&self.config)?;
        let (port, dns_port) = (self.config.port, self.config.dns_port);
        let hold_without_gateway = self.config.hold_without_gateway.into();
        let (ranges, subordinates) = self.subordinates;
        let mut map: Array<_, Subordinates> =
            self.map("SUBORDINATES")?.try_into().map_err(map_error("SUBORDINATES"))?;
        if map.get(&0, 0).map_err(map_error("SUBORDINATES"))? != ranges {
            map.set(0, ranges, 0).map_err(map_error("SUBORDINATES"))?;
        }
        let mut map: Array<_, Settings> = self.map("SETTINGS")?.try_into().map_err(map_error("SETTINGS"))?;
        let before = map.get(&0, 0).map_err(map_error("SETTINGS"))?;
        // `weir kernel attach` knows no gateway; one that already runs keeps its ports.
        let (gateway_cgroup, gateway_level) =
            gateway.map_or((before.gateway_cgroup, before.gateway_level), |gateway| (gateway.id, gateway.level));
        let agent_uids = u32::try_from(uids.len()).unwrap_or(u32::MAX);
        let settings = Settings {
            gateway_cgroup,
            gateway_level,
            agent_levels,
            agent_uids,
            port,
            dns_port,
            hold_without_gateway,
            subordinates,
        };
        if settings == before {
            return Ok(());
        }
        map.set(0, settings, 0).map_err(map_error("SETTINGS"))
    }
}

/// What is attached and counted, from the pins alone.
pub(super) fn status(config: &KernelConfig) -> Result<AttachmentReport, WitnessError> {
    let pins = Pins::new(config);
    status_by(config, |name| bpf::open_pin(&pins.link(name), Access::ReadWrite))
}

/// The same by links that are found by the names of their pins.
fn status_by(
    config: &KernelConfig,
    link: impl Fn(&str) -> io::Result<OwnedFd>,
) -> Result<AttachmentReport, WitnessError> {
    let pins = Pins::new(config);
    let root = open_cgroup(config)?;
    let hooks = HOOKS
        .iter()
        .map(|hook| HookReport {
            name: hook.name.to_owned(),
            effective: is_effective(link(hook.name), hook, root.as_fd()),
        })
        .collect();
    let mut report = AttachmentReport {
        attach: format!("/{}", config.attach),
        hooks,
        lsm: lsm_reports(&link),
        warnings: warnings(config),
        ..AttachmentReport::default()
    };
    if report.lsm.is_empty() {
        let reason = lsm::available().err().unwrap_or_else(|| "its programs did not load".to_owned());
        report.warnings.push(format!("without the BPF LSM, {}: {reason}", lsm::COST));
    }
    if pins.map("COUNTS").exists() {
        report.counters = counters(&pins)?;
        report.pending = pending(&pins)?;
        report.detached = detached(&pins)?;
    }
    Ok(report)
}

/// The layer on the BPF LSM, if any of it was attached.
fn lsm_reports(link: impl Fn(&str) -> io::Result<OwnedFd>) -> Vec<HookReport> {
    let is_there = |hook: &LsmHook| link(&lsm_name(hook.name)).is_ok();
    let there: Vec<bool> = lsm::HOOKS.iter().map(is_there).collect();
    if !there.contains(&true) {
        return Vec::new();
    }
    let active = lsm::available().is_ok();
    let report =
        |(hook, there): (&LsmHook, bool)| HookReport { name: hook.name.to_owned(), effective: there && active };
    lsm::HOOKS.iter().zip(there).map(report).collect()
}

/// Lets agents pass for a time; zero ends it.
pub(super) fn detach(
    config: &KernelConfig,
    duration: Duration,
    reason: &str,
) -> Result<AttachmentReport, WitnessError> {
    refuse_agents(config)?;
    if duration > MAX_DETACH {
        return Err(io_error("detach", &format!("at most {} minutes at a time", MAX_DETACH.as_secs() / 60)));
    }
    let pins = Pins::new(config);
    let mut map = Array::<_, Detach>::try_from(Map::Array(open_map(&pins, "DETACH")?)).map_err(map_error("DETACH"))?;
    let mut value =
        Detach { until: 0, uid: nix::unistd::getuid().as_raw(), reason_length: 0, reason: [0; DETACH_REASON] };
    if !duration.is_zero() {
        value.until = boot_time().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(0));
        let text = &reason.as_bytes()[..reason.floor_char_boundary(DETACH_REASON)];
        value.reason[..text.len()].copy_from_slice(text);
        value.reason_length = u32::try_from(text.len()).unwrap_or(0);
    }
    map.set(0, value, 0).map_err(map_error("DETACH"))?;
    status(config)
}

/// Nanoseconds of CLOCK_BOOTTIME.
pub(super) fn boot_time() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        let nanoseconds = Duration::from(time).as_nanos();
        u64::try_from(nanoseconds).unwrap_or(u64::MAX)
    })
}

pub(super) fn io_error(what: &str, error: &str) -> WitnessError {
    WitnessError::Io { what: what.to_owned(), error: error.to_owned() }
}

pub(super) fn at(what: impl ToString) -> impl FnOnce(io::Error) -> WitnessError {
    move |error| WitnessError::Io { what: what.to_string(), error: error.to_string() }
}

fn map_error<E: std::error::Error>(name: &'static str) -> impl FnOnce(E) -> WitnessError {
    move |error| io_error(name, &chain(&error))
}

/// An error with its causes: aya's own text leaves out the kernel's.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The path of an agent's cgroup as the kernel says it, if it is short enough to be known by it.
fn cgroup_path(path: &str) -> Option<CgroupPath> {
    let mut bytes = [0; common::MAX_CGROUP_PATH];
    let text = format!("/{path}");
    // The last byte stays zero.
    bytes[..common::MAX_CGROUP_PATH - 1].get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(bytes)
}

/// `places`: where programs find the fields of kernel structures; what needs them does nothing without.
fn load_maps(pins: &Pins, places: Option<&common::Places>) -> Result<Ebpf, WitnessError> {
    let mut loader = EbpfLoader::new();
    let nowhere = common::Places::default();
    loader.override_global("PLACES", places.unwrap_or(&nowhere), true);
    for map in &MAPS {
        loader.map_pin_path(map.name, pins.map(map.name));
    }
    loader.load(OBJECT).map_err(|error| io_error("loading the eBPF object", &chain(&error)))
}

/// The running kernel's own, for a program that is loaded by what it is attached to.
fn kernel_types(program: &str) -> Result<Btf, WitnessError> {
    Btf::from_sys_fs().map_err(|error| io_error(program, &chain(&error)))
}

fn open_map(pins: &Pins, name: &str) -> Result<MapData, WitnessError> {
    let fd = bpf::open_pin(&pins.map(name), Access::ReadWrite).map_err(at(name))?;
    MapData::from_fd(fd).map_err(|error| io_error(name, &chain(&error)))
}

fn open_cgroup(config: &KernelConfig) -> Result<File, WitnessError> {
    if !cgroup::is_plain(&config.attach) {
        return Err(io_error(&config.attach, "not a path below the cgroup2 mount"));
    }
    let path = config.cgroup_mount.join(&config.attach);
    File::open(&path).map_err(at(path.display()))
}

/// The link's program is among those that run.
fn is_effective(link: io::Result<OwnedFd>, hook: &Hook, root: BorrowedFd<'_>) -> bool {
    let program = link.and_then(|link| bpf::link_info(link.as_fd())).map(|info| info.program_id);
    let effective = bpf::effective_programs(root, hook.attach_type);
    matches!((program, effective), (Ok(program), Ok(effective)) if effective.contains(&program))
}

/// What became of the agents' cgroups that the configuration names.
struct AgentCgroups {
    ids: BTreeSet<u64>,
    /// [`Settings::agent_levels`], of those that are missing too: the kernel half knows one by its path as it is made.
    levels: u32,
    /// Why some are neither there nor could be made. The others are looked after all the same.
    trouble: Result<(), WitnessError>,
}

/// Agents' cgroups, made where they are missing. An error is the configuration's.
fn agent_cgroups(config: &KernelConfig) -> Result<AgentCgroups, WitnessError> {
    for path in &config.agents {
        let inside = config.attach.is_empty() || Path::new(path).starts_with(&config.attach);
        if path.is_empty() || !cgroup::is_plain(path) || !inside {
            return Err(io_error(path, "an agent's cgroup is a path below the attach point"));
        }
        if cgroup_path(path).is_none() {
            return Err(io_error(path, &format!("longer than {} bytes", common::MAX_CGROUP_PATH - 2)));
        }
        if cgroup::level(path) >= common::MAX_LEVELS {
            return Err(io_error(path, &format!("nested more than {} deep", common::MAX_LEVELS)));
        }
    }
    let (mut ids, mut troubles) = (BTreeSet::new(), Vec::new());
    for path in &config.agents {
        let made = fs::create_dir_all(config.cgroup_mount.join(path));
        match made.and_then(|()| cgroup::look_up(&config.cgroup_mount, path)) {
            Ok(agent) => drop(ids.insert(agent.id)),
            Err(error) => troubles.push(format!("/{path}: {error}")),
        }
    }
    let levels = config.agents.iter().fold(0, |levels, path| levels | 1 << cgroup::level(path));
    let trouble = if troubles.is_empty() { Ok(()) } else { Err(io_error("agents' cgroups", &troubles.join("; "))) };
    Ok(AgentCgroups { ids, levels, trouble })
}

fn gateway_cgroup(config: &KernelConfig) -> Result<Option<Cgroup>, WitnessError> {
    let Some(path) = &config.gateway_cgroup else { return Ok(None) };
    if config.agents.iter().any(|agent| Path::new(path).starts_with(agent)) {
        return Err(io_error(path, "the gateway must not run in an agent's cgroup"));
    }
    cgroup::look_up(&config.cgroup_mount, path).map(Some).map_err(at(path))
}

fn fill<K: aya::Pod + Ord, V: aya::Pod>(
    map: &mut HashMap<&mut MapData, K, V>,
    wanted: &BTreeSet<K>,
    value: V,
) -> Result<Vec<K>, aya::maps::MapError> {
    let present: BTreeSet<K> = map.keys().collect::<Result<_, _>>()?;
    for key in wanted.difference(&present) {
        map.insert(key, value, 0)?;
    }
    Ok(present.difference(wanted).copied().collect())
}

fn remove_all<K: aya::Pod, V: aya::Pod>(map: &mut HashMap<&mut MapData, K, V>, keys: &[K]) {
    for key in keys {
        // Gone already is as good.
        let _ = map.remove(key);
    }
}

fn counters(pins: &Pins) -> Result<BTreeMap<String, u64>, WitnessError> {
    let map = Map::PerCpuArray(open_map(pins, "COUNTS")?);
    let map = PerCpuArray::<_, u64>::try_from(map).map_err(map_error("COUNTS"))?;
    let mut counters = BTreeMap::new();
    for (index, name) in (0..).zip(COUNTER_NAMES) {
        let values = map.get(&index, 0).map_err(map_error("COUNTS"))?;
        counters.insert((*name).to_owned(), values.iter().sum());
    }
    Ok(counters)
}

fn pending(pins: &Pins) -> Result<u64, WitnessError> {
    let map = bpf::open_pin(&pins.map("PENDING"), Access::ReadOnly).map_err(at("PENDING"))?;
    bpf::count_keys::<{ size_of::<common::Flow>() }>(map.as_fd(), common::MAX_PENDING as u64).map_err(at("PENDING"))
}

fn detached(pins: &Pins) -> Result<Option<Detached>, WitnessError> {
    let map = Map::Array(open_map(pins, "DETACH")?);
    let map = Array::<_, Detach>::try_from(map).map_err(map_error("DETACH"))?;
    let value = map.get(&0, 0).map_err(map_error("DETACH"))?;
    let remaining = Duration::from_nanos(value.until.saturating_sub(boot_time()));
    if remaining.is_zero() {
        return Ok(None);
    }
    let length = (value.reason_length as usize).min(DETACH_REASON);
    let reason = String::from_utf8_lossy(&value.reason[..length]).into_owned();
    Ok(Some(Detached { remaining: remaining.as_secs() + 1, uid: value.uid, reason }))
}

/// Whether agents pass unjudged at this moment because root has said so.
pub(super) fn is_detached(config: &KernelConfig) -> Result<bool, WitnessError> {
    let pins = Pins::new(config);
    Ok(pins.map("DETACH").exists() && detached(&pins)?.is_some())
}

/// An agent that is root must not open its own cage.
pub(super) fn refuse_agents(config: &KernelConfig) -> Result<(), WitnessError> {
    let own = cgroup::of_process("self").map_err(at("/proc/self/cgroup"))?;
    let uid = nix::unistd::getuid().as_raw();
    if uid != 0 {
        return Err(io_error("detach", "only root of this host may detach"));
    }
    if config.agent_uids.contains(&uid) || config.agents.iter().any(|agent| Path::new(&own).starts_with(agent)) {
        return Err(io_error("detach", "refused: this is an agent's process"));
    }
    Ok(())
}

/// What an operator should know and what does not stop the start.
fn warnings(config: &KernelConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.gateway_cgroup.as_deref() == Some("") {
        warnings.push(
            "the gateway runs in the root cgroup, so that any process there may bind its ports: run it as weir.service"
                .to_owned(),
        );
    }
    if let Ok(range) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        && let Some((first, last)) = parse_range(&range)
    {
        for port in [config.port, config.dns_port].into_iter().filter(|port| (first..=last).contains(port)) {
            warnings.push(format!(
                "port {port} lies in net.ipv4.ip_local_port_range: any process may be given it; choose one outside"
            ));
        }
    }
    warnings
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The cookie of a socket's network namespace.
pub(crate) fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(0);
    // SAFETY: the option is a u64, and that is what the pointer and the length say.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroups_path_is_the_kernels_or_is_refused() {
        let bytes = cgroup_path("agents.slice/x").unwrap();
        assert_eq!((&bytes[..16], bytes[16..].iter().all(|byte| *byte == 0)), (&b"/agents.slice/x\0"[..], true));
        let longest = "x".repeat(common::MAX_CGROUP_PATH - 2);
        assert_eq!(cgroup_path(&longest).map(|bytes| bytes[common::MAX_CGROUP_PATH - 2..] == *b"x\0"), Some(true));
        assert_eq!(cgroup_path(&format!("{longest}x")), None);
    }
}
