use std::time::SystemTime;

use super::*;

#[test]
fn a_batch_is_judged_by_every_statement() {
    let parsed = analyse_blocking("select 1; drop table t", &TaggedSet::empty(SystemTime::UNIX_EPOCH));
    let kinds: Vec<Kind> = parsed.actions().iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::Select, Kind::Drop]);
}
