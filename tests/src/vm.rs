//! A virtual machine: a copy of the disk image that `cargo xtask test` makes, with files added, booted under QEMU's
//! emulation (no /dev/kvm needed) as often as a test likes. What it has to say, it says on the serial console.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::env::Env;
use crate::process::Running;

mod said;
mod tree;

pub use said::Said;
pub use tree::Tree;

/// The condition makes systemd-sysusers run, as a package's installation would. A kernel that panics ends the machine.
const PARAMETERS: &str =
    "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no systemd.condition-needs-update=1";

/// A disk of its own, and the kernel to boot it with.
pub struct Machine {
    disk: PathBuf,
    /// With `vmlinuz` and `initrd.img`.
    kernel: PathBuf,
    /// A file system with the kernel's modules, where it is not the kernel of the disk image.
    modules: Option<PathBuf>,
    /// What else the kernel is told.
    parameters: &'static str,
    /// MiB.
    memory: u32,
    dir: PathBuf,
}

impl Machine {
    /// With the disk image's own kernel.
    pub fn new(env: &Env) -> Result<Self> {
        let image = std::env::var_os("WEIR_VM_IMAGE").map(PathBuf::from);
        let image = image.ok_or("no disk image: run `cargo xtask test vm-smoke`, or set WEIR_VM_IMAGE")?;
        let disk = env.dir().join("disk.img");
        let copy = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(image.join("disk.img"))
            .arg(&disk)
            .status()?;
        if !copy.success() {
            return Err(format!("cannot copy the disk image {}", image.display()).into());
        }
        Ok(Self { disk, kernel: image, modules: None, parameters: "", memory: 1024, dir: env.dir().to_path_buf() })
    }

    /// With another kernel that `cargo xtask test kernels` made (`WEIR_VM_KERNEL`), and parameters for it.
    pub fn with_kernel(env: &Env, kernel: &Path, parameters: &'static str) -> Result<Self> {
        let modules = Some(kernel.join("modules.img"));
        Ok(Self { kernel: kernel.to_path_buf(), modules, parameters, ..Self::new(env)? })
    }

    /// With other parameters for the kernel, from the next boot on.
    #[must_use]
    pub fn with_parameters(self, parameters: &'static str) -> Self {
        Self { parameters, ..self }
    }

    /// So many MiB.
    #[must_use]
    pub fn with_memory(self, memory: u32) -> Self {
        Self { memory, ..self }
    }

    /// Puts every file and symbolic link of `tree` at the same path of the disk, owned by root. What is there under that
    /// name is replaced.
    pub fn add(&self, tree: &Tree) -> Result {
        let mut script = String::new();
        add_directory(tree.root(), Path::new("/"), &mut script)?;
        let commands = self.dir.join("debugfs.commands");
        fs::write(&commands, script)?;
        // It goes on after errors (directories that exist, files that do not) and exits with 0: read back what was written.
        let out =
            Command::new("debugfs").args(["-w", "-f"]).arg(&commands).arg(&self.disk).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        let failed = said
            .lines()
            .find(|line| !["already exists", "not found", "debugfs "].iter().any(|fine| line.contains(fine)));
        match failed {
            Some(line) if !line.is_empty() => Err(format!("debugfs: {line}").into()),
            _ => Ok(()),
        }
    }

    /// Boots it and waits until it powers off or reboots; what was written to the serial console.
    pub fn boot(&self, limit: Duration) -> Result<Said> {
        let serial = self.dir.join("serial.log");
        let mut qemu = Command::new("qemu-system-x86_64");
        // Without cmpxchg16b, which QEMU 7.2 emulates wrongly: the allocator of Linux 6.12 and newer dies of it.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-smp", "2"]);
        qemu.arg("-m").arg(self.memory.to_string());
        qemu.args(["-display", "none", "-nic", "none", "-no-reboot"]);
        qemu.arg("-serial").arg(format!("file:{}", serial.display()));
        qemu.arg("-kernel").arg(self.kernel.join("vmlinuz")).arg("-initrd").arg(self.kernel.join("initrd.img"));
        qemu.arg("-append").arg(format!("{PARAMETERS} {}", self.parameters));
        qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", self.disk.display()));
        if let Some(modules) = &self.modules {
            qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,readonly=on", modules.display()));
        }
        let ended = Running::start(qemu)?.finish(limit);
        let said = fs::read(&serial).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        match ended {
            Ok(finished) if finished.success() => Ok(Said { all: said }),
            Ok(finished) => Err(format!("qemu: {finished:?}\n{said}").into()),
            Err(e) => Err(format!("the virtual machine did not end: {e}\n{said}").into()),
        }
    }
}

/// debugfs(8) commands for one directory and what is below it.
fn add_directory(from: &Path, to: &Path, script: &mut String) -> Result {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_str().ok_or("a name that is not UTF-8")?;
        let target = to.join(name);
        let kind = entry.file_type()?;
        // Names are relative to the directory: half of the commands take no path.
        writeln!(script, "cd {}", to.display())?;
        if kind.is_dir() {
            writeln!(script, "mkdir {name}")?;
            add_directory(&path, &target, script)?;
        } else if kind.is_symlink() {
            writeln!(script, "rm {name}\nsymlink {name} {}", fs::read_link(&path)?.display())?;
        } else {
            let mode = 0o100_000 | (entry.metadata()?.permissions().mode() & 0o777);
            writeln!(script, "rm {name}\nwrite {} {name}", path.display())?;
            writeln!(script, "sif {name} mode 0{mode:o}\nsif {name} uid 0\nsif {name} gid 0")?;
        }
    }
    Ok(())
}
