//! What the gateway answers.

use serde::{Deserialize, Serialize};

use crate::witness::AttachmentReport;

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
    pub agents: u64,
    pub targets: u64,
    pub rules: u64,
    pub masks: u64,
    /// Sessions that are open, approvals that wait.
    pub sessions: u64,
    pub approvals: u64,
    /// None: the witness did not answer.
    pub kernel: Option<AttachmentReport>,
    /// What somebody should look at.
    pub problems: Vec<String>,
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
