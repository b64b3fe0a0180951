//! Passing bytes both ways, unread: for connections whose content the gateway has no business with.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// What any such connection gets.
pub const LIMITS: Limits = Limits { idle: Duration::from_mins(15), lifetime: Duration::from_hours(24) };
/// Of each direction.
const BUFFER: usize = 32 << 10;

/// A connection in which nothing moves is closed, and so is one that has lasted too long.
#[derive(Clone, Copy)]
pub struct Limits {
    pub idle: Duration,
    pub lifetime: Duration,
}

/// What went through, and why it stopped.
#[derive(Debug)]
pub struct Passed {
    pub up: u64,
    pub down: u64,
    pub end: End,
}

#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("closed")]
    Closed,
    #[error("nothing moved for too long")]
    Idle,
    #[error("the connection lasted too long")]
    Lifetime,
    #[error("the client's side failed: {0}")]
    Client(io::Error),
    #[error("the target's side failed: {0}")]
    Target(io::Error),
    #[error("{0}")]
    Stopped(String),
}

/// Bytes passed, and when something last moved.
struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    started: Instant,
    /// Milliseconds after `started`.
    moved: AtomicU64,
}

impl Meter {
    fn new() -> Self {
        Self { up: AtomicU64::new(0), down: AtomicU64::new(0), started: Instant::now(), moved: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Completes when nothing has moved for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let deadline = self.started + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Passes bytes both ways until both sides have closed, one fails, or nothing moves any more. A side that closes its
/// half leaves the other half open.
pub async fn splice<C, T>(client: C, target: T, limits: Limits, stopped: impl Future<Output = String>) -> Passed
where
    C: AsyncRead + AsyncWrite,
    T: AsyncRead + AsyncWrite,
{
    let meter = Meter::new();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_target, mut to_target) = tokio::io::split(target);
    let upwards = async {
        let pumped = pump(&mut from_client, &mut to_target, &meter.up, &meter).await;
        pumped.map_err(|failed| failed.side(End::Client, End::Target))
    };
    let downwards = async {
        let pumped = pump(&mut from_target, &mut to_client, &meter.down, &meter).await;
        pumped.map_err(|failed| failed.side(End::Target, End::Client))
    };
    let both = async { tokio::try_join!(upwards, downwards).map_or_else(|end| end, |_| End::Closed) };
    let end = tokio::select! {
        end = both => end,
        () = meter.idle(limits.idle) => End::Idle,
        () = tokio::time::sleep(limits.lifetime) => End::Lifetime,
        why = stopped => End::Stopped(why),
    };
    Passed { up: meter.up.load(Ordering::Relaxed), down: meter.down.load(Ordering::Relaxed), end }
}

enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Failed {
    fn side(self, reading: fn(io::Error) -> End, writing: fn(io::Error) -> End) -> End {
        match self {
            Self::Reading(error) => reading(error),
            Self::Writing(error) => writing(error),
        }
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    passed: &AtomicU64,
    meter: &Meter,
) -> Result<(), Failed> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await.map_err(Failed::Reading)?;
        meter.touch();
        if length == 0 {
            return to.shutdown().await.map_err(Failed::Writing);
        }
        to.write_all(&buffer[..length]).await.map_err(Failed::Writing)?;
        meter.touch();
        passed.fetch_add(length as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// A splice under way, with the far ends of both its sides.
    fn spliced(limits: Limits) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Passed>) {
        let (client, near) = duplex(1 << 10);
        let (target, far) = duplex(1 << 10);
        (client, target, tokio::spawn(splice(near, far, limits, std::future::pending())))
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_halves_close_apart() {
        let (mut client, mut target, passed) = spliced(LIMITS);
        let request = vec![7; 100_000];
        let mut got = Vec::new();
        let ask = async {
            client.write_all(&request).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let ((), read) = tokio::join!(ask, target.read_to_end(&mut got));
        assert_eq!((read.unwrap(), &got), (100_000, &request));
        // The client has said all it wanted; the answer still comes.
        target.write_all(b"answer").await.unwrap();
        target.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let passed = passed.await.unwrap();
        assert_eq!((answer.as_str(), passed.up, passed.down), ("answer", 100_000, 6));
        assert!(matches!(passed.end, End::Closed));
    }

    #[tokio::test]
    async fn the_side_that_fails_is_named() {
        let (mut client, target, passed) = spliced(LIMITS);
        drop(target);
        client.write_all(b"x").await.unwrap();
        assert!(matches!(passed.await.unwrap().end, End::Target(_)));
    }

    #[tokio::test]
    async fn what_stands_still_or_lasts_too_long_is_closed() {
        let soon = Duration::from_millis(20);
        let (mut client, mut target, passed) = spliced(Limits { idle: soon, ..LIMITS });
        client.write_all(b"x").await.unwrap();
        target.read_u8().await.unwrap();
        let passed = passed.await.unwrap();
        assert!(matches!(passed.end, End::Idle) && passed.up == 1);

        let (mut client, mut target, passed) = spliced(Limits { lifetime: soon, ..LIMITS });
        let chatter = async { while client.write_all(b"x").await.is_ok() && target.read_u8().await.is_ok() {} };
        let ((), passed) = tokio::join!(chatter, passed);
        assert!(matches!(passed.unwrap().end, End::Lifetime));
    }
}
