//! The protocols of targets: one folder each. Only code below here knows wire bytes.

pub mod postgres;
