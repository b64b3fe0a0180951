//! Detectors: values that are secret by their look, wherever they stand.
//!
//! They are one more layer, never the only one: whoever may write SQL can rewrite a value so that none of them knows it.
//! Two speeds: [`Detectors::may_contain`] looks at raw bytes of many rows, without knowing where values begin, and never
//! says no wrongly; [`Detectors::mask`] looks at one value and is exact. Each detector is a pair of functions for that, in one
//! of the files beside this one. All take time linear in the bytes, whatever these are.

mod card;
mod contact;
mod number;
mod secret;

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::cell::{CellFormat, CellType, is_json};
use super::{Applied, DetectorKind, HashKey, Hits, MaskKind, MaskRule, bit};

/// Takes the ranges of what is found.
type Found<'f> = dyn FnMut(Range<usize>) + 'f;

/// How one kind of secret is found.
struct Detector {
    /// Whether there may be one in the bytes, wherever values begin and end in them: also where there is none, never the
    /// other way round.
    may_contain: fn(&[u8]) -> bool,
    /// Calls with the range of each in a value, in order, none over another.
    find: fn(&[u8], &mut Found<'_>),
}

const fn detector(kind: DetectorKind) -> Detector {
    match kind {
        DetectorKind::CreditCard => Detector { may_contain: card::may_contain, find: card::find },
        DetectorKind::Email => Detector { may_contain: contact::may_contain_email, find: contact::find_emails },
        DetectorKind::Phone => Detector { may_contain: contact::may_contain_phone, find: contact::find_phones },
        DetectorKind::UsSsn => Detector { may_contain: number::may_contain_ssn, find: number::find_ssns },
        DetectorKind::Iban => Detector { may_contain: number::may_contain_iban, find: number::find_ibans },
        DetectorKind::Jwt => Detector { may_contain: secret::may_contain_jwt, find: secret::find_jwts },
        DetectorKind::PrivateKey => {
            Detector { may_contain: secret::may_contain_private_key, find: secret::find_private_keys }
        }
        DetectorKind::AwsAccessKey => {
            Detector { may_contain: secret::may_contain_aws_access_key, find: secret::find_aws_access_keys }
        }
        DetectorKind::AwsSecretKey => {
            Detector { may_contain: secret::may_contain_aws_secret_key, find: secret::find_aws_secret_keys }
        }
        DetectorKind::AzureKey => {
            Detector { may_contain: secret::may_contain_azure_key, find: secret::find_azure_keys }
        }
        DetectorKind::GoogleKey => {
            Detector { may_contain: secret::may_contain_google_key, find: secret::find_google_keys }
        }
    }
}

/// What one detector finds in a value.
pub(super) fn find(kind: DetectorKind, value: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let Detector { may_contain, find } = detector(kind);
    // Quick before exact: most values have nothing.
    if may_contain(value) {
        find(value, &mut |range| found.push(range));
    }
    found
}

/// The detectors that the masks of one target use.
#[derive(Clone, Debug)]
pub(super) struct Detectors {
    used: Vec<(DetectorKind, Applied)>,
}

/// What is masked as one: a finding, or several that lie over each other.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    range: Range<usize>,
    /// The place in `used` of the one whose mask is the strictest.
    by: usize,
    hits: Hits,
}

impl Detectors {
    /// `keys`: by the places of `rules`.
    pub(super) fn new(rules: &[Arc<MaskRule>], keys: &[Option<HashKey>]) -> Self {
        let applied = |kind: DetectorKind| {
            let users = || rules.iter().enumerate().filter(move |(_, rule)| rule.detectors.contains(&kind));
            let (index, strictest) = users().max_by_key(|(_, rule)| rule.with.strictness())?;
            let hits = users().fold(0, |bits, (index, _)| bits | bit(index));
            let key = keys.get(index).cloned().flatten();
            Some((kind, Applied { kind: strictest.with.clone(), key, hits: Hits(hits) }))
        };
        Self { used: DetectorKind::ALL.into_iter().filter_map(applied).collect() }
    }

    /// Whether long numbers are looked for, also where their digits are not in the bytes.
    pub(super) fn reads_numbers(&self) -> bool {
        self.cards().is_some()
    }

    fn cards(&self) -> Option<&Applied> {
        self.used.iter().find(|(kind, _)| *kind == DetectorKind::CreditCard).map(|(_, mask)| mask)
    }

    pub(super) fn may_contain(&self, bytes: &[u8]) -> bool {
        self.used.iter().any(|(kind, _)| (detector(*kind).may_contain)(bytes))
    }

