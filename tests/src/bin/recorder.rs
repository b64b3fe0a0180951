//! Records as fast as it can, and says of every durable record that it is one, until it is killed: `recorder DIRECTORY`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use system_tests::Result;
use system_tests::recording::{denied, open, opened};
use weir::ids::SessionId;
use weir::record::Store;

const PRODUCERS: u32 = 8;
/// Every so many-th record is waited for.
const DURABLE: u32 = 5;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: recorder DIRECTORY")?);
    let store = Arc::new(open(&directory)?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut producers = Vec::new();
    for producer in 0..PRODUCERS {
        let id = SessionId::new(u64::try_from(now)?, producer);
        producers.push(tokio::spawn(produce(Arc::clone(&store), id)));
    }
    for producer in producers {
        producer.await??;
    }
    Ok(())
}

async fn produce(store: Arc<Store>, id: SessionId) -> Result {
    store.recorder().append_durable(opened(id)).await?;
    for number in 1.. {
        let event = denied(id.operation(number), "DROP TABLE customers");
        if number % DURABLE == 0 {
            store.recorder().append_durable(event).await?;
            println!("{}", id.operation(number));
        } else {
            store.recorder().append(event).await?;
        }
    }
    Ok(())
}
