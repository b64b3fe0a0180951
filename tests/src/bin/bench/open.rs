//! Many sessions open at once, in a world of their own: how much memory each takes, and what a connect costs beside them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use system_tests::Result;
use system_tests::env::{Env, Gateway};
use system_tests::issuer::Issuer;

use super::{Plan, Row, connector_figure, progress, resolved, staged};

pub(super) const NAME_OF_ROWS: &str = "open sessions";

/// Sessions, where a process may have the descriptors for them, over so many servers: one address has 28,232 ports to be
/// reached from.
const SESSIONS: usize = 50_000;
const SERVERS: usize = 4;
const NAME: &str = "models.internal";
/// Descriptors of a process that are for something else than sessions.
const OTHER_DESCRIPTORS: u64 = 1_000;
/// Connections that wait for their session at once; the gateway has 512 of an agent wait.
const UNDER_WAY: usize = 256;
const PATIENCE: Duration = Duration::from_mins(1);

/// Raises the limit of descriptors for this process and those that it starts, as far as it goes, and says how many sessions the
/// gateway can have by it: each takes two.
pub(super) fn sessions(wanted: usize) -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let sessions = usize::try_from(most.saturating_sub(OTHER_DESCRIPTORS) / 2)?;
    if sessions < wanted {
        println!("only {sessions} of {wanted} sessions: a process may have {most} descriptors here");
    }
    Ok(sessions.min(wanted))
}

struct World {
    gateway: Gateway,
    _issuer: Issuer,
    /// Their ports.
    servers: Vec<u16>,
    env: Env,
}

impl World {
    fn new() -> Result<Self> {
        let env = Env::as_it_comes()?;
        let issuer = Issuer::start()?;
        let servers: Vec<u16> = (0..SERVERS).map(|_| holding_server()).collect::<Result<_>>()?;
        let addresses: Vec<String> = servers.iter().map(|server| format!("\"{NAME}:{server}\"")).collect();
        env.hosts(&[(NAME, Ipv4Addr::LOCALHOST.into())])?;
        env.configure(&format!(
            "max_sessions_per_agent = {}\n[identity]\nissuer = \"{}\"\naudience = \"weir\"\ninsecure = \"a benchmark's\"\n\n{}\n\
             [[target]]\nname = \"models\"\nprotocol = \"tls-passthrough\"\naddress = [{}]\n\n\
             [[rule]]\nname = \"models\"\ntargets = [\"models\"]\nkinds = [\"connect\"]\nthen = \"allow\"\n",
            SESSIONS + 1000,
            issuer.url(),
            env.agent_config(),
            addresses.join(", "),
        ))?;
        env.set_token(&issuer.token(&json!({}))?)?;
        let gateway = env.serve()?;
        Ok(Self { gateway, _issuer: issuer, servers, env })
    }

    fn open_sessions(&self) -> Result<u64> {
        let status = self.env.weir(["status", "--json"])?.expect_success()?;
        let status: Value = serde_json::from_str(&status)?;
        Ok(status["sessions"].as_u64().unwrap_or(0))
    }

    fn memory(&self) -> Result<u64> {
        memory(&self.gateway.pids()?)
    }
}

/// Bytes that processes have in memory.
pub(super) fn memory(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
    }
    Ok(sum)
}

/// A server that says a byte to whom it accepts, and keeps the connection.
fn holding_server() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        let greeted =
            listener.incoming().flatten().filter_map(|mut stream| stream.write_all(b"!").ok().map(|()| stream));
        greeted.collect::<Vec<_>>()
    });
    Ok(port)
}

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let sessions = sessions(SESSIONS)?;
    println!("preparing: a gateway before {SERVERS} servers that hold {sessions} connections");
    let world = World::new()?;
    let program = staged(&world.env)?;
    let mut connect =
        Row::new(format!("connect, p50, beside {sessions} sessions"), "us", "at most 1.5", &["none open", "weir"], 0);
    let mut memory = Row::new("memory of a session that does nothing", "KiB", "", &["weir"], 0);
    let mut rate = Row::new("sessions opened, each with its token and record", "/s", "", &["weir"], 0);

    for round in 0..plan.rounds {
        progress("connect, none open", round, plan);
        connect.add(0, connector_figure(world.env.agent(&program), &format!("{NAME}:{}", world.servers[0]))?);
    }
    let before = world.memory()?;
    progress("sessions", 0, plan);
    let started = Instant::now();
    let addresses = world.servers.iter().map(|port| format!("{NAME}:{port}"));
    let place = world.env.agent(&program).args(["hold", &sessions.to_string()]).args(addresses);
    let mut holder = place.into_command().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let opened = world.open_sessions()?;
    if line.trim() != "open" || opened < sessions as u64 {
        return Err(format!("{opened} of {sessions} sessions are open: {line:?}\n{}", world.env.log()).into());
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    {
        rate.add(0, sessions as f64 / started.elapsed().as_secs_f64());
        memory.add(0, world.memory()?.saturating_sub(before) as f64 / 1024.0 / sessions as f64);
    }
    for round in 0..plan.rounds {
        progress("connect, sessions open", round, plan);
        connect.add(1, connector_figure(world.env.agent(&program), &format!("{NAME}:{}", world.servers[0]))?);
    }
    drop(holder.stdin.take());
    holder.wait()?;
    Ok(vec![connect, memory, rate])
}

/// Opens so many sessions, each begun with a `ClientHello`, says so, and holds them until its input ends.
pub(super) fn hold(count: &str, addresses: &[&str]) -> Result {
    let count: usize = count.parse()?;
    let addresses: Vec<SocketAddr> = addresses.iter().map(|address| resolved(address)).collect::<Result<_>>()?;
    let hello = client_hello(NAME);
    let mut open: Vec<TcpStream> = Vec::with_capacity(count);
    while open.len() < count {
        let first = open.len();
        for number in first..count.min(first + UNDER_WAY) {
            let mut stream = TcpStream::connect(addresses[number % addresses.len()])?;
            stream.write_all(&hello)?;
            open.push(stream);
        }
        // A session is open when its server has it.
        for stream in &mut open[first..] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut [0])?;
        }
    }
    println!("open");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The least that asks for a name (RFC 8446 section 4.1.2, RFC 6066 section 3).
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |width: usize, body: &[u8]| -> Vec<u8> {
        let length = body.len().to_be_bytes();
        [&length[length.len() - width..], body].concat()
    };
    let entry = [&[0], &sized(2, name.as_bytes())[..]].concat();
    let extensions = [&[0, 0], &sized(2, &sized(2, &entry))[..]].concat();
    let body =
        [&[3, 3][..], &[7; 32], &sized(1, &[]), &sized(2, &[0x13, 0x01]), &sized(1, &[0]), &sized(2, &extensions)]
            .concat();
    let handshake = [&[1], &sized(3, &body)[..]].concat();
    [&[22, 3, 1], &sized(2, &handshake)[..]].concat()
}
