//! How long the gateway thinks about a statement that it has seen before, by its own account (`weir status`).

use std::time::Duration;

use serde_json::Value;
use system_tests::Result;

use super::{Plan, Row, Stage, progress};

pub(super) const NAME_OF_ROWS: &str = "verdict of a statement seen before";

pub(super) fn rows(stage: &Stage, plan: &Plan) -> Result<Vec<Row>> {
    let row = |name: &str, aim| Row::new(format!("{NAME_OF_ROWS}, {name}"), "us", aim, &["weir"], 0);
    let mut rows = vec![row("half within", "under 3"), row("99 % within", "")];
    for round in 0..plan.rounds {
        progress(NAME_OF_ROWS, round, plan);
        let (seconds, limit) = (plan.seconds.to_string(), Duration::from_secs(u64::from(plan.seconds) + 30));
        for protocol in ["simple", "prepared"] {
            let words = ["-n", "-S", "-M", protocol, "-c", "8", "-T", &seconds];
            stage.agent("pgbench").args(words).start()?.finish(limit)?.expect_success()?;
        }
        let status = stage.shop.env.weir(["status", "--json"])?.expect_success()?;
        let status: Value = serde_json::from_str(&status)?;
        for (row, figure) in rows.iter_mut().zip(["median_ns", "p99_ns"]) {
            let ns = status["verdicts"][figure].as_f64().ok_or("status does not tell of verdicts")?;
            row.add(0, ns / 1000.0);
        }
    }
    Ok(rows)
}
