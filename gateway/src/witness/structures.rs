//! Where the running kernel's structures have their fields, by its own description of its types (BTF). Rust has no relocations for
//! that: programs read at places that were compared with these, or are told them as they are loaded.

use std::fs;

use gateway_common::Places;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Each structure has the member at that place, in bytes.
pub(super) fn check(expected: &[(&str, &str, usize)]) -> Result<(), String> {
    let btf = read()?;
    for &(structure, member, expected) in expected {
        let found = offset_of(&btf, structure, member);
        if found != Some(expected) {
            return Err(format!("this kernel has {structure}.{member} at {found:?}, not at {expected}"));
        }
    }
    Ok(())
}

/// The way from a task to its cgroup, and from that to those above it, to its user, and to when it began.
pub(super) fn places() -> Result<Places, String> {
    let btf = read()?;
    let place = |structure: &str, member: &str| {
        let offset = offset_of(&btf, structure, member).and_then(|offset| u32::try_from(offset).ok());
        offset.ok_or_else(|| format!("{BTF} has no {structure}.{member}"))
    };
    // So the one pointer is as good as the other.
    if place("cgroup", "self")? != 0 {
        return Err("this kernel's cgroups do not begin with their own state".to_owned());
    }
    Ok(Places {
        task_cgroups: place("task_struct", "cgroups")?,
        css_set_cgroup: place("css_set", "dfl_cgrp")?,
        cgroup_node: place("cgroup", "kn")?,
        node_id: place("kernfs_node", "id")?,
        css_parent: place("cgroup_subsys_state", "parent")?,
        css_cgroup: place("cgroup_subsys_state", "cgroup")?,
        cgroup_root: place("cgroup", "root")?,
        root_hierarchy: place("cgroup_root", "hierarchy_id")?,
        task_cred: place("task_struct", "cred")?,
        cred_uid: place("cred", "uid")?,
        task_leader: place("task_struct", "group_leader")?,
        task_start: place("task_struct", "start_boottime")?,
    })
}

fn read() -> Result<Vec<u8>, String> {
    fs::read(BTF).map_err(|error| format!("{BTF}: {error}"))
}

/// Where a structure has a member, in bytes (docs.kernel.org, "BPF Type Format"). None for what is not there, or not read.
fn offset_of(btf: &[u8], structure: &str, member: &str) -> Option<usize> {
    const MAGIC: u32 = 0xeb9f;
    const TYPE: usize = 12;
    const STRUCT: u32 = 4;
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let size = |at: usize| usize::try_from(word(at)?).ok();
    if word(0)? & 0xffff != MAGIC {
        return None;
    }
    let header = size(4)?;
    let (types, length, strings) = (header.checked_add(size(8)?)?, size(12)?, header.checked_add(size(16)?)?);
    let is_named = |at: usize, name: &str| {
        let text = size(at).and_then(|offset| btf.get(strings.checked_add(offset)?..));
        text.is_some_and(|text| text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)))
    };
    let (mut at, end) = (types, types.checked_add(length)?);
    while at < end {
        let information = word(at + 4)?;
        let (kind, count) = ((information >> 24) & 0x1f, usize::try_from(information & 0xffff).ok()?);
        if kind == STRUCT && is_named(at, structure) {
            let members = (0..count).map(|index| at + TYPE + index * 12);
            let found = members.into_iter().find(|&member_at| is_named(member_at, member))?;
            // With the flag, the upper byte is the width of a bit field.
            let bits = if information >> 31 == 1 { word(found + 8)? & 0x00ff_ffff } else { word(found + 8)? };
            return usize::try_from(bits / 8).ok();
        }
        at += TYPE + trailer(kind, count)?;
    }
    None
}

/// Bytes behind a type of this kind; none for a kind that is not known, behind which nothing can be found.
fn trailer(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // pointers and what else only refers to a type; forward declarations, functions, floats
        2 | 7..=12 | 16 | 18 => 0,
        // integers, variables, declaration tags
        1 | 14 | 17 => 4,
        // enumerations, function prototypes
        6 | 13 => 8 * count,
        // arrays
        3 => 12,
        // structures, unions, sections, wide enumerations
        4 | 5 | 15 | 19 => 12 * count,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_this_kernels_own_types() {
        let btf = fs::read(BTF).unwrap();
        // As the system's headers have it.
        assert_eq!(offset_of(&btf, "list_head", "next"), Some(0));
        assert_eq!(offset_of(&btf, "list_head", "prev"), Some(size_of::<usize>()));
        assert_eq!(offset_of(&btf, "list_head", "pre"), None, "a name, not its beginning");
        assert_eq!(offset_of(&btf, "no_such_structure", "next"), None);
        assert_eq!(check(&[("list_head", "next", 0)]), Ok(()));
        assert!(check(&[("list_head", "prev", 0)]).is_err());
        assert!(places().unwrap().cgroup_node > 0);
        assert_eq!(offset_of(&btf[..btf.len() / 2], "sock_common", "no_such"), None);
        assert_eq!(offset_of(b"\x9f\xeb", "list_head", "next"), None);
    }
}
