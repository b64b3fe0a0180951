//! What must come of each technique, for each kind of attacker.

use system_tests::env::Attacker;

use Must::{Blocked, Harmless, Intercepted, Mute, Open, Shut, Turned};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Must {
    /// The system call fails, with one of these.
    Blocked(&'static [&'static str]),
    /// The gateway hears it and refuses it in its own words.
    Turned,
    /// The gateway has it: recorded, and refused by policy.
    Intercepted,
    /// Refused somewhere, by whatever comes first.
    Shut,
    /// It succeeds, and nothing leaves by it.
    Harmless,
    /// The kernel lets somebody in by itself, and the agent cannot say a word to them.
    Mute,
    /// Neither the kernel nor Weir stops it: `weir doctor` names it, and a unit setting closes it.
    Open(&'static Door),
}

/// A way out that is found, not closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    /// What `weir doctor` calls it.
    pub(crate) finding: &'static str,
    /// The settings of `weir-agent.conf` that close it, which the finding's advice names.
    pub(crate) settings: &'static [&'static str],
    /// What else the advice names: what a drop-in for all agents cannot have.
    pub(crate) advice: &'static [&'static str],
    /// Packets leave by it.
    pub(crate) leaks: bool,
}

/// As if nobody listened there: programs fall back, or give up at once.
const REFUSED: Must = Blocked(&["ECONNREFUSED"]);
const FORBIDDEN: Must = Blocked(&["EPERM", "EACCES"]);
/// The same, or not to be seen from there (the container), or not there (a dead gateway).
const HIDDEN: Must = Blocked(&["EPERM", "EACCES", "ESRCH", "ENOENT"]);
const READ_ONLY: Must = Blocked(&["EROFS"]);
/// Not allowed to agents, or not in this kernel.
const UNSUPPORTED: Must = Blocked(&["EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EAFNOSUPPORT"]);
/// The second gate drops it: a connect that nobody answers.
const DROPPED: Must = Blocked(&["EINPROGRESS", "ETIMEDOUT"]);
/// What is said on a connection is dropped on its way, and nobody answers.
const UNANSWERED: Must = Blocked(&["EAGAIN"]);
/// It waits in the backlog of a listener that somebody holds until the next gateway comes.
const WAITS: Must = Blocked(&["EAGAIN"]);
/// Not allowed to agents, or not in this kernel's rings (before 6.7).
const NO_COMMAND: Must = Blocked(&["EPERM", "EINVAL", "EOPNOTSUPP"]);
/// A server to which nobody comes.
const NOBODY: Must = Blocked(&["ETIMEDOUT"]);
/// A network of its own, which leads nowhere.
const NO_WAY: Must = Blocked(&["ENETDOWN", "ENXIO", "EPERM"]);
/// No program on this host answers the kernel's question.
const NO_HELPER: Must = Blocked(&["ENOENT", "ENOKEY"]);

const fn door(finding: &'static str, settings: &'static [&'static str], leaks: bool) -> Door {
    Door { finding, settings, advice: &[], leaks }
}

const fn beside(advice: &'static [&'static str], door: Door) -> Door {
    Door { advice, ..door }
}

/// A connection that somebody outside made and handed in, or that was made before the process became an agent.
const CONNECTED: Door = beside(&["restart it", "lsm="], door("connections", &[], true));
/// A server that was one already when it came into the agent's hands: the kernel hears nothing of its new owner.
const LISTENING: Door = beside(&["restart it", "Sockets=", "lsm="], door("listeners", &[], true));
const CAPABILITIES: Door = beside(&["User="], door("capabilities", &["CapabilityBoundingSet="], true));
/// Who owns the cgroup files leaves by writing to one, or, where they are mounted read-only, by clone3(2).
const CGROUP_FILES: Door =
    beside(&["User="], door("cgroup files", &["ProtectControlGroups=yes", "RestrictNamespaces=yes"], true));
