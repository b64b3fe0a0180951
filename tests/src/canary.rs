//! A server on the loopback device, where no device guards it, that no agent may reach: whoever does was not intercepted.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

/// Answers `direct` to whoever connects, and counts them. It lives as long as the process.
pub struct Canary {
    port: u16,
    reached: Arc<AtomicUsize>,
}

impl Canary {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                // Who does not wait for the answer was counted all the same.
                let _ = stream.write_all(b"direct\n");
            }
        });
        Ok(Self { port, reached })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many have connected so far.
    pub fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }
}
