//! A way through structures of the kernel that programs are not handed: cgroups of other tasks, cgroups that are being made, and the
//! current task itself, for which some programs have no helper. The places of the fields are the witness's to find out. The verifier
//! takes them for constants, and knows by the kernel's own types what lies there: what leads nowhere does not load.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use gateway_common::Places;

/// Levels that are climbed at most. Agents' cgroups lie higher up, but what they make below theirs may not.
const MAX_CLIMB: u32 = 64;

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

/// Where a structure has its field. Each is read by itself, and volatile: the compiler only sees the zeros.
macro_rules! place {
    ($field:ident) => {
        // SAFETY: a static.
        unsafe { (&raw const PLACES.$field).read_volatile() }
    };
}

/// Without places everything would be read at the wrong one. What is behind this is no part of a program that was loaded so.
#[inline(always)]
fn are_known() -> bool {
    place!(task_cred) != 0
}

/// The current task, where a program may ask for nothing but its address.
#[derive(Clone, Copy)]
pub struct Current(*const c_void);

impl Current {
    /// None where the witness could not find out the places.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        // SAFETY: a helper without arguments.
        are_known().then(|| Self(unsafe { bpf_get_current_task_btf() }.cast_const().cast()))
    }

    /// In the host's numbers.
    #[inline(always)]
    pub fn user(self) -> Option<u32> {
        pointer(self.0, place!(task_cred)).map(|cred| field(cred, place!(cred_uid)))
    }

    #[inline(always)]
    pub fn cgroup(self) -> Option<Cgroup> {
        Cgroup::of_task(self.0)
    }

    /// When its process began, in nanoseconds of CLOCK_BOOTTIME: with its number, that tells it from every other.
    #[inline(always)]
    pub fn started_at(self) -> Option<u64> {
        pointer(self.0, place!(task_leader)).map(|leader| field(leader, place!(task_start)))
    }
}

/// Address of a `struct cgroup`, and the verifier knows that it is one.
#[derive(Clone, Copy)]
pub struct Cgroup(*const c_void);

#[inline(always)]
fn field<T>(structure: *const c_void, place: u32) -> T {
    // SAFETY: the verifier lets the program load only if the field lies within the structure; one that is gone reads as zeros.
    unsafe { structure.byte_add(place as usize).cast::<T>().read_volatile() }
}

/// A field that leads on.
#[inline(always)]
fn pointer(structure: *const c_void, place: u32) -> Option<*const c_void> {
    let to: *const c_void = field(structure, place);
    (!to.is_null()).then_some(to)
}

/// How the way up from a cgroup ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Climb {
    Found,
    None,
    /// It is too deep down, or cannot be read.
    Unknown,
}

impl Cgroup {
    /// What a program is handed as one.
    pub fn new(address: *const c_void) -> Self {
        Self(address)
    }

    /// Of the task whose `struct task_struct` is there, in cgroup2's hierarchy.
    #[inline(always)]
    pub fn of_task(task: *const c_void) -> Option<Self> {
        if !are_known() {
            return None;
        }
        pointer(pointer(task, place!(task_cgroups))?, place!(css_set_cgroup)).map(Self)
    }

    /// Its number, as `bpf_get_current_cgroup_id` has it.
    #[inline(always)]
    pub fn id(self) -> Option<u64> {
        pointer(self.0, place!(cgroup_node)).map(|node| field(node, place!(node_id)))
    }

    /// Of cgroup2's hierarchy, and not of an older one, whose cgroups have the same numbers.
    #[inline(always)]
    pub fn is_of_cgroup2(self) -> bool {
        pointer(self.0, place!(cgroup_root)).is_some_and(|root| field::<i32>(root, place!(root_hierarchy)) == 0)
    }

    /// It is that cgroup, or below it.
    #[inline(always)]
    pub fn is_within(self, id: u64) -> bool {
        self.climb(|own| own == id) == Climb::Found
    }

    /// It is such a cgroup, or below one, or nobody can tell.
    #[inline(always)]
    pub fn may_have_above(self, is_such: impl Fn(u64) -> bool) -> bool {
        self.climb(is_such) != Climb::None
    }

    #[inline(always)]
    fn climb(self, is_such: impl Fn(u64) -> bool) -> Climb {
        // It leads to itself, too, and so the verifier trusts the first no more than the others: not each takes both at one place.
        let Some(mut cgroup) = pointer(self.0, place!(css_cgroup)) else { return Climb::Unknown };
        for _ in 0..MAX_CLIMB {
            let Some(id) = Self(cgroup).id() else { return Climb::Unknown };
            if is_such(id) {
                return Climb::Found;
            }
            let Some(above) = pointer(cgroup, place!(css_parent)) else { return Climb::None };
            let Some(above) = pointer(above, place!(css_cgroup)) else { return Climb::Unknown };
            cgroup = above;
        }
        Climb::Unknown
    }
}
