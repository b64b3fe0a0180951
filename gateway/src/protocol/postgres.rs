//! PostgreSQL: what a statement does ([`operation`]) and which columns of a target are tagged ([`catalog`]).

pub mod catalog;
pub mod operation;

/// What a text would do, without the target's catalog: for `weir explain`. Blocks.
pub fn explain(database: Option<String>, text: &str) -> crate::policy::Operation {
    let parsed = operation::analyse_blocking(text, &catalog::TaggedSet::empty(std::time::SystemTime::now()));
    crate::policy::Operation {
        text: parsed.redacted(),
        database,
        actions: parsed.actions(),
        refusal: parsed.refusal().map(str::to_owned),
    }
}
