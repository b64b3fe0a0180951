//! What agents would be told of a target's name now, for `weir doctor`.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime;

use super::message::Family;
use super::names::Names;
use super::upstream::{self, Found, Upstream};
use crate::config::Config;

/// What a name resolves to.
#[derive(Debug, Default)]
pub(crate) struct Preview {
    pub(crate) told: Vec<IpAddr>,
    /// Each with the reason why no agent is told.
    pub(crate) untold: Vec<(IpAddr, String)>,
}

/// Asks as the agents' resolver does, for an agent that may connect to every target of this name. Blocks.
pub(crate) fn preview(config: &Arc<Config>, name: &str) -> Result<Preview, String> {
    let names = Names::new(Arc::clone(config));
    let asked = names.asked_by_all(name).ok_or("no target has this name")?;
    let fixed = asked.fixed();
    if !fixed.is_empty() {
        return Ok(Preview { told: fixed, untold: Vec::new() });
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let upstream = Upstream::new(&config.dns_servers, runtime.handle().clone());
    let (v4, v6) = runtime
        .block_on(async { tokio::join!(upstream.addresses(name, Family::V4), upstream.addresses(name, Family::V6)) });
    let mut preview = Preview::default();
    let mut failed = None;
    for found in [v4, v6] {
        match found {
            Ok(Found::Records { records, fixed: true, .. }) => preview.told.extend(records),
            Ok(Found::Records { records, .. }) => {
                for address in records {
                    match names.objection(&asked, address, upstream::is_own(address)) {
                        None => preview.told.push(address),
                        Some(why) => preview.untold.push((address, why)),
                    }
                }
            }
            Ok(Found::Nothing) => {}
            Ok(Found::NoName) => return Err("there is no such name".to_owned()),
            Err(error) => failed = Some(error),
        }
    }
    // Servers that know addresses of one family only, and fail for the other, are common: agents that ask for the one get it.
    match failed {
        Some(error) if preview.told.is_empty() && preview.untold.is_empty() => Err(error),
        _ => Ok(preview),
    }
}
