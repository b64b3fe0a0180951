//! Functions, operators and casts by oid: which are known to do no more than give a value, and which of these take any value
//! without failing. A tree of the server's names them by oid, and so does a view's; names mean nothing there.

use std::collections::{HashMap, HashSet};

use super::FIRST_USER_OID;
use crate::mask::Syntax;
use crate::protocol::postgres::operation::{ANY_NON_ARRAY, COLLATABLE, SCALARS, Total, is_of_sequences, total};

/// Operators that compare any two values of their types. On rows they may fail, but by the types alone.
pub(super) const COMPARISONS: &[&str] = &["=", "<>", "<", ">", "<=", ">="];
/// `||` of texts, of a text with anything, of bytes and of bits, and `->` and its like of jsonb (`pg_operator.dat`). The `||` of
/// jsonb fails by what is in it.
const TOTAL_OPERATORS: &[u32] = &[654, 1797, 2018, 2779, 2780, 3206, 3211, 3212, 3213, 3477, 3481];
/// `varchar` and `bpchar` with a length: by a cast that is written they cut, otherwise they fail.
const CUTS: &[u32] = &[668, 669];
/// They tell how a row is stored, and so of the other columns in it.
const STORAGE: &[&str] = &["pg_column_size", "pg_column_compression"];
/// "C", "POSIX" and the database's own.
const COLLATIONS: &[u32] = &[100, 950, 951];
/// Casts between numbers of which the one has room for all of the other, dates as timestamps excepted (`pg_proc.dat`).
const WIDENINGS: &[u32] = &[235, 313, 316, 481, 482, 754, 1740, 1781, 1782];

/// What is known of code by oid.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownCode {
    /// Those that are known to be harmless.
    pub(super) functions: HashMap<u32, Function>,
    /// Of these, those that show what a sequence has given.
    of_sequences: Vec<u32>,
    /// Comparisons of plain values that came with the server, and whether by a collation.
    pub(super) comparisons: HashMap<u32, bool>,
    /// `=`, of the server's own types and of extensions'.
    pub(super) equalities: HashSet<u32>,
    /// Operators and cast functions of extensions.
    pub(super) extension_operators: HashSet<u32>,
    pub(super) extension_casts: HashSet<u32>,
}

/// What is known of a function.
#[derive(Clone, Copy, Debug)]
pub(in crate::protocol::postgres) struct Function {
    pub(in crate::protocol::postgres) total: Total,
    /// Of one that does nothing but put values together.
    pub(in crate::protocol::postgres) maker: Option<Maker>,
    by_collation: bool,
}

/// What a function puts together of its arguments, and how that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol::postgres) enum Maker {
    /// The same value in another form.
    ToJson(Syntax),
    /// An object of names and values by turns.
    Object(Syntax),
    /// An array of what all rows have.
    Items(Syntax),
}

impl Maker {
    /// Of a function of the server's own.
    fn of(name: &str, types: &[u32]) -> Option<Self> {
        match name {
            "to_json" | "row_to_json" => Some(Self::ToJson(Syntax::Json)),
            "to_jsonb" => Some(Self::ToJson(Syntax::Jsonb)),
            "json_build_object" => Some(Self::Object(Syntax::Json)),
            "jsonb_build_object" => Some(Self::Object(Syntax::Jsonb)),
            "json_agg" => Some(Self::Items(Syntax::Json)),
            "jsonb_agg" => Some(Self::Items(Syntax::Jsonb)),
            "array_agg" if types == [ANY_NON_ARRAY] => Some(Self::Items(Syntax::Native)),
            _ => None,
        }
    }

    pub(in crate::protocol::postgres) fn syntax(self) -> Syntax {
        let (Self::ToJson(syntax) | Self::Object(syntax) | Self::Items(syntax)) = self;
        syntax
    }
}

impl Function {
    /// Whether it may be called under a collation of this oid, which must be known: others may fail to compare.
    pub(in crate::protocol::postgres) fn takes_collation(self, oid: u32) -> bool {
        !self.by_collation || COLLATIONS.contains(&oid)
    }
}

/// One function that has a name which is known to be harmless.
pub(super) struct FunctionRow {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) types: Vec<u32>,
}

