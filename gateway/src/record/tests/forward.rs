//! A store that is replaced by another one.

use super::super::forward::{Cancel, Order, Predecessor, Reading, Successor};
use super::*;

/// A store that has been replaced by another one, which hears it on a thread.
struct Replaced {
    first: Store,
    second: Arc<Store>,
    predecessor: Arc<Predecessor>,
    hearing: std::thread::JoinHandle<Reading>,
    orders: tokio::sync::mpsc::Receiver<Order>,
}

/// The first store has `open` open.
fn replaced(directory: &TempDir, open_session: SessionId) -> Replaced {
    let first = open(directory);
    first.recorder().append_now(&opened(open_session));
    first.release().unwrap();
    let living = HashSet::from([open_session]);
    let second = Arc::new(Store::open(&config(directory.path()), LIMITS, started(), &living).unwrap());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let predecessor = Arc::new(Predecessor::new(theirs, living).unwrap());
    let (hears, heard) = (Arc::clone(&second), Arc::clone(&predecessor));
    let hearing = std::thread::spawn(move || heard.record(hears.recorder()));
    let (successor, orders) = Successor::new(ours).unwrap();
    first.forward(successor).unwrap();
    Replaced { first, second, predecessor, hearing, orders }
}

async fn outcomes(store: &Store) -> Vec<Option<String>> {
    let rows = store.sessions(Filter::default()).await.unwrap();
    rows.into_iter().map(|row| row.outcome).collect()
}

#[tokio::test]
async fn a_store_that_was_replaced_records_through_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let Replaced { first, second, hearing, .. } = replaced(&directory, id(1));
    assert_eq!(outcomes(&second).await, [None], "it goes on, and is not lost");
    first.recorder().append_durable(opened(id(2))).await.unwrap();
    assert_eq!(second.records(id(2)).await.unwrap().next().await.unwrap().unwrap().event, opened(id(2)));
    first.recorder().append(closed(id(1))).await.unwrap();
    first.recorder().append(closed(id(2))).await.unwrap();
    first.close("the end");
    assert_eq!(hearing.join().unwrap(), Reading::Ended);
    assert_eq!(second.close_lost(&HashSet::from([id(1), id(2)])).unwrap(), 0);
    second.close("the end");
    drop(second);
    assert_eq!(verdict(&directory).verdict, Verdict::SelfConsistent);
}

#[tokio::test]
async fn sessions_of_a_store_that_is_lost_after_it_was_replaced_are_closed() {
    let directory = tempfile::tempdir().unwrap();
    let Replaced { first, second, predecessor, hearing, orders } = replaced(&directory, id(1));
    first.recorder().append_durable(opened(id(2))).await.unwrap();
    first.recorder().append_durable(closed(id(2))).await.unwrap();
    // As at its death.
    nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(predecessor.stream()), nix::sys::socket::Shutdown::Both)
        .unwrap();
    assert_eq!(hearing.join().unwrap(), Reading::Ended);
    assert_eq!(second.close_lost(&predecessor.sessions()).unwrap(), 1);
    let rows = outcomes(&second).await;
    assert!(rows.contains(&Some(GATEWAY_LOST.to_owned())) && !rows.contains(&None), "{rows:?}");
    // And here nothing passes for recorded.
    assert!(first.recorder().append_durable(opened(id(3))).await.is_err());
    drop(orders);
}

#[tokio::test]
async fn a_predecessor_is_passed_on_between_two_records_and_told_what_it_has_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let Replaced { first, second, predecessor, hearing, mut orders } = replaced(&directory, id(1));
    first.recorder().append_durable(opened(id(2))).await.unwrap();
    let kill = Order::Kill { session: id(2), by: "alice".to_owned() };
    predecessor.order(kill.clone());
    let cancel = Order::Cancel(Cancel { cgroup_id: 1 << 40, uid: 1000, process: 7, key: vec![9; 32] });
    predecessor.order(cancel.clone());
    predecessor.order(Order::Reload);
    assert_eq!(
        (orders.recv().await, orders.recv().await, orders.recv().await),
        (Some(kill), Some(cancel), Some(Order::Reload))
    );
    predecessor.pass_on();
    assert_eq!(hearing.join().unwrap(), Reading::PassedOn);
    second.release().unwrap();

    let living = predecessor.sessions().clone();
    assert_eq!(living, HashSet::from([id(1), id(2)]));
    let third = Arc::new(Store::open(&config(directory.path()), LIMITS, started(), &living).unwrap());
    let next = Predecessor::new(predecessor.stream().try_clone().unwrap(), living).unwrap();
    let hears = Arc::clone(&third);
    let hearing = std::thread::spawn(move || next.record(hears.recorder()));
    first.recorder().append_durable(closed(id(1))).await.unwrap();
    first.recorder().append_durable(closed(id(2))).await.unwrap();
    let rows = outcomes(&third).await;
    assert!(
        rows.len() == 2 && rows.iter().all(|outcome| outcome.as_deref() == Some("closed by the client")),
        "{rows:?}"
    );
    first.close("the end");
    drop((first, predecessor));
    assert_eq!(hearing.join().unwrap(), Reading::Ended);
}
