//! Functions, operators and casts by oid: which are known to do no more than give a value, and which of these take any value
//! without failing. A tree of the server's names them by oid, and so does a view's; names mean nothing there.

use std::collections::{HashMap, HashSet};

use super::FIRST_USER_OID;
use crate::protocol::postgres::operation::{Total, total};

/// Operators that compare any two values of their types. On rows they may fail, but by the types alone.
pub(super) const COMPARISONS: &[&str] = &["=", "<>", "<", ">", "<=", ">="];
/// `||` of texts, of a text with anything, of bytes and of bits (`pg_operator.dat`). That of jsonb fails by what is in it.
const CONCATENATIONS: &[u32] = &[654, 1797, 2018, 2779, 2780];
/// Casts between numbers of which the one has room for all of the other, dates as timestamps excepted (`pg_proc.dat`).
const WIDENINGS: &[u32] = &[235, 313, 316, 481, 482, 754, 1740, 1781, 1782];

/// What is known of code by oid.
#[derive(Debug, Default)]
pub(crate) struct KnownCode {
    /// Those that are known to be harmless.
    pub(super) functions: HashMap<u32, Total>,
    /// Comparisons that came with the server.
    pub(super) comparisons: HashSet<u32>,
    /// `=`, of the server's own types and of extensions'.
    pub(super) equalities: HashSet<u32>,
    /// Operators and cast functions of extensions.
    pub(super) extension_operators: HashSet<u32>,
    pub(super) extension_casts: HashSet<u32>,
}

/// One function that has a name which is known to be harmless.
pub(super) struct FunctionRow {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) arguments: i16,
}

/// One operator: a comparison of the server's own, or any of an extension's.
pub(super) struct OperatorRow {
    pub(super) oid: u32,
    pub(super) name: String,
}

impl KnownCode {
    pub(super) fn new(functions: &[FunctionRow], operators: &[OperatorRow], extension_casts: Vec<u32>) -> Self {
        let totality = |it: &FunctionRow| match it.oid {
            oid if WIDENINGS.contains(&oid) => Total::Always,
            oid if oid < FIRST_USER_OID => total(&it.name, it.arguments),
            _ => Total::Never,
        };
        let mut known = Self {
            functions: functions.iter().map(|it| (it.oid, totality(it))).collect(),
            extension_casts: extension_casts.into_iter().collect(),
            ..Self::default()
        };
        for operator in operators {
            if operator.name == "=" {
                known.equalities.insert(operator.oid);
            }
            let kind =
                if operator.oid < FIRST_USER_OID { &mut known.comparisons } else { &mut known.extension_operators };
            kind.insert(operator.oid);
        }
        known
    }

    /// Which arguments of a call may hold anything; None: the function may do anything.
    pub(in crate::protocol::postgres) fn function(&self, oid: u32) -> Option<Total> {
        self.functions.get(&oid).copied()
    }

    /// The same of a function that is called by a cast.
    pub(in crate::protocol::postgres) fn cast(&self, oid: u32) -> Option<Total> {
        let widens = if WIDENINGS.contains(&oid) { Total::Always } else { Total::Never };
        let is_known = oid < FIRST_USER_OID || self.extension_casts.contains(&oid);
        self.function(oid).or(is_known.then_some(widens))
    }

    /// True for an operator that is not somebody's own.
    pub(in crate::protocol::postgres) fn is_operator(&self, oid: u32) -> bool {
        oid < FIRST_USER_OID || self.extension_operators.contains(&oid)
    }

    /// True for an operator that takes any values of its types without failing.
    pub(in crate::protocol::postgres) fn is_total_operator(&self, oid: u32) -> bool {
        self.comparisons.contains(&oid) || CONCATENATIONS.contains(&oid)
    }

    pub(in crate::protocol::postgres) fn is_equality(&self, oid: u32) -> bool {
        self.equalities.contains(&oid)
    }
}
