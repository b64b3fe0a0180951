//! A way through structures of the kernel that programs are not handed: cgroups of other tasks, cgroups that are being made, and the
//! current task itself, for which some programs have no helper. The places of the fields are the witness's to find out.

use aya_ebpf::helpers::{bpf_get_current_task, bpf_probe_read_kernel};
use gateway_common::Places;

/// Levels that are climbed at most. Agents' cgroups lie higher up, but what they make below theirs may not.
const MAX_CLIMB: u32 = 32;

/// Written by the loader, before any program can run.
#[unsafe(no_mangle)]
static PLACES: Places = Places {
    task_cgroups: 0,
    css_set_cgroup: 0,
    cgroup_node: 0,
    node_id: 0,
    css_parent: 0,
    css_cgroup: 0,
    cgroup_root: 0,
    root_hierarchy: 0,
    task_cred: 0,
    cred_uid: 0,
    task_leader: 0,
    task_start: 0,
};

/// The current task, where a program may ask for nothing but its address: cgroup and user.
#[inline(always)]
pub fn current() -> Option<(Cgroup, u32)> {
    let places = places();
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    // Without places everything would be read at the wrong one.
    if places.task_cred == 0 {
        return None;
    }
    let user = read(read(task, places.task_cred)?, places.cred_uid)?;
    Some((Cgroup::of_task(task)?, user))
}

/// When the current process began, in nanoseconds of CLOCK_BOOTTIME: with its number, that tells it from every other.
#[inline(always)]
pub fn started_at() -> Option<u64> {
    let places = places();
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    if places.task_leader == 0 {
        return None;
    }
    read(read(task, places.task_leader)?, places.task_start)
}

/// Address of a `struct cgroup`.
#[derive(Clone, Copy)]
pub struct Cgroup(u64);

#[inline(always)]
fn places() -> Places {
    // SAFETY: a static; volatile, since the compiler only sees the zeros.
    unsafe { (&raw const PLACES).read_volatile() }
}

/// Any address may be asked for: what cannot be read is an error.
#[inline(always)]
fn read<T>(structure: u64, offset: u32) -> Option<T> {
    let place = structure.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper itself checks what it reads.
    unsafe { bpf_probe_read_kernel(place) }.ok()
}

/// How the way up from a cgroup ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Climb {
    Found,
    None,
    TooDeep,
}

impl Cgroup {
    pub fn new(address: u64) -> Self {
        Self(address)
    }

    /// Of the task whose `struct task_struct` is there, in cgroup2's hierarchy.
    #[inline(always)]
    pub fn of_task(task: u64) -> Option<Self> {
        let places = places();
        let set = read::<u64>(task, places.task_cgroups)?;
        read(set, places.css_set_cgroup).map(Self)
    }

    /// Its number, as `bpf_get_current_cgroup_id` has it.
    #[inline(always)]
    pub fn id(self) -> Option<u64> {
        let places = places();
        if places.cgroup_node == 0 {
            return None;
        }
        read(read(self.0, places.cgroup_node)?, places.node_id)
    }

    /// Of cgroup2's hierarchy, and not of an older one, whose cgroups have the same numbers.
    #[inline(always)]
    pub fn is_of_cgroup2(self) -> bool {
        let places = places();
        let hierarchy =
            read::<u64>(self.0, places.cgroup_root).and_then(|root| read::<i32>(root, places.root_hierarchy));
        hierarchy == Some(0)
    }

    /// It is that cgroup, or below it.
    #[inline(always)]
    pub fn is_within(self, id: u64) -> bool {
        self.climb(|own| own == id) == Climb::Found
    }

    /// It is such a cgroup, or below one, or so deep down that nobody can tell.
    #[inline(always)]
    pub fn may_have_above(self, is_such: impl Fn(u64) -> bool) -> bool {
        self.climb(is_such) != Climb::None
    }

    #[inline(always)]
    fn climb(self, is_such: impl Fn(u64) -> bool) -> Climb {
        let places = places();
        let mut cgroup = self;
        for _ in 0..MAX_CLIMB {
            match cgroup.id() {
                Some(own) if is_such(own) => return Climb::Found,
                Some(_) => {}
                None => return Climb::None,
            }
            let above = read::<u64>(cgroup.0, places.css_parent).filter(|css| *css != 0);
            let Some(above) = above.and_then(|css| read(css, places.css_cgroup)) else { return Climb::None };
            cgroup = Self(above);
        }
        Climb::TooDeep
    }
}
