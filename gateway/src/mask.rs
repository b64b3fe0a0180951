//! Masking: what a client may see of a reply. Pure: no I/O, no clock.
//!
//! Whatever goes to a client is a [`Masked`] value, and only this module makes those. A [`Masker`] is built once for a
//! session from the masks that apply to its target. A protocol asks it in one of four ways, dearest last:
//!
//! - [`Masked::from_gateway`]: the gateway's own words, such as a denial;
//! - [`Masker::pass_metadata`]: bookkeeping of the target's protocol that carries no data;
//! - [`Masker::pass_rows`], [`Masker::pass_text`]: data handed on as it is, without a copy, where no column of it is masked
//!   and no detector can find anything in it;
//! - [`Masker::mask_cell`], [`Masker::mask_text`]: value by value, put together again in a [`MaskedBuffer`].
//!
//! All masks that match a value apply, which is to say the strictest does: null, then redact, then fixed, then hash, then
//! partial.

mod buffer;
mod cell;
mod detect;
mod hash;
mod parts;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::target::CredentialSource;

pub use buffer::MaskedBuffer;
pub use cell::{CellFormat, CellType};
use detect::Detectors;
pub use hash::{HashKey, WeakKey};
pub use parts::{Part, Syntax};

/// Masks in one configuration; each has its bit in [`Hits`].
pub const MAX_MASKS: usize = 64;

/// One `[[mask]]`. What its columns hold is masked whole; what its detectors find is masked where they find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskRule {
    pub name: String,
    /// Empty: all targets.
    pub targets: Vec<String>,
    pub columns: Vec<ColumnPattern>,
    pub detectors: Vec<DetectorKind>,
    pub with: MaskKind,
    /// How often a minute an agent may look rows up by a value of these columns that it already knows. None: not at all.
    pub lookups_per_minute: Option<u32>,
}

/// `schema.table.column`; `*` stands for any part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPattern {
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DetectorKind {
    /// 13 to 19 digits, also in groups, with an issuer's prefix and a right check digit (ISO/IEC 7812).
    CreditCard,
    /// An e-mail address (RFC 5321), also with letters beyond ASCII (RFC 6531).
    Email,
    /// A telephone number: with `+` or `00` before it (E.164), with a national prefix and separators, or as North America writes
    /// them. Bare digits are none.
    Phone,
    /// `123-45-6789`, but no number that is never given.
    UsSsn,
    /// In upper case, also in groups, with its country's length and form and right check digits (ISO 13616).
    Iban,
    /// A JSON Web Token, signed (RFC 7515), encrypted (RFC 7516) or neither.
    Jwt,
    /// From `-----BEGIN … PRIVATE KEY` to its end (RFC 7468): PKCS, OpenSSH, PGP.
    PrivateKey,
    /// `AKIA` or `ASIA` and 16 letters and digits.
    AwsAccessKey,
    /// 40 letters of base64 behind the word "secret", or behind an access key.
    AwsSecretKey,
    /// A storage account's key behind what says that it is one, or a client secret of Entra ID.
    AzureKey,
    /// An API key (`AIza…`), or a client secret of OAuth (`GOCSPX-…`).
    GoogleKey,
}

/// What takes a value's place, and, but for `Partial`, that of a NULL. Where it is no value of the column's type, NULL does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskKind {
    Redact,
    Null,
    /// Stars, but for the last characters. A value that is not longer than those is stars altogether.
    Partial {
        keep_last: usize,
    },
    Fixed(String),
    /// What HMAC-SHA-256 makes of the value under this key: the same for the same value, so that equal ones are seen to be
    /// equal. Nobody who lacks the key can tell which value it is, or try values.
    Hash {
        key: CredentialSource,
    },
}

/// Something that a client may see. Only this module makes one, so a reply that was not masked cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masked<T>(T);

/// The bytes may not go to the client as they are: mask them value by value, or refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NeedsMasking {
    #[error("columns of the reply are masked")]
    Columns,
    #[error("a detector may find something in the reply")]
    Finding,
}

/// Which masks changed something: bits, by the masker's order. [`Masker::names`] has the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits(u64);

/// How the columns of one result are treated. Made once for each row description.
#[derive(Clone, Debug)]
pub struct RowPlan {
    columns: Vec<Column>,
    by_cell: bool,
}

#[derive(Clone, Debug)]
struct Column {
    mask: Option<Applied>,
    computed: bool,
    format: CellFormat,
    width: Option<usize>,
    parts: Option<Box<Part<Column>>>,
}

/// A mask as it is applied: with the key that it needs, and all masks that it stands for.
#[derive(Clone, Debug)]
struct Applied {
    kind: MaskKind,
    /// Of `Hash`; without it nothing of a value is shown.
    key: Option<HashKey>,
    hits: Hits,
}