/// One operator: a comparison of the server's own, or any of an extension's.
pub(super) struct OperatorRow {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) left: u32,
    pub(super) right: u32,
}

impl KnownCode {
    pub(super) fn new(functions: &[FunctionRow], operators: &[OperatorRow], extension_casts: Vec<u32>) -> Self {
        let function = |it: &FunctionRow| {
            let maker = if it.oid < FIRST_USER_OID { Maker::of(&it.name, &it.types) } else { None };
            let total = match it.oid {
                oid if WIDENINGS.contains(&oid) => Total::Always,
                oid if oid < FIRST_USER_OID => total(&it.name, &it.types),
                _ => Total::Never,
            };
            (it.oid, Function { total, maker, by_collation: it.types.iter().any(|it| COLLATABLE.contains(it)) })
        };
        let tells = |it: &&FunctionRow| !STORAGE.contains(&it.name.as_str());
        // What it gives next is a row's that is written.
        let shows_sequence = |it: &&FunctionRow| is_of_sequences(&it.name) && it.name != "nextval";
        let mut known = Self {
            of_sequences: functions.iter().filter(shows_sequence).map(|it| it.oid).collect(),
            functions: functions.iter().filter(tells).map(function).collect(),
            extension_casts: extension_casts.into_iter().collect(),
            ..Self::default()
        };
        for operator in operators {
            if operator.name == "=" {
                known.equalities.insert(operator.oid);
            }
            if operator.oid >= FIRST_USER_OID {
                known.extension_operators.insert(operator.oid);
            } else if SCALARS.contains(&operator.left) && SCALARS.contains(&operator.right) {
                let by_collation = COLLATABLE.contains(&operator.left) || COLLATABLE.contains(&operator.right);
                known.comparisons.insert(operator.oid, by_collation);
            }
        }
        known
    }

    /// The same where sequences are to be hidden.
    pub(super) fn without_sequences(&self) -> Self {
        let mut known = self.clone();
        known.functions.retain(|oid, _| !self.of_sequences.contains(oid));
        known
    }

    /// None: the function may do anything.
    pub(in crate::protocol::postgres) fn function(&self, oid: u32) -> Option<Function> {
        self.functions.get(&oid).copied()
    }

    /// The same of a function that is called by a cast, which may be one that is `written` or one that the server puts in.
    pub(in crate::protocol::postgres) fn cast(&self, oid: u32, written: bool) -> Option<Function> {
        let is_known = oid < FIRST_USER_OID || self.extension_casts.contains(&oid);
        let total =
            if WIDENINGS.contains(&oid) || CUTS.contains(&oid) && written { Total::Always } else { Total::Never };
        let cast = Function { total, maker: None, by_collation: false };
        let known = self.function(oid).filter(|it| it.total == Total::Always);
        known.or(is_known.then_some(cast))
    }

    /// True for an operator that is not somebody's own.
    pub(in crate::protocol::postgres) fn is_operator(&self, oid: u32) -> bool {
        oid < FIRST_USER_OID || self.extension_operators.contains(&oid)
    }

    /// True for an operator that takes any values of its types without failing, under this collation.
    pub(in crate::protocol::postgres) fn is_total_operator(&self, oid: u32, collation: u32) -> bool {
        let compares = self.comparisons.get(&oid).is_some_and(|by| !by || COLLATIONS.contains(&collation));
        compares || TOTAL_OPERATORS.contains(&oid)
    }

    /// True for a collation under which any texts compare.
    pub(in crate::protocol::postgres) fn is_collation(oid: u32) -> bool {
        COLLATIONS.contains(&oid)
    }

    /// True for an `=` of plain values, or of an extension's type, by which no more is found than what is the same. `as_another`: the value
    /// is compared as one of another type. (Boxes are equal by their areas; collations of somebody's own take for equal what they like.)
    pub(in crate::protocol::postgres) fn finds_itself(&self, oid: u32, collation: u32, as_another: bool) -> bool {
        let is_extensions = !as_another && self.extension_operators.contains(&oid);
        let is_known = self.comparisons.contains_key(&oid) || is_extensions;
        self.equalities.contains(&oid) && collation < FIRST_USER_OID && is_known
    }
}
