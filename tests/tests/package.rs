//! What `cargo xtask package` made, before anybody installs it: the right files, whole, with nothing of the machine that
//! built them, and a static binary that needs nothing. Installing, upgrading and removing it is suite vm-smoke.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use system_tests::env::Env;
use system_tests::packages::Packages;

/// What an installed package has, besides manual pages.
const FILES: [&str; 14] = [
    "etc/weir/weir.toml",
    "usr/bin/weir",
    "usr/lib/systemd/system/agents.slice",
    "usr/lib/systemd/system/weir-kernel.service",
    "usr/lib/systemd/system/weir.service",
    "usr/lib/sysusers.d/weir.conf",
    "usr/lib/tmpfiles.d/weir.conf",
    "usr/lib/weir/weir-agent.conf",
    "usr/share/bash-completion/completions/weir",
    "usr/share/doc/weir/README.md",
    "usr/share/doc/weir/copyright",
    "usr/share/doc/weir/weir.cdx.json",
    "usr/share/fish/vendor_completions.d/weir.fish",
    "usr/share/zsh/vendor-completions/_weir",
];
/// Only where a package manager keeps what the administrator changed, or writes it itself.
const ONLY_IN_PACKAGE: [&str; 2] = ["etc/weir/weir.toml", "usr/share/doc/weir/copyright"];

fn output(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The files of a listing by tar or dpkg-deb: all are root's, nobody else may write them.
fn listed(listing: &str, prefix: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next().unwrap(), words.next().unwrap());
        assert!(["root/root", "0/0"].contains(&owner), "{line}");
        assert!(!mode[4..].contains('w') && !mode.contains('s'), "{line}");
        let path = words.nth(3).unwrap();
        if mode.starts_with('-') {
            files.insert(path.strip_prefix(prefix).unwrap().to_owned());
        }
    }
    files
}

