//! What must come of each technique, for each kind of attacker.

use system_tests::env::Attacker;

use Must::{Blocked, Harmless, Intercepted, Open};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Must {
    /// The system call fails, with one of these.
    Blocked(&'static [&'static str]),
    /// The gateway has it: recorded, and refused by policy.
    Intercepted,
    /// It succeeds, and nothing leaves by it.
    Harmless,
    /// Neither the kernel nor Weir stops it: `weir doctor` names it, and a unit setting closes it.
    Open(&'static Door),
}

/// A way out that is found, not closed.
#[derive(Debug)]
pub(crate) struct Door {
    /// What `weir doctor` calls it.
    pub(crate) finding: &'static str,
    /// The settings of `weir-agent.conf` that close it.
    pub(crate) settings: &'static [&'static str],
    /// Packets leave by it.
    pub(crate) leaks: bool,
}

pub(crate) struct Row {
    pub(crate) technique: &'static str,
    user: Must,
    root: Must,
    container: Must,
    /// A user of this host who is no agent, where the technique is about what such a one may not.
    pub(crate) neighbour: Option<Must>,
}

impl Row {
    pub(crate) fn must(&self, attacker: Attacker) -> Must {
        match attacker {
            Attacker::User => self.user,
            Attacker::Root => self.root,
            Attacker::Container => self.container,
        }
    }
}

const fn row(technique: &'static str, user: Must, root: Must, container: Must) -> Row {
    Row { technique, user, root, container, neighbour: None }
}

