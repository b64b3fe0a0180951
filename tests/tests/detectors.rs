//! How much of what detectors are for they find, and how much else: measured on sentences that Faker makes of Presidio's
//! templates and of lines of configuration, with labels (`detectors/corpus.py`). What is told here is in README, and a
//! detector that becomes worse fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;

use system_tests::Result;
use weir::mask::{DetectorKind, MaskKind, MaskRule, Masker};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/detectors/corpus.py");
/// The corpus that is measured: another one has other figures, by a percent or so.
const SEED: &str = "1";
/// Fewer sentences, or fewer entities of a kind, would show nothing.
const MIN_SENTENCES: usize = 4_000;
const MIN_ENTITIES: usize = 50;
const MIN_HIDDEN: usize = 2_500;
/// What of a detector's mistakes is shown.
const SHOWN: usize = 5;

/// A little under what was measured, in per cent: of the entities of a detector from one source so many are found whole.
const RECALL: [(DetectorKind, &str, f64); 14] = [
    (DetectorKind::CreditCard, "faker", 89.0),
    (DetectorKind::Email, "faker", 99.0),
    (DetectorKind::Phone, "faker, United States", 85.0),
    (DetectorKind::Phone, "faker, eight other countries", 70.0),
    (DetectorKind::Phone, "presidio's formats", 80.0),
    (DetectorKind::UsSsn, "faker", 99.0),
    (DetectorKind::Iban, "faker", 99.0),
    (DetectorKind::Iban, "faker, in groups", 99.0),
    (DetectorKind::Jwt, "made here", 99.0),
    (DetectorKind::PrivateKey, "made here", 99.0),
    (DetectorKind::AwsAccessKey, "made here", 99.0),
    (DetectorKind::AwsSecretKey, "made here", 99.0),
    (DetectorKind::AzureKey, "made here", 99.0),
    (DetectorKind::GoogleKey, "made here", 99.0),
];
/// Of what a detector finds, so much is in an entity that is labelled so.
const PRECISION: [(DetectorKind, f64); 11] = [
    (DetectorKind::CreditCard, 96.0),
    (DetectorKind::Email, 99.0),
    (DetectorKind::Phone, 97.0),
    (DetectorKind::UsSsn, 99.0),
    (DetectorKind::Iban, 99.0),
    (DetectorKind::Jwt, 99.0),
    (DetectorKind::PrivateKey, 99.0),
    (DetectorKind::AwsAccessKey, 99.0),
    (DetectorKind::AwsSecretKey, 99.0),
    (DetectorKind::AzureKey, 99.0),
    (DetectorKind::GoogleKey, 99.0),
];

#[derive(Debug)]
struct Entity {
    range: Range<usize>,
    detector: String,
    source: String,
}

#[derive(Debug)]
struct Sentence {
    text: String,
    entities: Vec<Entity>,
}

/// Of one detector and source.
#[derive(Debug, Default)]
struct Recall {
    entities: usize,
    found: usize,
    in_part: usize,
    missed: Vec<String>,
}

#[derive(Debug, Default)]
struct Precision {
    findings: usize,
    right: usize,
    wrong: Vec<String>,
}

#[test]
fn recall_and_precision_are_what_is_told() {
    let sentences = corpus().unwrap();
    assert!(sentences.len() >= MIN_SENTENCES, "{} sentences", sentences.len());
    let mut recall: BTreeMap<(&str, &str), Recall> = BTreeMap::new();
    let mut precision: BTreeMap<&str, Precision> = BTreeMap::new();
    for sentence in &sentences {
        for detector in DetectorKind::ALL {
            let found = detector.find(sentence.text.as_bytes());
            let own = || sentence.entities.iter().filter(|entity| entity.detector == detector.as_str());
            let precision = precision.entry(detector.as_str()).or_default();
            for range in &found {
                precision.findings += 1;
                if own().any(|entity| overlap(range, &entity.range)) {
                    precision.right += 1;
                } else {
                    precision.wrong.push(sentence.text[range.clone()].to_owned());
                }
            }
            for entity in own() {
                let recall = recall.entry((detector.as_str(), &entity.source)).or_default();
                recall.entities += 1;
                if found.iter().any(|range| range.start <= entity.range.start && range.end >= entity.range.end) {
                    recall.found += 1;
                } else {
                    recall.in_part += usize::from(found.iter().any(|range| overlap(range, &entity.range)));
                    recall.missed.push(sentence.text[entity.range.clone()].to_owned());
                }
            }
        }
    }
    let table = table(&recall, &precision);
    // Past what the test harness keeps to itself: the figures are the point.
    writeln!(std::io::stdout(), "{table}").unwrap();
    let mut below = Vec::new();
    for (detector, source, floor) in RECALL {
        let recall = recall.get(&(detector.as_str(), source)).unwrap_or_else(|| panic!("no {detector:?} of {source}"));
        assert!(recall.entities >= MIN_ENTITIES, "{detector:?} of {source}: {} entities", recall.entities);
        if percent(recall.found, recall.entities) < floor {
            below.push(format!("recall of {} ({source}) is below {floor}", detector.as_str()));
        }
    }
    for (detector, floor) in PRECISION {
        let precision = &precision[detector.as_str()];
        if percent(precision.right, precision.findings) < floor {
            below.push(format!("precision of {} is below {floor}", detector.as_str()));
        }
    }
    assert_eq!(recall.len(), RECALL.len(), "a source without a floor: {:?}", recall.keys());
    assert!(below.is_empty(), "{below:?}\n{table}");
}

