//! Masking: what a client may see of a reply. Pure: no I/O, no clock.

use serde::{Deserialize, Serialize};

/// One `[[mask]]`: columns, or detectors, or both.
#[derive(Debug)]
pub struct MaskRule {
    pub name: String,
    /// Empty: all targets.
    pub targets: Vec<String>,
    pub columns: Vec<ColumnPattern>,
    pub detectors: Vec<DetectorKind>,
    pub with: MaskKind,
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
    CreditCard,
    AwsAccessKey,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaskKind {
    Redact,
    Null,
    Partial { keep_last: usize },
    Fixed(String),
}

/// Bytes that a client may see. Only this module makes one, so a reply that was not masked cannot be sent.
#[derive(Debug)]
pub struct Masked<T>(T);