/// The masks of a result's column, and how its values are written.
#[derive(Clone, Debug)]
pub struct ColumnMasks<'r> {
    pub masks: Cow<'r, [Arc<MaskRule>]>,
    /// The values are computed from masked ones: nothing of them is kept.
    pub computed: bool,
    pub format: CellFormat,
    /// Characters of a text, or digits before a numeric's point, if the column's type bounds them.
    pub width: Option<usize>,
    /// What a value is put together of, where its form shows which part is which, with the masks of each. `masks` has those of all.
    pub parts: Option<Box<Part<ColumnMasks<'r>>>>,
}

/// One value as the client may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedCell<'a> {
    /// None is NULL.
    value: Option<Cow<'a, [u8]>>,
    pub hits: Hits,
}

/// The masks of one target, ready to use.
#[derive(Clone, Debug)]
pub struct Masker {
    rules: Vec<Arc<MaskRule>>,
    /// By the places of `rules`.
    keys: Vec<Option<HashKey>>,
    detectors: Detectors,
    apply: bool,
}

impl<T> Masked<T> {
    /// For what the gateway says itself: errors, notices, its side of a handshake. Never for bytes that came from a target.
    pub fn from_gateway(message: T) -> Self {
        Self(message)
    }

    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Masked<T> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl Masker {
    /// From all masks of a configuration those for this target.
    pub fn for_target(masks: &[Arc<MaskRule>], target: &str) -> Self {
        let applies = |mask: &&Arc<MaskRule>| mask.targets.is_empty() || mask.targets.iter().any(|it| it == target);
        let rules: Vec<_> = masks.iter().filter(applies).cloned().collect();
        let keys = vec![None; rules.len()];
        let detectors = Detectors::new(&rules, &keys);
        Self { rules, keys, detectors, apply: true }
    }

    /// False where it only reports.
    pub fn applies(&self) -> bool {
        self.apply
    }

    /// Where the keys are that the masks need.
    pub fn key_sources(&self) -> impl Iterator<Item = &CredentialSource> {
        self.rules.iter().filter_map(|rule| rule.with.key())
    }

    /// With keys. Masks whose key is missing show nothing.
    #[must_use]
    pub fn with_keys(mut self, keys: &[(CredentialSource, HashKey)]) -> Self {
        let key = |source| keys.iter().find(|(it, _)| it == source).map(|(_, key)| key.clone());
        self.keys = self.rules.iter().map(|rule| rule.with.key().and_then(key)).collect();
        self.detectors = Detectors::new(&self.rules, &self.keys);
        self
    }

    /// For `mode = "observe"`: reports what it would mask, and masks nothing.
    #[must_use]
    pub fn observing(self) -> Self {
        Self { apply: false, ..self }
    }

    /// The masks of this target; their columns are for the protocol to find in the target's catalog.
    pub fn rules(&self) -> &[Arc<MaskRule>] {
        &self.rules
    }

    /// The names of masks that hit.
    pub fn names(&self, hits: Hits) -> impl Iterator<Item = &str> {
        self.rules.iter().enumerate().filter(move |(i, _)| hits.0 & bit(*i) != 0).map(|(_, rule)| rule.name.as_str())
    }

    /// Whether values are looked through, whatever column they are of.
    pub fn detects(&self) -> bool {
        self.rules.iter().any(|rule| !rule.detectors.is_empty())
    }

    /// Whether a detector could find something in these bytes, wherever values begin and end in them. Quick (gigabytes a
    /// second where there is nothing), and now and then wrong on the safe side.
    pub fn may_contain(&self, bytes: &[u8]) -> bool {
        self.detectors.may_contain(bytes)
    }

    /// Messages that carry no data of the target: readiness, completion, row descriptions, parameter types. Neither
    /// errors, nor notices, nor settings: their text can hold data.
    pub fn pass_metadata<'a>(&self, message: &'a [u8]) -> Masked<&'a [u8]> {
        Masked(message)
    }

    /// Text of the target outside of rows (an error, a notice, a notification, a setting), whole messages of it. `tagged`:
    /// the statement touches a table with masked columns, so that values of those may be in the text.
    pub fn pass_text<'a>(&self, tagged: bool, text: &'a [u8]) -> Result<Masked<&'a [u8]>, NeedsMasking> {
        if tagged && self.apply {
            return Err(NeedsMasking::Columns);
        }
        if self.may_contain(text) {
            return Err(NeedsMasking::Finding);
        }
        Ok(Masked(text))
    }

    /// Whole rows of one result, also many, also with the metadata around them.
    pub fn pass_rows<'a>(&self, plan: &RowPlan, rows: &'a [u8]) -> Result<Masked<&'a [u8]>, NeedsMasking> {
        if plan.by_cell {
            return Err(NeedsMasking::Columns);
        }
        if self.may_contain(rows) {
            return Err(NeedsMasking::Finding);
        }
        Ok(Masked(rows))
    }

    /// The plan for a result with these columns.
    pub fn plan<'r>(&self, columns: impl IntoIterator<Item = ColumnMasks<'r>>) -> RowPlan {
        let columns: Vec<Column> = columns.into_iter().map(|it| self.column(it)).collect();
        let numbers = self.detectors.reads_numbers();
        let by_cell =
            columns.iter().any(|column| column.mask.is_some() || numbers && column.format.hides_digits_from_a_scan());
        RowPlan { columns, by_cell }
    }

    fn column(&self, ColumnMasks { masks, computed, format, width, parts }: ColumnMasks<'_>) -> Column {
        let mask = self.strictest(&masks).map(|mask| match mask.kind {
            MaskKind::Partial { .. } | MaskKind::Hash { .. } if computed => Applied { kind: MaskKind::Redact, ..mask },
            _ => mask,
        });
        Column { mask, computed, format, width, parts: parts.map(|it| Box::new(it.map(&|part| self.column(part)))) }
    }

    /// A value of the plan's column `index`, counted from 0. NULL where the plan has no such column.
    pub fn mask_cell<'a>(&self, plan: &RowPlan, index: usize, value: Option<&'a [u8]>) -> MaskedCell<'a> {
        let Some(column) = plan.columns.get(index) else {
            return MaskedCell { value: None, hits: Hits::default() };
        };
        if value.is_none() && !(column.covers_null() && self.apply) {
            return MaskedCell { value: None, hits: Hits::default() };
        }
        let mut seen = column.show(value);
        let mut hits = column.mask.as_ref().map_or(Hits::default(), |mask| mask.hits);
        // Also after a column's mask: what is left of the value may still be a finding. Nothing is left in a hash, whose
        // digits are a card's number now and then.
        let is_hashed = matches!(&column.mask, Some(Applied { kind: MaskKind::Hash { .. }, .. }));
        if let Some(visible) = seen.as_ref().filter(|_| !is_hashed)
            && let Some((masked, by)) = self.detectors.mask(visible, column.format)
        {
            hits.0 |= by.0;
            seen = masked.map(Cow::Owned);
        }
        MaskedCell { value: if self.apply { seen } else { value.map(Cow::Borrowed) }, hits }
    }

    /// A piece of text outside of rows, such as one field of an error. Where the statement touches masked columns the
    /// protocol must not show the target's text at all ([`Masker::pass_text`] says so).
    pub fn mask_text<'a>(&self, text: &'a [u8]) -> MaskedCell<'a> {
        match self.detectors.mask(text, CellFormat::Text(CellType::Text)) {
            Some((masked, hits)) if self.apply => {
                MaskedCell { value: Some(masked.map_or(Cow::Borrowed(b"***".as_slice()), Cow::Owned)), hits }
            }
            found => MaskedCell { value: Some(Cow::Borrowed(text)), hits: found.map_or(Hits::default(), |(_, by)| by) },
        }
    }

    fn strictest(&self, masks: &[Arc<MaskRule>]) -> Option<Applied> {
        let strictest = masks.iter().max_by_key(|mask| mask.with.strictness())?;
        let hits = masks.iter().fold(0, |bits, mask| bits | self.index_of(mask).map_or(0, bit));
        let key = self.index_of(strictest).and_then(|index| self.keys.get(index)?.clone());
        Some(Applied { kind: strictest.with.clone(), key, hits: Hits(hits) })
    }

    fn index_of(&self, mask: &Arc<MaskRule>) -> Option<usize> {
        self.rules.iter().position(|rule| Arc::ptr_eq(rule, mask) || rule.name == mask.name)
    }
}

