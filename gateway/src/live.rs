//! The sessions that are open now: how many there may be, and how they are ended from outside.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ids::SessionId;

/// Sessions open at once; one more is refused.
pub const MAX_SESSIONS: usize = 65_536;

/// A session as others see it while it lives.
pub struct Live {
    agent: String,
    killed: AtomicBool,
    killer: Mutex<String>,
    wake: Notify,
}

/// All of them.
#[derive(Default)]
pub struct LiveSessions {
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    sessions: HashMap<SessionId, Arc<Live>>,
    /// How many each agent has; none that has none.
    of_agent: HashMap<String, usize>,
    /// Who ended all sessions: there are to be none any more.
    closed: Option<String>,
}

/// Why there cannot be one more session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The connection was accepted before, and its session would live on with nobody to end it.
    #[error("all sessions were ended by {0}; connect again")]
    Ended(String),
    #[error("{MAX_SESSIONS} sessions are open; try again later")]
    All,
    #[error("agent {agent:?} has {most} sessions open, and may not have more at once; close some first")]
    OfAgent { agent: String, most: usize },
}

impl Live {
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Who ended the session from outside.
    pub fn killer(&self) -> String {
        self.killer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until somebody ends the session.
    pub async fn killed(&self) -> String {
        let woken = self.wake.notified();
        if !self.is_killed() {
            woken.await;
        }
        self.killer()
    }

    fn kill(&self, by: &str) {
        by.clone_into(&mut self.killer.lock().unwrap_or_else(PoisonError::into_inner));
        self.killed.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }
}

impl LiveSessions {
    /// One more, of which its agent may have `most`.
    pub fn admit(&self, id: SessionId, agent: &str, most: usize) -> Result<Arc<Live>, NoRoom> {
        let mut inside = self.lock();
        if let Some(by) = &inside.closed {
            return Err(NoRoom::Ended(by.clone()));
        }
        if inside.sessions.len() >= MAX_SESSIONS {
            return Err(NoRoom::All);
        }
        let has = inside.of_agent.get(agent).copied().unwrap_or(0);
        if has >= most {
            return Err(NoRoom::OfAgent { agent: agent.to_owned(), most });
        }
        inside.of_agent.insert(agent.to_owned(), has + 1);
        let live = Arc::new(Live {
            agent: agent.to_owned(),
            killed: AtomicBool::new(false),
            killer: Mutex::default(),
            wake: Notify::new(),
        });
        inside.sessions.insert(id, Arc::clone(&live));
        Ok(live)
    }

    pub fn forget(&self, id: SessionId) {
        let mut inside = self.lock();
        let Some(live) = inside.sessions.remove(&id) else { return };
        if let Some(count) = inside.of_agent.get_mut(&live.agent) {
            *count -= 1;
            if *count == 0 {
                inside.of_agent.remove(&live.agent);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lock().sessions.is_empty()
    }

    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    pub fn ids(&self) -> Vec<SessionId> {
        self.lock().sessions.keys().copied().collect()
    }

    /// Ends a session at its next step; false if there is none of that ID.
    pub fn kill(&self, id: SessionId, by: &str) -> bool {
        self.lock().sessions.get(&id).inspect(|live| live.kill(by)).is_some()
    }

    /// Ends every session at its next step, and lets no more begin.
    pub fn kill_all(&self, by: &str) {
        let mut inside = self.lock();
        inside.closed.get_or_insert_with(|| by.to_owned());
        inside.sessions.values().for_each(|live| live.kill(by));
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> SessionId {
        SessionId::new(1, number)
    }

    #[test]
    fn an_agent_has_so_many_and_a_place_again_when_one_ends() {
        let sessions = LiveSessions::default();
        for number in 0..3 {
            sessions.admit(id(number), "coder", 3).unwrap();
        }
        let full = sessions.admit(id(3), "coder", 3).err();
        assert_eq!(full, Some(NoRoom::OfAgent { agent: "coder".to_owned(), most: 3 }));
        assert!(sessions.admit(id(4), "tester", 3).is_ok());
        sessions.forget(id(0));
        // What is forgotten twice counts once.
        sessions.forget(id(0));
        assert!(sessions.admit(id(5), "coder", 3).is_ok());
        assert!(sessions.admit(id(6), "coder", 3).is_err());
        sessions.ids().into_iter().for_each(|id| sessions.forget(id));
        let inside = sessions.lock();
        assert!(inside.sessions.is_empty() && inside.of_agent.is_empty());
    }

    #[test]
    fn all_have_so_many_places() {
        let sessions = LiveSessions::default();
        let mut number = 0..;
        let mut admit = || sessions.admit(id(number.next().unwrap()), "coder", usize::MAX);
        assert!((0..MAX_SESSIONS).all(|_| admit().is_ok()));
        assert_eq!(admit().err(), Some(NoRoom::All));
    }

    #[tokio::test]
    async fn nobody_begins_after_all_were_ended() {
        let sessions = LiveSessions::default();
        let live = sessions.admit(id(1), "coder", 1).unwrap();
        sessions.kill_all("root");
        assert_eq!(live.killed().await, "root");
        assert_eq!(sessions.admit(id(2), "tester", 1).err(), Some(NoRoom::Ended("root".to_owned())));
    }
}
