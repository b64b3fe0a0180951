//! The disk image of the virtual machine in which suite vm-smoke sees real systemd and the real root cgroup.
//!
//! A minimal Debian 12 with a PostgreSQL, made once by debootstrap and kept in the cache under the hash of what went
//! into it. The test adds the packages to a copy, and installs them there.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::{Result, apt, paths, shell};

const SUITE: &str = "bookworm";
/// busybox serves the issuer's documents; bpftool tells which programs are loaded and in effect. The second line's would run
/// something for an agent outside its slice.
const PACKAGES: &str = "bpftool,busybox,ca-certificates,iproute2,linux-image-cloud-amd64,postgresql,procps,systemd,systemd-sysv,udev,\
    at,cron,dbus,dbus-user-session,libpam-systemd,openssh-client,tmux";
const SIZE: &str = "2500M";

/// In the new system: what the package manager leaves that a test does not need, and a serial console that only the
/// test writes to.
const TRIM: &str = r#"
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/man/*
ln -sf /dev/null "$1/etc/systemd/system/serial-getty@ttyS0.service"
ln -sf /dev/null "$1/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$1/etc/systemd/system/apt-daily-upgrade.timer"
echo vm > "$1/etc/hostname"
printf '127.0.0.1 localhost vm\n' > "$1/etc/hosts"
printf 'nameserver 127.0.0.1\n' > "$1/etc/resolv.conf"
"#;

/// The directory with `disk.img`, `vmlinuz` and `initrd.img`.
pub(crate) fn ensure() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (SUITE, PACKAGES, SIZE, TRIM).hash(&mut hasher);
    let cache = paths::cache()?.join("vm");
    let image = cache.join(format!("{:016x}", hasher.finish()));
    if !image.exists() {
        fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
        shell::step("Debian for the virtual machine (debootstrap, once; about two minutes)", || make(&cache, &image))?;
    }
    Ok(image)
}

fn make(cache: &Path, image: &Path) -> Result {
    let (root, made) = (cache.join("root"), cache.join("making"));
    shell::run(shell::as_root("rm", ["-rf"]).args([&root, &made]))?;
    fs::create_dir(&made).map_err(|e| format!("{}: {e}", made.display()))?;
    let log = made.join("debootstrap.log");
    let out = fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut debootstrap = shell::as_root("env", ["LC_ALL=C.UTF-8", "debootstrap", "--variant=minbase"]);
    debootstrap.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(&root).arg(apt::debian_mirror()?);
    shell::run(debootstrap.stdout(out))
        .map_err(|e| format!("{e}; see {} and {}/debootstrap", log.display(), root.display()))?;
    shell::run(shell::as_root("sh", ["-ec", TRIM, "sh"]).arg(&root))?;
    let copy =
        r#"cp "$1"/boot/vmlinuz-* "$2/vmlinuz" && cp "$1"/boot/initrd.img-* "$2/initrd.img" && chmod 644 "$2"/*"#;
    shell::run(shell::as_root("sh", ["-ec", copy, "sh"]).args([&root, &made]))?;
    let disk = made.join("disk.img");
    shell::run(shell::as_root("mke2fs", ["-q", "-t", "ext4", "-d"]).arg(&root).arg(&disk).arg(SIZE))?;
    shell::run(shell::as_root("rm", ["-rf"]).arg(&root))?;
    fs::rename(&made, image).map_err(|e| format!("{}: {e}", image.display()))
}
