//! Policy: from the facts of an operation to a verdict. Pure: no I/O, no clock.
//!
//! An operation is one or more *actions* (a statement with a data-changing CTE has two, a batch has one for each
//! statement). A rule that denies or holds applies if it matches **any** action; the operation is allowed only if **every**
//! action is allowed by some rule. Deny beats hold beats allow; no rule allows means deny.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an action does. One word for all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Connect,
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Truncate,
    Create,
    Alter,
    Drop,
    Grant,
    Revoke,
    CopyIn,
    CopyOut,
    CopyProgram,
    Do,
    Call,
    Set,
    SetRole,
    Show,
    Transaction,
    Listen,
    Notify,
    Lock,
    Vacuum,
    Explain,
    Prepare,
    Execute,
    Deallocate,
    Discard,
    Declare,
    Fetch,
    FunctionCall,
    /// Understood by nobody; allowed only by a rule that says so.
    Unparsed,
}

/// The facts of one action: the input of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub kind: Kind,
    pub tables: Vec<TableUse>,
    /// Functions called, as written, lower-cased where unquoted: `pg_catalog.lower`, `now`.
    pub functions: Vec<String>,
    /// None where the action has no WHERE to have.
    pub has_where: Option<bool>,
    pub has_limit: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableUse {
    /// None where the statement leaves it to the search path.
    pub schema: Option<String>,
    pub name: String,
    pub access: Access,
    /// Columns named for this table or that may belong to it, as far as the text tells; `*` for all.
    pub columns: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    Read,
    Write,
}

/// One normalised action, or several that are forwarded together: what is decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// What people are shown and what is recorded: secrets and literals that touch tagged data are redacted already.
    pub text: String,
    pub database: Option<String>,
    pub actions: Vec<Action>,
    /// What the protocol itself refuses about this operation on this target (data could leave unmasked), whatever the
    /// rules say; not recorded as a rule's doing.
    pub refusal: Option<String>,
}

/// Who asks, for rules.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub agent: &'a str,
    pub groups: &'a [String],
    pub target: &'a str,
}

/// What policy says of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    Allow {
        /// The rules that allowed the actions.
        rules: Vec<String>,
    },
    Hold {
        /// Every one of these must be met.
        requirements: Vec<HoldRequirement>,
    },
    Deny {
        /// None: no rule allows it.
        rule: Option<String>,
        message: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequirement {
    pub rule: String,
    pub message: Option<String>,
    /// Names from `[access] approve`.
    pub approvers: Vec<String>,
    /// Distinct people.
    pub count: u32,
    pub timeout: Duration,
}

/// All rules, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    Allow,
    Deny,
    Hold { approvers: Vec<String>, count: u32, timeout: Duration },
}

/// One `[[rule]]`: empty matchers match everything.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub agents: Vec<String>,
    pub groups: Vec<String>,
    pub targets: Vec<String>,
    pub databases: Vec<String>,
    pub kinds: Vec<Kind>,
    /// Patterns `schema.table` or `table`, `*` within a part.
    pub tables: Vec<String>,
    pub has_where: Option<bool>,
    pub then: Then,
    pub message: Option<String>,
}
