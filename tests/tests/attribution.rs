//! Every connection is tied to the process that made it: storms of processes that end, become others and share ports, in many
//! cgroups and network namespaces, with process numbers that come back soon.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use system_tests::env::{AGENT_USER, Env, Place};
use system_tests::process::wait_until;
use system_tests::recording;
use system_tests::shop::Shop;
use system_tests::storm::{BATCH, Truth, number_of};
use weir::origin::Origin;
use weir::record::event::{ConnectionRefused, Event};

/// Connections, in the short form and with `cargo xtask test attribution --all`.
const SHORT: u32 = 6_000;
const ALL: u32 = 1_000_000;
/// Places that storm at once.
const CROWDS: u32 = 6;
/// Processes of each that run at once.
const WIDTH: u32 = 6;
const LIMIT: Duration = Duration::from_mins(80);
/// A process that is gone leaves its connection behind, and the gateway may be in arrears.
const LAST_RECORDS: Duration = Duration::from_mins(1);

/// Process numbers come back soon, until it is dropped.
struct FewPids(String);

impl FewPids {
    const FILE: &str = "/proc/sys/kernel/pid_max";
    /// Some thousands more than run on a test machine.
    const FEW: &str = "6000";

    fn begin() -> Self {
        let before = fs::read_to_string(Self::FILE).unwrap();
        fs::write(Self::FILE, Self::FEW).unwrap();
        Self(before)
    }
}

impl Drop for FewPids {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::FILE, &self.0) {
            eprintln!("{} stays {}: {error}", Self::FILE, Self::FEW);
        }
    }
}

/// Numbers that were given out half a second ago are given out again, until it is dropped.
struct SamePids {
    end: Arc<AtomicBool>,
    rewinding: Option<std::thread::JoinHandle<()>>,
}

impl SamePids {
    const FILE: &str = "/proc/sys/kernel/ns_last_pid";
    /// Where ranges of numbers begin, and how long each is the one that is given out.
    const FIRST: usize = 3000;
    const RANGE: usize = 200;
    const RANGES: usize = 10;
    const TIME: Duration = Duration::from_millis(50);

    fn begin() -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let rewinding = std::thread::spawn(move || {
            for range in (0..Self::RANGES).cycle().take_while(|_| !ends.load(Ordering::Relaxed)) {
                fs::write(Self::FILE, (Self::FIRST + range * Self::RANGE).to_string()).unwrap();
                std::thread::sleep(Self::TIME);
            }
        });
        Self { end, rewinding: Some(rewinding) }
    }
}

