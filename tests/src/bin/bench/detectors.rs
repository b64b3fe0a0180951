//! What detectors cost a row: on this thread, without a gateway around them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::Result;
use weir::mask::{CellFormat, CellType, ColumnMasks, DetectorKind, MaskKind, MaskRule, Masker};

use super::{Plan, Row, progress};

pub(super) const NAME_OF_ROWS: &str = "detectors, raw rows and single values";

/// Rows of the data, and bytes that are looked at in one go, as they come from a socket.
const DATA_ROWS: u32 = 20_000;
const PIECE: usize = 16 << 10;

const TWO: [DetectorKind; 2] = [DetectorKind::CreditCard, DetectorKind::AwsAccessKey];

fn masker(detectors: &[DetectorKind]) -> Masker {
    let mask = MaskRule {
        name: "secrets".to_owned(),
        targets: Vec::new(),
        columns: Vec::new(),
        detectors: detectors.to_vec(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    };
    Masker::for_target(&[Arc::new(mask)], "orders")
}

/// The values of a row that has nothing to find: a number, a name, a time, a uuid, an amount, a sentence, a flag.
fn values(number: u32) -> [String; 7] {
    [
        number.to_string(),
        format!("Customer {number} of Somewhere"),
        format!("2026-11-{:02} 08:{:02}:02.{:06}+00", number % 28 + 1, number % 60, number * 37 % 1_000_000),
        format!("550e8400-e29b-41d4-a716-4466{:08x}", number.wrapping_mul(2_654_435_761)),
        format!("{}.{:02}", number % 1000, number % 100),
        "shipped to the usual place, no remarks".to_owned(),
        "t".to_owned(),
    ]
}

/// As they come from the target.
fn messages() -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in 0..DATA_ROWS {
        let mut body = 7u16.to_be_bytes().to_vec();
        for value in values(row) {
            body.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            body.extend(value.into_bytes());
        }
        bytes.push(b'D');
        bytes.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(body);
    }
    bytes
}

/// How often a second `work` is done.
fn rate(plan: &Plan, mut work: impl FnMut() -> Result) -> Result<f64> {
    let (started, length) = (Instant::now(), Duration::from_secs(plan.seconds.into()) / 10);
    let mut times = 0u32;
    while started.elapsed() < length {
        work()?;
        times += 1;
    }
    Ok(f64::from(times) / started.elapsed().as_secs_f64())
}

/// What is measured is looking, so nothing may be found.
fn nothing(so: bool) -> Result {
    if so { Ok(()) } else { Err("there is nothing to find, and something was".into()) }
}

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let ways = ["credit_card, aws_access_key", "all detectors"];
    let mut raw = Row::new("raw rows looked through", "MB/s", "", &ways, 0);
    let mut single = Row::new("a value looked at by itself", "ns", "", &ways, 0);
    let messages = messages();
    let maskers = [masker(&TWO), masker(&DetectorKind::ALL)];
    let format = CellFormat::Text(CellType::Text);
    for round in 0..plan.rounds {
        progress("detectors", round, plan);
        for (way, masker) in maskers.iter().enumerate() {
            let passes = rate(plan, || nothing(messages.chunks(PIECE).all(|piece| !masker.may_contain(piece))))?;
            #[expect(clippy::cast_precision_loss, reason = "megabytes")]
            raw.add(way, passes * messages.len() as f64 / 1e6);
            let columns = (0..7).map(|_| ColumnMasks {
                masks: Cow::Borrowed(&[]),
                computed: false,
                format,
                width: None,
                parts: None,
            });
            let row = masker.plan(columns);
            let values = values(round);
            let cells = || values.iter().enumerate();
            let look = |(index, value): (usize, &String)| masker.mask_cell(&row, index, Some(value.as_bytes())).hits;
            let looks = rate(plan, || nothing(cells().all(|cell| look(cell).is_empty())))?;
            single.add(way, 1e9 / looks / 7.0);
        }
    }
    Ok(vec![raw, single])
}
