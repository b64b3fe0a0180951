//! A cgroup is being made that is an agent's by its path: it is one before anybody can see it, let alone enter it. When a slice is
//! stopped and started, its cgroup goes and another one comes, with another number.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::programs::BtfTracePointContext;
use gateway_common::{CgroupPath, MAX_CGROUP_PATH};

use crate::maps::{AGENT_CGROUPS, AGENT_PATHS, becomes_agents};
use crate::structures::Cgroup;

/// `cgroup_mkdir(struct cgroup *, const char *path)`.
#[inline(always)]
pub fn cgroup_mkdir(ctx: &BtfTracePointContext) -> i32 {
    let (cgroup, path): (*const c_void, *const u8) = (ctx.arg(0), ctx.arg(1));
    let cgroup = Cgroup::new(cgroup);
    let mut key: CgroupPath = [0; MAX_CGROUP_PATH];
    // SAFETY: the helper itself checks what it reads.
    if unsafe { bpf_probe_read_kernel_str_bytes(path, &mut key) }.is_err() {
        return 0;
    }
    let Some(last) = AGENT_PATHS.get_ptr_mut(key) else { return 0 };
    if cgroup.is_of_cgroup2()
        && let Some(id) = cgroup.id()
    {
        // The one before is gone: so there is room, however often that happens while no witness tidies up. An error means that
        // one did.
        // SAFETY: a value of the map; the kernel makes one cgroup at a time.
        let _ = AGENT_CGROUPS.remove(unsafe { last.replace(id) });
        becomes_agents(id);
    }
    0
}