impl Column {
    /// What the column's mask leaves of a value; None is NULL.
    fn show<'a>(&self, value: Option<&'a [u8]>) -> Option<Cow<'a, [u8]>> {
        if let Some(parts) = &self.parts {
            // Whether there is one is not up to what is in it.
            let masked = parts.mask(matches!(self.format, CellFormat::Binary(_)), value?);
            if let Some(masked) = masked {
                return Some(Cow::Owned(masked));
            }
        }
        match &self.mask {
            // That there is no value is not shown either, as a rule.
            Some(mask) if value.is_some() || self.covers_null() => cell::render(mask, self, value),
            Some(_) => None,
            None => value.map(Cow::Borrowed),
        }
    }

    /// What is left of a part of a value tells that there is one, and so does a hash: what NULL would look like is seen where an outer
    /// join finds no row. Everything else stands for any value, and for none.
    fn covers_null(&self) -> bool {
        let tells = |it: &Applied| match it.kind {
            MaskKind::Partial { .. } => true,
            MaskKind::Hash { .. } => it.key.is_some(),
            MaskKind::Null | MaskKind::Redact | MaskKind::Fixed(_) => false,
        };
        matches!(&self.mask, Some(mask) if self.computed || !tells(mask))
    }
}

impl RowPlan {
    /// Whether rows can never be handed on whole.
    pub fn by_cell(&self) -> bool {
        self.by_cell
    }

