//! The attack corpus: `bypass TECHNIQUE KEY=VALUE...` tries one way around the gateway and says what came of it, in one
//! line: `blocked ERRNO`, `closed` (somebody took the connection and ended it), `answer TEXT`, or `done WHAT` (nothing
//! stopped it). What should come of it stands in one table, in `tests/tests/bypass.rs`.
//!
//! A technique knows nothing of Weir but what an attacker on the host can see: ports, paths, process numbers. It panics
//! where it could not even try, which is a failed test and no success of Weir's.

mod datagram;
mod handed;
mod inbound;
mod local;
mod names;
mod options;
mod privilege;
mod stream;
mod sys;
mod uring;
mod user_mode;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use nix::errno::Errno;

use crate::sys::Attempt;

/// What nothing stopped.
enum Outcome {
    /// The connection was taken and ended without a word.
    Closed,
    /// Somebody answered.
    Answer(String),
    /// The calls succeeded.
    Done(&'static str),
}

/// What an attacker knows of the place.
struct Scene {
    arguments: Vec<(String, String)>,
}

impl Scene {
    fn text(&self, key: &str) -> &str {
        let found = self.arguments.iter().find(|(name, _)| name == key);
        found.map_or_else(|| panic!("the argument {key}= is missing"), |(_, value)| value)
    }

    fn number(&self, key: &str) -> u32 {
        self.text(key).parse().unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    fn port(&self, key: &str) -> u16 {
        self.text(key).parse().unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// A server outside, which no target names: what answers `direct` there was reached past the gateway.
    fn canary(&self) -> SocketAddr {
        self.outside("canary")
    }

    fn canary6(&self) -> SocketAddr {
        self.outside("canary6")
    }

    /// This attempt's own port tells its packets and records from all others.
    fn outside(&self, key: &str) -> SocketAddr {
        let ip: IpAddr = self.text(key).parse().unwrap_or_else(|error| panic!("{key}: {error}"));
        SocketAddr::new(ip, self.port("port"))
    }
}

type Technique = (&'static str, fn(&Scene) -> Attempt<Outcome>);

const ALL: [&[Technique]; 10] = [
    stream::TECHNIQUES,
    datagram::TECHNIQUES,
    names::TECHNIQUES,
    options::TECHNIQUES,
    uring::TECHNIQUES,
    handed::TECHNIQUES,
    local::TECHNIQUES,
    privilege::TECHNIQUES,
    inbound::TECHNIQUES,
    user_mode::TECHNIQUES,
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let arguments =
        words.filter_map(|word| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    let scene = Scene { arguments: arguments.collect() };
    if name == "list" {
        for (name, _) in ALL.into_iter().flatten() {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    match name.as_str() {
        "accomplice" => handed::accomplice(&scene),
        "hold" => handed::hold(&scene),
        _ => {}
    }
    let Some((_, technique)) = ALL.into_iter().flatten().find(|(known, _)| *known == name) else {
        eprintln!("usage: bypass list | accomplice KEY=VALUE... | hold KEY=VALUE... | TECHNIQUE KEY=VALUE...");
        return ExitCode::from(2);
    };
    match technique(&scene) {
        Ok(Outcome::Closed) => println!("closed"),
        Ok(Outcome::Answer(text)) => println!("answer {text}"),
        Ok(Outcome::Done(what)) => println!("done {what}"),
        Err(errno) => println!("blocked {}", name_of(errno)),
    }
    ExitCode::SUCCESS
}

/// `EPERM` and the like.
fn name_of(errno: Errno) -> String {
    format!("{errno:?}")
}
