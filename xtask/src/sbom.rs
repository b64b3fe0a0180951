//! The software bill of materials: every crate that is in the shipped binary, as CycloneDX 1.5 JSON.
//!
//! From `cargo metadata` and the lock files of both halves, so that it is exactly what was built: name, version, licence,
//! the archive's checksum and who needs whom. C code comes in crates, and is known by theirs (pg_query, aws-lc-sys,
//! libsqlite3-sys). Nothing in it depends on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::{Result, shell};

/// The manifests whose packages are shipped: the gateway, and the eBPF object inside it.
const ROOTS: [(&str, &str, &str); 2] = [(".", "weir", ""), ("gateway-ebpf", "gateway-ebpf", "bpfel-unknown-none")];

/// The document for the binary of one target; `epoch` is the commit's time in seconds.
pub(crate) fn cyclonedx(source: &Path, target: &str, epoch: &str) -> Result<String> {
    let mut parts = Parts::default();
    for (directory, root, other_target) in ROOTS {
        let target = if other_target.is_empty() { target } else { other_target };
        parts.add(&source.join(directory), root, target)?;
    }
    let time = shell::output(&mut shell::command("date", ["-u", "-d", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
    let product = parts.components.remove(&parts.product).ok_or("cargo metadata does not know the product")?;
    parts.needs.entry(parts.product.clone()).or_default().extend(parts.embedded);
    let dependencies: Vec<Value> =
        parts.needs.iter().map(|(part, needs)| json!({ "ref": part, "dependsOn": needs })).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": time.trim(), "component": as_application(product) },
        "components": parts.components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    Ok(format!("{document:#}\n"))
}

fn as_application(mut component: Value) -> Value {
    component["type"] = json!("application");
    component
}

#[derive(Default)]
struct Parts {
    /// By their package URL.
    components: BTreeMap<String, Value>,
    needs: BTreeMap<String, BTreeSet<String>>,
    product: String,
    /// Roots that are no crates of the product's: objects inside it.
    embedded: Vec<String>,
}

impl Parts {
    fn add(&mut self, directory: &Path, root: &str, target: &str) -> Result {
        let words = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
        let text = shell::output(shell::command(&shell::cargo_program(), words).current_dir(directory))?;
        let metadata: Value = serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
        let lock = directory.join("Cargo.lock");
        let lock = std::fs::read_to_string(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
        let checksums = checksums(&lock);
        let packages: BTreeMap<&str, &Value> =
            list(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
        let nodes: BTreeMap<&str, &Value> =
            list(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
        let root = packages.iter().find(|(_, package)| package["name"] == root).map(|(id, _)| *id);
        let root = root.ok_or("cargo metadata does not know the root package")?;
        if self.product.is_empty() {
            self.product = purl(packages[root]);
        } else {
            self.embedded.push(purl(packages[root]));
        }
        let mut waiting = vec![root];
        let mut seen = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if !seen.insert(id) {
                continue;
            }
            let package = packages.get(id).ok_or_else(|| format!("cargo metadata has no package {id}"))?;
            let needed: Vec<&str> =
                nodes.get(id).into_iter().flat_map(|node| list(&node["deps"])).filter_map(shipped).collect();
            let needs = needed.iter().filter_map(|id| packages.get(id)).map(|package| purl(package));
            self.needs.entry(purl(package)).or_default().extend(needs);
            self.components.insert(purl(package), component(package, &checksums));
            waiting.extend(needed);
        }
        Ok(())
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The package that a dependency leads to, unless only build scripts or tests need it.
fn shipped(dependency: &Value) -> Option<&str> {
    let is_normal = list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
    if is_normal { dependency["pkg"].as_str() } else { None }
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// The package URL (purl specification, type `cargo`).
fn purl(package: &Value) -> String {
    // In a query of it, `+` is a blank.
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version").replace('+', "%2B"))
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": purl(package),
        "purl": purl(package),
        "name": name,
        "version": version,
    });
    if let Some(license) = package["license"].as_str() {
        // `MIT/Apache-2.0` is how it was written before SPDX expressions.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// Checksums of the archives, by name and version, out of a Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    let checksum = |package: &str| {
        let field = |name: &str| {
            let value = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
            Some(value.trim_end_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    };
    packages.filter_map(checksum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_read_and_own_crates_have_none() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\n\
                    checksum = \"ff00\"\ndependencies = [\n \"b\",\n]\n\n[[package]]\nname = \"b\"\nversion = \"0.1.0\"\n";
        let expected = BTreeMap::from([(("a".to_owned(), "1.0.0".to_owned()), "ff00".to_owned())]);
        assert_eq!(checksums(lock), expected);
    }

    #[test]
    fn what_only_builds_or_tests_is_not_shipped() {
        let dependency = |kinds: Value| json!({ "pkg": "x", "dep_kinds": kinds });
        assert_eq!(shipped(&dependency(json!([{ "kind": null }]))), Some("x"));
        assert_eq!(shipped(&dependency(json!([{ "kind": "build" }, { "kind": null }]))), Some("x"));
        assert_eq!(shipped(&dependency(json!([{ "kind": "dev" }, { "kind": "build" }]))), None);
    }
}
