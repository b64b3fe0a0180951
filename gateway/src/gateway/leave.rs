//! How a gateway is replaced: it stops accepting, gives what it has to the next one (see [`crate::handover`]), and goes on with
//! its sessions.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CLOSING_TIME, STOPPING, StopSignals, last_session};
use crate::engine::Engine;
use crate::handover::{Estate, Offer, SUCCESSOR_WITHIN};
use crate::record::forward::{Order, Successor};
use crate::supervise::Supervisor;
use crate::witness::Witness;

/// Cancel requests that are passed on to targets at once; of more, some are lost.
const MAX_CANCELLING: usize = 64;

/// Stops accepting, leaves everything to the next gateway, and goes on with the sessions that are open. Says how it ended.
pub(super) async fn leave(
    engine: &Engine,
    witness: &Witness,
    supervisor: Supervisor,
    estate: Estate,
    stop: &watch::Sender<Option<Duration>>,
    signals: &mut StopSignals,
) -> &'static str {
    let drain = engine.config().gateway.drain;
    let _ = stop.send(Some(SUCCESSOR_WITHIN + drain + CLOSING_TIME));
    match hand_over(engine, witness, supervisor, estate, signals).await {
        Ok(Some(orders)) => {
            tracing::info!("replaced; open sessions go on");
            go_on(engine, witness, orders, drain, signals).await;
            "replaced; its last session has ended"
        }
        Ok(None) => {
            engine.live().kill_all(STOPPING);
            "told to stop"
        }
        Err(error) => {
            tracing::error!(%error, "no other gateway takes over");
            engine.live().kill_all(STOPPING);
            engine.store().abandon();
            "failed to be replaced"
        }
    }
}

/// Gives the next gateway all it needs; `None` where none comes. Steps block the thread, which has nothing else to do: the
/// sessions have theirs.
async fn hand_over(
    engine: &Engine,
    witness: &Witness,
    supervisor: Supervisor,
    estate: Estate,
    signals: &mut StopSignals,
) -> io::Result<Option<Receiver<Order>>> {
    witness.retire().await.map_err(io::Error::other)?;
    engine.approvals().close();
    let offer = Offer::open(&engine.config().gateway.runtime_dir)?;
    supervisor.let_go()?;
    let come = async {
        loop {
            let heir = offer.next(witness).await?;
            // The next gateway has another configuration, perhaps, and what agents may know and do here has to follow.
            engine.follow().await;
            match heir.give(&estate, &engine.dns().told()) {
                Ok(()) => return Ok::<_, io::Error>(heir),
                Err(error) => tracing::warn!(%error, "a gateway went away while it took over"),
            }
        }
    };
    let heir = tokio::select! {
        heir = timeout(SUCCESSOR_WITHIN, come) => match heir {
            Ok(heir) => heir?,
            Err(_) => return Ok(None),
        },
        () = signals.told() => return Ok(None),
        () = witness.lost() => return Err(io::Error::other("the witness died")),
    };
    let predecessors = engine.predecessors().pass_on();
    // Before and after the last record that is written here: those that end in between have their closing record in the queue,
    // and those that begin are listed before their first record is written.
    let before = engine.live().ids();
    engine.store().release().map_err(io::Error::other)?;
    let sessions: HashSet<_> = before.into_iter().chain(engine.live().ids()).collect();
    let sessions: Vec<_> = sessions.into_iter().collect();
    let (successor, orders) = Successor::new(heir.give_recording(&sessions, &predecessors)?)?;
    engine.store().forward(successor).map_err(io::Error::other)?;
    Ok(Some(orders))
}

/// Serves the sessions that are open to their end, for `drain` at most and only while the next gateway records.
async fn go_on(
    engine: &Engine,
    witness: &Witness,
    mut orders: Receiver<Order>,
    drain: Duration,
    signals: &mut StopSignals,
) {
    let mut cancelling = JoinSet::new();
    let ordered = async {
        while let Some(order) = orders.recv().await {
            match order {
                Order::Kill { session, by } => _ = engine.kill(session, &by),
                Order::Cancel(wanted) => {
                    while cancelling.try_join_next().is_some() {}
                    if cancelling.len() < MAX_CANCELLING {
                        cancelling.spawn(engine.protocols().cancel(wanted));
                    }
                }
                Order::Reload => engine.follow().await,
            }
        }
    };
    let by = tokio::select! {
        () = last_session(engine) => return,
        () = signals.told() => STOPPING,
        () = ordered => "the gateway, since the one that took over is gone",
        () = witness.lost() => "the gateway, whose witness died",
        () = tokio::time::sleep(drain) => "the gateway, which was replaced some time ago",
    };
    engine.live().kill_all(by);
}