#[test]
fn the_checksums_are_of_all_there_is() {
    let packages = Packages::of_this_run().unwrap();
    output(Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(packages.dir()));
    let sums = fs::read_to_string(packages.dir().join("SHA256SUMS")).unwrap();
    let summed: BTreeSet<&str> = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let made = fs::read_dir(packages.dir()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let made: BTreeSet<String> = made.filter(|name| name != "SHA256SUMS").collect();
    assert_eq!(summed, made.iter().map(String::as_str).collect());
    assert_eq!(made.len(), 3, "package, tarball, bill of materials: {made:?}");
}

#[test]
fn package_and_tarball_have_the_same_files() {
    let packages = Packages::of_this_run().unwrap();
    let deb = listed(&output(Command::new("dpkg-deb").arg("--contents").arg(packages.debian())), "./");
    let prefix = format!("{}/", packages.tree_name());
    let tar = listed(&output(Command::new("tar").args(["-tvf"]).arg(packages.tarball())), &prefix);
    for file in FILES {
        assert!(deb.contains(file), "the package lacks {file}");
        assert!(tar.contains(file) || ONLY_IN_PACKAGE.contains(&file), "the tarball lacks {file}");
    }
    let pages = |files: &BTreeSet<String>| -> BTreeSet<String> {
        let pages = files.iter().filter_map(|file| file.strip_prefix("usr/share/man/man1/"));
        pages.map(|page| page.trim_end_matches(".gz").to_owned()).collect()
    };
    assert_eq!(pages(&deb), pages(&tar));
    for unit in ["weir.1", "weir-kernel.1"] {
        assert!(pages(&deb).contains(unit), "units name {unit}");
    }
}

#[test]
fn the_package_says_what_it_needs_and_what_is_the_administrators() {
    let packages = Packages::of_this_run().unwrap();
    let field = |name: &str| output(Command::new("dpkg-deb").arg("--field").arg(packages.debian()).arg(name));
    assert_eq!(field("Package").trim(), "weir");
    let depends = field("Depends");
    for needed in ["libc6 (>= ", "systemd", "init-system-helpers"] {
        assert!(depends.contains(needed), "{depends}");
    }
    let control = |name: &str| output(Command::new("dpkg-deb").arg("--info").arg(packages.debian()).arg(name));
    assert_eq!(control("conffiles").trim(), "/etc/weir/weir.toml");
    for script in ["postinst", "prerm", "postrm"] {
        assert!(control(script).starts_with("#!/bin/sh\n"), "{script}");
    }
}

#[test]
fn the_static_binary_runs_where_nothing_is() {
    let packages = Packages::of_this_run().unwrap();
    let env = Env::new().unwrap();
    let tree = packages.unpack(&env.dir().join("unpacked")).unwrap();
    let binary = tree.join("usr/bin/weir");
    let headers = output(Command::new("readelf").args(["--wide", "--program-headers"]).arg(&binary));
    assert!(headers.contains("LOAD") && !headers.contains("INTERP"), "{headers}");

    let empty = env.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::copy(&binary, empty.join("weir")).unwrap();
    fs::copy(tree.join("usr/share/doc/weir/examples/weir.toml"), empty.join("weir.toml")).unwrap();
    let version = output(Command::new("chroot").arg(&empty).args(["/weir", "--version"]));
    assert!(version.starts_with("weir "), "{version}");
    let checked = output(Command::new("chroot").arg(&empty).args(["/weir", "--config", "/weir.toml", "check"]));
    assert!(checked.contains("is fine"), "{checked}");
}

/// What `cargo xtask package --verify-own` proves by building twice, as far as one build shows it.
#[test]
fn nothing_of_the_machine_that_built_it_is_inside() {
    let packages = Packages::of_this_run().unwrap();
    let env = Env::new().unwrap();
    let unpacked = env.dir().join("package");
    output(Command::new("dpkg-deb").arg("--extract").arg(packages.debian()).arg(&unpacked));
    let tree = packages.unpack(&env.dir().join("tarball")).unwrap();
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"))).unwrap();
    let built = packages.dir().parent().unwrap().to_path_buf();
    for binary in [unpacked.join("usr/bin/weir"), tree.join("usr/bin/weir")] {
        let bytes = fs::read(&binary).unwrap();
        let contains = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(contains("/usr/src/cargo/registry/"), "{}: paths are mapped", binary.display());
        for path in [&clone, &home, &built] {
            // A short one (`/w`) could stand there by chance.
            let path = format!("{}/", path.display());
            assert!(path.len() < 6 || !contains(&path), "{} contains {path}", binary.display());
        }
    }
    let bill = fs::read_to_string(unpacked.join("usr/share/doc/weir/weir.cdx.json")).unwrap();
    assert!(!bill.contains("file:/"), "the bill of materials has a path");
}

#[test]
fn the_bill_of_materials_has_every_part_with_its_checksum_and_licence() {
    let packages = Packages::of_this_run().unwrap();
    let bill: Value = serde_json::from_slice(&fs::read(packages.bill()).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["name"], "weir");
    let components = bill["components"].as_array().unwrap();
    // Of the gateway, and of the eBPF object inside it.
    for part in ["aya", "rustls", "aws-lc-sys", "pg_query", "libsqlite3-sys", "aya-ebpf", "gateway-common"] {
        assert!(components.iter().any(|component| component["name"] == part), "{part} is missing");
    }
    // What only tests or builds is not shipped.
    for tool in ["proptest", "bindgen", "tempfile"] {
        assert!(!components.iter().any(|component| component["name"] == tool), "{tool} is not in the binary");
    }
    let own = ["gateway-common", "gateway-ebpf"];
    for component in components.iter().filter(|component| !own.iter().any(|name| component["name"] == *name)) {
        let checksum = component["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!(checksum.len(), 64, "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let known: BTreeSet<&str> =
        components.iter().chain([&bill["metadata"]["component"]]).filter_map(|part| part["bom-ref"].as_str()).collect();
    for dependency in bill["dependencies"].as_array().unwrap() {
        for part in dependency["dependsOn"].as_array().unwrap().iter().chain([&dependency["ref"]]) {
            assert!(known.contains(part.as_str().unwrap()), "{part} is no component");
        }
    }
}