pub(crate) const TABLE: &[Row] = &[
    row("tcp", Intercepted, Intercepted, Intercepted),
    row("tcp6", Intercepted, Intercepted, Intercepted),
    row("tcp_mapped", Intercepted, Intercepted, Intercepted),
    row("tcp_unspecified", Intercepted, Intercepted, Intercepted),
    row("tcp_unspecified6", Intercepted, Intercepted, Intercepted),
    row("tcp_loopback", Intercepted, Intercepted, Intercepted),
    row("tcp_loopback_other", Intercepted, Intercepted, Intercepted),
    row("tcp_link_local", Intercepted, Intercepted, Intercepted),
    row("tcp_broadcast", Intercepted, Intercepted, Intercepted),
    row("tcp_fast_open", Intercepted, Intercepted, Intercepted),
    row("tcp_fast_open_option", Intercepted, Intercepted, Intercepted),
    row("tcp_reconnect", Intercepted, Intercepted, Intercepted),
    row("tcp_reconnect_forked", Intercepted, Intercepted, Intercepted),
    row("tcp_bound_outside", Intercepted, Intercepted, Intercepted),
    row("tcp_bound_link_local", Intercepted, Intercepted, Intercepted),
    row("tcp_from_listener", Intercepted, Intercepted, Intercepted),
    row("mptcp", Intercepted, Intercepted, Intercepted),
    row("sctp", Intercepted, Intercepted, Intercepted),
    row("sctp_packets", Intercepted, Intercepted, Intercepted),
    row("dccp", Intercepted, Intercepted, Intercepted),
    row("smc", Intercepted, Intercepted, Intercepted),
    row("udp", Intercepted, Intercepted, Intercepted),
    row("udp6", Intercepted, Intercepted, Intercepted),
    row("udp_mapped", Intercepted, Intercepted, Intercepted),
    row("udp_link_local", Intercepted, Intercepted, Intercepted),
    row("udp_connected", Intercepted, Intercepted, Intercepted),
    row("udp6_connected", Intercepted, Intercepted, Intercepted),
    row("udp_quic", Intercepted, Intercepted, Intercepted),
    row("udp_unspecified_family", Intercepted, Intercepted, Intercepted),
    row("udp6_with_v4_address", Intercepted, Intercepted, Intercepted),
    row("udp6_connected_v4", Intercepted, Intercepted, Intercepted),
    row("udp_after_resolver", Intercepted, Intercepted, Intercepted),
    row("udp_corked", Intercepted, Intercepted, Intercepted),
    row("udp_packet_info", Intercepted, Intercepted, Intercepted),
    row("udp_source_route", Intercepted, Intercepted, Intercepted),
    row("udp_broadcast", Intercepted, Intercepted, Intercepted),
    row("udp_multicast", Intercepted, Intercepted, Intercepted),
    row("udp_multicast6", Intercepted, Intercepted, Intercepted),
    row("multicast_join", Intercepted, Intercepted, Intercepted),
    row("multicast_join6", Intercepted, Intercepted, Intercepted),
    row("udp_lite", Intercepted, Intercepted, Intercepted),
    row("l2tp", Intercepted, Intercepted, Intercepted),
    row("ping", Intercepted, Intercepted, Intercepted),
    row("ping_raw", Intercepted, Intercepted, Intercepted),
    row("raw", Intercepted, Intercepted, Intercepted),
    row("raw_header", Intercepted, Intercepted, Intercepted),
    row("raw6", Intercepted, Intercepted, Intercepted),
    row("packet", Intercepted, Intercepted, Intercepted),
    row("packet_cooked", Intercepted, Intercepted, Intercepted),
    row("packet_old", Intercepted, Intercepted, Intercepted),
    row("xdp", Intercepted, Intercepted, Intercepted),
    row("option_device", Intercepted, Intercepted, Intercepted),
    row("option_device_index", Intercepted, Intercepted, Intercepted),
    row("option_mark", Intercepted, Intercepted, Intercepted),
    row("option_transparent", Intercepted, Intercepted, Intercepted),
    row("option_free_bind", Intercepted, Intercepted, Intercepted),
    row("option_unicast_interface", Intercepted, Intercepted, Intercepted),
    row("option_source_route", Intercepted, Intercepted, Intercepted),
    row("option_repair", Intercepted, Intercepted, Intercepted),
    row("steal_port", Intercepted, Intercepted, Intercepted),
    row("steal_port_address", Intercepted, Intercepted, Intercepted),
    row("steal_port_any", Intercepted, Intercepted, Intercepted),
    row("steal_port_other", Intercepted, Intercepted, Intercepted),
    row("steal_port_mptcp", Intercepted, Intercepted, Intercepted),
    row("steal_resolver_port", Intercepted, Intercepted, Intercepted),
    row("gateway_port", Intercepted, Intercepted, Intercepted),
    row("uring_connect", Intercepted, Intercepted, Intercepted),
    row("uring_connect_polled", Intercepted, Intercepted, Intercepted),
    row("uring_socket", Intercepted, Intercepted, Intercepted),
    row("uring_socket_raw", Intercepted, Intercepted, Intercepted),
    row("uring_send_to", Intercepted, Intercepted, Intercepted),
    row("uring_send_to_polled", Intercepted, Intercepted, Intercepted),
    row("uring_send_message", Intercepted, Intercepted, Intercepted),
    row("handed_tcp", Intercepted, Intercepted, Intercepted),
    row("handed_tcp_connected", Intercepted, Intercepted, Intercepted),
    row("handed_udp", Intercepted, Intercepted, Intercepted),
    row("handed_udp_connected", Intercepted, Intercepted, Intercepted),
    row("handed_ping", Intercepted, Intercepted, Intercepted),
    row("handed_raw", Intercepted, Intercepted, Intercepted),
    row("handed_reconnect", Intercepted, Intercepted, Intercepted),
    row("moved_tcp", Intercepted, Intercepted, Intercepted),
    row("moved_tcp_connected", Intercepted, Intercepted, Intercepted),
    row("moved_udp", Intercepted, Intercepted, Intercepted),
    row("moved_udp_connected", Intercepted, Intercepted, Intercepted),
    row("take_from_gateway", Intercepted, Intercepted, Intercepted),
    row("take_from_witness", Intercepted, Intercepted, Intercepted),
    row("take_from_accomplice", Intercepted, Intercepted, Intercepted),
    row("admin_socket", Intercepted, Intercepted, Intercepted),
    row("ptrace_gateway", Intercepted, Intercepted, Intercepted),
    row("ptrace_witness", Intercepted, Intercepted, Intercepted),
    row("memory_gateway", Intercepted, Intercepted, Intercepted),
    row("memory_witness", Intercepted, Intercepted, Intercepted),
    row("memory_file_gateway", Intercepted, Intercepted, Intercepted),
    row("bpf_program", Intercepted, Intercepted, Intercepted),
    row("bpf_map", Intercepted, Intercepted, Intercepted),
    row("bpf_program_by_id", Intercepted, Intercepted, Intercepted),
    row("pinned_settings", Intercepted, Intercepted, Intercepted),
    row("kernel_key", Intercepted, Intercepted, Intercepted),
    row("tun", Intercepted, Intercepted, Intercepted),
    row("vsock", Intercepted, Intercepted, Intercepted),
    row("netlink_route", Intercepted, Intercepted, Intercepted),
    row("alg", Intercepted, Intercepted, Intercepted),
    row("cgroup_leave", Intercepted, Intercepted, Intercepted),
    row("cgroup_leave_root", Intercepted, Intercepted, Intercepted),
    row("cgroup_fork_outside", Intercepted, Intercepted, Intercepted),
    row("cgroup_below", Intercepted, Intercepted, Intercepted),
    row("user_namespace", Intercepted, Intercepted, Intercepted),
    row("user_namespace_packet", Intercepted, Intercepted, Intercepted),
    row("user_namespace_device", Intercepted, Intercepted, Intercepted),
    row("user_namespace_cgroup", Intercepted, Intercepted, Intercepted),
    row("network_namespace", Intercepted, Intercepted, Intercepted),
    row("network_namespace_packet", Intercepted, Intercepted, Intercepted),
    row("host_network_namespace", Intercepted, Intercepted, Intercepted),
    row("process_namespace", Intercepted, Intercepted, Intercepted),
    row("setuid", Intercepted, Intercepted, Intercepted),
    row("setuid_tcp", Intercepted, Intercepted, Intercepted),
    row("bind_shell", Intercepted, Intercepted, Intercepted),
    row("bind_shell6", Intercepted, Intercepted, Intercepted),
    row("bind_shell_address", Intercepted, Intercepted, Intercepted),
    row("bind_shell_loopback", Intercepted, Intercepted, Intercepted),
    row("bind_shell_unbound", Intercepted, Intercepted, Intercepted),
    row("bind_shell_fast_open", Intercepted, Intercepted, Intercepted),
    row("bind_shell_udp", Intercepted, Intercepted, Intercepted),
];