/// What is found is not in what a client sees: the way from detectors to masks.
#[test]
fn what_is_found_is_not_shown() {
    let mask = MaskRule {
        name: "all".to_owned(),
        targets: Vec::new(),
        columns: Vec::new(),
        detectors: DetectorKind::ALL.to_vec(),
        with: MaskKind::Redact,
        lookups_per_minute: None,
    };
    let masker = Masker::for_target(&[Arc::new(mask)], "orders");
    let mut hidden = 0;
    for sentence in corpus().unwrap() {
        let seen = masker.mask_text(sentence.text.as_bytes()).value().unwrap().get().to_vec();
        let seen = String::from_utf8(seen).expect("UTF-8 stays UTF-8");
        let found: Vec<Range<usize>> =
            DetectorKind::ALL.into_iter().flat_map(|detector| detector.find(sentence.text.as_bytes())).collect();
        assert_eq!(found.is_empty(), seen == sentence.text, "{seen}");
        let is_found = |entity: &&Entity| {
            found.iter().any(|range| range.start <= entity.range.start && range.end >= entity.range.end)
        };
        let (found, missed): (Vec<_>, Vec<_>) = sentence.entities.iter().partition(is_found);
        let value = |entity: &Entity| &sentence.text[entity.range.clone()];
        for entity in found {
            let elsewhere = missed.iter().any(|it| value(it).contains(value(entity)));
            assert!(elsewhere || !seen.contains(value(entity)), "{seen}");
            hidden += 1;
        }
    }
    assert!(hidden > MIN_HIDDEN, "only {hidden} entities were hidden");
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn corpus() -> Result<Vec<Sentence>> {
    let site = std::env::var("WEIR_CORPUS").map_err(|_| "WEIR_CORPUS is not set: run `cargo xtask test detectors`")?;
    let mut python = Command::new("/usr/bin/python3");
    python.env_clear().env("PYTHONPATH", &site).env("PYTHONDONTWRITEBYTECODE", "1").args([CORPUS, &site, SEED]);
    let made = python.output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into());
    }
    String::from_utf8(made.stdout)?.lines().map(sentence).collect()
}

fn sentence(line: &str) -> Result<Sentence> {
    let line: serde_json::Value = serde_json::from_str(line)?;
    let text = line["text"].as_str().ok_or("a sentence without text")?.to_owned();
    let entity = |span: &serde_json::Value| {
        let at = |key: &str| usize::try_from(span[key].as_u64()?).ok();
        let word = |key: &str| span[key].as_str().map(str::to_owned);
        let range = at("start")?..at("end")?;
        text.get(range.clone())?;
        Some(Entity { range, detector: word("detector")?, source: word("source")? })
    };
    let entities = line["spans"].as_array().into_iter().flatten().map(entity).collect::<Option<Vec<_>>>();
    let entities = entities.ok_or("a span that is none")?;
    Ok(Sentence { text, entities })
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn table(recall: &BTreeMap<(&str, &str), Recall>, precision: &BTreeMap<&str, Precision>) -> String {
    let mut text = "\n| detector | entities from | number | recall | in part | precision |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for ((detector, source), it) in recall {
        let precision = &precision[detector];
        let _ = writeln!(
            text,
            "| {detector} | {source} | {} | {:.1} % | {:.1} % | {:.1} % of {} |",
            it.entities,
            percent(it.found, it.entities),
            percent(it.in_part, it.entities),
            percent(precision.right, precision.findings),
            precision.findings,
        );
    }
    for ((detector, source), it) in recall.iter().filter(|(_, it)| !it.missed.is_empty()) {
        let _ = writeln!(text, "{detector} ({source}) does not find: {:?}", examples(&it.missed));
    }
    for (detector, it) in precision.iter().filter(|(_, it)| !it.wrong.is_empty()) {
        let _ = writeln!(text, "{detector} finds: {:?}", examples(&it.wrong));
    }
    text
}

/// Some of them, from all over.
fn examples(all: &[String]) -> Vec<&String> {
    all.iter().step_by(all.len().div_ceil(SHOWN)).collect()
}
