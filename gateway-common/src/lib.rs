//! Types that the kernel half and the user-space half share: the layout of every map's key and value, the counters, and
//! the few constants that both must agree on. Everything is `#[repr(C)]` without implicit padding, since the kernel
//! hashes and copies whole keys. A change of any layout here is a new [`LAYOUT`].
#![no_std]

/// Version of the maps' layout; names the pin directory, so that programs never meet maps of another shape.
pub const LAYOUT: u32 = 5;

/// Where the BPF LSM's programs read: `struct socket`'s `file` and `sk`, and `struct sock_common`'s `skc_family`, in bytes. A kernel
/// that has them elsewhere gets none of these programs.
pub const SOCKET_FILE: usize = 16;
pub const SOCKET_SK: usize = 24;
pub const SOCK_FAMILY: usize = 16;

/// Where programs find their way through kernel structures whose layout differs from kernel to kernel, in bytes. The witness reads
/// it from the running kernel's BTF; all zero where that does not tell.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// `struct task_struct`'s `cgroups`, and `struct css_set`'s `dfl_cgrp`: a task's cgroup.
    pub task_cgroups: u32,
    pub css_set_cgroup: u32,
    /// `struct cgroup`'s `kn`, and `struct kernfs_node`'s `id`: a cgroup's number.
    pub cgroup_node: u32,
    pub node_id: u32,
    /// `struct cgroup_subsys_state`'s `parent` and `cgroup`: the cgroup above. A cgroup begins with its own.
    pub css_parent: u32,
    pub css_cgroup: u32,
    /// `struct cgroup`'s `root`, and `struct cgroup_root`'s `hierarchy_id`: 0 is cgroup2's.
    pub cgroup_root: u32,
    pub root_hierarchy: u32,
    /// `struct task_struct`'s `cred`, and `struct cred`'s `uid`: a task's user, in the host's numbers.
    pub task_cred: u32,
    pub cred_uid: u32,
    /// `struct task_struct`'s `group_leader` and `start_boottime`: when a process began.
    pub task_leader: u32,
    pub task_start: u32,
}

/// Longest path of an agent's cgroup, with the slash that it begins with and the zero at its end: by it the kernel half knows one that is
/// being made.
pub const MAX_CGROUP_PATH: usize = 192;

/// Path of an agent's cgroup below the cgroup2 mount, with a leading slash, and zeros behind.
pub type CgroupPath = [u8; MAX_CGROUP_PATH];

/// cgroups of agents and of the gateway lie at most this deep below the cgroup2 root (which is level 0).
pub const MAX_LEVELS: u32 = 16;
pub const MAX_AGENT_CGROUPS: usize = 1024;
/// Numbers of those: the one that the witness found under a path, and the one that was made there since.
pub const MAX_AGENT_IDS: usize = 2 * MAX_AGENT_CGROUPS;
/// Slots of the map that says of most cgroups, for less than a look into a hash map costs, that they are no agent's.
pub const AGENT_SLOTS: usize = 1024;

/// A cgroup's slot there. It is taken before the cgroup's number becomes an agent's, and never given back.
#[expect(clippy::cast_possible_truncation, reason = "what is left of a division by 1024")]
pub const fn agent_slot(cgroup_id: u64) -> u32 {
    (cgroup_id % AGENT_SLOTS as u64) as u32
}
pub const MAX_AGENT_UIDS: usize = 1024;
/// Ranges of users that agents' users may become.
pub const MAX_SUBORDINATES: usize = 64;
pub const MAX_NETNS: usize = 1024;
/// Values of the map of network namespaces: the gateway listens there; it cannot, and says so. A namespace that is not in
/// the map has not been looked at yet.
pub const NETNS_SERVED: u32 = 1;
pub const NETNS_CLOSED: u32 = 2;
/// Ports at which servers of agents may be reached.
pub const MAX_LISTEN: usize = 4096;
/// Connects between SYN and accept; 192 bytes each, preallocated.
pub const MAX_PENDING: usize = 65_536;
/// Resolvers that one IPv4 socket may ask and still be told apart; one more takes the place of the oldest.
pub const MAX_RESOLVERS: usize = 8;
/// DNS queries whose origin is remembered, in least-recently-used order: read as soon as the query arrives.
pub const MAX_DNS_FLOWS: usize = 65_536;
/// Bytes of the ring buffer for denied events.
pub const EVENT_BYTES: usize = 256 * 1024;
/// Denied events a second and cgroup; the rest is only counted.
pub const EVENTS_A_SECOND: u64 = 20;
pub const MAX_EVENT_RATES: usize = 4096;

