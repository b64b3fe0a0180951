//! Which lines a list of what happened has.

use std::time::Duration;

use clap::Args;

use super::time;
use crate::admin::MAX_LISTED;

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only this agent's.
    #[arg(long, value_name = "NAME")]
    pub(super) agent: Option<String>,
    /// Only to this target.
    #[arg(long, value_name = "NAME")]
    pub(super) target: Option<String>,
    /// Only those since: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = time::parse_span)]
    since: Option<Duration>,
    /// The newest so many.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_LISTED)))]
    pub(super) limit: u32,
}

impl Which {
    /// Nanoseconds since the epoch.
    pub(super) fn since_ns(&self) -> Option<u64> {
        self.since.map(time::ago_ns)
    }
}
