//! What a target may not do, or more than the gateway can hold.

use crate::protocol::postgres::statement::Full;
use crate::protocol::postgres::wire::Malformed;

/// The target did what the protocol, or its own word, does not allow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::protocol::postgres) enum Fault {
    #[error("the target does not speak PostgreSQL's protocol: {0}")]
    Malformed(Malformed),
    #[error(
        "{} is too large: on a target with masks each is checked as a whole, and the limit is {most} bytes",
        if *tag == b'D' { "a row of the result" } else { "a message of the target's" }
    )]
    TooLarge { tag: u8, most: usize },
    #[error("the target sent a message of type {0:?} where none can be")]
    Unexpected(char),
    #[error("the target sent a row that does not have the columns that it described")]
    Row,
    #[error("the columns of a result are not those that were checked before its statement ran")]
    Disagreement,
    #[error("the target copies other columns than the table's (is one of them generated?); name the columns to copy")]
    Copied,
    #[error(
        "a question of the gateway's own was interrupted, and left the transaction in another state; connect again"
    )]
    NotBack,
    #[error("the target set {0} to another value, under which statements mean something else")]
    Setting(&'static str),
    #[error("the client sent more messages while the target waited for its data")]
    CopyOrder,
    #[error("{0}; the target had sent all of the result before it could be told to stop")]
    Limit(String),
    #[error("the client sent more behind a statement that was beyond a limit, in its transaction")]
    Ahead,
    #[error(transparent)]
    Full(#[from] Full),
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            // It keeps to the protocol, but not within the gateway's bounds.
            Malformed::TooLarge { tag, most, .. } => Self::TooLarge { tag, most },
            other => Self::Malformed(other),
        }
    }
}