impl Drop for SamePids {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let ended = self.rewinding.take().map(std::thread::JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

#[test]
fn no_connection_is_taken_for_anothers() {
    let count = if std::env::var_os("WEIR_ALL").is_some() { ALL } else { SHORT };
    let shop = Shop::new().unwrap();
    let env = &shop.env;
    let gateway = shop.serve().unwrap();
    let truths = env.dir().join("truths");
    fs::create_dir(&truths).unwrap();
    let user = nix::unistd::User::from_name(AGENT_USER).unwrap().unwrap();
    std::os::unix::fs::chown(&truths, Some(user.uid.as_raw()), None).unwrap();

    let storm = env.staged(env!("CARGO_BIN_EXE_storm"), "storm", 0o755).unwrap().display().to_string();
    let few_pids = FewPids::begin();
    let same_pids = SamePids::begin();
    let started = Instant::now();
    let share = count / CROWDS;
    let crowds = (0..CROWDS).map(|crowd| {
        let place = place(env, crowd, &storm).args([
            "crowd",
            &(crowd * share).to_string(),
            &share.to_string(),
            &WIDTH.to_string(),
        ]);
        place.arg(&truths).start().unwrap()
    });
    let crowds: Vec<_> = crowds.collect();
    for crowd in crowds {
        crowd.finish(LIMIT).unwrap().expect_success().unwrap();
    }
    println!("{count} connections in {:?}", started.elapsed());
    drop((few_pids, same_pids));

    let truths = read_truths(&truths);
    assert_eq!(truths.len(), (share * CROWDS) as usize);
    let recordings = env.state_dir().join("recordings");
    let mut seen = HashMap::new();
    wait_until("the last records", LAST_RECORDS, || {
        seen = refusals(&recordings);
        seen.len() == truths.len()
    })
    .unwrap_or_else(|error| panic!("{error}: {} of {}\n{}", seen.len(), truths.len(), env.log()));
    let mut cgroups = HashMap::new();
    let (mut looked_at, mut as_another) = (0, 0);
    for (number, refused) in &seen {
        let origin = refused.origin.as_ref().unwrap_or_else(|| panic!("no origin: {refused:?}"));
        assert_is(&truths[number], origin);
        // One crowd, one cgroup, one network namespace: and nobody else's.
        let place = (origin.cgroup_id, origin.netns_cookie);
        let first = *cgroups.entry(number / share).or_insert(place);
        assert_eq!(first, place, "{refused:?}");
        for process in refused.evidence.iter().filter_map(|evidence| evidence.tree.first()) {
            assert_eq!(process.pid, origin.pid, "{refused:?}");
            assert!(origin.started_at.is_some_and(|began| process.started_at <= began), "{refused:?}");
            assert!(is_it(process.argv.as_slice(), *number), "another process: {refused:?}");
            looked_at += u32::from(!process.argv.is_empty());
            as_another += u32::from(process.argv.last().is_some_and(|word| word == "held"));
        }
    }
    assert_eq!(cgroups.len(), CROWDS as usize);
    let distinct: HashSet<_> = cgroups.values().collect();
    assert_eq!(distinct.len(), CROWDS as usize, "{cgroups:?}");
    // Otherwise it shows little: processes that were met alive, some of them as another program already; numbers that came back.
    let numbers_again = reused(&truths);
    println!(
        "{} records, none of them wrong; {looked_at} processes were met alive, {as_another} as another program; {numbers_again} numbers \
         of processes came back",
        seen.len()
    );
    assert!(looked_at > count / 2, "{looked_at}");
    assert!(as_another > 0, "no process was met after its exec");
    assert!(numbers_again > 1, "{numbers_again}");
    drop(gateway);
}

/// Half of them in network namespaces of their own.
fn place<'e>(env: &'e Env, crowd: u32, storm: &str) -> Place<'e> {
    let group = format!("crowd-{crowd}");
    if crowd.is_multiple_of(2) {
        env.agent_in(&group, AGENT_USER, storm).unwrap()
    } else {
        env.agent_in_behind(&group, ["unshare", "--net", "--"], storm).unwrap()
    }
}

fn read_truths(directory: &Path) -> HashMap<u32, Truth> {
    let files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    texts
        .flat_map(|text| text.lines().map(|line| Truth::parse(line).unwrap()).collect::<Vec<_>>())
        .map(|truth| (truth.number, truth))
        .collect()
}

/// How many process numbers more than one process had that connected.
fn reused(truths: &HashMap<u32, Truth>) -> u32 {
    let mut processes: HashMap<u32, HashSet<u32>> = HashMap::new();
    for truth in truths.values() {
        processes.entry(truth.pid).or_default().insert(truth.number / BATCH);
    }
    let again = processes.values().filter(|processes| processes.len() > 1);
    u32::try_from(again.count()).unwrap()
}

/// Those that go where a storm goes.
fn refusals(recordings: &Path) -> HashMap<u32, ConnectionRefused> {
    let mut found = HashMap::new();
    recording::each_event(recordings, |event| {
        if let Event::ConnectionRefused(refused) = event
            && let Some(Origin { destination: SocketAddr::V4(address), .. }) = refused.origin
            && let Some(number) = number_of(address)
        {
            let again = found.insert(number, refused);
            assert!(again.is_none(), "twice: {again:?}");
        }
    })
    .unwrap();
    found
}

fn assert_is(truth: &Truth, origin: &Origin) {
    let said = (origin.pid, origin.uid, origin.gid, origin.source.port());
    assert_eq!(said, (truth.pid, truth.uid, truth.gid, truth.source_port), "{truth:?}\n{origin:?}");
    assert!((truth.before..=truth.after).contains(&origin.connected_at), "{truth:?}\n{origin:?}");
}

/// The process is the batch that the connection belongs to, or the program that this has become.
fn is_it(argv: &[String], number: u32) -> bool {
    match argv {
        [_, batch, first, count, ..] if batch == "batch" => {
            let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { return false };
            (first..first + count).contains(&number)
        }
        [_, held] => held == "held",
        // It is ending, and has no memory left.
        [] => true,
        _ => false,
    }
}