    /// For each column whether the same stands for it whatever is in it, and if nothing is.
    pub fn covered(&self) -> impl Iterator<Item = bool> {
        self.columns.iter().map(|column| {
            let says_nothing = |it: &Applied| matches!(it.kind, MaskKind::Null | MaskKind::Redact | MaskKind::Fixed(_));
            column.parts.is_none() && column.mask.as_ref().is_some_and(says_nothing)
        })
    }
}

impl Hits {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn add(&mut self, other: Hits) {
        self.0 |= other.0;
    }
}

impl MaskedCell<'_> {
    /// Length of the value in bytes; None is NULL.
    #[expect(clippy::len_without_is_empty, reason = "a value that is NULL is neither empty nor not")]
    pub fn len(&self) -> Option<usize> {
        self.value.as_deref().map(<[u8]>::len)
    }

    pub fn is_null(&self) -> bool {
        self.value.is_none()
    }

    /// The value, for a writer or the recording; None is NULL.
    pub fn value(&self) -> Option<Masked<&[u8]>> {
        self.value.as_deref().map(Masked)
    }
}

impl MaskKind {
    /// Sorts by how little is left of a value.
    fn strictness(&self) -> (u8, std::cmp::Reverse<usize>) {
        let (kind, keeps) = match self {
            Self::Partial { keep_last } => (0, *keep_last),
            Self::Hash { .. } => (1, 0),
            Self::Fixed(_) => (2, 0),
            Self::Redact => (3, 0),
            Self::Null => (4, 0),
        };
        (kind, std::cmp::Reverse(keeps))
    }

    /// Where the key is, if it needs one.
    pub fn key(&self) -> Option<&CredentialSource> {
        match self {
            Self::Hash { key } => Some(key),
            Self::Redact | Self::Null | Self::Partial { .. } | Self::Fixed(_) => None,
        }
    }
}

impl DetectorKind {
    pub const ALL: [Self; 11] = [
        Self::CreditCard,
        Self::Email,
        Self::Phone,
        Self::UsSsn,
        Self::Iban,
        Self::Jwt,
        Self::PrivateKey,
        Self::AwsAccessKey,
        Self::AwsSecretKey,
        Self::AzureKey,
        Self::GoogleKey,
    ];

    /// What it finds in a value: bytes, in order, none over another.
    pub fn find(self, value: &[u8]) -> Vec<Range<usize>> {
        detect::find(self, value)
    }

    /// The word that configuration uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreditCard => "credit_card",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::UsSsn => "us_ssn",
            Self::Iban => "iban",
            Self::Jwt => "jwt",
            Self::PrivateKey => "private_key",
            Self::AwsAccessKey => "aws_access_key",
            Self::AwsSecretKey => "aws_secret_key",
            Self::AzureKey => "azure_key",
            Self::GoogleKey => "google_key",
        }
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no column: write \"schema.table.column\", `*` for any of the three")]
pub struct InvalidColumn(String);

impl FromStr for ColumnPattern {
    type Err = InvalidColumn;

    fn from_str(text: &str) -> Result<Self, InvalidColumn> {
        let invalid = || InvalidColumn(text.to_owned());
        let parts: Vec<&str> = text.split('.').collect();
        let [schema, table, column] = parts[..] else { return Err(invalid()) };
        let is_part = |part: &&str| !part.is_empty() && part.trim() == *part && (*part == "*" || !part.contains('*'));
        if !parts.iter().all(is_part) {
            return Err(invalid());
        }
        let part = |part: &str| (part != "*").then(|| part.to_owned());
        Ok(Self { schema: part(schema), table: part(table), column: column.to_owned() })
    }
}

impl fmt::Display for ColumnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: &'_ Option<String>| part.clone().unwrap_or_else(|| "*".to_owned());
        write!(f, "{}.{}.{}", part(&self.schema), part(&self.table), self.column)
    }
}

/// The bit of the rule at `index`. Beyond the last bit several rules share one: their names are reported together.
fn bit(index: usize) -> u64 {
    1 << index.min(MAX_MASKS - 1)
}

#[cfg(test)]
mod tests;
