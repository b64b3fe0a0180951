//! The access list of the socket's file: several groups may connect, and one file mode has room for one.
//!
//! The format is that of the `system.posix_acl_access` attribute: a version, then entries in the order of their tags, all little
//! endian (acl(5), linux/posix_acl_xattr.h). This keeps strangers from taking connections; what a peer may ask is decided elsewhere.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::sys;

const ATTRIBUTE: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const READ_WRITE: u16 = 6;
const NOTHING: u16 = 0;
const NO_ID: u32 = u32::MAX;

/// Lets the owner and these groups connect, and nobody else; root may always.
pub(super) fn allow(path: &Path, groups: &[u32]) -> io::Result<()> {
    if groups.is_empty() {
        return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
    }
    sys::set_attribute(path, ATTRIBUTE, &encode(groups))
}

fn encode(groups: &[u32]) -> Vec<u8> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    let mut acl = VERSION.to_le_bytes().to_vec();
    let mut entry = |tag: u16, permissions: u16, id: u32| {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    };
    entry(USER_OBJ, READ_WRITE, NO_ID);
    entry(GROUP_OBJ, NOTHING, NO_ID);
    for group in groups {
        entry(GROUP, READ_WRITE, group);
    }
    entry(MASK, READ_WRITE, NO_ID);
    entry(OTHER, NOTHING, NO_ID);
    acl
}
