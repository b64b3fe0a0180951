//! What the gateway answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Mode;

/// The gateway at this moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: u64,
    pub observe: bool,
    /// Version of the configuration in force.
    pub config: String,
    pub agents: usize,
    pub targets: usize,
    pub rules: usize,
    pub masks: usize,
    pub approvals: usize,
    /// The kernel's counters, by name.
    pub counters: BTreeMap<String, u64>,
}

impl From<Mode> for bool {
    /// Whether it only observes.
    fn from(mode: Mode) -> Self {
        mode == Mode::Observe
    }
}

impl super::Backend for crate::engine::Engine {
    fn config(&self) -> std::sync::Arc<crate::config::Config> {
        self.config()
    }

    async fn record(&self, action: super::Action) -> Result<(), super::LedgerError> {
        self.recorder().append_durable(crate::record::event::Event::AdminAction(Box::new(action))).await?;
        Ok(())
    }

    async fn answer(
        &self,
        _request: super::Request,
        _by: super::Approver,
        _items: &super::Items,
    ) -> Result<(), super::Failure> {
        Err(super::Failure { kind: super::FailureKind::Failed, message: "not there yet".to_owned() })
    }
}
