//! PostgreSQL: what a statement does ([`operation`]) and which columns of a target are tagged ([`catalog`]).

pub mod catalog;
pub mod operation;
