//! The optional layer of programs on the BPF LSM: whether this kernel takes it, and why not.
//!
//! These programs read three fields of kernel structures at fixed places. Rust has no relocations for that, so the places are
//! compared with the running kernel's own description of its types (BTF) first.

use std::fs;

use gateway_common as common;

/// The list of active modules, in a file of securityfs. A program attached to a hook of a module that is not in it never runs.
const ACTIVE: &str = "/sys/kernel/security/lsm";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// An attachment: the hook, which also names the link, and its program.
pub(super) struct LsmHook {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
}

const fn hook(name: &'static str, program: &'static str) -> LsmHook {
    LsmHook { name, program }
}

pub(super) const HOOKS: [LsmHook; 3] = [
    hook("file_receive", "weir_file_receive"),
    hook("socket_sendmsg", "weir_socket_sendmsg"),
    hook("socket_create", "weir_socket_create"),
];

/// What the absence costs.
pub(super) const COST: &str = "a connected TCP socket that a process outside hands to an agent, or that a process had before it \
                               became one, is not stopped";

/// Whether programs on the BPF LSM can be in effect here; the error says why not.
pub(super) fn available() -> Result<(), String> {
    let active = fs::read_to_string(ACTIVE).map_err(|error| format!("{ACTIVE}: {error}"))?;
    if !active.trim().split(',').any(|module| module == "bpf") {
        return Err(format!(
            "the BPF LSM is not active (CONFIG_BPF_LSM, and lsm={},bpf on the command line)",
            active.trim()
        ));
    }
    Ok(())
}

/// The fields are where the programs read them.
pub(super) fn check_layout() -> Result<(), String> {
    let btf = fs::read(BTF).map_err(|error| format!("{BTF}: {error}"))?;
    for (structure, member, expected) in [
        ("socket", "file", common::SOCKET_FILE),
        ("socket", "sk", common::SOCKET_SK),
        ("sock_common", "skc_family", common::SOCK_FAMILY),
    ] {
        let found = offset_of(&btf, structure, member);
        if found != Some(expected) {
            return Err(format!("this kernel has {structure}.{member} at {found:?}, not at {expected}"));
        }
    }
    Ok(())
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
        assert_eq!(check_layout(), Ok(()));
        assert_eq!(offset_of(&btf[..btf.len() / 2], "sock_common", "no_such"), None);
        assert_eq!(offset_of(b"\x9f\xeb", "list_head", "next"), None);
    }
}
