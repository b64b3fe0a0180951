//! What the kernel must be and have, in a sentence. Loading the programs is what decides; this is for whoever has to know why
//! they do not load.

use std::fs;
use std::path::{Path, PathBuf};

use super::WitnessError;

/// The oldest kernel on which everything is tested (`cargo xtask test kernels`), and the first with `bpf_set_retval`.
const OLDEST: (u32, u32) = (6, 1);
/// Options without which something does not load. All distributions that have such a kernel set them.
const OPTIONS: [&str; 4] = ["CONFIG_BPF_SYSCALL", "CONFIG_CGROUP_BPF", "CONFIG_DEBUG_INFO_BTF", "CONFIG_INET"];
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// As much of an error as is shown behind the sentence: the verifier's has hundreds of lines.
const MAX_ERROR: usize = 300;

/// What is wrong with this kernel, and what was found to be right.
pub(crate) struct Requirements {
    pub(crate) release: String,
    /// Sentences; none of them says that it will do.
    pub(crate) unmet: Vec<String>,
    /// Where the options were read, if the kernel's configuration was to be found.
    pub(crate) options: Option<PathBuf>,
}

impl Requirements {
    /// Of the running kernel.
    pub(crate) fn look() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let places = [
            PathBuf::from(format!("/boot/config-{release}")),
            PathBuf::from(format!("/usr/lib/modules/{release}/config")),
        ];
        let found = places.into_iter().find_map(|path| Some((fs::read_to_string(&path).ok()?, path)));
        let mut unmet = Vec::new();
        if parse_release(&release).is_none_or(|version| version < OLDEST) {
            unmet.push(format!("Weir needs Linux {}.{} or newer, and this is {release}", OLDEST.0, OLDEST.1));
        }
        let missing = found.as_ref().map_or_else(Vec::new, |(config, _)| missing_options(config));
        if !missing.is_empty() {
            unmet.push(format!("Weir needs a kernel with {}", missing.join(", ")));
        }
        if !Path::new(BTF).exists() {
            unmet.push(format!("Weir needs {BTF}, which a kernel with CONFIG_DEBUG_INFO_BTF has"));
        }
        Self { release, unmet, options: found.map(|(_, path)| path) }
    }

    /// The options that were looked for.
    pub(crate) fn needed() -> String {
        OPTIONS.join(", ")
    }
}

/// A failure to load or attach, behind the sentence that explains it, where one does.
pub(super) fn explain(error: WitnessError) -> WitnessError {
    let unmet = Requirements::look().unmet;
    if unmet.is_empty() {
        return error;
    }
    let error = error.to_string();
    let error = error.lines().next().unwrap_or_default();
    WitnessError::Io { what: unmet.join("; "), error: error[..error.floor_char_boundary(MAX_ERROR)].to_owned() }
}

/// `6.1.0-13-amd64` -> (6, 1).
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn missing_options(config: &str) -> Vec<&'static str> {
    let is_set = |option: &&str| config.lines().any(|line| line.strip_prefix(*option) == Some("=y"));
    OPTIONS.into_iter().filter(|option| !is_set(option)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_as_numbers() {
        assert_eq!(parse_release("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(parse_release("5.4-rc1"), Some((5, 4)));
        assert!(parse_release("5.15.0").unwrap() < OLDEST && parse_release("10.0.1").unwrap() > OLDEST);
        assert_eq!(parse_release(""), None);
    }

    #[test]
    fn an_option_is_set_if_it_is_built_in() {
        let config = "CONFIG_BPF_SYSCALL=y\n# CONFIG_CGROUP_BPF is not set\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_INET=y\n";
        assert_eq!(missing_options(config), ["CONFIG_CGROUP_BPF"]);
        assert_eq!(missing_options(&config.replace("# CONFIG_CGROUP_BPF is not set", "CONFIG_CGROUP_BPF=y")), [""; 0]);
    }
}
