//! What container runtimes say of their containers: name and labels, out of the files in which they keep them.
//!
//! A container is known by its cgroup, whose name the kernel captured with the connect. That name says something only if root
//! made it: whoever has cgroups of its own may call one after another's container. The files are root's, too.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::origin::container_id;

/// Bytes of one file.
const MAX_FILE: u64 = 4 << 20;
/// Labels that are told of one container, and the bytes of each of its two parts.
const MAX_LABELS: usize = 64;
const MAX_LABEL: usize = 256;
/// Namespaces of containerd that are looked in.
const MAX_NAMESPACES: usize = 64;

/// Where runtimes that root runs keep what they know, unless they are told otherwise.
const DOCKER: &str = "/var/lib/docker/containers";
const CONTAINERD: &str = "/run/containerd/io.containerd.runtime.v2.task";
const PODMAN: &str = "/var/lib/containers/storage";
/// Podman's directory of containers, by storage driver.
const PODMAN_CONTAINERS: [&str; 4] = ["overlay-containers", "vfs-containers", "btrfs-containers", "zfs-containers"];
/// Its lists of containers. One that goes with its process (`--rm`) is in the second, with Podman 4.4 and later.
const PODMAN_LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];
const RUNC: &str = "/run/runc";

/// Annotations in which a runtime keeps the name that people gave the container.
const NAMES: [&str; 3] = ["nerdctl/name", "io.kubernetes.cri.container-name", "io.podman.annotations.name"];

/// What is known of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) name: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// Nothing is known where root did not make the cgroup, or no runtime knows the container.
pub(super) fn describe(cgroup_mount: &Path, cgroup: &str) -> Description {
    let Some((path, id)) = outermost(cgroup) else { return Description::default() };
    let is_roots = fs::metadata(cgroup_mount.join(path)).is_ok_and(|metadata| metadata.uid() == 0);
    if !is_roots {
        return Description::default();
    }
    [docker, containerd, podman, runc].into_iter().find_map(|ask| ask(id)).unwrap_or_default().bounded()
}

/// The outermost container: the path of its cgroup, without a leading slash, and its id.
fn outermost(cgroup: &str) -> Option<(&str, &str)> {
    let cgroup = cgroup.trim_start_matches('/');
    let mut end = 0;
    for component in cgroup.split('/') {
        end += component.len();
        if let Some(id) = container_id(component) {
            return Some((&cgroup[..end], id));
        }
        end += 1;
    }
    None
}

impl Description {
    fn bounded(mut self) -> Self {
        self.labels.retain(|key, value| key.len() <= MAX_LABEL && value.len() <= MAX_LABEL);
        while self.labels.len() > MAX_LABELS {
            self.labels.pop_last();
        }
        self.name = self.name.filter(|name| name.len() <= MAX_LABEL);
        self
    }
}

fn docker(id: &str) -> Option<Description> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        name: String,
        config: Config,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        labels: Option<BTreeMap<String, String>>,
    }
    let container: Container = read(&Path::new(DOCKER).join(id).join("config.v2.json"))?;
    let name = container.name.trim_start_matches('/').to_owned();
    Some(Description { name: Some(name), labels: container.config.labels.unwrap_or_default() })
}

/// The OCI runtime specification's `config.json`, as far as it is of interest.
#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Spec {
    fn description(self) -> Description {
        let name = NAMES.iter().find_map(|key| self.annotations.get(*key)).cloned();
        Description { name, labels: self.annotations }
    }
}

fn containerd(id: &str) -> Option<Description> {
    let namespaces = fs::read_dir(CONTAINERD).ok()?.flatten().take(MAX_NAMESPACES);
    let mut specs = namespaces.map(|namespace| namespace.path().join(id).join("config.json"));
    specs.find_map(|spec| read::<Spec>(&spec)).map(Spec::description)
}

/// Podman keeps labels in a database of its own, and a container's name and annotations in files: annotations are labels here.
fn podman(id: &str) -> Option<Description> {
    PODMAN_CONTAINERS.iter().find_map(|driver| podman_container(&Path::new(PODMAN).join(driver), id))
}

fn podman_container(containers: &Path, id: &str) -> Option<Description> {
    #[derive(Deserialize)]
    struct Known {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let spec: Spec = read(&containers.join(id).join("userdata/config.json"))?;
    let lists = PODMAN_LISTS.iter().filter_map(|list| read::<Vec<Known>>(&containers.join(list)));
    let known = lists.flatten().find(|known| known.id == id);
    let name = known.and_then(|known| known.names.into_iter().next());
    let described = spec.description();
    Some(Description { name: name.or(described.name), labels: described.labels })
}

/// runc by itself: annotations are labels there, as `key=value`.
fn runc(id: &str) -> Option<Description> {
    #[derive(Deserialize)]
    struct State {
        config: Config,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        labels: Vec<String>,
    }
    let state: State = read(&Path::new(RUNC).join(id).join("state.json"))?;
    let labels = state.config.labels.iter().filter_map(|label| label.split_once('='));
    let annotations = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(Spec { annotations }.description())
}

/// A file of root's; what cannot be read or understood is not there.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = bytes(path).inspect_err(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, path = %path.display(), "what a container runtime knows cannot be read");
        }
    });
    serde_json::from_slice(&bytes.ok()?)
        .inspect_err(
            |error| tracing::warn!(%error, path = %path.display(), "a container runtime wrote what is not known"),
        )
        .ok()
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != 0 || metadata.len() > MAX_FILE {
        return Err(io::Error::other("it is no file of root's, or too long"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_container_is_the_one_that_counts() {
        let (one, two) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        let nested = format!("/agents.slice/docker-{one}.scope/inner/{two}");
        let path = format!("agents.slice/docker-{one}.scope");
        assert_eq!(outermost(&nested), Some((path.as_str(), one.as_str())));
        assert_eq!(outermost("/agents.slice/coder.service"), None);
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let label = |n: usize| (format!("key{n:03}"), "x".to_owned());
        let mut labels: BTreeMap<_, _> = (0..MAX_LABELS + 10).map(label).collect();
        labels.insert("a".to_owned(), "x".repeat(MAX_LABEL + 1));
        let bounded = Description { name: Some("x".repeat(MAX_LABEL + 1)), labels }.bounded();
        assert!(bounded.name.is_none() && bounded.labels.len() == MAX_LABELS && !bounded.labels.contains_key("a"));
    }
}