const FAMILIES: Door = door("socket families", &["RestrictAddressFamilies="], false);
/// Whose user's processes outside are in its hands is as good as they are. The agents' own user's are agents themselves; root's are not.
const TRACED: Door = beside(&["User=", "lsm="], door("traced", &["SystemCallFilter="], false));
/// The same by a file, which no filter of system calls tells from others: the unit's User= closes that.
const TRACED_BY_FILE: Door = beside(&["User=", "lsm="], door("traced", &[], false));
const PRIVILEGES: Door = door("new privileges", &["NoNewPrivileges=yes"], true);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) technique: &'static str,
    user: Must,
    root: Must,
    container: Must,
    /// A user of this host who is no agent, where the technique is about what such a one may not.
    pub(crate) neighbour: Option<Must>,
}

impl Row {
    /// `lsm`: the kernel has the BPF LSM, and Weir's programs on it are in effect.
    pub(crate) fn must(&self, attacker: Attacker, lsm: bool) -> Must {
        let closed = CLOSED_BY_LSM.iter().find(|(technique, _)| lsm && *technique == self.technique);
        match (closed, attacker) {
            // Nobody has one to hand over: Linux 7.3 has no UDP-Lite any more.
            _ if self.technique.starts_with("handed_udp_lite") && !has_protocol("UDP-Lite") => UNSUPPORTED,
            (Some((_, must)), _) => *must,
            (None, _) if self.technique == "handed_sctp" && has_protocol("SCTP") => Open(&CONNECTED),
            // By a packet socket in a namespace of its own.
            (None, _) if lsm && self.technique.contains("_packets_") => NO_FAMILY,
            (None, Attacker::User) => self.user,
            (None, Attacker::Root) => self.root,
            (None, Attacker::Container) => self.container,
        }
    }
}

/// As the kernel calls it.
fn has_protocol(name: &str) -> bool {
    let protocols = std::fs::read_to_string("/proc/thread-self/net/protocols").unwrap();
    protocols.lines().any(|line| line.split(' ').next() == Some(name))
}

/// The descriptor does not arrive: the message says that something was cut off (MSG_CTRUNC, which nix calls ENOBUFS).
const NOT_HANDED: Must = Blocked(&["ENOBUFS"]);
const NO_FAMILY: Must = Blocked(&["EAFNOSUPPORT"]);

