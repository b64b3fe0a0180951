//! What the kernel half takes of the machine's memory: the maps are of one size from the start, or have a bound.

use std::collections::BTreeMap;

use super::*;

/// What README says that all maps together take at most, in MiB.
const README: u64 = 26;

/// Bytes by the map's number, as its descriptors in the witness tell them (`Documentation/bpf`, fdinfo).
fn maps(pid: u32) -> BTreeMap<u32, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        // A descriptor may be gone meanwhile.
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(map), Some(bytes)) = (value("map_id:"), value("memlock:")) {
            println!("map {map}: type {:?}, {bytes} bytes", value("map_type:"));
            found.insert(u32::try_from(map).unwrap(), bytes);
        }
    }
    found
}

#[test]
fn maps_take_what_readme_says_and_no_more_with_agents() {
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("adds them up) | {README} |")), "the number is README's");
    let scene = Scene::new();
    let before = maps(scene.witness_pid);
    let total: u64 = before.values().sum();
    println!("{} maps, {} KiB", before.len(), total >> 10);
    // The largest table alone is 11 MiB: less would be no whole account.
    assert!(before.len() >= 15 && ((11 << 20)..=(README << 20)).contains(&total), "{before:?}");
    let gateway = scene.gateway();
    for _ in 0..50 {
        scene.agent(CONNECT, &["192.0.2.1", "9"]);
    }
    drop(gateway);
    let grown = maps(scene.witness_pid).values().sum::<u64>() - total;
    assert!(grown < 64 << 10, "{grown} bytes more");
}
