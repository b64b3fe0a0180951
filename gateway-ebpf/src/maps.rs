//! All maps, and the small helpers around them. Their sizes and layouts are in `gateway-common`.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_set_retval, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use gateway_common::{
    AGENT_SLOTS, COUNTERS, CgroupPath, Counter, Detach, DnsFlow, EVENT_BYTES, EVENTS_A_SECOND, Endpoint, Event,
    EventRate, Flow, Listen, MAX_AGENT_CGROUPS, MAX_AGENT_IDS, MAX_AGENT_UIDS, MAX_DNS_FLOWS, MAX_EVENT_RATES,
    MAX_LISTEN, MAX_NETNS, MAX_PENDING, Note, Resolvers, Settings, Subordinates, agent_slot,
};

use crate::agent::Task;

const BPF_MAP_TYPE_SK_STORAGE: usize = 24;
const BPF_F_NO_PREALLOC: usize = 1;
/// A socket accepted from a listener gets a copy of the listener's value.
const BPF_F_CLONE: usize = 1 << 9;

/// Socket storage with flags of our own: aya's has no BPF_F_CLONE, and takes only `bpf_sock_addr` contexts.
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: a definition for the loader; nobody dereferences the pointers.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T: 'static, const FLAGS: usize> SocketStorage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    #[inline(always)]
    fn storage(&self, sk: *mut c_void, first: *const T, flags: u64) -> Option<&'static mut T> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: the verifier has checked `sk` and `first`; the value lives as long as the socket, which outlives the program.
        unsafe { bpf_sk_storage_get(map, sk, first.cast_mut().cast(), flags).cast::<T>().as_mut() }
    }

    /// The socket's value, if it has one. `sk` is not null.
    #[inline(always)]
    pub fn get(&self, sk: *mut bpf_sock) -> Option<&'static mut T> {
        self.storage(sk.cast(), core::ptr::null(), 0)
    }

    /// The socket's value, a zeroed one if it had none.
    #[inline(always)]
    pub fn get_or_insert(&self, sk: *mut bpf_sock) -> Option<&'static mut T> {
        self.storage(sk.cast(), core::ptr::null(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    }

    /// The socket's value, this one if it had none. `sk` is not null.
    #[inline(always)]
    pub fn get_or_insert_as(&self, sk: *mut c_void, first: &T) -> Option<&'static mut T> {
        self.storage(sk, first, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    }
}

#[btf_map]
pub static NOTES: SocketStorage<Note, { BPF_F_NO_PREALLOC | BPF_F_CLONE }> = SocketStorage::new();
#[btf_map]
pub static RESOLVERS: SocketStorage<Resolvers, BPF_F_NO_PREALLOC> = SocketStorage::new();
/// Never an LRU: that would forget connects under way.
#[btf_map]
pub static PENDING: HashMap<Flow, Note, MAX_PENDING> = HashMap::new();
#[btf_map]
pub static DNS_FLOWS: LruHashMap<DnsFlow, Note, MAX_DNS_FLOWS> = LruHashMap::new();
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
pub static DETACH: Array<Detach, 1> = Array::new();
#[btf_map]
pub static AGENT_CGROUPS: HashMap<u64, u32, MAX_AGENT_IDS> = HashMap::new();
/// By [`agent_slot`]: 0 where no cgroup with that slot is an agent's.
#[btf_map]
pub static AGENT_FILTER: Array<u32, AGENT_SLOTS> = Array::new();
/// Paths of the same, for those that are made later; the number of the last that was, or 0.
#[btf_map]
pub static AGENT_PATHS: HashMap<CgroupPath, u64, MAX_AGENT_CGROUPS> = HashMap::new();
#[btf_map]
pub static AGENT_UIDS: HashMap<u32, u32, MAX_AGENT_UIDS> = HashMap::new();
/// Those that `Settings` counts, and zeros behind.
#[btf_map]
pub static SUBORDINATES: Array<Subordinates, 1> = Array::new();
/// Cookies of network namespaces: `NETNS_*`.
#[btf_map]
pub static NETNS: HashMap<u64, u32, MAX_NETNS> = HashMap::new();
/// Ports at which agents' servers may be reached by others.
#[btf_map]
pub static LISTEN: HashMap<Listen, u32, MAX_LISTEN> = HashMap::new();
#[btf_map]
pub static COUNTS: PerCpuArray<u64, COUNTERS> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
#[btf_map]
pub static EVENT_RATES: LruHashMap<u64, EventRate, MAX_EVENT_RATES> = LruHashMap::new();

