//! Programs that not every kernel takes.

/// What stands in where the kernel does not take a program, and what that leaves open.
pub(super) struct Substitute {
    pub(super) program: &'static str,
    pub(super) by: &'static str,
    pub(super) gap: &'static str,
}

pub(super) const SUBSTITUTES: [Substitute; 2] = [
    Substitute {
        program: "weir_egress",
        by: "weir_egress_by_socket",
        gap: "this kernel does not tell who sends a packet (6.12 does not, 6.18 does): a UDP socket that is connected, a ping socket or a raw one is \
             not stopped if an agent was handed it, or had it before it became one",
    },
    Substitute {
        program: "weir_sock_ops",
        by: "weir_sock_ops_by_note",
        gap: "this kernel does not show programs its structures (lockdown=confidentiality): others get in to an agent that listens on a \
             socket that it was handed, or had before it became one",
    },
];