/// A rewritten IPv4 query goes to 127.64.0.0/24; the last byte is the resolver's number on its socket. IPv6 has only ::1.
pub const DNS_NETWORK: u32 = 0x7f40_0000;
pub const DNS_NETMASK: u32 = 0xffff_ff00;
pub const DNS_PORT: u16 = 53;

/// IPv4 connects to the gateway come from so many addresses, the first of which this is: each has a range of ports of its own
/// (28,232 by default). A power of two. IPv6 has only ::1.
pub const SOURCE_NETWORK: u32 = 0x7f41_0000;
pub const SOURCES: u32 = 16;

/// An IPv6 address, or an IPv4 address in its v4-mapped form; words as in the packet.
pub type Address = [u32; 4];

/// Third word of a v4-mapped address.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Address and port in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    /// IP protocol number.
    pub protocol: u16,
}

/// What the kernel notes on a socket: at `socket()` for every agent, filled at connect, carried to the accepted socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Nanoseconds of CLOCK_BOOTTIME.
    pub connected_at: u64,
    /// cgroup of the task that connected, and of the socket (0: made before the programs were attached).
    pub cgroup_id: u64,
    pub socket_cgroup_id: u64,
    pub netns_cookie: u64,
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// `NOTE_*`.
    pub flags: u32,
    pub destination: Endpoint,
    /// uid that made the socket.
    pub socket_uid: u32,
    /// When the process that connected began, in nanoseconds of CLOCK_BOOTTIME; 0: not known.
    pub started_at: u64,
}

/// Bytes that a note has in common with those of layouts since 4: fields are only added behind. So much of an open session's note
/// lives on in another layout.
pub const CARRIED_NOTE: usize = 72;

/// The destination was rewritten: getpeername answers with `destination`.
pub const NOTE_REDIRECTED: u32 = 1;
/// An agent listens on it, or it was accepted from such a socket.
pub const NOTE_LISTENING: u32 = 2;
/// The kernel put it on a socket that the gateway accepted.
pub const NOTE_ACCEPTED: u32 = 4;
/// `destination` is a resolver.
pub const NOTE_DNS: u32 = 8;
/// `destination` is a server of the same agent, to which it may connect by itself.
pub const NOTE_OWN: u32 = 16;

/// A connect under way, as both ends see it: the client's address first.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub client: Address,
    pub server: Address,
    pub client_port: u16,
    pub server_port: u16,
    pub reserved: u32,
    pub netns_cookie: u64,
}

/// A port at which an agent's server may be reached by others.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listen {
    /// The agent's user.
    pub uid: u32,
    pub port: u16,
    pub reserved: u16,
}

/// Whom to intercept and where to send it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The gateway's cgroup and its level; 0 while there is no gateway.
    pub gateway_cgroup: u64,
    pub gateway_level: u32,
    /// Bit n is set where an agent's cgroup lies at level n.
    pub agent_levels: u32,
    /// Whether any user is an agent.
    pub agent_uids: u32,
    pub port: u16,
    pub dns_port: u16,
    /// Not 0: what an agent sends first waits while nobody listens at these ports.
    pub hold_without_gateway: u32,
    /// How many [`Subordinates`] there are.
    pub subordinates: u32,
}

/// Users by their numbers: so many from the first on. Zeros are nobody, whatever programs of an earlier load are told of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UidRange {
    pub first: u32,
    pub count: u32,
}

/// Users that agents' users may become in user namespaces of their own, and that are therefore agents'.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subordinates {
    pub ranges: [UidRange; MAX_SUBORDINATES],
}

/// Longest reason that a detach keeps.
pub const DETACH_REASON: usize = 160;

