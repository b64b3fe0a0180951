//! Debian's kernels for suite `kernels`, made to boot the disk image of [`vm_image`](crate::vm_image): from packages that are unpacked, not
//! installed, with an initial file system that the image's own tools make. Kept in the cache, as long as the recipe and the
//! suites stay the same.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::apt::PrivateApt;
use crate::{Result, paths, shell};

/// Depends on the newest kernel of a suite.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// The packages that one kernel is spread over; which of them there are differs from kernel to kernel.
const PARTS: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];
/// Room for the modules; a kernel for clouds has some 100 MiB of them.
const MODULES_SIZE: &str = "400M";

/// A kernel to test, and the suites of Debian that have it; of several, the one with the newest.
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    suites: &'static [&'static str],
    /// Tried by every run, and not only by `--all`.
    pub(crate) always: bool,
}

/// Debian packages no 5.15.
pub(crate) const KERNELS: [Kernel; 4] = [
    // Too old: it has to be refused, and to stay closed.
    Kernel { name: "5.10", suites: &["bullseye"], always: false },
    Kernel { name: "6.1", suites: &["bookworm"], always: false },
    Kernel { name: "6.12", suites: &["bookworm-backports"], always: true },
    Kernel { name: "newest", suites: &["trixie", "trixie-backports", "sid"], always: false },
];

/// `$1` the disk image, `$2` the unpacked packages, `$3` where the result goes, `$4` the size of the modules' file system.
/// Only the tools of the image itself know how its initial file system has to be. Newer packages have the kernel beside its
/// modules, and no /boot.
const MAKE: &str = r#"
root="$3/root"
mkdir "$root"
debugfs -R "rdump / $root" "$1" >"$3/log" 2>&1
modules="$2/lib/modules"
[ -d "$modules" ] || modules="$2/usr/lib/modules"
release=$(basename "$modules"/*)
rm -rf "$root"/usr/lib/modules/* "$root"/boot/*
cp -a "$modules/$release" "$root/usr/lib/modules/"
if [ -d "$2/boot" ]; then
    cp "$2/boot/vmlinuz-$release" "$3/vmlinuz"
    cp "$2/boot/config-$release" "$root/boot/"
    cp "$2/boot/config-$release" "$root/usr/lib/modules/$release/config"
else
    cp "$modules/$release/vmlinuz" "$3/vmlinuz"
    cp "$modules/$release/config" "$root/boot/config-$release"
fi
chroot "$root" depmod "$release"
chroot "$root" mkinitramfs -o /boot/initrd.img "$release" >>"$3/log" 2>&1
cp "$root/boot/initrd.img" "$3/"
mke2fs -q -t ext4 -d "$root/usr/lib/modules" "$3/modules.img" "$4" >>"$3/log" 2>&1
echo "$release" >"$3/release"
rm -rf "$root"
chmod 644 "$3"/*
"#;

/// The directory with `vmlinuz`, `initrd.img`, `modules.img` and `release`.
pub(crate) fn ensure(kernel: &Kernel, image: &Path) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (PACKAGE, PARTS, kernel.suites, MODULES_SIZE, MAKE, image.file_name()).hash(&mut hasher);
    let cache = paths::cache()?.join("vm");
    let made = cache.join(format!("kernel-{}-{:016x}", kernel.name, hasher.finish()));
    if !made.exists() {
        let what = format!("kernel {} for the virtual machine, from Debian's packages (once)", kernel.name);
        shell::step(&what, || make(kernel, image, &cache, &made))?;
    }
    Ok(made)
}

fn make(kernel: &Kernel, image: &Path, cache: &Path, made: &Path) -> Result {
    let making = cache.join("making-kernel");
    shell::run(shell::as_root("rm", ["-rf"]).arg(&making))?;
    fs::create_dir(&making).map_err(|e| format!("{}: {e}", making.display()))?;
    let apt = PrivateApt::new(&cache.join("apt"), kernel.suites)?;
    let unpacked = apt.unpack(&packages(&apt, kernel)?)?;
    let mut script = shell::as_root("sh", ["-ec", MAKE, "sh"]);
    shell::run(script.arg(image.join("disk.img")).args([&unpacked, &making]).arg(MODULES_SIZE))
        .map_err(|e| format!("{e}; see {}/log", making.display()))?;
    apt.remove()?;
    fs::rename(&making, made).map_err(|e| format!("{}: {e}", made.display()))
}

/// What the suites' newest kernel consists of.
fn packages(apt: &PrivateApt, kernel: &Kernel) -> Result<Vec<String>> {
    let versions = apt.versions(PACKAGE)?;
    let newest = versions.first().ok_or_else(|| format!("Debian has no {PACKAGE} in {}", kernel.suites.join(", ")))?;
    let image = apt.depends(&format!("{PACKAGE}={newest}"))?;
    let image = image.into_iter().find(|name| name.starts_with(PARTS[0])).ok_or("a kernel package without a kernel")?;
    let is_part = |name: &String| PARTS.iter().any(|part| name.starts_with(part)) && name.contains("-cloud-");
    let mut parts: Vec<String> = apt.depends(&format!("{image}={newest}"))?.into_iter().filter(is_part).collect();
    parts.push(image);
    Ok(parts.into_iter().map(|name| format!("{name}={newest}")).collect())
}