/// What the layer on the BPF LSM stops, or stops earlier than others would, whoever tries: `cargo xtask test kernels --all` sees it
/// for every kind of attacker.
const CLOSED_BY_LSM: &[(&str, Must)] = &[
    ("handed_tcp", NOT_HANDED),
    ("handed_tcp_connected", NOT_HANDED),
    ("handed_udp", NOT_HANDED),
    ("handed_udp_connected", NOT_HANDED),
    ("handed_ping", NOT_HANDED),
    ("handed_raw", NOT_HANDED),
    ("handed_reconnect", NOT_HANDED),
    ("handed_mptcp", NOT_HANDED),
    ("handed_udp_lite", NOT_HANDED),
    ("handed_udp_lite_connected", NOT_HANDED),
    ("handed_sctp", Blocked(&["ENOBUFS", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT"])),
    ("handed_bind_shell", NOT_HANDED),
    ("handed_bind_shell_unbound", NOT_HANDED),
    ("handed_mptcp_bind_shell", NOT_HANDED),
    ("handed_listening", NOT_HANDED),
    ("moved_listening", Mute),
    ("moved_tcp_connected", FORBIDDEN),
    ("moved_udp", FORBIDDEN),
    ("ptrace_kin", HIDDEN),
    ("memory_kin", HIDDEN),
    ("memory_file_kin", HIDDEN),
    ("take_from_kin", HIDDEN),
    ("packet", NO_FAMILY),
    ("packet_cooked", NO_FAMILY),
    ("packet_old", NO_FAMILY),
    ("xdp", NO_FAMILY),
    ("user_namespace_packet", NO_FAMILY),
    ("network_namespace_packet", NO_FAMILY),
    ("setuid", NO_FAMILY),
    ("vsock", NO_FAMILY),
];

const fn row(technique: &'static str, user: Must, root: Must, container: Must) -> Row {
    Row { technique, user, root, container, neighbour: None }
}

const fn all(technique: &'static str, must: Must) -> Row {
    row(technique, must, must, must)
}

const fn for_neighbours_too(row: Row, must: Must) -> Row {
    Row { neighbour: Some(must), ..row }
}

pub(crate) const TABLE: &[Row] = &[
    all("tcp", Intercepted),
    all("tcp6", Intercepted),
    all("tcp_mapped", Intercepted),
    all("tcp_unspecified", Intercepted),
    all("tcp_unspecified6", Intercepted),
    all("tcp_loopback", Intercepted),
    all("tcp_loopback_other", Intercepted),
    all("tcp_link_local", Intercepted),
    all("tcp_broadcast", Intercepted),
    all("tcp_multicast", Intercepted),
    all("tcp_fast_open", Intercepted),
    all("tcp6_fast_open", Intercepted),
    all("tcp_fast_open_option", Intercepted),
    all("tcp6_fast_open_option", Intercepted),
    all("tcp_reconnect", Intercepted),
    all("tcp_reconnect_forked", Intercepted),
    all("tcp_bound_outside", Intercepted),
    all("tcp6_bound_outside", Intercepted),
    all("tcp_bound_link_local", DROPPED),
    all("tcp_from_listener", Intercepted),
    all("mptcp", UNSUPPORTED),
    all("sctp", UNSUPPORTED),
    all("sctp_packets", UNSUPPORTED),
    all("dccp", UNSUPPORTED),
    all("smc", UNSUPPORTED),
    all("udp", REFUSED),
    all("udp6", REFUSED),
    all("udp_mapped", REFUSED),
    all("udp_link_local", REFUSED),
    all("udp_unspecified", REFUSED),
    all("udp_unspecified6", REFUSED),
    all("udp_connected", REFUSED),
    all("udp6_connected", REFUSED),
    all("udp_quic", REFUSED),
    all("udp_unspecified_family", REFUSED),
    all("udp6_with_v4_address", REFUSED),
    all("udp6_connected_v4", REFUSED),
    all("udp_after_resolver", REFUSED),
    all("udp_corked", Harmless),
    all("udp_packet_info", FORBIDDEN),
    all("udp6_packet_info", FORBIDDEN),
    all("udp_source_route", FORBIDDEN),
    all("udp_broadcast", REFUSED),
    all("udp_multicast", REFUSED),
    all("udp_multicast6", REFUSED),
    all("multicast_join", FORBIDDEN),
    all("multicast_join6", FORBIDDEN),
    all("udp_lite", UNSUPPORTED),
    all("l2tp", UNSUPPORTED),
    all("ping", FORBIDDEN),
    all("ping_raw", FORBIDDEN),
    all("ping6", FORBIDDEN),
    all("ping6_raw", FORBIDDEN),
    all("raw", FORBIDDEN),
    all("raw_header", FORBIDDEN),
    all("raw6", FORBIDDEN),
    all("raw6_header", FORBIDDEN),
    row("packet", FORBIDDEN, FORBIDDEN, Open(&CAPABILITIES)),
    row("packet_cooked", FORBIDDEN, FORBIDDEN, Open(&CAPABILITIES)),
    row("packet_old", FORBIDDEN, FORBIDDEN, Open(&CAPABILITIES)),
    all("xdp", FORBIDDEN),
    // Where a kernel has them, `weir doctor` finds those who may make them ("socket families"): no kernel here has.
    all("pppoe", UNSUPPORTED),
    all("tipc", UNSUPPORTED),
    all("rds", UNSUPPORTED),
    all("rxrpc", UNSUPPORTED),
    all("dns_udp", Turned),
    all("dns_udp6", Turned),
    all("dns_udp_mapped", Turned),
    all("dns_udp_connected", Turned),
    all("dns_tcp", Turned),
    all("dns_tcp6", Turned),
    all("dns_long_labels", Turned),
    all("dns_text", Turned),
    all("dns_rare_type", Turned),
    all("dns_private_type", Turned),
    all("dns_trailing_bytes", Turned),
    all("dns_no_query", Turned),
    all("dns_other_port", REFUSED),
    all("dns_quic", REFUSED),
    all("dns_tls", Intercepted),
    all("dns_tls6", Intercepted),
    all("dns_https", Intercepted),
    all("dns_https6", Intercepted),
    all("dns_http", Intercepted),
    all("option_device", FORBIDDEN),
    all("option_device_index", FORBIDDEN),
    all("option_mark", FORBIDDEN),
    all("option_transparent", FORBIDDEN),
    all("option_free_bind", FORBIDDEN),
    all("option_unicast_interface", FORBIDDEN),
    all("option_source_route", FORBIDDEN),
    all("option_repair", FORBIDDEN),
    all("option_device6", FORBIDDEN),
    all("option_mark6", FORBIDDEN),
    all("option_transparent6", FORBIDDEN),
    all("option_free_bind6", FORBIDDEN),
    all("option_unicast_interface6", FORBIDDEN),
    all("option_route_header6", FORBIDDEN),
    all("option_packet_info6", Intercepted),
    for_neighbours_too(all("steal_port", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_address", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_any", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_other", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_mptcp", UNSUPPORTED), FORBIDDEN),
    for_neighbours_too(all("steal_port6", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_any6", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_resolver_port", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_resolver_port6", FORBIDDEN), FORBIDDEN),
    all("gateway_port", Intercepted),
    all("gateway_port6", Intercepted),
    for_neighbours_too(all("resolver_port", REFUSED), REFUSED),
    for_neighbours_too(all("resolver_port6", REFUSED), REFUSED),
    for_neighbours_too(all("resolver_port_mapped", REFUSED), REFUSED),
    for_neighbours_too(all("resolver_port_connected", REFUSED), REFUSED),
    for_neighbours_too(all("resolver_port_connected6", REFUSED), REFUSED),
    for_neighbours_too(all("resolver_port_unspecified6", REFUSED), REFUSED),
    all("uring_connect", Intercepted),
    all("uring_connect_polled", Intercepted),
    all("uring_socket", Intercepted),
    all("uring_socket_raw", FORBIDDEN),
    all("uring_option", NO_COMMAND),
    all("uring_send_to", REFUSED),
    all("uring_send_to_polled", REFUSED),
    all("uring_send_message", REFUSED),
    all("handed_tcp", Intercepted),
    all("handed_tcp_connected", Open(&CONNECTED)),
    all("handed_udp", REFUSED),
    all("handed_udp_connected", FORBIDDEN),
    all("handed_ping", FORBIDDEN),
    all("handed_raw", FORBIDDEN),
    all("handed_reconnect", Intercepted),
    all("handed_mptcp", Shut),
    all("handed_udp_lite", REFUSED),
    all("handed_udp_lite_connected", FORBIDDEN),
    all("handed_sctp", UNSUPPORTED),
    all("handed_bind_shell", NOBODY),
    all("handed_bind_shell_unbound", NOBODY),
    all("handed_mptcp_bind_shell", NOBODY),
    all("handed_listening", Open(&LISTENING)),
    all("moved_tcp", Intercepted),
    all("moved_tcp_connected", Open(&CONNECTED)),
    all("moved_udp", REFUSED),
    all("moved_udp_connected", FORBIDDEN),
    all("moved_ping", FORBIDDEN),
    // Only the container's root may have one to begin with.
    all("moved_raw", FORBIDDEN),
    all("moved_bind_shell", NOBODY),
    all("moved_listening", Open(&LISTENING)),
    for_neighbours_too(all("take_from_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("take_from_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("take_from_usher", HIDDEN), HIDDEN),
    all("take_from_accomplice", HIDDEN),
    row("admin_socket", FORBIDDEN, Turned, Turned),
    for_neighbours_too(all("ptrace_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_file_gateway", HIDDEN), HIDDEN),
    row("ptrace_kin", Harmless, Open(&TRACED), HIDDEN),
    row("memory_kin", Harmless, Open(&TRACED), HIDDEN),
    row("memory_file_kin", Harmless, Open(&TRACED_BY_FILE), HIDDEN),
    row("take_from_kin", Harmless, Open(&TRACED), HIDDEN),
    all("ptrace_child", Harmless),
    for_neighbours_too(all("memory_file_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_file_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("witness_socket", HIDDEN), HIDDEN),
    for_neighbours_too(all("witness_socket_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("witness_socket_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("bpf_program", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("bpf_map", FORBIDDEN), FORBIDDEN),
    all("bpf_program_by_id", FORBIDDEN),
    for_neighbours_too(all("pinned_settings", HIDDEN), FORBIDDEN),
    all("kernel_key", NO_HELPER),
    all("tun", FORBIDDEN),
    all("tap", FORBIDDEN),
    all("vsock", Open(&FAMILIES)),
    all("netlink_route", FORBIDDEN),
    all("alg", UNSUPPORTED),
    row("cgroup_leave", FORBIDDEN, Open(&CGROUP_FILES), READ_ONLY),
    row("cgroup_leave_root", FORBIDDEN, Open(&CGROUP_FILES), READ_ONLY),
    row("cgroup_fork_outside", FORBIDDEN, Open(&CGROUP_FILES), Open(&CGROUP_FILES)),
    row("cgroup_below", Intercepted, FORBIDDEN, READ_ONLY),
    all("user_namespace", Intercepted),
    all("user_namespace_packet", FORBIDDEN),
    all("user_namespace_device", FORBIDDEN),
    row("user_namespace_cgroup", Intercepted, FORBIDDEN, Intercepted),
    all("mount_namespace", Intercepted),
    all("cgroup_namespace", Intercepted),
    all("network_namespace", Intercepted),
    all("network_namespace_packet", NO_WAY),
    all("host_network_namespace", FORBIDDEN),
    all("process_namespace", Intercepted),
    row("setuid", Open(&PRIVILEGES), FORBIDDEN, Open(&CAPABILITIES)),
    all("setuid_tcp", Intercepted),
    all("bind_shell", NOBODY),
    all("bind_shell6", NOBODY),
    all("bind_shell_address", NOBODY),
    all("bind_shell_loopback", NOBODY),
    all("bind_shell_unbound", NOBODY),
    all("bind_shell_fast_open", NOBODY),
    all("bind_shell_udp", NOBODY),
];

/// The supervisor of a gateway that can be replaced, in the gateway's place.
pub(crate) const SUPERVISOR: &[Row] = &[
    for_neighbours_too(all("take_from_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("memory_file_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("witness_socket_gateway", HIDDEN), HIDDEN),
];

/// While one gateway has left and the next has not come: it has sessions, holds the listeners, and offers what it has to whoever it
/// takes for the next.
pub(crate) const AT_A_RESTART: &[Row] = &[
    for_neighbours_too(row("handover_socket", FORBIDDEN, FORBIDDEN, Shut), FORBIDDEN),
    for_neighbours_too(row("handover_socket_as_gateway", FORBIDDEN, FORBIDDEN, Shut), FORBIDDEN),
    for_neighbours_too(all("steal_port", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_address", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_any", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_other", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_mptcp", UNSUPPORTED), FORBIDDEN),
    for_neighbours_too(all("steal_port6", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_port_any6", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_resolver_port", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("steal_resolver_port6", FORBIDDEN), FORBIDDEN),
    for_neighbours_too(all("take_from_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("take_from_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("take_from_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_gateway", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_witness", HIDDEN), HIDDEN),
    for_neighbours_too(all("ptrace_usher", HIDDEN), HIDDEN),
    for_neighbours_too(all("witness_socket", HIDDEN), HIDDEN),
    all("tcp", WAITS),
    all("tcp6", WAITS),
    all("udp", REFUSED),
    all("dns_udp", WAITS),
];

/// Of a process that is in the agents' cgroup before the programs are attached for the first time.
pub(crate) const BEFORE: &[Row] = &[
    all("before_tcp", Intercepted),
    all("before_tcp_connected", UNANSWERED),
    all("before_udp", REFUSED),
    all("before_udp_connected", FORBIDDEN),
    all("before_ping", FORBIDDEN),
    all("before_bind_shell", NOBODY),
];

/// What leads out where nothing stops it, whoever tries: otherwise its row would say nothing. That a kernel or a missing
/// capability stops the others by itself is as it should be.
pub(crate) const LEAD_OUT: &[&str] = &[
    "tcp",
    "tcp6",
    "tcp_mapped",
    "tcp_link_local",
    "tcp_fast_open",
    "tcp6_fast_open",
    "tcp_fast_open_option",
    "tcp_reconnect",
    "tcp_reconnect_forked",
    "tcp_bound_outside",
    "tcp6_bound_outside",
    "tcp_from_listener",
    "mptcp",
    "udp",
    "udp6",
    "udp_mapped",
    "udp_link_local",
    "udp_connected",
    "udp6_connected",
    "udp_quic",
    "udp_unspecified_family",
    "udp6_with_v4_address",
    "udp6_connected_v4",
    "udp_after_resolver",
    "udp_corked",
    "udp_packet_info",
    "udp6_packet_info",
    "udp_broadcast",
    "udp_multicast",
    "udp_multicast6",
    "udp_lite",
    "ping",
    "ping6",
    "dns_udp",
    "dns_udp6",
    "dns_tcp",
    "dns_tcp6",
    "dns_tls",
    "dns_tls6",
    "dns_https",
    "dns_https6",
    "dns_http",
    "option_device",
    "option_device6",
    "option_free_bind",
    "option_unicast_interface",
    "option_packet_info6",
    "uring_connect",
    "uring_connect_polled",
    "uring_socket",
    "uring_send_to",
    "uring_send_message",
    "handed_tcp",
    "handed_udp",
    "handed_ping",
    "handed_raw",
    "handed_reconnect",
    "handed_mptcp",
    "handed_udp_lite",
    "handed_bind_shell",
    "handed_bind_shell_unbound",
    "handed_mptcp_bind_shell",
    "moved_tcp",
    "moved_udp",
    "moved_ping",
    "moved_bind_shell",
    "user_namespace",
    "mount_namespace",
    "cgroup_namespace",
    "process_namespace",
    "setuid_tcp",
];

/// What a network stack in user space answers when it may not send.
const UNREACHABLE: Must = Blocked(&["EHOSTUNREACH", "ETIMEDOUT"]);

/// Network stacks in user space, which Debian's packages slirp4netns and passt have: not in the virtual machines of suite
/// `kernels`, and so a table of its own.
pub(crate) const USER_MODE: &[Row] = &[
    all("slirp_tcp", Intercepted),
    all("slirp_udp", REFUSED),
    all("slirp_packets_tcp", Intercepted),
    all("slirp_packets_loopback", Intercepted),
    all("slirp_packets_udp", UNREACHABLE),
    all("slirp_packets_dns", Turned),
    all("slirp_packets_dns_own", Turned),
    all("slirp_packets_ping", UNREACHABLE),
    all("pasta_tcp", Intercepted),
    all("pasta_udp", REFUSED),
    all("pasta_packets_tcp", Intercepted),
    all("pasta_packets_tcp6", Intercepted),
    all("pasta_packets_loopback", Intercepted),
    all("pasta_packets_udp", UNREACHABLE),
    all("pasta_packets_udp6", UNREACHABLE),
    all("pasta_packets_dns", Turned),
    all("pasta_packets_ping", UNREACHABLE),
    all("passt_tcp", Intercepted),
    all("passt_tcp6", Intercepted),
    all("passt_loopback", Intercepted),
    all("passt_udp", UNREACHABLE),
    all("passt_udp6", UNREACHABLE),
    all("passt_dns", Turned),
    all("passt_ping", UNREACHABLE),
];