/// `weir detach`: agents pass until then. The kernel compares, so that it ends without anyone's help.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detach {
    /// Nanoseconds of CLOCK_BOOTTIME; 0 is not detached.
    pub until: u64,
    pub uid: u32,
    pub reason_length: u32,
    pub reason: [u8; DETACH_REASON],
}

/// Where a DNS query came from, as the gateway's resolver sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsFlow {
    pub netns_cookie: u64,
    pub source: Address,
    /// Host order.
    pub source_port: u32,
    /// Last word of the address that it was sent to, which tells the resolvers of one IPv4 socket apart.
    pub destination: u32,
}

/// The resolvers that an IPv4 socket asked, by number: what recvmsg puts back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// As in the packet.
    pub address: [u32; MAX_RESOLVERS],
    /// Number of the next newcomer.
    pub next: u32,
    pub reserved: u32,
}

/// Something that an agent was refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    pub note: Note,
    /// A [`Counter`].
    pub reason: u32,
    pub reserved: u32,
}

/// Events of one cgroup in one second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EventRate {
    pub second: u64,
    pub count: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// What the programs count, for every CPU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant,)+ }

        /// Names for metrics and records, in the order of [`Counter`].
        pub const COUNTER_NAMES: &[&str] = &[$($name),+];
    };
}

counters! {
    /// TCP connects sent to the gateway.
    Redirected = "redirected",
    /// Connects to a loopback server of the same agent, left alone.
    OwnServer = "own_server",
    /// DNS queries or connected DNS sockets sent to the gateway's resolver.
    Dns = "dns",
    /// Connects let through by `weir detach`.
    Detached = "detached",
    DeniedUdp = "denied_udp",
    /// Connects of UDP sockets: libraries do it to learn a source address, so there is no event.
    DeniedUdpConnect = "denied_udp_connect",
    DeniedProtocol = "denied_protocol",
    /// Connects and queries that wait until the gateway listens in their network namespace.
    HeldNetns = "held_netns",
    /// Connects and queries that wait until there is a gateway again.
    HeldDown = "held_down",
    /// The gateway does not listen in that network namespace.
    DeniedNetns = "denied_netns",
    /// The note could not be made.
    DeniedNote = "denied_note",
    DeniedBind = "denied_bind",
    DeniedSocketOption = "denied_socket_option",
    /// A socket that no agent made was handed to one, or used by one.
    DeniedForeign = "denied_foreign",
    /// An agent wanted to trace a process that is not its own, or to reach into its memory or descriptors.
    DeniedTrace = "denied_trace",
    /// The second gate dropped a packet.
    DeniedEgress = "denied_egress",
    /// Somebody tried to get in to an agent.
    DeniedInbound = "denied_inbound",
    /// Too many connects under way: the gateway will reset this one.
    PendingFull = "pending_full",
    /// A connection reached the gateway's port and nothing was pending for it.
    Unattributed = "unattributed",
    /// Events that the rate limit or a full ring buffer cut.
    EventsDropped = "events_dropped",
}

pub const COUNTERS: usize = COUNTER_NAMES.len();

#[cfg(feature = "user")]
mod pod {
    use super::{Detach, DnsFlow, Event, EventRate, Flow, Listen, Note, Places, Resolvers, Settings, Subordinates};

    macro_rules! pod {
        ($($t:ty),+) => {
            $(
                // SAFETY: `#[repr(C)]`, only integers and arrays of them, no padding: every bit pattern is a value.
                unsafe impl aya::Pod for $t {}
            )+
        };
    }

    pod!(Note, Flow, Listen, Settings, Resolvers, Detach, DnsFlow, Event, EventRate, Places, Subordinates);
}

// No padding, so that no uninitialised byte is hashed or handed to user space.
const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Note>() == 80 && CARRIED_NOTE <= 80);
    assert!(size_of::<Flow>() == 48);
    assert!(size_of::<Listen>() == 8);
    assert!(size_of::<Settings>() == 32);
    assert!(size_of::<Subordinates>() == 8 * MAX_SUBORDINATES);
    assert!(size_of::<Detach>() == 16 + DETACH_REASON);
    assert!(size_of::<DnsFlow>() == 32);
    assert!(size_of::<Resolvers>() == 4 * MAX_RESOLVERS + 8);
    assert!(size_of::<Event>() == 88);
};