    /// The value with its findings masked, and by which masks; the inner None is NULL. None if nothing was found.
    pub(super) fn mask(&self, value: &[u8], format: CellFormat) -> Option<(Option<Vec<u8>>, Hits)> {
        if format.hides_digits_from_a_scan() {
            let hits = self.cards()?.hits;
            let digits = card::decimal(value, format)?;
            let found = card::is_at(digits.as_bytes(), 0..digits.len());
            return found.then_some((None, hits));
        }
        if !format.cell_type().can_hold_a_finding() {
            return None;
        }
        let findings = self.find(value);
        let mut hits = Hits::default();
        for finding in &findings {
            hits.add(finding.hits);
        }
        (!findings.is_empty()).then(|| (self.replace(value, format, &findings), hits))
    }

    /// In the order of the text, and none over another.
    fn find(&self, text: &[u8]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (by, (kind, mask)) in self.used.iter().enumerate() {
            findings.extend(find(*kind, text).into_iter().map(|range| Finding { range, by, hits: mask.hits }));
        }
        findings.sort_by_key(|finding| (finding.range.start, Reverse(finding.range.end)));
        let strictness = |finding: &Finding| self.used[finding.by].1.kind.strictness();
        findings.dedup_by(|next, last| {
            let overlaps = next.range.start < last.range.end;
            if overlaps {
                last.range.end = last.range.end.max(next.range.end);
                last.hits.add(next.hits);
                if strictness(next) > strictness(last) {
                    last.by = next.by;
                }
            }
            overlaps
        });
        findings
    }

    fn replace(&self, value: &[u8], format: CellFormat, findings: &[Finding]) -> Option<Vec<u8>> {
        let json = match format {
            CellFormat::Text(CellType::Text) | CellFormat::Binary(CellType::Text) => None,
            CellFormat::Text(CellType::Json | CellType::Jsonb) | CellFormat::Binary(CellType::Json) => Some(0),
            // The send format of jsonb has a version byte before the text.
            CellFormat::Binary(CellType::Jsonb) => Some(1),
            _ => return None,
        };
        let mut masked = Vec::with_capacity(value.len() + 32 * findings.len());
        let mut from = 0;
        for Finding { range, by, .. } in findings {
            masked.extend_from_slice(&value[from..range.start]);
            let (detector, mask) = &self.used[*by];
            let detector = detector.as_str();
            match &mask.kind {
                MaskKind::Null => return None,
                // A hash of what is found anywhere would be one of the agent's own words, too: the configuration allows none.
                MaskKind::Redact | MaskKind::Hash { .. } => {
                    masked.extend_from_slice(format!("[redacted:{detector}]").as_bytes());
                }
                MaskKind::Fixed(text) => masked.extend_from_slice(text.as_bytes()),
                MaskKind::Partial { keep_last } => stars(&value[range.clone()], *keep_last, &mut masked),
            }
            from = range.end;
        }
        masked.extend_from_slice(&value[from..]);
        // A finding may have been a bare number, or have had a quotation mark in it.
        let valid = json.is_none_or(|start| masked.get(start..).is_some_and(is_json));
        valid.then_some(masked)
    }
}

/// Stars for letters and digits but the last ones; what separates groups stays.
fn stars(finding: &[u8], keep_last: usize, masked: &mut Vec<u8>) {
    let Ok(finding) = std::str::from_utf8(finding) else { return masked.extend_from_slice(b"***") };
    let counts = |c: &char| c.is_ascii_alphanumeric() || !c.is_ascii();
    let total = finding.chars().filter(counts).count();
    let hidden = if total > keep_last { total - keep_last } else { total };
    let mut seen = 0;
    for c in finding.chars() {
        let star = counts(&c) && seen < hidden;
        seen += usize::from(counts(&c));
        masked.extend_from_slice(if star { '*' } else { c }.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Whether the range stands alone, no letter, digit or underscore next to it.
fn is_word(text: &[u8], range: &Range<usize>) -> bool {
    !joins_before(text, range.start) && !text.get(range.end).is_some_and(|byte| joins(*byte))
}

/// Whether what stands before belongs to the same word.
fn joins_before(text: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| joins(text[before]) && !starts_escape(text, before))
}

fn joins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether this is the letter of `\n` or another escape, as JSON has them, and no part of the word behind it.
fn starts_escape(text: &[u8], at: usize) -> bool {
    matches!(text[at], b'b' | b'f' | b'n' | b'r' | b't') && at.checked_sub(1).is_some_and(|it| text[it] == b'\\')
}

#[cfg(test)]
mod tests;