/// Reads a context field once: merged loads of context fields do not pass the verifier.
macro_rules! field {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands the program a valid context.
        unsafe { (&raw const (*$context).$($field)+).read_volatile() }
    };
}
pub(crate) use field;

#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// Whether `weir detach` lets agents pass at this moment.
#[inline(always)]
pub fn detached() -> bool {
    // SAFETY: a helper without arguments.
    DETACH.get(0).is_some_and(|detach| detach.until != 0 && unsafe { bpf_ktime_get_boot_ns() } < detach.until)
}

/// The cgroup is an agent's. Most are none, and found out without a call.
#[inline(always)]
pub fn is_agents(cgroup_id: u64) -> bool {
    let may_be = AGENT_FILTER.get(agent_slot(cgroup_id)).is_none_or(|slot| *slot != 0);
    may_be && AGENT_CGROUPS.get_ptr(cgroup_id).is_some()
}

/// From now on it is, until the witness says otherwise.
#[inline(always)]
pub fn becomes_agents(cgroup_id: u64) {
    if let Some(slot) = AGENT_FILTER.get_ptr_mut(agent_slot(cgroup_id)) {
        // SAFETY: a value of the map, which nobody ever makes 0.
        unsafe { *slot = 1 };
    }
    let _ = AGENT_CGROUPS.insert(cgroup_id, 1, 0);
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTS.get_ptr_mut(counter as u32) {
        // SAFETY: the value belongs to this CPU.
        unsafe { *value += 1 };
    }
}

/// Refuses the system call with `errno`.
#[inline(always)]
pub fn refuse(counter: Counter, errno: i32) -> i32 {
    count(counter);
    // SAFETY: a helper with an integer.
    unsafe { bpf_set_retval(-errno) };
    0
}

/// Refuses, and tells user space who wanted what.
#[inline(always)]
pub fn refuse_loudly(counter: Counter, errno: i32, task: &Task, netns_cookie: u64, destination: Endpoint) -> i32 {
    report(counter, task, netns_cookie, destination);
    refuse(counter, errno)
}

/// Tells user space whom somebody tried to reach, and that it was in vain.
#[inline(always)]
pub fn report_inbound(server: &Note, from: Endpoint) {
    let task = Task { cgroup_id: server.socket_cgroup_id, pid: 0, uid: server.socket_uid, gid: 0 };
    report(Counter::DeniedInbound, &task, server.netns_cookie, from);
}

/// Puts an event into the ring buffer, a bounded number for each cgroup and second.
#[inline(always)]
pub fn report(counter: Counter, task: &Task, netns_cookie: u64, destination: Endpoint) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !within_rate(task.cgroup_id, now / 1_000_000_000) {
        return count(Counter::EventsDropped);
    }
    let Some(mut entry) = EVENTS.reserve(0) else { return count(Counter::EventsDropped) };
    entry.write(Event {
        note: Note {
            connected_at: now,
            cgroup_id: task.cgroup_id,
            socket_cgroup_id: 0,
            netns_cookie,
            pid: task.pid,
            uid: task.uid,
            gid: task.gid,
            flags: 0,
            destination,
            socket_uid: 0,
            started_at: 0,
        },
        reason: counter as u32,
        reserved: 0,
    });
    entry.submit(0);
}

#[inline(always)]
fn within_rate(cgroup_id: u64, second: u64) -> bool {
    if let Some(rate) = EVENT_RATES.get_ptr_mut(cgroup_id) {
        // SAFETY: the entry may be used again while we write; a wrong count costs an event, nothing else.
        let rate = unsafe { &mut *rate };
        if rate.second == second {
            rate.count += 1;
            return rate.count <= EVENTS_A_SECOND;
        }
    }
    EVENT_RATES.insert(cgroup_id, EventRate { second, count: 1 }, 0).is_ok()
}

/// What is known of a network namespace: `NETNS_*`.
#[inline(always)]
pub fn netns(cookie: u64) -> Option<u32> {
    // SAFETY: the value is one word, and a stale one is as good as one read a moment earlier.
    NETNS.get_ptr(cookie).map(|state| unsafe { *state })
}

/// The network namespace of the context's socket.
#[inline(always)]
pub fn netns_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: all programs that call this have a context that the helper takes.
    unsafe { aya_ebpf::helpers::generated::bpf_get_netns_cookie(ctx.as_ptr()) }
}
