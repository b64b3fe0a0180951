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
    let mut preview = Preview::default();
    for family in [Family::V4, Family::V6] {
        match runtime.block_on(upstream.addresses(name, family))? {
            Found::Records { records, fixed: true, .. } => preview.told.extend(records),
            Found::Records { records, .. } => {
                for address in records {
                    match names.objection(&asked, address, upstream::is_own(address)) {
                        None => preview.told.push(address),
                        Some(why) => preview.untold.push((address, why)),
                    }
                }
            }
            Found::Nothing => {}
            Found::NoName => return Err("there is no such name".to_owned()),
        }
    }
    Ok(preview)
}
